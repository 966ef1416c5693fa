"""The training loop that all stages share: mini-batch, losses, gradients, a step, the average; log and checkpoints.

The mini-batch of step t, and every random number used in it, depend on the seed and t alone. So a run that goes on
from a checkpoint takes the same path as one that was never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detector.training.options import LoopOptions
from detector.training.plots import draw_plots
from detector.training.run_folder import RunFolder
from detector.training.schedule import Average, learning_rate
from detector.training.world import World
from proposals.console import Console, Terminated

Batch = dict[str, Tensor]


class Group(NamedTuple):
    """Parameters that learn at `rate` times the learning rate."""

    parameters: list[nn.Parameter]
    rate: float


class Task(Protocol):
    """What a stage gives to the loop."""

    @property
    def network(self) -> nn.Module:
        """Return what is trained."""
        ...

    steps_per_epoch: float
    batch_size: int

    def groups(self) -> list[Group]:
        """Return the parameters that are trained."""
        ...

    def batches(self, first: int, last: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield the mini-batches of steps first..last-1, of each the part of process `rank` of `size`.

        Each is a function of its step alone; the tensors lie on the CPU, their first axis being the samples.
        """
        ...

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return named losses, means over the samples; the first one is minimised."""
        ...

    def contents(self, step: int) -> str:
        """Return what the mini-batch of a step holds, for the message that its loss is not finite."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return named measures of a network in evaluation mode; "score" is better when higher. {} without data."""
        ...

    def export(self, network: nn.Module, folder: RunFolder) -> Path:
        """Write the model that inference loads; return its path."""
        ...


class Signals:
    """SIGINT and SIGTERM noted, not raised, while a step is under way."""

    caught: int | None = None


@contextmanager
def noted_signals() -> Iterator[Signals]:
    """Note SIGINT and SIGTERM meanwhile; afterwards raise KeyboardInterrupt or Terminated for a noted one."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, frame: FrameType | None) -> None:
        signals.caught = signals.caught or number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals.caught is not None:
        raise KeyboardInterrupt if signals.caught == signal.SIGINT else Terminated


def run_length(o: LoopOptions, steps_per_epoch: float) -> int:
    """Return the number of steps of a run."""
    return o.steps or max(1, math.ceil(o.epochs * steps_per_epoch))


def make_optimizer(o: LoopOptions, groups: list[Group]) -> torch.optim.Optimizer:
    """Return the optimizer; biases and norms decay as all weights do, as in Caffe."""
    settings = [{"params": group.parameters, "rate": group.rate} for group in groups if group.parameters]
    if o.optimizer == "adamw":
        return torch.optim.AdamW(settings, o.learning_rate, weight_decay=o.weight_decay)
    return torch.optim.SGD(settings, o.learning_rate, o.momentum, weight_decay=o.weight_decay)


def train(task: Task, o: LoopOptions, folder: RunFolder, world: World, console: Console) -> dict[str, float]:
    """Train until the last step, from the folder's checkpoint where there is one; return the last validation.

    Raises: ValueError for a loss that is not finite, naming the mini-batch, or a checkpoint that does not fit;
    MemoryError with what to lower; KeyboardInterrupt or Terminated after a signal, a checkpoint being written.
    """
    if task.batch_size % (world.size * o.accumulate):
        raise ValueError(
            f"a mini-batch of {task.batch_size} cannot be split evenly over {world.size} processes x {o.accumulate} "
            "parts (accumulate)"
        )
    steps = run_length(o, task.steps_per_epoch)
    network = task.network.to(world.device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(o, task.groups())
    average = Average(o.average, o.ema_decay)
    begin, best, measures = _restore(folder, network, optimizer, average, console if world.first else None)
    wrapped = world.wrapped(network)
    if o.compile:
        wrapped = torch.compile(wrapped)  # type: ignore[assignment]
    if world.first:
        folder.open_log(begin)
    meter = _Meter()
    saved = time.monotonic()
    batches = task.batches(begin, steps, world.rank, world.size)

    def save(step: int) -> None:
        if world.first:
            folder.checkpoint(
                {
                    "step": step,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.state,
                    "averaged": average.count,
                    "best": best,
                    "measures": measures,
                }
            )

    try:
        with noted_signals() as signals, console.progress("train", steps) as advance:
            advance(begin)
            for step in range(begin, steps):
                waited = time.perf_counter()
                batch = next(batches)
                meter.waited += time.perf_counter() - waited
                rate = learning_rate(o, step, steps, task.steps_per_epoch)
                losses = _step(task, o, wrapped, optimizer, batch, rate, step, world)
                if step >= o.average_from * steps:
                    average.update(network)
                meter.add(losses, task.batch_size)
                done = step + 1
                if world.first and (done % o.log_steps == 0 or done == steps):
                    folder.log({"step": done, "learning_rate": rate, **meter.line()})
                if done % o.validate_steps == 0 or done == steps:
                    measures = _validated(task, network, average, world)
                    if world.first and measures:
                        folder.log({"step": done, **{f"val_{name}": value for name, value in measures.items()}})
                        if measures["score"] > best:
                            best = measures["score"]
                            folder.checkpoint({"step": done, "network": average.weights(network)}, best=True)
                advance(1)
                due = time.monotonic() - saved > 60 * o.checkpoint_minutes
                stop = world.any(signals.caught is not None)
                if due or stop or done == steps:
                    save(done)
                    saved = time.monotonic()
                if stop:
                    signals.caught = signals.caught or signal.SIGTERM  # which another process may have got
                    break
    except (MemoryError, torch.OutOfMemoryError):
        raise MemoryError(
            f"not enough memory for mini-batches of {task.batch_size}; raise accumulate (now {o.accumulate}), or lower "
            "the mini-batch, the crop size or workers"
        ) from None
    finally:
        folder.close()
    if world.first:
        final = folder.resume("best.pt") if measures and o.average == "none" else None
        network.load_state_dict(final["network"] if final else average.weights(network))
        path = task.export(network.cpu(), folder)
        if not draw_plots(folder.path):
            console.note("pip install matplotlib draws the plots")
        console.note(f"wrote {path}")
    world.wait()
    return measures


def _step(
    task: Task,
    o: LoopOptions,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    rate: float,
    step: int,
    world: World,
) -> dict[str, float]:
    """Take one step of the optimizer; return the losses, means over the whole mini-batch."""
    network.train()
    own = np.random.SeedSequence([o.seed, step, world.rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(own[0]))  # of dropout: the step's own; torch takes but the low 32 bits on the CPU
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    parts = zip(*(value.chunk(o.accumulate) for value in batch.values()), strict=True)
    for values in parts:
        part = {name: value.to(world.device, non_blocking=True) for name, value in zip(batch, values, strict=True)}
        with torch.autocast(world.device.type, torch.bfloat16, enabled=o.precision == "bf16"):
            losses = task.losses(network, part)
        (next(iter(losses.values())) / o.accumulate).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            totals[name] = totals.get(name, torch.zeros((), device=world.device)) + value.detach() / o.accumulate
    found = {name: float(world.mean(value)) for name, value in totals.items()}
    if not all(math.isfinite(value) for value in found.values()):
        raise ValueError(
            f"the loss of step {step} is {next(iter(found.values()))}, not a finite number; its mini-batch: "
            f"{task.contents(step)}; lower the learning rate (now {rate:g}), or look at these pictures"
        )
    if o.clip:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], o.clip)
    optimizer.step()
    return found


def _restore(
    folder: RunFolder, network: nn.Module, optimizer: torch.optim.Optimizer, average: Average, console: Console | None
) -> tuple[int, float, dict[str, float]]:
    """Load the folder's last checkpoint, if there is one; return the steps that are done, best score and measures."""
    state: dict[str, Any] | None = folder.resume()
    if state is None:
        return 0, -math.inf, {}
    try:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.state, average.count = state["average"], state["averaged"]
        begin, best, measures = int(state["step"]), float(state["best"]), dict(state["measures"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder.path}: its checkpoint does not fit this run ({reason}); name another folder"
        ) from None
    device = next(network.parameters()).device
    average.state = {name: value.to(device) for name, value in average.state.items()}
    if console is not None:
        console.note(f"{folder.path}: going on after step {begin:,}")
    return begin, best, measures


@torch.no_grad()
def _validated(task: Task, network: nn.Module, average: Average, world: World) -> dict[str, float]:
    """Return the measures of the final weights so far, in the first process; {} in the others."""
    if not world.first:
        return {}
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(average.weights(network))
    measures = task.validate(network.eval())
    network.load_state_dict(kept)
    return measures


class _Meter:
    """Means between two lines of the log: losses, samples/s, and the share of the time that waiting for data took."""

    def __init__(self) -> None:
        self.waited = 0.0
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = self._samples = 0
        self._begin, self.waited = time.perf_counter(), 0.0

    def add(self, losses: dict[str, float], samples: int) -> None:
        """Count a step."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._samples += samples

    def line(self) -> dict[str, float]:
        """Return the means, and begin anew."""
        spent = time.perf_counter() - self._begin
        found = {name: value / self._count for name, value in self._sums.items()}
        found |= {"samples_per_s": self._samples / spent, "waiting_share": self.waited / spent}
        self._clear()
        return found
