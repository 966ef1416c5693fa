"""The choice of a runtime: OpenVINO on a CPU, torch on CUDA, and torch wherever it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detector.model import Model
from detector.runtimes.base import CPU_BATCH, DET, Classifier, Features


def load_classifier(
    model: Model, runtime: str, device: str, precision: str, batch_size: int, classes: str = DET, deltas: bool = False
) -> Classifier:
    """Return `model` loaded into a runtime.

    runtime: auto, openvino or torch; device: auto, cpu or cuda; precision: auto, f32, bf16 or int8; batch_size: 0 for
    what suits the device; classes: det, or imagenet for the 1,000 softmax scores of the network as they are, without
    background: scores are then [N, 1000]; deltas: make those of the box regression too, which the model must have.
    `auto` takes CUDA where a driver is present, through torch, and otherwise OpenVINO on the CPU; a network that only
    torch has runs in torch. Raises: ValueError for a combination that does not exist, or damaged weights.
    """
    if deltas and not model.has_box_regression:
        raise ValueError(
            f"{model.file or model.name}: has no box regression; train one with python -m detector.train bbox"
        )
    if device == "auto":
        device = "cuda" if runtime != "openvino" and precision != "int8" and cuda_works() else "cpu"
    if runtime == "auto":
        runtime = "openvino" if device == "cpu" and model.file else "torch"
    if runtime == "openvino":
        if device == "cuda":
            raise ValueError("OpenVINO does not run on CUDA; use --runtime torch, or --device cpu")
        from detector.runtimes.openvino import OpenVinoClassifier

        return OpenVinoClassifier(model, precision, batch_size or CPU_BATCH, classes, deltas=deltas)
    from detector.runtimes.torch import TorchClassifier

    return TorchClassifier(model, device, precision, batch_size, classes, deltas=deltas)


def load_features(
    model: Model, cut: int | Sequence[int], precision: str, device: str = "cpu", scores: bool = False
) -> Features:
    """Return the first `cut` layers of `model`, with several cuts the features behind each.

    precision: auto, f32, bf16 or int8; device: cpu (OpenVINO) or cuda (torch); scores: compute the network's own
    softmax scores too. Raises: OSError when the weights cannot be read; ValueError when they are damaged, or have no
    such precision there.
    """
    if device == "cuda":
        from detector.runtimes.torch import TorchFeatures

        return TorchFeatures(model, cut, device, precision, scores)
    from detector.runtimes.openvino import OpenVinoFeatures

    return OpenVinoFeatures(model, cut, precision, scores)


def cuda_works() -> bool:
    """Return whether torch finds a GPU. The driver is looked for first, as importing torch takes over a second."""
    if not (Path("/proc/driver/nvidia/version").exists() or Path("C:/Windows/System32/nvcuda.dll").exists()):
        return False
    import torch

    return torch.cuda.is_available()
