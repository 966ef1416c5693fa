"""Assignments against all possible ones, for the distances of the priors and for the whole loss."""

from itertools import permutations

import numpy as np
import pytest

from proposals.boxes import as_boxes
from proposals.multibox.coding import encode
from proposals.multibox.matching import match_full_cost, match_to_priors

SIZES = [(4, 2), (3, 3), (2, 4), (5, 1), (1, 3), (5, 4)]


def random_boxes(generator, count):
    return as_boxes(np.sort(generator.random((count, 2, 2)), axis=1).reshape(-1, 4))


def all_assignments(priors: int, truth: int):
    """Every set of min(priors, truth) pairs in which none occurs twice."""
    if truth <= priors:
        for chosen in permutations(range(priors), truth):
            yield list(zip(chosen, range(truth), strict=True))
    else:
        for chosen in permutations(range(truth), priors):
            yield list(zip(range(priors), chosen, strict=True))


def literal_loss(pairs, locations, logits, priors, truth, alpha, negatives):
    """F of one picture, term by term."""
    confidence = 1 / (1 + np.exp(-logits.astype(np.float64)))
    matched = {prior for prior, _ in pairs}
    total = 0.0
    for prior, box in pairs:
        difference = locations[prior].astype(np.float64) - encode(truth[box], priors[prior])
        total += alpha / 2 * (difference**2).sum() - np.log(confidence[prior])
    return total - sum(np.log(1 - confidence[i]) for i in range(len(priors)) if i not in matched and negatives[i])


def pairs_of(match):
    assert match.priors.dtype == match.truth.dtype == np.int64
    return list(zip(match.priors.tolist(), match.truth.tolist(), strict=True))


@pytest.mark.parametrize(("priors", "truth"), SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_priors_against_all_assignments(priors, truth, seed):
    generator = np.random.default_rng(seed)
    known, boxes = random_boxes(generator, priors), random_boxes(generator, truth)
    best = min(
        all_assignments(priors, truth),
        key=lambda pairs: sum(((known[i].astype(np.float64) - boxes[j]) ** 2).sum() for i, j in pairs),
    )
    assert pairs_of(match_to_priors(known, boxes)) == sorted(best)


@pytest.mark.parametrize(("priors", "truth"), SIZES)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("partly", [False, True])
def test_full_cost_against_all_assignments(priors, truth, seed, partly):
    generator = np.random.default_rng(seed)
    known, boxes = random_boxes(generator, priors), random_boxes(generator, truth)
    locations, logits = generator.normal(0, 2, (priors, 4)), generator.normal(0, 3, priors)
    negatives = generator.random(priors) < 0.5 if partly else np.ones(priors, np.bool_)
    alpha = 0.5  # small, so that the confidences count
    best = min(
        all_assignments(priors, truth),
        key=lambda pairs: literal_loss(pairs, locations, logits, known, boxes, alpha, negatives),
    )
    found = match_full_cost(locations, logits, known, boxes, alpha, negatives if partly else None)
    assert pairs_of(found) == sorted(best)


def test_distance_and_confidence_decide_by_hand():
    """Two priors, one box on the first: distance 0.5 * 30 * 1 = 15 against logits 0 and z; z = 14 no, z = 16 yes."""
    priors = as_boxes([[0.1, 0.1, 0.5, 0.5], [0.2, 0.1, 0.5, 0.5]])
    truth, nothing = priors[:1], np.zeros((2, 4), np.float32)
    assert pairs_of(match_full_cost(nothing, np.array([0, 14.0]), priors, truth)) == [(0, 0)]
    assert pairs_of(match_full_cost(nothing, np.array([0, 16.0]), priors, truth)) == [(1, 0)]
    assert pairs_of(match_to_priors(priors, truth)) == [(0, 0)]
    # of priors that are no negatives a high confidence gains no more than log 2
    neither = np.zeros(2, np.bool_)
    assert pairs_of(match_full_cost(nothing, np.array([0, 16.0]), priors, truth, negatives=neither)) == [(0, 0)]


def test_predicted_boxes_decide_not_priors():
    priors = as_boxes([[0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]])
    exchanged = encode(priors[::-1], priors)
    assert pairs_of(match_full_cost(exchanged, np.zeros(2), priors, priors[:1])) == [(1, 0)]


def test_extreme_logits_stay_finite():
    priors = as_boxes([[0, 0, 0.5, 0.5]] * 3)
    locations = np.zeros((3, 4))
    with np.errstate(all="raise", under="ignore"):
        for negatives in (None, np.array([True, False, False])):
            logits = np.array([-900.0, -899.0, -901.0])
            found = match_full_cost(locations, logits, priors, priors[:1], negatives=negatives)
            assert pairs_of(found) == [(1, 0)]


def test_no_ground_truth_and_no_area():
    priors = as_boxes([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    assert pairs_of(match_to_priors(priors, as_boxes([]))) == []
    assert pairs_of(match_full_cost(np.zeros((2, 4)), np.zeros(2), priors, as_boxes([]))) == []
    assert pairs_of(match_to_priors(priors, as_boxes([[0.9, 0.9, 0.9, 0.9]]))) == [(1, 0)]


def test_equal_costs_give_each_prior_one_box():
    same = as_boxes([[0, 0, 0.5, 0.5]] * 3)
    match = match_to_priors(same, same)
    assert sorted(match.priors) == sorted(match.truth) == [0, 1, 2]


def test_refuses():
    priors = as_boxes([[0, 0, 0.5, 0.5]])
    with pytest.raises(ValueError, match="1 priors need locations"):
        match_full_cost(np.zeros((2, 4)), np.zeros(2), priors, priors)
    with pytest.raises(ValueError, match="not a finite number"):
        match_full_cost(np.zeros((1, 4)), np.array([np.nan]), priors, priors)
