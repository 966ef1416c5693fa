"""The first layers of a network on the CPU through OpenVINO: crops in, features out, for training what comes after."""

from __future__ import annotations

from collections.abc import Sequence

from detector.model import Model
from detector.networks.openvino_graph import features_model
from detector.runtimes.classifier import CPU_BATCH, WriteCrops
from detector.runtimes.openvino_core import core
from detector.runtimes.openvino_requests import Requests, Rows
from detector.runtimes.openvino_runtime import checked_precision
from detector.weights import load_weights


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
