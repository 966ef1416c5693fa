from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_problems import ground_truth

from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.detector import Trace
from detector.samples import samples_folder
from eval.detector_run import MIN_SCORE, _witnesses, picture_digests
from eval.errors.analysis import iou_thresholds
from eval.predictions.store import truth_key
from proposals.types import Proposals

BOX = (1.0, 1.0, 40.0, 40.0)


def trace_of(boxes: list[tuple[float, ...]], scores: list[list[float]]) -> Trace:
    """Return what a detector of two classes made of one picture."""
    count = len(boxes)
    proposals = Proposals(np.array(boxes, np.float32), np.arange(count, 0, -1), np.ones(count))
    nothing = Detections.empty((100, 100), ("cat", "dog", "bird"))
    return Trace(proposals, count, np.array(scores, np.float32), nothing, {})


def test_witnesses_by_hand() -> None:
    truth = ground_truth([(7, 1, BOX), (7, 2, BOX)], [7])  # half-open 0, 0, 40, 40
    thresholds = iou_thresholds(truth, "voc10")
    boxes = [(0, 0, 40, 40), (0, 0, 40, 30), (0, 0, 40, 10), (0, 0, 40, 19)]  # IoU 1, 0.75, 0.25, 0.475
    scores = [[0.9, 0.02, 0.05, 0], [0.1, 0.3, 0.004, 0], [0.1, 0.8, 0.2, 0], [0.1, 0.7, 0.1, 0]]
    best, reached, labels, found = _witnesses(trace_of(boxes, scores), truth, slice(0, 2), thresholds)
    assert best.tolist() == [[0, 0, 40, 40]] * 2
    # the cat: 0.3 of those that reach 0.5, not the 0.8 that does not; the dog: 0.05
    assert reached.tolist() == [[0, 0, 40, 30], [0, 0, 40, 40]]
    assert labels.tolist() == [1, 2] and found == pytest.approx([0.3, 0.05])


def test_a_score_that_would_not_be_shown_is_no_witness() -> None:
    assert MIN_SCORE == 0.01  # as the help and docs/evaluation.md say
    truth = ground_truth([(7, 1, BOX)], [7])
    trace = trace_of([(0, 0, 40, 40)], [[0.9, 0.0099, 0, 0]])
    best, reached, labels, _ = _witnesses(trace, truth, slice(0, 1), iou_thresholds(truth, "voc10"))
    assert len(best) == 1 and len(reached) == 0 and len(labels) == 0


def test_digests_are_of_the_pictures_themselves(tmp_path: Path) -> None:
    truth = read_dataset(samples_folder() / "annotations.json")
    for path in samples_folder().iterdir():
        if path.suffix in (".jpg", ".json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    copied = read_dataset(tmp_path / "annotations.json")
    before = picture_digests(truth)
    assert before == picture_digests(copied) and len(set(before.values())) == 11  # wherever they lie
    data = bytearray((tmp_path / "dog.jpg").read_bytes())
    data[-1] ^= 1
    (tmp_path / "dog.jpg").write_bytes(data)
    after = picture_digests(copied)
    assert [name for name in before if before[name] != after[name]] == ["dog"]


def test_the_key_is_of_boxes_classes_and_thresholds() -> None:
    truth = ground_truth([(7, 1, BOX)], [7])
    thresholds = iou_thresholds(truth, "voc10")
    key = truth_key(truth, thresholds)
    assert key == truth_key(ground_truth([(7, 1, BOX)], [7]), thresholds)
    assert key != truth_key(truth, iou_thresholds(truth, "voc10", 0.7))
    assert key != truth_key(ground_truth([(7, 2, BOX)], [7]), thresholds)
    assert key != truth_key(ground_truth([(7, 1, (1.0, 1.0, 40.0, 41.0))], [7]), thresholds)
