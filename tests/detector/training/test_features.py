"""Kept features are those of the frozen layers, region by region, and a stopped cache goes on where it ended."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.classes import det_classes
from detector.model import Model, Spec
from detector.networks.googlenet import googlenet
from detector.networks.layers import cut_after
from detector.networks.torch_module import TrainingNetwork, fold, training_network
from detector.training import features
from detector.training.features import FeatureCache, fill_cache, mirrored_rows
from detector.training.finetune import RegionBatches
from detector.training.mini_batches import Sampler
from detector.training.regions import RegionPool
from detector.warp import warp
from detector.weights import save_weights
from proposals.images import read_image

SAMPLES = Path(__file__).parents[3] / "samples"
SIZE, FROZEN = 75, "inception_4a"
LAYERS = googlenet(1000, "batch", 0.25)


def small_model(path: Path, seed: int = 3) -> tuple[Model, TrainingNetwork]:
    """Return a narrow GoogLeNet with random weights that tell pictures apart, and its torch network."""
    network = training_network(LAYERS, "none", 0.0, seed)
    network.convolutions()[-1].conv.weight.data.mul_(20)
    settings = {"network": "googlenet", "size": SIZE, "mean": 128.0, "scale": 64.0, "width": 0.25, "norm": "batch"}
    return save_weights(path, fold(network), Spec(**settings)), network.eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, TrainingNetwork]:
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def small_pool(
    paths: tuple[Path, ...] = tuple(SAMPLES / f"{name}.jpg" for name in ("dog", "eagle", "chelsea")),
) -> RegionPool:
    """Five regions of the first picture, none of the second, three of the third."""
    pictures = np.array([0] * 5 + [2] * 3, np.int32)
    corners = np.random.default_rng(4).uniform(0, 120, (8, 2))
    boxes = np.concatenate([corners, corners + np.array([60, 90])], axis=1).astype(np.float32)
    labels = np.array([1, 2, 0, 0, 0, 3, 0, 0])
    known = np.ones((3, 201), bool)
    return RegionPool(
        pictures, boxes, labels, labels > 0, np.zeros(8, np.int16), paths, known, tuple(c.name for c in det_classes())
    )


def filled(
    folder: Path, pool: RegionPool, model: Model, seed: int = 0, notes: list[str] | None = None, **more: object
) -> FeatureCache:
    told = [] if notes is None else notes
    return fill_cache(folder, pool, model, FROZEN, "f32", seed, told.append, **more)  # type: ignore[arg-type]


def test_features_and_scores_are_those_of_the_torch_network(tmp_path: Path, model: tuple[Model, TrainingNetwork]):
    pool = small_pool()
    cache = filled(tmp_path, pool, model[0])
    mirrored = mirrored_rows(len(pool), 0)
    assert 0 < mirrored.sum() < len(pool)
    crops = np.concatenate(
        [
            warp(read_image(pool.paths[picture]), box[None], SIZE, model[0].fill, mirrored=bool(turned))
            for picture, box, turned in zip(pool.pictures, pool.boxes, mirrored, strict=True)
        ]
    )
    x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 128) / 64
    cut = cut_after(LAYERS, FROZEN)
    with torch.no_grad():
        logits = model[1](x).main
        for part in model[1].parts[:cut]:
            x = part(x)
    wanted = x.numpy()
    assert cache.features.shape == wanted.shape and np.ptp(wanted) > 0.1
    np.testing.assert_allclose(cache.features, wanted, atol=4e-3 * np.abs(wanted).max())
    scores = logits.softmax(dim=1).numpy()
    leaves = [np.array(c.imagenet) for c in det_classes()]
    other = np.setdiff1d(np.arange(1000), np.concatenate(leaves))
    summed = np.stack([scores[:, group].sum(axis=1) for group in (other, *leaves)], axis=1)
    np.testing.assert_allclose(cache.scores, summed, atol=2e-3)
    assert cache.scores.shape == (8, 201) and np.ptp(cache.scores.astype(np.float32), axis=0).max() > 0.01


def test_a_stopped_cache_goes_on(tmp_path: Path, model: tuple[Model, TrainingNetwork], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "SYNC_PICTURES", 1)
    pool = small_pool()
    filled(tmp_path / "whole", pool, model[0])
    seen: list[int] = []

    def stop(pictures: int) -> None:
        seen.append(pictures)
        if len(seen) == 3:  # 0 at the beginning, then two pictures
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "parts", pool, model[0], advance=stop)
    assert json.loads((tmp_path / "parts" / "cache.json").read_text(encoding="utf-8"))["pictures"] == 1
    seen.clear()
    steps: list[int] = []
    filled(tmp_path / "parts", pool, model[0], advance=steps.append)
    assert steps == [1, 1, 1]
    for name in ("features.f16", "scores.f16"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_full_cache_is_not_computed_again(tmp_path: Path, model: tuple[Model, TrainingNetwork]):
    filled(tmp_path, small_pool(), model[0]).features[:] = 7  # would be written over
    steps: list[int] = []
    cache = filled(tmp_path, small_pool(), model[0], advance=steps.append)
    assert steps == [3] and (cache.features == 7).all()


def test_a_cache_of_something_else_is_refused(tmp_path: Path, model: tuple[Model, TrainingNetwork]):
    filled(tmp_path / "cache", small_pool(), model[0])
    with pytest.raises(ValueError, match="keeps features of other seed; give another cache"):
        filled(tmp_path / "cache", small_pool(), model[0], seed=1)
    other, _ = small_model(tmp_path / "other.safetensors", seed=4)
    with pytest.raises(ValueError, match="of other weights"):
        filled(tmp_path / "cache", small_pool(), other)
    moved = small_pool()
    moved.boxes[0, 0] -= 1
    with pytest.raises(ValueError, match="of other regions"):
        filled(tmp_path / "cache", moved, model[0])
    with pytest.raises(ValueError, match="no layer 'inception_4x'"):
        fill_cache(tmp_path / "cache", small_pool(), model[0], "inception_4x", "f32", 0, print)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_frozen_layers_and_teachers_run_on_the_device_that_is_asked_for(
    tmp_path: Path, model: tuple[Model, TrainingNetwork]
):
    with pytest.raises(ValueError, match="no CUDA device"):
        filled(tmp_path / "cache", small_pool(), model[0], device="cuda")
    pool, rows = small_pool(), np.arange(2)
    sampler = Sampler(pool.labels, pool.sets.astype(np.int64), 2, 2, 0.0, 0)
    for parts in ({"frozen": FROZEN}, {"teachers": (model[0],)}):
        make = RegionBatches(pool, sampler, model[0], device="cuda", **parts)
        with pytest.raises(ValueError, match="no CUDA device"):
            make.batch(rows, np.zeros(2, bool))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"key": {}}', '{"key": {}, "pictures": "x"}'])
def test_a_damaged_state_is_named(tmp_path: Path, model: tuple[Model, TrainingNetwork], content: str):
    (tmp_path / "cache.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"cache\.json: damaged; remove this cache"):
        filled(tmp_path, small_pool(), model[0])


def test_an_unreadable_picture_is_noted_and_its_rows_are_zero(tmp_path: Path, model: tuple[Model, TrainingNetwork]):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    Image.new("RGB", (200, 200), (200, 30, 90)).save(tmp_path / "good.png")
    notes: list[str] = []
    pool = small_pool((tmp_path / "bad.jpg", tmp_path / "none.jpg", tmp_path / "good.png"))
    cache = filled(tmp_path / "cache", pool, model[0], notes=notes)
    assert len(notes) == 2 and "bad.jpg" in notes[0] and "none.jpg" in notes[1]
    assert not cache.features[:5].any() and not cache.scores[:5].any()
    assert cache.features[5:].any() and cache.scores[5:].astype(np.float32).sum(axis=1) == pytest.approx(1, abs=0.01)


def test_workers_are_not_sent_the_contents(tmp_path: Path, model: tuple[Model, TrainingNetwork]):
    """A cache of 8 MB travels as the name of its folder, and reads the same there."""
    cache = FeatureCache(tmp_path, (64, 4, 4), 201, 4000)
    cache.features[:, 0, 0, 0] = np.arange(4000) / 4
    pool = small_pool()
    make = RegionBatches(
        pool, Sampler(pool.labels, pool.sets.astype(np.int64), 2, 2, 0.0, 0), model[0], cache=cache, scored=True
    )
    cache.flush()
    content = pickle.dumps(make)
    assert len(content) < 50_000
    rows = np.array([3, 7, 0])
    found = pickle.loads(content).batch(rows, np.zeros(3, bool))
    assert found["input"][:, 0, 0, 0].tolist() == [0.75, 1.75, 0.0]
    assert found["scores"].shape == (3, 201) and found["known"].shape == (3, 201)
