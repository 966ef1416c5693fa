"""Two prediction files side by side: mAP and AP of each class, and a paired bootstrap over the pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth
from detector.report import write_out
from eval.bootstrap import LEVEL, interval, picture_weights, resampled_map, within
from eval.data import AUTO, add_data_arguments, eval_options, open_data, protocol_of
from eval.predictions.readers import FORMATS as PREDICTION_FORMATS
from eval.predictions.readers import read_predictions
from eval.predictions.table import Predictions
from eval.protocols import PROTOCOLS, evaluate, title
from eval.protocols.evaluation import Evaluation
from proposals.console import Console, Parser, UsageError, printable, run

PROGRAM = "python -m eval.compare"
MAX_RESAMPLES = 10_000
ENDS = 5  # classes shown of each end of the table

DESCRIPTION = """\
Compare two prediction files on the same ground truth: mAP of each, their
difference with its 95 % interval, and the classes by their difference. The
bootstrap is paired: the same resampled pictures for both, so that what is
hard in a picture for both does not blur the difference."""

EPILOG = """\
examples:
  python -m eval.compare old.txt new.txt --data ILSVRC --split val2
  python -m eval.compare a.json b.json --data val.json --protocol coco --per-class

The interval says how far the choice of pictures could move the difference;
where it holds 0, these pictures do not decide. exit status: 0 done, 1 failed,
2 wrong usage."""


@dataclass(frozen=True)
class Side:
    """One of the two: its file, mAP with the 95 % interval, and how many predictions it has."""

    file: str
    mean_ap: float
    mean_ap_interval: tuple[float, float]
    predictions: int


@dataclass(frozen=True)
class ClassRow:
    """One class that has ground truth: its AP on each side, B's less A's, and counts of boxes and predictions."""

    name: str
    a: float
    b: float
    difference: float
    objects: int
    predictions_a: int
    predictions_b: int


@dataclass(frozen=True)
class Comparison:
    """B against A; shares 0..1.

    difference: mAP of B less that of A; better, equal: the shares of the resamples in which B's mAP is the higher
    one, or exactly the same; classes: those with ground truth, B's largest gain first.
    """

    data: str
    protocol: str
    title: str
    iou: float | None
    pictures: int
    objects: int
    a: Side
    b: Side
    difference: float
    interval: tuple[float, float]
    better: float
    equal: float
    resamples: int
    seed: int
    classes: tuple[ClassRow, ...]


def compare(
    truth: GroundTruth,
    a: Predictions,
    b: Predictions,
    protocol: str = "ilsvrc",
    iou: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    files: tuple[str, str] = ("A", "B"),
    data: str = "",
) -> Comparison:
    """Return how predictions `b` differ from predictions `a` on `truth`.

    iou: a threshold other than the protocol's; resamples: of the pictures, the same for both. Raises: ValueError for
    an unknown protocol or an IoU out of range, or where there is no ground truth that counts.
    """
    evaluations = evaluate(protocol, truth, a, iou), evaluate(protocol, truth, b, iou)
    if not len(evaluations[0].present):
        raise ValueError(
            "the data set has no ground truth that counts, so there is no AP to compare; is --split right?"
        )
    weights = picture_weights(len(truth.names), resamples, seed)
    means = [resampled_map(e, truth, p, weights) for e, p in zip(evaluations, (a, b), strict=True)]
    differences = means[1] - means[0]
    differences = differences[~np.isnan(differences)]  # a resample may hold no ground truth
    sides = [
        Side(file, e.mean_ap, within(interval(mean, e.mean_ap)), len(p))
        for file, e, mean, p in zip(files, evaluations, means, (a, b), strict=True)
    ]
    difference = sides[1].mean_ap - sides[0].mean_ap
    return Comparison(
        data=data,
        protocol=protocol,
        title=title(evaluations[0]),
        iou=iou,
        pictures=len(truth.names),
        objects=int(evaluations[0].matches.positives.sum()),
        a=sides[0],
        b=sides[1],
        difference=difference,
        interval=_percentiles(differences),
        better=float(np.mean(differences > 0)) if len(differences) else float("nan"),
        equal=float(np.mean(differences == 0)) if len(differences) else float("nan"),
        resamples=resamples,
        seed=seed,
        classes=_classes(truth, evaluations, (a, b)),
    )


def _percentiles(differences: Doubles) -> tuple[float, float]:
    """Return the central 95 % of the resampled differences, which agree with the share of those above 0.

    They are not moved as those of one mAP are: what the copies of a resample lift, they lift on both sides.
    """
    if not len(differences):
        return float("nan"), float("nan")
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _classes(
    truth: GroundTruth, evaluations: tuple[Evaluation, Evaluation], predictions: tuple[Predictions, Predictions]
) -> tuple[ClassRow, ...]:
    """Return the classes that have ground truth, B's largest gain first; equal ones in the order of the labels."""
    counts = [np.bincount(p.labels, minlength=len(truth.class_names) + 1).tolist() for p in predictions]
    first, second = (e.ap.tolist() for e in evaluations)
    positives = evaluations[0].matches.positives.tolist()
    rows = [
        ClassRow(
            name=truth.class_names[label - 1],
            a=first[label - 1],
            b=second[label - 1],
            difference=second[label - 1] - first[label - 1],
            objects=positives[label - 1],
            predictions_a=counts[0][label],
            predictions_b=counts[1][label],
        )
        for label in evaluations[0].present.tolist()
    ]
    return tuple(sorted(rows, key=lambda row: -row.difference))


def as_table(found: Comparison, per_class: bool = False) -> str:
    """Return the comparison as lines of text, with every class or with those of the largest differences alone."""
    counts = f"{found.pictures:,} pictures, {found.objects:,} boxes of {len(found.classes)} classes"
    heading = f"{found.title} on {printable(found.data or 'the data')}: {counts}"
    lines = [heading, "", f"  {'mAP':>9}   {'95 % interval':20}{'predictions':>12}  file"]
    for name, side in (("A", found.a), ("B", found.b)):
        low, high = side.mean_ap_interval
        spread = f"{low:.2%} .. {high:.2%}"
        lines.append(f"{name} {side.mean_ap:9.2%}   {spread:20}{side.predictions:>12,}  {printable(side.file)}")
    low, high = found.interval
    lines += [
        "",
        f"B - A: {_points(found.difference)} points, 95 % interval {_points(low)} .. {_points(high)}",
        f"B is better in {found.better:.1%} of {found.resamples:,} resamples of the pictures (seed {found.seed}), "
        f"equal in {found.equal:.1%}",
    ]
    gains, losses = (sum(sign * row.difference > 0 for row in found.classes) for sign in (1, -1))
    same = len(found.classes) - gains - losses
    lines.append(f"classes: B is better in {gains}, worse in {losses}, equal in {same}")
    shown = found.classes
    if not per_class and len(shown) > 2 * ENDS:
        shown = (*shown[:ENDS], *shown[-ENDS:])
        lines.append(f"the first and last {ENDS} classes by difference (--per-class shows all):")
    lines += ["", f"{'B - A':>8}{'A':>9}{'B':>9}{'objects':>9}{'found A':>9}{'found B':>9}  class"]
    for row in shown:
        lines.append(
            f"{_points(row.difference):>8}{row.a:>9.2%}{row.b:>9.2%}{row.objects:>9,}{row.predictions_a:>9,}"
            f"{row.predictions_b:>9,}  {printable(row.name)}"
        )
    return "\n".join(lines) + "\n"


def as_json(found: Comparison) -> str:
    """Return the comparison as JSON; what could not be measured is null."""
    values = asdict(found)
    for name in ("better", "equal"):
        values[name] = None if isnan(values[name]) else values[name]
    for part, key in ((values, "interval"), (values["a"], "mean_ap_interval"), (values["b"], "mean_ap_interval")):
        part[key] = None if isnan(part[key][0]) else part[key]
    values["classes"] = [{"class": row.pop("name"), **row} for row in values["classes"]]
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = make_parser().parse_args(argv)
    return run(PROGRAM, lambda: _compare(args))


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument("a", metavar="A", type=Path, help="predictions to compare with")
    parser.add_argument("b", metavar="B", type=Path, help="predictions that are compared")
    add_data_arguments(parser, "required; samples: the bundled ones")
    parser.add_argument(
        "--predictions-format",
        choices=("auto", *PREDICTION_FORMATS),
        default="auto",
        help="of A and B (default: auto, each by itself)",
    )
    parser.add_argument("--protocol", choices=(AUTO, *PROTOCOLS), help="(default: auto, by the classes of the data)")
    parser.add_argument("--iou", type=float, metavar="X", help="IoU threshold (default: the protocol's)")
    parser.add_argument("--resamples", type=int, metavar="N", help="of the bootstrap (default: 1,000)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the bootstrap (default: 0)")
    parser.add_argument("--per-class", action="store_true", help="every class in the table; --json always has them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no notes but what was left out")
    return parser


def _compare(args: argparse.Namespace) -> int:
    console = Console(PROGRAM, args.quiet)
    options = eval_options(args)
    if not 1 <= options.resamples <= MAX_RESAMPLES:
        raise UsageError(f"--resamples must lie in 1..{MAX_RESAMPLES}, got {options.resamples}")
    if args.iou is not None and not 0 < args.iou <= 1:
        raise UsageError(f"--iou must lie above 0 and not above 1, got {args.iou:g}")
    if not options.data:
        raise UsageError(
            "--data is needed: the data set that the predictions are of (--data samples for the bundled ones)"
        )
    truth, data = open_data(options)
    sides = []
    for path in (args.a, args.b):
        predictions, notes = read_predictions(path, truth, args.predictions_format)
        for note in notes:
            console.notice(note)
        sides.append(predictions)
    files = str(args.a), str(args.b)
    protocol = protocol_of(options, truth)
    found = compare(truth, sides[0], sides[1], protocol, args.iou, options.resamples, options.seed, files, data)
    write_out(as_json(found) if args.json else as_table(found, args.per_class))
    return 0


if __name__ == "__main__":
    sys.exit(main())
