"""How to read the report: what its terms mean, for the protocol and the parts that it has."""

from __future__ import annotations

import numpy as np

from eval.errors.confusion import best_score
from eval.protocols.evaluation import Evaluation
from eval.protocols.ilsvrc import TOLERANCE
from eval.report.conditions import at_least, loosest_iou, reaching, touching_iou
from eval.report.content import ReportContent
from eval.report.markup import Html, element, joined


def reading_section(content: ReportContent) -> Html:
    """Return the terms of this report and what they mean."""
    terms = [joined([element("dt", term), element("dd", text)]) for term, text in _terms(content)]
    return element("dl", *terms, class_="terms")


def unlike_map(evaluation: Evaluation) -> str:
    """Return how the AP of the gains differs from that of the protocol; "" where it does not."""
    points = {"voc07": "11 points", "coco": "101 points"}.get(evaluation.protocol)
    if points is None:
        return ""
    several = " at ten IoUs" if len(evaluation.all_matches) > 1 else ""
    return (
        f"Gains are of AP over all points at IoU {loosest_iou(evaluation):g}, not of the mAP above, which takes "
        f"{points}{several}."
    )


def _terms(content: ReportContent) -> list[tuple[str, str]]:
    evaluation = content.evaluation
    iou = f"{loosest_iou(evaluation):g}"
    several = len(evaluation.all_matches) > 1
    terms = [
        (
            "IoU",
            "The area that two boxes share over the area that they cover together. A prediction is right when its "
            "class is right, the object was still free, and their IoU reaches the threshold: "
            + ("from 0.5 to 0.95 in steps of 0.05, each on its own." if several else f"{iou} here."),
        )
    ]
    if evaluation.protocol == "ilsvrc":
        terms.append(
            (
                "Small boxes",
                f"An object of w × h pixels asks for an IoU of min({iou}, w h / ((w + {TOLERANCE}) "
                f"(h + {TOLERANCE}))): small boxes are forgiven {TOLERANCE} pixels.",
            )
        )
    terms += [
        (
            "AP, average precision",
            "Over the predictions of one class by falling score: the area below precision over recall, as the protocol "
            "takes it" + (", and the mean of it over the thresholds of IoU" if several else "") + ". mAP is its mean "
            "over the classes.",
        ),
        (
            "Precision-recall curves",
            f"Drawn with the best precision at this recall or a higher one, at IoU {iou}. A curve ends at the highest "
            "recall that its class reaches.",
        ),
    ]
    if content.intervals is not None:
        terms.append(
            (
                "95 % intervals",
                "Bootstrap over the pictures: they are drawn anew with replacement, as many as there are, and AP is "
                "taken each time. The central 95 % of the results is moved so that its median is the estimate, as "
                "copies of pictures lift AP a little. A class with objects in a single picture has no interval (–).",
            )
        )
    if content.analysis is not None:
        terms += [
            (
                "Kinds of errors",
                "Each false positive and each missed object is of one kind, the first of its table that fits. A box "
                f"touches an object from IoU {touching_iou(evaluation):g} on, and reaches it at "
                f"{reaching(evaluation)}. Predictions of every score count. Without the proposals of the detector, "
                "what no prediction explains is “not found”. After Hoiem et al., ECCV 2012.",
            ),
            (
                "Gain",
                "What mAP would rise by if the false positives of a kind were mended as TIDE does (Bolya et al., ECCV "
                "2020: a badly localised box moved onto its object, one of another class put into the right one if its "
                "box reaches the object, all others taken away), or if the missed objects of a kind were found ahead "
                f"of all else: an upper bound. {unlike_map(evaluation)}".rstrip(),
            ),
        ]
    terms.append(("F1 threshold", _threshold(content)))
    return terms


def _threshold(content: ReportContent) -> str:
    scores = content.predictions.scores
    best = best_score(scores, content.evaluation.matches)
    text = (
        "F1 is 2 hits / (2 hits + wrong + missed). The confusions and the examples leave out the predictions below one "
        "score, the one that makes F1 largest over all classes together; mAP and the errors by kind take all. "
    )
    if np.isinf(best):
        return text + "Here no prediction is right, so there is none."
    return text + f"Here it keeps the predictions {at_least(best, scores)}."
