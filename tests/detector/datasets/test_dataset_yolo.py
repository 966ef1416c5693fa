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
