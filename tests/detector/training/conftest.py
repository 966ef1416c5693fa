"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detector.model import Spec
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import fold, training_network
from detector.weights import save_weights

SMALL = Spec(network="googlenet", size=75, mean=128.0, scale=64.0, width=0.25, norm="batch")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only lose by more threads, above all where other work keeps the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GoogLeNet a quarter as wide, of random weights and ImageNet's classes, whose scores tell pictures apart."""
    network = training_network(googlenet(SMALL.classes, SMALL.norm, SMALL.width), "none", 0.0, 3)
    network.convolutions()[-1].conv.weight.data.mul_(20)
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    return Path(save_weights(path, fold(network), SMALL).file)
