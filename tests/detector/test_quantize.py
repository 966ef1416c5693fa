"""Calibration: intervals by hand, and a file that runs in 8 bits close to float32."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save

from detector.agreement import image_paths, proposal_crops
from detector.model import Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.layers import convolutions
from detector.networks.torch_module import fold, training_network
from detector.quantize import BINS, STEPS, Histogram, best_end, calibrate, main, quantize, quantized_file
from detector.runtimes.load import load_classifier
from detector.runtimes.openvino import OpenVinoClassifier
from detector.samples import sample_path
from detector.weights import load_weights, save_weights, sorted_metadata

SIZE = 80


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A GoogLeNet of a tenth of the width with random weights and the 201 outputs of detection."""
    rng = np.random.default_rng(3)
    arrays = {}
    for c in convolutions(googlenet(201, "batch", 0.1)):
        spread = np.sqrt(2 / (c.inputs * c.kernel[0] * c.kernel[1]))
        arrays[f"{c.name}.weight"] = (spread * rng.standard_normal((c.outputs, c.inputs, *c.kernel))).astype(np.float32)
        arrays[f"{c.name}.bias"] = (0.05 * rng.standard_normal(c.outputs)).astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "float.safetensors"
    return save_weights(
        path, arrays, Spec(network="googlenet", size=SIZE, mean=117, scale=60, classes=201, width=0.1, norm="batch")
    )


@pytest.fixture(scope="module")
def crops(model):
    return proposal_crops([sample_path("dog"), sample_path("eagle")], model, (24, 16), 0)


def test_histogram_doubles_until_all_fits():
    histogram = Histogram()
    histogram.add(torch.tensor([-1.0, 0.0]))  # no positive value: nothing to count
    assert histogram.top == 0 and histogram.counts.sum() == 0
    histogram.add(torch.tensor([0.5, 1.0]))
    histogram.add(torch.tensor([3.0]))
    assert histogram.top == 4 and histogram.largest == 3
    assert histogram.counts.sum() == 3 and len(histogram.counts) == BINS
    # the first values lie where 2,048 bins of [0, 4] put them: 0.5 in bin 256, 1.0 in the last of [0, 1]
    assert histogram.counts[256] == 1 and histogram.counts[511] == 1 and histogram.counts[1536] == 1
    with pytest.raises(ValueError, match="not a finite number"):
        histogram.add(torch.tensor([float("inf")]))


def test_best_end_clips_one_outlier_and_keeps_an_even_spread():
    even = np.ones(BINS)
    assert best_end(even, 2.0, 2.0) == 2.0
    outlier = np.zeros(BINS)
    outlier[: BINS // 4] = 1e6
    outlier[-1] = 1
    assert 0.25 <= best_end(outlier, 1.0, 1.0) < 0.5
    assert best_end(np.zeros(BINS), 0.0, 0.0) > 0  # an output that is always zero has an interval, too


@given(st.lists(st.integers(0, 1000), min_size=BINS // 64, max_size=BINS // 64).filter(any))
def test_best_end_is_no_worse_than_the_largest_value(counts):
    histogram = np.repeat(np.array(counts, float), 64)
    centres = (np.arange(BINS) + 0.5) / BINS

    def error(end):
        step = end / STEPS
        return ((np.minimum(np.round(centres / step), STEPS) * step - centres) ** 2 @ histogram).item()

    assert error(best_end(histogram, 1.0, 1.0)) <= error(1.0) * (1 + 1e-9)


def test_intervals_begin_at_zero_and_end_within_what_was_seen(model, crops):
    calibration, _ = crops
    steps = []
    intervals = calibrate(model, calibration, steps.append)
    assert sum(steps) == len(calibration) == 24
    assert set(intervals) == {c.name for c in convolutions(model.layers) if c.relu}
    weights = load_weights(model)
    name = "conv1/7x7_s2"  # worked out by itself: the first layer
    x = (torch.from_numpy(calibration).permute(0, 3, 1, 2).float() - model.mean) / model.scale
    kernel, bias = torch.from_numpy(weights.kernel(name)), torch.from_numpy(weights.bias(name))
    largest = torch.nn.functional.conv2d(x, kernel, bias, stride=2, padding=3).max().item()
    low, high = intervals[name]
    assert low == 0 and 0.3 * largest < high <= largest * 1.0001


def test_a_quantized_file_runs_in_8_bits_close_to_float(model, crops, tmp_path):
    calibration, held_out = crops
    out = tmp_path / "int8.safetensors"
    result = quantize(model, out, calibration, held_out, {"calibration_crops": "24"})
    assert result.crops == 16 and result.top >= 0.9 and result.mean < 0.01
    found = find_model(str(out))
    assert found.quantized and (found.width, found.classes, found.size) == (0.1, 201, SIZE)
    eight, reference = (load_classifier(m, "auto", "cpu", p, 8)(held_out) for m, p in ((found, "int8"), (model, "f32")))
    assert (eight.argmax(axis=1) == reference.argmax(axis=1)).mean() >= 0.9
    assert not np.array_equal(eight, reference)  # it did round
    source, written = load_file(model.file), load_file(out)
    for name, array in source.items():
        np.testing.assert_array_equal(written[name], array)


def test_the_same_crops_give_the_same_bytes(model, crops):
    first, second = (quantized_file(model, crops[0][:8], {"b": "2", "a": "é"}) for _ in range(2))
    assert first == second
    header = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"]) and header["__metadata__"]["a"] == "é"


def test_sorting_the_metadata_keeps_the_arrays(tmp_path):
    arrays = {"x": np.arange(5, dtype=np.float32), "y": np.arange(3, dtype=np.uint8)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(sorted_metadata(save(arrays, {"z": "1", "é": "2", "a": "3"})))
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, arrays[name])
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"z": "1", "é": "2", "a": "3"}


def test_too_little_agreement_writes_nothing(model, crops, tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"a\.safetensors: not written; the 8-bit run is too far from float32"):
        quantize(model, out, *crops, {}, least=1.1)
    assert not list(tmp_path.iterdir())


def test_crops_are_disjoint_seeded_and_counted(model):
    paths = [sample_path("dog"), sample_path("eagle"), sample_path("horses")]
    first, held_out = proposal_crops(paths, model, (10, 5), 0)
    assert first.shape == (10, SIZE, SIZE, 3) and len(held_out) == 5
    np.testing.assert_array_equal(proposal_crops(paths, model, (10, 5), 0)[0], first)
    assert not np.array_equal(proposal_crops(paths, model, (10, 5), 1)[0], first)
    assert not any((crop == first).all(axis=(1, 2, 3)).any() for crop in held_out)


def test_pictures_from_lists_folders_and_names(tmp_path):
    (tmp_path / "one.jpg").write_bytes(sample_path("dog").read_bytes())
    (tmp_path / "list.txt").write_text("\none.jpg\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    assert image_paths([str(tmp_path / "list.txt")]) == [tmp_path / "one.jpg"] == image_paths([str(tmp_path)])
    assert len(image_paths([])) == 11
    for name, reason in (("empty.txt", "an empty list"), ("missing.jpg", "no such file")):
        with pytest.raises(ValueError, match=reason):
            image_paths([str(tmp_path / name)])
    with pytest.raises(ValueError, match="-: no such file"):
        image_paths(["-"])


def test_the_command_says_what_it_made(model, tmp_path, capsys):
    out = tmp_path / "int8.safetensors"
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    pictures = [str(sample_path("dog")), str(tmp_path / "broken.jpg")]
    words = [model.file, "--out", str(out), "--crops", "16", "--held-out", "8", "--least", "0.5", "--pictures"]
    assert main([*words, *pictures]) == 0
    said = capsys.readouterr().err
    assert "broken.jpg" in said and "left out" in said and "int8 against f32 on proposals held out: 4 crops" in said
    with safe_open(out, framework="numpy") as file:
        notes = file.metadata()
    assert notes["quantized_from"] == "float.safetensors" and len(notes["quantized_from_sha256"]) == 64
    assert (notes["calibration_crops"], notes["calibration_seed"]) == ("8", "0")
    before = out.read_bytes()
    assert main([*words, *pictures]) == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["nothing", "--out", "{}/a.safetensors"], 1, "no model of that name"),
        (["{model}", "--out", "{}/a.xml"], 2, "must end in .safetensors"),
        (["{model}", "--out", "{model}"], 2, "is the model itself"),
        (["{model}", "--out", "{}/no/a.safetensors"], 1, "is no folder"),
        (["torchvision_googlenet", "--out", "{}/a.safetensors"], 2, "defined by torch only"),
        (["{model}", "--out", "{}/a.safetensors", "--seed", "-1"], 2, "--seed must not be negative"),
        (["{model}", "--out", "{}/a.safetensors", "--pictures", "{}"], 1, "no pictures in this folder"),
    ],
)
def test_errors_are_one_line(model, tmp_path, capsys, arguments, status, line):
    assert main([word.replace("{model}", model.file).replace("{}", str(tmp_path)) for word in arguments]) == status
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_eight_bits_and_local_response_normalisation_are_refused(tmp_path: Path) -> None:
    network = training_network(googlenet(201, "lrn", 0.1), seed=0)
    about = {"network": "googlenet", "size": 96, "mean": 128.0, "scale": 128.0, "classes": 201, "width": 0.1}
    arrays = fold(network)
    model = save_weights(tmp_path / "lrn.safetensors", arrays, Spec(**about, norm="lrn"))
    with pytest.raises(ValueError, match="8-bit runs with LRN are not reliable; train it with norm batch"):
        quantized_file(model, np.zeros((1, 96, 96, 3), np.uint8), {})
    ranges = {f"{c.name}.range": np.array([0, 1], np.float32) for c in convolutions(model.layers) if c.relu}
    marked = save_weights(tmp_path / "marked.safetensors", arrays | ranges, Spec(**about, norm="lrn"))
    with pytest.raises(ValueError, match="not reliable; use bf16, or norm batch"):
        OpenVinoClassifier(marked, "int8")
    assert OpenVinoClassifier(marked).precision != "int8"
