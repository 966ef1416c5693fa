"""The annotated objects of a data set, as columns over all its pictures: what is scored against, and trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class GroundTruth:
    """P pictures and N objects in the order of their pictures; the arrays are read-only.

    names: [P], unique, the file name without its extension (with its folder where names would collide);
    numbers: int64 [P], unique, the number of each picture in prediction files (ILSVRC's list, COCO's image id);
    sizes: int64 [P, 2], width and height, 0 where the data set does not say; paths: [P], None without a picture;
    class_names: [C], labels are 1..C; class_keys: [C], what the files call them (WordNet ids, COCO's category ids);
    pictures: int64 [N], the picture 0..P-1 of each object, never falling; labels: int64 [N];
    boxes: float64 [N, 4], half-open pixels of the original picture (not float32 as elsewhere: a metric decides on
    IoU >= threshold, which rounding could turn over); difficult, crowd: bool [N]; areas: float64 [N], COCO's `area`,
    else the boxes';
    blacklist: int64 [B, 2], (picture, label) pairs that do not count (ILSVRC);
    files: [P], the path of each picture within the data set, with / and suffix, or () where that is not known;
    elsewhere: names and numbers of the data set's pictures outside this split, of which predictions may be too.
    Raises ValueError when shapes or values do not fit together.
    """

    names: tuple[str, ...]
    numbers: Longs
    sizes: Longs
    paths: tuple[Path | None, ...]
    class_names: tuple[str, ...]
    class_keys: tuple[str, ...]
    pictures: Longs
    labels: Longs
    boxes: Doubles
    difficult: Flags
    crowd: Flags
    areas: Doubles
    blacklist: Longs = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    files: tuple[str, ...] = ()
    elsewhere: frozenset[str | int] = frozenset()

    def __post_init__(self) -> None:
        count = len(self.names)
        for name, kind, shape in (
            ("numbers", np.int64, (count,)),
            ("sizes", np.int64, (count, 2)),
            ("pictures", np.int64, (len(self),)),
            ("labels", np.int64, (len(self),)),
            ("boxes", np.float64, (len(self), 4)),
            ("difficult", np.bool_, (len(self),)),
            ("crowd", np.bool_, (len(self),)),
            ("areas", np.float64, (len(self),)),
            ("blacklist", np.int64, (len(self.blacklist), 2)),
        ):
            array = np.array(getattr(self, name), dtype=kind).reshape(shape)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if len(self.paths) != count or len(set(self.names)) != count or len(np.unique(self.numbers)) != count:
            raise ValueError("every picture needs a name and a number of its own, and a path or None")
        if self.files and len(set(self.files)) != count:
            raise ValueError("every picture needs a path of its own within the data set, or none has one")
        if len(self.class_keys) != len(self.class_names):
            raise ValueError(f"{len(self.class_names)} class names, {len(self.class_keys)} class keys: not one length")
        if len(self):
            low, high = self.pictures.min(), self.pictures.max()
            if low < 0 or high >= count or (np.diff(self.pictures) < 0).any():
                raise ValueError("objects must stand in the order of their pictures, 0..P-1")
            if self.labels.min() < 1 or self.labels.max() > len(self.class_names):
                raise ValueError(f"a label is not in 1..{len(self.class_names)}")
            if not np.isfinite(self.boxes).all() or (self.boxes[:, 2:] < self.boxes[:, :2]).any():
                raise ValueError("a box is not finite or inverted")

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.pictures)

    def __repr__(self) -> str:
        return f"GroundTruth({len(self):,} objects of {len(self.class_names)} classes in {len(self.names):,} pictures)"

    def of_picture(self, index: int) -> slice:
        """Return the rows of the objects of picture `index`, 0..P-1."""
        first, last = np.searchsorted(self.pictures, [index, index + 1])
        return slice(int(first), int(last))

    def select(self, indices: Sequence[int] | Longs) -> GroundTruth:
        """Return the data set of these pictures alone, each once, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        place = np.full(len(self.names), -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(place[self.pictures] >= 0)
        rows = rows[np.argsort(place[self.pictures[rows]], kind="stable")]
        pairs = self.blacklist[place[self.blacklist[:, 0]] >= 0]
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            numbers=self.numbers[chosen],
            sizes=self.sizes[chosen],
            paths=tuple(self.paths[i] for i in chosen),
            pictures=place[self.pictures[rows]],
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            difficult=self.difficult[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            blacklist=np.stack([place[pairs[:, 0]], pairs[:, 1]], axis=1),
            files=tuple(self.files[i] for i in chosen) if self.files else (),
        )
