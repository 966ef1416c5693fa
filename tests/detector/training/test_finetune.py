"""Fine-tuning from pictures to a model that `detect` runs; small networks, and once the one that ships."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.classes import det_classes
from detector.cli.detect import main as detect
from detector.cli.train import main
from detector.datasets.read import read_dataset
from detector.model import Model, find_model
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import training_network
from detector.training.features import fill_cache
from detector.training.finetune import FinetuneTask, held_out_pictures, start_classifier
from detector.training.options import FinetuneOptions
from detector.training.processes import World
from detector.training.regions import PoolOptions, RegionPool, build_pool, read_sources
from detector.training.run_folder import load_checkpoint, read_log
from detector.weights import Weights, load_weights
from proposals.store import PictureProposals, ProposalStore, write_store
from proposals.types import MULTIBOX, SELECTIVE_SEARCH, Proposals

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples"
FROZEN = "inception_5b"
KEPT = (f"frozen={FROZEN}", "cut_precision=f32")


@pytest.fixture(scope="module")
def folder(small_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow GoogLeNet with random weights, proposals around the objects of the samples, a configuration."""
    root = tmp_path_factory.mktemp("finetune")
    shutil.copy(small_network, root)
    truth = read_dataset(SAMPLES / "annotations.json")
    rng = np.random.default_rng(0)
    rows = []
    for index, path in enumerate(truth.paths):
        assert path is not None
        own = truth.boxes[truth.of_picture(index)]
        width, height = (int(side) for side in truth.sizes[index])
        near = np.repeat(own, 2, axis=0) + rng.uniform(-3, 3, (2 * len(own), 4))
        corners = rng.uniform(0, 0.6, (12, 2)) * (width, height)
        far = np.concatenate([corners, corners + rng.uniform(20, 60, (12, 2))], axis=1)
        boxes = np.concatenate([near, far])
        boxes = np.stack([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 2)], axis=1).reshape(-1, 4)
        found = Proposals(boxes.astype(np.float32), np.zeros(len(boxes)), np.full(len(boxes), SELECTIVE_SEARCH))
        rows.append(PictureProposals(path.name, width, height, found))
    write_store(root / "boxes.parquet", rows, {})
    text = f"""
model = {json.dumps(str(root / "small.safetensors"))}
proposals = {json.dumps(str(root / "boxes.parquet"))}
data = ["samples"]
device = "cpu"
steps = 30
foreground = 8
background = 24
learning_rate = 0.01
log_steps = 5
validate_steps = 30
held_out = 0.2
"""
    (root / "small.toml").write_text(text, encoding="utf-8")
    return root


def finetune(folder: Path, out: Path, *extra: str) -> int:
    return main(["finetune", "--config", str(folder / "small.toml"), "--out", str(out), "--quiet", *extra])


def sample_pool() -> RegionPool:
    sources, names = read_sources(["samples"], (), False)
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 150, (10, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1).astype(np.float32)
    return build_pool(sources, names, lambda path: Proposals(boxes, np.zeros(10), np.ones(10)), PoolOptions())


def test_frozen_layers_stay_and_the_classifier_learns(folder: Path, tmp_path: Path):
    assert finetune(folder, tmp_path, *KEPT, "steps=60", "distill=0.1", "learning_rate=0.0003") == 0
    model, old = find_model(str(tmp_path)), find_model(str(folder / "small.safetensors"))
    assert (model.outputs, model.classes, model.size, model.width, model.sharpness) == ("det", 201, 75, 0.25, 0)
    new, before = load_weights(model), load_weights(old)
    for layer in ("conv1/7x7_s2", "inception_5b/5x5"):
        np.testing.assert_array_equal(new.kernel(layer), before.kernel(layer).astype(np.float16).astype(np.float32))
    lines = [line for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert lines[-1]["regions"] < 0.8 * lines[0]["regions"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["regions"] + 0.1 * lines[-1]["kept"], rel=1e-4)
    assert {"run.json", "config.toml", "last.pt", "model.safetensors", "cache"} <= {p.name for p in tmp_path.iterdir()}


def test_the_whole_network_is_trained_without_frozen_layers(folder: Path, tmp_path: Path):
    assert finetune(folder, tmp_path, "steps=2", "foreground=2", "background=2", "held_out=0.0") == 0
    new, before = load_weights(find_model(str(tmp_path))), load_weights(find_model(str(folder / "small.safetensors")))
    assert np.abs(new.kernel("conv1/7x7_s2") - before.kernel("conv1/7x7_s2")).max() > 1e-4
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_worker_processes_change_nothing(folder: Path, tmp_path: Path):
    """With crops made as they are drawn, and with kept features."""
    for name, extra in (("crops", ("foreground=2", "background=2", "steps=3")), ("kept", KEPT)):
        for workers in (0, 2):
            assert finetune(folder, tmp_path / f"{name}{workers}", *extra, f"workers={workers}") == 0
        models = [(tmp_path / f"{name}{workers}" / "model.safetensors").read_bytes() for workers in (0, 2)]
        assert models[0] == models[1]


def own_data(root: Path) -> Path:
    """A COCO file with two classes of its own, of two sample pictures."""
    root.mkdir()
    for name in ("dog", "chelsea"):
        shutil.copy(SAMPLES / f"{name}.jpg", root)
    truth = read_dataset(SAMPLES / "annotations.json")
    sizes = dict(zip(truth.names, truth.sizes.tolist(), strict=True))
    data = {
        "images": [
            {"id": k, "file_name": f"{name}.jpg", "width": sizes[name][0], "height": sizes[name][1]}
            for k, name in enumerate(("dog", "chelsea"), 1)
        ],
        "categories": [{"id": 1, "name": "good boy"}, {"id": 2, "name": "tabby"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 40, 90, 120]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [50, 20, 200, 150]},
        ],
    }
    (root / "mine.json").write_text(json.dumps(data), encoding="utf-8")
    return root / "mine.json"


def test_own_classes_make_a_detector_of_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = own_data(tmp_path / "data")
    extra = (f"data=[{json.dumps(str(path))}]", "classes=own", *KEPT, "steps=5", "held_out=0.0")
    assert finetune(folder, tmp_path / "run", *extra) == 0
    model = find_model(str(tmp_path / "run"))
    assert (model.outputs, model.labels, model.classes) == ("own", ("good boy", "tabby"), 3)
    status = detect(
        [
            str(SAMPLES / "dog.jpg"),
            "--model",
            str(tmp_path / "run"),
            "--no-save",
            "--format",
            "json",
            "--threshold",
            "0",
        ]
    )
    found = json.loads(capsys.readouterr().out)
    assert status == 0
    names = {d["class"] for d in _detections(found)}
    assert names and names <= {"good boy", "tabby"}


def _detections(answer: object) -> list[dict[str, object]]:
    """Return every object of a JSON answer that has a box."""
    if isinstance(answer, list):
        return [d for item in answer for d in _detections(item)]
    if isinstance(answer, dict):
        return [answer] if "box" in answer else [d for item in answer.values() for d in _detections(item)]
    return []


def test_features_made_anew_are_those_that_are_kept(folder: Path, tmp_path: Path):
    """Frozen layers give a region the same input and scores when its crop is made as it is drawn."""
    pool, model = sample_pool(), _model(folder)
    o = FinetuneOptions(steps=1, data=("samples",), frozen=FROZEN, cut_precision="f32", distill=0.5)
    cache = fill_cache(tmp_path, pool, model, FROZEN, "f32", 0, print, mirror=False)
    rows = np.arange(0, len(pool), 7)
    still = np.zeros(len(rows), bool)
    kept = FinetuneTask(o, model, pool, cache).make.batch(rows, still)
    anew = FinetuneTask(replace(o, keep_features=False), model, pool, None).make.batch(rows, still)
    for name, share in (("input", 2e-3), ("scores", 0.03)):  # kept ones are float16, teachers compute in bf16
        scale = float(kept[name].abs().max())
        torch.testing.assert_close(anew[name], kept[name], atol=share * scale, rtol=0)
    assert torch.equal(anew["labels"], kept["labels"]) and torch.equal(anew["known"], kept["known"])
    mirrored = FinetuneTask(replace(o, keep_features=False), model, pool, None).make.batch(rows, ~still)
    assert (mirrored["input"] - anew["input"]).abs().max() > 0.01 * anew["input"].abs().max()


def test_several_teachers_are_averaged_each_on_crops_of_its_size(folder: Path):
    pool = sample_pool()
    names = tuple(f"{folder / 'small.safetensors'}@{size}" for size in (75, 96))
    o = FinetuneOptions(steps=1, data=("samples",), distill=0.5, teachers=names)
    rows, mirrored = np.arange(5), np.array([True, False, True, False, False])
    both = FinetuneTask(o, _model(folder), pool, None).make.batch(rows, mirrored)
    alone = [
        FinetuneTask(replace(o, teachers=(name,)), _model(folder), pool, None).make.batch(rows, mirrored)
        for name in names
    ]
    assert torch.equal(both["input"], alone[0]["input"]) and both["scores"].shape == (5, 201)
    torch.testing.assert_close(both["scores"], (alone[0]["scores"] + alone[1]["scores"]) / 2)
    assert (alone[0]["scores"] - alone[1]["scores"]).abs().max() > 1e-4
    losses = FinetuneTask(o, _model(folder), pool, None)
    found = losses.losses(losses.network, both)
    torch.testing.assert_close(found["loss"], found["regions"] + 0.5 * found["kept"])


def test_an_option_that_was_found_wrong_late_is_corrected_in_the_same_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    small = ("steps=1", "foreground=2", "background=2", "held_out=0.0")
    assert finetune(folder, tmp_path / "run", *small, "frozen=inception_5x") == 1
    assert "no layer 'inception_5x'" in capsys.readouterr().err and (tmp_path / "run" / "run.json").exists()
    assert finetune(folder, tmp_path / "run", *small) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["options"]["frozen"] == ""
    capsys.readouterr()
    assert finetune(folder, tmp_path / "run", *small, "momentum=0.5") == 1
    assert "holds a run with momentum = 0.9, not 0.5" in capsys.readouterr().err


def test_an_unknown_layer_and_too_few_regions_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert finetune(folder, tmp_path / "one", "frozen=inception_5x") == 1
    error = capsys.readouterr().err
    assert "no layer 'inception_5x' to cut after; the nearest one is 'inception_5" in error and error.count("\n") == 1


def test_proposals_of_other_pictures_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = Proposals(np.array([[0, 0, 9, 9]], np.float32), np.zeros(1), np.ones(1))
    write_store(tmp_path / "other.parquet", [PictureProposals("x.jpg", 10, 10, found)], {})
    assert finetune(folder, tmp_path / "run", f"proposals={tmp_path / 'other.parquet'}") == 1
    assert "has none of these pictures" in capsys.readouterr().err
    (tmp_path / "run").mkdir(exist_ok=True)
    write_store(tmp_path / "run" / "proposals.parquet", [PictureProposals("0", 10, 10, found)], {"seed": 0})
    assert finetune(folder, tmp_path / "run", "proposals=ss") == 1
    assert "holds proposals of other pictures" in capsys.readouterr().err


def test_the_classifier_starts_as_the_mean_of_its_leaves(folder: Path):
    model = find_model(str(folder / "small.safetensors"))
    layers = googlenet(201, "batch", 0.25)
    network = training_network(layers, "none", 0.0, 0)
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1000, layers[-1].inputs, 1, 1)).astype(np.float32)  # type: ignore[union-attr]
    bias = rng.normal(size=1000).astype(np.float32)
    start_classifier(network, Weights({"loss3/classifier.weight": kernel, "loss3/classifier.bias": bias}), layers[-1])
    conv = network.convolutions()[-1].conv
    every = [leaf for c in det_classes() for leaf in c.imagenet]
    assert conv.bias is not None and model.classes == 1000
    for c in (det_classes()[0], det_classes()[57], det_classes()[199]):
        np.testing.assert_allclose(
            conv.weight[c.id].detach(), kernel[list(c.imagenet)].mean(axis=0), rtol=1e-5, atol=1e-6
        )
        assert conv.bias[c.id].item() == pytest.approx(float(bias[list(c.imagenet)].mean()), abs=1e-6)
    rest = [leaf for leaf in range(1000) if leaf not in every]
    np.testing.assert_allclose(conv.weight[0].detach(), kernel[rest].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_held_out_pictures_are_never_drawn(folder: Path):
    pool = sample_pool()
    o = FinetuneOptions(steps=1, data=("samples",), held_out=0.4, foreground=8, background=8)
    task = FinetuneTask(o, find_model(str(folder / "small.safetensors")), pool, None)
    away = held_out_pictures(pool, 0.4, o.pool_seed)
    assert 0 < away.sum() < len(pool.paths)
    drawn = np.concatenate([task.sampler.draw(step).rows for step in range(200)])
    assert not away[pool.pictures[drawn]].any()
    assert away[pool.pictures[task.held_out]].all() and set(pool.labels[task.held_out].tolist()) - {0}
    assert all(pool.paths[picture].name in task.contents(3) for picture in pool.pictures[task.sampler.draw(3).rows])


def test_the_parts_of_two_processes_are_the_mini_batch(folder: Path):
    pool = sample_pool()
    o = FinetuneOptions(steps=1, data=("samples",), foreground=4, background=4)
    whole = next(FinetuneTask(o, _model(folder), pool, None).batches(5, 6, 0, 1))
    parts = [next(FinetuneTask(o, _model(folder), pool, None).batches(5, 6, rank, 2)) for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(value[0::2], parts[0][name]) and torch.equal(value[1::2], parts[1][name])
    assert (
        whole["input"].shape == (8, 3, 75, 75) and -2 <= float(whole["input"].min()) < float(whole["input"].max()) <= 2
    )


def _model(folder: Path) -> Model:
    return find_model(str(folder / "small.safetensors"))


def test_the_new_classifier_has_its_own_rate(folder: Path):
    o = FinetuneOptions(steps=1, data=("samples",), head_rate=7.0)
    rest, head = FinetuneTask(o, _model(folder), sample_pool(), None).groups()
    assert (rest.rate, head.rate) == (1.0, 7.0) and [p.shape[0] for p in head.parameters] == [201, 201]
    assert World(0, 1, torch.device("cpu")).first


@pytest.mark.slow
def test_the_bundled_configuration_on_the_network_that_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Selective Search, kept features, training, a model; then `detect` runs it."""
    extra = [
        "model=inception_v3@96",
        "steps=20",
        "most_foreground=4",
        "most_background=8",
        "foreground=8",
        "background=24",
    ]
    assert (
        main(
            [
                "finetune",
                "--config",
                str(ROOT / "configs" / "samples_finetune.toml"),
                "--out",
                str(tmp_path),
                "--quiet",
                *extra,
            ]
        )
        == 0
    )
    model = find_model(str(tmp_path))
    assert (model.network, model.size, model.outputs) == ("inception_v3", 96, "det")
    capsys.readouterr()
    assert (
        detect(
            [str(SAMPLES / "dog.jpg"), "--model", str(tmp_path), "--no-save", "--format", "json", "--threshold", "0.05"]
        )
        == 0
    )
    assert _detections(json.loads(capsys.readouterr().out))


def mixed_data(root: Path, folder: Path) -> tuple[str, ...]:
    """Options of a run as configs/shipped_trunk.toml: boxed pictures beside one with a label alone, two teachers."""
    root.mkdir()
    shutil.copy(SAMPLES / "chelsea.jpg", root / "cat.jpg")
    image = {"id": 1, "file_name": "cat.jpg", "width": 451, "height": 300, "label": "domestic cat"}
    table = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "domestic cat"}]}
    (root / "labels.json").write_text(json.dumps(table), encoding="utf-8")
    store = ProposalStore(folder / "boxes.parquet")
    rows = [PictureProposals(path.name, 100, 100, store[path.name]) for path in sorted(SAMPLES.glob("*.jpg"))]
    boxes = np.array([[20, 10, 400, 290], [100, 50, 180, 90], [0, 0, 60, 60]], np.float32)
    rows.append(PictureProposals("cat.jpg", 451, 300, Proposals(boxes, np.arange(3)[::-1] / 3, np.full(3, MULTIBOX))))
    write_store(root / "boxes.parquet", rows, {})
    small = folder / "small.safetensors"
    return (
        f"data={json.dumps(['samples', str(root / 'labels.json')])}",
        f"label_only={json.dumps([str(root / 'labels.json')])}",
        f"proposals={root / 'boxes.parquet'}",
        "shares=[1, 3]",
        f"teachers={json.dumps([f'{small}@75', f'{small}@96'])}",
        "distill=0.3",
        "frozen=inception_4a",
        "keep_features=false",
        "jitter=2",
        "near=0.5",
        "most_background=8",
        "unlabelled=0.15",
        "average=ema",
        "ema_decay=0.9",
        "precision=bf16",
        "workers=1",
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kept features", "mixed data"])
def test_a_kill_costs_what_the_last_checkpoint_lacks(folder: Path, tmp_path: Path, kind: str):
    """The run that was killed ends with the weights of one that was not."""
    steps = 400 if kind == "kept features" else 40
    options = [*(KEPT if kind == "kept features" else mixed_data(tmp_path / "data", folder)), f"steps={steps}"]
    command = [sys.executable, "-m", "detector.train", "finetune", "--config", str(folder / "small.toml"), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run, last = tmp_path / "run", tmp_path / "run" / "last.pt"
    arguments = ["--out", str(run), *options, "checkpoint_minutes=0.0"]
    with subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment, start_new_session=True) as process:
        while not last.is_file() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = load_checkpoint(last)["step"]
    assert 0 < done < steps and not (run / "model.safetensors").exists()
    assert finetune(folder, run, *options, "checkpoint_minutes=9.0") == 0
    assert finetune(folder, tmp_path / "whole", *options, "workers=0") == 0
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    lines = [line for line in read_log(run / "log.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(5, steps + 1, 5))
    if kind == "mixed data":
        assert (run / "cache").exists() is False and all(line["kept"] > 0 for line in lines)
        assert sum(line["loss"] for line in lines[-3:]) < sum(line["loss"] for line in lines[:3])
