"""MultiBox at work: its file, its network in two frameworks, its passes, and the command that runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from detector.cli.detect import main
from detector.datasets.read import read_dataset
from detector.detector import Detector
from detector.model import Model, Spec, file_digest, find_model
from detector.multibox import (
    MULTIBOX_FILE,
    MultiBox,
    MultiBoxWeights,
    load_multibox,
    save_multibox,
    shipped_multibox,
    sub_crops,
)
from detector.networks.googlenet import googlenet
from detector.networks.layers import cut_after
from detector.networks.torch_module import fold, load_into, torch_network, training_network
from detector.options import DetectOptions
from detector.runtimes.multibox_runtime import MultiBoxNetwork
from detector.samples import sample_path, samples_folder
from detector.weights import load_weights, save_weights
from proposals.boxes import iou
from proposals.images import read_image
from proposals.merging import NEAR_DUPLICATE
from proposals.multibox.decoding import GRID_NMS, NMS, decode_proposals
from proposals.multibox.grid import deviations, grid_priors
from proposals.multibox.grid_heads import GridHeads
from proposals.multibox.heads import MultiBoxHeads
from proposals.multibox.priors import multiscale_priors
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH

SIZE, GRID, FROZEN = 96, 3, "inception_5a"
CHANNELS = 208  # a quarter of 832
PRIORS = 120
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A GoogLeNet of a quarter of the width with random weights."""
    network = training_network(googlenet(201, "batch", 0.25), "none", 0.0, 3)
    path = tmp_path_factory.mktemp("trunk") / "small.safetensors"
    return save_weights(
        path,
        fold(network),
        Spec(
            network="googlenet",
            size=SIZE,
            mean=128.0,
            scale=64.0,
            width=0.25,
            norm="batch",
            classes=201,
        ),
    )


@pytest.fixture(scope="module")
def heads() -> MultiBoxHeads:
    """Heads with random weights, whose residuals and logits differ from prior to prior and picture to picture."""
    priors = multiscale_priors()
    chosen = priors[np.linspace(0, len(priors) - 1, PRIORS).astype(int)]
    made = MultiBoxHeads(CHANNELS, (GRID, GRID), chosen, reduced=16, hidden=32, seed=4).eval()
    generator = torch.Generator().manual_seed(5)
    for output in (made.locations, made.confidences):
        torch.nn.init.normal_(output.weight, std=0.3, generator=generator)
    return made


@pytest.fixture(scope="module")
def run(trunk: Model, heads: MultiBoxHeads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that wrote `heads`."""
    folder = tmp_path_factory.mktemp("run")
    save_multibox(folder / MULTIBOX_FILE, heads.arrays(), trunk, FROZEN)
    return folder


@pytest.fixture(scope="module")
def weights(run: Path) -> MultiBoxWeights:
    return load_multibox(run)


@pytest.fixture(scope="module")
def multibox(weights: MultiBoxWeights) -> MultiBox:
    return MultiBox(weights, "f32")


def dog() -> np.ndarray:
    return read_image(sample_path("dog"))


def test_the_file_gives_back_what_was_saved(
    trunk: Model, heads: MultiBoxHeads, run: Path, weights: MultiBoxWeights
) -> None:
    assert (weights.trunk, weights.frozen) == (replace(trunk, file=weights.trunk.file), FROZEN)
    assert Path(weights.trunk.file).samefile(trunk.file) and weights.file == str(run / MULTIBOX_FILE)
    wanted = heads.arrays()
    assert weights.arrays.keys() == wanted.keys()
    np.testing.assert_array_equal(weights.arrays["priors"], wanted["priors"])  # float32
    for name, array in wanted.items():
        assert weights.arrays[name].dtype == np.float32
        np.testing.assert_allclose(weights.arrays[name], array, rtol=1e-3, atol=1e-7)  # float16
    by_file = load_multibox(run / MULTIBOX_FILE)
    assert by_file.file == weights.file
    again = run / "again.safetensors"
    save_multibox(again, wanted, trunk, FROZEN)
    assert again.read_bytes() == (run / MULTIBOX_FILE).read_bytes()
    again.unlink()


def test_a_shipped_trunk_is_named_and_another_is_a_path(heads: MultiBoxHeads, tmp_path: Path, trunk: Model) -> None:
    """Wherever the package lies, the shipped trunk is found; at the size that it was trained with."""
    shipped = find_model("inception_v3@128")
    save_multibox(tmp_path / "a.safetensors", heads.arrays(), shipped, "Mixed_7a")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    digest = file_digest(shipped)
    assert metadata == {"trunk": "inception_v3", "trunk_sha256": digest, "frozen": "Mixed_7a", "size": "128"}
    assert load_multibox(tmp_path / "a.safetensors").trunk == shipped
    homonym = tmp_path / "inception_v3.safetensors"  # of the user's, with the name of ours
    homonym.write_bytes(Path(trunk.file).read_bytes())
    save_multibox(tmp_path / "b.safetensors", heads.arrays(), find_model(str(homonym)), FROZEN)
    assert Path(load_multibox(tmp_path / "b.safetensors").trunk.file).samefile(homonym)


def damaged(run: Path, target: Path, change: Callable[[Arrays, dict[str, str]], object]) -> Path:
    """Write the file of `run` to `target` with its arrays or metadata changed."""
    arrays = load_file(run / MULTIBOX_FILE)
    with safe_open(run / MULTIBOX_FILE, framework="numpy") as file:
        metadata = file.metadata()
    change(arrays, metadata)
    save_file(arrays, target, metadata)
    return target


def test_an_empty_fine_layer_is_none(run: Path, tmp_path: Path) -> None:
    path = damaged(run, tmp_path / "empty.safetensors", lambda arrays, metadata: metadata.update(fine=""))
    assert load_multibox(path).fine == "" and load_multibox(path).cut == load_multibox(run).cut


def nan(arrays: Arrays, metadata: dict[str, str]) -> None:
    arrays["hidden.bias"][1] = np.nan


def cut_prior(arrays: Arrays, metadata: dict[str, str]) -> None:
    arrays["priors"] = arrays["priors"][1:]


def cut_hidden(arrays: Arrays, metadata: dict[str, str]) -> None:
    arrays["hidden.bias"] = arrays["hidden.bias"][1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: a.pop("locations.weight"), "lacks 'locations.weight'; not a weights file of MultiBox"),
        (lambda a, m: m.pop("frozen"), "lacks 'frozen'; not a weights file of MultiBox"),
        (nan, "has a value that is not a finite number; train it again"),
        (cut_prior, "locations.weight has shape [480, 32], not [476, 32]; train it again"),
        (cut_hidden, "hidden.weight has shape [32, 144], not [31, 144]; train it again"),
        (lambda a, m: m.update(size="big"), "the size of its metadata is no number; train it again"),
        (lambda a, m: m.update(trunk_sha256="0" * 64), "small.safetensors; train it again, or take that file"),
    ],
)
def test_a_damaged_or_unfitting_file_is_refused(
    run: Path, tmp_path: Path, change: Callable[[Arrays, dict[str, str]], object], message: str
) -> None:
    path = damaged(run, tmp_path / "bad.safetensors", change)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_multibox(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_files_that_are_none(run: Path, tmp_path: Path, trunk: Model) -> None:
    content = (run / MULTIBOX_FILE).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.safetensors: not a safetensors file, or a truncated one"):
        load_multibox(cut)
    with pytest.raises(FileNotFoundError, match=r"multibox.safetensors: no such file; python -m detector.train"):
        load_multibox(tmp_path)  # a run that has not ended
    with pytest.raises(ValueError, match="lacks 'trunk'; not a weights file of MultiBox"):
        load_multibox(trunk.file)


def test_a_trunk_that_is_gone_or_another_one_now(trunk: Model, heads: MultiBoxHeads, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(trunk.file).read_bytes())
    save_multibox(tmp_path / "m.safetensors", heads.arrays(), find_model(str(other)), FROZEN)
    load_multibox(tmp_path / "m.safetensors")
    arrays = dict(load_weights(trunk).arrays)
    arrays["conv1/7x7_s2.bias"] = arrays["conv1/7x7_s2.bias"] + 1
    save_weights(
        other, arrays, Spec(network="googlenet", size=SIZE, mean=128, scale=64, width=0.25, norm="batch", classes=201)
    )
    with pytest.raises(ValueError, match=r"was trained on another .*other.safetensors"):
        load_multibox(tmp_path / "m.safetensors")
    other.unlink()
    with pytest.raises(FileNotFoundError, match=r"other.safetensors: no model of that name and no file"):
        load_multibox(tmp_path / "m.safetensors")


def test_heads_of_another_size_or_layer_are_refused(run: Path, tmp_path: Path) -> None:
    for change in ({"size": "160"}, {"frozen": "inception_4a"}):
        path = damaged(run, tmp_path / "bad.safetensors", lambda a, m, change=change: m.update(change))
        with pytest.raises(ValueError, match=r"the heads take features \[B, 208, H, W\] with H x W = 9"):
            MultiBox(load_multibox(path))
    path = damaged(run, tmp_path / "bad.safetensors", lambda a, m: m.update(frozen="inception_5c"))
    with pytest.raises(ValueError, match="no layer 'inception_5c' to cut after; the nearest one is 'inception_5"):
        MultiBox(load_multibox(path))


def test_a_precision_that_the_trunk_has_not(weights: MultiBoxWeights) -> None:
    with pytest.raises(ValueError, match="holds no 8-bit intervals"):
        MultiBox(weights, "int8")


def test_openvino_equals_torch(weights: MultiBoxWeights) -> None:
    """The trunk in torch, and the heads in torch on its features, against the one graph of both."""
    trunk = weights.trunk
    cut = cut_after(trunk.layers, FROZEN)
    network = MultiBoxNetwork(trunk, cut, weights.arrays, "f32")
    first = torch_network(trunk.layers[:cut]).eval()
    load_into(first, load_weights(trunk))
    second = MultiBoxHeads(CHANNELS, (GRID, GRID), weights.arrays["priors"], reduced=16, hidden=32).eval()
    second.load_arrays(weights.arrays)
    rng = np.random.default_rng(6)
    seen = []
    for _ in range(3):
        square = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        with torch.inference_mode():
            x = (torch.from_numpy(square[None]).permute(0, 3, 1, 2).float() - trunk.mean) / trunk.scale
            locations, logits = second(first(x))
        found = network(square)
        seen.append(found[1])
        assert found[0].shape == (PRIORS, 4) and found[1].shape == (PRIORS,)
        np.testing.assert_allclose(found[0], locations[0].numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found[1], logits[0].numpy(), rtol=1e-3, atol=1e-3)
    assert np.abs(seen[0] - seen[1]).max() > 0.01  # results are copies, and depend on the picture


def stretched(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def by_hand(weights: MultiBoxWeights, image: np.ndarray, top: int | None = None) -> np.ndarray:
    """Return the boxes of one pass, step by step."""
    network = MultiBoxNetwork(
        weights.trunk,
        cut_after(weights.trunk.layers, FROZEN),
        weights.arrays,
        "f32",
    )
    height, width = image.shape[:2]
    outputs = network(stretched(image))
    return decode_proposals(*outputs, weights.arrays["priors"], width, height, top).boxes


def test_a_pass_over_a_picture(weights: MultiBoxWeights, multibox: MultiBox) -> None:
    image = dog()
    found = multibox(image)
    np.testing.assert_allclose(found.boxes, by_hand(weights, image), atol=0.05)
    assert 20 < len(found) <= PRIORS and (found.sources == MULTIBOX).all()
    assert (found.boxes >= 0).all() and (found.boxes <= [768, 576, 768, 576]).all()
    assert (found.scores > 0).all() and (found.scores < 1).all() and found.scores[0] > found.scores[-1]
    overlaps = iou(found.boxes, found.boxes)
    assert overlaps[~np.eye(len(found), dtype=bool)].max() <= NMS + 1e-6
    few = MultiBox(weights, "f32", top=7)(image)
    np.testing.assert_array_equal(few.boxes, found.boxes[:7])


def test_the_mirror_pass(weights: MultiBoxWeights, multibox: MultiBox) -> None:
    """Of a picture and its mirror image both passes are the same two, so that the boxes are each other's mirror."""
    image = dog()
    mirror = MultiBox(weights, "f32", top=200, mirror=True)
    found, turned = mirror(image), mirror(np.ascontiguousarray(image[:, ::-1]))
    unturned = turned.boxes.copy()
    unturned[:, [0, 2]] = 768 - turned.boxes[:, [2, 0]]
    best = iou(found.boxes, unturned).max(axis=1)
    assert (best > 0.99).mean() > 0.95 and abs(len(found) - len(turned)) <= 2
    single = multibox(image)
    assert len(found) > len(single) and found.scores[0] >= single.scores[0]
    assert (found.boxes[:, [0, 2]] >= 0).all() and (found.boxes[:, [0, 2]] <= 768).all()
    assert len(MultiBox(weights, "f32", top=5, mirror=True)(image)) == 5


def test_sub_crops_are_passes_over_parts(multibox: MultiBox) -> None:
    image = dog()
    windows = [(0, 0, 768, 576), (100, 50, 400, 350)]
    whole, part = sub_crops(multibox, image, windows)
    np.testing.assert_array_equal(whole.boxes, multibox(image).boxes)
    inner = multibox(np.ascontiguousarray(image[50:350, 100:400]))
    np.testing.assert_allclose(part.boxes, inner.boxes + np.array([100, 50, 100, 50], np.float32), atol=1e-3)
    assert (part.boxes >= [100, 50, 100, 50]).all() and (part.boxes <= [400, 350, 400, 350]).all()
    assert sub_crops(multibox, image, []) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (300, 2), (96, 96), (40, 60)])
def test_pictures_of_any_shape(multibox: MultiBox, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = multibox(image)
    height, width = shape
    assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
    assert (found.boxes[:, 2:] - found.boxes[:, :2] >= 1 - 1e-4).all()


def test_what_is_no_picture_is_refused(multibox: MultiBox) -> None:
    with pytest.raises(ValueError, match="an image must be uint8 RGB"):
        multibox(np.zeros((10, 10), np.uint8))


def test_describe_says_what_runs(weights: MultiBoxWeights, multibox: MultiBox) -> None:
    assert multibox.describe() == f"MultiBox {weights.file} (200 boxes, 1 pass at 96 px, OpenVINO on the CPU, f32)"
    both = MultiBox(weights, "f32", top=50, mirror=True)
    assert both.describe() == f"MultiBox {weights.file} (50 boxes, 2 passes at 96 px, OpenVINO on the CPU, f32)"
    assert MultiBox(load_multibox(shipped_multibox())).describe().startswith("MultiBox (200 boxes, 1 pass at 448 px, ")


FINE, COARSE = "inception_3a", "inception_4d"  # 64 channels on 12 x 12, 136 on 6 x 6
FINE_SHAPES = np.array([[0.05, 0.07], [0.1, 0.1]], np.float32)
COARSE_SHAPES = np.array([[0.3, 0.2], [0.3, 0.6], [0.8, 0.8]], np.float32)
GRID_PRIORS = 12 * 12 * 2 + 6 * 6 * 3


@pytest.fixture(scope="module")
def grid_heads() -> GridHeads:
    """Heads on two grids with random weights, whose outputs differ from place to place."""
    made = GridHeads((64, 136), FINE_SHAPES, COARSE_SHAPES, mixed=16, seed=4)
    generator = torch.Generator().manual_seed(5)
    for output in (made.fine_outputs, made.coarse_outputs):
        torch.nn.init.normal_(output.weight, std=0.3, generator=generator)
    return made


@pytest.fixture(scope="module")
def grid_run(trunk: Model, grid_heads: GridHeads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that wrote `grid_heads`."""
    folder = tmp_path_factory.mktemp("grid_run")
    save_multibox(folder / MULTIBOX_FILE, grid_heads.arrays(), trunk, COARSE, FINE)
    return folder


def test_a_file_of_heads_on_grids_gives_back_what_was_saved(
    trunk: Model, grid_heads: GridHeads, grid_run: Path, weights: MultiBoxWeights
) -> None:
    found, wanted = load_multibox(grid_run), grid_heads.arrays()
    assert (found.fine, found.frozen) == (FINE, COARSE) and Path(found.trunk.file).samefile(trunk.file)
    assert found.cut == (cut_after(trunk.layers, FINE), cut_after(trunk.layers, COARSE))
    assert weights.fine == "" and weights.cut == cut_after(trunk.layers, FROZEN)
    assert found.arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found.arrays[name].dtype == np.float32
        if name.endswith("shapes"):
            np.testing.assert_array_equal(found.arrays[name], array)  # float32
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-3, atol=1e-6)  # float16
    again = grid_run / "again.safetensors"
    save_multibox(again, wanted, trunk, COARSE, FINE)
    assert again.read_bytes() == (grid_run / MULTIBOX_FILE).read_bytes()
    again.unlink()


def grid_nan(arrays: Arrays, metadata: dict[str, str]) -> None:
    arrays["fine_mixed.bias"][1] = np.nan


def cut(name: str) -> Callable[[Arrays, dict[str, str]], None]:
    """Return a change that takes the first row of an array."""

    def change(arrays: Arrays, metadata: dict[str, str]) -> None:
        arrays[name] = np.ascontiguousarray(arrays[name][1:])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: a.pop("coarse_mixed.weight"), "lacks 'coarse_mixed.weight'; not a weights file of MultiBox"),
        (lambda a, m: a.pop("fine_shapes"), "lacks 'fine_shapes'; not a weights file of MultiBox"),
        (lambda a, m: m.pop("frozen"), "lacks 'frozen'; not a weights file of MultiBox"),
        (lambda a, m: m.pop("fine"), "lacks 'priors'; not a weights file of MultiBox"),
        (grid_nan, "has a value that is not a finite number; train it again"),
        (cut("fine_shapes"), "fine_outputs.weight has shape [10, 16, 1, 1], not [5, 16, 1, 1]; train it again"),
        (cut("coarse_outputs.bias"), "coarse_outputs.bias has shape [14], not [15]; train it again"),
        (cut("coarse_reduce.bias"), "coarse_reduce.bias has shape [15], not [16]; train it again"),
        (cut("coarse_mixed.bias"), "coarse_mixed.weight has shape [24, 16, 3, 3], not [23, 16, 3, 3]; train it again"),
        (cut("fine_reduce.weight"), "fine_reduce.weight has shape [15, 64, 1, 1], not [16, 64, 1, 1]; train it again"),
        (lambda a, m: m.update(size="big"), "the size of its metadata is no number; train it again"),
    ],
)
def test_a_damaged_file_of_heads_on_grids_is_refused(
    grid_run: Path, tmp_path: Path, change: Callable[[Arrays, dict[str, str]], object], message: str
) -> None:
    path = damaged(grid_run, tmp_path / "bad.safetensors", change)
    with pytest.raises(ValueError) as caught:
        load_multibox(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("fine", [COARSE, "inception_5a"])
def test_a_fine_layer_that_does_not_come_first_is_refused(grid_run: Path, tmp_path: Path, fine: str) -> None:
    path = damaged(grid_run, tmp_path / "bad.safetensors", lambda a, m: m.update(fine=fine))
    with pytest.raises(ValueError) as caught:
        MultiBox(load_multibox(path))
    assert str(caught.value) == f"{path}: layer '{fine}' of the fine grid does not come before '{COARSE}'"


def test_heads_on_grids_of_another_layer_are_refused(grid_run: Path, tmp_path: Path) -> None:
    for change, message in (
        ({"fine": "inception_3b"}, r"the heads take fine features \[B, 64, H, W\], got \[1,120,6,6\]"),
        ({"frozen": "inception_5a"}, r"the heads take coarse features \[B, 136, H, W\], got \[1,208,3,3\]"),
        ({"fine": "inception_9"}, "the network has no layer 'inception_9' to cut after"),
    ):
        path = damaged(grid_run, tmp_path / "bad.safetensors", lambda a, m, change=change: m.update(change))
        with pytest.raises(ValueError, match=message):
            MultiBox(load_multibox(path))


@pytest.mark.parametrize("size", [SIZE, 104])  # 12 and 6 cells, and 13 and 6, no multiple
def test_openvino_equals_torch_on_grids(grid_run: Path, grid_heads: GridHeads, size: int) -> None:
    """At any size: the priors stand on the cells that there are."""
    weights = load_multibox(grid_run)
    trunk = replace(weights.trunk, size=size)
    assert isinstance(weights.cut, tuple)
    first, last = weights.cut
    network = MultiBoxNetwork(trunk, weights.cut, weights.arrays, "f32")
    whole = torch_network(trunk.layers[:last]).eval()
    load_into(whole, load_weights(trunk))
    part = torch_network(trunk.layers[:first]).eval()
    load_into(part, load_weights(trunk))
    heads = GridHeads((64, 136), FINE_SHAPES, COARSE_SHAPES, mixed=16)
    heads.load_arrays(weights.arrays)
    square = np.random.default_rng(6).integers(0, 256, (size, size, 3), np.uint8)
    with torch.inference_mode():
        x = (torch.from_numpy(square[None]).permute(0, 3, 1, 2).float() - trunk.mean) / trunk.scale
        fine, coarse = part(x), whole(x)
        locations, logits = heads(fine, coarse)
    found = network(square)
    grids = [(int(f.shape[2]), int(f.shape[3])) for f in (fine, coarse)]
    assert grids == ([(12, 12), (6, 6)] if size == SIZE else [(13, 13), (6, 6)])
    np.testing.assert_array_equal(network.priors, grid_priors(grids, [FINE_SHAPES, COARSE_SHAPES]))
    assert found[0].shape == network.priors.shape and found[1].shape == (len(network.priors),)
    np.testing.assert_allclose(found[0], locations[0].numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1], logits[0].numpy(), rtol=1e-3, atol=1e-3)
    assert np.ptp(found[1]) > 0.1


def test_a_pass_of_heads_on_grids(grid_run: Path) -> None:
    weights, image = load_multibox(grid_run), dog()
    found = MultiBox(weights, "f32", top=300)(image)
    network = MultiBoxNetwork(weights.trunk, weights.cut, weights.arrays, "f32")
    priors = grid_priors([(12, 12), (6, 6)], [FINE_SHAPES, COARSE_SHAPES])
    assert len(priors) == GRID_PRIORS
    outputs = network(stretched(image))
    wanted = decode_proposals(*outputs, priors, 768, 576, 300, GRID_NMS, deviations(priors))
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.05)
    assert 20 < len(found) <= 300 and (found.sources == MULTIBOX).all()
    assert (found.boxes >= 0).all() and (found.boxes <= [768, 576, 768, 576]).all()
    overlaps = iou(found.boxes, found.boxes)[~np.eye(len(found), dtype=bool)]
    assert 0.3 < overlaps.max() <= GRID_NMS + 1e-6
    both = MultiBox(weights, "f32", top=300, mirror=True)(image)
    overlaps = iou(both.boxes, both.boxes)[~np.eye(len(both), dtype=bool)]
    assert overlaps.max() <= GRID_NMS + 1e-6 and both.scores[0] >= found.scores[0]
    turned = MultiBox(weights, "f32", top=300, mirror=True)(np.ascontiguousarray(image[:, ::-1])).boxes
    turned = np.stack([768 - turned[:, 2], turned[:, 1], 768 - turned[:, 0], turned[:, 3]], axis=1)
    assert (iou(both.boxes, turned).max(axis=1) > 0.99).mean() > 0.9


def options(trunk: Model, run: Path, **changes: object) -> DetectOptions:
    values: dict[str, object] = {"model": trunk.file, "multibox": str(run), "precision": "f32"}
    return DetectOptions(**(values | changes))  # type: ignore[arg-type]


def small_dog() -> np.ndarray:
    return np.ascontiguousarray(dog()[::3, ::3])


def test_the_detector_proposes_from_both(trunk: Model, run: Path) -> None:
    """With 200 learned boxes beside all, or the best, of Selective Search."""
    image = small_dog()
    searched = Detector(options(trunk, run, proposals="ss", multibox=""))
    learned = Detector(options(trunk, run, proposals="multibox"))
    both = Detector(options(trunk, run, proposals="both"))
    ss, mb, union = (detector.propose(image) for detector in (searched, learned, both))
    assert set(ss.sources) == {SELECTIVE_SEARCH} and set(mb.sources) == {MULTIBOX}
    assert {SELECTIVE_SEARCH, MULTIBOX} <= set(union.sources) <= {SELECTIVE_SEARCH, MULTIBOX, BOTH}
    assert max(len(ss), len(mb)) < len(union) <= len(ss) + len(mb)
    for found in (ss, mb):  # none is lost but to a near-duplicate
        assert (iou(found.boxes, union.boxes).max(axis=1) >= np.float32(NEAR_DUPLICATE) - 1e-6).all()
    assert "Selective Search" in searched.describe() and "MultiBox" not in searched.describe()
    assert learned.describe().startswith(f"MultiBox {run / MULTIBOX_FILE} (200 boxes, 1 pass at 96 px,")
    assert re.match(r"Selective Search \(own, superpixel scale 2\); MultiBox \S+ \(200 boxes", both.describe())
    ends = "; scores weighed by objectness to the power 0.5; boxes vote from IoU 0.4"
    assert both.describe().endswith(ends) and learned.describe().endswith(ends)
    assert "objectness" not in searched.describe() and searched.describe().endswith("; boxes vote from IoU 0.4")
    few = Detector(options(trunk, run, proposals="both", ss_boxes=20, multibox_boxes=10)).propose(image)
    assert len(few) <= 30 and ((few.sources & SELECTIVE_SEARCH) > 0).sum() <= 20
    assert 1 <= (few.sources == MULTIBOX).sum() <= 10
    np.testing.assert_array_equal(
        Detector(options(trunk, run, proposals="ss", multibox="", ss_boxes=20)).propose(image).boxes, ss.boxes[:20]
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "dog.png"
    cv2.imwrite(str(path), cv2.cvtColor(small_dog(), cv2.COLOR_RGB2BGR))
    return path


def detect(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as left:
        assert isinstance(left.code, int)
        status = left.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("proposals", "wanted"),
    [("multibox", {"multibox"}), ("both", {"selective search", "multibox", "both"}), ("ss", {"selective search"})],
)
def test_the_command_says_where_boxes_come_from(
    trunk: Model,
    run: Path,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    proposals: str,
    wanted: set[str],
) -> None:
    status, out, err = detect(
        capsys,
        picture,
        "--model",
        trunk.file,
        "--proposals",
        proposals,
        *(() if proposals == "ss" else ("--multibox", run)),
        "--objectness",  # MultiBox of random weights: its confidence would fill the first places
        "0",
        "--threshold",
        "0",
        "--top",
        "3",
        "--format",
        "json",
        "--verbose",
    )
    assert status == 0
    sources = {found["source"] for found in json.loads(out)["detections"]}
    assert sources and sources <= wanted and (proposals != "both" or {"selective search", "multibox"} <= sources)
    assert (f"MultiBox {run / MULTIBOX_FILE} (200 boxes, 1 pass at 96 px" in err) == (proposals != "ss")


@pytest.mark.parametrize("proposals", ["both", "multibox"])
def test_weights_that_are_missing_or_damaged_are_one_line(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], proposals: str
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((run / MULTIBOX_FILE).read_bytes()[:1000])
    for path, message in (
        (tmp_path / "none.safetensors", "no such file; python -m detector.train multibox makes one"),
        (cut, "not a safetensors file, or a truncated one"),
        (damaged(run, tmp_path / "nan.safetensors", nan), "not a finite number; train it again"),
    ):
        status, out, err = detect(capsys, picture, "--proposals", proposals, "--multibox", path, "--no-save")
        assert (status, out) == (2, "")
        assert err.startswith(f"detect: error: --multibox {path}: ") and message in err and err.count("\n") == 1


def test_without_weights_of_the_users_those_that_ship_are_taken(
    picture: Path, trunk: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none ship, that is one line."""
    status, out, err = detect(
        capsys, picture, "--model", trunk.file, "--proposals", "multibox", "--threshold", "0.9", "--format", "json"
    )
    if shipped_multibox() is None:
        assert (status, out) == (2, "")
        assert err == (
            "detect: error: proposals 'multibox': no MultiBox weights are installed; use --proposals ss "
            "(see detect --help)\n"
        )
    else:
        assert status == 0 and json.loads(out)["picture"]


def test_wrong_heads_end_the_command_with_one_line(
    run: Path, picture: Path, tmp_path: Path, trunk: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(run, tmp_path / "bad.safetensors", lambda a, m: m.update(size="160"))
    status, out, err = detect(
        capsys,
        picture,
        "--model",
        trunk.file,
        "--proposals",
        "multibox",
        "--multibox",
        path,
        "--no-save",
        "--quiet",
        "--format",
        "json",
    )
    assert status in (1, 2) and out == ""
    assert err.count("\n") == 1 and "the heads take features" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multibox_boxes": 0}, "multibox_boxes must lie in 1..100000, got 0"),
        ({"ss_boxes": -1}, "ss_boxes must lie in 0..100000, got -1"),
        ({"proposals": "all"}, "proposals must be one of ss, multibox, both, got 'all'"),
    ],
)
def test_options_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DetectOptions(**change)  # type: ignore[arg-type]


@pytest.mark.skipif(shipped_multibox() is None, reason="no MultiBox weights ship with this version")
def test_the_shipped_boxes_cover_a_sample() -> None:
    """The cat, which fills its picture."""
    path = shipped_multibox()
    assert path is not None
    found = MultiBox(load_multibox(path))(read_image(sample_path("chelsea")))
    assert 50 < len(found) <= 200
    truth = read_dataset(samples_folder() / "annotations.json")
    cat = truth.boxes[truth.of_picture(truth.names.index("chelsea"))].astype(np.float32)
    assert iou(cat, found.boxes).max(axis=1).min() > 0.5
