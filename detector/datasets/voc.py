"""Pascal VOC data sets (`Annotations/`, `JPEGImages/`, `ImageSets/Main/`), and the XML that ILSVRC shares with them."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

from detector.datasets.checks import (
    DEFAULT_SPLIT,
    at,
    check_boxes,
    check_not_empty,
    check_regular,
    check_unique,
    find_pictures,
    index_files,
    parse_float,
    parse_whole,
    read_bytes,
    read_classes,
    short,
    short_names,
    with_short_names,
    wrong,
    xml_text,
)
from detector.datasets.ground_truth import GroundTruth
from proposals.image_files import read_list

SIDES = ("xmin", "ymin", "xmax", "ymax")
XML = (".xml",)
YES, NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no", "unspecified")  # of flags, as tools write them
# the 20 classes of VOC 2007..2012, in the order of the development kit
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(path: Path, split: str | None = None, pictures: bool = True) -> GroundTruth:
    """Return a VOC data set: VOCdevkit with one year in it, VOC2007, VOC2012, or any folder of their layout.

    The pictures are those of ImageSets/Main/<split>.txt (None: val), or all annotated ones where there is no
    ImageSets. The classes are the lines of classes.txt or labelmap.txt (CVAT), else VOC's 20; without ImageSets those
    that occur, sorted. Boxes are 1-based inclusive in the files. `numbers` count the pictures from 1, in their order.
    Raises: ValueError with file, line and cure; OSError.
    """
    folder = _year(path)
    sets = folder / "ImageSets" / "Main"
    files = XmlFiles([folder / "Annotations"])
    if sets.is_dir():
        source = _list_of(sets, split or DEFAULT_SPLIT)
        check_regular(source)
        lines = [(_listed(text, files), line) for line, text in read_list(source)]
        names = [name for name, _ in lines]
        check_unique(names, lambda i: at(source, lines[i][1]), "picture")
    elif split not in (None, DEFAULT_SPLIT):
        raise wrong(sets, f"there is no such folder to tell split '{split}'", "make it, or give no split")
    else:
        source, names, lines = folder / "Annotations", files.names(), []
    check_not_empty(len(names), source)

    annotations = []
    for index, name in enumerate(names):
        found = files.read(name)
        if found is None:
            what = f"picture '{name}' has no {folder / 'Annotations' / name}.xml"
            raise wrong(at(source, lines[index][1]), what, "get the file, or give a split that is annotated")
        annotations.append(parse(found[1], found[0]))

    classes = read_classes(folder / "classes.txt") or _label_map(folder / "labelmap.txt")
    if not classes:
        classes = VOC_CLASSES if sets.is_dir() else tuple(sorted({n for a in annotations for n in a.names}))
    return assemble(
        files,
        names,
        range(1, len(names) + 1),
        find_pictures(
            names, [folder / "JPEGImages"], lambda i: at(source, lines[i][1]) if lines else str(source), pictures
        ),
        annotations,
        (classes, classes),
        {name: label for label, name in enumerate(classes, 1)},
        lambda name: f"correct it, or list the classes of your own in {folder / 'classes.txt'}, one a line",
        elsewhere=set(files.names()) - set(names),
    )


def is_voc(path: Path) -> bool:
    """Return whether a folder looks like a VOC data set."""
    return (path / "Annotations").is_dir() or any(path.glob("VOC20??/Annotations"))


def _year(path: Path) -> Path:
    """Return the folder that holds Annotations/: `path`, or the one year in it."""
    if (path / "Annotations").is_dir():
        return path
    years = [found.parent for found in sorted(path.glob("VOC20??/Annotations"))]
    if not years:
        raise wrong(path, "has no folder Annotations", "give a folder such as VOCdevkit/VOC2007")
    if len(years) > 1:
        raise wrong(path, f"holds {' and '.join(year.name for year in years)}", "give one of them")
    return years[0]


def _label_map(path: Path) -> tuple[str, ...]:
    """Return the classes of CVAT's labelmap.txt, lines `label:color_rgb:parts:actions`; none without the file."""
    if not path.exists():
        return ()
    check_regular(path)
    names = [line.split(":")[0].strip() for _, line in read_list(path) if not line.startswith("#")]
    return tuple(dict.fromkeys(name for name in names if name and name != "background"))


def _listed(line: str, files: XmlFiles) -> str:
    """Return the picture that a line names: all of it, in quotes as CVAT writes, or without VOC's -1, 0 or 1 behind."""
    name = line[1:-1] if len(line) > 2 and line[0] == line[-1] == '"' else line
    words = name.split()
    if not files.has(name) and len(words) > 1 and words[-1] in ("-1", "0", "1"):
        return name[: -len(words[-1])].rstrip()
    return name


def _list_of(sets: Path, split: str) -> Path:
    path = sets / f"{split}.txt"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in sets.glob("*.txt") if "_" not in p.stem)) or "none"
        raise wrong(path, f"there is no split '{split}'", f"the splits here: {there}")
    return path


@dataclass(frozen=True)
class Annotation:
    """The objects of one picture: `size` (0 where not said), names, boxes as in the file (1-based), difficult."""

    size: tuple[int, int]
    names: list[str]
    boxes: list[tuple[float, float, float, float]]
    difficult: list[bool]


class XmlFiles:
    """The XML files in and below folders or in tar archives, by name without extension, with folders or without."""

    def __init__(self, sources: Sequence[Path]) -> None:
        """List folders, read archives whole (one pass). Raises: ValueError for a broken archive or a name twice."""
        self.sources = sources
        self._files: dict[str, Path] = {}
        self._members: dict[str, tuple[str, bytes]] = {}
        self._names: set[str] = set()
        for source in sources:
            if source.is_dir():
                index = index_files(source, XML)
                self._names |= short_names(index).keys()
                self._files |= with_short_names(index)
            else:
                members = _read_archive(source)
                self._names |= short_names(members).keys()
                self._members |= with_short_names(members)

    def names(self) -> list[str]:
        """Return all names, sorted: without folders where that leaves those of a source unique."""
        return sorted(self._names)

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return name in self._files or name in self._members

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
                key = name.with_suffix("").as_posix()
                if key in found:
                    raise wrong(f"{path}/{member.name}", "comes a second time", "make the archive again")
                found[key] = f"{path}/{member.name}", file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
        raise wrong(path, "is no tar archive, or broken or cut off", "get it again") from error
    return found


def parse(data: bytes, place: str) -> Annotation:
    """Return what one XML file says, in the encoding that it declares. Raises: ValueError with place, line and cure."""
    text = xml_text(data, place)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise wrong(at(place, line), f"no valid XML ({expat.ErrorString(error.code)})", "get the file again") from error
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
            raise wrong(at(place, object_line(text, index)), str(error), "correct or remove the object") from error
    return result


def _size(root: ElementTree.Element, place: str) -> tuple[int, int]:
    said = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
    width, height = map(parse_whole, said)
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
        return parse_float(text)
    except ValueError:
        raise ValueError(f"<{tag}> is '{short(text)}', not a number") from None


def _flag(item: ElementTree.Element, tag: str) -> bool:
    text = item.findtext(tag, "").strip()
    if text.casefold() not in (*NO, *YES):
        raise ValueError(f"<{tag}> is '{short(text)}', not 0 or 1")
    return text.casefold() in YES


def object_line(text: str, index: int) -> int:
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
    parser.Parse(text, True)
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
    elsewhere: Iterable[str | int] = (),
) -> GroundTruth:
    """Return the annotations of all pictures in columns, their boxes made half-open: xmin - 1, ymin - 1, xmax, ymax.

    `classes`: names and keys; `labels`: the label of each name in the files; `unknown`: the cure for another name;
    `margin` as for `check_boxes`; `elsewhere` as of `GroundTruth`.
    Raises: ValueError for an unknown class or a wrong box, with file and line.
    """
    counts = [len(a.names) for a in annotations]
    suffixes = [path.suffix for path in paths if path is not None]
    pictures = np.repeat(np.arange(len(names)), counts)
    starts = np.cumsum([0, *counts])

    def place(row: int) -> str:
        picture = int(pictures[row])
        found = files.read(names[picture])
        if found is None:
            return names[picture]
        return at(found[0], object_line(xml_text(found[1], found[0]), row - int(starts[picture])))

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
        files=tuple(map("".join, zip(names, suffixes, strict=True))) if len(suffixes) == len(names) else (),
        elsewhere=frozenset(elsewhere),
    )


def half_open(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return half-open boxes [N, 4] of 1-based inclusive ones, in float64: xmin - 1, ymin - 1, xmax, ymax."""
    return np.asarray(corners - np.array([1.0, 1.0, 0.0, 0.0]), np.float64)
