"""The plots of a run: which number goes where, thinning by hand, files whole or absent."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.training.run_folder import MOST_POINTS, draw_plots, plot_of, plotted_curves, thinned

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
