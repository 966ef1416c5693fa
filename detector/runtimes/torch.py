"""Networks in torch, on the CPU (the reference) or on CUDA; torchvision's GoogLeNet runs here only."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.model import Model
from detector.networks.layers import cost
from detector.networks.torch_module import Scorer, load_into, torch_network, with_deltas
from detector.runtimes.base import CPU_BATCH, DET, Crops, Outputs, Scores, WriteCrops, summed_leaves
from detector.weights import load_weights

CUDA_BATCH = 256  # crops at a time on a GPU by default

# torchvision's GoogLeNet takes ImageNet-normalised input and, with `transform_input`, turns it into (x - 0.5) / 0.5
# itself; without it, the input (pixel - 127.5) / 127.5 is the same thing (torchvision/models/googlenet.py).


class _Device:
    """Where a network runs, in what precision, and how many crops at a time."""

    def __init__(self, device: str, precision: str, batch_size: int) -> None:
        """precision auto: f32 on the CPU, bf16 on CUDA. Raises: ValueError without CUDA, or for another precision."""
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("torch finds no CUDA device here; use --device cpu")
        if precision == "auto":
            precision = "bf16" if device == "cuda" else "f32"
        if precision not in ("f32", "bf16"):
            raise ValueError(f"the torch runtime has precision f32 and bf16, not '{precision}'; use --runtime openvino")
        self.device, self.precision = torch.device(device), precision
        self.batch_size = batch_size or (CUDA_BATCH if device == "cuda" else CPU_BATCH)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def crops(self, count: int, size: int, write: WriteCrops, start: int) -> Tensor:
        """Return the crops from `start` on, a batch at most, on the device: uint8 [B, size, size, 3].

        On CUDA they go over from pinned memory, so that the next ones are cut while the GPU works on these.
        """
        stop = min(start + self.batch_size, count)
        cuda = self.device.type == "cuda"
        crops = torch.empty((stop - start, size, size, 3), dtype=torch.uint8, pin_memory=cuda)
        write(start, stop, crops.numpy())
        return crops.to(self.device, non_blocking=True)

    def out_of_memory(self) -> ValueError:
        return ValueError(f"the GPU's memory does not hold {self.batch_size} crops; give a smaller --batch-size")

    def __str__(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "the CPU"


class TorchClassifier:
    """A network in torch; each crop's scores do not depend on its batch beyond rounding."""

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        precision: str = "auto",
        batch_size: int = 0,
        classes: str = DET,
        network: nn.Module | None = None,
        deltas: bool = False,
        compiled: bool = False,
    ) -> None:
        """Build the module and move it to `device` (cpu or cuda); precision auto: f32 on the CPU, bf16 on CUDA.

        batch_size: crops at a time, 0 for 8 on the CPU and 256 on CUDA; network: a module in place of the one that
        `model` names, copied; one in training, or of random weights; deltas: make those of the box regression too;
        compiled: through torch.compile, which takes minutes.
        Raises: ValueError without CUDA, for an unknown precision, or damaged weights.
        """
        self._on = _Device(device, precision, batch_size)
        self.model, self.precision, self.batch_size = model, self._on.precision, self._on.batch_size
        network = load_network(model) if network is None else copy.deepcopy(network)
        if deltas:
            with_deltas(network, load_weights(model))
        leaves = summed_leaves(classes, model)
        self._scores = model.classes if leaves is None else leaves.shape[1]  # columns of a row; behind them, deltas
        self._columns = self._scores + (4 * (model.classes - 1) if deltas else 0)
        self._scorer = Scorer(model, network, leaves, deltas).to(self._on.device).to(memory_format=torch.channels_last)
        if compiled:
            self._scorer.network.compile()

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores [N, 1 + classes] of `crops` uint8 [N, size, size, 3]; [N, 1000] with classes imagenet."""
        return self.score(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop])).scores

    @torch.inference_mode()
    def score(self, count: int, write: WriteCrops) -> Outputs:
        """Return the scores of `count` crops that `write` makes, a batch at a time, and the deltas if it has them.

        Raises: ValueError where the memory of the GPU does not hold a batch.
        """
        rows = torch.empty((count, self._columns), device=self._on.device)
        try:
            for start in range(0, count, self.batch_size):
                crops = self._on.crops(count, self.model.size, write, start)
                with self._on.autocast():
                    outputs = self._scorer.network(self._scorer.normalised(crops))
                rows[start : start + len(crops)] = self._scorer.scores(outputs)
        except torch.OutOfMemoryError:
            raise self._on.out_of_memory() from None
        found = rows.cpu().numpy()
        if self._columns == self._scores:
            return Outputs(found, None)
        deltas = found[:, self._scores :].reshape(count, self.model.classes - 1, 4)
        return Outputs(found[:, : self._scores], deltas)

    def describe(self) -> str:
        """Return in one line what runs where."""
        return (
            f"{self.model.name} at {self.model.size} px, torch {torch.__version__} on {self._on}, {self.precision}, "
            f"batches of {self.batch_size}"
        )


class TorchFeatures:
    """The first layers of `model`, as `detector.runtimes.openvino.OpenVinoFeatures`, on the CPU or on CUDA."""

    def __init__(
        self,
        model: Model,
        cut: int | Sequence[int],
        device: str = "cpu",
        precision: str = "auto",
        scores: bool = False,
        batch_size: int = 0,
    ) -> None:
        """cut: one or several numbers of layers; scores: compute the network's own softmax scores too.

        Raises: ValueError without CUDA, for an unknown precision, or damaged weights.
        """
        self._on = _Device(device, precision, batch_size)
        self.model, self.precision = model, self._on.precision
        self._cuts = (cut,) if isinstance(cut, int) else tuple(cut)
        grid = 3, model.size, model.size
        self.shapes: tuple[tuple[int, ...], ...] = tuple(cost(model.layers[:end], grid).output for end in self._cuts)
        self.shape = self.shapes[0]
        if scores:
            self.shapes = (*self.shapes, (model.classes,))
        scorer = Scorer(model, load_network(model), None)
        self._scorer = scorer.to(self._on.device).to(memory_format=torch.channels_last)
        self._with_scores = scores

    @torch.inference_mode()
    def run(self, count: int, write: WriteCrops, *rows: npt.NDArray[np.floating]) -> None:
        """Fill `rows` from `count` crops that `write` makes: features [count, C, H, W] of each cut, then scores."""
        parts = list(self._scorer.network.children())
        for start in range(0, count, self._on.batch_size):
            crops = self._on.crops(count, self.model.size, write, start)
            found: list[Tensor] = []
            with self._on.autocast():
                x = self._scorer.normalised(crops)
                for first, last in zip((0, *self._cuts), self._cuts, strict=False):
                    for part in parts[first:last]:
                        x = part(x)
                    found.append(x)
                if self._with_scores:
                    for part in parts[self._cuts[-1] :]:
                        x = part(x)
            if self._with_scores:
                found.append(self._scorer.scores(x))
            for target, values in zip(rows, found, strict=True):
                target[start : start + len(crops)] = values.float().cpu().numpy()


def load_network(model: Model) -> nn.Module:
    """Return the network of `model` with its weights, on the CPU, float32.

    Raises: ValueError when weights are damaged, or torchvision's cannot be downloaded (naming the cure).
    """
    if not model.file:
        return _torchvision_googlenet(model)
    network = torch_network(model.layers)
    load_into(network, load_weights(model))
    return network


def _torchvision_googlenet(model: Model) -> nn.Module:
    """Return torchvision's GoogLeNet with its ImageNet weights, from torch's hub folder or downloaded."""
    from torchvision.models import GoogLeNet_Weights, googlenet

    weights = GoogLeNet_Weights.IMAGENET1K_V1
    kept = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    # torch checks what it downloads, not what it finds; the file name ends in the first digits of its sha256
    if kept.is_file() and not hashlib.sha256(kept.read_bytes()).hexdigest().startswith(kept.stem.rsplit("-", 1)[1]):
        raise ValueError(
            f"{model.name}: {kept} is damaged (its sha256 differs); delete it, so that it is fetched again"
        )
    try:
        state = weights.get_state_dict(check_hash=True, progress=False, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{model.name}: cannot download torchvision's weights ({error}); go online once (they are kept in "
            "torch's hub folder), or use --model inception_v3, which ships with the package"
        ) from None
    network: nn.Module = googlenet(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("aux")})
    return network
