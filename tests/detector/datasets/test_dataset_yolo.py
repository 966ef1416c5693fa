"""YOLO: normalised boxes over the pictures' sizes, folders with and without splits, names from data.yaml."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from detector.datasets.read import read_dataset
from detector.datasets.yolo import half_open, read_names


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def picture(path: Path, width: int, height: int, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)


def test_columns(tmp_path: Path) -> None:
    put(tmp_path / "classes.txt", "dog\nhot dog\n")
    picture(tmp_path / "images" / "b.jpg", 200, 100)
    picture(tmp_path / "images" / "a.png", 10, 20)
    put(tmp_path / "labels" / "b.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.05 0.1 0.1 0.2\n")
    truth = read_dataset(tmp_path)
    assert read_dataset(tmp_path, split="val").names == truth.names
    assert truth.names == ("a", "b") and truth.numbers.tolist() == [1, 2]
    assert truth.sizes.tolist() == [[10, 20], [200, 100]]
    assert truth.paths == (tmp_path / "images/a.png", tmp_path / "images/b.jpg")
    assert truth.class_names == ("dog", "hot dog") and truth.class_keys == ("0", "1")
    assert truth.pictures.tolist() == [1, 1] and truth.labels.tolist() == [2, 1]
    # 0.5 * 200 +- 0.25 * 200 / 2, 0.5 * 100 +- 0.5 * 100 / 2
    np.testing.assert_allclose(truth.boxes, [[75, 25, 125, 75], [0, 0, 20, 20]], atol=1e-12)
    np.testing.assert_allclose(truth.areas, [2500, 400])


def test_a_turned_picture_has_its_upright_size(tmp_path: Path) -> None:
    put(tmp_path / "classes.txt", "dog\n")
    for orientation in range(1, 9):
        picture(tmp_path / "images" / f"{orientation}.jpg", 40, 20, orientation)
    (tmp_path / "labels").mkdir()
    sizes = read_dataset(tmp_path).sizes.tolist()
    assert sizes == [[40, 20]] * 4 + [[20, 40]] * 4  # EXIF 2.32: 5 to 8 lie on their side
    for orientation, size in enumerate(sizes, start=1):  # as the detector turns them
        with Image.open(tmp_path / "images" / f"{orientation}.jpg") as image:
            assert list(ImageOps.exif_transpose(image).size) == size


@pytest.mark.parametrize("block", [b"garbage", b"II*\0\x08\0\0\0\x05\0"], ids=["no block", "entries missing"])
def test_a_picture_with_a_broken_exif_block_stays_as_it_is(
    block: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "classes.txt", "dog\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "a.jpg", exif=b"Exif\0\0" + block)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert read_dataset(tmp_path).sizes.tolist() == [[40, 20]]
    assert not warned and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}"])
def test_splits(layout: str, tmp_path: Path) -> None:
    settings = put(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnc: 1\nnames: [dog]\n")
    for split in ("train", "val"):
        picture(tmp_path / layout.format(kind="images", split=split) / f"{split}_1.png", 10, 10)
        put(tmp_path / layout.format(kind="labels", split=split) / f"{split}_1.txt", "0 0.5 0.5 1 1\n")
    assert read_dataset(tmp_path).names == ("val_1",)
    assert read_dataset(tmp_path, split="train").names == ("train_1",)
    assert read_dataset(settings, "auto", "train").boxes.tolist() == [[0, 0, 10, 10]]


@pytest.mark.parametrize(
    "text",
    [
        "names: [dog, 'hot dog', \"ma'am\"]\n",
        "nc: 3\nnames: [ dog ,hot dog, ma'am ]  # three\npath: x\n".replace("ma'am", "'ma''am'"),
        'names:\n  - dog\n  - hot dog  # with mustard\n  - "ma\'am"\nother: 1\n',
        "names:\n- dog\n- hot dog\n- 'ma''am'\n",
        '# names: [no]\nnames:\n  0: dog\n  2: "ma\'am"\n\n  1: hot dog\ntrain: x\n',
        'names: {0: dog, 1: hot dog, 2: "ma\'am"}\n',
        'names: [dog,\n  hot dog,\n  "ma\'am"]\nnc: 3\n',
        "base: &all [dog, hot dog, ma'am]\nnames: *all\n",
        'names:\n  - !!str dog\n  - >-\n    hot\n    dog\n  - "ma\\u0027am"\n',
        "\ufeff---\nnames: {2: ma'am, 0: dog, '1': hot dog}\n...\n",
    ],
)
def test_names_in_all_forms(text: str, tmp_path: Path) -> None:
    assert read_names(put(tmp_path / "data.yaml", text)) == ("dog", "hot dog", "ma'am")


def test_names_stay_as_they_are_written(tmp_path: Path) -> None:
    assert read_names(put(tmp_path / "data.yaml", "names: [no, 007, 1.50, null-hypothesis, 3:20]")) == (
        *("no", "007", "1.50", "null-hypothesis", "3:20"),
    )


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.lists(st.tuples(*[st.floats(0.001, 1)] * 4), min_size=1, max_size=4)
)
def test_normalised_boxes_come_back(width: int, height: int, rows: list[tuple[float, float, float, float]]) -> None:
    table = np.array(rows)
    boxes = half_open(table, np.array([[width, height]] * len(rows)))
    size = np.array([width, height])
    centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size
    np.testing.assert_allclose(np.concatenate([centre, sides], axis=1), table, rtol=0, atol=1e-12)


def named(folder: Path, text: str, *pictures: str) -> Path:
    """Write data.yaml, and pictures with a label each, whose width is that of the picture's name."""
    for name in pictures:
        picture(folder / name, 40, 20)
        put(folder / name.replace("images/", "labels/").replace(".jpg", ".txt"), "0 0.5 0.5 0.5 0.5\n")
    return put(folder / "data.yaml", text)


@pytest.mark.parametrize(
    ("text", "pictures", "names"),
    [
        ("val: images/holdout", "images/holdout/a.jpg images/val/old.jpg", "a"),  # not the folder of the same name
        ("path: .\nval: images/holdout", "images/holdout/a.jpg images/val/old.jpg", "a"),
        ("val: [images/x, images/y]", "images/x/a.jpg images/y/b.jpg images/z/c.jpg", "a b"),
        ("val:\n- images/x\n- images/y\n", "images/x/a.jpg images/y/a.jpg", "x/a y/a"),
        ("train: ../train/images\nval: ../valid/images", "train/images/a.jpg valid/images/b.jpg", "b"),  # Roboflow
        ("path: set\ntrain: images/t\nval: images/v", "set/images/t/a.jpg set/images/v/b.jpg", "b"),
        ("path: /content/set\nval: images/v", "images/v/b.jpg images/val/a.jpg", "b"),  # of another computer
        ("val: valid", "valid/images/a.jpg train/images/b.jpg", "a"),
        ("val: images\\v", "images/v/a.jpg images/val/b.jpg", "a"),
        ("train: images", "images/a.jpg", "names no split 'val'; add it, or give one of train"),
        ("val: images/none", "images/a.jpg", "line 1: 'val: images/none' is not there, nor"),
        ("val: {a: b}", "images/a.jpg", "line 1: 'val:' is no path; give a folder, a list of folders, or a list file"),
        ("val: a\nval: b", "images/a.jpg", "has 'val:' more than once; leave one"),
        ("val:", "images/a.jpg", "a"),
    ],
)
def test_the_split_that_data_yaml_names(tmp_path: Path, text: str, pictures: str, names: str) -> None:
    path = named(tmp_path, f"{text}\nnames: [dog]\n", *pictures.split())
    for source in (path, tmp_path):
        if ";" in names or "nor" in names:
            with pytest.raises(ValueError) as caught:
                read_dataset(source, "yolo")
            assert names in str(caught.value)
        else:
            truth = read_dataset(source, "yolo")
            assert (" ".join(truth.names), len(truth)) == (names, len(truth.names))


@pytest.mark.parametrize("line", ["./images/a.jpg", "images/a.jpg", "\ufeffimages\\a.jpg", "{}/images/a.jpg"])
def test_a_list_file_of_data_yaml(tmp_path: Path, line: str) -> None:
    path = named(tmp_path, "train: train.txt\nval: val.txt\nnames: [dog]\n", "images/a.jpg", "images/b.jpg")
    put(tmp_path / "val.txt", line.format(tmp_path) + "\n")
    truth = read_dataset(path)
    assert truth.names == ("a",) and len(truth) == 1 and "b" in truth.elsewhere
    put(tmp_path / "val.txt", "images/a.jpg\nimages/c.jpg\n")
    with pytest.raises(ValueError, match=r"val.txt, line 2: there is no picture .*/images/c.jpg; correct the line"):
        read_dataset(path)
    put(tmp_path / "val.txt", "images/a.jpg\n./images/a.jpg\n")
    with pytest.raises(ValueError, match=r"val.txt, line 2: the picture './images/a.jpg' comes a second time"):
        read_dataset(path)


def test_a_yaml_beside_the_data_folder_as_with_ultralytics(tmp_path: Path) -> None:
    named(tmp_path / "datasets" / "things", "names: [dog]\n", "images/val2017/a.jpg", "images/train2017/b.jpg")
    for path in ("../datasets/things", "things"):
        text = f"path: {path}\ntrain: images/train2017\nval: images/val2017\nnames:\n  0: dog\n"
        given = put(tmp_path / "cfg" / "things.yaml", text)
        assert read_dataset(given).names == ("a",) and read_dataset(given, split="train").names == ("b",)
