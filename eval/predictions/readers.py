"""The prediction files that can be read: text of ILSVRC and VOC, JSON of COCO and of `detect`, CSV and Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.datasets.checks import check_regular, parse_float, read_text
from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from detector.formats.readers import from_json, from_voc
from eval.predictions import FORMATS
from eval.predictions.columns import Columns, Named, joined, nothing, of_detections, placed
from eval.predictions.table import Predictions
from proposals.image_files import read_list

ILSVRC_COLUMNS = ("image_id", "class_id", "confidence", "xmin", "ymin", "xmax", "ymax")
VOC_COLUMNS = ("picture", "confidence", "xmin", "ymin", "xmax", "ymax")
COCO_FIELDS = ("image_id", "category_id", "bbox", "score")
SIDES = ("x1", "y1", "x2", "y2")
WHOLE = ("image_id", "class_id", "label")  # columns of whole numbers
TABLE_COLUMNS = "picture or image_id, class or label, score, x1, y1, x2, y2"
BLOCK = 1 << 22  # bytes that pyarrow parses at a time


def read_predictions(
    path: str | Path, truth: GroundTruth, format: str = "auto", by: str = "auto", skip_unknown: bool = False
) -> tuple[Predictions, list[str]]:
    """Return the predictions of a file (voc: of a file or a folder of them) on `truth`, and notes for the user.

    Formats: ilsvrc, lines `image_id class_id confidence xmin ymin xmax ymax`, 1-based inclusive; coco, a results list;
    csv and parquet, columns picture or image_id, class or label, score, x1, y1, x2, y2, half-open; voc, a file a class
    (`..._CLASS.txt`) of `picture confidence xmin ymin xmax ymax`, or the XML of `detect`; json, that of `detect`.
    Pictures are found as `eval.predictions.pictures` says; `by` and `skip_unknown` as for `placed`. A whole number
    names a class by its label 1..C, or by the data set's own id where it has such (COCO). A list or a table without
    rows is a detector that found nothing.
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
    return placed(columns, truth, by, skip_unknown)


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


# text


def read_ilsvrc(path: Path, truth: GroundTruth) -> Columns:
    """Lines of numbers, parsed by pyarrow. Only where that fails, one by one, to name the first wrong line."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path}: no predictions in it; give the file that the detector wrote")
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(column_names=list(ILSVRC_COLUMNS), block_size=BLOCK),
            parse_options=arrow_csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=False),
            convert_options=_conversion(ILSVRC_COLUMNS),
        )
        columns = [np.array(table[name].to_numpy()) for name in ILSVRC_COLUMNS]
        lines = np.arange(1, table.num_rows + 1)
    except pa.ArrowInvalid:
        columns, lines = _by_line(path, data)
    pictures, classes, scores, *sides = columns
    boxes = _half_open(np.stack(sides, axis=1))
    return Columns(str(path), lambda row: f"line {lines[row]}", pictures, classes, scores, boxes)


def _conversion(names: tuple[str, ...]) -> Any:
    """Return how pyarrow reads columns: whole numbers, numbers, text, and no empty values."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    kinds = {name: pa.int64() if name in WHOLE else pa.float64() for name in names if name not in ("picture", "class")}
    kinds |= {name: pa.string() for name in ("picture", "class") if name in names}
    return arrow_csv.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False)


def _by_line(path: Path, data: bytes) -> tuple[list[Any], Longs]:
    """Return the columns of ILSVRC's lines and the number of each line; empty lines are passed over."""
    rows: list[list[float]] = []
    lines: list[int] = []
    for number, line in enumerate(data.splitlines(), start=1):
        words = [word.decode("utf-8", "backslashreplace") for word in line.split()]
        if words:
            rows.append(_numbers(words, ILSVRC_COLUMNS, f"{path}, line {number}"))
            lines.append(number)
    kinds = (np.int64 if name in WHOLE else np.float64 for name in ILSVRC_COLUMNS)
    columns = [np.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    return columns, np.array(lines, np.int64)


def _numbers(words: list[str], names: tuple[str, ...], where: str) -> list[float]:
    """Return the numbers of one line. Raises: ValueError, beginning with `where`."""
    if len(words) != len(names):
        raise ValueError(f"{where}: {len(words)} columns; {len(names)} are needed: {' '.join(names)}")
    values: list[float] = []
    for name, word in zip(names, words, strict=True):
        try:
            values.append(_whole(word) if name in WHOLE else parse_float(word))
        except ValueError:
            kind = "a whole number" if name in WHOLE else "a number"
            raise ValueError(f"{where}: {name} is '{word[:40]}', not {kind}") from None
    return values


def _whole(text: str) -> int:
    """Return the whole number that `text` writes in ASCII, if 64 bits hold it. Raises: ValueError."""
    if "_" in text or not text.isascii() or not -(2**63) <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def read_voc(path: Path, truth: GroundTruth) -> Columns:
    """Result files, one a class, or annotations, one a picture; a folder of either."""
    files = sorted([*path.glob("*.txt"), *path.glob("*.xml")]) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: neither .txt nor .xml files in this folder")
    parts = []
    for file in files:
        if file.suffix.lower() == ".xml":
            found = from_voc(file.read_bytes(), str(file), truth.class_names)
            parts.append(of_detections(file, found))
        else:
            parts.append(_voc_results(file, truth))
    return joined(str(path), parts)


def _voc_results(path: Path, truth: GroundTruth) -> Columns:
    stem = path.stem.replace(" ", "_")
    fitting = [n for n in truth.class_names if f"_{stem}".endswith(f"_{n.replace(' ', '_')}")]
    if not fitting:
        raise ValueError(f"{path}: its name ends in none of the classes; VOC result files are named ..._CLASS.txt")
    label = truth.class_names.index(max(fitting, key=len)) + 1  # "hot dog", not "dog", for ..._hot_dog.txt
    names: list[str] = []
    rows: list[list[float]] = []
    lines: list[int] = []
    check_regular(path)
    for number, line in read_list(path):
        where = f"{path}, line {number}"
        words = line.rsplit(maxsplit=len(VOC_COLUMNS) - 1)  # a name may have blanks
        if len(words) != len(VOC_COLUMNS):
            raise ValueError(f"{where}: {len(words)} columns; {len(VOC_COLUMNS)} are needed: {' '.join(VOC_COLUMNS)}")
        names.append(words[0].strip('"'))
        rows.append(_numbers(words[1:], VOC_COLUMNS[1:], where))
        lines.append(number)
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Columns(
        str(path),
        lambda row: f"{path.name}, line {lines[row]}",
        Named(np.arange(len(names)), names),
        np.full(len(names), label),
        table[:, 0],
        _half_open(table[:, 1:].copy()),
    )


def _half_open(boxes: Doubles) -> Doubles:
    """Return 1-based inclusive boxes as half-open ones, changed in place."""
    boxes[:, :2] -= 1
    return boxes


# JSON


def read_coco(path: Path, truth: GroundTruth) -> Columns:
    """COCO's results: a list of objects with image_id, category_id, bbox (x, y, width, height) and score."""
    entries = _parsed(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: not a list of results; a COCO results file is [{{...}}, ...]")
    if not entries:
        return nothing(str(path))
    for i, entry in enumerate(entries):
        missing = [f for f in COCO_FIELDS if not isinstance(entry, dict) or f not in entry]
        if missing:
            raise ValueError(f"{path}, entry {i + 1}: no {missing[0]}; each needs {', '.join(COCO_FIELDS)}")
    keys = _field(path, entries, "category_id", np.int64)
    classes: Longs | Named = keys
    if all(key.lstrip("-").isdecimal() for key in truth.class_keys):  # COCO's own category ids
        found, places = np.unique(keys, return_inverse=True)
        classes = Named(places.reshape(-1), [str(key) for key in found.tolist()])
    boxes = _field(path, entries, "bbox", np.float64, 4)
    boxes[:, 2:] += boxes[:, :2]
    pictures: Longs | Named
    if any(isinstance(entry["image_id"], str) for entry in entries):  # as YOLO tools write
        pictures = _named([str(entry["image_id"]) for entry in entries])
    else:
        pictures = _field(path, entries, "image_id", np.int64)
    scores = _field(path, entries, "score", np.float64)
    return Columns(str(path), lambda row: f"entry {row + 1}", pictures, classes, scores, boxes)


def _named(names: list[str]) -> Named:
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Named(np.array([places[name] for name in names], np.int64), list(places))


def _parsed(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; the file is damaged or cut off") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; the file is damaged") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be a results file") from None


def _field(path: Path, entries: list[Any], name: str, kind: Any, width: int = 0) -> Any:
    """Return one field of all entries as an array [M], or [M, width]; 1.0 is a whole number too."""
    for i, entry in enumerate(entries):
        values = entry[name] if width else [entry[name]]
        if not isinstance(values, list) or len(values) != (width or 1):
            raise ValueError(f"{path}, entry {i + 1}: {name} must be a list of {width} numbers, got {values!r:.40}")
        if any(type(v) not in (int, float) or (kind is np.int64 and not _is_whole(v)) for v in values):
            what = "a whole number" if kind is np.int64 else "a number"
            raise ValueError(f"{path}, entry {i + 1}: {name} is {entry[name]!r:.40}, not {what}")
    try:
        return np.array([entry[name] for entry in entries], kind).reshape((-1, width) if width else -1)
    except OverflowError:
        raise ValueError(f"{path}: a number in {name} is too large") from None


def _is_whole(value: int | float) -> bool:
    """Return whether a number is whole, and exact where it is written with a point."""
    return isinstance(value, int) or (value.is_integer() and abs(value) < 2**53)


def read_json(path: Path, truth: GroundTruth) -> Columns:
    """The lines of `detect --format json`."""
    text = read_text(path)
    if '"annotations"' in text[:100_000] and '"images"' in text[:100_000]:
        raise ValueError(
            f"{path}: this is ground truth, not predictions; give it as --data, and a file of results here"
        )
    return of_detections(path, from_json(text, str(path), truth.class_names))


# tables


def read_csv(path: Path, truth: GroundTruth) -> Columns:
    """A table with commas between, its columns named in the first line."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    conversion = _conversion(("picture", "class", "image_id", "label", "score", *SIDES))
    kinds = conversion.column_types
    reasons = []
    # whole numbers; 1.0, as pandas writes beside missing values; names, as tools for YOLO write
    for others in ({}, {"image_id": pa.float64(), "label": pa.float64()}, {"image_id": pa.string()}):
        conversion.column_types = kinds | others
        try:
            table = arrow_csv.read_csv(
                path,
                read_options=arrow_csv.ReadOptions(use_threads=False),  # so that errors name the row
                convert_options=conversion,
            )
        except pa.ArrowInvalid as error:
            reasons.append(_arrow_reason(error))
        else:
            return _from_table(path, table)
    raise ValueError(_first_wrong_line(path) or f"{path}: {reasons[0]}")


def _first_wrong_line(path: Path) -> str | None:
    """Return what is wrong with the first line that has too many or few columns, or a number that is none."""
    kinds: dict[str, type] = {**dict.fromkeys(("class_id", "label"), int), **dict.fromkeys(("score", *SIDES), float)}
    with path.open(newline="", encoding="utf-8", errors="backslashreplace") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            return f"{path}: no header; the first line names the columns"
        for row in filter(None, reader):
            if len(row) != len(header):
                return f"{path}, line {reader.line_num}: {len(row)} columns, {len(header)} in the header"
            for name, text in zip(header, row, strict=True):
                try:
                    kinds.get(name, str)(text)
                except ValueError:
                    kind = "a whole number" if kinds[name] is int else "a number"
                    return f"{path}, line {reader.line_num}: {name} is '{text[:40]}', not {kind}"
    return None


def _arrow_reason(error: Exception) -> str:
    return " ".join(str(error).removeprefix("CSV parse error: ").split())[:200]


def read_parquet(path: Path, truth: GroundTruth) -> Columns:
    """A table in Parquet, or the file of a run of the detector."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from eval.predictions.store import DETECTION

    with path.open("rb"):  # raises the error of the system, not pyarrow's
        pass
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or a damaged one ({_arrow_reason(error)})") from None
    if "role" in table.column_names:  # what a run kept for the analysis is no prediction
        table = table.filter(np.equal(table["role"].to_numpy(), DETECTION))
    columns = _from_table(path, table)
    names = (table.schema.metadata or {}).get(b"class_names")
    if names is None or isinstance(columns.classes, Named):
        return columns
    return replace(columns, classes=Named(columns.classes - 1, json.loads(names)))  # of the run's classes


def _from_table(path: Path, table: Any) -> Columns:
    """Return the columns of a table that has picture or image_id, class or label, score, x1, y1, x2, y2."""
    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: two columns are named {twice}; leave one")
    x1, y1, x2, y2 = (_table_numbers(path, table, name) for name in SIDES)
    return Columns(
        str(path),
        lambda row: f"row {row + 1}",
        _table_names(path, table, "picture", "image_id"),
        _table_names(path, table, "class", "label"),
        _table_numbers(path, table, "score"),
        np.stack([x1, y1, x2, y2], axis=1),
    )


def _table_column(path: Path, table: Any, *names: str) -> Any:
    """Return the first column of these names that a table has, whole. Raises: ValueError."""
    name = next((name for name in names if name in table.column_names), None)
    if name is None:
        wanted = " or ".join(names)
        raise ValueError(f"{path}: no column {wanted}; needed are {TABLE_COLUMNS}, with commas between")
    values = table[name].combine_chunks()
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{path}, row {row + 1}: {name} is missing")
    return values


def _table_names(path: Path, table: Any, *names: str) -> Longs | Named:
    import pyarrow as pa

    values = _table_column(path, table, *names)
    if pa.types.is_integer(values.type):
        return np.asarray(values.to_numpy(), np.int64)
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        whole = [_is_whole(number) for number in numbers.tolist()]
        if not all(whole):
            row = whole.index(False)
            raise ValueError(f"{path}, row {row + 1}: {names[-1]} is {numbers[row]}, not a whole number")
        return np.asarray(numbers, np.int64)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        raise ValueError(f"{path}: a column of names or whole numbers is {values.type}")
    encoded = values.dictionary_encode()
    return Named(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())


def _table_numbers(path: Path, table: Any, name: str) -> Doubles:
    import pyarrow as pa

    values = _table_column(path, table, name)
    if not pa.types.is_floating(values.type) and not pa.types.is_integer(values.type):
        raise ValueError(f"{path}: column {name} holds {values.type}, not numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
