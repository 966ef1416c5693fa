"""Weights: the shipped file, and every way in which a file can be wrong."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from detector.networks.layers import convolutions
from detector.weights import Weights, describe_models, find_model, load_weights, model_names

SHIPPED = find_model("inception_v3")
OWN = {"network": "inception_v3", "size": "128", "mean": "127.5", "scale": "127.5"}


@pytest.fixture(scope="module")
def arrays():
    return load_file(SHIPPED.file)


def test_the_shipped_file_is_the_recorded_one_and_fits_the_network(arrays):
    assert hashlib.sha256(Path(SHIPPED.file).read_bytes()).hexdigest() == SHIPPED.sha256
    weights = load_weights(SHIPPED)
    layers = list(convolutions(SHIPPED.layers))
    assert len(layers) == 95 and SHIPPED.quantized
    parameters = sum(weights.kernel(c.name).size + weights.bias(c.name).size for c in layers)
    # 23,819,401 in the TF-Slim file, less the dummy class: 2,048 weights and one bias
    assert parameters == 23_819_401 - 2_049


def test_eight_bit_weights_are_scale_times_value_minus_zero_point(arrays):
    name = "Conv2d_1a_3x3"
    scale, zero = arrays[f"{name}.quantization"]
    stored = arrays[f"{name}.weight"][3, 2, 1, 0]
    found = load_weights(SHIPPED).kernel(name)
    assert found.dtype == np.float32 and found.shape == (32, 3, 3, 3)
    assert found[3, 2, 1, 0] == pytest.approx((float(stored) - float(zero)) * float(scale), rel=1e-6)


def test_float_weights_pass_unchanged():
    kernel = np.array([[[[0.5]]]], np.float16)
    weights = Weights({"a.weight": kernel, "a.bias": np.array([1], np.float16)})
    assert weights.kernel("a").dtype == np.float32 and weights.kernel("a")[0, 0, 0, 0] == 0.5


def test_names_and_descriptions():
    assert "inception_v3" in model_names()
    assert [name for name, _ in describe_models()] == list(model_names())


def test_unknown_model_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="no model of that name and no file; known models: inception_v3"):
        find_model("resnet")


def test_a_file_of_the_users_describes_itself(tmp_path, arrays):
    path = tmp_path / "mine.safetensors"
    save_file(arrays, path, OWN | {"sharpness": "0.25"})
    model = find_model(str(path))
    assert (model.name, model.size, model.mean, model.fill) == ("mine", 128, 127.5, (128, 128, 128))
    assert model.sharpness == 0.25 and model.quantized
    assert load_weights(model).bias("Conv2d_1a_3x3").shape == (32,)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "its metadata lacks 'size'; not a weights file of this project"),
        (OWN | {"size": "big"}, "a number of its metadata is none"),
        (OWN | {"network": "vgg"}, "unknown network 'vgg'; there are inception_v3"),
        (OWN | {"network": "torchvision_googlenet"}, "unknown network 'torchvision_googlenet'"),
        (OWN | {"size": "20"}, r"crops must have 75\.\.640 px, not 20"),
        (OWN | {"scale": "0"}, "scale be above 0"),
        (OWN | {"mean": "nan"}, r"mean must lie in 0\.\.255"),
        (OWN | {"sharpness": "nan"}, "sharpness not below 0"),
        (OWN | {"sharpness": "-1"}, "sharpness not below 0"),
    ],
)
def test_a_file_without_the_metadata_is_refused(tmp_path, metadata, message):
    path = tmp_path / "odd.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path, metadata)
    with pytest.raises(ValueError, match=message):
        find_model(str(path))


def test_damaged_files_are_refused_with_the_cure(tmp_path, arrays):
    content = Path(SHIPPED.file).read_bytes()
    truncated = tmp_path / "cut.safetensors"
    truncated.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.safetensors: damaged or truncated .* install the package again"):
        load_weights(replace(SHIPPED, file=str(truncated)))
    with pytest.raises(ValueError, match="not a safetensors file, or a truncated one"):
        load_weights(replace(SHIPPED, file=str(truncated), sha256=""))
    with pytest.raises(ValueError, match="not a safetensors file, or a truncated one"):
        find_model(str(truncated))
    flipped = bytearray(content)
    flipped[-1000] ^= 1
    damaged = tmp_path / "flipped.safetensors"
    damaged.write_bytes(flipped)
    with pytest.raises(ValueError, match="sha256 is not the recorded one"):
        load_weights(replace(SHIPPED, file=str(damaged)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Conv2d_1a_3x3.quantization", None, "Conv2d_1a_3x3.quantization is missing"),
        ("Conv2d_2a_3x3.range", None, "Conv2d_2a_3x3.range is missing"),
        ("Conv2d_2a_3x3.range", np.zeros(3, np.float32), r"has shape \[3\]"),
        ("Conv2d_2a_3x3.range", np.array([2, 1], np.float32), "is an empty interval"),
        ("Conv2d_2b_3x3.bias", np.full(64, np.nan, np.float32), "not a finite number"),
    ],
)
def test_what_an_8_bit_run_needs_is_checked(tmp_path, arrays, name, value, message):
    path = tmp_path / "odd.safetensors"
    wrong = dict(arrays)
    del wrong[name]
    if value is not None:
        wrong[name] = value
    save_file(wrong, path)
    with pytest.raises(ValueError, match=message):
        load_weights(replace(SHIPPED, file=str(path), sha256=""))


def test_another_networks_file_is_refused_naming_the_first_misfit(tmp_path, arrays):
    path = tmp_path / "other.safetensors"
    wrong = dict(arrays)
    wrong["Conv2d_2a_3x3.bias"] = np.zeros(7, np.float32)
    save_file(wrong, path)
    with pytest.raises(ValueError, match=r"Conv2d_2a_3x3.bias has shape \[7\], inception_v3 needs \[32\]"):
        load_weights(replace(SHIPPED, file=str(path), sha256=""))
    del wrong["Conv2d_1a_3x3.weight"]
    save_file(wrong, path)
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3\.weight is missing"):
        load_weights(replace(SHIPPED, file=str(path), sha256=""))
