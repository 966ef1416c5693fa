"""What the command prints: results on standard output; errors, notes, times and the progress bar on standard error."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from proposals.console import decoded, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from detector.detections import Detections

TABLE = "table"
ROOM_FOR_SOURCES = 70  # columns of a terminal; a narrower one shows no sources, so that the rest fits
PLAIN_COLUMNS = ("picture", "class", "score", "x1", "y1", "x2", "y2", "source")


def plain_rows(detections: Detections, name: str) -> str:
    """Return one tab-separated line a detection, in the order of PLAIN_COLUMNS; boxes half-open, to 0.1 pixel."""
    from proposals.types import SOURCE_NAMES

    rows = zip(
        detections.names,
        detections.scores.tolist(),
        detections.boxes.tolist(),
        detections.sources.tolist(),
        strict=True,
    )
    return "".join(
        "\t".join(
            [printable(name), printable(label), f"{score:.4f}", *(f"{side:.1f}" for side in box), SOURCE_NAMES[source]]
        )
        + "\n"
        for label, score, box, source in rows
    )


def write_out(text: str) -> None:
    """Write `text` to standard output at once; raise BrokenPipeError, or OSError with a clear line."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to standard output: {error.strerror}") from error


class Report:
    """The two output streams of one run. The machine formats get standard output for themselves.

    Raises, from every method that prints results: OSError when standard output cannot take them.
    """

    def __init__(self, format: str, quiet: bool, verbose: bool) -> None:
        """Take the `format`: `table`, or one of detector.formats.FORMATS."""
        self.quiet = quiet
        self.verbose = verbose
        self._format = format
        self._terminal = sys.stdout.isatty()
        self._first = True
        self._begun = self._open = False
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._terminal_lock = threading.RLock()  # the log speaks from other threads
        if format == TABLE:
            _reconfigure(sys.stdout, errors="backslashreplace")
        else:
            _reconfigure(sys.stdout, encoding="utf-8")
        _reconfigure(sys.stderr, errors="backslashreplace")

    @property
    def wants_total(self) -> bool:
        """Whether a progress bar can be shown, so that the number of pictures is worth counting."""
        return sys.stderr.isatty() and not self.quiet

    def start(self, total: int = 0) -> None:
        """Begin the run, with a progress bar for more than one picture where there is a terminal for it."""
        if total > 1 and self.wants_total:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("detect"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(
                *columns,
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._progress.add_task("detect", total=total)
            self._progress.start()

    def results(self, detections: Detections, name: str, image_id: int, seconds: float) -> None:
        """Print the detections of one picture; `seconds` is what they took."""
        self._begin()
        if self._format != TABLE:
            from detector.formats import stream_item

            text = stream_item(detections, self._format, self.file_name(name), image_id, self._first)
            self._first = self._first and not text
            self._print(text)
        elif self._terminal:
            with self._without_bar():
                _print_table(detections, name, seconds)
        else:
            self._print(plain_rows(detections, name))

    def file_name(self, name: str) -> str:
        """Return the name as result files carry it: exact in JSON, which can hold any; valid text elsewhere."""
        return name if self._format in (TABLE, "json") else decoded(name)

    def advance(self) -> None:
        """Move the progress bar by one picture."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def finish(self) -> None:
        """End the output of a run that went through; without any results it is still a whole document."""
        self._begin()
        self.close()

    def close(self) -> None:
        """End what has been printed so far, so that it is a whole document; a second call does nothing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._open:
            self._open = False
            if self._format != TABLE:
                from detector.formats import stream_end

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

    def error(self, reason: str, name: str) -> None:
        """Print one line about what failed, naming the input."""
        self._say(f"detect: {printable(name)}: {printable(reason)}")

    def note(self, text: str) -> None:
        """Print one line that is good to know, unless the run is quiet."""
        if not self.quiet:
            self.notice(text)

    def notice(self, text: str) -> None:
        """Print one line that changes what the results mean, and so goes to a quiet run too."""
        self._say(f"detect: {printable(text)}")

    def hint(self, text: str) -> None:
        """Print one line of advice where a person sees it: both streams on a terminal, the run not quiet."""
        if self._terminal and sys.stderr.isatty():
            self.note(text)

    def stages(self, name: str, counts: Mapping[str, int], seconds: Mapping[str, float], when: str) -> None:
        """Print, for a verbose run, the `counts` (proposals, ...), the `seconds` of each stage, and `when` it was."""
        numbers = ", ".join(f"{number:,} {what}" for what, number in counts.items())
        times = ", ".join(f"{stage} {time:.3f} s" for stage, time in seconds.items())
        classify = seconds.get("classify", 0.0)
        rate = f" ({counts.get('crops', 0) / classify:,.0f} crops/s)" if classify > 0 else ""
        self._say(f"detect: {printable(name)}: {numbers}; {times}{rate}; printed {when}")

    def _say(self, line: str) -> None:
        with self._without_bar():
            print(line, file=sys.stderr, flush=True)

    def _print(self, text: str) -> None:
        if text:
            with self._without_bar():
                write_out(text)

    @contextmanager
    def _without_bar(self) -> Iterator[None]:
        """Take the progress bar off the terminal while something else is printed."""
        with self._terminal_lock:
            if self._progress is None:
                yield
                return
            self._progress.stop()
            try:
                yield
            finally:
                self._progress.start()


class _Notes(logging.Handler):
    """Turns log records into notes of the command."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.note(record.getMessage())


def show_log(report: Report) -> None:
    """Let what the packages log (that kernels are being compiled) appear as notes of the command."""
    for package in ("proposals", "detector"):
        log = logging.getLogger(package)
        log.handlers, log.propagate = [_Notes(report)], False


def _print_table(detections: Detections, name: str, seconds: float) -> None:
    """Print a table of one picture on the terminal, best first; class and score are whole at any width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from proposals.types import SOURCE_NAMES

    console = Console(file=sys.stdout, highlight=False)
    width, height = detections.image_size
    found = f"{len(detections)} found" if len(detections) else "nothing found"
    heading = Text.assemble((printable(name), "bold"), (f"  {width} x {height}, {found} in {seconds:.2f} s", "dim"))
    console.print(heading)
    if not len(detections):
        return
    wide = console.width >= ROOM_FOR_SOURCES
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", style="bold cyan", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("box  x1 y1 x2 y2", justify="right", no_wrap=wide)
    if wide:
        table.add_column("source", style="dim")
    for label, score, sides, source in zip(
        detections.names,
        detections.scores.tolist(),
        detections.boxes.tolist(),
        detections.sources.tolist(),
        strict=True,
    ):
        corners = " ".join(f"{side:{5 if wide else 0}.0f}" for side in sides)
        table.add_row(Text(label), f"{score:.3f}", corners, *([SOURCE_NAMES[source]] if wide else []))
    console.print(table)


def _reconfigure(stream: TextIO, encoding: str | None = None, errors: str | None = None) -> None:
    """Set how a stream writes characters that its encoding lacks, where it is a real text stream."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors=errors)
