"""Joining networks into one file: what is refused, what is kept bit for bit, and scores that stay their mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.join import check_shared, join, main, shared_arrays
from detector.model import Model, Spec, find_model
from detector.networks.inception_v3 import INCEPTION_V3, SHARED, inception_v3
from detector.networks.layers import convolutions, cut_after
from detector.runtimes.openvino import OpenVinoClassifier
from detector.samples import sample_path, samples_folder
from detector.weights import Weights, load_weights, save_weights
from proposals.images import read_image

SIZE = 96
NAMES = ("cat", "dog", "owl")
CUT = cut_after(INCEPTION_V3, SHARED)
FIRST = "Conv2d_1a_3x3"
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def moved(name: str, weights: Weights, rng: np.random.Generator) -> Arrays:
    """Return the arrays of a convolution as training would leave them: near where it began, in float16."""
    kernel = weights.kernel(name)
    noise = 0.05 * kernel.std() * rng.standard_normal(kernel.shape, np.float32)
    return {f"{name}.weight": (kernel + noise).astype(np.float16), f"{name}.bias": weights.bias(name)}


def trained(seed: int, classes: int = 4, retrained: tuple[str, ...] = ()) -> Arrays:
    """Return a network with the shipped first layers, but the convolutions `retrained`, and an end of its own."""
    weights = load_weights(find_model("inception_v3"))
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for conv in convolutions(INCEPTION_V3[:CUT]):
        own = moved(conv.name, weights, np.random.default_rng(99))
        if conv.name not in retrained:
            own[f"{conv.name}.weight"] = weights.kernel(conv.name).astype(np.float16)
        arrays |= own
    for conv in convolutions(inception_v3(classes)[CUT:]):
        if conv.relu:
            arrays |= moved(conv.name, weights, rng)
        else:
            shape = (conv.outputs, conv.inputs, 1, 1)
            arrays[f"{conv.name}.weight"] = (0.03 * rng.standard_normal(shape)).astype(np.float16)
            arrays[f"{conv.name}.bias"] = rng.standard_normal(conv.outputs).astype(np.float32)
    return arrays


def saved(path: Path, arrays: Arrays, **changes: object) -> Model:
    values = {"network": "inception_v3", "size": SIZE, "mean": 128.0, "scale": 128.0, "classes": 4}
    return save_weights(path, arrays, Spec(**(values | {"class_names": NAMES} | changes)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base() -> Model:
    return replace(find_model("inception_v3"), size=SIZE)


RETRAINED = tuple(conv.name for conv in convolutions(INCEPTION_V3[:CUT]))[-2:]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Two networks that share the first layers, the last two convolutions of which were trained once for both."""
    folder = tmp_path_factory.mktemp("members")
    first, second = (saved(folder / f"{k}.safetensors", trained(k, retrained=RETRAINED)) for k in (0, 1))
    return first, second


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Parts of the samples, half of them to calibrate on."""
    rng = np.random.default_rng(0)
    found = []
    for name in ("dog", "chelsea", "coffee", "astronaut"):
        image = read_image(sample_path(name))
        for _ in range(8):
            y, x = (int(rng.integers(0, side - 2 * SIZE)) for side in image.shape[:2])
            found.append(image[y : y + 2 * SIZE : 2, x : x + 2 * SIZE : 2])
    return np.stack(found)


@pytest.fixture(scope="module")
def joined(
    base: Model, members: tuple[Model, Model], crops: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    return join(base, members, tmp_path_factory.mktemp("joined") / "two.safetensors", crops[::2])


def test_the_file_is_an_ensemble_in_8_bits(joined: Model, members: tuple[Model, Model]):
    model = find_model(joined.file)
    assert model == joined and (model.members, model.quantized, model.labels) == (2, True, NAMES)
    assert (model.size, model.mean, model.scale, model.sharpness) == (SIZE, 128, 128, 0)
    arrays = load_weights(model).arrays
    kernels = {key: array for key, array in arrays.items() if key.endswith(".weight")}
    assert {array.dtype for array in kernels.values()} <= {np.dtype(np.uint8), np.dtype(np.int8)}
    single = sum(Path(member.file).stat().st_size for member in members)
    assert Path(model.file).stat().st_size < 0.5 * single


def test_what_training_left_alone_is_the_bases_bit_for_bit(base: Model, joined: Model):
    stored, found = load_weights(base).arrays, load_weights(joined).arrays
    for conv in convolutions(INCEPTION_V3[:CUT]):
        if conv.name in RETRAINED:
            assert found[f"{conv.name}.weight"].dtype == np.int8
            continue
        own = {key for key in stored if key.rpartition(".")[0] == conv.name}
        assert own == {key for key in found if key.rpartition(".")[0] == conv.name} and len(own) == 4
        for key in own:
            assert found[key].dtype == stored[key].dtype
            np.testing.assert_array_equal(found[key], stored[key])


def test_the_rest_is_within_half_a_step_of_each_member(joined: Model, members: tuple[Model, Model]):
    found = load_weights(joined)
    last = list(convolutions(members[0].layers[CUT:]))
    for number, member in enumerate(members):
        own = load_weights(member)
        pairs = [(name, name) for name in RETRAINED] + [(conv.name, f"{number}/{conv.name}") for conv in last]
        for name, joined_name in pairs:
            step = np.abs(own.kernel(name)).max(axis=(1, 2, 3), keepdims=True) / 127
            assert (np.abs(found.kernel(joined_name) - own.kernel(name)) <= step / 2 * 1.0001).all()
            np.testing.assert_array_equal(found.bias(joined_name), own.bias(name))


def test_scores_are_close_to_the_mean_of_the_single_ones(
    joined: Model, members: tuple[Model, Model], crops: np.ndarray
):
    """On crops held out: to 0.05 with the weights in 8 bits, to 0.2, and 0.04 in the mean, with the outputs too."""
    held_out = crops[1::2]
    single = [OpenVinoClassifier(member, "f32")(held_out) for member in members]
    wanted = np.mean(np.stack(single), axis=0)
    assert np.abs(single[0] - single[1]).max() > 0.2 and np.ptp(wanted, axis=0).max() > 0.2
    floats = OpenVinoClassifier(joined, "f32")(held_out)
    eight = OpenVinoClassifier(joined)
    assert eight.precision == "int8"
    differences = np.abs(eight(held_out) - wanted)
    assert np.abs(floats - wanted).max() < 0.05
    assert differences.max() < 0.2 and differences.mean() < 0.04
    for number in (0, 1):
        alone = OpenVinoClassifier(replace(joined, member=number), "f32")(held_out)
        assert np.abs(alone - single[number]).max() < 0.1


def test_one_network_alone_is_put_into_8_bits(
    base: Model, members: tuple[Model, Model], crops: np.ndarray, tmp_path: Path
):
    model = join(base, members[:1], tmp_path / "one.safetensors", crops[:4])
    assert (model.members, model.quantized, model.layers) == (1, True, inception_v3(4))
    wanted = OpenVinoClassifier(members[0], "f32")(crops[1::4])
    assert np.abs(OpenVinoClassifier(model, "f32")(crops[1::4]) - wanted).max() < 0.1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 128}, "its size is not that of "),
        ({"mean": 120.0}, "its mean is not that of "),
        ({"scale": 127.5}, "its scale is not that of "),
        ({"classes": 3, "class_names": NAMES[:2]}, "its classes is not that of "),
        ({"class_names": ("cat", "owl", "dog")}, "its class_names is not that of "),
    ],
)
def test_a_network_of_another_kind_is_refused(members: tuple[Model, Model], change: dict[str, object], told: str):
    other = replace(members[1], **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"1.safetensors: {told}.*0.safetensors"):
        check_shared([members[0], other])
    check_shared(members)


def test_networks_that_cannot_be_members(members: tuple[Model, Model], joined: Model):
    googlenet, svm = replace(members[1], network="googlenet"), replace(members[1], head="svm")
    for other in (googlenet, joined, svm):
        with pytest.raises(ValueError, match="only single Inception-v3 networks with softmax scores can be joined"):
            check_shared([members[0], other])
    with pytest.raises(ValueError, match=r"the base of Inception-v3 networks is one of them, not googlenet"):
        shared_arrays(googlenet, members[0])


def test_the_mean_of_standardised_scores_is_not_made(members: tuple[Model, Model]):
    sharp = replace(members[0], sharpness=0.5)
    check_shared([sharp])
    with pytest.raises(ValueError, match=r"0.safetensors: has sharpness 0.5; members have 0"):
        check_shared([sharp, sharp])


def test_half_precision_is_close_and_a_trained_layer_is_not(base: Model, members: tuple[Model, Model]):
    """Of every shared layer: what float16 does to it passes for the same, what a little training does not."""
    arrays = shared_arrays(base, members[0])
    kernels = {key.removesuffix(".weight") for key, array in arrays.items() if array.dtype == np.int8}
    assert kernels == set(RETRAINED)
    assert {conv.name for conv in convolutions(INCEPTION_V3[:CUT])} == {key.rpartition(".")[0] for key in arrays}


def test_the_command_writes_what_the_function_does(
    members: tuple[Model, Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "two.safetensors"
    files = [member.file for member in members]
    pictures = ["--pictures", str(samples_folder() / "chelsea.jpg")]
    assert main([*files, "--out", str(out), "--crops", "6", *pictures]) == 0
    printed, told = capsys.readouterr()
    assert printed == "" and f"wrote {out} (" in told and "2 members" in told
    assert find_model(str(out)).members == 2 and load_weights(find_model(str(out))).arrays


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--out", "x.onnx"], 2, "--out must end in .safetensors"),
        (["--out", "x.safetensors", "--crops", "0"], 2, "--crops be at least 1"),
        (["--out", "x.safetensors", "--seed", "-1"], 2, "--seed not negative"),
        (["--out", "nowhere/x.safetensors"], 1, "nowhere is no folder; make it first"),
        (["nothing", "--out", "x.safetensors"], 1, "nothing: no model of that name and no file"),
        (["--out", "x.safetensors", "--base", "nothing"], 1, "nothing: no model of that name and no file"),
    ],
)
def test_mistakes_are_one_line(
    members: tuple[Model, Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    told: str,
):
    monkeypatch.chdir(tmp_path)
    assert main([members[0].file, *arguments]) == status
    printed, error = capsys.readouterr()
    assert printed == "" and error.count("\n") == 1 and error.startswith("python -m detector.join: ")
    assert told in error and not list(tmp_path.iterdir())


def test_other_first_layers_are_refused_and_leave_nothing_behind(
    members: tuple[Model, Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arrays = dict(load_weights(members[1]).arrays)
    arrays[f"{FIRST}.weight"] = arrays[f"{FIRST}.weight"] * np.float16(1.02)
    other = saved(tmp_path / "other.safetensors", arrays)
    assert main([members[0].file, other.file, "--out", str(tmp_path / "x.safetensors")]) == 1
    error = capsys.readouterr().err
    assert f"other.safetensors: its {FIRST} is not that of" in error and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"other.safetensors"}
