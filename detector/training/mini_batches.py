"""R-CNN's mini-batches: 32 foreground and 96 background regions, drawn over the whole set (section 2.3).

The batch of step t is a function of the seed and t alone: nothing has to be remembered to go on after a stop, and any
number of processes can each make their part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detector.classes import BACKGROUND
from detector.datasets.ground_truth import Doubles, Flags, Longs


class MiniBatch(NamedTuple):
    """Rows of the pool int64 [B], foreground first, and which of them are mirrored, bool [B]."""

    rows: Longs
    mirrored: Flags


class Sampler:
    """Draws with replacement: foreground by weight, background by data set; each mirrored half the time."""

    def __init__(
        self,
        labels: Longs,
        sets: Longs,
        foreground: int,
        background: int,
        balance: float,
        seed: int,
        shares: Sequence[float] = (),
    ) -> None:
        """labels, sets: of each region of the pool, its class and its data set.

        balance: 0 draws foreground regions evenly, as R-CNN; 1 every class equally often, and within a class every
        data set; between them, by that power of the counts. shares: a factor for the regions of each data set, of both
        kinds; () for 1. Raises: ValueError where a kind that is asked for has none.
        """
        self._foreground, self._background = np.flatnonzero(labels > BACKGROUND), np.flatnonzero(labels == BACKGROUND)
        for count, rows, kind in (
            (foreground, self._foreground, "foreground"),
            (background, self._background, "background"),
        ):
            if count and not len(rows):
                raise ValueError(f"the data has no {kind} region, {count} a mini-batch are asked for")
        self._counts, self._seed = (foreground, background), seed
        factors = np.asarray(shares, np.float64)[sets] if len(shares) else np.ones(len(sets))
        weights = balanced_weights(labels[self._foreground], sets[self._foreground], balance)
        self._edges = np.cumsum(weights * factors[self._foreground])
        self._background_edges = np.cumsum(factors[self._background])
        for count, edges, kind in (
            (foreground, self._edges, "foreground"),
            (background, self._background_edges, "background"),
        ):
            if count and not edges[-1] > 0:
                raise ValueError(f"every {kind} region is of a data set of share 0")

    def draw(self, step: int) -> MiniBatch:
        """Return the mini-batch of a step."""
        rng = np.random.default_rng([self._seed, step])
        foreground, background = self._counts
        rows = np.zeros(0, np.int64)
        if foreground:
            rows = self._foreground[_places(self._edges, rng.random(foreground))]
        if background:
            rows = np.concatenate([rows, self._background[_places(self._background_edges, rng.random(background))]])
        return MiniBatch(rows, rng.random(len(rows)) < 0.5)


def _places(edges: Doubles, drawn: Doubles) -> Longs:
    """Return the index of the interval of `edges` that each of `drawn`, 0..1 of the last edge, falls into."""
    places = np.searchsorted(edges, drawn * edges[-1], side="right")
    return np.asarray(np.minimum(places, len(edges) - 1), np.int64)


def balanced_weights(labels: Longs, sets: Longs, balance: float) -> Doubles:
    """Return the weight of each region [N], of mean 1: two factors, each a count to the power -balance.

    The counts are those of the region's class, and of its data set within the class. The second factor is normalised
    within the class, so that a class's share depends on the first one alone.
    """
    if not len(labels):
        return np.zeros(0)
    _, of_class, class_counts = np.unique(labels, return_inverse=True, return_counts=True)
    pairs = np.stack([labels, sets], axis=1)
    _, of_pair, pair_counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    within = pair_counts[of_pair.ravel()] ** -float(balance)
    within /= np.bincount(of_class, within)[of_class]  # sums to 1 in each class
    weights = within * class_counts[of_class] ** (1 - float(balance))
    return np.asarray(weights / weights.mean())
