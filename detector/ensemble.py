"""The ensemble of section 8: softmax scores averaged over the networks; and a cascade, which spares background.

The cascade is ours, not the paper's: a region that the first network calls background with high confidence is not
shown to the others. Its first network's scores stand alone then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.classes import BACKGROUND
from detector.crops import warp
from detector.runtimes.classifier import Classifier, Scores
from proposals.boxes import Boxes
from proposals.frame import Image


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores [N, 1 + classes] of N regions; asked: how many of them each network saw; seconds that cropping took."""

    scores: Scores
    asked: tuple[int, ...]
    crop_seconds: float


def score_regions(members: Sequence[Classifier], image: Image, boxes: Boxes, cascade: float | None) -> RegionScores:
    """Return the scores of the regions `boxes` [N, 4] of `image`, averaged over `members` (section 8).

    cascade: regions whose background score from the first member is this or more are not shown to the others; None:
    every member sees every region. Each member crops to its own size.
    """
    first, *others = members
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
    return RegionScores(scores, tuple(asked), spent)


def member_scores(member: Classifier, image: Image, boxes: Boxes) -> tuple[Scores, float]:
    """Return the scores of one network, and the seconds that went into its crops (0 where it crops on its device)."""
    on_device = getattr(member, "score_regions", None)
    if on_device is not None:
        return on_device(image, boxes), 0.0
    model, spent = member.model, 0.0

    def write(start: int, stop: int, out: npt.NDArray[np.uint8]) -> None:
        nonlocal spent
        begin = time.perf_counter()
        warp(image, boxes[start:stop], model.size, model.fill, out=out)
        spent += time.perf_counter() - begin

    return member.score(len(boxes), write), spent
