"""The learning rate of each step, and averages of the weights over the steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detector.training.options import LoopOptions


def learning_rate(o: LoopOptions, step: int, steps: int, steps_per_epoch: float) -> float:
    """Return the learning rate of step 0..steps-1.

    "step" multiplies by `decay` every so often (GoogLeNet section 6: 0.96 every 8 epochs; R-CNN: 0.1 every 20,000
    mini-batches); "cosine" falls from the full rate to zero (Loshchilov & Hutter 2017, without restarts). During the
    warm-up, step t has (t + 1) / (warmup_steps + 1) of it.
    """
    rate = o.learning_rate
    if o.schedule == "step":
        every = o.decay_steps or round(o.decay_epochs * steps_per_epoch)
        rate *= o.decay ** (step // every) if every else 1.0
    elif o.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate * min(1.0, (step + 1) / (o.warmup_steps + 1))


class Average:
    """The average of a network's weights, for the final model (GoogLeNet section 6: Polyak averaging).

    "equal": the mean over all steps from `average_from` on (Polyak & Juditsky 1992); "ema": exponential. Buffers that
    batch norm counts, and whatever is no floating number, are copied as they are. float32 throughout.
    """

    def __init__(self, kind: str, decay: float = 0.999) -> None:
        self.kind, self.decay = kind, decay
        self.count = 0
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the weights after a step into the average."""
        if self.kind == "none":
            return
        for name, value in network.state_dict().items():
            held = self.state.get(name)
            if held is None or not value.is_floating_point():
                self.state[name] = value.detach().clone()
            else:
                share = 1 / (self.count + 1) if self.kind == "equal" else 1 - self.decay
                held.lerp_(value.detach(), share)
        self.count += 1

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the state of the final model: the average, or the weights as they are where there is none."""
        return self.state if self.count else dict(network.state_dict())
