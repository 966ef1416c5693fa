"""An ONNX graph of a network: the torch module, with everything that the OpenVINO graph has inside, traced by torch.

Input: the crops as they are cut (uint8 NHWC); output: the scores. In 8 bits the graph carries pairs of QuantizeLinear
and DequantizeLinear around every convolution, which runtimes turn into integer arithmetic.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from detector.model import Model
from detector.networks.torch_module import ConvReLU, Scorer
from detector.weights import Weights

if TYPE_CHECKING:
    import onnx

OPSET = 18  # ONNX 1.13 (2022); the first that torch's exporter writes without a conversion
CROPS, SCORES = "crops", "scores"


def onnx_scores_model(
    model: Model,
    network: nn.Module,
    leaves: npt.NDArray[np.float32] | None,
    batch: int | None,
    quantized: Weights | None = None,
) -> onnx.ModelProto:
    """Return the graph `uint8 [batch, size, size, 3] -> float32 [batch, 1 + classes]`; batch None: any.

    network: as `detector.runtimes.torch.load_network` returns it; quantized: the weights with the intervals of
    an 8-bit run, None for float32.
    """
    import onnx

    scorer = Scorer(model, network, leaves).eval()
    example = torch.zeros((batch or 2, model.size, model.size, 3), dtype=torch.uint8)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    with _silence(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            scorer,
            (example,),
            input_names=[CROPS],
            output_names=[SCORES],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # None is for the older exporter
    proto: onnx.ModelProto = program.model_proto
    _strip(proto)
    if quantized is not None:
        _quantize(proto, model, scorer, quantized)
    onnx.checker.check_model(proto)
    return proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress and its notes about optional packages off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what the exporter noted about its own source lines; it is larger than the graph and names folders."""
    del proto.metadata_props[:]
    graph = proto.graph
    del graph.metadata_props[:]
    graph.doc_string = ""
    for item in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""


def _quantize(proto: onnx.ModelProto, model: Model, scorer: Scorer, weights: Weights) -> None:
    """Put the 8-bit rounding of `detector.networks.openvino_graph` into an exported float32 graph."""
    graph = proto.graph
    parts = {f"network.{name}": part for name, part in scorer.network.named_modules() if isinstance(part, ConvReLU)}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    part_of = {node.output[0]: parts[node.input[1].removesuffix(".conv.weight")] for node in convolutions}
    rounded = {convolutions[0].input[0]: (-model.mean / model.scale, (255 - model.mean) / model.scale)}
    for node in graph.node:
        if node.op_type == "Relu" and node.input[0] in part_of:
            rounded[node.output[0]] = weights.interval(part_of[node.input[0]].source)
    nodes: list[onnx.NodeProto] = []
    kernels: dict[str, npt.NDArray[np.float32]] = {}
    for node in graph.node:
        if node.op_type == "Conv":
            kernels[node.input[1]] = weights.kernel(part_of[node.output[0]].source)
            node.input[1] = _int8_kernel(graph, nodes, node.input[1], kernels[node.input[1]])
        nodes.append(node)
        if node.output[0] in rounded:
            _round_output(graph, nodes, node, *rounded[node.output[0]])
    kept = [tensor for tensor in graph.initializer if tensor.name not in kernels]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _int8_kernel(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], name: str, values: npt.NDArray[np.float32]
) -> str:
    """Store a kernel in signed 8 bits, symmetric per output channel; return the name of its value."""
    from onnx import helper, numpy_helper

    scale = np.maximum(np.abs(values).max(axis=(1, 2, 3)) / 127, np.float32(1e-12)).astype(np.float32)
    rounded = np.round(values / scale[:, None, None, None]).astype(np.int8)
    inputs = [f"{name}.int8", f"{name}.scale"]
    graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip((rounded, scale), inputs, strict=True))
    nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.value"], axis=0))
    return f"{name}.value"


def _round_output(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], node: onnx.NodeProto, low: float, high: float
) -> None:
    """Round what `node` makes to 256 levels of [low, high], zero among them, under the name that it had."""
    from onnx import helper, numpy_helper

    name = node.output[0]
    step = np.float32((high - low) / 255)
    zero = np.uint8(np.clip(np.round(-low / step), 0, 255))
    interval = [f"{name}.step", f"{name}.zero"]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(v), n) for v, n in zip((step, zero), interval, strict=True)
    )
    node.output[0] = f"{name}.float"
    nodes.append(helper.make_node("QuantizeLinear", [f"{name}.float", *interval], [f"{name}.int8"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}.int8", *interval], [name]))
