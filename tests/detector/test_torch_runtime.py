"""The torch runtime: pictures in, scores of regions out; fixed batches, and what happens when memory runs out.

The class for CUDA runs on the CPU here, with the same operations; what only CUDA has is tried where there is one.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from detector.model import find_model
from detector.networks.layers import LRN, Branches, Conv, GlobalAvgPool, MaxPool
from detector.networks.torch_module import ConvReLU, torch_network
from detector.runtimes.cuda_network import FusedConvReLU, fastest, fuse_relu, halve_weights, in_steps
from detector.runtimes.cuda_runtime import CudaClassifier, score_regions
from detector.runtimes.torch import TorchClassifier
from detector.warp import warp
from proposals.boxes import as_boxes, nms_per_class

MODEL = replace(find_model("inception_v3"), size=75, sharpness=4.0)
NETWORK = (
    Conv("stem", 3, 8, (3, 3), stride=2),
    LRN(5, 1e-4, 0.75, 1.0),
    MaxPool(3, 2),
    Branches("module", ((Conv("left", 8, 8),), (Conv("reduce", 8, 4), Conv("right", 4, 8, (5, 5))))),
    GlobalAvgPool(),
    Conv("logits", 16, 1000, relu=False),
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torch_network(NETWORK)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return np.repeat(np.repeat(rng.integers(0, 256, (15, 20, 3), np.uint8), 10, axis=0), 10, axis=1)


@pytest.fixture(scope="module")
def boxes():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, [[150, 100]], (19, 2))
    return as_boxes(np.concatenate([corner, corner + rng.uniform(5, 50, (19, 2))], axis=1))


@pytest.fixture(scope="module")
def crops(image, boxes):
    return warp(image, boxes, MODEL.size, MODEL.fill)


@pytest.fixture(scope="module")
def reference(network, crops):
    scores = TorchClassifier(MODEL, batch_size=32, network=network)(crops)
    assert scores.max(axis=1).min() > 2 * np.median(scores)  # they say something
    return scores


class Hungry(nn.Module):
    """A network that needs more memory than there is for more than `most` crops."""

    def __init__(self, network, most):
        super().__init__()
        self.network, self.most, self.seen = network, most, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.network(x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [1, 5, 8, 32, 100])
def test_scores_do_not_depend_on_the_batch(network, crops, reference, batch_size, device):
    classifier = CudaClassifier(MODEL, "f32", batch_size, device=device, network=network)
    found = classifier(crops)
    assert found.dtype == np.float32 and found.shape == (19, 201)
    np.testing.assert_allclose(found, reference, atol=1e-4)
    np.testing.assert_allclose(classifier(crops[::-1])[::-1], found, atol=1e-4)
    assert classifier(crops[:0]).shape == (0, 201)


@pytest.mark.parametrize("device", DEVICES)
def test_scores_of_regions_are_those_of_their_crops(network, image, boxes, reference, device):
    classifier = CudaClassifier(MODEL, "f32", 8, device=device, network=network)
    np.testing.assert_allclose(classifier.score_regions(image, boxes), reference, atol=2e-3)  # crops within one level
    assert classifier.score_regions(image, boxes[:0]).shape == (0, 201)


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_stays_near_f32(network, crops, reference, device):
    found = CudaClassifier(MODEL, "bf16", 8, device=device, network=network)(crops)
    assert 0 < np.abs(found - reference).max() < 2e-2
    assert next(network.parameters()).dtype == torch.float32  # the caller's network is as it was
    if device == "cpu":  # weights converted once are the weights that autocast converts each time
        autocast = TorchClassifier(MODEL, "cpu", "bf16", 8, network=network)(crops)
        np.testing.assert_allclose(found, autocast, rtol=1e-5)


def test_imagenet_scores_are_those_of_the_1000_classes(network, crops):
    found = CudaClassifier(MODEL, "f32", 8, "imagenet", "cpu", network)(crops)
    assert found.shape == (19, 1000)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_the_shipped_weights_give_the_same_scores_in_both_classes(crops):
    wanted = TorchClassifier(MODEL)(crops[:3])
    np.testing.assert_allclose(CudaClassifier(MODEL, "f32", 2, device="cpu")(crops[:3]), wanted, atol=1e-5)


def test_batches_have_two_sizes_only(network, crops):
    counted = Hungry(network, 99)
    classifier = CudaClassifier(MODEL, "f32", 8, device="cpu", network=counted)
    inner = classifier._network
    for count in (19, 13, 4, 1, 16):  # 8 8 + 2 2 / 8 8 / 2 2 / 2 / 8 8
        classifier(crops[:count])
    assert inner.seen == [8, 8, 2, 2, 8, 8, 2, 2, 2, 8, 8]


def test_crops_are_written_a_batch_at_a_time(network, crops, reference):
    classifier = CudaClassifier(MODEL, "f32", 8, device="cpu", network=network)
    spans = []

    def write(start, stop, out):
        spans.append((start, stop, out.shape))
        out[:] = crops[start:stop]

    np.testing.assert_allclose(classifier.score(19, write), reference, atol=1e-4)
    assert spans == [(0, 8, (8, 75, 75, 3)), (8, 16, (8, 75, 75, 3)), (16, 19, (3, 75, 75, 3))]


def test_members_share_a_picture_and_keep_their_own_crops(network, image, boxes):
    larger = replace(MODEL, size=96)
    other = torch_network(NETWORK)
    members = [
        CudaClassifier(MODEL, "f32", 8, device="cpu", network=network),
        CudaClassifier(larger, "f32", 4, device="cpu", network=network),
        CudaClassifier(MODEL, "f32", 5, device="cpu", network=other),
    ]
    found = score_regions(members, image, boxes)
    for member, scores in zip(members, found, strict=True):
        np.testing.assert_allclose(scores, member.score_regions(image, boxes), atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 1e-3 and np.abs(found[0] - found[2]).max() > 1e-3


def test_suppression_is_that_of_numpy(network, boxes, reference):
    classifier = CudaClassifier(MODEL, device="cpu", network=network)
    for found, wanted in zip(
        classifier.suppress(boxes, reference[:, 1:], 0.3, 0.004, 2),
        nms_per_class(boxes, reference[:, 1:], 0.3, 0.004, 2),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)


def test_threads_take_turns(network, image, boxes, crops):
    classifier = CudaClassifier(MODEL, "f32", 8, device="cpu", network=network)
    regions, whole = classifier.score_regions(image, boxes), classifier(crops)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(classifier.score_regions, image, boxes) for _ in range(6)]
        others = [pool.submit(classifier, crops) for _ in range(6)]
        for job, other in zip(jobs, others, strict=True):
            np.testing.assert_array_equal(job.result(), regions)
            np.testing.assert_array_equal(other.result(), whole)


def test_out_of_memory_halves_the_batch_and_goes_on(network, crops, image, boxes, reference, caplog):
    classifier = CudaClassifier(MODEL, "f32", 16, device="cpu", network=Hungry(network, 5))
    np.testing.assert_allclose(classifier(crops), reference, atol=1e-4)
    assert classifier.batch_size == 4  # 16, 8, 4, and for all that follows
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[-1] == "the device's memory is used up; going on with a --batch-size of 4"
    np.testing.assert_allclose(classifier.score_regions(image, boxes), reference, atol=2e-3)
    assert len(caplog.records) == 2


def test_no_memory_for_one_crop_is_an_error_that_names_the_cure(network, crops):
    classifier = CudaClassifier(MODEL, "f32", 4, device="cpu", network=Hungry(network, 0))
    with pytest.raises(ValueError, match=r"not enough for one crop at a time \(--batch-size was 4\).*--device cpu"):
        classifier(crops)


def test_steps_cover_everything_once_and_pass_other_errors_on():
    done, sizes = [], []

    def work(start, stop):
        if stop - start > 3:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        done.extend(range(start, stop))

    in_steps(10, 8, work, sizes.append)
    assert done == list(range(10)) and sizes == [4, 2]
    in_steps(0, 8, work, sizes.append)
    assert len(done) == 10

    def broken(start, stop):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        in_steps(10, 8, broken, sizes.append)


def conv_relu(x, weight, bias, stride, padding, dilation, groups):
    """What torch.cudnn_convolution_relu computes, on the CPU."""
    return conv2d(x, weight, bias, stride, padding, dilation, groups).relu()


def test_fusion_replaces_the_convolutions_with_relu(network):
    fused = fuse_relu(network, conv_relu)
    assert sum(isinstance(part, FusedConvReLU) for part in fused.modules()) == 4
    assert [part.source for part in fused.modules() if isinstance(part, ConvReLU)] == ["logits"]
    assert not any(isinstance(part, FusedConvReLU) for part in network.modules())
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), network(x))
        halve_weights(fused)
        assert fused[0](x).dtype == torch.bfloat16


def test_a_convolution_with_batch_norm_is_left_alone():
    trained = torch_network((Conv("a", 3, 8), Conv("b", 8, 4, relu=False)), "batch")
    assert not any(isinstance(part, FusedConvReLU) for part in fuse_relu(trained, conv_relu).modules())


def test_forms_that_fail_or_give_other_scores_are_left_out(network, caplog):
    def wrong(network):
        return nn.Sequential(network, nn.Linear(1, 1))

    def no_relu(network):
        return fuse_relu(network, conv2d)

    def right(network):
        return fuse_relu(network, conv_relu)

    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert fastest(network, x, {}) == (network, ())
        found, names = fastest(network, x, {"raises": wrong_device, "differs": no_relu, "works": right, "also": wrong})
        assert names == ("works",) and isinstance(found[0], FusedConvReLU)
    assert caplog.messages[0] == "raises does not work here and is left out (NotImplementedError: not here)"
    assert [m.split(" and is")[0] for m in caplog.messages[1:]] == [
        "differs gives other scores here",
        "also gives other scores here",
    ]


def wrong_device(network):
    raise NotImplementedError("not here\nand a long explanation")


def test_no_cuda_is_an_error_that_names_the_cure():
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(ValueError, match="torch finds no CUDA device here; use --device cpu"):
        CudaClassifier(MODEL)


def test_describes_what_runs_where(network):
    line = CudaClassifier(MODEL, "f32", 8, device="cpu", network=network).describe()
    assert line.startswith("inception_v3 at 75 px, torch ") and line.endswith(
        "on the CPU, f32, batches of 8, crops and suppression there"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_graphs_and_the_fused_convolution_are_used_on_cuda(network, crops, reference, caplog):
    classifier = CudaClassifier(MODEL, "bf16", 8, network=network)
    np.testing.assert_allclose(classifier(crops), reference, atol=2e-2)
    assert "ReLU inside the convolutions, CUDA graphs" in classifier.describe()
    assert not caplog.records
