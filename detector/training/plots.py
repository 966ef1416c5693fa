"""The plots of a run folder, drawn from its log: losses, accuracies and errors, learning rate."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.training.run_folder import read_log
from proposals.files import write_bytes_atomic

Curves = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]  # name -> steps [N], values [N]

VALIDATION = "val_"  # what the loop writes before the name of a measure of a validation
NOT_DRAWN = ("step", "samples_per_s", "waiting_share")  # of the machine, not of what is learned
RATE = "learning_rate"
SHARES = ("score", "foreground", "background")  # shares of right answers
SHARE_ENDS = ("error", "accuracy")
LABELS = {"loss": "loss", "accuracy": "accuracy, or error", RATE: "learning rate"}
MOST_POINTS = 2000  # of a curve; more are means of neighbours
SIZE, DPI = (8.0, 4.5), 110  # inches, dots an inch


def draw_plots(folder: Path) -> list[Path]:
    """Draw loss.png, accuracy.png and learning_rate.png from the log.jsonl of a run folder; return what was written.

    A plot without a curve is left out; without matplotlib there are none. Raises: OSError when one cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    written = []
    for name, curves in plotted_curves(read_log(folder / "log.jsonl")).items():
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")  # not pyplot's, which keeps all figures there are
        axes = figure.add_subplot()
        for label, (steps, values) in curves.items():
            validation = label.startswith(VALIDATION)
            axes.plot(steps, values, label=label, linewidth=1.2, marker="." if validation or len(steps) == 1 else "")
        axes.set_xlabel("mini-batches")
        axes.set_ylabel(LABELS[name])
        axes.grid(alpha=0.3)
        axes.legend()
        content = io.BytesIO()
        figure.savefig(content, format="png")
        path = folder / f"{name}.png"
        write_bytes_atomic(path, content.getvalue())
        written.append(path)
    return written


def plotted_curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curves]:
    """Return the curves of each plot that has some: loss, accuracy and learning_rate, from the lines of a log."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in NOT_DRAWN and not isinstance(value, str):
                points.setdefault(name, []).append((float(line["step"]), float(value)))
    found: dict[str, dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]] = {}
    for name, pairs in points.items():
        table = thinned(np.array(pairs), MOST_POINTS)
        found.setdefault(plot_of(name), {})[name] = table[:, 0], table[:, 1]
    return {plot: found[plot] for plot in LABELS if plot in found}


def plot_of(name: str) -> str:
    """Return the plot that a number of the log belongs to; what is neither rate nor share of answers is a loss."""
    measure = name.removeprefix(VALIDATION)
    if measure == RATE:
        return RATE
    return "accuracy" if measure in SHARES or measure.endswith(SHARE_ENDS) else "loss"


def thinned(table: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """Return at most `most` rows for the N of `table` [N, C]: the means of runs of neighbours, as long as needed."""
    run = -(-len(table) // most)
    if run <= 1:
        return table
    starts = np.arange(0, len(table), run)
    counts = np.diff(np.append(starts, len(table)))
    return np.asarray(np.add.reduceat(table, starts) / counts[:, None])
