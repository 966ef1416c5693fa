"""The views that MultiBox is trained on: each picture as it is, mirrored, and large crops of it, with their boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Flags
from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from detector.training.regions import SAMPLES
from proposals.boxes import Boxes, area
from proposals.images import Image, read_image

TRIES = 10  # for a crop that holds an object
SHORTEST = 1 / 2  # least aspect ratio of a crop


@dataclass(frozen=True, eq=False)
class Views:
    """V views of P pictures: pictures int32 [V], rising; windows float32 [V, 4], pixels of the picture; mirrored bool
    [V]; truth: of each view the boxes float32 [G, 4] of its objects, normalised to 0..1 of the view; partial: bool [P],
    pictures in which only one object is boxed; sets: int32 [P], which of the data sets a picture is of; paths: [P].
    """

    pictures: npt.NDArray[np.int32]
    windows: Boxes
    mirrored: Flags
    truth: tuple[Boxes, ...]
    partial: Flags
    sets: npt.NDArray[np.int32]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the pictures' names and sets, windows and boxes, in hexadecimal."""
        digest = hashlib.sha256("\n".join(path.name for path in self.paths).encode("utf-8", "surrogateescape"))
        for array in (self.pictures, self.sets, self.windows, self.mirrored, self.partial, *self.truth):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


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


def build_views(
    data: Sequence[str], partial: Sequence[str], views: int, view_area: float, kept_area: float, seed: int
) -> Views:
    """Return `views` views of every picture of the data sets that has an object: as it is, mirrored, then crops.

    Objects are those of every class but crowds. Raises: ValueError where there is none; what the readers raise.
    """
    columns: list[tuple[int, Boxes, bool, Boxes]] = []
    paths: list[Path] = []
    partly: list[bool] = []
    sets: list[int] = []
    for number, item in enumerate(data):
        path, _, split = item.partition("#")
        path = str(samples_folder() / "annotations.json") if path == SAMPLES else path
        truth = read_dataset(path, split=None if Path(path).is_file() else split or "train")
        for index, picture in enumerate(truth.paths):
            rows = truth.of_picture(index)
            boxes = truth.boxes[rows][~truth.crowd[rows]].astype(np.float32)
            if picture is None or not len(boxes):
                continue
            width, height = truth.sizes[index].tolist()
            if not width or not height:
                height, width = read_image(picture).shape[:2]
            rng = np.random.default_rng([seed, number, index])
            whole = np.array([0, 0, width, height], np.float32)
            for view in range(views):
                window = whole if view < 2 else random_window(boxes, width, height, view_area, rng)
                mirrored = bool(view % 2)
                columns.append((len(paths), window, mirrored, boxes_in_window(boxes, window, mirrored, kept_area)))
            paths.append(picture)
            partly.append(item in partial)
            sets.append(number)
    if not columns:
        raise ValueError("the data sets have no picture with a box; check that their pictures are there")
    pictures, windows, mirrors, truths = zip(*columns, strict=True)
    return Views(
        np.array(pictures, np.int32),
        np.stack(windows),
        np.array(mirrors),
        tuple(truths),
        np.array(partly),
        np.array(sets, np.int32),
        tuple(paths),
    )


def stretched(image: Image, window: Boxes, mirrored: bool, out: npt.NDArray[np.uint8]) -> None:
    """Put the window [4] of a picture, stretched to the square of `out` [size, size, 3], into `out`."""
    x1, y1, x2, y2 = (int(side) for side in window)
    size = out.shape[0]
    smaller = x2 - x1 > size and y2 - y1 > size
    found = cv2.resize(image[y1:y2, x1:x2], (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    out[:] = found[:, ::-1] if mirrored else found
