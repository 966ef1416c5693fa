"""The union of two ranked lists: golden cases, near-duplicates one at a time, proportions, and empties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proposals.boxes import as_boxes, iou
from proposals.merging import merge
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH, from_source

NONE = from_source([], [], SELECTIVE_SEARCH)


def ranked(boxes, source):
    """Proposals of these boxes; the scores of one source mean nothing to the other."""
    scores = np.linspace(1, 0.5, len(boxes)) if source == SELECTIVE_SEARCH else np.linspace(0.2, 0.1, len(boxes))
    return from_source(boxes, scores, source)


def apart(count, row, source):
    """Boxes that overlap nothing: the i-th begins at x = 20 i, one row for each list."""
    return ranked([[20 * i, row, 20 * i + 10, row + 10] for i in range(count)], source)


def merge_literally(a, b, near_duplicate):
    """Walk down the interleaved list, box by box."""
    items = [((i + 0.5) / len(a), 0, i, a) for i in range(len(a))] + [
        ((j + 0.5) / len(b), 1, j, b) for j in range(len(b))
    ]
    kept: list[tuple[np.ndarray, int, int]] = []  # box, list, source
    for _, which, index, found in sorted(items, key=lambda item: item[:3]):
        box, repeats = found.boxes[index], False
        for place, (other, origin, source) in enumerate(kept):
            if origin != which and iou(box[None], other[None])[0, 0] >= np.float32(near_duplicate):
                kept[place] = other, origin, source | int(found.sources[index])
                repeats = True
        if not repeats:
            kept.append((box, which, int(found.sources[index])))
    return [box.tolist() for box, _, _ in kept], [source for _, _, source in kept]


def test_interleaved_by_rank():
    """Four and two: at 1/8, 3/8, 5/8, 7/8 and 1/4, 3/4."""
    merged = merge(apart(4, 0, SELECTIVE_SEARCH), apart(2, 50, MULTIBOX))
    S, M = SELECTIVE_SEARCH, MULTIBOX
    assert merged.sources.tolist() == [S, M, S, S, M, S]
    assert merged.boxes[:, :2].tolist() == [[0, 0], [0, 50], [20, 0], [40, 0], [20, 50], [60, 0]]
    np.testing.assert_allclose(merged.scores, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], atol=1e-6)


def test_equal_places_give_the_first_list_first():
    merged = merge(apart(2, 0, MULTIBOX), apart(2, 50, SELECTIVE_SEARCH))
    assert merged.sources.tolist() == [MULTIBOX, SELECTIVE_SEARCH] * 2


@pytest.mark.parametrize(("first", "second"), [(7, 3), (3, 7), (1, 9), (5, 5), (200, 17)])
def test_every_prefix_holds_both_in_proportion(first, second):
    sources = merge(apart(first, 0, SELECTIVE_SEARCH), apart(second, 50, MULTIBOX)).sources
    counts = np.cumsum(sources == SELECTIVE_SEARCH)
    ideal = np.arange(1, first + second + 1) * first / (first + second)
    assert np.abs(counts - ideal).max() <= 1
    assert counts[-1] == first


def test_the_better_ranked_near_duplicate_stays():
    """At 1/2 and 1/6, 1/2, 5/6: the box of `a` comes after the first and before the second of `b`."""
    box, close = [0, 0, 100, 100], [0, 0, 100, 95]
    others = [[200, 0, 300, 100], [400, 0, 500, 100]]
    a = ranked([box], SELECTIVE_SEARCH)
    before = merge(a, ranked([close, *others], MULTIBOX))
    assert before.boxes.tolist() == [close, *others]
    assert before.sources.tolist() == [BOTH, MULTIBOX, MULTIBOX]
    np.testing.assert_allclose(before.scores, [1, 2 / 3, 1 / 3], atol=1e-6)  # of the boxes that stay
    after = merge(a, ranked([*others, close], MULTIBOX))
    assert after.boxes.tolist() == [others[0], box, others[1]]
    assert after.sources.tolist() == [MULTIBOX, BOTH, MULTIBOX]


def test_the_threshold_itself_counts():
    """IoU 9/10 exactly."""
    a, b = ranked([[0, 0, 10, 10]], SELECTIVE_SEARCH), ranked([[0, 0, 10, 9]], MULTIBOX)
    assert merge(a, b).sources.tolist() == [BOTH]
    assert merge(a, b, near_duplicate=0.91).sources.tolist() == [SELECTIVE_SEARCH, MULTIBOX]
    assert merge(a, a, near_duplicate=1.0).boxes.tolist() == [[0, 0, 10, 10]]


def test_boxes_of_one_list_never_remove_each_other():
    twice = ranked([[0, 0, 10, 10], [0, 0, 10, 10]], SELECTIVE_SEARCH)
    assert merge(twice, NONE).sources.tolist() == [SELECTIVE_SEARCH] * 2
    # the box of b at 1/2 goes for the first at 1/4, and can no more remove the second, which stays as it was or BOTH
    merged = merge(twice, ranked([[0, 0, 10, 10]], MULTIBOX))
    assert merged.boxes.tolist() == [[0, 0, 10, 10]] * 2
    assert merged.sources.tolist() == [BOTH, SELECTIVE_SEARCH]


def test_budget():
    a, b = apart(6, 0, SELECTIVE_SEARCH), apart(4, 50, MULTIBOX)
    merged = merge(a, b, (2, 3))
    assert merged.sources.tolist().count(SELECTIVE_SEARCH) == 2
    assert merged.sources.tolist().count(MULTIBOX) == 3
    assert set(merged.boxes[merged.sources == MULTIBOX][:, 0].tolist()) == {0, 20, 40}
    assert len(merge(a, b, (None, 1))) == 7
    assert merge(a, b, (0, None)).boxes.tolist() == b.boxes.tolist()
    assert len(merge(a, b, (0, 0))) == 0


def test_either_may_be_empty():
    a = apart(3, 0, MULTIBOX)
    for merged in (merge(a, NONE), merge(NONE, a)):
        assert merged.boxes.tolist() == a.boxes.tolist()
        assert merged.sources.tolist() == [MULTIBOX] * 3
        np.testing.assert_allclose(merged.scores, [1, 2 / 3, 1 / 3], atol=1e-6)
    assert len(merge(NONE, NONE)) == 0


def test_boxes_without_area_are_no_duplicates():
    flat = [[5, 5, 5, 9]]
    assert len(merge(ranked(flat, SELECTIVE_SEARCH), ranked(flat, MULTIBOX))) == 2


def test_refuses():
    with pytest.raises(ValueError, match="budget"):
        merge(NONE, NONE, (-1, None))
    with pytest.raises(ValueError, match="a budget must be two numbers of at least 0"):
        merge(NONE, NONE, (10,))
    for threshold in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="near_duplicate"):
            merge(NONE, NONE, near_duplicate=threshold)


CORNERS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(5, 8), st.integers(5, 8))


@given(st.lists(CORNERS, max_size=9), st.lists(CORNERS, max_size=9), st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_against_walking_box_by_box(first, second, near_duplicate):
    a, b = ranked(as_boxes(first), SELECTIVE_SEARCH), ranked(as_boxes(second), MULTIBOX)
    merged = merge(a, b, near_duplicate=near_duplicate)
    boxes, sources = merge_literally(a, b, near_duplicate)
    assert merged.boxes.tolist() == boxes
    assert merged.sources.tolist() == sources
