"""A run folder takes up its own run and no other; its log, checkpoints and plots are whole."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.cli.train import read_config
from detector.training.options import FinetuneOptions, LoopOptions
from detector.training.run_folder import (
    FREE,
    MOST_POINTS,
    RunFolder,
    draw_plots,
    load_checkpoint,
    plot_of,
    plotted_curves,
    read_log,
    save_checkpoint,
    thinned,
    toml_text,
)


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


def test_an_option_that_came_later_has_its_default(tmp_path: Path):
    RunFolder(tmp_path, "finetune", options(), "abc").checkpoint({"step": 1})
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    del record["options"]["jitter"], record["options"]["shares"]
    record["options"]["gone"] = 3
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    RunFolder(tmp_path, "finetune", options(), "abc")
    with pytest.raises(ValueError, match="jitter = 0, not 4"):
        RunFolder(tmp_path, "finetune", options(jitter=4), "abc")


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


STATE = {
    "step": 7,
    "network": {"w": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "best": float("-inf"),
    "measures": {"score": 0.5},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}


def test_there_and_back(tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", STATE)
    found = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(found["network"]["w"], STATE["network"]["w"])  # type: ignore[index]
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], torch.ones(4))
    assert (found["step"], found["best"], found["measures"]) == (7, float("-inf"), {"score": 0.5})
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_every_kind_of_damage_gives_one_line(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    cases = [whole[: len(whole) * k // 16] for k in range(16)]
    cases += [b"\0" * len(whole), b"no checkpoint at all\n", whole[::-1], b"\x80\x02." + whole]
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"last\.pt: .*checkpoint.*remove it to begin the run anew") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", range(0, 100, 3))
def test_a_flipped_bit_is_found_or_does_no_harm(tmp_path: Path, place: int):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    content[len(content) * place // 100] ^= 0x10
    path.write_bytes(bytes(content))
    try:
        found = load_checkpoint(path)
    except ValueError as error:
        assert "last.pt" in str(error) and "\n" not in str(error)
    else:
        assert torch.equal(found["network"]["w"], STATE["network"]["w"])  # type: ignore[index]


def test_a_file_of_something_else(tmp_path: Path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="no checkpoint of a training run"):
        load_checkpoint(tmp_path / "last.pt")
    torch.save(Path("code"), tmp_path / "last.pt")  # an object that could run code when loaded
    with pytest.raises(ValueError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "last.pt")


def test_the_old_one_stays_where_the_new_one_cannot_be_written(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a disk that is full after 1,000 bytes
    try:
        with pytest.raises(OSError, match=r"cannot write .*last\.pt"):
            save_checkpoint(path, {**STATE, "step": 8})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


LINES = [
    {"step": 20, "learning_rate": 0.01, "loss": 3.0, "error": 0.9, "samples_per_s": 50.0, "waiting_share": 0.1},
    {"step": 40, "learning_rate": 0.001, "loss": 2.0, "error": 0.7, "samples_per_s": 51.0, "waiting_share": 0.2},
    {"step": 40, "val_score": 0.4, "val_loss": 2.5, "val_foreground": 0.3, "val_background": 0.5},
]


def write_log(folder, lines):
    folder.joinpath("log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "plot"),
    [
        ("loss", "loss"),
        ("main", "loss"),
        ("kept", "loss"),
        ("regions", "loss"),
        ("val_loss", "loss"),
        ("error", "accuracy"),
        ("val_top1_error", "accuracy"),
        ("val_top5_error", "accuracy"),
        ("val_score", "accuracy"),
        ("val_foreground", "accuracy"),
        ("val_background", "accuracy"),
        ("learning_rate", "learning_rate"),
    ],
)
def test_each_number_has_its_plot(name, plot):
    assert plot_of(name) == plot


def test_curves_hold_the_steps_and_values_of_the_log():
    curves = plotted_curves(LINES)
    assert {plot: sorted(names) for plot, names in curves.items()} == {
        "loss": ["loss", "val_loss"],
        "accuracy": ["error", "val_background", "val_foreground", "val_score"],
        "learning_rate": ["learning_rate"],
    }
    steps, values = curves["loss"]["loss"]
    assert (steps.tolist(), values.tolist()) == ([20, 40], [3, 2])
    steps, values = curves["accuracy"]["val_score"]
    assert (steps.tolist(), values.tolist()) == ([40], [0.4])


def test_no_line_is_no_curve():
    assert plotted_curves([]) == {}


def test_thinning_takes_means_of_neighbours_the_last_run_being_shorter():
    table = np.array([[1, 10], [2, 20], [3, 60], [4, 80], [5, 7]], float)
    assert thinned(table, 3).tolist() == [[1.5, 15], [3.5, 70], [5, 7]]
    assert thinned(table, 5) is table


@given(st.integers(1, 300), st.integers(1, 40))
def test_thinning_keeps_the_limit_and_the_sum(count, most):
    table = np.stack([np.arange(count), np.sin(np.arange(count))], axis=1)
    found = thinned(table, most)
    assert 1 <= len(found) <= most
    run = -(-count // most)
    weights = np.full(len(found), run)
    weights[-1] = count - run * (len(found) - 1)
    assert np.allclose(weights @ found, table.sum(axis=0))


def test_three_plots_are_written_and_nothing_else(tmp_path):
    pytest.importorskip("matplotlib")
    write_log(tmp_path, LINES)
    found = draw_plots(tmp_path)
    assert [path.name for path in found] == ["loss.png", "accuracy.png", "learning_rate.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["log.jsonl", *(path.name for path in found)])
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in found]
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 2 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_another_value_gives_another_plot_in_place_of_the_old_one(tmp_path):
    pytest.importorskip("matplotlib")
    write_log(tmp_path, LINES)
    draw_plots(tmp_path)
    before = {name: tmp_path.joinpath(name).read_bytes() for name in ("loss.png", "accuracy.png")}
    write_log(tmp_path, [LINES[0], LINES[1] | {"loss": 1.0}, LINES[2]])
    draw_plots(tmp_path)
    assert tmp_path.joinpath("loss.png").read_bytes() != before["loss.png"]
    assert tmp_path.joinpath("accuracy.png").read_bytes() == before["accuracy.png"]


def test_a_plot_without_a_curve_is_left_out(tmp_path):
    pytest.importorskip("matplotlib")
    write_log(tmp_path, [{"step": 1, "loss": 1.0, "learning_rate": 0.1}])
    assert [path.name for path in draw_plots(tmp_path)] == ["loss.png", "learning_rate.png"]


def test_a_long_log_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    write_log(tmp_path, [{"step": step, "loss": float(step % 7)} for step in range(3 * MOST_POINTS + 1)])
    assert [path.name for path in draw_plots(tmp_path)] == ["loss.png"]


def test_a_folder_without_a_log_has_no_plots(tmp_path):
    assert draw_plots(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_are_none_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as Python marks a module that cannot be imported
    write_log(tmp_path, LINES)
    assert draw_plots(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_pyplot_is_not_loaded(tmp_path):
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    write_log(tmp_path, LINES)
    draw_plots(tmp_path)
    assert ("matplotlib.pyplot" in sys.modules) == before
