"""Networks on the CPU through OpenVINO: several streams, fixed batches, a cache of compiled models."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path

import numpy as np
import openvino as ov

from detector.classes import leaf_matrix
from detector.networks.openvino_graph import scores_model
from detector.runtimes.classifier import Crops, Scores
from detector.weights import Model, load_weights

PRECISIONS = ("f32", "bf16", "int8")


def cache_folder() -> Path | None:
    """Return the folder for compiled models, made if need be: $XDG_CACHE_HOME or ~/.cache, else None.

    A shared temporary folder is not used: compiled models are loaded as they are found.
    """
    base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    folder = Path(base) / "googlenet-rcnn" / "openvino"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


class OpenVinoClassifier:
    """A network compiled for this CPU. Each crop's scores do not depend on its batch or on the number of streams."""

    def __init__(self, model: Model, precision: str = "auto", batch_size: int = 8) -> None:
        """Build and compile. precision `auto`: int8 where the weights were trained for it, else bf16, else f32."""
        weights = load_weights(model)
        core = ov.Core()
        native = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "auto":
            precision = "int8" if weights.quantized else "bf16" if "BF16" in native else "f32"
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, got '{precision}'")
        if precision == "int8" and not weights.quantized:
            raise ValueError(f"{model.file}: holds no 8-bit intervals; use precision bf16 or f32")
        graph = scores_model(model, weights, leaf_matrix(), batch_size, precision == "int8")
        options: dict[str, object] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        folder = cache_folder()
        if folder:
            options["CACHE_DIR"] = str(folder)
        self.model = model
        self.precision = precision
        self.batch_size = batch_size
        self._compiled = core.compile_model(graph, "CPU", options)
        self._streams = int(self._compiled.get_property("NUM_STREAMS"))
        # one request more than streams, so that none of them waits while scores are copied
        self._requests = [self._compiled.create_infer_request() for _ in range(self._streams + 1)]
        self._outputs = leaf_matrix().shape[1]

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores [N, 1 + classes] of `crops` uint8 [N, size, size, 3]."""
        scores = np.empty((len(crops), self._outputs), np.float32)
        busy: deque[tuple[ov.InferRequest, int]] = deque()  # oldest first
        idle = list(self._requests)

        def collect() -> None:
            request, start = busy.popleft()
            request.wait()
            rows = scores[start : start + self.batch_size]
            rows[:] = request.get_output_tensor().data[: len(rows)]
            idle.append(request)

        for start in range(0, len(crops), self.batch_size):
            batch = crops[start : start + self.batch_size]
            if len(batch) < self.batch_size:  # the last one is filled up; its extra rows are dropped
                padding = np.zeros((self.batch_size - len(batch), *crops.shape[1:]), np.uint8)
                batch = np.concatenate([batch, padding])
            if not idle:
                collect()
            request = idle.pop()
            request.start_async({0: batch})
            busy.append((request, start))
        while busy:
            collect()
        return scores

    def describe(self) -> str:
        """Return in one line what runs where."""
        return (
            f"{self.model.name} at {self.model.size} px, OpenVINO {ov.__version__.split('-')[0]} on the CPU, "
            f"{self.precision}, {self._streams} streams, batches of {self.batch_size}"
        )
