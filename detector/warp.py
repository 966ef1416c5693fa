"""R-CNN's warp: each region with its context padding, stretched to the square that the network takes.

The arithmetic is Caffe's (`window_data_layer.cpp`, `rcnn_im_crop.m`), off-by-ones included: corners are 0-based and
inclusive there, and rounding is half away from zero. Half-open boxes are converted in `warp_geometry` only.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes
from proposals.images import Image

CONTEXT = 16  # pixels of context on each side, in the output (R-CNN appendix A: 3 to 5 points above the other warps)

Ints = npt.NDArray[np.int64]


class WarpGeometry(NamedTuple):
    """Where each crop comes from and goes to; every array [N, 2] is (x, y), pixels, 0-based.

    first, last: inclusive corners of the source rectangle in the image; start, size: top-left corner and extent in
    the output. A size of 0 means that nothing of the image is seen.
    """

    first: Ints
    last: Ints
    start: Ints
    size: Ints


def _round(values: npt.NDArray[np.float64]) -> Ints:
    """Round half away from zero, as C and Matlab do."""
    return (np.sign(values) * np.floor(np.abs(values) + 0.5)).astype(np.int64)


def warp_geometry(
    boxes: Boxes, image_size: tuple[int, int], size: int, context: int = CONTEXT, mirrored: bool = False
) -> WarpGeometry:
    """Return the source and destination rectangles of R-CNN's context-padded warp.

    boxes: [N, 4], half-open; image_size: (width, height); size: side of the output; context: padding in output
    pixels; mirrored: the crop will be flipped, so the padding changes sides. Source: notes at the head of the module.
    """
    corners = np.asarray(boxes, dtype=np.float64)
    low, high = corners[:, :2], corners[:, 2:] - 1  # inclusive
    limit = np.array(image_size, dtype=np.int64)
    scale = size / (size - 2 * context)
    half = (high - low + 1) / 2
    centre = low + half
    first, last = _round(centre - half * scale), _round(centre + half * scale)
    unclipped = last - first + 1
    before, after = np.maximum(0, -first), np.maximum(0, last - limit + 1)
    first, last = first + before, last - after
    zoom = size / unclipped
    extent = _round((last - first + 1) * zoom)
    before, after = _round(before * zoom), _round(after * zoom)
    start = np.stack([after[:, 0] if mirrored else before[:, 0], before[:, 1]], axis=1)
    extent = np.clip(extent, 0, np.maximum(size - start, 0))
    extent[(last < first).any(axis=1)] = 0
    return WarpGeometry(first, last, start, extent)


def warp(
    image: Image,
    boxes: Boxes,
    size: int,
    fill: tuple[int, int, int],
    context: int = CONTEXT,
    mirrored: bool = False,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the crops of `boxes` as the network sees them: uint8 [N, size, size, 3], RGB.

    image: uint8 RGB [H, W, 3]; boxes: [N, 4], half-open pixels of the image; fill: the colour where the context
    leaves the image (the mean, so that it is zero after normalisation); out: where to put them (a small array that
    is used again stays in the cache, where a large new one costs three times the resizing). Bilinear without
    antialiasing, as Caffe. Raises: ValueError for an `out` of another shape or type.
    """
    height, width = image.shape[:2]
    shape = (len(boxes), size, size, 3)
    if out is None:
        out = np.empty(shape, dtype=np.uint8)
    elif out.shape != shape or out.dtype != np.uint8:
        raise ValueError(f"out must be uint8 {list(shape)}, got {out.dtype} {list(out.shape)}")
    colour = np.array(fill, dtype=np.uint8)
    first, last, start, extent = warp_geometry(boxes, (width, height), size, context, mirrored)
    rows = np.concatenate([first, last + 1, start, start + extent], axis=1).tolist()
    for crop, (x1, y1, x2, y2, left, top, right, bottom) in zip(out, rows, strict=True):
        if right - left < size or bottom - top < size:
            crop[:] = colour
        if right > left and bottom > top:
            patch = cv2.resize(image[y1:y2, x1:x2], (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
            crop[top:bottom, left:right] = patch[:, ::-1] if mirrored else patch
    return out
