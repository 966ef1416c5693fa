"""What the layers of a network cost: shapes, parameters and multiply-adds, from the data alone."""

from __future__ import annotations

from dataclasses import dataclass

from detector.networks.layers import LRN, Auxiliary, AvgPool, Branches, Conv, GlobalAvgPool, Layer, MaxPool, Members

Shape = tuple[int, int, int]  # channels, rows, columns


@dataclass(frozen=True)
class Cost:
    """What a stretch of layers costs for one picture; `output` is the shape that leaves it."""

    output: Shape
    weights: int
    biases: int
    multiply_adds: int  # of convolutions, biases not counted

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases


def cost(layers: tuple[Layer, ...], shape: Shape) -> Cost:
    """Return what `layers` cost at inference (auxiliary heads left out) for an input of `shape`.

    Raises: ValueError where the channels do not fit, or a window is larger than the grid.
    """
    weights = biases = multiply_adds = 0
    for layer in layers:
        part = _cost(layer, shape)
        shape = part.output
        weights += part.weights
        biases += part.biases
        multiply_adds += part.multiply_adds
    return Cost(shape, weights, biases, multiply_adds)


def _cost(layer: Layer, shape: Shape) -> Cost:
    channels, rows, columns = shape
    match layer:
        case Conv(name, inputs, outputs, (high, wide)):
            if channels != inputs:
                raise ValueError(f"{name} takes {inputs} channels, {channels} come in")
            rows = _positions(rows, high, layer.stride, layer.pad[0])
            columns = _positions(columns, wide, layer.stride, layer.pad[1])
            weights = inputs * outputs * high * wide
            return Cost((outputs, rows, columns), weights, outputs, weights * rows * columns)
        case MaxPool(kernel, stride, pad, ceil):
            high, wide = (_positions(n, kernel, stride, pad, ceil) for n in (rows, columns))
            return Cost((channels, high, wide), 0, 0, 0)
        case AvgPool(kernel, stride):
            high, wide = (_positions(n, kernel, stride, layer.pad) for n in (rows, columns))
            return Cost((channels, high, wide), 0, 0, 0)
        case GlobalAvgPool():
            return Cost((channels, 1, 1), 0, 0, 0)
        case Members(branches):
            parts = [cost(branch, shape) for branch in branches]
            sums = (sum(getattr(p, name) for p in parts) for name in ("weights", "biases", "multiply_adds"))
            return Cost(parts[0].output, *sums)
        case LRN() | Auxiliary():
            return Cost(shape, 0, 0, 0)
        case Branches(name, branches):
            parts = [cost(branch, shape) for branch in branches]
            grids = {part.output[1:] for part in parts}
            if len(grids) > 1:
                raise ValueError(f"the branches of {name} end in grids of different size: {sorted(grids)}")
            return Cost(
                (sum(part.output[0] for part in parts), *grids.pop()),
                sum(part.weights for part in parts),
                sum(part.biases for part in parts),
                sum(part.multiply_adds for part in parts),
            )


def _positions(length: int, kernel: int, stride: int, pad: int, ceil: bool = False) -> int:
    """Return how many windows fit along one axis; with `ceil`, one more where positions remain (Caffe's pooling)."""
    room = length + 2 * pad - kernel
    if room < 0:
        raise ValueError(f"a window of {kernel} does not fit a grid of {length}")
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    # as in Caffe and torch, the last window must not start in the padding beyond the edge
    return count - 1 if ceil and (count - 1) * stride >= length + pad else count
