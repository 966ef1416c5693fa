"""The choice of a runtime: OpenVINO on a CPU, torch on CUDA, and torch wherever it is asked for."""

from __future__ import annotations

from pathlib import Path

from detector.model import Model
from detector.runtimes.base import CPU_BATCH, DET, Classifier


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
        from detector.runtimes.openvino import OpenVinoClassifier

        return OpenVinoClassifier(model, precision, batch_size or CPU_BATCH, classes, targets=targets)
    if device == "cuda":
        from detector.runtimes.cuda_runtime import CudaClassifier

        return CudaClassifier(model, precision, batch_size, classes, targets=targets)
    from detector.runtimes.torch import TorchClassifier

    return TorchClassifier(model, device, precision, batch_size or CPU_BATCH, classes, targets=targets)


def _cuda_driver() -> bool:
    """Whether an NVIDIA driver is loaded; asked first, because importing torch takes over a second."""
    return Path("/proc/driver/nvidia/version").exists() or Path("C:/Windows/System32/nvcuda.dll").exists()


def _cuda_works() -> bool:
    import torch

    return torch.cuda.is_available()
