"""The regions that R-CNN's fine-tuning draws from: ground truth and proposals of every picture, labelled by IoU.

Data sets differ in what they label. `known` tells, picture by picture, for which classes a region without a label
is known to be none of them: in Pascal VOC for its twenty, in a set that boxes only the one object of which a picture
was taken, for that class alone. Everything else is masked: neither positive nor negative there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detector.classes import BACKGROUND, det_names
from detector.datasets.class_maps import AMBIGUOUS, det_labels
from detector.datasets.ground_truth import Flags, GroundTruth, Longs
from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from proposals.boxes import Boxes, Floats, iou
from proposals.types import Proposals

IGNORED = -1
SAMPLES = "samples"
FOREGROUND_IOU = 0.5  # R-CNN section 2.3: IoU >= 0.5 with a ground-truth box is a positive for that box's class
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


@dataclass(frozen=True, eq=False)
class RegionPool:
    """All candidate regions: pictures int32 [N], rising, boxes float32 [N, 4], labels int64 [N] (0 is background).

    truth: bool [N], whether it is a ground-truth box; these come first in a picture. sets: int16 [N], which of the data
    sets; paths: [P]; known: bool [P, 1 + C], see the head of the module; column 0
    is always known; class_names: [C].
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

    def __len__(self) -> int:
        return len(self.pictures)

    def fingerprint(self) -> str:
        """Return a SHA-256 of pictures' names, regions, labels and masks, in hexadecimal."""
        digest = hashlib.sha256("\n".join(path.name for path in self.paths).encode("utf-8", "surrogateescape"))
        for array in (self.pictures, self.boxes, self.labels, self.truth, self.known):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_sources(
    data: Sequence[str], partial: Sequence[str], own_classes: bool
) -> tuple[list[Source], tuple[str, ...]]:
    """Return the data sets, and the names of the classes 1..C.

    data: paths, PATH#SPLIT for a split other than train, "samples" for the bundled pictures; partial: those of them in
    which only the class that a picture was taken for is boxed. own_classes: the classes are those of the first data
    set, which all others must share; otherwise the 200 of ILSVRC DET, to which VOC's, COCO's and ImageNet's are mapped.
    Raises: ValueError for other classes or a data set without pictures; what `read_dataset` raises.
    """
    sources: list[Source] = []
    names = () if own_classes else det_names()
    for item in data:
        path, _, split = item.partition("#")
        if path == SAMPLES:
            path = str(samples_folder() / "annotations.json")
        truth = read_dataset(path, split=None if Path(path).is_file() else split or "train")
        if not any(truth.paths):
            raise ValueError(f"{path}: no picture of this data set is there; put the pictures beside the annotations")
        if own_classes:
            names = names or truth.class_names
            if truth.class_names != names:
                raise ValueError(f"{path}: its classes are not those of {data[0]}; map them to the same names")
            table = np.arange(1, len(names) + 1)
        else:
            table = det_labels(truth)
        table = np.where(table == AMBIGUOUS, IGNORED, table)
        labels = table[truth.labels - 1]
        known = np.zeros((len(truth.names), 1 + len(names)), bool)
        if item in partial:
            known[truth.pictures[labels > 0], labels[labels > 0]] = True
        else:
            known[:, table[table > 0]] = True
        known[:, BACKGROUND] = True
        sources.append(Source(truth, labels, known, item not in partial))
    return sources, names


def label_regions(boxes: Boxes, truth: Boxes, labels: Longs, crowd: Flags) -> tuple[Longs, npt.NDArray[np.float32]]:
    """Return the label of each box [N, 4] and its best IoU with the ground truth [M, 4], by R-CNN's rule.

    labels: [M], of the ground truth. IoU >= 0.5: the label of the best overlap (the first of equals); otherwise
    BACKGROUND. Boxes on a crowd, or on an object whose class cannot be told, are IGNORED.
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


def build_pool(
    sources: Sequence[Source],
    class_names: tuple[str, ...],
    proposals: Callable[[Path], Proposals | None],
    most: tuple[int, int],
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> RegionPool:
    """Return the regions of all pictures of `sources`: ground truth first, then proposals, by R-CNN's IoU rules.

    proposals: what was proposed for a picture, None to leave it out; most: at most so many foreground and background
    proposals a picture, drawn with `seed`, and all its ground truth; 0 for all. Of a partly labelled set, the
    background is those proposals whose IoU with a labelled box lies in 0.1..0.5.
    Raises: ValueError where nothing is left.
    """
    paths: list[Path] = []
    known: list[Flags] = []
    stands_for: list[Floats] = []
    columns: list[tuple[npt.NDArray[np.int32], Boxes, Longs, Flags, npt.NDArray[np.int16]]] = []
    for number, source in enumerate(sources):
        for index, path in enumerate(source.truth.paths):
            advance(1)
            found = None if path is None else proposals(path)
            if path is None or found is None:
                continue
            rows = source.truth.of_picture(index)
            truth, labels = source.truth.boxes[rows].astype(np.float32), source.labels[rows]
            crowd = source.truth.crowd[rows]
            boxes = np.concatenate([truth, found.boxes])
            own, best = label_regions(boxes, truth, labels, crowd)
            own[: len(truth)] = np.where(crowd, IGNORED, labels)
            if not source.whole:
                own[(own == BACKGROUND) & (best < np.float32(NEAR_IOU))] = IGNORED
            # an object of no class is no typical background
            own[: len(truth)][own[: len(truth)] == BACKGROUND] = IGNORED
            rng = np.random.default_rng([seed, number, index])
            is_truth = np.arange(len(boxes)) < len(truth)
            kinds = (
                ((own > BACKGROUND) & is_truth, 0),
                ((own > BACKGROUND) & ~is_truth, most[0]),
                (own == BACKGROUND, most[1]),
            )
            drawn = [_some(wanted, limit, rng) for wanted, limit in kinds]
            shares = [np.full(len(d), k[0].sum() / max(len(d), 1)) for d, k in zip(drawn, kinds, strict=True)]
            order = np.argsort(np.concatenate(drawn))
            kept = np.concatenate(drawn)[order]
            stands_for.append(np.concatenate(shares)[order].astype(np.float32))
            columns.append(
                (
                    np.full(len(kept), len(paths), np.int32),
                    boxes[kept],
                    own[kept],
                    is_truth[kept],
                    np.full(len(kept), number, np.int16),
                )
            )
            paths.append(path)
            known.append(source.known[index])
    if not columns or not any(len(column[0]) for column in columns):
        raise ValueError("the data sets have no region to train on; check that their pictures and boxes are there")
    pictures, boxes, labels, is_truth, sets = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    all_known, counts = np.stack(known), np.concatenate(stands_for)
    return RegionPool(pictures, boxes, labels, is_truth, sets, tuple(paths), all_known, class_names, counts)


def _some(wanted: Flags, most: int, rng: np.random.Generator) -> Longs:
    """Return the indices of `wanted`, at most `most` of them (0: all)."""
    indices = np.flatnonzero(wanted)
    return rng.permutation(indices)[:most] if most else indices


def proposals_of(store: Mapping[str, Proposals], path: Path) -> Proposals | None:
    """Return the proposals of a picture from a store, whose ids are paths below some folder; None without any.

    The longest end of `path` that is an id counts.
    """
    parts = path.parts
    for start in range(len(parts)):
        key = Path(*parts[start:]).as_posix()
        if key in store:
            return store[key]
    return None
