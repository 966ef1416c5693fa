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
