"""The paper's trade (section 8): superpixels twice as large and 200 learned boxes against Selective Search alone.

  python benchmarks/multibox_recall.py --multibox run --plot docs/multibox_recall.png

Boxes a picture, recall at IoU 0.5 and 0.7 and average recall on held-out pictures: VOC val, COCO val, val2_mini of the
reference data, and their union. All objects count, whatever their class, but crowds. "best 200" are the 200 best-ranked
boxes of Selective Search.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import machine

from detector.datasets.read import read_dataset
from detector.multibox import MultiBox, load_multibox
from proposals.boxes import Boxes
from proposals.images import read_image
from proposals.merging import merge
from proposals.recall import average_recall, best_overlaps, recall
from proposals.selective.search import selective_search
from proposals.types import Proposals

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {
    "VOC val": SHARED / "voc2012" / "val.json",
    "COCO val": SHARED / "coco2017" / "val.json",
    "val2_mini": SHARED / "ilsvrc" / "val2_mini",
}
COUNTS = (10, 20, 50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)  # of the curve
ALL = 100_000
Methods = dict[str, Callable[[Proposals, Proposals, Proposals], Proposals]]
METHODS: Methods = {
    "Selective Search, scale 1": lambda one, two, learned: one,
    "Selective Search, scale 2": lambda one, two, learned: two,
    "Selective Search, best 200": lambda one, two, learned: two.top(200),
    "MultiBox 50": lambda one, two, learned: learned.top(50),
    "MultiBox 100": lambda one, two, learned: learned.top(100),
    "MultiBox 200": lambda one, two, learned: learned,
    "scale 2 + MultiBox 200": lambda one, two, learned: merge(two, learned),
}
CURVES = ("Selective Search, scale 1", "Selective Search, scale 2", "MultiBox 200", "scale 2 + MultiBox 200")


def main() -> None:
    """Print the tables; draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--multibox", default="", help="weights or run folder (default: those that ship)")
    parser.add_argument("--pictures", type=int, help="only so many of each set, evenly spaced")
    parser.add_argument("--plot", type=Path, help="picture of recall against the number of boxes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit("this benchmark needs the reference data beside the checkout")
    multibox = MultiBox(load_multibox(args.multibox))
    overlaps: dict[str, dict[str, list[np.ndarray]]] = {}
    boxes: dict[str, dict[str, list[int]]] = {}
    learned_seconds = []
    print(machine())
    print(multibox.describe())
    for name, path in SETS.items():
        truth = read_dataset(path)
        chosen = np.arange(len(truth.names))
        if args.pictures:
            chosen = np.linspace(0, len(truth.names) - 1, min(args.pictures, len(truth.names))).astype(int)
        for index in chosen.tolist():
            rows = truth.of_picture(index)
            own: Boxes = truth.boxes[rows][~truth.crowd[rows]].astype(np.float32)
            image = read_image(truth.paths[index])
            one, two = (selective_search(image, superpixel_scale=scale, seed=0) for scale in (1, 2))
            begin = time.perf_counter()
            learned = multibox(image)
            learned_seconds.append(time.perf_counter() - begin)
            for method, make in METHODS.items():
                found = make(one, two, learned)
                boxes.setdefault(name, {}).setdefault(method, []).append(len(found))
                found_overlaps = best_overlaps(own, found.boxes, (*COUNTS, ALL))
                overlaps.setdefault(name, {}).setdefault(method, []).append(found_overlaps)
            if sys.stderr.isatty():
                print(f"\r{name} {index + 1}/{len(truth.names)}", end="", file=sys.stderr, flush=True)
    groups = {**{name: [name] for name in SETS}, "all three": list(SETS)}
    figures = []
    for group, names in groups.items():
        pictures = sum(len(boxes[name]["MultiBox 200"]) for name in names)
        objects = sum(o.shape[1] for name in names for o in overlaps[name]["MultiBox 200"])
        print(f"\n{group}: {pictures} pictures, {objects} boxes")
        print(
            f"{'method':28}  {'boxes':>6}  {'of scale 1':>10}  {'recall 0.5':>10}  {'recall 0.7':>10}  {'average':>7}"
        )
        first = np.mean([count for name in names for count in boxes[name]["Selective Search, scale 1"]])
        for method in METHODS:
            count = float(np.mean([count for name in names for count in boxes[name][method]]))
            best = np.concatenate([o for name in names for o in overlaps[name][method]], axis=1)[-1]
            at50, at70 = recall(best, [0.5, 0.7])
            average = float(average_recall(best))
            print(f"{method:28}  {count:6.0f}  {count / first:10.1%}  {at50:10.2%}  {at70:10.2%}  {average:7.2%}")
            row = {"group": group, "method": method, "boxes": count, "recall_50": float(at50), "recall_70": float(at70)}
            figures.append(row | {"average_recall": average})
    print(f"\nMultiBox: {1000 * float(np.median(learned_seconds)):.1f} ms a picture (median)")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    if args.plot:
        draw({m: np.concatenate([o for n in SETS for o in overlaps[n][m]], axis=1) for m in CURVES}, args.plot)


def draw(overlaps: dict[str, np.ndarray], path: Path) -> None:
    """Draw recall at IoU 0.5 and 0.7 against the number of best-ranked boxes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, threshold in zip(figure.subplots(1, 2, sharey=True), (0.5, 0.7), strict=True):
        for method, found in overlaps.items():
            axes.plot(COUNTS, 100 * recall(found[:-1], [threshold])[:, 0], marker="o", markersize=3, label=method)
        axes.set(xscale="log", xlabel="boxes a picture, best first", title=f"recall at IoU {threshold}", ylim=(0, 100))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("%")
    figure.axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
