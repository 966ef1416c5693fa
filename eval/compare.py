"""The command `python -m eval.compare`: two prediction files side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from eval.data import add_data_arguments, add_prediction_arguments, add_score_arguments, eval_options, open_data
from proposals.console import Console, Parser, UsageError, printable, run, write_out

if TYPE_CHECKING:
    from eval.comparison import Comparison

PROGRAM = "python -m eval.compare"
MAX_RESAMPLES = 10_000
ENDS = 5  # classes shown of each end of the table

DESCRIPTION = """\
Compare two prediction files on the ground truth of --data: mAP of each, their
difference with its 95 % interval, and the classes by their difference. The
bootstrap is paired: both are scored on the same resampled pictures. What makes
a picture hard for both does not blur the difference."""

EPILOG = """\
examples:
  python -m eval.compare old.txt new.txt --data ILSVRC --split val2
  python -m eval.compare a.json b.json --data val.json --protocol coco --per-class

The interval says how far the choice of pictures could move the difference.
Where it holds 0, these pictures do not decide.
exit status: 0 done, 1 failed, 2 wrong usage."""


def as_table(found: Comparison, data: str, files: tuple[str, str], per_class: bool = False) -> str:
    """Return the comparison as lines of text, with every class or with those of the largest differences alone."""
    counts = f"{found.pictures:,} pictures, {found.objects:,} boxes of {len(found.classes)} classes"
    heading = f"{found.title} on {printable(data)}: {counts}"
    lines = [heading, "", f"  {'mAP':>9}   {'95 % interval':20}{'predictions':>12}  file"]
    for name, side, file in (("A", found.a, files[0]), ("B", found.b, files[1])):
        low, high = side.mean_ap_interval
        spread = f"{low:.2%} .. {high:.2%}"
        lines.append(f"{name} {side.mean_ap:9.2%}   {spread:20}{side.predictions:>12,}  {printable(file)}")
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


def as_json(found: Comparison, data: str, files: tuple[str, str]) -> str:
    """Return the comparison as JSON; what could not be measured is null."""
    values = {"data": data, **asdict(found)}
    for name in ("better", "equal"):
        values[name] = None if isnan(values[name]) else values[name]
    values["a"], values["b"] = ({"file": file, **values[side]} for side, file in zip("ab", files, strict=True))
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
    add_data_arguments(parser)
    add_prediction_arguments(parser)
    add_score_arguments(parser)
    parser.add_argument("--per-class", action="store_true", help="every class in the table; --json always has them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no notes but what was left out")
    return parser


def _compare(args: argparse.Namespace) -> int:
    from eval.comparison import compare_predictions
    from eval.predictions.readers import read_predictions
    from eval.protocols.coco import surplus_note

    console = Console(PROGRAM, args.quiet)
    options = eval_options(args)
    if not 1 <= options.resamples <= MAX_RESAMPLES:
        raise UsageError(f"--resamples must lie in 1..{MAX_RESAMPLES}, got {options.resamples}")
    if not options.data:
        raise UsageError("--data is needed: the data set of the predictions (--data samples for the bundled ones)")
    data = open_data(options, pictures=False)
    sides = []
    for path in (args.a, args.b):
        predictions, notes = read_predictions(
            path, data.truth, args.predictions_format, args.image_id, args.skip_unknown
        )
        surplus = surplus_note(data.truth, predictions) if data.protocol == "coco" else ""
        for note in (*notes, *([f"{path}: {surplus}"] if surplus else [])):
            console.notice(note)
        sides.append(predictions)
    a, b = sides
    found = compare_predictions(data.truth, a, b, data.protocol, data.iou, options.resamples, options.seed)
    files = str(args.a), str(args.b)
    write_out(as_json(found, data.title, files) if args.json else as_table(found, data.title, files, args.per_class))
    return 0


if __name__ == "__main__":
    sys.exit(main())
