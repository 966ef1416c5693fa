"""A run of the detector over a data set: resumable, and with what the analysis of misses needs to know."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detector import __version__
from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from detector.detector import Detector, Trace
from detector.model import file_digest, find_model
from detector.multibox import load_multibox
from detector.options import DetectOptions
from detector.whole_crops import CONTEXT_MODEL
from eval.predictions.store import (
    BEST_PROPOSAL,
    DETECTION,
    SCORED_PROPOSAL,
    Found,
    Parameters,
    PredictionStore,
    truth_key,
)
from proposals.boxes import iou
from proposals.console import Console
from proposals.images import ImageError, read_image

ENDS = 4096  # bytes of a picture's file at either end that its digest is made of
MIN_SCORE = 0.01  # detections below add nothing to AP, and very many of them
SHORT = 16  # digits of a digest in a key


@dataclass(frozen=True)
class Setup:
    """How the detector runs: its options, and the key of its predictions: all that decides about them."""

    options: DetectOptions
    key: Parameters

    @property
    def description(self) -> str:
        """The detector in a few words."""
        weights = self.key[f"weights of {self.options.model}"]
        return f"{self.options.model}, proposals {self.options.proposals}, weights {weights}"


def evaluation_options(options: DetectOptions) -> DetectOptions:
    """Return `options` with the threshold low enough for a whole precision-recall curve."""
    return replace(options, threshold=MIN_SCORE)


def setup(options: DetectOptions) -> Setup:
    """Return how the detector runs with `options`.

    The key holds the version of this product, every option, and a digest of every weights file that takes part: the
    model, the members of the ensemble, MultiBox, the classifier of whole pictures. Raises: OSError, ValueError for a
    model that is not there.
    """
    names = [options.model, *options.further_models]
    if options.context:
        names.append(CONTEXT_MODEL)
    digests = {}
    for name in dict.fromkeys(names):
        model = find_model(name)
        digests[f"weights of {name}"] = file_digest(model)[:SHORT] if model.file else "downloaded"
    if options.learned:
        digests["weights of MultiBox"] = load_multibox(options.multibox).sha256[:SHORT]
    elif not options.searched:
        digests["file of proposals"] = hashlib.sha256(Path(options.proposals).read_bytes()).hexdigest()[:SHORT]
    return Setup(options, {"version": __version__, **asdict(options), **digests})


def default_file(setup: Setup, truth: GroundTruth, split: str) -> Path:
    """Return the file of the predictions where none is named: another one for another key, picture or class."""
    asked = json.dumps([setup.key, truth.names, truth.class_names], sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
    return Path("detected") / f"predictions-{Path(setup.options.model).stem}-{split}-{digest}.parquet"


def detect(truth: GroundTruth, thresholds: Doubles, setup: Setup, path: Path, console: Console) -> tuple[Found, int]:
    """Return what the detector finds on the pictures of `truth`, and how many of them could not be read.

    thresholds: [N], the IoU threshold of each ground-truth box; path: the Parquet file of the predictions. Pictures
    that are in it are not detected again; those that failed are tried again. Raises: ValueError where a data set has no
    pictures, or the file is of another run; OSError where it cannot be written; what is finished is kept.
    """
    key, digests = truth_key(truth, thresholds), picture_digests(truth)
    store = PredictionStore(path, setup.key, truth.class_names, key, digests)
    with contextlib.closing(store):
        for part in store.damaged:
            console.notice(f"{part} was damaged and is thrown away; its pictures are computed again")
        if not store.witnessed:
            console.note(f"{path} was made with other boxes or thresholds; there are fewer kinds of misses")
        failed = _detect_missing(truth, thresholds, setup.options, store, console)
        store.finish()
        return store.found(truth), failed


def _detect_missing(
    truth: GroundTruth, thresholds: Doubles, options: DetectOptions, store: PredictionStore, console: Console
) -> int:
    """Detect on every picture that `store` lacks; return how many could not be read."""
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
                trace = _trace(detector, truth.paths[index])
                if isinstance(trace, str):
                    failed += 1
                    name = truth.paths[index] or truth.names[index]
                    console.notice(f"{name}: {trace}; counted as a picture without detections")
                else:
                    _keep(store, truth, index, thresholds, trace)
                advance(1)
    finally:
        store.flush()
    return failed


def _trace(detector: Detector, path: Path | None) -> Trace | str:
    """Return what the detector makes of a picture, or why it cannot be read."""
    if path is None:
        return "no picture"
    try:
        return detector.trace(read_image(path), path=path)
    except ImageError as error:
        return error.reason
    except (MemoryError, ValueError) as error:
        return str(error) or "not enough memory"


def _keep(store: PredictionStore, truth: GroundTruth, index: int, thresholds: Doubles, trace: Trace) -> None:
    """Keep the detections of a picture, and its witnesses."""
    found = trace.detections
    best, scored, labels, scores = _witnesses(trace, truth, truth.of_picture(index), thresholds)
    store.add(
        truth.names[index],
        np.concatenate([found.labels, np.zeros(len(best), np.int64), labels]),
        np.concatenate([found.scores, np.zeros(len(best)), scores]),
        np.concatenate([found.boxes, best, scored]),
        np.repeat([DETECTION, BEST_PROPOSAL, SCORED_PROPOSAL], [len(found), len(best), len(scored)]),
    )


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
