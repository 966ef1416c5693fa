"""Training MultiBox's heads: every sample is a new view of an image, through the frozen trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.model import Model
from detector.multibox import MULTIBOX_FILE, save_multibox, stretched
from detector.networks.multibox_heads import MultiBoxHeads
from detector.runtimes.base import Features
from detector.training.loop import Group
from detector.training.multibox_samples import GREY, BoxedImages, MultiBoxSamples
from detector.training.options import MultiBoxOptions
from detector.training.processes import Batch, step_batches
from detector.training.run_folder import RunFolder
from proposals.boxes import iou
from proposals.images import Image, ImageError, read_image
from proposals.multibox.decode import decode_proposals
from proposals.multibox.loss import multibox_loss
from proposals.multibox.priors import LARGE, SMALL, grid_priors, kmeans_shapes

VALIDATED = 16  # images at a time


class MultiBoxTask:
    """The stage `multibox` for the loop."""

    def __init__(
        self,
        o: MultiBoxOptions,
        model: Model,
        images: BoxedImages,
        trunk: Features,
        notice: Callable[[str], None],
    ) -> None:
        """trunk: the first layers of `model`, with two cuts. Raises: ValueError for too few boxes for the shapes."""
        self.o, self.model, self.images, self.trunk, self.notice = o, model, images, trunk, notice
        held_out = np.random.default_rng([o.pool_seed, len(images)]).random(len(images)) < o.held_out
        trained, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if not len(trained):
            raise ValueError("no picture is left to train on; lower held_out")
        boxes = np.concatenate([images.truth[row] for row in trained])
        try:
            fine = kmeans_shapes(boxes, o.fine_shapes, o.pool_seed, high=SMALL)
            coarse = kmeans_shapes(boxes, o.coarse_shapes, o.pool_seed, low=LARGE)
        except ValueError as error:
            raise ValueError(f"{error}: lower fine_shapes or coarse_shapes") from None
        (c1, *grid1), (c2, *grid2) = trunk.shapes
        self.priors = grid_priors([(grid1[0], grid1[1]), (grid2[0], grid2[1])], [fine, coarse])
        self.network = MultiBoxHeads((c1, c2), fine, coarse, o.mixed, o.seed)
        self.make = MultiBoxSamples(o, images, trained, model.size)
        self.batch_size = o.mini_batch
        self.steps_per_epoch = len(trained) / o.mini_batch
        self._unread: set[int] = set()

    def groups(self) -> list[Group]:
        """Return all parameters of the heads."""
        return [Group(list(self.network.parameters()), 1.0)]

    def batches(self, first: int, last: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield the mini-batches of the loop, with the trunk's features in place of the squares."""
        self.make.rank, self.make.size = rank, size
        for step, batch in enumerate(step_batches(self.make, first, last, self.o.workers), first):
            if batch["unread"].any():
                self._note_unread(self.make.drawn(step)[rank::size][batch["unread"].numpy()])
            fine, coarse = self.features(batch.pop("squares").numpy())
            yield {**batch, "fine": fine, "coarse": coarse}

    def features(self, squares: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return the trunk's two features of squares [B, S, S, 3]: float32 [B, C, rows, columns] each."""
        rows = [np.empty((len(squares), *shape), np.float32) for shape in self.trunk.shapes]
        self.trunk.run(len(squares), lambda start, stop, out: np.copyto(out, squares[start:stop]), *rows)
        fine, coarse = (torch.from_numpy(row) for row in rows)
        return fine, coarse

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss and its two parts."""
        locations, logits = network(batch["fine"], batch["coarse"])
        counts = batch["counts"].tolist()
        truth = [boxes[:count] for boxes, count in zip(batch["boxes"].cpu().numpy(), counts, strict=True)]
        found = multibox_loss(locations.float(), logits.float(), self.priors, truth, batch["partly"].cpu().numpy())
        return {"loss": found.total, "location": found.location, "confidence": found.confidence}

    def contents(self, step: int) -> str:
        """Return the pictures of a mini-batch."""
        return ", ".join(dict.fromkeys(self.images.paths[picture].name for picture in self.make.drawn(step)))

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the recall at IoU 0.5 and 0.7 of 200 boxes a held-out picture; score: the first."""
        best: list[npt.NDArray[np.float32]] = []
        device = next(network.parameters()).device
        for start in range(0, len(self.held_out), VALIDATED):
            pictures = self.held_out[start : start + VALIDATED]
            squares = np.full((len(pictures), self.model.size, self.model.size, 3), GREY, np.uint8)
            read = [self._whole(int(picture), squares[row]) for row, picture in enumerate(pictures)]
            outputs = network(*(value.to(device) for value in self.features(squares)))
            locations, logits = (value.float().cpu().numpy() for value in outputs)
            for row in np.flatnonzero(read).tolist():
                truth = self.images.truth[pictures[row]]
                # in a frame of 1000 px, since boxes below a pixel go
                found = decode_proposals(locations[row], logits[row], self.priors, 1000, 1000)
                overlaps = iou(truth * np.float32(1000), found.boxes)
                best.append(overlaps.max(axis=1) if len(found) else np.zeros(len(truth), np.float32))
        if not best:
            return {}
        reached = np.concatenate(best)
        recall = {f"recall_{limit}": float((reached >= limit / 100).mean()) for limit in (50, 70)}
        return {"score": recall["recall_50"], **recall}

    def _whole(self, picture: int, out: Image) -> bool:
        try:
            image = read_image(self.images.paths[picture])
        except ImageError:
            self._note_unread(np.array([picture]))
            return False
        out[:] = stretched(image, self.model.size)
        return True

    def _note_unread(self, pictures: npt.NDArray[np.int64]) -> None:
        for picture in sorted(set(pictures.tolist()) - self._unread):
            self._unread.add(picture)
            self.notice(f"{self.images.paths[picture]}: cannot be read; it is left out")

    def export(self, network: nn.Module, folder: RunFolder) -> Path:
        """Write the heads; the trunk is named, not copied."""
        assert isinstance(network, MultiBoxHeads)
        path = folder.path / MULTIBOX_FILE
        save_multibox(path, network.arrays(), self.model, self.o.frozen, self.o.fine)
        return path
