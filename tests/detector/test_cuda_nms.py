"""Suppression with torch keeps what `nms_per_class` keeps, box for box; run on the CPU, and on CUDA if there is one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.runtimes import cuda_nms
from detector.runtimes.cuda_nms import suppress
from proposals.boxes import as_boxes, nms_per_class

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))]


def assert_same(boxes, scores, *arguments, device="cpu"):
    wanted = nms_per_class(boxes, scores, *arguments)
    found = suppress(boxes, scores, *arguments, device=device)
    for left, right in zip(found, wanted, strict=True):
        assert left.dtype == np.int64
        np.testing.assert_array_equal(left, right)
    return found


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 40),
    classes=st.integers(1, 6),
    grid=st.sampled_from([3, 8, 1000]),
    levels=st.sampled_from([2, 5, 10**6]),
    threshold=st.sampled_from([0.0, 0.3, 1 / 3, 0.5, 0.7, 1.0]),
    min_score=st.sampled_from([0.0, 0.2, 0.35, 1.0, 2.0, -1.0]),
    limit=st.sampled_from([None, 0, 1, 3, 100]),
)
def test_equals_the_one_of_numpy(seed, count, classes, grid, levels, threshold, min_score, limit):
    """Coarse grids make equal boxes, boxes without area and IoUs at the threshold; few levels make ties."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, grid + 1, (count, 2, 2)), axis=1).reshape(count, 4)
    scores = (rng.integers(0, levels + 1, (count, classes)) / levels).astype(np.float32)
    assert_same(as_boxes(corners), scores, threshold, min_score, limit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("min_score", "limit"), [(0.35, 100), (0.9, 5), (0.99, None)])
def test_a_busy_picture(device, min_score, limit):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 400, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 150, (300, 2))], axis=1).astype(np.float32)
    kept, columns = assert_same(boxes, rng.random((300, 200), np.float32), 0.3, min_score, limit, device=device)
    assert len(kept) > 100 and len(np.unique(columns)) > 100


def test_a_chain_is_settled_from_its_best_end():
    """Each box overlaps the next only; the second falls to the first, so the third stays, and so on."""
    boxes = as_boxes([[6 * i, 0, 6 * i + 10, 10] for i in range(31)])  # IoU of neighbours 4 / 16
    scores = np.linspace(1, 0.5, 31, dtype=np.float32)[:, None]
    kept, columns = assert_same(boxes, scores, 0.2, 0.0, None)
    assert kept.tolist() == list(range(0, 31, 2)) and not columns.any()


def test_special_scores():
    """NaN never competes, minus zero ties with zero, infinities have their place; numpy decides."""
    boxes = as_boxes([[20 * i, 0, 20 * i + 10, 10] for i in range(6)])
    scores = np.array([[-0.0], [0.0], [np.nan], [np.inf], [-np.inf], [0.5]], np.float32)
    assert assert_same(boxes, scores, 0.3, -0.0)[0].tolist() == [3, 5, 0, 1]
    assert assert_same(boxes, scores, 0.3, -np.inf)[0].tolist() == [3, 5, 0, 1, 4]


def test_a_score_at_the_float32_of_the_limit_competes():
    score = np.array([[0.35]], np.float32)  # below the double 0.35
    assert float(score[0, 0]) < 0.35
    assert len(assert_same(as_boxes([[0, 0, 5, 5]]), score, 0.3, 0.35)[0]) == 1


def test_chunks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(3)
    boxes = as_boxes(np.sort(rng.integers(0, 20, (50, 2, 2)), axis=1).reshape(50, 4))
    monkeypatch.setattr(cuda_nms, "CHUNK", 1)
    assert_same(boxes, rng.random((50, 7), np.float32), 0.3, 0.2, 4)


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="max_per_class must not be negative, got -1"):
        suppress(as_boxes([[0, 0, 1, 1]]), np.ones((1, 1), np.float32), 0.3, 0.0, -1, "cpu")
