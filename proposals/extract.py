"""The command `python -m proposals.extract`: the proposals of whole data sets in one file, a run that can be resumed.

Finished images go to part files every few seconds; the parts become one file at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from proposals.console import FAILED, Console, Parser, Terminated, UsageError, noted_signals, run
from proposals.image_files import Problem, find_images, read_list
from proposals.options import add_options, option, options_of
from proposals.pool import usable_cores
from proposals.proposer import SeededProposalOptions, make_proposer

if TYPE_CHECKING:
    from proposals.parts import Parts, Writer
    from proposals.proposer import Proposer

PROGRAM = "python -m proposals.extract"
MAX_PIXELS = 100_000_000  # of proposals.images, which needs numpy
SUFFIXES = {".mat": "mat", ".pkl": "pkl", ".pickle": "pkl"}

DESCRIPTION = """\
Find the proposals of pictures as `detect` does, and write them to one file: a
Parquet file with a row a picture, a MATLAB file as Fast R-CNN reads it (mat), or
a pickle as Detectron reads it (pkl)."""
EPILOG = """\
A run that was ended in any way goes on when the same command is given again:
finished pictures are kept in FILE.parts until FILE is complete. Of a Parquet
FILE that is there already all rows stay, and only pictures that it lacks are
computed. A picture is known by its path; to compute all of them again, remove
FILE.

exit status: 0 all done, 1 a picture failed or the file could not be written,
2 wrong usage, 130 interrupted, 143 terminated."""


@dataclass(frozen=True)
class ExtractOptions(SeededProposalOptions):
    """What a run of proposals.extract depends on."""

    format: str = option("", "format of the file", choices=("parquet", "mat", "pkl"), off="by the suffix of --out")
    max_pixels: int = option(MAX_PIXELS, "most pixels of a picture", low=1)
    workers: int = option(0, "processes that work on pictures", low=0, off="one for each usable core")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status; SystemExit from the parser."""
    args = _parser().parse_intermixed_args(argv)
    return run(PROGRAM, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    """Find the pictures, compute those that are missing, merge; return the exit status."""
    o, console = options_of(args, ExtractOptions), Console(PROGRAM, args.quiet)
    write = _writer(args.out, o)
    try:
        proposer = make_proposer(o, o.seed, threads=1)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    failed = 0

    def fail(name: str, reason: str) -> None:
        nonlocal failed
        failed += 1
        console.failure(name, reason)

    pictures = _pictures(args, fail)
    if not pictures:
        raise UsageError("no pictures")
    from proposals.parts import fill

    with contextlib.closing(_parts(args.out, proposer, write)) as parts:
        for part in parts.damaged:
            console.notice(f"{part} was damaged and is thrown away; its pictures are computed again")
        missing = {picture: path for picture, path in pictures.items() if picture not in parts}
        if 0 < len(missing) < len(pictures):
            console.note(f"{len(pictures) - len(missing):,} of {len(pictures):,} pictures are in {args.out} already")
        if missing:
            begin, before = time.perf_counter(), len(parts)
            with _kept(parts), noted_signals() as signals, console.progress("extract", len(missing)) as advance:
                workers = o.workers or usable_cores()
                told = fail, console.notice, advance, lambda: signals.caught is not None
                boxes = fill(parts, missing, proposer, o.max_pixels, workers, *told)
            seconds, done = time.perf_counter() - begin, len(parts) - before
            if done:
                console.note(f"{done:,} pictures, {boxes:,} boxes, {done / seconds:.1f} pictures/s")
        with _kept(parts):
            new = parts.merge(pictures)
        console.note(f"{args.out} {'now has' if new else 'is complete and unchanged:'} {len(parts):,} pictures")
    if failed:
        console.note(f"{failed:,} skipped")
    return FAILED if failed else 0


def _writer(out: Path, o: ExtractOptions) -> Writer | None:
    """Return what writes the file in its format, None for Parquet. Raises: UsageError where it cannot be written."""
    if not out.parent.is_dir() or out.is_dir():
        what = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise UsageError(f"{what}; --out takes the name of a file in a folder that exists")
    format = o.format or SUFFIXES.get(out.suffix.casefold(), "parquet")
    if format == "parquet":
        return None
    if out.exists():
        raise UsageError(f"{out} is there already, and a {format} file cannot be added to; remove it, or name another")
    from proposals.exchange import write_mat, write_pickle

    return write_mat if format == "mat" else write_pickle


def _parts(out: Path, proposer: Proposer, write: Writer | None) -> Parts:
    """Return the finished pictures of earlier runs. Raises: UsageError where these had other options; see Parts."""
    from proposals.parts import OtherParametersError, Parts

    try:
        return Parts(out, proposer.key, write)
    except OtherParametersError as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _kept(parts: Parts) -> Iterator[None]:
    """Say of whatever ends the run meanwhile that the finished pictures are kept."""
    from proposals.pool import StoppedError

    try:
        yield
    except (KeyboardInterrupt, Terminated, StoppedError, OSError) as error:
        kept = f"{len(parts):,} finished pictures are kept; give the same command again to go on"
        room = ", with room on the disk" if isinstance(error, OSError) and not isinstance(error, StoppedError) else ""
        raise type(error)("; ".join([*map(str, error.args[-1:]), kept + room])) from error


def _pictures(args: argparse.Namespace, fail: Callable[[str, str], None]) -> dict[str, Path]:
    """Return the paths of all pictures by their ids, in the order of the arguments; say what names none."""
    listed: list[Path] = []
    if args.list is not None:
        try:
            listed = [Path(line) for _, line in read_list(args.list)]
        except (OSError, ValueError) as error:
            reason = f"cannot read {args.list}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise UsageError(reason) from error
    pictures: dict[str, Path] = {}
    for found in chain(*map(find_images, args.pictures), listed):
        try:
            if isinstance(found, Problem):
                fail(found.name, found.reason)
            else:
                pictures.setdefault(picture_id(found, args.root), found)
        except ValueError as error:
            fail(str(found), str(error))
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


def _parser() -> Parser:
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument("pictures", metavar="PICTURES", nargs="*", help="pictures, folders with all below, patterns")
    parser.add_argument("--list", type=Path, metavar="FILE", help="text file of more pictures, one path a line")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="the file to make or to add to")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="name pictures by their paths below DIR (default: as they are given)"
    )
    add_options(parser, ExtractOptions)
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and skipped pictures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
