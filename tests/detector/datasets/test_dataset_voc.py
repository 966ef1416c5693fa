"""Pascal VOC: official folders and sets in their style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.read import read_dataset
from detector.datasets.voc import VOC_CLASSES, half_open, object_line
from proposals.boxes import to_one_based

# as in VOC: parts of an object come with boxes of their own, coordinates may be fractions, order of sides is free
PERSON = b"""<annotation>
  <folder>VOC2012</folder><filename>2008_000001.jpg</filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <object>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
    <name>person</name><difficult>1</difficult>
    <bndbox><ymax>375</ymax><xmax>200</xmax><ymin>45.75</ymin><xmin>10.5</xmin></bndbox>
  </object>
  <object>
    <name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>
  </object>
</annotation>
"""
EMPTY = b"<annotation><size><width>20</width><height>10</height></size></annotation>"


def put(path: Path, data: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def year(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    put(root / "Annotations" / "2008_000001.xml", PERSON)
    put(root / "Annotations" / "2008_000002.xml", EMPTY)
    put(root / "ImageSets" / "Main" / "val.txt", b"2008_000002\n2008_000001\n")
    put(root / "ImageSets" / "Main" / "train.txt", b"2008_000001  1\n")  # as in the lists of one class
    return root


def test_the_official_layout_in_columns(year: Path) -> None:
    truth = read_dataset(year)
    assert truth.names == ("2008_000002", "2008_000001") and truth.numbers.tolist() == [1, 2]
    assert truth.sizes.tolist() == [[20, 10], [500, 375]] and truth.paths == (None, None)
    assert truth.class_names == truth.class_keys == VOC_CLASSES and len(VOC_CLASSES) == 20
    assert truth.pictures.tolist() == [1, 1] and truth.labels.tolist() == [15, 12]
    assert truth.boxes.tolist() == [[9.5, 44.75, 200, 375], [0, 1, 3, 4]]
    assert truth.areas.tolist() == [190.5 * 330.25, 9]
    assert truth.difficult.tolist() == [True, False]


def test_the_folder_above_and_the_other_split(year: Path) -> None:
    assert read_dataset(year.parent).names == read_dataset(year).names
    assert read_dataset(year.parent, "voc", "train").names == ("2008_000001",)


def test_pictures_are_found_by_any_suffix(year: Path) -> None:
    put(year / "JPEGImages" / "2008_000001.jpg")
    put(year / "JPEGImages" / "2008_000002.PNG")
    assert read_dataset(year).paths == (year / "JPEGImages/2008_000002.PNG", year / "JPEGImages/2008_000001.jpg")


def test_without_image_sets_all_pictures_and_the_classes_that_occur(tmp_path: Path) -> None:
    put(tmp_path / "Annotations" / "x.xml", PERSON)
    put(tmp_path / "Annotations" / "w.xml", EMPTY)
    truth = read_dataset(tmp_path)
    assert truth.names == ("w", "x") and truth.class_names == ("dog", "person") and truth.labels.tolist() == [2, 1]
    put(tmp_path / "classes.txt", b"person\nhot dog\ndog\n")
    assert read_dataset(tmp_path).class_names == ("person", "hot dog", "dog")
    assert read_dataset(tmp_path).labels.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("utf-8", "utf-8-sig"), ("gbk", "gbk"), ("Shift_JIS", "shift_jis"), ("UTF-16", "utf-16"), ("utf-16", "utf-8")],
)
def test_the_declared_encoding_is_heeded(declared: str, encoding: str, tmp_path: Path) -> None:
    text = PERSON.decode().replace("person", "人").replace("2008_000001", "x")
    put(tmp_path / "Annotations" / "x.xml", f'<?xml version="1.0" encoding="{declared}"?>\n{text}'.encode(encoding))
    truth = read_dataset(tmp_path)
    assert truth.class_names == ("dog", "人") and truth.boxes.tolist() == [[9.5, 44.75, 200, 375], [0, 1, 3, 4]]
    put(tmp_path / "classes.txt", "dog\n人\n".encode("utf-8-sig"))
    put(tmp_path / "ImageSets" / "Main" / "val.txt", "x\r\n".encode("utf-8-sig"))
    assert read_dataset(tmp_path).labels.tolist() == truth.labels.tolist() == [2, 1]


def test_a_size_of_0_is_unknown_and_bounds_nothing(tmp_path: Path) -> None:
    put(tmp_path / "Annotations" / "x.xml", PERSON.replace(b"500", b"0").replace(b"375</height>", b"0</height>"))
    assert read_dataset(tmp_path).sizes.tolist() == [[0, 0]] and len(read_dataset(tmp_path)) == 2


def test_lines_of_objects() -> None:
    assert [object_line(PERSON.decode(), i) for i in (0, 1)] == [4, 9]


@given(st.lists(st.tuples(*[st.integers(-5, 10**6)] * 4), max_size=5))
def test_one_based_boxes_come_back(corners: list[tuple[int, int, int, int]]) -> None:
    table = np.array(corners, np.float64).reshape(-1, 4)
    boxes = half_open(table)
    np.testing.assert_array_equal(to_one_based(boxes.astype(np.float32)), table.astype(np.float32))
    inclusive = table[:, 2:] - table[:, :2] + 1
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], inclusive)
