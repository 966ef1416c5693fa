"""The interface of a runtime, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detector.classes import leaf_matrix
from detector.model import Model

Crops = npt.NDArray[np.uint8]  # [N, size, size, 3] RGB
Scores = npt.NDArray[np.float32]  # [N, 1 + classes], column 0 is background
Targets = npt.NDArray[np.float32]  # [N, classes, 4], for proposals.box_coding.apply_targets
WriteCrops = Callable[[int, int, Crops], object]  # (start, stop, out): puts crops start..stop into out

CPU_BATCH = 8  # crops at a time on a CPU where nobody asks otherwise: the fastest measured
DET, IMAGENET = "det", "imagenet"  # what scores are of: background and the 200 detection classes, or ImageNet's 1,000


class Classifier(Protocol):
    """A network ready to run: crops in, scores of background and classes out, each 0..1.

    Each row sums to 1, except of a model with SVMs, whose classes are scored one by one: background then has 1 less
    the best of them.
    """

    model: Model

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores of `crops` [N, size, size, 3] -> [N, 1 + classes]; N may be 0."""
        ...

    def score(self, count: int, write: WriteCrops) -> Scores:
        """Return the scores of `count` crops that `write` makes where the network wants them, a batch at a time.

        So the crops of a picture need not all be there at once, and are made while the network works.
        """
        ...

    def score_and_targets(self, count: int, write: WriteCrops) -> tuple[Scores, Targets]:
        """Return what `score` does, and the targets of the box regression; for networks loaded with targets."""
        ...

    def describe(self) -> str:
        """Return in one line what runs where."""
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


def load_classifier(
    model: Model, runtime: str, device: str, precision: str, batch_size: int, classes: str = DET, targets: bool = False
) -> Classifier:
    """Return `model` loaded into a runtime.

    runtime: auto, openvino or torch; device: auto, cpu or cuda; precision: auto, f32, bf16 or int8; batch_size: 0 for
    what suits the device; classes: det, or imagenet for the 1,000 softmax scores of the network as they are, without
    background: scores are then [N, 1000]; targets: make those of the box regression too, which the model must have.
    `auto` takes CUDA where a driver is present, through torch, and otherwise
    OpenVINO on the CPU; a network that only torch has runs in torch. Raises: ValueError for a combination that does
    not exist, or damaged weights.
    """
    if targets and not model.boxes:
        raise ValueError(
            f"{model.file or model.name}: has no box regression; train one with python -m detector.train bbox"
        )
    if device == "auto":
        wanted = runtime != "openvino" and precision != "int8"
        device = "cuda" if wanted and _cuda_driver() and _cuda_works() else "cpu"
    if runtime == "auto":
        runtime = "openvino" if device == "cpu" and model.file else "torch"
    if runtime == "openvino":
        if device == "cuda":
            raise ValueError("OpenVINO does not run on CUDA; use --runtime torch, or --device cpu")
        from detector.runtimes.openvino_runtime import OpenVinoClassifier

        return OpenVinoClassifier(model, precision, batch_size or CPU_BATCH, classes, targets=targets)
    if device == "cuda":
        from detector.runtimes.cuda_runtime import CudaClassifier

        return CudaClassifier(model, precision, batch_size, classes, targets=targets)
    from detector.runtimes.torch_runtime import TorchClassifier

    return TorchClassifier(model, device, precision, batch_size or CPU_BATCH, classes, targets=targets)


def _cuda_driver() -> bool:
    """Whether an NVIDIA driver is loaded; asked first, because importing torch takes over a second."""
    return Path("/proc/driver/nvidia/version").exists() or Path("C:/Windows/System32/nvcuda.dll").exists()


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()
