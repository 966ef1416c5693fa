"""Learning rates of both papers, and the averages of the weights against a loop by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detector.training.loop import averaged_model, learning_rate
from detector.training.options import LoopOptions


def options(**fields: Any) -> LoopOptions:
    return LoopOptions(**{"steps": 100, **fields})


@pytest.mark.parametrize(
    ("step", "wanted"), [(0, 1e-3), (19_999, 1e-3), (20_000, 1e-4), (39_999, 1e-4), (40_000, 1e-5), (69_999, 1e-6)]
)
def test_r_cnn_takes_a_tenth_every_20_000(step: int, wanted: float):
    o = options(steps=70_000, decay_steps=20_000)
    assert learning_rate(o, step, 70_000, 1.0) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (7.9, 1), (8, 0.96), (15.9, 0.96), (16, 0.96**2), (80, 0.96**10)]
)
def test_googlenet_takes_four_percent_off_every_8_epochs(epoch: float, factor: float):
    o = options(learning_rate=0.01, decay=0.96, decay_epochs=8.0)
    assert learning_rate(o, round(epoch * 250), 100_000, 250.0) == pytest.approx(0.01 * factor, rel=1e-12)


def test_the_steps_of_the_decay_go_before_its_epochs_and_without_either_the_rate_stays():
    both = options(decay_steps=10, decay_epochs=8.0)
    assert learning_rate(both, 10, 100, 100.0) == pytest.approx(1e-4)
    assert learning_rate(options(), 99, 100, 1.0) == 1e-3
    assert learning_rate(options(schedule="constant", decay_steps=1), 99, 100, 1.0) == 1e-3


def test_the_cosine_goes_from_all_to_nothing():
    o = options(schedule="cosine", learning_rate=0.5)
    rates = [learning_rate(o, step, 100, 1.0) for step in range(101)]
    assert rates[0] == 0.5 and rates[50] == pytest.approx(0.25) and rates[25] == pytest.approx(0.25 + 0.25 / 2**0.5)
    assert rates[100] == pytest.approx(0, abs=1e-15) and 0 < rates[99] < 0.5 * (math.pi / 100) ** 2
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_the_warm_up_rises_evenly_and_ends():
    o = options(schedule="constant", learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(o, step, 100, 1.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def averaged(kind: str, decay: float = 0.999, steps: int = 7) -> tuple[nn.Module, Tiny, list[dict[str, np.ndarray]]]:
    """Return the average over random states of a network, the network at the end, and the states."""
    network, states = Tiny(), []
    average = averaged_model(options(average=kind, ema_decay=decay), network)
    assert average is not None
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
            else:
                value.fill_(step)
        states.append({name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()})
        average.update_parameters(network)
    assert int(average.n_averaged) == steps
    return average.module, network, states


def test_the_equal_average_is_the_mean_of_all_steps():
    average, _, states = averaged("equal")
    for name, value in average.state_dict().items():
        wanted = states[-1][name] if "num_batches" in name else np.mean([state[name] for state in states], axis=0)
        np.testing.assert_allclose(value.numpy(), wanted, atol=1e-6)


def test_the_exponential_average_against_a_loop():
    average, _, states = averaged("ema", 0.8)
    held = states[0]
    for state in states[1:]:
        held = {name: 0.8 * held[name] + 0.2 * state[name] for name in held}
    for name, value in average.state_dict().items():
        wanted = states[-1][name] if "num_batches" in name else held[name]
        np.testing.assert_allclose(value.numpy(), wanted, atol=1e-6)


def test_the_average_holds_copies():
    average, network, _ = averaged("equal", steps=1)
    before = average.state_dict()["linear.weight"].clone()
    with torch.no_grad():
        network.linear.weight.add_(1)
    assert torch.equal(average.state_dict()["linear.weight"], before)
    assert averaged_model(options(), network) is None
