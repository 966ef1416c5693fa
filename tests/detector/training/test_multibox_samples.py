"""What MultiBox is trained on: boxes by hand, crops that hold what they promise, the bundled samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from detector.training.multibox_samples import (
    BoxedImages,
    boxed_images,
    boxes_in_window,
    random_window,
    stretched,
)
from proposals.boxes import area, as_boxes

WINDOW = as_boxes([[10, 20, 110, 70]])[0]  # 100 x 50


def test_boxes_in_a_window_by_hand():
    boxes = as_boxes([[10, 20, 60, 45], [35, 30, 85, 70]])
    found = boxes_in_window(boxes, WINDOW, False, 0.5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 0, 0.5, 0.5], [0.25, 0.2, 0.75, 1]], atol=1e-6)
    mirrored = boxes_in_window(boxes, WINDOW, True, 0.5)
    np.testing.assert_allclose(mirrored, [[0.5, 0, 1, 0.5], [0.25, 0.2, 0.75, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ([0, 20, 20, 40], 0.5),  # its left half is cut off
        ([0, 10, 20, 30], 0.25),  # a quarter is left
        ([100, 60, 140, 100], 0.0625),
        ([60, 20, 260, 70], 0.25),
    ],
)
def test_a_box_is_kept_from_its_share_on(box: list[float], share: float):
    boxes = as_boxes([box])
    assert len(boxes_in_window(boxes, WINDOW, False, share)) == 1
    assert len(boxes_in_window(boxes, WINDOW, False, share + 0.01)) == 0


@pytest.mark.parametrize("box", [[200, 20, 220, 40], [0, 0, 10, 20], [110, 70, 120, 80], [50, 30, 50, 60]])
def test_a_box_beyond_or_without_area_goes_whatever_is_kept(box: list[float]):
    assert boxes_in_window(as_boxes([box]), WINDOW, False, 0.0).shape == (0, 4)


def test_no_boxes():
    assert boxes_in_window(as_boxes([]), WINDOW, True, 0.5).shape == (0, 4)


SIDES = st.floats(-50, 300, width=32)
BOXES = arrays(np.float32, st.tuples(st.integers(0, 6), st.just(2), st.just(2)), elements=SIDES).map(
    lambda corners: np.sort(corners, axis=1).reshape(-1, 4)
)
WINDOWS = st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(1, 200), st.integers(1, 200)).map(
    lambda sides: np.array([sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3]], np.float32)
)


@given(BOXES, WINDOWS, st.booleans(), st.floats(0, 0.99))
def test_whatever_the_window_boxes_are_boxes_in_it(boxes: np.ndarray, window: np.ndarray, mirrored: bool, kept: float):
    found = boxes_in_window(boxes, window, mirrored, kept)
    assert found.dtype == np.float32 and found.shape[1] == 4 and len(found) <= len(boxes)
    assert (found >= 0).all() and (found <= 1).all() and (found[:, 2:] >= found[:, :2]).all()
    plain = boxes_in_window(boxes, window, False, kept)
    again = np.stack([1 - plain[:, 2], plain[:, 1], 1 - plain[:, 0], plain[:, 3]], axis=1)
    np.testing.assert_allclose(found, again if mirrored else plain, atol=1e-6)
    # back in pixels, each is a part of a box
    low, high = window[:2], window[2:]
    pixels = plain * np.tile(high - low, 2) + np.tile(low, 2)
    for part in pixels:
        assert ((boxes[:, :2] <= part[:2] + 1e-2) & (boxes[:, 2:] >= part[2:] - 1e-2)).all(axis=1).any()


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.floats(0, 0.99),
    st.integers(0, 2**32 - 1),
    arrays(np.float32, st.tuples(st.integers(1, 3), st.just(2), st.just(2)), elements=st.floats(0, 1, width=32)),
)
def test_a_crop_holds_a_centre_and_at_least_the_area(
    width: int, height: int, least: float, seed: int, corners: np.ndarray
):
    boxes = (np.sort(corners, axis=1).reshape(-1, 4) * [width, height, width, height]).astype(np.float32)
    window = random_window(boxes, width, height, least, np.random.default_rng(seed))
    assert window.dtype == np.float32 and window.shape == (4,)
    np.testing.assert_array_equal(window, np.round(window))
    assert (window >= 0).all() and (window <= [width, height, width, height]).all()
    assert float(area(window[None])[0]) >= least * width * height * (1 - 1e-6)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= window[:2]) & (centres < window[2:])).all(axis=1).any()
    assert inside or window.tolist() == [0, 0, width, height]


def test_crops_differ_in_place_size_and_shape():
    box = as_boxes([[190, 90, 210, 110]])
    rng = np.random.default_rng(0)
    windows = np.stack([random_window(box, 400, 200, 0.3, rng) for _ in range(300)])
    shares = area(windows) / (400 * 200)
    assert shares.min() < 0.35 and shares.max() > 0.9
    aspects = np.log((windows[:, 2] - windows[:, 0]) / (windows[:, 3] - windows[:, 1]) / 2)
    assert aspects.min() < -0.5 and aspects.max() > 0.5
    assert len(np.unique(windows[:, 0])) > 50


def test_an_object_that_no_crop_shows_gives_the_whole_picture():
    """A centre beyond the picture is in no crop."""
    box = as_boxes([[500, 500, 600, 600]])
    assert random_window(box, 100, 80, 0.3, np.random.default_rng(0)).tolist() == [0, 0, 100, 80]


@pytest.fixture(scope="module")
def samples() -> BoxedImages:
    return boxed_images(["samples"], [])


def test_the_samples(samples: BoxedImages):
    truth = read_dataset(samples_folder() / "annotations.json")
    with_objects = [i for i in range(len(truth.names)) if len(truth.boxes[truth.of_picture(i)])]
    assert len(samples) == len(samples.paths) == len(with_objects) == 10 == len(samples.truth)
    assert not samples.partial.any() and samples.sets.tolist() == [0] * 10
    for number, index in enumerate(with_objects):
        width, height = truth.sizes[index]
        scaled = truth.boxes[truth.of_picture(index)] / [width, height, width, height]
        np.testing.assert_allclose(samples.truth[number], scaled, atol=1e-6)


def test_the_fingerprint_is_of_everything(samples: BoxedImages):
    changed = [
        replace(samples, sets=samples.sets + 1),
        replace(samples, partial=~samples.partial),
        replace(samples, truth=(*samples.truth[:-1], samples.truth[-1] * np.float32(0.5))),
        replace(samples, paths=(*samples.paths[:-1], Path("other.jpg"))),
    ]
    assert len({samples.fingerprint(), *(images.fingerprint() for images in changed)}) == 5
    moved = replace(samples, paths=tuple(Path("elsewhere") / path.name for path in samples.paths))
    assert moved.fingerprint() == samples.fingerprint() == boxed_images(["samples"], []).fingerprint()


def small_data(folder: Path, annotations: list[dict[str, object]]) -> str:
    folder.mkdir()
    for name in ("dog", "chelsea"):
        shutil.copy(samples_folder() / f"{name}.jpg", folder)
    images = [
        {"id": 1, "file_name": "dog.jpg", "width": 768, "height": 576},
        {"id": 2, "file_name": "chelsea.jpg", "width": 451, "height": 300},
    ]
    data = {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    (folder / "data.json").write_text(json.dumps(data))
    return str(folder / "data.json")


def annotation(number: int, image: int, box: list[float], crowd: int = 0) -> dict[str, object]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": box,
        "iscrowd": crowd,
        "area": box[2] * box[3],
        "segmentation": {"counts": [], "size": [1, 1]} if crowd else [],
    }


def test_crowds_are_left_out_and_partly_labelled_data_is_marked(tmp_path: Path):
    partly = small_data(tmp_path / "a", [annotation(1, 1, [10, 10, 50, 50]), annotation(2, 2, [0, 0, 90, 90], crowd=1)])
    images = boxed_images([partly, "samples"], [partly])
    assert len(images.paths) == 11 and images.paths[0].name == "dog.jpg"  # a picture with a crowd alone has no object
    assert images.partial.tolist() == [True] + [False] * 10
    assert images.sets.dtype == np.int32 and images.sets.tolist() == [0] + [1] * 10
    np.testing.assert_allclose(images.truth[0], [[10 / 768, 10 / 576, 60 / 768, 60 / 576]], atol=1e-6)


def test_without_a_box_there_is_nothing_to_train_on(tmp_path: Path):
    data = small_data(tmp_path / "a", [])
    with pytest.raises(ValueError, match="the data sets have no picture with a box"):
        boxed_images([data], [])


def test_stretched_shows_the_window():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 50
    image[10:30, 40:60] = 200
    out = np.empty((8, 8, 3), np.uint8)
    stretched(image, as_boxes([[20, 10, 60, 30]])[0], False, out)
    np.testing.assert_array_equal(out[:, :3], 50)
    np.testing.assert_array_equal(out[:, 5:], 200)
    mirrored = np.empty_like(out)
    stretched(image, as_boxes([[20, 10, 60, 30]])[0], True, mirrored)
    np.testing.assert_array_equal(mirrored, out[:, ::-1])
    one = np.empty((8, 8, 3), np.uint8)
    stretched(image, as_boxes([[39, 10, 40, 11]])[0], False, one)  # a single pixel
    np.testing.assert_array_equal(one, 50)
