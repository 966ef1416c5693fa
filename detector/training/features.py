"""The outputs of the frozen layers for every region of a pool, kept on disk (R-CNN's feature cache).

A run that was stopped goes on where the cache ends. Features are float16; beside them stand the scores that the old
network gave each region, which fine-tuning may be asked to keep.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detector.model import Model, file_digest
from detector.networks.layers import cut_after
from detector.runtimes.base import DET, summed_leaves
from detector.runtimes.load import load_features
from detector.training.regions import RegionPool
from detector.warp import warp
from proposals.boxes import Boxes
from proposals.files import write_text_atomic
from proposals.images import Image, ImageError, read_image

STATE = "cache.json"
SYNC_PICTURES = 64  # between two notes of how far the cache is: what a kill can cost


class FeatureCache:
    """Features float16 [N, C, H, W] and the old network's scores float16 [N, 1 + classes], read from disk as needed."""

    def __init__(self, folder: Path, shape: tuple[int, ...], outputs: int, rows: int) -> None:
        self._made_of = folder, shape, outputs, rows
        self.features = _mapped(folder / "features.f16", (rows, *shape))
        self.scores = _mapped(folder / "scores.f16", (rows, outputs))

    def flush(self) -> None:
        """Bring what was computed to the disk."""
        self.features.flush()
        self.scores.flush()

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path, tuple[int, ...], int, int]]:
        return FeatureCache, self._made_of  # a worker process opens the files, their contents are not sent to it


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float16]]:
    """Return the file as an array, made or brought to its size first. Raises: OSError where the disk has no room."""
    size = 2 * int(np.prod(shape))
    with path.open("ab") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # a disk that fills up under a mapped file ends the process
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                reason = f"{error.strerror}; {size / 1e9:.1f} GB of features are kept here"
                raise OSError(error.errno, reason, str(path)) from None
    return np.memmap(path, np.float16, "r+", shape=shape)


def mirrored_rows(count: int, seed: int) -> npt.NDArray[np.bool_]:
    """Return which of `count` regions are mirrored in the cache, half of them by chance."""
    return np.random.default_rng([seed, count]).random(count) < 0.5


def fill_cache(
    folder: Path,
    pool: RegionPool,
    model: Model,
    frozen: str,
    precision: str,
    seed: int,
    note: Callable[[str], None],
    advance: Callable[[int], None] = lambda pictures: None,
    mirror: bool = True,
    device: str = "cpu",
) -> FeatureCache:
    """Return the cache of `pool` behind layer `frozen` of `model`, computing what `folder` lacks.

    precision: of the frozen layers, which run on `device` (cpu or cuda); seed: of the choice of mirrored regions;
    mirror: False for none. A picture that cannot be read is noted, and its features are zero. Raises: ValueError where
    the folder holds other regions or another network's features; OSError when it cannot be written, as on a full disk.
    """
    network = load_features(model, cut_after(model.layers, frozen), precision, device, scores=True)
    key: dict[str, str | int] = {
        "regions": pool.fingerprint(),
        "weights": file_digest(model),
        "size": model.size,
        "frozen": frozen,
        "precision": network.precision,
        **({"seed": seed} if mirror else {"mirrored": "none"}),
    }
    leaves = summed_leaves(DET, model)
    folder.mkdir(parents=True, exist_ok=True)
    done = _pictures_done(folder, key)
    cache = FeatureCache(folder, network.shape, model.classes if leaves is None else leaves.shape[1], len(pool))
    mirrored = mirrored_rows(len(pool), seed) & mirror
    starts = np.searchsorted(pool.pictures, np.arange(len(pool.paths) + 1)).tolist()
    advance(done)
    for number in range(done, len(pool.paths)):
        first, last = starts[number], starts[number + 1]
        try:
            image = read_image(pool.paths[number])
        except ImageError as error:
            note(f"{pool.paths[number]}: {error.reason}; its regions are left out")
            cache.features[first:last] = 0
        else:
            crops = _Crops(image, pool.boxes[first:last], mirrored[first:last].tolist(), model)
            scores = np.empty((last - first, model.classes), np.float32)
            network.run(last - first, crops.write, cache.features[first:last], scores)
            cache.scores[first:last] = scores if leaves is None else scores @ leaves
        advance(1)
        if (number + 1) % SYNC_PICTURES == 0 or number + 1 == len(pool.paths):
            cache.flush()
            write_text_atomic(folder / STATE, json.dumps({"key": key, "pictures": number + 1}))
    return cache


class _Crops(NamedTuple):
    """The warped regions of one picture, made as they are needed."""

    image: Image
    boxes: Boxes
    mirrored: list[bool]
    model: Model

    def write(self, start: int, stop: int, out: npt.NDArray[np.uint8]) -> None:
        """Put crops start..stop-1 into `out`, [N, size, size, 3]."""
        model = self.model
        for row, place in enumerate(range(start, stop)):
            box, target = self.boxes[place : place + 1], out[row : row + 1]
            warp(self.image, box, model.size, model.fill, mirrored=self.mirrored[place], out=target)


def _pictures_done(folder: Path, key: Mapping[str, str | int]) -> int:
    """Return how many pictures a cache has. Raises: ValueError where it is damaged, or of something else than `key`."""
    file = folder / STATE
    if not file.is_file():
        return 0
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        kept, done = dict(state["key"]), int(state["pictures"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file}: damaged; remove this cache") from None
    if kept != key:
        names = ", ".join(name for name in key if kept.get(name) != key[name])
        raise ValueError(f"{folder}: keeps features of other {names}; give another cache, or remove this one")
    return done
