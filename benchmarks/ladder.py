"""One row a step from an earlier detector to a later one, on the development sets, as DeepID-Net's table 4 has it.

  python benchmarks/ladder.py benchmarks/ladder.toml --scores scores --pictures 124
  python benchmarks/ladder.py benchmarks/ladder.toml --only "new trunk" --sets val2_mini voc

The file names the steps: which networks, how their scores are put together, which regions, what follows. The scores of
every region are kept in the folder, by network, so that a step is a matter of seconds once its networks have run. Each
set prints mAP with its 95 % interval, the mean over classes of 5 objects and more, and AP weighed by objects; the last
table prints the mean over the sets, and what a step gains over the one before and over the first: a bootstrap paired
over the pictures of all sets. `data/...` are the sets of the reference data beside the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from detector.classes import det_names
from detector.datasets.class_maps import to_det
from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.model import Model, file_digest, find_model
from detector.multibox import MultiBox, load_multibox
from detector.options import DetectOptions
from detector.postprocess import Regions as Scored
from detector.postprocess import soften, suppress, vote, weigh
from detector.runtimes.base import Classifier
from detector.runtimes.load import load_classifier
from detector.warp import warp
from eval.bootstrap import interval, picture_weights, resampled_ap
from eval.detector_run import MIN_SCORE
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from proposals.images import read_image
from proposals.merging import merge
from proposals.selective.search import selective_search
from proposals.types import Proposals

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {
    "val2_mini": SHARED_DATA / "ilsvrc" / "val2_mini",
    "voc": SHARED_DATA / "voc2012" / "val.json",
    "coco": SHARED_DATA / "coco2017" / "val.json",
    "coco_part": SHARED_DATA / "more" / "coco_val2017_part" / "dev.json",
    "val_loc": SHARED_DATA / "more" / "ilsvrc_val_loc" / "dev.json",
}
RESAMPLES = 1000
SEVERAL = 5  # objects of a class from which its AP says something


@dataclass(frozen=True)
class Step:
    """One row: networks NAME@SIZE whose scores are averaged, and others that only tell the kind."""

    name: str
    members: tuple[str, ...]
    kinds: tuple[str, ...] = ()  # ImageNet networks: their classes, given that the region is an object
    kind_weight: float = 0.5  # of these against the members' classes
    geometric: bool = False  # mean of kinds
    precision: str = "auto"
    regions: str = "both"  # multibox or both
    multibox: str = ""  # weights; "": those that ship
    objectness: float = DetectOptions.objectness
    vote: float = DetectOptions.vote

    @staticmethod
    def read(table: dict[str, Any], source: str) -> Step:
        """Return the step of a TOML table. Raises: ValueError for an unknown key."""
        known = {field.name for field in fields(Step)}
        if unknown := set(table) - known:
            raise ValueError(f"{source}: unknown key '{sorted(unknown)[0]}'; there are {', '.join(sorted(known))}")
        return Step(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one picture, and what MultiBox sees in each."""

    proposals: Proposals
    objectness: np.ndarray
    size: tuple[int, int]


class Scores:
    """Scores of regions by network, kept in a folder: [N, 201] float16 a picture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, Classifier] = {}
        self._multibox: dict[str, MultiBox] = {}

    def regions(self, step: Step, path: Path, image: list[np.ndarray]) -> Regions:
        """Return the regions that a step looks at."""
        key = f"{load_multibox(step.multibox).sha256[:12]}-{step.regions}"
        file = self.folder / f"regions-{key}" / f"{_name(path)}.npz"
        if file.is_file():
            kept = np.load(file)
            found = Proposals(kept["boxes"], kept["ranks"], kept["sources"])
            return Regions(found, kept["objectness"], tuple(kept["size"].tolist()))
        if not image:
            image.append(read_image(path))
        if step.multibox not in self._multibox:
            self._multibox[step.multibox] = MultiBox(load_multibox(step.multibox))
        learned = self._multibox[step.multibox](image[0])
        found = learned
        if step.regions == "both":
            found = merge(selective_search(image[0], superpixel_scale=2, seed=0), learned)
        seen = found.objectness
        assert seen is not None
        size = image[0].shape[1], image[0].shape[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, boxes=found.boxes, ranks=found.scores, sources=found.sources, objectness=seen, size=size)
        return Regions(found, seen, size)

    def of(self, name: str, step: Step, regions: Regions, path: Path, image: list[np.ndarray]) -> np.ndarray:
        """Return the scores of a network for the regions, float32 [N, 201]."""
        model = find_model(name)
        boxes = hashlib.sha256(regions.proposals.boxes.tobytes()).hexdigest()[:12]
        folder = self.folder / f"{file_digest(model)[:12]}-{model.member}-{model.size}-{step.precision}"
        file = folder / f"{_name(path)}-{boxes}.npy"
        if file.is_file():
            return np.load(file).astype(np.float32)
        if not image:
            image.append(read_image(path))
        key = f"{name} {step.precision}"
        if key not in self._loaded:
            self._loaded[key] = load_classifier(model, "auto", "cpu", step.precision, 0)
        found = _scores(self._loaded[key], model, image[0], regions.proposals.boxes)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found.astype(np.float16))
        return found.astype(np.float16).astype(np.float32)


def _name(path: Path) -> str:
    return f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _scores(classify: Classifier, model: Model, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    def write(start: int, stop: int, out: np.ndarray) -> None:
        warp(image, boxes[start:stop], model.size, model.fill, out=out)

    return classify.score(len(boxes), write).scores


def together(step: Step, members: list[np.ndarray], kinds: list[np.ndarray]) -> np.ndarray:
    """Return the scores of a step: the mean of the members; what kind an object is, mixed with the others' opinion."""
    scores = np.mean(members, axis=0)
    if not kinds:
        return scores
    thing = 1 - scores[:, :1]
    own = scores[:, 1:] / np.maximum(scores[:, 1:].sum(axis=1, keepdims=True), 1e-12)
    other = np.mean([part[:, 1:] / np.maximum(part[:, 1:].sum(axis=1, keepdims=True), 1e-12) for part in kinds], axis=0)
    if step.geometric:
        mixed = np.maximum(own, 1e-6) ** (1 - step.kind_weight) * np.maximum(other, 1e-6) ** step.kind_weight
        mixed /= mixed.sum(axis=1, keepdims=True)
    else:
        mixed = (1 - step.kind_weight) * own + step.kind_weight * other
    return np.concatenate([scores[:, :1], thing * mixed], axis=1).astype(np.float32)


def detections(step: Step, regions: Regions, scores: np.ndarray) -> Detections:
    """Return what is left of scored regions, with the low threshold of an evaluation."""
    o = DetectOptions()
    found = Scored(regions.proposals.boxes, scores[:, 1:], regions.proposals.sources, regions.size)
    if step.objectness:
        found = weigh(found, regions.objectness[:, None], step.objectness)
    left = suppress(found, o.nms, MIN_SCORE, o.top)
    if step.vote:
        left = soften(vote(left, step.vote), o.nms, 0)
    return left.detections(det_names())


def read_set(name: str, pictures: int | None) -> GroundTruth:
    """Return a set with its classes mapped to the 200: evenly spaced pictures, of these all with an object of them."""
    truth = read_dataset(SETS.get(name, Path(name)))
    if pictures and pictures < len(truth.names):
        truth = truth.select(np.linspace(0, len(truth.names) - 1, pictures).astype(int))
    truth = to_det(truth)
    return truth.select(np.unique(truth.pictures))


@dataclass(frozen=True)
class Row:
    """Figures of one step on one set; samples: those of the resamples [3, R]."""

    figures: tuple[float, float, float]
    samples: np.ndarray
    best: tuple[float, float]
    ap: dict[str, float]


def measure(truth: GroundTruth, predictions: Predictions) -> Row:
    """Return mAP, the mean over classes of several objects, AP weighed by objects, each with its resamples."""
    found = evaluate("ilsvrc", truth, predictions)
    positives = found.matches.positives
    several = positives >= SEVERAL
    weights = positives / positives.sum()
    few = float(found.ap[several].mean()) if several.any() else float("nan")
    figures = found.mean_ap, few, float(np.nansum(found.ap * weights))
    ap = resampled_ap(found, truth, predictions, picture_weights(len(truth.names), RESAMPLES, 0))
    drawn = ~np.isnan(ap)
    shares = np.where(drawn, weights, 0)
    samples = np.stack(
        [
            _mean(ap),
            _mean(ap[:, several]),
            np.nansum(ap * shares, axis=1) / shares.sum(axis=1),
        ]
    )
    right = found.matches.outcome == 1
    order = np.argsort(-predictions.scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + positives.sum())
    best = float(f1.max()), float(predictions.scores[order[f1.argmax()]])
    return Row(figures, samples, best, {truth.class_names[i - 1]: float(found.ap[i - 1]) for i in found.present})


def _mean(ap: np.ndarray) -> np.ndarray:
    """Return the mean [R] of the classes drawn in each resample [R, C], nan where none was."""
    count = (~np.isnan(ap)).sum(axis=1)
    return np.where(count > 0, np.nansum(ap, axis=1) / np.maximum(count, 1), np.nan)


def points(a: Row | None, b: Row, figure: int = 0) -> str:
    """Return the difference of two rows in points, with its paired interval."""
    if a is None:
        return ""
    low, high = 100 * np.nanquantile(b.samples[figure] - a.samples[figure], [0.025, 0.975])
    return f"{100 * (b.figures[figure] - a.figures[figure]):+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    """Print a table a set, and the ladder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path, help="TOML file of the steps")
    parser.add_argument("--only", nargs="*", help="names of steps")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help=f"of {', '.join(SETS)}, or data sets")
    parser.add_argument("--pictures", type=int, help="at most so many of each set, evenly spaced")
    parser.add_argument("--scores", type=Path, required=True, help="folder for the scores of every region")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    steps = [Step.read(table, str(args.steps)) for table in tomllib.loads(args.steps.read_text())["step"]]
    steps = [step for step in steps if not args.only or step.name in args.only]
    store = Scores(args.scores)
    print(machine())
    rows: dict[tuple[str, str], Row] = {}
    for name in args.sets:
        truth = read_set(name, args.pictures)
        begin = time.perf_counter()
        found: dict[str, dict[int, Detections]] = {step.name: {} for step in steps}
        for number, path in enumerate(truth.paths):
            image: list[np.ndarray] = []  # read when the first network asks for it
            for step in steps:
                regions = store.regions(step, path, image)
                members = [store.of(member, step, regions, path, image) for member in step.members]
                kinds = [store.of(kind, step, regions, path, image) for kind in step.kinds]
                found[step.name][number] = detections(step, regions, together(step, members, kinds))
            if sys.stderr.isatty():
                print(f"\r{name} {number + 1}/{len(truth.paths)}", end="", file=sys.stderr, flush=True)
        classes = len(np.unique(truth.labels))
        seconds = time.perf_counter() - begin
        print(f"\n{name}: {len(truth.names)} pictures, {len(truth)} boxes of {classes} classes, {seconds:.0f} s")
        print(f"{'step':42} {'mAP':>5} {'95 % interval':>15}  {'5 and more':>10} {'weighed':>8}  best F1")
        for step in steps:
            row = rows[name, step.name] = measure(truth, Predictions.from_detections(found[step.name]))
            low, high = interval(row.samples[0], row.figures[0])
            line = f"{step.name:42} {100 * row.figures[0]:5.1f} {100 * low:6.1f} to {100 * high:4.1f}  "
            line += f"{100 * row.figures[1]:10.1f} {100 * row.figures[2]:8.1f}  "
            print(line + f"{100 * row.best[0]:.0f} % at {row.best[1]:.2f}", flush=True)
    print(f"\nmean of {', '.join(args.sets)}")
    print(
        f"{'step':42} {'mAP':>5}  {'over the one before':>24}  {'over the first':>24} {'5 and more':>10} {'weighed':>8}"
    )
    ladder: list[Row] = []
    for step in steps:
        own = [rows[name, step.name] for name in args.sets]
        figures = np.mean([row.figures for row in own], axis=0)
        row = Row(tuple(figures.tolist()), np.mean([row.samples for row in own], axis=0), (0.0, 0.0), {})
        before, first = (ladder[-1], ladder[0]) if ladder else (None, None)
        print(
            f"{step.name:42} {100 * row.figures[0]:5.1f}  {points(before, row):>24}  {points(first, row):>24} "
            f"{100 * row.figures[1]:10.1f} {100 * row.figures[2]:8.1f}"
        )
        ladder.append(row)
    if args.json:
        table = [
            {"set": name, "step": step, "figures": row.figures, "best_f1": row.best, "ap": row.ap}
            for (name, step), row in rows.items()
        ]
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
