"""Training MultiBox: mini-batches, the run and its file, and heads that learn a few pictures by heart."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.cli.train import main
from detector.datasets.read import read_dataset
from detector.model import Model, Spec, find_model
from detector.multibox import MULTIBOX_FILE, MultiBox, load_multibox
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import fold, training_network
from detector.samples import samples_folder
from detector.training.features import FeatureCache
from detector.training.multibox import FeatureRows, MultiBoxTask
from detector.training.options import MultiBoxOptions
from detector.training.run_folder import read_log
from detector.training.views import Views, build_views
from detector.weights import save_weights
from proposals.boxes import iou
from proposals.images import read_image
from proposals.multibox.priors import kmeans_priors

FROZEN = "inception_5a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow GoogLeNet with random weights as the trunk, and a configuration on the samples."""
    root = tmp_path_factory.mktemp("multibox")
    save_weights(
        root / "small.safetensors",
        fold(training_network(googlenet(201, "batch", 0.25), "none", 0.0, 3)),
        Spec(
            network="googlenet",
            size=96,
            mean=128.0,
            scale=64.0,
            width=0.25,
            norm="batch",
            classes=201,
        ),
    )
    (root / "small.toml").write_text(
        f"""
model = {json.dumps(str(root / "small.safetensors"))}
frozen = "{FROZEN}"
fine = ""
cut_precision = "f32"
data = ["samples"]
device = "cpu"
steps = 12
mini_batch = 8
views = 3
priors = 20
reduced = 8
hidden = 32
held_out = 0.25
optimizer = "adamw"
learning_rate = 0.001
validate_steps = 12
log_steps = 3
"""
    )
    return root


def train(folder: Path, out: Path, *extra: str) -> int:
    return main(["multibox", "--config", str(folder / "small.toml"), "--out", str(out), "--quiet", *extra])


def test_a_run_writes_heads_that_detect_takes(folder: Path, tmp_path: Path):
    assert train(folder, tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "config.toml", "log.jsonl", "last.pt", "cache", MULTIBOX_FILE} <= names
    weights = load_multibox(tmp_path)
    assert weights.frozen == FROZEN and weights.trunk.size == 96
    assert Path(weights.trunk.file).samefile(folder / "small.safetensors")
    assert weights.arrays["priors"].shape == (20, 4) and weights.arrays["hidden.weight"].shape == (32, 8 * 9)
    assert len(MultiBox(weights)(read_image(samples_folder() / "dog.jpg"))) > 0
    lines = read_log(tmp_path / "log.jsonl")
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [3, 6, 9, 12]
    for line in losses:
        assert line["loss"] == pytest.approx(line["location"] + line["confidence"], rel=1e-5)
    measures = [line for line in lines if "val_score" in line]
    assert len(measures) == 1 and measures[0]["val_score"] == measures[0]["val_recall_50"]
    assert 0 <= measures[0]["val_recall_70"] <= measures[0]["val_recall_50"] <= 1


def test_the_same_run_gives_the_same_file_also_with_workers_and_a_shared_cache(folder: Path, tmp_path: Path):
    shared = f"cache={tmp_path / 'cache'}"
    runs = {"a": (shared,), "b": (shared, "workers=1"), "c": (shared, "seed=1")}
    for name, extra in runs.items():
        assert train(folder, tmp_path / name, *extra) == 0
        assert not (tmp_path / name / "cache").exists()
    a, b, c = ((tmp_path / name / MULTIBOX_FILE).read_bytes() for name in runs)
    assert a == b != c


def test_a_run_goes_on_where_it_was(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A finished run has nothing left to do; one of other options, or features of other views, are not mixed."""
    assert train(folder, tmp_path / "run") == 0
    content = (tmp_path / "run" / MULTIBOX_FILE).read_bytes()
    assert train(folder, tmp_path / "run") == 0
    assert (tmp_path / "run" / MULTIBOX_FILE).read_bytes() == content
    assert train(folder, tmp_path / "run", "hidden=16") == 1
    assert "holds a run with hidden = 32, not 16" in capsys.readouterr().err
    assert train(folder, tmp_path / "other", "views=4", f"cache={tmp_path / 'run' / 'cache'}") == 1
    error = capsys.readouterr().err
    assert "keeps features of other views; give another cache" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("priors=500",), "500 priors need as many distinct boxes"),
        (("held_out=0.999",), "no picture is left to train on; lower held_out"),
        (("frozen=inception_5c",), "no layer 'inception_5c' to cut after"),
        (("matching=best",), "matching must be priors or predictions, got 'best'"),
        (("partial=['voc']",), "partial names 'voc', which data does not"),
        (("cut_precision=int8",), "holds no 8-bit intervals"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], message: str
):
    assert train(folder, tmp_path, *extra) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def cache_of(folder: Path, views: Views, seed: int = 0) -> FeatureCache:
    """Return random features [V, 5, 2, 2] as a cache."""
    folder.mkdir()
    cache = FeatureCache(folder, (5, 2, 2), 3, len(views))
    rng = np.random.default_rng(seed)
    cache.features[:] = rng.normal(0, 1, cache.features.shape)
    cache.scores[:] = 1 / 3
    return cache


@pytest.fixture(scope="module")
def views() -> Views:
    return build_views(["samples"], [], 3, 0.3, 0.5, 0)


def options(**changes: object) -> MultiBoxOptions:
    values: dict[str, object] = {"steps": 1, "data": ("samples",), "priors": 8, "mini_batch": 6, "held_out": 0.3}
    return MultiBoxOptions(**(values | changes))  # type: ignore[arg-type]


def model() -> Model:
    return find_model("inception_v3@96")


def test_every_pass_draws_every_row_once(views: Views, tmp_path: Path):
    """Also where a mini-batch ends one pass and begins the next, and in the parts of two processes."""
    cache = cache_of(tmp_path / "c", views)
    rows = np.array([1, 4, 5, 9, 12, 20, 29])
    made = FeatureRows(cache, rows, 4, 7)
    drawn = np.concatenate([made.drawn(step) for step in range(7)])  # 28 = 4 passes over 7
    for epoch in drawn.reshape(4, 7):
        np.testing.assert_array_equal(np.sort(epoch), rows)
    assert len({tuple(epoch) for epoch in drawn.reshape(4, 7)}) > 1
    np.testing.assert_array_equal(made.drawn(3), FeatureRows(cache, rows, 4, 7).drawn(3))
    batch = made(2)
    np.testing.assert_array_equal(batch["rows"].numpy(), made.drawn(2))
    np.testing.assert_array_equal(batch["input"].numpy(), cache.features[made.drawn(2)].astype(np.float32))
    parts = []
    for rank in (0, 1):
        own = pickle.loads(pickle.dumps(made))
        own.rank, own.size = rank, 2
        parts.append(own(2)["rows"].numpy())
    np.testing.assert_array_equal(np.stack(parts, axis=1).ravel(), made.drawn(2))


def test_held_out_pictures_and_those_without_features_are_not_trained_on(views: Views, tmp_path: Path):
    cache = cache_of(tmp_path / "c", views)
    unread = 4
    cache.scores[views.pictures == unread] = 0
    task = MultiBoxTask(options(), model(), views, cache)
    held = set(views.pictures[task.held_out].tolist())
    trained = set(views.pictures[task.make.rows].tolist())
    assert held and trained and not held & trained
    assert held | trained == set(range(10)) - {unread}
    assert (views.pictures[task.make.rows] == max(trained)).sum() == 3  # every view is trained on,
    assert (task.held_out % 3 == 0).all() and len(task.held_out) == len(held)  # but validated on the picture as it is
    assert task.steps_per_epoch == len(task.make.rows) / 6
    boxes = np.concatenate([views.truth[row] for row in task.make.rows])
    np.testing.assert_array_equal(task.priors, kmeans_priors(boxes, 8, 0))
    names = {path.name for path in views.paths}
    assert set(task.contents(0).split(", ")) <= names


def test_validation_counts_the_boxes_that_are_reached(views: Views, tmp_path: Path):
    """Untrained heads propose the priors: recall is that of the priors, by hand."""
    cache = cache_of(tmp_path / "c", views)
    task = MultiBoxTask(options(priors=12), model(), views, cache)
    for output in (task.network.locations, task.network.confidences):
        torch.nn.init.zeros_(output.weight)
    with torch.no_grad():
        task.network.confidences.bias.copy_(torch.linspace(3, -3, 12))
    with torch.no_grad():
        found = task.validate(task.network.eval())
    best = np.concatenate([iou(views.truth[row], task.priors).max(axis=1) for row in task.held_out])
    # suppression at 0.75 takes no prior away here
    overlaps = iou(task.priors, task.priors)[~np.eye(12, dtype=bool)]
    assert overlaps.max() < 0.75
    assert found["recall_50"] == found["score"] == pytest.approx((best >= 0.5).mean())
    assert found["recall_70"] == pytest.approx((best >= 0.7).mean())
    none = MultiBoxTask(options(held_out=0.0), model(), views, cache)
    assert none.validate(none.network) == {}


@pytest.mark.parametrize("matching", ["priors", "predictions"])
def test_the_loss_falls(views: Views, tmp_path: Path, matching: str):
    cache = cache_of(tmp_path / "c", views)
    task = MultiBoxTask(options(matching=matching, dropout=0.0, hidden=64), model(), views, cache)
    optimizer = torch.optim.AdamW(task.network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        found = task.losses(task.network, task.make(0))
        assert found["loss"].item() == pytest.approx((found["location"] + found["confidence"]).item(), rel=1e-5)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert losses[-1] < 0.5 * losses[0]


def eight(folder: Path) -> Path:
    """A data set of eight of the samples, those with the fewest pixels."""
    folder.mkdir()
    document = json.loads((samples_folder() / "annotations.json").read_text())
    used = {a["image_id"] for a in document["annotations"]}
    images = sorted((i for i in document["images"] if i["id"] in used), key=lambda i: i["width"] * i["height"])[:8]
    document["images"] = images
    ids = {i["id"] for i in images}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    for image in images:
        shutil.copy(samples_folder() / image["file_name"], folder)
    (folder / "eight.json").write_text(json.dumps(document))
    return folder / "eight.json"


def recall(run: Path, data: Path) -> float:
    """Return the share of the objects of `data` that the boxes of a run reach at IoU 0.5."""
    multibox, truth = MultiBox(load_multibox(run)), read_dataset(data)
    best = []
    for index, path in enumerate(truth.paths):
        assert path is not None
        found = multibox(read_image(path))
        assert len(found) <= 200
        best.append(iou(truth.boxes[truth.of_picture(index)].astype(np.float32), found.boxes).max(axis=1))
    return float((np.concatenate(best) >= 0.5).mean())


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart(folder: Path, tmp_path: Path):
    """On the shipped network's features: over 95 % of the objects at IoU 0.5, which the priors alone do not reach."""
    data = eight(tmp_path / "data")
    reached = {}
    for name, steps in (("untrained", 1), ("trained", 300)):
        extra = (
            "model=inception_v3@160",
            "frozen=Mixed_7a",
            f"data=[{json.dumps(str(data))}]",
            f"steps={steps}",
            "views=2",
            "mini_batch=16",
            "priors=10",
            "reduced=32",
            "hidden=256",
            "dropout=0.0",
            "held_out=0.0",
            "cut_precision=auto",
            f"cache={tmp_path / 'cache'}",
        )
        assert train(folder, tmp_path / name, *extra) == 0
        reached[name] = recall(tmp_path / name, data)
    assert reached["trained"] > 0.95 > 0.8 > reached["untrained"], reached
