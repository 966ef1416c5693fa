"""Predictions as JSON: COCO's results and the lines of `detect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from detector.datasets.ground_truth import GroundTruth
from detector.formats import from_json
from eval.prediction_columns import Columns, Named, nothing, of_detections

COCO_FIELDS = ("image_id", "category_id", "bbox", "score")


def read_coco(path: Path, truth: GroundTruth) -> Columns:
    entries = _parsed(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: not a list of results; a COCO results file is [{{...}}, ...]")
    if not entries:
        return nothing(str(path))
    for i, entry in enumerate(entries):
        missing = [f for f in COCO_FIELDS if not isinstance(entry, dict) or f not in entry]
        if missing:
            raise ValueError(f"{path}, entry {i + 1}: no {missing[0]}; each needs {', '.join(COCO_FIELDS)}")
    keys: Named | None = None
    if all(key.lstrip("-").isdecimal() for key in truth.class_keys):  # COCO's own category ids
        codes = _column(path, entries, "category_id", np.int64)
        found, places = np.unique(codes, return_inverse=True)
        keys = Named(places.reshape(-1), [str(key) for key in found.tolist()])
    boxes = _column(path, entries, "bbox", np.float64, 4)
    boxes[:, 2:] += boxes[:, :2]  # x, y, width, height to half-open corners
    return Columns(
        str(path),
        lambda row: f"entry {row + 1}",
        _column(path, entries, "image_id", np.int64),
        _column(path, entries, "category_id", np.int64) if keys is None else keys,
        _column(path, entries, "score", np.float64),
        boxes,
    )


def _column(path: Path, entries: list[Any], name: str, kind: Any, width: int = 0) -> Any:
    """Return one field of all entries as an array [M], or [M, width]."""
    good = (int,) if kind is np.int64 else (int, float)
    for i, entry in enumerate(entries):
        value = entry[name]
        values = value if width else [value]
        if not isinstance(values, list) or len(values) != (width or 1):
            raise ValueError(f"{path}, entry {i + 1}: {name} must be a list of {width} numbers, got {value!r:.40}")
        if any(isinstance(v, bool) or not isinstance(v, good) for v in values):
            what = "a whole number" if kind is np.int64 else "a number"
            raise ValueError(f"{path}, entry {i + 1}: {name} is {value!r:.40}, not {what}")
    try:
        return np.array([entry[name] for entry in entries], kind).reshape((-1, width) if width else -1)
    except OverflowError:
        raise ValueError(f"{path}: a number in {name} is too large") from None


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; the file is damaged or cut off") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; the file is damaged") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be a results file") from None


def read_json(path: Path, truth: GroundTruth) -> Columns:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    if '"annotations"' in text[:100_000] and '"images"' in text[:100_000]:
        raise ValueError(
            f"{path}: this is ground truth, not predictions; give it as --data, and a file of results here"
        )
    return of_detections(path, from_json(text, str(path), truth.class_names))
