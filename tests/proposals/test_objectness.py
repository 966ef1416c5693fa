"""Objectness of boxes by hand and against a loop, and in merged lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from proposals.boxes import as_boxes, iou
from proposals.merging import LEAST_OBJECTNESS as LEAST
from proposals.merging import merge, objectness
from proposals.types import MULTIBOX, SELECTIVE_SEARCH, Proposals, from_source

CORNERS = arrays(np.float32, (6, 2, 2), elements=st.integers(0, 20).map(float))


def learned() -> Proposals:
    return from_source([[0, 0, 10, 10], [0, 0, 20, 10]], [0.8, 0.6], MULTIBOX)


def test_by_hand():
    """The first box is a learned one; the second is half of the other, whose product 0.6 x 0.5 loses to 0.8 x 1."""
    boxes = as_boxes([[0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10], [50, 50, 60, 60]])
    np.testing.assert_allclose(objectness(boxes, learned()), [0.8, 0.3, 0.6, LEAST], rtol=1e-6)


def test_without_boxes_and_without_learned_ones():
    none = from_source(np.zeros((0, 4)), [], MULTIBOX)
    assert objectness(as_boxes([]), learned()).shape == (0,)
    np.testing.assert_allclose(objectness(learned().boxes, none), LEAST)


@given(CORNERS, CORNERS, arrays(np.float32, 6, elements=st.floats(0, 1, width=32)))
def test_it_is_the_best_product(a: np.ndarray, b: np.ndarray, confidences: np.ndarray):
    boxes, other = (as_boxes(np.sort(corners, axis=1).reshape(-1, 4)) for corners in (a, b))
    found = objectness(boxes, from_source(other, np.sort(confidences)[::-1], MULTIBOX))
    falling = np.sort(confidences)[::-1]
    for row, box in enumerate(boxes):
        products = [float(iou(box[None], one[None])[0, 0]) * float(c) for one, c in zip(other, falling, strict=True)]
        assert found[row] == pytest.approx(min(max(LEAST, *products), 1), rel=1e-5)


@given(CORNERS, CORNERS, arrays(np.float32, 6, elements=st.floats(0, 1, width=32)))
def test_merged_boxes_have_it(a: np.ndarray, b: np.ndarray, confidences: np.ndarray):
    """As when it is computed of the merged boxes; without learned ones there is none."""
    boxes, other = (as_boxes(np.sort(corners, axis=1).reshape(-1, 4)) for corners in (a, b))
    searched, seen = from_source(boxes, np.zeros(6), SELECTIVE_SEARCH), np.sort(confidences)[::-1]
    plain = from_source(other, seen, MULTIBOX)
    learned = Proposals(other, seen, plain.sources, objectness(other, plain))
    for merged in (merge(searched, learned), merge(learned, searched)):
        np.testing.assert_array_equal(merged.objectness, objectness(merged.boxes, learned))
    assert merge(searched, plain).objectness is None


def test_proposals_keep_it_in_their_order_and_check_it():
    found = Proposals(learned().boxes, learned().scores, learned().sources, np.array([0.25, 0.5], np.float32))
    assert found.top(1).objectness is not None and found.top(1).objectness.tolist() == [0.25]
    assert learned().top(1).objectness is None
    for wrong in ([0.5], [0.5, 1.5], [0.5, np.nan]):
        with pytest.raises(ValueError, match=r"objectness must have a number in 0\.\.1 for each of the 2 boxes"):
            Proposals(learned().boxes, learned().scores, learned().sources, np.array(wrong, np.float32))
