"""Inception-v3 as data: shapes and counts against hand-worked numbers, its arithmetic against torchvision's."""

import functools

import numpy as np
import pytest
import torch

from detector.model import find_model
from detector.networks.inception_v3 import INCEPTION_V3, MIN_SIZE, inception_v3
from detector.networks.layers import Branches, Conv, convolutions, cost
from detector.networks.torch_module import torch_network
from detector.runtimes.torch import load_network
from detector.weights import load_weights


def outputs_of(layer):
    """Channels that leave a layer."""
    if isinstance(layer, Conv):
        return layer.outputs
    last = [branch[-1] for branch in layer.branches]
    return sum(outputs_of(part) for part in last if isinstance(part, Conv | Branches))


def test_channels_of_the_modules_are_those_of_table_1():
    sizes = {layer.name: outputs_of(layer) for layer in INCEPTION_V3 if isinstance(layer, Branches)}
    pooled = {"Mixed_6a": 288, "Mixed_7a": 768}  # the max-pooling branch of a grid reduction passes its input on
    totals = {name: count + pooled.get(name, 0) for name, count in sizes.items()}
    assert totals == {
        "Mixed_5b": 256,
        "Mixed_5c": 288,
        "Mixed_5d": 288,
        "Mixed_6a": 768,
        "Mixed_6b": 768,
        "Mixed_6c": 768,
        "Mixed_6d": 768,
        "Mixed_6e": 768,
        "Mixed_7a": 1280,
        "Mixed_7b": 2048,
        "Mixed_7c": 2048,
    }


def test_every_convolution_has_its_own_name():
    names = [conv.name for conv in convolutions(INCEPTION_V3)]
    assert len(names) == len(set(names)) == 95


@pytest.mark.parametrize(("size", "grids"), [(299, (35, 17, 8)), (160, (17, 8, 3)), (MIN_SIZE, (7, 3, 1))])
def test_grids(size, grids):
    module = torch_network(INCEPTION_V3).eval()
    x = torch.zeros(1, 3, size, size)
    seen = []
    with torch.inference_mode():
        for layer, part in zip(INCEPTION_V3, module, strict=True):
            x = part(x)
            if isinstance(layer, Branches) and (not seen or seen[-1] != x.shape[-1]):
                seen.append(x.shape[-1])
    assert tuple(seen) == grids
    assert x.shape == (1, 1000, 1, 1)


def test_a_smaller_picture_has_no_window_left():
    with pytest.raises(RuntimeError), torch.inference_mode():
        torch_network(INCEPTION_V3)(torch.zeros(1, 3, MIN_SIZE - 1, MIN_SIZE - 1))


def test_same_padding_keeps_the_grid():
    for conv in convolutions(INCEPTION_V3):
        if conv.padding == "same":
            assert conv.stride == 1 and all(k % 2 for k in conv.kernel), conv
            assert np.array_equal(np.multiply(conv.pad, 2) + 1, conv.kernel)
        else:
            assert conv.pad == (0, 0)


def test_costs_of_the_network_and_of_one_with_other_classes():
    whole = cost(INCEPTION_V3, (3, 299, 299))
    # TF-Slim's 23,819,401 less the dummy class; the abstract speaks of 5 billion multiply-adds
    assert whole.parameters == 23_819_401 - 2_049 and 5.6e9 < whole.multiply_adds < 5.8e9
    other = cost(inception_v3(201), (3, 299, 299))
    assert other.output == (201, 1, 1) and whole.parameters - other.parameters == 799 * 2_049
    assert inception_v3()[:-1] == inception_v3(201)[:-1] and inception_v3() == INCEPTION_V3


def test_its_arithmetic_is_torchvisions(monkeypatch: pytest.MonkeyPatch):
    """The same weights in torchvision's network give the same logits.

    There batch norm stands where our bias is, and averages count the padding, which TF-Slim's do not.
    """
    from torchvision.models import inception

    model = find_model("inception_v3")
    weights = load_weights(model)
    theirs = inception.inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False).eval()
    parts = [part for part in theirs.modules() if isinstance(part, inception.BasicConv2d)]
    *convs, classifier = convolutions(INCEPTION_V3)
    with torch.no_grad():
        for conv, part in zip(convs, parts, strict=True):
            assert (part.conv.kernel_size, part.conv.stride[0]) == (conv.kernel, conv.stride), conv.name
            part.conv.weight.copy_(torch.from_numpy(weights.kernel(conv.name)))
            part.bn.running_var.fill_(1 - part.bn.eps)
            part.bn.bias.copy_(torch.from_numpy(weights.bias(conv.name)))
        theirs.fc.weight.copy_(torch.from_numpy(weights.kernel(classifier.name)).flatten(1))
        theirs.fc.bias.copy_(torch.from_numpy(weights.bias(classifier.name)))
    x = torch.randn(1, 3, 107, 91, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = load_network(model).eval()(x).flatten(1)
        monkeypatch.setattr(
            inception.F, "avg_pool2d", functools.partial(inception.F.avg_pool2d, count_include_pad=False)
        )
        wanted = theirs(x)
    assert wanted.std() > 0.5
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
