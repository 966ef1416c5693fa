"""The torch runtime: batches, precision, memory that runs out, torch.compile; on CUDA too where there is some."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from detector.model import find_model
from detector.networks.layers import LRN, Branches, Conv, GlobalAvgPool, MaxPool, cut_after
from detector.networks.torch_module import torch_network
from detector.runtimes.load import load_features
from detector.runtimes.openvino import OpenVinoFeatures
from detector.runtimes.torch import TorchClassifier, TorchFeatures

MODEL = replace(find_model("inception_v3"), size=75, sharpness=4.0)
NETWORK = (
    Conv("stem", 3, 8, (3, 3), stride=2),
    LRN(5, 1e-4, 0.75, 1.0),
    MaxPool(3, 2),
    Branches("module", ((Conv("left", 8, 8),), (Conv("reduce", 8, 4), Conv("right", 4, 8, (5, 5))))),
    GlobalAvgPool(),
    Conv("logits", 16, 1000, relu=False),
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torch_network(NETWORK)


@pytest.fixture(scope="module")
def crops():
    """Blocks of colour of different contrast, so that their scores differ."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (19, 15, 15, 3)).repeat(5, axis=1).repeat(5, axis=2)
    return np.ascontiguousarray(blocks * rng.uniform(0.2, 1, (19, 1, 1, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def reference(network, crops):
    scores = TorchClassifier(MODEL, batch_size=32, network=network)(crops)
    assert scores.max(axis=1).min() > 2 * np.median(scores)  # they say something
    return scores


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_scores_do_not_depend_on_the_batch(network, crops, reference, batch_size, device):
    classifier = TorchClassifier(MODEL, device, "f32", batch_size, network=network)
    found = classifier(crops)
    assert found.dtype == np.float32 and found.shape == (19, 201)
    np.testing.assert_allclose(found, reference, atol=1e-4)
    np.testing.assert_allclose(classifier(crops[::-1])[::-1], found, atol=1e-4)
    assert classifier(crops[:0]).shape == (0, 201)


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_stays_near_f32(network, crops, reference, device):
    found = TorchClassifier(MODEL, device, "bf16", 8, network=network)(crops)
    assert 0 < np.abs(found - reference).max() < 2e-2
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)  # softmax and the sum over leaves are in f32
    assert next(network.parameters()).dtype == torch.float32  # the caller's network is as it was


def test_imagenet_scores_are_those_of_the_1000_classes(network, crops):
    found = TorchClassifier(MODEL, "cpu", "f32", 8, "imagenet", network)(crops)
    assert found.shape == (19, 1000)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_crops_are_written_a_batch_at_a_time(network, crops, reference):
    spans = []

    def write(start, stop, out):
        spans.append((start, stop, out.shape))
        out[:] = crops[start:stop]

    found = TorchClassifier(MODEL, "cpu", "f32", 8, network=network).score(19, write)
    np.testing.assert_allclose(found.scores, reference, atol=1e-4)
    assert found.deltas is None
    assert spans == [(0, 8, (8, 75, 75, 3)), (8, 16, (8, 75, 75, 3)), (16, 19, (3, 75, 75, 3))]


class Hungry(nn.Module):
    """A network that needs more memory than there is."""

    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_too_little_memory_is_an_error_that_names_the_cure(crops):
    with pytest.raises(ValueError, match="memory does not hold 16 crops; give a smaller --batch-size"):
        TorchClassifier(MODEL, "cpu", "f32", 16, network=Hungry())(crops)


def test_torch_compile_gives_the_same_scores(network, crops, reference, monkeypatch):
    """The compiler itself takes minutes; here it is asked for, and what it makes is what runs."""
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(self))
    found = TorchClassifier(MODEL, "cpu", "f32", 8, network=network, compiled=True)
    np.testing.assert_allclose(found(crops), reference, atol=1e-4)
    assert len(asked) == 1 and isinstance(asked[0], nn.Sequential)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_no_cuda_is_an_error_that_names_the_cure():
    for make in (lambda: TorchClassifier(MODEL, "cuda"), lambda: load_features(MODEL, 3, "auto", "cuda")):
        with pytest.raises(ValueError, match="torch finds no CUDA device here; use --device cpu"):
            make()


def test_describes_what_runs_where(network):
    line = TorchClassifier(MODEL, "cpu", "f32", network=network).describe()
    assert line.startswith("inception_v3 at 75 px, torch ") and line.endswith("on the CPU, f32, batches of 8")


@pytest.mark.parametrize("device", DEVICES)
def test_features_are_openvinos(crops, device):
    """The frozen layers of training, and MultiBox's trunk: two cuts and the network's own scores."""
    model = find_model("inception_v3@75")
    cuts = [cut_after(model.layers, name) for name in ("Mixed_5b", "Mixed_6a")]

    def write(start, stop, out):
        out[:] = crops[start:stop]

    found = []
    for network in (TorchFeatures(model, cuts, device, "f32", True), OpenVinoFeatures(model, cuts, "f32", True)):
        rows = [np.empty((9, *shape), np.float32) for shape in network.shapes]
        network.run(9, write, *rows)
        found.append(rows)
        assert network.shape == network.shapes[0] and network.precision == "f32"
    assert [rows.shape[1:] for rows in found[0]] == [rows.shape[1:] for rows in found[1]]
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.ptp(theirs))
