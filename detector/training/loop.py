"""The training loop that all stages share: mini-batch, losses, gradients, a step, the average; log and checkpoints.

The mini-batch of step t, and every random number used in it, depend on the seed and t alone. So a run that goes on
from a checkpoint takes the same path as one that was never stopped.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detector.training.options import LoopOptions
from detector.training.processes import Batch, World
from detector.training.run_folder import BEST, VALIDATION, RunFolder
from proposals.console import Console, noted_signals


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

        Each is a function of its step alone. The tensors lie on the CPU; their first axis is the samples.
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


def run_length(o: LoopOptions, steps_per_epoch: float) -> int:
    """Return the number of steps of a run."""
    return o.steps or max(1, math.ceil(o.epochs * steps_per_epoch))


def learning_rate(o: LoopOptions, step: int, steps: int, steps_per_epoch: float) -> float:
    """Return the learning rate of step 0..steps-1.

    "step" multiplies by `decay` every so often (GoogLeNet section 6: 0.96 every 8 epochs; R-CNN: 0.1 every 20,000
    mini-batches); "cosine" falls from the full rate to zero (Loshchilov & Hutter 2017, without restarts). During the
    warm-up, step t has (t + 1) / (warmup_steps + 1) of it.
    """
    rate = o.learning_rate
    if o.schedule == "step":
        every = o.decay_steps or round(o.decay_epochs * steps_per_epoch)
        rate *= o.decay ** (step // every) if every else 1.0
    elif o.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate * min(1.0, (step + 1) / (o.warmup_steps + 1))


def make_optimizer(o: LoopOptions, groups: list[Group]) -> torch.optim.Optimizer:
    """Return the optimizer; biases and norms decay as all weights do, as in Caffe."""
    settings = [{"params": group.parameters, "rate": group.rate} for group in groups if group.parameters]
    if o.optimizer == "adamw":
        return torch.optim.AdamW(settings, o.learning_rate, weight_decay=o.weight_decay)
    return torch.optim.SGD(settings, o.learning_rate, o.momentum, weight_decay=o.weight_decay)


def averaged_model(o: LoopOptions, network: nn.Module) -> AveragedModel | None:
    """Return what averages the weights of `network` (GoogLeNet section 6: Polyak averaging); None where none is asked.

    "equal" is the mean over all steps from `average_from` on (Polyak & Juditsky 1992), "ema" an exponential one. Batch
    norm's statistics are averaged too; what is no floating number, such as its counters, is copied.
    """
    if o.average == "none":
        return None

    def average(held: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
        share = 1 / (int(count) + 1) if o.average == "equal" else 1 - o.ema_decay
        return torch.lerp(held, value, share) if value.is_floating_point() else value

    return AveragedModel(network, avg_fn=average, use_buffers=True)


class Trainer:
    """One run of the loop: how far it is, the network and its average, the optimizer, and the run folder."""

    def __init__(self, task: Task, o: LoopOptions, folder: RunFolder, world: World, console: Console) -> None:
        """Begin, or go on from the folder's checkpoint.

        Raises: ValueError for a mini-batch that cannot be split evenly, or a checkpoint that does not fit.
        """
        if task.batch_size % (world.size * o.accumulate):
            raise ValueError(
                f"a mini-batch of {task.batch_size} cannot be split evenly over {world.size} processes x "
                f"{o.accumulate} parts (accumulate)"
            )
        self.task, self.o, self.folder, self.world, self.console = task, o, folder, world, console
        self.steps = run_length(o, task.steps_per_epoch)
        self.network = task.network.to(world.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(o, task.groups())
        self.average = averaged_model(o, self.network)
        self.done, self.best = 0, -math.inf  # steps; score of a validation
        self.measures: dict[str, float] = {}  # of the last validation
        self._restore()
        self._wrapped = world.wrapped(self.network)
        if o.compile:
            self._wrapped = torch.compile(self._wrapped)  # type: ignore[assignment]
        self._meter = _Meter()
        self._saved = time.monotonic()

    @property
    def final(self) -> nn.Module:
        """The network of the final model so far: the average, or the weights as they are where there is none."""
        averaged = self.average is not None and bool(self.average.n_averaged)
        return self.average.module if averaged and self.average is not None else self.network

    def run(self) -> dict[str, float]:
        """Train until the last step; return the measures of the last validation.

        Raises: ValueError for a loss that is not finite, naming the mini-batch; MemoryError with what to lower;
        KeyboardInterrupt or Terminated after a signal, when a checkpoint has been written.
        """
        batches = self.task.batches(self.done, self.steps, self.world.rank, self.world.size)
        with closing(self.folder), noted_signals() as signals, self._progress() as advance, self._enough_memory():
            for batch in self._meter.waiting(batches):
                self._step(batch)
                self._log()
                self._validate()
                advance(1)
                stop = self.world.any(signals.caught is not None)
                self._checkpoint(stop)
                if stop:
                    signals.caught = signals.caught or signal.SIGTERM  # which another process may have got
                    break
        return self.measures

    def export(self) -> Path:
        """Write the model: the average of the weights where there is one, else the best of the validations."""
        if self.average is None and self.measures and (best := self.folder.resume(BEST)):
            self.network.load_state_dict(best["network"])
        return self.task.export(self.final.cpu(), self.folder)

    def _step(self, batch: Batch) -> None:
        """Take one step of the optimizer. Raises: ValueError for a loss that is not finite."""
        o, step = self.o, self.done
        rate = learning_rate(o, step, self.steps, self.task.steps_per_epoch)
        self._wrapped.train()
        own = np.random.SeedSequence([o.seed, step, self.world.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(own[0]))  # of dropout: the step's own; on the CPU torch takes the low 32 bits only
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._gradients(batch)
        if not all(math.isfinite(value) for value in losses.values()):
            raise ValueError(
                f"the loss of step {step} is {next(iter(losses.values()))}, not a finite number; its mini-batch: "
                f"{self.task.contents(step)}; lower the learning rate (now {rate:g}), or look at these pictures"
            )
        if o.clip:
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], o.clip)
        self.optimizer.step()
        if self.average is not None and step >= o.average_from * self.steps:
            self.average.update_parameters(self.network)
        self._meter.add(losses, rate, self.task.batch_size)
        self.done += 1

    def _gradients(self, batch: Batch) -> dict[str, float]:
        """Add up the gradients of the parts of a mini-batch; return the losses, means over all of it."""
        o, device = self.o, self.world.device
        totals: dict[str, Tensor] = {}
        for values in zip(*(value.chunk(o.accumulate) for value in batch.values()), strict=True):
            part = {name: value.to(device, non_blocking=True) for name, value in zip(batch, values, strict=True)}
            with torch.autocast(device.type, torch.bfloat16, enabled=o.precision == "bf16"):
                losses = self.task.losses(self._wrapped, part)
            (next(iter(losses.values())) / o.accumulate).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=device)) + value.detach() / o.accumulate
        return {name: float(self.world.mean(value)) for name, value in totals.items()}

    def _log(self) -> None:
        """Write a line of the log where it is time."""
        if self.world.first and (self.done % self.o.log_steps == 0 or self.done == self.steps):
            self.folder.log({"step": self.done, **self._meter.line()})

    @torch.no_grad()
    def _validate(self) -> None:
        """Validate where it is time, in the first process, and keep the best weights so far."""
        due = self.done % self.o.validate_steps == 0 or self.done == self.steps
        if not due or not self.world.first:
            return
        self.measures = self.task.validate(self.final.eval())
        if not self.measures:
            return
        self.folder.log({"step": self.done, **{f"{VALIDATION}{name}": of for name, of in self.measures.items()}})
        if self.measures["score"] > self.best:
            self.best = self.measures["score"]
            self.folder.checkpoint({"step": self.done, "network": self.final.state_dict()}, best=True)

    def _checkpoint(self, stop: bool) -> None:
        """Write the checkpoint where it is time, or the run ends."""
        due = time.monotonic() - self._saved > 60 * self.o.checkpoint_minutes
        if not (due or stop or self.done == self.steps):
            return
        self._saved = time.monotonic()
        if not self.world.first:
            return
        count = 0 if self.average is None else int(self.average.n_averaged)
        self.folder.checkpoint(
            {
                "step": self.done,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.final.state_dict() if count else {},
                "averaged": count,
                "best": self.best,
                "measures": self.measures,
            }
        )

    def _restore(self) -> None:
        """Load the folder's last checkpoint where there is one. Raises: ValueError where it does not fit."""
        state = self.folder.resume()
        if state is None:
            return
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None and state["averaged"]:
                self.average.module.load_state_dict(state["average"])
                self.average.n_averaged.fill_(state["averaged"])
            self.done, self.best, self.measures = int(state["step"]), float(state["best"]), dict(state["measures"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{self.folder.path}: its checkpoint does not fit this run ({reason}); name another folder"
            ) from None
        if self.world.first:
            self.console.note(f"{self.folder.path}: going on after step {self.done:,}")

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """Open the log where the run begins, and show how far it is."""
        if self.world.first:
            self.folder.open_log(self.done)
        with self.console.progress("train", self.steps) as advance:
            advance(self.done)
            yield advance

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        """Say what to lower where memory runs out."""
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise MemoryError(
                f"not enough memory for mini-batches of {self.task.batch_size}; raise accumulate (now "
                f"{self.o.accumulate}), or lower the mini-batch, the crop size or workers"
            ) from None


class _Meter:
    """Means between two lines of the log: losses, samples/s, and the share of the time that waiting for data took."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._rate = self._waited = 0.0
        self._count = self._samples = 0
        self._begin = time.perf_counter()

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the mini-batches; the time until each one comes counts as waiting."""
        begin = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - begin
            yield batch
            begin = time.perf_counter()

    def add(self, losses: dict[str, float], rate: float, samples: int) -> None:
        """Count a step."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._rate = rate
        self._count += 1
        self._samples += samples

    def line(self) -> dict[str, float]:
        """Return the learning rate and the means, and begin anew."""
        spent = time.perf_counter() - self._begin
        means = {name: value / self._count for name, value in self._sums.items()}
        speed = {"samples_per_s": self._samples / spent, "waiting_share": self._waited / spent}
        found = {"learning_rate": self._rate, **means, **speed}
        self._clear()
        return found
