"""R-CNN's stages `svm` and `bbox`: what is trained on the pooled features of a network that stays as it is.

The features are the input of its classifier, of regions that are not mirrored, kept on disk. The new weights file
holds the arrays of the old one as they were, 8-bit intervals included, so that regions have the same features at test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from detector.classes import BACKGROUND
from detector.datasets.class_maps import AMBIGUOUS
from detector.model import BOXES, SVM, Model, Spec
from detector.networks.layers import cut_after, layer_name
from detector.training.box_regression import train_box_regressor
from detector.training.features import FeatureCache, fill_cache
from detector.training.heads import train_svms
from detector.training.options import BboxOptions, RegionOptions, SvmOptions
from detector.training.picture_features import PictureFeatures
from detector.training.regions import IGNORED, RegionPool, Source
from detector.weights import load_weights, save_weights

Advance = Callable[[int], None]


def check_model(o: RegionOptions, model: Model, class_names: tuple[str, ...]) -> None:
    """Raise ValueError, naming the cure, where the stage cannot begin from `model`."""
    _ = model.classifier  # raises for several networks in one file
    if isinstance(o, BboxOptions) and (model.outputs == "imagenet" or model.labels != class_names):
        raise ValueError(
            f"{o.model}: box regression goes with a classifier of background and the {len(class_names)} classes, which "
            "this is not; train one with python -m detector.train finetune or svm"
        )


def pooled_features(
    o: RegionOptions, model: Model, pool: RegionPool, folder: Path, note: Callable[[str], None], advance: Advance
) -> FeatureCache:
    """Return the features of all regions, float16 [N, D, 1, 1], none mirrored; errors as of `fill_cache`."""
    last = next(name for layer in reversed(model.layers[:-1]) if (name := layer_name(layer)))
    assert cut_after(model.layers, last) == len(model.layers) - 1  # the poolings go with it
    where = Path(o.cache) if o.cache else folder / "cache"
    return fill_cache(where, pool, model, last, o.cut_precision, o.pool_seed, note, advance, mirror=False)


def picture_features(
    pool: RegionPool, sources: Sequence[Source], cache: FeatureCache
) -> Callable[[], Iterator[PictureFeatures]]:
    """Return what goes through the pictures of the pool, read as needed: those that could be read and have regions.

    Objects whose class cannot be told, and crowds, are ambiguous; objects of classes that are not detected are none.
    """
    places = [{path: i for i, path in enumerate(source.truth.paths) if path is not None} for source in sources]
    starts = np.searchsorted(pool.pictures, np.arange(len(pool.paths) + 1))

    def each() -> Iterator[PictureFeatures]:
        for picture, path in enumerate(pool.paths):
            rows = slice(int(starts[picture]), int(starts[picture + 1]))
            if rows.start == rows.stop or not cache.scores[rows].any():  # scores are 0 where it could not be read
                continue
            number = int(pool.sets[rows.start])
            truth = sources[number].truth
            own = truth.of_picture(places[number][path])
            labels = sources[number].labels[own]
            labels = np.where(truth.crowd[own] | (labels == IGNORED), AMBIGUOUS, labels)
            objects = labels != BACKGROUND
            yield PictureFeatures(
                features=cache.features[rows].reshape(rows.stop - rows.start, -1).astype(np.float32),
                boxes=pool.boxes[rows],
                labels=np.where(pool.truth[rows], pool.labels[rows], 0),
                truth_boxes=truth.boxes[own][objects].astype(np.float32),
                truth_labels=labels[objects],
                known=pool.known[picture, 1:],
            )

    return each


def train_head(
    o: RegionOptions,
    model: Model,
    class_names: tuple[str, ...],
    pictures: Callable[[], Iterator[PictureFeatures]],
    out: Path,
    advance: Advance,
) -> str:
    """Train the SVMs or the box regression on `pictures`, write the weights file `out`; return what came of it.

    `advance` is called with 1 after each picture, which the SVMs see twice.
    """
    weights, classes, head = load_weights(model), len(class_names), model.classifier.name
    arrays = dict(weights.arrays)
    if isinstance(o, SvmOptions):
        svms = train_svms(pictures, classes, o, advance)
        if model.outputs == "imagenet" or model.labels != class_names:  # a box regression of other classes
            arrays = {name: array for name, array in arrays.items() if not name.startswith(f"{BOXES}.")}
        arrays = {name: array for name, array in arrays.items() if not name.startswith(f"{head}.")}
        arrays[f"{head}.weight"] = np.concatenate([np.zeros_like(svms.weights[:1]), svms.weights])[:, :, None, None]
        arrays[f"{head}.bias"] = np.concatenate([np.zeros(1, np.float32), svms.bias])
        told = f"{int(svms.trained.sum()):,} of {classes:,} classes have an SVM; the others are never detected"
    else:
        assert isinstance(o, BboxOptions)
        regression = train_box_regressor(pictures, classes, o, advance)
        length = regression.weights.shape[2]
        arrays[f"{BOXES}.weight"] = regression.weights.reshape(4 * classes, length).astype(np.float16)
        arrays[f"{BOXES}.bias"] = regression.bias.reshape(4 * classes)
        moving = int(regression.weights.any(axis=(1, 2)).sum())
        told = f"{moving:,} of {classes:,} classes have a box regression; the boxes of the others stay where they are"
    svm = isinstance(o, SvmOptions)
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
