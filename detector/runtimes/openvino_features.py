"""The first layers of a network on the CPU through OpenVINO: crops in, features out, for training what comes after."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detector.networks.openvino_graph import features_model
from detector.runtimes.classifier import CPU_BATCH, WriteCrops
from detector.runtimes.openvino_core import core
from detector.runtimes.openvino_requests import Requests, Rows
from detector.runtimes.openvino_runtime import checked_precision
from detector.weights import Model, load_weights


class OpenVinoFeatures:
    """The first `cut` layers of `model`; `shape` is that of one crop's features, (C, H, W)."""

    def __init__(self, model: Model, cut: int, precision: str = "auto", scores: bool = False) -> None:
        """Compile them; scores: compute the network's own softmax scores too.

        Raises: OSError when the weights cannot be read; ValueError when they are damaged, or have no such precision.
        """
        precision = checked_precision(model, precision)
        self.precision, self.model = precision, model
        graph = features_model(model, load_weights(model), cut, CPU_BATCH, precision == "int8", scores)
        hint = "bf16" if precision == "bf16" else "f32"
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
        self._requests = Requests(core().compile_model(graph, "CPU", options))
        self.shape = self._requests.shapes[0]

    def run(self, count: int, write: WriteCrops, features: Rows, scores: npt.NDArray[np.float32] | None = None) -> None:
        """Fill `features` [count, C, H, W], and `scores` [count, outputs], from `count` crops that `write` makes."""
        self._requests.run(count, write, [features] if scores is None else [features, scores])
