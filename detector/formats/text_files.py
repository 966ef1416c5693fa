"""Detections as lines of text: CSV, the submission lines of ILSVRC, and YOLO."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

from detector.classes import det_names
from detector.detections import Detections
from detector.formats.fields import (
    Row,
    assemble,
    check_class,
    check_label,
    check_size,
    decimals,
    half_open,
    one_based,
    plain,
    read_number,
    read_whole,
    row,
    source_from_name,
)
from proposals.types import SELECTIVE_SEARCH, SOURCE_NAMES

CSV_COLUMNS = ("picture", "class", "label", "score", "x1", "y1", "x2", "y2", "source", "width", "height")
CSV_HEADER = ",".join(CSV_COLUMNS) + "\n"
ILSVRC_COLUMNS = ("image_id", "class_id", "confidence", "xmin", "ymin", "xmax", "ymax")
YOLO_COLUMNS = ("class_index", "cx", "cy", "w", "h", "score")


def csv_rows(detections: Detections, picture: str) -> str:
    """Return the CSV rows of one picture, without the header: half-open boxes, exact as in JSON."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for name, label, score, box, source in zip(
        detections.names,
        detections.labels.tolist(),
        decimals(detections.scores),
        detections.boxes,
        detections.sources.tolist(),
        strict=True,
    ):
        coordinates = [plain(value) for value in decimals(box)]
        writer.writerow(
            [picture, name, label, plain(score), *coordinates, SOURCE_NAMES[source], *detections.image_size]
        )
    return lines.getvalue()


def to_csv(detections: Detections, picture: str) -> str:
    """Return the CSV file of one picture: the header, then a row a detection."""
    return CSV_HEADER + csv_rows(detections, picture)


def from_csv(text: str, source: str, class_names: tuple[str, ...] | None = None) -> dict[str, Detections]:
    """Return the detections of each picture that has a row in a CSV file (a picture without any has no row).

    `source` names the file in errors; `class_names` are those it was written with (default: the 200 of ILSVRC).
    Raises: ValueError naming the file and the line for a wrong header, column count, type, class, source or box.
    """
    class_names = det_names() if class_names is None else class_names
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    rows: dict[str, list[Row]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    try:
        if next(reader, None) != list(CSV_COLUMNS):
            raise ValueError(f"{source}, line 1: the header must be {CSV_HEADER.strip()}; add it")
        for columns in reader:
            if not columns:
                continue
            where = f"{source}, line {reader.line_num}"
            value = dict(zip(CSV_COLUMNS, _counted(where, columns, CSV_COLUMNS), strict=True))
            picture = value["picture"]
            size = check_size(
                where, read_whole(where, "width", value["width"]), read_whole(where, "height", value["height"])
            )
            if sizes.setdefault(picture, size) != size:
                raise ValueError(f"{where}: '{picture}' is {size} here and {sizes[picture]} above; give it one size")
            x1, y1, x2, y2 = (float(read_number(where, name, value[name])) for name in ("x1", "y1", "x2", "y2"))
            label = read_whole(where, "label", value["label"])
            rows.setdefault(picture, []).append(
                row(
                    where,
                    (x1, y1, x2, y2),
                    float(read_number(where, "score", value["score"])),
                    check_class(where, value["class"], label, class_names),
                    source_from_name(where, value["source"]),
                )
            )
    except csv.Error as error:
        raise ValueError(f"{source}, line {reader.line_num}: not CSV: {error}; check the quotes") from error
    return {picture: assemble(rows[picture], size, class_names) for picture, size in sizes.items()}


def to_ilsvrc(detections: Detections, image_id: int) -> str:
    """Return the submission lines of one picture: image_id class_id confidence xmin ymin xmax ymax.

    Pixels are 1-based and inclusive (xmin = x1 + 1, xmax = x2), as the ILSVRC detection devkit's readme asks.
    """
    return "".join(
        f"{image_id} {label} {plain(score)} {' '.join(one_based(box))}\n"
        for label, score, box in zip(
            detections.labels.tolist(), decimals(detections.scores), detections.boxes, strict=True
        )
    )


def from_ilsvrc(
    text: str,
    source: str,
    image_sizes: Mapping[int, tuple[int, int]],
    class_names: tuple[str, ...] | None = None,
    proposal_source: int = SELECTIVE_SEARCH,
) -> dict[int, Detections]:
    """Return the detections of every picture in `image_sizes` (id -> width, height) of ILSVRC submission lines.

    1-based inclusive pixels become half-open ones. The lines hold neither sizes nor sources: `image_sizes` and
    `proposal_source` give them. A picture without a line has no detections.
    Raises: ValueError naming the file and the line for a wrong column count, number, class id, picture or box.
    """
    class_names = det_names() if class_names is None else class_names
    rows: dict[int, list[Row]] = {image_id: [] for image_id in image_sizes}
    for where, columns in _lines(text, source, ILSVRC_COLUMNS):
        image_id = read_whole(where, "image_id", columns[0])
        if image_id not in rows:
            raise ValueError(f"{where}: image_id {image_id} is not one of the pictures; give its size")
        label = check_label(where, "class_id", read_whole(where, "class_id", columns[1]), class_names)
        score = float(read_number(where, "confidence", columns[2]))
        corners = [
            read_number(where, name, column) for name, column in zip(ILSVRC_COLUMNS[3:], columns[3:], strict=True)
        ]
        rows[image_id].append(row(where, half_open(corners), score, label, proposal_source))
    return {image_id: assemble(rows[image_id], size, class_names) for image_id, size in image_sizes.items()}


def to_yolo(detections: Detections) -> str:
    """Return the YOLO lines of one picture: class_index cx cy w h score.

    The class index is 0-based (label - 1); centre and size are divided by the picture's width and height.
    """
    width, height = detections.image_size
    lines = []
    for label, score, box in zip(
        detections.labels.tolist(), decimals(detections.scores), detections.boxes.tolist(), strict=True
    ):
        x1, y1, x2, y2 = box
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{label - 1} {' '.join(repr(value) for value in values)} {plain(score)}\n")
    return "".join(lines)


def from_yolo(
    text: str,
    source: str,
    image_size: tuple[int, int],
    class_names: tuple[str, ...] | None = None,
    proposal_source: int = SELECTIVE_SEARCH,
) -> Detections:
    """Return the detections of one picture of YOLO lines; lines that start with # are comments.

    The lines hold neither the size (width, height) nor the source: the arguments give them. Coordinates come back
    to about 1e-12 of the picture's side, which is the same float32 for all but the smallest fractions of a pixel.
    Raises: ValueError naming the file and the line for a wrong column count, number, class index or box.
    """
    class_names = det_names() if class_names is None else class_names
    width, height = image_size
    rows = []
    for where, columns in _lines(text, source, YOLO_COLUMNS, comments=("#",)):
        index = read_whole(where, "class_index", columns[0])
        if not 0 <= index < len(class_names):
            raise ValueError(
                f"{where}: class_index {index} is not in 0..{len(class_names) - 1}; read the file with the class "
                "names it was written with"
            )
        cx, cy, w, h, score = (
            float(read_number(where, name, column)) for name, column in zip(YOLO_COLUMNS[1:], columns[1:], strict=True)
        )
        box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        rows.append(row(where, box, score, index + 1, proposal_source))
    return assemble(rows, image_size, class_names)


def _lines(
    text: str, source: str, names: tuple[str, ...], comments: tuple[str, ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, columns) of each line that is neither blank nor a comment, its columns counted."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith(comments):
            where = f"{source}, line {number}"
            yield where, _counted(where, line.split(), names)


def _counted(where: str, columns: list[str], names: tuple[str, ...]) -> list[str]:
    if len(columns) != len(names):
        raise ValueError(f"{where}: {len(columns)} columns; {len(names)} are needed: {' '.join(names)}")
    return columns
