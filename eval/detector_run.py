"""Running the detector over a data set, resumable, with what the analysis of misses needs to know."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from detector.detector import Detector, Trace
from detector.options import DetectOptions
from eval.predictions.store import BEST_PROPOSAL, DETECTION, SCORED_PROPOSAL, SIDES, PredictionStore
from eval.predictions.table import Predictions
from proposals.boxes import Boxes, iou
from proposals.console import Console
from proposals.images import ImageError, read_image

ENDS = 4096  # bytes of a picture's file at either end that its digest is made of
MIN_SCORE = 0.01  # detections below add nothing to AP, and very many of them


@dataclass(frozen=True, eq=False)
class Found:
    """What a run found: the predictions, and for the analysis of misses, of each ground-truth box the best proposal
    (by picture) and the best-scored proposal of its class that reaches it; None where these are not known.
    """

    predictions: Predictions
    proposals: dict[int, Boxes] | None
    scored: Predictions | None


def evaluation_options(options: DetectOptions) -> DetectOptions:
    """Return `options` with the threshold low enough for a whole precision-recall curve."""
    return replace(options, threshold=MIN_SCORE)


def detect_all(
    truth: GroundTruth, thresholds: Doubles, options: DetectOptions, store: PredictionStore, console: Console
) -> int:
    """Detect on every picture of `truth` that `store` lacks; return how many could not be read.

    thresholds: [N], the IoU that each ground-truth box asks for. Raises: ValueError where a data set has no pictures,
    OSError where the store cannot be written; what is finished is kept.
    """
    missing = [i for i, name in enumerate(truth.names) if name not in store.done]
    if not missing:
        return 0
    if all(truth.paths[i] is None for i in missing):
        raise ValueError("the data set has no pictures to run the detector on; give its pictures, or --predictions")
    if len(missing) < len(truth.names):
        console.note(f"{len(truth.names) - len(missing):,} of {len(truth.names):,} pictures are done already")
    detector = Detector(options)
    console.note(detector.describe())
    failed = 0
    try:
        with console.progress("detect", len(missing)) as advance:
            for index in missing:
                failed += not _detect_one(truth, index, thresholds, detector, store, console)
                advance(1)
    finally:
        store.flush()
    return failed


def _detect_one(
    truth: GroundTruth,
    index: int,
    thresholds: Doubles,
    detector: Detector,
    store: PredictionStore,
    console: Console,
) -> bool:
    """Detect on one picture; say what is wrong with one that fails, and return False."""
    path = truth.paths[index]
    if path is None:
        console.notice(f"{truth.names[index]}: no picture; counted as one without detections")
        return False
    try:
        trace = detector.trace(read_image(path))
    except ImageError as error:
        console.notice(f"{path}: {error.reason}; counted as a picture without detections")
        return False
    except (MemoryError, ValueError) as error:
        console.notice(f"{path}: {error or 'not enough memory'}; counted as a picture without detections")
        return False
    rows = truth.of_picture(index)
    found = trace.detections
    best, scored, labels, scores = _witnesses(trace, truth, rows, thresholds)
    store.add(
        truth.names[index],
        np.concatenate([found.labels, np.zeros(len(best), np.int64), labels]),
        np.concatenate([found.scores, np.zeros(len(best)), scores]),
        np.concatenate([found.boxes, best, scored]),
        np.repeat([DETECTION, BEST_PROPOSAL, SCORED_PROPOSAL], [len(found), len(best), len(scored)]),
    )
    return True


def _witnesses(trace: Trace, truth: GroundTruth, rows: slice, thresholds: Doubles) -> tuple[Any, Any, Longs, Doubles]:
    """Return the best proposals of the boxes `rows`, and box, label and score of what reaches them best-scored."""
    own, labels = truth.boxes[rows].astype(np.float32), truth.labels[rows]
    if not len(own) or not len(trace.proposals):
        return np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)
    overlaps = iou(own, trace.proposals.boxes)
    scores = np.where(overlaps >= thresholds[rows, None], trace.scores[:, labels].T, -1)
    places = scores.argmax(axis=1)
    best = scores[np.arange(len(own)), places]
    shown = best >= np.float32(MIN_SCORE)
    return (
        trace.proposals.boxes[overlaps.argmax(axis=1)],
        trace.proposals.boxes[places[shown]],
        labels[shown],
        best[shown].astype(np.float64),
    )


def truth_key(truth: GroundTruth, thresholds: Doubles) -> str:
    """Return a digest of what the rows for the analysis depend on: the boxes, their classes and thresholds."""
    digest = hashlib.sha256("\n".join(truth.names).encode("utf-8", "surrogateescape"))
    for array in (truth.pictures, truth.labels, truth.boxes, thresholds):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def picture_digests(truth: GroundTruth) -> dict[str, str]:
    """Return a digest of the file of each picture by its name: of its size, its first and its last bytes."""
    return {name: _file_digest(path) for name, path in zip(truth.names, truth.paths, strict=True)}


def _file_digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest = hashlib.sha256(size.to_bytes(8, "little"))
            for start in (0, max(size - ENDS, 0)):
                file.seek(start)
                digest.update(file.read(ENDS))
    except OSError:
        return ""  # said when the picture is to be read
    return digest.hexdigest()[:12]


def found_in(table: Any, truth: GroundTruth, witnessed: bool) -> Found:
    """Return what the rows of a `PredictionStore` hold, on the pictures of `truth`."""
    names = table["picture"].cast("string").to_numpy(zero_copy_only=False)
    index = {name: i for i, name in enumerate(truth.names)}
    pictures = np.array([index.get(name, -1) for name in names], np.int32)
    order = np.argsort(pictures, kind="stable")
    order = order[pictures[order] >= 0]
    pictures = pictures[order]
    labels, scores, roles = (table[name].to_numpy()[order] for name in ("label", "score", "role"))
    boxes = np.stack([table[side].to_numpy()[order] for side in SIDES], axis=1)

    def of(role: int) -> Predictions:
        own = roles == role
        return Predictions(
            pictures[own], labels[own].astype(np.int32), scores[own].astype(np.float64), boxes[own].astype(np.float64)
        )

    if not witnessed:
        return Found(of(DETECTION), None, None)
    own = roles == BEST_PROPOSAL
    owners, starts = np.unique(pictures[own], return_index=True)
    best = np.split(boxes[own], starts[1:])
    return Found(of(DETECTION), dict(zip(owners.tolist(), best, strict=False)), of(SCORED_PROPOSAL))
