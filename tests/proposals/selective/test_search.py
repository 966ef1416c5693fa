"""Our Selective Search: exact on pictures worked by hand, OpenCV's boxes in OpenCV's setting, the same bytes always."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from proposals.boxes import iou
from proposals.selective.grouping import COLOUR, FILL, SIZE, TEXTURE
from proposals.selective.search import CTSF, MODES, Strategy, selective_search

ROOT = Path(__file__).parents[3]


def sample(name: str) -> np.ndarray:
    return np.asarray(Image.open(ROOT / "samples" / f"{name}.jpg").convert("RGB"))


def in_frame(name: str) -> np.ndarray:
    """A sample at the width in which the search runs, so that boxes are not scaled."""
    image = sample(name)
    return cv2.resize(image, (500, round(image.shape[0] * 500 / image.shape[1])), interpolation=cv2.INTER_AREA)


def opencv_boxes(image: np.ndarray, code: int, k: int) -> np.ndarray:
    """The boxes of one hierarchy of OpenCV's class: colour + texture + size + fill."""
    s = cv2.ximgproc.segmentation
    search = s.createSelectiveSearchSegmentation()
    search.addImage(cv2.cvtColor(image, code))
    search.addGraphSegmentation(s.createGraphSegmentation(0.8, float(k), k))
    parts = (
        s.createSelectiveSearchSegmentationStrategyColor(),
        s.createSelectiveSearchSegmentationStrategyTexture(),
        s.createSelectiveSearchSegmentationStrategySize(),
        s.createSelectiveSearchSegmentationStrategyFill(),
    )
    search.addStrategy(s.createSelectiveSearchSegmentationStrategyMultiple(*parts))
    boxes = np.asarray(search.process(), np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


@pytest.mark.parametrize("name", ["dog", "chelsea", "horses"])
@pytest.mark.parametrize(("space", "code"), [("hsv", cv2.COLOR_RGB2HSV_FULL), ("lab", cv2.COLOR_RGB2Lab)])
def test_finds_opencvs_boxes_in_its_setting(name, space, code):
    """4-connected, its k. What differs: OpenCV's gradients (Scharr, two rotations) and contacts it misses."""
    image = in_frame(name)
    for k in (100, 200):
        _, (ours,) = selective_search(
            image, Strategy((space,), (k,), (CTSF,), connectivity=4), superpixel_scale=1, return_regions=True
        )
        theirs = opencv_boxes(image, code, k)
        found = iou(theirs, ours.boxes.astype(np.float32)).max(axis=1) >= 0.9
        assert found.mean() >= 0.85, f"{name} {space} k={k}: {found.mean():.2f} of {len(theirs)}"


def test_two_flat_halves_give_exactly_three_regions():
    image = np.zeros((60, 500, 3), np.uint8)
    image[:, :200] = (200, 30, 30)
    image[:, 200:] = (20, 60, 220)
    proposals, hierarchies = selective_search(image, return_regions=True)
    # the smoothing makes columns between the halves; with 60 pixels they are below min_size and join a side
    boxes = {tuple(box) for box in proposals.boxes.tolist()}
    assert (0, 0, 500, 60) in boxes and proposals.boxes[0].tolist() == [0, 0, 500, 60]
    for box in boxes - {(0, 0, 500, 60)}:
        assert box[1] == 0 and box[3] == 60
        assert (box[0] == 0 and abs(box[2] - 200) <= 4) or (box[2] == 500 and abs(box[0] - 200) <= 4)
    for h in hierarchies:
        assert len(h.boxes) == 3 and h.parents.tolist() == [2, 2, 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (1, 500), (500, 1), (2, 2), (64, 64), (10, 500), (300, 4000)])
def test_a_constant_picture_is_one_region(shape):
    found = selective_search(np.full((*shape, 3), 90, np.uint8))
    assert found.boxes.tolist() == [[0, 0, shape[1], shape[0]]]


def check(image: np.ndarray, proposals, hierarchies) -> None:
    """What holds for every picture."""
    height, width = image.shape[:2]
    assert proposals.boxes[0].tolist() == [0, 0, width, height]
    assert (proposals.boxes >= 0).all() and (proposals.boxes <= [width, height, width, height]).all()
    assert len(np.unique(proposals.boxes, axis=0)) == len(proposals)
    for h in hierarchies:
        leaves = h.labels.max() + 1
        assert set(np.unique(h.labels)) == set(range(leaves)) and len(h.boxes) == len(h.parents) == 2 * leaves - 1
        assert h.boxes[-1].tolist() == [0, 0, h.labels.shape[1], h.labels.shape[0]]
        ids = np.arange(len(h.parents))
        assert (h.parents[:-1] > ids[:-1]).all() and h.parents[-1] == ids[-1]
        assert (np.bincount(h.parents[:-1], minlength=len(ids))[leaves:] == 2).all()
        inside = h.boxes[h.parents]
        assert (h.boxes[:, :2] >= inside[:, :2]).all() and (h.boxes[:, 2:] <= inside[:, 2:]).all()
        for label in range(0, leaves, max(1, leaves // 7)):
            ys, xs = np.nonzero(h.labels == label)
            assert h.boxes[label].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert len(ys) >= min(h.k, h.labels.size)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_noise_of_any_shape(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    strategy = Strategy(("lab",), (100,), (CTSF,))
    check(image, *selective_search(image, strategy, return_regions=True))


@pytest.mark.parametrize("kind", ["sample", "grey", "long", "transposed"])
def test_pictures(kind):
    image = sample("coffee")
    if kind == "grey":
        image = np.repeat(image[:, :, :1], 3, axis=2)
    elif kind == "long":
        image = np.tile(image[:75], (1, 6, 1))[:, :4000]
    elif kind == "transposed":
        image = np.ascontiguousarray(image.transpose(1, 0, 2))
    check(image, *selective_search(image, return_regions=True))


def test_a_transposed_picture_gives_nearly_the_transposed_boxes():
    image = np.ascontiguousarray(in_frame("chelsea")[:300, :500])
    square = cv2.resize(image, (500, 500))
    plain = selective_search(square).boxes
    turned = selective_search(np.ascontiguousarray(square.transpose(1, 0, 2))).boxes[:, [1, 0, 3, 2]]
    assert (iou(plain, turned).max(axis=1) >= 0.9).mean() > 0.8  # ties are broken in scan order, which turns too


def test_modes_and_scales():
    image = in_frame("horses")
    counts = {}
    for mode in ("single", "fast", "quality"):
        proposals, hierarchies = selective_search(image, mode, return_regions=True)
        s = MODES[mode]
        expected = [(c, 2 * k, f) for c in s.colour_spaces for k in s.ks for f in s.similarities]
        assert [(h.colour_space, h.k, h.similarities) for h in hierarchies] == expected
        counts[mode] = len(proposals)
    assert counts["single"] < counts["fast"] < counts["quality"]
    single = len(selective_search(image, superpixel_scale=1))
    assert 0.35 < counts["fast"] / single < 0.7  # section 8: "halves the number of proposals"


def test_each_similarity_matters():
    image = in_frame("dog")
    found = [
        selective_search(image, Strategy(("lab",), (100,), (s,))).boxes.tobytes()
        for s in (COLOUR, TEXTURE, SIZE, FILL, CTSF)
    ]
    assert len(set(found)) == 5


def test_red_is_not_blue():
    image = in_frame("dog")
    swapped = np.ascontiguousarray(image[:, :, ::-1])
    for space in ("lab", "hsv", "rgi", "h", "i"):
        strategy = Strategy((space,), (100,), (CTSF,))
        a, b = selective_search(image, strategy), selective_search(swapped, strategy)
        assert a.boxes.tobytes() != b.boxes.tobytes()


def test_same_bytes_on_any_number_of_threads_and_in_any_process():
    image = sample("eagle")
    first = selective_search(image, seed=5)
    for threads in (1, 2, 3):
        again = selective_search(image, seed=5, threads=threads)
        assert again.boxes.tobytes() == first.boxes.tobytes() and again.scores.tobytes() == first.scores.tobytes()
    code = (
        "import sys, numpy as np; from PIL import Image; from proposals.selective.search import selective_search\n"
        "image = np.asarray(Image.open(sys.argv[1]).convert('RGB'))\n"
        "sys.stdout.buffer.write(selective_search(image, seed=5).boxes.tobytes())"
    )
    command = [sys.executable, "-c", code, str(ROOT / "samples" / "eagle.jpg")]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout == first.boxes.tobytes()


def test_seed_and_truncation():
    image = sample("chelsea")
    first, other = selective_search(image, seed=0), selective_search(image, seed=1)
    assert first.boxes.tobytes() != other.boxes.tobytes()
    assert {tuple(b) for b in first.boxes.tolist()} == {tuple(b) for b in other.boxes.tolist()}
    np.testing.assert_array_equal(selective_search(image, max_boxes=40).boxes, first.boxes[:40])
    areas = (first.boxes[:, 2:] - first.boxes[:, :2]).prod(axis=1)
    assert areas[:50].mean() > areas[-50:].mean()  # large regions rank first, the initial segments last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "slow"}, "unknown mode 'slow'; there are single, fast, quality"),
        ({"superpixel_scale": 0}, "superpixel_scale must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"max_boxes": 0}, "max_boxes must be at least 1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        selective_search(np.zeros((9, 9, 3), np.uint8), **arguments)
    with pytest.raises(ValueError, match="uint8 RGB"):
        selective_search(np.zeros((9, 9), np.uint8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((("xyz",), (100,), (CTSF,)), "unknown colour space 'xyz'; there are rgb, hsv"),
        (((), (100,), (CTSF,)), "needs at least one colour space"),
        ((("hsv",), (0,), (CTSF,)), "k must be at least 1"),
        ((("hsv",), (100,), (16,)), "a sum of COLOUR, TEXTURE, SIZE and FILL"),
        ((("hsv",), (100,), (CTSF,), 6), "connectivity must be 4 or 8"),
    ],
)
def test_strategy_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Strategy(*fields)


@pytest.mark.slow
def test_the_first_call_of_a_machine_says_that_it_compiles(tmp_path):
    """An empty cache: one line, and the cache is filled."""
    code = (
        "import numpy as np; from proposals.selective.search import selective_search\n"
        "selective_search(np.zeros((20, 30, 3), np.uint8)); selective_search(np.zeros((20, 30, 3), np.uint8))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    lines = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        lines.append(done.stderr.splitlines())
    assert lines[0] == ["compiling Selective Search for this machine, once (about ten seconds)"]
    assert lines[1] == [] and list(tmp_path.rglob("*.nbc"))


def test_no_folder_for_the_cache_is_no_error(tmp_path):
    """A read-only installation and a user without a home: compiled in memory."""
    code = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from proposals.compiled import compiled\n"
        "@compiled\ndef twice(x):\n    return 2 * x\n"
        "assert twice(21) == 42"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
