"""OpenVINO: features as torch has them, row by row whatever the batch, several ends; the one core of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from detector.classes import leaf_matrix
from detector.model import Model, Spec
from detector.networks.googlenet import googlenet
from detector.networks.layers import convolutions, cut_after
from detector.networks.openvino_graph import ends_model, features_model
from detector.networks.torch_module import fold, load_into, torch_network, training_network
from detector.quantize import calibrate
from detector.runtimes.base import CPU_BATCH, IMAGENET, Crops
from detector.runtimes.compiled import core
from detector.runtimes.openvino import OpenVinoClassifier, OpenVinoFeatures, Requests
from detector.weights import load_weights, save_weights

SIZE, LAYER, CHANNELS, GRID = 96, "inception_4e", 208, 3  # 832 channels of width 1, pooled behind the module


def small(path: Path, classes: int, seed: int, sharpness: float = 0.0) -> Model:
    """A narrow GoogLeNet with random weights, and intervals for 8 bits."""
    network = training_network(googlenet(classes, "batch", 0.25), "none", 0.0, seed)
    network.convolutions()[-1].conv.weight.data.mul_(20)
    arrays = fold(network)
    options = {"size": SIZE, "mean": 128.0, "scale": 64.0, "width": 0.25, "norm": "batch", "sharpness": sharpness}
    floats = save_weights(path, arrays, Spec(network="googlenet", classes=classes, **options))  # type: ignore[arg-type]
    intervals = {f"{name}.range": interval for name, interval in calibrate(floats, noise(4, seed=9)).items()}
    return save_weights(path, arrays | intervals, Spec(network="googlenet", classes=classes, **options))  # type: ignore[arg-type]


def noise(count: int, seed: int = 0) -> Crops:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return small(tmp_path_factory.mktemp("trunk") / "trunk.safetensors", 1000, 1, sharpness=0.5)


@pytest.fixture(scope="module")
def crops() -> Crops:
    return noise(2 * CPU_BATCH + 3)


class Writer:
    """Puts crops where the network wants them, and notes what it was asked for."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int, out: Crops) -> None:
        self.asked.append((start, stop))
        assert out.shape == (stop - start, SIZE, SIZE, 3)
        out[:] = self.crops[start:stop]


def cut_of(model: Model) -> int:
    return cut_after(model.layers, LAYER)


def features_of(network: OpenVinoFeatures, crops: Crops, dtype: type = np.float32) -> np.ndarray:
    found = np.full((len(crops), *network.shape), np.nan, dtype)
    network.run(len(crops), Writer(crops), found)
    return found


def test_features_are_those_of_torch(model: Model, crops: Crops):
    network = OpenVinoFeatures(model, cut_of(model), "f32")
    assert network.shape == (CHANNELS, GRID, GRID) and network.precision == "f32" and network.model is model
    first = torch_network(model.layers[: cut_of(model)]).eval()
    load_into(first, load_weights(model))
    with torch.inference_mode():
        x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - model.mean) / model.scale
        wanted = first(x).numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(features_of(network, crops), wanted, rtol=1e-3, atol=1e-3 * wanted.max())
    half = features_of(network, crops, np.float16)
    np.testing.assert_allclose(half.astype(np.float32), wanted, rtol=2e-3, atol=2e-3 * wanted.max())


def test_rows_do_not_depend_on_their_batch(model: Model, crops: Crops):
    """Nor on what the requests held before."""
    network = OpenVinoFeatures(model, cut_of(model), "f32")
    whole = features_of(network, crops)
    for count in (0, 1, CPU_BATCH, CPU_BATCH + 1):
        np.testing.assert_array_equal(features_of(network, crops[:count]), whole[:count])
    np.testing.assert_array_equal(features_of(network, crops[::-1])[::-1], whole)


def test_crops_are_asked_for_batch_by_batch(model: Model, crops: Crops):
    network = OpenVinoFeatures(model, cut_of(model), "f32")
    write = Writer(crops)
    network.run(len(crops), write, np.empty((len(crops), *network.shape), np.float32))
    assert write.asked == [(0, CPU_BATCH), (CPU_BATCH, 2 * CPU_BATCH), (2 * CPU_BATCH, 2 * CPU_BATCH + 3)]


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_the_scores_beside_are_the_whole_networks(model: Model, crops: Crops, precision: str):
    network = OpenVinoFeatures(model, cut_of(model), precision, scores=True)
    features = np.empty((len(crops), *network.shape), np.float32)
    scores = np.empty((len(crops), 1000), np.float32)
    network.run(len(crops), Writer(crops), features, scores)
    wanted = OpenVinoClassifier(model, precision, CPU_BATCH, IMAGENET)(crops)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
    alone = features_of(OpenVinoFeatures(model, cut_of(model), precision), crops)
    # in 8 bits, OpenVINO rounds the concatenated features once more for the layers behind: to two levels
    step = features.max() / 255 if precision == "int8" else 1e-4
    np.testing.assert_allclose(features, alone, rtol=1e-3, atol=2 * step)


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_several_cuts_are_what_each_is_alone(model: Model, crops: Crops, precision: str):
    """Also with the scores behind them; the layers in between run once."""
    cuts = [cut_after(model.layers, name) for name in ("inception_3a", "inception_4d", LAYER)]
    for number in (1, 2, 3):
        network = OpenVinoFeatures(model, cuts[:number], precision, scores=True)
        assert network.shapes[:-1] == ((64, 12, 12), (136, 6, 6), (CHANNELS, GRID, GRID))[:number]
        assert network.shape == network.shapes[0] and network.shapes[-1] == (1000,)
        rows = [np.full((len(crops), *shape), np.nan, np.float32) for shape in network.shapes]
        network.run(len(crops), Writer(crops), *rows)
        for found, cut in zip(rows, cuts[:number], strict=False):
            wanted = features_of(OpenVinoFeatures(model, cut, precision), crops)
            assert wanted.std() > 0.01
            # in 8 bits, what later layers take is rounded once more: to two levels
            step = wanted.max() / 255 if precision == "int8" else 1e-4
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2 * step)
        scores = OpenVinoClassifier(model, precision, CPU_BATCH, IMAGENET)(crops)
        np.testing.assert_allclose(rows[-1], scores, atol=1e-5)


def test_8_bits_are_close_and_the_default_where_there_are_intervals(model: Model, crops: Crops):
    network = OpenVinoFeatures(model, cut_of(model))
    assert network.precision == "int8"
    found, wanted = features_of(network, crops), features_of(OpenVinoFeatures(model, cut_of(model), "f32"), crops)
    assert 0 < np.abs(found - wanted).mean() < 0.1 * wanted.std()


@pytest.mark.parametrize("precision", ["int4", ""])
def test_a_precision_that_there_is_not(model: Model, precision: str):
    with pytest.raises(ValueError, match="precision must be one of auto, f32, bf16, int8"):
        OpenVinoFeatures(model, cut_of(model), precision)


def test_a_write_that_fails_leaves_the_network_usable(model: Model, crops: Crops):
    network = OpenVinoFeatures(model, cut_of(model), "f32")
    whole = features_of(network, crops)

    def fails(start: int, stop: int, out: Crops) -> None:
        if start:
            raise KeyboardInterrupt
        out[:] = 0

    with pytest.raises(KeyboardInterrupt):
        network.run(len(crops), fails, np.empty((len(crops), *network.shape), np.float32))
    np.testing.assert_array_equal(features_of(network, crops), whole)


def test_threads_take_turns(model: Model, crops: Crops):
    network = OpenVinoFeatures(model, cut_of(model), "f32")
    parts = [crops[:5], crops[5:14], crops[14:]]
    wanted = [features_of(network, part) for part in parts]
    found: list[np.ndarray] = [np.empty(0)] * 3

    def work(number: int) -> None:
        found[number] = features_of(network, parts[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, right in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(own, right)


def test_a_graph_of_several_outputs_fills_all(model: Model, crops: Crops):
    graph = features_model(model, load_weights(model), cut_of(model), 2, scores=True)
    requests = Requests(core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))
    assert requests.shapes == ((CHANNELS, GRID, GRID), (1000,)) and requests.streams >= 1
    rows = [np.empty((5, *shape), np.float32) for shape in requests.shapes]
    requests.run(5, Writer(crops), rows)
    np.testing.assert_allclose(
        rows[0], features_of(OpenVinoFeatures(model, cut_of(model), "f32"), crops[:5]), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(rows[1], OpenVinoClassifier(model, "f32", 2, IMAGENET)(crops[:5]), atol=1e-5)


@pytest.mark.parametrize("int8", [False, True])
def test_the_ends_of_several_networks(model: Model, crops: Crops, tmp_path: Path, int8: bool):
    """Each gives what its network alone does, which has the trunk's first layers in its own file."""
    shared = {conv.name for conv in convolutions(model.layers[: cut_of(model)])}
    trunk = load_weights(model).arrays
    ends = []
    for number, classes in enumerate((201, 1000)):
        own = small(tmp_path / f"{number}.safetensors", classes, 10 + number)
        arrays = dict(load_weights(own).arrays)
        arrays |= {key: value for key, value in trunk.items() if key.rpartition(".")[0] in shared}
        options = {"size": SIZE, "mean": 128.0, "scale": 64.0, "width": 0.25, "norm": "batch", "classes": classes}
        ends.append(save_weights(own.file, arrays, Spec(network="googlenet", **options)))  # type: ignore[arg-type]
    graph = ends_model(model, cut_of(model), [(ends[0], None), (ends[1], leaf_matrix())], 4, int8)
    requests = Requests(core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))
    assert requests.shapes == ((201,), (201,))
    rows = [np.empty((len(crops), 201), np.float32) for _ in ends]
    requests.run(len(crops), Writer(crops), rows)
    for found, end in zip(rows, ends, strict=True):
        wanted = OpenVinoClassifier(end, "int8" if int8 else "f32", 4)(crops)
        assert np.ptp(wanted) > 0.01
        np.testing.assert_allclose(found, wanted, atol=1e-3)


LET_GO_ELSEWHERE = """
import os, signal, threading
from detector.runtimes.openvino import OpenVinoClassifier
from detector.model import find_model

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
networks = [OpenVinoClassifier(find_model("inception_v3@75"))]
thread = threading.Thread(target=networks.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
print("alive")
"""


def test_a_signal_arrives_after_a_network_was_let_go_in_another_thread():
    """With a core of its own, a network takes the signal stack of the main thread along, and the signal is the end."""
    found = subprocess.run([sys.executable, "-c", LET_GO_ELSEWHERE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.split()) == (0, ["handled", "alive"]), found.stderr


def test_threads_share_one_core():
    found: list[ov.Core] = []
    threads = [threading.Thread(target=lambda: found.append(core())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(one is core() for one in found)
