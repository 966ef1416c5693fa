"""The crops of a whole image: 1, 10 or 144 that a classifier is tested on (GoogLeNet, section 7 and Table 3).

All numbers of the paper are for crops of 224 pixels. A network of another input size gets every one of them in
proportion, rounded half up: with crops of 299 pixels the shorter side 256 becomes 342. The four views that tell a
region's context are ours.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from proposals.images import Image, check_image

CROPS = (1, 10, 144)  # Table 3
CONTEXT_MODEL = "inception_v3@299"  # the best classifier of whole images that ships (docs/models.md)
PAPER_SIZE = 224
SHORTER_SIDES = (256, 288, 320, 352)  # section 7: four scales
KRIZHEVSKY_SIDE = SHORTER_SIDES[0]  # 1 and 10 crops: one scale, its centre square (Krizhevsky et al. 2012, section 4.1)
MAX_ASPECT = 100  # of an image, which bounds what it grows to at the largest scale

Crops = npt.NDArray[np.uint8]  # [N, size, size, 3] RGB


def protocol_crops(image: Image, size: int, crops: int) -> Crops:
    """Return the test crops of one image, over which the softmax scores are averaged: uint8 [crops, size, size, 3].

    image: uint8 RGB [H, W, 3]; size: side of the crops in pixels; crops: 1, 10 or 144.
    1: the centre of the image at shorter side 256. 10: top left, top right, bottom left, bottom right and centre of
    the centre 256 square, then their mirrors (Krizhevsky et al. 2012). 144: at each of four scales the left, centre
    and right square (top, centre and bottom in an upright image), of each square those five crops and the square
    itself resized, 72 in all, then their mirrors in the same order (GoogLeNet, section 7).
    Raises: ValueError for another array or number of crops, a size below 1, or an image more than 100 times as long
    as wide.
    """
    check_image(image)
    if crops not in CROPS:
        raise ValueError(f"crops must be one of {', '.join(map(str, CROPS))}, got {crops}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    height, width = image.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"is {width} x {height} pixels, more than {MAX_ASPECT} times as long as wide; cut it")
    if crops == 144:
        plain = list(_aggressive_crops(image, size))
    else:
        (square,) = _squares(_resized(image, in_proportion(KRIZHEVSKY_SIDE, size)), places=(1,))
        five = _corners_and_centre(square, size)
        plain = five if crops == 10 else five[-1:]
    seen = np.stack(plain)
    return seen if crops == 1 else np.concatenate([seen, seen[:, :, ::-1]])


def in_proportion(side: int, size: int) -> int:
    """Return a number of pixels that the paper gives for crops of 224, for crops of `size`; half a pixel goes up."""
    return (2 * side * size + PAPER_SIZE) // (2 * PAPER_SIZE)


def _aggressive_crops(image: Image, size: int) -> Iterator[Image]:
    """Yield the 4 x 3 x 6 crops of section 7, without mirrors."""
    for side in SHORTER_SIDES:
        for square in _squares(_resized(image, in_proportion(side, size)), places=(0, 1, 2)):
            yield from _corners_and_centre(square, size)
            yield _stretched(square, size, size)


def _resized(image: Image, shorter: int) -> Image:
    """Return `image` with its shorter side `shorter` pixels long, the longer one in proportion, half a pixel up."""
    height, width = image.shape[:2]
    short = min(height, width)
    return _stretched(image, *((2 * length * shorter + short) // (2 * short) for length in (width, height)))


def _stretched(image: Image, width: int, height: int) -> Image:
    """Return `image` at that size: averaged over areas when it shrinks, cubic otherwise."""
    if image.shape[:2] == (height, width):
        return image
    method = cv2.INTER_AREA if height <= image.shape[0] and width <= image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _squares(image: Image, places: tuple[int, ...]) -> Iterator[Image]:
    """Yield the left or top (0), centre (1) and right or bottom (2) square of an image, as wide as its shorter side."""
    height, width = image.shape[:2]
    side = min(height, width)
    for place in places:
        x, y = (width - side) * place // 2, (height - side) * place // 2
        yield image[y : y + side, x : x + side]


def _corners_and_centre(square: Image, size: int) -> list[Image]:
    """Return five crops: top left, top right, bottom left, bottom right, centre."""
    room = len(square) - size
    corners = ((0, 0), (room, 0), (0, room), (room, room), (room // 2, room // 2))
    return [square[y : y + size, x : x + size] for x, y in corners]


def image_views(image: Image, size: int) -> npt.NDArray[np.uint8]:
    """Return the image, its middle square, and both mirrored, stretched to a square: uint8 [4, size, size, 3]."""
    height, width = image.shape[:2]
    short = min(height, width)
    x, y = (width - short) // 2, (height - short) // 2
    middle = np.ascontiguousarray(image[y : y + short, x : x + short])
    parts = [cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA) for part in (image, middle)]
    return np.stack([*parts, *(part[:, ::-1] for part in parts)]).astype(np.uint8, copy=False)
