"""The `Proposals` type: validated, frozen, ordered."""

import numpy as np
import pytest

from proposals.types import MULTIBOX, SELECTIVE_SEARCH, Proposals, from_source


def test_holds_read_only_copies():
    boxes = np.array([[0, 0, 4, 4], [1, 1, 2, 2]], np.float32)
    found = from_source(boxes, [0.9, 0.2], SELECTIVE_SEARCH)
    boxes[:] = 7
    assert found.boxes.tolist() == [[0, 0, 4, 4], [1, 1, 2, 2]]
    assert found.sources.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0] = 0
    assert [box.tolist() for box in found] == found.boxes.tolist()


def test_top_and_empty():
    found = from_source([[0, 0, 4, 4], [1, 1, 2, 2]], [0.9, 0.2], MULTIBOX)
    assert found.top(1).boxes.tolist() == [[0, 0, 4, 4]]
    assert len(found.top(5)) == 2
    empty = from_source([], [], MULTIBOX)
    assert len(empty) == 0 and len(empty.top(3)) == 0


@pytest.mark.parametrize(
    ("boxes", "scores", "sources", "message"),
    [
        ([[0, 0, 1, 1]], [1, 1], [1], "not one length"),
        ([[0, 0, 1, 1]], [np.nan], [1], "NaN"),
        ([[0, 0, 1, 1]] * 2, [0.1, 0.2], [1, 1], "falling order"),
        ([[0, 0, 1, 1]], [1], [4], r"unknown proposal source in \[4\]"),
        ([[0, 0, np.nan, 1]], [1], [1], "not a finite number"),
    ],
)
def test_refuses(boxes, scores, sources, message):
    with pytest.raises(ValueError, match=message):
        Proposals(np.array(boxes), np.array(scores), np.array(sources))
