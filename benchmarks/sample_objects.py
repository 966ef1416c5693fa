"""What becomes of each object of the sample pictures: found, or where it is lost.

  python benchmarks/sample_objects.py [--model NAME] [--least 32]

An object is found by a detection of its class above the default threshold with an IoU of 0.5 or more. Otherwise the
table tells whether a proposal fits it, the best score of its class there and anywhere, and what else scores there.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from machine import machine

from detector.datasets.read import read_dataset
from detector.detector import Detector
from detector.options import DetectOptions
from detector.samples import samples_folder
from eval.detector_run import MIN_SCORE
from proposals.boxes import iou
from proposals.images import read_image

FITS = 0.5  # IoU


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a name or a weights file (default: that of detect)")
    parser.add_argument("--least", type=int, default=32, help="objects with a shorter side are left out (default: 32)")
    args = parser.parse_args()
    o = DetectOptions()
    o = replace(o, model=args.model or o.model)
    detector = Detector(replace(o, threshold=MIN_SCORE))
    truth = read_dataset(samples_folder() / "annotations.json")
    print(machine())
    print(f"{'picture':17}{'object':15}{'size':>9}  {'score':>5}  {'anywhere':>8}  {'proposal IoU':>12}  best there")
    found, number = 0, 0
    for picture, path in enumerate(truth.paths):
        trace = detector.trace(read_image(path))
        seen = trace.detections
        for row in np.flatnonzero(truth.pictures == picture).tolist():
            box = truth.boxes[row].astype(np.float32)[None]
            width, height = (box[0, 2:] - box[0, :2]).tolist()
            if min(width, height) <= args.least:
                continue
            name = truth.class_names[truth.labels[row] - 1]
            own = np.array([other == name for other in seen.names], bool)
            there = iou(box, seen.boxes)[0] >= FITS
            right = seen.scores[own & there].max(initial=0)
            place = int(np.argmax(seen.scores * there)) if there.any() else -1
            best = f"{seen.names[place]} {seen.scores[place]:.2f}" if place >= 0 else "nothing"
            fits = iou(box, trace.proposals.boxes).max(initial=0)
            print(
                f"{truth.names[picture]:17}{name:15}{f'{width:.0f}x{height:.0f}':>9}  {right:5.2f}  "
                f"{seen.scores[own].max(initial=0):8.2f}  {fits:12.2f}  {'found' if right >= o.threshold else best}"
            )
            found, number = found + int(right >= o.threshold), number + 1
    print(f"{found} of {number} found at the default threshold of {o.threshold:g}")


if __name__ == "__main__":
    main()
