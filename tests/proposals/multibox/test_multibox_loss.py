"""The loss against numbers worked by hand, its gradient, its masks, and what it refuses."""

from math import log

import numpy as np
import pytest
import torch

from proposals.boxes import as_boxes
from proposals.multibox.coding import encode
from proposals.multibox.loss import multibox_loss

# The hand-worked picture. The truth is nearest to prior 0, at residual (1, 0, 0, 0); IoU with the priors .8, 0, .2
PRIORS = as_boxes([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1]])
TRUTH = as_boxes([[0.1, 0, 0.5, 0.5]])
LOCATIONS = [[0.5, 0.0, 0.0, 1.0], [7.0, 7.0, 7.0, 7.0], [-3.0, 2.0, 1.0, 0.0]]
LOGITS = [0.0, log(3), -log(3)]  # confidences 1/2, 3/4, 1/4
LOCATION = 30 / 2 * (0.5**2 + 1**2)  # 18.75
POSITIVE, FAR, NEAR = log(2), log(4), log(4 / 3)  # -log 1/2, -log(1 - 3/4), -log(1 - 1/4)
NONE = as_boxes([])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Compute on one thread: tensors this small gain nothing from more, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(pictures: int = 1):
    locations = torch.tensor([LOCATIONS] * pictures, dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([LOGITS] * pictures, dtype=torch.float64, requires_grad=True)
    return locations, logits


def values(loss):
    return [part.item() for part in (loss.total, loss.location, loss.confidence)]


@pytest.mark.parametrize("matching", ["priors", "predictions"])
def test_loss_and_gradient_by_hand(matching):
    """Both ways of matching take prior 0: the others' predictions are far off."""
    locations, logits = tensors()
    loss = multibox_loss(locations, logits, PRIORS, [TRUTH], matching=matching)
    confidence = POSITIVE + FAR + NEAR  # 2.3671
    assert values(loss) == pytest.approx([LOCATION + confidence, LOCATION, confidence], rel=1e-5)
    assert values(loss) == pytest.approx([21.1171, 18.75, 2.3671], abs=1e-4)
    loss.total.backward()
    expected = np.zeros((1, 3, 4))
    expected[0, 0] = [30 * (0.5 - 1), 0, 0, 30 * 1]
    np.testing.assert_allclose(locations.grad, expected, atol=1e-4)
    np.testing.assert_allclose(logits.grad, [[0.5 - 1, 0.75, 0.25]], atol=1e-6)


def test_divided_by_the_pairs_of_the_batch():
    """Two pictures with one pair, one without: the parts of three over two pairs."""
    loss = multibox_loss(*tensors(3), PRIORS, [TRUTH, NONE, TRUTH])
    without = log(2) + FAR + NEAR  # prior 0 unmatched: -log(1 - 1/2)
    confidence = (2 * (POSITIVE + FAR + NEAR) + without) / 2
    assert values(loss) == pytest.approx([LOCATION + confidence, LOCATION, confidence], rel=1e-5)


def test_alpha_weighs_the_location_alone():
    loss = multibox_loss(*tensors(), PRIORS, [TRUTH], alpha=3)
    assert values(loss)[1:] == pytest.approx([LOCATION / 10, POSITIVE + FAR + NEAR], rel=1e-5)


def test_no_ground_truth():
    locations, logits = tensors()
    loss = multibox_loss(locations, logits, PRIORS, [NONE])
    confidence = log(2) + FAR + NEAR
    assert values(loss) == pytest.approx([confidence, 0, confidence], rel=1e-6)
    loss.total.backward()
    assert not locations.grad.any()
    np.testing.assert_allclose(logits.grad, [[0.5, 0.75, 0.25]], atol=1e-6)


def test_ground_truth_without_area_is_left_out():
    flat = as_boxes([[0.2, 0.2, 0.2, 0.9], [0.3, 0.3, 0.3, 0.3]])
    with_flat = multibox_loss(*tensors(), PRIORS, [np.concatenate([flat, TRUTH])])
    assert values(with_flat) == values(multibox_loss(*tensors(), PRIORS, [TRUTH]))
    assert values(multibox_loss(*tensors(), PRIORS, [flat])) == values(multibox_loss(*tensors(), PRIORS, [NONE]))


def test_more_ground_truth_than_priors():
    """Every prior is matched to its own box; the fourth, farthest box is nobody's."""
    truth = np.concatenate([as_boxes([[0.7, 0, 0.8, 0.1]]), PRIORS[::-1]])
    locations, logits = tensors()
    loss = multibox_loss(torch.zeros_like(locations), logits, PRIORS, [truth])
    # the three boxes are the priors themselves: no residual; all are positive, over 3 pairs
    assert values(loss)[1:] == pytest.approx([0, (log(2) + log(4 / 3) + log(4)) / 3], abs=1e-6)


def test_partly_labelled_pictures_have_no_negatives():
    locations, logits = tensors(2)
    loss = multibox_loss(locations, logits, PRIORS, [TRUTH, TRUTH], unlabelled=[True, False])
    confidence = (POSITIVE + POSITIVE + FAR + NEAR) / 2
    assert values(loss)[1:] == pytest.approx([LOCATION, confidence], rel=1e-5)
    loss.total.backward()
    np.testing.assert_allclose(logits.grad * 2, [[-0.5, 0, 0], [-0.5, 0.75, 0.25]], atol=1e-6)


def test_near_negatives_of_partly_labelled_pictures():
    """Prior 2 (IoU .2) is near; prior 1 (IoU 0) is not, nor is an unmatched prior with IoU .64."""
    priors = np.concatenate([PRIORS, as_boxes([[0, 0, 0.5, 0.4]])])
    locations = torch.tensor([[*LOCATIONS, [0.0] * 4]], dtype=torch.float64)
    logits = torch.tensor([[*LOGITS, 5.0]], dtype=torch.float64, requires_grad=True)
    loss = multibox_loss(locations, logits, priors, [TRUTH], unlabelled=[True], near_negatives=True)
    assert values(loss)[2] == pytest.approx(POSITIVE + NEAR, rel=1e-6)
    loss.total.backward()
    np.testing.assert_allclose(logits.grad, [[-0.5, 0, 0.25, 0]], atol=1e-6)
    without = multibox_loss(locations, logits, priors, [NONE], unlabelled=[True], near_negatives=True)
    assert values(without) == [0, 0, 0]
    # in a fully labelled picture the option changes nothing
    full = [multibox_loss(*tensors(), PRIORS, [TRUTH], near_negatives=near).total.item() for near in (False, True)]
    assert full[0] == full[1]


def test_predictions_decide_where_asked():
    """Prior 1 predicts the truth exactly and is sure of it: it is matched to the predictions, prior 0 to the priors."""
    locations, logits = tensors()
    with torch.no_grad():
        locations[0, 1] = torch.from_numpy(encode(TRUTH[0], PRIORS[1]))
    by_prior = multibox_loss(locations, logits, PRIORS, [TRUTH])
    by_prediction = multibox_loss(locations, logits, PRIORS, [TRUTH], matching="predictions")
    assert values(by_prior)[1] == pytest.approx(LOCATION, rel=1e-5)
    assert values(by_prediction)[1:] == pytest.approx([0, log(2) + log(4 / 3) + log(4 / 3)], abs=1e-6)


def test_partly_labelled_matching_forgoes_the_gain_of_a_negative():
    """Logits 0 and 16 at equal distances but for 15: with negatives the sure prior is cheaper, without it is not."""
    priors = as_boxes([[0.1, 0.1, 0.5, 0.5], [0.2, 0.1, 0.5, 0.5]])
    locations = torch.zeros((1, 2, 4), dtype=torch.float64)
    logits = torch.tensor([[0.0, 16.0]], dtype=torch.float64)
    losses = [
        multibox_loss(locations, logits, priors, [priors[:1]], unlabelled=[partly], matching="predictions")
        for partly in (False, True)
    ]
    assert [values(loss)[1] for loss in losses] == pytest.approx([15, 0], rel=1e-4)


@pytest.mark.parametrize("matching", ["priors", "predictions"])
@pytest.mark.parametrize("near_negatives", [False, True])
def test_gradcheck(matching, near_negatives):
    generator = np.random.default_rng(0)
    boxes = [as_boxes(np.sort(generator.random((count, 2, 2)), axis=1).reshape(-1, 4)) for count in (6, 2, 0, 7)]
    priors, *truth = boxes
    locations = torch.from_numpy(generator.normal(0, 1, (3, 6, 4))).requires_grad_()
    logits = torch.from_numpy(generator.normal(0, 2, (3, 6))).requires_grad_()

    def losses(locations, logits):
        return tuple(
            multibox_loss(locations, logits, priors, truth, [True, False, False], near_negatives, 3.0, matching)
        )

    assert torch.autograd.gradcheck(losses, (locations, logits))


def test_half_precision_and_extreme_logits():
    """A confidence of exp(-80) has a loss of 80, in float16 as in float32; the sum is taken in float32."""
    locations = torch.zeros((1, 3, 4), dtype=torch.float16, requires_grad=True)
    logits = torch.tensor([[-80.0, 80.0, -80.0]], dtype=torch.float16, requires_grad=True)
    loss = multibox_loss(locations, logits, PRIORS, [PRIORS[:1]], matching="predictions", alpha=1e4)
    assert loss.total.dtype == torch.float32
    assert values(loss) == pytest.approx([160, 0, 160])
    loss.total.backward()
    assert logits.grad.tolist() == [[-1, 1, 0]]


def test_refuses():
    locations, logits = tensors()
    with pytest.raises(ValueError, match=r"need locations \[2, 3, 4\] and logits \[2, 3\]"):
        multibox_loss(locations, logits, PRIORS, [TRUTH, TRUTH])
    with pytest.raises(ValueError, match="unknown matching 'both'"):
        multibox_loss(locations, logits, PRIORS, [TRUTH], matching="both")
    with pytest.raises(ValueError, match=r"unlabelled must have shape \[1\]"):
        multibox_loss(locations, logits, PRIORS, [TRUTH], unlabelled=[True, False])
    with pytest.raises(ValueError, match="between 0 and 1"):
        multibox_loss(locations, logits, PRIORS, [TRUTH * 500])
    with pytest.raises(ValueError, match="not a finite number"):
        multibox_loss(locations * torch.nan, logits, PRIORS, [TRUTH], matching="predictions")
