"""Options from TOML: defaults, and one clear line for each kind of mistake."""

import dataclasses

import pytest

from detector.options import DetectOptions, options_from, read_options


def test_the_shipped_defaults_are_the_dataclass_defaults():
    assert read_options(DetectOptions) == DetectOptions()


def test_a_file_overrides_and_integers_serve_as_floats(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('threshold = 1\nruntime = "torch"\n')
    assert read_options(DetectOptions, path) == dataclasses.replace(DetectOptions(), threshold=1.0, runtime="torch")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treshold = 0.5", "unknown key 'treshold'; the nearest one is 'threshold'"),
        ("Batch-Size = 4", "the nearest one is 'batch_size'"),
        ('threshold = "high"', "'threshold' must be float, got 'high'"),
        ("top = 1.5", "'top' must be int, got 1.5"),
        ("top = true", "'top' must be int, got True"),
        ("threshold = 1.5", r"threshold must lie in 0\.\.1, got 1.5"),
        ("nms = nan", r"nms must lie in 0\.\.1, got nan"),
        ("top = 0", "top must be at least 1"),
        ("crop_size = 74", r"crop_size must be 0 \(the model's own\) or 75\.\.640, got 74"),
        ("batch_size = 100000000", r"batch_size must lie in 0\.\.1024"),
        ("superpixel_scale = 0", r"superpixel_scale must lie in 1\.\.100"),
        ("seed = -1", "seed must not be negative"),
        ('proposals = "rpn"', "proposals must be one of ss, multibox, both, got 'rpn'"),
        ("threshold = ", "not valid TOML"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_options(DetectOptions, path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named_with_its_cure(tmp_path):
    path = tmp_path / "own.toml"
    path.write_bytes("# é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="byte 2 is not UTF-8; save the file as UTF-8 text") as caught:
        read_options(DetectOptions, path)
    assert str(caught.value).startswith(f"{path}: ")


@dataclasses.dataclass(frozen=True)
class Lists:
    """Options with a list of numbers and one of texts."""

    shares: tuple[float, ...] = ()
    data: tuple[str, ...] = ()


def test_lists_of_numbers_and_of_texts():
    found = options_from(Lists, {"shares": [1, 0.5], "data": ["a"]}, "x")
    assert found == Lists((1.0, 0.5), ("a",)) and all(type(share) is float for share in found.shares)
    assert options_from(Lists, {"shares": [], "data": []}, "x") == Lists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"shares": 0.5}, "x: 'shares' must be a list of numbers, got 0.5"),
        ({"shares": [0.5, "a"]}, "x: 'shares' must be a list of numbers, got [0.5, 'a']"),
        ({"shares": [True]}, "x: 'shares' must be a list of numbers, got [True]"),
        ({"data": "a"}, "x: 'data' must be a list of texts, got 'a'"),
        ({"data": ["a", 1]}, "x: 'data' must be a list of texts, got ['a', 1]"),
    ],
)
def test_mistakes_in_lists(table, message):
    with pytest.raises(ValueError) as caught:
        options_from(Lists, table, "x")
    assert str(caught.value) == message


def test_options_from_names_its_source():
    with pytest.raises(ValueError, match="command line: unknown key 'x'"):
        options_from(DetectOptions, {"x": 1}, "command line")
