"""Selective Search assembled from OpenCV: the hierarchies it is made of, reproducible, safe on odd pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from proposals.boxes import area, from_xywh, iou
from proposals.opencv import COLOUR_SPACES, K_FAST, SIGMA, _hierarchies, _positions, selective_search_opencv

SAMPLES = Path(__file__).parents[2] / "samples"
SEGMENTATION = cv2.ximgproc.segmentation
SEARCH = "createSelectiveSearchSegmentation"
Notes = list[tuple[str, tuple[Any, ...]]]


def sample(name: str) -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / f"{name}.jpg").convert("RGB"))


def as_set(boxes: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(box) for box in boxes.tolist()}


class Listener:
    """One of OpenCV's objects that works as ever, its calls noted."""

    def __init__(self, real: Any, notes: Notes) -> None:
        self.real, self.notes = real, notes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.notes.append((name, arguments))
            return getattr(self.real, name)(*arguments)

        return call


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    """What is asked of OpenCV's segmentation, (function, arguments) in order, while OpenCV really does it."""
    noted: Notes = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            noted.append((name, arguments))
            made = real(*arguments)
            return Listener(made, noted) if name == SEARCH else made

        return call

    for name in [n for n in dir(SEGMENTATION) if n.startswith("create")]:
        monkeypatch.setattr(SEGMENTATION, name, noting(name, getattr(SEGMENTATION, name)))
    return noted


def asked(notes: Notes, name: str) -> list[tuple[Any, ...]]:
    return [arguments for noted, arguments in notes if noted == name]


def test_constants_are_those_of_fast_mode():
    assert (SIGMA, K_FAST) == (0.8, (50, 100))
    assert list(COLOUR_SPACES) == [cv2.COLOR_RGB2HSV_FULL, cv2.COLOR_RGB2Lab]


@pytest.mark.parametrize(("options", "doubling"), [({}, 2), ({"superpixel_scale": 1}, 1), ({"superpixel_scale": 3}, 3)])
def test_eight_hierarchies_from_four_segmentations(notes, options, doubling):
    image = np.zeros((60, 500, 3), np.uint8)
    image[:, :250], image[:, 250:] = (255, 0, 0), (0, 0, 255)  # red, then blue
    selective_search_opencv(image, **options)
    k1, k2 = 50 * doubling, 100 * doubling
    assert asked(notes, "createGraphSegmentation") == [(0.8, k1, k1), (0.8, k2, k2)] * 2
    for call in (SEARCH, "addImage", "addGraphSegmentation", "process"):
        assert len(asked(notes, call)) == 4
    # HSV of 256 hues: red 0, blue 2/3 of the way round; Lab, 8 bits each: 53, 80, 67 and 32, 79, -108 in CIE's units
    hsv, lab = [[0, 255, 255], [171, 255, 255]], [[136, 208, 195], [82, 207, 20]]
    pictures = [picture[30, [100, 400]].tolist() for (picture,) in asked(notes, "addImage")]
    assert pictures == [hsv, hsv, lab, lab]

    prefix = "SelectiveSearchSegmentationStrategy"
    mixtures = asked(notes, f"create{prefix}Multiple")
    plain = [f"{prefix}{part}" for part in ("Texture", "Size", "Fill")]
    parts = [[type(part).__name__ for part in mixture] for mixture in mixtures]
    assert parts == [[f"{prefix}Color", *plain], plain] * 4
    strategies = [strategy for (strategy,) in asked(notes, "addStrategy")]
    assert len({id(strategy) for strategy in strategies}) == 8  # none used twice: their histograms would be stale
    assert {type(strategy).__name__ for strategy in strategies} == {f"{prefix}Multiple"}


def test_red_and_blue_are_not_interchangeable():
    image = sample("chelsea")
    swapped = np.ascontiguousarray(image[:, :, ::-1])
    assert as_set(selective_search_opencv(image).boxes) != as_set(selective_search_opencv(swapped).boxes)


def test_a_hierarchy_runs_from_the_whole_picture_to_its_superpixels():
    picture = cv2.cvtColor(cv2.resize(sample("horses"), (250, 160)), cv2.COLOR_RGB2Lab)
    found = _hierarchies(picture, 100)
    assert len(found) > 20 and len(np.unique(found, axis=0)) == len(found)
    assert found[0].tolist() == [0, 0, 250, 160]
    assert (np.diff(area(found)) <= 0).all()
    assert _positions(found).tolist() == list(range(1, len(found) + 1))


def test_large_regions_come_early_but_not_in_order_of_size():
    boxes = selective_search_opencv(sample("chelsea")).boxes
    areas = area(boxes)[1:]
    half = len(areas) // 2
    assert np.median(areas[:half]) > 2 * np.median(areas[half:])
    assert (np.diff(areas) > 0).mean() > 0.3  # the random factor of section 4.2


@pytest.mark.parametrize(("name", "objects"), [("chelsea", 1), ("coffee", 2), ("person", 3), ("horses", 6)])
def test_every_object_of_a_sample_has_a_proposal(name, objects):
    table = json.loads((SAMPLES / "annotations.json").read_text(encoding="utf-8"))
    picture = next(i["id"] for i in table["images"] if i["file_name"] == f"{name}.jpg")
    truth = from_xywh([a["bbox"] for a in table["annotations"] if a["image_id"] == picture])
    assert len(truth) == objects
    assert iou(truth, selective_search_opencv(sample(name)).boxes).max(axis=1).min() >= 0.5


def test_same_seed_same_bytes_and_another_seed_another_order():
    image = sample("chelsea")
    first, second = selective_search_opencv(image, seed=3), selective_search_opencv(image, seed=3)
    assert first.boxes.tobytes() == second.boxes.tobytes()
    other = selective_search_opencv(image, seed=4)
    assert other.boxes.tobytes() != first.boxes.tobytes()
    assert as_set(other.boxes) == as_set(first.boxes)


def test_doubled_superpixels_give_about_half_the_boxes_and_top_n_keeps_the_best():
    image = sample("horses")
    doubled = selective_search_opencv(image)
    single = selective_search_opencv(image, superpixel_scale=1)
    assert 0.3 < len(doubled) / len(single) < 0.75  # section 8: "halves the number of proposals"
    np.testing.assert_array_equal(selective_search_opencv(image, max_boxes=50).boxes, doubled.boxes[:50])
    height, width = image.shape[:2]
    assert doubled.boxes[0].tolist() == [0, 0, width, height]
    assert (doubled.boxes >= 0).all() and (doubled.boxes <= [width, height, width, height]).all()
    sides = (doubled.boxes[:, 2:] - doubled.boxes[:, :2]).min()
    assert sides >= 20 * width / 500 - 1e-3
    assert len(np.unique(doubled.boxes, axis=0)) == len(doubled)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 2), (7, 500), (8, 500), (9, 9), (40, 3000), (1500, 60)]
)
@pytest.mark.parametrize("content", ["flat", "picture"])
def test_odd_shapes_and_flat_pictures(height, width, content):
    if content == "flat":
        image = np.full((height, width, 3), 90, np.uint8)
    else:
        image = np.asarray(Image.fromarray(sample("coffee")).resize((width, height)))
    found = selective_search_opencv(image)
    assert found.boxes[0].tolist() == [0, 0, width, height]
    assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
    if content == "flat":
        assert len(found) == 1


def test_refuses_what_is_no_rgb_picture():
    with pytest.raises(ValueError, match="uint8 RGB"):
        selective_search_opencv(np.zeros((5, 5), np.uint8))
