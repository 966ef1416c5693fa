"""The interface of a runtime, and the choice of one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detector.weights import Model

Crops = npt.NDArray[np.uint8]  # [N, size, size, 3] RGB
Scores = npt.NDArray[np.float32]  # [N, 1 + classes], column 0 is background


class Classifier(Protocol):
    """A network ready to run: crops in, scores of background and classes out; each row sums to 1."""

    model: Model

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores of `crops` [N, size, size, 3] -> [N, 1 + classes]; N may be 0."""
        ...

    def describe(self) -> str:
        """Return in one line what runs where."""
        ...


def load_classifier(model: Model, runtime: str, device: str, precision: str, batch_size: int) -> Classifier:
    """Return `model` loaded into a runtime.

    runtime: auto, openvino or torch; device: auto, cpu or cuda; precision: auto, f32, bf16 or int8.
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

        return OpenVinoClassifier(model, precision, batch_size)
    from detector.runtimes.torch_runtime import TorchClassifier

    return TorchClassifier(model, device, precision, batch_size)


def _cuda_driver() -> bool:
    """Whether an NVIDIA driver is loaded; asked first, because importing torch takes over a second."""
    return Path("/proc/driver/nvidia/version").exists() or Path("C:/Windows/System32/nvcuda.dll").exists()


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()
