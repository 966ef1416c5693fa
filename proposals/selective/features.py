"""What Selective Search compares regions by: colour and texture histograms, sizes and boxes (IJCV 2013, section 3.2).

Colour: 25 bins a channel. Texture: Gaussian derivatives (sigma 1) in 8 orientations, 10 bins each, a channel. Both
are normalised to a sum of 1. Left open there and chosen here: an orientation sees the positive part of its
derivative, so that the 8 are 4 axes with two signs; the bins of a channel run linearly from 0 to the picture's
largest response in it.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from proposals.compiled import compiled

COLOUR_BINS = 25
AXES = 4  # 0, 45, 90 and 135 degrees, each with two signs
TEXTURE_BINS = 10
TEXTURE_SIGMA = 1.0
TEXTURE_RADIUS = 3
COLOURS = 3 * COLOUR_BINS
TEXTURES = 3 * 2 * AXES * TEXTURE_BINS
FEATURES = COLOURS + TEXTURES  # 75 + 240

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.uint8]  # [3 + 12, H, W]


def pixel_codes(picture: npt.NDArray[np.uint8]) -> Codes:
    """Return of each pixel its 3 colour bins and its 12 texture bins (3 channels x 4 axes).

    picture: [H, W, 3] in the colour space of the search. A texture code is 10 x orientation + bin, or 0 where the
    derivative falls into the lowest bin, which is not counted but follows from the region's size.
    """
    offsets = np.arange(-TEXTURE_RADIUS, TEXTURE_RADIUS + 1)
    gauss = np.exp(-(offsets**2) / (2 * TEXTURE_SIGMA**2))
    gauss /= gauss.sum()
    slope = offsets * gauss / TEXTURE_SIGMA**2  # cv2 correlates, so this is the derivative
    codes = np.empty((3 + 3 * AXES, *picture.shape[:2]), np.uint8)
    for channel, plane in enumerate(cv2.split(picture)):
        across = cv2.sepFilter2D(plane, cv2.CV_32F, slope, gauss, borderType=cv2.BORDER_REFLECT)
        down = cv2.sepFilter2D(plane, cv2.CV_32F, gauss, slope, borderType=cv2.BORDER_REFLECT)
        first = 3 + AXES * channel
        _code(plane, across, down, codes[channel], codes[first : first + AXES])
    return codes


def region_features(
    codes: Codes, labels: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return histograms [count, 315], sizes [count] and boxes [count, 4] (half-open) of the regions."""
    return _regions(codes, labels, count)


@compiled
def _code(plane: Array, across: Array, down: Array, colours: Array, textures: Array) -> None:
    """Fill one channel's `colours` [H, W] and `textures` [4, H, W] from its pixels and derivatives [H, W]."""
    height, width = plane.shape
    half = np.float32(sqrt(0.5))
    largest = np.float32(0)
    for y in range(height):
        for x in range(width):
            u, v = abs(across[y, x]), abs(down[y, x])
            largest = max(largest, max((u + v) * half, max(u, v)))  # the diagonals give (u + v) / sqrt 2
    scale = np.float32(0)
    if largest > np.float32(1e-3):  # a plane without texture stays in the lowest bin
        scale = np.float32(TEXTURE_BINS) / largest
    for y in range(height):
        for x in range(width):
            colours[y, x] = np.uint8(np.int32(plane[y, x]) * np.int32(COLOUR_BINS) >> np.int32(8))
        for x in range(width):
            textures[0, y, x] = _texture(across[y, x] * scale, 0)
        for x in range(width):
            textures[1, y, x] = _texture((across[y, x] + down[y, x]) * (scale * half), 1)
        for x in range(width):
            textures[2, y, x] = _texture(down[y, x] * scale, 2)
        for x in range(width):
            textures[3, y, x] = _texture((down[y, x] - across[y, x]) * (scale * half), 3)


@compiled
def _texture(response: float, axis: int) -> np.uint8:
    """Return the code of a response in units of a bin along one axis; its sign chooses between two orientations."""
    level = min(np.int32(abs(response)), np.int32(TEXTURE_BINS - 1))
    base = np.int32((axis + AXES) * TEXTURE_BINS) if response < 0 else np.int32(axis * TEXTURE_BINS)
    return np.uint8(base + level if level > 0 else np.int32(0))


@compiled
def _regions(codes: Array, labels: Array, count: int) -> tuple[Array, Array, Array]:
    height, width = labels.shape
    counts = np.zeros((count, FEATURES), np.int32)
    sizes = np.zeros(count, np.int32)
    boxes = np.empty((count, 4), np.int32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = width, height, 0, 0
    for y in range(height):
        for x in range(width):
            region = labels[y, x]
            sizes[region] += 1
            boxes[region, 0] = min(boxes[region, 0], x)
            boxes[region, 1] = min(boxes[region, 1], y)
            boxes[region, 2] = max(boxes[region, 2], x + 1)
            boxes[region, 3] = max(boxes[region, 3], y + 1)
            row = counts[region]
            for channel in range(3):
                row[channel * COLOUR_BINS + np.int64(codes[channel, y, x])] += 1
                for axis in range(AXES):
                    code = np.int64(codes[3 + channel * AXES + axis, y, x])
                    if code:
                        row[COLOURS + channel * 2 * AXES * TEXTURE_BINS + code] += 1
    histograms = np.empty((count, FEATURES), np.float32)
    for region in range(count):
        row = counts[region]
        for first in range(COLOURS, FEATURES, TEXTURE_BINS):
            others = 0
            for bin in range(first + 1, first + TEXTURE_BINS):
                others += row[bin]
            row[first] = sizes[region] - others
        colour = np.float32(1) / np.float32(3 * sizes[region])
        texture = np.float32(1) / np.float32(3 * 2 * AXES * sizes[region])
        for bin in range(COLOURS):
            histograms[region, bin] = row[bin] * colour
        for bin in range(COLOURS, FEATURES):
            histograms[region, bin] = row[bin] * texture
    return histograms, sizes, boxes
