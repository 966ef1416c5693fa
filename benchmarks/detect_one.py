"""One 500x375 picture: cold start, time per stage, crops/s and peak memory; beside it the naive peer, same run.

  python benchmarks/detect_one.py [--runs 5]

Then the same picture through one and six GoogLeNets of random weights at 224 px (8 bits), and six with a cascade that
spares as many regions as `--spared` says (what the real ensemble of benchmarks/ensemble.py spares at its threshold).

The peer is what people patch together today: OpenCV's "fast" Selective Search and torchvision's GoogLeNet in float32
torch, crop by crop in batches of 128 (random weights; they do not matter for the time).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from machine import machine
from random_googlenet import dog, random_googlenet

from detector.detector import Detector
from detector.drawing import save_picture
from detector.options import DetectOptions
from proposals.images import Image

PEER_BATCH = 128
PEER_SIZE = 224
MEMBERS = 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def command_seconds(picture: Path, cache: Path, model: str) -> float:
    """Return the wall seconds of a whole `detect` process on `picture`, its model cache at `cache`."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "detector.cli", str(picture), "--format", "json", "--quiet", "--model", model],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    return time.perf_counter() - start


def ours(image: Image, runs: int, model: str) -> dict[str, float]:
    """Return the median seconds of each stage, and crops and peak memory of this process so far."""
    start = time.perf_counter()
    detector = Detector(DetectOptions(model=model))
    loading = time.perf_counter() - start
    traces = [detector.trace(image) for _ in range(runs + 1)][1:]
    stages = {name: statistics.median(t.seconds[name] for t in traces) for name in traces[0].seconds}
    total = statistics.median(sum(t.seconds.values()) for t in traces)
    print(detector.describe())
    return {"load": loading, **stages, "total": total, "crops": traces[0].crops, "memory": peak_memory()}


def peer(image: Image, runs: int) -> dict[str, float]:
    """Return the median seconds of the naive pipeline's stages."""
    import torch
    from torchvision.models import googlenet

    start = time.perf_counter()
    network = googlenet(weights=None, aux_logits=False, init_weights=False).eval()
    loading = time.perf_counter() - start
    rows = []
    for _ in range(runs):
        marks = [time.perf_counter()]
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
        search.switchToSelectiveSearchFast()
        rects = search.process()
        marks.append(time.perf_counter())
        crops = [cv2.resize(image[y : y + h, x : x + w], (PEER_SIZE, PEER_SIZE)) for x, y, w, h in rects]
        marks.append(time.perf_counter())
        with torch.inference_mode():
            for first in range(0, len(crops), PEER_BATCH):
                batch = (np.stack(crops[first : first + PEER_BATCH]).astype(np.float32) / 255 - MEAN) / STD
                network(torch.from_numpy(batch.astype(np.float32)).permute(0, 3, 1, 2).contiguous()).softmax(1)
        marks.append(time.perf_counter())
        rows.append((*np.diff(marks).tolist(), marks[-1] - marks[0]))
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    names = ("propose", "crop", "classify", "total")
    return {"load": loading, **dict(zip(names, middle, strict=True)), "crops": len(rects), "memory": peak_memory()}


def googlenets(runs: int, spared: float) -> list[tuple[str, float, float]]:
    """Return (what, seconds in all, crops/s) of one and six GoogLeNets on the picture, and six with a cascade."""
    rows = []
    image = dog()
    with tempfile.TemporaryDirectory() as name:
        files = [random_googlenet(Path(name), seed).file for seed in range(MEMBERS)]
        alone = Detector(DetectOptions(model=files[0]))
        background = alone.trace(image).scores[:, 0]
        cascade = float(np.quantile(background, 1 - spared))
        whole = Detector(DetectOptions(model=files[0], ensemble=",".join(files[1:])))
        sparing = Detector(DetectOptions(model=files[0], ensemble=",".join(files[1:]), cascade=cascade))
        share = f"{1 - sparing.trace(image).asked[1] / len(background):.0%}"
        for what, detector in (
            ("one GoogLeNet", alone),
            ("six GoogLeNets", whole),
            (f"six, cascade sparing {share}", sparing),
        ):
            traces = [detector.trace(image) for _ in range(runs + 1)][1:]
            seconds = statistics.median(sum(t.seconds.values()) for t in traces)
            rows.append((what, seconds, traces[0].crops / statistics.median(t.seconds["classify"] for t in traces)))
    return rows


def peak_memory() -> float:
    """Return the peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default=DetectOptions().model)
    parser.add_argument("--spared", type=float, default=0.1, help="share of the regions that a cascade spares")
    args = parser.parse_args()
    print(machine())
    image = dog()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_picture(folder / "dog.png", image)
        command = folder / "dog.png", folder / "cache", args.model
        cold = command_seconds(*command)
        warm = statistics.median(command_seconds(*command) for _ in range(args.runs))
    mine = ours(image, args.runs, args.model)
    print(
        f"detect, whole process, one 500x375 picture: {cold:.2f} s with an empty model cache, "
        f"{warm:.2f} s with a warm one"
    )
    print(f"start-up beyond the stages (warm): {warm - mine['total']:.2f} s")
    several = googlenets(max(1, args.runs // 2), args.spared)
    theirs = peer(image, max(1, args.runs // 2))
    print(f"\n{'':10}{'ours':>10}{'naive peer':>12}{'ratio':>8}")
    for stage in ("propose", "crop", "classify", "suppress", "total"):
        other = f"{theirs[stage]:10.3f} s{theirs[stage] / mine[stage]:7.1f}x" if stage in theirs else ""
        print(f"{stage:10}{mine[stage]:8.3f} s{other}")
    speeds = [run["crops"] / run["classify"] for run in (mine, theirs)]
    print(f"{'regions':10}{mine['crops']:10.0f}{theirs['crops']:12.0f}")
    print(f"{'crops/s':10}{speeds[0]:10.0f}{speeds[1]:12.0f}{speeds[0] / speeds[1]:7.1f}x")
    for what, seconds, speed in several:
        print(f"{what:28}{seconds:7.2f} s{theirs['total'] / seconds:7.1f}x{speed:8.0f} crops/s")
    print(f"{'peak MB':10}{mine['memory']:10.0f}{theirs['memory']:12.0f}   (the peer's includes ours: one process)")


if __name__ == "__main__":
    main()
