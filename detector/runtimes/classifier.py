"""The interface of a runtime, and the choice of one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detector.classes import leaf_matrix
from detector.weights import Model

Crops = npt.NDArray[np.uint8]  # [N, size, size, 3] RGB
Scores = npt.NDArray[np.float32]  # [N, 1 + classes], column 0 is background

DET, IMAGENET = "det", "imagenet"  # what scores are of: background and the 200 detection classes, or ImageNet's 1,000


class Classifier(Protocol):
    """A network ready to run: crops in, scores of background and classes out; each row sums to 1."""

    model: Model

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores of `crops` [N, size, size, 3] -> [N, 1 + classes]; N may be 0."""
        ...

    def describe(self) -> str:
        """Return in one line what runs where."""
        ...


def summed_leaves(classes: str) -> npt.NDArray[np.float32] | None:
    """Return the matrix that adds a network's softmax scores into `classes`: leaf_matrix() for det, None for imagenet.

    Raises: ValueError for other classes.
    """
    if classes not in (DET, IMAGENET):
        raise ValueError(f"classes must be {DET} or {IMAGENET}, got '{classes}'")
    return leaf_matrix() if classes == DET else None


def load_classifier(
    model: Model, runtime: str, device: str, precision: str, batch_size: int, classes: str = DET
) -> Classifier:
    """Return `model` loaded into a runtime.

    runtime: auto, openvino or torch; device: auto, cpu or cuda; precision: auto, f32, bf16 or int8; classes: det, or
    imagenet for the 1,000 softmax scores of the network as they are, without background: scores are then [N, 1000].
    `auto` takes CUDA where a driver is present, through torch, and otherwise OpenVINO on the CPU; a network that
    only torch has runs in torch. Raises: ValueError for a combination that does not exist, or damaged weights.
    """
    if device == "auto":
        wanted = runtime != "openvino" and precision != "int8"
        device = "cuda" if wanted and _cuda_driver() and _cuda_works() else "cpu"
    if runtime == "auto":
        runtime = "openvino" if device == "cpu" and model.file else "torch"
    if runtime == "openvino":
        if device == "cuda":
            raise ValueError("OpenVINO does not run on CUDA; use --runtime torch, or --device cpu")
        from detector.runtimes.openvino_runtime import OpenVinoClassifier

        return OpenVinoClassifier(model, precision, batch_size, classes)
    from detector.runtimes.torch_runtime import TorchClassifier

    return TorchClassifier(model, device, precision, batch_size, classes)


def _cuda_driver() -> bool:
    """Whether an NVIDIA driver is loaded; asked first, because importing torch takes over a second."""
    return Path("/proc/driver/nvidia/version").exists() or Path("C:/Windows/System32/nvcuda.dll").exists()


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()
