"""R-CNN's stages behind fine-tuning: linear SVMs in place of the softmax, and box regression beside it.

Both learn from the input of the classifier, kept on disk, of regions that are not mirrored; the network stays as it is.
The new weights file holds the arrays of the old one as they were, 8-bit intervals included, so that regions have the
same features at test. Source: R-CNN, arXiv 1311.2524v5, section 2.3 and appendices B and C, and its Matlab files.
Two things are added. A picture gives negatives only to the classes that its data set labels exhaustively, and none
close to an object of uncertain class. Classes of few boxes share one box regression.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detector.classes import BACKGROUND
from detector.datasets.class_maps import AMBIGUOUS
from detector.model import BOXES, SVM, Model, Spec
from detector.networks.layers import cut_after, layer_name
from detector.training.features import FeatureCache, fill_cache
from detector.training.options import BboxOptions, RegionOptions, SvmOptions
from detector.training.regions import IGNORED, RegionPool, Source
from detector.weights import load_weights, save_weights
from proposals.boxes import Boxes, Floats, Indices, Mask, box_targets, iou

NEVER = -100.0  # margin of a class that cannot be trained: R-CNN's 0 would find it everywhere; real ones are about +-5

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Picture:
    """N regions of one picture, ground truth first, and the G objects among C classes that lie in it.

    rows: of the features, N of them; boxes: float32 [N, 4], half-open pixels; labels: int64 [N], 1..C of a ground-truth
    row and 0 of a proposal; truth_boxes: float32 [G, 4]; truth_labels: int64 [G], 1..C, or AMBIGUOUS, which has no row;
    known: bool [C], the classes that the data set labels: an unlabelled region is none of them.
    """

    rows: slice
    boxes: Boxes
    labels: Indices
    truth_boxes: Boxes
    truth_labels: Indices
    known: Mask


@dataclass(frozen=True, eq=False)
class Examples:
    """What the heads learn from: pooled, unscaled features [R, D], read as needed, and the pictures that have them."""

    features: npt.NDArray[np.floating]
    pictures: Sequence[Picture]
    classes: int

    def of(self, rows: slice | Indices) -> Floats:
        """Return the features of `rows`, float32 [K, D]."""
        return self.features[rows].astype(np.float32)

    def scale(self, target: float, advance: Advance = lambda steps: None) -> np.float32:
        """Return the factor that brings the features to the mean norm `target`, at which C and lambda were chosen.

        `rcnn_scale_features.m` takes the mean over 200 regions of each of 200 pictures, here all count. `advance` is
        called with 1 after each picture. Raises: ValueError for features that are not finite.
        """
        norms, count = 0.0, 0
        for number, picture in enumerate(self.pictures):
            found = np.linalg.norm(self.of(picture.rows), axis=1)
            if not np.isfinite(found).all():
                raise ValueError(f"features of picture {number} are not finite; remove the cache, or use another model")
            norms, count = norms + float(found.sum(dtype=np.float64)), count + len(found)
            advance(1)
        return np.float32(target * count / norms if norms > 0 else 1.0)


def head_features(
    o: RegionOptions,
    model: Model,
    pool: RegionPool,
    folder: Path,
    note: Callable[[str], None],
    advance: Advance,
    device: str = "cpu",
) -> FeatureCache:
    """Return the features of all regions, float16 [N, D, 1, 1], none mirrored; errors as of `fill_cache`."""
    last = next(name for layer in reversed(model.layers[:-1]) if (name := layer_name(layer)))
    assert cut_after(model.layers, last) == len(model.layers) - 1  # the poolings go with it
    where = Path(o.cache) if o.cache else folder / "cache"
    return fill_cache(where, pool, model, last, o.cut_precision, o.pool_seed, note, advance, False, device)


def head_examples(pool: RegionPool, sources: Sequence[Source], cache: FeatureCache) -> Examples:
    """Return the pictures of the pool that could be read and have regions.

    Objects of uncertain class and crowds are ambiguous; objects of classes that are not detected are left out.
    """
    places = [{path: i for i, path in enumerate(source.truth.paths) if path is not None} for source in sources]
    starts = np.searchsorted(pool.pictures, np.arange(len(pool.paths) + 1)).tolist()
    pictures = []
    for number, path in enumerate(pool.paths):
        rows = slice(starts[number], starts[number + 1])
        if rows.start == rows.stop or not cache.scores[rows].any():  # scores are 0 where it could not be read
            continue
        source = sources[int(pool.sets[rows.start])]
        own = source.truth.of_picture(places[int(pool.sets[rows.start])][path])
        labels = np.where(source.truth.crowd[own] | (source.labels[own] == IGNORED), AMBIGUOUS, source.labels[own])
        objects = labels != BACKGROUND
        pictures.append(
            Picture(
                rows,
                pool.boxes[rows],
                np.where(pool.truth[rows], pool.labels[rows], 0),
                source.truth.boxes[own][objects].astype(np.float32),
                labels[objects],
                pool.known[number, 1:],
            )
        )
    if not pictures:
        raise ValueError("there is no picture to train on; check that the pictures can be read")
    return Examples(cache.features.reshape(len(pool), -1), pictures, len(pool.class_names))


@dataclass(frozen=True, eq=False)
class Svms:
    """The SVMs of C classes on unscaled features: weights float32 [C, D], bias float32 [C], NEVER without an SVM.

    stopped: bool [C], where the solver had not converged after `max_iterations`.
    """

    weights: Floats
    bias: Floats
    stopped: Mask

    @property
    def trained(self) -> Mask:
        """Which classes have an SVM, bool [C]."""
        return np.asarray(self.bias > NEVER)


def train_svms(examples: Examples, o: SvmOptions, advance: Advance = lambda steps: None) -> Svms:
    """Train one linear SVM a class with hard negative mining (section 2.3, appendix B, `rcnn_train.m`).

    Positives are the ground-truth rows alone. Negatives are the regions of IoU < 0.3 with every object of the class,
    where the picture's data set knows the class: all of the first such picture, then those beyond the margin. A class
    is trained again after more than 2,000 new negatives, and once at the end if any came; easy ones leave after that.
    A class without positives or without negatives is never found. `advance`: twice a picture. Memory: the features of
    one class's examples. Raises: ValueError for features that are not finite.
    """
    mining = Mining(examples, examples.scale(o.target_norm, advance), o)
    for picture in examples.pictures:
        mining.add(picture)
        advance(1)
    mining.finish()
    return Svms(mining.weights * mining.scale, mining.bias, mining.stopped)


class Mining:
    """The state of the hard negative mining: of each class the positives, the negatives held, and the present SVM."""

    def __init__(self, examples: Examples, scale: np.float32, o: SvmOptions) -> None:
        self.examples, self.scale, self.o = examples, scale, o
        classes, length = examples.classes, examples.features.shape[1]
        rows = np.concatenate([np.arange(p.rows.start, p.rows.stop) for p in examples.pictures])
        labels = np.concatenate([p.labels for p in examples.pictures])
        self.positives = [rows[labels == label] for label in range(1, 1 + classes)]  # rows of the features
        self.held = [np.zeros(0, np.int64)] * classes  # likewise
        self.added = np.zeros(classes, np.int64)  # since the class was last trained
        self.weights = np.zeros((classes, length), np.float32)  # on scaled features
        self.bias = np.full(classes, NEVER, np.float32)
        self.trained, self.stopped = np.zeros(classes, np.bool_), np.zeros(classes, np.bool_)

    def add(self, picture: Picture) -> None:
        """Give the picture's hard negatives to the classes, and train those that are new or have enough of them."""
        features = self.examples.of(picture.rows) * self.scale
        margins = features @ self.weights.T + self.bias  # [N, C], all by the SVMs from before this picture
        hard = negatives(picture, self.o.negative_iou) & (~self.trained | (margins > self.o.hard))
        hard &= np.array([len(rows) > 0 for rows in self.positives], np.bool_)
        for column in np.flatnonzero(hard.any(axis=0)).tolist():
            new = picture.rows.start + np.flatnonzero(hard[:, column])
            self.held[column] = np.concatenate([self.held[column], new])
            self.added[column] += len(new)
            if not self.trained[column] or self.added[column] > self.o.retrain_after:
                self.train(column)

    def finish(self) -> None:
        """Train every class that has received negatives since it was last trained."""
        for column in np.flatnonzero(self.added).tolist():
            self.train(column)

    def train(self, column: int) -> None:
        """Train the SVM of a class on its positives and the negatives it holds, and let go of the easy ones."""
        positives, others = (
            self.examples.of(rows) * self.scale for rows in (self.positives[column], self.held[column])
        )
        weights, bias, self.stopped[column] = fit_svm(positives, others, self.o)
        self.weights[column], self.bias[column] = weights, bias
        self.trained[column], self.added[column] = True, 0
        self.held[column] = self.held[column][others @ weights + bias >= self.o.easy]


def negatives(picture: Picture, limit: float) -> Mask:
    """Return which regions are negatives of which classes: bool [N, C].

    A region is a negative of a known class if its IoU with every object of the class, and with every ambiguous object,
    is below `limit`.
    """
    near = iou(picture.boxes, picture.truth_boxes) >= np.float32(limit)  # [N, G]
    found = np.repeat(picture.known[None], len(picture.boxes), axis=0)
    for label in np.unique(picture.truth_labels).tolist():
        touched = near[:, picture.truth_labels == label].any(axis=1)
        found[touched, slice(None) if label == AMBIGUOUS else label - 1] = False
    return found


def fit_svm(positives: Floats, negatives: Floats, o: SvmOptions) -> tuple[Floats, np.float32, bool]:
    """Return the linear SVM between scaled positives [P, D] and negatives [K, D], both P, K > 0.

    It is (weights [D], bias, whether the solver was stopped before it had converged). liblinear's L2-regularised hinge
    loss (its solver 3), the bias being the weight of one more constant feature.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC  # takes a second to import

    solver = LinearSVC(
        loss="hinge",
        C=o.c,
        class_weight={1: o.positive_weight},
        intercept_scaling=o.bias,
        dual=True,
        tol=o.tolerance,
        max_iter=o.max_iterations,
        random_state=o.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is in the result
        solver.fit(np.concatenate([positives, negatives]), np.repeat([1, -1], [len(positives), len(negatives)]))
    stopped = int(solver.n_iter_) >= o.max_iterations
    return solver.coef_[0].astype(np.float32), np.float32(solver.intercept_[0]), stopped


@dataclass(frozen=True, eq=False)
class BoxRegression:
    """The regressions of C classes on unscaled features: weights float32 [C, 4, D], bias float32 [C, 4].

    own, shared: bool [C], the classes that have one of their own, or the one of all classes; the others move no box.
    """

    weights: Floats
    bias: Floats
    own: Mask
    shared: Mask


def train_box_regression(examples: Examples, o: BboxOptions, advance: Advance = lambda steps: None) -> BoxRegression:
    """Train a ridge regression a class from a region's features to a better box (appendix C).

    A class of fewer than `shared_below` boxes gets one regression that is trained on all classes, of each as many
    regions on the average. A class keeps a sample of at most `max_pairs` regions; with fewer than `min_pairs` it moves
    no box. `advance`: twice a picture. Memory: the features of one sample. Raises: ValueError for features that are not
    finite.
    """
    scale, classes = examples.scale(o.target_norm, advance), examples.classes
    found = []
    for picture in examples.pictures:
        found.append(regression_pairs(picture, o.min_overlap))
        advance(1)
    rows, labels, targets = (np.concatenate(parts) for parts in zip(*found, strict=True))
    pairs = np.bincount(labels, minlength=1 + classes)
    boxes = np.bincount(np.concatenate([p.labels for p in examples.pictures]), minlength=1 + classes)[1:]
    shared = (boxes < o.shared_below) & (len(rows) >= o.min_pairs)
    own = (boxes >= o.shared_below) & (pairs[1:] >= o.min_pairs)
    length = examples.features.shape[1]
    weights, bias = np.zeros((classes, 4, length), np.float32), np.zeros((classes, 4), np.float32)

    def fit(chosen: Indices, chance: Floats | None, column: int) -> tuple[Floats, Floats]:
        if len(chosen) > o.max_pairs:
            rng = np.random.default_rng([o.seed, column])
            chosen = np.sort(rng.choice(chosen, o.max_pairs, replace=False, p=chance))
        slopes, offset = fit_ridge(examples.of(rows[chosen]) * scale, targets[chosen], o.ridge)
        return slopes * scale, offset

    for column in np.flatnonzero(own).tolist():
        weights[column], bias[column] = fit(np.flatnonzero(labels == 1 + column), None, column)
    if shared.any():
        chance = 1 / pairs[labels]  # of each class as many on the average
        weights[shared], bias[shared] = fit(np.arange(len(rows)), chance / chance.sum(), classes)
    return BoxRegression(weights, bias, own, shared)


def regression_pairs(picture: Picture, min_overlap: float) -> tuple[Indices, Indices, Floats]:
    """Return what can be learned from: (rows of the features [K], labels [K], targets [K, 4]).

    A region is paired with the object that it overlaps best, of any class (the first of equals), if their IoU is above
    `min_overlap` (`rcnn_train_bbox_regressor.m`); ground-truth rows are among them, with targets 0. The label is the
    object's. A region whose best object is ambiguous is left out.
    """
    overlaps = iou(picture.boxes, picture.truth_boxes)  # [N, G]
    if not overlaps.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    best = overlaps.argmax(axis=1)
    near = np.flatnonzero((overlaps.max(axis=1) > min_overlap) & (picture.truth_labels[best] > 0))
    objects = best[near]
    targets = box_targets(picture.boxes[near], picture.truth_boxes[objects])
    return picture.rows.start + near, picture.truth_labels[objects], targets


def fit_ridge(features: Floats, targets: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Return (weights [4, D], bias [4]), float64, of the ridge regression of the centred targets, the mean added.

    Shapes: features [K, D], scaled; targets [K, 4]; K > 0. Minimises |[X 1] B - (Y - mean)|^2 + ridge |B|^2, the bias
    being regularised as the others are. R-CNN whitens the targets besides, by T = (covariance + 0.001)^-1/2, and
    multiplies what comes out by T^-1: as ridge regression is linear in its targets, the two cancel.
    """
    from sklearn.linear_model import Ridge  # takes a second to import

    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype=np.float64)  # [K, D + 1]
    mean = targets.mean(axis=0, dtype=np.float64)
    found = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky").fit(inputs, targets - mean).coef_
    return found[:, :-1], found[:, -1] + mean


def check_model(o: RegionOptions, model: Model, class_names: tuple[str, ...]) -> None:
    """Raise ValueError, naming the cure, where the stage cannot begin from `model`."""
    _ = model.classifier  # raises for several networks in one file
    if isinstance(o, BboxOptions) and (model.outputs == "imagenet" or model.labels != class_names):
        raise ValueError(
            f"{o.model}: box regression goes with a classifier of background and the {len(class_names)} classes, which "
            "this is not; train one with python -m detector.train finetune or svm"
        )


def train_head(
    o: RegionOptions, model: Model, class_names: tuple[str, ...], examples: Examples, out: Path, advance: Advance
) -> str:
    """Train the SVMs or the box regression, write the weights file `out`; return what came of it."""
    classes, head, svm = len(class_names), model.classifier.name, isinstance(o, SvmOptions)
    arrays = dict(load_weights(model).arrays)
    if isinstance(o, SvmOptions):
        svms = train_svms(examples, o, advance)
        if model.outputs == "imagenet" or model.labels != class_names:  # a box regression of other classes
            arrays = {name: array for name, array in arrays.items() if not name.startswith(f"{BOXES}.")}
        arrays = {name: array for name, array in arrays.items() if not name.startswith(f"{head}.")}
        arrays[f"{head}.weight"] = np.concatenate([np.zeros_like(svms.weights[:1]), svms.weights])[:, :, None, None]
        arrays[f"{head}.bias"] = np.concatenate([np.zeros(1, np.float32), svms.bias])
        told = f"{int(svms.trained.sum()):,} of {classes:,} classes have an SVM; the others are never detected"
        if svms.stopped.any():
            told += f"; of {int(svms.stopped.sum()):,} the solver stopped at max_iterations"
    else:
        assert isinstance(o, BboxOptions)
        found = train_box_regression(examples, o, advance)
        arrays[f"{BOXES}.weight"] = found.weights.reshape(4 * classes, -1).astype(np.float16)
        arrays[f"{BOXES}.bias"] = found.bias.reshape(4 * classes)
        own, shared = int(found.own.sum()), int(found.shared.sum())
        told = f"{own:,} of {classes:,} classes have a box regression of their own, {shared:,} share one of all classes"
        if own + shared < classes:
            told += "; the boxes of the others stay where they are"
    save_weights(
        out,
        arrays,
        Spec(
            network=model.network,
            size=model.size,
            mean=model.mean,
            scale=model.scale,
            sharpness=0.0 if svm else model.sharpness,
            classes=1 + classes,
            width=model.width,
            norm=model.norm,
            class_names=class_names if o.classes == "own" else (),
            head=SVM if svm else model.head,
        ),
    )
    return told
