"""Predictions as lines of text: ILSVRC's submissions and VOC's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detector.datasets.ground_truth import GroundTruth
from detector.formats import from_voc
from eval.prediction_columns import Columns, Named, joined, of_detections

ILSVRC_COLUMNS = ("image_id", "class_id", "confidence", "xmin", "ymin", "xmax", "ymax")
VOC_COLUMNS = ("picture", "confidence", "xmin", "ymin", "xmax", "ymax")


def read_ilsvrc(path: Path, truth: GroundTruth) -> Columns:
    """Lines of numbers, parsed at once; only where that fails, one by one, to name the first wrong line."""
    table = _numbers(path, ILSVRC_COLUMNS, ("image_id", "class_id"))
    boxes = np.stack([table[name] for name in ILSVRC_COLUMNS[3:]], axis=1)
    boxes[:, :2] -= 1  # 1-based inclusive to half-open
    lines = table["line"]
    return Columns(
        str(path), lambda row: f"line {lines[row]}", table["image_id"], table["class_id"], table["confidence"], boxes
    )


def _numbers(path: Path, names: tuple[str, ...], whole: tuple[str, ...]) -> dict[str, Any]:
    """Return columns of numbers separated by blanks, and the line of each row (empty lines are passed over)."""
    import pyarrow as pa
    from pyarrow import csv

    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path}: no predictions in it; give the file that the detector wrote")
    kinds = {name: pa.int64() if name in whole else pa.float64() for name in names}
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(column_names=list(names), block_size=1 << 22),
            parse_options=csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return _numbers_by_line(path, data, names, whole)
    columns: dict[str, Any] = {name: np.array(table[name].to_numpy()) for name in names}
    columns["line"] = np.arange(1, table.num_rows + 1)
    return columns


def _numbers_by_line(path: Path, data: bytes, names: tuple[str, ...], whole: tuple[str, ...]) -> dict[str, Any]:
    rows: list[list[float]] = []
    lines: list[int] = []
    for line_number, line in enumerate(data.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {line_number}"
        if len(words) != len(names):
            raise ValueError(f"{where}: {len(words)} columns; {len(names)} are needed: {' '.join(names)}")
        values: list[float] = []
        for name, word in zip(names, words, strict=True):
            text = word.decode("utf-8", "backslashreplace")
            try:
                values.append(whole_number(text) if name in whole else number(text))
            except ValueError:
                kind = "a whole number" if name in whole else "a number"
                raise ValueError(f"{where}: {name} is '{text[:40]}', not {kind}") from None
        rows.append(values)
        lines.append(line_number)
    table = list(zip(*rows, strict=True)) or [()] * len(names)
    columns: dict[str, Any] = {
        name: np.array(column, np.int64 if name in whole else np.float64)
        for name, column in zip(names, table, strict=True)
    }
    columns["line"] = np.array(lines, np.int64)
    return columns


def number(text: str) -> float:
    """Return the number that `text` writes in ASCII; Python itself would take 1_0 for 10. Raises: ValueError."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def whole_number(text: str) -> int:
    """Return the whole number that `text` writes in ASCII, if 64 bits hold it. Raises: ValueError."""
    if "_" in text or not text.isascii() or not -(2**63) <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def read_voc(path: Path, truth: GroundTruth) -> Columns:
    """Result files a class, or annotations a picture; a folder of either."""
    files = sorted([*path.glob("*.txt"), *path.glob("*.xml")]) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: neither .txt nor .xml files in this folder")
    parts = [_voc_xml(file, truth) if file.suffix.lower() == ".xml" else _voc_text(file, truth) for file in files]
    return joined(str(path), [part for part in parts if part is not None])


def _voc_text(path: Path, truth: GroundTruth) -> Columns | None:
    stem = path.stem.replace(" ", "_")
    fitting = [n for n in truth.class_names if f"_{stem}".endswith(f"_{n.replace(' ', '_')}")]
    if not fitting:
        raise ValueError(f"{path}: its name ends in none of the classes; VOC result files are named ..._CLASS.txt")
    name = max(fitting, key=len)  # "hot dog", not "dog", for ..._hot_dog.txt
    names, rows = [], []
    for line_number, line in enumerate(
        path.read_text(encoding="utf-8", errors="backslashreplace").splitlines(), start=1
    ):
        words = line.split()
        if not words:
            continue
        if len(words) != len(VOC_COLUMNS):
            raise ValueError(
                f"{path}, line {line_number}: {len(words)} columns; {len(VOC_COLUMNS)} are needed: "
                f"{' '.join(VOC_COLUMNS)}"
            )
        try:
            rows.append([line_number, *map(number, words[1:])])
        except ValueError:
            raise ValueError(f"{path}, line {line_number}: not all of {' '.join(words[1:])[:60]} are numbers") from None
        names.append(words[0])
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes = table[:, 2:].copy()
    boxes[:, :2] -= 1  # 1-based inclusive to half-open
    lines = table[:, 0].astype(np.int64)
    label = truth.class_names.index(name) + 1
    return Columns(
        str(path),
        lambda row: f"{path.name}, line {lines[row]}",
        Named(np.arange(len(names)), names),
        np.full(len(names), label),
        table[:, 1],
        boxes,
    )


def _voc_xml(path: Path, truth: GroundTruth) -> Columns | None:
    return of_detections(path, from_voc(path.read_text(encoding="utf-8"), str(path), truth.class_names))
