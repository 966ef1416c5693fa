"""Predictions of a run of the detector: parts that survive a kill, merged into one Parquet file at the end.

A row is a prediction: picture (its name), label, score, x1, y1, x2, y2 (half-open), role. Roles beside DETECTION are
witnesses, kept for the analysis of misses: of each ground-truth box the best proposal, and the best-scored proposal of
its class that reaches it. The key of the run, the class names and the finished pictures are metadata of the schema.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.predictions.table import Predictions
from proposals.boxes import Boxes
from proposals.files import write_bytes_atomic
from proposals.parts import locked

DETECTION, BEST_PROPOSAL, SCORED_PROPOSAL = 0, 1, 2
SIDES = ("x1", "y1", "x2", "y2")
COLUMNS = {
    "picture": pa.dictionary(pa.int32(), pa.string()),
    "label": pa.int16(),
    "score": pa.float32(),
    **dict.fromkeys(SIDES, pa.float32()),
    "role": pa.int8(),
}
PART_PICTURES, PART_SECONDS = 64, 5.0  # a part is written when either is reached: what a kill can cost

Parameters = Mapping[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Found:
    """What a run found: the predictions, and its witnesses, None where these are not known.

    proposals: the best proposal of each ground-truth box, by picture 0..P-1; raw: the best-scored proposal of its class
    that reaches it.
    """

    predictions: Predictions
    proposals: Mapping[int, Boxes] | None = None
    raw: Predictions | None = None


class OtherRunError(ValueError):
    """A file of predictions of a run with other parameters."""


class PredictionStore:
    """The predictions of one run on one data set: those in its file, and those in the folder FILE.parts beside it.

    `done`: the names of the finished pictures, with or without predictions. A part appears complete or not at all.
    `witnessed`: whether the witnesses are there; those of other ground truth or thresholds are left out.
    """

    def __init__(
        self,
        path: Path,
        parameters: Parameters,
        class_names: Sequence[str],
        truth_key: str = "",
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Take what earlier runs have left; `damaged` then names the parts that were thrown away.

        parameters: the key of the run; truth_key: of the ground truth and the thresholds that witnesses depend on;
        digests: of the pictures by name, one that has changed since is not taken as finished.

        Raises: OtherRunError for other `parameters`; ValueError for a damaged `path`; BlockingIOError while another run
        writes it; OSError.
        """
        self.path = path
        self.folder = path.with_name(path.name + ".parts")
        self.done: set[str] = set()
        self.damaged: list[Path] = []
        self.witnessed = True
        self._parameters = json.dumps({**parameters, "classes": _digest(class_names)}, sort_keys=True)
        self._class_names = json.dumps(list(class_names))
        self._truth_key = truth_key
        self._digests = digests or {}
        self._tables: list[pa.Table] = []
        self._waiting: list[pa.Table] = []
        self._finished: list[str] = []
        self._written = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.folder / "lock")
        except BlockingIOError:
            raise BlockingIOError(f"another run is writing {path}; wait for it, or end it") from None
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.folder}: {error.strerror}") from error
        try:
            if path.exists():
                self._take(path)
            for part in sorted(self.folder.glob("*.parquet")):
                self._take_part(part)
        except BaseException:
            self.close()
            raise

    def _take_part(self, part: Path) -> None:
        try:
            self._take(part)
        except OtherRunError:
            raise
        except ValueError:
            part.unlink()
            self.damaged.append(part)

    def _take(self, path: Path) -> None:
        with path.open("rb"):  # a file that cannot be opened is not a damaged one
            pass
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            metadata = table.schema.metadata or {}
            keys = (b"parameters", b"pictures", b"truth")
            parameters, pictures, truth_key = (metadata[key].decode() for key in keys)
            names: dict[str, str] = json.loads(pictures)
            table = table.cast(pa.schema(COLUMNS))
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: not a file of predictions of this command, or a damaged one; remove it"
            ) from error
        if parameters != self._parameters:
            raise OtherRunError(
                f"{path} was made with other options ({_difference(parameters, self._parameters)}); remove it, or name "
                "another file with --out"
            )
        if truth_key != self._truth_key:
            self.witnessed = False
            table = table.filter(pc.equal(table["role"], DETECTION))
        same = [name for name, digest in names.items() if self._digests.get(name, digest) == digest]
        new = [name for name in same if name not in self.done]
        if len(new) < len(names):
            table = table.filter(pc.is_in(table["picture"].cast(pa.string()), value_set=pa.array(new, pa.string())))
        self._tables.append(table)
        self.done.update(new)

    def add(self, picture: str, labels: Longs, scores: Doubles, boxes: Doubles, roles: Longs) -> None:
        """Keep the rows of a finished picture; every few seconds they go to the disk. Raises: OSError."""
        self._waiting.append(
            pa.table(
                {
                    "picture": pa.array([picture] * len(labels), pa.string()).cast(COLUMNS["picture"]),
                    "label": pa.array(labels.astype(np.int16)),
                    "score": pa.array(scores.astype(np.float32)),
                    **{side: pa.array(boxes[:, i].astype(np.float32)) for i, side in enumerate(SIDES)},
                    "role": pa.array(roles.astype(np.int8)),
                }
            )
        )
        self._finished.append(picture)
        self.done.add(picture)
        if len(self._finished) >= PART_PICTURES or time.monotonic() - self._written > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not on the disk yet. Raises: OSError; what is on the disk stays."""
        if not self._finished:
            return
        number = 1 + max((int(p.stem) for p in self.folder.glob("*.parquet") if p.stem.isdecimal()), default=0)
        table = self._marked(pa.concat_tables(self._waiting), self._finished, self._truth_key)
        _write(self.folder / f"{number:06d}.parquet", table)
        self._tables.append(table)
        self._waiting, self._finished, self._written = [], [], time.monotonic()

    def table(self) -> pa.Table:
        """Return all rows."""
        parts = [t.replace_schema_metadata(None) for t in (*self._tables, *self._waiting)]
        parts.append(pa.schema(COLUMNS).empty_table())
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks()

    def found(self, truth: GroundTruth) -> Found:
        """Return what was found on the pictures of `truth`."""
        return _found(self.table(), truth, self.witnessed)

    def finish(self) -> None:
        """Write all rows as one file, and remove the parts. Raises: OSError, the parts being kept."""
        self.flush()
        parts = list(self.folder.glob("*.parquet"))
        if parts or not self.path.exists():
            key = self._truth_key if self.witnessed else ""  # witnesses are there of all pictures, or of none
            _write(self.path, self._marked(self.table(), sorted(self.done), key))
        for part in parts:
            part.unlink()

    def close(self) -> None:
        """Let go of the folder, and remove it where no part is in it."""
        if not any(self.folder.glob("*.parquet")):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _marked(self, table: pa.Table, pictures: list[str], truth_key: str) -> pa.Table:
        return table.replace_schema_metadata(
            {
                "parameters": self._parameters,
                "class_names": self._class_names,
                "pictures": json.dumps({name: self._digests.get(name, "") for name in pictures}),
                "truth": truth_key,
            }
        )


def truth_key(truth: GroundTruth, thresholds: Doubles) -> str:
    """Return a digest of what the rows for the analysis depend on: the boxes, their classes and thresholds."""
    digest = hashlib.sha256("\n".join(truth.names).encode("utf-8", "surrogateescape"))
    for array in (truth.pictures, truth.labels, truth.boxes, thresholds):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def read_run(path: Path, truth: GroundTruth, thresholds: Doubles) -> Found | None:
    """Return what a run kept in a file, None for another file, or without witnesses of these boxes."""
    if path.suffix != ".parquet":
        return None
    schema = pq.read_schema(path)
    if "role" not in schema.names or (schema.metadata or {}).get(b"truth") != truth_key(truth, thresholds).encode():
        return None
    return _found(pq.read_table(path), truth, witnessed=True)


def _found(table: pa.Table, truth: GroundTruth, witnessed: bool) -> Found:
    """Return the rows of a run on the pictures of `truth`."""
    names = table["picture"].cast("string").to_numpy(zero_copy_only=False)
    index = {name: i for i, name in enumerate(truth.names)}
    pictures = np.array([index.get(name, -1) for name in names], np.int32)
    order = np.argsort(pictures, kind="stable")
    order = order[pictures[order] >= 0]
    pictures = pictures[order]
    labels, scores, roles = (table[name].to_numpy()[order] for name in ("label", "score", "role"))
    boxes = np.stack([table[side].to_numpy()[order] for side in SIDES], axis=1)

    def of(role: int) -> Predictions:
        own = roles == role
        return Predictions(pictures[own], labels[own], scores[own], boxes[own])

    if not witnessed:
        return Found(of(DETECTION))
    own = roles == BEST_PROPOSAL
    owners, starts = np.unique(pictures[own], return_index=True)
    best = np.split(boxes[own], starts[1:])
    return Found(of(DETECTION), dict(zip(owners.tolist(), best, strict=False)), of(SCORED_PROPOSAL))


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]


def _difference(old: str, new: str) -> str:
    """Return the parameters that differ, as `name old, not new`."""
    before, after = json.loads(old), json.loads(new)
    names = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return "; ".join(f"{key} {before.get(key) or 'none'}, not {after.get(key) or 'none'}" for key in names)


def _write(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes_atomic(path, sink.getvalue().to_pybytes())
