"""Mini-batches made ahead by worker processes: the one of each step, in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import cv2
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class _Steps(Dataset[dict[str, Tensor]]):
    def __init__(self, make: Callable[[int], dict[str, Tensor]], first: int, last: int) -> None:
        self.make, self.first, self.last = make, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return self.make(self.first + place)


def step_batches(
    make: Callable[[int], dict[str, Tensor]], first: int, last: int, workers: int
) -> Iterator[dict[str, Tensor]]:
    """Yield make(step) for steps first..last-1; `workers` processes work ahead, 0: this one makes them as needed.

    `make` must be picklable and a function of the step alone, so that the result does not depend on `workers`.
    """
    if not workers:
        for step in range(first, last):
            yield make(step)
        return
    loader = DataLoader(
        _Steps(make, first, last),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        multiprocessing_context="spawn",
        worker_init_fn=_prepare,
    )
    yield from loader


def _prepare(worker: int) -> None:
    """Keep OpenCV's threads of one worker out of the way of the others, and signals to the loop, which ends workers."""
    cv2.setNumThreads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all processes of a command
        signal.signal(number, signal.SIG_IGN)
