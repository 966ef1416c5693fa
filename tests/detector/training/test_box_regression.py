"""Box regression against scikit-learn's ridge, R-CNN's whitening taken literally, and values worked by hand."""

from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from detector.datasets.class_maps import AMBIGUOUS
from detector.training.box_regression import (
    BoxRegressor,
    PairSample,
    fit_ridge,
    predicted_targets,
    regression_pairs,
    train_box_regressor,
)
from detector.training.options import BboxOptions
from detector.training.picture_features import PictureFeatures
from proposals.box_coding import apply_targets, box_targets
from proposals.boxes import as_boxes

bbox_options = partial(BboxOptions, data=("samples",))


def drawn(seed, length=6, regions=20, classes=2) -> PictureFeatures:
    """A picture with one large object of each class, far apart, and proposals shaken around them."""
    generator = np.random.default_rng(seed)
    truth = as_boxes([[1000 * c, 0, 1000 * c + 100, 80] for c in range(classes)])
    shaken = truth[generator.integers(0, classes, regions)] + generator.normal(0, 4, (regions, 4))
    labels = np.arange(1, classes + 1)
    features = generator.normal(0, 1, (classes + regions, length)) + 0.5
    return PictureFeatures(
        features,
        np.concatenate([truth, shaken]),
        np.concatenate([labels, np.zeros(regions, np.int64)]),
        truth,
        labels,
        np.ones(classes, np.bool_),
    )


def ridge_by_sklearn(features, targets, ridge):
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    mean = targets.mean(axis=0)
    answer = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky").fit(inputs, targets - mean).coef_  # [4, D + 1]
    return answer[:, :-1], answer[:, -1] + mean


def ridge_by_rcnn(features, targets, ridge):
    """rcnn_train_bbox_regressor.m and rcnn_predict_bbox_regressor.m, line by line: [K, 4] predicted."""
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    mean = targets.mean(axis=0)
    centred = targets - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(targets))
    there = vectors @ np.diag(1 / np.sqrt(values + 0.001)) @ vectors.T
    back = vectors @ np.diag(np.sqrt(values + 0.001)) @ vectors.T
    beta = np.linalg.inv(inputs.T @ inputs + ridge * np.eye(inputs.shape[1])) @ inputs.T @ (centred @ there)
    return inputs @ beta @ back + mean


def test_ridge_by_hand():
    # [X 1]^T [X 1] = 2 I; centred tx +-1 gives X^T Y = 2: with ridge 2, the slope is 2 / (2 + 2). The mean stays whole.
    features = np.array([[1], [-1]], np.float32)
    targets = np.array([[4, 0, 7, 0], [2, 0, 7, 0]], np.float32)
    weights, bias = fit_ridge(features, targets, ridge=2)
    np.testing.assert_allclose(weights, [[0.5, 0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(bias, [3, 0, 7, 0], atol=1e-12)


def test_bias_is_regularised_by_hand():
    # X = 1, 1, 4, centred Y = -1, -1, 2: the bias b solves 18 w + 6 b + r w = 6, 6 w + 3 b + r b = 0; r = 6:
    # b = -2 w / 3, 24 w - 4 w = 6, w = 0.3, b = -0.2. An unregularised bias would be -2 w.
    weights, bias = fit_ridge(
        np.array([[1], [1], [4]], np.float32), np.array([[-1], [-1], [2]], np.float32) * np.ones(4, np.float32), 6
    )
    np.testing.assert_allclose(weights, [[0.3] * 4], rtol=1e-12)
    np.testing.assert_allclose(bias, [-0.2] * 4, rtol=1e-12)


@pytest.mark.parametrize("pairs", [3, 12, 13, 60])  # fewer, as many and more than the 13 numbers of a region
def test_ridge_equals_sklearn_and_rcnn(pairs):
    generator = np.random.default_rng(pairs)
    features, targets = generator.normal(1, 3, (pairs, 12)), generator.normal(0.3, 0.2, (pairs, 4))
    weights, bias = fit_ridge(features, targets, 10)
    expected_weights, expected_bias = ridge_by_sklearn(features, targets, 10)
    np.testing.assert_allclose(weights.T, expected_weights, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-8)
    np.testing.assert_allclose(features @ weights + bias, ridge_by_rcnn(features, targets, 10), rtol=1e-7, atol=1e-10)


def test_pairs_by_hand():
    boxes = [
        [0, 0, 10, 10],  # the object of class 2
        [5, 0, 15, 10],  # the object of class 1
        [0, 0, 10, 8],  # 0.8 with class 2, 0.29 with class 1
        [0, 0, 10, 6],  # exactly 0.6: not above
        [100, 0, 110, 9],  # 0.9 with the ambiguous object
        [50, 50, 60, 60],
    ]
    one = PictureFeatures(
        np.zeros((6, 2)),
        boxes,
        [2, 1, 0, 0, 0, 0],
        [[100, 0, 110, 10], boxes[0], boxes[1]],
        [AMBIGUOUS, 2, 1],
        [True, False],  # what is known has no say here
    )
    rows, labels, targets = regression_pairs(one, 0.6)
    assert rows.tolist() == [0, 1, 2]
    assert labels.tolist() == [2, 1, 2]
    np.testing.assert_allclose(targets, [[0] * 4, [0] * 4, [0, 0.125, 0, np.log(10 / 8)]], rtol=1e-6)


@pytest.mark.parametrize("length", [6, 300])  # more pairs than features, and fewer
def test_training_equals_sklearn_on_all_pairs(length):
    pictures = [drawn(seed, length) for seed in range(5)]
    found = train_box_regressor(pictures, 2, bbox_options())
    features = np.concatenate([p.features for p in pictures]).astype(np.float64)
    scale = 20 / np.linalg.norm(features, axis=1).mean()
    for label in (1, 2):
        inputs, targets = [], []
        for p in pictures:
            near = (p.boxes[:, 0] > 500) == (label == 2)  # every region is close to the object of its side
            inputs.append(p.features[near])
            targets.append(box_targets(p.boxes[near], np.repeat(p.truth_boxes[[label - 1]], near.sum(), axis=0)))
        weights, bias = ridge_by_sklearn(np.concatenate(inputs) * scale, np.concatenate(targets), 1000)
        np.testing.assert_allclose(found.weights[label - 1], weights * scale, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(found.bias[label - 1], bias, rtol=1e-3, atol=1e-6)
    assert found.weights.dtype == found.bias.dtype == np.float32


def test_scale_is_folded_in():
    small = drawn(0, regions=60)
    large = PictureFeatures(
        small.features * np.float32(8), small.boxes, small.labels, small.truth_boxes, small.truth_labels, small.known
    )
    one = train_box_regressor([small], 2, bbox_options())
    other = train_box_regressor([large], 2, bbox_options())
    np.testing.assert_allclose(other.weights * 8, one.weights, rtol=1e-4, atol=1e-7)
    assert np.abs(one.weights).max() > 1e-3


def test_features_that_tell_the_targets_lead_to_the_truth():
    one = drawn(3, regions=60)
    rows, labels, targets = regression_pairs(one, 0.6)
    features = np.zeros((len(one), 4), np.float32)
    features[rows] = targets
    telling = PictureFeatures(features, one.boxes, one.labels, one.truth_boxes, one.truth_labels, one.known)
    regressor = train_box_regressor([telling], 2, bbox_options(ridge=1e-6))
    moves = predicted_targets(regressor, features)[rows, labels - 1]
    np.testing.assert_allclose(apply_targets(one.boxes[rows], moves), one.truth_boxes[labels - 1], atol=0.01)
    assert np.abs(one.boxes[rows] - one.truth_boxes[labels - 1]).max() > 5


def test_predictions_by_hand():
    weights = np.zeros((2, 4, 3), np.float32)
    weights[0, 1] = [1, 2, 3]
    weights[1, 3] = [0, 0, 5]
    regressor = BoxRegressor(weights, np.array([[0, 1, 0, 0], [7, 0, 0, 0]], np.float32))
    found = predicted_targets(regressor, np.array([[1, 1, 1], [0, 0, 2]], np.float32))
    assert found.tolist() == [[[0, 7, 0, 0], [7, 0, 0, 5]], [[0, 7, 0, 0], [7, 0, 0, 10]]]
    assert predicted_targets(regressor, np.zeros((0, 3), np.float32)).shape == (0, 2, 4)


def test_a_class_with_too_few_pairs_moves_nothing():
    one = drawn(0, regions=30)  # of each class about 16 pairs, the object included
    counts = np.bincount(regression_pairs(one, 0.6)[1], minlength=3)[1:]
    least = int(counts.max())
    assert counts.min() < least
    found = train_box_regressor([one], 2, bbox_options(min_pairs=least))
    assert found.weights.any(axis=(1, 2)).tolist() == (counts == least).tolist()
    assert found.bias.any(axis=1).tolist() == (counts == least).tolist()


def test_sample_keeps_all_up_to_the_limit_in_order():
    sample = PairSample(5, np.random.default_rng(0))
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    sample.add(rows[:2], np.zeros((2, 4), np.float32))
    sample.add(rows[2:], np.ones((3, 4), np.float32))
    features, targets = sample.pairs()
    assert features.tolist() == rows.tolist()
    assert targets[:, 0].tolist() == [0, 0, 1, 1, 1]


def test_sample_gives_every_pair_the_same_chance():
    counts = np.zeros(6)
    for seed in range(3000):
        sample = PairSample(2, np.random.default_rng(seed))
        for part in np.split(np.arange(6, dtype=np.float32)[:, None], [1, 4]):
            sample.add(part, np.repeat(part, 4, axis=1))
        features, targets = sample.pairs()
        assert features.shape == (2, 1)
        assert (features == targets).all()  # a pair stays together
        counts[features[:, 0].astype(int)] += 1
    np.testing.assert_allclose(counts / 3000, 2 / 6, atol=0.04)  # more than four standard deviations


def test_a_sample_stands_for_all():
    pictures = [drawn(seed, regions=60) for seed in range(6)]
    options = {"ridge": 1.0, "min_pairs": 1}
    whole = train_box_regressor(pictures, 2, bbox_options(**options))
    part = train_box_regressor(pictures, 2, bbox_options(max_pairs=100, **options))
    again = train_box_regressor(lambda: iter(pictures), 2, bbox_options(max_pairs=100, **options))
    other = train_box_regressor(pictures, 2, bbox_options(max_pairs=100, seed=1, **options))
    assert part.weights.tobytes() == again.weights.tobytes()
    assert part.weights.tobytes() != other.weights.tobytes()
    assert part.weights.tobytes() != whole.weights.tobytes()
    np.testing.assert_allclose(part.bias, whole.bias, atol=0.03)


def test_without_regions_or_objects():
    nothing = PictureFeatures(np.zeros((0, 3)), [], [], [], [], [True, True])
    steps: list[int] = []
    found = train_box_regressor([nothing, nothing], 2, bbox_options(), steps.append)
    assert found.weights.shape == (2, 4, 3)
    assert not found.weights.any()
    assert not found.bias.any()
    assert steps == [1, 1]
    alone = PictureFeatures(np.ones((1, 3)), [[0, 0, 9, 9]], [0], [], [], [True])
    assert [len(part) for part in regression_pairs(alone, 0.6)] == [0, 0, 0]
    with pytest.raises(ValueError, match="no picture"):
        train_box_regressor([], 2, bbox_options())


@pytest.mark.parametrize(
    "values", [{"ridge": 0}, {"min_overlap": 1}, {"min_pairs": 0}, {"min_pairs": 9, "max_pairs": 8}]
)
def test_options_out_of_range(values):
    with pytest.raises(ValueError, match="must"):
        bbox_options(**values)
