"""R-CNN's mini-batches: 32 foreground and 96 background regions, drawn over the whole set and warped (section 2.3).

The batch of step t is a function of the seed and t alone: nothing has to be remembered to go on after a stop, and any
number of processes can each make their part of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detector.classes import BACKGROUND
from detector.datasets.ground_truth import Doubles, Flags, Longs
from detector.model import Model
from detector.networks.layers import cut_after
from detector.runtimes.base import Classifier, Features
from detector.runtimes.load import load_classifier, load_features
from detector.training.features import FeatureCache
from detector.training.processes import Batch
from detector.training.regions import RegionPool
from detector.warp import warp
from proposals.images import Image, read_image


class MiniBatch(NamedTuple):
    """Rows of the pool int64 [B], foreground first, and which of them are mirrored, bool [B]."""

    rows: Longs
    mirrored: Flags


class Sampler:
    """Draws with replacement: foreground by weight, background by data set; each mirrored half the time."""

    def __init__(
        self,
        labels: Longs,
        sets: Longs,
        foreground: int,
        background: int,
        balance: float,
        seed: int,
        shares: Sequence[float] = (),
    ) -> None:
        """labels, sets: of each region of the pool, its class and its data set.

        balance: 0 draws foreground regions evenly, as R-CNN; 1 every class equally often, and within a class every
        data set; between them, by that power of the counts. shares: a factor for the regions of each data set, of both
        kinds; () for 1. Raises: ValueError where a kind that is asked for has none.
        """
        self._foreground, self._background = np.flatnonzero(labels > BACKGROUND), np.flatnonzero(labels == BACKGROUND)
        for count, rows, kind in (
            (foreground, self._foreground, "foreground"),
            (background, self._background, "background"),
        ):
            if count and not len(rows):
                raise ValueError(f"the data has no {kind} region, {count} a mini-batch are asked for")
        self._counts, self._seed = (foreground, background), seed
        factors = np.asarray(shares, np.float64)[sets] if len(shares) else np.ones(len(sets))
        weights = balanced_weights(labels[self._foreground], sets[self._foreground], balance)
        self._edges = np.cumsum(weights * factors[self._foreground])
        self._background_edges = np.cumsum(factors[self._background])
        for count, edges, kind in (
            (foreground, self._edges, "foreground"),
            (background, self._background_edges, "background"),
        ):
            if count and not edges[-1] > 0:
                raise ValueError(f"every {kind} region is of a data set of share 0")

    def draw(self, step: int) -> MiniBatch:
        """Return the mini-batch of a step."""
        rng = np.random.default_rng([self._seed, step])
        foreground, background = self._counts
        rows = np.zeros(0, np.int64)
        if foreground:
            rows = self._foreground[_places(self._edges, rng.random(foreground))]
        if background:
            rows = np.concatenate([rows, self._background[_places(self._background_edges, rng.random(background))]])
        return MiniBatch(rows, rng.random(len(rows)) < 0.5)


def _places(edges: Doubles, drawn: Doubles) -> Longs:
    """Return the index of the interval of `edges` that each of `drawn`, 0..1 of the last edge, falls into."""
    places = np.searchsorted(edges, drawn * edges[-1], side="right")
    return np.asarray(np.minimum(places, len(edges) - 1), np.int64)


def balanced_weights(labels: Longs, sets: Longs, balance: float) -> Doubles:
    """Return the weight of each region [N], of mean 1: two factors, each a count to the power -balance.

    The counts are those of the region's class, and of its data set within the class. The second factor is normalised
    within the class, so that a class's share depends on the first one alone.
    """
    if not len(labels):
        return np.zeros(0)
    _, of_class, class_counts = np.unique(labels, return_inverse=True, return_counts=True)
    pairs = np.stack([labels, sets], axis=1)
    _, of_pair, pair_counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    within = pair_counts[of_pair.ravel()] ** -float(balance)
    within /= np.bincount(of_class, within)[of_class]  # sums to 1 in each class
    weights = within * class_counts[of_class] ** (1 - float(balance))
    return np.asarray(weights / weights.mean())


class PictureCache:
    """Reads pictures as `read_image` does, each once as long as it is kept."""

    def __init__(self, megabytes: int) -> None:
        self._limit, self._held = megabytes * 1_000_000, 0
        self._pictures: OrderedDict[Path, Image] = OrderedDict()

    def read(self, path: Path) -> Image:
        """Return the picture, uint8 [H, W, 3]. Raises: what `read_image` raises."""
        found = self._pictures.get(path)
        if found is None:
            found = read_image(path)
            self._pictures[path] = found
            self._held += found.nbytes
            while self._held > self._limit and len(self._pictures) > 1:
                self._held -= self._pictures.popitem(last=False)[1].nbytes
        else:
            self._pictures.move_to_end(path)
        return found

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int]]:
        return PictureCache, (self._limit // 1_000_000,)


@dataclass
class RegionBatches:
    """Makes the mini-batch of a step from cropped regions, or from kept features; picklable, for worker processes.

    cache: the frozen layers' outputs, kept; frozen: the last of these layers where they are computed anew instead;
    scored: give the scores of the cache too; teachers: give their mean scores of each region; device: where frozen
    layers and teachers run.
    """

    pool: RegionPool
    sampler: Sampler
    model: Model
    rank: int = 0
    size: int = 1
    cache: FeatureCache | None = None
    scored: bool = False
    frozen: str = ""
    precision: str = "auto"
    device: str = "cpu"
    teachers: tuple[Model, ...] = ()
    pictures: PictureCache = field(default_factory=lambda: PictureCache(0))
    _layers: Features | None = field(default=None, repr=False)  # loaded by the process that needs them
    _loaded: list[Classifier] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_layers": None, "_loaded": []}

    def __call__(self, step: int) -> Batch:
        """Return this process's part of the mini-batch: every `size`-th region."""
        drawn = self.sampler.draw(step)
        rows, mirrored = drawn.rows[self.rank :: self.size], drawn.mirrored[self.rank :: self.size]
        return self.batch(rows, mirrored)

    def batch(self, rows: Longs, mirrored: npt.NDArray[np.bool_]) -> Batch:
        """Return these regions; kept features are mirrored or not as they were kept."""
        found = {
            "labels": torch.from_numpy(self.pool.labels[rows]),
            "known": torch.from_numpy(self.pool.known_of(rows)),
        }
        if self.cache is not None:
            found["input"] = torch.from_numpy(self.cache.features[rows].astype(np.float32))
            if self.scored:
                found["scores"] = torch.from_numpy(self.cache.scores[rows].astype(np.float32))
            return found
        crops = self._crops(rows, mirrored, self.model)
        found["input"] = self._features(crops) if self.frozen else self._normalised(crops)
        if self.teachers:
            found["scores"] = torch.from_numpy(self._taught(rows, mirrored, crops))
        return found

    def _crops(self, rows: Longs, mirrored: npt.NDArray[np.bool_], model: Model) -> npt.NDArray[np.uint8]:
        """Return the regions warped as `model` takes them, uint8 [B, size, size, 3]."""
        crops = np.empty((len(rows), model.size, model.size, 3), np.uint8)
        for place, (row, turned) in enumerate(zip(rows.tolist(), mirrored.tolist(), strict=True)):
            image = self.pictures.read(self.pool.paths[self.pool.pictures[row]])
            box = self.pool.boxes[row : row + 1]
            warp(image, box, model.size, model.fill, mirrored=turned, out=crops[place : place + 1])
        return crops

    def _normalised(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - self.model.mean) / self.model.scale

    def _features(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        """Return the frozen layers' outputs, float32 [B, C, H, W]."""
        if self._layers is None:
            cut = cut_after(self.model.layers, self.frozen)
            self._layers = load_features(self.model, cut, self.precision, self.device)
        features = np.empty((len(crops), *self._layers.shape), np.float32)

        def write(start: int, stop: int, out: npt.NDArray[np.uint8]) -> None:
            out[:] = crops[start:stop]

        self._layers.run(len(crops), write, features)
        return torch.from_numpy(features)

    def _taught(
        self, rows: Longs, mirrored: npt.NDArray[np.bool_], crops: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        """Return the teachers' mean scores of the same regions, [B, 1 + C]; each sees them as it takes crops."""
        if not self._loaded:
            self._loaded = [load_classifier(teacher, "auto", self.device, "auto", 0) for teacher in self.teachers]
        shape = self.model.size, self.model.fill
        seen = [
            crops if (teacher.size, teacher.fill) == shape else self._crops(rows, mirrored, teacher)
            for teacher in self.teachers
        ]
        scores = [classify(own) for classify, own in zip(self._loaded, seen, strict=True)]
        return np.asarray(np.mean(scores, axis=0), np.float32)
