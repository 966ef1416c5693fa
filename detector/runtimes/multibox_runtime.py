"""MultiBox's network on the CPU through OpenVINO: the trunk and the heads in one graph, a picture at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from detector.model import Model, file_digest
from detector.networks.layers import cost
from detector.networks.openvino_graph import features_model
from detector.runtimes.compiled import compiled_model
from detector.runtimes.openvino import checked_precision
from detector.weights import load_weights
from proposals.multibox.coding import STD
from proposals.multibox.decoding import GRID_NMS, NMS
from proposals.multibox.grid import deviations, grid_priors
from proposals.multibox.openvino_heads import grid_heads_nodes, heads_nodes

Floats = npt.NDArray[np.float32]


class MultiBoxNetwork:
    """A stretched picture uint8 [size, size, 3] to residuals [K, 4] and logits [K]; threads take turns.

    priors [K, 4], deviation and nms are what `decode_proposals` takes.
    """

    def __init__(
        self,
        trunk: Model,
        cut: int | tuple[int, int],
        heads: Mapping[str, Floats],
        precision: str = "auto",
    ) -> None:
        """cut: of the trunk's layers; of the fine and of the coarse features, for heads on two grids.

        Raises: ValueError for heads of another trunk or size, or a precision that the trunk has not.
        """
        self.precision = checked_precision(trunk, precision)
        if isinstance(cut, tuple):
            grids = [_grid(trunk, end) for end in cut]
            self.priors = grid_priors(grids, [heads["fine_shapes"], heads["coarse_shapes"]])
            self.deviation: Floats | float = deviations(self.priors)
            self.nms = GRID_NMS
        else:
            self.priors, self.deviation, self.nms = heads["priors"], STD, NMS

        def graph() -> ov.Model:
            first = features_model(trunk, load_weights(trunk), cut, 1, self.precision == "int8")
            features = [output.get_node().input_value(0).get_node() for output in first.outputs]
            on_grids = isinstance(cut, tuple)
            nodes = grid_heads_nodes(features[0], features[1], heads) if on_grids else heads_nodes(features[0], heads)
            return ov.Model([ops.result(node) for node in nodes], first.get_parameters(), "multibox")

        hint = "bf16" if self.precision == "bf16" else "f32"
        # one picture at a time: all cores work on it together
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(heads[name]).tobytes() for name in sorted(heads)))
        key = trunk.layers, trunk, file_digest(trunk), cut, self.precision, sorted(heads), digest.hexdigest()
        compiled = compiled_model(graph, options, *key)
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()

    def __call__(self, square: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return residuals and logits of one picture."""
        with self._turn:
            self._request.infer([ov.Tensor(square[None])])
            locations, logits = (self._request.get_output_tensor(number).data[0].copy() for number in (0, 1))
        return locations, logits


def _grid(trunk: Model, cut: int) -> tuple[int, int]:
    """Return rows and columns of the features behind the first `cut` layers."""
    _, rows, columns = cost(trunk.layers[:cut], (3, trunk.size, trunk.size)).output
    return rows, columns
