"""The columns of a data set: what they refuse, and parts of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.ground_truth import GroundTruth

COLUMNS: dict[str, Any] = {
    "names": ("a", "b", "c"),
    "numbers": [7, 8, 9],
    "sizes": [[1, 2], [3, 4], [5, 6]],
    "paths": (None, None, None),
    "class_names": ("dog", "cat"),
    "class_keys": ("0", "1"),
    "pictures": [0, 0, 2],
    "labels": [1, 2, 1],
    "boxes": [[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]],
    "difficult": [False, True, False],
    "crowd": [False, False, True],
    "areas": [1, 4, 9],
    "blacklist": [[0, 2], [1, 1]],
}


def test_types_and_rows() -> None:
    truth = GroundTruth(**COLUMNS)
    assert len(truth) == 3 and truth.boxes.dtype == np.float64 and truth.labels.dtype == np.int64
    assert [truth.of_picture(i) for i in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    with pytest.raises(ValueError, match="read-only"):
        truth.boxes[0, 0] = 5


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("names", ("a", "b", "a"), "a name and a number of its own"),
        ("numbers", [7, 8, 8], "a name and a number of its own"),
        ("paths", (None,), "a path or None"),
        ("class_keys", ("0",), "2 class names, 1 class keys"),
        ("pictures", [0, 2, 1], "in the order of their pictures"),
        ("pictures", [0, 0, 3], "in the order of their pictures"),
        ("labels", [0, 1, 2], r"a label is not in 1\.\.2"),
        ("labels", [1, 2, 3], r"a label is not in 1\.\.2"),
        ("boxes", [[0, 0, 1, 1], [0, 0, 1, np.nan], [0, 0, 1, 1]], "not finite or inverted"),
        ("boxes", [[0, 0, 1, 1], [0, 5, 1, 4], [0, 0, 1, 1]], "not finite or inverted"),
        ("areas", [1, 2], "reshape"),
    ],
)
def test_what_does_not_fit_is_refused(column: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroundTruth(**{**COLUMNS, column: value})


def test_no_pictures_at_all() -> None:
    empty = {k: () for k in COLUMNS if k not in ("class_names", "class_keys")}
    truth = GroundTruth(**{**COLUMNS, **empty})
    assert len(truth) == 0 and truth.boxes.shape == (0, 4) and truth.select([]).sizes.shape == (0, 2)


@given(st.lists(st.integers(0, 2), unique=True))
def test_select_takes_pictures_in_the_order_asked(chosen: list[int]) -> None:
    truth = GroundTruth(**COLUMNS)
    part = truth.select(chosen)
    assert part.names == tuple(truth.names[i] for i in chosen)
    for new, old in enumerate(chosen):
        for name in ("labels", "boxes", "difficult", "crowd", "areas"):
            np.testing.assert_array_equal(
                getattr(part, name)[part.of_picture(new)], getattr(truth, name)[truth.of_picture(old)]
            )
        pairs = part.blacklist[part.blacklist[:, 0] == new][:, 1]
        np.testing.assert_array_equal(pairs, truth.blacklist[truth.blacklist[:, 0] == old][:, 1])
    assert len(part) == sum(truth.pictures.tolist().count(i) for i in chosen)
