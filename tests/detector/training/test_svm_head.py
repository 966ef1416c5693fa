"""The SVM stage against the solver on all examples at once, and R-CNN's rules one by one."""

from functools import partial

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from detector.datasets.class_maps import AMBIGUOUS
from detector.training.heads import NEVER, _Mining, _Store, negatives, svm_margins, train_svms
from detector.training.options import SvmOptions
from detector.training.picture_features import PictureFeatures

svm_options = partial(SvmOptions, data=("samples",))

DEFAULTS = svm_options()
KEEP_ALL = svm_options(hard=-1e6, easy=-1e6)  # every negative comes in, and none leaves
CENTRES = np.array([[14, 14, 2, 2, 2, 2], [2, 2, 14, 14, 2, 2], [2, 2, 2, 2, 14, 14]], np.float32)  # background last


def picture(features, labels, known=(True, True)) -> PictureFeatures:
    """A picture whose regions do not overlap."""
    left = 20 * np.arange(len(labels))
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    labels = np.array(labels, np.int64)
    truth = labels > 0
    return PictureFeatures(features, boxes, labels, boxes[truth], labels[truth], np.array(known))


def unit(features):
    """Features of norm 20, which the training leaves as they are."""
    return np.float32(20) * features / np.linalg.norm(features, axis=1, keepdims=True)


def drawn(seed, background, known=(True, True), spread=4.0) -> PictureFeatures:
    """A picture with two objects of each of two classes, and proposals of the background."""
    generator = np.random.default_rng(seed)
    labels = [1, 1, 2, 2] + [0] * background
    centres = CENTRES[[label - 1 for label in labels]]
    return picture(unit(centres + generator.normal(0, spread, centres.shape)).astype(np.float32), labels, known)


def solved(positives, others, options=DEFAULTS):
    """The SVM between all examples at once."""
    solver = LinearSVC(
        loss="hinge",
        C=options.c,
        class_weight={1: options.positive_weight},
        intercept_scaling=options.bias,
        dual=True,
        tol=options.tolerance,
        max_iter=options.max_iterations,
        random_state=options.seed,
    )
    solver.fit(np.concatenate([positives, others]), [1] * len(positives) + [-1] * len(others))
    return solver.coef_[0], solver.intercept_[0]


def objective(weights, bias, positives, others, options):
    """liblinear's: the bias is the weight of the constant feature 10."""
    loss = options.positive_weight * np.maximum(0, 1 - positives @ weights - bias).sum()
    loss += np.maximum(0, 1 + others @ weights + bias).sum()
    return (weights @ weights + (bias / options.bias) ** 2) / 2 + options.c * loss


def examples(pictures, label):
    features = np.concatenate([p.features for p in pictures])
    labels = np.concatenate([p.labels for p in pictures])
    return features[labels == label], features[labels != label]


def test_one_dimension_by_hand():
    # two positives at 30, two negatives at 10: mean norm 20, scale 1. With a large C the margin is hard. The bias is
    # the weight b' of a feature 10: min w^2 + b'^2 with 30 w + 10 b' = 1, 10 w + 10 b' = -1 gives w = 0.1, b' = -0.2.
    pictures = [picture(np.array([[30], [30], [10], [10]]), [1, 1, 0, 0], [True])]
    head = train_svms(pictures, 1, svm_options(c=1e3, max_iterations=100_000))
    np.testing.assert_allclose([head.weights[0, 0], head.bias[0]], [0.1, -2], rtol=1e-3)


def test_one_picture_equals_the_solver():
    one = drawn(0, 30)
    head = train_svms([one], 2, svm_options())
    for label in (1, 2):
        weights, bias = solved(*examples([one], label))
        np.testing.assert_allclose(head.weights[label - 1], weights, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(head.bias[label - 1], bias, rtol=1e-3)
    assert head.weights.dtype == head.bias.dtype == np.float32
    assert head.trained.all()


def test_scale_is_folded_in():
    one = drawn(0, 30)
    larger = PictureFeatures(
        one.features * np.float32(8), one.boxes, one.labels, one.truth_boxes, one.truth_labels, one.known
    )
    small, large = train_svms([one], 2, svm_options()), train_svms([larger], 2, svm_options())
    np.testing.assert_allclose(large.weights * 8, small.weights, rtol=1e-3, atol=1e-6)
    margins = svm_margins(large, larger.features)
    assert margins.shape == (34, 2)
    np.testing.assert_allclose(margins, svm_margins(small, one.features), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(margins[5, 1], larger.features[5] @ large.weights[1] + large.bias[1], rtol=1e-4)


def test_keeping_everything_equals_the_solver_on_everything():
    pictures = [drawn(seed, 20) for seed in range(4)]
    head = train_svms(pictures, 2, KEEP_ALL)
    for label in (1, 2):
        weights, bias = solved(*examples(pictures, label))
        np.testing.assert_allclose(head.weights[label - 1], weights, rtol=2e-3, atol=2e-5)
        np.testing.assert_allclose(head.bias[label - 1], bias, rtol=2e-3)


@pytest.mark.parametrize("retrain_after", [0, 20, 2000])
def test_hard_negatives_alone_lead_to_the_same_solution(retrain_after):
    options = svm_options(c=1e-2, retrain_after=retrain_after, max_iterations=100_000)
    pictures = [drawn(seed, 40, spread=5) for seed in range(12)]
    head = train_svms(pictures, 2, options)
    for label in (1, 2):
        positives, others = examples(pictures, label)
        weights, bias = solved(positives, others, options)
        best = objective(weights, bias, positives, others, options)
        found = objective(head.weights[label - 1], head.bias[label - 1], positives, others, options)
        assert best * 0.999 <= found <= best * 1.01
        assert objective(0 * weights, 0, positives, others, options) > best * 2  # the bound says something
        np.testing.assert_allclose(head.weights[label - 1], weights, atol=0.05 * np.abs(weights).max())


def test_a_picture_that_does_not_know_a_class_gives_it_no_negatives():
    first, second, blind = drawn(1, 20), drawn(2, 20, spread=9), drawn(2, 20, (True, False), spread=9)
    objects = picture(second.features[:4], [1, 1, 2, 2], (True, False))  # the second one's positives alone
    masked = train_svms([first, blind], 2, KEEP_ALL)
    without = train_svms([first, objects], 2, KEEP_ALL)
    knowing = train_svms([first, second], 2, KEEP_ALL)
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
    one = PictureFeatures(
        np.zeros((5, 2)), boxes, [1, 0, 0, 0, 0], [boxes[0], [90, 0, 100, 10]], [1, AMBIGUOUS], [True, True, False]
    )
    assert negatives(one, 0.3).tolist() == [
        [False, True, False],
        [False, True, False],
        [True, True, False],
        [True, True, False],
        [False, False, False],
    ]


def mining(*pictures, options) -> _Mining:
    """A mining with the positives of the pictures, before it has seen their negatives."""
    state = _Mining(2, 6, options)
    for label in (1, 2):
        state.positives[label - 1] = examples(pictures, label)[0]
    return state


def test_all_negatives_of_the_first_picture_that_knows_the_class_then_hard_ones():
    first, second = drawn(1, 30, (True, False)), drawn(2, 30)
    state = mining(first, second, options=svm_options(c=1, easy=-1e6, hard=-1))
    state.add(first, np.float32(1))
    assert [len(held) for held in state.held] == [32, 0]
    assert state.trained.tolist() == [True, False]
    margins = second.features @ state.weights[0] + state.bias[0]
    hard = np.count_nonzero(margins[2:] > -1)
    assert hard < 32
    state.add(second, np.float32(1))
    assert [len(held) for held in state.held] == [32 + hard, 32]


def test_retrained_after_more_than_the_limit_and_at_the_end():
    pictures = [drawn(seed, 20) for seed in range(3)]
    state = mining(*pictures, options=svm_options(hard=-1e6, easy=-1e6, retrain_after=22))
    state.add(pictures[0], np.float32(1))  # 22 negatives a class; the first ones are trained on at once
    assert state.added.tolist() == [0, 0]
    before = state.weights.copy()
    state.add(pictures[1], np.float32(1))
    assert state.added.tolist() == [22, 22]
    assert (state.weights == before).all()
    state.add(pictures[2], np.float32(1))  # 44, more than 22
    assert state.added.tolist() == [0, 0]
    assert (state.weights != before).any(axis=1).all()
    before = state.weights.copy()
    state.finish()  # nothing new: nothing to do
    assert (state.weights == before).all()
    state.add(pictures[1], np.float32(1))
    state.finish()
    assert state.added.tolist() == [0, 0]
    assert [len(held) for held in state.held] == [88, 88]


def test_easy_negatives_leave_and_the_others_stay():
    pictures = [drawn(seed, 40) for seed in range(3)]
    options = svm_options(c=1, retrain_after=0)
    state = mining(*pictures, options=options)
    for one in pictures:
        state.add(one, np.float32(1))
    state.finish()
    seen = set()
    for column in (0, 1):
        held = state.held[column]
        margins = state.store.rows[held] @ state.weights[column] + state.bias[column]
        assert 0 < len(held) < 42
        assert (margins >= options.easy).all()
        seen |= set(held.tolist())
        everything = examples(pictures, column + 1)[1]
        for row in state.store.rows[held]:  # each is still the region it was
            assert (everything == row).all(axis=1).any()
    holders = np.zeros(len(state.store.holders), int)
    for held in state.held:
        holders[held] += 1
    assert state.store.holders.tolist() == holders.tolist()
    assert len(state.store.rows) < 3 * 44  # room was used again


def test_store_uses_free_rows_again():
    store = _Store(np.zeros((0, 2), np.float32))
    first = store.add(np.array([[1, 1], [2, 2], [3, 3]], np.float32), np.array([1, 2, 1]))
    store.holders[first[[0, 1]]] -= 1
    second = store.add(np.array([[4, 4], [5, 5]], np.float32), np.array([1, 1]))
    assert first[0] in second
    assert not {int(first[1]), int(first[2])} & set(second.tolist())
    assert store.rows[first[1:]].tolist() == [[2, 2], [3, 3]]
    assert store.rows[second].tolist() == [[4, 4], [5, 5]]


def test_a_class_without_positives_or_negatives_is_never_found():
    one = picture(drawn(0, 10).features, [1, 1] + [0] * 12, (True, True, True))
    other = picture(drawn(1, 10).features, [3, 3] + [0] * 12, (True, False, False))
    one = picture(one.features, one.labels, (True, True, False))
    head = train_svms([one, other], 3, svm_options())
    assert head.trained.tolist() == [True, False, False]  # 2 has no object, 3 no picture that knows it
    assert head.bias[1:].tolist() == [NEVER, NEVER]
    assert not head.weights[1:].any()
    assert (svm_margins(head, one.features)[:, 1:] == NEVER).all()
    assert np.abs(svm_margins(head, one.features)[:, 0]).max() < 10


def test_same_bytes_every_time_from_a_list_or_a_function():
    pictures = [drawn(seed, 30) for seed in range(4)]
    steps: list[int] = []
    one = train_svms(pictures, 2, svm_options(retrain_after=10), steps.append)
    other = train_svms(lambda: iter(pictures), 2, svm_options(retrain_after=10))
    assert one.weights.tobytes() == other.weights.tobytes()
    assert one.bias.tobytes() == other.bias.tobytes()
    assert steps == [1] * 8


def test_pictures_without_regions():
    nothing = picture(np.zeros((0, 6)), [])
    head = train_svms([nothing], 2, svm_options())
    assert head.weights.shape == (2, 6)
    assert head.bias.tolist() == [NEVER, NEVER]
    one = drawn(0, 10)
    assert train_svms([nothing, one], 2, svm_options()).weights.tobytes() == (
        train_svms([one], 2, svm_options()).weights.tobytes()
    )
    assert svm_margins(head, np.zeros((0, 6), np.float32)).shape == (0, 2)


def test_pictures_that_are_gone_at_the_second_time():
    used_up, pieces = iter([drawn(0, 10)]), iter([[drawn(0, 10), drawn(1, 10)], [drawn(0, 10)]])
    with pytest.raises(ValueError, match="starts again"):
        train_svms(lambda: used_up, 2, svm_options())
    with pytest.raises(ValueError, match="differ at the second time"):
        train_svms(lambda: iter(next(pieces)), 2, svm_options())


@pytest.mark.parametrize("values", [{"c": 0}, {"negative_iou": 1.5}, {"retrain_after": -1}, {"easy": -0.5}])
def test_options_out_of_range(values):
    with pytest.raises(ValueError, match=r"must|above hard"):
        svm_options(**values)
