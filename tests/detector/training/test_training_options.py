"""The ranges of options: ends belong to them, and the message is what a person can act on."""

from __future__ import annotations

from typing import Any

import pytest

from detector.training.options import ClassifierOptions, DistillOptions, FinetuneOptions, LoopOptions, check_ranges

LOOP: dict[str, Any] = {"steps": 1}
FINETUNE: dict[str, Any] = {"steps": 1, "data": ("samples",)}
CLASSIFIER: dict[str, Any] = {"steps": 1, "data": "folder"}
DISTILL: dict[str, Any] = CLASSIFIER | {"teachers": ("inception_v3",)}


@pytest.mark.parametrize(
    ("kind", "fields", "name", "ends", "told"),
    [
        (LoopOptions, LOOP, "momentum", (0.0, 1.0), "0..1"),
        (LoopOptions, LOOP, "clip", (0.0, 1e9), "0..1e+09"),
        (FinetuneOptions, FINETUNE, "balance", (0.0, 1.0), "0..1"),
        (FinetuneOptions, FINETUNE, "head_rate", (0.0, 1000.0), "0..1000"),
        (ClassifierOptions, CLASSIFIER, "area_min", (0.001, 1.0), "0.001..1"),
        (ClassifierOptions, CLASSIFIER, "mini_batch", (1, 65536), "1..65536"),
        (ClassifierOptions, CLASSIFIER, "size", (75, 640), "75..640"),
        (DistillOptions, DISTILL, "temperature", (0.01, 100.0), "0.01..100"),
    ],
)
def test_ends_are_taken_and_what_lies_outside_is_not(
    kind: type[LoopOptions], fields: dict[str, Any], name: str, ends: tuple[float, float], told: str
):
    low, high = ends
    for value in ends:
        assert getattr(kind(**{**fields, name: value}), name) == value
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(ValueError) as caught:
            kind(**{**fields, name: value})
        assert str(caught.value) == f"{name} must lie in {told}, got {value}"


def test_the_first_wrong_one_is_told_and_none_is_right():
    o = LoopOptions(steps=1, momentum=0.5, decay=0.25)
    check_ranges(o)
    check_ranges(o, ("momentum", 0.5, 0.5), ("decay", 0, 1))
    with pytest.raises(ValueError, match=r"^decay must lie in 0\.3\.\.1, got 0\.25$"):
        check_ranges(o, ("momentum", 0, 1), ("decay", 0.3, 1), ("steps", 2, 3))
