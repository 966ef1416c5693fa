"""The two runtimes give the same scores, whatever the batch; combinations that do not exist are refused."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.classes import det_names
from detector.model import find_model
from detector.runtimes import compiled
from detector.runtimes.load import load_classifier
from detector.runtimes.openvino import OpenVinoClassifier
from detector.runtimes.torch import TorchClassifier, load_network
from detector.warp import warp
from proposals.opencv import selective_search_opencv

SAMPLES = Path(__file__).parents[3] / "samples"
MODEL = replace(find_model("inception_v3"), size=128)


def warp_whole(size):
    """The whole picture of a cat as one crop."""
    image = np.asarray(Image.open(SAMPLES / "chelsea.jpg").convert("RGB"))
    height, width = image.shape[:2]
    return warp(image, np.array([[0, 0, width, height]], np.float32), size, MODEL.fill)


@pytest.fixture(scope="module")
def crops():
    image = np.asarray(Image.open(SAMPLES / "chelsea.jpg").convert("RGB"))
    return warp(image, selective_search_opencv(image, max_boxes=19).boxes, MODEL.size, MODEL.fill)


@pytest.fixture(scope="module")
def reference(crops):
    return TorchClassifier(MODEL, batch_size=19)(crops)


def test_openvino_f32_equals_torch(crops, reference):
    found = OpenVinoClassifier(MODEL, "f32")(crops)
    assert found.shape == (19, 201) and found.dtype == np.float32
    np.testing.assert_allclose(found, reference, atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(("precision", "mean_difference"), [("bf16", 2e-3), ("int8", 4e-3)])
def test_reduced_precision_stays_near_torch(crops, reference, precision, mean_difference):
    found = OpenVinoClassifier(MODEL, precision)(crops)
    assert np.abs(found - reference).mean() < mean_difference
    agree = (found.argmax(axis=1) == reference.argmax(axis=1)).mean()
    assert agree >= 0.8
    assert np.abs(found - reference).max() > 1e-4  # it is another precision


@pytest.mark.parametrize("classifier", [OpenVinoClassifier, TorchClassifier])
def test_batch_size_and_order_do_not_matter(crops, classifier):
    network = classifier(MODEL, batch_size=4)
    first = network(crops[:7])
    second = classifier(MODEL, batch_size=3)(crops[6::-1])[::-1]
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert network(crops[:0]).shape == (0, 201)


def test_the_cat_is_a_cat(crops):
    scores = OpenVinoClassifier(find_model("inception_v3"))(warp_whole(160))
    assert det_names()[scores[0, 1:].argmax()] == "domestic cat"


@pytest.mark.parametrize(
    ("runtime", "device", "precision", "message"),
    [
        ("openvino", "cuda", "auto", "OpenVINO does not run on CUDA"),
        ("torch", "cpu", "int8", "torch runtime has precision f32 and bf16"),
        ("openvino", "cpu", "f64", "precision must be one of auto, f32, bf16, int8"),
    ],
)
def test_impossible_combinations_are_refused(runtime, device, precision, message):
    with pytest.raises(ValueError, match=message):
        load_classifier(MODEL, runtime, device, precision, 8)


def test_cuda_without_a_device_is_refused():
    import torch

    if torch.cuda.is_available():
        assert "torch" in load_classifier(MODEL, "torch", "cuda", "auto", 8).describe()
    else:
        with pytest.raises(ValueError, match="torch finds no CUDA device here; use --device cpu"):
            load_classifier(MODEL, "torch", "cuda", "auto", 8)


def test_auto_takes_openvino_on_the_cpu():
    assert isinstance(load_classifier(MODEL, "auto", "cpu", "auto", 8), OpenVinoClassifier)


def test_torchvisions_model_needs_torch():
    with pytest.raises(ValueError, match="runs in torch only; leave --runtime openvino out"):
        load_classifier(find_model("torchvision_googlenet"), "openvino", "cpu", "f32", 8)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (None, "cannot download torchvision's weights .* go online once .* or use --model inception_v3"),
        (b"not weights", r"is damaged \(its sha256 differs\); delete it"),  # in torch's hub folder, of the right name
    ],
)
def test_torchvisions_weights_that_cannot_be_had(tmp_path, monkeypatch, kept, message):
    from torchvision.models import GoogLeNet_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nowhere
    if kept is not None:
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / GoogLeNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]).write_bytes(kept)
    with pytest.raises(ValueError, match=message):
        load_network(find_model("torchvision_googlenet"))


def test_precision_auto_is_int8_for_weights_trained_for_it():
    assert OpenVinoClassifier(MODEL).precision == "int8"
    plain = OpenVinoClassifier(replace(MODEL, quantized=False))
    assert plain.precision in ("bf16", "f32")
    with pytest.raises(ValueError, match="holds no 8-bit intervals"):
        OpenVinoClassifier(replace(MODEL, quantized=False), "int8")


def test_int8_rounds_after_every_convolution():
    from detector.classes import leaf_matrix
    from detector.networks.openvino_graph import scores_model
    from detector.weights import load_weights

    weights = load_weights(MODEL)
    for int8, count in ((True, 95), (False, 0)):  # 94 convolutions with ReLU, and the input
        graph = scores_model(MODEL, weights, leaf_matrix(), 1, int8)
        assert sum(op.get_type_name() == "FakeQuantize" for op in graph.get_ops()) == count


def test_two_threads_take_turns(crops):
    classifier = OpenVinoClassifier(MODEL)
    expected = classifier(crops)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(classifier, [crops] * 8):
            np.testing.assert_array_equal(found, expected)


def test_works_on_after_a_failure_inside_a_call(crops):
    classifier = OpenVinoClassifier(MODEL)
    expected = classifier(crops)

    class Interrupted(np.ndarray):
        """Crops of which the third batch cannot be had, as when the user presses Ctrl-C."""

        def __getitem__(self, key):
            if isinstance(key, slice) and key.start == 16:
                raise KeyboardInterrupt
            return np.asarray(super().__getitem__(key))

    with pytest.raises(KeyboardInterrupt):
        classifier(crops.view(Interrupted))
    np.testing.assert_array_equal(classifier(crops), expected)


def test_cache_folder_is_private_and_optional(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder() == tmp_path / "googlenet-rcnn" / "openvino"
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert compiled.cache_folder() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert compiled.cache_folder() is None


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_cache_keeps_compiled_models_whole_and_few(tmp_path, monkeypatch, crops):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compiled.cache_folder()
    expected = OpenVinoClassifier(MODEL)(crops)
    (entry,) = folder.iterdir()
    np.testing.assert_array_equal(OpenVinoClassifier(MODEL)(crops), expected)
    assert list(folder.iterdir()) == [entry]  # the second one came from the cache
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 255
    entry.write_bytes(content)
    np.testing.assert_array_equal(OpenVinoClassifier(MODEL)(crops), expected)  # damaged: compiled again
    assert entry.read_bytes() != content
    for number in range(compiled.KEPT + 2):
        compiled.store_entry(folder, compiled.entry_name(number), b"compiled")
    assert len(list(folder.iterdir())) == compiled.KEPT
    last = compiled.entry_name(compiled.KEPT + 1)
    assert compiled.load_entry(folder, last) == b"compiled"
    assert compiled.load_entry(folder, "none.model") is None and compiled.load_entry(None, last) is None


def test_the_cache_keeps_what_is_used(tmp_path):

    names = [f"{i}.model" for i in range(compiled.KEPT)]
    for i, name in enumerate(names):
        compiled.store_entry(tmp_path, name, b"x")
        os.utime(tmp_path / name, (i, i))
    assert compiled.load_entry(tmp_path, names[0]) == b"x"  # the oldest, now the latest used
    compiled.store_entry(tmp_path, "new.model", b"y")
    assert {p.name for p in tmp_path.iterdir()} == {"new.model", *names} - {names[1]}
