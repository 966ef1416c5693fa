"""Time and memory of the evaluator beside pycocotools and faster-coco-eval, on a problem of ILSVRC val's size.

  python benchmarks/evaluation.py                      # all of it: pycocotools takes minutes and gigabytes
  python benchmarks/evaluation.py --peers faster       # or none

20,000 pictures, 200 classes, 61,000 ground-truth boxes and 2 million predictions drawn at random (half of them ground
truth, moved); both sides hold them in memory when the clock starts, at IoU 0.5 and for all sizes, and each runs in a
process of its own. CPU seconds are the process's, memory is the most that it holds meanwhile, data included.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

from detector.classes import det_names
from detector.datasets.ground_truth import GroundTruth
from eval.bootstrap import bootstrap_intervals
from eval.errors.analysis import analyse
from eval.predictions.readers import read_predictions
from eval.predictions.table import Predictions
from eval.protocols.ilsvrc import evaluate_ilsvrc
from eval.protocols.voc import evaluate_voc

PICTURES, CLASSES, OBJECTS, PREDICTIONS = 20_000, 200, 61_000, 2_000_000
PEERS = {"pycocotools": "pycocotools", "faster": "faster-coco-eval"}


def problem(scale: float) -> tuple[GroundTruth, Predictions]:
    """Return ground truth and predictions, the same at every call."""
    random = np.random.default_rng(0)
    pictures, objects, count = (int(n * scale) for n in (PICTURES, OBJECTS, PREDICTIONS))
    owners = np.sort(random.integers(0, pictures, objects))
    labels = random.integers(1, CLASSES + 1, objects)
    boxes = _boxes(random, objects)
    truth = GroundTruth(
        tuple(f"{i:08d}" for i in range(pictures)),
        np.arange(1, pictures + 1),
        np.full((pictures, 2), 500),
        (None,) * pictures,
        det_names(),
        tuple(str(i) for i in range(1, CLASSES + 1)),
        owners,
        labels,
        boxes,
        np.zeros(objects, bool),
        np.zeros(objects, bool),
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
    )
    near = random.integers(0, objects, count // 2)
    moved = np.round(boxes[near] + random.normal(0, 12, (len(near), 4)), 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    far = count - len(near)
    predictions = Predictions(
        np.concatenate([owners[near], random.integers(0, pictures, far)]).astype(np.int32),
        np.concatenate([labels[near], random.integers(1, CLASSES + 1, far)]).astype(np.int32),
        np.round(np.concatenate([random.beta(2, 2, len(near)), random.beta(1, 4, far)]), 6),
        np.concatenate([moved, _boxes(random, far)]),
    )
    return truth, predictions


def _boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corner = random.integers(0, 300, (count, 2))
    return np.concatenate([corner, corner + random.integers(8, 200, (count, 2))], axis=1).astype(np.float64)


class Meter:
    """CPU seconds, and the most memory that the process holds meanwhile, its data included."""

    def __enter__(self) -> Meter:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
        self._cpu = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds, self.megabytes = time.process_time() - self._cpu, _memory("VmHWM")


def _memory(field: str) -> float:
    """Return a figure of /proc/self/status in MB."""
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def ours(scale: float) -> None:
    """Print our rows, tab-separated: what, CPU seconds, MB."""
    truth, predictions = problem(scale)
    evaluate_ilsvrc(*problem(0.001))  # the kernels are compiled or loaded
    with Meter() as meter:
        evaluation = evaluate_ilsvrc(truth, predictions)
    print(f"ours, ILSVRC protocol\t{meter.seconds:.2f}\t{meter.megabytes:.0f}\tmAP {evaluation.mean_ap:.6f}")
    with Meter() as meter:
        evaluate_voc(truth, predictions)
    print(f"ours, VOC 2010\t{meter.seconds:.2f}\t{meter.megabytes:.0f}\t")
    analyse(*problem(0.001), evaluate_ilsvrc(*problem(0.001)))
    with Meter() as meter:
        analyse(truth, predictions, evaluation)
    print(f"ours, error analysis\t{meter.seconds:.2f}\t{meter.megabytes:.0f}\t")
    bootstrap_intervals(evaluation, truth, predictions, 1)
    with Meter() as meter:
        bootstrap_intervals(evaluation, truth, predictions, 200)
    print(f"ours, 200 resamples\t{meter.seconds:.2f}\t{meter.megabytes:.0f}\t")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.txt"
        table = np.column_stack([predictions.pictures + 1, predictions.labels, predictions.scores, predictions.boxes])
        np.savetxt(path, table, fmt="%d %d %.6f %.2f %.2f %.2f %.2f")
        start = time.perf_counter()
        with Meter() as meter:
            read_predictions(path, truth)
        wall, size = time.perf_counter() - start, path.stat().st_size / 2**20
    print(f"ours, loading {size:.0f} MB\t{meter.seconds:.2f}\t{meter.megabytes:.0f}\t{wall:.2f} s by the clock")


def peer(name: str, scale: float) -> None:
    """Print the row of pycocotools or faster-coco-eval."""
    if name == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    truth, predictions = problem(scale)
    loaded = []
    for owners, labels, boxes, scores in (
        (truth.pictures, truth.labels, truth.boxes, None),
        (predictions.pictures, predictions.labels, predictions.boxes, predictions.scores),
    ):
        sizes = boxes[:, 2:] - boxes[:, :2]
        rows = [
            {"id": i + 1, "image_id": p + 1, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (p, c, box) in enumerate(
                zip(owners.tolist(), labels.tolist(), np.hstack([boxes[:, :2], sizes]).tolist(), strict=True)
            )
        ]
        if scores is not None:
            for row, score in zip(rows, scores.tolist(), strict=True):
                row["score"] = score
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(truth.names))],
            "categories": [{"id": i} for i in range(1, CLASSES + 1)],
            "annotations": rows,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        loaded.append(coco)
    with Meter() as meter, contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(*loaded, "bbox")
        evaluator.params.iouThrs = np.array([0.5])
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [1000]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"]
    figure = float(precision[precision > -1].mean())
    print(f"{PEERS[name]}\t{meter.seconds:.2f}\t{meter.megabytes:.0f}\tAP50 {figure:.6f} (101 points)")


def main() -> None:
    """Run each side in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the problem (default: 1)")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        ours(args.scale) if args.only == "ours" else peer(args.only, args.scale)
        return
    print(machine())
    print(f"{'':24}{'CPU s':>8}{'MB':>8}   ratio to ours")
    base = 0.0
    for side in ("ours", *args.peers):
        command = [sys.executable, __file__, "--only", side, "--scale", str(args.scale)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else f"ended {result.returncode}"
            print(f"{PEERS.get(side, side):24}   not measured: {reason}")
            continue
        for line in result.stdout.splitlines():
            what, seconds, megabytes, note = line.split("\t")
            base = base or float(seconds)
            ratio = f"{float(seconds) / base:7.1f} x" if side in PEERS else " " * 9
            print(f"{what:24}{seconds:>8}{megabytes:>8} {ratio}  {note}", flush=True)


if __name__ == "__main__":
    main()
