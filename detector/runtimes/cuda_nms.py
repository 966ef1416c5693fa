"""Suppression per class on the device, with the result of `proposals.boxes.nms_per_class`, ties and limits included.

Greedy suppression walks the boxes one by one; here all boxes of all classes are asked at once, and again until
nothing changes: a box stays while no box that stays stands before it and overlaps it. The best box is settled after
the first round, and each round settles at least one more, usually most.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detector.runtimes.cuda_crops import upload
from proposals.boxes import Boxes, Floats, Indices

CHUNK = 1 << 26  # pairs of boxes at a time


def suppress(
    boxes: Boxes,
    scores: Floats,
    threshold: float,
    min_score: float = 0.0,
    max_per_class: int | None = None,
    device: str = "cuda",
) -> tuple[Indices, Indices]:
    """Return what `nms_per_class` of the same arguments returns, computed on `device`.

    Shapes: boxes float32 [N, 4], scores float32 [N, C] -> (box indices [K], class columns [K]), classes in column
    order, each by falling score. Raises: ValueError for a negative `max_per_class`.
    """
    if max_per_class is not None and max_per_class < 0:
        raise ValueError(f"max_per_class must not be negative, got {max_per_class}")
    able = scores >= np.float32(min_score)
    rows, columns = np.flatnonzero(able.any(axis=1)), np.flatnonzero(able.any(axis=0))
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    where = torch.device(device)
    competing = upload(scores[np.ix_(rows, columns)].astype(np.float32), where)
    found = suppress_on_device(
        upload(boxes[rows].astype(np.float32), where), competing, threshold, min_score, max_per_class
    )
    kept, classes = (part.cpu().numpy() for part in found)
    return rows[kept].astype(np.int64), columns[classes].astype(np.int64)


@torch.inference_mode()
def suppress_on_device(
    boxes: Tensor, scores: Tensor, threshold: float, min_score: float, max_per_class: int | None
) -> tuple[Tensor, Tensor]:
    """Return the box indices [K] and class columns [K] that stay; boxes [N, 4] and scores [N, C] float32, N, C > 0."""
    able = (scores >= _float32(min_score, scores)).T  # [C, N]
    most = int(able.sum(dim=1).max())
    if not most:
        return (torch.zeros(0, dtype=torch.int64, device=boxes.device),) * 2
    order = _ranked(scores.T, able)[:, :most]  # [C, most]: the boxes of each class, best first
    valid = able.gather(1, order)
    overlaps = _overlaps(boxes, threshold)
    earlier = torch.ones((most, most), dtype=torch.bool, device=boxes.device).triu(1)  # [i, j]: i stands before j
    step = max(1, CHUNK // most**2)
    kept = torch.cat(
        [
            _greedy(overlaps, order[start : start + step], valid[start : start + step], earlier)
            for start in range(0, len(order), step)
        ]
    )
    if max_per_class is not None:
        kept &= kept.cumsum(dim=1) <= max_per_class
    columns, ranks = kept.nonzero(as_tuple=True)  # row by row: classes in order, each by rank
    return order[columns, ranks], columns


def _ranked(scores: Tensor, able: Tensor) -> Tensor:
    """Return per class the boxes that compete by falling score, equal ones by index, then the others: [C, N]."""
    order = (scores + 0.0).argsort(dim=1, descending=True, stable=True)  # + 0.0: minus zero equals zero
    return order.gather(1, able.gather(1, order).to(torch.uint8).argsort(dim=1, descending=True, stable=True))


def _overlaps(boxes: Tensor, threshold: float) -> Tensor:
    """Return whether the IoU of two boxes is above `threshold`: [N, N], rounded as `proposals.boxes.iou` rounds."""
    x1, y1, x2, y2 = boxes.unbind(1)
    areas = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    limit = _float32(threshold, boxes)
    above = torch.empty((len(boxes), len(boxes)), dtype=torch.bool, device=boxes.device)
    step = max(1, CHUNK // 4 // len(boxes))
    for start in range(0, len(boxes), step):
        part = slice(start, start + step)
        overlap = (torch.minimum(x2[part, None], x2) - torch.maximum(x1[part, None], x1)).clamp(min=0)
        overlap = overlap * (torch.minimum(y2[part, None], y2) - torch.maximum(y1[part, None], y1)).clamp(min=0)
        union = areas[part, None] + areas - overlap
        above[part] = torch.where(union > 0, overlap / union, torch.zeros_like(union)) > limit
    return above


def _greedy(overlaps: Tensor, order: Tensor, valid: Tensor, earlier: Tensor) -> Tensor:
    """Return which of the boxes `order` [c, K] of some classes stay: bool [c, K]."""
    beats = overlaps[order[:, :, None], order[:, None, :]] & earlier  # [c, i, j]: i removes j if it stays
    kept = valid
    while True:
        settled = valid & ~(beats & kept[:, :, None]).any(dim=1)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def _float32(value: float, like: Tensor) -> Tensor:
    """Return `value` rounded to float32, as numpy rounds a number that meets a float32 array."""
    return torch.tensor(value, dtype=torch.float32, device=like.device)
