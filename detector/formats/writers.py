"""Detections of one picture as JSON, CSV, COCO's results list, ILSVRC's submission lines, Pascal VOC's XML and YOLO.

Numbers are written as the shortest decimal that reads back as the same float32, and 1-based formats add in decimal, so
that no coordinate changes on the way.
"""

from __future__ import annotations

import csv
import io
import json
import re
from decimal import Context, Decimal
from xml.etree import ElementTree

from detector.detections import Detections
from proposals.boxes import Floats
from proposals.types import SOURCE_NAMES

EXACT = Context(prec=100)  # the smallest float32, 1e-45, plus the largest, 3e38, is 84 digits long
CSV_COLUMNS = ("picture", "class", "label", "score", "x1", "y1", "x2", "y2", "source", "width", "height")
CSV_HEADER = ",".join(CSV_COLUMNS) + "\n"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2, less \r


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


def to_json(detections: Detections, picture: str) -> str:
    """Return one line, an object: the picture's name, width, height and detections (box: x1, y1, x2, y2, half-open)."""
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


def csv_rows(detections: Detections, picture: str) -> str:
    """Return the CSV rows of one picture, without the header: half-open boxes."""
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
        sides = map(plain, decimals(box))
        writer.writerow([picture, name, label, plain(score), *sides, SOURCE_NAMES[source], *detections.image_size])
    return lines.getvalue()


def to_csv(detections: Detections, picture: str) -> str:
    """Return the CSV file of one picture: the header, then a row a detection."""
    return CSV_HEADER + csv_rows(detections, picture)


def coco_entries(detections: Detections, image_id: int) -> list[str]:
    """Return the results of one picture as COCO writes them, an object each: bbox is x, y, width, height (0-based).

    `category_id` is the label 1..N. Width and height are the exact decimal difference, as a double.
    """
    entries = []
    labels = detections.labels.tolist()
    for box, score, label in zip(detections.boxes, shortest(detections.scores), labels, strict=True):
        x1, y1, x2, y2 = decimals(box)
        bbox = [float(x1), float(y1), float(EXACT.subtract(x2, x1)), float(EXACT.subtract(y2, y1))]
        entries.append(json.dumps({"image_id": image_id, "category_id": label, "bbox": bbox, "score": score}))
    return entries


def to_coco(detections: Detections, image_id: int) -> str:
    """Return the COCO results list of one picture, an entry a line."""
    entries = ",\n".join(coco_entries(detections, image_id))
    return f"[\n{entries}\n]\n" if entries else "[\n]\n"


def to_ilsvrc(detections: Detections, image_id: int) -> str:
    """Return the submission lines of one picture: image_id class_id confidence xmin ymin xmax ymax.

    Pixels are 1-based and inclusive (xmin = x1 + 1, xmax = x2), as the ILSVRC detection devkit's readme asks.
    """
    rows = zip(detections.labels.tolist(), decimals(detections.scores), detections.boxes, strict=True)
    return "".join(f"{image_id} {label} {plain(score)} {' '.join(one_based(box))}\n" for label, score, box in rows)


def to_voc(detections: Detections, picture: str) -> str:
    """Return one <annotation>; pixels are 1-based and inclusive (xmin = x1 + 1, xmax = x2), depth is 3 (RGB).

    The part of `picture` before its last slash is the <folder>; a <score> stands beside each box.
    Raises: ValueError for a picture or class name with a control character, which XML cannot hold.
    """
    annotation = ElementTree.Element("annotation")
    folder, slash, filename = picture.rpartition("/")
    _add(annotation, "folder", folder or slash)
    _add(annotation, "filename", filename)
    size = ElementTree.SubElement(annotation, "size")
    for tag, value in zip(("width", "height", "depth"), (*detections.image_size, 3), strict=True):
        _add(size, tag, str(value))
    for name, score, box in zip(detections.names, decimals(detections.scores), detections.boxes, strict=True):
        item = ElementTree.SubElement(annotation, "object")
        _add(item, "name", name)
        bndbox = ElementTree.SubElement(item, "bndbox")
        for tag, digits in zip(CORNERS, one_based(box), strict=True):
            _add(bndbox, tag, digits)
        _add(item, "score", plain(score))
    ElementTree.indent(annotation)
    return ElementTree.tostring(annotation, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    bad = _NO_XML.search(text)
    if bad:
        raise ValueError(f"{text!r} has the character {bad.group()!r}, which XML cannot hold; rename it")
    ElementTree.SubElement(parent, tag).text = text


def to_yolo(detections: Detections) -> str:
    """Return the YOLO lines of one picture: class_index cx cy w h score.

    The class index is 0-based (label - 1); centre and size are divided by the picture's width and height.
    """
    width, height = detections.image_size
    lines = []
    rows = zip(detections.labels.tolist(), decimals(detections.scores), detections.boxes.tolist(), strict=True)
    for label, score, (x1, y1, x2, y2) in rows:
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{label - 1} {' '.join(map(repr, values))} {plain(score)}\n")
    return "".join(lines)
