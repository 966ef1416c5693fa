"""Which prior answers for which ground-truth box: a bipartite assignment, each box to one prior of its own.

Erhan et al. (CVPR 2014, section 3) assign by the predictions, minimising the whole loss, or, to train faster and with
more varied predictions, by the priors alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from proposals.boxes import Boxes, Indices, Mask, as_boxes
from proposals.multibox.coding import ALPHA, STD, offset

Costs = npt.NDArray[np.float64]


class Match(NamedTuple):
    """Pairs of a prior and a ground-truth box: two int64 arrays [M], M = min(K, G), by rising prior, none twice."""

    priors: Indices
    truth: Indices


def match_to_priors(priors: Boxes, truth: Boxes) -> Match:
    """Return the assignment with the least sum of squared distances between the corners of priors and ground truth.

    Shapes: priors [K, 4], truth [G, 4], in the same coordinates. With more ground truth than priors each prior gets
    one box, the cheapest set of them; without ground truth there is no pair. Raises: ValueError for no boxes.
    """
    return _assign(_squared_distances(as_boxes(priors), as_boxes(truth)))


def match_full_cost(
    locations: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    priors: Boxes,
    truth: Boxes,
    alpha: float = ALPHA,
    negatives: Mask | None = None,
) -> Match:
    """Return the assignment that minimises the loss of one picture, among those of min(K, G) pairs.

    Shapes: locations [K, 4] predicted residuals, logits [K], priors [K, 4] and truth [G, 4] normalised; negatives [K]:
    which priors have a negative confidence loss where they stay unmatched, None for all. A pair adds to the loss
    `alpha/2 * ||l - g||^2 - log c + log(1 - c)` = `alpha/2 * ||l - g||^2 - logit`; of a prior that is no negative the
    last term falls away, which leaves `- log c` = log(1 + exp(-logit)). No sigmoid is taken, so no logit is too large.
    Raises: ValueError for predictions that are not finite or have another shape, or no boxes.
    """
    priors, truth = as_boxes(priors), as_boxes(truth)
    if locations.shape != priors.shape or logits.shape != (len(priors),):
        raise ValueError(
            f"{len(priors)} priors need locations [{len(priors)}, 4] and logits [{len(priors)}], "
            f"got {list(locations.shape)} and {list(logits.shape)}"
        )
    if not (np.isfinite(locations).all() and np.isfinite(logits).all()):
        raise ValueError("a predicted location or logit is not a finite number; lower the learning rate")
    logits = logits.astype(np.float64)
    gain = logits if negatives is None else np.where(negatives, logits, -np.logaddexp(0, -logits))
    distances = _squared_distances(offset(locations.astype(np.float64), priors), truth) / STD**2
    return _assign(alpha / 2 * distances - gain[:, None])


def _squared_distances(a: npt.NDArray[np.floating], b: Boxes) -> Costs:
    """Return [K, G], the squared distances of [K, 4] and [G, 4]."""
    differences = a[:, None].astype(np.float64) - b[None]
    return np.asarray((differences**2).sum(axis=2), dtype=np.float64)


def _assign(costs: Costs) -> Match:
    rows, columns = linear_sum_assignment(costs)
    return Match(np.asarray(rows, np.int64), np.asarray(columns, np.int64))
