"""The frozen result of a proposal method: boxes, the scores that rank them, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, as_boxes

FILE = 0  # a file that does not say where its boxes are from
SELECTIVE_SEARCH = 1
MULTIBOX = 2
BOTH = SELECTIVE_SEARCH | MULTIBOX
SOURCE_NAMES = {FILE: "file", SELECTIVE_SEARCH: "selective search", MULTIBOX: "multibox", BOTH: "both"}

Sources = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Proposals:
    """Class-agnostic boxes of one picture, best first.

    boxes: float32 [N, 4], half-open pixels of the original image; scores: float32 [N], never rising;
    sources: uint8 [N], FILE, SELECTIVE_SEARCH, MULTIBOX or BOTH; objectness: float32 [N], 0..1, what MultiBox sees in
    each (`proposals.merging.objectness`), None where MultiBox has not seen the image. The arrays are read-only.
    Raises ValueError when the lengths differ, a box is not finite or inverted, the scores rise or are NaN, or a
    source is unknown.
    """

    boxes: Boxes
    scores: Floats
    sources: Sources
    objectness: Floats | None = None

    def __post_init__(self) -> None:
        boxes = as_boxes(self.boxes).copy()
        scores = np.array(self.scores, dtype=np.float32).reshape(-1)
        sources = np.array(self.sources, dtype=np.uint8).reshape(-1)
        if not len(boxes) == len(scores) == len(sources):
            raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores and {len(sources)} sources: not one length")
        if np.isnan(scores).any():
            raise ValueError("a proposal's score is NaN")
        if (scores[1:] > scores[:-1]).any():
            raise ValueError("proposals must come in falling order of score")
        if not np.isin(sources, list(SOURCE_NAMES)).all():
            raise ValueError(f"unknown proposal source in {sorted(set(sources.tolist()) - set(SOURCE_NAMES))}")
        for name, array in (("boxes", boxes), ("scores", scores), ("sources", sources)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.objectness is not None:
            objectness = np.array(self.objectness, dtype=np.float32).reshape(-1)
            if len(objectness) != len(boxes) or not ((objectness >= 0) & (objectness <= 1)).all():
                raise ValueError(f"objectness must have a number in 0..1 for each of the {len(boxes)} boxes")
            objectness.flags.writeable = False
            object.__setattr__(self, "objectness", objectness)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Boxes]:
        return iter(self.boxes)

    def top(self, count: int) -> Proposals:
        """Return the `count` best-ranked proposals."""
        objectness = None if self.objectness is None else self.objectness[:count]
        return Proposals(self.boxes[:count], self.scores[:count], self.sources[:count], objectness)


def from_source(boxes: npt.ArrayLike, scores: npt.ArrayLike, source: int) -> Proposals:
    """Return proposals that all come from one `source`: boxes [N, 4], scores [N] in falling order."""
    checked = as_boxes(boxes)
    return Proposals(checked, np.asarray(scores, np.float32), np.full(len(checked), source, dtype=np.uint8))
