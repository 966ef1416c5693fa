"""The command `python -m eval.map`: how good detections are, by the protocol of ILSVRC, VOC or COCO."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detector import __version__
from detector.options import DetectOptions
from eval.data import (
    Data,
    EvalOptions,
    add_data_arguments,
    add_prediction_arguments,
    add_score_arguments,
    eval_options,
    in_det_classes,
    of_classes,
    open_data,
)
from proposals.console import FAILED, Console, Parser, UsageError, run, write_out
from proposals.files import check_folder
from proposals.options import add_options, flag, options_of, read_options

if TYPE_CHECKING:
    from eval.detector_run import Setup
    from eval.predictions.store import Found
    from eval.summary import Scored

PROGRAM = "python -m eval.map"
MANY, FEWER = 200_000, 200  # beyond so many predictions, so many resamples are enough by default
HINT = (
    "no data set is given, so this is the shipped model on the bundled samples, which say little: for ILSVRC give "
    "--data FOLDER, that holds the devkit and the pictures, or set `data` in a TOML file and give --config FILE"
)
DETECTOR = tuple(f.name for f in fields(DetectOptions) if f.name not in ("threshold", "seed"))  # seed: of the bootstrap

DESCRIPTION = """\
Score detections: mean average precision by the official ILSVRC protocol, that
of Pascal VOC, or COCO's. With --predictions a file is scored. Without it the
detector runs first, and goes on where it was stopped."""
EPILOG = """\
examples:
  python -m eval.map --split val                 the shipped model on the samples
  python -m eval.map --split val --data ILSVRC   on ILSVRC DET val, as distributed
  python -m eval.map --data ILSVRC --split val2 --predictions submission.txt
  python -m eval.map --data val2017.json --predictions results.json
  python -m eval.map --data VOCdevkit/VOC2007 --split test --protocol voc07

Predictions: ilsvrc, lines `image_id class_id confidence xmin ymin xmax ymax`,
1-based inclusive; coco, a results list; csv and parquet, columns picture or
image_id, class or label, score, x1, y1, x2, y2, half-open pixels; voc, files
..._CLASS.txt of `picture confidence xmin ymin xmax ymax`; json, of `detect`.
`found` in the table is recall, at the loosest IoU. The detector's detections
are those of a score of at least 0.01. Beyond 200,000 predictions the default is
200 resamples. More in docs/evaluation.md.

exit status: 0 all done, 1 a picture failed or something could not be read or
written, 2 wrong usage, 130 interrupted, 143 terminated."""


@dataclass(frozen=True)
class _Source:
    """The predictions: what was found, what made them, and notes; failed: pictures that could not be read."""

    found: Found
    made_by: str
    notes: tuple[str, ...] = ()
    failed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status; SystemExit from the parser."""
    args = make_parser().parse_args(argv)
    return run(PROGRAM, lambda: _map(args))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    add_data_arguments(parser)
    what = parser.add_argument_group("predictions")
    what.add_argument("--predictions", type=Path, metavar="FILE", help="score this file; without it the detector runs")
    add_prediction_arguments(what)
    what.add_argument("--out", type=Path, metavar="FILE", help="Parquet file of the detector's predictions, resumable")
    what.add_argument("--detect-config", type=Path, metavar="FILE", help="TOML file of the detector (docs/options.md)")
    add_options(parser.add_argument_group("detector"), DetectOptions, DETECTOR)
    score = add_score_arguments(parser)
    score.add_argument(
        "--det-classes",
        action="store_true",
        help="map the classes of VOC or COCO to the 200 of ILSVRC, as when the detector runs; numbers in the "
        "predictions are then those of ILSVRC",
    )
    score.add_argument("--classes", metavar="A,B", help="score only these, names or labels")
    output = parser.add_argument_group("output")
    output.add_argument("--per-class", action="store_true", help="print all classes, not only both ends of the table")
    output.add_argument("--errors", action="store_true", help="print the kinds of errors, and what they cost")
    output.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    output.add_argument("--report", type=Path, metavar="FILE", help="write a page with curves, errors and pictures")
    output.add_argument("-q", "--quiet", action="store_true", help="no progress, no notes but what was left out")
    return parser


def _map(args: argparse.Namespace) -> int:
    """Read the ground truth, get the predictions, score them, report; return the exit status."""
    console = Console(PROGRAM, args.quiet)
    options = eval_options(args)
    _check_usage(args, options)
    detector = None if args.predictions is not None else _setup(args)
    data = open_data(options, pictures=detector is not None)
    data, notes = _in_classes(data, detector, args.det_classes)
    if not options.data:
        notes = (HINT, *notes)
    for note in notes:
        console.note(note)
    source = _read(args, data, console) if detector is None else _detect(args, options, data, detector, console)
    data, found = _chosen(args, data, source.found)
    scored = _score(args, options, data, found)
    scored = replace(scored, notes=(*notes, *source.notes, *_silent_choices(data, found, console)))
    _print(args, scored)
    if args.report is not None:
        from eval.report import write_report

        provenance = (("predictions of", source.made_by), ("googlenet-rcnn", __version__))
        write_report(args.report, scored, found.proposals, provenance=provenance)
        console.note(f"the report is in {args.report}")
    return FAILED if source.failed else 0


def _check_usage(args: argparse.Namespace, options: EvalOptions) -> None:
    """Raise UsageError where options do not go together or an output cannot be written, before any work is done."""
    if args.predictions is not None:
        given = [name for name in (*DETECTOR, "detect_config", "out") if getattr(args, name) is not None]
        if given:
            raise UsageError(f"{flag(given[0])} is for a run of the detector, --predictions instead of one")
        if not options.data:
            raise UsageError(
                "--predictions needs --data: the data set of the predictions (--data samples for the bundled ones)"
            )
    for path in (args.report, args.out):
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the name of a file")
        try:
            check_folder(path.parent)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _setup(args: argparse.Namespace) -> Setup:
    """Return how the detector is to run; raise UsageError."""
    from eval.detector_run import evaluation_options, setup

    try:
        base = read_options(DetectOptions, args.detect_config)
        own = argparse.Namespace(**{name: getattr(args, name) for name in DETECTOR})
        return setup(evaluation_options(options_of(own, DetectOptions, base)))
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _in_classes(data: Data, detector: Setup | None, det_classes: bool) -> tuple[Data, tuple[str, ...]]:
    """Return the data set in the classes that are scored, and notes; raise UsageError where the model has others."""
    if detector is None:
        return in_det_classes(data) if det_classes else (data, ())
    from detector.classes import det_names
    from detector.model import find_model

    labels = find_model(detector.options.model).labels
    if labels == det_names():
        return in_det_classes(data)
    names = data.truth.class_names
    if names != labels:
        strange = next((name for name in names if name not in labels), names[0])
        raise UsageError(
            f"{detector.options.model} has classes of its own ({', '.join(labels[:3])}, ...), the data set others or "
            f"in another order ('{strange}'); give data of its classes"
        )
    return data, ()


def _read(args: argparse.Namespace, data: Data, console: Console) -> _Source:
    """Return the predictions of a file, with the witnesses of a run where it has them."""
    from eval.errors.analysis import iou_thresholds
    from eval.predictions.readers import read_predictions
    from eval.predictions.store import Found, read_run

    predictions, notes = read_predictions(
        args.predictions, data.truth, args.predictions_format, args.image_id, args.skip_unknown
    )
    for note in notes:
        console.notice(note)
    thresholds = iou_thresholds(data.truth, data.protocol, data.iou)
    found = read_run(args.predictions, data.truth, thresholds) or Found(predictions)
    return _Source(found, args.predictions.name, tuple(notes))


def _detect(args: argparse.Namespace, options: EvalOptions, data: Data, detector: Setup, console: Console) -> _Source:
    """Return the predictions of a run of the detector."""
    from eval.detector_run import default_file, detect
    from eval.errors.analysis import iou_thresholds

    thresholds = iou_thresholds(data.truth, data.protocol, data.iou)
    with contextlib.ExitStack() as stack:
        path = args.out
        if path is None and options.data:
            path = default_file(detector, data.truth, options.split)
            console.note(f"predictions go to {path}; the same command goes on where it was stopped (--out FILE)")
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "predictions.parquet"
        found, failed = detect(data.truth, thresholds, detector, path, console)
    note = f"{failed:,} pictures could not be read; they count as pictures without detections"
    return _Source(found, detector.description, (note,) if failed else (), failed)


def _chosen(args: argparse.Namespace, data: Data, found: Found) -> tuple[Data, Found]:
    """Return the part of --classes; raise UsageError for an unknown class."""
    if not args.classes:
        return data, found
    classes = [c for c in args.classes.split(",") if c.strip()]
    try:
        truth, predictions = of_classes(data.truth, found.predictions, classes)
        raw = None if found.raw is None else of_classes(data.truth, found.raw, classes)[1]
    except ValueError as error:
        raise UsageError(f"--classes: {error}") from error
    return replace(data, truth=truth), replace(found, predictions=predictions, raw=raw)


def _score(args: argparse.Namespace, options: EvalOptions, data: Data, found: Found) -> Scored:
    """Return the evaluation, its intervals, and the errors where they are shown."""
    from eval.bootstrap import bootstrap_intervals
    from eval.errors.analysis import analyse
    from eval.protocols import evaluate
    from eval.summary import Scored

    truth, predictions = data.truth, found.predictions
    evaluation = evaluate(data.protocol, truth, predictions, data.iou)
    resamples = options.resamples
    if args.resamples is None and len(predictions) > MANY:
        resamples = min(resamples, FEWER)
    intervals = bootstrap_intervals(evaluation, truth, predictions, resamples, options.seed) if resamples else None
    analysis = None
    if args.errors or args.report is not None:
        analysis = analyse(truth, predictions, evaluation, iou=data.iou, proposals=found.proposals, raw=found.raw)
    return Scored(data.title, truth, predictions, evaluation, intervals, analysis)


def _silent_choices(data: Data, found: Found, console: Console) -> tuple[str, ...]:
    """Return and say what the protocol leaves out by its own rule."""
    if data.protocol != "coco":
        return ()
    from eval.protocols.coco import surplus_note

    note = surplus_note(data.truth, found.predictions)
    if note:
        console.notice(note)
    return (note,) if note else ()


def _print(args: argparse.Namespace, scored: Scored) -> None:
    """Print the summary, and with --errors the analysis."""
    from eval.summary import as_json, as_text

    shown = scored if args.errors else replace(scored, analysis=None)
    write_out(as_json(shown) if args.json else as_text(shown, args.per_class))


if __name__ == "__main__":
    sys.exit(main())
