"""The command `python -m eval.recall`: how much of the ground truth proposals cover."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from eval.data import add_data_arguments, eval_options, open_data
from proposals.console import FAILED, Console, Parser, UsageError, run, write_out
from proposals.options import add_options, option, options_of
from proposals.pool import propose_files, usable_cores
from proposals.proposer import SeededProposalOptions, make_proposer

if TYPE_CHECKING:
    from detector.datasets.ground_truth import GroundTruth
    from eval.coverage import Coverage
    from proposals.boxes import Floats
    from proposals.proposer import Proposer
    from proposals.types import Proposals

PROGRAM = "python -m eval.recall"
DESCRIPTION = """\
Measure how well proposals cover the ground truth of a data set: coverage (recall
at IoU 0.5, as in GoogLeNet's section 8), the recall-IoU curve, average recall
(AR, over IoU 0.5 to 1) and MABO, by number of boxes and by size of the object."""
EPILOG = """\
examples:
  python -m eval.recall                          the bundled samples, regions
                                                 proposed as `detect` does
  python -m eval.recall --data VOC2012 --split val --proposals ss --per-class
  python -m eval.recall --data instances.json --proposals proposals.parquet

The pictures of a file are found by path or name. Pictures without objects, crowds and objects marked difficult
are left out.

exit status: 0 all done, 1 a picture failed or a file could not be read or
written, 2 wrong usage, 130 interrupted, 143 terminated."""
COUNTS = "10,30,100,200,300,1000,all"
PLOTS = (".png", ".svg")
LISTED = 10  # pictures left out that are named; of more, the number is told


@dataclass(frozen=True)
class RecallOptions(SeededProposalOptions):
    """What is measured."""

    workers: int = option(0, "processes that work on pictures", low=0, off="one for each usable core")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status; SystemExit from the parser."""
    args = _parser().parse_args(argv)
    return run(PROGRAM, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    """Read, measure, print; return the exit status."""
    counts = _counts(args.boxes)
    _check_plot(args.plot)
    o, options = options_of(args, RecallOptions), eval_options(args)
    console = Console(PROGRAM, args.quiet)
    if not options.data:
        console.note("no --data: measured on the bundled samples, a handful of pictures; --data takes a data set")
    data = open_data(options)
    truth, title = data.truth, data.title
    proposer = make_proposer(o, o.seed, threads=1)
    described = proposer.describe()
    found, failed = _measure(truth, proposer, o.workers or usable_cores(), counts, console)
    if args.plot is not None:
        from eval.coverage import as_plot
        from proposals.files import write_bytes_atomic

        write_bytes_atomic(args.plot, as_plot(found, args.plot.suffix[1:].lower()))
    if args.json:
        from eval.coverage import as_json

        head = {"data": title, "proposals": described, "failed": failed}
        write_out(json.dumps({**head, **as_json(found)}, indent=1, allow_nan=False) + "\n")
    else:
        from eval.coverage import as_text

        heading = f"{described}, on {title}"
        counts_line = f"{found.objects:,} objects of {len(found.classes)} classes in {found.pictures:,} pictures"
        write_out(f"{heading}: {counts_line}\n\n{as_text(found, args.per_class)}")
    return FAILED if failed else 0


def _measure(
    truth: GroundTruth, proposer: Proposer, workers: int, counts: tuple[int, ...], console: Console
) -> tuple[Coverage, int]:
    """Return the measures over all pictures that have objects, and how many of those failed."""
    import numpy as np

    from eval.coverage import measure
    from proposals.recall import best_overlaps

    counted = ~(truth.difficult | truth.crowd)
    pictures = np.unique(truth.pictures[counted]).tolist()
    if not pictures:
        raise ValueError("the data has no objects, so there is nothing to cover; give annotated pictures")
    overlaps: dict[int, Floats] = {}  # [K, M] of each picture
    numbers: list[int] = []
    failed = 0
    stream = _proposed(truth, pictures, proposer, workers, console.notice)
    with contextlib.closing(stream), console.progress("pictures", len(pictures)) as advance:
        for picture, proposals in stream:
            if isinstance(proposals, str):
                failed += 1
                if failed <= LISTED:
                    console.notice(f"{truth.paths[picture] or truth.names[picture]}: {proposals}; left out")
            else:
                rows = truth.of_picture(picture)
                boxes = truth.boxes[rows][counted[rows]].astype(np.float32)
                overlaps[picture] = best_overlaps(boxes, proposals.boxes, counts)
                numbers.append(len(proposals))
            advance(1)
    if not overlaps:
        raise ValueError("no picture could be measured")
    if failed:
        console.notice(f"{failed:,} of {len(pictures):,} pictures left out")
    if not counted.all():
        console.note(f"crowds and difficult objects left out: {int((~counted).sum()):,}")
    done = sorted(overlaps)
    rows_of = counted & np.isin(truth.pictures, done)
    joined = np.concatenate([overlaps[picture] for picture in done], axis=1)
    of_objects = truth.labels[rows_of], truth.areas[rows_of]
    return measure(joined, *of_objects, np.array(numbers), counts, truth.class_names), failed


def _proposed(
    truth: GroundTruth, pictures: list[int], proposer: Proposer, workers: int, notice: Callable[[str], None]
) -> Generator[tuple[int, Proposals | str], None, None]:
    """Yield the proposals of `pictures`, numbers 0..P-1, or in their place the reason why there are none.

    Raises: OSError when the processes die without end; ValueError for a file that has none of the pictures, or has two
    that may both be one of them.
    """
    from proposals.images import MAX_PIXELS
    from proposals.stored import StoredProposals

    sizes = {picture: tuple(truth.sizes[picture].tolist()) for picture in pictures}
    if isinstance(proposer, StoredProposals):
        paths = {picture: truth.paths[picture] or PurePosixPath(truth.names[picture]) for picture in pictures}
        known = {picture: sizes[picture] if all(sizes[picture]) else None for picture in pictures}
        if not any(proposer.has(path, known[picture]) for picture, path in paths.items()):
            raise ValueError(f"{proposer.file}: none of its {len(proposer):,} pictures is one of the data set")
        for picture, path in paths.items():
            try:
                yield picture, proposer.of(path, known[picture])
            except ValueError as error:
                yield picture, str(error)
        return
    index = {truth.names[picture]: picture for picture in pictures}
    files: dict[str, Path] = {}
    for name, picture in index.items():
        file = truth.paths[picture]
        if file is None:
            yield picture, "the data set has no file of it; add the picture, or give --proposals"
        else:
            files[name] = file
    for answer in propose_files(files.items(), proposer, MAX_PIXELS, min(workers, len(files) or 1), notice):
        if answer is None:
            continue
        name, row = answer
        picture = index[name]
        if not isinstance(row, str) and all(sizes[picture]) and sizes[picture] != (row.width, row.height):
            truth_size = f"{sizes[picture][0]} x {sizes[picture][1]}"
            yield picture, f"it has {row.width} x {row.height} pixels, its ground truth {truth_size}"
        else:
            yield picture, row if isinstance(row, str) else row.proposals


def _counts(text: str) -> tuple[int, ...]:
    """Return the numbers of boxes of `10,100,all`, rising, each once; raise UsageError."""
    from detector.datasets.checks import parse_int, short
    from eval.coverage import ALL

    found = set()
    for word in text.split(","):
        count = ALL if word.strip() == "all" else parse_int(word.strip())
        if not count:
            raise UsageError(f"--boxes takes numbers of at least 1 and all, with commas between; got '{short(text)}'")
        found.add(count)
    return tuple(sorted(found))


def _check_plot(plot: Path | None) -> None:
    """Raise UsageError where the curves cannot be drawn, before any work is done."""
    if plot is None:
        return
    if plot.suffix.lower() not in PLOTS:
        raise UsageError(f"--plot takes a name that ends in {' or '.join(PLOTS)}, got {plot}")
    if not plot.parent.is_dir() or plot.is_dir():
        what = f"{plot} is a folder" if plot.is_dir() else f"there is no folder {plot.parent}"
        raise UsageError(f"{what}; --plot takes the name of a file in a folder that exists")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot draws with matplotlib, which is not installed; pip install matplotlib")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    add_data_arguments(parser)
    add_options(parser, RecallOptions)
    parser.add_argument("--boxes", default=COUNTS, metavar="LIST", help=f"numbers of boxes (default: {COUNTS})")
    parser.add_argument("--per-class", action="store_true", help="print coverage by class too")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables, classes included")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw the curves, {' or '.join(PLOTS)}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no notes but what was left out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
