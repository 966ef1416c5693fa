"""Images/s of training GoogLeNet, and the share of the time that waiting for pictures takes.

  python benchmarks/training.py [--device auto] [--seconds 20] [--sizes 224,128] [--norms batch,lrn] [--workers N]

Each row is a short run of the stage `classifier` through the loop of `detector.train`: real pictures (the bundled
samples, again and again), section 6's augmentation, 1,000 classes, and both auxiliary classifiers where the crops are
large enough for them. The first mini-batches, in which worker processes and kernels come up, are left out. Without CUDA
it says that the rows on a GPU were skipped.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine

from detector.samples import samples_folder
from detector.training.classifier import ClassifierTask
from detector.training.data import ImageSet, open_images
from detector.training.loop import Trainer
from detector.training.options import ClassifierOptions
from detector.training.processes import World, joined_world
from detector.training.run_folder import RunFolder, read_log
from proposals.console import Console

CLASSES = 1000
MINI_BATCH = {"cpu": 16, "cuda": 256}
WARM = {"cpu": 1, "cuda": 10}  # mini-batches before the clock
MOST = 2000  # mini-batches of a row
MOST_WORKERS = 16
AUXILIARY_SIZE = 224  # the windows of the auxiliary classifiers need the 14 x 14 grid of these crops


def write_list(folder: Path) -> Path:
    """Write a list of as many pictures as classes, the bundled ones over and over, and return it."""
    pictures = sorted(samples_folder().glob("*.jpg"))
    lines = [f"{pictures[number % len(pictures)]}\t{number}\n" for number in range(CLASSES)]
    path = folder / "list.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(o: ClassifierOptions, images: ImageSet, world: World, warm: int, steps: int) -> tuple[float, float]:
    """Train for `warm` + `steps` mini-batches; return images/s and the waiting share of the latter.

    The log has a line every `warm` steps, so `steps` must be a multiple of it.
    """
    o = replace(o, steps=warm + steps, log_steps=warm, validate_steps=warm + steps, checkpoint_minutes=1e6)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place), "classifier", o, images.fingerprint())
        Trainer(ClassifierTask(o, images, None), o, folder, world, Console("benchmark", quiet=True)).run()
        lines = read_log(folder.path / "log.jsonl")[1:]
    seconds = [warm * o.mini_batch / line["samples_per_s"] for line in lines]
    waited = sum(own * line["waiting_share"] for own, line in zip(seconds, lines, strict=True))
    return steps * o.mini_batch / sum(seconds), waited / sum(seconds)


def row(o: ClassifierOptions, images: ImageSet, world: World, seconds: float) -> str:
    """Return a line of the table: one mini-batch after the warm ones tells how many fit into `seconds`."""
    warm = WARM[world.device.type]
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rate, waited = run(o, images, world, warm, warm)
    steps = warm * min(MOST // warm, int(seconds * rate / o.mini_batch / warm))
    if steps > warm:
        rate, waited = run(o, images, world, warm, steps)
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:8.1f} GiB" if world.device.type == "cuda" else ""
    heads = "auxiliary" if o.auxiliary else ""
    name = f"{o.norm:6} {o.size:4} px  {heads:9}  {o.precision:4}  {o.mini_batch:5}"
    return f"{name}  {rate:9.1f} images/s  {waited:6.1%} waiting {memory}"


def listed(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return the type of an argument that is a list with commas of some of `allowed`."""

    def words(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if set(found) - set(allowed):
            raise argparse.ArgumentTypeError(f"'{text}' must be of {', '.join(allowed)}, with commas")
        return found

    return words


def sides(text: str) -> tuple[int, ...]:
    """Return the crop sizes of a list with commas."""
    return tuple(int(side) for side in text.split(","))


def print_rows(args: argparse.Namespace, world: World) -> None:
    """Print a line for each norm, crop size and precision."""
    kind = world.device.type
    if kind == "cuda":
        print(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    workers = args.workers
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS) if kind == "cuda" else 0
    print(f"GoogLeNet, {CLASSES:,} classes, {workers} worker processes, on {kind}")
    with tempfile.TemporaryDirectory() as place:
        source = write_list(Path(place))
        images = open_images(source)
        for norm in args.norms:
            for size in args.sizes:
                for precision in args.precisions:
                    o = ClassifierOptions(
                        data=str(source),
                        steps=1,
                        norm=norm,
                        size=size,
                        auxiliary=size >= AUXILIARY_SIZE,
                        precision=precision,
                        mini_batch=args.mini_batch or MINI_BATCH[kind],
                        device=kind,
                        workers=workers,
                    )
                    print(row(o, images, world, args.seconds), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--seconds", type=float, default=20, help="of each row, beside its start (default: 20)")
    parser.add_argument("--sizes", type=sides, default=(224, 128), metavar="N,N", help="of crops (default: 224,128)")
    parser.add_argument("--norms", type=listed(("batch", "lrn")), default=("batch", "lrn"), metavar="NAME,NAME")
    parser.add_argument("--precisions", type=listed(("f32", "bf16")), default=("f32", "bf16"), metavar="NAME,NAME")
    parser.add_argument("--mini-batch", type=int, help="(default: 16, on CUDA 256)")
    parser.add_argument("--workers", type=int, help="processes that read (default: 0, on CUDA a core each, at most 16)")
    args = parser.parse_args(arguments)
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    if args.device != "cpu" and not torch.cuda.is_available():
        print("torch finds no CUDA device here: the rows on a GPU were skipped")
        if args.device == "cuda":
            return
    with joined_world(args.device) as world:
        print_rows(args, world)


if __name__ == "__main__":
    main()
