"""The processes of one training run: alone, or started by torchrun on one machine or many."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

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


def join_world(device: str) -> World:
    """Return the world that torchrun's variables RANK, WORLD_SIZE and LOCAL_RANK describe; alone without them.

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
            # over a restart torchrun keeps its store, and the addresses of processes that are gone in it; on several
            # machines the count may differ
            store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return World(int(os.environ.get("RANK", "0")), size, where)


def leave_world(world: World) -> None:
    """Undo `join_world`."""
    if world.size > 1:
        torch.distributed.destroy_process_group()
