from __future__ import annotations

import numpy as np
import pytest
from protocol_reference import ilsvrc, voc
from small_problems import CLASSES, NUMBERS, ground_truth, predicted, random_problem

from eval.protocols import evaluate
from eval.protocols.average_precision import average_precision, average_precision_11, average_precision_101, envelope
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE
from eval.protocols.ilsvrc import box_thresholds, evaluate_ilsvrc
from eval.protocols.voc import evaluate_voc


def test_ilsvrc_is_the_literal_reading() -> None:
    for seed in range(1000):
        truth, found = random_problem(seed)
        random = np.random.default_rng(seed)
        blacklist = {(NUMBERS[i], c) for i in range(4) for c in range(1, CLASSES + 1) if random.random() < 0.1}
        result = evaluate_ilsvrc(ground_truth(truth, NUMBERS, blacklist=list(blacklist)), predicted(found, NUMBERS))
        wanted = ilsvrc(truth, found, blacklist, CLASSES)
        np.testing.assert_allclose(result.ap, wanted, rtol=0, atol=1e-12, err_msg=f"seed {seed}")


@pytest.mark.parametrize("year", [2007, 2010])
def test_voc_is_the_literal_reading(year: int) -> None:
    for seed in range(1000):
        truth, found = random_problem(seed)
        difficult = (np.random.default_rng(seed).random(len(truth)) < 0.3).tolist()
        result = evaluate_voc(ground_truth(truth, NUMBERS, difficult), predicted(found, NUMBERS), year)
        # objects of one picture and class keep their order; those of other pictures cannot meet
        wanted = voc([(*t, d) for t, d in zip(truth, difficult, strict=True)], found, CLASSES, year)
        np.testing.assert_allclose(result.ap, wanted, rtol=0, atol=1e-12, err_msg=f"seed {seed}")


def test_ilsvrc_by_hand() -> None:
    # Two cats in picture 1. Falling scores: hit (1/1), duplicate of it (false), hit (2/3), background (false).
    truth = ground_truth([(1, 1, (1, 1, 40, 40)), (1, 1, (61, 1, 100, 40))], [1])
    found = predicted(
        [
            (1, 1, 0.9, (1, 1, 40, 40)),
            (1, 1, 0.8, (1, 1, 40, 40)),
            (1, 1, 0.7, (61, 1, 100, 36)),
            (1, 1, 0.6, (200, 200, 240, 240)),
        ],
        [1],
    )
    result = evaluate_ilsvrc(truth, found)
    assert result.matches.outcome.tolist() == [TRUE_POSITIVE, FALSE_POSITIVE, TRUE_POSITIVE, FALSE_POSITIVE]
    assert result.matches.taken.tolist() == [0, -1, 1, -1]
    assert result.ap[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert np.isnan(result.ap[1:]).all()
    assert result.mean_ap == result.median_ap == result.ap[0]
    assert result.mean_ap_all == pytest.approx(result.ap[0] / 3)


def test_a_taken_box_leaves_the_next_best_in_ilsvrc_and_not_in_voc() -> None:
    # The second prediction overlaps box A (taken) by 1.0 and box B by 80/120 = 2/3.
    rows = [(1, 1, (1.0, 1.0, 100.0, 10.0)), (1, 1, (21.0, 1.0, 120.0, 10.0))]
    found = predicted([(1, 1, 0.9, (1, 1, 100, 10)), (1, 1, 0.8, (1, 1, 100, 10))], [1])
    assert evaluate_ilsvrc(ground_truth(rows, [1]), found).ap[0] == 1
    assert evaluate_voc(ground_truth(rows, [1]), found).ap[0] == 0.5


def test_small_boxes_are_forgiven_ten_pixels() -> None:
    truth = ground_truth([(1, 1, (1, 1, 10, 10)), (1, 2, (1, 1, 100, 100))], [1])
    assert box_thresholds(truth).tolist() == [0.25, 0.5]  # 100 / 400; 10000 / 12100 is above one half
    quarter = predicted([(1, 1, 0.9, (1, 1, 20, 20)), (1, 2, 0.9, (1, 1, 100, 49))], [1])  # IoU 0.25 and 0.49
    assert evaluate_ilsvrc(truth, quarter).ap[:2].tolist() == [1, 0]
    assert evaluate_voc(truth, quarter).ap[:2].tolist() == [0, 0]


def test_an_iou_of_exactly_the_threshold_is_enough() -> None:
    truth = ground_truth([(1, 1, (1, 1, 100, 100))], [1])
    half = predicted([(1, 1, 0.9, (1, 1, 100, 50))], [1])
    assert evaluate_ilsvrc(truth, half).ap[0] == 1
    assert evaluate_voc(truth, half).ap[0] == 1
    assert evaluate("coco", truth, half, 0.5).ap[0] == pytest.approx(1)
    assert evaluate_ilsvrc(truth, half, 0.51).ap[0] == 0


def test_ties_stand_in_the_order_of_the_numbers_of_the_pictures() -> None:
    # Picture 2 comes first in the data set; its number is the higher, so picture 1's miss stands before its hit.
    truth = ground_truth([(2, 1, (1, 1, 40, 40))], [2, 1])
    found = predicted([(2, 1, 0.5, (1, 1, 40, 40)), (1, 1, 0.5, (1, 1, 40, 40))], [2, 1])
    assert evaluate_ilsvrc(truth, found).ap[0] == 0.5
    assert evaluate_voc(truth, found).ap[0] == 1  # the order of the predictions


def test_blacklisted_pairs_count_neither_way() -> None:
    rows = [(1, 1, (1.0, 1.0, 40.0, 40.0)), (2, 1, (1.0, 1.0, 40.0, 40.0))]
    found = predicted([(1, 1, 0.9, (200, 1, 240, 40)), (2, 1, 0.8, (1, 1, 40, 40))], [1, 2])
    with_list = evaluate_ilsvrc(ground_truth(rows, [1, 2], blacklist=[(1, 1)]), found)
    assert with_list.matches.outcome.tolist() == [NOT_COUNTED, TRUE_POSITIVE]
    assert with_list.matches.counted.tolist() == [False, True]
    assert with_list.ap[0] == 1
    assert evaluate_ilsvrc(ground_truth(rows, [1, 2]), found).ap[0] == pytest.approx(0.5 * 0.5)


def test_a_crowd_counts_neither_way_and_leaves_what_counts() -> None:
    crowded = ground_truth([(1, 1, (1, 1, 100, 100)), (1, 1, (1, 1, 40, 40))], [1], crowd=[True, False])
    found = predicted([(1, 1, 0.9, (1, 1, 100, 90)), (1, 1, 0.8, (1, 1, 100, 99)), (1, 1, 0.7, (1, 1, 40, 40))], [1])
    for protocol in ("ilsvrc", "voc10"):
        result = evaluate(protocol, crowded, found)
        assert result.matches.outcome.tolist() == [NOT_COUNTED, NOT_COUNTED, TRUE_POSITIVE]
        assert result.matches.counted.tolist() == [False, True] and result.ap[0] == 1


def test_a_curve_by_name_and_by_label() -> None:
    truth = ground_truth([(1, 2, (1, 1, 40, 40)), (1, 2, (50, 50, 90, 90))], [1])
    found = predicted([(1, 2, 0.9, (1, 1, 40, 40)), (1, 2, 0.8, (1, 1, 40, 40))], [1])
    result = evaluate_ilsvrc(truth, found)
    recall, precision = result.curve("dog")
    assert recall.tolist() == [0.5, 0.5] and precision.tolist() == [1, 0.5]
    assert np.array_equal(result.curve(2)[0], recall)
    for wrong in ("dgo", 0, 4):
        with pytest.raises(ValueError, match="unknown class"):
            result.curve(wrong)
    assert repr(result) == "Evaluation(ilsvrc, 1 classes with ground truth, mAP 0.5000)"


def test_an_inverted_box_is_a_false_positive() -> None:
    truth = ground_truth([(1, 1, (1, 1, 40, 40))], [1])
    found = predicted([(1, 1, 0.9, (40, 1, 1, 40)), (1, 1, 0.8, (1, 1, 40, 40))], [1])
    for protocol in ("ilsvrc", "voc07", "voc10", "coco"):
        assert evaluate(protocol, truth, found).matches.outcome.tolist()[1] == TRUE_POSITIVE
    assert evaluate_ilsvrc(truth, found).ap[0] == 0.5


@pytest.mark.parametrize("protocol", ["ilsvrc", "voc07", "voc10", "coco"])
def test_nothing_to_score(protocol: str) -> None:
    nothing = predicted([], [1])
    empty = evaluate(protocol, ground_truth([], [1]), nothing)
    assert np.isnan(empty.mean_ap) and np.isnan(empty.median_ap) and empty.mean_ap_all == 0
    assert len(empty.present) == 0
    without = evaluate(protocol, ground_truth([(1, 2, (1, 1, 9, 9))], [1]), nothing)
    assert without.mean_ap == 0 and without.present.tolist() == [2]
    only = evaluate(protocol, ground_truth([], [1]), predicted([(1, 1, 0.9, (1, 1, 9, 9))], [1]))
    assert np.isnan(only.ap).all()


def test_average_precision_by_hand() -> None:
    hits = np.array([True, False, True, False, False, True])
    assert envelope(hits).tolist() == [1, 2 / 3, 0.5]
    assert average_precision(hits, 4) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    # recall 0 .. 0.2 at the first hit (1/4), 0.3 .. 0.5 at the second (2/4), 0.6, 0.7 at the third (3/4), then none
    assert average_precision_11(hits, 4) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 0.5) / 11)
    # recalls 0 .. 0.25: 26 points, .26 .. .50: 25, .51 .. .75: 25
    assert average_precision_101(hits, 4) == pytest.approx((26 + 25 * 2 / 3 + 25 * 0.5) / 101)
    for measure in (average_precision, average_precision_11, average_precision_101):
        assert np.isnan(measure(hits, 0))
        assert measure(np.zeros(0, bool), 3) == 0
        assert measure(np.zeros(5, bool), 3) == 0
        assert measure(np.ones(3, bool), 3) == pytest.approx(1)


def test_recall_of_exactly_three_tenths_is_reached() -> None:
    # 3 of 10: in floating point 3 * 0.1 is above 0.3
    assert average_precision_11(np.ones(3, bool), 10) == pytest.approx(4 / 11)


def test_unknown_protocol_and_threshold() -> None:
    truth, found = ground_truth([], [1]), predicted([], [1])
    with pytest.raises(ValueError, match="unknown protocol 'voc08'; choose one of ilsvrc, voc07, voc10, coco"):
        evaluate("voc08", truth, found)
    for iou in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="IoU threshold must lie above 0"):
            evaluate("ilsvrc", truth, found, iou)
    with pytest.raises(ValueError, match="2007 or of 2010"):
        evaluate_voc(truth, found, 2012)
