"""The priors of MultiBox: k-means centroids of the training boxes, or fixed shapes on grids of several scales.

Priors are boxes in coordinates normalised to the picture: float32 xyxy, 0..1.
"""

from __future__ import annotations

import numpy as np

from proposals.boxes import Boxes, area, iou
from proposals.multibox.coding import normalised

N_INIT = 4  # starts of k-means; the one with the lowest inertia is kept
COVERED = 0.5  # IoU at which a prior covers a box; the criterion of PASCAL VOC

# arXiv:1412.1441 has 11 priors on each cell of these grids, and one for the whole picture, but does not give their
# shapes; here a cell has three sizes, each a step larger, at three aspects, and two elongated ones of middle size
GRIDS = (8, 6, 4, 3, 2)
STEP = 1.45
ASPECTS = (0.5, 1.0, 2.0)  # width / height
ELONGATED = (1 / 3, 3.0)
WHOLE_SIDE = 0.95  # of the single prior of the whole picture, in sides of the picture


def kmeans_priors(boxes: Boxes, count: int, seed: int) -> Boxes:
    """Return `count` priors, the centroids of k-means over the corner coordinates of `boxes` (Erhan et al., section 3).

    Shapes: boxes [N, 4], normalised to 0..1 -> float32 [count, 4], by rising area, then corners. Boxes without area
    do not take part. k-means is Lloyd's, the best of `N_INIT` starts, all drawn from `seed`.
    Raises: ValueError for boxes outside 0..1, count < 1, or fewer distinct boxes than `count`.
    """
    from sklearn.cluster import KMeans  # heavy, and only needed before a training

    boxes = normalised(boxes)
    boxes = boxes[area(boxes) > 0]
    distinct = len(np.unique(boxes, axis=0))
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if distinct < count:
        raise ValueError(f"{count} priors need as many distinct boxes, there are {distinct}; ask for fewer priors")
    clusters = KMeans(count, n_init=N_INIT, random_state=seed, algorithm="lloyd").fit(boxes.astype(np.float64))
    # of a cluster of boxes on the border, a mean may exceed 1 by rounding
    priors = np.clip(np.asarray(clusters.cluster_centers_), 0, 1).astype(np.float32)
    priors = priors[np.lexsort((*priors.T[::-1], area(priors)))]
    return np.ascontiguousarray(priors, dtype=np.float32)


def multiscale_priors() -> Boxes:
    """Return the 1,420 priors of the multi-scale variant (arXiv:1412.1441), grid by grid, row by row.

    Shapes: -> float32 [1420, 4], normalised, cut to the picture, all distinct. On a grid of n x n the sizes (roots of
    the areas before the cut) are 1/n, 1.45/n and 1.45^2/n at width / height 1/2, 1 and 2; size 1.45/n also at 1/3, 3.
    """
    shapes = [(STEP**power, aspect) for power in range(3) for aspect in ASPECTS]
    shapes += [(STEP, aspect) for aspect in ELONGATED]
    sizes, aspects = np.array(shapes).T
    sides = np.stack([sizes * np.sqrt(aspects), sizes / np.sqrt(aspects)], axis=1)  # [11, 2] in cells
    every = []
    for cells in GRIDS:
        ticks = (np.arange(cells) + 0.5) / cells
        centres = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 1, 2)  # [cells^2, 1, 2], x fastest
        half = sides / cells / 2
        every.append(np.concatenate([centres - half, centres + half], axis=2).reshape(-1, 4))
    every.append(0.5 + np.array([[-1, -1, 1, 1]]) * WHOLE_SIDE / 2)
    return np.asarray(np.clip(np.concatenate(every), 0, 1), dtype=np.float32)


def prior_coverage(priors: Boxes, boxes: Boxes) -> float:
    """Return the share of `boxes` that have an IoU of at least 0.5 with some prior; nan without boxes.

    Shapes: priors [K, 4], boxes [N, 4], both normalised to 0..1 -> 0..1. Raises: ValueError for boxes outside 0..1.
    """
    overlaps = iou(normalised(priors), normalised(boxes))  # [K, N]
    return float((overlaps >= COVERED).any(axis=0).mean()) if overlaps.shape[1] else float("nan")
