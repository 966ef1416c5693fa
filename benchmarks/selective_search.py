"""Seconds a picture of Selective Search: ours against OpenCV, same run, one thread each; and our time stage by stage.

  python benchmarks/selective_search.py [--runs 5] [--pictures dog coffee] [--no-quality]

"OpenCV, same setting" is OpenCV's parts assembled to R-CNN's fast mode with the superpixel size doubled
(proposals.opencv); "fast" and "quality" are the modes of OpenCV's own class. Pictures: the bundled samples at a width
of 500 px, and one at 1024 x 768, which every method first brings to its frame of 500 px (OpenCV's own modes do not).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from machine import machine

from detector.samples import samples_folder
from proposals.images import Image, read_image
from proposals.opencv import selective_search_opencv
from proposals.selective.features import pixel_codes, region_features
from proposals.selective.frame import FRAME_WIDTH, to_frame
from proposals.selective.grouping import group, neighbours
from proposals.selective.search import COLOUR_SPACES, MODES, selective_search
from proposals.selective.segmentation import segment, sorted_edges


def seconds(work: Callable[[], object], runs: int) -> float:
    """Return the median wall seconds of `work` over `runs` calls, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def opencv_mode(image: Image, mode: str) -> None:
    """Run OpenCV's own class in its mode `fast` or `quality`."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    search.process()


def stages(image: Image, runs: int) -> dict[str, float]:
    """Return the seconds of each stage, summed over the colour spaces, k's and similarities of fast mode."""
    frame, strategy = to_frame(image), MODES["fast"]
    shape = frame.shape[:2]
    total: dict[str, float] = {"frame": seconds(partial(to_frame, image), runs)}

    def add(stage: str, work: Callable[[], object]) -> None:
        total[stage] = total.get(stage, 0) + seconds(work, runs)

    for name in strategy.colour_spaces:
        picture = np.ascontiguousarray(COLOUR_SPACES[name](frame))
        edges, codes = sorted_edges(picture), pixel_codes(picture)
        add("colours", partial(COLOUR_SPACES[name], frame))
        add("smooth, weigh, sort", partial(sorted_edges, picture))
        add("pixel codes", partial(pixel_codes, picture))
        for k in (2 * k for k in strategy.ks):
            labels, count = segment(edges, shape, k, k)
            pairs = neighbours(labels, count)
            leaves = region_features(codes, labels, count)
            pixels = shape[0] * shape[1]
            add("segment", partial(segment, edges, shape, k, k))
            add("neighbours", partial(neighbours, labels, count))
            add("histograms", partial(region_features, codes, labels, count))
            for s in strategy.similarities:
                add("group", partial(group, *leaves, pairs, pixels, s))
    return total


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pictures", nargs="+", help="names of samples (default: all)")
    parser.add_argument("--no-quality", action="store_true", help="leave OpenCV's quality mode out (seconds a picture)")
    args = parser.parse_args()
    print(machine())
    pictures: dict[str, Image] = {}
    for path in sorted(samples_folder().glob("*.jpg")):
        if not args.pictures or path.stem in args.pictures:
            image = read_image(path)
            size = (FRAME_WIDTH, round(image.shape[0] * FRAME_WIDTH / image.shape[1]))
            pictures[f"{path.stem} {size[0]}x{size[1]}"] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if not args.pictures:
        pictures["kite 1024x768"] = cv2.resize(read_image(samples_folder() / "kite.jpg"), (1024, 768))
    columns = ["ours", "ours, 2 threads", "OpenCV, same setting", "OpenCV fast"]
    if not args.no_quality:
        columns.append("OpenCV quality")
    print(f"{'seconds':20}" + "".join(f"{name:>22}" for name in columns) + f"{'ratio':>8}{'2 threads':>11}")
    rows = []
    for name, image in pictures.items():
        cv2.setNumThreads(1)
        row = [
            seconds(partial(selective_search, image), args.runs),
            seconds(partial(selective_search, image, threads=2), args.runs),
            seconds(partial(selective_search_opencv, image), args.runs),
            seconds(partial(opencv_mode, image, "fast"), 1),
        ]
        if not args.no_quality:
            row.append(seconds(partial(opencv_mode, image, "quality"), 1))
        rows.append(row)
        print(f"{name:20}" + "".join(f"{value:22.3f}" for value in row), end="")
        print(f"{row[2] / row[0]:8.1f}{row[2] / row[1]:11.1f}", flush=True)
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratios = [statistics.median(row[2] / row[i] for row in rows) for i in (0, 1)]
    print(f"{'median':20}" + "".join(f"{value:22.3f}" for value in middle) + f"{ratios[0]:8.1f}{ratios[1]:11.1f}")
    name, image = next(iter(pictures.items()))
    print(f"\nour stages, {name}, one thread")
    for stage, value in stages(image, args.runs).items():
        print(f"  {stage:22}{1000 * value:7.1f} ms")


if __name__ == "__main__":
    main()
