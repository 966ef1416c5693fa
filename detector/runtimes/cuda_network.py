"""What makes a network fast on CUDA: bfloat16 weights, ReLU inside the convolution, one recorded graph a batch size.

Each of them is tried on the network at hand and left out, with one line in the log, where it does not work.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from detector.networks.torch_module import ConvReLU

LOG = logging.getLogger("detector")
WARM_UP = 3  # runs before a graph is recorded: cuDNN chooses its kernels in the first
TOLERANCE = 0.05  # of the logits' norm; bfloat16 keeps 8 bits, and another kernel sums in another order

Operation = Callable[..., Tensor]  # the signature of torch.cudnn_convolution_relu


class FusedConvReLU(nn.Module):
    """Convolution, bias and ReLU as one kernel of cuDNN, which writes its output once instead of three times."""

    def __init__(self, conv: nn.Conv2d, operation: Operation) -> None:
        super().__init__()
        self.conv = conv
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W'], in the type of the weights."""
        c = self.conv
        x = x.to(c.weight.dtype)
        return self.operation(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups)


def fuse_relu(network: nn.Module, operation: Operation = torch.cudnn_convolution_relu) -> nn.Module:
    """Return a copy of `network` in which `operation` runs each convolution that a ReLU follows."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvReLU) and child.relu and child.norm is None:
                setattr(parent, name, FusedConvReLU(child.conv, operation))
    return network


def compile_copy(network: nn.Module) -> nn.Module:
    """Return a copy of `network` that torch.compile compiles at its first input of each shape."""
    network = copy.deepcopy(network)
    network.compile(dynamic=False)
    return network


def halve_weights(network: nn.Module) -> None:
    """Convert the weights of convolutions and linear layers to bfloat16, once instead of at each batch."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.to(torch.bfloat16)


def fastest(
    network: nn.Module, example: Tensor, forms: Mapping[str, Callable[[nn.Module], nn.Module]]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return `network` in all of `forms` (what it is called, how it is made) that work, and their names.

    example: an input [B, 3, H, W]. A form that raises, or gives other logits than the network as it is, is left out.
    """
    expected = network(example).float()
    taken: list[str] = []
    for name, form in forms.items():
        try:
            candidate = form(network)
            error = (candidate(example).float() - expected).norm()
        except Exception as cause:  # the compilers and cuDNN raise what they like
            reason = (str(cause).strip().splitlines() or [""])[0]
            LOG.warning("%s does not work here and is left out (%s: %s)", name, type(cause).__name__, reason)
            continue
        if error <= TOLERANCE * expected.norm():  # false for NaN
            network = candidate
            taken.append(name)
        else:
            LOG.warning("%s gives other scores here and is left out", name)
    return network, tuple(taken)


class FixedBatch:
    """A function of a fixed number of crops, recorded as a CUDA graph where that works; fewer crops are filled up.

    Not for several threads at once: there is one input.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], crops: Tensor) -> None:
        """Record `function`; crops: its input, uint8 [B, size, size, 3] on the device, kept and written over."""
        self._function = function
        self._crops = crops
        self._graph: torch.cuda.CUDAGraph | None = None
        self._scores: Tensor | None = None
        if crops.is_cuda:
            self._record()

    @property
    def recorded(self) -> bool:
        """Whether a CUDA graph runs."""
        return self._graph is not None

    def _record(self) -> None:
        for _ in range(WARM_UP):
            self._function(self._crops)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                scores = self._function(self._crops)
        except RuntimeError as error:
            LOG.warning("no CUDA graph, each kernel is launched on its own (%s)", str(error).strip().splitlines()[0])
            return
        self._graph, self._scores = graph, scores

    def __call__(self, crops: Tensor, out: Tensor) -> None:
        """Write the scores of `crops` [n, size, size, 3] to `out` [n, outputs]; n at most the fixed number."""
        self._crops[: len(crops)].copy_(crops, non_blocking=True)  # rows beyond hold older crops; nobody reads them
        if self._graph is None or self._scores is None:
            out.copy_(self._function(self._crops)[: len(crops)])
        else:
            self._graph.replay()
            out.copy_(self._scores[: len(crops)])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says that the device's memory is used up; cuDNN and cuBLAS say it in their own words."""
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error) or "out of memory" in str(error)


def in_steps(count: int, size: int, work: Callable[[int, int], None], halved: Callable[[int], None]) -> None:
    """Call `work(start, stop)` over 0..count in steps of `size`; where memory runs out, again in steps of half.

    halved: called with the new size before the next attempt, to let go of what it no longer needs.
    Raises: ValueError when not even a step of one fits.
    """
    start, asked = 0, size
    while start < count:
        stop = min(start + size, count)
        try:
            work(start, stop)
            start = stop
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # outside of `except`, whose error holds what the attempt allocated
        if size == 1:
            raise ValueError(
                f"the device's memory is not enough for one crop at a time (--batch-size was {asked}); end what else "
                "uses it, choose a smaller --crop-size, or use --device cpu"
            )
        size //= 2
        LOG.warning("the device's memory is used up; going on with a --batch-size of %d", size)
        halved(size)
