"""A compiled OpenVINO graph at work: crops in, rows of its outputs out, several batches at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import openvino as ov

from detector.runtimes.classifier import WriteCrops

Rows = npt.NDArray[np.floating]  # float16 takes half the room


class Requests:
    """The inference requests of one compiled graph; may be used from several threads, which take turns.

    Each crop's row does not depend on its batch or on the number of streams.
    """

    def __init__(self, compiled: ov.CompiledModel) -> None:
        """The graph has one input uint8 [batch, size, size, 3]; each of its outputs is [batch, ...]."""
        self.shapes: tuple[tuple[int, ...], ...] = tuple(tuple(output.shape)[1:] for output in compiled.outputs)
        self.streams = int(compiled.get_property("NUM_STREAMS"))
        # one request more than streams, so that none of them waits while crops are made and rows are copied
        self._requests = [_Request(compiled) for _ in range(self.streams + 1)]
        self._compiled = compiled  # must outlive its requests
        self._turn = threading.Lock()

    def run(self, count: int, write: WriteCrops, rows: Sequence[Rows]) -> None:
        """Fill `rows`, an array [count, ...] for each output, from `count` crops that `write` makes, batch by batch."""
        busy: deque[tuple[_Request, int]] = deque()  # oldest first
        with self._turn:
            idle = list(self._requests)
            batch = len(idle[0].crops)
            try:
                for start in range(0, count, batch):
                    if not idle:
                        idle.append(_collected(busy, rows))
                    request = idle.pop()
                    stop = min(start + batch, count)
                    write(start, stop, request.crops[: stop - start])  # rows beyond hold older crops; nobody reads them
                    busy.append((request, start))  # before it runs: an interrupt in between must not leave it running
                    request.run.start_async()
                while busy:
                    _collected(busy, rows)
            finally:  # after an interrupt, the requests must be free for the next call
                for request, _ in busy:
                    request.run.wait()


class _Request:
    """An inference request and the array that is its input."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.crops = np.zeros(tuple(compiled.input(0).shape), np.uint8)
        self.run = compiled.create_infer_request()
        self.run.set_input_tensor(ov.Tensor(self.crops, shared_memory=True))


def _collected(busy: deque[tuple[_Request, int]], rows: Sequence[Rows]) -> _Request:
    """Wait for the oldest request, copy its rows and return it."""
    request, start = busy[0]
    request.run.wait()
    for number, target in enumerate(rows):
        part = target[start : start + len(request.crops)]
        part[:] = request.run.get_output_tensor(number).data[: len(part)]
    busy.popleft()
    return request
