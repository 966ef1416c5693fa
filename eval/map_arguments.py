"""The arguments of `python -m eval.map`, and their help."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.data import AUTO, add_data_arguments
from eval.predictions.readers import FORMATS as PREDICTION_FORMATS
from eval.protocols import PROTOCOLS
from proposals.console import Parser

PROGRAM = "python -m eval.map"
MANY, FEWER = 200_000, 200  # beyond so many predictions, so many resamples are enough by default

DESCRIPTION = """\
Score detections: mean average precision by the official ILSVRC protocol, that
of Pascal VOC, or COCO's. With --predictions a file is scored; without, the
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
`found` in the table is recall, at the loosest IoU. The detector's own
detections are those of a score of at least 0.01. More in docs/evaluation.md.

exit status: 0 all done, 1 a picture failed or something could not be read or
written, 2 wrong usage, 130 interrupted, 143 terminated."""


def map_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    add_data_arguments(parser)
    what = parser.add_argument_group("predictions")
    what.add_argument("--predictions", type=Path, metavar="FILE", help="score this file; without it the detector runs")
    what.add_argument("--predictions-format", choices=(AUTO, *PREDICTION_FORMATS), default=AUTO, help="(default: auto)")
    what.add_argument("--model", metavar="NAME", help="of the detector, or a weights file")
    what.add_argument("--proposals", choices=("ss", "multibox", "both"), help="of the detector")
    what.add_argument(
        "--detect-config",
        type=Path,
        metavar="FILE",
        help="TOML file of the detector's settings: multibox, objectness, vote, ... (docs/options.md)",
    )
    what.add_argument("--out", type=Path, metavar="FILE", help="Parquet file of the detector's predictions, resumable")
    score = parser.add_argument_group("score")
    score.add_argument(
        "--protocol",
        choices=(AUTO, *PROTOCOLS),
        help="(default: auto; ilsvrc for its 200 classes, voc10 for VOC, else coco)",
    )
    score.add_argument("--iou", type=float, metavar="T", help="threshold (default: the protocol's)")
    score.add_argument(
        "--det-classes",
        action="store_true",
        help="map the classes of VOC or COCO to the 200 of ILSVRC, as when the detector runs; numbers in "
        "the predictions are those of ILSVRC then",
    )
    score.add_argument("--classes", metavar="A,B", help="score only these, names or labels")
    score.add_argument(
        "--resamples",
        type=int,
        metavar="N",
        help=f"of the bootstrap over pictures; 0: no intervals (default: 1,000, beyond {MANY:,} predictions {FEWER})",
    )
    score.add_argument("--seed", type=int, metavar="N", help="of the bootstrap (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--per-class", action="store_true", help="print all classes, not only both ends of the table")
    output.add_argument("--errors", action="store_true", help="print what kinds of errors there are, and their cost")
    output.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    output.add_argument("--report", type=Path, metavar="FILE", help="write a page with curves, errors and pictures")
    output.add_argument("-q", "--quiet", action="store_true", help="no progress, no notes but what was left out")
    return parser
