"""The detector on a GPU: crops/s, where the time of a picture goes, pictures/s with worker processes, memory.

  python benchmarks/gpu.py [--seconds 420] [--device cuda] [--sizes 64,128,256,512] [--workers 1,2,4,8,16]

Weights are random: they do not matter for the time. A part that fails says so, and the others go on; parts for which
there is no time left are left out. Without CUDA it says that it was skipped.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import resource
import statistics
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import machine

from detector.model import Model, find_model
from detector.networks.torch_module import torch_network
from detector.runtimes.cuda_crops import upload, warp_on_device
from detector.runtimes.cuda_nms import suppress
from detector.runtimes.cuda_runtime import CudaClassifier, score_regions
from proposals.boxes import Boxes, nms_per_class
from proposals.images import Image, read_image
from proposals.selective.search import selective_search

SAMPLES = Path(__file__).parents[1] / "samples"
REGIONS = 1300  # of a 500-px picture, about what Selective Search finds at superpixel scale 2
CLASSES = 200
IN_FLIGHT = 2  # pictures that are scored at a time
AHEAD = 3  # pictures a worker process may be ahead
RESERVE = 60  # seconds that the parts after a long one, or a compilation, need
GRACE = 50  # seconds after the budget at which a part that hangs is ended
NETWORKS = ("googlenet", "googlenet batch norm", "inception_v3")


@dataclass(frozen=True)
class Plan:
    """What is measured: device, batch sizes, numbers of worker processes, networks, seconds for each rate."""

    device: str
    sizes: tuple[int, ...]
    workers: tuple[int, ...]
    nets: tuple[int, ...] = (1, 6)
    networks: tuple[str, ...] = NETWORKS
    precision: str = "bf16"
    crop_size: int = 0  # 0: each network's own
    width: float = 1.0  # of GoogLeNet
    regions: int = REGIONS
    most: int | None = None  # regions of a picture, end to end
    window: float = 4.0
    runs: int = 5


def model_of(name: str, crop_size: int = 0, width: float = 1.0) -> Model:
    """Return the description of a network of `NETWORKS`, at its own crop size unless another is given."""
    shipped = find_model("inception_v3")
    if name.startswith("googlenet"):
        norm = "batch" if "batch" in name else "lrn"
        shipped = replace(shipped, name=name, network="googlenet", file="", sha256="", size=224, norm=norm, width=width)
    return replace(shipped, quantized=False, sharpness=0.0, size=crop_size or shipped.size)


def classifier_of(
    plan: Plan, name: str, size: int = 0, seed: int = 0, fused: bool = True, compiled: bool = False
) -> CudaClassifier:
    """Return a network of random weights in bf16 on the device, for batches of `size` (0: what it chooses)."""
    torch.manual_seed(seed)
    model = model_of(name, plan.crop_size, plan.width)
    network = torch_network(model.layers)
    return CudaClassifier(
        model, plan.precision, size, device=plan.device, network=network, fused=fused, compiled=compiled
    )


def wait(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object], plan: Plan) -> float:
    """Return the median seconds of `work` after two runs to get warm."""
    for _ in range(2):
        work()
    seconds = []
    for _ in range(plan.runs):
        wait(plan.device)
        begin = time.perf_counter()
        work()
        wait(plan.device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def ceilings(plan: Plan) -> list[str]:
    """Return what the device reaches: bytes/s of a copy, FLOP/s of a matrix product in bf16."""
    side = 8192 if plan.device == "cuda" else 128
    source = torch.randn(side, side, 8, device=plan.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), plan)
    matrix = torch.randn(side, side, device=plan.device, dtype=torch.bfloat16)
    product = 2 * side**3 / median_seconds(lambda: matrix @ matrix, plan)
    return [f"copy {copied / 1e12:.2f} TB/s (read and written), matrix product in bf16 {product / 1e12:.0f} TFLOP/s"]


def network_speed(plan: Plan, name: str, size: int, fused: bool = True, compiled: bool = False) -> str:
    """Return a line: crops/s of one network at one batch size, the crops lying on the device, and its memory."""
    if plan.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    classifier = classifier_of(plan, name, size, fused=fused, compiled=compiled)
    side, batches = classifier.model.size, 4
    crops = torch.randint(0, 256, (batches * size, side, side, 3), dtype=torch.uint8, device=plan.device)
    scores = classifier.no_scores(len(crops))
    seconds = median_seconds(lambda: classifier.score_on_device(crops, scores), plan)
    memory = torch.cuda.max_memory_allocated() / 2**30 if plan.device == "cuda" else 0.0
    how = classifier.describe().split(f", {plan.precision}, ")[1].removesuffix(", crops and suppression there")
    return f"{name} at {side} px: {len(crops) / seconds:9,.0f} crops/s, {memory:5.1f} GiB, {how}"


def random_regions(plan: Plan) -> tuple[Image, Boxes]:
    """Return a picture of 500 x 375 px and regions of it."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(read_image(SAMPLES / "dog.jpg"), (500, 375), interpolation=cv2.INTER_AREA)
    corners = np.sort(rng.uniform(0, [[[500], [375]]], (plan.regions, 2, 2)), axis=2)
    boxes = corners.transpose(0, 2, 1).reshape(-1, 4)
    return np.asarray(picture, np.uint8), np.asarray(boxes, np.float32)


def stage_times(plan: Plan) -> list[str]:
    """Return where the time of one picture goes: milliseconds of each stage by itself, and of the whole."""
    picture, boxes = random_regions(plan)
    classifier = classifier_of(plan, plan.networks[0])
    model, device = classifier.model, torch.device(plan.device)
    there = upload(picture, device)
    crops = warp_on_device(there, boxes, model.size, model.fill)
    out = classifier.no_scores(len(boxes))
    rng = np.random.default_rng(1)
    flat = rng.random((len(boxes), CLASSES), np.float32)
    sharp = flat * (rng.random(flat.shape) < 0.01)  # as at the default threshold: few compete
    stages: dict[str, Callable[[], object]] = {
        "upload": lambda: upload(picture, device),
        "crop": lambda: warp_on_device(there, boxes, model.size, model.fill),
        "network": lambda: classifier.score_on_device(crops, out),
        "scores back": lambda: out.cpu(),
        "upload to scores": lambda: classifier.score_regions(picture, boxes),
        "nms, few scores": lambda: suppress(boxes, sharp, 0.3, 0.35, 100, plan.device),
        "the same in numpy": lambda: nms_per_class(boxes, sharp, 0.3, 0.35, 100),
        "nms, all scores": lambda: suppress(boxes, flat, 0.3, 0.0, 100, plan.device),
        "the same, in numpy": lambda: nms_per_class(boxes, flat, 0.3, 0.0, 100),
    }
    lines = [f"{len(boxes)} regions, {classifier.describe()}"]
    return lines + [f"  {name:20}{1000 * median_seconds(work, plan):9.2f} ms" for name, work in stages.items()]


def propose(path: Path, most: int | None = None) -> tuple[Image, Boxes]:
    """Return a picture and its regions: what a worker process does."""
    cv2.setNumThreads(1)
    picture = read_image(path)
    return picture, selective_search(picture, superpixel_scale=2, max_boxes=most).boxes


def ready() -> None:
    """Load the kernels of Selective Search: the start of a worker process."""
    selective_search(np.zeros((2, 2, 3), np.uint8))


def detect(members: list[CudaClassifier], regions: Future[tuple[Image, Boxes]]) -> int:
    """Score and suppress the regions of one picture once they are there; return how many they are."""
    picture, boxes = regions.result()
    scores = np.mean(score_regions(members, picture, boxes), axis=0)
    members[0].suppress(boxes, scores[:, 1:], 0.3, 0.35, 100)
    return len(boxes)


def pictures_per_second(
    members: list[CudaClassifier], submit: Callable[[Path], Future[tuple[Image, Boxes]]], workers: int, window: float
) -> str:
    """Return pictures/s and crops/s over `window` seconds, measured from when pictures flow."""
    names = itertools.cycle(sorted(SAMPLES.glob("*.jpg")))
    waiting: deque[Future[tuple[Image, Boxes]]] = deque()
    running: deque[Future[int]] = deque()
    warm, counts = workers + IN_FLIGHT, list[int]()
    begin = end = 0.0
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        try:
            while not counts or end < begin + window:
                while len(waiting) < AHEAD * workers:
                    waiting.append(submit(next(names)))
                running.append(threads.submit(detect, members, waiting.popleft()))
                if len(running) > IN_FLIGHT:
                    regions = running.popleft().result()
                    end = time.perf_counter()
                    if warm:
                        warm, begin = warm - 1, end
                    else:
                        counts.append(regions)
        finally:
            for future in waiting:
                future.cancel()
    seconds = end - begin
    return f"{len(counts) / seconds:7.2f} pictures/s, {sum(counts) * len(members) / seconds:9,.0f} crops/s"


def end_to_end(plan: Plan, left: Callable[[], float]) -> None:
    """Print pictures/s with proposals at hand and with so many worker processes, for one net and for the ensemble."""
    name = plan.networks[0]
    teams = {count: [classifier_of(plan, name, seed=seed) for seed in range(count)] for count in plan.nets}
    ready()
    at_hand: dict[Path, Future[tuple[Image, Boxes]]] = {}
    for path in sorted(SAMPLES.glob("*.jpg")):
        at_hand[path] = Future()
        at_hand[path].set_result(propose(path, plan.most))

    def rates(submit: Callable[[Path], Future[tuple[Image, Boxes]]], workers: int) -> Iterator[str]:
        for count, members in teams.items():
            yield f"{name} x {count}: {pictures_per_second(members, submit, workers, plan.window)}"

    def with_workers(workers: int) -> list[str]:
        with ProcessPoolExecutor(workers, get_context("spawn"), ready) as pool:
            return [
                f"{workers:2} worker processes, {line}"
                for line in rates(lambda path: pool.submit(propose, path, plan.most), workers)
            ]

    part("proposals at hand", left, lambda: [f"proposals at hand, {line}" for line in rates(at_hand.__getitem__, 1)])
    for workers in plan.workers:
        part(f"{workers} worker processes", left, partial(with_workers, workers))


def memory(plan: Plan) -> list[str]:
    """Return the most that was taken of the device's memory and of this process's."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if plan.device != "cuda":
        return [f"{resident:.1f} GiB resident"]
    taken, reserved = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
    return [
        f"device: {taken:.1f} GiB since the last network was measured, {reserved:.1f} GiB reserved; "
        f"host: {resident:.1f} GiB resident"
    ]


def part(title: str, left: Callable[[], float], work: Callable[[], list[str] | str | None]) -> None:
    """Print what `work` returns, if anything, or in one line why it cannot."""
    if left() <= 0:
        print(f"{title}: left out, no time left", flush=True)
        return
    try:
        lines = work()
        if lines is not None:
            print("\n".join([lines] if isinstance(lines, str) else lines), flush=True)
    except Exception as error:  # one part must not lose the rest
        reason = (str(error).strip().splitlines() or [""])[0]
        print(f"{title}: failed ({type(error).__name__}: {reason})", flush=True)
        traceback.print_exc()


def measure(plan: Plan, seconds: float) -> None:
    """Print everything that fits into `seconds`."""
    end = time.perf_counter() + seconds

    def left() -> float:
        return end - time.perf_counter()

    part("ceilings", left, lambda: ceilings(plan))
    middle = plan.sizes[len(plan.sizes) // 2]
    print("\nNetworks by batch size", flush=True)
    for name in plan.networks:
        for size in plan.sizes:
            part(f"{name}, {size}", left, partial(network_speed, plan, name, size))
    print("\nWhere the time of a picture goes", flush=True)
    part("stages", left, lambda: stage_times(plan))
    print("\nEnd to end", flush=True)
    part("end to end", left, lambda: end_to_end(plan, lambda: left() - RESERVE))
    print("\nWithout ReLU inside the convolutions, and through torch.compile", flush=True)
    for name in plan.networks:
        part(f"{name}, unfused", left, partial(network_speed, plan, name, middle, fused=False))
    part("memory", left, lambda: memory(plan))
    for name in plan.networks if plan.device == "cuda" else ():
        part(
            f"{name}, compiled",
            lambda: left() - RESERVE,
            partial(network_speed, plan, name, middle, compiled=True),
        )


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return the positive numbers of a list with commas."""
    values = tuple(int(value) for value in text.split(","))
    if min(values) < 1:
        raise ValueError
    return values


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=420, help="after which no further part begins")
    parser.add_argument("--sizes", type=whole_numbers, default=(64, 128, 256, 512), metavar="N,N")
    parser.add_argument("--workers", type=whole_numbers, default=(1, 2, 4, 8, 16), metavar="N,N")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device here")
        return
    faulthandler.dump_traceback_later(args.seconds + GRACE, exit=True)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU, the same code on the CPU"
    print(f"{machine()}; {name}; torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    measure(Plan(args.device, args.sizes, args.workers), args.seconds)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
