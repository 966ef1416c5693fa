"""mAP of the shipped network on 76 pictures of ILSVRC DET val2, for several crop sizes and precisions.

  python benchmarks/val2_mini.py --sizes 128 160 192 224 299 --precisions int8

By the official protocol, the mean over the classes that have ground truth, with 95 % intervals over pictures. Pictures
and boxes: ../shared/data/ilsvrc/val2_mini; never trained on.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.datasets.ground_truth import Doubles
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.model import find_model
from detector.options import DetectOptions
from detector.runtimes.openvino import OpenVinoClassifier
from detector.warp import warp
from eval.bootstrap import bootstrap_intervals
from eval.detector_run import MIN_SCORE
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from eval.protocols.evaluation import TRUE_POSITIVE, Evaluation
from proposals.boxes import iou, nms_per_class
from proposals.images import read_image
from proposals.opencv import selective_search_opencv
from proposals.selective.search import selective_search

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ilsvrc" / "val2_mini"
RESAMPLES = 1000


def best_f1(evaluation: Evaluation, scores: Doubles) -> tuple[float, float]:
    """Return the best F1 over all classes together, and the score at which it is reached."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(evaluation.matches.outcome[order] == TRUE_POSITIVE)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + evaluation.matches.positives.sum())
    return float(f1.max()), float(scores[order[f1.argmax()]])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[160])
    parser.add_argument("--precisions", nargs="+", default=["int8"])
    parser.add_argument("--sharpness", type=float, help="of the softmax; 0: plain (default: the model's)")
    parser.add_argument("--backend", choices=("own", "opencv"), default=DetectOptions().backend)
    parser.add_argument("--pictures", type=int, default=None, help="only the first so many")
    parser.add_argument("--save", type=Path, help="folder for the scores of every proposal (.npz, a picture each)")
    args = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA}: not there; this benchmark needs the val2_mini pictures")
    o = DetectOptions()
    search = selective_search if args.backend == "own" else selective_search_opencv
    model = find_model("inception_v3")
    if args.sharpness is not None:
        model = replace(model, sharpness=args.sharpness)
    networks = {
        (size, precision): OpenVinoClassifier(replace(model, size=size), precision, o.batch_size)
        for size in args.sizes
        for precision in args.precisions
    }
    found: dict[tuple[int, str], dict[int, Detections]] = {key: {} for key in networks}
    seconds = dict.fromkeys(networks, 0.0)
    regions = covered = 0
    truth = read_dataset(DATA)
    truth = truth.select(range(len(truth.names))[: args.pictures])
    for number, path in enumerate(truth.paths):
        own = truth.boxes[truth.of_picture(number)].astype(np.float32)
        image = read_image(path)
        proposals = search(image, superpixel_scale=o.superpixel_scale, seed=o.seed)
        regions += len(proposals)
        covered += int((iou(own, proposals.boxes).max(axis=1) >= 0.5).sum())
        for key, network in networks.items():
            start = time.perf_counter()
            scores = network(warp(image, proposals.boxes, key[0], model.fill))
            seconds[key] += time.perf_counter() - start
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                name = f"{truth.names[number]}-{key[0]}-{key[1]}.npz"
                np.savez(args.save / name, boxes=proposals.boxes, scores=scores)
            kept, columns = nms_per_class(proposals.boxes, scores[:, 1:], o.nms, MIN_SCORE, o.top)
            found[key][number] = Detections(
                proposals.boxes[kept],
                np.minimum(scores[kept, columns + 1], 1),
                columns + 1,
                proposals.sources[kept],
                (image.shape[1], image.shape[0]),
                truth.class_names,
            )
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{len(truth.paths)}", end="", file=sys.stderr, flush=True)
    present = len(np.unique(truth.labels))
    print(f"{len(truth.names)} pictures, {len(truth)} ground-truth boxes of {present} classes")
    print(f"{regions / len(truth.names):.0f} proposals a picture, recall at IoU 0.5 {covered / len(truth):.3f}")
    print("size  precision    mAP  95 % interval     median AP  best F1  at score  crops/s")
    for (size, precision), detections in found.items():
        predictions = Predictions.from_detections(detections)
        evaluation = evaluate("ilsvrc", truth, predictions)
        low, high = bootstrap_intervals(evaluation, truth, predictions, RESAMPLES).mean
        f1, score = best_f1(evaluation, predictions.scores)
        speed = regions / seconds[size, precision]
        print(f"{size:4}  {precision:9}  {evaluation.mean_ap:.4f}  {low:.4f} .. {high:.4f}", end="")
        print(f"  {evaluation.median_ap:9.4f}  {f1:7.3f}  {score:8.3f}  {speed:7.0f}")


if __name__ == "__main__":
    main()
