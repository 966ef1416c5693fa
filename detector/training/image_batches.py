"""Mini-batches of crops of whole pictures: the pictures in random order, each crop by section 6 of the paper."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
import torch

from detector.training.augmentation import augmented
from detector.training.image_sets import ImageSet
from detector.training.loop import Batch
from detector.training.options import ClassifierOptions
from proposals.console import printable
from proposals.images import ImageError


@dataclass
class ImageBatches:
    """Makes the mini-batch of a step; picklable, for worker processes. Mini-batches go on from one pass to the next."""

    images: ImageSet
    o: ClassifierOptions
    rank: int = 0
    size: int = 1
    _order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = field(default=None, repr=False)

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return pass and picture of each sample of a step's mini-batch."""
        first = step * self.o.mini_batch
        found = []
        for place in range(first, first + self.o.mini_batch):
            epoch, position = divmod(place, len(self.images))
            if self._order is None or self._order[0] != epoch:
                self._order = epoch, self.images.order(epoch, self.o.seed)
            found.append((epoch, int(self._order[1][position])))
        return found

    def __call__(self, step: int) -> Batch:
        """Return this process's part: crops uint8 [B, size, size, 3] and labels int64 [B]."""
        own = self.places(step)[self.rank :: self.size]
        crops = np.empty((len(own), self.o.size, self.o.size, 3), np.uint8)
        labels = np.empty(len(own), np.int64)
        for place, (epoch, index) in enumerate(own):
            crops[place], labels[place] = self._sample(epoch, index)
        return {"crops": torch.from_numpy(crops), "labels": torch.from_numpy(labels)}

    def _sample(self, epoch: int, index: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], int]:
        """Return the crop and label of a picture in a pass; one that cannot be read is said, the next taken for it."""
        o = self.o
        for shift in range(len(self.images)):
            chosen = (index + shift) % len(self.images)
            try:
                image = self.images.read(chosen)
            except ImageError as error:
                text = f"picture {chosen}: {printable(error.reason)}; the next one is taken"
                print(text, file=sys.stderr, flush=True)
                continue
            rng = np.random.default_rng([o.seed, epoch, index])
            crop = augmented(
                image,
                o.size,
                rng,
                area=(o.area_min, 1.0),
                aspect=(o.aspect_min, 1 / o.aspect_min),
                photometric=o.photometric,
                interpolations=o.interpolations,
            )
            return crop, int(self.images.labels[chosen])
        raise ValueError("no picture of the data can be read")
