"""Detections as JSON: this project's objects, one a picture, and the results list of COCO."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from detector.classes import det_names
from detector.detections import Detections
from detector.formats.fields import (
    EXACT,
    Row,
    assemble,
    check_class,
    check_label,
    check_number,
    check_size,
    check_text,
    check_whole,
    decimals,
    row,
    shortest,
    source_from_name,
)
from proposals.types import SELECTIVE_SEARCH, SOURCE_NAMES

_BLANKS = re.compile(r"[ \t\r\n\ufeff]*")  # a byte-order mark, which some editors put first, counts as blank


def to_json(detections: Detections, picture: str) -> str:
    """Return one line: an object of the picture's name, width, height and detections (box: x1, y1, x2, y2, half-open).

    Every float32 is written as the shortest decimal that reads back as it.
    """
    items = [
        {"class": name, "label": label, "score": score, "box": shortest(box), "source": SOURCE_NAMES[source]}
        for name, label, score, box, source in zip(
            detections.names,
            detections.labels.tolist(),
            shortest(detections.scores),
            detections.boxes,
            detections.sources.tolist(),
            strict=True,
        )
    ]
    width, height = detections.image_size
    return json.dumps({"picture": picture, "width": width, "height": height, "detections": items}) + "\n"


def from_json(text: str, source: str, class_names: tuple[str, ...] | None = None) -> dict[str, Detections]:
    """Return the detections of each picture of a JSON file: one object, or several one after another (JSON lines).

    `source` names the file in errors; `class_names` are those it was written with (default: the 200 of ILSVRC).
    Raises: ValueError naming the file, the line and the detection for anything missing, mistyped or out of range.
    """
    class_names = det_names() if class_names is None else class_names
    results: dict[str, Detections] = {}
    for line, item in _json_values(text, source):
        where = f"{source}, line {line}"
        fields = _object(where, "the entry of a picture", item)
        picture = check_text(where, "picture", _field(where, fields, "picture"))
        if picture in results:
            raise ValueError(f"{where}: picture '{picture}' comes twice; keep one entry of it")
        size = check_size(
            where,
            check_whole(where, "width", _field(where, fields, "width")),
            check_whole(where, "height", _field(where, fields, "height")),
        )
        entries = _list(where, "detections", _field(where, fields, "detections"))
        rows = [_json_row(f"{where}, detection {i}", entry, class_names) for i, entry in enumerate(entries, 1)]
        results[picture] = assemble(rows, size, class_names)
    if not results:
        raise ValueError(f"{source}: the file is empty; an object for each picture is needed")
    return results


def _json_row(where: str, entry: object, class_names: tuple[str, ...]) -> Row:
    fields = _object(where, "a detection", entry)
    name = check_text(where, "class", _field(where, fields, "class"))
    label = check_whole(where, "label", _field(where, fields, "label"))
    return row(
        where,
        _four_numbers(where, "box", _field(where, fields, "box")),
        check_number(where, "score", _field(where, fields, "score")),
        check_class(where, name, label, class_names),
        source_from_name(where, check_text(where, "source", _field(where, fields, "source"))),
    )


def coco_entries(detections: Detections, image_id: int) -> list[str]:
    """Return the results of one picture as COCO writes them, an object each: bbox is x, y, width, height (0-based).

    `category_id` is the label 1..N. Width and height are the exact decimal difference, as a double.
    """
    entries = []
    for box, score, label in zip(
        detections.boxes, shortest(detections.scores), detections.labels.tolist(), strict=True
    ):
        x1, y1, x2, y2 = decimals(box)
        bbox = [float(x1), float(y1), float(EXACT.subtract(x2, x1)), float(EXACT.subtract(y2, y1))]
        entries.append(json.dumps({"image_id": image_id, "category_id": label, "bbox": bbox, "score": score}))
    return entries


def to_coco(detections: Detections, image_id: int) -> str:
    """Return the COCO results list of one picture, an entry a line."""
    entries = ",\n".join(coco_entries(detections, image_id))
    return f"[\n{entries}\n]\n" if entries else "[\n]\n"


def from_coco(
    text: str,
    source: str,
    image_sizes: Mapping[int, tuple[int, int]],
    class_names: tuple[str, ...] | None = None,
    proposal_source: int = SELECTIVE_SEARCH,
) -> dict[int, Detections]:
    """Return the detections of every picture in `image_sizes` (id -> width, height) of a COCO results list.

    The list holds neither sizes nor sources: `image_sizes` and `proposal_source` give them. A picture without a
    result has no detections. `class_names`: category_id 1 is the first (default: the 200 of ILSVRC).
    Raises: ValueError naming the file and the entry for anything missing, mistyped or out of range.
    """
    class_names = det_names() if class_names is None else class_names
    values = [value for _, value in _json_values(text, source)]
    if len(values) != 1:
        raise ValueError(f"{source}: {len(values)} JSON values; one list of results is needed")
    rows: dict[int, list[Row]] = {image_id: [] for image_id in image_sizes}
    for i, entry in enumerate(_list(source, "the file", values[0]), 1):
        where = f"{source}, entry {i}"
        fields = _object(where, "a result", entry)
        image_id = check_whole(where, "image_id", _field(where, fields, "image_id"))
        if image_id not in rows:
            raise ValueError(f"{where}: image_id {image_id} is not one of the pictures; give its size")
        category = check_whole(where, "category_id", _field(where, fields, "category_id"))
        x, y, width, height = _four_numbers(where, "bbox", _field(where, fields, "bbox"))
        if width < 0 or height < 0:
            raise ValueError(f"{where}: bbox is {width:g} wide and {height:g} high; write x, y, width, height")
        rows[image_id].append(
            row(
                where,
                (x, y, x + width, y + height),
                check_number(where, "score", _field(where, fields, "score")),
                check_label(where, "category_id", category, class_names),
                proposal_source,
            )
        )
    return {image_id: assemble(rows[image_id], size, class_names) for image_id, size in image_sizes.items()}


def _json_values(text: str, source: str) -> Iterator[tuple[int, object]]:
    """Yield (line, value) of each JSON value of `text`, which follow each other with white space between."""
    decoder = json.JSONDecoder()
    position, line = 0, 1
    while True:
        start = next(_BLANKS.finditer(text, position)).end()
        line += text.count("\n", position, start)
        if start == len(text):
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{source}, line {error.lineno}: not JSON, or cut off: {error.msg} at column {error.colno}; "
                "write the file again"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}, line {line}: not readable as JSON: {error}; write the file again") from error
        yield line, value
        line += text.count("\n", start, end)
        position = end


def _object(where: str, what: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {what} is of type {type(value).__name__}; an object {{...}} is needed")
    return value


def _list(where: str, what: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: {what} is of type {type(value).__name__}; a list [...] is needed")
    return value


def _field(where: str, fields: dict[str, object], name: str) -> object:
    if name not in fields:
        raise ValueError(f"{where}: the field '{name}' is missing; add it")
    return fields[name]


def _four_numbers(where: str, what: str, value: object) -> tuple[float, float, float, float]:
    values = _list(where, what, value)
    if len(values) != 4:
        raise ValueError(f"{where}: {what} has {len(values)} numbers; 4 are needed")
    a, b, c, d = (check_number(where, what, number) for number in values)
    return a, b, c, d
