"""Networks on the CPU through OpenVINO: several streams, fixed batches, crops written where the network reads them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import openvino as ov

from detector.model import Model, file_digest
from detector.networks.layers import has_lrn
from detector.networks.openvino_graph import features_model, scores_model
from detector.runtimes.base import CPU_BATCH, DET, Crops, Outputs, Scores, WriteCrops, summed_leaves
from detector.runtimes.compiled import compiled_model, core
from detector.weights import load_weights

PRECISIONS = ("f32", "bf16", "int8")
Rows = npt.NDArray[np.floating]  # float16 takes half the room


class OpenVinoClassifier:
    """A network compiled for this CPU; may be called from several threads, which take turns.

    Each crop's scores do not depend on its batch or on the number of streams.
    """

    def __init__(
        self,
        model: Model,
        precision: str = "auto",
        batch_size: int = 8,
        classes: str = DET,
        streams: int = 0,
        deltas: bool = False,
    ) -> None:
        """Compile the model, or fetch it compiled from the cache.

        streams: batches that are worked on at the same time, which share the cores; 0 for as many as suit the machine;
        deltas: make those of the box regression too.
        precision `auto`: int8 where the weights were trained for it, else bf16 where the CPU has it, else f32.
        Raises: OSError when the weights cannot be read, ValueError when they are damaged or lack what int8 needs.
        """
        precision = checked_precision(model, precision)
        self.model = model
        self.precision = precision
        self.batch_size = batch_size
        leaves = summed_leaves(classes, model)
        self._compiled = _compile(model, precision, batch_size, leaves, streams, deltas)
        self._requests = Requests(self._compiled)

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores [N, 1 + classes] of `crops` uint8 [N, size, size, 3]; [N, 1000] with classes imagenet."""
        return self.score(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop])).scores

    def score(self, count: int, write: WriteCrops) -> Outputs:
        """Return the scores of `count` crops that `write` puts into the input of the network, a batch at a time."""
        scores, *rest = rows = [np.empty((count, *shape), np.float32) for shape in self._requests.shapes]
        self._requests.run(count, write, rows)
        return Outputs(scores, rest[0].reshape(count, self.model.classes - 1, 4) if rest else None)

    def describe(self) -> str:
        """Return in one line what runs where."""
        streams = self._requests.streams
        return (
            f"{self.model.name} at {self.model.size} px, OpenVINO {ov.__version__.split('-')[0]} on the CPU, "
            f"{self.precision}, {streams} stream{'' if streams == 1 else 's'}, batches of {self.batch_size}"
        )


class OpenVinoFeatures:
    """The first `cut` layers of `model`; `shape` is that of one crop's features, (C, H, W).

    With several cuts, `shapes` has one for each.
    """

    def __init__(self, model: Model, cut: int | Sequence[int], precision: str = "auto", scores: bool = False) -> None:
        """Compile them; scores: compute the network's own softmax scores too.

        Raises: OSError when the weights cannot be read; ValueError when they are damaged, or have no such precision.
        """
        precision = checked_precision(model, precision)
        self.precision, self.model = precision, model
        graph = features_model(model, load_weights(model), cut, CPU_BATCH, precision == "int8", scores)
        hint = "bf16" if precision == "bf16" else "f32"
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
        self._requests = Requests(core().compile_model(graph, "CPU", options))
        self.shapes = self._requests.shapes
        self.shape = self.shapes[0]

    def run(self, count: int, write: WriteCrops, *rows: Rows) -> None:
        """Fill `rows` from `count` crops that `write` makes.

        They are the features [count, C, H, W] of each cut and, where they are computed, the scores [count, outputs].
        """
        self._requests.run(count, write, rows)


def checked_precision(model: Model, precision: str) -> str:
    """Return f32, bf16 or int8; `auto`: int8 where the file holds intervals, else bf16 where the CPU has it, else f32.

    Raises: ValueError for an unknown precision, or one that this model has not.
    """
    eight_bits = model.quantized and not has_lrn(model.layers)
    if precision == "auto":
        native = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = "int8" if eight_bits else "bf16" if "BF16" in native else "f32"
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, got '{precision}'")
    if precision == "int8" and not model.quantized:
        raise ValueError(f"{model.file or model.name}: holds no 8-bit intervals; use precision bf16 or f32")
    if precision == "int8" and not eight_bits:  # seen: other scores in one of 25 loads
        raise ValueError(f"{model.file}: OpenVINO's 8-bit runs with LRN are not reliable; use bf16, or norm batch")
    return precision


def _compile(
    model: Model,
    precision: str,
    batch_size: int,
    leaves: npt.NDArray[np.float32] | None,
    streams: int = 0,
    deltas: bool = False,
) -> ov.CompiledModel:
    """Return the compiled model, from the cache where it is there and whole."""
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    if not streams and precision == "int8" and model.members > 1 and model.member < 0:
        # built for two streams at a time, an ensemble in 8 bits has the weights of one member in another's place in one
        # of ten loads or so (OpenVINO 2026.4: 15 of 180; with one stream none of 180)
        streams = 1
    if streams:
        options["NUM_STREAMS"] = str(streams)
    layers = model.layers  # raises for a network that only torch has
    form = leaves is None, deltas

    def graph() -> ov.Model:
        return scores_model(model, load_weights(model), leaves, batch_size, precision == "int8", deltas)

    try:
        return compiled_model(graph, options, layers, model, file_digest(model), precision, batch_size, form)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"OpenVINO cannot run {model.name} at {model.size} px: {reason}") from None


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
                    write(start, stop, request.crops[: stop - start])  # the rows beyond, older crops, are not read
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
