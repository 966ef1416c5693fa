"""Training MultiBox's heads on the kept features of a classifier's first layers (Erhan et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.model import Model
from detector.multibox import MULTIBOX_FILE, save_multibox
from detector.training.features import FeatureCache
from detector.training.loop import Group
from detector.training.options import MultiBoxOptions
from detector.training.processes import Batch, step_batches
from detector.training.run_folder import RunFolder
from detector.training.views import Views
from proposals.boxes import iou
from proposals.multibox.decoding import WHOLE, decode_proposals
from proposals.multibox.heads import MultiBoxHeads
from proposals.multibox.loss import multibox_loss
from proposals.multibox.priors import kmeans_priors

BATCH = 256


class FeatureRows:
    """Makes the mini-batch of a step: rows of the cache drawn with a seed; picklable."""

    def __init__(self, cache: FeatureCache, rows: npt.NDArray[np.int64], count: int, seed: int) -> None:
        self.cache, self.rows, self.count, self.seed = cache, rows, count, seed
        self.rank, self.size = 0, 1

    def drawn(self, step: int) -> npt.NDArray[np.int64]:
        """Return the rows of a step: passes over the data in random order, one after the other."""
        places = np.arange(step * self.count, (step + 1) * self.count)
        epochs, positions = np.divmod(places, len(self.rows))
        orders = {e: np.random.default_rng([self.seed, e]).permutation(self.rows) for e in np.unique(epochs).tolist()}
        return np.array([orders[e][p] for e, p in zip(epochs.tolist(), positions.tolist(), strict=True)], np.int64)

    def __call__(self, step: int) -> Batch:
        """Return this process's part: features float32 [B, C, H, W] and their rows."""
        rows = self.drawn(step)[self.rank :: self.size]
        return {"input": torch.from_numpy(self.cache.features[rows].astype(np.float32)), "rows": torch.from_numpy(rows)}


class MultiBoxTask:
    """The stage `multibox` for the loop."""

    def __init__(self, o: MultiBoxOptions, model: Model, views: Views, cache: FeatureCache) -> None:
        """model: the trunk; cache: of the features of `views`. Raises: ValueError for too few boxes for the priors."""
        self.o, self.model, self.views, self.cache = o, model, views, cache
        held_out = np.random.default_rng([o.pool_seed, len(views.paths)]).random(len(views.paths)) < o.held_out
        usable = cache.scores.astype(np.float32).sum(axis=1) > 0
        trained = np.flatnonzero(~held_out[views.pictures] & usable)
        if not len(trained):
            raise ValueError("no picture is left to train on; lower held_out, or check that the pictures can be read")
        first = np.concatenate([[True], views.pictures[1:] != views.pictures[:-1]])
        self.held_out = np.flatnonzero(held_out[views.pictures] & usable & first)
        boxes = np.concatenate([views.truth[row] for row in trained])
        self.priors = kmeans_priors(boxes, o.priors, o.pool_seed)
        channels, *grid = cache.features.shape[1:]
        self.network = MultiBoxHeads(channels, (grid[0], grid[1]), self.priors, o.reduced, o.hidden, o.dropout, o.seed)
        self.make = FeatureRows(cache, trained, o.mini_batch, o.seed)
        self.batch_size = o.mini_batch
        self.steps_per_epoch = len(trained) / o.mini_batch

    def groups(self) -> list[Group]:
        """Return all parameters of the heads."""
        return [Group(list(self.network.parameters()), 1.0)]

    def batches(self, first: int, last: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield the mini-batches of the loop."""
        self.make.rank, self.make.size = rank, size
        return step_batches(self.make, first, last, self.o.workers)

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return MultiBox's loss and its two parts."""
        locations, logits = network(batch["input"])
        rows = batch["rows"].tolist()
        found = multibox_loss(
            locations.float(),
            logits.float(),
            self.priors,
            [self.views.truth[row] for row in rows],
            self.views.partial[self.views.pictures[rows]],
            self.o.near_negatives,
            matching="priors" if self.o.matching == "priors" else "predictions",
        )
        return {"loss": found.total, "location": found.location, "confidence": found.confidence}

    def contents(self, step: int) -> str:
        """Return the pictures of a mini-batch."""
        pictures = self.views.pictures[self.make.drawn(step)]
        return ", ".join(dict.fromkeys(self.views.paths[picture].name for picture in pictures))

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the recall at IoU 0.5 and 0.7 of 200 boxes a held-out picture; score: the first."""
        best: list[npt.NDArray[np.float32]] = []
        device = next(network.parameters()).device
        for start in range(0, len(self.held_out), BATCH):
            rows = self.held_out[start : start + BATCH]
            features = torch.from_numpy(self.cache.features[rows].astype(np.float32)).to(device)
            locations, logits = (value.float().cpu().numpy() for value in network(features))
            for place, row in enumerate(rows.tolist()):
                truth = self.views.truth[row]
                # in a frame of 1000 px, since boxes below a pixel go
                found = decode_proposals(locations[place], logits[place], self.priors, 1000, 1000, WHOLE)
                overlaps = iou(truth * np.float32(1000), found.boxes)
                best.append(overlaps.max(axis=1) if len(found) else np.zeros(len(truth), np.float32))
        if not best:
            return {}
        reached = np.concatenate(best)
        recall = {f"recall_{limit}": float((reached >= limit / 100).mean()) for limit in (50, 70)}
        return {"score": recall["recall_50"], **recall}

    def export(self, network: nn.Module, folder: RunFolder) -> Path:
        """Write the heads; the trunk is named, not copied."""
        assert isinstance(network, MultiBoxHeads)
        path = folder.path / MULTIBOX_FILE
        save_multibox(path, network.arrays(), self.model, self.o.frozen)
        return path
