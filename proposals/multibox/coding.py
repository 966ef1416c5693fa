"""The coding of boxes as residuals from priors: the mean_stddev coder, with one deviation for all coordinates.

A residual is `(box - prior) / 0.1`, so that the residual of a matched prior is of order 1 (VOC 2012 from the nearest of
800 k-means priors: 0.33 root mean square) and a linear layer learns it without large weights. Google's published model
divides by 0.01 instead and weighs the location loss by alpha = 0.3; with 0.1 the same loss has alpha = 30, which is the
default here. Both are alpha = 3,000 on raw offsets (alpha / deviation^2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, as_boxes

STD = 0.1
ALPHA = 30.0  # = 0.3 * (0.1 / 0.01)^2, see above


def normalised(boxes: npt.ArrayLike) -> Boxes:
    """Return `boxes` checked: float32 [N, 4]. Raises: ValueError where they are no boxes or exceed 0..1."""
    checked = as_boxes(boxes)
    if ((checked < 0) | (checked > 1)).any():
        raise ValueError("boxes must lie between 0 and 1; divide them by the width and height of their picture")
    return checked


def encode(boxes: Boxes, priors: Boxes, deviation: Floats | float = STD) -> Floats:
    """Return the residuals of normalised `boxes` from `priors`: [..., 4], [..., 4] (broadcast) -> float32 [..., 4].

    deviation: what a residual of 1 is worth, one for all or [..., 4] (`proposals.multibox.grid.deviations`).
    """
    return np.asarray((boxes - priors) / np.float32(deviation), dtype=np.float32)


def decode(residuals: Floats, priors: Boxes, deviation: Floats | float = STD) -> Boxes:
    """Return the normalised boxes that `residuals` from `priors` mean.

    Shapes: [..., 4], [..., 4] (broadcast) -> float32 [..., 4], cut to 0..1. Crossed corners are exchanged, so that
    x1 <= x2 and y1 <= y2 always; a box may still have no area.
    """
    corners = np.clip(offset(residuals, priors, deviation), 0, 1)
    low = np.minimum(corners[..., :2], corners[..., 2:])
    high = np.maximum(corners[..., :2], corners[..., 2:])
    return np.concatenate([low, high], axis=-1).astype(np.float32, copy=False)


def offset(
    residuals: npt.NDArray[np.floating], priors: Boxes, deviation: Floats | float = STD
) -> npt.NDArray[np.floating]:
    """Return `priors` moved by `residuals`, neither cut nor ordered: the exact inverse of `encode`, in their dtype."""
    return np.asarray(priors + residuals * np.asarray(deviation, residuals.dtype))
