"""The regions that R-CNN's fine-tuning draws from: ground truth and proposals of every picture, labelled by IoU.

Data sets differ in what they label. `known` has the classes that each picture labels: in Pascal VOC its twenty, in a
set that boxes only the object a picture was taken for, that class alone. A region without a label is none of these
classes. Of all others it is masked: neither positive nor negative.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detector.classes import BACKGROUND, check_class_names, det_names
from detector.datasets.class_maps import AMBIGUOUS, det_labels
from detector.datasets.ground_truth import Flags, GroundTruth, Longs
from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from proposals.boxes import Boxes, Floats, iou
from proposals.types import MULTIBOX, Proposals

IGNORED = -1
SAMPLES = "samples"
FOREGROUND_IOU = 0.5  # R-CNN section 2.3: IoU >= 0.5 with a ground-truth box is a positive for that box's class
JITTER = 0.25  # of a box's width or height that each of its sides moves by at most
CONFIDENT = 5  # best learned proposals of a picture; the largest of them is taken for the object of its label
NEAR_IOU = 0.1  # of what a partly labelled set gives as background: parts of its labelled objects


@dataclass(frozen=True, eq=False)
class Source:
    """One data set as training sees it: its pictures, the labels 0.. of its objects, and what it labels.

    labels: int64 [N] of `truth`'s objects: 1..C, BACKGROUND for classes that are not detected, IGNORED where the class
    cannot be told; known: bool [P, 1 + C]; whole: whether every object of a known class has its box.
    """

    truth: GroundTruth
    labels: Longs
    known: Flags
    whole: bool
    of_pictures: Longs | None = None  # int64 [P], the class of each picture where no box tells; 0 for none


@dataclass(frozen=True, eq=False)
class RegionPool:
    """All candidate regions: pictures int32 [N], rising, boxes float32 [N, 4], labels int64 [N] (0 is background).

    truth: bool [N], whether it is the box of an object of the classes; these come first in a picture. sets: int16 [N],
    which of the data sets; paths: [P]; known: bool [P, 1 + C], see the head of the module; column 0 is always known;
    class_names: [C].
    """

    pictures: npt.NDArray[np.int32]
    boxes: Boxes
    labels: Longs
    truth: Flags
    sets: npt.NDArray[np.int16]
    paths: tuple[Path, ...]
    known: Flags
    class_names: tuple[str, ...]
    stands_for: Floats | None = None  # [N], how many regions of its picture each was drawn from; None: one each
    other: Flags | None = None  # [N], whether it shows an object of none of the classes: certainly background

    def __len__(self) -> int:
        return len(self.pictures)

    def fingerprint(self) -> str:
        """Return a SHA-256 of pictures' names, regions, labels and masks, in hexadecimal."""
        digest = hashlib.sha256("\n".join(path.name for path in self.paths).encode("utf-8", "surrogateescape"))
        for array in (self.pictures, self.boxes, self.labels, self.truth, self.known):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.other is not None:
            digest.update(self.other.tobytes())
        return digest.hexdigest()

    def known_of(self, rows: Longs) -> Flags:
        """Return the classes that regions `rows` are known not to show, unless labelled so: bool [B, 1 + C].

        They are those that their picture labels; all of them for a region that shows an object of another class.
        """
        known = self.known[self.pictures[rows]]
        return known if self.other is None else known | self.other[rows, None]


def read_sources(
    data: Sequence[str], partial: Sequence[str], own_classes: bool, label_only: Sequence[str] = ()
) -> tuple[list[Source], tuple[str, ...]]:
    """Return the data sets, and the names of the classes 1..C.

    data: paths, PATH#SPLIT for a split other than train, "samples" for the bundled pictures; partial: those of them in
    which only the class that a picture was taken for is boxed; label_only: those that name this class and have no box.
    own_classes: the classes are those of the first data set, which all others must share; otherwise the 200 of ILSVRC
    DET, to which VOC's, COCO's and ImageNet's are mapped.
    Raises: ValueError for other classes or a data set without pictures; what `read_dataset` raises.
    """
    sources: list[Source] = []
    names = () if own_classes else det_names()
    for item in data:
        path, _, split = item.partition("#")
        if path == SAMPLES:
            path = str(samples_folder() / "annotations.json")
        truth = read_dataset(path, split=None if Path(path).suffix.casefold() == ".json" else split or "train")
        if not any(truth.paths):
            raise ValueError(f"{path}: no picture of this data set is there; put the pictures beside the annotations")
        if own_classes and not names:
            names = truth.class_names
            try:
                check_class_names(names)  # the model could not be written, after hours
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        if own_classes and truth.class_names != names:
            raise ValueError(f"{path}: its classes are not those of {data[0]}; map them to the same names")
        table = np.arange(1, len(names) + 1) if own_classes else det_labels(truth)
        table = np.where(table == AMBIGUOUS, IGNORED, table)  # label of each class of the data set
        if item in label_only:
            sources.append(_labelled_source(truth, path, table, len(names)))
        else:
            sources.append(_boxed_source(truth, table, len(names), item not in partial))
    return sources, names


def _boxed_source(truth: GroundTruth, table: Longs, classes: int, whole: bool) -> Source:
    """Return a data set with boxes; `whole`: of all objects of its classes."""
    labels = table[truth.labels - 1]
    known = np.zeros((len(truth.names), 1 + classes), bool)
    if whole:
        known[:, table[table > 0]] = True
    else:
        known[truth.pictures[labels > 0], labels[labels > 0]] = True
    known[:, BACKGROUND] = True
    return Source(truth, labels, known, whole)


def _labelled_source(truth: GroundTruth, path: str, table: Longs, classes: int) -> Source:
    """Return a data set whose pictures have a class and no boxes: `label` or `wnid` of a COCO file's images.

    Raises: ValueError for a picture without a class.
    """
    ids = dict(zip((*truth.class_names, *truth.class_keys), (*table.tolist(), *table.tolist()), strict=False))
    images = json.loads(Path(path).read_text(encoding="utf-8"))["images"]
    words = {int(image["id"]): image.get("label", image.get("wnid")) for image in images}
    labels = np.zeros(len(truth.names), np.int64)
    for number, (name, image_id) in enumerate(zip(truth.names, truth.numbers.tolist(), strict=True)):
        word = words[image_id]
        if word not in ids:
            raise ValueError(f"{path}: picture {name} has no label that is one of its categories; label_only needs one")
        labels[number] = max(ids[word], BACKGROUND)
    known = np.zeros((len(labels), 1 + classes), bool)
    known[np.arange(len(labels)), labels] = True
    known[:, BACKGROUND] = True
    return Source(truth, np.zeros(0, np.int64), known, False, labels)


def label_regions(boxes: Boxes, truth: Boxes, labels: Longs, crowd: Flags) -> tuple[Longs, npt.NDArray[np.float32]]:
    """Return the label of each box [N, 4] and its best IoU with the ground truth [M, 4], by R-CNN's rule.

    labels: [M], of the ground truth. IoU >= 0.5: the label of the best overlap (the first of equals); otherwise
    BACKGROUND. Boxes on a crowd, or on an object of uncertain class, are IGNORED.
    """
    found = np.full(len(boxes), BACKGROUND, np.int64)
    best = np.zeros(len(boxes), np.float32)
    if len(boxes) and len(truth):
        overlaps = iou(boxes, truth)
        place = overlaps.argmax(axis=1)
        best = overlaps[np.arange(len(boxes)), place]
        positive = best >= np.float32(FOREGROUND_IOU)
        found[positive] = np.where(crowd, IGNORED, labels)[place[positive]]
    return found, best


@dataclass(frozen=True)
class PoolOptions:
    """Which regions of a picture a pool holds, beside its ground truth.

    most_foreground, most_background: at most so many of a picture, drawn with `seed`; 0: all. jitter: moved copies of
    each ground-truth box. near: share of the background that has IoU 0.1..0.5 with an object or shows an object of
    none of the classes, where there are as many; 0: as it comes.
    """

    most_foreground: int = 0
    most_background: int = 0
    jitter: int = 0
    near: float = 0.0
    seed: int = 0


class _Regions(NamedTuple):
    """The regions of one picture: columns of a `RegionPool`."""

    boxes: Boxes
    labels: Longs
    truth: Flags
    other: Flags
    stands_for: Floats


def build_pool(
    sources: Sequence[Source],
    class_names: tuple[str, ...],
    proposals: Callable[[Path], Proposals | None],
    o: PoolOptions,
) -> RegionPool:
    """Return the regions of all pictures of `sources`: ground truth first, then proposals, by R-CNN's IoU rules.

    proposals: what was proposed for a picture, None to leave it out. Of a partly labelled set, the background is those
    proposals whose IoU with a labelled box lies in 0.1..0.5. In a picture with a class and no box, the largest of the
    best learned proposals is taken for its object (Detic's max-size loss, arXiv:2201.02605).
    Raises: ValueError where nothing is left.
    """
    paths, sets, known, regions = [], [], [], []
    for number, source in enumerate(sources):
        for index, path in enumerate(source.truth.paths):
            if path is None or (found := proposals(path)) is None:
                continue
            paths.append(path)
            sets.append(number)
            known.append(source.known[index])
            regions.append(_picture_regions(source, index, found, o, np.random.default_rng([o.seed, number, index])))
    counts = [len(found.boxes) for found in regions]
    if not sum(counts):
        raise ValueError("the data sets have no region to train on; check that their pictures and boxes are there")
    boxes, labels, truth, other, stands_for = (np.concatenate(column) for column in zip(*regions, strict=True))
    return RegionPool(
        pictures=np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        boxes=boxes,
        labels=labels,
        truth=truth,
        sets=np.repeat(np.array(sets, np.int16), counts),
        paths=tuple(paths),
        known=np.stack(known),
        class_names=class_names,
        stands_for=stands_for,
        other=other,
    )


def _picture_regions(
    source: Source, index: int, found: Proposals, o: PoolOptions, rng: np.random.Generator
) -> _Regions:
    """Return the regions of one picture that are kept: label all by IoU, draw some of each kind."""
    truth, truth_labels, crowd = _objects(source, index, found)
    copies = jittered(truth[~crowd & (truth_labels > BACKGROUND)], o.jitter, source.truth.sizes[index], rng)
    boxes = np.concatenate([truth, copies, found.boxes])
    labels, best = label_regions(boxes, truth, truth_labels, crowd)
    labels[: len(truth)] = np.where(crowd, IGNORED, truth_labels)
    if not source.whole:
        labels[(labels == BACKGROUND) & (best < np.float32(NEAR_IOU))] = IGNORED
    foreground, background = labels > BACKGROUND, labels == BACKGROUND
    is_truth = foreground & (np.arange(len(boxes)) < len(truth))
    near = background & (best >= np.float32(NEAR_IOU))
    most_foreground, most_background = o.most_foreground or len(boxes), o.most_background or len(boxes)
    kinds = [(is_truth, len(boxes)), (foreground & ~is_truth, most_foreground)]
    if o.near:
        most_near = min(round(o.near * most_background), int(near.sum()))
        kinds += [(near, most_near), (background & ~near, most_background - most_near)]
    else:
        kinds.append((background, most_background))
    drawn = [rng.permutation(np.flatnonzero(kind))[:most] for kind, most in kinds]
    shares = [np.full(len(rows), kind.sum() / max(len(rows), 1)) for rows, (kind, _) in zip(drawn, kinds, strict=True)]
    kept = np.concatenate(drawn)
    order = np.lexsort((kept, ~is_truth[kept]))
    kept = kept[order]
    other = background & (best >= np.float32(FOREGROUND_IOU))  # on an object of none of the classes
    stands_for = np.concatenate(shares)[order].astype(np.float32)
    return _Regions(boxes[kept], labels[kept], is_truth[kept], other[kept], stands_for)


def _objects(source: Source, index: int, found: Proposals) -> tuple[Boxes, Longs, Flags]:
    """Return the objects of a picture: boxes [M, 4], labels [M], crowd [M]."""
    if source.of_pictures is None:
        rows = source.truth.of_picture(index)
        return source.truth.boxes[rows].astype(np.float32), source.labels[rows], source.truth.crowd[rows]
    learned = found.boxes[(found.sources & MULTIBOX) > 0][:CONFIDENT]
    areas = (learned[:, 2:] - learned[:, :2]).prod(axis=1)
    largest = learned[[int(areas.argmax())]] if len(learned) else learned
    return largest, np.full(len(largest), source.of_pictures[index], np.int64), np.zeros(len(largest), bool)


def jittered(boxes: Boxes, count: int, size: Sequence[int] | Longs, rng: np.random.Generator) -> Boxes:
    """Return `count` moved copies of each box, float32 [N * count, 4], inside a picture of `size` (width, height).

    Each side moves by up to a quarter of the box's width or height; copies of IoU below 0.5 are the box itself.
    """
    copies = np.repeat(boxes, count, axis=0)
    sides = np.tile(copies[:, 2:] - copies[:, :2], 2)
    moved = copies + rng.uniform(-JITTER, JITTER, copies.shape).astype(np.float32) * sides
    moved = np.clip(moved, 0, np.tile(np.asarray(size, np.float32), 2)).astype(np.float32)
    inter = np.clip(np.minimum(moved[:, 2:], copies[:, 2:]) - np.maximum(moved[:, :2], copies[:, :2]), 0, None)
    shared = inter.prod(axis=1)
    areas = [(some[:, 2:] - some[:, :2]).prod(axis=1) for some in (moved, copies)]
    good = shared >= np.float32(FOREGROUND_IOU) * np.maximum(areas[0] + areas[1] - shared, np.float32(1e-6))
    return np.where(good[:, None], moved, copies)
