"""From the columns of a prediction file to `Predictions` on a data set, every row checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.classes import label_of
from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.predictions.pictures import UNKNOWN, match_names, match_numbers
from eval.predictions.table import Predictions


@dataclass(frozen=True)
class Named:
    """A column of names: the place of each row in `names`."""

    codes: Longs
    names: Sequence[str]


@dataclass(frozen=True)
class Columns:
    """The columns of one file.

    source: the file's name; where: the place of a row in it ("line 7"); pictures: official numbers or names;
    classes: labels 1..C, names, or `keys` of the data set; boxes: half-open [M, 4].
    """

    source: str
    where: Callable[[int], str]
    pictures: Longs | Named
    classes: Longs | Named
    scores: Doubles
    boxes: Doubles


def nothing(source: str) -> Columns:
    """Return the columns of a file without predictions."""
    return Columns(source, str, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)))


def placed(
    columns: Columns, truth: GroundTruth, by: str = "auto", skip_unknown: bool = False
) -> tuple[Predictions, list[str]]:
    """Return the predictions on the pictures of `truth`, and notes: what was left out.

    Predictions on pictures of the data set's other splits (`truth.elsewhere`) are left out, on unknown ones only with
    `skip_unknown`. by: what a whole number is, one of `eval.predictions.BY`.
    Raises: ValueError naming file and row for a number that is not finite, an unknown class, an ambiguous or unknown
    picture.
    """
    _check(columns, np.isfinite(columns.scores), lambda row: f"the score is {columns.scores[row]}; write a number")
    _check(
        columns,
        np.isfinite(columns.boxes).all(axis=1),
        lambda row: f"the box {_shown(columns.boxes[row])} is not finite; write four numbers",
    )
    labels = _labels(columns, truth)
    pictures = _pictures(columns, truth, by)
    inside = pictures >= 0
    notes = []
    if not inside.all():
        notes.append(_left_out(columns, truth, np.flatnonzero(~inside), skip_unknown))
    found = Predictions(pictures.astype(np.int32), labels.astype(np.int32), columns.scores, columns.boxes)
    found = found if inside.all() else found.select(inside)
    inverted = int((found.boxes[:, 2:] < found.boxes[:, :2]).any(axis=1).sum())
    if inverted:
        notes.append(f"{columns.source}: {inverted:,} boxes are inverted (xmax < xmin or ymax < ymin): false positives")
    return found, notes


def _labels(columns: Columns, truth: GroundTruth) -> Longs:
    classes = columns.classes
    count = len(truth.class_names)
    if isinstance(classes, Named):
        known = np.array([_label(name, truth) for name in classes.names] or [0], np.int64)
        labels = known[classes.codes] if len(classes.codes) else classes.codes

        def complaint(row: int) -> str:
            assert isinstance(classes, Named)
            name = classes.names[classes.codes[row]]
            try:
                label_of(name, truth.class_names)
            except ValueError as error:
                return f"{error}; the data set has {count} classes"
            return f"class {name} is none of the data set's ids ({', '.join(truth.class_keys[:5])}, ...)"

        _check(columns, labels > 0, complaint)
        return labels
    _check(
        columns,
        (classes >= 1) & (classes <= count),
        lambda row: f"class {classes[row]} is not in 1..{count}; number the classes as the data set does",
    )
    return classes


def _label(name: str, truth: GroundTruth) -> int:
    """Return the label of a class by its name or its key, or 0."""
    if name in truth.class_keys:
        return truth.class_keys.index(name) + 1
    if name.isdecimal() and all(key.isdecimal() for key in truth.class_keys):
        return 0  # the data set has ids of its own, and this is none of them
    try:
        return label_of(name, truth.class_names)
    except ValueError:
        return 0


def _pictures(columns: Columns, truth: GroundTruth, by: str) -> Longs:
    """Return the index 0..P-1 of the picture of each row, UNKNOWN for pictures that the data set does not have."""
    pictures = columns.pictures
    if not isinstance(pictures, Named):
        return match_numbers(truth, pictures, columns.source, by)
    used = np.unique(pictures.codes)
    places = np.full(len(pictures.names), UNKNOWN)
    places[used] = match_names(truth, [pictures.names[code] for code in used.tolist()], columns.source, by)
    return places[pictures.codes]


def _left_out(columns: Columns, truth: GroundTruth, outside: Longs, skip_unknown: bool) -> str:
    """Return the note on rows of other pictures. Raises: ValueError where that may be a mistake."""
    total = len(columns.scores)
    count = f"{columns.source}: {len(outside):,} of {total:,} predictions are on"
    if len(outside) == total:
        raise ValueError(
            f"{columns.source}: none of its pictures is in the data set (the first is {_name(columns, 0)}); "
            "give the data and the split that it was made on"
        )
    pictures = columns.pictures
    for row in () if skip_unknown else outside.tolist():
        picture = pictures.names[pictures.codes[row]] if isinstance(pictures, Named) else int(pictures[row])
        known = PurePosixPath(picture).stem if isinstance(picture, str) else picture
        if picture not in truth.elsewhere and known not in truth.elsewhere:
            own = (truth.files or truth.names)[0]
            raise ValueError(
                f"{count} pictures that the data set does not have, such as {_name(columns, row)} "
                f"({columns.where(row)}; its own are such as '{own}'); give the split that they were made on, correct "
                "the names, or leave them out with --skip-unknown"
            )
    return f"{count} other pictures; left out"


def _name(columns: Columns, row: int) -> str:
    pictures = columns.pictures
    return f"'{pictures.names[pictures.codes[row]]}'" if isinstance(pictures, Named) else f"number {pictures[row]}"


def _check(columns: Columns, good: npt.NDArray[np.bool_] | np.bool_, complaint: Callable[[int], str]) -> None:
    if not np.all(good):
        row = int(np.flatnonzero(~np.asarray(good))[0])
        raise ValueError(f"{columns.source}, {columns.where(row)}: {complaint(row)}")


def _shown(box: Doubles) -> str:
    return " ".join(f"{side:g}" for side in box)


def of_detections(path: Path, found: dict[str, Any]) -> Columns:
    """Return the columns of `Detections` by picture."""
    counts = [len(d) for d in found.values()]
    places = np.concatenate([np.arange(n) for n in counts]) if counts else np.zeros(0, np.int64)
    pictures = Named(np.repeat(np.arange(len(counts)), counts), list(found))

    def stacked(name: str, empty: Any) -> Any:
        return np.concatenate([empty, *(getattr(d, name) for d in found.values())])

    return Columns(
        str(path),
        lambda row: f"'{pictures.names[pictures.codes[row]]}', detection {places[row] + 1}",
        pictures,
        stacked("labels", np.zeros(0, np.int64)).astype(np.int64),
        stacked("scores", np.zeros(0)).astype(np.float64),
        stacked("boxes", np.zeros((0, 4))).astype(np.float64),
    )


def joined(source: str, parts: list[Columns]) -> Columns:
    """Return the rows of several files one after another, pictures by name."""
    lengths = np.cumsum([0, *(len(p.scores) for p in parts)])
    names: list[str] = []
    codes: list[Longs] = []
    for part in parts:
        assert isinstance(part.pictures, Named)
        codes.append(part.pictures.codes + len(names))
        names.extend(part.pictures.names)

    def where(row: int) -> str:
        part = int(np.searchsorted(lengths, row, side="right")) - 1
        return parts[part].where(row - int(lengths[part]))

    return Columns(
        source,
        where,
        Named(np.concatenate([np.zeros(0, np.int64), *codes]), names),
        np.concatenate([np.zeros(0, np.int64), *(np.asarray(p.classes) for p in parts)]),
        np.concatenate([np.zeros(0), *(p.scores for p in parts)]),
        np.concatenate([np.zeros((0, 4)), *(p.boxes for p in parts)]),
    )
