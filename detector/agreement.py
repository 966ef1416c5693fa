"""How far two forms of one network agree on the same crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.runtimes.classifier import Scores


@dataclass(frozen=True)
class Agreement:
    """Of the scores of two forms of a network, over `crops` crops."""

    crops: int
    top: float  # share of the crops on which the highest score is of the same class
    mean: float  # mean absolute difference of a score
    largest: float  # largest absolute difference

    def __str__(self) -> str:
        return (
            f"{self.crops} crops: top class agrees on {self.top:.1%}, scores differ by {self.mean:.2g} on average and "
            f"{self.largest:.2g} at most"
        )


def agreement(found: Scores, reference: Scores) -> Agreement:
    """Compare scores [N, classes]. Raises: ValueError for different shapes, no crops, or a score that is not finite."""
    if found.shape != reference.shape:
        raise ValueError(f"scores of shape {list(found.shape)}, where {list(reference.shape)} was expected")
    if not len(found):
        raise ValueError("no crops to compare scores on")
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        raise ValueError("a score is not a finite number")
    difference = np.abs(found - reference)
    same = found.argmax(axis=1) == reference.argmax(axis=1)
    return Agreement(len(found), float(same.mean()), float(difference.mean()), float(difference.max()))
