"""Weights: the shipped file, and every way in which a file can be wrong."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from detector.classes import det_names
from detector.model import Spec, describe_models, file_digest, find_model, model_names, split_name
from detector.multibox import shipped_multibox
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import inception_v3
from detector.networks.layers import convolutions
from detector.weights import Weights, forget, load_weights, save_weights

SHIPPED = find_model("inception_v3")
OWN = {"network": "inception_v3", "size": "128", "mean": "127.5", "scale": "127.5"}
GOOGLENET = OWN | {"network": "googlenet"}
INPUT = {"size": 96, "mean": 127.5, "scale": 127.5}


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
    with pytest.raises(
        FileNotFoundError, match="and no file; known models: inception_v3_det, ensemble, fast, inception_v3"
    ):
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
        (OWN | {"size": "big"}, "size of its metadata is 'big', not a whole number"),
        (OWN | {"network": "vgg"}, "unknown network 'vgg'; there are inception_v3, googlenet"),
        (OWN | {"network": "torchvision_googlenet"}, "unknown network 'torchvision_googlenet'"),
        (OWN | {"size": "20"}, r"crops must have 75\.\.640 px, not 20"),
        (OWN | {"scale": "0"}, "scale be above 0"),
        (OWN | {"mean": "nan"}, r"mean must lie in 0\.\.255"),
        (OWN | {"sharpness": "nan"}, "sharpness not below 0"),
        (OWN | {"sharpness": "-1"}, "sharpness not below 0"),
        (OWN | {"classes": "many"}, "classes of its metadata is 'many', not a whole number"),
        (OWN | {"classes": "21"}, "21 outputs are neither ImageNet's 1000 nor .* name the others in class_names"),
        (OWN | {"classes": "-3"}, "-3 outputs are neither"),
        (OWN | {"classes": "3", "class_names": '["cat"]'}, "3 outputs are background and 2 classes.* has 1 different"),
        (OWN | {"classes": "3", "class_names": '["cat", "cat"]'}, "each with a name of its own"),
        (OWN | {"classes": "3", "class_names": '["cat", ""]'}, "each with a name of its own"),
        (OWN | {"class_names": "cat, dog"}, "class_names of its metadata is 'cat, dog', not a JSON list of names"),
        (OWN | {"class_names": "[1, 2]"}, r"class_names of its metadata is '\[1, 2\]', not a JSON list of names"),
        (OWN | {"cascade": "2"}, r"cascade must lie in 0\.\.1, got 2\.0"),
        (OWN | {"width": "2"}, "width and norm are GoogLeNet's; inception_v3 has none"),
        (OWN | {"norm": "batch"}, "width and norm are GoogLeNet's; inception_v3 has none"),
        (GOOGLENET | {"width": "wide"}, "width of its metadata is 'wide', not a number"),
        (GOOGLENET | {"width": "nan"}, "odd.safetensors: GoogLeNet's width must lie above 0"),
        (GOOGLENET | {"norm": "group"}, "odd.safetensors: GoogLeNet's norm must be lrn or batch, not 'group'"),
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


def random_arrays(layers, dtype=np.float32):
    """Small random weights of a network."""
    random = np.random.default_rng(0)
    arrays = {}
    for conv in convolutions(layers):
        shape = (conv.outputs, conv.inputs, *conv.kernel)
        arrays[f"{conv.name}.weight"] = random.standard_normal(shape, np.float32).astype(dtype)
        arrays[f"{conv.name}.bias"] = random.standard_normal(conv.outputs, np.float32).astype(dtype)
    return arrays


def test_a_file_of_ours_is_read_as_it_was_saved(tmp_path):
    path = tmp_path / "wide.safetensors"
    arrays = random_arrays(googlenet(3, "batch", 0.25), np.float16)
    names = ("cat", "Schäferhund")
    saved = save_weights(
        path,
        arrays,
        Spec(
            network="googlenet",
            **INPUT,
            sharpness=0.5,
            classes=3,
            width=0.25,
            norm="batch",
            class_names=names,
        ),
    )
    model = find_model(str(path))
    assert model == saved and model.layers == googlenet(3, "batch", 0.25) and not model.quantized
    assert (model.outputs, model.labels, model.sharpness) == ("own", names, 0.5)
    weights = load_weights(model)
    assert weights.arrays.keys() == arrays.keys()
    for conv in convolutions(model.layers):
        assert weights.kernel(conv.name).dtype == weights.bias(conv.name).dtype == np.float32
        np.testing.assert_array_equal(weights.kernel(conv.name), arrays[f"{conv.name}.weight"])
        np.testing.assert_array_equal(weights.bias(conv.name), arrays[f"{conv.name}.bias"])


def test_what_the_metadata_leave_out_is_the_papers_network(tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file(random_arrays(googlenet(width=0.25)), path, GOOGLENET)
    model = find_model(str(path))
    assert model.layers == googlenet() and (model.outputs, model.labels) == ("imagenet", det_names())
    wanted = (
        r"conv1/7x7_s2.weight has shape \[16, 3, 7, 7\], googlenet of width 1 and 1000 outputs needs \[64, 3, 7, 7\]"
    )
    with pytest.raises(ValueError, match=f"plain.safetensors: {wanted}.* names other classes or another width"):
        load_weights(model)


@pytest.mark.parametrize(("classes", "outputs"), [(1000, "imagenet"), (201, "det")])
def test_outputs_without_names(classes, outputs):
    model = replace(SHIPPED, classes=classes)
    assert model.outputs == outputs and model.labels == det_names() and model.layers == inception_v3(classes)


def test_own_names_make_own_outputs_whatever_their_number():
    names = tuple(f"class {i}" for i in range(999))
    assert replace(SHIPPED, classes=1000, class_names=names).outputs == "own"


def test_a_classifier_of_other_classes_is_refused_with_both_shapes(tmp_path):
    path = tmp_path / "det.safetensors"
    save_file(random_arrays(googlenet(201, width=0.25)), path, GOOGLENET | {"classes": "1000", "width": "0.25"})
    wanted = r"loss3/classifier.weight has shape \[201, 256, 1, 1\], .* 1000 outputs needs \[1000, 256, 1, 1\]"
    with pytest.raises(ValueError, match=wanted):
        load_weights(find_model(str(path)))


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    path = tmp_path / "new.safetensors"
    arrays = random_arrays(googlenet(201, width=0.25))
    with pytest.raises(ValueError, match=r"new.safetensors: conv1/7x7_s2.weight has shape"):
        save_weights(path, arrays, Spec(network="googlenet", **INPUT, classes=201))
    with pytest.raises(ValueError, match="crops must have"):
        save_weights(path, arrays, Spec(network="googlenet", **INPUT | {"size": 7}, classes=201, width=0.25))
    arrays["conv2/3x3.bias"][0] = np.inf
    with pytest.raises(ValueError, match=r"conv2/3x3.bias has a value that is not a finite number"):
        save_weights(path, arrays, Spec(network="googlenet", **INPUT, classes=201, width=0.25))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="cannot write"):
        save_weights(
            tmp_path / "no" / "x.safetensors",
            random_arrays(googlenet(201, width=0.25)),
            Spec(
                network="googlenet",
                **INPUT,
                classes=201,
                width=0.25,
            ),
        )


def test_the_metadata_are_plain_text_for_other_readers(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(
        path,
        random_arrays(googlenet(2, width=0.25)),
        Spec(
            network="googlenet",
            **INPUT,
            classes=2,
            width=0.25,
            class_names=("cat",),
        ),
    )
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata.pop("class_names")) == ["cat"]
    assert metadata == {
        "network": "googlenet",
        "size": "96",
        "mean": "127.5",
        "scale": "127.5",
        "sharpness": "0.0",
        "classes": "2",
        "width": "0.25",
        "norm": "lrn",
        "members": "1",
        "head": "softmax",
        "cascade": "0.0",
    }


def test_every_field_is_written_and_read():
    """A field that is added to `Spec` is, without a word elsewhere."""
    odd = Spec(
        network="inception_v3",
        size=96,
        mean=120.0,
        scale=60.0,
        classes=3,
        class_names=("a", "b"),
        members=2,
        cascade=0.5,
    )
    other = Spec(network="googlenet", size=96, mean=1.0, scale=2.0, sharpness=0.5, width=0.5, norm="batch")
    margins = Spec(network="googlenet", size=96, mean=1.0, scale=2.0, classes=201, head="svm")
    assert all(Spec.from_metadata(spec.to_metadata()) == spec for spec in (odd, other, margins))
    plain = Spec(network="inception_v3", size=160, mean=128.0, scale=128.0)
    for name in (field.name for field in fields(Spec)):
        assert any(getattr(spec, name) != getattr(plain, name) for spec in (odd, other, margins)), name


def test_a_file_is_hashed_and_read_once_for_all_its_networks(tmp_path, monkeypatch):
    """And again when it has changed."""
    path = tmp_path / "net.safetensors"
    arrays = random_arrays(googlenet(201, width=0.25))
    save_weights(path, arrays, Spec(network="googlenet", **INPUT, classes=201, width=0.25))
    hashed, read = [], []
    digest, content = hashlib.file_digest, Path.read_bytes
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: (hashed.append(1), digest(file, kind))[1])
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(1), content(self))[1])
    model = find_model(str(path))
    found = [load_weights(replace(model, size=size)) for size in (96, 128)]
    assert file_digest(model) == hashlib.sha256(content(path)).hexdigest()
    assert len(hashed) == len(read) == 1 and found[0].arrays is found[1].arrays
    arrays["conv1/7x7_s2.bias"] = arrays["conv1/7x7_s2.bias"] + 1
    save_weights(path, arrays, Spec(network="googlenet", **INPUT, classes=201, width=0.25))
    np.testing.assert_array_equal(load_weights(model).bias("conv1/7x7_s2"), arrays["conv1/7x7_s2.bias"])
    assert len(hashed) == len(read) == 2
    forget()
    assert load_weights(model).arrays.keys() == arrays.keys() and len(read) == 3


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    arrays = random_arrays(googlenet(201, width=0.25))
    contents = set()
    for i in range(4):
        path = tmp_path / f"{i}.safetensors"
        save_weights(path, arrays, Spec(network="googlenet", **INPUT, classes=201, width=0.25))
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_other_formats_are_refused_with_the_cure(tmp_path):
    checkpoint = tmp_path / "googlenet-1378be20.pth"
    checkpoint.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"pth: a torch checkpoint; .* is --model torchvision_googlenet"):
        find_model(str(checkpoint))
    heads = shipped_multibox()
    with pytest.raises(ValueError, match=r"weights of learned proposals, not of a classifier; use --multibox"):
        find_model(str(heads))
    run = tmp_path / "run"
    run.mkdir()
    (run / heads.name).write_bytes(heads.read_bytes())
    with pytest.raises(ValueError, match=r"run: a run of learned proposals, not of a classifier; use --multibox"):
        find_model(str(run))
    path = tmp_path / "brain.safetensors"
    arrays = {k: torch.from_numpy(v).bfloat16() for k, v in random_arrays(googlenet(201, width=0.25)).items()}
    save_torch(arrays, path, GOOGLENET | {"classes": "201", "width": "0.25"})
    with pytest.raises(ValueError, match=r"holds arrays of type 'BF16'; save them as float32 or float16"):
        load_weights(find_model(str(path)))


@pytest.mark.parametrize("names", [("Cat", "cat"), ("a b", "a_b"), ("a\nb", "c"), ("\x1b[31m", "c")])
def test_class_names_that_cannot_be_told_apart_or_printed(names):
    with pytest.raises(ValueError, match=r"differ by case or blanks alone|holds a control character"):
        replace(find_model("inception_v3"), classes=3, class_names=names)


def test_a_size_and_votes_behind_the_name(tmp_path):
    assert split_name("inception_v3@96") == ("inception_v3", 96, 0)
    assert split_name("inception_v3@96=2.5") == ("inception_v3", 96, 2.5)
    assert split_name("u@h/w=s.safetensors=6") == ("u@h/w=s.safetensors", 0, 6)
    assert split_name("u@h/w.safetensors") == ("u@h/w.safetensors", 0, 0)
    whole = tmp_path / "a@96=2"
    whole.write_bytes(b"")
    assert split_name(str(whole)) == (str(whole), 0, 0)
    assert (find_model("inception_v3@96").size, find_model("inception_v3@96=6").weight) == (96, 6)
    with pytest.raises(ValueError, match="not 20"):
        find_model("inception_v3@20")
