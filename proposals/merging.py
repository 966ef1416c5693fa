"""One ranked list out of Selective Search and MultiBox (GoogLeNet, section 8: 200 MultiBox boxes join the others)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Indices, iou
from proposals.selective.ranking import rank_scores
from proposals.types import Proposals

NEAR_DUPLICATE = 0.9  # IoU from which two boxes give all but the same crop


def merge(
    a: Proposals,
    b: Proposals,
    budget: tuple[int | None, int | None] = (None, None),
    near_duplicate: float = NEAR_DUPLICATE,
) -> Proposals:
    """Return the union of two ranked lists of one picture, each box with its sources.

    budget: how many of the best of `a` and of `b` take part, None for all; near-duplicates are removed after that, so
    that the union may be smaller than its sum. The two scores do not compare, so the lists are interleaved by rank:
    box i of n stands at (i + 1/2) / n, `a` first where equal, and every prefix of the list holds both in proportion
    to their numbers, to within one box. Walking down that order, a box goes where its IoU with a kept one of the other
    list is >= `near_duplicate`, and the kept one takes its source too (BOTH). Boxes of one list never remove each
    other. The scores are those of the order, 1 .. 1/N. Either list may be empty.
    Raises: ValueError for a budget that is not two numbers of at least 0 (or None), or a `near_duplicate` that is not
    above 0 and at most 1.
    """
    if len(budget) != 2 or any(share is not None and share < 0 for share in budget):
        raise ValueError(f"a budget must be two numbers of at least 0, or None, got {budget}")
    if not 0 < near_duplicate <= 1:
        raise ValueError(f"near_duplicate must be an IoU above 0 and at most 1, got {near_duplicate}")
    a, b = (found if share is None else found.top(share) for found, share in zip((a, b), budget, strict=True))
    order = _interleaved(len(a), len(b))
    boxes = np.concatenate([a.boxes, b.boxes])[order]
    sources = np.concatenate([a.sources, b.sources])[order]
    place = np.argsort(order, kind="stable")  # of each box of a, then of b, in the merged order

    rows, columns = np.nonzero(iou(a.boxes, b.boxes) >= np.float32(near_duplicate))
    removed = _remove(np.sort(np.stack([place[rows], place[len(a) + columns]], axis=1), axis=1), sources)
    kept = ~removed
    return Proposals(boxes[kept], rank_scores(int(kept.sum())), sources[kept])


def _interleaved(first: int, second: int) -> Indices:
    """Return the order of `first` + `second` items in which each prefix holds both in proportion: [first + second]."""
    keys = [
        (2 * np.arange(own, dtype=np.int64) + 1) * max(other, 1) for own, other in ((first, second), (second, first))
    ]
    return np.argsort(np.concatenate(keys), kind="stable")


def _remove(pairs: Indices, sources: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return [N], which boxes go; pairs [P, 2]: the places of near-duplicates, the better first; marks `sources`."""
    removed = np.zeros(len(sources), np.bool_)
    for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
        if not removed[better]:  # decided by now: whatever could remove it stands before it
            removed[worse] = True
            sources[better] |= sources[worse]
    return removed
