"""What the default detector finds in the bundled samples: classes, scores, boxes, and the mAP of all.

python tests/detector/test_golden.py      # writes golden_samples.json anew, for a change that is meant to show
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detector import Detections, Detector, Trace, read_image
from detector.samples import samples_folder
from eval import Predictions, evaluate, read_dataset
from proposals.boxes import as_boxes, iou

GOLDEN = Path(__file__).with_name("golden_samples.json")
SCORE, IOU, MEAN_AP = 0.03, 0.9, 0.02  # how far a detection and the mAP may be from those kept; machines differ
LOWEST = 0.01  # score of a detection that counts for mAP
NAMES = sorted(path.stem for path in samples_folder().glob("*.jpg"))
TRACED = ("chelsea", "dog", "eagle", "horses", "rocket")  # that other tests look at too

Rows = list[dict[str, Any]]


def rows_of(found: Detections) -> Rows:
    """Return the detections as the file keeps them."""
    lists = zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [{"class": n, "score": round(s, 3), "box": [round(side, 1) for side in box]} for n, s, box in lists]


def low_detections(detector: Detector, trace: Trace, name: str) -> Detections:
    """Return the detections of a traced sample down to the score that counts for mAP."""
    other = copy.copy(detector)
    other.options = dataclasses.replace(detector.options, threshold=LOWEST)
    image = read_image(samples_folder() / f"{name}.jpg")
    return other.suppress(image, trace.proposals, trace.scores, trace.deltas)


def mean_ap(detector: Detector, trace: Callable[[str], Trace]) -> float:
    """Return the mAP of the samples by the ILSVRC protocol."""
    truth = read_dataset(samples_folder() / "annotations.json")
    found = {row: low_detections(detector, trace(Path(n).stem), Path(n).stem) for row, n in enumerate(truth.names)}
    return float(evaluate("ilsvrc", truth, Predictions.from_detections(found)).mean_ap)


def kept() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8")))


def missing(rows: Rows, among: Rows, least: float) -> Rows:
    """Return those of `rows` with a score of `least` or more that have no like `among` the others."""
    lost = []
    for row in rows:
        like = [
            other
            for other in among
            if other["class"] == row["class"]
            and abs(other["score"] - row["score"]) <= SCORE
            and iou(as_boxes([other["box"]]), as_boxes([row["box"]]))[0, 0] >= IOU
        ]
        if row["score"] >= least and not like:
            lost.append(row)
    return lost


@pytest.mark.parametrize(
    "name", [name if name in TRACED else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_the_detections_of_a_sample(detector: Detector, trace: Callable[[str], Trace], name: str):
    golden, found = kept()["detections"][name], rows_of(low_detections(detector, trace(name), name))
    threshold = detector.options.threshold
    assert not missing(golden, found, threshold), "lost"
    assert not missing(rows_of(trace(name).detections), golden, threshold + SCORE), "new"


@pytest.mark.slow
def test_the_map_of_the_samples(detector: Detector, trace: Callable[[str], Trace]):
    assert mean_ap(detector, trace) == pytest.approx(kept()["mean_ap"], abs=MEAN_AP)


def test_the_file_is_of_the_samples_and_says_something():
    found = kept()["detections"]
    assert sorted(found) == NAMES and sum(map(len, found.values())) >= 10
    assert "dog" in {row["class"] for row in found["dog"]} and not found["rocket"]
    assert missing(found["dog"], found["horses"], 0) == found["dog"]


def write() -> None:
    """Write the file from what the detector finds now."""
    detector = Detector()
    traces = {name: detector.trace(read_image(samples_folder() / f"{name}.jpg")) for name in NAMES}
    rows = {name: rows_of(trace.detections) for name, trace in traces.items()}
    found = round(mean_ap(detector, traces.__getitem__), 4)
    lines = {name: ",".join(f"\n   {json.dumps(row)}" for row in own) for name, own in rows.items()}  # a detection each
    pictures = ",\n".join(f'  "{name}": [{own}]' for name, own in lines.items())
    GOLDEN.write_text(f'{{\n "mean_ap": {found},\n "detections": {{\n{pictures}\n }}\n}}\n', encoding="utf-8")
    print(f"{sum(map(len, rows.values()))} detections, mAP {found:.4f}")


if __name__ == "__main__":
    write()
