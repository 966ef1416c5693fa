"""Training MultiBox's heads on two grids: every sample is a new view of a picture, through the frozen trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.model import Model
from detector.multibox import MULTIBOX_FILE, save_multibox
from detector.runtimes.openvino import OpenVinoFeatures
from detector.training.loop import Group
from detector.training.options import MultiBoxOptions
from detector.training.processes import Batch, step_batches
from detector.training.run_folder import RunFolder
from detector.training.views import Views, boxes_in_window, random_window, stretched
from proposals.boxes import Boxes, iou
from proposals.images import Image, ImageError, read_image
from proposals.multibox.decoding import GRID_NMS, WHOLE, decode_proposals
from proposals.multibox.grid import LARGE, SMALL, deviations, grid_priors, kmeans_shapes
from proposals.multibox.grid_heads import GridHeads
from proposals.multibox.grid_loss import grid_loss

GREY = 128
SHRUNK = (1.15, 2.5)  # a shrunk picture's side in the sample, as a divisor
VALIDATED = 16  # pictures at a time


class GridSamples:
    """Makes the mini-batch of a step: squares and boxes, a function of seed and step alone; picklable."""

    def __init__(self, o: MultiBoxOptions, views: Views, trained: npt.NDArray[np.int64], size: int) -> None:
        """views: one of each picture, whole; trained: the pictures [N] to draw from."""
        self.o, self.views, self.trained, self.side = o, views, trained, size
        sets = views.sets[trained]
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
                image = read_image(self.views.paths[picture])
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
            "partly": self.views.partial[pictures[places]] | unread,
            "unread": unread,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def sample(self, image: Image, picture: int, rng: np.random.Generator, out: Image) -> Boxes:
        """Put a view of a picture into `out` (grey before) and return its boxes, normalised to it: float32 [G, 4]."""
        height, width = image.shape[:2]
        whole = np.array([0, 0, width, height], np.float32)
        boxes = self.views.truth[picture] * np.tile(whole[2:], 2)
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


class GridTask:
    """The stage `multibox` with heads on two grids, for the loop."""

    def __init__(
        self, o: MultiBoxOptions, model: Model, views: Views, trunk: OpenVinoFeatures, notice: Callable[[str], None]
    ) -> None:
        """views: one of each picture; trunk: with the two cuts. Raises: ValueError for too few boxes for the shapes."""
        self.o, self.model, self.views, self.trunk, self.notice = o, model, views, trunk, notice
        held_out = np.random.default_rng([o.pool_seed, len(views)]).random(len(views)) < o.held_out
        trained, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if not len(trained):
            raise ValueError("no picture is left to train on; lower held_out")
        boxes = np.concatenate([views.truth[row] for row in trained])
        try:
            fine = kmeans_shapes(boxes, o.fine_shapes, o.pool_seed, high=SMALL)
            coarse = kmeans_shapes(boxes, o.coarse_shapes, o.pool_seed, low=LARGE)
        except ValueError as error:
            raise ValueError(f"{error}: lower fine_shapes or coarse_shapes, or take one grid (fine = '')") from None
        (c1, *grid1), (c2, *grid2) = trunk.shapes
        self.priors = grid_priors([(grid1[0], grid1[1]), (grid2[0], grid2[1])], [fine, coarse])
        self.deviation = deviations(self.priors)
        self.network = GridHeads((c1, c2), fine, coarse, o.mixed, o.seed)
        self.make = GridSamples(o, views, trained, model.size)
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
        found = grid_loss(locations.float(), logits.float(), self.priors, truth, batch["partly"].cpu().numpy())
        return {"loss": found.total, "location": found.location, "confidence": found.confidence}

    def contents(self, step: int) -> str:
        """Return the pictures of a mini-batch."""
        return ", ".join(dict.fromkeys(self.views.paths[picture].name for picture in self.make.drawn(step)))

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
                truth = self.views.truth[pictures[row]]
                # in a frame of 1000 px, since boxes below a pixel go
                found = decode_proposals(
                    locations[row], logits[row], self.priors, 1000, 1000, WHOLE, GRID_NMS, self.deviation
                )
                overlaps = iou(truth * np.float32(1000), found.boxes)
                best.append(overlaps.max(axis=1) if len(found) else np.zeros(len(truth), np.float32))
        if not best:
            return {}
        reached = np.concatenate(best)
        recall = {f"recall_{limit}": float((reached >= limit / 100).mean()) for limit in (50, 70)}
        return {"score": recall["recall_50"], **recall}

    def _whole(self, picture: int, out: Image) -> bool:
        try:
            image = read_image(self.views.paths[picture])
        except ImageError:
            self._note_unread(np.array([picture]))
            return False
        stretched(image, np.array([0, 0, image.shape[1], image.shape[0]], np.float32), False, out)
        return True

    def _note_unread(self, pictures: npt.NDArray[np.int64]) -> None:
        for picture in sorted(set(pictures.tolist()) - self._unread):
            self._unread.add(picture)
            self.notice(f"{self.views.paths[picture]}: cannot be read; it is left out")

    def export(self, network: nn.Module, folder: RunFolder) -> Path:
        """Write the heads; the trunk is named, not copied."""
        assert isinstance(network, GridHeads)
        path = folder.path / MULTIBOX_FILE
        save_multibox(path, network.arrays(), self.model, self.o.frozen, self.o.fine)
        return path
