"""Outputs to proposals: golden values, order, suppression, and that none of it needs torch."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proposals.boxes import as_boxes, nms
from proposals.multibox.decode import decode_proposals
from proposals.multibox.priors import decode, encode
from proposals.types import MULTIBOX


def zeros(count):
    return np.zeros((count, 4), np.float32)


def test_by_hand():
    priors = as_boxes([[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1], [0.6, 0, 1, 0.4]])
    locations = zeros(3)
    locations[1] = [0, -1, 0, 5]  # y1 0.5 -> 0.4, a fifth of the height of 0.5; y2 beyond the picture
    found = decode_proposals(locations, np.array([0, np.log(3), -np.log(3)]), priors, 200, 100)
    np.testing.assert_allclose(found.boxes, [[50, 40, 200, 100], [0, 0, 100, 50], [120, 0, 200, 40]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.75, 0.5, 0.25], atol=1e-7)
    assert found.boxes.dtype == np.float32
    assert found.sources.tolist() == [MULTIBOX] * 3


def test_small_boxes_go():
    """Without area, and below one pixel; a box of exactly one pixel stays, as does one of crossed corners."""
    priors = as_boxes(
        [[0.5, 0.5, 0.5, 0.5], [0, 0, 0.5, 0.0078125], [0, 0, 0.015625, 0.015625], [0.25, 0.25, 0.5, 0.5]]
    )
    locations = zeros(4)
    locations[3] = [10, 10, -10, -10]  # (0.75, 0.75) and (0, 0)
    found = decode_proposals(locations, np.arange(4.0), priors, 64, 64)
    assert found.boxes.tolist() == [[0, 0, 48, 48], [0, 0, 1, 1]]


def test_suppression_and_top():
    """IoU of the first two .8, of each with the third 0."""
    priors = as_boxes([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.5, 0.5, 1, 1]])
    logits = np.array([1.0, 3.0, 2.0])

    def kept(**options):
        return (decode_proposals(zeros(3), logits, priors, 100, 100, **options).boxes / 100).round(3).tolist()

    first, second, third = priors.round(3).tolist()
    assert np.allclose(kept(), [second, third])
    assert np.allclose(kept(nms=0.85), [second, third, first])
    assert np.allclose(kept(nms=1.0, top=2), [second, third])
    assert np.allclose(kept(nms=1.0, top=None), [second, third, first])


@pytest.mark.parametrize("top", [1, 5, 20, 60, None])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.75])
def test_early_stop_changes_nothing(top, threshold):
    """The boxes are those of one suppression over all of them."""
    generator = np.random.default_rng(0)
    priors = as_boxes(np.sort(generator.random((120, 2, 2)), axis=1).reshape(-1, 4))
    locations, logits = generator.normal(0, 0.5, (120, 4)).astype(np.float32), generator.normal(0, 2, 120)
    boxes = decode(locations, priors) * np.float32(100)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    boxes, scores = boxes[large], logits[large]
    expected = boxes[nms(boxes, scores, threshold)[:top]]
    assert np.array_equal(decode_proposals(locations, logits, priors, 100, 100, top, threshold).boxes, expected)


def test_ties_by_prior_and_extreme_logits_by_logit():
    priors = as_boxes([[0, 0, 0.25, 0.25], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75], [0.75, 0.75, 1, 1]])
    tied = decode_proposals(zeros(4), np.zeros(4), priors, 4, 4)
    assert tied.boxes[:, 0].tolist() == [0, 1, 2, 3]
    with np.errstate(all="raise", under="ignore"):
        extreme = decode_proposals(zeros(4), np.array([-2000.0, 40, 2000, 41], np.float32), priors, 4, 4)
    assert extreme.boxes[:, 0].tolist() == [2, 3, 1, 0]
    assert extreme.scores.tolist() == [1, 1, 1, 0]


@given(st.lists(st.floats(-50, 50, width=32), max_size=20))
def test_scores_never_rise_and_are_confidences(logits):
    steps = np.arange(len(logits), dtype=np.float32) / 32
    priors = as_boxes(np.stack([steps, steps, steps + 1 / 32, steps + 1 / 32], axis=1))
    found = decode_proposals(zeros(len(logits)), np.array(logits, np.float32), priors, 320, 320)
    expected = np.sort(1 / (1 + np.exp(-np.array(logits, np.float64))))[::-1]
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


def test_no_priors_no_boxes():
    found = decode_proposals(zeros(0), np.zeros(0, np.float32), as_boxes([]), 10, 10)
    assert len(found) == 0 and found.boxes.shape == (0, 4)


def test_encoded_truth_comes_back_in_pixels():
    priors, truth = as_boxes([[0.1, 0.1, 0.6, 0.6]]), as_boxes([[30, 20, 310, 200]])
    residuals = encode(truth / np.array([500, 250, 500, 250], np.float32), priors)
    found = decode_proposals(residuals, np.zeros(1), priors, 500, 250)
    np.testing.assert_allclose(found.boxes, truth, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros(2)}, r"logits \[K\]"),
        ({"locations": np.zeros((1, 5))}, r"must be \[K, 4\]"),
        ({"width": 0}, "width and height"),
        ({"height": float("nan")}, "width and height"),
        ({"logits": np.array([np.nan])}, "not a finite number"),
        ({"locations": np.full((1, 4), np.inf)}, "not a finite number"),
        ({"top": 0}, "top must be at least 1"),
        ({"nms": 1.5}, "nms must be an IoU"),
    ],
)
def test_refuses(change, message):
    given_ = {"locations": zeros(1), "logits": np.zeros(1), "priors": as_boxes([[0, 0, 1, 1]]), "width": 9, "height": 9}
    with pytest.raises(ValueError, match=message):
        decode_proposals(**{**given_, **change})


def test_inference_loads_neither_torch_nor_scikit_learn():
    code = (
        "import sys, proposals.merging, proposals.multibox.decode, "
        "proposals.multibox.priors\n"
        "print(sorted({'torch', 'sklearn', 'scipy.optimize', 'pandas', 'matplotlib'} & set(sys.modules)))\n"
        "assert not any(name.split('.')[0] == 'detector' for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
