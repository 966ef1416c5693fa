"""Numbers, classes and boxes of the result files, checked: a complaint names the file, the place in it and the cure.

`where` is that place, such as "a.csv, line 3". Numbers are written as the shortest decimal that reads back as the
same float32, and 1-based formats add and subtract in decimal, so that no coordinate changes on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np

from detector.classes import label_of
from detector.detections import Detections
from proposals.boxes import Floats
from proposals.types import SOURCE_NAMES

EXACT = Context(prec=100)  # the smallest float32, 1e-45, plus the largest, 3e38, is 84 digits long
_LARGEST = float(str(np.finfo(np.float32).max))  # as printed: 3.4028235e+38
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class Row(NamedTuple):
    """One detection as read: box (x1, y1, x2, y2) half-open, score 0..1, label 1..N, source flag."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    source: int


def decimals(values: Floats) -> list[Decimal]:
    """Return each float32 [N] as the shortest decimal that reads back as it."""
    return [Decimal(str(value)) for value in values]


def shortest(values: Floats) -> list[float]:
    """Return each float32 [N] as the double that prints shortest (0.1, where `float` gives 0.10000000149)."""
    return [float(value) for value in decimals(values)]


def plain(value: Decimal) -> str:
    """Return `value` in digits without an exponent, a whole number without a point."""
    return f"{value:f}".removesuffix(".0")


def one_based(box: Floats) -> list[str]:
    """Return a half-open box [4] as 1-based inclusive digits: xmin = x1 + 1, ymin = y1 + 1, xmax = x2, ymax = y2."""
    x1, y1, x2, y2 = decimals(box)
    one = Decimal(1)
    return [plain(EXACT.add(x1, one)), plain(EXACT.add(y1, one)), plain(x2), plain(y2)]


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
