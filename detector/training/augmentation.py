"""How training sees a picture: a random part of it, resized, mirrored, its colours changed (GoogLeNet, section 6).

Every function takes its randomness from the Generator it is given: the same seed and calls give the same pixels.
Pictures are uint8 RGB [H, W, 3], boxes half-open pixels (x1, y1, x2, y2).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from proposals.images import Image, check_image

Floats = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2

AREA = (0.08, 1.0)  # section 6: patches of 8 % to 100 % of the area of the picture
ASPECT = (3 / 4, 4 / 3)  # section 6
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_CUBIC)  # section 6, equally likely
TRIES = 10  # at a box that fits, as torchvision's RandomResizedCrop
STRENGTH = 0.5  # Howard 2013: each amount is uniform in 0.5..1.5, 1 leaves the picture as it is
LIGHTING = 0.1  # standard deviation (Krizhevsky et al. 2012, section 4.1)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, the grey of Pillow, whose enhancements Howard used
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])  # of ImageNet's RGB values in 0..1 (fb.resnet.torch, transforms)
EIGENVECTORS = np.array(  # [3, 3], rows R, G, B, a column for each eigenvalue
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
WHITE = 255
MAX_ASPECT = 100  # of a picture that is resized as a whole, which bounds what it grows to


def random_area_box(
    rng: np.random.Generator,
    width: int,
    height: int,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
) -> Box:
    """Return a random box inside a picture of `width` x `height` pixels.

    area: its share of the picture, uniform between these; aspect: its width by its height, log-uniform between these.
    After ten boxes that do not fit, the largest centred box of an aspect within the limits (torchvision's
    RandomResizedCrop). Raises: ValueError for limits that are not positive or in the wrong order, or an empty picture.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture must have at least one pixel, got {width} x {height}")
    for name, (low, high) in (("area", area), ("aspect", aspect)):
        if not 0 < low <= high < math.inf:
            raise ValueError(f"{name} must be two positive numbers, the smaller first, got {low} and {high}")
    for _ in range(TRIES):
        pixels = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return x, y, x + w, y + h
    w = max(1, min(width, round(height * aspect[1])))
    h = max(1, min(height, round(width / aspect[0])))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def resized(image: Image, box: Box, size: int, interpolation: int) -> Image:
    """Return the part of `image` in `box`, stretched to uint8 [size, size, 3].

    interpolation: one of INTERPOLATIONS. Only "area" averages over what a shrunk pixel covers.
    """
    x1, y1, x2, y2 = box
    return np.asarray(cv2.resize(image[y1:y2, x1:x2], (size, size), interpolation=interpolation), np.uint8)


def mirrored(image: Image) -> Image:
    """Return `image` with left and right exchanged."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


def change_brightness(pixels: Floats, factor: float) -> None:
    """Multiply `pixels`, float32 [H, W, 3] in 0..255, in place; 0 is black."""
    np.multiply(pixels, np.float32(factor), out=pixels)
    _clip(pixels)


def change_contrast(pixels: Floats, factor: float) -> None:
    """Stretch `pixels`, float32 [H, W, 3] in 0..255, in place about the mean of their grey; 0 is that grey."""
    mean = float(np.dot(cv2.mean(pixels)[:3], LUMA))
    np.multiply(pixels, np.float32(factor), out=pixels)
    np.add(pixels, np.float32(mean * (1 - factor)), out=pixels)
    _clip(pixels)


def change_saturation(pixels: Floats, factor: float) -> None:
    """Stretch `pixels`, float32 [H, W, 3] in 0..255, in place away from their own grey; 0 is the grey picture."""
    matrix = np.float32(factor) * np.eye(3, dtype=np.float32) + np.float32(1 - factor) * LUMA
    cv2.transform(pixels, matrix, dst=pixels)
    _clip(pixels)


CHANGES = (change_brightness, change_contrast, change_saturation)


def lighting_shift(rng: np.random.Generator, std: float = LIGHTING) -> Floats:
    """Return what is added to R, G and B, float32 [3] in levels of 0..255 (Krizhevsky et al. 2012, section 4.1).

    It is the sum of the principal components of ImageNet's colours, each times its eigenvalue and a normal number of
    standard deviation `std`.
    """
    shift = EIGENVECTORS @ (EIGENVALUES * rng.normal(0.0, std, 3)) * WHITE
    return shift.astype(np.float32)


def change_lighting(pixels: Floats, shift: Floats) -> None:
    """Add `shift` [3] to every pixel of float32 [H, W, 3], in place."""
    matrix = np.column_stack([np.eye(3, dtype=np.float32), shift])  # [3, 4]
    cv2.transform(pixels, matrix, dst=pixels)
    _clip(pixels)


def distort_colours(
    pixels: Floats, rng: np.random.Generator, strength: float = STRENGTH, lighting: float = LIGHTING
) -> None:
    """Change brightness, contrast and saturation in random order, then the lighting, of float32 [H, W, 3] in place.

    Pixels are levels 0..255 and are clipped to them after each change, as in the 8-bit pictures of Howard 2013.
    strength: the three factors are uniform in 1 - strength..1 + strength; lighting: see `lighting_shift`.
    """
    for change in rng.permutation(3):
        CHANGES[change](pixels, rng.uniform(1 - strength, 1 + strength))
    change_lighting(pixels, lighting_shift(rng, lighting))


def augmented(
    image: Image,
    size: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
    mirror: float = 0.5,
    photometric: bool = True,
    interpolations: int = len(INTERPOLATIONS),
) -> Image:
    """Return `image` as one epoch of training sees it: uint8 [size, size, 3].

    area, aspect: of the part that is seen, see `random_area_box`; mirror: how likely it is mirrored; photometric:
    whether its colours are changed; interpolations: how many of INTERPOLATIONS to choose from (1: always bilinear).
    Raises: ValueError for another array than uint8 RGB, or an option out of its range.
    """
    check_image(image)
    if size < 1 or not 0 <= mirror <= 1 or not 1 <= interpolations <= len(INTERPOLATIONS):
        raise ValueError(
            f"size must be at least 1, mirror in 0..1, interpolations in 1..{len(INTERPOLATIONS)}, "
            f"got {size}, {mirror} and {interpolations}"
        )
    height, width = image.shape[:2]
    box = random_area_box(rng, width, height, area, aspect)
    seen = resized(image, box, size, INTERPOLATIONS[rng.integers(interpolations)])
    if rng.random() < mirror:
        seen = mirrored(seen)
    if not photometric:
        return seen
    pixels = seen.astype(np.float32)
    distort_colours(pixels, rng)
    return np.rint(pixels, out=pixels).astype(np.uint8)


def centre_crop(image: Image, size: int, short_side: int) -> Image:
    """Return the centre of `image` as validation sees it, uint8 [size, size, 3]: one crop of section 7.

    The shorter side is first made `short_side` pixels long, the longer one in proportion. Of a picture more than 100
    times as long as wide only the middle is taken. Raises: ValueError for another array than uint8 RGB, or a `size`
    that is not in 1..short_side.
    """
    check_image(image)
    if not 1 <= size <= short_side:
        raise ValueError(f"size must be in 1..{short_side} (the shorter side), got {size}")
    short = min(image.shape[:2])
    rows, columns = (max(0, (length - MAX_ASPECT * short) // 2) for length in image.shape[:2])
    image = image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]
    height, width = ((2 * length * short_side + short) // (2 * short) for length in image.shape[:2])
    method = cv2.INTER_AREA if short_side <= short else cv2.INTER_CUBIC
    whole = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
    x, y = ((length - short_side) // 2 + (short_side - size) // 2 for length in (width, height))
    return np.ascontiguousarray(whole[y : y + size, x : x + size])


def mixup(images: Floats, targets: Floats, rng: np.random.Generator, alpha: float) -> tuple[Floats, Floats]:
    """Return each picture of a mini-batch mixed with another one, and its targets in the same proportion.

    images: float32 [B, ...]; targets: float32 [B, C]; alpha: the share is drawn from Beta(alpha, alpha), once for the
    mini-batch; 0 changes nothing (Zhang et al. 2018, mixup). Raises: ValueError for a negative alpha or other lengths.
    """
    if not alpha >= 0 or len(images) != len(targets):
        raise ValueError(
            f"alpha must be at least 0 and there must be as many targets as images, "
            f"got {alpha}, {len(targets)} and {len(images)}"
        )
    if alpha == 0:
        return images, targets
    share = np.float32(rng.beta(alpha, alpha))
    other = rng.permutation(len(images))
    return (share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[other])


def _clip(pixels: Floats) -> None:
    np.clip(pixels, 0, WHITE, out=pixels)
