"""An OpenVINO graph of a network, built operation by operation: no ONNX file and no torch on the way of `detect`.

Normalisation, softmax and the sum over each class's ImageNet leaves are inside the graph, so that the input is the
crops as they are cut (uint8 NHWC) and the output the scores of background and classes. A model with SVMs has their
margins' sigmoids in place of the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from detector.model import BOXES, SVM, Model
from detector.networks.layers import (
    LRN,
    SMALLEST_SCORE,
    Auxiliary,
    AvgPool,
    Branches,
    Conv,
    GlobalAvgPool,
    Layer,
    MaxPool,
    Members,
)
from detector.weights import Weights, load_weights

LEVELS = 256  # of an 8-bit quantization


@dataclass(frozen=True)
class _Builder:
    """Turns layers into nodes; `int8` puts the intervals of the quantized training around every convolution."""

    weights: Weights
    int8: bool

    def quantized(self, x: ov.Node, low: float, high: float) -> ov.Node:
        """Return `x` rounded to 256 levels of [low, high]; unchanged without `int8`."""
        if not self.int8:
            return x
        ends = [np.float32(low), np.float32(high)] * 2
        return ops.fake_quantize(x, *ends, LEVELS)

    def kernel(self, layer: Conv) -> ov.Node:
        """Return the weights: float32, or signed 8-bit and symmetric per output channel, as VNNI and AMX take them."""
        values = self.weights.kernel(layer.name)
        if not self.int8:
            return ops.constant(values)
        scale = np.maximum(np.abs(values).max(axis=(1, 2, 3), keepdims=True) / 127, np.float32(1e-12))
        rounded = ops.constant(np.round(values / scale).astype(np.int8))
        return ops.multiply(ops.convert(rounded, "f32"), ops.constant(scale.astype(np.float32)))

    def conv(self, x: ov.Node, layer: Conv) -> ov.Node:
        strides, pad = [layer.stride, layer.stride], list(layer.pad)
        x = ops.convolution(x, self.kernel(layer), strides, pad, pad, [1, 1])
        x = ops.add(x, ops.constant(self.weights.bias(layer.name).reshape(1, -1, 1, 1)))
        if not layer.relu:
            return x
        x = ops.relu(x)
        return self.quantized(x, *self.weights.interval(layer.name)) if self.int8 else x  # float files have none

    def layer(self, x: ov.Node, layer: Layer) -> ov.Node:
        match layer:
            case Conv():
                return self.conv(x, layer)
            case MaxPool(kernel, stride, pad, ceil):
                # opset 1: without the index output of the later versions, which is slower
                ends, rounding = [pad, pad], "ceil" if ceil else "floor"
                return ov.opset1.max_pool(x, [stride, stride], ends, ends, [kernel, kernel], rounding)
            case AvgPool(kernel, stride):
                ends = [layer.pad, layer.pad]
                return ops.avg_pool(x, [stride, stride], ends, ends, [kernel, kernel], exclude_pad=True)
            case LRN(size, alpha, beta, k):
                return ops.lrn(x, ops.constant(np.array([1], np.int64)), alpha, beta, k, size)
            case GlobalAvgPool():
                return ops.reduce_mean(x, ops.constant(np.array([2, 3], np.int64)), keep_dims=True)
            case Branches(_, branches):
                return ops.concat([self.sequence(x, branch) for branch in branches], axis=1)
            case Members(branches):
                total = ops.softmax(self.sequence(x, branches[0]), axis=1)
                for branch in branches[1:]:
                    total = ops.add(total, ops.softmax(self.sequence(x, branch), axis=1))
                mean = ops.multiply(total, ops.constant(np.float32(1 / len(branches))))
                return ops.log(ops.maximum(mean, ops.constant(np.float32(SMALLEST_SCORE))))
            case Auxiliary():
                return x

    def normalised(self, crops: ov.Node, model: Model) -> ov.Node:
        """Return crops uint8 NHWC as the network takes them: float32 NCHW, (pixel - mean) / scale."""
        x = ops.transpose(ops.convert(crops, "f32"), ops.constant(np.array([0, 3, 1, 2], np.int64)))
        mean, scale = np.float32(model.mean), np.float32(1 / model.scale)
        x = ops.multiply(ops.subtract(x, ops.constant(mean)), ops.constant(scale))
        return self.quantized(x, -model.mean / model.scale, (255 - model.mean) / model.scale)

    def sequence(self, x: ov.Node, layers: tuple[Layer, ...]) -> ov.Node:
        for layer in layers:
            x = self.layer(x, layer)
        return x


def _input(model: Model, batch: int) -> ov.Node:
    return ops.parameter([batch, model.size, model.size, 3], np.uint8, name="crops")


def _standardised(logits: ov.Node, sharpness: float) -> ov.Node:
    """Return `logits` [batch, outputs] divided by their standard deviation, times `sharpness`."""
    axis = ops.constant(np.array([1], np.int64))
    centred = ops.subtract(logits, ops.reduce_mean(logits, axis, keep_dims=True))
    variance = ops.reduce_mean(ops.multiply(centred, centred), axis, keep_dims=True)
    return ops.multiply(centred, ops.divide(ops.constant(np.float32(sharpness)), ops.sqrt(variance)))


def scores_model(
    model: Model,
    weights: Weights,
    leaves: npt.NDArray[np.float32] | None,
    batch: int,
    int8: bool = False,
    deltas: bool = False,
) -> ov.Model:
    """Return the graph `uint8 [batch, size, size, 3] -> float32 [batch, 1 + classes]`.

    leaves: [outputs of the network, 1 + classes], the matrix that adds softmax scores into classes, None to leave
    them as they are (the output is then [batch, outputs of the network]); int8: quantize to the intervals that the
    weights file holds; deltas: those of the box regression, [batch, 4 classes], as a second output (float also in an
    8-bit graph).
    """
    crops, build = _input(model, batch), _Builder(weights, int8)
    pooled = build.sequence(build.normalised(crops, model), model.layers[:-1])
    scores = _class_scores(build.layer(pooled, model.layers[-1]), model, batch)
    if leaves is not None:
        scores = ops.matmul(scores, ops.constant(leaves), False, False)
    results = [ops.result(scores, name="scores")]
    if deltas:
        rows = ops.reshape(pooled, ops.constant(np.array([batch, -1], np.int64)), special_zero=False)
        moves = ops.matmul(rows, ops.constant(weights.kernel(BOXES)), False, True)
        results.append(ops.result(ops.add(moves, ops.constant(weights.bias(BOXES)[None])), name="deltas"))
    return ov.Model(results, [crops], "scores")


def features_model(
    model: Model, weights: Weights, cut: int | Sequence[int], batch: int, int8: bool = False, scores: bool = False
) -> ov.Model:
    """Return the graph `uint8 [batch, size, size, 3] -> float32 [batch, C, H, W]` of the first `cut` layers.

    cut: several rising numbers of layers give an output each; scores: the scores of the whole network's outputs,
    [batch, outputs], as a last output; int8: as of `scores_model`.
    """
    crops, build = _input(model, batch), _Builder(weights, int8)
    features, done, results = build.normalised(crops, model), 0, []
    for end in (cut,) if isinstance(cut, int) else cut:
        features, done = build.sequence(features, model.layers[done:end]), end
        results.append(ops.result(features, name=f"features_{end}"))
    if scores:
        rest = build.sequence(features, model.layers[done:])
        results.append(ops.result(_class_scores(rest, model, batch), name="scores"))
    return ov.Model(results, [crops], "features")


def ends_model(
    trunk: Model, cut: int, ends: Sequence[tuple[Model, npt.NDArray[np.float32] | None]], batch: int, int8: bool
) -> ov.Model:
    """Return the graph of several networks that have their first `cut` layers from `trunk`: an output of scores each.

    An ensemble that shares further layers has an output for each of its members.

    ends: the networks, in 8 bits where their files hold intervals, and their `leaves` as of `scores_model`; int8: of
    the trunk. For measuring members beside each other; an ensemble has a graph of its own.
    """
    crops, build = _input(trunk, batch), _Builder(load_weights(trunk), int8)
    features = build.sequence(build.normalised(crops, trunk), trunk.layers[:cut])
    results = []
    for model, leaves in ends:
        own = _Builder(load_weights(model), int8 and model.quantized)
        *shared, last = model.layers[cut:]
        x = own.sequence(features, tuple(shared))
        for branch in last.branches if isinstance(last, Members) else ((last,),):
            scores = _class_scores(own.sequence(x, branch), model, batch)
            if leaves is not None:
                scores = ops.matmul(scores, ops.constant(leaves), False, False)
            results.append(ops.result(scores))
    return ov.Model(results, [crops], "ends")


def _class_scores(x: ov.Node, model: Model, batch: int) -> ov.Node:
    """Return the scores [batch, outputs] of the last layer's output: softmax, or the sigmoids of the SVMs' margins."""
    logits = ops.reshape(x, ops.constant(np.array([batch, -1], np.int64)), special_zero=False)
    if model.head == SVM:
        first, axis = np.array([1], np.int64), np.array([1], np.int64)
        scores = ops.sigmoid(ops.slice(logits, first, np.array([model.classes], np.int64), np.array([1]), axis))
        best = ops.reduce_max(scores, ops.constant(axis), keep_dims=True)
        return ops.concat([ops.subtract(ops.constant(np.float32(1)), best), scores], axis=1)
    return ops.softmax(_standardised(logits, model.sharpness) if model.sharpness else logits, axis=1)
