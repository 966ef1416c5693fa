"""Crops a second of the torch runtime on a GPU, by network, batch size, precision, and with torch.compile.

  python benchmarks/gpu.py [--sizes 64,256] [--compile]

The shipped Inception-v3 at 160 px and a GoogLeNet of random weights at 224 px, crops in memory: what is measured is
their way to the device and the network. Without a GPU it says that there is none.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from machine import machine

from detector.model import find_model
from detector.networks.torch_module import torch_network
from detector.runtimes.torch import TorchClassifier

BATCHES, RUNS = 4, 5
SHIPPED = find_model("inception_v3")
RANDOM = replace(SHIPPED, name="googlenet", network="googlenet", file="", sha256="", size=224, sharpness=0.0)


def crops_a_second(classifier: TorchClassifier) -> float:
    """Return the median over `RUNS` of `BATCHES` batches each, after one run that is not counted."""
    size, count = classifier.model.size, BATCHES * classifier.batch_size
    crops = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    classifier(crops)
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        classifier(crops)  # returns when the scores are back on the host
        seconds.append(time.perf_counter() - begin)
    return count / statistics.median(seconds)


def measure(device: str, sizes: list[int], compiled: bool) -> None:
    """Print a row for each network, precision and batch size."""
    torch.manual_seed(0)
    networks = {SHIPPED: None, RANDOM: torch_network(RANDOM.layers)}
    for model, network in networks.items():
        for precision in ("f32", "bf16"):
            for size in sizes:
                classifier = TorchClassifier(model, device, precision, size, network=network, compiled=compiled)
                print(f"{crops_a_second(classifier):9,.0f} crops/s  {classifier.describe()}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,256", metavar="N,N", help="crops at a time (default: 64,256)")
    parser.add_argument("--compile", action="store_true", help="through torch.compile, which takes minutes")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no GPU: torch finds no CUDA device here, so nothing was measured")
        return
    print(
        f"{machine()}; {torch.cuda.get_device_name()}; torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True
    )
    measure("cuda", [int(size) for size in args.sizes.split(",")], args.compile)


if __name__ == "__main__":
    main()
