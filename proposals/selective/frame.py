"""The frame in which Selective Search runs: R-CNN resizes every picture to a width of 500 px, up or down."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, clip

Image = npt.NDArray[np.uint8]  # [H, W, 3] RGB

FRAME_WIDTH = 500  # R-CNN `selective_search_boxes.m`
MIN_SIDE = 20  # R-CNN: boxes with a side below it, in the 500-px frame, are dropped
MAX_FRAME_HEIGHT = 2000  # ours: a picture taller than four times its width is resized to this height instead


def check_image(image: npt.NDArray[np.generic]) -> None:
    """Raise ValueError unless `image` is uint8 RGB [H, W, 3] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"an image must be uint8 RGB [height, width, 3] with at least one pixel, "
            f"got {image.dtype} {list(image.shape)}"
        )


def to_frame(image: Image) -> Image:
    """Return the picture at a width of 500 px (less where that would make it taller than `MAX_FRAME_HEIGHT`)."""
    height, width = image.shape[:2]
    scale = min(FRAME_WIDTH / width, MAX_FRAME_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image
    shrink = size[0] * size[1] < width * height
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def from_frame(boxes: npt.NDArray[np.number], frame: Image, image: Image) -> Boxes:
    """Return boxes of the frame in pixels of the original picture, clipped to it: [N, 4] -> [N, 4].

    The edges are scaled, since boxes are half-open; R-CNN's `(b - 1) * scale + 1` on 1-based corners gives the same
    within one pixel.
    """
    height, width = image.shape[:2]
    x, y = width / frame.shape[1], height / frame.shape[0]
    return clip((boxes * np.array([x, y, x, y])).astype(np.float32), width, height)
