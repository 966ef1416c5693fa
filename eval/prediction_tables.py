"""Predictions as tables: CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.prediction_columns import Columns, Named
from eval.prediction_store import DETECTION

TABLE_COLUMNS = ("score", "x1", "y1", "x2", "y2")
NUMBERS: dict[str, type[int] | type[float]] = {**dict.fromkeys(TABLE_COLUMNS, float), "image_id": int, "label": int}


def read_csv(path: Path, truth: GroundTruth) -> Columns:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    kinds = {name: pa.float64() for name in TABLE_COLUMNS}
    kinds |= {"picture": pa.string(), "class": pa.string(), "image_id": pa.int64(), "label": pa.int64()}
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(use_threads=False),  # so that errors name the row
            convert_options=arrow_csv.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(_first_wrong_line(path) or f"{path}: {_arrow_reason(error)}") from None
    return _from_table(path, table, lambda row: f"row {row + 1}")


def _first_wrong_line(path: Path) -> str | None:
    """Return what is wrong with the first line that has too many or few columns, or a number that is none."""
    with path.open(newline="", encoding="utf-8", errors="backslashreplace") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            return f"{path}: no header; the first line names the columns"
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                return f"{path}, line {reader.line_num}: {len(row)} columns, {len(header)} in the header"
            for name, text in zip(header, row, strict=True):
                try:
                    NUMBERS.get(name, str)(text)
                except ValueError:
                    kind = "a whole number" if NUMBERS[name] is int else "a number"
                    return f"{path}, line {reader.line_num}: {name} is '{text[:40]}', not {kind}"
    return None


def _arrow_reason(error: Exception) -> str:
    return " ".join(str(error).removeprefix("CSV parse error: ").split())[:200]


def read_parquet(path: Path, truth: GroundTruth) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb"):  # says what is wrong in the words of the system
        pass
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or a damaged one ({_arrow_reason(error)})") from None
    if "role" in table.column_names:  # the file of a run: what was kept for the analysis is no prediction
        table = table.filter(np.equal(table["role"].to_numpy(), DETECTION))
    return _from_table(path, table, lambda row: f"row {row + 1}")


def _from_table(path: Path, table: Any, where: Callable[[int], str]) -> Columns:
    """Return the columns of a table that has picture or image_id, class or label, score, x1, y1, x2, y2."""
    import pyarrow as pa

    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: two columns are named {twice}; leave one")

    def column(*names: str) -> Any:
        present = [name for name in names if name in table.column_names]
        if not present:
            raise ValueError(
                f"{path}: no column {' or '.join(names)}; needed are picture or image_id, class or label, score, "
                "x1, y1, x2, y2, with commas between"
            )
        values = table[present[0]].combine_chunks()
        if values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(f"{path}, {where(row)}: {present[0]} is missing")
        return values

    def named(values: Any) -> Longs | Named:
        if pa.types.is_integer(values.type):
            return np.asarray(values.to_numpy(), np.int64)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
            raise ValueError(f"{path}: a column of names or whole numbers is {values.type}")
        encoded = values.dictionary_encode()
        return Named(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())

    def numbers(name: str) -> Doubles:
        values = column(name)
        if not pa.types.is_floating(values.type) and not pa.types.is_integer(values.type):
            raise ValueError(f"{path}: column {name} holds {values.type}, not numbers")
        return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)

    boxes = np.stack([numbers(name) for name in ("x1", "y1", "x2", "y2")], axis=1)
    pictures, classes = named(column("picture", "image_id")), named(column("class", "label"))
    return Columns(str(path), where, pictures, classes, numbers("score"), boxes)
