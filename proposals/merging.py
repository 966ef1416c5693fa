"""One ranked list out of Selective Search and MultiBox (GoogLeNet, section 8: 200 MultiBox boxes join the others)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, Indices, iou
from proposals.selective.ranking import rank_scores
from proposals.types import Proposals

NEAR_DUPLICATE = 0.9  # IoU from which the crops of two boxes hardly differ
LEAST_OBJECTNESS = 1e-3  # of a box that no learned one overlaps: its classes keep their order


def merge(
    a: Proposals,
    b: Proposals,
    budget: tuple[int | None, int | None] = (None, None),
    near_duplicate: float = NEAR_DUPLICATE,
) -> Proposals:
    """Return the union of two ranked lists of one image, each box with its sources.

    budget: how many of the best of `a` and of `b` take part, None for all; near-duplicates go after that, so the union
    may be smaller than its sum. The two scores do not compare, so the lists are interleaved by rank: box i of n stands
    at (i + 1/2) / n, `a` first where equal, and every prefix of the list holds both in proportion to their numbers, to
    within one box. Walking down that order, a box goes where its IoU with a kept one of the other list is
    >= `near_duplicate`, and the kept one takes its source too (BOTH). Boxes of one list never remove each other. The
    scores are those of the order, 1 .. 1/N. Where one list has objectness (MultiBox's), all boxes get it.
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

    overlaps = iou(a.boxes, b.boxes)
    rows, columns = np.nonzero(overlaps >= np.float32(near_duplicate))
    removed = _remove(np.sort(np.stack([place[rows], place[len(a) + columns]], axis=1), axis=1), sources)
    kept = ~removed
    seen = _objectness_of_both(a, b, overlaps)
    return Proposals(
        boxes[kept], rank_scores(int(kept.sum())), sources[kept], None if seen is None else seen[order][kept]
    )


def objectness(boxes: Boxes, learned: Proposals, overlaps: Floats | None = None) -> Floats:
    """Return of each box the largest product of a learned proposal's confidence and its IoU with the box; ours.

    Shapes: boxes [N, 4]; learned: of MultiBox, its scores being confidences 0..1; overlaps: the IoU [N, len(learned)]
    where it is known already -> float32 [N], 0.001..1.
    """
    overlaps = iou(boxes, learned.boxes) if overlaps is None else overlaps
    found = (overlaps * learned.scores).max(axis=1, initial=0)
    return np.asarray(np.clip(found, LEAST_OBJECTNESS, 1), np.float32)


def _objectness_of_both(a: Proposals, b: Proposals, overlaps: Floats) -> Floats | None:
    """Return the objectness of the boxes of a, then of b, where one of them has it; overlaps: their IoU."""
    if a.objectness is None and b.objectness is None:
        return None
    of_a = objectness(a.boxes, b, overlaps) if a.objectness is None else a.objectness
    of_b = objectness(b.boxes, a, overlaps.T) if b.objectness is None else b.objectness
    return np.concatenate([of_a, of_b])


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
