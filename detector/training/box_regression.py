"""R-CNN's bounding-box regression: a ridge regression a class from a region's features to a better box.

Source: R-CNN, arXiv 1311.2524v5, appendix C, and `rcnn_train_bbox_regressor.m`: features of mean norm 20 with a
constant one as bias (regularised as the others are), and the targets of each class centred, so that the bias need
not bear their mean. R-CNN whitens them besides, by T = (covariance + 0.001)^-1/2, and multiplies what comes out by
T^-1: ridge regression being linear in its targets, the two cancel, and nothing is left of them here. GoogLeNet's
entry of 2014 used no box regression, "due to lack of time".

All pairs' features would not fit into memory, nor would the normal equations of every class (200 classes of 2,049 x
2,049 doubles: 6.7 GB); so each class keeps at most `max_pairs` pairs, a uniform sample of all, and is solved at the
end, through the smaller of the matrices of pairs and of features. Up to `max_pairs` nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.training.options import BboxOptions
from detector.training.picture_features import (
    PictureFeatures,
    Pictures,
    each_picture,
    feature_norms,
    feature_scale,
)
from proposals.box_coding import box_targets
from proposals.boxes import Floats, Indices, iou

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BoxRegressor:
    """The regressions of C classes on unscaled features: weights float32 [C, 4, D], bias float32 [C, 4]."""

    weights: Floats
    bias: Floats


def predicted_targets(regressor: BoxRegressor, features: Floats) -> Floats:
    """Return the targets, for `apply_targets`, of each region as each class: features [N, D] -> float32 [N, C, 4]."""
    classes, _, length = regressor.weights.shape
    moves = features @ regressor.weights.reshape(classes * 4, length).T  # one product for all classes
    return np.asarray(moves.reshape(-1, classes, 4) + regressor.bias, dtype=np.float32)


def train_box_regressor(
    pictures: Pictures,
    classes: int,
    options: BboxOptions,
    advance: Callable[[int], None] = lambda steps: None,
) -> BoxRegressor:
    """Train the box regression of each of `classes` classes over all pictures, gone through once.

    A class with fewer than `min_pairs` pairs has weights and bias 0: its boxes stay where they are. `advance` is
    called with 1 after each picture. Memory: see the head of the module. Raises: ValueError for pictures that do not
    fit together.
    """
    samples = [PairSample(options.max_pairs, np.random.default_rng([options.seed, c])) for c in range(classes)]
    norms, regions, length = 0.0, 0, 0
    for picture in each_picture(pictures, classes):
        rows, labels, targets = regression_pairs(picture, options.min_overlap)
        for label in np.unique(labels):
            chosen = labels == label
            samples[label - 1].add(picture.features[rows[chosen]], targets[chosen])
        norms, regions = norms + feature_norms(picture), regions + len(picture)
        length = picture.features.shape[1]
        advance(1)
    scale = feature_scale(norms, regions, options.target_norm)
    weights, bias = np.zeros((classes, 4, length), np.float32), np.zeros((classes, 4), np.float32)
    for column, sample in enumerate(samples):
        if sample.seen >= options.min_pairs:
            features, targets = sample.pairs()
            slopes, offset = fit_ridge(features * scale, targets, options.ridge)
            weights[column], bias[column] = slopes.T * scale, offset
    return BoxRegressor(weights, bias)


def regression_pairs(picture: PictureFeatures, min_overlap: float) -> tuple[Indices, Indices, Floats]:
    """Return the regions that lie close enough to an object to learn from: (rows [K], labels [K], targets [K, 4]).

    A region is paired with the object it overlaps best, of any class (the first of equals), if their IoU is above
    `min_overlap`; the ground-truth rows are among them, with targets 0. The label is the object's; a region whose
    best object is ambiguous is left out.
    """
    overlaps = iou(picture.boxes, picture.truth_boxes)  # [N, G]
    if not overlaps.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    best = overlaps.argmax(axis=1)
    rows = np.flatnonzero((overlaps.max(axis=1) > min_overlap) & (picture.truth_labels[best] > 0))
    objects = best[rows]
    return rows, picture.truth_labels[objects], box_targets(picture.boxes[rows], picture.truth_boxes[objects])


class PairSample:
    """At most `limit` of the pairs of one class, each pair seen being kept with the same chance.

    Reservoir sampling (Vitter 1985, algorithm R); up to `limit` pairs all are kept, in their order.
    """

    def __init__(self, limit: int, generator: np.random.Generator) -> None:
        self.seen = 0
        self._limit = limit
        self._generator = generator
        self._features: list[Floats] = []  # rows [D]
        self._targets: list[Floats] = []  # rows [4]

    def add(self, features: Floats, targets: Floats) -> None:
        """Offer pairs: features [K, D], targets [K, 4]."""
        turns = np.arange(self.seen, self.seen + len(features))
        places = np.where(turns < self._limit, turns, self._generator.integers(0, turns + 1))
        for place, row, target in zip(places.tolist(), features, targets, strict=True):
            if place >= self._limit:
                continue
            row, target = row.copy(), target.copy()  # not views, which would keep the whole picture
            if place == len(self._features):
                self._features.append(row)
                self._targets.append(target)
            else:
                self._features[place], self._targets[place] = row, target
        self.seen += len(features)

    def pairs(self) -> tuple[Floats, Floats]:
        """Return (features [K, D], targets [K, 4]) of the pairs kept, of which there must be one."""
        return np.stack(self._features), np.stack(self._targets)


def fit_ridge(features: Floats, targets: Floats, ridge: float) -> tuple[Doubles, Doubles]:
    """Return (weights [D, 4], bias [4]), float64, of the ridge regression of the centred targets, the mean added.

    Shapes: features [K, D], scaled; targets [K, 4]; K > 0. Minimises |[X 1] B - (Y - mean)|^2 + ridge |B|^2.
    """
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype=np.float64)  # [K, D + 1]
    mean = targets.mean(axis=0, dtype=np.float64)
    wanted = targets - mean
    if len(inputs) < inputs.shape[1]:  # fewer pairs than features: X^T (X X^T + ridge)^-1 Y is the same
        kernel = inputs @ inputs.T
        kernel.flat[:: len(kernel) + 1] += ridge
        answer = inputs.T @ np.linalg.solve(kernel, wanted)
    else:
        normal = inputs.T @ inputs
        normal.flat[:: len(normal) + 1] += ridge
        answer = np.linalg.solve(normal, inputs.T @ wanted)
    return answer[:-1], answer[-1] + mean
