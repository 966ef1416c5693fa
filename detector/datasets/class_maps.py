"""Other data sets' classes among the 200 of ILSVRC DET: Pascal VOC's, COCO's and the 1,000 of ImageNet."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np

from detector.classes import det_classes, det_names
from detector.datasets.ground_truth import GroundTruth, Longs

NO_CLASS, AMBIGUOUS = 0, -1


def to_det(truth: GroundTruth) -> GroundTruth:
    """Return the data set with the 200 classes of ILSVRC DET (`class_keys`: WordNet ids); unchanged if it has them.

    Objects without a counterpart are left out, and so are ambiguous ones, whose class among several cannot be told
    (a VOC bottle may be a water bottle or a wine bottle); nothing is blacklisted for them, so that a detection on one
    counts as false: `det_labels` tells which they are. Pictures stay, also those that are left without objects.
    Raises: ValueError for classes that are neither DET's, VOC's, COCO's nor ImageNet's.
    """
    if truth.class_names == det_names():
        return truth
    table = det_labels(truth)
    labels = table[truth.labels - 1]
    kept = labels > 0
    pairs = np.stack([truth.blacklist[:, 0], table[truth.blacklist[:, 1] - 1]], axis=1)
    return replace(
        truth,
        class_names=det_names(),
        class_keys=tuple(c.wnid for c in det_classes()),
        pictures=truth.pictures[kept],
        labels=labels[kept],
        boxes=truth.boxes[kept],
        difficult=truth.difficult[kept],
        crowd=truth.crowd[kept],
        areas=truth.areas[kept],
        blacklist=pairs[pairs[:, 1] > 0],
    )


def det_labels(truth: GroundTruth) -> Longs:
    """Return the DET label of each class: int64 [C], 1..200, NO_CLASS without counterpart, AMBIGUOUS with several.

    Classes are known by name, or by WordNet id as name or key; all must be of one set. Training masks ambiguous
    objects instead of taking them as background. Raises: ValueError for classes of no known set.
    """
    for known in (_det(), class_map("voc"), class_map("coco"), _imagenet()):
        for words in (truth.class_names, truth.class_keys):
            if all(word in known for word in words):
                return np.array([known[word] for word in words], np.int64)
    every = {*_det(), *class_map("voc"), *class_map("coco"), *_imagenet()}
    strange = [name for name in truth.class_names if name not in every]
    what = f"class '{strange[0]}' is of none of these sets" if strange else "the classes are of several sets"
    raise ValueError(f"{what}: ILSVRC DET, VOC, COCO, ImageNet; rename the classes, or score them as they are")


@cache
def class_map(name: str) -> Mapping[str, int]:
    """Return the DET label, NO_CLASS or AMBIGUOUS of each class of "voc" or "coco" (configs/class_maps.toml)."""
    table = tomllib.loads(files("configs").joinpath("class_maps.toml").read_text(encoding="utf-8"))[name]
    labels = {"none": NO_CLASS, "ambiguous": AMBIGUOUS} | {c.wnid: c.id for c in det_classes()}
    return {key: labels[value] for key, value in table.items()}


@cache
def _det() -> Mapping[str, int]:
    return {c.name: c.id for c in det_classes()} | {c.wnid: c.id for c in det_classes()}


@cache
def _imagenet() -> Mapping[str, int]:
    return dict.fromkeys(imagenet_wnids(), NO_CLASS) | dict(leaf_labels())


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1,000 ids (configs/imagenet_classes.txt); `imagenet_wnids()[i]` is output i of a classifier."""
    text = files("configs").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line.split(maxsplit=1)[0] for line in text.splitlines())


@cache
def leaf_labels() -> Mapping[str, int]:
    """Return the label 1..200 by WordNet id, of the 200 classes and of the ImageNet classes below them."""
    leaves = {imagenet_wnids()[leaf]: c.id for c in det_classes() for leaf in c.imagenet}
    return leaves | {c.wnid: c.id for c in det_classes()}
