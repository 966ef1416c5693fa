"""SVMs against the solver on all examples at once, box regression against R-CNN's Matlab code, and values by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from detector.datasets.class_maps import AMBIGUOUS
from detector.training.heads import (
    NEVER,
    Examples,
    Mining,
    Picture,
    Svms,
    fit_ridge,
    negatives,
    regression_pairs,
    train_box_regression,
    train_svms,
)
from detector.training.options import BboxOptions, SvmOptions
from proposals.boxes import apply_deltas, as_boxes, box_targets

svm_options = partial(SvmOptions, data=("samples",))
bbox_options = partial(BboxOptions, data=("samples",), shared_below=0)

DEFAULTS = svm_options()
KEEP_ALL = svm_options(hard=-1e6, easy=-1e6)  # every negative comes in, and none leaves
CENTRES = np.array([[14, 14, 2, 2, 2, 2], [2, 2, 14, 14, 2, 2], [2, 2, 2, 2, 14, 14]], np.float32)  # background last

Made = tuple[np.ndarray, Picture]


def made(features, boxes, labels, truth_boxes, truth_labels, known) -> Made:
    picture = Picture(
        slice(0, len(labels)),
        as_boxes(boxes),
        np.array(labels, np.int64),
        as_boxes(truth_boxes),
        np.array(truth_labels, np.int64),
        np.array(known, np.bool_),
    )
    return np.asarray(features, np.float32), picture


def together(*pictures: Made, scale: float = 1.0) -> Examples:
    """Examples of these pictures, one after the other."""
    starts = np.cumsum([0, *(len(features) for features, _ in pictures)]).tolist()
    moved = [
        Picture(slice(start, start + len(p.labels)), p.boxes, p.labels, p.truth_boxes, p.truth_labels, p.known)
        for start, (_, p) in zip(starts, pictures, strict=False)
    ]
    features = np.concatenate([features for features, _ in pictures]) * np.float32(scale)
    return Examples(features, moved, len(pictures[0][1].known))


def separate(features, labels, known=(True, True)) -> Made:
    """A picture whose regions do not overlap."""
    left = 20 * np.arange(len(labels))
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    truth = np.array(labels) > 0
    return made(features, boxes, labels, boxes[truth], np.array(labels)[truth], known)


def two_classes(seed, background, known=(True, True), spread=4.0) -> Made:
    """A picture with two objects of each of two classes, and proposals of the background; features of norm 20."""
    labels = [1, 1, 2, 2] + [0] * background
    centres = CENTRES[[label - 1 for label in labels]]
    features = centres + np.random.default_rng(seed).normal(0, spread, centres.shape)
    return separate(20 * features / np.linalg.norm(features, axis=1, keepdims=True), labels, known)


def of_class(pictures, label):
    """The features of a class's objects, and of everything else."""
    features = np.concatenate([features for features, _ in pictures])
    labels = np.concatenate([picture.labels for _, picture in pictures])
    return features[labels == label], features[labels != label]


def solved(positives, others, o=DEFAULTS):
    """The SVM between all examples at once."""
    solver = LinearSVC(
        loss="hinge",
        C=o.c,
        class_weight={1: o.positive_weight},
        intercept_scaling=o.bias,
        dual=True,
        tol=o.tolerance,
        max_iter=o.max_iterations,
        random_state=o.seed,
    )
    solver.fit(np.concatenate([positives, others]), [1] * len(positives) + [-1] * len(others))
    return solver.coef_[0], solver.intercept_[0]


def margins(svms: Svms, features):
    return features @ svms.weights.T + svms.bias


def test_svm_of_one_dimension_by_hand():
    # two positives at 30, two negatives at 10: mean norm 20, scale 1. With a large C the margin is hard. The bias is
    # the weight b' of a feature 10: min w^2 + b'^2 with 30 w + 10 b' = 1, 10 w + 10 b' = -1 gives w = 0.1, b' = -0.2.
    examples = together(separate(np.array([[30], [30], [10], [10]]), [1, 1, 0, 0], [True]))
    found = train_svms(examples, svm_options(c=1e3, max_iterations=100_000))
    np.testing.assert_allclose([found.weights[0, 0], found.bias[0]], [0.1, -2], rtol=1e-3)


@pytest.mark.parametrize(("count", "o"), [(1, DEFAULTS), (4, KEEP_ALL)])
def test_svms_that_see_everything_equal_the_solver_on_everything(count: int, o: SvmOptions):
    pictures = [two_classes(seed, 30) for seed in range(count)]
    found = train_svms(together(*pictures), o)
    for label in (1, 2):
        weights, bias = solved(*of_class(pictures, label))
        np.testing.assert_allclose(found.weights[label - 1], weights, rtol=2e-3, atol=2e-5)
        np.testing.assert_allclose(found.bias[label - 1], bias, rtol=2e-3)
    assert found.weights.dtype == found.bias.dtype == np.float32 and found.trained.all()


def objective(weights, bias, positives, others, o):
    """liblinear's: the bias is the weight of the constant feature 10."""
    loss = o.positive_weight * np.maximum(0, 1 - positives @ weights - bias).sum()
    loss += np.maximum(0, 1 + others @ weights + bias).sum()
    return (weights @ weights + (bias / o.bias) ** 2) / 2 + o.c * loss


@pytest.mark.parametrize("retrain_after", [0, 20, 2000])
def test_hard_negatives_alone_lead_to_the_same_solution(retrain_after: int):
    o = svm_options(c=1e-2, retrain_after=retrain_after, max_iterations=100_000)
    pictures = [two_classes(seed, 40, spread=5) for seed in range(12)]
    svms = train_svms(together(*pictures), o)
    for label in (1, 2):
        positives, others = of_class(pictures, label)
        weights, bias = solved(positives, others, o)
        best = objective(weights, bias, positives, others, o)
        found = objective(svms.weights[label - 1], svms.bias[label - 1], positives, others, o)
        assert best * 0.999 <= found <= best * 1.01
        assert objective(0 * weights, 0, positives, others, o) > best * 2  # the bound says something
        np.testing.assert_allclose(svms.weights[label - 1], weights, atol=0.05 * np.abs(weights).max())


def test_the_scale_is_folded_into_both_heads():
    one = two_classes(0, 30)
    small, large = (train_svms(together(one, scale=scale), svm_options()) for scale in (1, 8))
    np.testing.assert_allclose(large.weights * 8, small.weights, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(margins(large, 8 * one[0]), margins(small, one[0]), rtol=1e-3, atol=1e-4)
    moved = shaken(0, regions=60)
    a, b = (train_box_regression(together(moved, scale=scale), bbox_options()) for scale in (1, 8))
    np.testing.assert_allclose(b.weights * 8, a.weights, rtol=1e-4, atol=1e-7)
    assert np.abs(a.weights).max() > 1e-3
    by_hand = together(separate([[3, 4], [0, 0], [6, 8], [0, 1], [4, 0]], [0] * 5))
    assert by_hand.scale(20) == 5  # mean norm 4
    assert together(separate(np.zeros((2, 2)), [0, 0])).scale(20) == 1
    with pytest.raises(ValueError, match="features of picture 1 are not finite"):
        together(one, separate(np.full((1, 6), np.inf), [0])).scale(20)


def test_a_picture_that_does_not_know_a_class_gives_it_no_negatives():
    first, second = two_classes(1, 20), two_classes(2, 20, spread=9)
    blind = two_classes(2, 20, (True, False), spread=9)
    objects = separate(second[0][:4], [1, 1, 2, 2], (True, False))  # the second one's positives alone
    masked, without, knowing = (train_svms(together(first, p), KEEP_ALL) for p in (blind, objects, second))
    np.testing.assert_allclose(masked.weights[1], without.weights[1], rtol=1e-4, atol=1e-6)
    assert np.abs(masked.weights[1] - knowing.weights[1]).max() > 1e-3
    np.testing.assert_allclose(masked.weights[0], knowing.weights[0], rtol=1e-4, atol=1e-6)  # its own class is known


def test_negatives_by_hand():
    boxes = [
        [0, 0, 10, 10],  # the object of class 1: a negative of class 2
        [0, 0, 3, 10],  # IoU exactly 0.3 with it: no negative of class 1
        [0, 0, 2, 10],  # 0.2
        [50, 0, 60, 10],  # far from all
        [90, 0, 100, 5],  # 0.5 with an ambiguous object: of no class
    ]
    truth = [boxes[0], [90, 0, 100, 10]]
    _, one = made(np.zeros((5, 2)), boxes, [1, 0, 0, 0, 0], truth, [1, AMBIGUOUS], [True, True, False])
    assert negatives(one, 0.3).tolist() == [
        [False, True, False],
        [False, True, False],
        [True, True, False],
        [True, True, False],
        [False, False, False],
    ]
    _, alone = made(np.ones((2, 3)), [[0, 0, 1, 1], [1, 1, 4, 4]], [0, 0], [], [], [True, False])
    assert negatives(alone, 0.3).tolist() == [[True, False]] * 2
    assert [len(part) for part in regression_pairs(alone, 0.6)] == [0, 0, 0]


def test_all_negatives_of_the_first_picture_that_knows_the_class_then_hard_ones():
    examples = together(two_classes(1, 30, (True, False)), two_classes(2, 30))
    first, second = examples.pictures
    state = Mining(examples, np.float32(1), svm_options(c=1, easy=-1e6))
    state.add(first)
    assert [len(held) for held in state.held] == [32, 0]
    assert state.trained.tolist() == [True, False]
    found = examples.of(second.rows) @ state.weights[0] + state.bias[0]
    hard = np.count_nonzero(found[2:] > -1)
    assert hard < 32
    state.add(second)
    assert [len(held) for held in state.held] == [32 + hard, 32]


def test_retrained_after_more_than_the_limit_and_at_the_end():
    examples = together(*(two_classes(seed, 20) for seed in range(3)))
    state = Mining(examples, np.float32(1), svm_options(hard=-1e6, easy=-1e6, retrain_after=22))
    state.add(examples.pictures[0])  # 22 negatives a class; the first ones are trained on at once
    assert state.added.tolist() == [0, 0]
    before = state.weights.copy()
    state.add(examples.pictures[1])
    assert state.added.tolist() == [22, 22] and (state.weights == before).all()
    state.add(examples.pictures[2])  # 44, more than 22
    assert state.added.tolist() == [0, 0] and (state.weights != before).any(axis=1).all()
    before = state.weights.copy()
    state.finish()  # nothing new: nothing to do
    assert (state.weights == before).all()
    state.add(examples.pictures[1])
    state.finish()
    assert state.added.tolist() == [0, 0]
    assert [len(held) for held in state.held] == [88, 88]


def test_easy_negatives_leave_and_the_others_stay():
    examples = together(*(two_classes(seed, 40) for seed in range(3)))
    state = Mining(examples, np.float32(1), svm_options(c=1, retrain_after=0))
    for one in examples.pictures:
        state.add(one)
    state.finish()
    labels = np.concatenate([p.labels for p in examples.pictures])
    for column in (0, 1):
        held = state.held[column]
        found = examples.of(held) @ state.weights[column] + state.bias[column]
        assert 0 < len(held) < 42 and (found >= -1.2).all()
        assert (labels[held] != column + 1).all() and len(set(held.tolist())) == len(held)


def test_a_class_without_positives_or_negatives_is_never_found():
    one = separate(two_classes(0, 10)[0], [1, 1] + [0] * 12, (True, True, False))
    other = separate(two_classes(1, 10)[0], [3, 3] + [0] * 12, (True, False, False))
    svms = train_svms(together(one, other), svm_options())
    assert svms.trained.tolist() == [True, False, False]  # 2 has no object, 3 no picture that knows it
    assert svms.bias[1:].tolist() == [NEVER, NEVER] and not svms.weights[1:].any()
    assert np.abs(margins(svms, one[0])[:, 0]).max() < 10


def test_same_bytes_every_time():
    examples = together(*(two_classes(seed, 30) for seed in range(4)))
    steps: list[int] = []
    one, other = (train_svms(examples, svm_options(retrain_after=10), steps.append) for _ in range(2))
    assert one.weights.tobytes() == other.weights.tobytes() and one.bias.tobytes() == other.bias.tobytes()
    assert steps == [1] * 16


def shaken(seed, length=6, regions=20, classes=2) -> Made:
    """A picture with one large object of each class, far apart, and proposals shaken around them."""
    rng = np.random.default_rng(seed)
    truth = as_boxes([[1000 * c, 0, 1000 * c + 100, 80] for c in range(classes)])
    boxes = np.concatenate([truth, truth[rng.integers(0, classes, regions)] + rng.normal(0, 4, (regions, 4))])
    labels = np.arange(1, classes + 1)
    features = rng.normal(0, 1, (classes + regions, length)) + 0.5
    return made(features, boxes, [*labels, *([0] * regions)], truth, labels, [True] * classes)


def ridge_by_normal_equations(features, targets, ridge):
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    mean = targets.mean(axis=0)
    answer = np.linalg.solve(inputs.T @ inputs + ridge * np.eye(inputs.shape[1]), inputs.T @ (targets - mean))
    return answer[:-1].T, answer[-1] + mean


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
    targets = np.array([[4, 0, 7, 0], [2, 0, 7, 0]], np.float32)
    weights, bias = fit_ridge(np.array([[1], [-1]], np.float32), targets, ridge=2)
    np.testing.assert_allclose(weights, [[0.5], [0], [0], [0]], atol=1e-12)
    np.testing.assert_allclose(bias, [3, 0, 7, 0], atol=1e-12)
    # X = 1, 1, 4, centred Y = -1, -1, 2: the bias b solves 18 w + 6 b + r w = 6, 6 w + 3 b + r b = 0; r = 6:
    # b = -2 w / 3, 24 w - 4 w = 6, w = 0.3, b = -0.2. An unregularised bias would be -2 w.
    targets = np.array([[-1], [-1], [2]], np.float32) * np.ones(4, np.float32)
    weights, bias = fit_ridge(np.array([[1], [1], [4]], np.float32), targets, 6)
    np.testing.assert_allclose(weights, [[0.3]] * 4, rtol=1e-12)
    np.testing.assert_allclose(bias, [-0.2] * 4, rtol=1e-12)


@pytest.mark.parametrize("pairs", [3, 12, 13, 60])  # fewer, as many and more than the 13 numbers of a region
def test_ridge_equals_rcnn(pairs: int):
    rng = np.random.default_rng(pairs)
    features, targets = rng.normal(1, 3, (pairs, 12)), rng.normal(0.3, 0.2, (pairs, 4))
    weights, bias = fit_ridge(features, targets, 10)
    expected = ridge_by_normal_equations(features, targets, 10)
    np.testing.assert_allclose(weights, expected[0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(bias, expected[1], rtol=1e-8)
    np.testing.assert_allclose(features @ weights.T + bias, ridge_by_rcnn(features, targets, 10), rtol=1e-7, atol=1e-10)


def test_pairs_by_hand():
    boxes = [
        [0, 0, 10, 10],  # the object of class 2
        [5, 0, 15, 10],  # the object of class 1
        [0, 0, 10, 8],  # 0.8 with class 2, 0.29 with class 1
        [0, 0, 10, 6],  # exactly 0.6: not above
        [100, 0, 110, 9],  # 0.9 with the ambiguous object
        [50, 50, 60, 60],
    ]
    truth = [[100, 0, 110, 10], boxes[0], boxes[1]]
    known = [True, False]  # has no say here
    one = together(
        two_classes(0, 1), made(np.zeros((6, 6)), boxes, [2, 1, 0, 0, 0, 0], truth, [AMBIGUOUS, 2, 1], known)
    )
    rows, labels, targets = regression_pairs(one.pictures[1], 0.6)
    assert rows.tolist() == [5, 6, 7] and labels.tolist() == [2, 1, 2]
    np.testing.assert_allclose(targets, [[0] * 4, [0] * 4, [0, 0.125, 0, np.log(10 / 8)]], rtol=1e-6)


@pytest.mark.parametrize("length", [6, 300])  # more pairs than features, and fewer
def test_box_regression_equals_ridge_on_all_pairs(length: int):
    pictures = [shaken(seed, length) for seed in range(5)]
    found = train_box_regression(together(*pictures), bbox_options())
    scale = 20 / np.linalg.norm(np.concatenate([features for features, _ in pictures]), axis=1).mean()
    for label in (1, 2):
        inputs, targets = [], []
        for features, p in pictures:
            near = (p.boxes[:, 0] > 500) == (label == 2)  # every region is close to the object of its side
            inputs.append(features[near])
            targets.append(box_targets(p.boxes[near], np.repeat(p.truth_boxes[[label - 1]], near.sum(), axis=0)))
        weights, bias = ridge_by_normal_equations(np.concatenate(inputs) * scale, np.concatenate(targets), 1000)
        np.testing.assert_allclose(found.weights[label - 1], weights * scale, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(found.bias[label - 1], bias, rtol=1e-3, atol=1e-6)
    assert found.weights.dtype == found.bias.dtype == np.float32 and found.own.all() and not found.shared.any()


def test_features_that_tell_the_targets_lead_to_the_truth():
    _, one = shaken(3, regions=60)
    rows, labels, targets = regression_pairs(one, 0.6)
    features = np.zeros((len(one.boxes), 4), np.float32)
    features[rows] = targets
    for o in (bbox_options(ridge=1e-6), bbox_options(ridge=1e-6, shared_below=2)):  # each class its own, or one for all
        found = train_box_regression(together((features, one)), o)
        deltas = np.einsum("nd,ncd->nc", features[rows], found.weights[labels - 1]) + found.bias[labels - 1]
        np.testing.assert_allclose(apply_deltas(one.boxes[rows], deltas), one.truth_boxes[labels - 1], atol=0.01)
    assert np.abs(one.boxes[rows] - one.truth_boxes[labels - 1]).max() > 5


def test_classes_of_few_boxes_share_one_regression():
    """A class without any box has it too; one with as many boxes as asked for has its own."""
    pictures = [shaken(seed, classes=3, regions=40) for seed in range(4)]
    examples = together(*pictures)
    for p in examples.pictures:  # of 12 boxes, class 2 keeps none, class 3 half
        p.truth_labels[1] = p.labels[1] = 1
    for p in examples.pictures[:2]:
        p.truth_labels[2] = p.labels[2] = 1
    alone = train_box_regression(examples, bbox_options())
    found = train_box_regression(examples, bbox_options(shared_below=5))
    assert found.own.tolist() == [True, False, False] and found.shared.tolist() == [False, True, True]
    assert alone.own.tolist() == [True, False, True] and not alone.bias[1].any()
    np.testing.assert_array_equal(found.weights[0], alone.weights[0])
    np.testing.assert_array_equal(found.weights[1], found.weights[2])
    rows, _, targets = (
        np.concatenate(x) for x in zip(*(regression_pairs(p, 0.6) for p in examples.pictures), strict=True)
    )
    scale = examples.scale(20)
    weights, bias = ridge_by_normal_equations(examples.of(rows).astype(float) * scale, targets, 1000)
    np.testing.assert_allclose(found.weights[1], weights * scale, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.bias[1], bias, rtol=1e-3, atol=1e-6)
    none = train_box_regression(examples, bbox_options(shared_below=5, min_pairs=1000, max_pairs=1000))
    assert not none.weights.any() and not none.bias.any() and not none.shared.any()


def test_the_shared_sample_has_as_many_of_each_class():
    """Class 1 has its left side moved, class 2 its right one; ten times as many regions do not outweigh the others."""
    objects = as_boxes([[0, 0, 100, 80], [1000, 0, 1100, 80]])
    moved = objects + np.array([[10, 0, 0, 0], [0, 0, 10, 0]])
    boxes = np.concatenate([objects, np.repeat(moved, [400, 40], axis=0)])
    one = made(np.zeros((442, 2)), boxes, [1, 2] + [0] * 440, objects, [1, 2], [True, True])
    shift = box_targets(as_boxes(boxes[[2, 441]]), objects)[:, 0]
    found = train_box_regression(together(one), bbox_options(shared_below=9, max_pairs=60)).bias[0, 0]
    assert abs(found - shift.mean()) < 0.25 * abs(shift[0] - shift[1])
    assert abs((10 * shift[0] + shift[1]) / 11 - shift.mean()) > 0.35 * abs(shift[0] - shift[1])


def test_a_sample_stands_for_all():
    examples = together(*(shaken(seed, regions=60) for seed in range(6)))
    o = {"ridge": 1.0, "min_pairs": 1}
    whole = train_box_regression(examples, bbox_options(**o))
    part, again = (train_box_regression(examples, bbox_options(max_pairs=100, **o)) for _ in range(2))
    other = train_box_regression(examples, bbox_options(max_pairs=100, seed=1, **o))
    assert part.weights.tobytes() == again.weights.tobytes()
    assert part.weights.tobytes() != other.weights.tobytes() != whole.weights.tobytes()
    np.testing.assert_allclose(part.bias, whole.bias, atol=0.03)


def test_a_class_with_too_few_pairs_moves_nothing():
    one = shaken(0, regions=30)  # of each class about 16 pairs, the object included
    counts = np.bincount(regression_pairs(one[1], 0.6)[1], minlength=3)[1:]
    least = int(counts.max())
    assert counts.min() < least
    steps: list[int] = []
    found = train_box_regression(together(one), bbox_options(min_pairs=least), steps.append)
    assert found.weights.any(axis=(1, 2)).tolist() == found.own.tolist() == (counts == least).tolist()
    assert found.bias.any(axis=1).tolist() == found.own.tolist() and steps == [1, 1]
