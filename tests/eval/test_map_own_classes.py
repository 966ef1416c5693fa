"""A model with classes of its own is evaluated on data of these classes, and on no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from detector.classes import det_names
from detector.datasets.read import read_dataset
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import fold, training_network
from detector.samples import samples_folder
from detector.weights import save_weights
from eval.map import main

OWN = ("good boy", "tabby", "mug")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A narrow GoogLeNet with random weights for three classes of its own."""
    return small(tmp_path_factory.mktemp("model") / "own.safetensors", OWN)


def small(path: Path, names: tuple[str, ...]) -> str:
    classes = 1 + (len(names) or 200)
    network = training_network(googlenet(classes, "batch", 0.1), "none", 0.0, 3)
    options = {"size": 75, "mean": 128.0, "scale": 64.0, "width": 0.1, "norm": "batch", "classes": classes}
    return save_weights(path, fold(network), network="googlenet", class_names=names, **options).file  # type: ignore[arg-type]


def data_of(folder: Path, names: tuple[str, ...]) -> Path:
    """A COCO file of a small crop of a sample, with two objects of the first two classes."""
    folder.mkdir()
    shutil.copy(samples_folder() / "chelsea.jpg", folder)
    data = {
        "images": [{"id": 1, "file_name": "chelsea.jpg", "width": 451, "height": 300}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": k, "bbox": [50, 20, 200, 150], "area": 30000, "iscrowd": 0}
            for k in (1, 2)
        ],
    }
    (folder / "data.json").write_text(json.dumps(data))
    return folder / "data.json"


def evaluate(model: str, data: Path, *extra: str) -> int:
    return main(["--data", str(data), "--model", model, "--resamples", "0", "--json", *extra])


def test_data_of_its_classes_is_scored_in_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = data_of(tmp_path / "data", OWN)
    assert evaluate(model, data) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["protocol"], document["classes"], document["objects"]) == ("coco", 3, 2)
    assert {row["class"] for row in document["per_class"]} == set(OWN[:2])
    assert document["predictions"] > 0 and document["notes"] == []
    assert read_dataset(data).class_names == OWN
    # a class by its name, and none of the 200
    assert evaluate(model, data, "--classes", "tabby") == 0
    assert [row["class"] for row in json.loads(capsys.readouterr().out)["per_class"]] == ["tabby"]
    assert evaluate(model, data, "--classes", "zebra") == 2
    assert "--classes: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "strange"),
    [
        (("good boy", "tabby", "cup"), "cup"),
        (("tabby", "good boy", "mug"), "tabby"),  # all there, in another order
        (("good boy", "tabby"), "good boy"),  # one too few
        (("good boy", "tabby", "mug", "spoon"), "spoon"),  # one too many
    ],
)
def test_data_of_other_classes_is_refused_in_one_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], strange: str
) -> None:
    data = data_of(tmp_path / "data", names)
    assert evaluate(model, data) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"{model} has classes of its own (good boy, tabby, mug, ...)" in err
    assert f"('{strange}'); give data of its classes" in err
    assert not (tmp_path / "detected").exists()


def test_the_samples_are_of_other_classes_too(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", model, "--resamples", "0", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert "give data of its classes" in err and err.count("\n") == 1


def test_a_model_of_the_200_classes_has_others_mapped_to_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    det = small(tmp_path / "det.safetensors", ())
    voc = ("aeroplane", "cat", "dog")
    assert evaluate(det, data_of(tmp_path / "voc", voc)) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"] == 200 and "mapped to the 200 of ILSVRC DET" in document["notes"][0]
    assert {row["class"] for row in document["per_class"]} <= set(det_names())
    assert evaluate(det, data_of(tmp_path / "own", OWN)) == 2
    err = capsys.readouterr().err
    assert err.startswith("python -m eval.map: ") and err.count("\n") == 1


def test_own_names_that_are_the_200_are_the_200(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data with these names in this order are what such a model was trained on."""
    monkeypatch.chdir(tmp_path)
    named = small(tmp_path / "named.safetensors", det_names())
    assert evaluate(named, data_of(tmp_path / "data", det_names())) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"] == 200 and document["notes"] == [] and document["protocol"] == "ilsvrc"


@pytest.mark.parametrize("name", ["no_such_model", "."])
def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert evaluate(name, data_of(tmp_path / "data", OWN)) == 2
    err = capsys.readouterr().err
    assert name in err and err.count("\n") == 1
