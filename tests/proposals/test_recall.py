"""Recall, average recall and MABO against hand-worked numbers and brute force."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from proposals.boxes import as_boxes, iou
from proposals.recall import abo, average_recall, best_overlaps, mabo, recall

GRID = st.integers(0, 30)
THRESHOLDS = np.linspace(0, 1, 21)
TRUTH = as_boxes([[0, 0, 10, 10], [20, 0, 30, 20]])
# IoU with the two: (0, 0), (0.5, 0), (0, 0.75), (0.7, 0), (1, 0)
FOUND = as_boxes([[40, 40, 50, 50], [0, 0, 10, 5], [20, 0, 30, 15], [0, 0, 7, 10], [0, 0, 10, 10]])

overlap_lists = arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32))


def boxes_strategy(max_size: int = 10):
    box = st.tuples(GRID, GRID, GRID, GRID).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    )
    return st.lists(box, max_size=max_size).map(as_boxes)


def labelled(min_size: int = 1):
    pair = st.tuples(st.floats(0, 1, width=32), st.integers(-3, 5))
    return st.lists(pair, min_size=min_size, max_size=30).map(
        lambda pairs: (np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs], np.int64))
    )


def test_best_overlaps_by_hand():
    found = best_overlaps(TRUTH, FOUND, (0, 1, 2, 3, 4, 5, 99))
    expected = [[0, 0], [0, 0], [0.5, 0], [0.5, 0.75], [0.7, 0.75], [1, 0.75], [1, 0.75]]
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(expected, np.float32))


def test_counts_may_come_in_any_order_and_repeat():
    assert np.array_equal(best_overlaps(TRUTH, FOUND, (5, 2, 5)), best_overlaps(TRUTH, FOUND, np.arange(6))[[5, 2, 5]])


@given(boxes_strategy(6), boxes_strategy(), st.lists(st.integers(0, 14), max_size=5))
def test_best_overlaps_is_the_largest_of_the_first_n(truth, proposals, counts):
    found = best_overlaps(truth, proposals, counts)
    assert found.shape == (len(counts), len(truth))
    for row, count in enumerate(counts):
        for column in range(len(truth)):
            pairs = [iou(truth[column : column + 1], proposals[i : i + 1]) for i in range(min(count, len(proposals)))]
            assert found[row, column] == max((float(pair[0, 0]) for pair in pairs), default=0.0)


@given(boxes_strategy(6), boxes_strategy())
def test_nothing_falls_with_the_number_of_boxes(truth, proposals):
    overlaps = best_overlaps(truth, proposals, range(len(proposals) + 2))
    labels = np.arange(len(truth)) % 3
    assert (np.diff(overlaps, axis=0) >= 0).all()
    if len(truth):
        assert (np.diff(recall(overlaps, THRESHOLDS), axis=0) >= 0).all()
        assert (np.diff(average_recall(overlaps)) >= 0).all()
        assert (np.diff(mabo(overlaps, labels)) >= -1e-12).all()


def test_boxes_of_a_picture_without_proposals_or_truth():
    empty = as_boxes([])
    assert np.array_equal(best_overlaps(TRUTH, empty, (0, 5)), np.zeros((2, 2), np.float32))
    assert best_overlaps(empty, FOUND, (0, 5)).shape == (2, 0)
    assert best_overlaps(empty, empty, (1,)).shape == (1, 0)
    assert best_overlaps(TRUTH, FOUND, ()).shape == (0, 2)


def test_pictures_concatenate():
    """A picture without ground truth adds nothing; one without proposals adds boxes that are missed."""
    empty = as_boxes([])
    pictures = [(TRUTH, FOUND), (empty, FOUND), (TRUTH, empty)]
    overlaps = np.concatenate([best_overlaps(truth, found, (2, 5)) for truth, found in pictures], axis=1)
    assert recall(overlaps, [0.5]).tolist() == [[0.25], [0.5]]


def test_recall_by_hand():
    overlaps = np.array([0, 0.5, 0.75, 1], np.float32)
    assert recall(overlaps, [0, 0.5, 0.51, 0.75, 0.8, 1]).tolist() == [1, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert recall(np.stack([overlaps, np.zeros(4, np.float32)]), [0.5, 1]).tolist() == [[0.75, 0.25], [0, 0]]


def test_an_overlap_of_seven_tenths_reaches_the_threshold():
    """7/10 as float32 lies below the float64 0.7."""
    overlaps = best_overlaps(as_boxes([[0, 0, 10, 10]]), as_boxes([[0, 0, 7, 10]]), (1,))
    assert overlaps[0, 0] < np.float64(0.7)
    assert recall(overlaps, [0.7]).tolist() == [[1]]
    assert recall(overlaps, np.array([0.7])).tolist() == [[1]]


@given(overlap_lists)
def test_recall_counts_and_never_rises_with_the_threshold(overlaps):
    found = recall(overlaps, THRESHOLDS)
    for threshold, value in zip(THRESHOLDS, found, strict=True):
        assert value == pytest.approx(sum(o >= np.float32(threshold) for o in overlaps) / len(overlaps))
    assert found[0] == 1
    assert (np.diff(found) <= 0).all()


def test_average_recall_by_hand():
    """Recall is 1/2 up to 0.75, then 1/4 up to 1: area 1/8 + 1/16, doubled 3/8."""
    assert average_recall(np.array([0.2, 0.5, 0.75, 1], np.float32)) == 0.375
    assert average_recall(np.array([[1, 1], [0.5, 0.1]], np.float32)).tolist() == [1, 0]


@given(overlap_lists)
def test_average_recall_is_the_area_below_the_steps_of_recall(overlaps):
    steps = np.unique(np.concatenate([np.array([0.5, 1], np.float32), overlaps[overlaps > 0.5]]))
    heights = recall(overlaps, steps[1:])  # recall between two steps is that at the upper one
    area = 2 * (np.diff(steps.astype(np.float64)) * heights).sum()
    assert average_recall(overlaps) == pytest.approx(area, abs=1e-9)


@given(overlap_lists)
def test_average_recall_lies_between_its_ends(overlaps):
    """Recall falls from 0.5 to 1, so its mean there lies between the two; it is 1 only where all is found exactly."""
    found = float(average_recall(overlaps))
    loose, strict = recall(overlaps, [0.5, 1])
    assert strict - 1e-12 <= found <= loose + 1e-12
    assert 0 <= found <= 1
    assert (found == 1) == bool((overlaps == 1).all())


def test_abo_and_mabo_by_hand():
    """Class 4: (1 + 0.5 + 0) / 3 = 0.5; class 9: 0.25. Their mean is 0.375, that of the boxes 0.4375."""
    overlaps = np.array([1, 0.25, 0.5, 0], np.float32)
    labels = np.array([4, 9, 4, 4])
    classes, values = abo(overlaps, labels)
    assert classes.tolist() == [4, 9]
    assert values.tolist() == [0.5, 0.25]
    assert mabo(overlaps, labels) == 0.375
    assert mabo(np.stack([overlaps, 0 * overlaps]), labels).tolist() == [0.375, 0]


@given(labelled())
def test_abo_one_class_at_a_time(pair):
    overlaps, labels = pair
    classes, values = abo(overlaps, labels)
    assert classes.tolist() == sorted(set(labels.tolist()))
    for label, value in zip(classes, values, strict=True):
        assert value == pytest.approx(math.fsum(overlaps[labels == label].tolist()) / (labels == label).sum())
    assert mabo(overlaps, labels) == pytest.approx(values.mean())


@given(labelled(), st.randoms())
def test_the_order_of_the_boxes_does_not_matter(pair, random):
    overlaps, labels = pair
    order = random.sample(range(len(labels)), len(labels))
    assert mabo(overlaps[order], labels[order]) == pytest.approx(float(mabo(overlaps, labels)))
    assert average_recall(overlaps[order]) == pytest.approx(float(average_recall(overlaps)))


def test_without_ground_truth_every_measure_is_nan_and_nothing_warns():
    overlaps, labels = np.zeros((2, 0), np.float32), np.zeros(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recall(overlaps, [0.5, 0.7, 0.9]).shape == (2, 3)
        assert np.isnan(recall(overlaps, [0.5])).all()
        assert average_recall(overlaps).shape == mabo(overlaps, labels).shape == (2,)
        assert np.isnan(average_recall(overlaps)).all()
        assert np.isnan(mabo(overlaps, labels)).all()
        classes, values = abo(overlaps, labels)
        assert classes.shape == (0,)
        assert values.shape == (2, 0)


def test_no_thresholds():
    assert recall(np.ones(3, np.float32), []).shape == (0,)


@pytest.mark.parametrize("counts", [(-1,), (1.5,), ((1, 2),), (True,), 3])
def test_bad_counts(counts):
    with pytest.raises(ValueError, match="counts"):
        best_overlaps(TRUTH, FOUND, counts)


@pytest.mark.parametrize(("truth", "found"), [([[1, 2, 3]], FOUND), (TRUTH, [1, 2, 3, 4]), ([[5, 0, 1, 1]], FOUND)])
def test_arrays_that_are_no_boxes(truth, found):
    with pytest.raises(ValueError, match="box"):
        best_overlaps(truth, found, (1,))


@pytest.mark.parametrize("overlaps", [np.float32(0.5), [0.5, 1.5], [-0.1], [math.nan]])
def test_overlaps_that_are_none(overlaps):
    for measure in (average_recall, lambda o: recall(o, [0.5]), lambda o: mabo(o, np.zeros(1, np.int64))):
        with pytest.raises(ValueError, match="overlaps"):
            measure(overlaps)


@pytest.mark.parametrize("thresholds", [0.5, [[0.5, 0.7]]])
def test_thresholds_of_another_shape(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        recall(np.ones(3, np.float32), thresholds)


@pytest.mark.parametrize("labels", [[1, 2], [[1, 2, 3]], [0.5, 1.0, 2.0], 1])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="labels must be 3"):
        abo(np.ones((2, 3), np.float32), np.array(labels))
