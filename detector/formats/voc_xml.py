"""Detections as PASCAL VOC annotations, with a <score> beside each box."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from detector.classes import det_names
from detector.detections import Detections
from detector.formats.fields import (
    Row,
    assemble,
    check_size,
    decimals,
    half_open,
    label_from_name,
    one_based,
    plain,
    read_number,
    read_whole,
    row,
)
from proposals.types import SELECTIVE_SEARCH

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2, less \r
_DECLARATION = re.compile(r"\A\ufeff?<\?xml[^>]*\?>")


def to_voc(detections: Detections, picture: str) -> str:
    """Return one <annotation>; pixels are 1-based and inclusive (xmin = x1 + 1, xmax = x2), depth is 3 (RGB).

    The part of `picture` before its last slash is the <folder>.
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
        for tag, digits in zip(_CORNERS, one_based(box), strict=True):
            _add(bndbox, tag, digits)
        _add(item, "score", plain(score))
    ElementTree.indent(annotation)
    return ElementTree.tostring(annotation, encoding="unicode") + "\n"


def from_voc(
    text: str,
    source: str,
    class_names: tuple[str, ...] | None = None,
    proposal_source: int = SELECTIVE_SEARCH,
) -> dict[str, Detections]:
    """Return the detections of each picture of a VOC file: one <annotation>, or several one after another.

    1-based inclusive pixels become half-open ones. The picture is folder/filename. VOC holds no source:
    `proposal_source` gives it.
    Raises: ValueError naming the file and the annotation and object for XML that is cut off or has a document
    type (entities), a missing element, a wrong number, an unknown class or an inverted box.
    """
    class_names = det_names() if class_names is None else class_names
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{source}: XML with a document type or entities is not read; remove them")
    try:
        root = ElementTree.fromstring(f"<annotations>{_DECLARATION.sub('', text)}</annotations>")
    except (ElementTree.ParseError, UnicodeEncodeError) as error:
        place = f", line {error.position[0]}" if isinstance(error, ElementTree.ParseError) else ""
        raise ValueError(f"{source}{place}: not XML, or cut off: {error}; write the file again") from error
    results: dict[str, Detections] = {}
    for number, annotation in enumerate(root, 1):
        where = f"{source}, annotation {number}"
        if annotation.tag != "annotation":
            raise ValueError(f"{where}: the element is <{annotation.tag}>; <annotation> is needed")
        folder = annotation.findtext("folder") or ""
        picture = f"{folder}{'' if folder in ('', '/') else '/'}{_text(where, annotation, 'filename')}"
        if picture in results:
            raise ValueError(f"{where}: picture '{picture}' comes twice; keep one annotation of it")
        size = check_size(
            where,
            read_whole(where, "width", _text(where, annotation, "size/width")),
            read_whole(where, "height", _text(where, annotation, "size/height")),
        )
        rows = [
            _row(f"{where}, object {i}", item, class_names, proposal_source)
            for i, item in enumerate(annotation.iterfind("object"), 1)
        ]
        results[picture] = assemble(rows, size, class_names)
    if not results:
        raise ValueError(f"{source}: no <annotation> in the file; write the file again")
    return results


def _row(where: str, item: ElementTree.Element, class_names: tuple[str, ...], proposal_source: int) -> Row:
    label = label_from_name(where, _text(where, item, "name"), class_names)
    corners = [read_number(where, tag, _text(where, item, f"bndbox/{tag}")) for tag in _CORNERS]
    score = float(read_number(where, "score", _text(where, item, "score")))
    return row(where, half_open(corners), score, label, proposal_source)


def _text(where: str, element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{where}: the element <{path}> is missing; add it")
    return text


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    bad = _NO_XML.search(text)
    if bad:
        raise ValueError(f"{text!r} has the character {bad.group()!r}, which XML cannot hold; rename it")
    ElementTree.SubElement(parent, tag).text = text
