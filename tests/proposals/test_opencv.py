"""Selective Search assembled from OpenCV: reproducible, inside the picture, safe on odd pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proposals.opencv import selective_search_opencv

SAMPLES = Path(__file__).parents[2] / "samples"


def sample(name: str) -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / f"{name}.jpg").convert("RGB"))


def test_same_seed_same_bytes_and_another_seed_another_order():
    image = sample("chelsea")
    first, second = selective_search_opencv(image, seed=3), selective_search_opencv(image, seed=3)
    assert first.boxes.tobytes() == second.boxes.tobytes()
    other = selective_search_opencv(image, seed=4)
    assert other.boxes.tobytes() != first.boxes.tobytes()
    assert {tuple(b) for b in other.boxes.tolist()} == {tuple(b) for b in first.boxes.tolist()}


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
