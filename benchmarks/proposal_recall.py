"""Recall of Selective Search on four data sets: ours at superpixel scale 1 and 2, OpenCV's same setting, its fast mode.

  python benchmarks/proposal_recall.py [--sets voc coco] [--pictures 20] [--json FILE] [--plot FILE.png]

For the 100, 300, 1000 best-ranked boxes of a picture and for all of them: the mean number of boxes there are, recall at
IoU 0.5 and 0.7, MABO and average recall. Then ours at scale 2 minus OpenCV's same setting, in points, at equal numbers
of boxes; in the row "equal" both are cut, picture by picture, to the number of the one that has fewer. OpenCV's fast
mode keeps its own order, which comes from C's rand() and not from the seed, and its boxes below 20 px.

Data: ../shared/data beside the project; a set that is not there is left out. Crowds are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from machine import machine

from detector.datasets.read import read_dataset
from proposals.boxes import Boxes, Floats, from_xywh
from proposals.files import check_folder, write_bytes_atomic, write_text_atomic
from proposals.images import Image, read_image
from proposals.opencv import selective_search_opencv
from proposals.recall import average_recall, best_overlaps, mabo, recall
from proposals.selective.frame import from_frame, to_frame
from proposals.selective.search import selective_search

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {  # name on the command line: title, file
    "voc": ("VOC 2012 val", SHARED / "voc2012" / "val.json"),
    "coco": ("COCO 2017 val", SHARED / "coco2017" / "val.json"),
    "val2_mini": ("ILSVRC val2_mini", SHARED / "ilsvrc" / "val2_mini"),
    "loc_full": ("ILSVRC loc_full", SHARED / "ilsvrc" / "loc_full" / "annotations.json"),
}
ALL = np.iinfo(np.int32).max
TOPS = (100, 300, 1000, ALL)
CURVE = tuple(np.geomspace(10, 10_000, 61).round().astype(int).tolist())  # numbers of boxes in the plot
OURS, PEER = "ours2", "opencv2"  # the two that are compared
TOP_NAMES = {ALL: "all"}


@dataclass(frozen=True)
class Picture:
    """A picture file and its ground truth: boxes [M, 4], labels [M]."""

    path: Path
    boxes: Boxes
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One line of the table; `boxes` is the mean number a picture, the measures are shares 0..1."""

    set: str
    method: str
    top: str
    boxes: float
    recall_50: float
    recall_70: float
    mabo: float
    average_recall: float

    def measures(self) -> npt.NDArray[np.float64]:
        return np.array([self.recall_50, self.recall_70, self.mabo, self.average_recall])


def opencv_fast(image: Image) -> Boxes:
    """Return what OpenCV's own class finds in its fast mode, in its own order."""
    frame = to_frame(image)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(frame[:, :, ::-1]))  # BGR
    search.switchToSelectiveSearchFast()
    return from_frame(from_xywh(search.process()), frame, image)


METHODS: dict[str, tuple[str, Callable[[Image, int], Boxes]]] = {
    "ours1": ("ours, scale 1", lambda image, seed: selective_search(image, superpixel_scale=1, seed=seed).boxes),
    "ours2": ("ours, scale 2", lambda image, seed: selective_search(image, superpixel_scale=2, seed=seed).boxes),
    "opencv2": ("OpenCV, same setting", lambda image, seed: selective_search_opencv(image, 2, seed).boxes),
    "opencv_fast": ("OpenCV, its fast mode", lambda image, seed: opencv_fast(image)),
}


def pictures_of(file: Path) -> list[Picture]:
    """Return the pictures of a data set; crowds are left out."""
    truth, found = read_dataset(file), []
    for number, path in enumerate(truth.paths):
        rows = truth.of_picture(number)
        counted = ~truth.crowd[rows]
        assert path is not None
        found.append(Picture(path, truth.boxes[rows][counted].astype(np.float32), truth.labels[rows][counted]))
    return found


def measure(picture: Picture, methods: Sequence[str], seed: int) -> list[tuple[int, Floats]]:
    """Return for each method its number of boxes and the best overlaps: TOPS, CURVE, then the equal number [C, M]."""
    image = read_image(picture.path)
    found = {method: METHODS[method][1](image, seed) for method in methods}
    equal = min(len(found[method]) for method in (OURS, PEER)) if {OURS, PEER} <= found.keys() else ALL
    counts = (*TOPS, *CURVE, equal)
    return [(len(boxes), best_overlaps(picture.boxes, boxes, counts)) for boxes in found.values()]


class Found:
    """What one method found on one set: numbers of boxes [P], best overlaps [C, M] and labels [M]."""

    def __init__(self, results: Sequence[tuple[int, Floats]], pictures: Sequence[Picture]) -> None:
        self.numbers = np.array([number for number, _ in results])
        self.overlaps = np.concatenate([overlaps for _, overlaps in results], axis=1)
        self.labels = np.concatenate([picture.labels for picture in pictures])

    def row(self, name: str, method: str, top: str, index: int, numbers: npt.NDArray[np.int64]) -> Row:
        """Return the line of the count at `index`, of which the pictures have `numbers` [P] boxes."""
        overlaps = self.overlaps[index]
        loose, strict = recall(overlaps, [0.5, 0.7]).tolist()
        values = loose, strict, float(mabo(overlaps, self.labels)), float(average_recall(overlaps))
        return Row(name, method, top, float(numbers.mean()), *values)

    def rows(self, name: str, method: str) -> list[Row]:
        """Return the lines of the table."""
        return [
            self.row(name, method, TOP_NAMES.get(top, str(top)), index, np.minimum(self.numbers, top))
            for index, top in enumerate(TOPS)
        ]

    def curve(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return mean numbers of boxes and recall at 0.5, as far as any picture has as many boxes."""
        used = np.minimum(self.numbers[:, None], np.array(CURVE)).mean(axis=0)
        reached = np.array(CURVE) <= max(self.numbers.max(), CURVE[0])
        recalls = recall(self.overlaps[len(TOPS) : len(TOPS) + len(CURVE)], [0.5])[:, 0]
        return used[reached], recalls[reached]


def comparison(found: dict[str, Found], name: str) -> list[tuple[Row, Row]]:
    """Return the lines of OURS and PEER in pairs, the last with as many boxes of both in every picture."""
    ours, peer = found[OURS], found[PEER]
    pairs = list(zip(ours.rows(name, OURS), peer.rows(name, PEER), strict=True))
    fewer = np.minimum(ours.numbers, peer.numbers)
    return [*pairs, (ours.row(name, OURS, "equal", -1, fewer), peer.row(name, PEER, "equal", -1, fewer))]


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table of one set."""
    print(f"{'method':22} {'top':>5} {'boxes':>7} {'R@0.5':>7} {'R@0.7':>7} {'MABO':>7} {'AR':>7}")
    for row in rows:
        values = " ".join(f"{value:7.4f}" for value in row.measures())
        print(f"{METHODS[row.method][0]:22} {row.top:>5} {row.boxes:7.0f} {values}")


def print_comparison(pairs: Sequence[tuple[Row, Row]]) -> None:
    """Print the differences in points."""
    print(f"{METHODS[OURS][0]} minus {METHODS[PEER][0]}, points")
    for ours, peer in pairs:
        values = " ".join(f"{100 * value:+7.2f}" for value in ours.measures() - peer.measures())
        print(f"{'':22} {ours.top:>5} {ours.boxes - peer.boxes:+7.0f} {values}")


def write_plot(path: Path, sets: dict[str, dict[str, Found]]) -> None:
    """Draw recall at 0.5 against the number of boxes, a panel for each set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(sets), 3.8), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True):
        for method, one in found.items():
            axes.plot(*one.curve(), label=METHODS[method][0])
        axes.set(title=SETS[name][0], xlabel="boxes a picture", ylabel="recall at IoU 0.5", xscale="log", ylim=(0, 1))
        axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes_atomic(path, content.getvalue())


def positive(text: str) -> int:
    """Return a whole number of at least 1; argparse turns the ValueError into its message."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def run(args: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
    """Measure the sets one after the other, print each, write the files at the end."""
    sets: dict[str, dict[str, Found]] = {}
    rows: list[Row] = []
    pairs: list[tuple[Row, Row]] = []
    print(f"{machine()}; seed {args.seed}")
    for name in args.sets:
        title, file = SETS[name]
        if not file.exists():
            print(f"{title}: {file} is not there; left out", file=sys.stderr)
            continue
        pictures = pictures_of(file)[: args.pictures]
        labels = np.concatenate([picture.labels for picture in pictures])
        if not len(labels):
            print(f"{title}: no ground truth in {len(pictures)} pictures; left out", file=sys.stderr)
            continue
        results = []
        for result in pool.map(partial(measure, methods=args.methods, seed=args.seed), pictures):
            results.append(result)
            if sys.stderr.isatty():
                print(f"\r{title} {len(results)}/{len(pictures)}\033[K", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        sets[name] = {
            method: Found([result[column] for result in results], pictures)
            for column, method in enumerate(args.methods)
        }
        print(f"\n{title}: {len(pictures)} pictures, {len(labels)} boxes of {len(np.unique(labels))} classes")
        table = [row for method in args.methods for row in sets[name][method].rows(name, method)]
        print_rows(table)
        rows += table
        if {OURS, PEER} <= set(args.methods):
            pairs += (compared := comparison(sets[name], name))
            print_comparison(compared)
        sys.stdout.flush()  # a set may take half an hour
    if not sets:
        sys.exit("no data set to measure on")
    if args.json:
        content = {
            "machine": machine(),
            "seed": args.seed,
            "pictures": {name: len(next(iter(found.values())).numbers) for name, found in sets.items()},
            "rows": [asdict(row) for row in rows],
            "compared": [[asdict(row) for row in pair] for pair in pairs],
        }
        write_text_atomic(args.json, json.dumps(content, indent=1) + "\n")
    if args.plot:
        write_plot(args.plot, sets)


def main() -> None:
    """Print the tables; write the files asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--pictures", type=positive, help="only the first so many of each set")
    parser.add_argument("--workers", type=positive, default=2, help="processes over pictures (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the ranking (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw recall at 0.5 against the number of boxes")
    args = parser.parse_args()
    args.sets, args.methods = list(dict.fromkeys(args.sets)), list(dict.fromkeys(args.methods))
    try:
        for path in filter(None, (args.json, args.plot)):
            check_folder(path.parent)  # before the work, not after it
            path.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")  # the same on every system
        with ProcessPoolExecutor(args.workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            run(args, pool)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
