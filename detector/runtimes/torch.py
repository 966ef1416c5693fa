"""Networks in torch, on the CPU (the reference) or on CUDA; torchvision's GoogLeNet runs here only."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn

from detector.model import SVM, Model
from detector.networks.torch_module import load_into, margin_scores, torch_network, with_targets
from detector.runtimes.base import DET, Crops, Scores, Targets, WriteCrops, summed_leaves
from detector.weights import load_weights

# torchvision's GoogLeNet takes ImageNet-normalised input and, with `transform_input`, turns it into (x - 0.5) / 0.5
# itself; without it, the input (pixel - 127.5) / 127.5 is the same thing (torchvision/models/googlenet.py).


class TorchClassifier:
    """A network in torch; each crop's scores do not depend on its batch beyond rounding."""

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        precision: str = "auto",
        batch_size: int = 8,
        classes: str = DET,
        network: nn.Module | None = None,
        targets: bool = False,
    ) -> None:
        """Build the module and move it to `device` (cpu or cuda); precision auto: f32 on the CPU, bf16 on CUDA.

        network: a module in place of the one that `model` names, copied; one in training, or of random weights;
        targets: make those of the box regression too.
        Raises: ValueError without CUDA, for a precision that there is not, or damaged weights.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("torch finds no CUDA device here; use --device cpu")
        if precision == "auto":
            precision = "bf16" if device == "cuda" else "f32"
        if precision not in ("f32", "bf16"):
            raise ValueError(f"the torch runtime has precision f32 and bf16, not '{precision}'; use --runtime openvino")
        self.model = model
        self.device = torch.device(device)
        self.precision = precision
        self.batch_size = batch_size
        network = load_network(model) if network is None else copy.deepcopy(network)
        if targets:
            with_targets(network, load_weights(model))
        self._network = network.eval().to(self.device).to(memory_format=torch.channels_last)
        leaves = summed_leaves(classes, model)
        self._leaves = None if leaves is None else torch.from_numpy(leaves).to(self.device)
        self._scores_end = model.classes if leaves is None else leaves.shape[1]  # columns of a row that are scores
        self._outputs = self._scores_end + (4 * (model.classes - 1) if targets else 0)  # behind them, targets

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores [N, 1 + classes] of `crops` uint8 [N, size, size, 3]; [N, 1000] with classes imagenet."""
        return self.score(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop]))

    def score(self, count: int, write: WriteCrops) -> Scores:
        """Return the scores of `count` crops that `write` makes, a batch at a time."""
        return self._rows(count, write)[:, : self._scores_end]

    def score_and_targets(self, count: int, write: WriteCrops) -> tuple[Scores, Targets]:
        """Return what `score` does, and the targets [N, classes, 4]; for a model loaded with targets."""
        return self._split(self._rows(count, write))

    def _split(self, rows: Scores) -> tuple[Scores, Targets]:
        end = self._scores_end
        return rows[:, :end], rows[:, end:].reshape(len(rows), self.model.classes - 1, 4)

    @torch.inference_mode()
    def _rows(self, count: int, write: WriteCrops) -> Scores:
        """Return scores, and targets behind them, of `count` crops that `write` makes: [N, outputs]."""
        rows = np.empty((count, self._outputs), np.float32)
        for start in range(0, count, self.batch_size):
            batch = np.empty((min(self.batch_size, count - start), *[self.model.size] * 2, 3), np.uint8)
            write(start, start + len(batch), batch)
            rows[start : start + len(batch)] = self._scores(torch.from_numpy(batch)).cpu().numpy()
        return rows

    def _input(self, batch: Tensor) -> Tensor:
        """Return what the network takes: uint8 [N, size, size, 3] -> float32 [N, 3, size, size], channels last."""
        x = batch.to(self.device).permute(0, 3, 1, 2).float()
        return (x - self.model.mean) / self.model.scale

    def _autocast(self) -> torch.autocast:
        # without its cache of converted weights, which a recorded CUDA graph must not hold
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False)

    def _scores(self, batch: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self._network(self._input(batch))
        rows = logits.flatten(1).float()
        logits, targets = rows[:, : self.model.classes], rows[:, self.model.classes :]
        if self.model.sharpness:
            logits = logits * (self.model.sharpness / logits.std(dim=1, correction=0, keepdim=True))
        scores = margin_scores(logits) if self.model.head == SVM else logits.softmax(dim=1)
        if self._leaves is not None:
            scores = scores @ self._leaves
        return torch.cat([scores, targets], dim=1) if targets.shape[1] else scores

    def describe(self) -> str:
        """Return in one line what runs where."""
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else "the CPU"
        return (
            f"{self.model.name} at {self.model.size} px, torch {torch.__version__} on {where}, {self.precision}, "
            f"batches of {self.batch_size}"
        )


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
