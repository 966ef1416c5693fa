"""Options from TOML and from the command line: defaults, and one clear line for each kind of mistake."""

import argparse
import dataclasses

import pytest

from detector.options import DetectOptions
from proposals.console import UsageError
from proposals.options import add_options, check_options, option, options_from, options_of, options_table, read_options


def test_without_a_file_the_options_are_the_defaults():
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
        ("crop_size = 74", r"crop_size must be 0 \(the model's own\) or lie in 75\.\.640, got 74"),
        ("objectness = 1", r"objectness must lie in 0\.\.1, below 1, got 1"),
        (
            'proposals = "ss"\nobjectness = 0.25',
            "objectness has no effect with proposals ss; give proposals multibox or both",
        ),
        ("cascade = 0.25", "cascade has no effect without ensemble"),
        ("batch_size = 100000000", r"batch_size must lie in 0\.\.1024"),
        ("superpixel_scale = 0", r"superpixel_scale must lie in 1\.\.100"),
        ("seed = -1", "seed must be at least 0, got -1"),
        ('backend = "gpu"', "backend must be one of own, opencv, got 'gpu'"),
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


@dataclasses.dataclass(frozen=True)
class Small:
    """An option of each kind."""

    kind: str = option("plain", "kind of thing", choices=("plain", "fancy"))
    size: int = option(0, "100 % of the side", low=5, high=9, off="its own", needs={"kind": ("fancy",)})
    rate: float = option(0.5, "speed", low=0, high=1, below=True, source="section 2")
    deep: bool = option(False, "go deep")
    names: tuple[str, ...] = option((), "names of things", needs={"deep": ()})

    def __post_init__(self) -> None:
        check_options(self)


def parsed(*words, base=None):
    parser = argparse.ArgumentParser(prog="small", exit_on_error=False)
    add_options(parser, Small)
    return options_of(parser.parse_args(words), Small, base)


def test_the_command_line_goes_over_the_base():
    base = Small(kind="fancy", size=7, deep=True)
    assert parsed() == Small()
    assert parsed(base=base) == base
    assert parsed("--size", "5", "--no-deep", "--rate", "0", base=base) == Small("fancy", 5, 0.0, False)
    assert parsed("--deep", "--names", "a, b,") == Small(deep=True, names=("a", "b"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "odd"), "argument --kind: invalid choice: 'odd'"),
        (("--kind", "fancy", "--size", "4"), "argument --size: must be 0 (its own) or lie in 5..9, got 4"),
        (("--size", "x"), "argument --size: must be a whole number, got 'x'"),
        (("--rate", "1"), "argument --rate: must lie in 0..1, below 1, got 1"),
        (("--rate", "nan"), "argument --rate: must lie in 0..1, below 1, got nan"),
        (("--size", "5"), "--size has no effect with --kind plain; give --kind fancy, or leave it out"),
        (("--names", "a"), "--names has no effect without --deep; leave it out"),
    ],
)
def test_mistakes_on_the_command_line(words, message):
    with pytest.raises((argparse.ArgumentError, UsageError)) as caught:
        parsed(*words)
    assert str(caught.value).startswith(message)


def test_help_and_table_say_what_the_field_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    parser = argparse.ArgumentParser()
    add_options(parser, Small, ("size", "rate", "deep"))
    text = " ".join(parser.format_help().split())
    assert "--size N 100 % of the side, 5..9 (default: its own)" in text
    assert "--rate X speed, 0..1, below 1 (default: 0.5)" in text
    assert "--deep, --no-deep go deep (default: no)" in text and "--kind" not in text
    assert options_table(Small, ("size", "rate", "names")).splitlines()[2:] == [
        "| `size` | `0` | 5..9 | 100 % of the side. 0: its own. | |",
        "| `rate` | `0.5` | 0..1, below 1 | Speed. | section 2 |",
        "| `names` | `[]` | | Names of things. | |",
    ]


def test_every_option_of_detect_has_a_help_and_passes_its_own_check():
    for field in dataclasses.fields(DetectOptions):
        assert field.metadata["about"].help and not field.metadata["about"].complaint(field.default)
