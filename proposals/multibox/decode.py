"""From the outputs of MultiBox to ranked proposals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, Indices, descending, iou
from proposals.boxes import nms as suppress
from proposals.multibox.priors import decode
from proposals.types import MULTIBOX, Proposals, from_source

TOP = 200  # boxes of an image: GoogLeNet, section 8
# IoU above which of two predicted boxes the lower goes. What counts is recall at 200 boxes: two boxes of one object are
# two chances to fit it well, one box more of another object is one more that is found (72 against 69 % at 0.75)
NMS = 0.65
CHUNK = 256  # boxes that suppression looks at together
SMALLEST = 1.0  # side in pixels of a proposal


def decode_proposals(
    locations: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    priors: Boxes,
    width: float,
    height: float,
    top: int | None = TOP,
    nms: float = NMS,
) -> Proposals:
    """Return the proposals of one image, best first, from the outputs of the network.

    Shapes: locations [K, 4] residuals, logits [K], priors [K, 4] normalised; width, height: of the image in pixels.
    Boxes are in its pixels and cut to it, scores are confidences 0..1, equal ones by prior. Boxes with a side below one
    pixel go, then those with an IoU above `nms` with a better one; `top` are kept, None for all.
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
    boxes = decode(locations.astype(np.float32), priors) * size
    large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST).all(axis=1)
    boxes, confident = boxes[large], logits[large].astype(np.float64)
    order = descending(confident)  # by logit: far from 0, confidences are equal in float32
    kept = order[_suppress(boxes[order], confident[order], top, nms)]
    return from_source(boxes[kept], _sigmoid(confident[kept]), MULTIBOX)


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
