"""A run folder takes up its own run and no other, and its log has every step once."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from detector.cli.train import read_config
from detector.training.options import FinetuneOptions, LoopOptions
from detector.training.run_folder import FREE, RunFolder, read_log, toml_text


def options(**fields: Any) -> FinetuneOptions:
    return FinetuneOptions(**{"steps": 10, "data": ("samples",), **fields})


def test_it_says_what_was_asked_for_on_what(tmp_path: Path):
    o = options(learning_rate=0.25, model='a "quoted" é\\name', balance=0.5)
    RunFolder(tmp_path / "deep" / "run", "finetune", o, "abc")
    record = json.loads((tmp_path / "deep" / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["data"] == "abc" and record["options"]["stage"] == "finetune"
    assert record["options"]["learning_rate"] == 0.25 and record["torch"] and record["version"]
    found = tomllib.loads((tmp_path / "deep" / "run" / "config.toml").read_text(encoding="utf-8"))
    assert found["model"] == o.model and found["data"] == ["samples"]


def test_its_config_is_one_to_train_with(tmp_path: Path):
    o = options(learning_rate=1e-05, data=("samples", "x y#val"), partial=("samples",), compile=True)
    RunFolder(tmp_path, "finetune", o, "abc")
    assert read_config("finetune", tmp_path / "config.toml", ()) == o


def test_the_same_run_is_taken_up_and_its_record_stays(tmp_path: Path):
    RunFolder(tmp_path, "finetune", options(), "abc")
    before = (tmp_path / "run.json").read_bytes()
    RunFolder(tmp_path, "finetune", options(), "abc")
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 0.5}, "learning_rate = 0.001, not 0.5"),
        ({"steps": 20}, "steps = 10, not 20"),
        ({"data": ("samples", "more")}, r"data = \['samples'\], not \['samples', 'more'\]"),
        ({"compile": True, "frozen": "x"}, "frozen = '', not 'x'"),
    ],
)
def test_another_run_is_refused_with_what_differs(tmp_path: Path, change: dict[str, Any], told: str):
    RunFolder(tmp_path, "finetune", options(), "abc").checkpoint({"step": 1})
    with pytest.raises(ValueError, match=told) as caught:
        RunFolder(tmp_path, "finetune", options(**change), "abc")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_another_stage_and_other_data_are_refused(tmp_path: Path):
    RunFolder(tmp_path, "finetune", options(), "abc").checkpoint({"step": 1})
    with pytest.raises(ValueError, match="stage = 'finetune', not 'other'"):
        RunFolder(tmp_path, "other", options(), "abc")
    with pytest.raises(ValueError, match="on other data"):
        RunFolder(tmp_path, "finetune", options(), "abd")


@pytest.mark.parametrize(
    ("stage", "change", "data"),
    [("finetune", {"foreground": 8, "accumulate": 4}, "abc"), ("finetune", {}, "abd"), ("svm", {}, "abc")],
)
def test_a_run_that_failed_before_its_first_checkpoint_may_be_corrected(
    tmp_path: Path, stage: str, change: dict[str, Any], data: str
):
    folder = RunFolder(tmp_path, "finetune", options(), "abc")
    folder.open_log(0)
    folder.log({"step": 1, "loss": 2.0})
    folder.checkpoint({"step": 1}, best=True)
    folder.close()
    (tmp_path / "proposals.parquet").write_bytes(b"costly")
    folder = RunFolder(tmp_path, stage, options(**change), data)
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (record["options"]["stage"], record["data"]) == (stage, data)
    assert record["options"]["foreground"] == change.get("foreground", 32)
    assert read_config("finetune", tmp_path / "config.toml", ()) == options(**change)
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "run.json", "proposals.parquet"}
    folder.checkpoint({"step": 1})  # from now on it is this run's folder
    with pytest.raises(ValueError, match="steps = 10, not 20"):
        RunFolder(tmp_path, stage, options(**change, steps=20), data)


def test_a_finished_run_without_checkpoints_is_not_forgotten(tmp_path: Path):
    RunFolder(tmp_path, "svm", options(), "abc")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="steps = 10, not 20"):
        RunFolder(tmp_path, "svm", options(steps=20), "abc")


def test_a_folder_that_lost_its_record_keeps_all_else(tmp_path: Path):
    folder = RunFolder(tmp_path, "finetune", options(), "abc")
    folder.checkpoint({"step": 3})
    folder.checkpoint({"step": 2}, best=True)
    (tmp_path / "run.json").unlink()
    RunFolder(tmp_path, "finetune", options(), "abc")
    assert {"last.pt", "best.pt", "run.json"} <= {path.name for path in tmp_path.iterdir()}


def test_what_does_not_change_the_result_may_change(tmp_path: Path):
    RunFolder(tmp_path, "finetune", options(), "abc")
    fields = {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}
    assert set(FREE) <= set(fields)
    RunFolder(tmp_path, "finetune", options(workers=2, device="cpu", log_steps=3, checkpoint_minutes=1.0), "abc")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"options": 3, "data": "abc"}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str):
    RunFolder(tmp_path, "finetune", options(), "abc")
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json: damaged"):
        RunFolder(tmp_path, "finetune", options(), "abc")


def test_the_log_forgets_steps_that_come_again(tmp_path: Path):
    folder = RunFolder(tmp_path, "finetune", options(), "abc")
    folder.open_log(0)
    for step in (2, 4, 6, 8):
        folder.log({"step": step, "loss": step / 2})
    folder.close()
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 10, "lo')  # as a kill cuts it off
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [2, 4, 6, 8]
    folder = RunFolder(tmp_path, "finetune", options(), "abc")
    folder.open_log(4)
    folder.log({"step": 6, "loss": 30.0})
    folder.close()
    found = [(line["step"], line["loss"]) for line in read_log(tmp_path / "log.jsonl")]
    assert found == [(2, 1.0), (4, 2.0), (6, 30.0)]


def test_no_log_has_no_lines(tmp_path: Path):
    assert read_log(tmp_path / "log.jsonl") == []


def test_no_checkpoint_is_the_beginning(tmp_path: Path):
    folder = RunFolder(tmp_path, "finetune", options(), "abc")
    assert folder.resume() is None
    folder.checkpoint({"step": 3})
    folder.checkpoint({"step": 2}, best=True)
    last, best = folder.resume(), folder.resume("best.pt")
    assert last is not None and best is not None and (last["step"], best["step"]) == (3, 2)


def test_a_file_in_the_folders_place(tmp_path: Path):
    (tmp_path / "run").write_text("", encoding="utf-8")
    with pytest.raises(FileExistsError):
        RunFolder(tmp_path / "run", "finetune", options(), "abc")


@pytest.mark.parametrize(
    "table", [{"a": 'x\n\t"\\é', "b": [], "c": ["p", "q"], "d": 1e-7, "e": True, "f": 3, "g": 1e20, "h": -0.5}]
)
def test_toml_comes_back(table: dict[str, Any]):
    assert tomllib.loads(toml_text(table)) == table


def test_every_option_has_a_toml_form():
    for o in (LoopOptions(steps=1), options()):
        table = dataclasses.asdict(o)
        assert tomllib.loads(toml_text(table)) == json.loads(json.dumps(table))
