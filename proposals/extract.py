"""The command `python -m proposals.extract`: the proposals of whole data sets, in one Parquet file that can be resumed.

Finished pictures go to part files every few seconds; the parts become one file at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from proposals.image_files import Problem, find_images, read_list
from proposals.workers import Search, Stopped, usable_cores

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from proposals.parts import Parts

PROGRAM = "extract"
MAX_PIXELS = 100_000_000  # of proposals.images, which needs numpy
FAILED, WRONG_USAGE = 1, 2

DESCRIPTION = "Find the Selective Search proposals of pictures and write them to one Parquet file, a row a picture."
EPILOG = """\
A run that was ended in any way goes on when the same command is given again:
finished pictures are kept in FILE.parts until FILE is complete. Of a FILE that
is there already all rows stay, and only pictures that it lacks are computed.
A picture is known by its path; to compute all of them again, remove FILE.

exit status: 0 all done, 1 a picture failed or the file could not be written,
2 wrong usage, 130 interrupted, 143 terminated."""


class UsageError(Exception):
    """What was asked for cannot be done; one clear line."""


class Interrupted(Exception):
    """A signal has ended the run."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status; SystemExit from the parser."""
    args = _parser().parse_intermixed_args(argv)
    report = _Report(args.quiet)
    try:
        with _Signals() as signals:
            return _run(args, report, signals)
    except UsageError as error:
        report.line(f"error: {error} (see --help)")
        return WRONG_USAGE
    except (OSError, ValueError, Stopped) as error:
        report.line(str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error))
        return FAILED
    except Interrupted as error:
        report.line(f"{'terminated' if error.number == signal.SIGTERM else 'interrupted'}; {report.kept}")
        return 128 + error.number  # as a shell counts
    finally:
        report.close()


def _run(args: argparse.Namespace, report: _Report, signals: _Signals) -> int:
    """Find the pictures, compute those that are missing, merge; return the exit status."""
    if not args.out.parent.is_dir() or args.out.is_dir():
        what = f"{args.out} is a folder" if args.out.is_dir() else f"there is no folder {args.out.parent}"
        raise UsageError(f"{what}; --out takes the name of a file in a folder that exists")
    search = _search(args)
    pictures = _pictures(args, report)
    if not pictures:
        raise UsageError("no pictures")
    from proposals.parts import OtherParametersError, Parts

    try:
        parts = Parts(args.out, search.parameters())
    except OtherParametersError as error:
        raise UsageError(str(error)) from error
    with contextlib.closing(parts):
        for part in parts.damaged:
            report.line(f"{part} was damaged and is thrown away; its pictures are computed again")
        missing = {picture: path for picture, path in pictures.items() if picture not in parts}
        if 0 < len(missing) < len(pictures):
            report.note(f"{len(pictures) - len(missing):,} of {len(pictures):,} pictures are in {args.out} already")
        begin, boxes, before = time.perf_counter(), 0, len(parts)
        if missing:
            report.start(len(missing))
            boxes = _compute(missing, search, args.workers, parts, report, signals)
            report.close()
        seconds, done = time.perf_counter() - begin, len(parts) - before
        report.kept = f"all pictures are kept in {parts.folder}; give the same command again"
        try:
            new = parts.merge(pictures)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; {report.kept}, with room on the disk") from error
        if done:
            report.note(f"{done:,} pictures, {boxes:,} boxes, {done / seconds:.1f} pictures/s")
        report.note(f"{args.out} {'now has' if new else 'is complete and unchanged:'} {len(parts):,} pictures")
        if report.failed:
            report.note(f"{report.failed:,} skipped")
        return FAILED if report.failed else 0


def _compute(
    missing: dict[str, Path], search: Search, workers: int, parts: Parts, report: _Report, signals: _Signals
) -> int:
    """Compute the proposals of `missing` pictures into `parts`; return the number of boxes.

    Raises: Interrupted, Stopped or OSError, what is finished being kept.
    """
    from proposals.filling import fill

    boxes = 0
    with signals.held():
        try:
            boxes = fill(
                parts, missing, search, workers, report.failure, report.advance, lambda: signals.caught is not None
            )
        except Stopped as error:
            raise Stopped(f"{error}; {_kept(parts)}") from error
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; {_kept(parts)}, with room on the disk") from error
        report.kept = _kept(parts)
    return boxes


def _kept(parts: Parts) -> str:
    return f"{len(parts):,} finished pictures are kept; give the same command again to go on"


class _Signals:
    """SIGINT and SIGTERM as Interrupted: at once, or while they are held as `caught`, once they are no longer."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught is None:  # a second one must not break what the first has begun
            self.caught = number
            if not self._held:
                raise Interrupted(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold them back; raise Interrupted at the end where one was caught."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.caught is not None:
            raise Interrupted(self.caught)


class _Report:
    """What a person is told, all on standard error: a line a failure, notes, and a progress bar on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.failed = 0
        self.kept = "nothing was done yet"
        self._quiet = quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, total: int) -> None:
        """Show a progress bar for `total` pictures where there is a terminal for it."""
        if self._quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]:.1f} pictures/s")
        columns = (TextColumn(PROGRAM), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self._progress.add_task(PROGRAM, total=total, rate=0.0)
        self._progress.start()

    def advance(self, pictures: int) -> None:
        """Move the progress bar by so many pictures."""
        if self._progress is not None and self._task is not None:
            speed = self._progress.tasks[0].speed or 0.0
            self._progress.update(self._task, advance=pictures, rate=speed)

    def close(self) -> None:
        """Take the progress bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def failure(self, name: str, reason: str) -> None:
        """Print one line about a picture that is skipped."""
        self.failed += 1
        self.line(f"{name}: {reason}")

    def note(self, text: str) -> None:
        """Print one line that is good to know, unless the run is quiet."""
        if not self._quiet:
            self.line(text)

    def line(self, text: str) -> None:
        """Print one line, above the progress bar where there is one; control characters become escapes."""
        clean = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
        if self._progress is not None:
            self._progress.console.print(f"{PROGRAM}: {clean}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{PROGRAM}: {clean}", file=sys.stderr, flush=True)


def _pictures(args: argparse.Namespace, report: _Report) -> dict[str, Path]:
    """Return the paths of all pictures by their ids, in the order of the arguments; report what names none."""
    listed: list[Path] = []
    if args.list is not None:
        try:
            listed = [Path(line) for _, line in read_list(args.list)]
        except OSError as error:
            raise UsageError(f"cannot read {args.list}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(str(error)) from error
    pictures: dict[str, Path] = {}
    for found in chain(*map(find_images, args.pictures), listed):
        try:
            if isinstance(found, Problem):
                report.failure(found.name, found.reason)
            else:
                pictures.setdefault(picture_id(found, args.root), found)
        except ValueError as error:
            report.failure(str(found), str(error))
    return pictures


def picture_id(path: Path, root: Path | None = None) -> str:
    """Return the name that a picture has in a file of proposals: its path with `/`, below `root` where that is given.

    Links are not followed. Raises: ValueError for a picture outside `root`, and for a name that is not UTF-8.
    """
    if root is not None:
        try:
            path = Path(os.path.normpath(path.absolute())).relative_to(os.path.normpath(root.absolute()))
        except ValueError:
            raise ValueError(f"is not below --root {root}") from None
    name = path.as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("has a name that is not valid text; rename it") from None
    return name


def _search(args: argparse.Namespace) -> Search:
    """Return what is to be computed; raise UsageError where the options do not go together."""
    if args.backend == "opencv" and args.mode != "fast":
        raise UsageError("the backend opencv has no mode but fast")
    numbers = ("superpixel_scale", "max_boxes", "max_pixels", "workers")
    for name in numbers:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.seed}")
    return Search(args.backend, args.mode, args.superpixel_scale, args.seed, args.max_boxes, args.max_pixels)


class _Parser(argparse.ArgumentParser):
    """A parser that answers wrong usage with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{PROGRAM}: error: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m proposals.extract",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pictures", metavar="PICTURES", nargs="*", help="pictures, folders with all below, patterns")
    parser.add_argument("--list", type=Path, metavar="FILE", help="text file of more pictures, one path a line")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="the Parquet file to make or to add to")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="name pictures by their paths below DIR (default: as they are given)"
    )
    parser.add_argument("--mode", choices=("single", "fast", "quality"), default="fast", help="(default: fast)")
    parser.add_argument(
        "--superpixel-scale", type=int, default=2, metavar="N", help="1 as R-CNN, 2 as GoogLeNet (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the ranking (default: 0)")
    parser.add_argument("--max-boxes", type=int, metavar="N", help="only the N best of a picture (default: all)")
    parser.add_argument("--backend", choices=("own", "opencv"), default="own", help="(default: own)")
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help=f"of a picture (default: {MAX_PIXELS:,})"
    )
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), metavar="N", help="processes (default: one a usable core)"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and skipped pictures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
