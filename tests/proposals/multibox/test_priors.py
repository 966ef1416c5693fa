"""Priors on grids: shapes with known centroids, every cell by hand, and residuals in sides of the prior."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from proposals.boxes import area, as_boxes
from proposals.multibox.decode import decode_proposals
from proposals.multibox.priors import decode, encode, grid_priors, kmeans_shapes

SHAPES = [np.array([[0.2, 0.4], [0.5, 0.25]], np.float32), np.array([[1.0, 0.6]], np.float32)]


def boxes_of(*sides):
    """Boxes of such widths and heights, each at another place."""
    places = np.linspace(0, 0.25, len(sides))[:, None]
    return as_boxes(np.concatenate([np.tile(places, 2), places + np.array(sides).reshape(-1, 2)], axis=1))


def test_centroids_are_geometric_means_the_smaller_first():
    """Two groups far apart: widths 0.25 and 0.75 meet at the root of 0.1875."""
    boxes = boxes_of((0.25, 0.5), (0.75, 0.5), (0.02, 0.02), (0.08, 0.02))
    shapes = kmeans_shapes(boxes, 2, seed=3)
    assert shapes.dtype == np.float32 and shapes.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(shapes, [[0.04, 0.02], [0.1875**0.5, 0.5]], rtol=1e-5)


def test_only_boxes_in_the_range_of_sizes_count():
    """Roots of the areas 1/8, 1/4 and 1/2: the lower bound is inside, the upper one is not."""
    boxes = as_boxes([[0, 0, 0.125, 0.125], [0.5, 0, 1, 0.125], [0.5, 0.5, 1, 1]])
    for low, high, expected in (
        (0.0, 0.25, [[0.125, 0.125]]),
        (0.25, 0.5, [[0.5, 0.125]]),
        (0.125, 0.5, [[0.125, 0.125], [0.5, 0.125]]),
    ):
        np.testing.assert_allclose(kmeans_shapes(boxes, len(expected), 0, low, high), expected, rtol=1e-6)


def test_shapes_are_seeded_and_sorted():
    boxes = as_boxes(np.sort(np.random.default_rng(0).random((300, 2, 2)), axis=1).reshape(-1, 4))
    first, again, other = (kmeans_shapes(boxes, 12, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)
    assert (np.diff(first.prod(axis=1)) >= 0).all()


@pytest.mark.parametrize(
    ("sides", "count", "there"),
    [
        ([(0.5, 0.5), (0.25, 0.5)], 3, 2),
        ([(0.5, 0.5), (0.5, 0.5)], 2, 1),  # the place makes no difference
        ([(0.5, 0.5), (0.005, 0.5)], 2, 1),  # too thin
        ([(0.5, 0.5), (0.875, 0.875)], 2, 1),  # too large
        ([], 1, 0),
        ([(0.5, 0.5)], 0, 1),
    ],
)
def test_too_few_boxes_are_one_line(sides, count, there):
    with pytest.raises(ValueError) as caught:
        kmeans_shapes(boxes_of(*sides), count, seed=0, low=0.01, high=0.75)
    assert str(caught.value) == (
        f"{count} shapes of priors need as many distinct boxes with a root of the area in 0.01..0.75 of the picture's, "
        f"there are {there}"
    )


def test_priors_by_hand():
    """Two cells beside each other with two shapes, then one cell with one: centres (1/4, 1/2), (3/4, 1/2), the middle.

    Nothing is cut to the picture.
    """
    priors = grid_priors([(1, 2), (1, 1)], SHAPES)
    assert priors.dtype == np.float32
    expected = [
        [0.15, 0.3, 0.35, 0.7],
        [0, 0.375, 0.5, 0.625],
        [0.65, 0.3, 0.85, 0.7],
        [0.5, 0.375, 1, 0.625],
        [0, 0.2, 1, 0.8],
    ]
    np.testing.assert_allclose(priors, expected, atol=1e-6)
    corner = grid_priors([(4, 4)], SHAPES[:1])[0]  # centre (1/8, 1/8)
    np.testing.assert_allclose(corner, [0.025, -0.075, 0.225, 0.325], atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_priors_against_loops(grids, seed):
    rng = np.random.default_rng(seed)
    shapes = [rng.uniform(0.01, 1, (count, 2)).astype(np.float32) for _, _, count in grids]
    expected = [
        [(x + 0.5) / columns - w / 2, (y + 0.5) / rows - h / 2, (x + 0.5) / columns + w / 2, (y + 0.5) / rows + h / 2]
        for (rows, columns, _), sides in zip(grids, shapes, strict=True)
        for y in range(rows)
        for x in range(columns)
        for w, h in sides.tolist()
    ]
    found = grid_priors([(rows, columns) for rows, columns, _ in grids], shapes)
    assert found.shape == (len(expected), 4) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(expected).reshape(-1, 4), atol=1e-6)


def test_a_grid_without_shapes_is_refused():
    with pytest.raises(ValueError, match="zip"):
        grid_priors([(1, 2), (1, 1)], SHAPES[:1])


def test_residuals_by_hand():
    """A prior 0.4 wide and 0.2 high: a residual of 1 is 0.08 in x and 0.04 in y."""
    prior, box = as_boxes([[0.2, 0.4, 0.6, 0.6]]), as_boxes([[0.28, 0.4, 0.6, 0.48]])
    residuals = encode(box, prior)
    assert residuals.dtype == np.float32
    np.testing.assert_allclose(residuals, [[1, 0, 0, -3]], atol=1e-5)
    np.testing.assert_allclose(decode(residuals, prior), box, atol=1e-6)
    assert (
        encode(as_boxes([]), as_boxes([])).shape == decode(np.zeros((0, 4), np.float32), as_boxes([])).shape == (0, 4)
    )


def test_boxes_are_cut_to_the_picture_and_their_corners_ordered():
    """The prior has sides of 0.2: a residual of 1 is 0.04."""
    prior = as_boxes([[0.4, 0.4, 0.6, 0.6]])
    for residual, box in (
        ([-25, 0, 25, 0], [0, 0.4, 1, 0.6]),
        ([7.5, 0, -7.5, 0], [0.3, 0.4, 0.7, 0.6]),  # x1 = 0.7, x2 = 0.3
        ([25, 25, 25, 25], [1, 1, 1, 1]),
    ):
        np.testing.assert_allclose(decode(np.array([residual], np.float32), prior), [box], atol=1e-6)


UNIT = st.floats(0, 1, width=32)
BOXES = arrays(np.float32, (6, 2, 2), elements=UNIT).map(lambda corners: np.sort(corners, axis=1).reshape(6, 4))
SIDES = arrays(np.float32, (2, 2), elements=st.floats(0.015625, 1, width=32))


@given(BOXES, SIDES)
def test_round_trip(boxes, shapes):
    priors = grid_priors([(1, 3)], [shapes])
    np.testing.assert_allclose(decode(encode(boxes, priors), priors), boxes, atol=1e-5)


@given(arrays(np.float32, (6, 4), elements=st.floats(-1e6, 1e6, width=32)), SIDES)
def test_whatever_is_predicted_is_a_box(residuals, shapes):
    boxes = decode(residuals, grid_priors([(1, 3)], [shapes]))
    assert boxes.dtype == np.float32 and (boxes >= 0).all() and (boxes <= 1).all()
    assert np.array_equal(as_boxes(boxes), boxes)


def test_proposals_are_in_the_deviations_of_their_priors():
    """In a picture of 100 x 50: no residual gives the prior, cut to the picture; 1 moves by a fifth of a side."""
    priors = grid_priors([(1, 2)], [np.array([[0.4, 0.4], [1.0, 1.0]], np.float32)])
    residuals = np.zeros((4, 4), np.float32)
    residuals[0] = [1, 1, 1, 0]
    found = decode_proposals(residuals, np.array([4, 3, 2, 1], np.float32), priors, 100, 50, nms=0.99)
    # left cell, centre (25, 25): a box 40 x 20, and one 100 x 50, cut at x = 0; right cell, centre (75, 25)
    expected = [[13, 19, 53, 35], [0, 0, 75, 50], [55, 15, 95, 35], [25, 0, 100, 50]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-3)
    assert (area(found.boxes) > 0).all() and (np.diff(found.scores) < 0).all()
