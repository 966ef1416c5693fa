"""The heads on two grids: against numpy, the order of their outputs, weights in and out, and OpenVINO's operations."""

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from detector.networks.multibox_heads import MultiBoxHeads
from detector.runtimes.multibox import heads_nodes
from proposals.multibox.priors import grid_priors

FINE_SHAPES = np.array([[0.05, 0.1], [0.1, 0.1]], np.float32)
COARSE_SHAPES = np.array([[0.2, 0.4], [0.5, 0.5], [0.9, 0.7]], np.float32)
CHANNELS = (6, 10)
FINE, COARSE = (5, 7), (3, 4)  # no multiple of each other
GRIDS = [FINE, COARSE]
COUNT = 5 * 7 * 2 + 3 * 4 * 3
LAYERS = ("fine_reduce", "fine_mixed", "fine_outputs", "coarse_reduce", "coarse_mixed", "coarse_outputs")
NAMES = {"fine_shapes", "coarse_shapes", *(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Compute on one thread: tensors this small gain nothing from more, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_heads(seed: int = 0):
    return MultiBoxHeads(CHANNELS, FINE_SHAPES, COARSE_SHAPES, mixed=4, seed=seed)


def features(batch: int, seed: int = 0, fine=FINE, coarse=COARSE):
    rng = np.random.default_rng(seed)
    return tuple(
        torch.from_numpy(rng.normal(size=(batch, count, *grid)).astype(np.float32))
        for count, grid in zip(CHANNELS, (fine, coarse), strict=True)
    )


def trained_looking(seed: int = 0):
    """Heads whose every array, biases too, has values of order 1."""
    heads, rng = small_heads(), np.random.default_rng(seed)
    arrays = {name: rng.normal(0, 0.5, array.shape).astype(np.float32) for name, array in heads.arrays().items()}
    heads.load_arrays({**arrays, "fine_shapes": FINE_SHAPES, "coarse_shapes": COARSE_SHAPES})
    return heads


def literal_convolution(x, weight, bias):
    """A convolution of one picture [C, H, W] with zeros around it, place by place."""
    pad = weight.shape[2] // 2
    wide = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            window = wide[:, row : row + weight.shape[2], column : column + weight.shape[3]]
            out[:, row, column] = (weight * window).sum(axis=(1, 2, 3)) + bias
    return out


def literal_heads(arrays, fine, coarse):
    """The heads on one picture in numpy, in float64."""

    def convolved(x, name):
        return literal_convolution(x, arrays[f"{name}.weight"].astype(np.float64), arrays[f"{name}.bias"])

    reduced = convolved(coarse, "coarse_reduce")
    x = convolved(fine, "fine_reduce")
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            cell = row * coarse.shape[1] // x.shape[1], column * coarse.shape[2] // x.shape[2]
            x[:, row, column] += reduced[:, cell[0], cell[1]]
    fine_mixed = np.maximum(convolved(np.maximum(x, 0), "fine_mixed"), 0)
    coarse_mixed = np.maximum(convolved(np.maximum(reduced, 0), "coarse_mixed"), 0)
    rows = []
    for mixed, name in ((fine_mixed, "fine"), (coarse_mixed, "coarse")):
        outputs = convolved(mixed, f"{name}_outputs")
        for row in range(outputs.shape[1]):
            for column in range(outputs.shape[2]):
                rows.extend(outputs[:, row, column].reshape(-1, 5))
    return np.array(rows)[:, :4], np.array(rows)[:, 4]


def test_against_numpy():
    heads, (fine, coarse) = trained_looking(), features(2)
    with torch.no_grad():
        locations, logits = heads(fine, coarse)
    assert locations.shape == (2, COUNT, 4) and logits.shape == (2, COUNT)
    for picture in range(2):
        expected = literal_heads(heads.arrays(), fine[picture].numpy(), coarse[picture].numpy())
        np.testing.assert_allclose(locations[picture], expected[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits[picture], expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("grid", "shape"), [("fine", 0), ("fine", 1), ("coarse", 0), ("coarse", 2)])
def test_the_outputs_of_a_shape_stand_at_its_priors(grid: str, shape: int):
    heads = small_heads()
    shapes = {"fine": FINE_SHAPES, "coarse": COARSE_SHAPES}[grid]
    with torch.no_grad():
        for output in (heads.fine_outputs, heads.coarse_outputs):
            output.weight.zero_()
            output.bias.zero_()
        bias = {"fine": heads.fine_outputs, "coarse": heads.coarse_outputs}[grid].bias
        bias[5 * shape : 5 * shape + 5] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        locations, logits = heads(*features(1))
    priors = grid_priors(GRIDS, [FINE_SHAPES, COARSE_SHAPES])
    assert len(priors) == logits.shape[1]
    its = np.isclose(priors[:, 2:] - priors[:, :2], shapes[shape], atol=1e-6).all(axis=1)
    assert its.sum() == {"fine": 35, "coarse": 12}[grid]
    np.testing.assert_array_equal(logits[0].numpy(), np.where(its, 5, 0))
    np.testing.assert_array_equal(locations[0].numpy(), its[:, None] * [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("grid", "row", "column"), [("fine", 3, 1), ("fine", 0, 6), ("coarse", 2, 1), ("coarse", 0, 3)]
)
def test_what_a_cell_sees_shows_at_its_priors(grid: str, row: int, column: int):
    """Weights that hand one channel on in place: one bright cell raises the logits of the priors on its centre."""
    heads, number = small_heads(), 0 if grid == "fine" else 1
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.zero_()
        for layer in ("reduce", "mixed"):
            weight = heads.get_parameter(f"{grid}_{layer}.weight")
            weight[0, 0, weight.shape[2] // 2, weight.shape[3] // 2] = 1
        heads.get_parameter(f"{grid}_outputs.weight")[4::5, 0] = 1
        given = features(1)
        for values in given:
            values.zero_()
        given[number][0, 0, row, column] = 7
        _, logits = heads(*given)
    priors = grid_priors(GRIDS, [FINE_SHAPES, COARSE_SHAPES])
    lit = logits[0].numpy() > 0
    np.testing.assert_array_equal(logits[0].numpy()[lit], 7)
    assert lit.sum() == len((FINE_SHAPES, COARSE_SHAPES)[number])
    rows, columns = GRIDS[number]
    centres = (priors[lit, :2] + priors[lit, 2:]) / 2
    np.testing.assert_allclose(centres, [[(column + 0.5) / columns, (row + 0.5) / rows]] * len(centres), atol=1e-6)


def test_all_places_share_their_weights():
    """Features moved by one coarse cell, which is two fine ones, move the outputs, but at the border."""
    heads = trained_looking()
    fine, coarse = features(1, fine=(12, 12), coarse=(6, 6))
    with torch.no_grad():
        first = heads(fine, coarse)[1][0, 288:].reshape(6, 6, 3)
        moved = heads(fine.roll((2, 2), (2, 3)), coarse.roll((1, 1), (2, 3)))[1][0]
        fine_first = heads(fine, coarse)[1][0, :288].reshape(12, 12, 2)
    np.testing.assert_allclose(moved[288:].reshape(6, 6, 3)[2:5, 2:5], first[1:4, 1:4], atol=1e-5)
    np.testing.assert_allclose(moved[:288].reshape(12, 12, 2)[4:10, 4:10], fine_first[2:8, 2:8], atol=1e-5)


def test_starts_at_the_priors_and_at_low_confidence():
    with torch.no_grad():
        locations, logits = small_heads()(*features(16))
    assert 0 < locations.abs().mean() < 0.1  # of order 1 where matched
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.01, rel=0.1)


def test_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (small_heads(seed).arrays() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)
    for layer in LAYERS:
        assert not np.array_equal(first[f"{layer}.weight"], other[f"{layer}.weight"])


def test_arrays_round_trip():
    source = trained_looking()
    arrays = source.arrays()
    assert arrays.keys() == NAMES
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert np.array_equal(arrays["coarse_shapes"], COARSE_SHAPES)
    target = MultiBoxHeads(CHANNELS, FINE_SHAPES / 2, COARSE_SHAPES / 2, mixed=4, seed=3)
    target.load_arrays(arrays)
    given = features(2)
    assert all(torch.equal(a, b) for a, b in zip(source(*given), target(*given), strict=True))
    assert np.array_equal(target.arrays()["fine_shapes"], FINE_SHAPES)
    arrays["fine_mixed.bias"] += 1  # copies: neither side sees it
    assert not np.array_equal(arrays["fine_mixed.bias"], source.arrays()["fine_mixed.bias"])
    assert not np.array_equal(arrays["fine_mixed.bias"], target.arrays()["fine_mixed.bias"])


def test_load_refuses():
    heads = small_heads()
    before = heads.arrays()
    changed = {name: array + 1 for name, array in before.items()}
    cut = changed | {"fine_outputs.bias": np.zeros(3, np.float32)}
    lacking = {name: array for name, array in changed.items() if name != "fine_reduce.weight"}
    for arrays, name in ((cut, "fine_outputs.bias"), (lacking, "fine_reduce.weight"), (changed | {"x": cut}, "x")):
        with pytest.raises(ValueError) as caught:
            heads.load_arrays(arrays)
        assert str(caught.value) == f"{name} does not fit these heads"
        assert all(np.array_equal(before[name], heads.arrays()[name]) for name in NAMES)  # nothing was taken by halves


@pytest.mark.parametrize(
    ("channels", "fine", "coarse", "mixed"),
    [
        ((0, 10), FINE_SHAPES, COARSE_SHAPES, 4),
        ((6, 0), FINE_SHAPES, COARSE_SHAPES, 4),
        (CHANNELS, FINE_SHAPES[:0], COARSE_SHAPES, 4),
        (CHANNELS, FINE_SHAPES, COARSE_SHAPES[:0], 4),
        (CHANNELS, FINE_SHAPES, COARSE_SHAPES, 0),
    ],
)
def test_heads_refuse(channels, fine, coarse, mixed):
    with pytest.raises(ValueError, match="channels and the numbers of shapes must be at least 1"):
        MultiBoxHeads(channels, fine, coarse, mixed)


def compiled_heads(arrays, batch: int, fine=FINE, coarse=COARSE):
    inputs = [
        ops.parameter(ov.PartialShape([batch, count, *grid]), np.float32)
        for count, grid in zip(CHANNELS, (fine, coarse), strict=True)
    ]
    nodes = heads_nodes(*inputs, arrays)
    model = ov.Model([ops.result(node) for node in nodes], inputs, "heads")
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize(
    ("batch", "fine", "coarse"),
    [
        (1, FINE, COARSE),
        (3, (6, 8), (3, 4)),
        (-1, FINE, COARSE),
        (1, (53, 53), (26, 26)),  # Inception-v3's at 448 px
        (1, (46, 58), (28, 30)),  # 23 x 28 / 46 is 14, less when rounded
        (1, (3, 4), (3, 4)),
        (1, (2, 2), (5, 3)),
    ],
)
def test_openvino_equals_torch(batch, fine, coarse):
    heads = trained_looking()
    compiled = compiled_heads(heads.arrays(), batch, fine, coarse)
    for count in (batch,) if batch > 0 else (2, 4):
        given = features(count, count, fine, coarse)
        found = compiled([values.numpy() for values in given])
        with torch.no_grad():
            expected = heads(*given)
        for index in range(2):
            assert found[index].shape == tuple(expected[index].shape)
            np.testing.assert_allclose(found[index], expected[index], rtol=1e-4, atol=1e-4)
