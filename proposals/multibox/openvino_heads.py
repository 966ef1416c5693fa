"""The heads of MultiBox as OpenVINO operations, to be put on a trunk's graph: no torch on the way of `detect`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from proposals.boxes import Floats


def heads_nodes(features: ov.Node, arrays: Mapping[str, Floats]) -> tuple[ov.Node, ov.Node]:
    """Return the nodes of the residuals [B, K, 4] and of the logits [B, K] on the node `features` [B, C, H, W].

    arrays: as `MultiBoxHeads.arrays` returns them; B may be dynamic, C, H and W not. The nodes compute what
    `MultiBoxHeads` does in evaluation. Raises: ValueError for features of another shape than the heads were made for.
    """
    weight = arrays["reduce.weight"]  # [reduced, C, 1, 1]
    reduced, channels = weight.shape[:2]
    cells = arrays["hidden.weight"].shape[1] // reduced
    shape = features.get_output_partial_shape(0)
    sides = [shape[axis].get_length() if shape[axis].is_static else 0 for axis in range(len(shape))]
    if len(sides) != 4 or sides[1] != channels or sides[2] * sides[3] != cells:
        raise ValueError(f"the heads take features [B, {channels}, H, W] with H x W = {cells}, got {shape}")

    x = ops.convolution(features, ops.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    x = ops.relu(ops.add(x, ops.constant(arrays["reduce.bias"].reshape(1, -1, 1, 1))))
    x = _reshaped(x, [0, reduced * cells])
    x = ops.relu(_linear(x, arrays, "hidden"))
    locations = _reshaped(_linear(x, arrays, "locations"), [0, len(arrays["priors"]), 4])
    return locations, _linear(x, arrays, "confidences")


def _linear(x: ov.Node, arrays: Mapping[str, Floats], name: str) -> ov.Node:
    product = ops.matmul(x, ops.constant(arrays[f"{name}.weight"]), False, True)
    return ops.add(product, ops.constant(arrays[f"{name}.bias"].reshape(1, -1)))


def _reshaped(x: ov.Node, shape: list[int]) -> ov.Node:
    """Return `x` in `shape`, in which 0 is the side that it has."""
    return ops.reshape(x, ops.constant(np.array(shape, np.int64)), special_zero=True)


def grid_heads_nodes(fine: ov.Node, coarse: ov.Node, arrays: Mapping[str, Floats]) -> tuple[ov.Node, ov.Node]:
    """Return the nodes of the residuals [B, K, 4] and of the logits [B, K] on two nodes of features [B, C, H, W].

    arrays: as `GridHeads.arrays` returns them; sides must not be dynamic. The nodes compute what `GridHeads` does.
    Raises: ValueError for features of another number of channels than the heads were made for.
    """
    for node, name in ((fine, "fine"), (coarse, "coarse")):
        shape, channels = node.get_output_partial_shape(0), arrays[f"{name}_reduce.weight"].shape[1]
        if len(shape) != 4 or shape[1].is_dynamic or shape[1].get_length() != channels:
            raise ValueError(f"the heads take {name} features [B, {channels}, H, W], got {shape}")

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


def _convolved(x: ov.Node, arrays: Mapping[str, Floats], name: str) -> ov.Node:
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
