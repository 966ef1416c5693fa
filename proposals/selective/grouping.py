"""Hierarchical grouping (IJCV 2013, algorithm 1): merge the two most similar neighbours until one region is left.

The similarities of neighbours lie in a heap; pairs of which one region is gone are dropped when they come up. Left
open in the paper and chosen here: regions are neighbours when pixels of theirs touch, corners included; of equally
similar pairs the one that was found first is merged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from proposals.compiled import compiled
from proposals.selective.features import COLOURS, FEATURES

COLOUR, TEXTURE, SIZE, FILL = 1, 2, 4, 8  # similarities; a set of them is a sum

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int32]


def neighbours(labels: Ints, count: int) -> Ints:
    """Return the pairs of touching regions [P, 2], the lower label first, in the order in which they are met."""
    return _neighbours(labels, count)


def group(
    histograms: npt.NDArray[np.float32], sizes: Ints, boxes: Ints, pairs: Ints, pixels: int, similarities: int
) -> tuple[Ints, Ints]:
    """Return the boxes [2R - 1, 4] and parents [2R - 1] of the hierarchy over R regions.

    Regions 0 .. R - 1 are the given ones, region R + i is the i-th merge, the last one is the whole picture and its
    own parent. pixels: of the picture; similarities: a sum of COLOUR, TEXTURE, SIZE and FILL.
    """
    return _group(histograms, sizes, boxes, pairs, pixels, similarities)


@compiled
def _neighbours(labels: Array, count: int) -> Array:
    height, width = labels.shape
    first = np.full(count, np.int32(-1))  # of the list of each region's neighbours with a higher label
    following = np.empty(8 * count + 16, np.int32)
    pairs = np.empty((8 * count + 16, 2), np.int32)
    found = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            for step in range(4):
                v, u = (y, x + 1) if step == 0 else (y + 1, x + step - 2)
                if v >= height or u < 0 or u >= width:
                    continue
                there = labels[v, u]
                if here == there:
                    continue
                low, high = min(here, there), max(here, there)
                entry = first[low]
                while entry >= 0 and pairs[entry, 1] != high:
                    entry = following[entry]
                if entry >= 0:
                    continue
                if found == len(pairs):
                    larger = np.empty((2 * found, 2), np.int32)
                    larger[:found] = pairs
                    pairs = larger
                    longer = np.empty(2 * found, np.int32)
                    longer[:found] = following
                    following = longer
                pairs[found, 0], pairs[found, 1] = low, high
                following[found] = first[low]
                first[low] = found
                found += 1
    return pairs[:found].copy()


@compiled
def _similarity(
    histograms: Array, sizes: Array, boxes: Array, a: int, b: int, pixels: int, similarities: int
) -> np.float32:
    total = np.float32(0)
    first, last = 0 if similarities & COLOUR else COLOURS, FEATURES if similarities & TEXTURE else COLOURS
    x, y = histograms[a], histograms[b]
    for i in range(first, last):
        total += min(x[i], y[i])
    both = np.float32(sizes[a] + sizes[b])
    if similarities & SIZE:
        total += np.float32(1) - both / np.float32(pixels)
    if similarities & FILL:
        w = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
        h = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
        total += np.float32(1) - (np.float32(w) * np.float32(h) - both) / np.float32(pixels)
    return total


@compiled
def _push(heap: Array, keys: Array, length: int, pair: int) -> None:
    """Put `pair` into the heap of `length` pairs, the most similar and then the oldest on top."""
    i = length
    while i > 0:
        above = (i - 1) >> 1
        if keys[heap[above]] >= keys[pair]:  # pairs are pushed in the order of their numbers, so ties stay below
            break
        heap[i] = heap[above]
        i = above
    heap[i] = pair


@compiled
def _pop(heap: Array, keys: Array, length: int) -> Any:
    """Take the top of the heap of `length` pairs away and return it."""
    top, last = heap[0], heap[length - 1]
    length -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= length:
            break
        if child + 1 < length:
            left, right = heap[child], heap[child + 1]
            if keys[right] > keys[left] or (keys[right] == keys[left] and right < left):
                child += 1
        best = heap[child]
        if keys[last] > keys[best] or (keys[last] == keys[best] and last < best):
            break
        heap[i] = best
        i = child
    heap[i] = last
    return top


@compiled
def _root(owner: Array, region: int) -> int:
    while owner[region] != region:
        owner[region] = owner[owner[region]]
        region = owner[region]
    return region


@compiled
def _group(
    leaf_histograms: Array, leaf_sizes: Array, leaf_boxes: Array, leaf_pairs: Array, pixels: int, similarities: int
) -> tuple[Array, Array]:
    leaves = len(leaf_sizes)
    total = 2 * leaves - 1
    histograms = np.empty((total, FEATURES), np.float32)
    sizes = np.empty(total, np.int32)
    boxes = np.empty((total, 4), np.int32)
    histograms[:leaves], sizes[:leaves], boxes[:leaves] = leaf_histograms, leaf_sizes, leaf_boxes
    parent = np.arange(total).astype(np.int32)
    owner = np.arange(total).astype(np.int32)  # the living region that holds each region, by path halving
    seen = np.full(total, np.int32(-1))
    capacity = 4 * len(leaf_pairs) + 16
    pairs = np.empty((capacity, 2), np.int32)
    keys = np.empty(capacity, np.float32)
    heap = np.empty(capacity, np.int32)
    # the pairs of a region are a linked list over pair ends: end 2 p is the first region of pair p
    first = np.full(total, np.int32(-1))
    following = np.empty(2 * capacity, np.int32)
    count, length = 0, 0
    for i in range(len(leaf_pairs)):
        a, b = leaf_pairs[i]
        pairs[count, 0], pairs[count, 1] = a, b
        keys[count] = _similarity(histograms, sizes, boxes, a, b, pixels, similarities)
        following[2 * count], first[a] = first[a], 2 * count
        following[2 * count + 1], first[b] = first[b], 2 * count + 1
        _push(heap, keys, length, count)
        count += 1
        length += 1
    for new in range(leaves, total):
        while True:
            pair = _pop(heap, keys, length)
            length -= 1
            a, b = pairs[pair]
            if owner[a] == a and owner[b] == b:
                break
        sizes[new] = sizes[a] + sizes[b]
        share = np.float32(sizes[a]) / np.float32(sizes[new])
        rest = np.float32(1) - share
        for i in range(FEATURES):
            histograms[new, i] = histograms[a, i] * share + histograms[b, i] * rest
        boxes[new, 0], boxes[new, 1] = min(boxes[a, 0], boxes[b, 0]), min(boxes[a, 1], boxes[b, 1])
        boxes[new, 2], boxes[new, 3] = max(boxes[a, 2], boxes[b, 2]), max(boxes[a, 3], boxes[b, 3])
        parent[a] = parent[b] = new
        owner[a] = owner[b] = new
        seen[new] = new
        for old in (a, b):
            end = first[old]
            while end >= 0:
                other = _root(owner, pairs[end >> 1, 1 - (end & 1)])
                end = following[end]
                if seen[other] == new:
                    continue
                seen[other] = new
                if count == capacity:
                    capacity *= 2
                    pairs, keys = _longer_pairs(pairs), _longer(keys)
                    heap, following = _longer(heap), _longer(following)
                pairs[count, 0], pairs[count, 1] = other, new
                keys[count] = _similarity(histograms, sizes, boxes, other, new, pixels, similarities)
                following[2 * count], first[other] = first[other], 2 * count
                following[2 * count + 1], first[new] = first[new], 2 * count + 1
                _push(heap, keys, length, count)
                count += 1
                length += 1
    return boxes, parent


@compiled
def _longer(array: Array) -> Array:
    longer = np.empty(2 * len(array), array.dtype)
    longer[: len(array)] = array
    return longer


@compiled
def _longer_pairs(array: Array) -> Array:
    longer = np.empty((2 * len(array), 2), array.dtype)
    longer[: len(array)] = array
    return longer
