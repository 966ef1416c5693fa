"""GoogLeNet against Table 1: hand-worked counts, shapes, and where the printed table contradicts itself."""

from dataclasses import astuple
from math import nan

import pytest
import torch

from detector.networks.googlenet import TABLE_1, googlenet, row_costs, stages
from detector.networks.layers import LRN, Auxiliary, AvgPool, Branches, Conv, Cost, MaxPool, convolutions, cost
from detector.networks.torch_module import torch_network

# weights, biases and multiply-adds of each row that has any, worked by hand from the channels of Table 1
BY_HAND = [
    (3 * 64 * 49, 64, 3 * 64 * 49 * 112**2),
    (64 * 64 + 64 * 192 * 9, 64 + 192, (64 * 64 + 64 * 192 * 9) * 56**2),
    (163_328, 368, 163_328 * 784),  # 192 x (64 + 96 + 16 + 32) + 96 x 128 x 9 + 16 x 32 x 25
    (388_096, 640, 388_096 * 784),  # 256 x (128 + 128 + 32 + 64) + 128 x 192 x 9 + 32 x 96 x 25
    (375_552, 624, 375_552 * 196),  # 480 x (192 + 96 + 16 + 64) + 96 x 208 x 9 + 16 x 48 x 25
    (448_512, 648, 448_512 * 196),  # 512 x (160 + 112 + 24 + 64) + 112 x 224 x 9 + 24 x 64 x 25
    (509_440, 664, 509_440 * 196),  # 512 x (128 + 128 + 24 + 64) + 128 x 256 x 9 + 24 x 64 x 25
    (604_672, 704, 604_672 * 196),  # 512 x (112 + 144 + 32 + 64) + 144 x 288 x 9 + 32 x 64 x 25
    (867_328, 1_024, 867_328 * 196),  # 528 x (256 + 160 + 32 + 128) + 160 x 320 x 9 + 32 x 128 x 25
    (1_042_432, 1_024, 1_042_432 * 49),  # 832 x (256 + 160 + 32 + 128) + 160 x 320 x 9 + 32 x 128 x 25
    (1_442_816, 1_264, 1_442_816 * 49),  # 832 x (384 + 192 + 48 + 128) + 192 x 384 x 9 + 48 x 128 x 25
    (1_024_000, 1_000, 1_024_000),
]


def parameters(layers):
    return sum(c.outputs * (c.inputs * c.kernel[0] * c.kernel[1] + 1) for c in convolutions(layers))


def test_every_row_costs_what_its_channels_say():
    counted = [(c.weights, c.biases, c.multiply_adds) for _, c in row_costs() if c.weights]
    assert counted == BY_HAND


def test_totals():
    whole = cost(googlenet(), (3, 224, 224))
    assert whole.output == (1000, 1, 1) and whole.parameters == parameters(googlenet()) == 6_998_552
    assert parameters(googlenet(aux=True)) == 13_378_280
    assert whole.multiply_adds == sum(c.multiply_adds for _, c in row_costs()) == 1_582_671_872
    assert sum(p.numel() for p in torch_network(googlenet()).parameters()) == 6_998_552


def test_the_shape_after_each_row_is_the_printed_one():
    for row, found in row_costs():
        channels, rows, columns = found.output
        assert (rows, columns, channels) == row.output, row


def test_torch_has_the_shape_of_the_data_after_each_layer():
    layers = googlenet()
    x, shape = torch.zeros(1, 3, 97, 128), (3, 97, 128)  # odd grids on the way: 49, 24, 12, 6, 3
    with torch.inference_mode():
        for layer, part in zip(layers, torch_network(layers).eval(), strict=True):
            x, shape = part(x), cost((layer,), shape).output
            assert tuple(x.shape[1:]) == shape, layer


def test_the_table_has_22_layers_and_every_convolution_its_own_name():
    assert sum(row.depth for row in TABLE_1) == 22
    assert sum(row.output == (14, 14, 512) for row in TABLE_1) == 3
    names = [c.name for c in convolutions(googlenet(aux=True))]
    assert len(names) == len(set(names)) == 3 + 9 * 6 + 1 + 2 * 3


def test_where_the_printed_table_contradicts_its_own_channels():
    found = []
    for row, own in row_costs():
        for column, printed, computed in (
            ("params", row.params, own.weights / 1024),
            ("ops", row.ops, own.multiply_adds / 1e6),
        ):
            if abs(printed - computed) > max(1, 0.01 * printed):
                found.append((row.type, column, printed, computed))
    assert found == [
        ("convolution", "params", 2.7, 9.1875),
        ("convolution", "ops", 34, 118.013952),
        ("inception (4c)", "params", 463, 497.5),
        ("inception (4d)", "params", 580, 590.5),
        ("inception (5a)", "params", 1072, 1018),
        ("inception (5a)", "ops", 54, 51.079168),
        ("inception (5b)", "params", 1388, 1409),
    ]
    separable = 3 * 8 * 49 + 24 * 64  # a depthwise 7x7 of multiplier 8, then 1x1
    assert separable == 2712 and round(separable * 112**2 / 1e6) == 34


def test_figure_3():
    kinds = [type(layer) for layer in googlenet(aux=True)]
    assert kinds[:7] == [Conv, MaxPool, LRN, Conv, Conv, LRN, MaxPool]
    ceils = [layer.ceil for layer in googlenet() if isinstance(layer, MaxPool)]
    assert ceils == [True] * 4
    modules = [layer for layer in googlenet() if isinstance(layer, Branches)]
    assert [m.name[-2:] for m in modules] == ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    for module in modules:
        assert [type(branch[0]) for branch in module.branches] == [Conv, Conv, Conv, MaxPool]
        assert module.branches[2][1].kernel == (5, 5) and module.branches[3][0] == MaxPool(3, 1, pad=1)
    assert kinds.count(Auxiliary) == 2


def test_the_auxiliary_heads_follow_4a_and_4d():
    layers = googlenet(aux=True)
    for place, head in [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, Auxiliary)]:
        before = layers[place - 1].name
        assert (head.name, before) in [("loss1", "inception_4a"), ("loss2", "inception_4d")]
        grid = cost(layers[:place], (3, 224, 224)).output
        pooled = cost(head.layers[:1], grid).output
        assert pooled == (grid[0], 4, 4) and head.layers[0] == AvgPool(5, 3, "valid")  # section 5: 4x4x512, 4x4x528
        assert cost(head.layers, grid).output == (1000, 1, 1) and head.dropout == 0.7
    assert tuple(layer for layer in layers if not isinstance(layer, Auxiliary)) == googlenet()
    assert cost(layers, (3, 224, 224)) == cost(googlenet(), (3, 224, 224))  # they cost nothing at inference


def test_batch_norm_takes_the_place_of_response_normalisation():
    assert googlenet(norm="batch") == tuple(layer for layer in googlenet() if not isinstance(layer, LRN))


@pytest.mark.parametrize("width", [0.1, 0.5, 1.25, 1.5, 2])
def test_width_multiplies_every_channel_in_steps_of_eight(width):
    for own, wide in zip(
        convolutions(googlenet(5, aux=True)), convolutions(googlenet(5, width=width, aux=True)), strict=True
    ):
        assert own.name == wide.name and own.kernel == wide.kernel
        if own.relu:
            assert wide.outputs % 8 == 0 and wide.outputs >= 8
            assert wide.outputs == 8 or abs(wide.outputs - own.outputs * width) <= 4
        else:
            assert wide.outputs == 5
    assert cost(googlenet(5, width=width), (3, 96, 96)).output == (5, 1, 1)  # the channels fit together


def test_double_width_by_hand():
    module = next(layer for layers in dict(stages(width=2)).values() for layer in layers if isinstance(layer, Branches))
    assert [astuple(branch[-1])[1:3] for branch in module.branches] == [(384, 128), (192, 256), (32, 64), (384, 64)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "norm must be lrn or batch, not 'group'"),
        ({"width": 0}, "width must lie above 0"),
        ({"width": nan}, "width must lie above 0"),
        ({"width": 9}, "not above 8"),
        ({"classes": 0}, "at least one output, got 0"),
    ],
)
def test_what_makes_no_network_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        googlenet(**options)


def test_costs_of_single_layers():
    assert cost((), (3, 5, 7)) == Cost((3, 5, 7), 0, 0, 0)
    conv = Conv("a", 3, 2, (3, 1), stride=2)
    assert cost((conv,), (3, 5, 7)) == Cost((2, 3, 4), 18, 2, 18 * 12)
    assert cost((MaxPool(3, 2),), (1, 6, 7)).output == (1, 2, 3)
    assert cost((MaxPool(3, 2, ceil=True),), (1, 6, 7)).output == (1, 3, 3)
    assert cost((AvgPool(3),), (1, 6, 7)).output == (1, 6, 7)
    with pytest.raises(ValueError, match="a takes 3 channels, 4 come in"):
        cost((conv,), (4, 5, 5))
    with pytest.raises(ValueError, match="a window of 3 does not fit a grid of 2"):
        cost((MaxPool(3, 2),), (1, 2, 5))
    with pytest.raises(ValueError, match="the branches of b end in grids of different size"):
        cost((Branches("b", ((MaxPool(3, 1),), (MaxPool(3, 1, pad=1),))),), (1, 5, 5))


@pytest.mark.parametrize(
    "pool", [MaxPool(k, s, p, c) for k in (2, 3) for s in (1, 2, 3) for p in (0, 1) for c in (False, True)]
)
def test_pools_count_as_torch_does(pool):
    for size in range(3, 12):
        found = torch_network((pool,))(torch.zeros(1, 1, size, size)).shape
        assert cost((pool,), (1, size, size)).output == tuple(found[1:]), size
