"""The losses of fine-tuning against cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from detector.training.finetune import kept_scores_loss, region_loss

# probabilities 1/8, 1/2, 1/4, 1/8 of background and three classes
LOGITS = torch.log(torch.tensor([[1.0, 4.0, 2.0, 1.0]] * 4))
LABELS = torch.tensor([0, 0, 2, 0])
KNOWN = torch.tensor(
    [
        [True, True, True, True],  # background for certain: 1/8
        [True, True, False, False],  # background or one of two: 1/8 + 1/4 + 1/8
        [True, True, False, False],  # has a label, known or not: 1/4
        [True, False, False, False],  # nothing is known: 1
    ]
)


def test_a_case_by_hand():
    found = region_loss(LOGITS, LABELS, KNOWN)
    torch.testing.assert_close(found, torch.tensor([math.log(8), math.log(2), math.log(4), 0.0]))


def test_a_weight_between_mixes_both():
    found = region_loss(LOGITS, LABELS, KNOWN, 0.25)
    mixed = 0.25 * math.log(8)
    wanted = torch.tensor([math.log(8), mixed + 0.75 * math.log(2), math.log(4), mixed])
    torch.testing.assert_close(found, wanted)


def test_unlabelled_as_background_is_cross_entropy():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 6
    known = torch.rand(50, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(
        region_loss(logits, labels, known, 1.0), functional.cross_entropy(logits, labels, reduction="none")
    )


def test_all_known_is_cross_entropy():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 6
    torch.testing.assert_close(
        region_loss(logits, labels, torch.ones(50, 6, dtype=torch.bool)),
        functional.cross_entropy(logits, labels, reduction="none"),
    )


def gradient(logits: torch.Tensor, known: list[bool], unlabelled: float) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    region_loss(logits, torch.tensor([0]), torch.tensor([known]), unlabelled).sum().backward()
    assert logits.grad is not None
    return logits.grad[0]


def test_classes_that_are_not_known_are_not_pushed_against_the_background():
    """Of the possible outputs all gradients are alike per probability; only the known class is pushed down."""
    known = [True, True, False, False]
    found = gradient(LOGITS[:1], known, 0.0)
    p = LOGITS[:1].exp()[0] / 8
    assert found[1] == pytest.approx(0.5)  # its probability: down
    torch.testing.assert_close(found[[0, 2, 3]], p[[0, 2, 3]] - p[[0, 2, 3]] / 0.5)
    ratios = found[[0, 2, 3]] / p[[0, 2, 3]]
    torch.testing.assert_close(ratios, torch.full((3,), -1.0))  # up, and none against another
    plain = gradient(LOGITS[:1], known, 1.0)
    assert plain[2] > 0 and plain[3] > 0 > plain[0]


def test_where_nothing_is_known_the_gradient_is_zero():
    found = gradient(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), [True, False, False, False], 0.0)
    assert found.abs().max() < 1e-6


def test_large_logits_stay_finite():
    logits = torch.tensor([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 0.0]], requires_grad=True)
    loss = region_loss(logits, torch.tensor([0, 0]), torch.tensor([[True, True, False]] * 2))
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    assert loss.tolist() == pytest.approx([0.0, 1000.0])


def test_kept_scores_by_hand():
    """Old scores 3/4 and 1/4 among the classes, new ones 1/2 each: 3/4 ln 3/2 + 1/4 ln 1/2."""
    found = kept_scores_loss(torch.tensor([[5.0, 1.0, 1.0]]), torch.tensor([[0.2, 0.6, 0.2]]))
    assert found.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_kept_scores_are_no_loss_where_they_are_the_same_whatever_the_background():
    scores = torch.rand(9, 5, generator=torch.Generator().manual_seed(2)) + 0.01
    scores /= scores.sum(dim=1, keepdim=True)
    logits = scores.log().clone()
    logits[:, 0] += torch.arange(9) - 4.0
    logits.requires_grad_()
    loss = kept_scores_loss(logits, scores)
    loss.sum().backward()
    assert logits.grad is not None
    assert loss.abs().max() < 1e-6 and logits.grad.abs().max() < 1e-6
    moved = logits.detach().clone()
    moved[:, 1] += 1
    assert (kept_scores_loss(moved, scores) > 1e-4).all()


def test_old_scores_of_zero_are_taken():
    found = kept_scores_loss(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert found.tolist() == pytest.approx([0.0, math.log(2)], abs=1e-5)
