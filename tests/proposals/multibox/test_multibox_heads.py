"""The heads in torch and as OpenVINO operations: shapes, initial values, weights in and out, and equality."""

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from proposals.boxes import as_boxes
from proposals.multibox.heads import MultiBoxHeads
from proposals.multibox.openvino_heads import heads_nodes

PRIORS = as_boxes(np.sort(np.random.default_rng(0).random((7, 2, 2)), axis=1).reshape(-1, 4))
SHAPE = (16, 3, 5)  # channels, rows, columns
NAMES = {
    "priors",
    *(f"{part}.{kind}" for part in ("reduce", "hidden", "locations", "confidences") for kind in ("weight", "bias")),
}


def small_heads(seed: int = 0, dropout: float = 0.0, priors=PRIORS):
    return MultiBoxHeads(16, (3, 5), priors, reduced=4, hidden=12, dropout=dropout, seed=seed)


def features(batch: int, seed: int = 0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, *SHAPE)).astype(np.float32))


def trained_looking(seed: int = 0):
    """Heads whose every array, biases too, has values of order 1."""
    heads, generator = small_heads(), np.random.default_rng(seed)
    arrays = {name: generator.normal(0, 0.5, array.shape).astype(np.float32) for name, array in heads.arrays().items()}
    heads.load_arrays({**arrays, "priors": PRIORS})
    return heads.eval()


def literal_heads(arrays, batch):
    """The heads in numpy, in float64."""
    x = np.einsum("oc,bchw->bohw", arrays["reduce.weight"][:, :, 0, 0].astype(np.float64), batch)
    x = np.maximum(x + arrays["reduce.bias"][:, None, None], 0).reshape(len(batch), -1)
    x = np.maximum(x @ arrays["hidden.weight"].T + arrays["hidden.bias"], 0)
    locations = x @ arrays["locations.weight"].T + arrays["locations.bias"]
    return locations.reshape(len(batch), -1, 4), x @ arrays["confidences.weight"].T + arrays["confidences.bias"]


def test_against_numpy():
    heads, batch = trained_looking(), features(3)
    with torch.no_grad():
        found = heads(batch)
    for output, expected in zip(found, literal_heads(heads.arrays(), batch.numpy()), strict=True):
        assert output.shape == expected.shape
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_starts_at_the_priors_and_at_low_confidence():
    with torch.no_grad():
        locations, logits = small_heads()(features(64))
    assert 0 < locations.abs().mean() < 0.1  # of order 1 where matched
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.01, rel=0.1)


def test_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (small_heads(seed).arrays() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(np.array_equal(first[name], again[name]) for name in NAMES)
    assert not np.array_equal(first["hidden.weight"], other["hidden.weight"])


def test_dropout_in_training_alone():
    heads, batch = small_heads(dropout=0.5), features(2)
    torch.manual_seed(0)
    assert not torch.equal(heads(batch)[0], heads(batch)[0])
    heads.eval()
    assert torch.equal(heads(batch)[0], heads(batch)[0])
    assert heads.arrays().keys() == NAMES


def test_arrays_round_trip():
    source = trained_looking()
    arrays = source.arrays()
    assert arrays.keys() == NAMES
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert np.array_equal(arrays["priors"], PRIORS)
    target = small_heads(seed=3, priors=PRIORS / 2).eval()
    target.load_arrays(arrays)
    batch = features(2)
    assert all(torch.equal(a, b) for a, b in zip(source(batch), target(batch), strict=True))
    assert np.array_equal(target.arrays()["priors"], PRIORS)
    arrays["hidden.bias"] += 1  # copies: neither side sees it
    assert not np.array_equal(arrays["hidden.bias"], source.arrays()["hidden.bias"])
    assert not np.array_equal(arrays["hidden.bias"], target.arrays()["hidden.bias"])


def test_load_refuses():
    heads, arrays = small_heads(), small_heads().arrays()
    before = heads.arrays()
    with pytest.raises(ValueError, match=r"the heads hold .*; got nothing"):
        heads.load_arrays({})
    with pytest.raises(ValueError, match=r"locations\.bias must have shape \[28\], got \[3\]"):
        heads.load_arrays(
            {**{name: array + 1 for name, array in arrays.items()}, "locations.bias": np.zeros(3, np.float32)}
        )
    assert all(np.array_equal(before[name], heads.arrays()[name]) for name in NAMES)  # nothing was taken by halves


def test_heads_refuse():
    with pytest.raises(ValueError, match=r"take features \[B, 16, 3, 5\], got \[2, 16, 5, 3\]"):
        small_heads()(torch.zeros(2, 16, 5, 3))
    with pytest.raises(ValueError, match="at least 1"):
        small_heads(priors=as_boxes([]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        small_heads(priors=PRIORS * 300)


@pytest.mark.parametrize("batch", [1, 3, -1])
def test_openvino_equals_torch(batch):
    heads = trained_looking()
    inputs = ops.parameter(ov.PartialShape([batch, *SHAPE]), np.float32, name="features")
    locations, logits = heads_nodes(inputs, heads.arrays())
    model = ov.Model([ops.result(locations), ops.result(logits)], [inputs], "heads")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (batch,) if batch > 0 else (2, 4):
        given = features(count, seed=count)
        found = compiled(given.numpy())
        with torch.no_grad():
            expected = heads(given)
        for index in range(2):
            assert found[index].shape == tuple(expected[index].shape)
            np.testing.assert_allclose(found[index], expected[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [[1, 16, 3, 4], [1, 8, 3, 5], [1, 16, -1, 5], [1, 16, 15]])
def test_openvino_heads_refuse_other_features(shape):
    inputs = ops.parameter(ov.PartialShape(shape), np.float32)
    with pytest.raises(ValueError, match=r"take features \[B, 16, H, W\] with H x W = 15"):
        heads_nodes(inputs, small_heads().arrays())
