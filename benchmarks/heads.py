"""mAP of softmax, SVMs and box regression on the same proposals of held-out pictures, all from one run.

  python benchmarks/heads.py runs/voc_bbox runs/voc_svm
  python benchmarks/heads.py runs/mine_bbox runs/mine_svm --data photos/val.json

The first model has softmax scores and a box regression (detector.train bbox), the second SVMs on the same features
(detector.train svm). Scored are softmax, softmax with boxes moved, SVMs, SVMs with boxes moved by the same targets.
Objects of classes that the networks do not have are left out. Differences are paired over pictures, with 95 %
intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from machine import machine

from detector.datasets.class_maps import to_det
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.detector import Detector
from detector.ensemble import score_regions
from detector.model import SVM, find_model
from detector.options import DetectOptions
from detector.runtimes.load import load_classifier
from eval.bootstrap import bootstrap_intervals
from eval.comparison import compare_predictions
from eval.detector_run import evaluation_options
from eval.predictions.table import Predictions
from eval.protocols import PROTOCOLS, evaluate
from proposals.images import read_image

VOC = Path(__file__).resolve().parents[2] / "shared" / "data" / "voc2012" / "val.json"
RESAMPLES = 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bbox", help="model with softmax scores and a box regression")
    parser.add_argument("svm", help="model with SVMs of the same classes")
    parser.add_argument("--data", type=Path, default=VOC, help="data set with boxes (default: VOC 2012 val)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="voc10", help="(default: voc10)")
    parser.add_argument("--pictures", type=int, help="only so many, evenly spaced")
    parser.add_argument("--precision", default="auto", help="of the networks (default: auto)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    o = evaluation_options(DetectOptions(model=args.bbox, bbox=True, precision=args.precision, vote=0.0))
    detector = Detector(o)
    soft, svm_model = detector.classify.model, find_model(args.svm)
    if soft.head == SVM or svm_model.head != SVM or soft.labels != svm_model.labels:
        parser.error("the first model must have softmax scores, the second SVMs, both of the same classes")
    svm = load_classifier(svm_model, o.runtime, o.device, o.precision, o.batch_size)
    truth = read_dataset(args.data)
    if args.pictures:
        truth = truth.select(np.linspace(0, len(truth.names) - 1, args.pictures).astype(int))
    if soft.outputs == "det":
        truth = to_det(truth)
    elif truth.class_names != soft.labels:
        parser.error(f"{args.data}: its classes are not those of the networks")
    sides = ("softmax", "softmax, boxes moved", "SVMs", "SVMs, boxes moved")
    found: dict[str, dict[int, Detections]] = {side: {} for side in sides}
    proposed, begin = 0, time.perf_counter()
    print(machine())
    print(detector.describe())
    for number, path in enumerate(truth.paths):
        if path is None:
            parser.error(f"{args.data}: {truth.names[number]} has no picture")
        image = read_image(path)
        proposals = detector.propose(image)
        proposed += len(proposals)
        softmax = detector.score(image, proposals)
        margins = score_regions([svm], image, proposals.boxes)
        ways = ((softmax.scores, None), (softmax.scores, softmax.deltas))
        ways += ((margins.scores, None), (margins.scores, softmax.deltas))
        for side, (scores, deltas) in zip(sides, ways, strict=True):
            found[side][number] = detector.suppress(image, proposals, scores, deltas)
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{len(truth.paths)}", end="", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - begin
    present = len(np.unique(truth.labels))
    print(
        f"{args.data.parent.name}: {len(truth.names)} pictures, {len(truth)} boxes of {present} classes, "
        f"{proposed / len(truth.names):.0f} proposals a picture, {args.protocol}, {seconds:.0f} s"
    )
    print(f"{'head':22}  {'mAP %':>6}  {'95 % interval':>14}  {'over softmax':>26}")
    predictions = {side: Predictions.from_detections(of) for side, of in found.items()}
    table: list[dict[str, object]] = []
    for side, own in predictions.items():
        evaluation = evaluate(args.protocol, truth, own)
        low, high = bootstrap_intervals(evaluation, truth, own, RESAMPLES).mean
        versus = compare_predictions(truth, predictions["softmax"], own, args.protocol, resamples=RESAMPLES)
        gain = f"{100 * versus.difference:+6.2f} ({100 * versus.interval[0]:+.2f} .. {100 * versus.interval[1]:+.2f})"
        print(f"{side:22}  {100 * evaluation.mean_ap:6.2f}  {100 * low:5.1f} .. {100 * high:4.1f}  {gain:>26}")
        ap = {truth.class_names[i - 1]: float(evaluation.ap[i - 1]) for i in evaluation.present.tolist()}
        table.append(
            {
                "head": side,
                "map": evaluation.mean_ap,
                "interval": [low, high],
                "over_softmax": versus.difference,
                "over_softmax_interval": list(versus.interval),
                "ap": ap,
            }
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
