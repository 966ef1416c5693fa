"""What a command line names: pictures, folders, patterns, standard input, videos, cameras; one job after another."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from proposals.image_files import Problem, exists, find_images, is_pattern
from proposals.options import check_options, option

if TYPE_CHECKING:
    from detector.video import Frame
    from proposals.images import Image

STDIN = "-"
MAX_PIXELS = 100_000_000  # of proposals.images, which needs numpy
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts", ".3gp", ".mjpeg")
)
CAMERA = re.compile(r"camera:(\d{1,3})")


@dataclass(frozen=True)
class Picture:
    """A picture to look at: `name` as it was given or found; `path` of its file, None for standard input."""

    name: str
    path: Path | None


@dataclass(frozen=True)
class Video:
    """A video to look at frame by frame: the path of its file, or the number of a camera."""

    name: str
    source: Path | int


Source = Picture | Video | Problem


@dataclass(frozen=True, eq=False)
class Job:
    """One picture or frame to look at, or one complaint."""

    number: int  # from 1, in the order of the inputs: the image id of coco and ilsvrc
    item: Picture | Frame | Problem
    stem: str  # of its result files
    notices: tuple[str, ...]  # to print before its results


@dataclass(frozen=True)
class InputOptions:
    """How the inputs of one run are read. Raises ValueError for a value outside its range."""

    every: int = option(1, "look at every Nth frame of a video", low=1)
    frames: int = option(0, "most frames of a video or camera", low=0, off="all")
    max_pixels: int = option(MAX_PIXELS, "a picture of more pixels is refused unread", low=1)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Inputs:
    """The arguments of one run, and how they are read."""

    arguments: Sequence[str]
    options: InputOptions
    stop: threading.Event = field(default_factory=threading.Event)  # set when no more jobs are wanted

    def count(self) -> int:
        """Return the number of pictures and frames to come, without opening a picture; 0 where a camera has no end."""
        total = 0
        for source in expand(self.arguments, lambda text: None):
            if isinstance(source, Video):
                from detector.video import count_frames

                frames = count_frames(source.name, source.source, self.options.every, self.options.frames)
                if not frames:
                    return 0
                total += frames
            elif isinstance(source, Picture):
                total += 1
        return total

    def jobs(self, stem: Callable[[Picture | Video], str]) -> Generator[Job, None, None]:
        """Yield the inputs in turn, each frame of a video by itself; `stem` names the result files of one input.

        Another thread than the one that prints may ask for them: notices are kept for that one.
        """
        notices: list[str] = []
        number = 0
        for source in expand(self.arguments, notices.append):
            if self.stop.is_set():
                return
            name = "" if isinstance(source, Problem) else stem(source)
            for item in self._frames(source) if isinstance(source, Video) else (source,):
                number += 1
                yield Job(number, item, name, tuple(notices))
                notices.clear()

    def _frames(self, video: Video) -> Iterator[Frame | Problem]:
        """Yield the frames of a video, and a Problem where it ends too early."""
        from detector.video import read_frames
        from proposals.images import ImageError

        o = self.options
        try:
            yield from read_frames(video.name, video.source, o.every, o.frames, o.max_pixels, self.stop)
        except ImageError as error:
            yield Problem(video.name, error.reason)
        except MemoryError:
            yield Problem(video.name, "not enough memory to read it; give a smaller video")

    def read(self, job: Job) -> Image:
        """Return the image of a job. Raises: ImageError that says why there is none, MemoryError."""
        from proposals.images import ImageError, read_image, read_stream

        item = job.item
        if isinstance(item, Problem):
            raise ImageError(item.name, item.reason)
        if not isinstance(item, Picture):
            return item.image
        if item.path is not None:
            return read_image(item.path, self.options.max_pixels)
        if sys.stdin is None or sys.stdin.isatty():
            raise ImageError(item.name, "no picture on standard input; pipe one into the command")
        # unbuffered: a process that ends while this waits for data would miss the lock of a buffer
        data = read_stream(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), item.name)
        return read_image(data, self.options.max_pixels)


def expand(arguments: Sequence[str], note: Callable[[str], None]) -> Iterator[Source]:
    """Yield what `arguments` name, in their order and each file once, and a Problem for what names nothing.

    Files, folders and patterns are those of `find_images`. A video is known by its suffix and is taken where it is
    named, or by a pattern that ends in its suffix; folders pass over videos. `-` is standard input, `camera:0` the
    first camera. Where `samples` or `samples/NAME` does not exist, the bundled pictures are taken, and `note` gets a
    line that says so. Only names are held in memory, never pictures.
    """
    seen: set[str] = set()
    for argument in arguments:
        for item in _expand_one(argument, note):
            if not isinstance(item, Problem):
                path = item.path if isinstance(item, Picture) else item.source
                key = os.path.realpath(path) if isinstance(path, Path) else item.name
                if key in seen:
                    continue
                seen.add(key)
            yield item


def _expand_one(argument: str, note: Callable[[str], None]) -> Iterator[Source]:
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
            yield Video(f"camera:{int(camera[1])}", int(camera[1]))
            return
        if not is_pattern(argument):
            bundled = _bundled(path)
            if bundled is None:
                yield Problem(argument, "no such file")
                return
            path, names = bundled, str(bundled)
            note(f"{argument} is not here; using the bundled {path}")
    for found in find_images(names):
        yield found if isinstance(found, Problem) else _named(argument if found == path else str(found), found)


def _named(name: str, path: Path) -> Picture | Video:
    """Return a file as what its suffix says."""
    return Video(name, path) if path.suffix.casefold() in VIDEO_SUFFIXES else Picture(name, path)


def _bundled(path: Path) -> Path | None:
    """Return the bundled picture for `samples/dog.jpg`, or the folder for `samples`; None where there is none.

    A bare `dog.jpg` is the user's own, perhaps mistyped.
    """
    if path.parts[:1] != ("samples",) or len(path.parts) > 2:
        return None
    from detector.samples import sample_path, samples_folder

    try:
        if len(path.parts) == 1:
            return samples_folder()
        return sample_path(path.name) if path.suffix else None
    except FileNotFoundError:
        return None
