"""Training's random crops and colours: their distributions, and exact values worked by hand."""

import math
from collections import Counter
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from detector.training import augmentation
from detector.training.augmentation import (
    EIGENVALUES,
    EIGENVECTORS,
    INTERPOLATIONS,
    augmented,
    centre_crop,
    change_brightness,
    change_contrast,
    change_lighting,
    change_saturation,
    distort_colours,
    lighting_shift,
    mirrored,
    mixup,
    random_area_box,
    resized,
)
from detector.whole_crops import protocol_crops
from proposals.images import read_image

ROOT = Path(__file__).parents[3]
DRAWS = 4000


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return read_image(ROOT / "samples" / "chelsea.jpg")  # [300, 451, 3]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes_of(width: int, height: int, draws: int = DRAWS, seed: int = 1, **limits: tuple[float, float]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([random_area_box(rng, width, height, **limits) for _ in range(draws)])  # [draws, 4]


def distance_from_uniform(values: np.ndarray, low: float, high: float) -> float:
    """Return Kolmogorov and Smirnov's distance between the sample and the uniform distribution."""
    ranks = np.arange(1, len(values) + 1) / len(values)
    expected = np.clip((np.sort(values) - low) / (high - low), 0, 1)
    return float(max(np.abs(ranks - expected).max(), np.abs(ranks - 1 / len(values) - expected).max()))


LIMIT = 1.95 / math.sqrt(DRAWS)  # exceeded once in a thousand seeds; the seeds here are fixed


def test_area_is_uniform() -> None:
    boxes = boxes_of(1000, 1000, aspect=(1.0, 1.0))  # a square that always fits
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e6
    assert distance_from_uniform(area, 0.08, 1.0) < LIMIT
    assert distance_from_uniform(np.sqrt(area), math.sqrt(0.08), 1.0) > 2 * LIMIT  # the bound tells them apart


def test_aspect_is_log_uniform() -> None:
    boxes = boxes_of(2000, 2000, area=(0.1, 0.3), aspect=(0.5, 4.0))
    aspect = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    assert distance_from_uniform(np.log(aspect), math.log(0.5), math.log(4)) < LIMIT
    assert distance_from_uniform(aspect, 0.5, 4) > 2 * LIMIT


def test_place_is_uniform_up_to_the_edges() -> None:
    boxes = boxes_of(8, 8, area=(0.25, 0.25), aspect=(1.0, 1.0))  # 4 x 4 at 0..4
    assert (boxes[:, 2:] - boxes[:, :2] == 4).all()
    for corner in boxes.T[:2]:
        counts = np.bincount(corner, minlength=5)
        assert len(counts) == 5
        assert ((counts - DRAWS / 5) ** 2 / (DRAWS / 5)).sum() < 18.5  # chi-squared, 4 degrees, 1 in 1,000


@pytest.mark.parametrize(("width", "height"), [(500, 375), (200, 640), (64, 64)])
def test_boxes_are_distributed_as_torchvisions(width: int, height: int) -> None:
    ours = boxes_of(width, height).astype(float)
    torch.manual_seed(3)
    picture = torch.empty(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)])
    y, x, h, w = theirs.astype(float).T
    reference = np.stack([x, y, x + w, y + h], axis=1)
    for of in (lambda b: b, lambda b: b**2, lambda b: b[:, 2:] - b[:, :2], lambda b: (b[:, 2:] - b[:, :2]) ** 2):
        a, b = of(ours), of(reference)
        error = np.sqrt(a.var(axis=0) / DRAWS + b.var(axis=0) / DRAWS)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),  # 13 = round(10 * 4/3) wide
        ((10, 1000), (0, 493, 10, 506)),
        ((100, 90), (0, 0, 100, 90)),  # its own aspect is allowed: all of it
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_centre_where_nothing_fits(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert random_area_box(np.random.default_rng(0), *size, area=(5.0, 6.0)) == box


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(st.floats(0.001, 2), st.floats(0.001, 2)).map(sorted),
    st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted),
    st.integers(0, 9),
)
def test_box_lies_inside(width: int, height: int, area: list[float], aspect: list[float], seed: int) -> None:
    x1, y1, x2, y2 = random_area_box(np.random.default_rng(seed), width, height, tuple(area), tuple(aspect))
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "at least one pixel, got 0 x 5"),
        ((5, 5, (0.5, 0.1)), "area must be two positive numbers, the smaller first, got 0.5 and 0.1"),
        ((5, 5, (0.0, 0.1)), "area must be"),
        ((5, 5, (0.1, 1.0), (2.0, 1.0)), "aspect must be two positive numbers, the smaller first, got 2.0 and 1.0"),
        ((5, 5, (0.1, float("nan"))), "area must be"),
    ],
)
def test_impossible_limits(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_area_box(np.random.default_rng(0), *arguments)


def test_resized_takes_the_box_and_only_area_averages() -> None:
    image = np.full((40, 60, 3), 7, np.uint8)
    image[10:18, 20:28] = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 3
    box = (20, 10, 28, 18)
    inside = image[10:18, 20:28]
    for method in INTERPOLATIONS:
        np.testing.assert_array_equal(resized(image, box, 8, method), inside)
    mean = inside.reshape(2, 4, 2, 4, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(resized(image, box, 2, cv2.INTER_AREA), mean, atol=0.5)
    np.testing.assert_array_equal(resized(image, box, 2, cv2.INTER_NEAREST), inside[::4, ::4])
    shrunk = {resized(noise(32, 32), (0, 0, 32, 32), 5, method).tobytes() for method in INTERPOLATIONS}
    assert len(shrunk) == 4


def test_each_interpolation_is_a_quarter() -> None:
    image, size = noise(16, 16), 5
    whole = {resized(image, (0, 0, 16, 16), size, method).tobytes(): method for method in INTERPOLATIONS}
    fixed = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), "mirror": 0.0, "photometric": False}
    rng = np.random.default_rng(5)
    counts = Counter(whole[augmented(image, size, rng, **fixed).tobytes()] for _ in range(DRAWS))
    assert len(counts) == 4
    assert sum((count - DRAWS / 4) ** 2 / (DRAWS / 4) for count in counts.values()) < 16.3  # 3 degrees, 1 in 1,000
    only = {whole[augmented(image, size, rng, interpolations=1, **fixed).tobytes()] for _ in range(50)}
    assert only == {cv2.INTER_LINEAR}


def test_mirror_half_of_the_time() -> None:
    image = noise(8, 8)
    np.testing.assert_array_equal(mirrored(image), image[:, ::-1])
    fixed = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), "photometric": False, "interpolations": 1}
    rng = np.random.default_rng(6)
    plain = np.mean([np.array_equal(augmented(image, 8, rng, **fixed), image) for _ in range(2000)])
    assert abs(plain - 0.5) < 3.3 * 0.5 / math.sqrt(2000)
    for mirror, expected in ((0.0, image), (1.0, image[:, ::-1])):
        for _ in range(20):
            np.testing.assert_array_equal(augmented(image, 8, rng, mirror=mirror, **fixed), expected)


def floats(*rows: list[tuple[float, float, float]]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_brightness_multiplies_and_clips() -> None:
    pixels = np.full((3, 4, 3), 100, np.float32)
    change_brightness(pixels, 1.3)
    np.testing.assert_allclose(pixels, 130, rtol=1e-6)
    change_brightness(pixels, 2.0)
    assert (pixels == 255).all()
    change_brightness(pixels, 0.0)
    assert (pixels == 0).all()


def test_contrast_is_about_the_mean_grey() -> None:
    pixels = floats([(10, 20, 30), (50, 60, 70)], [(90, 40, 10), (0, 100, 200)])
    mean = (pixels @ np.array([0.299, 0.587, 0.114])).mean()
    expected = mean + 0.5 * (pixels.astype(float) - mean)
    change_contrast(pixels, 0.5)
    np.testing.assert_allclose(pixels, expected, atol=1e-3)
    constant = np.full((2, 2, 3), 77, np.float32)
    change_contrast(constant, 1.5)
    np.testing.assert_allclose(constant, 77, atol=1e-3)
    edges = floats([(0, 0, 0), (255, 255, 255)])
    change_contrast(edges, 1.5)  # 127.5 -+ 191.25
    np.testing.assert_array_equal(edges, floats([(0, 0, 0), (255, 255, 255)]))
    change_contrast(edges, 0.0)
    np.testing.assert_allclose(edges, 127.5, atol=1e-3)


def test_saturation_is_away_from_the_grey() -> None:
    pixels = noise(9, 7).astype(np.float32)
    grey = (pixels.astype(float) @ np.array([0.299, 0.587, 0.114]))[..., None]
    for factor in (0.5, 0.9, 1.5, 0.0):
        changed = pixels.copy()
        change_saturation(changed, factor)
        np.testing.assert_allclose(changed, np.clip(grey + factor * (pixels - grey), 0, 255), atol=1e-3)
    assert np.ptp(changed, axis=2).max() < 1e-3  # factor 0
    red = floats([(200, 0, 0)])
    change_saturation(red, 0.5)
    np.testing.assert_allclose(red, floats([(129.9, 29.9, 29.9)]), atol=1e-3)


def test_changes_agree_with_pillow(cat: np.ndarray) -> None:
    from PIL import Image, ImageEnhance

    for change, enhance in (
        (change_brightness, ImageEnhance.Brightness),
        (change_contrast, ImageEnhance.Contrast),
        (change_saturation, ImageEnhance.Color),
    ):
        for factor in (0.5, 1.5):
            pixels = cat.astype(np.float32)
            change(pixels, factor)
            theirs = np.array(enhance(Image.fromarray(cat)).enhance(factor)).astype(float)
            assert np.abs(pixels - theirs).max() < 2, (change, factor)  # Pillow cuts fractions


def test_lighting_adds_one_constant_a_channel() -> None:
    pixels = np.full((4, 5, 3), 100, np.float32) + noise(4, 5).astype(np.float32) / 10
    changed = pixels.copy()
    change_lighting(changed, np.array([5, -7, 0.25], np.float32))
    np.testing.assert_allclose(changed - pixels, np.broadcast_to([5, -7, 0.25], pixels.shape), atol=1e-4)
    bright = np.full((1, 1, 3), 253, np.float32)
    change_lighting(bright, np.array([5, -260, 1], np.float32))
    np.testing.assert_allclose(bright, [[[255, 0, 254]]])


def test_lighting_follows_the_principal_components() -> None:
    rng = np.random.default_rng(2)
    shifts = np.array([lighting_shift(rng) for _ in range(DRAWS)]) / 255
    expected = EIGENVECTORS @ np.diag((0.1 * EIGENVALUES) ** 2) @ EIGENVECTORS.T  # 3 x 3 covariance
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.1)
    assert (np.abs(shifts.mean(axis=0)) < 4 * np.sqrt(np.diag(expected) / DRAWS)).all()
    alphas = shifts @ EIGENVECTORS / EIGENVALUES
    np.testing.assert_allclose(alphas.std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_allclose(EIGENVECTORS.T @ EIGENVECTORS, np.eye(3), atol=2e-4)
    assert (lighting_shift(rng, 0.0) == 0).all()


def test_colours_change_in_all_six_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record the steps of the real function: order and amounts."""
    steps: list[tuple[int, float]] = []
    changes = augmentation.CHANGES

    def recorded(number: int) -> object:
        def change(pixels: np.ndarray, factor: float) -> None:
            steps.append((number, factor))
            changes[number](pixels, factor)

        return change

    monkeypatch.setattr(augmentation, "CHANGES", tuple(recorded(number) for number in range(3)))
    rng = np.random.default_rng(4)
    for _ in range(DRAWS):
        distort_colours(np.full((1, 1, 3), 9, np.float32), rng)
    orders = Counter(tuple(number for number, _ in steps[i : i + 3]) for i in range(0, len(steps), 3))
    assert set(orders) == set(permutations(range(3)))
    assert sum((count - DRAWS / 6) ** 2 / (DRAWS / 6) for count in orders.values()) < 20.5  # 5 degrees, 1 in 1,000
    for number in range(3):
        factors = np.array([factor for step, factor in steps if step == number])
        assert distance_from_uniform(factors, 0.5, 1.5) < LIMIT


def test_order_matters_to_the_result(cat: np.ndarray) -> None:
    results = set()
    for order in permutations(augmentation.CHANGES):
        pixels = cat[:50, :50].astype(np.float32)
        for change in order:
            change(pixels, 1.5)
        results.add(np.rint(pixels).astype(np.uint8).tobytes())
    assert len(results) > 1


def test_no_strength_leaves_the_colours_alone(cat: np.ndarray) -> None:
    pixels = cat.astype(np.float32)
    distort_colours(pixels, np.random.default_rng(8), 0.0, 0.0)
    np.testing.assert_allclose(pixels, cat, atol=1e-3)
    distort_colours(pixels, np.random.default_rng(8), 0.3, 0.5)
    assert np.abs(pixels - cat).mean() > 1


def test_augmented_is_its_parts_and_follows_the_seed(cat: np.ndarray) -> None:
    def seen(seed: int, **options: object) -> np.ndarray:
        return augmented(cat, 64, np.random.default_rng(seed), **options)

    before = cat.copy()
    for seed in range(5):
        np.testing.assert_array_equal(seen(seed), seen(seed))
        assert seen(seed).shape == (64, 64, 3) and seen(seed).dtype == np.uint8
    assert len({seen(seed).tobytes() for seed in range(20)}) == 20
    np.testing.assert_array_equal(cat, before)

    rng = np.random.default_rng(11)
    box = random_area_box(rng, 451, 300)
    expected = resized(cat, box, 64, INTERPOLATIONS[rng.integers(4)])
    expected = mirrored(expected) if rng.random() < 0.5 else expected
    np.testing.assert_array_equal(seen(11, photometric=False), expected)
    pixels = expected.astype(np.float32)
    distort_colours(pixels, rng)
    np.testing.assert_array_equal(seen(11), np.rint(pixels).astype(np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (4000, 3), (224, 224)])
def test_odd_pictures_are_augmented(shape: tuple[int, int]) -> None:
    for seed in range(8):
        assert augmented(noise(*shape), 32, np.random.default_rng(seed)).shape == (32, 32, 3)
    assert centre_crop(noise(*shape), 28, 32).shape == (28, 28, 3)


@pytest.mark.parametrize(
    "options", [{"mirror": 1.5}, {"interpolations": 0}, {"interpolations": 5}, {"size": 0}, {"mirror": float("nan")}]
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"size must be at least 1, mirror in 0..1, interpolations in 1..4, got "):
        augmented(noise(9, 9), options.pop("size", 8), np.random.default_rng(0), **options)
    with pytest.raises(ValueError, match="must be uint8 RGB"):
        augmented(noise(9, 9).astype(np.float32), 8, np.random.default_rng(0))


@pytest.mark.parametrize(("height", "width"), [(300, 451), (451, 300), (60, 61), (256, 256), (50, 3000)])
def test_centre_crop_is_the_one_test_crop(height: int, width: int) -> None:
    image = noise(height, width)
    np.testing.assert_array_equal(centre_crop(image, 224, 256), protocol_crops(image, 224, 1)[0])


def test_centre_crop_by_hand() -> None:
    image = noise(6, 10)
    np.testing.assert_array_equal(centre_crop(image, 4, 6), image[1:5, 3:7])
    np.testing.assert_array_equal(centre_crop(image[:, :9], 3, 6), image[1:4, 2:5])  # 3 // 2 + 3 // 2
    long = noise(2, 1001)
    np.testing.assert_array_equal(centre_crop(long, 2, 2), long[:, 499:501])
    with pytest.raises(ValueError, match=r"size must be in 1..32 \(the shorter side\), got 33"):
        centre_crop(image, 33, 32)
    with pytest.raises(ValueError, match="must be uint8 RGB"):
        centre_crop(image[..., 0], 4, 6)


def test_mixup_mixes_pictures_and_targets_alike() -> None:
    images = np.eye(6, dtype=np.float32).reshape(6, 2, 3)
    targets = np.eye(6, dtype=np.float32)
    mixed, mixed_targets = mixup(images, targets, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(mixed.reshape(6, 6), mixed_targets)
    np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, rtol=1e-6)
    assert mixed.dtype == mixed_targets.dtype == np.float32
    own = np.diag(mixed_targets)
    assert len(set(own[own < 1].tolist())) == 1  # one share for all
    np.testing.assert_array_equal(images.reshape(6, 6), targets)  # the inputs stay
    again, _ = mixup(images, targets, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(again, mixed)


def test_mixup_share_is_beta_distributed() -> None:
    images = targets = np.array([[1, 0], [0, 1]], np.float32)
    rng = np.random.default_rng(1)
    shares = [mixup(images, targets, rng, 0.2)[1][0, 0] for _ in range(DRAWS)]
    moved = np.array([share for share in shares if share < 1])  # half of the permutations of two move nothing
    assert abs(len(moved) / DRAWS - 0.5) < 0.06  # Beta(0.2, 0.2) rounds to 1 now and then
    assert abs(moved.mean() - 0.5) < 0.05
    assert abs(moved.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.02  # variance of Beta(a, a)


def test_mixup_of_nothing_and_impossible_ones() -> None:
    images, targets = np.ones((2, 3), np.float32), np.eye(2, dtype=np.float32)
    same, same_targets = mixup(images, targets, np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(same_targets, targets)
    with pytest.raises(ValueError, match=r"alpha must be at least 0 .* got -1, 2 and 2"):
        mixup(images, targets, np.random.default_rng(0), -1)
    with pytest.raises(ValueError, match=r"as many targets as images, got 0.2, 1 and 2"):
        mixup(images, targets[:1], np.random.default_rng(0), 0.2)
