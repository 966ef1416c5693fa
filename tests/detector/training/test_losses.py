"""The losses of fine-tuning by hand, and the temperature: recovered, folded, weighed by what it counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detector.classes import BACKGROUND
from detector.model import Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.layers import Conv
from detector.networks.torch_module import ConvReLU, fold, training_network
from detector.training.finetune import FinetuneTask, fit_temperature, fold_temperature, kept_scores_loss, region_loss
from detector.training.options import FinetuneOptions
from detector.training.regions import PoolOptions, RegionPool, build_pool, read_sources
from detector.training.run_folder import RunFolder
from detector.weights import load_weights, save_weights
from proposals.types import Proposals

CLASSES = 4


def drawn(count: int, temperature: float, offset: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits [count, 1 + CLASSES] and labels drawn from softmax(logits / temperature + offset at background)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2 * temperature, (count, 1 + CLASSES))
    moved = logits / temperature
    moved[:, BACKGROUND] += offset
    labels = (moved + rng.gumbel(size=moved.shape)).argmax(axis=1)
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels)


def all_known(labels: Tensor) -> Tensor:
    return torch.ones(len(labels), 1 + CLASSES, dtype=torch.bool)


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (2.5, 1.0), (0.4, -2.0), (7.0, 3.0)])
def test_a_known_temperature_and_offset_are_recovered(temperature: float, offset: float):
    """With 20,000 regions to within 5 %, and 0.1 of an offset: several standard errors of the estimate."""
    logits, labels = drawn(20_000, temperature, offset)
    found = fit_temperature(logits, labels, all_known(labels), torch.ones(len(labels)), 0.0)
    assert found[0] == pytest.approx(temperature, rel=0.05)
    assert found[1] == pytest.approx(offset, abs=0.1)


def weighted_loss(
    logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor, unlabelled: float, fitted: tuple[float, float]
) -> float:
    moved = logits.double() / fitted[0]
    moved[:, BACKGROUND] += fitted[1]
    return float((weights.double() * region_loss(moved, labels, known, unlabelled)).sum() / weights.double().sum())


@pytest.mark.parametrize("unlabelled", [0.0, 0.3])
def test_no_neighbour_has_less_loss(unlabelled: float):
    """Under masks and uneven weights, against the loss written out."""
    logits, labels = drawn(500, 1.7, 0.6, seed=3)
    rng = np.random.default_rng(4)
    known = torch.from_numpy(rng.random((500, 1 + CLASSES)) < 0.7)
    weights = torch.from_numpy(rng.uniform(0.5, 20, 500).astype(np.float32))
    found = fit_temperature(logits, labels, known, weights, unlabelled)
    least = weighted_loss(logits, labels, known, weights, unlabelled, found)
    for factor, move in ((0.95, 0.0), (1.05, 0.0), (1.0, 0.05), (1.0, -0.05), (1.03, 0.03), (0.97, -0.03)):
        near = found[0] * factor, found[1] + move
        assert weighted_loss(logits, labels, known, weights, unlabelled, near) > least


def test_a_weight_counts_as_so_many_regions():
    logits, labels = drawn(60, 2.0, 0.5, seed=5)
    counts = torch.from_numpy(np.random.default_rng(6).integers(1, 5, 60))
    weighted = fit_temperature(logits, labels, all_known(labels), counts.float(), 0.0)
    rows = torch.repeat_interleave(torch.arange(60), counts)
    repeated = fit_temperature(logits[rows], labels[rows], all_known(rows), torch.ones(len(rows)), 0.0)
    even = fit_temperature(logits, labels, all_known(labels), torch.ones(60), 0.0)
    assert weighted == pytest.approx(repeated, rel=1e-3, abs=1e-3)
    assert abs(weighted[0] - even[0]) + abs(weighted[1] - even[1]) > 0.01


def test_more_background_behind_each_region_raises_the_offset_by_the_odds():
    """Logits that say nothing: the best offset is the log-odds of background and one class, by hand."""
    labels = torch.tensor([0, 1, 2, 3, 4])
    weights = torch.tensor([36.0, 1, 1, 1, 1])
    _, offset = fit_temperature(torch.zeros(5, 5), labels, all_known(labels), weights, 0.0)
    assert offset == pytest.approx(np.log(36), abs=1e-3)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 2, 3], []])
def test_without_regions_of_both_kinds_nothing_changes(labels: list[int]):
    rows = torch.tensor(labels, dtype=torch.int64)
    logits = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    assert fit_temperature(logits, rows, all_known(rows), torch.ones(len(labels)), 0.0) == (1.0, 0.0)


def test_regions_that_are_all_right_give_finite_numbers():
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    logits = 5 * torch.nn.functional.one_hot(labels, 5).float()
    temperature, offset = fit_temperature(logits, labels, all_known(labels), torch.ones(6), 0.0)
    assert 0 < temperature < 1 and np.isfinite([temperature, offset]).all()


def test_folding_gives_the_moved_logits():
    classifier = ConvReLU(Conv("c", 6, 5, relu=False))
    x = torch.randn(7, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = classifier(x).flatten(1) / 3.5
        wanted[:, BACKGROUND] += -1.25
        fold_temperature(classifier, 3.5, -1.25)
        torch.testing.assert_close(classifier(x).flatten(1), wanted, rtol=1e-5, atol=1e-6)
        before = [parameter.clone() for parameter in classifier.parameters()]
        fold_temperature(classifier, 1.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))


def pool_of_samples(most: tuple[int, int]) -> RegionPool:
    sources, names = read_sources(["samples"], (), False)
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 150, (12, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1).astype(np.float32)
    return build_pool(sources, names, lambda path: Proposals(boxes, np.zeros(12), np.ones(12)), PoolOptions(*most))


def test_stands_for_sums_to_what_was_drawn_from():
    """Whatever is left out, the counts of a picture's regions of a kind add up to those there were."""
    whole, drawn_pool = pool_of_samples((0, 0)), pool_of_samples((1, 4))
    assert whole.stands_for is not None and drawn_pool.stands_for is not None
    np.testing.assert_array_equal(whole.stands_for, 1)
    assert len(drawn_pool) < len(whole) and drawn_pool.stands_for.dtype == np.float32
    np.testing.assert_array_equal(drawn_pool.stands_for[drawn_pool.truth], 1)
    for picture in range(len(whole.paths)):
        for background in (True, False):
            sums = [
                float(p.stands_for[(p.pictures == picture) & ~p.truth & ((p.labels == BACKGROUND) == background)].sum())
                for p in (whole, drawn_pool)
            ]
            assert sums[1] == pytest.approx(sums[0])


def test_export_folds_what_was_fitted_on_the_held_out_regions(tmp_path: Path):
    """The written classifier is the trained one moved by calibration.json, fitted with `stands_for` as weights."""
    network = training_network(googlenet(201, "batch", 0.1), "none", 0.0, 3)
    small = save_weights(
        tmp_path / "small.safetensors",
        fold(network),
        Spec(
            network="googlenet",
            size=75,
            mean=128.0,
            scale=64.0,
            width=0.1,
            norm="batch",
            classes=201,
        ),
    )
    pool = pool_of_samples((2, 6))
    o = FinetuneOptions(steps=1, data=("samples",), model=small.file, held_out=0.5, device="cpu")
    found = {}
    for name, own in (("drawn", pool), ("even", replace(pool, stands_for=None))):
        task = FinetuneTask(o, find_model(small.file), own, None)
        assert {0, 1} <= {int(label > 0) for label in own.labels[task.held_out]}
        trained = fold(task.network)
        folder = RunFolder(tmp_path / name, "finetune", o, own.fingerprint())
        task.export(task.network, folder)
        found[name] = json.loads((tmp_path / name / "calibration.json").read_text())
        assert found[name]["regions"] == len(task.held_out)
        written = load_weights(find_model(str(tmp_path / name)))
        last = task.network.convolutions()[-1].source
        moved = trained[f"{last}.bias"] / found[name]["temperature"]
        moved[BACKGROUND] += found[name]["background_offset"]
        np.testing.assert_allclose(written.bias(last), moved, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            written.kernel(last), trained[f"{last}.weight"] / found[name]["temperature"], rtol=2e-3, atol=1e-5
        )
        folder.close()
    assert found["drawn"]["background_offset"] > found["even"]["background_offset"] + 0.1


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
