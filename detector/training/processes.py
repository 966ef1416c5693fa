"""The processes of a training run: those of torchrun, those that make mini-batches ahead, and signals to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import cv2
import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")
Batch = dict[str, Tensor]

PATIENCE = timedelta(days=30)  # of the others, while the first process makes proposals and features


@dataclass(frozen=True)
class World:
    """rank: this process's number, 0..size-1; size: how many there are; device: where this one computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is set in any process; all must ask at the same step."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)], device=self.device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return bool(value.item())

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of `value` over the processes, detached."""
        value = value.detach().clone()
        if self.size > 1:
            torch.distributed.all_reduce(value)
            value /= self.size
        return value

    def wrapped(self, network: nn.Module) -> nn.Module:
        """Return `network` with its gradients averaged over the processes."""
        if self.size == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def in_turn(self, make: Callable[[], T]) -> T:
        """Return `make()`; the first process calls it before the others do, which find what it has written."""
        if not self.first:
            self.wait()
            return make()
        made = make()
        self.wait()
        return made


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Yield the world that torchrun's variables RANK, WORLD_SIZE and LOCAL_RANK describe; alone without them.

    device: auto, cpu or cuda. Raises: ValueError for cuda where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here; set device to cpu or auto")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    where = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
            # after a restart torchrun keeps its store with the addresses of processes that are gone; on several
            # machines the count may differ
            store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(int(os.environ.get("RANK", "0")), size, where)
    finally:
        if size > 1:
            torch.distributed.destroy_process_group()


class _Steps(Dataset[Batch]):
    def __init__(self, make: Callable[[int], Batch], first: int, last: int) -> None:
        self.make, self.first, self.last = make, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, place: int) -> Batch:
        return self.make(self.first + place)


def step_batches(make: Callable[[int], Batch], first: int, last: int, workers: int) -> Iterator[Batch]:
    """Yield make(step) for steps first..last-1; `workers` processes work ahead, 0: this one makes them as needed.

    `make` must be picklable and a function of the step alone, so that the result does not depend on `workers`.
    """
    if not workers:
        yield from map(make, range(first, last))
        return
    yield from DataLoader(
        _Steps(make, first, last),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        multiprocessing_context="spawn",
        worker_init_fn=_prepare_worker,
    )


def _prepare_worker(worker: int) -> None:
    """Leave the cores to the other workers, and signals to the loop, which ends the workers."""
    cv2.setNumThreads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all processes of a command
        signal.signal(number, signal.SIG_IGN)
