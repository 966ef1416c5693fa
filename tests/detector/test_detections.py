from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.detections import Detections
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH

NAMES = ("cat", "dog", "tv or monitor")
SIZE = (100, 80)
GOOD = {
    "boxes": [[0, 0, 10, 20], [5, 6, 50, 60], [1, 1, 2, 2], [0, 0, 100, 80]],
    "scores": [0.5, 0.9, 0.5, 0.25],
    "labels": [1, 3, 2, 1],
    "sources": [SELECTIVE_SEARCH, BOTH, MULTIBOX, SELECTIVE_SEARCH],
    "image_size": SIZE,
    "class_names": NAMES,
}


def four() -> Detections:
    return Detections(**GOOD)


def scored(scores: list[float]) -> Detections:
    """Detections told apart by their boxes: detection i is (i, 0, i + 1, 1)."""
    count = len(scores)
    boxes = [[i, 0, i + 1, 1] for i in range(count)]
    return Detections(boxes, scores, [1 + i % 3 for i in range(count)], [1] * count, SIZE, NAMES)


def rows(detections: Detections) -> list[int]:
    return detections.boxes[:, 0].astype(int).tolist()


def test_holds_typed_arrays_and_plain_values() -> None:
    d = Detections(**{**GOOD, "image_size": (np.int32(100), np.int64(80)), "class_names": list(NAMES)})
    assert (d.boxes.dtype, d.scores.dtype, d.labels.dtype, d.sources.dtype) == (
        np.float32,
        np.float32,
        np.int64,
        np.uint8,
    )
    assert len(d) == 4
    assert d.image_size == SIZE
    assert type(d.image_size[0]) is int
    assert d.class_names == NAMES
    assert d.names == ["cat", "tv or monitor", "dog", "cat"]


@pytest.mark.parametrize("field", ["boxes", "scores", "labels", "sources"])
def test_arrays_are_read_only_copies(field: str) -> None:
    given_arrays = {
        "boxes": np.array(GOOD["boxes"], np.float32),
        "scores": np.array(GOOD["scores"], np.float32),
        "labels": np.array(GOOD["labels"], np.int64),
        "sources": np.array(GOOD["sources"], np.uint8),
    }
    d = Detections(**given_arrays, image_size=SIZE, class_names=NAMES)
    array = getattr(d, field)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    before = array.copy()
    given_arrays[field][:] = 0
    assert np.array_equal(array, before)
    with pytest.raises(AttributeError):
        setattr(d, field, before)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scores", [0.5, 0.9, 0.5], "4 boxes, 3 scores, 4 labels and 4 sources: not one length"),
        ("boxes", [[0, 0, 1, 1]], "1 boxes, 4 scores"),
        ("labels", [], "0 labels"),
        ("boxes", [[0, 0, 1, 1]] * 2 + [[0, float("nan"), 1, 1]] + [[0, 0, 1, 1]], "box 2 has a coordinate"),
        ("boxes", [[0, 0, 1, 1]] * 3 + [[0, 5, 1, 4]], "box 3 is inverted"),
        ("boxes", [[0, 0, 1]] * 4, r"shape \[N, 4\]"),
        ("scores", [0.5, float("nan"), 0, 0], "score nan of row 1 is not in 0..1"),
        ("scores", [0.5, 0, 0, 1.5], "score 1.5 of row 3 is not in 0..1"),
        ("scores", [0.5, 0, -0.1, 1], "score -0.1 of row 2 is not in 0..1"),
        ("scores", [[0.5], [0], [0], [0]], r"scores must have shape \[N\], got \[4, 1\]"),
        ("scores", ["a", "b", "c", "d"], "scores must be numbers"),
        ("labels", [1, 0, 2, 1], "label 0 of row 1 is not in 1..3"),
        ("labels", [1, 1, 4, 1], "label 4 of row 2 is not in 1..3"),
        ("labels", [1.0, 1.5, 2.0, 1.0], "labels must be whole numbers, got float64"),
        ("sources", [1, 2, 3, 4], "source 4 of row 3 is not one of"),
        ("sources", [1, 2, 3, 257], "source 257 of row 3"),
        ("sources", [7, 2, 3, 1], "source 7 of row 0"),
        ("image_size", (0, 80), "must be positive .* 0 x 80"),
        ("image_size", (100, -1), "must be positive"),
        ("image_size", (100.5, 80), "two whole numbers"),
        ("image_size", (100,), "two whole numbers"),
        ("class_names", "cat", "tuple of names, got the string 'cat'"),
        ("class_names", ("cat",), "label 3 of row 1 is not in 1..1"),
    ],
)
def test_refuses_bad_fields(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detections(**{**GOOD, field: value})


def test_empty_works_everywhere() -> None:
    none = Detections.empty(SIZE, NAMES)
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)
    assert (none.names, none.image_size, none.class_names) == ([], SIZE, NAMES)
    for same in (
        none.top(3),
        none.above(0.1),
        none.of_class("cat"),
        none.select([]),
        none.select(np.zeros(0, bool)),
        none.ordered(),
        Detections([], [], [], [], SIZE, NAMES),
        Detections.concatenate([none, none]),
    ):
        assert same.same_as(none)
    assert Detections.concatenate([none, four()]).same_as(four())


def test_top_is_stable_and_over_all_classes() -> None:
    d = four()
    assert d.top(2).labels.tolist() == [3, 1]
    assert d.top(3).labels.tolist() == [3, 1, 2]
    assert d.ordered().scores.tolist() == pytest.approx([0.9, 0.5, 0.5, 0.25])
    assert d.top(0).same_as(Detections.empty(SIZE, NAMES))
    assert d.top(99).same_as(d.ordered())
    with pytest.raises(ValueError, match="best -1"):
        d.top(-1)


def test_above_keeps_equal_scores_of_either_precision() -> None:
    d = scored([0.7, 0.3, 0.69])
    assert rows(d.above(0.7)) == [0]  # float32(0.7) < 0.7: compared as float32 it is equal
    assert rows(d.above(np.float64(0.7))) == [0]
    assert rows(d.above(0.0)) == [0, 1, 2]
    assert rows(d.above(0.71)) == []


def test_of_class_by_name_and_id() -> None:
    d = four()
    assert d.of_class("cat").labels.tolist() == [1, 1]
    assert d.of_class(3).names == ["tv or monitor"]
    assert d.of_class("3").same_as(d.of_class("TV_or_monitor"))
    assert d.of_class("dog", 1).labels.tolist() == [1, 2, 1]
    assert len(d.of_class()) == 0
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        d.of_class("dogg")
    with pytest.raises(ValueError, match=r"unknown class '4' .*1\.\.3"):
        d.of_class(4)


def test_select_by_indices_and_mask() -> None:
    d = four()
    assert d.select([3, 0]).labels.tolist() == [1, 1]
    assert d.select([3, 0]).scores.tolist() == [0.25, 0.5]
    assert d.select([True, False, False, True]).boxes.tolist() == [[0, 0, 10, 20], [0, 0, 100, 80]]
    assert d.select(np.array([1], np.uint8)).sources.tolist() == [BOTH]
    for bad, message in (
        ([True, False], r"mask of shape \[2\] does not fit 4"),
        ([4], "index 4 of row 0 is not one of the 4 detections"),
        ([0, -1], "index -1 of row 1"),
        ([0.5], "whole numbers"),
        ([[0, 1]], r"shape \[N\]"),
    ):
        with pytest.raises(ValueError, match=message):
            d.select(bad)


def test_concatenate_joins_parts_of_one_picture() -> None:
    d = four()
    assert Detections.concatenate([d.select([0, 1]), d.select([2]), d.select([3])]).same_as(d)
    with pytest.raises(ValueError, match="no detections to concatenate"):
        Detections.concatenate([])
    with pytest.raises(ValueError, match=r"\(100, 80\) and \(80, 100\)"):
        Detections.concatenate([d, Detections.empty((80, 100), NAMES)])
    with pytest.raises(ValueError, match="different class names"):
        Detections.concatenate([d, Detections.empty(SIZE, ("cat",))])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boxes", [[0, 0, 10, 21], *GOOD["boxes"][1:]]),
        ("scores", [0.5, 0.9, 0.5, 0.26]),
        ("labels", [1, 3, 2, 2]),
        ("sources", [1, 1, 1, 1]),
        ("image_size", (100, 81)),
        ("class_names", ("cat", "dog", "tv")),
    ],
)
def test_same_as_sees_every_difference(field: str, value: object) -> None:
    assert four().same_as(four())
    assert not four().same_as(Detections(**{**GOOD, field: value}))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=12), st.integers(0, 14))
def test_top_agrees_with_a_plain_sort(scores: list[float], count: int) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    assert rows(scored(scores).top(count)) == expected


@given(st.lists(st.floats(0, 1, width=32), max_size=12), st.floats(0, 1, width=32))
def test_above_agrees_with_a_plain_filter(scores: list[float], threshold: float) -> None:
    assert rows(scored(scores).above(threshold)) == [i for i, s in enumerate(scores) if s >= threshold]


@given(st.lists(st.floats(0, 1, width=32), max_size=12))
def test_classes_partition_the_detections(scores: list[float]) -> None:
    d = scored(scores)
    parts = Detections.concatenate([d.of_class(name) for name in NAMES])
    assert sorted(rows(parts)) == list(range(len(d)))
