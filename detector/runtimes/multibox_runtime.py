"""MultiBox's network on the CPU through OpenVINO: the trunk and the heads in one graph, a picture at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from detector.networks.openvino_graph import features_model
from detector.runtimes.openvino_core import core
from detector.runtimes.openvino_runtime import checked_precision
from detector.weights import Model, Weights
from proposals.multibox.openvino_heads import heads_nodes

Floats = npt.NDArray[np.float32]


class MultiBoxNetwork:
    """A stretched picture uint8 [size, size, 3] to residuals [K, 4] and logits [K]; threads take turns."""

    def __init__(
        self, trunk: Model, weights: Weights, cut: int, heads: Mapping[str, Floats], precision: str = "auto"
    ) -> None:
        """Raises: ValueError for heads of another trunk or size, or a precision that the trunk has not."""
        self.precision = checked_precision(trunk, precision)
        graph = features_model(trunk, weights, cut, 1, self.precision == "int8")
        features = graph.output(0).get_node().input_value(0).get_node()
        outputs = [ops.result(node) for node in heads_nodes(features, heads)]
        hint = "bf16" if self.precision == "bf16" else "f32"
        # one picture at a time: all cores work on it together
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        whole = ov.Model(outputs, graph.get_parameters(), "multibox")
        compiled = core().compile_model(whole, "CPU", options)
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()

    def __call__(self, square: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return residuals and logits of one picture."""
        with self._turn:
            self._request.infer([ov.Tensor(square[None])])
            locations, logits = (self._request.get_output_tensor(number).data[0].copy() for number in (0, 1))
        return locations, logits
