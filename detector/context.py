"""What the whole picture says of a region's class; ours, beyond the paper, whose rivals of 2014 had it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from proposals.images import Image

if TYPE_CHECKING:
    from detector.runtimes.classifier import Scores

CONTEXT_MODEL = "inception_v3@299"  # the best classifier of whole pictures that ships (docs/models.md)
LEAST = 0.01  # that a picture says of a class: no class goes for it alone


def whole_picture(image: Image, size: int) -> npt.NDArray[np.uint8]:
    """Return the picture, its middle square, and both mirrored, stretched to a square: uint8 [4, size, size, 3]."""
    height, width = image.shape[:2]
    short = min(height, width)
    x, y = (width - short) // 2, (height - short) // 2
    middle = np.ascontiguousarray(image[y : y + short, x : x + short])
    parts = [cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA) for part in (image, middle)]
    return np.stack([*parts, *(part[:, ::-1] for part in parts)]).astype(np.uint8, copy=False)


def in_context(scores: Scores, seen: Scores, share: float) -> Scores:
    """Return scores [N, 1 + classes] as scores^(1 - share) * seen^share: geometric means with what the picture says.

    seen: scores [P, 1 + classes] of views of the picture, whose mean counts, from `LEAST`; share: 0..1, 0: none.
    """
    whole = np.clip(seen.mean(axis=0), LEAST, 1)
    return np.asarray(scores ** np.float32(1 - share) * whole ** np.float32(share), np.float32)
