"""The command `python -m eval.recall`: how much of the ground truth proposals cover."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.data import add_data_arguments, eval_options, open_data
from proposals.console import FAILED, Console, Parser, UsageError, run, write_out

if TYPE_CHECKING:
    from detector.datasets.ground_truth import GroundTruth
    from eval.coverage import Coverage
    from eval.recall_pictures import Found
    from proposals.boxes import Floats

PROGRAM = "python -m eval.recall"
DESCRIPTION = """\
Measure how well proposals cover the ground truth of a data set: coverage (recall
at IoU 0.5, as in GoogLeNet's section 8), the recall-IoU curve, average recall
(AR, over IoU 0.5 to 1) and MABO, by number of boxes and by size of the object."""
EPILOG = """\
examples:
  python -m eval.recall                          the bundled samples, Selective
                                                 Search as `detect` runs it
  python -m eval.recall --data VOC2012 --split val --mode quality --per-class
  python -m eval.recall --data instances.json --proposals proposals.parquet

FILE.parquet is what python -m proposals.extract writes; its pictures are found
by path or name. Pictures without objects, crowds and objects marked difficult
are left out.

exit status: 0 all done, 1 a picture failed or a file could not be read or
written, 2 wrong usage, 130 interrupted, 143 terminated."""
COUNTS = "10,30,100,200,300,1000,all"
PLOTS = (".png", ".svg")
LISTED = 10  # pictures left out that are named; of more, the number is told
SEARCH_OPTIONS = {
    "mode": "--mode",
    "superpixel_scale": "--superpixel-scale",
    "backend": "--backend",
    "search_seed": "--seed",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status; SystemExit from the parser."""
    args = _parser().parse_args(argv)
    return run(PROGRAM, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    """Read, measure, print; return the exit status."""
    counts = _counts(args.boxes)
    _check(args)
    console = Console(PROGRAM, args.quiet)
    options = eval_options(args)
    if not options.data:
        console.note("no --data: measured on the bundled samples, a handful of pictures; --data takes a data set")
    data = open_data(options)
    truth, title = data.truth, data.title
    found, failed = _measure(truth, args, counts, console)
    described = _described(args)
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
    truth: GroundTruth, args: argparse.Namespace, counts: tuple[int, ...], console: Console
) -> tuple[Coverage, int]:
    """Return the measures over all pictures that have objects, and how many of those failed."""
    import numpy as np

    from eval.coverage import measure
    from proposals.recall import best_overlaps

    counted = ~(truth.difficult | truth.crowd)
    pictures = np.unique(truth.pictures[counted]).tolist()
    if not pictures:
        raise ValueError(f"{args.data or 'samples'}: no objects, so there is nothing to cover; give annotated pictures")
    overlaps: dict[int, Floats] = {}  # [K, M] of each picture
    numbers: list[int] = []
    failed = 0
    stream = _proposals(truth, pictures, args)
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


def _proposals(truth: GroundTruth, pictures: list[int], args: argparse.Namespace) -> Generator[Found, None, None]:
    """Return the stream of the proposals of `pictures` that the options ask for."""
    from eval.recall_pictures import searched, stored

    if args.proposals is not None:
        return stored(truth, pictures, args.proposals)
    from proposals.images import MAX_PIXELS
    from proposals.workers import Search

    backend, mode, scale = args.backend or "own", args.mode or "fast", args.superpixel_scale or 2
    search = Search(backend, mode, scale, args.search_seed or 0, None, MAX_PIXELS)
    return searched(truth, pictures, search, args.workers)


def _described(args: argparse.Namespace) -> str:
    """Return in words what proposals were measured."""
    if args.proposals is not None:
        return f"proposals of {args.proposals}"
    mode, scale, backend = args.mode or "fast", args.superpixel_scale or 2, args.backend or "own"
    return f"Selective Search, {mode}, superpixel scale {scale}" + (", of OpenCV" if backend == "opencv" else "")


def _counts(text: str) -> tuple[int, ...]:
    """Return the numbers of boxes of `10,100,all`, rising, each once; raise UsageError."""
    from detector.datasets.checks import natural, short
    from eval.coverage import ALL

    found = set()
    for word in text.split(","):
        count = ALL if word.strip() == "all" else natural(word.strip())
        if not count:
            raise UsageError(f"--boxes takes numbers of at least 1 and all, with commas between; got '{short(text)}'")
        found.add(count)
    return tuple(sorted(found))


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError where the options do not go together, before any work is done."""
    if args.proposals is not None:
        given = [option for name, option in SEARCH_OPTIONS.items() if getattr(args, name) is not None]
        if given:
            raise UsageError(f"{given[0]} says how proposals are computed, --proposals that they are not; give one")
    if args.backend == "opencv" and args.mode not in (None, "fast"):
        raise UsageError("the backend opencv has no mode but fast")
    for name in ("superpixel_scale", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.search_seed is not None and args.search_seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.search_seed}")
    if args.plot is not None:
        if args.plot.suffix.lower() not in PLOTS:
            raise UsageError(f"--plot takes a name that ends in {' or '.join(PLOTS)}, got {args.plot}")
        if not args.plot.parent.is_dir() or args.plot.is_dir():
            what = f"{args.plot} is a folder" if args.plot.is_dir() else f"there is no folder {args.plot.parent}"
            raise UsageError(f"{what}; --plot takes the name of a file in a folder that exists")
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError("--plot draws with matplotlib, which is not installed; pip install matplotlib")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    add_data_arguments(parser)
    parser.add_argument(
        "--proposals", type=Path, metavar="FILE.parquet", help="proposals to measure (default: they are computed)"
    )
    parser.add_argument("--mode", choices=("single", "fast", "quality"), help="of Selective Search (default: fast)")
    parser.add_argument("--superpixel-scale", type=int, metavar="N", help="1 as R-CNN, 2 as GoogLeNet (default: 2)")
    parser.add_argument("--backend", choices=("own", "opencv"), help="(default: own)")
    parser.add_argument("--seed", dest="search_seed", type=int, metavar="N", help="of the ranking (default: 0)")
    parser.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes (default: one a core)")
    parser.add_argument("--boxes", default=COUNTS, metavar="LIST", help=f"numbers of boxes (default: {COUNTS})")
    parser.add_argument("--per-class", action="store_true", help="print coverage by class too")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables, classes included")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw the curves, {' or '.join(PLOTS)}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no notes but what was left out")
    return parser


def _cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
