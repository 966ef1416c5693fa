"""Crops of real proposals, and how far two forms of one network agree on them: 8 bits, or an exported file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from detector.model import Model
from detector.options import DetectOptions
from detector.runtimes.base import Crops, Scores
from detector.samples import samples_folder
from detector.warp import warp
from proposals.image_files import Problem, find_images, read_list
from proposals.images import ImageError, read_image
from proposals.selective.search import selective_search

LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Agreement:
    """How the scores of two forms of a network differ, over `crops` crops."""

    crops: int
    top: float  # share of the crops on which the highest score is of the same class
    mean: float  # mean absolute difference of a score
    largest: float  # largest absolute difference

    def __str__(self) -> str:
        return (
            f"{self.crops} crops: top class agrees on {self.top:.1%}, scores differ by {self.mean:.2g} on average and "
            f"{self.largest:.2g} at most"
        )


def agreement(found: Scores, reference: Scores) -> Agreement:
    """Compare scores [N, classes]. Raises: ValueError for different shapes, no crops, or a score that is not finite."""
    if found.shape != reference.shape:
        raise ValueError(f"scores of shape {list(found.shape)}, where {list(reference.shape)} was expected")
    if not len(found):
        raise ValueError("no crops to compare scores on")
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        raise ValueError("a score is not a finite number")
    difference = np.abs(found - reference)
    same = found.argmax(axis=1) == reference.argmax(axis=1)
    return Agreement(len(found), float(same.mean()), float(difference.mean()), float(difference.max()))


def image_paths(names: Sequence[str]) -> list[Path]:
    """Return the images that `names` stand for: images, folders, patterns, and lists (.txt, a path a line).

    The paths of a list are relative to its folder; no names stand for the bundled samples.
    Raises: OSError when a list cannot be read, ValueError for a name without images.
    """
    found: list[str] = []
    for name in names or [str(samples_folder())]:
        path = Path(name)
        if path.suffix.casefold() == LIST_SUFFIX and path.is_file():
            listed = [str(path.parent / line) for _, line in read_list(path)]
            if not listed:
                raise ValueError(f"{path}: an empty list; give a path of an image a line")
            found += listed
        else:
            found.append(name)
    images: list[Path] = []
    for item in chain.from_iterable(map(find_images, found)):
        if isinstance(item, Problem):
            raise ValueError(f"{item.name}: {item.reason}")
        images.append(item)
    return list(dict.fromkeys(images))


def proposal_crops(
    paths: Sequence[Path],
    model: Model,
    counts: tuple[int, ...],
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Crops, ...]:
    """Return disjoint sets of about `counts` crops of random proposals, spread over the images: uint8 [N, S, S, 3].

    Of more images than the largest count, so many are drawn. `advance` is called after each image, `note` with a line
    about one that cannot be read. The same paths, counts and seed give the same crops.
    Raises: ValueError where no image has a proposal.
    """
    rng = np.random.default_rng(seed)
    most = max(counts)
    chosen = np.sort(rng.permutation(len(paths))[:most])
    shares = np.cumsum([0, *(-(-count // max(len(chosen), 1)) for count in counts)])
    scale = DetectOptions().superpixel_scale
    parts: list[list[Crops]] = [[] for _ in counts]
    for index in chosen.tolist():
        try:
            image = read_image(paths[index])
        except ImageError as error:
            note(f"{paths[index]}: {error.reason}; left out")
        else:
            boxes = selective_search(image, superpixel_scale=scale, seed=seed).boxes
            drawn = rng.permutation(len(boxes))
            for part, start, stop in zip(parts, shares, shares[1:], strict=False):
                part.append(warp(image, boxes[drawn[start:stop]], model.size, model.fill))
        advance(1)
    empty = np.zeros((0, model.size, model.size, 3), np.uint8)
    sets = tuple(np.concatenate([empty, *part])[:count] for part, count in zip(parts, counts, strict=True))
    if not all(len(crops) for crops in sets):
        raise ValueError("these images have too few proposals; give more or larger ones")
    return sets
