"""The predictions on a data set as columns, of any file or detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, Longs
from detector.detections import Detections


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """M predictions, in the order in which they were given; the arrays are read-only.

    pictures: int32 [M], the picture of each, 0..P-1 in the order of the `GroundTruth` that they belong to;
    labels: int32 [M], 1..C of its classes; scores: float64 [M], any finite numbers; boxes: float64 [M, 4], half-open
    pixels of the original picture (float64 as read: rounding could turn an IoU over its threshold). An inverted box
    overlaps nothing; the official devkit takes such boxes too (its demo predictions hold some).
    Raises ValueError when the lengths differ or a number is not finite.
    """

    pictures: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    scores: Doubles
    boxes: Doubles

    def __post_init__(self) -> None:
        count = len(self.pictures)
        for name, kind, shape in (
            ("pictures", np.int32, (count,)),
            ("labels", np.int32, (count,)),
            ("scores", np.float64, (count,)),
            ("boxes", np.float64, (count, 4)),
        ):
            array = np.asarray(getattr(self, name), dtype=kind)
            if array.shape != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(array.shape)}")
            array = array.view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        for name in ("scores", "boxes"):
            wrong = np.argwhere(~np.isfinite(getattr(self, name)))
            if len(wrong):
                raise ValueError(f"{name} of prediction {wrong[0, 0]} are not finite")

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        return f"Predictions({len(self):,} on {len(np.unique(self.pictures)):,} pictures)"

    @classmethod
    def from_detections(cls, found: Mapping[int, Detections]) -> Predictions:
        """Return the detections of pictures (by their index 0..P-1) as one table, pictures in rising order."""
        order = sorted(found)
        lengths = [len(found[i]) for i in order]
        return cls(
            np.repeat(np.array(order, np.int32), lengths),
            _joined([found[i].labels for i in order], np.zeros(0)).astype(np.int32),
            _joined([found[i].scores for i in order], np.zeros(0)).astype(np.float64),
            _joined([found[i].boxes for i in order], np.zeros((0, 4))).astype(np.float64),
        )

    def select(self, rows: Longs | npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions of a mask [M] or of indices, in their order."""
        return Predictions(self.pictures[rows], self.labels[rows], self.scores[rows], self.boxes[rows])


def _joined(parts: list[npt.NDArray[np.generic]], empty: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.concatenate(parts) if parts else empty
