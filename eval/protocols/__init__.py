"""The protocols by name."""

from __future__ import annotations

from dataclasses import replace

from detector.datasets.ground_truth import GroundTruth
from eval.predictions.table import Predictions
from eval.protocols.evaluation import Evaluation

PROTOCOLS = ("ilsvrc", "voc07", "voc10", "coco")
TITLES = {
    "ilsvrc": "ILSVRC DET (devkit 2014)",
    "voc07": "Pascal VOC 2007, 11 points",
    "voc10": "Pascal VOC 2010, all points",
    "coco": "COCO",
}


def title(evaluation: Evaluation) -> str:
    """Return the protocol in words, with the IoU where it is not the protocol's own."""
    if evaluation.iou is not None:
        return f"{TITLES[evaluation.protocol]}, at IoU {evaluation.iou:g}"
    return TITLES[evaluation.protocol] + (", IoU 0.5 to 0.95" if evaluation.protocol == "coco" else "")


def evaluate(protocol: str, truth: GroundTruth, predictions: Predictions, iou: float | None = None) -> Evaluation:
    """Return the evaluation by a protocol of PROTOCOLS, at another IoU than its own if given.

    ilsvrc forgives small boxes at any IoU; coco at one IoU has no means over several. Raises: ValueError for an unknown
    protocol, or an IoU not in (0, 1].
    """
    if iou is not None and not 0 < iou <= 1:
        raise ValueError(f"the IoU threshold must lie above 0 and not above 1, got {iou:g}")
    match protocol:
        case "ilsvrc":
            from eval.protocols.ilsvrc import IOU, evaluate_ilsvrc

            result = evaluate_ilsvrc(truth, predictions, IOU if iou is None else iou)
        case "voc07" | "voc10":
            from eval.protocols.voc import IOU, evaluate_voc

            year = 2007 if protocol == "voc07" else 2010
            result = evaluate_voc(truth, predictions, year, IOU if iou is None else iou)
        case "coco":
            from eval.protocols.coco import IOUS, evaluate_coco

            result = evaluate_coco(truth, predictions, IOUS if iou is None else (iou,))
        case _:
            raise ValueError(f"unknown protocol '{protocol}'; choose one of {', '.join(PROTOCOLS)}")
    return replace(result, iou=iou)
