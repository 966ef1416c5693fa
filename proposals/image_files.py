"""The image files that an argument names (a file, a folder, a pattern), and the lines of a list; no file is opened.

Only the standard library is imported, so that `--help` does not wait for numpy and Pillow.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
OTHER_SUFFIXES = (".png", ".apng", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".jp2")
NETPBM_SUFFIXES = (".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = frozenset((*JPEG_SUFFIXES, *OTHER_SUFFIXES, *NETPBM_SUFFIXES))
OUTPUT_MARK = ".detected"  # in the names of the drawings of `detect`, which a folder or a pattern never yields
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks


@dataclass(frozen=True)
class Problem:
    """An argument that names nothing to look at, and the `reason` in one line."""

    name: str
    reason: str


def find_images(argument: str) -> Iterator[Path | Problem]:
    """Yield the files that `argument` names, and a Problem for what names none.

    A file is taken whatever its suffix. A folder yields the images in it, then those below it. A pattern (`*`, `?`,
    `[...]`, `**`) that is no file's own name yields the files that match: images alone where it ends in a wildcard.
    Folders and patterns come in natural order, without hidden files and without the drawings of `detect`. A folder
    that links reach twice comes once; one that cannot be read is a Problem, and the others go on.
    """
    path = Path(argument)
    if not argument:
        yield Problem("''", "is an empty name; give a picture, a folder or a pattern")
    elif not exists(path):
        yield from _matching(argument) if is_pattern(argument) else [Problem(argument, "no such file")]
    elif stat.S_ISDIR(_mode(path)):
        yield from _below(path)
    else:
        yield path


def is_image(path: Path) -> bool:
    """Return whether a file found by looking around is taken: an image by its suffix, and no drawing of `detect`."""
    return path.suffix.casefold() in SUFFIXES and not _is_output(path)


def is_pattern(argument: str) -> bool:
    """Return whether a name has a wildcard."""
    return re.search(r"[*?[]", argument) is not None


def exists(path: Path) -> bool:
    """Return False where nothing has this name; a file behind a closed door counts, reading it tells the reason."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sorting key by which `img2` comes before `img10`, and upper and lower case stand together."""
    parts = re.split(r"(\d+)", name.casefold())  # text and digits in turn, text first
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def read_list(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, stripped, each with its number from 1.

    A byte-order mark is left out. Raises: OSError; ValueError, naming the line, for text that is not UTF-8.
    """
    lines = decode(path.read_bytes(), path).split("\n")  # splitlines parts a name at characters that it may have
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def decode(data: bytes, place: str | Path) -> str:
    """Return UTF-8 bytes as text, a byte-order mark left out. Raises: ValueError naming `place` and the line."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(UTF16):
            raise ValueError(f"{place}: is UTF-16 text; save the file as UTF-8") from None
        line = data[: error.start].count(b"\n") + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ValueError(f"{place}, line {line}: {what}; save the file as UTF-8") from None


def _is_output(path: Path) -> bool:
    return path.stem.casefold().endswith(OUTPUT_MARK)


def _below(top: Path) -> Iterator[Path | Problem]:
    """Yield the images of a folder, then those of its subfolders."""
    waiting, visited, found = [top], set[str](), False
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        try:
            inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            found = True
            yield Problem(str(folder), f"the folder cannot be read: {error.strerror}")
            continue
        folders = []
        for path in sorted(inside, key=lambda path: natural_key(path.name)):
            mode = _mode(path)
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif is_image(path) and (stat.S_ISREG(mode) or not mode):  # a broken link is not passed over in silence
                found = True
                yield path
        waiting += reversed(folders)
    if not found:
        yield Problem(str(top), "no pictures in this folder (looked for .jpg, .png, .webp, .tif and the like)")


def _matching(pattern: str) -> Iterator[Path | Problem]:
    """Yield the files that match a pattern."""
    path = Path(pattern)
    parts = [*path.parts[bool(path.anchor) :], *(["*"] if path.name == "**" else [])]
    try:
        matches = list(Path(path.anchor).glob("/".join(parts)))
    except (ValueError, IndexError) as error:
        yield Problem(pattern, f"no such file, and no pattern either: {error}")
        return
    images_alone, found = parts[-1][-1] in "*?]", False
    for match in sorted(matches, key=lambda match: [natural_key(part) for part in match.parts]):
        hidden = any(part.startswith(".") for part in match.parts if part not in path.parts)
        taken = is_image(match) if images_alone else not _is_output(match)
        if taken and not hidden and stat.S_ISREG(_mode(match)):
            found = True
            yield match
    if not found:
        yield Problem(pattern, "no such file, and as a pattern it matches no picture")


def _mode(path: Path) -> int:
    """Return the file mode behind `path`, or 0 where it cannot be told (a broken link, a closed folder)."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0
