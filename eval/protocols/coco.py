"""The metric of COCO, through pycocotools (or faster-coco-eval where it is installed, which gives the same numbers)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.predictions.table import Predictions
from eval.protocols.evaluation import Evaluation, Matches
from eval.protocols.ilsvrc import picture_rank
from eval.protocols.matching import best_free_or_crowd, match, rank

IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # as pycocotools has them
MAX_PREDICTIONS = 100  # of a class in a picture
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
UNDER_ONE = 1 - 1e-10  # pycocotools lets an IoU of 1 less than this pass as 1


def evaluate_coco(truth: GroundTruth, predictions: Predictions, ious: Sequence[float] = IOUS) -> Evaluation:
    """Return the evaluation of `predictions` as COCO's: AP is the mean over 101 recalls and all `ious`.

    Crowd boxes do not count; of each class in a picture the 100 best predictions do. `difficult` has no meaning here.
    """
    evaluator = _evaluated(truth, predictions, ious)
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # [ious, recalls, classes], all sizes, 100 predictions
    ap = precision.mean(axis=(0, 1))
    ap[(precision < 0).any(axis=(0, 1))] = np.nan  # pycocotools' mark of a class without ground truth
    metrics = dict(zip(METRICS, map(float, evaluator.stats), strict=True)) if tuple(ious) == IOUS else {}
    metrics = {name: value if value >= 0 else float("nan") for name, value in metrics.items()}
    return Evaluation("coco", truth.class_names, ap, coco_matches(truth, predictions, ious), metrics)


def coco_matches(truth: GroundTruth, predictions: Predictions, ious: Sequence[float] = IOUS) -> tuple[Matches, ...]:
    """Return what becomes of the predictions at each of the `ious`, by pycocotools' rules."""
    ranking = rank(predictions, len(truth.class_names), picture_rank(truth))
    uncounted = np.prod(predictions.boxes[:, 2:] - predictions.boxes[:, :2], axis=1) < 0  # not in the areas 0 to 1e10
    uncounted[_surplus(predictions, ranking[0], len(truth.names))] = True
    return tuple(
        match(
            truth,
            predictions,
            ranking,
            np.full(len(truth), min(iou, UNDER_ONE)),
            best_free_or_crowd,
            ignored=truth.crowd,
            uncounted=uncounted,
        )
        for iou in ious
    )


def surplus_note(truth: GroundTruth, predictions: Predictions) -> str:
    """Return a note on the predictions that COCO's limit a picture leaves out, "" where it leaves out none."""
    ranking = rank(predictions, len(truth.class_names), picture_rank(truth))
    count = len(_surplus(predictions, ranking[0], len(truth.names)))
    what = f"beyond the {MAX_PREDICTIONS} best of their class in a picture do not count, as COCO has it"
    return f"{count:,} of {len(predictions):,} predictions {what}" if count else ""


def _surplus(predictions: Predictions, order: Longs, pictures: int) -> Longs:
    """Return the rows beyond the best MAX_PREDICTIONS of their class and picture."""
    keys = (predictions.labels.astype(np.int64) * max(pictures, 1) + predictions.pictures)[order]
    grouped = np.argsort(keys, kind="stable")
    sorted_keys = keys[grouped]
    place = np.arange(len(keys)) - np.searchsorted(sorted_keys, sorted_keys, side="left")
    return order[grouped[place >= MAX_PREDICTIONS]]


def _evaluated(truth: GroundTruth, predictions: Predictions, ious: Sequence[float]) -> Any:
    """Return pycocotools' COCOeval with its figures made, its printing swallowed."""
    coco_class, eval_class = _implementation()
    order = picture_rank(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = eval_class(*_as_coco(coco_class, truth, predictions, order), "bbox")
        evaluator.params.imgIds = list(range(1, len(truth.names) + 1))
        evaluator.params.catIds = list(range(1, len(truth.class_names) + 1))
        evaluator.params.iouThrs = np.asarray(ious, dtype=np.float64)
        evaluator.evaluate()
        evaluator.accumulate()
        if tuple(ious) == IOUS:
            evaluator.summarize()
    return evaluator


def _implementation() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    return COCO, COCOeval_faster


def _as_coco(coco_class: Any, truth: GroundTruth, predictions: Predictions, order: Longs) -> tuple[Any, Any]:
    """Return ground truth and predictions as pycocotools holds them, pictures numbered from 1 in `order`."""
    head = {
        "images": [{"id": i} for i in range(1, len(truth.names) + 1)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(truth.class_names)],
    }
    objects = [
        {"id": i + 1, "image_id": int(p) + 1, "category_id": int(c), "bbox": box, "area": area, "iscrowd": int(crowd)}
        for i, (p, c, box, area, crowd) in enumerate(
            zip(order[truth.pictures], truth.labels, _xywh(truth.boxes), truth.areas, truth.crowd, strict=True)
        )
    ]
    # pycocotools sorts the predictions of a picture and class by score, equal ones staying in their order
    rows = np.lexsort((np.arange(len(predictions)), order[predictions.pictures]))
    areas = np.prod(predictions.boxes[:, 2:] - predictions.boxes[:, :2], axis=1)
    found = [
        {
            "id": i + 1,
            "image_id": int(order[predictions.pictures[row]]) + 1,
            "category_id": int(predictions.labels[row]),
            "bbox": box,
            "area": float(areas[row]),
            "score": float(predictions.scores[row]),
            "iscrowd": 0,
        }
        for i, (row, box) in enumerate(zip(rows, _xywh(predictions.boxes[rows]), strict=True))
    ]
    result = []
    for boxes in (objects, found):
        coco = coco_class()
        coco.dataset = {**head, "annotations": boxes}
        coco.createIndex()
        result.append(coco)
    return result[0], result[1]


def _xywh(boxes: Doubles) -> list[list[float]]:
    corners: list[list[float]] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    return corners
