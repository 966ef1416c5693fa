"""mAP of an ensemble beside its members, and what the cascade saves and costs, on 76 pictures of ILSVRC DET val2.

  python benchmarks/ensemble.py --members inception_v3@160 inception_v3@192
  python benchmarks/ensemble.py --members ... --kept scores/        # keeps the scores; a second run reads them

Every member scores every proposal once; the averages and the cascade at each threshold are made from those scores, so
they differ by nothing else. The first member is the one that the cascade asks. Differences are against the whole
ensemble, with 95 % intervals of a paired bootstrap over the pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from machine import machine

from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.detector import Detector
from detector.ensemble import combined, member_outputs
from detector.options import DetectOptions
from eval.bootstrap import picture_weights, resampled_map
from eval.detector_run import MIN_SCORE
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from proposals.boxes import Boxes, nms_per_class
from proposals.images import read_image

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ilsvrc" / "val2_mini"
THRESHOLDS = (0.48, 0.5, 0.52, 0.53, 0.54, 0.55, 0.56, 0.58, 0.6)
RESAMPLES = 1000
Scores = npt.NDArray[np.float32]


def scored(
    detector: Detector, names: list[str], truth: GroundTruth, kept: Path | None
) -> tuple[list[Boxes], list[list[Scores]]]:
    """Return the proposals of each picture, and for each member the scores of each picture's proposals."""
    boxes: list[Boxes] = []
    scores: list[list[Scores]] = [[] for _ in names]
    for number, path in enumerate(truth.paths):
        files = [kept / f"{truth.names[number]}-{name.replace('/', '_')}.npz" if kept else None for name in names]
        image = read_image(path)
        proposals = detector.propose(image)
        boxes.append(proposals.boxes)
        for member, file, column in zip(detector.members, files, scores, strict=True):
            if file is not None and file.is_file():
                own = np.load(file)["scores"]
            else:
                own = member_outputs(member, image, proposals.boxes)[0].scores
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    np.savez(file, scores=own)
            column.append(own)
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{len(truth.paths)}", end="", file=sys.stderr, flush=True)
    return boxes, scores


def predictions_of(boxes: list[Boxes], scores: list[Scores], truth: GroundTruth, o: DetectOptions) -> Predictions:
    """Return the detections that suppression leaves, with scores low enough for a whole curve."""
    found = {}
    for i, (own, score) in enumerate(zip(boxes, scores, strict=True)):
        kept, columns = nms_per_class(own, score[:, 1:], o.nms, MIN_SCORE, o.top)
        values = np.minimum(score[kept, columns + 1], 1)
        size = int(truth.sizes[i, 0]), int(truth.sizes[i, 1])
        found[i] = Detections(own[kept], values, columns + 1, np.ones(len(kept), np.uint8), size, truth.class_names)
    return Predictions.from_detections(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", default=["inception_v3@160", "inception_v3@192"])
    parser.add_argument("--pictures", type=int, default=None, help="only the first so many")
    parser.add_argument("--kept", type=Path, help="folder for the scores of every proposal")
    args = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA}: not there; this benchmark needs the val2_mini pictures")
    first, *others = args.members
    options = DetectOptions(model=first, ensemble=",".join(others), proposals="ss")
    detector = Detector(options)
    truth = read_dataset(DATA)
    truth = truth.select(range(len(truth.names))[: args.pictures])
    boxes, scores = scored(detector, args.members, truth, args.kept)
    weights = picture_weights(len(truth.names), RESAMPLES, 0)
    print(f"{machine()}; {len(truth.names)} pictures, {sum(map(len, boxes)):,} regions")

    def row(
        name: str, own: list[Scores], base: npt.NDArray[np.float64] | None, whole: float, saved: str = ""
    ) -> tuple[float, npt.NDArray[np.float64]]:
        found = predictions_of(boxes, own, truth, options)
        evaluation = evaluate("ilsvrc", truth, found)
        means = resampled_map(evaluation, truth, found, weights)
        line = f"{name:28} {100 * evaluation.mean_ap:6.2f} %"
        if base is not None:
            low, high = np.quantile(means - base, [0.025, 0.975])
            line += f"   {100 * (evaluation.mean_ap - whole):+6.2f}   {100 * low:+6.2f} .. {100 * high:+6.2f}   {saved}"
        print(line, flush=True)
        return evaluation.mean_ap, means

    models = [member.model for member in detector.members]
    average = [combined(models, parts) for parts in zip(*scores, strict=True)]
    print(f"{'':28}    mAP     difference  95 % interval       crops of the others saved")
    whole, base = row("ensemble, every region", average, None, 0.0)
    for name, own in zip(args.members, scores, strict=True):
        row(name, own, base, whole)
    for threshold in THRESHOLDS:
        background = [own[:, 0] >= threshold for own in scores[0]]
        mixed = [
            np.where(skip[:, None], own, mean) for skip, own, mean in zip(background, scores[0], average, strict=True)
        ]
        share = sum(map(np.count_nonzero, background)) / sum(map(len, background))
        row(f"cascade at {threshold:g}", mixed, base, whole, f"{share:6.1%}")


if __name__ == "__main__":
    main()
