"""Where results go: standard output in one format, and a folder of drawings with a result file beside each."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from detector.cli.inputs import Picture, Video
from proposals.console import Console, decoded, printable, write_out
from proposals.files import NewFile, check_folder, write_text_atomic
from proposals.image_files import OUTPUT_MARK

if TYPE_CHECKING:
    from detector.detections import Detections
    from proposals.images import Image

TABLE = "table"
# TABLE and detector.formats.FORMATS; that module needs numpy, which --help should not wait for
FORMATS = (TABLE, "json", "csv", "coco", "ilsvrc", "voc", "yolo")
DRAWN = "detected"  # folder for the drawings of a plain `detect image.jpg`
PLAIN_COLUMNS = ("picture", "class", "score", "x1", "y1", "x2", "y2", "source")
ROOM_FOR_SOURCES = 70  # columns of a terminal; a narrower one shows no sources, so that the rest fits
MAX_STEM_BYTES = 200  # most file systems end names at 255 bytes; mark, number, suffix and temporary name need the rest


def file_name(name: str, format: str) -> str:
    """Return the name of an input as result files carry it: exact in JSON, which holds any; valid text elsewhere."""
    return name if format in (TABLE, "json") else decoded(name)


class Results:
    """Standard output of one run. All methods raise OSError when it cannot take what they print."""

    def __init__(self, format: str, console: Console) -> None:
        """Take one of FORMATS, and the `console` whose progress bar makes room."""
        self._format, self._console = format, console
        self._terminal = sys.stdout.isatty()
        self._first = True  # while nothing of a picture was printed
        self._begun = self._open = False
        if format == TABLE:
            _reconfigure(sys.stdout, errors="backslashreplace")
        else:
            _reconfigure(sys.stdout, encoding="utf-8")

    def add(self, detections: Detections, name: str, number: int, seconds: float) -> None:
        """Print the detections of one picture; `seconds` is what they took."""
        self._begin()
        if self._format != TABLE:
            from detector.formats import stream_item

            text = stream_item(detections, self._format, file_name(name, self._format), number, self._first)
            self._first = self._first and not text
            self._print(text)
        elif self._terminal:
            with self._console.without_bar():
                print_table(detections, name, seconds)
        else:
            self._print(plain_rows(detections, name))

    def finish(self) -> None:
        """End the output of a run that went through; without any results it is still a whole document."""
        self._begin()
        self.close()

    def close(self) -> None:
        """End what has been printed so far, so that it is a whole document; a second call does nothing."""
        if self._open and self._format != TABLE:
            from detector.formats import stream_end

            self._open = False
            self._print(stream_end(self._format))

    def _begin(self) -> None:
        """Print what stands before the first results, once."""
        if self._begun:
            return
        self._begun = self._open = True
        if self._format != TABLE:
            from detector.formats import stream_start

            self._print(stream_start(self._format))
        elif not self._terminal:
            self._print("\t".join(PLAIN_COLUMNS) + "\n")

    def _print(self, text: str) -> None:
        if text:
            with self._console.without_bar():
                write_out(text)


def plain_rows(detections: Detections, name: str) -> str:
    """Return one tab-separated line a detection, in the order of PLAIN_COLUMNS; boxes half-open, to 0.1 pixel."""
    lines = []
    for label, score, box, source in _rows(detections):
        sides = (f"{side:.1f}" for side in box)
        lines.append("\t".join([printable(name), printable(label), f"{score:.4f}", *sides, source]) + "\n")
    return "".join(lines)


def print_table(detections: Detections, name: str, seconds: float) -> None:
    """Print a table of one picture on the terminal, best first; class and score are whole at any width."""
    from rich import box
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    terminal = Terminal(file=sys.stdout, highlight=False)
    width, height = detections.image_size
    found = f"{len(detections)} found" if len(detections) else "nothing found"
    heading = Text.assemble((printable(name), "bold"), (f"  {width} x {height}, {found} in {seconds:.2f} s", "dim"))
    terminal.print(heading)
    if not len(detections):
        return
    wide = terminal.width >= ROOM_FOR_SOURCES
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", style="bold cyan", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("box  x1 y1 x2 y2", justify="right", no_wrap=wide)
    if wide:
        table.add_column("source", style="dim")
    for label, score, sides, source in _rows(detections):
        corners = " ".join(f"{side:{5 if wide else 0}.0f}" for side in sides)
        table.add_row(Text(label), f"{score:.3f}", corners, *([source] if wide else []))
    terminal.print(table)


def _rows(detections: Detections) -> Iterable[tuple[str, float, list[float], str]]:
    """Return the class, score, box and source of each detection."""
    from proposals.types import SOURCE_NAMES

    sources = [SOURCE_NAMES[source] for source in detections.sources.tolist()]
    return zip(detections.names, detections.scores.tolist(), detections.boxes.tolist(), sources, strict=True)


def _reconfigure(stream: TextIO, encoding: str | None = None, errors: str | None = None) -> None:
    """Set how a stream writes characters that its encoding lacks, where it is a real text stream."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors=errors)


class Saver:
    """A folder of drawings and results: two files a picture, and two a video, however many frames it has.

    The folder is made when the first file is written. To be closed, so that a video gets its end.
    """

    def __init__(
        self, folder: Path | None, asked: bool, format: str, arguments: Sequence[str], console: Console
    ) -> None:
        """Take the `folder`, None for saving nothing, and one of FORMATS; `arguments` name files that stay untouched.

        asked: whether somebody asked for this folder; where it cannot be had otherwise, the run goes on unsaved.
        """
        from detector.formats import SUFFIX

        self.folder, self.asked, self._console = folder, asked, console
        self.used = False  # whether the folder is there
        self._format = "json" if format == TABLE else format
        self._suffix = OUTPUT_MARK + SUFFIX[self._format]
        self._clip: _ClipFiles | None = None  # of the video whose frames are coming
        drawings = [OUTPUT_MARK + suffix for suffix in (".jpg", ".png", ".mp4")]
        self._names = OutputNames(folder, (*drawings, self._suffix), arguments) if folder is not None else None

    def stem(self, source: Picture | Video) -> str:
        """Return the stem of the files of `source`; asked once for each, so that a bad one keeps its name too."""
        return self._names.stem(source) if self._names is not None else ""

    def save(self, stem: str, image: Image, detections: Detections, name: str, number: int) -> None:
        """Write the image with its boxes and, beside it, the results.

        Raises: OSError when they cannot be written, ValueError when it is the picture's fault.
        """
        self.close()
        folder = self._made_folder()
        if folder is None:
            return
        from detector.drawing import JPEG_LIMIT, draw, save_picture
        from detector.formats import render

        drawing = ".jpg" if max(image.shape[:2]) <= JPEG_LIMIT else ".png"
        save_picture(folder / f"{stem}{OUTPUT_MARK}{drawing}", draw(image, detections))
        text = render(detections, self._format, file_name(name, self._format), number)
        write_text_atomic(folder / (stem + self._suffix), text)

    def save_frame(self, stem: str, image: Image, detections: Detections, name: str, number: int, rate: float) -> None:
        """Add the frame with its boxes to the video of `stem`, `rate` frames a second, and its results to their file.

        Raises: OSError when they cannot be written.
        """
        if self._clip is None or self._clip.stem != stem:
            self.close()
            folder = self._made_folder()
            if folder is None:
                return
            self._clip = _ClipFiles(folder, stem, self._suffix, self._format, rate)
        self._clip.add(image, detections, file_name(name, self._format), number)

    def close(self) -> None:
        """End the video whose frames were coming, so that its files have their names. Raises: OSError."""
        clip, self._clip = self._clip, None
        if clip is not None:
            clip.close()

    def _made_folder(self) -> Path | None:
        """Return the folder, made; None where nothing is saved. Raises: OSError where it cannot be had."""
        if self.folder is None or self.used:
            return self.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_folder(self.folder)
        except OSError as error:
            reason = f"{self.folder}: cannot save in this folder: {error.strerror}"
            if self.asked:
                raise OSError(reason) from error
            self._console.note(f"{reason}; going on unsaved (--out names another folder)")
            self.folder = None
        else:
            self.used = True
        return self.folder


class _ClipFiles:
    """The annotated video and the result file of one video, both growing with its frames."""

    def __init__(self, folder: Path, stem: str, suffix: str, format: str, rate: float) -> None:
        from detector.video import VideoWriter

        self.stem = stem
        self._video = VideoWriter(folder / f"{stem}{OUTPUT_MARK}.mp4", rate)
        self._results = _ResultFile(folder / (stem + suffix), format)

    def add(self, image: Image, detections: Detections, name: str, number: int) -> None:
        from detector.drawing import draw

        self._results.add(detections, name, number)
        self._video.write(draw(image, detections))

    def close(self) -> None:
        try:
            self._results.close()
        finally:
            self._video.close()


class _ResultFile:
    """One document of the frames of a video, written as they come, which appears whole."""

    def __init__(self, path: Path, format: str) -> None:
        from detector.formats import stream_start

        self._new = NewFile(path)
        self._format = format
        self._first = True
        self._file = self._new.temporary.open("x", encoding="utf-8", newline="")
        self._file.write(stream_start(format))

    def add(self, detections: Detections, name: str, number: int) -> None:
        """Write the results of one frame. Raises: OSError."""
        from detector.formats import stream_item

        text = stream_item(detections, self._format, name, number, self._first)
        self._first = self._first and not text
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise OSError(f"cannot write {self._new.path}: {error.strerror}; check that the disk has room") from error

    def close(self) -> None:
        """End the document and give it its name. Raises: OSError."""
        from detector.formats import stream_end

        with self._new, self._file as file:
            file.write(stream_end(self._format))


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
        place = source.path if isinstance(source, Picture) else source.source
        base = place.stem if isinstance(place, Path) else "stdin" if place is None else f"camera-{place}"
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
