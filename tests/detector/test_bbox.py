"""Box regression from training to `detect --bbox`: where each detection's box goes, worked out again by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from detector.cli.detect import main as detect
from detector.cli.train import main as train
from detector.datasets.read import read_dataset
from detector.detector import Detector
from detector.model import Model, Spec, find_model
from detector.options import DetectOptions
from detector.postprocess import Regions, voted_boxes
from detector.runtimes.load import load_classifier
from detector.runtimes.openvino import OpenVinoClassifier, OpenVinoFeatures
from detector.runtimes.torch import TorchClassifier
from detector.training.features import fill_cache
from detector.training.heads import head_examples, train_box_regression
from detector.training.options import BboxOptions
from detector.training.regions import PoolOptions, build_pool, read_sources
from detector.warp import warp
from detector.weights import load_weights, save_weights
from proposals.boxes import as_boxes, iou
from proposals.images import read_image
from proposals.store import PictureProposals, ProposalStore, write_store
from proposals.types import SELECTIVE_SEARCH, Proposals

bbox_options = partial(BboxOptions, data=("samples",))

SAMPLES = Path(__file__).parents[2] / "samples"
HEAD = "Logits/Conv2d_1c_1x1"
SIZE, C = 96, 200


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The cores may be busy; batches this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the 200 classes with random weights, proposals, and a finished box regression in `run`."""
    root = tmp_path_factory.mktemp("bbox")
    shipped, rng = find_model("inception_v3"), np.random.default_rng(0)
    arrays = {name: array for name, array in load_weights(shipped).arrays.items() if not name.startswith(HEAD)}
    arrays[f"{HEAD}.weight"] = rng.normal(0, 0.15, (1 + C, 2048, 1, 1)).astype(np.float32)
    arrays[f"{HEAD}.bias"] = rng.normal(0, 0.1, 1 + C).astype(np.float32)
    save_weights(
        root / "start.safetensors",
        arrays,
        Spec(
            network="inception_v3",
            size=SIZE,
            mean=shipped.mean,
            scale=shipped.scale,
            classes=1 + C,
            sharpness=4.0,
        ),
    )
    truth = read_dataset(SAMPLES / "annotations.json")
    rows = []
    for index, path in enumerate(truth.paths):
        assert path is not None
        width, height = (int(side) for side in truth.sizes[index])
        own = np.repeat(truth.boxes[truth.of_picture(index)], 3, axis=0)
        near = own + np.tile(own[:, 2:] - own[:, :2], 2) * rng.uniform(-0.08, 0.08, own.shape)
        boxes = np.concatenate([near, [[0, 0, width / 2, height / 2], [width / 2, 0, width, height]]])
        found = Proposals(boxes.astype(np.float32), np.zeros(len(boxes)), np.full(len(boxes), SELECTIVE_SEARCH))
        rows.append(PictureProposals(path.name, width, height, found))
    write_store(root / "boxes.parquet", rows, {})
    text = f"""
model = {json.dumps(str(root / "start.safetensors"))}
proposals = {json.dumps(str(root / "boxes.parquet"))}
data = ["samples"]
cut_precision = "f32"
ridge = 10
min_pairs = 3
shared_below = 0
"""
    (root / "bbox.toml").write_text(text, encoding="utf-8")
    assert train(["bbox", "--config", str(root / "bbox.toml"), "--out", str(root / "run"), "--quiet"]) == 0
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return find_model(str(folder / "run"))


@pytest.fixture(scope="module")
def crops(folder: Path, model: Model) -> np.ndarray:
    boxes = ProposalStore(folder / "boxes.parquet")["horses.jpg"].boxes
    return warp(read_image(SAMPLES / "horses.jpg"), boxes, SIZE, model.fill)


def expected_deltas(model: Model, crops: np.ndarray) -> np.ndarray:
    """The file's regression of each class on the pooled features in f32: [N, C, 4]."""
    network = OpenVinoFeatures(model, len(model.layers) - 1, "f32")
    features = np.empty((len(crops), *network.shape), np.float32)
    network.run(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop]), features)
    arrays = load_file(model.file)
    moves = features.reshape(len(crops), -1).astype(np.float64) @ arrays["bbox.weight"].astype(np.float64).T
    return (moves + arrays["bbox.bias"]).reshape(len(crops), C, 4)


def given(run, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return run.score(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop]))


def test_the_file_has_the_regression_beside_what_it_had(folder: Path, model: Model):
    assert (model.has_box_regression, model.head, model.sharpness, model.outputs) == (True, "softmax", 4.0, "det")
    new, old = load_file(model.file), load_file(folder / "start.safetensors")
    assert set(new) == set(old) | {"bbox.weight", "bbox.bias"}
    for name, array in old.items():
        np.testing.assert_array_equal(new[name], array)
    sources, names = read_sources(["samples"], (), False)
    store = ProposalStore(folder / "boxes.parquet")
    pool = build_pool(sources, names, lambda path: store[path.name], PoolOptions())
    start = find_model(str(folder / "start.safetensors"))
    cache = fill_cache(folder / "run" / "cache", pool, start, "Mixed_7c", "f32", 0, print, mirror=False)
    options = bbox_options(ridge=10, min_pairs=3, shared_below=0)
    regression = train_box_regression(head_examples(pool, sources, cache), options)
    assert 3 < regression.own.sum() < 30 and not regression.shared.any()
    assert new["bbox.weight"].dtype == np.float16 and new["bbox.bias"].dtype == np.float32
    np.testing.assert_array_equal(new["bbox.weight"], regression.weights.reshape(4 * C, -1).astype(np.float16))
    np.testing.assert_array_equal(new["bbox.bias"], regression.bias.reshape(-1))


def test_every_runtime_gives_the_same_deltas_and_the_scores_it_gave(model: Model, crops: np.ndarray):
    expected = expected_deltas(model, crops)
    assert np.abs(expected).max() > 0.02
    plain = OpenVinoClassifier(model, "f32")
    with_deltas = OpenVinoClassifier(model, "f32", deltas=True)
    runs = (
        with_deltas,
        TorchClassifier(model, deltas=True),
    )
    for run in runs:
        scores, deltas = given(run, crops)
        assert deltas.shape == (len(crops), C, 4)
        np.testing.assert_allclose(deltas, expected, atol=1e-4)
        np.testing.assert_allclose(scores, plain(crops), atol=1e-4)
        np.testing.assert_array_equal(run(crops), scores)
        none = given(run, crops[:0])
        assert none[0].shape == (0, 1 + C) and none[1].shape == (0, C, 4)
    _, eight_bits = given(OpenVinoClassifier(model, "int8", deltas=True), crops)
    assert 0 < np.abs(eight_bits - expected).max() < 0.05


def survivors(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Non-maximum suppression, pair after pair."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if all(iou(as_boxes(boxes[[i]]), as_boxes(boxes[[j]]))[0, 0] <= threshold for j in kept):
            kept.append(i)
    return kept


def by_hand(
    boxes: np.ndarray, scores: np.ndarray, deltas: np.ndarray, o: DetectOptions, size: tuple[int, int]
) -> list[tuple[int, float, np.ndarray]]:
    """Return (label, score, box) of R-CNN's test with box regression, class after class and box after box."""
    found = []
    for label in range(1, 1 + C):
        able = np.flatnonzero(scores[:, label] >= o.threshold)
        rows = able[survivors(boxes[able], scores[able, label], o.nms)][: o.top]
        moved = np.zeros((len(rows), 4))
        for place, i in enumerate(rows):
            x1, y1, x2, y2 = boxes[i].astype(float)
            tx, ty, tw, th = deltas[i, label - 1].astype(float)
            x, y = (x1 + x2) / 2 + tx * (x2 - x1), (y1 + y2) / 2 + ty * (y2 - y1)
            w, h = (x2 - x1) * np.exp(tw), (y2 - y1) * np.exp(th)
            moved[place] = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [*size, *size])
        found += [
            (label, float(scores[rows[k], label]), moved[k]) for k in survivors(moved, scores[rows, label], o.nms)
        ]
    return found


@pytest.fixture(scope="module")
def options(folder: Path) -> DetectOptions:
    return DetectOptions(
        model=str(folder / "run"),
        bbox=True,
        threshold=0.01,
        precision="f32",
        proposals="ss",
        ss_boxes=150,
        nms=0.5,
        vote=0.0,
    )


def test_detections_are_moved_as_r_cnn_does(options: DetectOptions, model: Model):
    detector, image = Detector(options), read_image(SAMPLES / "horses.jpg")
    trace = detector.trace(image)
    size = (image.shape[1], image.shape[0])
    crops = warp(image, trace.proposals.boxes, SIZE, model.fill)
    assert trace.deltas is not None and "boxes moved by regression" in detector.describe()
    np.testing.assert_allclose(trace.deltas, expected_deltas(model, crops), atol=1e-4)
    expected = by_hand(trace.proposals.boxes, trace.scores, trace.deltas, options, size)
    expected.sort(key=lambda row: (-row[1], row[0]))
    found = trace.detections
    assert len(found) == len(expected) > 30
    order = np.lexsort([found.labels, -found.scores])
    assert found.labels[order].tolist() == [row[0] for row in expected]
    np.testing.assert_allclose(found.scores[order], [row[1] for row in expected], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[order], [row[2] for row in expected], atol=2e-3)
    detector.options = replace(options, vote=0.5)  # the votes are those of the moved boxes
    voted = detector.suppress(image, trace.proposals, trace.scores, trace.deltas)
    assert (voted.labels[0], voted.scores[0]) == (found.labels[0], found.scores[0])  # the best one loses nothing
    column = int(found.labels[0]) - 1
    regions = Regions(trace.proposals.boxes, trace.scores[:, 1:], trace.proposals.sources, size, trace.deltas)
    voters = regions.moved(np.arange(len(trace.proposals)), np.full(len(trace.proposals), column))
    votes = voted_boxes(found.boxes[:1], voters, trace.scores[:, column + 1], 0.5)
    np.testing.assert_array_equal(voted.boxes[0], votes[0])
    assert voted.boxes[0].tolist() != found.boxes[0].tolist()
    still = Detector(replace(options, bbox=False)).trace(image)
    assert still.deltas is None
    np.testing.assert_allclose(still.scores, trace.scores, atol=1e-5)
    moved = [not (trace.proposals.boxes == box).all(axis=1).any() for box in found.boxes]
    assert 0 < sum(moved) < len(found)  # those of classes without a regression stay
    assert all((trace.proposals.boxes == box).all(axis=1).any() for box in still.detections.boxes)


def test_the_command_takes_the_flag_and_the_key(
    options: DetectOptions, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    picture = str(SAMPLES / "horses.jpg")
    text = 'threshold = 0.01\nprecision = "f32"\nproposals = "ss"\nss_boxes = 150\nnms = 0.5\nvote = 0.0\n'
    (tmp_path / "flag.toml").write_text(text, encoding="utf-8")
    (tmp_path / "key.toml").write_text(text + "bbox = true\n", encoding="utf-8")
    told = []
    for config, flags in (("flag.toml", ["--bbox"]), ("key.toml", []), ("flag.toml", [])):
        arguments = ["--model", options.model, "--config", str(tmp_path / config), "--format", "json", "--quiet"]
        assert detect([picture, *arguments, *flags]) == 0
        told.append(json.loads(capsys.readouterr().out)["detections"])
    expected = Detector(options)(read_image(Path(picture)))
    assert told[0] == told[1] != told[2]
    assert [d["box"] for d in told[0]] == [pytest.approx(box, abs=1e-2) for box in expected.boxes.tolist()]


def test_only_the_first_of_an_ensemble_tells_where_boxes_go(options: DetectOptions, folder: Path):
    start = str(folder / "start.safetensors")
    image = read_image(SAMPLES / "horses.jpg")[:200, :260].copy()
    pair = Detector(replace(options, ensemble=start, ss_boxes=20))
    alone = Detector(replace(options, ss_boxes=20))
    both, one = pair.trace(image), alone.trace(image)
    assert both.deltas is not None and one.deltas is not None
    np.testing.assert_allclose(both.deltas, one.deltas, atol=1e-6)
    np.testing.assert_allclose(both.scores, one.scores, atol=1e-5)  # the same classifier


def test_models_without_a_regression_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("inception_v3", str(folder / "start.safetensors")):
        assert detect([str(SAMPLES / "dog.jpg"), "--model", name, "--bbox"]) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1
        assert f"--bbox: {name} has no box regression; train one with python -m detector.train bbox" in error
        with pytest.raises(ValueError, match="has no box regression; train one"):
            Detector(DetectOptions(model=name, bbox=True))
    with pytest.raises(ValueError, match="has no box regression"):
        load_classifier(find_model("inception_v3"), "torch", "cpu", "f32", 0, deltas=True)
