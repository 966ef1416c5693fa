"""Crops a second of GoogLeNet and Inception-v3 by runtime, precision and streams, beside the machine's matrix peak.

  python benchmarks/classify.py
  python benchmarks/classify.py --crops 96       # shorter

GoogLeNet has random weights in its batch-norm form (folded: plain convolutions), 201 outputs, crops of 224 px; one row
is the paper's with local response normalisation. Crops are those of a real picture's proposals, in memory; the median
of three runs after one that is not counted. The share is of the peak of the same precision: 2 x multiply-adds a crop x
crops a second over the most that large matrix products and convolutions reach here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
from machine import machine
from openvino import opset13 as ops
from random_googlenet import SIZE, crops_of, dog, random_googlenet

from detector.model import Model, find_model
from detector.networks.layers import cost
from detector.runtimes.compiled import core
from detector.runtimes.openvino import OpenVinoClassifier
from detector.runtimes.torch import TorchClassifier

MATRIX = 2048
CHANNELS, GRID, DEPTH = 512, 28, 4
RUNS = 3
Run = Callable[[np.ndarray], object]


def peaks() -> dict[str, float]:
    """Return the operations a second that this machine reaches, by precision: the best of a product of two large
    matrices in torch and numpy, and a stack of large 3x3 convolutions in OpenVINO.
    """
    import torch

    found = {}
    for name, kind in (("f32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.int8)):
        a = (torch.rand(MATRIX, MATRIX) * 100).to(kind)
        b = (torch.rand(MATRIX, MATRIX) * 100).to(kind)
        multiply = torch._int_mm if kind == torch.int8 else torch.mm
        seconds = _median(lambda a=a, b=b, multiply=multiply: multiply(a, b))
        found[name] = max(2 * MATRIX**3 / seconds, convolution_peak(name))
    a = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    found["f32"] = max(found["f32"], 2 * MATRIX**3 / _median(lambda: a @ a))
    return found


def convolution_peak(precision: str) -> float:
    """Return the operations a second of DEPTH convolutions 3x3 of CHANNELS channels on a 28x28 grid, 8 pictures."""
    random = np.random.default_rng(0)
    x = data = ops.parameter([8, CHANNELS, GRID, GRID], np.float32)
    for _ in range(DEPTH):
        kernel = random.normal(0, 0.01, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        weights: ov.Node = ops.constant(kernel)
        if precision == "int8":
            x = ops.fake_quantize(x, *[np.float32(v) for v in (0, 4, 0, 4)], 256)
            scale = np.float32(np.abs(kernel).max() / 127)
            weights = ops.multiply(ops.convert(ops.constant(np.round(kernel / scale).astype(np.int8)), "f32"), scale)
        x = ops.relu(ops.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
    hint = "bf16" if precision == "bf16" else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = core().compile_model(ov.Model([ops.result(x)], [data]), "CPU", options).create_infer_request()
    pixels = random.random((8, CHANNELS, GRID, GRID), np.float32)
    operations = 2 * 8 * GRID * GRID * 9 * CHANNELS * CHANNELS * DEPTH
    return operations / _median(lambda: request.infer({0: pixels}))


def _median(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--crops", type=int, default=640, help="of the fast runtimes; torch takes a fifth (default: 640)"
    )
    args = parser.parse_args()
    peak = peaks()
    print(machine())
    print("matrix peak: " + ", ".join(f"{name} {value / 1e12:.2f} T/s" for name, value in peak.items()))
    image = dog()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batch, paper = random_googlenet(folder, 0), random_googlenet(folder, 1, norm="lrn")
        inception = find_model("inception_v3")
        print(f"{'network':22}{'runtime':14}{'precision':>10}{'streams':>9}{'crops/s':>9}{'of peak':>9}")
        rows: list[tuple[str, Model, str, str, int]] = [
            ("GoogLeNet 224 px", batch, "torch", "f32", 0),
            ("GoogLeNet 224 px", batch, "torch", "bf16", 0),
            *(
                ("GoogLeNet 224 px", batch, "OpenVINO", precision, streams)
                for precision in ("f32", "bf16", "int8")
                for streams in (1, 2)
            ),
            ("with LRN (paper)", paper, "OpenVINO", "bf16", 2),
            ("GoogLeNet 160 px", replace(batch, size=160), "OpenVINO", "int8", 2),
            ("Inception-v3 160 px", replace(inception, size=160), "OpenVINO", "bf16", 2),
            ("Inception-v3 160 px", replace(inception, size=160), "OpenVINO", "int8", 2),
        ]
        for title, model, runtime, precision, streams in rows:
            count = args.crops if runtime == "OpenVINO" else max(8, args.crops // 5)
            crops = crops_of(image, model.size, count)
            run: Run
            if runtime == "OpenVINO":
                run = OpenVinoClassifier(model, precision, 8, streams=streams)
            else:
                run = TorchClassifier(model, "cpu", precision, 32)
            speed = count / _median(lambda run=run, crops=crops: run(crops))
            share = 2 * cost(model.layers, (3, model.size, model.size)).multiply_adds * speed / peak[precision]
            print(f"{title:22}{runtime:14}{precision:>10}{streams or '-':>9}{speed:9.0f}{share:9.0%}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{title}", end="\r", file=sys.stderr)
    print(f"crops of {SIZE} px are GoogLeNet's own; batches of 8 in OpenVINO, of 32 in torch")


if __name__ == "__main__":
    main()
