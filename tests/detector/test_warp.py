"""R-CNN's warp: golden vectors worked by hand from Caffe's arithmetic, and what the pixels are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.warp import warp, warp_geometry
from proposals.boxes import as_boxes

SAMPLE = Path(__file__).parents[2] / "samples" / "dog.jpg"
FILL = (10, 20, 30)

# W x H = 500 x 375, output 224: inclusive box -> source rectangle -> destination (x, y, w, h), and x when mirrored
GOLDEN = [
    ((100, 50, 299, 249), (83, 33, 317, 267), (0, 0, 224, 224), 0),
    ((0, 0, 49, 99), (0, 0, 54, 108), (15, 15, 209, 209), 0),
    ((480, 300, 499, 374), (478, 294, 499, 374), (0, 0, 197, 206), 27),
    ((0, 0, 499, 374), (0, 0, 499, 374), (16, 16, 191, 192), 16),
]


@pytest.mark.parametrize(("inclusive", "source", "destination", "mirrored_x"), GOLDEN)
def test_geometry_golden_vectors(inclusive, source, destination, mirrored_x):
    x1, y1, x2, y2 = inclusive
    box = as_boxes([[x1, y1, x2 + 1, y2 + 1]])
    g = warp_geometry(box, (500, 375), 224)
    assert (*g.first[0], *g.last[0]) == source
    assert (*g.start[0], *g.size[0]) == destination
    m = warp_geometry(box, (500, 375), 224, mirrored=True)
    assert m.start[0].tolist() == [mirrored_x, destination[1]]


def geometry_of_one(box, width, height, size, context=16):
    """Caffe's arithmetic for one box, one step a line."""

    def rounded(v: float) -> int:
        return int(np.floor(abs(v) + 0.5)) * (1 if v >= 0 else -1)

    axes = []
    for low, high, limit in ((box[0], box[2] - 1, width), (box[1], box[3] - 1, height)):
        half = (high - low + 1) / 2
        centre = low + half
        s = size / (size - 2 * context)
        first, last = rounded(centre - half * s), rounded(centre + half * s)
        unclipped = last - first + 1
        before, after = max(0, -first), max(0, last - limit + 1)
        first, last = first + before, last - after
        zoom = size / unclipped
        extent = rounded((last - first + 1) * zoom)
        start = rounded(before * zoom)
        axes.append((first, last, start, min(extent, size - start)))
    return axes


@given(st.integers(0, 90), st.integers(0, 60), st.integers(1, 100), st.integers(1, 70), st.sampled_from([64, 160, 224]))
def test_geometry_equals_one_box_at_a_time(x, y, w, h, size):
    box = as_boxes([[x, y, min(x + w, 100), min(y + h, 70)]])
    g = warp_geometry(box, (100, 70), size)
    for axis, (first, last, start, extent) in enumerate(geometry_of_one(box[0].astype(float), 100, 70, size)):
        assert (g.first[0, axis], g.last[0, axis], g.start[0, axis], g.size[0, axis]) == (first, last, start, extent)


def test_pixels_of_a_box_inside_come_from_its_context():
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, 50:] = 200
    crop = warp(image, as_boxes([[30, 30, 70, 70]]), 64, FILL)[0]  # context 20 px each side: source is 10 .. 90
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
    assert (crop[:, :30] == 0).all() and (crop[:, 34:] == 200).all()


def test_channels_stay_red_green_blue():
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50], image[:, 50:] = (250, 40, 3), (5, 60, 240)
    crop = warp(image, as_boxes([[10, 30, 90, 110]]), 64, FILL, context=0)[0]
    assert (crop[:40, :31] == (250, 40, 3)).all() and (crop[:40, 33:] == (5, 60, 240)).all()
    assert (crop[57:] == FILL).all()  # 81 source pixels, of which 70 lie in the picture: 70 x 64 / 81 = 55.3 rows


def test_pixels_are_bilinear_without_antialiasing():
    """31 px become 32 source pixels in Caffe's arithmetic, 10 to 41; at 8 px each output pixel lies over four."""
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, 10:42] = np.tile(np.array([0, 100, 40, 200], np.uint8), 8)[None, :, None]
    crop = warp(image, as_boxes([[10, 10, 41, 41]]), 8, FILL, context=0)[0]
    assert (crop == 70).all()  # halfway from 100 to 40; the nearest pixel is 0, the mean of four 85, cubic 64
    across = warp(image.transpose(1, 0, 2).copy(), as_boxes([[10, 10, 41, 41]]), 8, FILL, context=0)[0]
    assert (across == 70).all()


def test_missing_context_is_the_fill_colour_and_mirroring_flips():
    image = np.full((80, 60, 3), 255, np.uint8)
    crop = warp(image, as_boxes([[0, 0, 30, 40]]), 64, FILL)[0]
    g = warp_geometry(as_boxes([[0, 0, 30, 40]]), (60, 80), 64)
    left, top = g.start[0]
    assert left > 0 and top > 0
    assert (crop[:top] == FILL).all() and (crop[:, :left] == FILL).all()
    assert (crop[top:, left:] == 255).all()
    whole = as_boxes([[0, 0, 60, 80]])
    picture = np.asarray(Image.open(SAMPLE).convert("RGB").resize((60, 80)))
    flipped = warp(picture, whole, 64, FILL, mirrored=True)
    np.testing.assert_array_equal(flipped[0], warp(picture, whole, 64, FILL)[0][:, ::-1])


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [5, 5, 5, 5], [59, 79, 60, 80], [0, 0, 60, 1], [0.2, 0.3, 0.9, 79.5]])
def test_degenerate_boxes_give_a_crop(box):
    image = np.full((80, 60, 3), 255, np.uint8)
    assert warp(image, as_boxes([box]), 32, FILL, context=4).shape == (1, 32, 32, 3)


def test_a_box_outside_the_picture_is_all_fill_and_no_boxes_give_no_crops():
    image = np.full((80, 60, 3), 255, np.uint8)
    assert (warp(image, as_boxes([[500, 500, 520, 520]]), 32, FILL, context=4) == FILL).all()
    assert warp(image, as_boxes([]), 32, FILL, context=4).shape == (0, 32, 32, 3)
