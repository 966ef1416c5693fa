"""Networks in training and at inference: folding, the two frameworks, auxiliary heads, fine-tuning."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.model import Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import inception_v3
from detector.networks.layers import LRN, Auxiliary, AvgPool, Conv, GlobalAvgPool, MaxPool
from detector.networks.openvino_graph import scores_model
from detector.networks.torch_module import (
    AuxiliaryHead,
    ConvReLU,
    fold,
    load_into,
    start_from,
    torch_network,
    training_network,
)
from detector.runtimes.base import summed_leaves
from detector.runtimes.openvino import OpenVinoClassifier
from detector.runtimes.torch import TorchClassifier
from detector.weights import Weights, save_weights

INPUT = {"mean": 127.5, "scale": 60.0}


def pictures(batch, size, seed=0):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def disturb(network, seed=1):
    """Give every array of a network random values of a trained one's order: biases, scales, running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, ConvReLU):
            if part.conv.bias is not None:
                torch.nn.init.normal_(part.conv.bias, std=0.2, generator=generator)
            if part.norm is not None:
                torch.nn.init.uniform_(part.norm.weight, 0.5, 1.5, generator=generator)
                torch.nn.init.normal_(part.norm.bias, std=0.2, generator=generator)
                torch.nn.init.normal_(part.norm.running_mean, std=0.2, generator=generator)
                torch.nn.init.uniform_(part.norm.running_var, 0.5, 2, generator=generator)
            if not part.relu:  # logits of order 1, so that the scores differ
                torch.nn.init.kaiming_normal_(part.conv.weight, generator=generator)
    return network


@pytest.mark.parametrize(
    ("layers", "norm", "size"),
    [
        (googlenet(7, "batch"), "batch", 96),
        (googlenet(7, "lrn"), "batch", 64),
        (googlenet(7, "lrn"), "none", 64),
        (inception_v3(7), "batch", 75),
    ],
    ids=["batch", "lrn and batch", "lrn", "inception"],
)
def test_the_folded_network_equals_the_trained_one(layers, norm, size):
    network = disturb(training_network(layers, norm)).eval()
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules()) == (norm == "batch")
    plain = torch_network(layers).eval()
    load_into(plain, Weights(fold(network)))
    with torch.inference_mode():
        x = pictures(2, size)
        wanted = network(x)
        found = plain(x).flatten(1)
    assert wanted.auxiliary == () and wanted.main.shape == (2, 7)
    assert wanted.main.std() > 0.1
    np.testing.assert_allclose(found, wanted.main, rtol=1e-4, atol=1e-4 * float(wanted.main.abs().max()))


def test_folding_by_hand():
    network = training_network((Conv("a", 1, 1), Conv("b", 1, 1, relu=False)), "batch").eval()
    first, last = network.convolutions()
    for values, value in (
        (first.conv.weight, 3.0),
        (first.norm.weight, 2.0),
        (first.norm.bias, 0.5),
        (first.norm.running_mean, 4.0),
        (first.norm.running_var, 0.25 - 1e-3),
        (last.conv.weight, 7.0),
        (last.conv.bias, -1.0),
    ):
        torch.nn.init.constant_(values, value)
    folded = {name: array.item() for name, array in fold(network).items()}
    # 2 x (3 x - 4) / 0.5 + 0.5 = 12 x - 15.5
    assert folded == pytest.approx({"a.weight": 12, "a.bias": -15.5, "b.weight": 7, "b.bias": -1}, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 224),
        ({"width": 0.25}, 96),
        ({"norm": "batch", "width": 0.5}, 96),
        ({"width": 1.25}, 96),
        ({"width": 0.5, "classes": 4, "class_names": ("cat", "dog", "owl")}, 101),
        ({"norm": "batch", "classes": 201, "width": 0.5}, 75),
    ],
)
def test_openvino_equals_torch(tmp_path, monkeypatch, options, size):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = {key: value for key, value in options.items() if key != "class_names"}
    arrays = fold(disturb(training_network(googlenet(**shape))))
    model = save_weights(tmp_path / "net.safetensors", arrays, Spec(network="googlenet", size=size, **INPUT, **options))
    crops = np.random.default_rng(2).integers(0, 256, (3, size, size, 3), np.uint8)
    found = OpenVinoClassifier(find_model(model.file), "f32", batch_size=2)(crops)
    wanted = TorchClassifier(model, batch_size=2)(crops)
    assert found.shape == (3, 1 + len(model.labels)) and np.ptp(wanted) > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_fp16_weights_give_nearly_the_same_scores(tmp_path):
    layers = googlenet(201, "batch", 0.5)
    arrays = {name: array.astype(np.float16) for name, array in fold(disturb(training_network(layers))).items()}
    options = {"network": "googlenet", "size": 96, **INPUT, "classes": 201, "width": 0.5, "norm": "batch"}
    half = save_weights(tmp_path / "half.safetensors", arrays, Spec(**options))
    full = save_weights(tmp_path / "full.safetensors", fold(disturb(training_network(layers))), Spec(**options))
    crops = np.random.default_rng(2).integers(0, 256, (2, 96, 96, 3), np.uint8)
    found, wanted = TorchClassifier(half)(crops), TorchClassifier(full)(crops)
    assert 0 < np.abs(found - wanted).max() < 0.01


def test_leaves_are_summed_only_where_the_network_has_them():
    shipped = find_model("inception_v3")
    own = replace(shipped, classes=201)
    assert summed_leaves("det", shipped).shape == (1000, 201)
    assert summed_leaves("imagenet", shipped) is None and summed_leaves("det", own) is None
    with pytest.raises(ValueError, match="its 201 outputs are background and classes of its own, not ImageNet's 1,000"):
        summed_leaves("imagenet", own)
    with pytest.raises(ValueError, match="classes must be det or imagenet, got 'coco'"):
        summed_leaves("coco", own)


def test_inference_has_neither_dropout_nor_auxiliary_heads():
    layers = googlenet(5, aux=True, width=0.25)
    names = [op.get_type_name() for op in _graph(layers).get_ops()]
    assert names.count("Convolution") == 58 and names.count("LRN") == 2
    modules = [type(m) for m in torch_network(layers).modules()]
    assert modules.count(torch.nn.Conv2d) == 58
    assert torch.nn.Dropout not in modules and AuxiliaryHead not in modules
    folded = fold(training_network(layers))
    assert folded.keys() == fold(training_network(googlenet(5, width=0.25))).keys() and len(folded) == 2 * 58


def _graph(layers):
    class Given:
        size, mean, scale, sharpness, head = 96, 0.0, 1.0, 0.0, "softmax"

        def __init__(self):
            self.layers = layers

    return scores_model(Given(), Weights(fold(training_network(layers))), None, 1)


def test_training_gives_auxiliary_logits_and_eval_does_not():
    network = training_network(googlenet(5, "batch", 0.25, aux=True), "batch")
    x = pictures(2, 224)
    out = network.train()(x)
    assert out.main.shape == (2, 5) and [tuple(a.shape) for a in out.auxiliary] == [(2, 5), (2, 5)]
    loss = out.main.square().mean() + 0.3 * sum(a.square().mean() for a in out.auxiliary)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.eval()(x).auxiliary == ()


def test_small_crops_are_too_small_for_the_heads():
    network = training_network(googlenet(5, "lrn", 0.25, aux=True)).train()
    assert len(network(pictures(1, 223)).auxiliary) == 2
    with pytest.raises(ValueError, match="loss1 needs a grid of 14, got 13; train on larger crops"):
        network(pictures(1, 222))
    assert network.eval()(pictures(1, 222)).main.shape == (1, 5)


def test_dropout_works_in_training_only_and_in_its_share():
    network = training_network((Conv("features", 1, 4000), Conv("last", 4000, 1, relu=False)), dropout=0.4)
    torch.nn.init.ones_(network.convolutions()[0].conv.weight)
    torch.nn.init.ones_(network.convolutions()[1].conv.weight)
    x = torch.ones(1, 1, 1, 1)
    assert network.eval()(x).main.item() == pytest.approx(4000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept = network.train()(x).main.item() * 0.6
    assert kept == pytest.approx(2400, abs=150) and kept != pytest.approx(2400, abs=1e-3)  # 31 is one deviation


def test_initial_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    one, same, other = (training_network(googlenet(5, width=0.25), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())  # the caller's random numbers are left alone
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_initial_weights_are_those_stated():
    network = training_network(googlenet(100), seed=0)
    for part in network.convolutions():
        inputs = part.conv.weight[0].numel()
        wanted = (2 / inputs) ** 0.5 if part.relu else 0.01
        assert float(part.conv.weight.detach().std()) == pytest.approx(wanted, rel=0.1), part.source
        assert not part.conv.bias.detach().any()


def test_fine_tuning_starts_from_what_fits():
    stored = Weights(fold(disturb(training_network(googlenet(9, width=0.25)))))
    network = training_network(googlenet(4, width=0.25, aux=True), seed=5)
    fresh = network.convolutions()[-1].conv.weight.detach().clone()
    assert start_from(network, stored) == ("loss3/classifier",)
    assert torch.equal(network.convolutions()[-1].conv.weight, fresh)
    folded = fold(network)
    for name, array in stored.arrays.items():
        if not name.startswith("loss3"):
            np.testing.assert_array_equal(folded[name], array)
    with pytest.raises(ValueError, match="no convolution of these weights fits"):
        start_from(training_network(inception_v3(4)), stored)
    with pytest.raises(ValueError, match="conv1/7x7_s2: weights with batch norm folded in need a network with norm"):
        start_from(training_network(googlenet(4, width=0.25), "batch"), stored)


def test_what_is_no_training_network_is_refused():
    for layers in ((), (MaxPool(3, 2),), (Conv("a", 3, 2),)):
        with pytest.raises(ValueError, match="ends in a classifier"):
            training_network(layers)
    head = Auxiliary("x", (Conv("a", 3, 4), Conv("b", 5, 2, relu=False)), 0.7)
    with pytest.raises(ValueError, match="these layers fit no grid: b takes 5 channels, 4 come in"):
        training_network((head, Conv("c", 3, 2, relu=False)))


def test_response_normalisation_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    found = torch_network((LRN(3, 0.5, 0.75, 2.0),))(x).flatten()
    squares = [1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16]
    wanted = [v / (2 + 0.5 / 3 * s) ** 0.75 for v, s in zip((1, 2, 3, 4), squares, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_pools_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    floor, ceil = (torch_network((MaxPool(3, 2, ceil=c),))(x)[0, 0].tolist() for c in (False, True))
    assert floor == [[10]] and ceil == [[10, 11], [14, 15]]
    assert torch_network((MaxPool(3, 1, pad=1),))(-x - 1)[0, 0, 0].tolist() == [-1, -1, -2, -3]  # zeros would win
    assert torch_network((AvgPool(3),))(x)[0, 0, 0].tolist() == [2.5, 3, 4, 4.5]  # padding is not counted
    assert torch_network((AvgPool(2, 2, "valid"),))(x)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert torch_network((GlobalAvgPool(),))(x).item() == 7.5


def test_dropout_stands_right_before_the_classifiers():
    from detector.networks.googlenet import AUXILIARY_DROPOUT, DROPOUT, googlenet
    from detector.networks.torch_module import AuxiliaryHead, training_network

    assert (DROPOUT, AUXILIARY_DROPOUT) == (0.4, 0.7)  # section 5
    network = training_network(googlenet(5, "batch", 0.25, aux=True)).train()
    seen = {}
    heads = [part for part in network.parts if isinstance(part, AuxiliaryHead)]
    for name, module in [("main", network.parts[-1]), *((head.name, head.classifier) for head in heads)]:
        module.register_forward_pre_hook(lambda m, given, name=name: seen.__setitem__(name, given[0].detach()))
    network(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert len(seen) == 3
    for name, features in seen.items():
        share = float((features == 0).float().mean())
        least = DROPOUT if name == "main" else AUXILIARY_DROPOUT
        assert share > least - 0.1, name  # ReLU makes zeros too, so there is no upper bound
