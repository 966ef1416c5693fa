"""Ranking of hierarchies and the 500-px frame, worked by hand."""

import numpy as np
import pytest

from proposals.images import check_image
from proposals.selective.frame import from_frame, to_frame
from proposals.selective.ranking import priorities, rank, rank_scores


def test_rank_drops_small_and_repeated_boxes_and_puts_the_whole_frame_first():
    boxes = np.array([[0, 0, 40, 40], [5, 5, 30, 24], [0, 0, 100, 80], [0, 0, 40, 40], [10, 10, 60, 60]], np.float64)
    priority = np.array([3.0, 0.1, 9.0, 0.5, 2.0])
    # box 1 has a side of 19 px; box 3 repeats box 0 with the better priority; box 2 is the frame
    assert rank(boxes, priority, (100, 80)).tolist() == [2, 3, 4]


def test_rank_keeps_a_side_of_exactly_20_px():
    boxes = np.array([[0, 0, 20, 50], [5, 5, 55, 25], [7, 7, 27, 27], [0, 0, 19, 50], [0, 0, 50, 19]], np.float64)
    assert rank(boxes, np.arange(5.0), (500, 375)).tolist() == [0, 1, 2]  # "at least 20", whichever side it is


def test_rank_keeps_a_frame_that_is_thinner_than_the_smallest_box():
    assert rank(np.array([[0, 0, 500, 5.0]]), np.zeros(1), (500, 5)).tolist() == [0]


def test_rank_breaks_ties_by_index():
    boxes = np.array([[0, 0, 30, 30], [1, 1, 31, 31], [2, 2, 32, 32]], np.float64)
    assert rank(boxes, np.ones(3), (99, 99)).tolist() == [0, 1, 2]


def test_priorities_are_position_times_a_uniform_number():
    uniform = np.random.default_rng(7).random(3)
    found = priorities(np.array([1.0, 2.0, 3.0]), np.random.default_rng(7))
    np.testing.assert_array_equal(found, uniform * [1, 2, 3])


def test_rank_scores_fall_from_one():
    assert rank_scores(4).tolist() == [1, 0.75, 0.5, 0.25]
    assert rank_scores(0).tolist() == []


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((500, 375), (500, 375)),
        ((1000, 500), (500, 250)),
        ((250, 100), (500, 200)),
        ((100, 1000), (200, 2000)),
        ((1, 1), (500, 500)),
    ],
)
def test_frame_is_500_wide_but_never_taller_than_2000(size, frame):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    assert to_frame(image).shape == (frame[1], frame[0], 3)


def test_shrinking_averages_all_pixels_and_enlarging_interpolates():
    rows, columns = np.indices((300, 1500))
    checkerboard = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    grey = to_frame(checkerboard)  # each pixel is the mean of 3 x 3, of which 4 or 5 are white
    assert np.unique(grey).tolist() == [round(255 * 4 / 9), round(255 * 5 / 9)] == [113, 142]
    step = np.full((40, 250, 3), 200, np.uint8)
    step[:, 0] = 0
    assert to_frame(step)[0, :5, 0].tolist() == [0, 50, 150, 200, 200]  # a quarter and three quarters of the way


def test_from_frame_scales_edges_and_clips():
    frame, image = np.zeros((250, 500, 3), np.uint8), np.zeros((500, 1000, 3), np.uint8)
    boxes = np.array([[0, 0, 500, 250], [10, 20, 30, 40.0]])
    assert from_frame(boxes, frame, image).tolist() == [[0, 0, 1000, 500], [20, 40, 60, 80]]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_check_image_refuses(image):
    with pytest.raises(ValueError, match="uint8 RGB"):
        check_image(image)
