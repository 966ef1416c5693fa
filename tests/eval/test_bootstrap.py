from __future__ import annotations

import numpy as np
import pytest
from protocol_reference import ilsvrc, voc
from small_problems import CLASSES, NUMBERS, ground_truth, predicted, random_problem

from eval.bootstrap import bootstrap_intervals, interval, picture_weights, resampled_ap, resampled_map
from eval.protocols import evaluate


@pytest.mark.parametrize("protocol", ["ilsvrc", "voc07", "voc10"])
def test_a_resample_is_the_data_set_with_its_pictures_copied(protocol: str) -> None:
    for seed in range(200):
        truth, found = random_problem(seed)
        times = np.random.default_rng(seed).integers(0, 4, 4).tolist()
        # every prediction its own score, so that the order of copies is not a matter of ties with others
        found = [(p, c, 0.9 - i / 100, box) for i, (p, c, _, box) in enumerate(found)]
        data, predictions = ground_truth(truth, NUMBERS), predicted(found, NUMBERS)
        evaluation = evaluate(protocol, data, predictions)
        ap = resampled_ap(evaluation, data, predictions, np.array([times], np.int32))[0]
        copies = [(number, 100 * number + k) for number, n in zip(NUMBERS, times, strict=True) for k in range(n)]
        many_truth = [(new, c, box) for old, new in copies for p, c, box in truth if p == old]
        many_found = [(new, c, s, box) for old, new in copies for p, c, s, box in found if p == old]
        if protocol == "ilsvrc":
            wanted = ilsvrc(many_truth, many_found, set(), CLASSES)
        else:
            year = 2007 if protocol == "voc07" else 2010
            wanted = voc([(*t, False) for t in many_truth], many_found, CLASSES, year)
        np.testing.assert_allclose(ap, wanted, rtol=0, atol=1e-12, err_msg=f"seed {seed}")


@pytest.mark.parametrize("protocol", ["ilsvrc", "voc07", "voc10", "coco"])
def test_every_picture_once_is_the_estimate(protocol: str) -> None:
    once = np.ones((1, len(NUMBERS)), np.int32)
    for seed in range(30):
        truth, found = random_problem(seed)
        data, predictions = ground_truth(truth, NUMBERS), predicted(found, NUMBERS)
        evaluation = evaluate(protocol, data, predictions)
        means = resampled_map(evaluation, data, predictions, once)
        np.testing.assert_allclose(means, [evaluation.mean_ap], atol=1e-9, err_msg=f"seed {seed}")


def test_weights_draw_as_many_pictures_as_there_are() -> None:
    weights = picture_weights(50, 400, seed=1)
    assert weights.shape == (400, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.3)
    assert np.array_equal(weights, picture_weights(50, 400, seed=1))
    assert not np.array_equal(weights, picture_weights(50, 400, seed=2))
    assert picture_weights(0, 3, seed=0).shape == (3, 0)


def test_the_interval_of_a_share_is_that_of_the_normal_distribution() -> None:
    # 400 pictures with one box each, of which a quarter is found by a single perfect prediction: AP is the share found.
    random = np.random.default_rng(0)
    numbers = list(range(1, 401))
    rows = [(n, 1, (1.0, 1.0, 40.0, 40.0)) for n in numbers]
    hits = random.permutation(numbers)[:100].tolist()
    found = predicted([(n, 1, 0.5, (1.0, 1.0, 40.0, 40.0)) for n in hits], numbers)
    data = ground_truth(rows, numbers)
    result = bootstrap_intervals(evaluate("ilsvrc", data, found), data, found, 2000, seed=3)
    spread = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert result.mean == pytest.approx((0.25 - spread, 0.25 + spread), abs=0.005)
    assert result.per_class[0] == pytest.approx(result.mean)
    assert np.isnan(result.per_class[1:]).all()


def test_a_class_in_one_picture_has_no_interval() -> None:
    data = ground_truth([(7, 1, (1, 1, 40, 40)), (7, 2, (1, 1, 40, 40)), (3, 2, (1, 1, 40, 40))], NUMBERS)
    found = predicted([(7, 1, 0.9, (1, 1, 40, 40)), (7, 2, 0.9, (1, 1, 40, 40))], NUMBERS)
    result = bootstrap_intervals(evaluate("ilsvrc", data, found), data, found, 200)
    assert np.isnan(result.per_class[0]).all() and np.isfinite(result.per_class[1]).all()


def test_interval_holds_the_estimate_and_leaves_out_nan() -> None:
    values = np.array([0.1, 0.2, 0.3, np.nan])
    low, high = interval(values, 0.5)
    assert low == pytest.approx(0.5 - 0.095) and high == pytest.approx(0.5 + 0.095)
    assert all(np.isnan(interval(np.array([np.nan]), 0.5)))
    assert all(np.isnan(interval(values, float("nan"))))


def test_nothing_to_resample() -> None:
    data, found = ground_truth([], NUMBERS), predicted([], NUMBERS)
    result = bootstrap_intervals(evaluate("ilsvrc", data, found), data, found, 10)
    assert all(np.isnan(result.mean)) and np.isnan(result.per_class).all()
