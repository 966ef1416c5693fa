"""The loss: assignments against a loop, one picture by hand with its gradient, and what has no loss."""

from math import log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proposals.boxes import as_boxes, iou
from proposals.multibox.loss import match_by_overlap, multibox_loss

# The hand-worked picture. IoU of the truth with the priors: 0.8, 0 and 0.25, so that the third is one of its best three
PRIORS = as_boxes([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 0.8]])
TRUTH = as_boxes([[0.1, 0, 0.5, 0.5]])
# its residuals are (1, 0, 0, 0) in fifths of 0.5 x 0.5, and (0.5, 0, -2.5, -1.875) in fifths of 1 x 0.8
LOCATIONS = [[0.5, 0.0, 0.0, 2.0], [7.0, 7.0, 7.0, 7.0], [0.5, 0.0, -2.5, -1.375]]  # the last off by 0.5
LOGITS = [0.0, log(3), -log(3)]  # confidences 1/2, 3/4, 1/4
NONE = as_boxes([])
# Huber: 0.5^2 / 2 + (2 - 0.5) and 0.5^2 / 2; both priors weigh 1 / sqrt(2), in all sqrt(2)
LOCATION = (1.625 + 0.125) / 2
BACKGROUND = 0.75 * log(4)
CONFIDENCE = (0.5 * log(2) + 0.75 * log(4)) / 2 + BACKGROUND / sqrt(2)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Compute on one thread: tensors this small gain nothing from more, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(pictures: int = 1):
    locations = torch.tensor([LOCATIONS] * pictures, requires_grad=True)
    logits = torch.tensor([LOGITS] * pictures, requires_grad=True)
    return locations, logits


def values(loss):
    return [part.item() for part in (loss.total, loss.location, loss.confidence)]


def literal_match(priors, truth, partly):
    """Return the object of each assigned prior, and the priors that are background, prior by prior."""
    overlaps = iou(priors, truth)
    owner = {}
    for prior in range(len(priors)):
        best = max(range(len(truth)), key=lambda number: overlaps[prior, number])
        if overlaps[prior, best] >= 0.5:
            owner[prior] = best
    sizes = (truth[:, 2:] - truth[:, :2]).prod(axis=1)
    for number in sorted(range(len(truth)), key=lambda number: -sizes[number]):
        for prior in sorted(range(len(priors)), key=lambda prior: -overlaps[prior, number])[:3]:
            if overlaps[prior, number] > 0.2:
                owner[prior] = number
    background = {
        prior
        for prior in range(len(priors))
        if prior not in owner and overlaps[prior].max() < 0.4 and (not partly or overlaps[prior].max() >= 0.1)
    }
    return owner, background


def matched(match):
    assert match.priors.dtype == match.truth.dtype == np.int64 and match.negatives.dtype == np.bool_
    assert (np.diff(match.priors) > 0).all()
    owner = dict(zip(match.priors.tolist(), match.truth.tolist(), strict=True))
    return owner, set(np.flatnonzero(match.negatives).tolist())


@given(st.integers(1, 14), st.integers(1, 6), st.booleans(), st.integers(0, 2**32 - 1))
def test_matching_against_a_loop(priors: int, truth: int, partly: bool, seed: int):
    """Also more objects than priors; the priors lie about the objects, so that every kind of overlap occurs."""
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((truth, 2, 2)), axis=1).reshape(-1, 4)
    known = boxes[rng.integers(0, truth, priors)] + rng.normal(0, 0.1, (priors, 4))
    known = np.sort(known.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    found = match_by_overlap(as_boxes(known), as_boxes(boxes), partly)
    assert matched(found) == literal_match(as_boxes(known), as_boxes(boxes), partly)


@given(st.integers(1, 14), st.integers(1, 6), st.booleans(), st.integers(0, 2**32 - 1))
def test_matching_with_ties(priors: int, truth: int, partly: bool, seed: int):
    """Corners in fifths, boxes without area too: which of equal priors are the three is free, all else is not."""
    rng = np.random.default_rng(seed)
    known, boxes = (
        as_boxes(np.sort(rng.integers(0, 6, (count, 2, 2)), axis=1).reshape(-1, 4) / 5) for count in (priors, truth)
    )
    overlaps = iou(known, boxes)
    owner, background = matched(match_by_overlap(known, boxes, partly))
    best = overlaps.max(axis=1)
    third = np.sort(overlaps, axis=0)[::-1][min(3, priors) - 1]
    assert set(np.flatnonzero(best >= 0.5)) <= owner.keys()
    for prior, number in owner.items():
        overlap = overlaps[prior, number]
        assert overlap == best[prior] >= 0.5 or overlap >= max(third[number], np.float32(0.2))
    free = set(range(priors)) - owner.keys()
    assert background == {prior for prior in free if best[prior] < 0.4 and (not partly or best[prior] >= 0.1)}
    for number in np.flatnonzero(overlaps.max(axis=0) > 0.2):  # an object has its best unless a smaller one took them
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        if sizes[number] == sizes.min() and (sizes == sizes.min()).sum() == 1:
            assert number in owner.values()


def test_matching_by_hand():
    """IoU 1, 0.8, 0.6, 0.45, 0.3 and 0 with one object: all from 0.5 on, the fourth is neither, the rest background."""
    priors = as_boxes([[0, 0, share, 1] for share in (1, 0.8, 0.6, 0.45, 0.3)] + [[2, 2, 3, 3]])
    truth = as_boxes([[0, 0, 1, 1]])
    assert matched(match_by_overlap(priors, truth)) == ({0: 0, 1: 0, 2: 0}, {4, 5})
    assert matched(match_by_overlap(priors, truth, partly=True)) == ({0: 0, 1: 0, 2: 0}, {4})
    assert matched(match_by_overlap(priors[2:], truth)) == ({0: 0, 1: 0, 2: 0}, {3})  # the three best that are left
    assert matched(match_by_overlap(priors[4:], truth)) == ({0: 0}, {1})


def test_the_smallest_object_has_its_best_priors():
    """The prior is the large object's at 0.75, but one of the best of the small one at 0.25 too."""
    priors, truth = as_boxes([[0, 0, 1, 1]]), as_boxes([[0, 0, 1, 0.25], [0, 0, 1, 0.75]])
    for order in ([0, 1], [1, 0]):
        owner, background = matched(match_by_overlap(priors, truth[order]))
        assert owner == {0: order.index(0)} and not background


def test_more_objects_than_priors():
    truth = as_boxes([[x, 0, x + 0.1, 0.1] for x in (0, 0.2, 0.4, 0.6)])
    assert matched(match_by_overlap(truth[1:3], truth)) == ({0: 1, 1: 2}, set())


@pytest.mark.parametrize("truth", [NONE, as_boxes([[0.2, 0.2, 0.2, 0.9], [0.3, 0.3, 0.3, 0.3]])])
def test_without_an_object_all_is_background_or_nothing(truth):
    assert matched(match_by_overlap(PRIORS, truth)) == ({}, {0, 1, 2})
    assert matched(match_by_overlap(PRIORS, truth, partly=True)) == ({}, set())


def test_loss_and_gradient_by_hand():
    locations, logits = tensors()
    loss = multibox_loss(locations, logits, PRIORS, [TRUTH])
    assert values(loss) == pytest.approx([LOCATION + CONFIDENCE, LOCATION, CONFIDENCE], rel=1e-5)
    assert values(loss) == pytest.approx([2.3034, 0.875, 1.4284], abs=1e-4)
    loss.total.backward()
    # of Huber's loss: the difference, 1 at most; half of it counts, since 1 / sqrt(2) / sqrt(2)
    expected = [[[-0.25, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 0.25]]]
    np.testing.assert_allclose(locations.grad, expected, atol=1e-5)
    # of the entropy: p - y, times how wrong it is, itself without a gradient
    pulls = [0.5 * (0.5 - 1) / 2, 0.75 * 0.75 / sqrt(2), 0.75 * (0.25 - 1) / 2]
    np.testing.assert_allclose(logits.grad, [pulls], atol=1e-6)


def test_divided_by_the_weights_of_the_batch():
    """Two pictures with an object, one without, in which every prior is background."""
    loss = multibox_loss(*tensors(3), PRIORS, [TRUTH, NONE, TRUTH])
    empty = 0.5 * log(2) + BACKGROUND + 0.25 * log(4 / 3)
    wanted = CONFIDENCE + empty / (2 * sqrt(2))
    assert values(loss) == pytest.approx([LOCATION + wanted, LOCATION, wanted], rel=1e-5)


def test_no_ground_truth_is_divided_by_one():
    locations, logits = tensors()
    loss = multibox_loss(locations, logits, PRIORS, [NONE])
    empty = 0.5 * log(2) + BACKGROUND + 0.25 * log(4 / 3)
    assert values(loss) == pytest.approx([empty, 0, empty], rel=1e-5)
    loss.total.backward()
    assert not locations.grad.any()
    assert (logits.grad > 0).all()  # all confidences are to fall


def test_a_picture_of_which_nothing_is_known_has_no_loss():
    locations, logits = tensors(2)
    loss = multibox_loss(locations, logits, PRIORS, [NONE, TRUTH], partly=[True, False])
    assert values(loss) == pytest.approx([LOCATION + CONFIDENCE, LOCATION, CONFIDENCE], rel=1e-5)
    loss.total.backward()
    assert not locations.grad[0].any() and not logits.grad[0].any() and logits.grad[1].all()
    alone = multibox_loss(*tensors(), PRIORS, [NONE], partly=[True])
    assert values(alone) == [0, 0, 0]


def test_partly_labelled_pictures_have_near_background_alone():
    """Prior 1, which no known object touches, may hold an unknown one; those beside are background."""
    priors = np.concatenate([PRIORS, as_boxes([[0.4, 0, 0.8, 0.5], [0.1, 0.4, 0.5, 0.9]])])  # IoU 1/7, 1/9
    locations = torch.zeros((1, 5, 4))
    logits = torch.zeros((1, 5), requires_grad=True)
    owner, background = matched(match_by_overlap(priors, TRUTH, partly=True))
    assert owner == {0: 0, 2: 0} and background == {3, 4}
    multibox_loss(locations, logits, priors, [TRUTH], partly=[True]).confidence.backward()
    assert logits.grad.sign().tolist() == [[-1, 0, -1, 1, 1]]


def test_ground_truth_without_area_is_left_out():
    flat = as_boxes([[0.2, 0.2, 0.2, 0.9], [0.3, 0.3, 0.3, 0.3]])
    with_flat = multibox_loss(*tensors(), PRIORS, [np.concatenate([flat, TRUTH])])
    assert values(with_flat) == values(multibox_loss(*tensors(), PRIORS, [TRUTH]))
    assert values(multibox_loss(*tensors(), PRIORS, [flat])) == values(multibox_loss(*tensors(), PRIORS, [NONE]))


def test_gradients_lead_to_the_object():
    """A few steps along them: the boxes of both priors meet it, and the confidences leave one half on their sides."""
    locations, logits = torch.zeros((1, 3, 4), requires_grad=True), torch.zeros((1, 3), requires_grad=True)
    optimizer = torch.optim.SGD([locations, logits], 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        multibox_loss(locations, logits, PRIORS, [TRUTH]).total.backward()
        optimizer.step()
    np.testing.assert_allclose(locations.detach()[0, [0, 2]], [[1, 0, 0, 0], [0.5, 0, -2.5, -1.875]], atol=1e-2)
    assert (torch.sigmoid(logits)[0] > 0.5).tolist() == [True, False, True]


def test_half_precision_and_extreme_logits():
    """A confidence of exp(-80) has a loss of 80; the sum is taken in float32."""
    locations = torch.zeros((1, 3, 4), dtype=torch.float16, requires_grad=True)
    logits = torch.tensor([[-80.0, 80.0, 80.0]], dtype=torch.float16, requires_grad=True)
    loss = multibox_loss(locations, logits, PRIORS, [PRIORS[:1]])
    assert loss.total.dtype == torch.float32
    # prior 2 (IoU 0.3125) is one of the best three, and right
    assert loss.confidence.item() == pytest.approx((80 / sqrt(2) + 80) / sqrt(2), rel=1e-5)
    loss.total.backward()
    assert logits.grad.sign().tolist() == [[-1, 1, 0]]
