"""An evaluation on some of the classes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.classes import label_of
from detector.datasets.ground_truth import GroundTruth
from eval.predictions import Predictions


def of_classes(truth: GroundTruth, predictions: Predictions, classes: Sequence[str]) -> tuple[GroundTruth, Predictions]:
    """Return ground truth and predictions of these classes (names or ids) alone, labelled 1.. in their order.

    All pictures stay. Raises: ValueError naming the nearest class where there is no such one.
    """
    labels = list(dict.fromkeys(label_of(name, truth.class_names) for name in classes))
    new = np.zeros(len(truth.class_names) + 1, np.int64)
    new[labels] = np.arange(1, len(labels) + 1)
    rows = np.flatnonzero(new[truth.labels])
    barred = truth.blacklist[new[truth.blacklist[:, 1]] > 0]
    chosen = predictions.select(new[predictions.labels] > 0)
    return (
        replace(
            truth,
            class_names=tuple(truth.class_names[label - 1] for label in labels),
            class_keys=tuple(truth.class_keys[label - 1] for label in labels),
            pictures=truth.pictures[rows],
            labels=new[truth.labels[rows]],
            boxes=truth.boxes[rows],
            difficult=truth.difficult[rows],
            crowd=truth.crowd[rows],
            areas=truth.areas[rows],
            blacklist=np.stack([barred[:, 0], new[barred[:, 1]]], axis=1),
        ),
        Predictions(chosen.pictures, new[chosen.labels].astype(np.int32), chosen.scores, chosen.boxes),
    )
