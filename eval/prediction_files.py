"""The prediction files that can be read, and which reader takes one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from detector.datasets.ground_truth import GroundTruth
from eval.prediction_columns import Columns, placed
from eval.prediction_json import read_coco, read_json
from eval.prediction_tables import read_csv, read_parquet
from eval.prediction_text import read_ilsvrc, read_voc
from eval.predictions import Predictions

FORMATS = ("ilsvrc", "coco", "csv", "parquet", "voc", "json")


def read_predictions(path: str | Path, truth: GroundTruth, format: str = "auto") -> tuple[Predictions, list[str]]:
    """Return the predictions of a file (voc: of a file or a folder of them) on `truth`, and notes for the user.

    Formats: ilsvrc, lines `image_id class_id confidence xmin ymin xmax ymax`, 1-based inclusive; coco, a results list;
    csv and parquet, columns picture or image_id, class or label, score, x1, y1, x2, y2, half-open; voc, a file a class
    (`..._CLASS.txt`) of `picture confidence xmin ymin xmax ymax`, or the XML of `detect`; json, that of `detect`.
    A whole number names a picture by its number in the data set, a class by its label 1..C, or by the data set's own id
    where it has such (COCO). A list or a table without rows is a detector that found nothing, and a note.
    Raises: OSError where the file cannot be read; ValueError naming the file and the line of what is wrong.
    """
    path = Path(path)
    if format == "auto":
        format = _guess(path)
    readers: dict[str, Callable[[Path, GroundTruth], Columns]] = {
        "ilsvrc": read_ilsvrc,
        "coco": read_coco,
        "csv": read_csv,
        "parquet": read_parquet,
        "voc": read_voc,
        "json": read_json,
    }
    if format not in readers:
        raise ValueError(f"unknown format '{format}' of predictions; choose one of {', '.join(FORMATS)}")
    columns = readers[format](path, truth)
    if not len(columns.scores):
        return placed(columns, truth)[0], [f"{path}: no predictions in it"]
    return placed(columns, truth)


def _guess(path: Path) -> str:
    """Return the format of a file by its name and its beginning."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".xml" or re.search(r"comp\d_det_", path.name):
        return "voc"
    if suffix in (".csv", ".parquet"):
        return suffix[1:]
    with path.open("rb") as file:
        begin = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if suffix in (".json", ".jsonl") or begin[:1] in (b"[", b"{"):
        return "coco" if begin.startswith(b"[") else "json"
    return "ilsvrc"
