"""R-CNN's object category classifiers: one linear SVM a class on the network's features, with hard negative mining.

Source: R-CNN, arXiv 1311.2524v5, section 2.3 and appendix B, and `rcnn_train.m`. Two things are added: a picture gives
negatives only to the classes that its data set labels exhaustively, and none close to an object whose class cannot be
told. A region is stored once, however many classes find it hard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from detector.training.options import SvmOptions
from detector.training.picture_features import (
    PictureFeatures,
    Pictures,
    ambiguous_overlaps,
    class_overlaps,
    each_picture,
    feature_norms,
    feature_scale,
)
from proposals.boxes import Floats, Indices, Mask

NEVER = -100.0  # margin of a class that cannot be trained: R-CNN's 0 would find it everywhere; real ones are about +-5


@dataclass(frozen=True, eq=False)
class SvmHead:
    """The SVMs of C classes on unscaled features: weights float32 [C, D], bias float32 [C]."""

    weights: Floats
    bias: Floats

    @property
    def trained(self) -> Mask:
        """Which classes have an SVM, bool [C]; the margin of the others is NEVER."""
        return np.asarray(self.bias > NEVER)


def svm_margins(head: SvmHead, features: Floats) -> Floats:
    """Return how far each region lies on the side of each class: features [N, D], unscaled -> float32 [N, C]."""
    return np.asarray(features @ head.weights.T + head.bias, dtype=np.float32)


def train_svms(
    pictures: Pictures, classes: int, options: SvmOptions, advance: Callable[[int], None] = lambda steps: None
) -> SvmHead:
    """Train the SVM of each of `classes` classes over all pictures.

    Positives are the ground-truth rows alone. Negatives are the regions of IoU < 0.3 with every object of the class,
    where the picture's data set knows the class: all of the first such picture, then those beyond the margin. A class
    is trained again after more than 2,000 new negatives, and once at the end if any came; easy ones leave after that.
    A class without positives, or without negatives, has weights 0 and the bias NEVER.
    The pictures are gone through twice, `advance` being called with 1 after each: for the positives and the mean norm,
    then for the negatives. Memory: the positives, and each negative that a class holds, D float32 numbers each.
    Raises: ValueError for pictures that do not fit together, or that are gone at the second time.
    """
    rows: list[list[Floats]] = [[] for _ in range(classes)]
    norms, regions, count, length = 0.0, 0, 0, 0
    for picture in each_picture(pictures, classes):
        for label in np.unique(picture.labels[picture.labels > 0]):
            rows[label - 1].append(picture.features[picture.labels == label])
        norms, regions = norms + feature_norms(picture), regions + len(picture)
        count, length = count + 1, picture.features.shape[1]
        advance(1)
    scale = np.float32(feature_scale(norms, regions, options.target_norm))
    mining = _Mining(classes, length, options)
    for column, found in enumerate(rows):
        if found:
            mining.positives[column] = np.concatenate(found) * scale
        found.clear()
    for picture in each_picture(pictures, classes):
        mining.add(picture, scale)
        count -= 1
        advance(1)
    if count:
        raise ValueError("the pictures differ at the second time; pass a sequence, or a function that starts again")
    mining.finish()
    return SvmHead(mining.weights * scale, mining.bias)


def negatives(picture: PictureFeatures, limit: float) -> Mask:
    """Return which regions are negatives of which classes: bool [N, C].

    Those whose IoU with every object of the class is below `limit`, where the class is known, except regions that
    overlap an ambiguous object so far: it may be of the class, or not.
    """
    clear = ambiguous_overlaps(picture) < limit  # [N]
    return np.asarray((class_overlaps(picture) < limit) & picture.known & clear[:, None])


@dataclass
class _Store:
    """Features of the negatives in use; a row is free again when no class holds it any more."""

    rows: Floats  # [capacity, D], scaled
    holders: Indices = field(default_factory=lambda: np.zeros(0, np.int64))  # [capacity], classes that hold the row

    def add(self, features: Floats, holders: Indices) -> Indices:
        """Store features [K, D], held by so many classes each, and return their places [K]."""
        free = np.flatnonzero(self.holders == 0)
        if len(free) < len(features):
            more = max(len(features) - len(free), len(self.holders) // 2)
            free = np.concatenate([free, np.arange(len(self.holders), len(self.holders) + more)])
            self.rows = np.concatenate([self.rows, np.zeros((more, self.rows.shape[1]), np.float32)])
            self.holders = np.concatenate([self.holders, np.zeros(more, np.int64)])
        places = free[: len(features)]
        self.rows[places], self.holders[places] = features, holders
        return places


class _Mining:
    """The state of the hard negative mining: of each class the positives, the negatives held, and the present SVM."""

    def __init__(self, classes: int, length: int, options: SvmOptions) -> None:
        self.options = options
        self.positives = [np.zeros((0, length), np.float32)] * classes  # scaled
        self.held = [np.zeros(0, np.int64)] * classes  # places in the store
        self.added = np.zeros(classes, np.int64)  # since the class was last trained
        self.store = _Store(np.zeros((0, length), np.float32))
        self.weights = np.zeros((classes, length), np.float32)
        self.bias = np.full(classes, NEVER, np.float32)
        self.trained = np.zeros(classes, np.bool_)

    def add(self, picture: PictureFeatures, scale: np.float32) -> None:
        """Give the picture's hard negatives to the classes, and train those that are new or have enough of them."""
        features = picture.features * scale
        margins = features @ self.weights.T + self.bias  # [N, C], all by the SVMs from before this picture
        hard = negatives(picture, self.options.negative_iou) & (~self.trained | (margins > self.options.hard))
        hard &= np.array([len(rows) > 0 for rows in self.positives], np.bool_)
        rows = np.flatnonzero(hard.any(axis=1))
        places = self.store.add(features[rows], hard[rows].sum(axis=1))
        for column in np.flatnonzero(hard.any(axis=0)).tolist():
            new = places[hard[rows, column]]
            self.held[column] = np.concatenate([self.held[column], new])
            self.added[column] += len(new)
            if not self.trained[column] or self.added[column] > self.options.retrain_after:
                self.train(column)

    def finish(self) -> None:
        """Train every class that has received negatives since it was last trained."""
        for column in np.flatnonzero(self.added).tolist():
            self.train(column)

    def train(self, column: int) -> None:
        """Train the SVM of a class on its positives and the negatives it holds, and let go of the easy ones."""
        positives, held = self.positives[column], self.held[column]
        rows = self.store.rows[held]
        weights, bias = fit_svm(positives, rows, self.options)
        self.weights[column], self.bias[column] = weights, bias
        self.trained[column], self.added[column] = True, 0
        easy = rows @ weights + bias < self.options.easy
        self.store.holders[held[easy]] -= 1  # a class holds a place once
        self.held[column] = held[~easy]


def fit_svm(positives: Floats, negatives: Floats, options: SvmOptions) -> tuple[Floats, np.float32]:
    """Return (weights [D], bias) of the linear SVM between scaled positives [P, D] and negatives [K, D], both P, K > 0.

    liblinear's L2-regularised hinge loss (its solver 3), the bias being the weight of one more constant feature.
    """
    from sklearn.svm import LinearSVC  # takes a second to import

    solver = LinearSVC(
        loss="hinge",
        C=options.c,
        class_weight={1: options.positive_weight},
        intercept_scaling=options.bias,
        dual=True,
        tol=options.tolerance,
        max_iter=options.max_iterations,
        random_state=options.seed,
    )
    solver.fit(np.concatenate([positives, negatives]), np.repeat([1, -1], [len(positives), len(negatives)]))
    return solver.coef_[0].astype(np.float32), np.float32(solver.intercept_[0])
