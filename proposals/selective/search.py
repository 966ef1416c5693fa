"""Selective Search (Uijlings et al., IJCV 2013) as R-CNN ran it, with GoogLeNet's doubled superpixels as default.

Several hierarchical groupings, over several colour spaces, segmentations and sets of similarities; the boxes of all
their regions, ranked by R-CNN's random priorities. Nothing but the ranking is random, and that is seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

import cv2
import numpy as np
import numpy.typing as npt

from proposals.compiled import notice_compilation
from proposals.images import Image, check_image
from proposals.selective.features import pixel_codes, region_features
from proposals.selective.frame import from_frame, to_frame
from proposals.selective.grouping import COLOUR, FILL, SIZE, TEXTURE, group, neighbours
from proposals.selective.ranking import priorities, rank, rank_scores
from proposals.selective.segmentation import Labels, segment, sorted_edges
from proposals.types import SELECTIVE_SEARCH, Proposals, from_source

CTSF, TSF = COLOUR | TEXTURE | SIZE | FILL, TEXTURE | SIZE | FILL

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Strategy:
    """What a search diversifies over (IJCV 2013, section 4): every combination of the three is one hierarchy.

    colour_spaces: names of COLOUR_SPACES; ks: k of the segmentations at superpixel scale 1, which is their min_size
    too (Matlab: minSize = k); similarities: sums of COLOUR, TEXTURE, SIZE and FILL.
    """

    colour_spaces: tuple[str, ...]
    ks: tuple[int, ...]
    similarities: tuple[int, ...]
    connectivity: int = 8  # of the segmentation's grid: 8 as in the paper, 4 as OpenCV has it

    def __post_init__(self) -> None:
        for name in self.colour_spaces:
            if name not in COLOUR_SPACES:
                raise ValueError(f"unknown colour space '{name}'; there are {', '.join(COLOUR_SPACES)}")
        if not (self.colour_spaces and self.ks and self.similarities):
            raise ValueError("a strategy needs at least one colour space, one k and one set of similarities")
        if self.connectivity not in (4, 8):
            raise ValueError(f"connectivity must be 4 or 8, got {self.connectivity}")
        if min(self.ks) < 1:
            raise ValueError(f"k must be at least 1, got {min(self.ks)}")
        if not all(0 < s <= CTSF for s in self.similarities):
            raise ValueError("a set of similarities is a sum of COLOUR, TEXTURE, SIZE and FILL (1 .. 15)")


class Hierarchy(NamedTuple):
    """One hierarchy, for teaching and plots; coordinates are those of the frame (500 px wide)."""

    colour_space: str
    k: int
    similarities: int
    labels: Labels  # [H, W] of the frame: the leaf that each pixel belongs to
    parents: npt.NDArray[np.int32]  # [2R - 1]; 0 .. R - 1 are leaves, the last is the whole picture, its own parent
    boxes: npt.NDArray[np.int32]  # [2R - 1, 4], half-open


def _rgb(frame: Image) -> Bytes:
    return frame


def _hsv(frame: Image) -> Bytes:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2HSV_FULL), np.uint8)  # hue over all 256 values


def _lab(frame: Image) -> Bytes:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2Lab), np.uint8)


def _hue(frame: Image) -> Bytes:
    return np.repeat(_hsv(frame)[:, :, :1], 3, axis=2)


def _intensity(frame: Image) -> Bytes:
    return np.repeat(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)[:, :, None], 3, axis=2)


def _rgi(frame: Image) -> Bytes:
    """Return normalised r and g and the intensity."""
    colour = frame.astype(np.float32)
    total = np.maximum(colour.sum(axis=2, keepdims=True), 1)
    chroma = colour[:, :, :2] / total * 255
    return np.concatenate([chroma, total / 3], axis=2).round().astype(np.uint8)


COLOUR_SPACES: dict[str, Callable[[Image], Bytes]] = {
    "rgb": _rgb,
    "hsv": _hsv,
    "lab": _lab,
    "rgi": _rgi,
    "h": _hue,
    "i": _intensity,
}

# IJCV 2013, table 4; fast is what R-CNN ran
MODES = {
    "single": Strategy(("hsv",), (100,), (CTSF,)),
    "fast": Strategy(("hsv", "lab"), (50, 100), (CTSF, TSF)),
    "quality": Strategy(("hsv", "lab", "rgi", "h", "i"), (50, 100, 150, 300), (CTSF, TSF, FILL, SIZE)),
}


@overload
def selective_search(
    image: Image,
    mode: str | Strategy = "fast",
    superpixel_scale: int = 2,
    seed: int = 0,
    max_boxes: int | None = None,
    return_regions: Literal[False] = False,
    threads: int = 1,
) -> Proposals: ...


@overload
def selective_search(
    image: Image,
    mode: str | Strategy = "fast",
    superpixel_scale: int = 2,
    seed: int = 0,
    max_boxes: int | None = None,
    *,
    return_regions: Literal[True],
    threads: int = 1,
) -> tuple[Proposals, list[Hierarchy]]: ...


def selective_search(
    image: Image,
    mode: str | Strategy = "fast",
    superpixel_scale: int = 2,
    seed: int = 0,
    max_boxes: int | None = None,
    return_regions: bool = False,
    threads: int = 1,
) -> Proposals | tuple[Proposals, list[Hierarchy]]:
    """Return the Selective Search proposals of one picture, the whole picture first.

    image: uint8 RGB [H, W, 3]; mode: single, fast or quality of the paper, or a `Strategy`; superpixel_scale: 1 as
    R-CNN, 2 as GoogLeNet (section 8), multiplies k and min_size; seed: of the ranking; max_boxes: only that many of
    the best; return_regions: also return the hierarchies, in the frame 500 px wide in which they were built;
    threads: colour spaces searched at once. The same image, parameters and seed give the same bytes on any number of
    threads. Raises: ValueError for another array, mode or number.
    """
    frame = _frame(image, max_boxes)
    notice_compilation()
    hierarchies = _search(frame, mode, superpixel_scale, threads)
    height, width = frame.shape[:2]
    generator = np.random.default_rng(seed)
    boxes = [np.array([[0, 0, width, height]], np.int32)]
    priority = [np.zeros(1)]
    for hierarchy in hierarchies:
        # R-CNN: position in the hierarchy, the whole image first, the initial segments last
        positions = np.arange(len(hierarchy.boxes), 0, -1)
        boxes.append(hierarchy.boxes)
        priority.append(priorities(positions, generator))
    every = np.concatenate(boxes)
    kept = rank(every, np.concatenate(priority), (width, height))[:max_boxes]
    found = from_source(from_frame(every[kept], frame, image), rank_scores(len(kept)), SELECTIVE_SEARCH)
    return (found, hierarchies) if return_regions else found


def _frame(image: Image, max_boxes: int | None) -> Image:
    check_image(image)
    if max_boxes is not None and max_boxes < 1:
        raise ValueError(f"max_boxes must be at least 1, got {max_boxes}")
    return to_frame(image)


def _search(frame: Image, mode: str | Strategy, superpixel_scale: int, threads: int) -> list[Hierarchy]:
    """Return every hierarchy over the frame: colour spaces x k x similarities, in that order."""
    if isinstance(mode, str):
        if mode not in MODES:
            raise ValueError(f"unknown mode '{mode}'; there are {', '.join(MODES)}")
        mode = MODES[mode]
    for name, value in (("superpixel_scale", superpixel_scale), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    strategy = mode

    def search(colour_space: str) -> list[Hierarchy]:
        return _one_colour_space(frame, colour_space, strategy, superpixel_scale)

    if threads == 1:
        parts = [search(name) for name in strategy.colour_spaces]
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(search, strategy.colour_spaces))
    return [hierarchy for part in parts for hierarchy in part]


def _one_colour_space(frame: Image, colour_space: str, strategy: Strategy, scale: int) -> list[Hierarchy]:
    """Return the hierarchies of one colour space; edges and pixel codes are shared by the k's."""
    picture = np.ascontiguousarray(COLOUR_SPACES[colour_space](frame))
    height, width = picture.shape[:2]
    edges, codes = sorted_edges(picture, strategy.connectivity), pixel_codes(picture)
    found = []
    for k in strategy.ks:
        labels, count = segment(edges, (height, width), k * scale, k * scale)
        pairs = neighbours(labels, count)
        histograms, sizes, leaf_boxes = region_features(codes, labels, count)
        for similarities in strategy.similarities:
            boxes, parents = group(histograms, sizes, leaf_boxes, pairs, height * width, similarities)
            found.append(Hierarchy(colour_space, k * scale, similarities, labels, parents, boxes))
    return found
