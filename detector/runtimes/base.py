"""What every runtime is: `uint8 NHWC crops -> float32 scores`, and what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from detector.classes import leaf_matrix
from detector.model import Model

Crops = npt.NDArray[np.uint8]  # [N, size, size, 3] RGB
Scores = npt.NDArray[np.float32]  # [N, 1 + classes], column 0 is background
Deltas = npt.NDArray[np.float32]  # [N, classes, 4]: where the box regression moves a region (R-CNN, appendix C)
WriteCrops = Callable[[int, int, Crops], object]  # (start, stop, out): puts crops start..stop into out

CPU_BATCH = 8  # crops at a time on a CPU by default: the fastest measured
DET, IMAGENET = "det", "imagenet"  # what scores are of: background and the 200 detection classes, or ImageNet's 1,000


class Outputs(NamedTuple):
    """What a network makes of N crops; deltas: None for a network that was loaded without them."""

    scores: Scores
    deltas: Deltas | None


class Classifier(Protocol):
    """A network ready to run: crops in, scores of background and classes out, each 0..1.

    Each row sums to 1, except of a model with SVMs, whose classes are scored one by one: background then has 1 less
    the best of them.
    """

    model: Model

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores of `crops` [N, size, size, 3] -> [N, 1 + classes]; N may be 0."""
        ...

    def score(self, count: int, write: WriteCrops) -> Outputs:
        """Return the scores of `count` crops that `write` makes where the network wants them, a batch at a time.

        So the crops of an image need not all be there at once, and are made while the network works.
        """
        ...

    def describe(self) -> str:
        """Return in one line what runs where."""
        ...


class Features(Protocol):
    """The first layers of a network; `shapes`: (C, H, W) of each cut's features, then (outputs,) of the scores."""

    model: Model
    precision: str
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]  # the first of them

    def run(self, count: int, write: WriteCrops, *rows: npt.NDArray[np.floating]) -> None:
        """Fill `rows`, an array [count, *shape] for each of `shapes`, from `count` crops that `write` makes."""
        ...


def summed_leaves(classes: str, model: Model) -> npt.NDArray[np.float32] | None:
    """Return the matrix that adds a network's softmax scores into `classes`; None where they stay as they are.

    They do for imagenet, and for det where the network's outputs are background and its classes already.
    Raises: ValueError for other classes, or ImageNet's of a network that has not got them.
    """
    if classes not in (DET, IMAGENET):
        raise ValueError(f"classes must be {DET} or {IMAGENET}, got '{classes}'")
    if model.outputs == IMAGENET:
        return leaf_matrix() if classes == DET else None
    if classes == IMAGENET:
        raise ValueError(
            f"{model.file or model.name}: its {model.classes} outputs are background and classes of its own, not "
            "ImageNet's 1,000; take a network with those"
        )
    return None
