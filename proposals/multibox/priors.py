"""MultiBox's priors, and boxes as residuals from them (Szegedy et al., arXiv:1412.1441).

Small shapes stand on the cells of a fine grid, large ones on those of a coarse grid; shapes are k-means centroids of
the widths and heights of the training boxes. A prior on a cell at the border reaches beyond the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proposals.boxes import Boxes, Floats

N_INIT = 4  # starts of k-means; the one with the lowest inertia is kept
STD = 0.2  # of a residual, in sides of the prior: a matched box (IoU >= 0.5) then lies within 2 or so
SMALL = 0.12  # root of the area, in sides of the picture, up to which boxes shape the fine grid's priors (54 of 448 px)
LARGE = 0.1  # from which they shape the coarse grid's; both know what lies between
THINNEST = 0.01  # side below which a box shapes no prior


def kmeans_shapes(boxes: Boxes, count: int, seed: int, low: float = 0.0, high: float = 2.0) -> Floats:
    """Return `count` widths and heights, centroids of k-means over the logarithms of those of `boxes`.

    Shapes: boxes [N, 4], normalised to 0..1 -> float32 [count, 2], by rising area. low, high: only boxes with a root of
    the area in low..high, below high. Raises: ValueError for fewer distinct boxes than `count`.
    """
    from sklearn.cluster import KMeans  # heavy, and only needed before a training

    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    sides = sides[(sides > THINNEST).all(axis=1)]
    roots = np.sqrt(sides.prod(axis=1))
    sides = sides[(roots >= low) & (roots < high)]
    distinct = len(np.unique(sides, axis=0))
    if count < 1 or distinct < count:
        raise ValueError(
            f"{count} shapes of priors need as many distinct boxes with a root of the area in {low:g}..{high:g} of the "
            f"picture's, there are {distinct}"
        )
    found = np.exp(KMeans(count, n_init=N_INIT, random_state=seed).fit(np.log(sides)).cluster_centers_)
    return np.ascontiguousarray(found[np.argsort(found.prod(axis=1), kind="stable")], np.float32)


def grid_priors(grids: Sequence[tuple[int, int]], shapes: Sequence[Floats]) -> Boxes:
    """Return a prior of each shape on the centre of each cell: grid by grid, row by row, cell by cell.

    grids: rows and columns of each; shapes: of each grid [A, 2], widths and heights, normalised -> float32 [K, 4],
    normalised, not cut to the picture.
    """
    every = []
    for (rows, columns), sides in zip(grids, shapes, strict=True):
        x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        half = sides.astype(np.float64)[None] / 2
        every.append(np.concatenate([centres - half, centres + half], axis=2).reshape(-1, 4))
    return np.concatenate([np.zeros((0, 4)), *every]).astype(np.float32)


def encode(boxes: Boxes, priors: Boxes) -> Floats:
    """Return the residuals of normalised `boxes` from `priors`: [K, 4], [K, 4] -> float32 [K, 4]."""
    return np.asarray((boxes - priors) / _deviations(priors), np.float32)


def decode(residuals: Floats, priors: Boxes) -> Boxes:
    """Return the normalised boxes that `residuals` from `priors` mean.

    Shapes: [K, 4], [K, 4] -> float32 [K, 4], cut to 0..1. Crossed corners are exchanged, so that x1 <= x2 and y1 <= y2
    always; a box may still have no area.
    """
    corners = np.clip(priors + residuals * _deviations(priors), 0, 1)
    low = np.minimum(corners[:, :2], corners[:, 2:])
    high = np.maximum(corners[:, :2], corners[:, 2:])
    return np.concatenate([low, high], axis=1).astype(np.float32, copy=False)


def _deviations(priors: Boxes) -> Floats:
    """Return what a residual of 1 is worth in each coordinate of `priors` [K, 4] -> float32 [K, 4]."""
    sides = priors[:, 2:] - priors[:, :2]
    return np.asarray(np.float32(STD) * np.tile(sides, 2), np.float32)
