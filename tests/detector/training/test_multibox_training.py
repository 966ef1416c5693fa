"""Training MultiBox: samples, mini-batches, the run and its file, and pictures learned by heart."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.cli.train import main
from detector.datasets.read import read_dataset
from detector.model import Model, Spec, find_model
from detector.multibox import MULTIBOX_FILE, MultiBox, load_multibox
from detector.networks.googlenet import googlenet
from detector.networks.layers import cut_after
from detector.networks.torch_module import fold, training_network
from detector.runtimes.openvino import OpenVinoFeatures
from detector.samples import samples_folder
from detector.training.multibox import MultiBoxTask
from detector.training.multibox_samples import GREY, BoxedImages, MultiBoxSamples, boxed_images, stretched
from detector.training.options import MultiBoxOptions
from detector.training.processes import Batch
from detector.training.run_folder import read_log
from detector.weights import save_weights
from proposals.boxes import as_boxes, iou
from proposals.images import read_image
from proposals.multibox.decode import decode_proposals
from proposals.multibox.priors import LARGE, SMALL, grid_priors, kmeans_shapes

SIZE, FINE, FROZEN = 96, "inception_3a", "inception_4d"
GRIDS = [(12, 12), (6, 6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow GoogLeNet with random weights as the trunk, and a configuration on the samples."""
    root = tmp_path_factory.mktemp("grid")
    save_weights(
        root / "small.safetensors",
        fold(training_network(googlenet(201, "batch", 0.25), "none", 0.0, 3)),
        Spec(network="googlenet", size=SIZE, mean=128.0, scale=64.0, width=0.25, norm="batch", classes=201),
    )
    (root / "small.toml").write_text(
        f"""
model = {json.dumps(str(root / "small.safetensors"))}
frozen = "{FROZEN}"
fine = "{FINE}"
cut_precision = "f32"
data = ["samples"]
device = "cpu"
steps = 6
mini_batch = 4
fine_shapes = 2
coarse_shapes = 3
mixed = 8
held_out = 0.3
pool_seed = 20
optimizer = "adamw"
learning_rate = 0.001
average = "ema"
validate_steps = 6
log_steps = 2
"""
    )
    return root


def train(folder: Path, out: Path, *extra: str) -> int:
    return main(["multibox", "--config", str(folder / "small.toml"), "--out", str(out), "--quiet", *extra])


def options(**changes: object) -> MultiBoxOptions:
    values: dict[str, object] = {
        "steps": 1,
        "data": ("samples",),
        "mini_batch": 6,
        "held_out": 0.3,
        "fine_shapes": 2,
        "coarse_shapes": 3,
        "mixed": 8,
        "seed": 4,
        "pool_seed": 20,  # the pictures with small objects are trained on
    }
    return MultiBoxOptions(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images() -> BoxedImages:
    return boxed_images(["samples"], [])


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return find_model(str(folder / "small.safetensors"))


@pytest.fixture(scope="module")
def trunk(model: Model) -> OpenVinoFeatures:
    return OpenVinoFeatures(model, [cut_after(model.layers, name) for name in (FINE, FROZEN)], "f32")


def samples(images: BoxedImages, **changes: object) -> MultiBoxSamples:
    return MultiBoxSamples(options(**changes), images, np.arange(len(images)), 64)


def test_a_run_writes_heads_that_detect_takes(folder: Path, tmp_path: Path):
    assert train(folder, tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "config.toml", "log.jsonl", "last.pt", MULTIBOX_FILE} <= names and "cache" not in names
    weights = load_multibox(tmp_path)
    assert (weights.fine, weights.frozen, weights.trunk.size) == (FINE, FROZEN, SIZE)
    assert weights.arrays["fine_outputs.weight"].shape == (10, 8, 1, 1)
    found = MultiBox(weights)(read_image(samples_folder() / "dog.jpg"))
    assert 0 < len(found) <= 200
    lines = read_log(tmp_path / "log.jsonl")
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [2, 4, 6]
    for line in losses:
        assert line["loss"] == pytest.approx(line["location"] + line["confidence"], rel=1e-5)
    measures = [line for line in lines if "val_score" in line]
    assert len(measures) == 1 and measures[0]["val_score"] == measures[0]["val_recall_50"]
    assert 0 <= measures[0]["val_recall_70"] <= measures[0]["val_recall_50"] <= 1


@pytest.mark.slow
def test_the_same_run_gives_the_same_file_also_with_workers(folder: Path, tmp_path: Path):
    runs = {"a": (), "b": ("workers=1",), "c": ("seed=1",)}
    for name, extra in runs.items():
        assert train(folder, tmp_path / name, *extra) == 0
    a, b, c = ((tmp_path / name / MULTIBOX_FILE).read_bytes() for name in runs)
    assert a == b != c


def test_a_stopped_run_goes_on_where_it_was(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """It ends with the file of one that was never stopped; one of other options is not mixed with it."""
    assert train(folder, tmp_path / "whole") == 0
    losses, calls = MultiBoxTask.losses, []

    def stopped(self: MultiBoxTask, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, network, batch)

    monkeypatch.setattr(MultiBoxTask, "losses", stopped)
    assert train(folder, tmp_path / "parts") not in (0, 1)
    assert len(calls) == 3 and not (tmp_path / "parts" / MULTIBOX_FILE).exists()
    assert train(folder, tmp_path / "parts") == 0
    assert len(calls) == 6
    content = (tmp_path / "parts" / MULTIBOX_FILE).read_bytes()
    assert content == (tmp_path / "whole" / MULTIBOX_FILE).read_bytes()
    assert train(folder, tmp_path / "parts") == 0  # nothing is left to do
    assert len(calls) == 6 and (tmp_path / "parts" / MULTIBOX_FILE).read_bytes() == content
    capsys.readouterr()
    assert train(folder, tmp_path / "parts", "mixed=16") == 1
    assert "holds a run with mixed = 8, not 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("fine_shapes=20",), "20 shapes of priors need as many distinct boxes with a root of the area in 0..0.12 of"),
        (("fine_shapes=20",), ": lower fine_shapes or coarse_shapes"),
        (("coarse_shapes=99",), "99 shapes of priors need as many distinct boxes with a root of the area in 0.1..2 of"),
        (("held_out=0.999",), "no picture is left to train on; lower held_out"),
        (("fine=inception_5a",), "layer 'inception_5a' of the fine grid must come before 'inception_4d'"),
        (("fine=inception_4d",), "layer 'inception_4d' of the fine grid must come before 'inception_4d'"),
        (("fine=inception_9",), "no layer 'inception_9' to cut after"),
        (("shares=[1, 1]",), "shares must have a number for each of the 1 data sets, not all 0"),
        (("shares=[0]",), "shares must have a number for each of the 1 data sets, not all 0"),
        (("whole=0.8", "shrunk=0.3"), "whole and shrunk together must not exceed 1, got 0.8 and 0.3"),
        (("whole=0.0", "shrunk=1.0"), "shrunk must lie in 0..1, below 1, got 1"),
        (("mixed=0",), "mixed must be at least 1, got 0"),
        (("cut_precision=int8",), "holds no 8-bit intervals"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], message: str
):
    assert train(folder, tmp_path, *extra) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_mini_batches_are_functions_of_seed_and_step(images: BoxedImages):
    """Whatever was asked for before; the parts of two processes are the whole, sample by sample."""
    made = samples(images)
    whole = made(3)
    assert whole["squares"].shape == (6, 64, 64, 3) and whole["squares"].dtype == torch.uint8
    assert whole["boxes"].shape == (6, int(whole["counts"].max()), 4) and whole["boxes"].dtype == torch.float32
    assert not whole["unread"].any() and not whole["partly"].any()
    again = samples(images)
    again(0)
    for name, value in again(3).items():
        assert torch.equal(value, whole[name]), name
    assert not torch.equal(made(4)["squares"], whole["squares"])
    assert not torch.equal(samples(images, seed=5)(3)["squares"], whole["squares"])
    for rank in (0, 1):
        own = pickle.loads(pickle.dumps(made))
        own.rank, own.size = rank, 2
        part = own(3)
        for name in ("squares", "counts", "partly", "unread"):
            assert torch.equal(part[name], whole[name][rank::2]), name
        most = part["boxes"].shape[1]
        assert torch.equal(part["boxes"], whole["boxes"][rank::2, :most])


def test_data_sets_have_their_shares(images: BoxedImages):
    """Of ten pictures, two are of the second set, which is to have three quarters; without shares all are equal."""
    two = replace(images, sets=np.array([0] * 8 + [1] * 2, np.int32))
    data = {"data": ("a", "b")}
    np.testing.assert_allclose(samples(two, **data).chance, np.full(10, 0.1))
    made = samples(two, **data, shares=(1.0, 3.0))
    np.testing.assert_allclose(made.chance, [1 / 32] * 8 + [3 / 8] * 2)
    drawn = np.concatenate([made.drawn(step) for step in range(300)])
    assert (drawn >= 8).mean() == pytest.approx(0.75, abs=0.05)
    none = samples(two, **data, shares=(1.0, 0.0))
    assert max(none.drawn(step).max() for step in range(30)) < 8
    with pytest.raises(ValueError) as caught:
        MultiBoxSamples(options(**data, shares=(1.0, 3.0)), two, np.arange(8), 64)
    assert str(caught.value) == "b: no picture is left to train on"


def test_whole_pictures(images: BoxedImages):
    made = samples(images, whole=0.99, shrunk=0.0)
    seen = set()
    for picture in (0, 3):
        image = read_image(images.paths[picture])
        whole = as_boxes([[0, 0, image.shape[1], image.shape[0]]])[0]
        for seed in range(6):
            out, wanted = np.full((64, 64, 3), GREY, np.uint8), np.empty((64, 64, 3), np.uint8)
            boxes = made.sample(image, picture, np.random.default_rng(seed), out)
            mirrored = not np.allclose(boxes, images.truth[picture], atol=1e-5)
            seen.add(mirrored)
            right = images.truth[picture].copy()
            if mirrored:
                right[:, [0, 2]] = 1 - right[:, [2, 0]]
            np.testing.assert_allclose(boxes, right, atol=1e-5)
            stretched(image, whole, mirrored, wanted)
            np.testing.assert_array_equal(out, wanted)
    assert seen == {False, True}


def test_shrunk_pictures_lie_on_grey(images: BoxedImages):
    """The square that is not grey, stretched back, has the boxes where the picture has them."""
    made = samples(images, whole=0.0, shrunk=0.99)
    # a picture without grey: what is grey afterwards is the border
    image, picture = np.zeros((200, 300, 3), np.uint8), 3
    sides = []
    for seed in range(20):
        out = np.full((64, 64, 3), GREY, np.uint8)
        boxes = made.sample(image, picture, np.random.default_rng(seed), out)
        rows, columns = np.nonzero(out[:, :, 0] != GREY)
        x, y = columns.min(), rows.min()
        side = columns.max() + 1 - x
        assert rows.max() + 1 - y == side and len(rows) == side**2
        sides.append(64 / side)
        right = images.truth[picture].copy()
        back = (boxes * 64 - np.tile([x, y], 2)) / side
        if not np.allclose(back, right, atol=1e-4):
            right[:, [0, 2]] = 1 - right[:, [2, 0]]
        np.testing.assert_allclose(back, right, atol=1e-4)
    assert 1.15 <= min(sides) < 1.5 and 2.0 < max(sides) < 2.6


def test_crops_hold_objects_that_fit_them(images: BoxedImages):
    """The other samples: every box is a part of one of the picture's; not all are the whole picture."""
    made = samples(images, whole=0.0, shrunk=0.0, kept_area=0.3)
    picture = 3
    image = read_image(images.paths[picture])
    counts = set()
    for seed in range(30):
        out = np.empty((64, 64, 3), np.uint8)
        boxes = made.sample(image, picture, np.random.default_rng(seed), out)
        assert boxes.dtype == np.float32 and (boxes >= 0).all() and (boxes <= 1).all()
        counts.add(len(boxes))
    assert len(counts) > 1 and max(counts) <= len(images.truth[picture])


def broken(images: BoxedImages, folder: Path, picture: int) -> BoxedImages:
    """Return the images with a file that is none in place of a picture."""
    path = folder / "broken.jpg"
    path.write_bytes(b"no picture")
    paths = list(images.paths)
    paths[picture] = path
    return replace(images, paths=tuple(paths))


def test_a_picture_that_cannot_be_read_is_noted_once_and_has_no_loss(
    images: BoxedImages, model: Model, trunk: OpenVinoFeatures, tmp_path: Path
):
    notes: list[str] = []
    first = MultiBoxTask(options(), model, images, trunk, notes.append)
    drawn = first.make.drawn(0)
    picture = int(drawn[2])
    task = MultiBoxTask(options(), model, broken(images, tmp_path, picture), trunk, notes.append)
    batches = list(task.batches(0, 3, 0, 1))
    path = tmp_path / "broken.jpg"
    assert notes == [f"{path}: cannot be read; it is left out"]
    lost = drawn == picture
    for batch, step in zip(batches, range(3), strict=True):
        assert batch["unread"].tolist() == (task.make.drawn(step) == picture).tolist()
        assert batch.keys() == {"fine", "coarse", "boxes", "counts", "partly", "unread"}
    batch = batches[0]
    assert batch["partly"].tolist() == lost.tolist() and (batch["counts"][lost] == 0).all()
    assert (task.make(0)["squares"].numpy()[lost] == GREY).all()
    rest = {name: value[torch.from_numpy(~lost)] for name, value in batch.items()}
    found, wanted = (task.losses(task.network, values) for values in (batch, rest))
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5)
    # in validation too, without another note
    held = MultiBoxTask(options(), model, broken(images, tmp_path, int(first.held_out[0])), trunk, notes.append)
    notes.clear()
    for _ in range(2):
        with torch.no_grad():
            assert held.validate(held.network).keys() == {"score", "recall_50", "recall_70"}
    assert notes == [f"{path}: cannot be read; it is left out"]


def test_a_run_passes_over_a_broken_picture(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With a worker too, which cannot write notes itself."""
    document = json.loads((samples_folder() / "annotations.json").read_text())
    data = tmp_path / "data"
    data.mkdir()
    for image in document["images"]:
        shutil.copy(samples_folder() / image["file_name"], data)
    (data / "horses.jpg").write_bytes(b"no picture")
    (data / "all.json").write_text(json.dumps(document))
    extra = (f"data=[{json.dumps(str(data / 'all.json'))}]", "held_out=0.0", "mini_batch=16", "steps=2", "workers=1")
    assert train(folder, tmp_path / "run", *extra) == 0
    error = capsys.readouterr().err
    assert error.count("horses.jpg: cannot be read; it is left out") == 1 and error.count("\n") == 1
    assert (tmp_path / "run" / MULTIBOX_FILE).exists()


def test_shapes_are_of_the_pictures_that_are_trained_on(images: BoxedImages, model: Model, trunk: OpenVinoFeatures):
    task = MultiBoxTask(options(), model, images, trunk, print)
    trained = sorted(set(range(10)) - set(task.held_out.tolist()))
    assert 0 < len(trained) < 10
    assert task.make.trained.tolist() == trained and task.steps_per_epoch == len(trained) / 6
    boxes = np.concatenate([images.truth[row] for row in trained])
    shapes = [kmeans_shapes(boxes, 2, 20, high=SMALL), kmeans_shapes(boxes, 3, 20, low=LARGE)]
    np.testing.assert_array_equal(task.priors, grid_priors(GRIDS, shapes))
    names = {images.paths[row].name for row in trained}
    assert set(task.contents(0).split(", ")) <= names


def test_validation_counts_the_boxes_that_are_reached(images: BoxedImages, model: Model, trunk: OpenVinoFeatures):
    """Heads without weights propose their priors in the order of their biases: recall is that of 200 of them."""
    task = MultiBoxTask(options(held_out=0.5), model, images, trunk, print)
    assert len(task.held_out)
    with torch.no_grad():
        for output in (task.network.fine_outputs, task.network.coarse_outputs):
            output.weight.zero_()
            output.bias.zero_()
        task.network.coarse_outputs.bias[4::5] = torch.tensor([1.0, 2.0, 3.0])
        found = task.validate(task.network.eval())
    logits = np.concatenate([np.zeros(288), np.tile([1, 2, 3], 36)]).astype(np.float32)
    zeros = np.zeros((len(logits), 4), np.float32)
    boxes = decode_proposals(zeros, logits, task.priors, 1000, 1000, 200).boxes / 1000
    best = np.concatenate([iou(images.truth[row], boxes).max(axis=1) for row in task.held_out])
    assert 0 < (best >= 0.5).mean() < 1
    assert found["recall_50"] == found["score"] == pytest.approx((best >= 0.5).mean())
    assert found["recall_70"] == pytest.approx((best >= 0.7).mean())
    none = MultiBoxTask(options(held_out=0.0), model, images, trunk, print)
    assert none.validate(none.network) == {}


def test_the_loss_falls(images: BoxedImages, model: Model, trunk: OpenVinoFeatures):
    task = MultiBoxTask(options(mixed=16), model, images, trunk, print)
    (batch,) = task.batches(0, 1, 0, 1)
    assert batch["fine"].shape == (6, 64, 12, 12) and batch["coarse"].shape == (6, 136, 6, 6)
    optimizer = torch.optim.AdamW(task.network.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        found = task.losses(task.network, batch)
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
    for name, steps in (("untrained", 1), ("trained", 80)):
        extra = (
            "model=inception_v3@160",
            "frozen=Mixed_6e",
            "fine=Mixed_5d",
            f"data=[{json.dumps(str(data))}]",
            f"steps={steps}",
            "mini_batch=8",
            "fine_shapes=1",
            "coarse_shapes=2",
            "mixed=64",
            "whole=0.9",
            "shrunk=0.0",
            "learning_rate=0.003",
            "average=none",
            "held_out=0.0",
            "cut_precision=auto",
        )
        assert train(folder, tmp_path / name, *extra) == 0
        reached[name] = recall(tmp_path / name, data)
    assert reached["trained"] > 0.95 > 0.8 > reached["untrained"], reached
