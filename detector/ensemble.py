"""The ensemble of section 8: softmax scores averaged over the networks; and a cascade, which spares background.

The cascade is ours, not the paper's: a region that the first network calls background with high confidence is not
shown to the others. Its first network's scores stand alone then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.classes import BACKGROUND
from detector.model import Model
from detector.runtimes.base import Classifier, Crops, Scores, Targets
from detector.warp import warp
from proposals.boxes import Boxes
from proposals.images import Image


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores [N, 1 + classes] of N regions; asked: how many of them each network saw; seconds that cropping took.

    targets: float32 [N, classes, 4] of the box regression, None without.
    """

    scores: Scores
    asked: tuple[int, ...]
    crop_seconds: float
    targets: Targets | None = None


def check_heads(models: Sequence[Model]) -> None:
    """Raise ValueError where models with SVMs stand beside those with softmax: their scores are of two kinds."""
    for model in models[1:]:
        if model.head != models[0].head:
            raise ValueError(
                f"{model.name} has {model.head} scores, {models[0].name} {models[0].head} scores: different kinds of "
                "scores cannot be averaged"
            )


def score_regions(
    members: Sequence[Classifier], image: Image, boxes: Boxes, cascade: float | None, targets: bool = False
) -> RegionScores:
    """Return the scores of the regions `boxes` [N, 4] of `image`, averaged over `members` (section 8).

    cascade: regions whose background score from the first member is this or more are not shown to the others; None:
    every member sees every region. Each member crops to its own size. targets: return those of the first member's box
    regression too, which it must have been loaded with.
    """
    first, *others = members
    moves = None
    if targets:
        scores, moves, spent = member_targets(first, image, boxes)
    else:
        scores, spent = member_scores(first, image, boxes)
    asked = [len(boxes)]
    if others:
        doubtful = np.arange(len(boxes)) if cascade is None else np.flatnonzero(scores[:, BACKGROUND] < cascade)
        total = scores[doubtful].astype(np.float64)
        for member in others:
            own, seconds = member_scores(member, image, boxes[doubtful])
            total += own
            spent += seconds
            asked.append(len(doubtful))
        scores[doubtful] = total / len(members)
    return RegionScores(scores, tuple(asked), spent, moves)


def member_scores(member: Classifier, image: Image, boxes: Boxes) -> tuple[Scores, float]:
    """Return the scores of one network, and the seconds that went into its crops (0 where it crops on its device)."""
    on_device = getattr(member, "score_regions", None)
    if on_device is not None:
        return on_device(image, boxes), 0.0
    crops = _Warped(member.model, image, boxes)
    return member.score(len(boxes), crops), crops.seconds


def member_targets(member: Classifier, image: Image, boxes: Boxes) -> tuple[Scores, Targets, float]:
    """Return what `member_scores` does, with the targets [N, classes, 4] of a network that was loaded with them."""
    on_device = getattr(member, "score_regions_and_targets", None)
    if on_device is not None:
        return *on_device(image, boxes), 0.0
    crops = _Warped(member.model, image, boxes)
    return *member.score_and_targets(len(boxes), crops), crops.seconds


class _Warped:
    """Cuts the crops that a network asks for, and counts the seconds that it takes."""

    def __init__(self, model: Model, image: Image, boxes: Boxes) -> None:
        self._of = model, image, boxes
        self.seconds = 0.0

    def __call__(self, start: int, stop: int, out: Crops) -> None:
        begin = time.perf_counter()
        model, image, boxes = self._of
        warp(image, boxes[start:stop], model.size, model.fill, out=out)
        self.seconds += time.perf_counter() - begin
