"""The stages `classifier` and `distill`, from class folders of the sample pictures to models that load and run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from detector.cli.train import main
from detector.model import find_model
from detector.runtimes.base import DET
from detector.runtimes.load import load_classifier
from detector.training.augmentation import centre_crop
from detector.training.classifier import ClassifierTask, ImageBatches, open_teacher
from detector.training.data import ImageSet, open_images
from detector.training.options import ClassifierOptions, DistillOptions
from detector.training.run_folder import read_log
from proposals.images import read_image

SAMPLES = Path(__file__).parents[3] / "samples"
CLASSES = {"bird": ("eagle", "kite"), "cat": ("chelsea",), "cup": ("coffee",), "horse": ("horses", "giraffe")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes") / "train"
    for name, pictures in CLASSES.items():
        (root / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(SAMPLES / f"{picture}.jpg", root / name)
    return root


SMALL = {
    "width": 0.25,
    "norm": "batch",
    "auxiliary": False,
    "size": 96,
    "mini_batch": 6,
    "device": "cpu",
    "dropout": 0.0,
}


def options(data: Path, **fields: object) -> ClassifierOptions:
    return ClassifierOptions(**({"steps": 10, "data": str(data)} | SMALL | fields))  # type: ignore[arg-type]


def run(stage: str, data: Path, out: Path, **fields: object) -> int:
    """Run the command with these options."""
    table = {"data": str(data), **SMALL, **fields}
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f"{out.name}.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()), encoding="utf-8")
    return main([stage, "--config", str(path), "--out", str(out), "--quiet"])


def losses(out: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_log(out / "log.jsonl") if name in line]


def test_a_classifier_learns_and_its_model_runs(data: Path, tmp_path: Path):
    fields = {
        "steps": 40,
        "learning_rate": 0.02,
        "log_steps": 5,
        "validation": str(data),
        "validate_steps": 40,
        "area_min": 0.5,
    }
    assert run("classifier", data, tmp_path / "run", **fields) == 0
    found = losses(tmp_path / "run")
    assert found[-1] < 0.75 * found[0]
    model = find_model(str(tmp_path / "run"))
    assert (model.network, model.width, model.norm, model.size) == ("googlenet", 0.25, "batch", 96)
    assert (model.outputs, model.labels, model.classes) == ("own", tuple(CLASSES), 1 + len(CLASSES))
    images = open_images(data)
    crops = np.stack([centre_crop(images.read(k), 96, round(96 * 256 / 224)) for k in range(len(images))])
    scores = load_classifier(model, "openvino", "cpu", "f32", 0, DET)(crops)
    assert scores.shape == (6, 5) and scores.sum(axis=1) == pytest.approx(1, abs=1e-3)
    # what OpenVINO says of the exported model is what was validated in training
    told = next(line for line in read_log(tmp_path / "run" / "log.jsonl") if "val_score" in line)
    right = (scores.argmax(axis=1) == images.labels + 1).mean()
    assert told["val_top1_error"] == pytest.approx(1 - told["val_score"])
    assert abs(right - told["val_score"]) < 1 / 6 + 1e-6  # batch norm is folded into float16


def test_the_auxiliary_classifiers_join_in_at_224(data: Path, tmp_path: Path):
    fields = {"steps": 2, "auxiliary": True, "size": 224, "mini_batch": 2, "norm": "lrn", "log_steps": 1}
    assert run("classifier", data, tmp_path / "run", **fields) == 0
    whole, main_part = losses(tmp_path / "run")[0], losses(tmp_path / "run", "main")[0]
    # before the first step every classifier is near to ln 5, the side ones weigh 0.3
    assert main_part == pytest.approx(np.log(5), abs=0.6) and whole == pytest.approx(1.6 * main_part, abs=0.6)
    assert whole > main_part + 0.5
    assert find_model(str(tmp_path / "run")).norm == "lrn"


def test_auxiliary_classifiers_on_small_crops_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("classifier", data, tmp_path / "run", steps=1, auxiliary=True) == 1
    error = capsys.readouterr().err
    assert "train on larger crops or without auxiliary classifiers" in error and error.count("\n") == 1


def test_the_loss_is_cross_entropy_behind_the_background(data: Path):
    images = open_images(data)
    task = ClassifierTask(options(data), images, None)
    batch = next(task.batches(0, 1, 0, 1))
    network = task.network.eval()
    with torch.no_grad():
        found = task.losses(network, batch)
        x = (batch["crops"].permute(0, 3, 1, 2).float() - 128) / 128
        logits = network(x).main
    assert task.classes == 5 and task.first == 1
    torch.testing.assert_close(found["loss"], functional.cross_entropy(logits, batch["labels"] + 1))
    assert found["error"].item() == pytest.approx((logits.argmax(dim=1) != batch["labels"] + 1).float().mean().item())


def test_mixed_pictures_have_mixed_targets(data: Path):
    task = ClassifierTask(options(data, mixup=0.4), open_images(data), None)
    batch, again = next(task.batches(3, 4, 0, 1)), next(task.batches(3, 4, 0, 1))
    assert batch["targets"].shape == (6, 5) and torch.equal(batch["targets"], again["targets"])
    assert batch["targets"].sum(dim=1).tolist() == pytest.approx([1] * 6) and not batch["targets"][:, 0].any()
    assert torch.isfinite(task.losses(task.network, batch)["loss"])


def test_every_pass_sees_every_picture_once_and_a_batch_goes_over_its_end(data: Path):
    images = open_images(data)
    make = ImageBatches(images, options(data, mini_batch=4))
    places = [place for step in range(6) for place in make.places(step)]
    assert [epoch for epoch, _ in places] == [k // 6 for k in range(24)]
    for epoch in range(4):
        assert sorted(index for of, index in places if of == epoch) == list(range(6))
    again = ImageBatches(images, options(data, mini_batch=4))
    assert again.places(4) == places[16:20] and again.places(0) == places[:4]
    one, two = make(2), again(2)
    assert torch.equal(one["crops"], two["crops"]) and torch.equal(one["labels"], two["labels"])
    assert one["labels"].tolist() == [int(images.labels[index]) for _, index in places[8:12]]
    make.rank, make.size = 1, 2
    assert torch.equal(make(2)["crops"], one["crops"][1::2])


def test_an_unreadable_picture_is_said_and_the_next_one_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.jpg").write_bytes(b"no picture")
    shutil.copy(SAMPLES / "dog.jpg", tmp_path / "a" / "good.jpg")
    make = ImageBatches(open_images(tmp_path), options(tmp_path, mini_batch=2))
    assert make(0)["crops"].float().std() > 1
    assert "picture 0: " in capfd.readouterr().err
    (tmp_path / "a" / "good.jpg").write_bytes(b"none either")
    with pytest.raises(ValueError, match="no picture of the data can be read"):
        make(0)


@pytest.fixture(scope="module")
def unlabelled(data: Path) -> ImageSet:
    return open_images(data, labelled=False)


def test_a_teacher_gives_scores_and_the_student_nears_them(data: Path, small_network: Path, tmp_path: Path):
    fields = {"teachers": [str(small_network)], "steps": 40, "learning_rate": 0.1, "log_steps": 5, "area_min": 0.5}
    assert run("distill", data, tmp_path / "run", **fields) == 0
    found = losses(tmp_path / "run")
    assert found[-1] < 0.8 * found[0]
    model = find_model(str(tmp_path / "run"))
    assert (model.outputs, model.classes) == ("imagenet", 1000)


def test_the_loss_of_distillation_by_hand(data: Path, small_network: Path, unlabelled: ImageSet):
    """The divergence of the student's from the teacher's softmax, both at temperature 2, times 4."""
    o = DistillOptions(steps=10, data=str(data), teachers=(str(small_network),), temperature=2.0, **SMALL)  # type: ignore[arg-type]
    teach = open_teacher(str(small_network), 96)
    task = ClassifierTask(o, unlabelled, None, (teach, teach))
    batch = next(task.batches(0, 1, 0, 1))
    np.testing.assert_allclose(batch["targets"], teach(batch["crops"].numpy()), atol=1e-6)
    assert batch["targets"].sum(dim=1).tolist() == pytest.approx([1] * 6, abs=1e-4)
    network = task.network.eval()
    with torch.no_grad():
        found = task.losses(network, batch)["loss"].item()
        logits = network((batch["crops"].permute(0, 3, 1, 2).float() - 128) / 128).main.double().numpy() / 2
    old = np.sqrt(batch["targets"].clamp_min(1e-8).double().numpy())
    old /= old.sum(axis=1, keepdims=True)
    new = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found == pytest.approx(4 * (old * np.log(old / new)).sum(axis=1).mean(), rel=1e-4)


def test_a_model_of_other_classes_is_no_teacher(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("classifier", data, tmp_path / "own", steps=1) == 0
    with pytest.raises(ValueError, match="not ImageNet's 1,000"):
        open_teacher(str(tmp_path / "own"), 96)
    assert run("distill", data, tmp_path / "run", steps=1, teachers=[str(tmp_path / "own")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_training_starts_from_stored_weights(data: Path, tmp_path: Path):
    """The batch norm of the first run is folded into them; the classifier begins anew where the classes differ."""
    assert run("classifier", data, tmp_path / "one", steps=3, learning_rate=0.05) == 0
    stored = find_model(str(tmp_path / "one"))
    o = options(data, start=str(tmp_path / "one"))
    task = ClassifierTask(o, open_images(data), None)
    crop = centre_crop(read_image(SAMPLES / "dog.jpg"), 96, 110)[None]
    x = (torch.from_numpy(crop).permute(0, 3, 1, 2).float() - 128) / 128
    with torch.no_grad():
        scores = task.network.eval()(x).main.softmax(dim=1).numpy()
    np.testing.assert_allclose(load_classifier(stored, "openvino", "cpu", "f32", 0, DET)(crop), scores, atol=2e-3)
    with pytest.raises(ValueError, match="no convolution of these weights fits"):
        ClassifierTask(replace(o, width=0.5), open_images(data), None)
