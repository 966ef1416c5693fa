"""From the outputs of MultiBox to proposals, and from several passes over parts of a picture to one list.

Passes beyond the whole picture, as in the public port: the whole picture keeps 200 boxes, its mirror image 100, each
sub-crop 50.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, Indices, as_boxes, descending, iou
from proposals.boxes import nms as suppress
from proposals.multibox.coding import STD, decode
from proposals.types import MULTIBOX, Proposals, from_source

WHOLE, MIRROR, CROP = 200, 100, 50  # boxes that a pass keeps; 200: GoogLeNet, section 8
# IoU above which of two predicted boxes the lower goes. What counts is recall at 200 boxes, and two boxes of one
# object that overlap less are two chances to reach the IoU of 0.7 and more that good regions need
NMS = 0.75
# of priors on grids, whose boxes crowd: more objects of the 200 boxes at IoU 0.5 (72 against 69 %), fewer at 0.7
GRID_NMS = 0.65
CHUNK = 256  # boxes that suppression looks at together
SMALLEST = 1.0  # side in pixels of a proposal


def decode_proposals(
    locations: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    priors: Boxes,
    width: float,
    height: float,
    top: int | None = WHOLE,
    nms: float = NMS,
    deviation: Floats | float = STD,
) -> Proposals:
    """Return the proposals of one pass, best first, from the outputs of the network.

    Shapes: locations [K, 4] residuals, logits [K], priors [K, 4] normalised; width, height: of the picture (or the
    crop) in pixels; deviation: as of `encode`. Boxes are in its pixels and cut to it, scores are confidences 0..1,
    equal ones by prior. Boxes with a side below one pixel go, then those with an IoU above `nms` with a better one;
    `top` are kept, None for all.
    Raises: ValueError for shapes that do not fit, outputs that are not finite, or numbers out of range.
    """
    if locations.shape != (len(logits), 4) or priors.shape != locations.shape or logits.ndim != 1:
        raise ValueError(
            "locations and priors must be [K, 4] and logits [K], "
            f"got {list(locations.shape)}, {list(priors.shape)} and {list(logits.shape)}"
        )
    if not (width > 0 and height > 0):
        raise ValueError(f"width and height must be above 0, got {width} and {height}")
    if not (np.isfinite(locations).all() and np.isfinite(logits).all()):
        raise ValueError("an output of the network is not a finite number")
    size = np.array([width, height, width, height], np.float32)
    boxes = decode(locations.astype(np.float32), priors, deviation) * size
    large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(axis=1)
    return _best(boxes[large], logits[large].astype(np.float64), top, nms)


def merge_passes(passes: Sequence[Proposals], top: int | None = None, nms: float = NMS) -> Proposals:
    """Return the proposals of several passes over one picture as one list, by confidence, suppressed anew.

    passes: their boxes in pixels of the picture (`unmirrored`, `from_crop`), scores from the same network; equal
    scores keep the order of the passes. top: how many are kept, None for all. Raises: ValueError for numbers out of
    range.
    """
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(found.boxes for found in passes)])
    scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in passes)])
    order = descending(scores)
    kept = order[_suppress(boxes[order], scores[order], top, nms)]
    return from_source(boxes[kept], scores[kept], MULTIBOX)


def unmirrored(boxes: Boxes, width: float) -> Boxes:
    """Return `boxes` [N, 4] of a picture mirrored left to right, `width` pixels wide, as boxes of the picture."""
    boxes = as_boxes(boxes)
    mirrored = boxes.copy()
    mirrored[:, 0] = np.float32(width) - boxes[:, 2]
    mirrored[:, 2] = np.float32(width) - boxes[:, 0]
    return mirrored


def from_crop(boxes: Boxes, crop_box: npt.ArrayLike) -> Boxes:
    """Return `boxes` [N, 4] in pixels of a crop as boxes of the picture; crop_box: x1, y1, x2, y2 of the crop in it."""
    x1, y1, _, _ = as_boxes(np.reshape(crop_box, (1, -1)))[0]
    return as_boxes(boxes) + np.array([x1, y1, x1, y1], np.float32)


def _best(boxes: Boxes, logits: npt.NDArray[np.float64], top: int | None, nms: float) -> Proposals:
    order = descending(logits)  # by logit: far from 0, confidences are equal in float32
    kept = order[_suppress(boxes[order], logits[order], top, nms)]
    return from_source(boxes[kept], _sigmoid(logits[kept]), MULTIBOX)


def _suppress(boxes: Boxes, falling: npt.NDArray[np.floating], top: int | None, nms: float) -> Indices:
    """Return the indices of the `top` boxes that suppression keeps, of boxes that come best first.

    What it keeps of the first n boxes does not depend on the others, so it goes on only until there are enough.
    """
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    if not 0 <= nms <= 1:
        raise ValueError(f"nms must be an IoU between 0 and 1, got {nms}")
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(boxes)))
        rows = rows[~(iou(boxes[rows], boxes[kept]) > nms).any(axis=1)]
        kept = np.concatenate([kept, rows[suppress(boxes[rows], falling[rows], nms)]])
        if top is not None and len(kept) >= top:
            break
    return kept[:top]


def _sigmoid(falling: npt.NDArray[np.float64]) -> Floats:
    """Return confidences of falling logits, never rising; rounding must not put one above the next."""
    confidences = 1 / (1 + np.exp(np.minimum(-falling, 700)))  # exp overflows beyond
    return np.minimum.accumulate(confidences.astype(np.float32))
