"""Felzenszwalb and Huttenlocher's graph segmentation (IJCV 2004), the superpixels of Selective Search.

As in the paper: Gaussian smoothing, an 8-connected grid, the Euclidean distance of the colours as the weight of an
edge, edges in rising order, two components merge while the weight is within each one's internal variation plus
k / size; then components below `min_size` merge across their cheapest edge. Left open there and chosen here:

- Weights are fixed-point numbers of 2^-18 grey levels, sorted by a radix sort in two passes; equal ones stay in scan
  order. They have to be that fine: k / size of a large component is a small number. Smoothing, weights and order are
  shared by all k of a picture.
- Which pixels belong to a component is kept as a label a pixel; a merge relabels the smaller one through a circular
  list. Finding a component is then one load, and the edges inside components are sorted out in
  chunks without a branch.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from proposals.compiled import compiled

SIGMA = 0.8  # smoothing (IJCV 2013, section 5; R-CNN)
RADIUS = 4  # of the Gaussian window, ceil(4 sigma) as in the authors' code
FRACTION = 18  # bits of a weight behind the point; with the 9 before it (255 sqrt(3) = 441.7) a key has 27
DIGIT = 14  # bits that one pass of the sort looks at
EDGE_BITS = 22  # of an edge's number: 4 directions of up to 2^20 pixels
CHUNK = 2048  # edges that are looked at together

Array = npt.NDArray[Any]
Labels = npt.NDArray[np.int32]  # [H, W], 0 .. regions - 1 in the order of their first pixels
Edges = npt.NDArray[np.uint64]  # [E], in rising order: the weight above EDGE_BITS, the edge's number below


def sorted_edges(picture: npt.NDArray[np.uint8], connectivity: int = 8) -> Edges:
    """Return the edges of the grid over the smoothed `picture` [H, W, 3] in rising order of weight.

    The number of an edge is 4 x (its pixel, y W + x) + its direction (0 right, 1 down left, 2 down, 3 down right).
    connectivity: 8, or 4 without the diagonals.
    """
    size = (2 * RADIUS + 1, 2 * RADIUS + 1)
    channels = [cv2.GaussianBlur(c.astype(np.float32), size, SIGMA) for c in cv2.split(picture)]
    weights = np.zeros((4, *picture.shape[:2]), np.int32)
    _weigh(np.stack(channels), weights)
    return _sort(_number(weights, connectivity == 8))


def segment(edges: Edges, shape: tuple[int, int], k: float, min_size: int) -> tuple[Labels, int]:
    """Return the label map [H, W] and the number of regions of a picture whose `sorted_edges` are given."""
    height, width = shape
    labels, count = _merge(edges, width, height * width, k, min_size)
    return labels.reshape(height, width), int(count)


@compiled
def _weigh(c: Array, weights: Array) -> None:
    """Fill `weights` int32 [4, H, W], a plane a direction, with the colour distances of `c` float32 [3, H, W]."""
    height, width = c.shape[1:]
    one = np.float32(1 << FRACTION)
    for y in range(height):
        for x in range(width - 1):
            r, g, b = c[0, y, x + 1] - c[0, y, x], c[1, y, x + 1] - c[1, y, x], c[2, y, x + 1] - c[2, y, x]
            weights[0, y, x] = np.int32(np.sqrt(r * r + g * g + b * b) * one)
    for y in range(height - 1):
        for x in range(width - 1):
            r, g, b = c[0, y + 1, x] - c[0, y, x + 1], c[1, y + 1, x] - c[1, y, x + 1], c[2, y + 1, x] - c[2, y, x + 1]
            weights[1, y, x + 1] = np.int32(np.sqrt(r * r + g * g + b * b) * one)
        for x in range(width):
            r, g, b = c[0, y + 1, x] - c[0, y, x], c[1, y + 1, x] - c[1, y, x], c[2, y + 1, x] - c[2, y, x]
            weights[2, y, x] = np.int32(np.sqrt(r * r + g * g + b * b) * one)
        for x in range(width - 1):
            r, g, b = c[0, y + 1, x + 1] - c[0, y, x], c[1, y + 1, x + 1] - c[1, y, x], c[2, y + 1, x + 1] - c[2, y, x]
            weights[3, y, x] = np.int32(np.sqrt(r * r + g * g + b * b) * one)


@compiled
def _number(weights: Array, diagonals: bool) -> Array:
    """Return the edges uint64 [E] of all pixels in scan order, each with its weight on top."""
    _, height, width = weights.shape
    edges = np.empty(4 * height * width, np.uint64)
    bits = np.uint64(EDGE_BITS)
    count = 0
    number = np.uint64(0)
    for y in range(height):
        below = y < height - 1
        for x in range(width):
            right = x < width - 1
            if right:
                edges[count] = np.uint64(weights[0, y, x]) << bits | number
                count += 1
            if below:
                if diagonals and x > 0:
                    edges[count] = np.uint64(weights[1, y, x]) << bits | number | np.uint64(1)
                    count += 1
                edges[count] = np.uint64(weights[2, y, x]) << bits | number | np.uint64(2)
                count += 1
                if diagonals and right:
                    edges[count] = np.uint64(weights[3, y, x]) << bits | number | np.uint64(3)
                    count += 1
            number += np.uint64(4)
    return edges[:count]


@compiled
def _sort(edges: Array) -> Array:
    """Return `edges` in rising order of weight: a radix sort from the lower digit of the key to the higher."""
    mask = np.uint64((1 << DIGIT) - 1)
    low, high = np.uint64(EDGE_BITS), np.uint64(EDGE_BITS + DIGIT)
    places = np.zeros((2, 1 << DIGIT), np.int64)
    for edge in edges:
        places[0, np.int64(edge >> low & mask)] += 1
        places[1, np.int64(edge >> high & mask)] += 1
    for digit in range(2):
        total = 0
        for bucket in range(1 << DIGIT):
            count = places[digit, bucket]
            places[digit, bucket] = total
            total += count
    half, whole = np.empty_like(edges), np.empty_like(edges)
    for edge in edges:
        value = np.int64(edge >> low & mask)
        half[places[0, value]] = edge
        places[0, value] += 1
    for edge in half:
        value = np.int64(edge >> high & mask)
        whole[places[1, value]] = edge
        places[1, value] += 1
    return whole


@compiled
def _merge(edges: Array, width: int, count: int, k: float, min_size: int) -> tuple[Array, np.int32]:
    """Return labels int32 [count] and the number of regions."""
    label = np.arange(count).astype(np.uint32)
    following = label.copy()  # the next pixel of the same component, in a circle
    size = np.ones(count, np.int32)
    limit = np.full(count, np.float32(k))  # internal variation + k / size
    steps = np.array([1, width - 1, width, width + 1]).astype(np.uint32)
    unit = np.float32(1 / (1 << FRACTION))
    inside = np.uint64((1 << EDGE_BITS) - 1)
    opened = np.empty(CHUNK, np.uint64)
    refused = np.empty(len(edges) + 1, np.uint32)
    kept = 0
    for start in range(0, len(edges), CHUNK):
        found = 0
        for i in range(start, min(len(edges), start + CHUNK)):  # without a branch: which do not lie in a component?
            number = np.uint32(edges[i] & inside)
            p = number >> np.uint32(2)
            opened[found] = edges[i]
            found += 1 if label[p] != label[p + steps[number & np.uint32(3)]] else 0
        for i in range(found):
            number = np.uint32(opened[i] & inside)
            p = number >> np.uint32(2)
            a, c = label[p], label[p + steps[number & np.uint32(3)]]
            if a == c:
                continue
            weight = np.float32(np.int64(opened[i] >> np.uint64(EDGE_BITS))) * unit
            if weight > limit[a] or weight > limit[c]:
                refused[kept] = number
                kept += 1
                continue
            if size[a] < size[c]:
                a, c = c, a
            size[a] += size[c]
            limit[a] = weight + np.float32(k) / np.float32(size[a])
            _join(label, following, a, c)
    for i in range(kept):  # edges inside a component cannot matter here, so only the refused ones are seen again
        p = refused[i] >> np.uint32(2)
        a, c = label[p], label[p + steps[refused[i] & np.uint32(3)]]
        if a != c and min(size[a], size[c]) < min_size:
            if size[a] < size[c]:
                a, c = c, a
            size[a] += size[c]
            _join(label, following, a, c)
    order = np.full(count, np.int32(-1))
    labels = np.empty(count, np.int32)
    regions = np.int32(0)
    for pixel in range(count):
        a = label[pixel]
        if order[a] < 0:
            order[a] = regions
            regions += np.int32(1)
        labels[pixel] = order[a]
    return labels, regions


@compiled
def _join(label: Array, following: Array, a: int, c: int) -> None:
    """Give the pixels of component `c` the label `a`, and make one circle of the two."""
    pixel = c
    while True:
        label[pixel] = a
        pixel = following[pixel]
        if pixel == c:
            break
    following[a], following[c] = following[c], following[a]
