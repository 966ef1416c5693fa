"""What `detect` wrote, read back for scoring: its JSON and its VOC annotations.

A complaint names the file, the place in it and the cure; `where` is that place, such as "a.json, line 3".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from detector.classes import det_names, label_of
from detector.datasets.checks import xml_text
from detector.detections import Detections
from detector.formats.writers import CORNERS, EXACT
from proposals.types import SELECTIVE_SEARCH, SOURCE_NAMES

_LARGEST = float(str(np.finfo(np.float32).max))  # as printed: 3.4028235e+38
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_BLANKS = re.compile(r"[ \t\r\n\ufeff]*")  # a byte-order mark, which some editors put first, counts as blank
SIDES = ("width", "height")
_DECLARATION = re.compile(r"\A<\?xml[^>]*\?>")


class Row(NamedTuple):
    """One detection as read: box (x1, y1, x2, y2) half-open, score 0..1, label 1..N, source flag."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    source: int


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


def from_voc(data: bytes, source: str, class_names: tuple[str, ...] | None = None) -> dict[str, Detections]:
    """Return the detections of each picture of a VOC file: one <annotation>, or several one after another.

    1-based inclusive pixels become half-open ones. The picture is folder/filename. The file does not say what proposed
    a box; SELECTIVE_SEARCH stands in.
    Raises: ValueError naming the file and the annotation and object for another encoding than the declared one (UTF-8
    without), XML that is cut off or has a document type (entities), a missing element, a wrong number, an unknown class
    or an inverted box.
    """
    class_names = det_names() if class_names is None else class_names
    text = xml_text(data, source)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{source}: XML with a document type or entities is not read; remove them")
    try:
        root = ElementTree.fromstring(f"<annotations>{_DECLARATION.sub('', text)}</annotations>")
    except ElementTree.ParseError as error:
        line = error.position[0]
        raise ValueError(f"{source}, line {line}: not XML, or cut off: {error}; write the file again") from error
    results: dict[str, Detections] = {}
    for number, annotation in enumerate(root, 1):
        where = f"{source}, annotation {number}"
        if annotation.tag != "annotation":
            raise ValueError(f"{where}: the element is <{annotation.tag}>; <annotation> is needed")
        folder = annotation.findtext("folder") or ""
        picture = f"{folder}{'' if folder in ('', '/') else '/'}{_text(where, annotation, 'filename')}"
        if picture in results:
            raise ValueError(f"{where}: picture '{picture}' comes twice; keep one annotation of it")
        width, height = (read_whole(where, side, _text(where, annotation, f"size/{side}")) for side in SIDES)
        rows = [_row(f"{where}, object {i}", o, class_names) for i, o in enumerate(annotation.iterfind("object"), 1)]
        results[picture] = assemble(rows, check_size(where, width, height), class_names)
    if not results:
        raise ValueError(f"{source}: no <annotation> in the file; write the file again")
    return results


def _row(where: str, item: ElementTree.Element, class_names: tuple[str, ...]) -> Row:
    label = label_from_name(where, _text(where, item, "name"), class_names)
    corners = [read_number(where, tag, _text(where, item, f"bndbox/{tag}")) for tag in CORNERS]
    score = float(read_number(where, "score", _text(where, item, "score")))
    return row(where, half_open(corners), score, label, SELECTIVE_SEARCH)


def _text(where: str, element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{where}: the element <{path}> is missing; add it")
    return text


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


def half_open(values: Sequence[Decimal]) -> tuple[float, float, float, float]:
    """Return the half-open box of a 1-based inclusive one: x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax."""
    xmin, ymin, xmax, ymax = values
    one = Decimal(1)
    return float(EXACT.subtract(xmin, one)), float(EXACT.subtract(ymin, one)), float(xmax), float(ymax)


def read_number(where: str, what: str, text: str) -> Decimal:
    """Return the finite number that `text` writes."""
    text = text.strip()
    if text.lstrip("+-").lower() in ("nan", "inf", "infinity"):
        raise ValueError(f"{where}: {what} is '{text}'; a finite number is needed")
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{where}: {what} is '{text}', not a number; write it like 12.5")
    if check_number(where, what, float(text)) == 0:
        return Decimal(0)
    return Decimal(text)


def read_whole(where: str, what: str, text: str) -> int:
    """Return the whole number that `text` writes."""
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(f"{where}: {what} is '{text.strip()}', not a whole number; write it like 12")
    return int(text)


def check_number(where: str, what: str, value: object) -> float:
    """Return `value` as a float if it is a finite number that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: {what} is {_shown(value)}, not a number; write it like 12.5")
    if not abs(value) <= _LARGEST:  # NaN compares as false
        raise ValueError(f"{where}: {what} is {_shown(value)}; a finite number is needed")
    return float(value)


def check_whole(where: str, what: str, value: object) -> int:
    """Return `value` if it is an int."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where}: {what} is {_shown(value)}, not a whole number; write it like 12")
    return value


def check_text(where: str, what: str, value: object) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {what} is {_shown(value)}, not a text; put it in quotes")
    return value


def _shown(value: object) -> str:
    """Return `value` for a message, cut to one short line."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "too large"
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def check_size(where: str, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) if both are positive."""
    if width < 1 or height < 1:
        raise ValueError(f"{where}: the picture is {width} x {height}; write its width and height in pixels, 1 or more")
    return width, height


def check_label(where: str, what: str, label: int, class_names: tuple[str, ...]) -> int:
    """Return `label` if it is in 1..N."""
    if not 1 <= label <= len(class_names):
        raise ValueError(
            f"{where}: {what} {label} is not in 1..{len(class_names)}; read the file with the class names it was "
            "written with"
        )
    return label


def label_from_name(where: str, name: str, class_names: tuple[str, ...]) -> int:
    """Return the label 1..N of a class `name`."""
    if name in class_names:
        return class_names.index(name) + 1
    try:
        return label_of(name, class_names)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; read the file with the class names it was written with") from error


def check_class(where: str, name: str, label: int, class_names: tuple[str, ...]) -> int:
    """Return `label` if `name` is its class."""
    check_label(where, "label", label, class_names)
    if class_names[label - 1] != name:
        right = label_from_name(where, name, class_names)
        raise ValueError(
            f"{where}: label {label} is '{class_names[label - 1]}', not '{name}'; write label {right} or the right name"
        )
    return label


def source_from_name(where: str, name: str) -> int:
    """Return the source flag of "selective search", "multibox" or "both"."""
    for flag, known in SOURCE_NAMES.items():
        if name == known:
            return flag
    raise ValueError(f"{where}: unknown source '{name}'; write one of {', '.join(SOURCE_NAMES.values())}")


def row(where: str, box: tuple[float, float, float, float], score: float, label: int, source: int) -> Row:
    """Return one detection whose box is not inverted and whose score is in 0..1."""
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        raise ValueError(f"{where}: the box {x1:g} {y1:g} {x2:g} {y2:g} is inverted; x2 >= x1 and y2 >= y1 are needed")
    if not 0 <= score <= 1:
        raise ValueError(f"{where}: score {score:g} is not in 0..1; write the probability of the class")
    return Row(box, score, label, source)


def assemble(rows: Iterable[Row], image_size: tuple[int, int], class_names: tuple[str, ...]) -> Detections:
    """Return the detections of the `rows` of one picture, in their order."""
    rows = list(rows)
    return Detections(
        np.array([r.box for r in rows], np.float32).reshape(-1, 4),
        np.array([r.score for r in rows], np.float32),
        np.array([r.label for r in rows], np.int64),
        np.array([r.source for r in rows], np.uint8),
        image_size,
        class_names,
    )
