"""The frozen result of the detector on one image: boxes, scores, classes, and the proposals they come from."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.classes import label_of
from proposals.boxes import Boxes, Floats, Indices, Mask, as_boxes, descending
from proposals.types import SOURCE_NAMES, Sources


@dataclass(frozen=True, eq=False)
class Detections:
    """Classified boxes of one image, in any order.

    boxes: float32 [N, 4], half-open pixels of the original image; scores: float32 [N], 0..1; labels: int64 [N],
    1..len(class_names) (0 is background and never detected); sources: uint8 [N], FILE, SELECTIVE_SEARCH, MULTIBOX or
    BOTH; image_size: (width, height). The arrays are read-only copies.
    Raises ValueError when the lengths differ, a box is not finite or inverted, a score is NaN or outside 0..1, a
    label or a source is unknown, or the image size is not positive.
    """

    boxes: Boxes
    scores: Floats
    labels: npt.NDArray[np.int64]
    sources: Sources
    image_size: tuple[int, int]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        boxes = as_boxes(self.boxes).copy()
        scores = _column("scores", self.scores, "fiu")
        labels = _column("labels", self.labels, "iu")
        sources = _column("sources", self.sources, "iu")
        if not len(boxes) == len(scores) == len(labels) == len(sources):
            raise ValueError(
                f"{len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels and {len(sources)} sources: "
                "not one length"
            )
        if isinstance(self.class_names, str):
            raise ValueError(f"class_names must be a tuple of names, got the string '{self.class_names}'")
        class_names = tuple(self.class_names)
        _check_rows("score", scores, (scores >= 0) & (scores <= 1), "not in 0..1")
        _check_rows(
            "label",
            labels,
            (labels >= 1) & (labels <= len(class_names)),
            f"not in 1..{len(class_names)}, the number of class names",
        )
        _check_rows("source", sources, np.isin(sources, list(SOURCE_NAMES)), f"not one of {sorted(SOURCE_NAMES)}")
        for name, array in (
            ("boxes", boxes),
            ("scores", scores.astype(np.float32)),
            ("labels", labels.astype(np.int64)),
            ("sources", sources.astype(np.uint8)),
        ):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        object.__setattr__(self, "class_names", class_names)

    @classmethod
    def empty(cls, image_size: tuple[int, int], class_names: tuple[str, ...]) -> Detections:
        """Return no detections on an image of `image_size` (width, height)."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint8),
            image_size,
            class_names,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """Return the detections of all `parts` of one image, in their order.

        Raises: ValueError for no parts, or parts that differ in image size or class names.
        """
        if not parts:
            raise ValueError("no detections to concatenate: the image size and the classes are unknown")
        first = parts[0]
        for part in parts[1:]:
            if part.image_size != first.image_size:
                raise ValueError(f"cannot concatenate detections on images of {first.image_size} and {part.image_size}")
            if part.class_names != first.class_names:
                raise ValueError("cannot concatenate detections of different class names")
        return cls(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.sources for p in parts]),
            first.image_size,
            first.class_names,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class name of each detection, [N]."""
        return [self.class_names[label - 1] for label in self.labels.tolist()]

    def select(self, which: npt.ArrayLike) -> Detections:
        """Return the detections of a boolean mask [N], or of indices 0..N-1 [K] in the order of the indices.

        Raises: ValueError for a mask of another length, an index out of range, or anything that is neither.
        """
        chosen = np.asarray(which)
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise ValueError(f"a mask of shape {list(chosen.shape)} does not fit {len(self)} detections")
            rows: Indices = np.flatnonzero(chosen)
        else:
            rows = _column("indices", chosen, "iu").astype(np.int64)
            _check_rows("index", rows, (rows >= 0) & (rows < len(self)), f"not one of the {len(self)} detections")
        return Detections(
            self.boxes[rows],
            self.scores[rows],
            self.labels[rows],
            self.sources[rows],
            self.image_size,
            self.class_names,
        )

    def ordered(self) -> Detections:
        """Return the detections by falling score; equal scores keep their order."""
        return self.select(descending(self.scores))

    def top(self, count: int) -> Detections:
        """Return the `count` best detections over all classes, by falling score; equal scores keep their order.

        Raises: ValueError for a negative count.
        """
        if count < 0:
            raise ValueError(f"cannot keep the best {count} detections: the count must be 0 or more")
        return self.select(descending(self.scores)[:count])

    def above(self, threshold: float) -> Detections:
        """Return the detections whose score is >= `threshold` (compared as float32), in their order."""
        return self.select(self.scores >= np.float32(threshold))

    def of_class(self, *classes: str | int) -> Detections:
        """Return the detections of one or several classes, each given by name or id, in their order.

        Raises: ValueError naming the nearest class when there is no such one.
        """
        labels = [label_of(c, self.class_names) if isinstance(c, str) else self._checked(c) for c in classes]
        return self.select(np.isin(self.labels, labels))

    def _checked(self, label: int) -> int:
        """Return a label of these classes; raise ValueError for another number."""
        if not 1 <= label <= len(self.class_names):
            raise ValueError(f"unknown class '{label}' (a name or an id 1..{len(self.class_names)})")
        return label

    def same_as(self, other: Detections) -> bool:
        """Return whether every value, the image size and the class names are equal, in the same order."""
        return (
            np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.sources, other.sources)
            and self.image_size == other.image_size
            and self.class_names == other.class_names
        )


def _column(name: str, values: npt.ArrayLike, kinds: str) -> npt.NDArray[np.number]:
    """Return `values` as an array [N] whose dtype is of one of the `kinds`."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [N], got {list(array.shape)}")
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} must be {'numbers' if 'f' in kinds else 'whole numbers'}, got {array.dtype}")
    return array


def _check_rows(what: str, values: npt.NDArray[np.number], good: Mask, complaint: str) -> None:
    """Raise a ValueError naming the first row that is not `good` (a comparison with NaN is not)."""
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(f"{what} {values[row]} of row {row} is {complaint}")


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) as two positive Python ints."""
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError) as error:
        raise ValueError(f"image_size must be two whole numbers (width, height), got {size!r}") from error
    if width < 1 or height < 1:
        raise ValueError(f"image_size must be positive (width, height), got {width} x {height}")
    return width, height
