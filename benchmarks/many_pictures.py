"""Many pictures: pictures/s one after another and overlapped, and peak memory after 20 and after 200 of them.

  python benchmarks/many_pictures.py [--pictures 200] [--ahead 2] [--size 500x375] [--model NAME] [--memory]

Each way runs in a process of its own on the same pictures, the samples in turn, saved at `--size` (0: as they are);
reading, proposals, crops, network and suppression are timed together, loading and one warm-up picture are not. --memory
runs the overlapped way alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from machine import machine
from PIL import Image

from detector.detector import Detector, Trace
from detector.options import DetectOptions
from detector.samples import samples_folder
from detector.stream import detect_stream
from proposals.images import read_image

EARLY = 20  # pictures after which memory is looked at first


def peak_memory() -> float:
    """Return the peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def traces(items: Iterable[Path], detector: Detector, ahead: int) -> Iterator[Trace]:
    """Yield what the detector makes of each picture; `ahead` 0: one after another, without threads."""
    if not ahead:
        yield from (detector.trace(read_image(path)) for path in items)
        return
    for _, result, _ in detect_stream(items, read_image, lambda: detector, ahead):
        if isinstance(result, Exception):
            raise result
        yield result


def measure(folder: Path, pictures: int, ahead: int, model: str) -> dict[str, float]:
    """Return pictures/s and CPU-s a picture, the seconds of each stage, and MB after `EARLY` and all pictures."""
    paths = sorted(folder.glob("*.png"))
    detector = Detector(DetectOptions(model=model))
    detector(read_image(paths[0]))
    stages: dict[str, float] = {}
    early = crops = detections = 0.0
    begin, cpu = time.perf_counter(), time.process_time()
    items = itertools.islice(itertools.cycle(paths), pictures)
    for number, trace in enumerate(traces(items, detector, ahead), start=1):
        for stage, seconds in trace.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds / pictures
        crops += trace.crops / pictures
        detections += len(trace.detections)
        if number == min(EARLY, pictures):
            early = peak_memory()
    wall, work = time.perf_counter() - begin, time.process_time() - cpu
    speed = {"pictures/s": pictures / wall, "CPU-s a picture": work / pictures}
    found = {"regions": crops, "detections": detections}
    return {**speed, **stages, **found, "MB early": early, "MB": peak_memory()}


def save_samples(folder: Path, size: str) -> None:
    """Save the sample pictures in `folder` as PNG, at `size` such as 500x375, or as they are with 0."""
    for path in samples_folder().glob("*.jpg"):
        with Image.open(path) as image:
            wanted = image.size if size == "0" else tuple(int(side) for side in size.split("x"))
            image.convert("RGB").resize((wanted[0], wanted[1])).save(folder / f"{path.stem}.png")


def main() -> None:
    """Print the table; with --way the figures of one way, for the process that prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--ahead", type=int, default=2)
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--model", default=DetectOptions.model)
    parser.add_argument("--memory", action="store_true", help="only the overlapped way")
    parser.add_argument("--way", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way is not None:
        print(json.dumps(measure(args.way, args.pictures, args.ahead, args.model)))
        return
    print(machine())
    print(f"{args.pictures} pictures, {args.size}, {args.model}; overlapped: {args.ahead} read ahead")
    with tempfile.TemporaryDirectory() as name:
        save_samples(Path(name), args.size)
        ways = []
        for ahead in (args.ahead,) if args.memory else (0, args.ahead):
            command = [sys.executable, __file__, "--way", name, "--pictures", str(args.pictures), "--ahead", str(ahead)]
            command += ["--model", args.model]
            ways.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    labels = {"MB early": f"MB after {min(EARLY, args.pictures)}", "MB": f"MB after {args.pictures}"}
    if args.memory:
        for key, value in ways[0].items():
            print(f"{labels.get(key, key):20}{value:12.3f}")
        return
    plain, overlapped = ways
    print(f"\n{'':20}{'one by one':>12}{'overlapped':>12}{'ratio':>8}")
    for key in plain:
        ratio = overlapped[key] / plain[key] if plain[key] else float("nan")
        print(f"{labels.get(key, key):20}{plain[key]:12.3f}{overlapped[key]:12.3f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
