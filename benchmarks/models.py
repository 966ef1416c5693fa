"""mAP of networks, and of their averages, on held-out pictures of VOC, COCO and ILSVRC DET, all from one pass.

  python benchmarks/models.py inception_v3 run1 run2 --average run1+run2 --multibox run3 --sets voc coco val2_mini

The networks share the first layers of the first one (Inception-v3 up to Mixed_7a), which are computed once. Classes
of VOC and COCO are mapped to ILSVRC DET's; objects without a counterpart are left out. With --multibox every method
of proposals is scored: Selective Search alone, MultiBox alone, both, and the latter two with scores weighed by
MultiBox's confidence and with boxes that vote. Differences are paired over pictures, with 95 % intervals; an average is
also compared with the best of its members. --scores keeps the scores of every proposal, which a second run takes from
there. --context weighs the scores of averages by what the zero-shot network says of the whole picture, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import machine

from detector.classes import det_names
from detector.datasets.class_maps import to_det
from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.model import find_model
from detector.multibox import MultiBox, load_multibox
from detector.networks.layers import cut_after
from detector.networks.openvino_graph import ends_model
from detector.options import DetectOptions
from detector.postprocess import VOTE_POWER, Regions, in_context, soften, suppress, vote, weigh
from detector.runtimes.base import DET, summed_leaves
from detector.runtimes.compiled import core
from detector.runtimes.load import load_classifier
from detector.runtimes.openvino import Requests
from detector.warp import warp
from detector.whole_crops import CONTEXT_MODEL, image_views
from eval.bootstrap import bootstrap_intervals
from eval.comparison import compare_predictions
from eval.detector_run import MIN_SCORE
from eval.errors.analysis import analyse
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from eval.protocols.evaluation import TRUE_POSITIVE
from eval.summary import errors_as_text
from proposals.images import read_image
from proposals.merging import merge, objectness
from proposals.selective.search import selective_search
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {
    "voc": SHARED_DATA / "voc2012" / "val.json",
    "coco": SHARED_DATA / "coco2017" / "val.json",
    "val2_mini": SHARED_DATA / "ilsvrc" / "val2_mini",
}
SEARCHED, LEARNED, ALL = (SELECTIVE_SEARCH, BOTH), (MULTIBOX, BOTH), (SELECTIVE_SEARCH, MULTIBOX, BOTH)
SHARE, VOTE = DetectOptions.objectness, DetectOptions.vote
METHODS = {  # sources, the weight of MultiBox's confidence, the IoU and power of box voting, and whether it is soft
    "ss": (SEARCHED, 0.0, 0.0, VOTE_POWER, False),
    "multibox": (LEARNED, 0.0, 0.0, VOTE_POWER, False),
    "both": (ALL, 0.0, 0.0, VOTE_POWER, False),
    "multibox, weighed": (LEARNED, SHARE, 0.0, VOTE_POWER, False),
    "both, weighed": (ALL, SHARE, 0.0, VOTE_POWER, False),
    "both, weighed, as published": (ALL, SHARE, 0.5, 1, False),  # arXiv:1505.01749
    "both, weighed, voted": (ALL, SHARE, VOTE, VOTE_POWER, False),
    "multibox, weighed, voted, soft": (LEARNED, SHARE, VOTE, VOTE_POWER, True),
    "both, weighed, voted, soft": (ALL, SHARE, VOTE, VOTE_POWER, True),
}
FROZEN = "Mixed_7a"  # what all networks of the table have in common
BATCH = 8
RESAMPLES = 1000


def detections(regions: Regions, o: DetectOptions, overlap: float, power: float, soft: bool) -> Detections:
    """Return what is left of scored regions, with the low threshold of an evaluation."""
    found = suppress(regions, o.nms, MIN_SCORE, o.top)
    if overlap:
        found = vote(found, overlap, power)
    return (soften(found, o.nms, 0) if soft else found).detections(det_names())


def best_f1(scores: np.ndarray, right: np.ndarray, positives: int) -> tuple[float, float]:
    """Return the best F1 over all classes together, and the score from which it is reached."""
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + positives)
    return float(f1.max()), float(scores[order[f1.argmax()]])


def calibration(scores: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Return mean score, share that is right, and number of the detections in each tenth of the scores."""
    tenth = np.minimum((10 * scores).astype(int), 9)
    bins = [tenth == number for number in range(10)]
    return [[float(scores[own].mean()), float(right[own].mean()), int(own.sum())] for own in bins if own.any()]


def draw_calibration(table: list[dict[str, object]], path: Path) -> None:
    """Draw the share of right detections against their scores, for the last network of each set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for row in {row["set"]: row for row in table}.values():
        means, shares, _ = zip(*row["calibration"], strict=True)
        axes.plot(means, shares, marker="o", label=Path(str(row["set"])).stem)
    axes.set(xlabel="score", ylabel="share of detections that are right (IoU 0.5)", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names, run folders or weights files; the first gives shared layers")
    parser.add_argument("--average", nargs="*", default=[], metavar="A+B", help="ensembles of these")
    parser.add_argument("--multibox", metavar="FILE", help="weights of MultiBox")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help=f"of {', '.join(SETS)}, or a COCO JSON file")
    parser.add_argument("--pictures", type=int, help="only so many of each set, evenly spaced")
    parser.add_argument("--with-boxes", action="store_true", help="only pictures with an object of the 200 classes")
    parser.add_argument("--context", type=float, metavar="WEIGHT", help="of the whole picture's scores, 0..1")
    parser.add_argument("--plot", type=Path, help="picture of how often detections are right, by their scores")
    parser.add_argument("--size", type=int, help="side of the crops (default: the first model's)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--scores", type=Path, help="folder for the scores of every proposal")
    args = parser.parse_args()
    o = DetectOptions()
    trunk = find_model(args.models[0])
    trunk = replace(trunk, size=args.size or trunk.size)
    ends = [replace(find_model(name), size=trunk.size) for name in args.models]
    graph = ends_model(
        trunk, cut_after(trunk.layers, FROZEN), [(end, summed_leaves(DET, end)) for end in ends], BATCH, trunk.quantized
    )
    precision = "f32" if all(end.quantized for end in ends) else "bf16"
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    network = Requests(core().compile_model(graph, "CPU", hints | {"NUM_STREAMS": "1"}))  # as the ensemble runs
    multibox = MultiBox(load_multibox(args.multibox)) if args.multibox else None
    whole = load_classifier(find_model(CONTEXT_MODEL), "openvino", "cpu", "auto", 4) if args.context else None
    methods = METHODS if multibox else {"ss": METHODS["ss"]}
    names: list[str] = []
    averages: dict[str, list[int]] = {}
    for name, end in zip(args.models, ends, strict=True):
        own = [f"{name} member {member}" for member in range(end.members)] if end.members > 1 else [name]
        if len(own) > 1:
            averages[name] = list(range(len(names), len(names) + len(own)))
        names += own
    averages |= {text: [names.index(name) for name in text.split("+")] for text in args.average}
    table: list[dict[str, object]] = []
    print(machine())
    last = list(methods)[-1]
    for name in args.sets:
        truth = read_dataset(SETS.get(name, Path(name)))
        if args.pictures:
            count = min(args.pictures, len(truth.names))
            truth = truth.select(np.linspace(0, len(truth.names) - 1, count).astype(int))
        truth = to_det(truth)
        if args.with_boxes:
            truth = truth.select(np.unique(truth.pictures))
        found: dict[tuple[str, str], dict[int, Detections]] = {}
        boxes = dict.fromkeys(methods, 0)
        begin = time.perf_counter()
        for number, path in enumerate(truth.paths):
            image = read_image(path)
            proposals = selective_search(image, superpixel_scale=o.superpixel_scale, seed=o.seed)
            of_boxes = None
            if multibox:
                learned = multibox(image)
                proposals = merge(proposals, learned)
                of_boxes = objectness(proposals.boxes, learned)
            file = args.scores / f"{Path(name).stem}-{truth.names[number]}.npz" if args.scores else None
            rows = [np.empty((len(proposals), *shape), np.float32) for shape in network.shapes]

            def write(start: int, stop: int, out: np.ndarray, image=image, proposals=proposals) -> None:
                warp(image, proposals.boxes[start:stop], trunk.size, trunk.fill, out=out)

            kept = np.load(file) if file and file.is_file() else None
            if kept is not None and np.array_equal(kept["boxes"], proposals.boxes) and len(kept["scores"]) == len(rows):
                rows = list(kept["scores"].astype(np.float32))
            else:
                network.run(len(proposals), write, rows)
                if file:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    np.savez(file, boxes=proposals.boxes, scores=np.stack(rows).astype(np.float16))
            sides = dict(zip(names, rows, strict=True))
            sides |= {text: np.mean([rows[i] for i in members], axis=0) for text, members in averages.items()}
            size = (image.shape[1], image.shape[0])
            for method, (sources, share, overlap, power, soft) in methods.items():
                own = np.isin(proposals.sources, sources)
                boxes[method] += np.count_nonzero(own)
                for side, scores in sides.items():
                    regions = Regions(proposals.boxes[own], scores[own, 1:], proposals.sources[own], size)
                    if of_boxes is not None:
                        regions = weigh(regions, of_boxes[own, None], share)
                    found.setdefault((side, method), {})[number] = detections(regions, o, overlap, power, soft)
            if whole:
                seen = whole(image_views(image, whole.model.size))
                for side in averages:  # on top of the last method, which takes all proposals
                    regions = Regions(proposals.boxes, sides[side][:, 1:], proposals.sources, size)
                    if of_boxes is not None:
                        regions = weigh(regions, of_boxes[:, None], share)
                    regions = weigh(regions, in_context(seen), args.context)
                    kept = detections(regions, o, overlap, power, soft)
                    found.setdefault((side, f"context {args.context:g}"), {})[number] = kept
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{len(truth.paths)}", end="", file=sys.stderr, flush=True)
        report(
            name,
            truth,
            found,
            boxes,
            time.perf_counter() - begin,
            table,
            last,
            {side: [names[i] for i in of] for side, of in averages.items()},
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    if args.plot:
        draw_calibration(table, args.plot)


def report(
    name: str,
    truth: GroundTruth,
    found: dict[tuple[str, str], dict[int, Detections]],
    boxes: dict[str, int],
    seconds: float,
    table: list[dict[str, object]],
    last: str,
    averages: dict[str, list[str]],
) -> None:
    """Print the table of one set; every row is compared with the first one.

    Averages are compared with their best member, too, and their errors counted, with the method `last`.
    """
    present = len(np.unique(truth.labels))
    print(f"\n{name}: {len(truth.names)} pictures, {len(truth)} boxes of {present} classes, {seconds:.0f} s")
    print(
        f"{'network':34}  {'proposals':30}  {'boxes':>6}  {'mAP %':>6}  {'95 % interval':>14}  {'over the first':>24}  "
        f"{'best F1':>7}  {'at':>5}"
    )
    predictions = {key: Predictions.from_detections(of) for key, of in found.items()}
    first = next(iter(predictions.values()))
    maps: dict[tuple[str, str], float] = {}
    for (side, method), own in predictions.items():
        evaluation = evaluate("ilsvrc", truth, own)
        maps[side, method] = evaluation.mean_ap
        count = boxes.get(method, boxes[last]) / len(truth.names)
        low, high = bootstrap_intervals(evaluation, truth, own, RESAMPLES).mean
        right = evaluation.matches.outcome == TRUE_POSITIVE
        f1, at = best_f1(own.scores, right, int(evaluation.matches.positives.sum()))
        versus = compare_predictions(truth, first, own, resamples=RESAMPLES)
        gain = f"{100 * versus.difference:+6.2f} ({100 * versus.interval[0]:+.2f} .. {100 * versus.interval[1]:+.2f})"
        print(
            f"{side[-34:]:34}  {method:30}  {count:6.0f}  {100 * evaluation.mean_ap:6.2f}  "
            f"{100 * low:5.1f} .. {100 * high:4.1f}  {gain:>24}  {f1:7.3f}  {at:5.2f}",
            flush=True,
        )
        table.append(
            {
                "set": name,
                "network": side,
                "proposals": method,
                "boxes": count,
                "map": evaluation.mean_ap,
                "interval": [low, high],
                "best_f1": [f1, at],
                "calibration": calibration(own.scores, right),
                "over_first": versus.difference,
                "over_first_interval": list(versus.interval),
                "ap": {truth.class_names[i - 1]: float(evaluation.ap[i - 1]) for i in evaluation.present.tolist()},
            }
        )
    for side, members in averages.items():
        best = max(members, key=lambda member: maps[member, last])
        pairs = [(f"over its best member ({best})", predictions[best, last], predictions[side, last])]
        pairs += [
            (f"with {method}", predictions[side, last], own)
            for (name, method), own in predictions.items()
            if name == side and method not in boxes
        ]
        for text, a, b in pairs:
            versus = compare_predictions(truth, a, b, resamples=RESAMPLES)
            low, high = (100 * end for end in versus.interval)
            print(f"{side}, {last}, {text}: {100 * versus.difference:+.2f} ({low:+.2f} .. {high:+.2f})")
        own = predictions[side, last]
        print(errors_as_text(analyse(truth, own, evaluate("ilsvrc", truth, own))))


if __name__ == "__main__":
    main()
