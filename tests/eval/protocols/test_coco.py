from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_problems import CLASSES, NUMBERS, boxes, ground_truth, predicted, random_problem, scores

from detector.datasets.read import read_dataset
from eval.predictions.readers import read_predictions
from eval.protocols.average_precision import average_precision_101, class_average_precision
from eval.protocols.coco import IOUS, METRICS, coco_matches, evaluate_coco
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE

COCO_VAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "coco2017" / "val.json"


@pytest.mark.skipif(not COCO_VAL.is_file(), reason="needs ../shared/data/coco2017")
def test_the_numbers_are_those_of_pycocotools_on_files(tmp_path: Path) -> None:
    document = json.loads(COCO_VAL.read_text())
    random = np.random.default_rng(0)
    results = []
    for a in document["annotations"]:
        for _ in range(2):
            x, y, w, h = a["bbox"]
            dx, dy, dw, dh = random.normal(0, 0.12, 4)
            other = int(random.choice([c["id"] for c in document["categories"]]))
            results.append(
                {
                    "image_id": a["image_id"],
                    "category_id": a["category_id"] if random.random() < 0.8 else other,
                    "bbox": [round(v, 2) for v in (x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh))],
                    "score": round(float(random.random()), 2),  # with ties
                }
            )
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(COCO_VAL))
        evaluator = COCOeval(truth, truth.loadRes(str(path)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    ours = read_dataset(COCO_VAL)
    found, notes = read_predictions(path, ours)
    result = evaluate_coco(ours, found)
    assert notes == []
    assert [result.metrics[m] for m in METRICS] == pytest.approx(evaluator.stats.tolist(), abs=1e-9)
    assert result.mean_ap == pytest.approx(evaluator.stats[0], abs=1e-9)
    assert 0.2 < result.mean_ap < 0.9
    # our own kernel gives the same AP a class
    own = np.mean([class_average_precision(m, average_precision_101) for m in result.all_matches], axis=0)
    np.testing.assert_allclose(own, result.ap, rtol=0, atol=1e-9)


def test_our_kernel_matches_as_pycocotools() -> None:
    for seed in range(100):
        truth, found = random_problem(seed)
        crowd = [i % 4 == 3 for i in range(len(truth))]
        data, predictions = ground_truth(truth, NUMBERS, crowd=crowd), predicted(found, NUMBERS)
        result = evaluate_coco(data, predictions)
        own = [class_average_precision(m, average_precision_101) for m in coco_matches(data, predictions)]
        assert len(own) == len(IOUS) and len(own[0]) == CLASSES
        np.testing.assert_allclose(np.mean(own, axis=0), result.ap, rtol=0, atol=1e-9, err_msg=f"seed {seed}")


@st.composite
def crowded(draw: st.DrawFn) -> tuple[list, list, list[bool]]:
    """Objects with crowds of their class around many, before or behind them, and predictions near both."""
    truth, crowd, found = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        picture, label, box = draw(st.sampled_from(NUMBERS[:2])), draw(st.integers(1, 2)), draw(boxes)
        around = tuple(side + step for side, step in zip(box, draw(margins), strict=True))
        pair = [(box, False), (around, True)][: draw(st.integers(1, 2))]
        for sides, is_crowd in draw(st.permutations(pair)):
            truth.append((picture, label, sides))
            crowd.append(is_crowd)
            for _ in range(draw(st.integers(0, 2))):
                near = tuple(side + step for side, step in zip(sides, draw(jitter), strict=True))
                found.append((picture, label, draw(scores), near))
    return truth, draw(st.permutations(found)), crowd


margins = st.tuples(st.integers(-9, 0), st.integers(-9, 0), st.integers(0, 9), st.integers(0, 9))
jitter = st.tuples(*[st.integers(-1, 1)] * 4)


@settings(max_examples=200, deadline=None)
@given(crowded())
def test_our_kernel_matches_as_pycocotools_where_crowds_overlap_objects(problem) -> None:
    truth, found, crowd = problem
    data, predictions = ground_truth(truth, NUMBERS, crowd=crowd), predicted(found, NUMBERS)
    for iou in (0.5, 0.75):
        result = evaluate_coco(data, predictions, (iou,))
        own = class_average_precision(coco_matches(data, predictions, (iou,))[0], average_precision_101)
        np.testing.assert_allclose(own, result.ap, rtol=0, atol=1e-9)


def test_an_object_goes_before_the_crowd_that_holds_it() -> None:
    """The prediction lies wholly in the crowd, listed first, and reaches the object in it with IoU 0.8."""
    truth = ground_truth([(7, 1, (1, 1, 90, 90)), (7, 1, (11, 11, 20, 20))], [7], crowd=[True, False])
    found = predicted([(7, 1, 0.9, (11, 11, 20, 18)), (7, 1, 0.8, (11, 11, 20, 18))], [7])
    matches = coco_matches(truth, found, (0.5,))[0]
    assert matches.outcome.tolist() == [TRUE_POSITIVE, NOT_COUNTED] and matches.taken.tolist() == [1, -1]
    assert evaluate_coco(truth, found).metrics["AP50"] == pytest.approx(1)


def test_the_sizes_are_those_of_the_areas_that_the_data_set_gives() -> None:
    """Boxes of 1,600 and 10,000 pixels around objects of 900 and 5,000: small and medium, the first found."""
    truth = ground_truth([(7, 1, (1, 1, 40, 40)), (7, 1, (101, 1, 200, 100))], [7])
    truth = dataclasses.replace(truth, areas=np.array([900.0, 5000.0]))
    metrics = evaluate_coco(truth, predicted([(7, 1, 0.9, (1, 1, 40, 40))], [7])).metrics
    assert [metrics["APs"], metrics["ARs"]] == pytest.approx([1, 1])
    assert [metrics["APm"], metrics["ARm"]] == [0, 0]
    assert np.isnan([metrics["APl"], metrics["ARl"]]).all()


def test_an_iou_of_one_is_reached_but_for_rounding() -> None:
    truth = ground_truth([(7, 1, (1, 1, 40, 40))], [7])
    for missing, outcome in ((0.0, TRUE_POSITIVE), (5e-11, TRUE_POSITIVE), (2e-10, FALSE_POSITIVE)):
        result = evaluate_coco(truth, predicted([(7, 1, 0.9, (1, 1, 40, 40 * (1 - missing)))], [7]), (1.0,))
        assert result.matches.outcome.tolist() == [outcome]
        assert result.ap[0] == pytest.approx(float(outcome == TRUE_POSITIVE))  # pycocotools'


def test_the_hundred_best_of_a_class_and_picture_count() -> None:
    rows = [(7, 1, 1 - i / 1000, (200.0, 1.0, 230.0, 30.0)) for i in range(100)]
    box = (1.0, 1.0, 40.0, 40.0)
    truth = ground_truth([(7, 1, box)], [7])
    hundred, more = predicted([*rows[:99], (7, 1, 0.1, box)], [7]), predicted([*rows, (7, 1, 0.1, box)], [7])
    assert evaluate_coco(truth, hundred).ap[0] == pytest.approx(0.01)
    assert evaluate_coco(truth, more).ap[0] == 0
    for matches in coco_matches(truth, hundred):
        assert matches.outcome.tolist() == [FALSE_POSITIVE] * 99 + [TRUE_POSITIVE]
    for matches in coco_matches(truth, more):
        assert matches.outcome.tolist() == [FALSE_POSITIVE] * 100 + [NOT_COUNTED]


def test_a_prediction_in_a_crowd_does_not_count() -> None:
    truth = ground_truth([(7, 1, (1, 1, 40, 40)), (7, 1, (100, 1, 200, 100))], [7], crowd=[False, True])
    found = predicted([(7, 1, 0.9, (110, 10, 140, 40)), (7, 1, 0.8, (1, 1, 40, 40))], [7])
    assert evaluate_coco(truth, found).ap[0] == pytest.approx(1)


def test_one_iou_has_no_means_over_several() -> None:
    truth = ground_truth([(7, 1, (1, 1, 40, 40))], [7])
    result = evaluate_coco(truth, predicted([(7, 1, 0.9, (1, 1, 40, 32))], [7]), (0.8,))  # IoU exactly 0.8
    assert result.ap[0] == pytest.approx(1) and result.metrics == {} and len(result.all_matches) == 1
