"""A model with classes of its own is evaluated on data of these classes, and on no other."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_runs import small_detector, small_model, two_objects

from detector.classes import det_names
from detector.datasets.read import read_dataset
from detector.options import DetectOptions
from detector.whole_crops import CONTEXT_MODEL
from eval.detector_run import setup
from eval.map import main

OWN = ("good boy", "tabby", "mug")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A narrow GoogLeNet with random weights for three classes of its own."""
    return small_model(tmp_path_factory.mktemp("model") / "own.safetensors", OWN)


def evaluate(model: str, data: Path, *extra: str) -> int:
    return main(["--data", str(data), "--model", model, "--resamples", "0", "--json", *extra])


def test_data_of_its_classes_is_scored_in_them(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = two_objects(tmp_path / "data", OWN)
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
    data = two_objects(tmp_path / "data", names)
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
    det = small_model(tmp_path / "det.safetensors")
    voc = ("aeroplane", "cat", "dog")
    assert evaluate(det, two_objects(tmp_path / "voc", voc)) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"] == 200 and "mapped to the 200 of ILSVRC DET" in document["notes"][0]
    assert {row["class"] for row in document["per_class"]} <= set(det_names())
    assert evaluate(det, two_objects(tmp_path / "own", OWN)) == 2
    err = capsys.readouterr().err
    assert err.startswith("python -m eval.map: ") and err.count("\n") == 1


def test_own_names_that_are_the_200_are_the_200(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data with these names in this order are what such a model was trained on."""
    monkeypatch.chdir(tmp_path)
    named = small_model(tmp_path / "named.safetensors", det_names())
    assert evaluate(named, two_objects(tmp_path / "data", det_names())) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"] == 200 and document["notes"] == [] and document["protocol"] == "ilsvrc"


@pytest.mark.parametrize("name", ["no_such_model", "."])
def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert evaluate(name, two_objects(tmp_path / "data", OWN)) == 2
    err = capsys.readouterr().err
    assert name in err and err.count("\n") == 1


def test_predictions_of_other_weights_are_not_taken_for_these(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second member of an ensemble is trained again: its file has the name that it had."""
    monkeypatch.chdir(tmp_path)
    member, data = tmp_path / "member.safetensors", two_objects(tmp_path / "data", OWN)
    settings = small_detector(tmp_path / "detect.toml", model, str(member))
    command = ["--data", str(data), "--detect-config", settings, "--resamples", "0", "--json"]
    runs = []
    for seed in (4, 5, 4):
        small_model(member, OWN, seed)
        assert main(command) == 0
        runs.append(json.loads(capsys.readouterr().out))
    files = sorted((tmp_path / "detected").glob("*.parquet"))
    assert len(files) == 2 and runs[0] == runs[2]
    first, second = (pq.read_table(file)["score"].to_pylist() for file in files)
    assert first != second
    small_model(member, OWN, 6)
    assert main([*command, "--out", str(files[0])]) == 1
    assert f"{files[0]} was made with other options (weights of {member} " in capsys.readouterr().err


def test_the_key_of_a_run_has_version_options_and_all_weights(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = small_model(tmp_path / "member.safetensors", OWN, 4)
    options = DetectOptions(model=model, ensemble=f"{member}, {member}@80", proposals="both", context=0.2)
    key = setup(options).key
    weights = {name.removeprefix("weights of ") for name in key if name.startswith("weights of ")}
    assert weights == {model, member, f"{member}@80", CONTEXT_MODEL, "MultiBox"}
    assert {**asdict(options), **key} == key
    alone = setup(replace(options, ensemble="", proposals="ss", context=0.0)).key
    assert [name for name in alone if name.startswith("weights of ")] == [f"weights of {model}"]
    monkeypatch.setattr("eval.detector_run.__version__", "999")
    other = setup(options).key
    assert {name for name in key if key[name] != other[name]} == {"version"}
