"""Exported networks: read back, run on crops and compared with our own runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from detector.agreement import Agreement, agreement
from detector.model import Model
from detector.runtimes.classifier import Crops, Scores, load_classifier

ONNX, IR = ".onnx", ".xml"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `export`
BATCH = 8


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from our runtime: largest difference of a score, least share of equal top classes."""

    largest: float
    top: float


TOLERANCES = {
    "f32": Tolerance(1e-4, 0.99),
    "bf16": Tolerance(0.05, 0.95),  # weights are rounded to 16 bits before they are rounded to bf16
    "int8": Tolerance(0.2, 0.9),  # one level of 256 in an early layer moves scores; runtimes round ties differently
}


def compare(model: Model, file: Path, precision: str, crops: Crops) -> Agreement:
    """Return how far the scores of an exported file are from those of our own runtime.

    Raises: ValueError for a file that cannot be run or takes other crops, OSError when it cannot be read.
    """
    reference = load_classifier(model, "auto", "cpu", precision, BATCH)(crops)
    return agreement(run_file(file, crops, precision), reference)


def check(result: Agreement, out: Path, precision: str) -> None:
    """Raise ValueError when `result` is beyond the tolerance of `precision`."""
    tolerance = TOLERANCES[precision]
    if result.largest > tolerance.largest or result.top < tolerance.top:
        raise ValueError(
            f"{out}: differs from our runtime beyond the tolerance of {precision} ({tolerance.largest:g} at most, top "
            f"class equal on {tolerance.top:.0%}); {result}"
        )


def require_packages() -> None:
    """Raise ValueError where a package that ONNX files need is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX files need {' and '.join(missing)}; pip install 'googlenet-rcnn[export]', or give .xml")


def run_file(file: Path, crops: Crops, precision: str) -> Scores:
    """Return the scores [N, 1 + classes] of an exported file, its batches of 1, 5 and 8 where it takes any.

    Raises: ValueError for a file that cannot be run or takes other crops, OSError when it cannot be read.
    """
    with file.open("rb"):
        pass
    try:
        shape, infer = (_onnx_session if file.suffix == ONNX else _ir_request)(file, precision)
        if shape[1:] != crops.shape[1:]:
            raise ValueError(f"{file}: takes {list(shape[1:])}, the model's crops are {list(crops.shape[1:])}")
        parts, start = [], 0
        for size in _sizes(shape[0], len(crops)):
            batch = crops[start : start + size]
            missing = (shape[0] or len(batch)) - len(batch)
            filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.uint8)])
            parts.append(infer(filled)[: len(batch)].copy())
            start += size
    except ValueError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise ValueError(f"{file}: cannot be run: {str(error).strip().splitlines()[-1]}") from None
    return np.concatenate(parts)


def _sizes(batch: int, count: int) -> Iterator[int]:
    """Yield sizes of batches that cover `count` crops: `batch`, or for 0 (any) 1, 5, 8, 8, ..."""
    sizes = iter((1, 5))
    while count > 0:
        size = batch or next(sizes, BATCH)
        yield size
        count -= size


Infer = tuple[tuple[int, ...], "Callable[[Crops], Scores]"]  # input shape, 0 for any; and what runs a batch


def _onnx_session(file: Path, precision: str) -> Infer:
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    (crops,) = session.get_inputs()
    shape = tuple(side if isinstance(side, int) else 0 for side in crops.shape)
    return shape, lambda batch: np.asarray(session.run(None, {crops.name: batch})[0], np.float32)


def _ir_request(file: Path, precision: str) -> Infer:
    from detector.runtimes.openvino_core import core

    hint = "bf16" if precision == "bf16" else "f32"
    compiled = core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    shape = compiled.input(0).get_partial_shape()
    sides = tuple(0 if side.is_dynamic else side.get_length() for side in shape)
    return sides, lambda batch: np.asarray(compiled(batch)[0], np.float32)
