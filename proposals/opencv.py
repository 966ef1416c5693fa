"""Selective Search assembled from `cv2.ximgproc.segmentation`, to R-CNN's fast mode with the superpixel size doubled.

Colour spaces HSV and Lab x k = min_size in {50, 100} x superpixel scale x similarities {colour + texture + size +
fill, texture + size + fill}: 8 hierarchies from 4 segmentations. OpenCV ranks with C's `rand()`, so the order is
made here: see `_positions`. OpenCV's parts differ from the paper in two ways that cannot be changed from outside:
a 4-connected graph, and Scharr gradients on two rotations in place of Gaussian derivatives.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from proposals.images import Image, check_image
from proposals.selective.frame import from_frame, to_frame
from proposals.selective.ranking import priorities, rank, rank_scores
from proposals.types import SELECTIVE_SEARCH, Proposals, from_source

SIGMA = 0.8  # Gaussian smoothing (IJCV 2013; Felzenszwalb & Huttenlocher)
K_FAST = (50, 100)  # Matlab, fast mode, at superpixel scale 1; min_size = k
COLOUR_SPACES = (cv2.COLOR_RGB2HSV_FULL, cv2.COLOR_RGB2Lab)  # hue over all 256 values, so that it fills the histogram
MIN_FRAME_SIDE = 8  # a thinner frame has no region of 20 px; OpenCV's gradients need a few pixels

Rects = npt.NDArray[np.float64]


def selective_search_opencv(
    image: Image, superpixel_scale: int = 2, seed: int = 0, max_boxes: int | None = None
) -> Proposals:
    """Return the Selective Search proposals of one picture, the whole picture first.

    image: uint8 RGB [H, W, 3]; superpixel_scale: 1 as R-CNN, 2 as GoogLeNet (section 8); seed: of the ranking;
    max_boxes: keep only that many of the best. The same arguments give the same bytes.
    Raises: ValueError when `image` is not such an array.
    """
    check_image(image)
    frame = to_frame(image)
    height, width = frame.shape[:2]
    generator = np.random.default_rng(seed)
    rects = [np.array([[0, 0, width, height]], np.float64)]
    priority = [np.zeros(1)]
    if min(height, width) >= MIN_FRAME_SIDE:
        for colour_space in COLOUR_SPACES:
            picture = np.asarray(cv2.cvtColor(frame, colour_space), dtype=np.uint8)
            for k in K_FAST:
                found = _hierarchies(picture, k * superpixel_scale)
                rects.append(found)
                priority.append(priorities(_positions(found), generator))
    boxes = np.concatenate(rects)
    kept = rank(boxes, np.concatenate(priority), (width, height))[:max_boxes]
    return from_source(from_frame(boxes[kept], frame, image), rank_scores(len(kept)), SELECTIVE_SEARCH)


def _strategies() -> tuple[Any, Any]:
    """Return the two similarity sets of fast mode; new objects each time, since OpenCV's keep stale histograms."""
    s = cv2.ximgproc.segmentation
    colour = s.createSelectiveSearchSegmentationStrategyMultiple(
        s.createSelectiveSearchSegmentationStrategyColor(),
        s.createSelectiveSearchSegmentationStrategyTexture(),
        s.createSelectiveSearchSegmentationStrategySize(),
        s.createSelectiveSearchSegmentationStrategyFill(),
    )
    plain = s.createSelectiveSearchSegmentationStrategyMultiple(
        s.createSelectiveSearchSegmentationStrategyTexture(),
        s.createSelectiveSearchSegmentationStrategySize(),
        s.createSelectiveSearchSegmentationStrategyFill(),
    )
    return colour, plain


def _hierarchies(picture: npt.NDArray[np.uint8], k: int) -> Rects:
    """Return the distinct boxes [N, 4] of both hierarchies over one segmentation, largest first."""
    s = cv2.ximgproc.segmentation
    search = s.createSelectiveSearchSegmentation()
    search.addImage(picture)
    search.addGraphSegmentation(s.createGraphSegmentation(SIGMA, float(k), k))
    for strategy in _strategies():
        search.addStrategy(strategy)
    found = np.asarray(search.process(), dtype=np.float64).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)
    return found[np.lexsort((*found.T, -areas))]


def _positions(rects: Rects) -> npt.NDArray[np.float64]:
    """Return the position 1.. of each box in its hierarchy, the whole image first.

    OpenCV does not tell the order of its merges. A region's box holds the boxes of its parts, so falling area is an
    order in which a parent never comes after its parts; it stands in for the order of the merges.
    """
    return np.arange(1, len(rects) + 1, dtype=np.float64)
