"""The sample pictures and their ground truth agree with each other and with the 200 classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from detector.classes import det_names

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SAMPLES / "annotations.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def sizes() -> dict[str, tuple[int, int]]:
    """Return the (width, height) of each decoded, upright picture."""
    found = {}
    for path in SAMPLES.glob("*.jpg"):
        with Image.open(path) as picture:
            picture.load()
            found[path.name] = ImageOps.exif_transpose(picture).size
    return found


def test_every_picture_is_listed_once_with_its_decoded_size(
    truth: dict[str, Any], sizes: dict[str, tuple[int, int]]
) -> None:
    listed = [(i["file_name"], (i["width"], i["height"])) for i in truth["images"]]
    assert sorted(listed) == sorted(sizes.items())
    assert len(listed) == 11


def test_categories_are_the_200_classes(truth: dict[str, Any]) -> None:
    assert [(c["id"], c["name"]) for c in truth["categories"]] == list(enumerate(det_names(), start=1))


@pytest.mark.parametrize("table", ["images", "categories", "annotations"])
def test_ids_are_unique(truth: dict[str, Any], table: str) -> None:
    ids = [row["id"] for row in truth[table]]
    assert len(ids) == len(set(ids)) > 0
    assert min(ids) >= 1


def test_annotations_lie_inside_their_pictures(truth: dict[str, Any], sizes: dict[str, tuple[int, int]]) -> None:
    names = {i["id"]: i["file_name"] for i in truth["images"]}
    for row in truth["annotations"]:
        x, y, w, h = row["bbox"]
        width, height = sizes[names[row["image_id"]]]
        assert x >= 0 and y >= 0 and w > 0 and h > 0, row
        assert x + w <= width and y + h <= height, row
        assert row["area"] == w * h, row
        assert row["iscrowd"] in (0, 1), row
        assert 1 <= row["category_id"] <= len(det_names()), row


def test_no_box_is_annotated_twice(truth: dict[str, Any]) -> None:
    boxes = [(row["image_id"], row["category_id"], *row["bbox"]) for row in truth["annotations"]]
    assert len(boxes) == len(set(boxes))


def test_the_pictures_show_what_their_names_say(truth: dict[str, Any]) -> None:
    names = {i["id"]: Path(i["file_name"]).stem for i in truth["images"]}
    shown: dict[str, set[str]] = {name: set() for name in names.values()}
    for row in truth["annotations"]:
        shown[names[row["image_id"]]].add(det_names()[row["category_id"] - 1])
    assert shown["dog"] >= {"dog", "bicycle", "car"}
    assert shown["horses"] == {"horse"}
    assert shown["person"] == {"person", "dog", "horse"}
    assert shown["eagle"] == {"bird"}
    assert shown["chelsea"] == {"domestic cat"}
    assert shown["giraffe"] == {"zebra"}
    assert shown["rocket"] == set()
    assert "no object of the 200 classes" in truth["info"]["description"]


def test_the_file_has_one_annotation_a_line(truth: dict[str, Any]) -> None:
    lines = (SAMPLES / "annotations.json").read_text(encoding="utf-8").splitlines()
    assert sum('"bbox"' in line for line in lines) == len(truth["annotations"])
