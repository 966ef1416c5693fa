"""COCO JSON: columns, where the files are, what may be missing; the same as pycocotools reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.coco import half_open, parse_coco
from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from proposals.boxes import to_xywh

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
DATA: dict[str, Any] = {
    "images": [
        {"id": 9, "file_name": "b.jpg", "width": 50, "height": 40},
        {"id": 4, "file_name": "a.jpg"},
        {"id": 5, "file_name": "empty.jpg", "width": 10, "height": 20},
    ],
    "annotations": [
        {"id": 3, "image_id": 4, "category_id": 90, "bbox": [1.5, 2, 3, 4.25], "iscrowd": 1, "area": 7.5},
        {"id": 1, "image_id": 9, "category_id": 3, "bbox": [0, 0, 50, 40]},
        {"id": 2, "image_id": 4, "category_id": 90, "bbox": [-1, -1, 5, 5], "iscrowd": 0},
        {"id": 7, "image_id": 9, "category_id": 90, "bbox": [1, 1, 1.25, 0], "area": 0},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
}


def put(path: Path, data: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("" if data is None else json.dumps(data), encoding="utf-8")
    return path


def test_columns(tmp_path: Path) -> None:
    truth = read_dataset(put(tmp_path / "data.json", DATA))
    assert truth.names == ("b", "a", "empty") and truth.numbers.tolist() == [9, 4, 5]
    assert truth.sizes.tolist() == [[50, 40], [0, 0], [10, 20]] and truth.paths == (None,) * 3
    assert truth.class_names == ("car", "toothbrush") and truth.class_keys == ("3", "90")  # by rising id
    assert truth.pictures.tolist() == [0, 0, 1, 1] and truth.labels.tolist() == [1, 2, 2, 2]
    assert truth.boxes.tolist() == [[0, 0, 50, 40], [1, 1, 2.25, 1], [1.5, 2, 4.5, 6.25], [-1, -1, 4, 4]]
    assert truth.crowd.tolist() == [False, False, True, False]
    assert truth.areas.tolist() == [2000, 0, 7.5, 25]
    assert not truth.difficult.any()


def test_folders_know_their_splits(tmp_path: Path) -> None:
    put(tmp_path / "annotations" / "instances_val2017.json", DATA)
    put(tmp_path / "annotations" / "person_keypoints_val2017.json", {})
    put(tmp_path / "annotations" / "instances_train2017.json", {**DATA, "images": DATA["images"][:2]})
    assert len(read_dataset(tmp_path).names) == 3
    assert len(read_dataset(tmp_path, split="val2017").names) == 3
    assert len(read_dataset(tmp_path, "coco", "train").names) == 2


def test_a_single_file_needs_no_split(tmp_path: Path) -> None:
    put(tmp_path / "annotations.json", DATA)
    assert len(read_dataset(tmp_path).names) == 3
    assert len(read_dataset(tmp_path, split="val").names) == 3  # as a whole it goes by val
    with pytest.raises(ValueError, match="give no split"):
        read_dataset(tmp_path, split="train")
    put(tmp_path / "val.json", {**DATA, "images": DATA["images"][:2]})
    assert len(read_dataset(tmp_path).names) == 2


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("data.json", "."),
        ("data.json", "images"),
        ("annotations/data.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("val.json", "val2017"),
    ],
)
def test_pictures_are_found(file: str, folder: str, tmp_path: Path) -> None:
    for image in DATA["images"]:
        put(tmp_path / folder / image["file_name"])
    truth = read_dataset(put(tmp_path / file, DATA))
    assert [path and path.resolve() for path in truth.paths] == [
        (tmp_path / folder / image["file_name"]).resolve() for image in DATA["images"]
    ]


def test_folders_of_other_splits_do_not_count_as_the_pictures(tmp_path: Path) -> None:
    put(tmp_path / "images" / "train2017" / "z.jpg")
    assert read_dataset(put(tmp_path / "val.json", DATA)).paths == (None,) * 3


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x/a.jpg", "y/b.jpg", "c.d.jpg"], ("a", "b", "c.d")),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ("x/a", "y/a", "b")),
        (["a.jpg", "a.png", "b.jpg"], ("a.jpg", "a.png", "b.jpg")),
    ],
)
def test_names_are_as_short_as_they_stay_unique(files: list[str], names: tuple[str, ...]) -> None:
    images = [{**image, "file_name": file} for image, file in zip(DATA["images"], files, strict=True)]
    assert parse_coco({**DATA, "images": images}, Path("data.json")).names == names


def test_the_samples() -> None:
    truth = read_dataset(samples_folder())
    assert len(truth.names) == 11 and len(truth) == 32 and len(truth.class_names) == 200
    assert all(path is not None and path.is_file() for path in truth.paths)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not at hand")
@pytest.mark.parametrize("file", ["coco2017/val.json", "voc2012/val.json", "ilsvrc/loc_full/annotations.json"])
def test_equals_pycocotools(file: str) -> None:
    from pycocotools.coco import COCO

    reference = COCO(str(SHARED / file))
    truth = read_dataset(SHARED / file)
    assert sorted(truth.numbers.tolist()) == sorted(reference.getImgIds())
    assert all(path is not None and path.is_file() for path in truth.paths)
    for index, number in enumerate(truth.numbers.tolist()):
        own = truth.of_picture(index)
        objects = reference.loadAnns(reference.getAnnIds(imgIds=[number]))
        assert [int(truth.class_keys[label - 1]) for label in truth.labels[own]] == [o["category_id"] for o in objects]
        assert truth.crowd[own].tolist() == [bool(o["iscrowd"]) for o in objects]
        assert truth.areas[own].tolist() == [o["area"] for o in objects]
        boxes = np.array([o["bbox"] for o in objects], np.float64).reshape(-1, 4)
        np.testing.assert_array_equal(truth.boxes[own][:, :2], boxes[:, :2])
        np.testing.assert_array_equal(truth.boxes[own][:, 2:], boxes[:, :2] + boxes[:, 2:])


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 4), max_size=5))
def test_xywh_comes_back(rows: list[tuple[int, int, int, int]]) -> None:
    table = np.array(rows, np.float64).reshape(-1, 4)
    np.testing.assert_array_equal(to_xywh(half_open(table).astype(np.float32)), table.astype(np.float32))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(["images", "annotations", "categories"]),
    st.sampled_from(["id", "file_name", "width", "image_id", "category_id", "bbox", "iscrowd", "area", "name"]),
    json_values,
)
def test_any_value_anywhere_is_read_or_refused_in_one_line(of: str, key: str, value: object) -> None:
    data = json.loads(json.dumps(DATA))
    data[of][0][key] = value
    try:
        parse_coco(data, Path("data.json"))
    except ValueError as error:
        assert str(error).startswith("data.json, ") and "; " in str(error) and "\n" not in str(error)
