"""The folder of one training run: its options and data, log, plots, and the checkpoints that it goes on from."""

from __future__ import annotations

import dataclasses
import io
import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from detector import __version__
from proposals.files import write_bytes_atomic, write_text_atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# options that may change between two parts of a run: they do not change what is learned
FREE = ("workers", "device", "log_steps", "checkpoint_minutes", "batch_memory", "compile", "cache")
LOG, LAST, BEST = "log.jsonl", "last.pt", "best.pt"
VALIDATION = "val_"  # what the loop writes before the name of a measure of a validation
Line = Mapping[str, float | int | str]
Curves = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]  # name -> steps [N], values [N]

NOT_DRAWN = ("step", "samples_per_s", "waiting_share")  # of the machine, not of what is learned
RATE = "learning_rate"
SHARES = ("score", "foreground", "background")  # shares of right answers
SHARE_ENDS = ("error", "accuracy")
LABELS = {"loss": "loss", "accuracy": "accuracy, or error", RATE: "learning rate"}
MOST_POINTS = 2000  # of a curve; more are means of neighbours
SIZE, DPI = (8.0, 4.5), 110  # inches, dots an inch


class RunFolder:
    """Writes config.toml, run.json, log.jsonl, checkpoints and plots of one run."""

    def __init__(self, path: Path, stage: str, options: DataclassInstance, fingerprint: str) -> None:
        """Make the folder, or take up the run in it.

        fingerprint: of the data. A run that failed before it had a checkpoint, and has no model either, is forgotten
        where other options or data are asked for. Raises: ValueError where the folder holds a run of others; OSError.
        """
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        asked = {"stage": stage, **dataclasses.asdict(options)}
        record = {
            "options": json.loads(json.dumps(asked)),
            "data": fingerprint,
            "revision": revision(),
            "version": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        file = path / "run.json"
        begun = file.is_file()
        defaults = {field.name: field.default for field in dataclasses.fields(options)}
        if not begun or not self._same(file, record, defaults):
            for name in (BEST, LOG) if begun else ():  # of the run that is forgotten
                (path / name).unlink(missing_ok=True)
            settings = toml_text(dataclasses.asdict(options))
            write_text_atomic(path / "config.toml", f"# {stage}: as --config, the options of this run\n{settings}")
            write_text_atomic(file, json.dumps(record, indent=1) + "\n")
        self._log: IO[str] | None = None
        self._board: Any = None

    def _same(self, file: Path, asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
        """Return whether the folder's run is the one that is asked for.

        Options that there were not yet when it began have their defaults.
        Raises: ValueError, naming what differs, for another one that has a checkpoint or a model.
        """
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            old, new = json.loads(json.dumps(dict(defaults))) | found["options"], asked["options"]
            differ = [key for key in new if key not in FREE and old.get(key) != new[key]]
            same_data = found["data"] == asked["data"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file}: damaged; name another run folder, or remove this one") from None
        same = not differ and same_data
        if same or not ((self.path / LAST).exists() or any(self.path.glob("*.safetensors"))):
            return same
        if differ:
            key = differ[0]
            raise ValueError(
                f"{self.path}: holds a run with {key} = {old.get(key)!r}, not {new[key]!r}; give the same options to "
                "go on with it, or name another folder"
            )
        raise ValueError(f"{self.path}: holds a run on other data (its pictures, boxes or classes have changed)")

    def resume(self, name: str = LAST) -> dict[str, Any] | None:
        """Return the last checkpoint, or None at the beginning of a run. Raises: ValueError for a damaged one."""
        path = self.path / name
        return load_checkpoint(path) if path.is_file() else None

    def checkpoint(self, state: dict[str, Any], best: bool = False) -> None:
        """Write the last checkpoint, or the best one. Raises: OSError; the old one stays then."""
        save_checkpoint(self.path / (BEST if best else LAST), state)

    def open_log(self, step: int) -> None:
        """Open log.jsonl, without the lines of steps after `step`, which will come again."""
        path = self.path / LOG
        kept = [line for line in read_log(path) if int(line["step"]) <= step]
        write_text_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._log = path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)

    def log(self, line: Line) -> None:
        """Add a line to log.jsonl, and to TensorBoard where it is installed."""
        assert self._log is not None, "open_log comes first"
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and not isinstance(value, str):
                    self._board.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """Close what is open."""
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.jsonl, none where it is not there; a last line that a kill cut off is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def toml_text(table: Mapping[str, Any]) -> str:
    """Return a flat table of texts, numbers, flags and lists of texts as TOML."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())


def revision() -> str:
    """Return the git revision of the source, with "+changes" where files differ from it; "" outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    try:
        answers = [
            subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True).stdout
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answers[0].strip() + ("+changes" if answers[1].strip() else "")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists and dicts of them). Raises: OSError; the old file stays then."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes_atomic(path, buffer.getvalue(), durable=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on the CPU. Raises: OSError; ValueError for a damaged file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: a damaged checkpoint ({reason}); remove it to begin the run anew") from None
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{path}: no checkpoint of a training run; remove it to begin the run anew")
    return state


def draw_plots(folder: Path) -> list[Path]:
    """Draw loss.png, accuracy.png and learning_rate.png from the log.jsonl of a run folder; return what was written.

    A plot without a curve is left out; without matplotlib there are none. Raises: OSError when one cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    written = []
    for name, curves in plotted_curves(read_log(folder / LOG)).items():
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
