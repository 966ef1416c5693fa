"""What the readers of data sets share: errors with a place and a cure, text files, folders of pictures, box checks."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles
from proposals.image_files import SUFFIXES, UTF16, decode, read_list

T = TypeVar("T")
DEFAULT_SPLIT = "val"  # also what the whole of a data set without splits goes by
ENCODING = re.compile(rb"(?:\xef\xbb\xbf)?<\?xml[^>]*?\sencoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")  # of XML
MAX_DIGITS = 18  # of a whole number that int64 holds
MAX_COORDINATE = 1e7  # pixels; beyond all pictures, and its areas are still exact
SHOWN = 60  # characters of a wrong value that a message quotes


def wrong(place: str | Path, what: str, cure: str) -> ValueError:
    """Return an error of one line: the place, what is wrong there, and the cure."""
    return ValueError(f"{place}: {what}; {cure}")


def at(place: str | Path, line: int) -> str:
    """Return a place within a file, lines counted from 1."""
    return f"{place}, line {line}"


def short(text: str) -> str:
    """Return a value for a message, a long one cut."""
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def parse_int(text: str) -> int | None:
    """Return the number that 1 to MAX_DIGITS digits 0-9 write; None for other text, also for what `int` takes (1_0)."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def parse_whole(text: str) -> int | None:
    """Return a whole number of 0 or more, also one that is written 200.0 or 2e+02; None for anything else."""
    try:
        value = parse_float(text)
    except ValueError:
        return None
    exact = parse_int(text)
    return exact if exact is not None else int(value) if value.is_integer() and 0 <= value < 2**53 else None


def parse_float(text: str) -> float:
    """Return a number as `float` does, but not of 1_0 or of digits other than 0-9. Raises: ValueError."""
    if "_" in text or not text.isascii():
        raise ValueError(f"'{short(text)}' is not a number")
    return float(text)


def check_regular(path: Path) -> None:
    """Raise ValueError for a pipe, socket or device, which may never end; OSError for what is not there."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise wrong(path, "is a pipe, socket or device", "put a file in its place")


def read_bytes(path: Path) -> bytes:
    """Return the contents of a regular file. Raises: ValueError for a pipe or device; OSError."""
    check_regular(path)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Return a UTF-8 file, a byte order mark left out. Raises: ValueError naming the line of a wrong byte; OSError."""
    return decode(read_bytes(path), path)


def xml_text(data: bytes, place: str | Path) -> str:
    """Return the text of an XML file: as its byte-order mark says, else its declaration, else UTF-8.

    Raises: ValueError, naming the line, for a byte that this encoding does not have, or an unknown encoding.
    """
    declared = ENCODING.match(data)  # readable as ASCII, so a declared UTF-16, as .NET writes it, is not true
    name = declared[1].decode() if declared else "utf-8"
    encoding = "utf-16" if data.startswith(UTF16) else "utf-8" if name.lower().startswith(("utf-8", "utf-16")) else name
    try:
        return data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"byte 0x{data[error.start]:02x} is not {encoding.upper()}"
        raise wrong(
            at(place, line), what, "declare the right encoding in the first line, or save it as UTF-8"
        ) from error
    except LookupError as error:
        raise wrong(at(place, 1), f"its encoding '{encoding}' is unknown", "save the file as UTF-8") from error


def read_words(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each line of a text file with the number of the line; blank lines are left out."""
    check_regular(path)
    for number, line in read_list(path):
        yield number, line.split()


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the classes that a file lists, one a line; none where there is no file. Raises: ValueError; OSError."""
    if not path.exists():
        return ()
    classes = [line.strip() for line in read_text(path).split("\n")]
    while classes and not classes[-1]:
        classes.pop()
    for line, name in enumerate(classes, 1):
        if not name:
            raise wrong(at(path, line), "the line is blank", "write one class a line")
    check_unique(classes, lambda i: at(path, i + 1), "class")
    return tuple(classes)


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the files in and below `folder` that end so (lower case), sorted, hidden ones left out. Raises: OSError."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.casefold() in suffixes and not name.startswith("."):
                yield Path(place, name)


def index_files(folder: Path, suffixes: Collection[str] = SUFFIXES) -> dict[str, Path]:
    """Return the files in and below `folder` by their path in it without extension; by default the pictures.

    Raises: ValueError when two of one folder share a name; OSError.
    """
    found: dict[str, Path] = {}
    for path in walk(folder, suffixes):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise wrong(path, f"has the name of {found[name]}", "keep one of the two")
        found[name] = path
    return found


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the file name of each path without folders as its key, where that leaves them unique, else the path."""
    paths = list(names)
    short = {name.rsplit("/", 1)[-1]: name for name in paths}
    return short if len(short) == len(paths) else {name: name for name in paths}


def with_short_names(index: dict[str, T]) -> dict[str, T]:
    """Return the files also by their name alone, where only one has it."""
    counts = Counter(name.rsplit("/", 1)[-1] for name in index)
    return {last: file for name, file in index.items() if counts[last := name.rsplit("/", 1)[-1]] == 1} | index


def find_pictures(
    names: Sequence[str], folders: Sequence[Path], place: Callable[[int], str], needed: bool = True
) -> list[Path | None]:
    """Return the picture of each name in or below `folders`; None for all where none of them exists.

    Raises: ValueError for a `needed` picture that the existing folders lack; `place` says where an index is listed.
    """
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        return [None] * len(names)
    index: dict[str, Path] = {}
    for folder in folders:
        index |= with_short_names(index_files(folder))
    for row, name in enumerate(names):
        if needed and name not in index:
            what = f"picture '{name}' is not in {' or '.join(map(str, folders))}"
            raise wrong(place(row), what, "add it, or take it off the list")
    return [index.get(name) for name in names]


def check_unique(names: Iterable[str], place: Callable[[int], str], what: str) -> None:
    """Raise ValueError for a name that comes twice; `place(i)` is where name i stands."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            raise wrong(place(index), f"{what} '{name}' comes a second time", "keep one of the two")
        seen[name] = index


def check_not_empty(count: int, place: str | Path) -> None:
    """Raise ValueError for a data set without pictures."""
    if not count:
        raise wrong(place, "lists no picture", "give a data set with at least one")


def check_boxes(
    boxes: Doubles,
    sizes: npt.NDArray[np.int64],
    place: Callable[[int], str],
    margin: float = 0.0,
    may_be_flat: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Raise ValueError for a box that is not finite, far off, without area, or wholly outside its picture.

    Shapes: half-open boxes [N, 4]; sizes [N, 2] of their pictures, width and height, 0 where unknown; `place(i)` is
    where box i stands; a box up to `margin` pixels outside is let through; `may_be_flat` [N] allows an area of 0.
    """
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        raise wrong(place(int(np.argmin(finite))), "a coordinate is not a finite number", "correct or remove the box")
    far = (np.abs(boxes) > MAX_COORDINATE).any(axis=1)
    if far.any():
        what = f"a coordinate is beyond {MAX_COORDINATE:,.0f} pixels"
        raise wrong(place(int(np.argmax(far))), what, "correct or remove the box")
    sides = boxes[:, 2:] - boxes[:, :2]
    flat = (sides <= 0).any(axis=1)
    if may_be_flat is not None:
        flat &= ~(may_be_flat & (sides >= 0).all(axis=1))
    if flat.any():
        row = int(np.argmax(flat))
        what = f"the box is {sides[row, 0]:g} x {sides[row, 1]:g} pixels"
        raise wrong(place(row), what, "correct or remove it, both sides must be above 0")
    outside = (boxes[:, 2:] <= -margin).any(axis=1) | ((boxes[:, :2] >= sizes + margin) & (sizes > 0)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        width, height = sizes[row].tolist()
        picture = f"its picture of {width} x {height} pixels" if width and height else "its picture"
        raise wrong(place(row), f"the box lies wholly outside {picture}", "correct or remove it")
