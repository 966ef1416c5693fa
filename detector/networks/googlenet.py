"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842): Table 1 and Figure 3 as data.

What the two leave open (padding, ceil-mode pools, the constants of the normalisation) is as in Caffe's
`bvlc_googlenet`, whose layer names are used. The final 7x7 average pool is a global one: the same at 224 px, and other
sizes work too. `norm` "batch" leaves local response normalisation out: batch norm takes its place in training and
folds into the convolutions, so that the network at inference has neither.

Where the printed table does not follow from its own channels (K is 1024 there: 114,688 weights are its 112K):

| row | column | printed | computed |
|---|---|---|---|
| convolution 7x7/2 | params | 2.7K | 9.2K |
| convolution 7x7/2 | ops | 34M | 118M |
| inception (4c) | params | 463K | 497.5K |
| inception (4d) | params | 580K | 590.5K |
| inception (5a) | params | 1072K | 1018K |
| inception (5a) | ops | 54M | 51M |
| inception (5b) | params | 1388K | 1409K |

The first row's 2.7K and 34M are those of a depthwise-separable 7x7 of multiplier 8 (3 x 8 x 49 + 24 x 64 = 2,712
weights). The other cells agree within 1 % or one unit of their last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

from detector.networks.layers import LRN, Auxiliary, AvgPool, Branches, Conv, Cost, GlobalAvgPool, Layer, MaxPool, cost

NORMS = ("lrn", "batch")
SIZE = 224  # side of the crops, section 5
CLASSES = 1000
DROPOUT = 0.4  # before the classifier, section 5; training only
AUXILIARY_DROPOUT = 0.7  # section 5
MAX_WIDTH = 8.0


@dataclass(frozen=True)
class Row:
    """One row of Table 1, columns in the paper's order and names; 0 and "" are its empty cells."""

    type: str
    patch_stride: str
    output: tuple[int, int, int]  # rows, columns, channels
    depth: int = 0
    n1x1: int = 0
    n3x3_reduce: int = 0
    n3x3: int = 0
    n5x5_reduce: int = 0
    n5x5: int = 0
    pool_proj: int = 0
    params: float = 0  # as printed, in K
    ops: float = 0  # as printed, in M


TABLE_1 = (
    Row("convolution", "7x7/2", (112, 112, 64), 1, params=2.7, ops=34),
    Row("max pool", "3x3/2", (56, 56, 64)),
    Row("convolution", "3x3/1", (56, 56, 192), 2, 0, 64, 192, params=112, ops=360),
    Row("max pool", "3x3/2", (28, 28, 192)),
    Row("inception (3a)", "", (28, 28, 256), 2, 64, 96, 128, 16, 32, 32, 159, 128),
    Row("inception (3b)", "", (28, 28, 480), 2, 128, 128, 192, 32, 96, 64, 380, 304),
    Row("max pool", "3x3/2", (14, 14, 480)),
    Row("inception (4a)", "", (14, 14, 512), 2, 192, 96, 208, 16, 48, 64, 364, 73),
    Row("inception (4b)", "", (14, 14, 512), 2, 160, 112, 224, 24, 64, 64, 437, 88),
    Row("inception (4c)", "", (14, 14, 512), 2, 128, 128, 256, 24, 64, 64, 463, 100),
    Row("inception (4d)", "", (14, 14, 528), 2, 112, 144, 288, 32, 64, 64, 580, 119),
    Row("inception (4e)", "", (14, 14, 832), 2, 256, 160, 320, 32, 128, 128, 840, 170),
    Row("max pool", "3x3/2", (7, 7, 832)),
    Row("inception (5a)", "", (7, 7, 832), 2, 256, 160, 320, 32, 128, 128, 1072, 54),
    Row("inception (5b)", "", (7, 7, 1024), 2, 384, 192, 384, 48, 128, 128, 1388, 71),
    Row("avg pool", "7x7/1", (1, 1, 1024)),
    Row("dropout (40%)", "", (1, 1, 1024)),
    Row("linear", "", (1, 1, 1000), 1, params=1000, ops=1),
    Row("softmax", "", (1, 1, 1000)),
)

POOL = MaxPool(3, 2, ceil=True)
RESPONSE_NORM = LRN(5, 1e-4, 0.75, 1.0)  # size, alpha and beta of Krizhevsky et al. 2012; k as Caffe
AUXILIARY_AFTER = {"inception (4a)": "loss1", "inception (4d)": "loss2"}  # section 5; bvlc_googlenet's names


def googlenet(classes: int = CLASSES, norm: str = "lrn", width: float = 1.0, aux: bool = False) -> tuple[Layer, ...]:
    """Return GoogLeNet with `classes` outputs; the paper's by default.

    norm: "lrn", or "batch" without local response normalisation; width: factor of all channels but those of input
    and output, rounded to multiples of 8 (the wider member of an ensemble); aux: with the auxiliary classifiers of
    training, which need crops of 223 px or more. Raises: ValueError for values that make no network.
    """
    return tuple(layer for _, layers in stages(classes, norm, width, aux) for layer in layers)


def stages(
    classes: int = CLASSES, norm: str = "lrn", width: float = 1.0, aux: bool = False
) -> list[tuple[Row, tuple[Layer, ...]]]:
    """Return the rows of Table 1, each with its layers; arguments and errors as of `googlenet`.

    Dropout is the training network's and softmax the runtime's: these rows have no layer.
    """
    if norm not in NORMS:
        raise ValueError(f"GoogLeNet's norm must be lrn or batch, not '{norm}'")
    if not 0 < width <= MAX_WIDTH:
        raise ValueError(f"GoogLeNet's width must lie above 0 and not above {MAX_WIDTH:g}, got {width}")
    if classes < 1:
        raise ValueError(f"GoogLeNet needs at least one output, got {classes}")
    lrn = (RESPONSE_NORM,) if norm == "lrn" else ()
    conv1, pool1, conv2, pool2, *rest = TABLE_1
    first, reduced, channels = (_wide(n, width) for n in (conv1.output[2], conv2.n3x3_reduce, conv2.n3x3))
    found: list[tuple[Row, tuple[Layer, ...]]] = [
        (conv1, (Conv("conv1/7x7_s2", 3, first, (7, 7), stride=2),)),
        (pool1, (POOL, *lrn)),
        (conv2, (Conv("conv2/3x3_reduce", first, reduced), Conv("conv2/3x3", reduced, channels, (3, 3)), *lrn)),
        (pool2, (POOL,)),
    ]
    for row in rest:
        match row.type:
            case "max pool":
                found.append((row, (POOL,)))
            case "avg pool":
                found.append((row, (GlobalAvgPool(),)))
            case "linear":
                found.append((row, (Conv("loss3/classifier", channels, classes, relu=False),)))
            case "dropout (40%)" | "softmax":
                found.append((row, ()))
            case _:
                module = _inception(row, channels, width)
                channels = cost((module,), (channels, 1, 1)).output[0]
                head = AUXILIARY_AFTER.get(row.type) if aux else None
                found.append((row, (module, _auxiliary(head, channels, classes, width)) if head else (module,)))
    return found


def row_costs(size: int = SIZE) -> list[tuple[Row, Cost]]:
    """Return each row of Table 1 with what its layers cost in the paper's network, on crops of `size` px."""
    found, shape = [], (3, size, size)
    for row, layers in stages():
        found.append((row, cost(layers, shape)))
        shape = found[-1][1].output
    return found


def _wide(channels: int, width: float) -> int:
    """Return channels x width, rounded to a multiple of 8, at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def _inception(row: Row, inputs: int, width: float) -> Branches:
    """Return the Inception module of a row (figure 2b)."""
    name = "inception_" + row.type.removeprefix("inception (").removesuffix(")")
    n1x1, n3x3_reduce, n3x3, n5x5_reduce, n5x5, pool_proj = (
        _wide(n, width) for n in (row.n1x1, row.n3x3_reduce, row.n3x3, row.n5x5_reduce, row.n5x5, row.pool_proj)
    )
    return Branches(
        name,
        (
            (Conv(f"{name}/1x1", inputs, n1x1),),
            (Conv(f"{name}/3x3_reduce", inputs, n3x3_reduce), Conv(f"{name}/3x3", n3x3_reduce, n3x3, (3, 3))),
            (Conv(f"{name}/5x5_reduce", inputs, n5x5_reduce), Conv(f"{name}/5x5", n5x5_reduce, n5x5, (5, 5))),
            (MaxPool(3, 1, pad=1), Conv(f"{name}/pool_proj", inputs, pool_proj)),
        ),
    )


def _auxiliary(name: str, inputs: int, classes: int, width: float) -> Auxiliary:
    """Return an auxiliary classifier (section 5): its 1,024-way linear layer is a convolution over the 4x4 grid.

    On crops beyond 224 px that layer has several positions, which are averaged.
    """
    reduced, features = _wide(128, width), _wide(1024, width)
    return Auxiliary(
        name,
        (
            AvgPool(5, 3, "valid"),
            Conv(f"{name}/conv", inputs, reduced),
            Conv(f"{name}/fc", reduced, features, (4, 4), padding="valid"),
            GlobalAvgPool(),
            Conv(f"{name}/classifier", features, classes, relu=False),
        ),
        AUXILIARY_DROPOUT,
    )
