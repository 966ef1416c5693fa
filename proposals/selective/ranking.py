"""From hierarchies to ranked proposals: R-CNN's random priorities, size filter and removal of duplicates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Floats, Indices
from proposals.selective.frame import MIN_SIDE


def priorities(positions: npt.NDArray[np.number], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the priority of each box: its position in the hierarchy (1: whole image) times a uniform number.

    Selective Search (IJCV 2013, section 4.2): the randomness keeps large regions from crowding out all others.
    """
    return np.asarray(positions, np.float64) * generator.random(len(positions))


def rank(boxes: npt.NDArray[np.number], priority: npt.NDArray[np.float64], frame_size: tuple[int, int]) -> Indices:
    """Return the indices of the boxes that stay, best (lowest priority) first.

    Shapes: boxes [N, 4] in whole pixels of the 500-px frame of `frame_size` = (width, height), priority [N] -> [K].
    Boxes with a side below 20 px go, then repeated boxes (R-CNN's order of steps). The whole frame comes first, and
    stays whatever its size, so that every picture has a proposal.
    """
    width, height = frame_size
    whole = (boxes == np.array([0, 0, width, height])).all(axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    order = np.lexsort((np.arange(len(boxes)), priority, ~whole))
    order = order[((sides >= MIN_SIDE).all(axis=1) | whole)[order]]
    corners = boxes[order].astype(np.int64)
    keys = corners @ (1 << np.array([0, 16, 32, 48], np.int64))  # one integer a box: coordinates stay below 2^15
    _, first = np.unique(keys, return_index=True)
    return np.asarray(order[np.sort(first)], dtype=np.int64)


def rank_scores(count: int) -> Floats:
    """Return scores 1 .. 1/count for `count` ranked boxes: an order, not a probability."""
    return (1 - np.arange(count, dtype=np.float32) / np.float32(max(count, 1))).astype(np.float32)
