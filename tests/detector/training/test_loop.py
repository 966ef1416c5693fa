"""The loop on a small network: stops and goes on bit for bit, splits mini-batches, and tells what went wrong.

Here the "pictures" are rows of numbers, so that a run takes a fraction of a second.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.training.loop import Group, Trainer, averaged_model, learning_rate, run_length
from detector.training.options import LoopOptions
from detector.training.processes import Batch, World, step_batches
from detector.training.run_folder import RunFolder, load_checkpoint, read_log
from proposals.console import Console, Terminated, noted_signals

ALONE = World(0, 1, torch.device("cpu"))
ROWS = 64


@dataclass
class Rows:
    """Makes the mini-batch of a step: 8 of 64 rows."""

    batch: int
    rank: int = 0
    size: int = 1
    seconds: float = 0.0  # that a mini-batch takes

    def places(self, step: int) -> np.ndarray:
        return np.random.default_rng([3, step]).integers(0, ROWS, self.batch)

    def __call__(self, step: int) -> Batch:
        time.sleep(self.seconds)
        rng = np.random.default_rng(11)
        inputs = torch.from_numpy(rng.normal(size=(ROWS, 5)).astype(np.float32))
        labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
        places = self.places(step)[self.rank :: self.size]
        return {"input": inputs[places], "labels": labels[places]}


class SmallTask:
    """A perceptron with dropout; at step `at` it may get a signal, fail, or find a loss that is no number."""

    steps_per_epoch = 8.0

    def __init__(self, o: LoopOptions, dropout: float = 0.3, batch: int = 8) -> None:
        torch.manual_seed(1)
        body = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16) if dropout else nn.Identity(), nn.ReLU())
        self.network = nn.Sequential(body, nn.Dropout(dropout), nn.Linear(16, 3))
        self.o, self.batch_size = o, batch
        self.make = Rows(batch)
        self.events: dict[int, int | str] = {}
        self.seen: list[int] = []
        self.exported: dict[str, Tensor] | None = None

    def groups(self) -> list[Group]:
        *rest, head = self.network
        return [Group([p for part in rest for p in part.parameters()], 1.0), Group(list(head.parameters()), 10.0)]

    def batches(self, first: int, last: int, rank: int, size: int) -> Iterator[Batch]:
        self.make.rank, self.make.size = rank, size
        for step, batch in enumerate(step_batches(self.make, first, last, self.o.workers), start=first):
            self.seen.append(step)
            yield batch

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        event = self.events.get(self.seen[-1])
        if isinstance(event, int):
            os.kill(os.getpid(), event)
        loss = functional.cross_entropy(network(batch["input"]), batch["labels"])
        if event == "nan":
            loss = loss * math.nan
        if event == "memory":
            raise MemoryError
        return {"loss": loss, "twice": 2 * loss}

    def contents(self, step: int) -> str:
        return "rows " + ", ".join(map(str, self.make.places(step)))

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert not network.training
        batch = self.make(10_000)
        return {"score": -float(functional.cross_entropy(network(batch["input"]), batch["labels"]))}

    def export(self, network: nn.Module, folder: RunFolder) -> None:
        self.exported = {name: value.clone() for name, value in network.state_dict().items()}


def options(**fields: Any) -> LoopOptions:
    defaults = {"steps": 100, "learning_rate": 0.02, "log_steps": 10, "validate_steps": 25, "device": "cpu"}
    return LoopOptions(**(defaults | fields))


def trained(task: SmallTask, path: Path) -> dict[str, float]:
    folder = RunFolder(path, "small", task.o, "rows")
    trainer = Trainer(task, task.o, folder, ALONE, Console("test", quiet=True))
    measures = trainer.run()
    trainer.export()
    return measures


def exported(task: SmallTask) -> dict[str, Tensor]:
    assert task.exported is not None
    return task.exported


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


KINDS: list[tuple[dict[str, Any], signal.Signals]] = [
    ({}, signal.SIGTERM),
    ({}, signal.SIGINT),
    ({"average": "equal", "average_from": 0.3}, signal.SIGTERM),
    ({"average": "ema", "ema_decay": 0.9, "schedule": "cosine", "warmup_steps": 5}, signal.SIGTERM),
    ({"optimizer": "adamw", "clip": 0.5, "accumulate": 2, "decay_steps": 30}, signal.SIGTERM),
]


@pytest.mark.parametrize(("fields", "number"), KINDS, ids=["plain", "interrupted", "equal", "ema", "adamw"])
def test_two_parts_are_one_run_bit_for_bit(tmp_path: Path, fields: dict[str, Any], number: signal.Signals):
    whole = SmallTask(options(**fields))
    measures = trained(whole, tmp_path / "whole")
    first = SmallTask(options(**fields))
    first.events[49] = number
    with pytest.raises(Terminated if number == signal.SIGTERM else KeyboardInterrupt):
        trained(first, tmp_path / "parts")
    assert first.exported is None and len(first.seen) == 50
    assert load_checkpoint(tmp_path / "parts" / "last.pt")["step"] == 50
    second = SmallTask(options(**fields))
    torch.manual_seed(99)  # what happened in the process before must not matter
    assert trained(second, tmp_path / "parts") == measures
    assert second.seen[0] == 50 and len(second.seen) == 50
    assert same(exported(second), exported(whole))
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert same(one["network"], two["network"]) and same(one["average"], two["average"])
    states = one["optimizer"]["state"], two["optimizer"]["state"]
    assert states[0] and states[0].keys() == states[1].keys()
    for key in states[0]:
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][key][name]))
            for name, value in states[0][key].items()
        )


def test_the_log_of_a_resumed_run_has_every_step_once_and_the_same_numbers(tmp_path: Path):
    whole, first, second = (SmallTask(options()) for _ in range(3))
    trained(whole, tmp_path / "whole")
    first.events[49] = signal.SIGTERM
    with pytest.raises(Terminated):
        trained(first, tmp_path / "parts")
    with (tmp_path / "parts" / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 60, "loss": 7.0}\n{"step": 70, "lo')  # as of steps after the last checkpoint
    trained(second, tmp_path / "parts")
    timings = ("samples_per_s", "waiting_share")
    lines = [
        [
            {key: value for key, value in line.items() if key not in timings}
            for line in read_log(tmp_path / name / "log.jsonl")
        ]
        for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    steps = [line["step"] for line in lines[1] if "loss" in line]
    assert steps == list(range(10, 101, 10))
    assert [line["step"] for line in lines[1] if "val_score" in line] == [25, 50, 75, 100]


def test_a_finished_run_only_writes_its_model_again(tmp_path: Path):
    one, two = SmallTask(options()), SmallTask(options())
    measures = trained(one, tmp_path)
    assert trained(two, tmp_path) == measures
    assert two.seen == [] and same(exported(one), exported(two))


def test_a_signal_at_the_last_step_loses_nothing(tmp_path: Path):
    whole, first, second = (SmallTask(options()) for _ in range(3))
    trained(whole, tmp_path / "whole")
    first.events[99] = signal.SIGTERM
    with pytest.raises(Terminated):
        trained(first, tmp_path / "run")
    trained(second, tmp_path / "run")
    assert same(exported(second), exported(whole))


def test_the_best_weights_are_exported_or_the_average(tmp_path: Path):
    task = SmallTask(options(learning_rate=0.3))
    trained(task, tmp_path)
    scores = {line["step"]: line["val_score"] for line in read_log(tmp_path / "log.jsonl") if "val_score" in line}
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["step"] == max(scores, key=lambda step: scores[step])
    assert same(exported(task), best["network"])
    averaged = SmallTask(options(average="equal"))
    trained(averaged, tmp_path / "averaged")
    assert same(exported(averaged), load_checkpoint(tmp_path / "averaged" / "last.pt")["average"])
    assert not same(exported(averaged), load_checkpoint(tmp_path / "averaged" / "last.pt")["network"])


def test_the_loss_falls(tmp_path: Path):
    trained(SmallTask(options(), dropout=0.0), tmp_path)
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


def test_equal_averaging_is_the_mean_over_the_steps(tmp_path: Path):
    """The averages of runs of 1, 2, .. steps are the running means of their weights."""
    weights = []
    for steps in range(1, 5):
        task = SmallTask(options(steps=steps, schedule="constant", validate_steps=100))
        trained(task, tmp_path / str(steps))
        weights.append(load_checkpoint(tmp_path / str(steps) / "last.pt")["network"]["2.weight"])
    averaged = SmallTask(options(steps=4, schedule="constant", average="equal", average_from=0.5))
    trained(averaged, tmp_path / "averaged")
    torch.testing.assert_close(exported(averaged)["2.weight"], (weights[2] + weights[3]) / 2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_parts_are_the_mini_batch(tmp_path: Path, optimizer: str):
    whole = SmallTask(options(steps=20, optimizer=optimizer), dropout=0.0)
    parts = SmallTask(options(steps=20, optimizer=optimizer, accumulate=4), dropout=0.0)
    trained(whole, tmp_path / "whole")
    trained(parts, tmp_path / "parts")
    for name, value in exported(whole).items():
        torch.testing.assert_close(exported(parts)[name], value, rtol=1e-4, atol=1e-5)
    assert not same(exported(whole), SmallTask(options(), dropout=0.0).network.state_dict())
    first, second = (read_log(tmp_path / name / "log.jsonl")[0]["loss"] for name in ("whole", "parts"))
    assert second == pytest.approx(first, rel=1e-5)


def test_parts_must_be_of_one_size(tmp_path: Path):
    with pytest.raises(ValueError, match=r"8 cannot be split evenly over 1 processes x 3 parts \(accumulate\)"):
        trained(SmallTask(options(accumulate=3)), tmp_path)


def test_the_head_learns_at_its_own_rate(tmp_path: Path):
    """One step of plain descent: change = rate x gradient."""
    task = SmallTask(options(steps=1, momentum=0.0, weight_decay=0.0), dropout=0.0)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    batch = task.make(0)
    functional.cross_entropy(task.network(batch["input"]), batch["labels"]).backward()
    gradients = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    trained(task, tmp_path)
    for name, gradient in gradients.items():
        rate = 0.2 if name.startswith("2.") else 0.02
        torch.testing.assert_close(exported(task)[name], before[name] - rate * gradient, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_step(tmp_path: Path):
    o = options(steps=1, momentum=0.0, weight_decay=0.0, clip=1e-3)
    task = SmallTask(o, dropout=0.0)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    trained(task, tmp_path)
    squares = [
        ((exported(task)[name] - before[name]) / (0.2 if name.startswith("2.") else 0.02)).square().sum()
        for name in before
    ]
    assert math.sqrt(sum(map(float, squares))) == pytest.approx(1e-3, rel=1e-3)


def test_dropout_depends_on_the_seed(tmp_path: Path):
    one, two, again = (SmallTask(options(steps=3, seed=seed)) for seed in (1, 2, 1))
    for place, task in enumerate((one, two, again)):
        trained(task, tmp_path / str(place))
    assert same(exported(one), exported(again)) and not same(exported(one), exported(two))


@pytest.mark.slow
def test_workers_make_the_same_mini_batches(tmp_path: Path):
    alone, helped = SmallTask(options(steps=12)), SmallTask(options(steps=12, workers=2))
    trained(alone, tmp_path / "alone")
    trained(helped, tmp_path / "helped")
    assert same(exported(alone), exported(helped))


def test_a_loss_that_is_no_number_names_step_and_pictures(tmp_path: Path):
    task = SmallTask(options(checkpoint_minutes=0.0))
    task.events[30] = "nan"
    with pytest.raises(ValueError, match="the loss of step 30 is nan, not a finite number") as caught:
        trained(task, tmp_path)
    assert task.contents(30) in str(caught.value) and "0.02" in str(caught.value) and "\n" not in str(caught.value)
    last = load_checkpoint(tmp_path / "last.pt")
    assert last["step"] == 30 and all(torch.isfinite(value).all() for value in last["network"].values())
    whole, second = SmallTask(options()), SmallTask(options(checkpoint_minutes=0.0))
    trained(whole, tmp_path / "whole")
    trained(second, tmp_path)
    assert same(exported(second), exported(whole))


def test_a_lack_of_memory_names_the_cure(tmp_path: Path):
    task = SmallTask(options())
    task.events[2] = "memory"
    with pytest.raises(MemoryError, match=r"mini-batches of 8; raise accumulate \(now 1\)"):
        trained(task, tmp_path)


def test_other_options_and_a_damaged_checkpoint(tmp_path: Path):
    first = SmallTask(options(steps=20))
    trained(first, tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with steps = 20, not 30"):
        trained(SmallTask(options(steps=30)), tmp_path)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"last\.pt: a damaged checkpoint"):
        trained(SmallTask(options(steps=20)), tmp_path)


def test_a_checkpoint_of_another_network_does_not_fit(tmp_path: Path):
    trained(SmallTask(options(steps=20)), tmp_path)
    with pytest.raises(ValueError, match=r"its checkpoint does not fit this run") as caught:
        trained(SmallTask(options(steps=20), dropout=0.0), tmp_path)
    assert "\n" not in str(caught.value)


def test_checkpoints_come_by_the_clock(tmp_path: Path):
    task = SmallTask(options(steps=3, checkpoint_minutes=0.0, validate_steps=100))
    found = []
    losses = task.losses

    def looked(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found.append(load_checkpoint(tmp_path / "last.pt")["step"] if (tmp_path / "last.pt").is_file() else 0)
        return losses(network, batch)

    task.losses = looked  # type: ignore[method-assign]
    trained(task, tmp_path)
    assert found == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "steps"), [({"steps": 7}, 7), ({"steps": 0, "epochs": 1.5}, 15), ({"steps": 0, "epochs": 1e-9}, 1)]
)
def test_the_length_of_a_run(fields: dict[str, Any], steps: int):
    assert run_length(options(**fields), 9.5) == steps


def test_signals_are_noted_and_raised_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = []
    with pytest.raises(KeyboardInterrupt), noted_signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)  # the first one counts
        time.sleep(0.01)
        done.append(signals.caught)
    assert done == [signal.SIGINT]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class OtherWorld(World):
    """A process beside another one, which gets a signal at the third step."""

    asked = 0

    def any(self, flag: bool) -> bool:
        type(self).asked += 1
        return flag or type(self).asked == 3


def test_a_signal_to_another_process_stops_this_one_too(tmp_path: Path):
    task = SmallTask(options())
    folder = RunFolder(tmp_path, "small", task.o, "rows")
    with pytest.raises(Terminated):
        Trainer(task, task.o, folder, OtherWorld(0, 1, torch.device("cpu")), Console("test", quiet=True)).run()
    assert task.exported is None and load_checkpoint(tmp_path / "last.pt")["step"] == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_an_unwritable_folder(tmp_path: Path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError):
        trained(SmallTask(options()), tmp_path / "run")


@pytest.mark.parametrize(
    "fields", [{"seed": 2**32}, {"seed": -1}, {"steps": 0}, {"learning_rate": math.nan}, {"optimizer": "sdg"}]
)
def test_wrong_options_are_one_line(fields: dict[str, Any]):
    with pytest.raises(ValueError) as caught:
        options(**fields)
    assert "\n" not in str(caught.value)


GROUP = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loop import SmallTask, options, trained
if __name__ == "__main__":
    class Told(SmallTask):
        def losses(self, network, batch):
            print(self.seen[-1], flush=True)
            return super().losses(network, batch)
    task = Told(options(workers=2, steps=2000))
    task.make.seconds = 0.5
    try:
        trained(task, Path(sys.argv[1]))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers_too_and_harms_nothing(tmp_path: Path):
    """A terminal sends SIGINT to the whole group of processes, here while the first one waits for a mini-batch."""
    (tmp_path / "script.py").write_text(GROUP, encoding="utf-8")
    root = Path(__file__).parents[3]
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run"), str(Path(__file__).parent)]
    with subprocess.Popen(
        command,
        cwd=root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() not in ("5", ""):
            pass
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, error = process.communicate(timeout=200)
        finally:
            process.kill()
    assert out.splitlines()[-1] == "interrupted", error
    assert error == "" and process.returncode == 0
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] >= 6


def plain(**fields: Any) -> LoopOptions:
    return LoopOptions(**{"steps": 100, **fields})


@pytest.mark.parametrize(
    ("step", "wanted"), [(0, 1e-3), (19_999, 1e-3), (20_000, 1e-4), (39_999, 1e-4), (40_000, 1e-5), (69_999, 1e-6)]
)
def test_r_cnn_takes_a_tenth_every_20_000(step: int, wanted: float):
    o = plain(steps=70_000, decay_steps=20_000)
    assert learning_rate(o, step, 70_000, 1.0) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (7.9, 1), (8, 0.96), (15.9, 0.96), (16, 0.96**2), (80, 0.96**10)]
)
def test_googlenet_takes_four_percent_off_every_8_epochs(epoch: float, factor: float):
    o = plain(learning_rate=0.01, decay=0.96, decay_epochs=8.0)
    assert learning_rate(o, round(epoch * 250), 100_000, 250.0) == pytest.approx(0.01 * factor, rel=1e-12)


def test_the_steps_of_the_decay_go_before_its_epochs_and_without_either_the_rate_stays():
    both = plain(decay_steps=10, decay_epochs=8.0)
    assert learning_rate(both, 10, 100, 100.0) == pytest.approx(1e-4)
    assert learning_rate(plain(), 99, 100, 1.0) == 1e-3
    assert learning_rate(plain(schedule="constant", decay_steps=1), 99, 100, 1.0) == 1e-3


def test_the_cosine_goes_from_all_to_nothing():
    o = plain(schedule="cosine", learning_rate=0.5)
    rates = [learning_rate(o, step, 100, 1.0) for step in range(101)]
    assert rates[0] == 0.5 and rates[50] == pytest.approx(0.25) and rates[25] == pytest.approx(0.25 + 0.25 / 2**0.5)
    assert rates[100] == pytest.approx(0, abs=1e-15) and 0 < rates[99] < 0.5 * (math.pi / 100) ** 2
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_the_warm_up_rises_evenly_and_ends():
    o = plain(schedule="constant", learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(o, step, 100, 1.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def averaged(kind: str, decay: float = 0.999, steps: int = 7) -> tuple[nn.Module, Tiny, list[dict[str, np.ndarray]]]:
    """Return the average over random states of a network, the network at the end, and the states."""
    network, states = Tiny(), []
    average = averaged_model(plain(average=kind, ema_decay=decay), network)
    assert average is not None
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
            else:
                value.fill_(step)
        states.append({name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()})
        average.update_parameters(network)
    assert int(average.n_averaged) == steps
    return average.module, network, states


def test_the_equal_average_is_the_mean_of_all_steps():
    average, _, states = averaged("equal")
    for name, value in average.state_dict().items():
        wanted = states[-1][name] if "num_batches" in name else np.mean([state[name] for state in states], axis=0)
        np.testing.assert_allclose(value.numpy(), wanted, atol=1e-6)


def test_the_exponential_average_against_a_loop():
    average, _, states = averaged("ema", 0.8)
    held = states[0]
    for state in states[1:]:
        held = {name: 0.8 * held[name] + 0.2 * state[name] for name in held}
    for name, value in average.state_dict().items():
        wanted = states[-1][name] if "num_batches" in name else held[name]
        np.testing.assert_allclose(value.numpy(), wanted, atol=1e-6)


def test_the_average_holds_copies():
    average, network, _ = averaged("equal", steps=1)
    before = average.state_dict()["linear.weight"].clone()
    with torch.no_grad():
        network.linear.weight.add_(1)
    assert torch.equal(average.state_dict()["linear.weight"], before)
    assert averaged_model(plain(), network) is None
