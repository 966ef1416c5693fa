"""Networks that share their first layers: one definition in two frameworks, costs, 8-bit weights a channel."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as array_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from detector import export
from detector.join import eight_bits
from detector.model import Model, Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import INCEPTION_V3, SHARED, inception_v3
from detector.networks.layers import (
    SMALLEST_SCORE,
    Branches,
    Conv,
    Cost,
    GlobalAvgPool,
    MaxPool,
    Members,
    convolutions,
    cost,
    cut_after,
    layer_name,
)
from detector.networks.torch_module import AveragedMembers, ConvReLU, torch_network
from detector.runtimes.load import load_classifier
from detector.runtimes.openvino import OpenVinoClassifier
from detector.runtimes.torch import TorchClassifier
from detector.samples import sample_path
from detector.warp import warp
from detector.weights import Weights, check_arrays, load_weights, save_weights
from proposals.images import read_image
from proposals.selective.search import selective_search

SIZE = 96
NAMES = ("cat", "dog", "owl")
CUT = cut_after(INCEPTION_V3, SHARED)
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two ends of random weights, the second in 8 bits a channel, behind the shipped network's first layers."""
    shipped = find_model("inception_v3")
    source = load_weights(shipped)
    generator = np.random.default_rng(1)
    names = {conv.name for conv in convolutions(INCEPTION_V3[:CUT])}
    arrays: Arrays = {
        key: value
        for key, value in source.arrays.items()
        if key.rpartition(".")[0] in names and not key.endswith(".range")
    }
    (members,) = inception_v3(4, 2)[CUT:]
    assert isinstance(members, Members)
    for number, branch in enumerate(members.branches):
        own: Arrays = {}
        for conv in convolutions(branch):
            spread = (4 if conv.relu else 60) / np.sqrt(conv.inputs * conv.kernel[0] * conv.kernel[1])
            shape = (conv.outputs, conv.inputs, *conv.kernel)
            own[f"{conv.name}.weight"] = (spread * generator.standard_normal(shape)).astype(np.float16)
            own[f"{conv.name}.bias"] = generator.standard_normal(conv.outputs).astype(np.float32)
        arrays |= own if number == 0 else eight_bits(Weights(own), convolutions(branch), "")
    path = tmp_path_factory.mktemp("members") / "two.safetensors"
    return save_weights(
        path,
        arrays,
        Spec(
            network="inception_v3",
            size=SIZE,
            mean=shipped.mean,
            scale=shipped.scale,
            classes=4,
            class_names=NAMES,
            members=2,
        ),
    )


def random_crops(count: int, seed: int = 3) -> np.ndarray:
    """Crops of different contrast, so that their scores differ."""
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 256, (count, SIZE // 8, SIZE // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.ascontiguousarray(crops * rng.uniform(0.2, 1, (count, 1, 1, 1))).astype(np.uint8)


def test_the_layers_of_an_ensemble():
    alone, two = inception_v3(4), inception_v3(4, 2)
    assert two[:-1] == alone[:CUT] and isinstance(two[-1], Members) and inception_v3(4, 1) == alone
    first, second = (list(convolutions(branch)) for branch in two[-1].branches)
    own = list(convolutions(alone[CUT:]))
    for number, convs in enumerate((first, second)):
        assert [replace(conv, name=conv.name.removeprefix(f"{number}/")) for conv in convs] == own
        assert inception_v3(4, 2, number) == (*alone[:CUT], *two[-1].branches[number])
    names = [conv.name for conv in convolutions(two)]
    assert len(names) == len(set(names)) == len(list(convolutions(alone))) + len(own)
    assert layer_name(two[-1]) == "" and cut_after(two, SHARED) == CUT == len(two) - 1


@pytest.mark.parametrize(("members", "member"), [(0, -1), (-1, -1), (2, 2), (2, -2), (1, 1)])
def test_members_that_there_are_none_of(members: int, member: int):
    with pytest.raises(ValueError, match=f"an ensemble has members 0 and up, not {member} of {members}"):
        inception_v3(4, members, member)


SMALL = (
    Conv("a", 3, 4, (3, 3)),
    MaxPool(2, 2),
    Branches("b", ((Conv("b/1", 4, 2),), (Conv("b/2", 4, 3),))),
    MaxPool(2, 2),
    GlobalAvgPool(),
    Conv("c", 5, 2, relu=False),
)


def test_a_cut_takes_the_poolings_behind_a_layer():
    assert [cut_after(SMALL, name) for name in ("a", "b")] == [2, 5]
    assert [layer_name(layer) for layer in SMALL] == ["a", "", "b", "", "", "c"]


@pytest.mark.parametrize("name", ["c", "", "bb", "b/1"])
def test_a_cut_after_no_layer_or_the_last_one(name: str):
    with pytest.raises(ValueError, match=f"the network has no layer '{name}' to cut after; the nearest one is '[ab]'"):
        cut_after(SMALL, name)


def test_costs_by_hand():
    """Shared: 3 -> 4 channels by 3x3 on 8 x 8, then pooled to 4 x 4; the ends: a classifier, and two convolutions."""
    ends = (
        (GlobalAvgPool(), Conv("0/c", 4, 2, relu=False)),
        (Conv("1/b", 4, 5), GlobalAvgPool(), Conv("1/c", 5, 2, relu=False)),
    )
    shared = (Conv("a", 3, 4, (3, 3)), MaxPool(2, 2))
    found = cost((*shared, Members(ends)), (3, 8, 8))
    weights = 4 * 3 * 9 + 4 * 2 + (4 * 5 + 5 * 2)
    multiply_adds = 4 * 3 * 9 * 64 + 4 * 2 + (4 * 5 * 16 + 5 * 2)
    assert found == Cost((2, 1, 1), weights, 4 + 2 + (5 + 2), multiply_adds)


@pytest.mark.parametrize("members", [2, 6])
def test_an_ensemble_costs_its_shared_layers_once(members: int):
    shared = cost(INCEPTION_V3[:CUT], (3, SIZE, SIZE))
    alone = cost(inception_v3(7), (3, SIZE, SIZE))
    found = cost(inception_v3(7, members), (3, SIZE, SIZE))
    assert found.output == (7, 1, 1) == cost(inception_v3(7, members, 1), (3, SIZE, SIZE)).output
    for name in ("weights", "biases", "multiply_adds", "parameters"):
        first, whole = getattr(shared, name), getattr(alone, name)
        assert getattr(found, name) == first + members * (whole - first)


def classifiers(count: int) -> Members:
    return Members(tuple((Conv(f"{number}/c", 6, 5, relu=False),) for number in range(count)))


def averaged(count: int, spread: float = 1.0) -> AveragedMembers:
    module = AveragedMembers(classifiers(count))
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, ConvReLU):
            torch.nn.init.normal_(part.conv.weight, std=spread, generator=generator)
    return module.eval()


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("count", [2, 3])
def test_the_softmax_behind_members_is_their_mean(count: int):
    module = averaged(count)
    x = torch.randn(4, 6, 1, 1, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        wanted = np.mean([softmax(member(x).flatten(1).double().numpy()) for member in module.members], axis=0)
        found = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module(x)
    assert found.shape == (4, 5, 1, 1) and rounded.dtype == torch.float32
    np.testing.assert_allclose(found.flatten(1).softmax(1).numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(found.flatten(1).exp().numpy(), wanted, atol=1e-6)  # the softmax changes nothing
    assert 0 < np.abs(rounded.flatten(1).exp().numpy() - wanted).max() < 0.05


def test_scores_that_vanish_have_a_finite_logarithm():
    module = averaged(2, spread=1e4)
    with torch.inference_mode():
        found = module(torch.ones(1, 6, 1, 1))
    assert torch.isfinite(found).all() and found.min().item() == pytest.approx(np.log(SMALLEST_SCORE), rel=1e-6)
    assert found.flatten(1).softmax(1).sum().item() == pytest.approx(1)


def test_both_frameworks_give_the_mean_of_the_members(ensemble: Model):
    """float32: OpenVINO, torch, and the numpy mean of each member alone."""
    crops = random_crops(5)
    single = [TorchClassifier(replace(ensemble, member=number))(crops) for number in (0, 1)]
    wanted = np.mean(np.stack(single).astype(np.float64), axis=0)
    assert np.abs(single[0] - single[1]).max() > 0.1 and np.ptp(wanted, axis=0).max() > 0.01
    np.testing.assert_allclose(TorchClassifier(ensemble)(crops), wanted, atol=1e-5)
    np.testing.assert_allclose(OpenVinoClassifier(ensemble, "f32", 2)(crops), wanted, atol=1e-4)
    for number in (0, 1):
        alone = OpenVinoClassifier(replace(ensemble, member=number), "f32", 2)(crops)
        np.testing.assert_allclose(alone, single[number], atol=1e-4)


def test_the_file_says_how_many_members_it_has(ensemble: Model):
    model = find_model(ensemble.file)
    assert model == ensemble and (model.members, model.member, model.labels) == (2, -1, NAMES)
    assert model.layers == inception_v3(4, 2)
    check_arrays(replace(model, member=1), load_weights(model).arrays)
    with pytest.raises(ValueError, match=r"two.safetensors: holds 2 networks, each with its own classifier"):
        _ = model.classifier
    assert replace(model, member=1).classifier.name.startswith("1/")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": "0"}, "bad.safetensors: an ensemble has members 0 and up, not -1 of 0"),
        ({"members": "-2"}, "bad.safetensors: an ensemble has members 0 and up, not -1 of -2"),
        ({"members": "two"}, "bad.safetensors: members of its metadata is 'two', not a whole number"),
        ({"members": "1.5"}, "bad.safetensors: members of its metadata is '1.5', not a whole number"),
        (
            {"members": "2", "network": "googlenet"},
            "bad.safetensors: only inception_v3 has members that share their first layers",
        ),
    ],
)
def test_damaged_metadata(tmp_path: Path, changes: dict[str, str], message: str):
    metadata = {"network": "inception_v3", "size": "96", "mean": "128", "scale": "128"} | changes
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(ValueError, match=re.escape(message)):
        find_model(str(tmp_path / "bad.safetensors"))


def test_a_member_too_many_in_the_metadata_is_a_missing_array(ensemble: Model, tmp_path: Path):
    with safe_open(ensemble.file, framework="numpy") as file:
        metadata = file.metadata() | {"members": "3"}
    save_file(load_file(ensemble.file), tmp_path / "three.safetensors", metadata)
    with pytest.raises(ValueError, match=r"three.safetensors: 2/Mixed_7\w/.*weight is missing"):
        load_weights(find_model(str(tmp_path / "three.safetensors")))
    with pytest.raises(ValueError, match="an ensemble has members 0 and up, not 2 of 2"):
        replace(ensemble, member=2)


@given(
    array_of(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_8_bit_weights_round_trip_within_half_a_step(kernel: np.ndarray):
    conv = Conv("c", kernel.shape[1], kernel.shape[0], kernel.shape[2:], padding="valid")
    bias = np.arange(len(kernel), dtype=np.float32)
    stored = eight_bits(Weights({"c.weight": kernel, "c.bias": bias}), [conv], "7/")
    assert stored.keys() == {"7/c.weight", "7/c.scale", "7/c.bias"}
    assert stored["7/c.weight"].dtype == np.int8 and np.abs(stored["7/c.weight"].astype(int)).max() <= 127
    found = Weights(stored)
    step = np.maximum(np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 127, 1e-12)
    assert found.kernel("7/c").dtype == np.float32
    assert (np.abs(found.kernel("7/c") - kernel) <= step / 2 * 1.0001).all()
    np.testing.assert_array_equal(found.bias("7/c"), bias)
    again = eight_bits(Weights(stored | {"c.weight": found.kernel("7/c"), "c.bias": bias}), [conv], "7/")
    np.testing.assert_array_equal(
        again["7/c.weight"][step[:, 0, 0, 0] > 1e-6], stored["7/c.weight"][step[:, 0, 0, 0] > 1e-6]
    )


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, r"conv1/7x7_s2.scale is missing, .* needs \[16\]"),
        (np.ones(3, np.float32), r"conv1/7x7_s2.scale has shape \[3\], .* needs \[16\]"),
        (np.full(16, np.nan, np.float32), r"conv1/7x7_s2.scale has a value that is not a finite number"),
    ],
)
def test_8_bit_weights_need_a_scale_for_each_channel(tmp_path: Path, scale: np.ndarray | None, message: str):
    arrays: Arrays = {}
    for conv in convolutions(googlenet(3, "batch", 0.25)):
        arrays[f"{conv.name}.weight"] = np.ones((conv.outputs, conv.inputs, *conv.kernel), np.int8)
        arrays[f"{conv.name}.bias"] = np.zeros(conv.outputs, np.float32)
        arrays[f"{conv.name}.scale"] = np.ones(conv.outputs, np.float32)
    options = {"network": "googlenet", "size": 96, "mean": 128.0, "scale": 128.0, "classes": 3, "width": 0.25}
    path = tmp_path / "x.safetensors"
    model = save_weights(path, arrays, Spec(**options, norm="batch", class_names=("a", "b")))  # type: ignore[arg-type]
    np.testing.assert_array_equal(load_weights(model).kernel("conv1/7x7_s2"), 1)
    del arrays["conv1/7x7_s2.scale"]
    if scale is not None:
        arrays["conv1/7x7_s2.scale"] = scale
    with pytest.raises(ValueError, match=message):
        check_arrays(model, arrays)


def test_an_openvino_file_of_an_ensemble_takes_any_batch(ensemble: Model, tmp_path: Path):
    result = export.export(ensemble, tmp_path / "two.xml", "f32", None, random_crops(6))
    assert result.crops == 6 and result.largest < 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"two.xml", "two.bin"}


@pytest.mark.skipif(
    any(export.find_spec(name) is None for name in export.PACKAGES), reason="the extra `export` is not installed"
)
def test_an_onnx_graph_of_an_ensemble_gives_the_mean_too(ensemble: Model):
    """Of a network of one convolution and three classifiers, whose export is fast."""
    import onnxruntime

    from detector.networks.onnx_graph import onnx_scores_model

    network = torch_network((Conv("a", 3, 6), GlobalAvgPool(), classifiers(3))).eval()
    generator = torch.Generator().manual_seed(8)
    for part in network.modules():
        if isinstance(part, ConvReLU):
            torch.nn.init.normal_(part.conv.weight, std=2, generator=generator)
    proto = onnx_scores_model(ensemble, network, None, None)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    crops = random_crops(3)
    with torch.inference_mode():
        x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - ensemble.mean) / ensemble.scale
        pooled = network[1](network[0](x))
        members = [softmax(member(pooled).flatten(1).double().numpy()) for member in network[2].members]
    assert np.abs(members[0] - members[1]).max() > 0.05
    (found,) = session.run(None, {"crops": crops})
    np.testing.assert_allclose(found, np.mean(members, axis=0), atol=1e-4)


def test_the_torch_module_has_a_part_for_each_member():
    module = torch_network((Conv("a", 3, 6), classifiers(3)))
    assert isinstance(module[1], AveragedMembers) and len(module[1].members) == 3
    sources = [part.source for part in module.modules() if isinstance(part, ConvReLU)]
    assert sources == ["a", "0/c", "1/c", "2/c"]


@pytest.mark.slow
def test_shipped_ensemble_in_8_bits_is_the_mean_of_its_members():
    """On crops of a picture with little in it, where a member that was compiled wrongly shows."""
    image = read_image(sample_path("rocket.jpg"))
    ensemble = find_model("ensemble")
    crops = warp(image, selective_search(image, superpixel_scale=2, seed=0).boxes[::40], ensemble.size, ensemble.fill)
    members = [
        load_classifier(replace(ensemble, member=member), "openvino", "cpu", "int8", 8)(crops) for member in range(6)
    ]
    found = load_classifier(ensemble, "openvino", "cpu", "int8", 8)(crops)
    np.testing.assert_allclose(found, np.mean(members, axis=0), atol=5e-3)
    assert np.abs(members[0] - members[1]).max() > 0.02
