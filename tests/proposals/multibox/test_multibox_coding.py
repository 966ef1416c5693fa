"""Residuals: golden values, the round trip, and boxes that stay boxes whatever is predicted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from proposals.boxes import as_boxes
from proposals.multibox.coding import ALPHA, STD, decode, encode, normalised, offset

UNIT = st.floats(0, 1, width=32)
BOXES = arrays(np.float32, (5, 2, 2), elements=UNIT).map(lambda corners: np.sort(corners, axis=1).reshape(5, 4))


def test_by_hand():
    prior, box = as_boxes([[0.2, 0.2, 0.6, 0.6]]), as_boxes([[0.1, 0.25, 0.6, 1.0]])
    residual = encode(box, prior)
    assert residual.dtype == np.float32
    np.testing.assert_allclose(residual, [[-1, 0.5, 0, 4]], atol=1e-5)
    np.testing.assert_allclose(decode(residual, prior), box, atol=1e-6)


def test_alpha_equals_the_published_one():
    """alpha / std^2 is the weight of a raw offset: 0.3 over 0.01 squared."""
    assert pytest.approx(0.3 / 0.01**2) == ALPHA / STD**2 == pytest.approx(3000)


def test_decode_cuts_and_orders():
    prior = as_boxes([[0.4, 0.4, 0.6, 0.6]])
    np.testing.assert_allclose(decode(np.array([[-9, 0, 9, 0]], np.float32), prior), [[0, 0.4, 1, 0.6]], atol=1e-6)
    crossed = decode(np.array([[3, 0, -3, 0]], np.float32), prior)  # x1 = 0.7, x2 = 0.3
    np.testing.assert_allclose(crossed, [[0.3, 0.4, 0.7, 0.6]], atol=1e-6)
    assert decode(np.array([[9, 9, 9, 9]], np.float32), prior).tolist() == [[1, 1, 1, 1]]


def test_empty_and_broadcast():
    assert decode(np.zeros((0, 4), np.float32), as_boxes([])).shape == (0, 4)
    priors = as_boxes([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    assert encode(priors[None, :], priors[:, None]).shape == (2, 2, 4)
    assert decode(np.zeros((3, 2, 4), np.float32), priors).tolist() == [priors.tolist()] * 3


@given(BOXES, BOXES)
def test_round_trip(boxes, priors):
    np.testing.assert_allclose(decode(encode(boxes, priors), priors), boxes, atol=1e-6)
    np.testing.assert_allclose(offset(encode(boxes, priors), priors), boxes, atol=1e-6)


@given(arrays(np.float32, (5, 4), elements=st.floats(-1e6, 1e6, width=32)), BOXES)
def test_whatever_is_predicted_is_a_box(residuals, priors):
    boxes = decode(residuals, priors)
    assert boxes.dtype == np.float32
    assert np.array_equal(normalised(boxes), boxes)


def test_normalised_refuses_pixels():
    with pytest.raises(ValueError, match="divide them by the width and height"):
        normalised([[0, 0, 10, 10]])
    with pytest.raises(ValueError, match="inverted"):
        normalised([[0.5, 0, 0.1, 1]])
