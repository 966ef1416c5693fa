"""The XML annotation of one picture, as Pascal VOC made it and ILSVRC took it over, from folders or tar archives."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from detector.datasets.checks import (
    at,
    check_boxes,
    check_regular,
    decode,
    index_files,
    natural,
    read_bytes,
    real,
    short,
    wrong,
)
from detector.datasets.ground_truth import GroundTruth

SIDES = ("xmin", "ymin", "xmax", "ymax")
XML = (".xml",)


@dataclass(frozen=True)
class Annotation:
    """The objects of one picture: `size` (0 where not said), names, boxes as in the file (1-based), difficult."""

    size: tuple[int, int]
    names: list[str]
    boxes: list[tuple[float, float, float, float]]
    difficult: list[bool]


class XmlFiles:
    """The XML files in and below folders or in tar archives, by name without extension."""

    def __init__(self, sources: Sequence[Path]) -> None:
        """List folders, read archives whole (one pass). Raises: ValueError for a broken archive or a name twice."""
        self.sources = sources
        self._files: dict[str, Path] = {}
        self._members: dict[str, tuple[str, bytes]] = {}
        for source in sources:
            if source.is_dir():
                self._files |= index_files(source, XML)
            else:
                self._members |= _read_archive(source)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._files.keys() | self._members.keys())

    def read(self, name: str) -> tuple[str, bytes] | None:
        """Return the place, for messages, and the contents of one file; None where there is none.

        Raises: ValueError for a pipe or device; OSError.
        """
        if name in self._files:
            return str(self._files[name]), read_bytes(self._files[name])
        return self._members.get(name)


def _read_archive(path: Path) -> dict[str, tuple[str, bytes]]:
    found: dict[str, tuple[str, bytes]] = {}
    check_regular(path)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name)
                if not member.isfile() or name.suffix.casefold() not in XML or name.name.startswith("."):
                    continue
                file = archive.extractfile(member)
                if name.stem in found:
                    raise wrong(f"{path}/{member.name}", "comes a second time", "make the archive again")
                found[name.stem] = f"{path}/{member.name}", file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
        raise wrong(path, "is no tar archive, or broken or cut off", "get it again") from error
    return found


def parse(data: bytes, place: str) -> Annotation:
    """Return what one XML file says. Raises: ValueError with place, line and cure."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        decode(data, place)
        line, _ = error.position
        raise wrong(at(place, line), f"no valid XML ({expat.ErrorString(error.code)})", "get the file again") from error
    except (ValueError, LookupError) as error:
        raise wrong(at(place, 1), f"its encoding cannot be read ({error})", "save the file as UTF-8") from error
    if root.tag != "annotation":
        raise wrong(place, f"the XML holds <{root.tag}>", "an annotation file holds <annotation>")
    result = Annotation(_size(root, place), [], [], [])
    for index, item in enumerate(root.iterfind("object")):
        try:
            box = item.find("bndbox")
            if box is None:
                raise ValueError("object without <bndbox>")
            left, top, right, bottom = [_number(box, side) for side in SIDES]
            result.names.append(_text(item, "name"))
            result.difficult.append(_flag(item, "difficult"))
            result.boxes.append((left, top, right, bottom))
        except ValueError as error:
            raise wrong(at(place, object_line(data, index)), str(error), "correct or remove the object") from error
    return result


def _size(root: ElementTree.Element, place: str) -> tuple[int, int]:
    said = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
    width, height = map(natural, said)
    if width is None or height is None:
        raise wrong(place, f"<size> says '{short(said[0])}' x '{short(said[1])}'", "give whole pixels")
    return width, height


def _text(item: ElementTree.Element, tag: str) -> str:
    text = item.findtext(tag)
    if text is None or not (text := text.strip()):
        raise ValueError(f"<{item.tag}> without <{tag}>")
    return text


def _number(item: ElementTree.Element, tag: str) -> float:
    text = _text(item, tag)
    try:
        return real(text)
    except ValueError:
        raise ValueError(f"<{tag}> is '{short(text)}', not a number") from None


def _flag(item: ElementTree.Element, tag: str) -> bool:
    text = item.findtext(tag, "0").strip()
    if text not in ("0", "1"):
        raise ValueError(f"<{tag}> is '{short(text)}', not 0 or 1")
    return text == "1"


def object_line(data: bytes, index: int) -> int:
    """Return the line of the object `index`, 0..N-1, of a well-formed file; the fast parser keeps no lines."""
    lines: list[int] = []
    depth = 0
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        if depth == 1 and tag == "object":
            lines.append(parser.CurrentLineNumber)
        depth += 1

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(data, True)
    return lines[index]


def assemble(
    files: XmlFiles,
    names: Sequence[str],
    numbers: Sequence[int],
    paths: Sequence[Path | None],
    annotations: Sequence[Annotation],
    classes: tuple[Sequence[str], Sequence[str]],
    labels: Mapping[str, int],
    unknown: Callable[[str], str],
    margin: float = 0.0,
    blacklist: Sequence[tuple[int, int]] = (),
) -> GroundTruth:
    """Return the annotations of all pictures in columns, their boxes made half-open: xmin - 1, ymin - 1, xmax, ymax.

    `classes`: names and keys; `labels`: the label of each name in the files; `unknown`: the cure for another name;
    `margin` as for `check_boxes`. Raises: ValueError for an unknown class or a wrong box, with file and line.
    """
    counts = [len(a.names) for a in annotations]
    pictures = np.repeat(np.arange(len(names)), counts)
    starts = np.cumsum([0, *counts])

    def place(row: int) -> str:
        picture = int(pictures[row])
        found = files.read(names[picture])
        return at(found[0], object_line(found[1], row - int(starts[picture]))) if found else names[picture]

    found = [name for a in annotations for name in a.names]
    for row, name in enumerate(found):
        if name not in labels:
            raise wrong(place(row), f"unknown class '{short(name)}'", unknown(name))
    corners = np.array([box for a in annotations for box in a.boxes], np.float64).reshape(-1, 4)
    boxes = half_open(corners)
    sizes = np.array([a.size for a in annotations], np.int64).reshape(-1, 2)
    check_boxes(boxes, sizes[pictures], place, margin)
    return GroundTruth(
        names=tuple(names),
        numbers=np.array(numbers, np.int64),
        sizes=sizes,
        paths=tuple(paths),
        class_names=tuple(classes[0]),
        class_keys=tuple(classes[1]),
        pictures=pictures,
        labels=np.array([labels[name] for name in found], np.int64),
        boxes=boxes,
        difficult=np.array([flag for a in annotations for flag in a.difficult], np.bool_),
        crowd=np.zeros(len(found), np.bool_),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        blacklist=np.array(blacklist, np.int64).reshape(-1, 2),
    )


def half_open(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return half-open boxes [N, 4] of 1-based inclusive ones, in float64: xmin - 1, ymin - 1, xmax, ymax."""
    return np.asarray(corners - np.array([1.0, 1.0, 0.0, 0.0]), np.float64)
