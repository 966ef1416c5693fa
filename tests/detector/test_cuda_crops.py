"""Crops made with torch are those of the CPU within one grey level; run on the CPU, and on CUDA where there is one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.runtimes import cuda_crops
from detector.runtimes.cuda_crops import upload, warp_on_device
from detector.warp import warp
from proposals.boxes import as_boxes
from proposals.opencv import selective_search_opencv

SAMPLES = Path(__file__).parents[2] / "samples"
FILL = (10, 20, 30)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"))]


def differences(image, boxes, size, fill=FILL, context=16, device="cpu"):
    """Absolute differences of the two ways, as grey levels."""
    found = warp_on_device(upload(image, torch.device(device)), boxes, size, fill, context)
    assert found.dtype == torch.uint8 and found.is_contiguous()
    wanted = warp(image, boxes, size, fill, context)
    assert tuple(found.shape) == wanted.shape
    return np.abs(found.cpu().numpy().astype(int) - wanted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["dog", "coffee"])
@pytest.mark.parametrize("size", [128, 224])
def test_proposals_of_a_photograph(name, size, device):
    image = np.asarray(Image.open(SAMPLES / f"{name}.jpg").convert("RGB"))  # read-only, as Pillow's arrays are
    found = differences(image, selective_search_opencv(image, max_boxes=40).boxes, size, device=device)
    assert found.max() <= 1
    assert (found > 0).mean() < 0.2  # and mostly the same


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.sampled_from([8, 33, 64]),
    context=st.sampled_from([0, 3]),
)
def test_random_boxes_and_pictures(seed, width, height, size, context):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    corners = np.sort(rng.uniform(-5, [[width + 5], [height + 5]], (20, 2, 2)), axis=2)  # some leave the picture
    boxes = as_boxes(corners.transpose(0, 2, 1).reshape(20, 4))
    assert differences(image, boxes, size, context=context).max() <= 1


@pytest.mark.parametrize(
    "box", [[0, 0, 0, 0], [5, 5, 5, 5], [59, 79, 60, 80], [0, 0, 60, 1], [0.2, 0.3, 0.9, 79.5], [500, 500, 520, 520]]
)
@pytest.mark.parametrize("device", DEVICES)
def test_degenerate_boxes_and_one_outside(box, device):
    image = np.random.default_rng(1).integers(0, 256, (80, 60, 3), np.uint8)
    assert differences(image, as_boxes([box]), 32, context=4, device=device).max() <= 1


def test_a_box_outside_is_all_fill_and_no_boxes_give_no_crops():
    picture = torch.full((80, 60, 3), 255, dtype=torch.uint8)
    outside = warp_on_device(picture, as_boxes([[500, 500, 520, 520]]), 32, FILL, context=4)
    assert (outside == torch.tensor(FILL)).all()
    assert warp_on_device(picture, as_boxes([]), 32, FILL, context=4).shape == (0, 32, 32, 3)


def test_beyond_the_source_rectangle_its_own_edge_is_repeated():
    """4 source pixels, 0 to 90 grey, on 8: the outer ones lie beyond pixel centres; 255 beside them is not seen."""
    image = np.full((4, 12, 3), 255, np.uint8)
    image[:, 4:8] = np.array([0, 30, 60, 90], np.uint8)[None, :, None]
    crop = warp_on_device(torch.from_numpy(image), as_boxes([[4, 0, 7, 3]]), 8, FILL, context=0)[0]
    # Caffe's 3 px become 4: inclusive 4..7; centres at (i + .5) / 2 - .5 = -.25, .25, .75, ... 3.25; halves round up
    assert crop[0, :, 0].tolist() == [0, 8, 23, 38, 53, 68, 83, 90]


def test_chunks_do_not_matter(monkeypatch):
    image = np.random.default_rng(2).integers(0, 256, (50, 70, 3), np.uint8)
    boxes = as_boxes([[x, x, x + 20, x + 25] for x in range(7)])
    whole = warp_on_device(torch.from_numpy(image), boxes, 32, FILL, context=4)
    monkeypatch.setattr(cuda_crops, "CHUNK", 2 * 32**2)
    assert torch.equal(warp_on_device(torch.from_numpy(image), boxes, 32, FILL, context=4), whole)


def test_an_upload_is_a_copy():
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    copied = upload(values.T, torch.device("cpu"))
    values[:] = 0
    assert copied.tolist() == [[0, 3], [1, 4], [2, 5]]
