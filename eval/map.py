"""The command `python -m eval.map`: how good detections are, by the protocol of ILSVRC, VOC or COCO."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detector import __version__
from detector.options import DetectOptions
from detector.report import write_out
from eval.data import eval_options, open_data, protocol_of
from eval.map_arguments import FEWER, MANY, PROGRAM, map_parser
from proposals.console import FAILED, Console, UsageError, run
from proposals.files import check_folder
from proposals.options import read_options

if TYPE_CHECKING:
    from detector.datasets.ground_truth import GroundTruth
    from eval.bootstrap import Intervals
    from eval.data import EvalOptions
    from eval.detector_run import Found
    from eval.errors.analysis import Analysis
    from eval.predictions.table import Predictions
    from eval.protocols.evaluation import Evaluation

SAMPLES = "the bundled samples"
HINT = (
    "no data set is given, so this is the shipped model on the bundled samples, which say little: for ILSVRC give "
    "--data FOLDER, that holds the devkit and the pictures, or set `data` in a TOML file and give --config FILE"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status; SystemExit from the parser."""
    args = map_parser().parse_args(argv)
    return run(PROGRAM, lambda: _evaluate(args))


@dataclass(frozen=True)
class _Scored:
    """What is reported: the data, the predictions and what was found about them."""

    title: str
    truth: GroundTruth
    predictions: Predictions
    evaluation: Evaluation
    intervals: Intervals | None
    notes: list[str]
    found: Found | None  # of a run of the detector
    made_by: str


def _evaluate(args: argparse.Namespace) -> int:
    """Read the ground truth, get the predictions, score them, report; return the exit status."""
    console = Console(PROGRAM, args.quiet)
    options = eval_options(args)
    if args.predictions is not None:
        for name in ("model", "proposals", "detect_config", "out"):
            if getattr(args, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a run of the detector, --predictions instead of one"
                )
    for path in (args.report, args.out):
        if path is not None:
            _check_output(path)
    if args.predictions is not None and not options.data:
        raise UsageError(
            "--predictions needs --data: the data set that they are of (--data samples for the bundled ones)"
        )
    truth, title = open_data(options)
    notes = [] if options.data else [HINT]
    for note in notes:
        console.note(note)
    protocol = protocol_of(options, truth)
    detect = None if args.predictions is not None else _detect_options(args)
    if detect is not None:
        truth = _as_the_model(truth, detect, console, notes)
    elif args.det_classes:
        truth = _as_detected(truth, console, notes)
    failed, found = 0, None
    made_by = str(args.predictions.name) if args.predictions is not None else ""
    if detect is None:
        import pyarrow.parquet as pq

        from eval.detector_run import found_in, truth_key
        from eval.errors.analysis import iou_thresholds
        from eval.predictions.readers import read_predictions
        from eval.predictions.store import is_witnessed

        predictions, remarks = read_predictions(args.predictions, truth, args.predictions_format)
        for remark in remarks:
            console.notice(remark)
        notes += remarks
        if is_witnessed(args.predictions, truth_key(truth, iou_thresholds(truth, protocol, args.iou))):
            found = found_in(pq.read_table(args.predictions), truth, True)
    else:
        failed, found, made_by = _run_detector(args, options, detect, truth, protocol, console)
        predictions = found.predictions
        if failed:
            notes.append(f"{failed:,} pictures could not be read; they count as pictures without detections")
    if args.classes:
        from eval.data import of_classes

        classes = [c for c in args.classes.split(",") if c.strip()]
        try:
            if found is not None and found.scored is not None:
                found = replace(found, scored=of_classes(truth, found.scored, classes)[1])
            truth, predictions = of_classes(truth, predictions, classes)
        except ValueError as error:
            raise UsageError(f"--classes: {error}") from error
    scored = _score(args, options, protocol, title, truth, predictions, notes, found, made_by)
    _print(args, scored)
    if args.report is not None:
        _write_report(args, scored)
        console.note(f"the report is in {args.report}")
    return FAILED if failed else 0


def _check_output(path: Path) -> None:
    """Raise UsageError where a file cannot be written, before anything is computed."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file")
    try:
        check_folder(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _as_detected(truth: GroundTruth, console: Console, notes: list[str]) -> GroundTruth:
    """Return the data set in the 200 classes of the detector; raise UsageError where they cannot be mapped."""
    from detector.classes import det_names
    from detector.datasets.class_maps import to_det

    if truth.class_names == det_names():
        return truth
    try:
        mapped = to_det(truth)
    except ValueError as error:
        raise UsageError(str(error)) from error
    notes.append(
        f"the classes are mapped to the 200 of ILSVRC DET: {len(mapped):,} of {len(truth):,} boxes have a counterpart"
    )
    console.note(notes[-1])
    return mapped


def _as_the_model(truth: GroundTruth, detect: DetectOptions, console: Console, notes: list[str]) -> GroundTruth:
    """Return the data set in the classes that the detector's model has; raise UsageError where it has others."""
    from detector.classes import det_names
    from detector.model import find_model

    try:
        labels = find_model(detect.model).labels
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if labels == det_names():
        return _as_detected(truth, console, notes)
    if truth.class_names != labels:
        strange = next((name for name in truth.class_names if name not in labels), truth.class_names[0])
        raise UsageError(
            f"{detect.model} has classes of its own ({', '.join(labels[:3])}, ...), the data set others or in another "
            f"order ('{strange}'); give data of its classes"
        )
    return truth


def _detect_options(args: argparse.Namespace) -> DetectOptions:
    """Return how the detector is to run; raise UsageError."""
    from eval.detector_run import evaluation_options

    try:
        detect = read_options(DetectOptions, args.detect_config)
        chosen = {name: getattr(args, name) for name in ("model", "proposals") if getattr(args, name) is not None}
        return evaluation_options(replace(detect, **chosen))
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _run_detector(
    args: argparse.Namespace,
    options: EvalOptions,
    detect: DetectOptions,
    truth: GroundTruth,
    protocol: str,
    console: Console,
) -> tuple[int, Found, str]:
    """Return how many pictures failed, what the detector finds on all others, and what detector it is."""
    import tempfile

    from eval.detector_run import detect_all, found_in, picture_digests, truth_key
    from eval.errors.analysis import iou_thresholds
    from eval.predictions.store import PredictionStore

    parameters = _parameters(detect)
    with contextlib.ExitStack() as stack:
        path = args.out
        if path is None and options.data:
            asked = json.dumps([parameters, truth.names, truth.class_names], sort_keys=True)
            digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
            path = Path("detected") / f"predictions-{Path(detect.model).stem}-{options.split}-{digest}.parquet"
            console.note(f"predictions go to {path}; the same command goes on where it was stopped (--out FILE)")
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "predictions.parquet"
        thresholds = iou_thresholds(truth, protocol, args.iou)
        key, digests = truth_key(truth, thresholds), picture_digests(truth)
        store = PredictionStore(path, parameters, truth.class_names, key, digests)
        stack.enter_context(contextlib.closing(store))
        for part in store.damaged:
            console.notice(f"{part} was damaged and is thrown away; its pictures are computed again")
        if not store.witnessed:
            console.note(f"{path} was made with other boxes or thresholds; misses are told apart less finely")
        failed = detect_all(truth, thresholds, detect, store, console)
        store.finish()  # pictures that failed are not among the finished ones: the next run tries them again
        made_by = f"{detect.model}, proposals {detect.proposals}, weights {parameters['weights'] or 'downloaded'}"
        return failed, found_in(store.table(), truth, store.witnessed), made_by


def _parameters(detect: DetectOptions) -> dict[str, str | int | float]:
    """Return all that decides about the predictions."""
    from detector.model import file_digest, find_model

    try:
        model = find_model(detect.model)
        weights = file_digest(model) if model.file else ""
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    return {**asdict(detect), "weights": weights[:16], "multibox_weights": _multibox_digest(detect)}


def _multibox_digest(detect: DetectOptions) -> str:
    """Return a digest of the weights of the learned proposals; "" where none take part."""
    from detector.multibox import multibox_digest

    try:
        return "" if detect.proposals == "ss" else multibox_digest(detect.multibox)[:16]
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _score(
    args: argparse.Namespace,
    options: EvalOptions,
    protocol: str,
    title: str,
    truth: GroundTruth,
    predictions: Predictions,
    notes: list[str],
    found: Found | None,
    made_by: str,
) -> _Scored:
    from eval.bootstrap import bootstrap
    from eval.protocols import evaluate

    try:
        evaluation = evaluate(protocol, truth, predictions, args.iou)
    except ValueError as error:
        raise UsageError(str(error)) from error
    resamples = options.resamples
    if args.resamples is None and len(predictions) > MANY:
        resamples = min(resamples, FEWER)
    intervals = bootstrap(evaluation, truth, predictions, resamples, options.seed) if resamples else None
    return _Scored(title, truth, predictions, evaluation, intervals, notes, found, made_by)


def _print(args: argparse.Namespace, scored: _Scored) -> None:
    """Print the summary, and with --errors the analysis."""
    from eval.summary import as_json, as_text

    analysis = _analysis(args, scored) if args.errors else None
    if args.json:
        write_out(as_json(scored.evaluation, scored.truth, scored.intervals, scored.title, scored.notes, analysis))
        return
    write_out(as_text(scored.evaluation, scored.truth, scored.intervals, scored.title, args.per_class))
    if analysis is not None:
        from eval.map_report import errors_as_text

        write_out(errors_as_text(analysis))


def _analysis(args: argparse.Namespace, scored: _Scored) -> Analysis:
    from eval.map_report import error_analysis

    return error_analysis(scored.truth, scored.predictions, scored.evaluation, scored.found, args.iou)


def _write_report(args: argparse.Namespace, scored: _Scored) -> None:
    from eval.map_report import write_map_report

    write_map_report(
        args.report,
        scored.title,
        scored.truth,
        scored.predictions,
        scored.evaluation,
        scored.intervals,
        _analysis(args, scored),
        scored.notes,
        scored.found,
        (("predictions of", scored.made_by), ("googlenet-rcnn", __version__)),
    )


if __name__ == "__main__":
    sys.exit(main())
