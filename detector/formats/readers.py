"""What `detect` wrote, read back for scoring: its JSON and its VOC annotations.

A complaint names the file, the place in it and the cure; `where` is that place, such as "a.json, line 3".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from detector.classes import det_names, label_of
from detector.datasets.checks import short, xml_text
from detector.detections import Detections
from detector.formats.writers import CORNERS, EXACT
from proposals.types import SELECTIVE_SEARCH, SOURCE_NAMES

OTHER_NAMES = "read the file with the class names it was written with"
NEEDED = {
    dict: "an object {...}",
    list: "a list [...]",
    str: "a text in quotes",
    int: "a whole number such as 12",
    float: "a number such as 12.5",
}
_LARGEST = float(str(np.finfo(np.float32).max))  # as printed: 3.4028235e+38
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d{1,18}\s*", re.ASCII)
_BLANKS = re.compile(r"[ \t\r\n\ufeff]*")  # a byte-order mark, which some editors put first, counts as blank
_DECLARATION = re.compile(r"\A<\?xml[^>]*\?>")


class Row(NamedTuple):
    """One detection as read: box (x1, y1, x2, y2) half-open, score 0..1, label 1..N, source flag."""

    box: tuple[float, ...]
    score: float
    label: int
    source: int


def from_json(text: str, source: str, class_names: tuple[str, ...] | None = None) -> dict[str, Detections]:
    """Return the detections of each picture of a JSON file: one object, or several one after another (JSON lines).

    `source` names the file in errors; `class_names` are those it was written with (default: the 200 of ILSVRC).
    Raises: ValueError naming the file, the line and the detection for anything missing, mistyped or out of range.
    """
    names = det_names() if class_names is None else class_names
    results: dict[str, Detections] = {}
    for line, value in _json_values(text, source):
        where = f"{source}, line {line}"
        fields = _typed(where, "the entry of a picture", value, dict)
        picture = _field(where, fields, "picture", str)
        if picture in results:
            raise ValueError(f"{where}: picture '{picture}' comes twice; keep one entry of it")
        size = _field(where, fields, "width", int), _field(where, fields, "height", int)
        entries = enumerate(_field(where, fields, "detections", list), 1)
        rows = [_json_row(f"{where}, detection {i}", entry, names) for i, entry in entries]
        results[picture] = _assembled(where, rows, size, names)
    if not results:
        raise ValueError(f"{source}: the file is empty; an object for each picture is needed")
    return results


def _json_row(where: str, entry: object, class_names: tuple[str, ...]) -> Row:
    fields = _typed(where, "a detection", entry, dict)
    name, label = _field(where, fields, "class", str), _field(where, fields, "label", int)
    if not 1 <= label <= len(class_names):
        raise ValueError(f"{where}: label {label} is not in 1..{len(class_names)}; {OTHER_NAMES}")
    if class_names[label - 1] != name:
        right = f"write label {_label(where, name, class_names)} or the right name"
        raise ValueError(f"{where}: label {label} is '{class_names[label - 1]}', not '{name}'; {right}")
    box = [_typed(where, "box", side, float) for side in _field(where, fields, "box", list)]
    source = _field(where, fields, "source", str)
    if source not in SOURCE_NAMES.values():
        raise ValueError(f"{where}: unknown source '{source}'; write one of {', '.join(SOURCE_NAMES.values())}")
    flag = next(flag for flag, known in SOURCE_NAMES.items() if known == source)
    return _row(where, tuple(box), _field(where, fields, "score", float), label, flag)


def from_voc(data: bytes, source: str, class_names: tuple[str, ...] | None = None) -> dict[str, Detections]:
    """Return the detections of each picture of a VOC file: one <annotation>, or several one after another.

    1-based inclusive pixels become half-open ones. The picture is folder/filename. The file does not say what proposed
    a box; SELECTIVE_SEARCH stands in.
    Raises: ValueError naming the file and the annotation and object for another encoding than the declared one (UTF-8
    without), XML that is cut off or has a document type (entities), a missing element, a wrong number, an unknown class
    or an inverted box.
    """
    names = det_names() if class_names is None else class_names
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
        size = _side(where, annotation, "width"), _side(where, annotation, "height")
        rows = [_voc_row(f"{where}, object {i}", o, names) for i, o in enumerate(annotation.iterfind("object"), 1)]
        results[picture] = _assembled(where, rows, size, names)
    if not results:
        raise ValueError(f"{source}: no <annotation> in the file; write the file again")
    return results


def _voc_row(where: str, item: ElementTree.Element, class_names: tuple[str, ...]) -> Row:
    label = _label(where, _text(where, item, "name"), class_names)
    xmin, ymin, xmax, ymax = (_decimal(where, tag, _text(where, item, f"bndbox/{tag}")) for tag in CORNERS)
    x1, y1 = EXACT.subtract(xmin, Decimal(1)), EXACT.subtract(ymin, Decimal(1))
    score = _decimal(where, "score", _text(where, item, "score"))
    return _row(where, tuple(map(float, (x1, y1, xmax, ymax))), float(score), label, SELECTIVE_SEARCH)


def _text(where: str, element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{where}: the element <{path}> is missing; add it")
    return text


def _side(where: str, annotation: ElementTree.Element, side: str) -> int:
    text = _text(where, annotation, f"size/{side}")
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{where}: {side} is '{short(text)}'; it must be {NEEDED[int]}")
    return int(text)


def _decimal(where: str, what: str, text: str) -> Decimal:
    """Return the finite number that `text` writes, exactly."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{where}: {what} is '{short(text)}'; it must be {NEEDED[float]}")
    return Decimal(text) if _typed(where, what, float(text), float) else Decimal(0)  # not 84 digits of 1e-999


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
            reason = f"not JSON, or cut off: {error.msg} at column {error.colno}"
            raise ValueError(f"{source}, line {error.lineno}: {reason}; write the file again") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}, line {line}: not readable as JSON: {error}; write the file again") from error
        yield line, value
        line += text.count("\n", start, end)
        position = end


def _field(where: str, fields: dict[str, object], name: str, kind: type[Any]) -> Any:
    """Return a field of the given type."""
    if name not in fields:
        raise ValueError(f"{where}: the field '{name}' is missing; add it")
    return _typed(where, name, fields[name], kind)


def _typed(where: str, what: str, value: object, kind: type[Any]) -> Any:
    """Return `value` if it is of the given type; a float must be finite in float32, and may be written as an int."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{where}: {what} is {short(repr(value))}; it must be {NEEDED[kind]}")
    if kind is float and isinstance(value, int | float) and not abs(value) <= _LARGEST:  # NaN compares as false
        raise ValueError(f"{where}: {what} is {short(repr(value))}; it must be a finite number")
    return value


def _label(where: str, name: str, class_names: tuple[str, ...]) -> int:
    """Return the label 1..N of a class."""
    if name in class_names:
        return class_names.index(name) + 1
    try:
        return label_of(name, class_names)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {OTHER_NAMES}") from error


def _row(where: str, box: tuple[float, ...], score: float, label: int, source: int) -> Row:
    """Return one detection whose box has four sides and is not inverted, and whose score is in 0..1."""
    if len(box) != 4:
        raise ValueError(f"{where}: box has {len(box)} numbers; 4 are needed")
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        raise ValueError(f"{where}: the box {x1:g} {y1:g} {x2:g} {y2:g} is inverted; x2 >= x1 and y2 >= y1 are needed")
    if not 0 <= score <= 1:
        raise ValueError(f"{where}: score {score:g} is not in 0..1; write the probability of the class")
    return Row(box, score, label, source)


def _assembled(where: str, rows: Iterable[Row], size: tuple[int, int], class_names: tuple[str, ...]) -> Detections:
    """Return the detections of one picture, in their order."""
    if min(size) < 1:
        raise ValueError(f"{where}: the picture is {size[0]} x {size[1]}; write width and height in pixels, 1 or more")
    boxes, scores, labels, sources = zip(*rows, strict=True) if rows else ((),) * 4
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.array(sources, np.uint8),
        size,
        class_names,
    )
