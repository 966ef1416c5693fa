"""Networks on the CPU through OpenVINO: several streams, fixed batches, a cache of compiled models."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov

from detector.model import Model, file_digest
from detector.networks.layers import has_lrn
from detector.networks.openvino_graph import scores_model
from detector.runtimes.classifier import DET, Crops, Scores, Targets, WriteCrops, summed_leaves
from detector.runtimes.openvino_core import compiled_model, core
from detector.runtimes.openvino_requests import Requests
from detector.weights import load_weights

PRECISIONS = ("f32", "bf16", "int8")


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
        targets: bool = False,
    ) -> None:
        """Compile the model, or fetch it compiled from the cache.

        streams: batches that are worked on at the same time, which share the cores; 0 for as many as suit the machine;
        targets: make those of the box regression too.
        precision `auto`: int8 where the weights were trained for it, else bf16 where the CPU has it, else f32.
        Raises: OSError when the weights cannot be read, ValueError when they are damaged or lack what int8 needs.
        """
        precision = checked_precision(model, precision)
        self.model = model
        self.precision = precision
        self.batch_size = batch_size
        leaves = summed_leaves(classes, model)
        self._compiled = _compile(model, precision, batch_size, leaves, streams, targets)
        self._requests = Requests(self._compiled)

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores [N, 1 + classes] of `crops` uint8 [N, size, size, 3]; [N, 1000] with classes imagenet."""
        return self.score(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop]))

    def score(self, count: int, write: WriteCrops) -> Scores:
        """Return the scores of `count` crops that `write` puts into the input of the network, a batch at a time."""
        scores = np.empty((count, *self._requests.shapes[0]), np.float32)
        self._requests.run(count, write, [scores])
        return scores

    def score_and_targets(self, count: int, write: WriteCrops) -> tuple[Scores, Targets]:
        """Return what `score` does, and the targets [N, classes, 4]; for a model loaded with targets."""
        rows = [np.empty((count, *shape), np.float32) for shape in self._requests.shapes]
        self._requests.run(count, write, rows)
        return rows[0], rows[1].reshape(count, self.model.classes - 1, 4)

    def describe(self) -> str:
        """Return in one line what runs where."""
        streams = self._requests.streams
        return (
            f"{self.model.name} at {self.model.size} px, OpenVINO {ov.__version__.split('-')[0]} on the CPU, "
            f"{self.precision}, {streams} stream{'' if streams == 1 else 's'}, batches of {self.batch_size}"
        )


def checked_precision(model: Model, precision: str) -> str:
    """Return f32, bf16 or int8; `auto`: int8 where the file holds intervals, else bf16 where the CPU has it, else f32.

    Raises: ValueError for a precision that there is not, or that this model has not.
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
    targets: bool = False,
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
    form = leaves is None, targets

    def graph() -> ov.Model:
        return scores_model(model, load_weights(model), leaves, batch_size, precision == "int8", targets)

    try:
        return compiled_model(graph, options, layers, model, file_digest(model), precision, batch_size, form)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"OpenVINO cannot run {model.name} at {model.size} px: {reason}") from None
