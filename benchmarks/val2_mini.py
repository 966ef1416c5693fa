"""mAP of the shipped network on 76 pictures of ILSVRC DET val2, for several crop sizes and precisions.

  python benchmarks/val2_mini.py --sizes 128 160 192 224 299 --precisions int8

A small reading of the official protocol (per-box thresholds, all-point AP, mean over the classes that have ground
truth). Pictures and boxes: ../shared/data/ilsvrc/val2_mini; never trained on.
"""

from __future__ import annotations

import argparse
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detector.classes import det_classes
from detector.config import DetectOptions
from detector.crops import warp
from detector.images import read_image
from detector.runtimes.openvino_runtime import OpenVinoClassifier
from detector.weights import find_model
from proposals.boxes import Boxes, from_one_based, iou, nms_per_class
from proposals.opencv import selective_search_opencv
from proposals.selective_search import selective_search

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ilsvrc" / "val2_mini"
LABELS = {c.wnid: c.id for c in det_classes()}
MIN_SCORE = 0.01
TOLERANCE = 10  # pixels that the official threshold forgives small boxes


def ground_truth(path: Path) -> tuple[Boxes, npt.NDArray[np.int64]]:
    """Return boxes [N, 4] and labels [N] of one XML file (1-based inclusive there)."""
    boxes, labels = [], []
    for item in ElementTree.parse(path).getroot().iter("object"):
        boxes.append([float(item.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")])
        labels.append(LABELS[item.findtext("name", "")])
    return from_one_based(boxes), np.array(labels, dtype=np.int64)


def matches(boxes: Boxes, truth: Boxes) -> list[bool]:
    """Return for each box, best first, whether it takes a ground-truth box that is still free."""
    if not len(truth):
        return [False] * len(boxes)
    overlaps = iou(boxes, truth)
    w, h = (truth[:, 2:] - truth[:, :2]).T
    needed = np.minimum(0.5, w * h / ((w + TOLERANCE) * (h + TOLERANCE)))
    free = np.ones(len(truth), bool)
    result = []
    for row in overlaps:
        usable = np.where(free & (row >= needed), row, -1)
        best = int(usable.argmax())
        result.append(bool(usable[best] >= 0))
        free[best] &= usable[best] < 0
    return result


def average_precision(scores: npt.NDArray[np.float64], hits: npt.NDArray[np.bool_], positives: int) -> float:
    """Return the area below the precision envelope over all recall changes."""
    hits = hits[np.argsort(-scores, kind="stable")]
    true = np.cumsum(hits)
    precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
    return float(precision[hits].sum() / positives)


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
    found: dict[tuple[int, str], dict[int, list[tuple[float, bool]]]] = {key: defaultdict(list) for key in networks}
    seconds = dict.fromkeys(networks, 0.0)
    positives: dict[int, int] = defaultdict(int)
    regions = covered = 0
    names = [line.split()[0] for line in (DATA / "list.txt").read_text().splitlines()][: args.pictures]
    for number, name in enumerate(names):
        truth, labels = ground_truth(DATA / "bbox" / f"{name}.xml")
        image = read_image(DATA / "images" / f"{name}.JPEG")
        proposals = search(image, superpixel_scale=o.superpixel_scale, seed=o.seed)
        regions += len(proposals)
        covered += int((iou(truth, proposals.boxes).max(axis=1) >= 0.5).sum())
        for label in labels:
            positives[int(label)] += 1
        for key, network in networks.items():
            start = time.perf_counter()
            scores = network(warp(image, proposals.boxes, key[0], model.fill))
            seconds[key] += time.perf_counter() - start
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                np.savez(args.save / f"{name}-{key[0]}-{key[1]}.npz", boxes=proposals.boxes, scores=scores)
            kept, columns = nms_per_class(proposals.boxes, scores[:, 1:], o.nms, MIN_SCORE, o.top)
            for column in np.unique(columns):
                rows = kept[columns == column]
                hits = matches(proposals.boxes[rows], truth[labels == column + 1])
                found[key][int(column) + 1] += zip(scores[rows, column + 1].tolist(), hits, strict=True)
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{len(names)}", end="", file=sys.stderr, flush=True)
    total = sum(positives.values())
    print(f"{len(names)} pictures, {total} ground-truth boxes of {len(positives)} classes")
    print(f"{regions / len(names):.0f} proposals a picture, recall at IoU 0.5 {covered / total:.3f}")
    print("size  precision    mAP  median AP  best F1  at score  crops/s")
    for (size, precision), classes in found.items():
        aps = []
        for label, count in positives.items():
            rows = np.array(classes[label], dtype=np.float64).reshape(-1, 2)
            aps.append(average_precision(rows[:, 0], rows[:, 1] > 0, count))
        every = np.array([row for rows in classes.values() for row in rows], dtype=np.float64).reshape(-1, 2)
        every = every[np.argsort(-every[:, 0], kind="stable")]
        f1 = 2 * np.cumsum(every[:, 1]) / (np.arange(1, len(every) + 1) + total)
        best = int(f1.argmax())
        speed = regions / seconds[size, precision]
        print(f"{size:4}  {precision:9}  {np.mean(aps):.4f}  {np.median(aps):9.4f}", end="")
        print(f"  {f1[best]:7.3f}  {every[best, 0]:8.3f}  {speed:7.0f}")


if __name__ == "__main__":
    main()
