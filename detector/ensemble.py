"""The ensemble of section 8: the scores of several networks in one; and a cascade, which spares background.

Each network has one vote, also where several share a file. A network that was trained with background says how much of
a region is an object, and of which class. One without, such as a zero-shot network of ImageNet's classes, is asked for
the class alone.

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
from detector.model import Model
from detector.runtimes.base import Classifier, Crops, Deltas, Outputs, Scores
from detector.warp import warp
from proposals.boxes import Boxes
from proposals.images import Image

LEAST = 1e-12  # that a network's scores of all classes together are divided by

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores [N, 1 + classes] of N regions; asked: how many of them each network saw; seconds that cropping took.

    deltas: float32 [N, classes, 4] of the first network's box regression, None without.
    """

    scores: Scores
    asked: tuple[int, ...]
    crop_seconds: float
    deltas: Deltas | None = None


def check_members(models: Sequence[Model]) -> None:
    """Raise ValueError where the scores of two models are of different kinds or classes, and so have no mean."""
    for model in models[1:]:
        first = models[0]
        if model.head != first.head:
            raise ValueError(
                f"{model.name} has {model.head} scores, {first.name} {first.head} scores: different kinds of "
                "scores cannot be averaged"
            )
        if model.labels != first.labels:
            raise ValueError(f"{model.name} has other classes than {first.name}: their scores cannot be averaged")


def score_regions(
    members: Sequence[Classifier], image: Image, boxes: Boxes, cascade: float | None = None
) -> RegionScores:
    """Return the scores of the regions `boxes` [N, 4] of `image`, combined over `members` (section 8).

    cascade: regions whose background score from the first member is this or more are not shown to the others; None:
    every member sees every region. Each member crops to its own size.
    """
    first, *others = members
    (scores, deltas), spent = member_outputs(first, image, boxes)
    asked = [len(boxes)]
    if others:
        doubtful = np.arange(len(boxes)) if cascade is None else np.flatnonzero(scores[:, BACKGROUND] < cascade)
        parts = [scores[doubtful]]
        for member in others:
            own, seconds = member_outputs(member, image, boxes[doubtful])
            parts.append(own.scores)
            spent += seconds
            asked.append(len(doubtful))
        scores[doubtful] = combined([member.model for member in members], parts)
    return RegionScores(scores, tuple(asked), spent, deltas)


def combined(models: Sequence[Model], scores: Sequence[Scores]) -> Scores:
    """Return the scores [N, 1 + classes] of several networks in one: their mean, weighed by their votes (section 8).

    Where some know background and some do not, objectness and class are told apart. Of each region, the objectness
    `o = 1 - background` is the mean of those that know it. Its class is a mixture: p are the scores of the classes
    alone in the mean of those that know background, q the mean of those from the others, both summing to 1, `a` the
    others' share of the votes, and the class scores are `o ((1 - a) p + a q)`.
    """
    stacked, votes = np.stack(scores), np.array([model.weight for model in models])
    judges = np.array([model.knows_background for model in models])
    if judges.all() or not judges.any():
        return np.asarray(np.average(stacked, axis=0, weights=votes), np.float32)
    seen = np.average(stacked[judges], axis=0, weights=votes[judges])
    kinds = np.average(_class_given_object(stacked[~judges]), axis=0, weights=votes[~judges])
    share = votes[~judges].sum() / votes.sum()
    mixed = (1 - share) * _class_given_object(seen) + share * kinds
    background = seen[:, [BACKGROUND]]
    return np.concatenate([background, (1 - background) * mixed], axis=1).astype(np.float32)


def _class_given_object(scores: npt.NDArray[np.floating]) -> Doubles:
    """Return the scores of the classes alone, summing to 1: [..., 1 + classes] -> [..., classes]."""
    classes = scores[..., 1:].astype(np.float64)
    return np.asarray(classes / np.maximum(classes.sum(axis=-1, keepdims=True), LEAST))


def member_outputs(member: Classifier, image: Image, boxes: Boxes) -> tuple[Outputs, float]:
    """Return what one network makes of the regions, and the seconds that went into their crops."""
    spent = 0.0

    def write(start: int, stop: int, out: Crops) -> None:
        nonlocal spent
        begin = time.perf_counter()
        warp(image, boxes[start:stop], member.model.size, member.model.fill, out=out)
        spent += time.perf_counter() - begin

    return member.score(len(boxes), write), spent
