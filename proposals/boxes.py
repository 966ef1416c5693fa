"""Box geometry: areas, clipping, IoU, suppression, conversions and deltas; every package may import it.

One convention inside the project: `float32` xyxy, half-open, in pixels of the original image, so that the
width of a box is `x2 - x1` and the box of the whole image is `(0, 0, width, height)`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]  # [N, 4]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


def as_boxes(values: npt.ArrayLike) -> Boxes:
    """Return `values` as boxes, checked.

    Shapes: anything that numpy reads as [N, 4] (an empty list counts as [0, 4]) -> float32 [N, 4], C order.
    Raises: ValueError for another shape, a NaN or infinite coordinate, or x2 < x1 or y2 < y1.
    """
    boxes = np.ascontiguousarray(values, dtype=np.float32)
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape [N, 4], got {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"box {row} has a coordinate that is not a finite number: {boxes[row].tolist()}")
    inverted = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if inverted.any():
        row = int(np.flatnonzero(inverted)[0])
        raise ValueError(f"box {row} is inverted (x2 < x1 or y2 < y1): {boxes[row].tolist()}; boxes are xyxy")
    return boxes


def area(boxes: Boxes) -> Floats:
    """Return the areas of `boxes`: [N, 4] -> [N], square pixels; a degenerate or inverted box has area 0."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(0))
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def clip(boxes: Boxes, width: float, height: float) -> Boxes:
    """Return `boxes` [N, 4] cut to the image `(0, 0, width, height)`; a box outside becomes degenerate on its edge."""
    limit = np.array([width, height, width, height], dtype=np.float32)
    return np.asarray(np.clip(boxes, np.float32(0), limit), dtype=np.float32)


def iou(a: Boxes, b: Boxes) -> Floats:
    """Return the pairwise IoU (Jaccard overlap) of two sets of boxes.

    Shapes: [N, 4], [M, 4] -> [N, M], values 0..1; a pair of which one box has no area has IoU 0.
    """
    x1 = np.maximum(a[:, None, 0], b[None, :, 0])
    x2 = np.minimum(a[:, None, 2], b[None, :, 2])
    overlap = np.maximum(x2 - x1, np.float32(0))
    y1 = np.maximum(a[:, None, 1], b[None, :, 1])
    y2 = np.minimum(a[:, None, 3], b[None, :, 3])
    overlap *= np.maximum(y2 - y1, np.float32(0))
    union = area(a)[:, None] + area(b)[None, :] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0), dtype=np.float32)


def descending(scores: npt.NDArray[np.floating]) -> Indices:
    """Return the order of falling `scores` [N] -> [N]; equal scores keep their order of index."""
    return np.argsort(-scores, kind="stable")


def _greedy(overlaps: Mask, order: Indices, limit: int | None = None) -> Indices:
    """Walk `order` [K] and keep each box that no kept one overlaps, `limit` at most; overlaps [N, N] by box."""
    removed = bytearray(len(overlaps))  # one byte is read faster from it than from an array
    flags = np.frombuffer(removed, np.bool_)
    kept: list[int] = []
    for box in order.tolist():
        if not removed[box]:
            if len(kept) == limit:
                break
            kept.append(box)
            np.logical_or(flags, overlaps[box], out=flags)
    return np.array(kept, np.int64)


def nms(boxes: Boxes, scores: npt.NDArray[np.floating], threshold: float) -> Indices:
    """Return the indices that greedy non-maximum suppression keeps, by falling score.

    Shapes: boxes [N, 4], scores [N] -> [K]. A box is kept while its IoU with every kept box of a higher score
    is <= `threshold` (R-CNN `nms.m` removes strictly above); ties go to the lower index.
    """
    return _greedy(iou(boxes, boxes) > threshold, descending(scores))


def nms_per_class(
    boxes: Boxes,
    scores: Floats,
    threshold: float,
    min_score: float = 0.0,
    max_per_class: int | None = None,
) -> tuple[Indices, Indices]:
    """Suppress each class on its own over boxes that all classes share, with one IoU matrix for all of them.

    Shapes: boxes [N, 4], scores [N, C] -> (box indices [K], class columns [K]), classes in column order, each by
    falling score. Only scores >= `min_score` compete; at most `max_per_class` a class (R-CNN: 100) are kept.
    """
    able = scores >= min_score  # [N, C]
    rows = np.flatnonzero(able.any(axis=1))  # a busy picture has thousands of boxes that compete nowhere
    overlaps = iou(boxes[rows], boxes[rows]) > threshold
    competing = np.where(able[rows], scores[rows], -np.inf)  # what does not compete comes last
    counts = able.sum(axis=0)
    kept_boxes: list[Indices] = []
    kept_classes: list[Indices] = []
    for column in np.flatnonzero(able.any(axis=0)):
        order = descending(competing[:, column])[: counts[column]]
        kept = rows[_greedy(overlaps, order, max_per_class)]
        kept_boxes.append(kept)
        kept_classes.append(np.full(len(kept), column, dtype=np.int64))
    if not kept_boxes:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(kept_boxes), np.concatenate(kept_classes)


def from_one_based(boxes: npt.ArrayLike) -> Boxes:
    """Return half-open boxes of 1-based inclusive ones (Matlab, PASCAL VOC, ILSVRC): xmin - 1, ymin - 1, xmax, ymax."""
    return np.asarray(boxes, dtype=np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], dtype=np.float32)


def to_one_based(boxes: Boxes) -> Boxes:
    """Return 1-based inclusive boxes (Matlab, PASCAL VOC, ILSVRC) of half-open ones: x1 + 1, y1 + 1, x2, y2."""
    return boxes + np.array([1, 1, 0, 0], dtype=np.float32)


def from_xywh(boxes: npt.ArrayLike) -> Boxes:
    """Return xyxy boxes of `x, y, width, height` ones (COCO): [N, 4] -> [N, 4]."""
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def to_xywh(boxes: Boxes) -> Boxes:
    """Return `x, y, width, height` boxes (COCO) of xyxy ones: [N, 4] -> [N, 4]."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def box_targets(proposals: Boxes, truth: Boxes) -> Floats:
    """Return the targets that move each proposal onto the ground-truth box of the same row.

    Shapes: [N, 4], [N, 4] -> float32 [N, 4]: tx, ty, the shift of the centre in widths and heights of the proposal,
    and tw, th, the natural logarithms of the growth of its sides (R-CNN, arXiv 1311.2524v5, equations 6 to 9).
    Widths are x2 - x1 of half-open boxes. Raises: ValueError for arrays that are no boxes or differ in length, and
    for a box without area, whose sides have no logarithm.
    """
    proposals, truth = as_boxes(proposals), as_boxes(truth)
    if len(proposals) != len(truth):
        raise ValueError(f"{len(proposals)} proposals, {len(truth)} ground-truth boxes: each proposal needs its own")
    start, sides = _centres_and_sides(proposals)
    end, wanted = _centres_and_sides(truth)
    for what, extent in (("proposal", sides), ("ground-truth box", wanted)):
        flat = (extent <= 0).any(axis=1)
        if flat.any():
            raise ValueError(f"{what} {int(np.flatnonzero(flat)[0])} has no area; leave such boxes out of regression")
    return np.concatenate([(end - start) / sides, np.log(wanted / sides)], axis=1).astype(np.float32)


def apply_deltas(boxes: Boxes, deltas: Floats) -> Boxes:
    """Return each box moved by the deltas of the same row: the inverse of `box_targets`, neither clipped nor rounded.

    Shapes: [N, 4], [N, 4] -> float32 [N, 4] (R-CNN, equations 1 to 4). A box without area moves nowhere. Raises:
    ValueError for arrays that are no boxes, or deltas of another shape.
    """
    boxes, moves = as_boxes(boxes), np.asarray(deltas, dtype=np.float64)
    if moves.shape != boxes.shape:
        raise ValueError(f"deltas must have shape {list(boxes.shape)} as the boxes have, got {list(moves.shape)}")
    centres, sides = _centres_and_sides(boxes)
    centres = centres + moves[:, :2] * sides
    half = np.exp(moves[:, 2:]) * sides / 2
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def _centres_and_sides(boxes: Boxes) -> tuple[Doubles, Doubles]:
    """Return (centres [N, 2], sides [N, 2]), each (x, y)."""
    corners = boxes.astype(np.float64)
    return (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
