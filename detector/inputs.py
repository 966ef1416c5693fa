"""The pictures and videos that a command line names (files, folders, patterns, standard input, cameras); and names
for their results."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proposals.image_files import Problem, exists, find_images, is_pattern

STDIN = "-"
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts", ".3gp", ".mjpeg")
)
CAMERA = re.compile(r"camera:(\d{1,3})")
MAX_STEM_BYTES = 200  # most file systems end names at 255 bytes; mark, number, suffix and temporary name need the rest


@dataclass(frozen=True)
class Picture:
    """A picture to look at: `name` as it was given or found; `path` of its file, None for standard input."""

    name: str
    path: Path | None


@dataclass(frozen=True)
class Video:
    """A video to look at frame by frame: `path` of its file, None for the camera of number `camera`."""

    name: str
    path: Path | None
    camera: int = 0


Source = Picture | Video | Problem


def expand(
    arguments: Sequence[str],
    sample: Callable[[str], Path],
    note: Callable[[str], None],
) -> Iterator[Source]:
    """Yield what `arguments` name, in their order and each file once, and a Problem for what names nothing.

    A folder yields the pictures in it and below, known by suffix; a pattern (`*`, `?`, `[...]`, `**`) that is not a
    file's own name yields the files that match. Both come in natural order, without hidden files and without the
    outputs of earlier runs. A video is known by its suffix and is taken where it is named, or by a pattern that ends
    in its suffix; a folder's are passed over. `-` is standard input, `camera:0` the first camera. Where `samples` or
    `samples/NAME` does not exist, `sample` may know a bundled picture NAME (else it raises FileNotFoundError), and
    `note` is told which. Only names are held in memory, never pictures.
    """
    seen: set[str] = set()
    for argument in arguments:
        for item in _expand_one(argument, sample, note):
            if not isinstance(item, Problem):
                key = os.path.realpath(item.path) if item.path else item.name
                if key in seen:
                    continue
                seen.add(key)
            yield item


def _expand_one(argument: str, sample: Callable[[str], Path], note: Callable[[str], None]) -> Iterator[Source]:
    """Yield what one argument names; a file may come twice."""
    if argument == STDIN:
        yield Picture(STDIN, None)
        return
    if not argument:
        yield Problem("''", "is an empty name; give a picture, a folder, a pattern or -")
        return
    path = Path(argument)
    names = argument
    if not exists(path):
        if camera := CAMERA.fullmatch(argument):
            yield Video(f"camera:{int(camera[1])}", None, int(camera[1]))
            return
        if not is_pattern(argument):
            try:
                path = _bundled(argument, sample)
            except FileNotFoundError:
                yield Problem(argument, "no such file")
                return
            names = str(path)
            note(f"{argument} is not here; using the bundled {path}")
    for found in find_images(names):
        yield found if isinstance(found, Problem) else _named(argument if found == path else str(found), found)


def _named(name: str, path: Path) -> Picture | Video:
    """Return a file as what its suffix says."""
    return Video(name, path) if path.suffix.casefold() in VIDEO_SUFFIXES else Picture(name, path)


def _bundled(argument: str, sample: Callable[[str], Path]) -> Path:
    """Return the bundled picture for `samples/dog.jpg`, or the folder for `samples`.

    A bare `dog.jpg` is the user's own, perhaps mistyped. Raises: FileNotFoundError when there is none.
    """
    parts = Path(argument).parts
    if parts == ("samples",):
        return sample("dog.jpg").parent
    if len(parts) == 2 and parts[0] == "samples" and Path(argument).suffix:
        return sample(parts[-1])
    raise FileNotFoundError(argument)


class OutputNames:
    """Stems of the result files in one folder: never one twice, never one that would replace an input.

    The first `a/x.jpg` gets `x`, a later `b/x.png` gets `x-2`; the order of the inputs decides alone, so that a
    repeated run writes the same names. Case is ignored, as some file systems do.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str], inputs: Iterable[str]) -> None:
        """Take the `folder`, the `suffixes` that follow a stem, and the command's arguments, which stay untouched."""
        self._folder = folder
        self._suffixes = suffixes
        self._inputs = {os.path.realpath(name) for name in inputs}
        self._used: set[str] = set()
        self._last: dict[str, int] = {}  # the last number given to a base name

    def stem(self, source: Picture | Video) -> str:
        """Return the stem for the results of `source`, such as `x` or `x-2`."""
        nameless = f"camera-{source.camera}" if isinstance(source, Video) else "stdin"
        base = source.path.stem if source.path else nameless
        while len(os.fsencode(base)) > MAX_STEM_BYTES:
            base = base[:-1]
        number = self._last.get(base.casefold(), 1)
        stem = base if number == 1 else f"{base}-{number}"
        while stem.casefold() in self._used or self._is_input(stem):
            number += 1
            stem = f"{base}-{number}"
        self._last[base.casefold()] = number
        self._used.add(stem.casefold())
        return stem

    def _is_input(self, stem: str) -> bool:
        return any(os.path.realpath(self._folder / (stem + suffix)) in self._inputs for suffix in self._suffixes)
