"""Networks on CUDA: whole pictures in, scores of their regions out; nothing but those crosses the bus.

Batches have fixed sizes, so that nothing is compiled or chosen again; a last one that is less than half full is
made of small ones. Every method also runs on the CPU, with the same operations, which is how it is tested.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from detector.model import Model
from detector.runtimes.base import DET, Scores, Targets, WriteCrops
from detector.runtimes.cuda_crops import upload, warp_on_device
from detector.runtimes.cuda_network import FixedBatch, compile_copy, fastest, fuse_relu, halve_weights, in_steps
from detector.runtimes.cuda_nms import suppress
from detector.runtimes.torch import TorchClassifier
from proposals.boxes import Boxes, Floats, Indices
from proposals.images import Image

BATCH, SMALL_DEVICE_BATCH = 256, 64
SMALL_DEVICE = 12 << 30  # bytes of memory below which a device gets the smaller batch
TAIL = 4  # the small batches of the last crops are this part of a whole one


class CudaClassifier(TorchClassifier):
    """A network on CUDA that also crops and suppresses there; several threads may call it, and take turns.

    A crop's scores depend on its batch by rounding only: 1e-4 in f32, 2e-2 in bf16.
    """

    def __init__(
        self,
        model: Model,
        precision: str = "auto",
        batch_size: int = 0,
        classes: str = DET,
        device: str = "cuda",
        network: nn.Module | None = None,
        fused: bool = True,
        compiled: bool = False,
        targets: bool = False,
    ) -> None:
        """Load the model; the kernels are chosen and recorded at the first batch of each of the two sizes.

        batch_size: at most so many crops at a time, 0 for what suits the device; network: in place of the one that
        `model` names; fused: ReLU inside the convolutions (bf16 only); compiled: through torch.compile, which takes
        minutes; targets: make those of the box regression too.
        Raises: ValueError without CUDA, for a precision that there is not, or damaged weights.
        """
        super().__init__(model, device, precision, batch_size or BATCH, classes, network, targets)
        cuda = self.device.type == "cuda"
        if cuda and not batch_size and torch.cuda.get_device_properties(self.device).total_memory < SMALL_DEVICE:
            self.batch_size = SMALL_DEVICE_BATCH
        if cuda:
            torch.backends.cudnn.benchmark = True  # worth it: shapes are fixed
            torch.backends.cudnn.allow_tf32 = False  # f32 is to mean float32
        self._turn = threading.Lock()
        self._fixed: dict[int, FixedBatch] = {}
        self._forms: tuple[str, ...] = ()
        self._prepare(fused and self.precision == "bf16", compiled)

    @torch.inference_mode()
    def _prepare(self, fused: bool, compiled: bool) -> None:
        """Bring the network into its fastest form that works here."""
        if self.precision == "bf16":
            halve_weights(self._network)
        forms: dict[str, Callable[[nn.Module], nn.Module]] = {}
        if fused and self.device.type == "cuda":
            forms["ReLU inside the convolutions"] = fuse_relu
        if compiled:
            forms["torch.compile"] = compile_copy
        if forms:
            size = self.model.size
            pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
            example = self._input(torch.from_numpy(pixels).to(self.device))
            with self._autocast():
                self._network, self._forms = fastest(self._network, example, forms)

    @torch.inference_mode()
    def _rows(self, count: int, write: WriteCrops) -> Scores:
        """Return scores, and targets behind them, of `count` crops that `write` puts into pinned memory."""
        scores = self.no_scores(count)
        step = self.batch_size
        for start in range(0, count, step):
            stop = min(start + step, count)
            shape = (stop - start, self.model.size, self.model.size, 3)
            crops = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            write(start, stop, crops.numpy())
            self.score_on_device(crops.to(self.device, non_blocking=True), scores[start:stop])
        return scores.cpu().numpy()

    def score_regions(self, image: Image, boxes: Boxes) -> Scores:
        """Return the scores [N, 1 + classes] of the regions `boxes` [N, 4] of `image`, which goes up once.

        image: uint8 RGB [H, W, 3]; boxes: half-open pixels of it, cropped as `detector.warp.warp` does.
        """
        return score_regions([self], image, boxes)[0][:, : self._scores_end]

    def score_regions_and_targets(self, image: Image, boxes: Boxes) -> tuple[Scores, Targets]:
        """Return what `score_regions` does, and the targets [N, classes, 4]; for a model loaded with targets."""
        return self._split(score_regions([self], image, boxes)[0])

    def suppress(
        self,
        boxes: Boxes,
        scores: Floats,
        threshold: float,
        min_score: float = 0.0,
        max_per_class: int | None = None,
    ) -> tuple[Indices, Indices]:
        """Return what `proposals.boxes.nms_per_class` of the same arguments returns."""
        return suppress(boxes, scores, threshold, min_score, max_per_class, str(self.device))

    def no_scores(self, count: int) -> Tensor:
        """Return an array on the device for the scores of `count` crops, and for their targets behind them."""
        return torch.empty((count, self._outputs), dtype=torch.float32, device=self.device)

    @torch.inference_mode()
    def score_on_device(self, crops: Tensor, out: Tensor) -> None:
        """Write the scores of `crops` uint8 [N, size, size, 3] to `out` float32 [N, 1 + classes], both on the device.

        Where memory runs out, batches become half as large, for later calls too.
        Raises: ValueError when not even one crop fits.
        """
        with self._turn:
            in_steps(
                len(crops),
                self.batch_size,
                lambda start, stop: self._batch(crops[start:stop], out[start:stop]),
                self._halved,
            )

    def _batch(self, crops: Tensor, out: Tensor) -> None:
        """Run at most a whole batch: as one where it is at least half full, else as small ones."""
        small = max(1, self.batch_size // TAIL)
        size = self.batch_size if 2 * len(crops) > self.batch_size else small
        if size not in self._fixed:
            shape = (size, self.model.size, self.model.size, 3)
            crops_in = torch.zeros(shape, dtype=torch.uint8, device=self.device)
            self._fixed[size] = FixedBatch(self._scores, crops_in)
        for start in range(0, len(crops), size):
            self._fixed[size](crops[start : start + size], out[start : start + size])

    def _halved(self, size: int) -> None:
        self._fixed.clear()
        self.batch_size = size
        _release(size)

    def describe(self) -> str:
        """Return in one line what runs where."""
        graphs = ("CUDA graphs",) if any(fixed.recorded for fixed in self._fixed.values()) else ()
        return ", ".join((super().describe(), *self._forms, *graphs, "crops and suppression there"))


@torch.inference_mode()
def score_regions(members: Sequence[CudaClassifier], image: Image, boxes: Boxes) -> list[Scores]:
    """Return of each network of one device the scores [N, 1 + classes] of the regions `boxes` [N, 4] of `image`.

    Behind the scores stand the targets of a network that was loaded with them. The picture goes up once, and networks
    of the same crop size and fill share their crops.
    """
    device = members[0].device
    picture = upload(image, device)
    scores = [member.no_scores(len(boxes)) for member in members]
    inputs = {(member.model.size, member.model.fill) for member in members}

    def work(start: int, stop: int) -> None:
        for size, fill in sorted(inputs):
            crops = warp_on_device(picture, boxes[start:stop], size, fill)
            for member, out in zip(members, scores, strict=True):
                if (member.model.size, member.model.fill) == (size, fill):
                    member.score_on_device(crops, out[start:stop])

    in_steps(len(boxes), max(member.batch_size for member in members), work, _release)
    return [out.cpu().numpy() for out in scores]


def _release(_size: int) -> None:
    """Give unused memory of the device back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
