"""MultiBox's trunk and heads in one OpenVINO graph, on the CPU."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from detector.networks.openvino_graph import features_model
from detector.runtimes.compiled import compiled_model
from detector.weights import load_weights
from proposals.boxes import Floats

if TYPE_CHECKING:
    from detector.multibox import Arrays, MultiBoxWeights


class MultiBoxNetwork:
    """A square, uint8 [S, S, 3], to residuals [K, 4] and logits [K]; for one thread at a time."""

    def __init__(self, weights: MultiBoxWeights, precision: str, threads: int = 0) -> None:
        """Compile the graph, or fetch it compiled from the cache; threads: 0 for as many as there are cores."""

        def graph() -> ov.Model:
            trunk = features_model(weights.trunk, load_weights(weights.trunk), weights.cuts, 1, precision == "int8")
            fine, coarse = (output.get_node().input_value(0).get_node() for output in trunk.outputs)
            nodes = heads_nodes(fine, coarse, weights.arrays)
            return ov.Model([ops.result(node) for node in nodes], trunk.get_parameters(), "multibox")

        hint = "bf16" if precision == "bf16" else "f32"
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}  # all threads work on one image
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        heads = hashlib.sha256(b"".join(weights.arrays[name].tobytes() for name in sorted(weights.arrays)))
        key = weights.trunk, weights.trunk_sha256, weights.cuts, precision, sorted(weights.arrays), heads.hexdigest()
        self._request = compiled_model(graph, options, *key).create_infer_request()

    def __call__(self, square: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return residuals and logits, as copies."""
        self._request.infer([ov.Tensor(square[None])])
        locations, logits = (self._request.get_output_tensor(number).data[0].copy() for number in (0, 1))
        return locations, logits


def heads_nodes(fine: ov.Node, coarse: ov.Node, arrays: Arrays) -> tuple[ov.Node, ov.Node]:
    """Return the nodes of the residuals [B, K, 4] and of the logits [B, K] on two nodes of features [B, C, H, W].

    arrays: as `MultiBoxHeads.arrays` (detector.networks.multibox_heads) returns them; sides must not be dynamic. The
    nodes compute what `MultiBoxHeads` does in torch.
    """
    reduced = _convolved(coarse, arrays, "coarse_reduce")
    rows, columns = (fine.get_output_partial_shape(0)[axis].get_length() for axis in (2, 3))
    x = ops.relu(ops.add(_convolved(fine, arrays, "fine_reduce"), _enlarged(reduced, rows, columns)))
    fine_rows = _convolved(ops.relu(_convolved(x, arrays, "fine_mixed")), arrays, "fine_outputs")
    y = ops.relu(_convolved(ops.relu(reduced), arrays, "coarse_mixed"))
    outputs = [_priors_last(fine_rows), _priors_last(_convolved(y, arrays, "coarse_outputs"))]
    every = ops.concat(outputs, axis=1)  # [B, K, 5]
    axis = ops.constant(np.int64(2))
    locations = ops.gather(every, ops.constant(np.arange(4)), axis)
    return locations, ops.gather(every, ops.constant(np.int64(4)), axis)


def _convolved(x: ov.Node, arrays: Arrays, name: str) -> ov.Node:
    weight = arrays[f"{name}.weight"]
    pad = [side // 2 for side in weight.shape[2:]]
    found = ops.convolution(x, ops.constant(weight), [1, 1], pad, pad, [1, 1])
    return ops.add(found, ops.constant(arrays[f"{name}.bias"].reshape(1, -1, 1, 1)))


def _enlarged(x: ov.Node, rows: int, columns: int) -> ov.Node:
    """Return `x` [B, C, H, W] as [B, C, rows, columns], each place the value of the cell that it lies in."""
    shape = x.get_output_partial_shape(0)
    for axis, wanted in ((2, rows), (3, columns)):
        have = shape[axis].get_length()
        places = np.arange(wanted, dtype=np.float32) * (np.float32(have) / np.float32(wanted))  # rounds as PyTorch does
        cells = np.minimum(places.astype(np.int64), have - 1)
        x = ops.gather(x, ops.constant(cells), ops.constant(np.int64(axis)))
    return x


def _priors_last(x: ov.Node) -> ov.Node:
    """Return outputs [B, 5 A, H, W] as [B, H W A, 5]."""
    moved = ops.transpose(x, ops.constant(np.array([0, 2, 3, 1], np.int64)))
    return ops.reshape(moved, ops.constant(np.array([0, -1, 5], np.int64)), special_zero=True)
