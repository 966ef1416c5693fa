"""What MultiBox is trained on: a new view of an image at every step, stretched to a square, with the boxes in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from detector.datasets.ground_truth import Flags
from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from detector.training.options import MultiBoxOptions
from detector.training.processes import Batch
from detector.training.regions import SAMPLES
from proposals.boxes import Boxes, area
from proposals.images import Image, ImageError, read_image

GREY = 128
SHRUNK = (1.15, 2.5)  # a shrunk image's side in the sample, as a divisor
TRIES = 10  # for a crop that holds an object
SHORTEST = 1 / 2  # least aspect ratio of a crop


@dataclass(frozen=True, eq=False)
class BoxedImages:
    """P images that have boxes: paths [P]; truth: of each the boxes float32 [G, 4] of its objects, normalised to 0..1;
    partial: bool [P], images in which only one object is boxed; sets: int32 [P], which of the data sets each is of.
    """

    paths: tuple[Path, ...]
    truth: tuple[Boxes, ...]
    partial: Flags
    sets: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the images' names, sets and boxes, in hexadecimal."""
        digest = hashlib.sha256("\n".join(path.name for path in self.paths).encode("utf-8", "surrogateescape"))
        for array in (self.sets, self.partial, *self.truth):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def boxed_images(data: Sequence[str], partial: Sequence[str]) -> BoxedImages:
    """Return every image of the data sets that has an object, of whatever class; crowds are none.

    Raises: ValueError where there is no such image; what the readers raise.
    """
    paths: list[Path] = []
    boxes: list[Boxes] = []
    sets: list[int] = []
    for number, item in enumerate(data):
        path, _, split = item.partition("#")
        path = str(samples_folder() / "annotations.json") if path == SAMPLES else path
        truth = read_dataset(path, split=None if Path(path).suffix.casefold() == ".json" else split or "train")
        for index, image in enumerate(truth.paths):
            rows = truth.of_picture(index)
            own = truth.boxes[rows][~truth.crowd[rows]].astype(np.float32)
            if image is None or not len(own):
                continue
            width, height = truth.sizes[index].tolist()
            if not width or not height:
                height, width = read_image(image).shape[:2]
            boxes.append(boxes_in_window(own, np.array([0, 0, width, height], np.float32), False, 0))
            paths.append(image)
            sets.append(number)
    if not paths:
        raise ValueError("the data sets have no picture with a box; check that their pictures are there")
    partly = np.array([data[number] in partial for number in sets])
    return BoxedImages(tuple(paths), tuple(boxes), partly, np.array(sets, np.int32))


class MultiBoxSamples:
    """Makes the mini-batch of a step: squares and boxes, a function of seed and step alone; picklable."""

    def __init__(self, o: MultiBoxOptions, images: BoxedImages, trained: npt.NDArray[np.int64], size: int) -> None:
        """trained: the images [N] to draw from; size: side of the squares in pixels."""
        self.o, self.images, self.trained, self.side = o, images, trained, size
        sets = images.sets[trained]
        counts = np.bincount(sets, minlength=len(o.data))
        shares = np.array(o.shares, np.float64) if o.shares else counts.astype(np.float64)
        if (shares[counts == 0] > 0).any():
            raise ValueError(f"{o.data[int(np.argmax((counts == 0) * shares))]}: no picture is left to train on")
        self.chance = (shares / shares.sum())[sets] / counts[sets]
        self.rank, self.size = 0, 1

    def drawn(self, step: int) -> npt.NDArray[np.int64]:
        """Return the pictures of a step."""
        rng = np.random.default_rng([self.o.seed, step])
        return np.asarray(rng.choice(self.trained, self.o.mini_batch, p=self.chance), np.int64)

    def __call__(self, step: int) -> Batch:
        """Return this process's part: squares uint8 [B, S, S, 3], boxes float32 [B, G, 4] of which `counts` [B] are
        filled, partly bool [B], unread bool [B]: pictures that cannot be read, which are grey and without a loss.
        """
        pictures = self.drawn(step)
        places = np.arange(len(pictures))[self.rank :: self.size].tolist()
        squares = np.full((len(places), self.side, self.side, 3), GREY, np.uint8)
        truth: list[Boxes] = []
        unread = np.zeros(len(places), np.bool_)
        for row, place in enumerate(places):
            picture = int(pictures[place])
            try:
                image = read_image(self.images.paths[picture])
            except ImageError:
                unread[row] = True
                truth.append(np.zeros((0, 4), np.float32))
                continue
            truth.append(self.sample(image, picture, np.random.default_rng([self.o.seed, step, place]), squares[row]))
        boxes = np.zeros((len(places), max(map(len, truth), default=0), 4), np.float32)
        for row, own in enumerate(truth):
            boxes[row, : len(own)] = own
        arrays = {
            "squares": squares,
            "boxes": boxes,
            "counts": np.array([len(own) for own in truth]),
            "partly": self.images.partial[pictures[places]] | unread,
            "unread": unread,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def sample(self, image: Image, picture: int, rng: np.random.Generator, out: Image) -> Boxes:
        """Put a view of a picture into `out` (grey before) and return its boxes, normalised to it: float32 [G, 4]."""
        height, width = image.shape[:2]
        whole = np.array([0, 0, width, height], np.float32)
        boxes = self.images.truth[picture] * np.tile(whole[2:], 2)
        kind, mirrored = rng.random(), bool(rng.random() < 0.5)
        if kind < self.o.shrunk:
            side = int(self.side / rng.uniform(*SHRUNK))
            x, y = rng.integers(0, self.side - side + 1, 2).tolist()
            stretched(image, whole, mirrored, out[y : y + side, x : x + side])
            inner = boxes_in_window(boxes, whole, mirrored, self.o.kept_area)
            return np.asarray((inner * side + np.tile([x, y], 2)) / self.side, np.float32)
        least = kind < self.o.shrunk + self.o.whole
        window = whole if least else random_window(boxes, width, height, self.o.view_area, rng)
        stretched(image, window, mirrored, out)
        return boxes_in_window(boxes, window, mirrored, self.o.kept_area)


def boxes_in_window(boxes: Boxes, window: Boxes, mirrored: bool, kept_area: float) -> Boxes:
    """Return boxes [N, 4] as a window [4] shows them, normalised to 0..1, clipped to it: float32 [M, 4].

    Those go of which less than the share `kept_area` is inside, or nothing.
    """
    low, high = window[:2], window[2:]
    inside = np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)
    inside[:, 2:] = np.maximum(inside[:, 2:], inside[:, :2])
    shown = area(inside) >= kept_area * area(boxes)
    inside = inside[shown & (area(inside) > 0)]
    scaled = (inside - np.tile(low, 2)) / np.tile(high - low, 2)
    if mirrored:
        scaled = np.stack([1 - scaled[:, 2], scaled[:, 1], 1 - scaled[:, 0], scaled[:, 3]], axis=1)
    return np.clip(scaled, 0, 1).astype(np.float32)


def random_window(boxes: Boxes, width: int, height: int, least: float, rng: np.random.Generator) -> Boxes:
    """Return a crop of at least the share `least` of a picture that holds the centre of an object: float32 [4].

    The area is drawn uniform in least..1, the aspect ratio relative to the picture's log-uniform in 1/2..2 (nearer to 1
    where `least` is above 1/2); then the crop is cut to the picture. Where no try holds one, the whole picture is
    returned.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    shortest = max(SHORTEST, least)  # so that what the cut leaves is no less than `least`
    for _ in range(TRIES):
        share, shape = rng.uniform(least, 1), np.exp(rng.uniform(np.log(shortest), -np.log(shortest)))
        size = np.minimum(np.array([width, height]) * np.sqrt([share * shape, share / shape]), [width, height])
        low = rng.uniform(0, 1, 2) * (np.array([width, height]) - size)
        window = np.concatenate([np.floor(low), np.ceil(low + size)]).clip(0, [width, height, width, height])
        if ((centres >= window[:2]) & (centres < window[2:])).all(axis=1).any():
            return np.asarray(window, np.float32)
    return np.array([0, 0, width, height], np.float32)


def stretched(image: Image, window: Boxes, mirrored: bool, out: npt.NDArray[np.uint8]) -> None:
    """Put the window [4] of a picture, stretched to the square of `out` [size, size, 3], into `out`."""
    x1, y1, x2, y2 = (int(side) for side in window)
    size = out.shape[0]
    smaller = x2 - x1 > size and y2 - y1 > size
    found = cv2.resize(image[y1:y2, x1:x2], (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    out[:] = found[:, ::-1] if mirrored else found
