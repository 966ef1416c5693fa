"""Proposals of a whole data set in one Parquet file: how it is written, and read at random.

A row is a picture: its id, width, height, and as lists its boxes (x1, y1, x2, y2 of each in turn), scores, sources and,
where MultiBox has seen the picture, the objectness of the boxes. So a picture is there whole or not at all, its name
and size are held once, and reading one is reading a row. The parameters and their fingerprint stand in the metadata of
the schema.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from proposals.files import NewFile
from proposals.types import Proposals

Parameters = Mapping[str, str | int | float | None]

FORMAT, FORMATS = b"2", (b"1", b"2")  # files of format 1 have no objectness
PICTURES_A_GROUP = 16  # a row group is decoded whole: about a millisecond, and a footer that stays small
SCHEMA = pa.schema(
    [
        pa.field("picture", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("boxes", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False),
        pa.field("score", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False),
        pa.field("source", pa.list_(pa.field("element", pa.uint8(), nullable=False)), nullable=False),
        pa.field("objectness", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=True),
    ]
)
LISTS = ("boxes", "score", "source", "objectness")


@dataclass(frozen=True, eq=False)
class PictureProposals:
    """One row: the id of a picture, its width and height in pixels, and its proposals."""

    picture: str
    width: int
    height: int
    proposals: Proposals


def fingerprint(parameters: Parameters) -> str:
    """Return the SHA-256 of `parameters` as canonical JSON (sorted keys, no spaces), in hexadecimal."""
    return hashlib.sha256(_canonical(parameters).encode()).hexdigest()


def _canonical(parameters: Parameters) -> str:
    return json.dumps(dict(parameters), sort_keys=True, separators=(",", ":"))


class ProposalStore(Mapping[str, Proposals]):
    """A file of proposals, memory-mapped: a mapping of picture ids to `Proposals`, in the order of the file.

    Opening reads the ids and sizes; a picture is decoded when it is asked for, with its row group. Threads may share
    a store, and a pickled one opens the file again. Raises: OSError where the file cannot be opened; ValueError for
    a truncated or damaged file, or one that holds no proposals, here or when a picture is read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file `path`."""
        self.path = Path(path)
        self._lock = threading.Lock()
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(self.path))
        with self.path.open("rb"):  # says what is wrong in the words of the system
            pass
        try:
            self._file = pq.ParquetFile(self.path, memory_map=True, page_checksum_verification=True)
            metadata = self._file.schema_arrow.metadata or {}
            format = metadata.get(b"proposals.format")
            self._lists = LISTS[: len(LISTS) if format == FORMAT else -1]
            schema = pa.schema([field for field in SCHEMA if field.name not in LISTS or field.name in self._lists])
            if format not in FORMATS or not self._file.schema_arrow.equals(schema):
                raise ValueError(f"{self.path} is a Parquet file, but none of proposals that this version can read")
            index = self._file.read(columns=["picture", "width", "height"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        self.parameters: Parameters = json.loads(metadata[b"proposals.parameters"])
        self.fingerprint: str = metadata[b"proposals.fingerprint"].decode()
        if fingerprint(self.parameters) != self.fingerprint:
            raise ValueError(f"{self.path} is damaged: its fingerprint is not that of its parameters; make it again")
        self.pictures: tuple[str, ...] = tuple(index["picture"].to_pylist())
        self._row = {picture: row for row, picture in enumerate(self.pictures)}
        if len(self._row) != len(self.pictures):
            raise ValueError(f"{self.path} is damaged: it has a picture twice; make it again")
        self._sizes = np.stack([index["width"].to_numpy(), index["height"].to_numpy()], axis=1)
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._group_starts = np.cumsum([0, *counts])
        self._group: tuple[int, pa.Table] | None = None  # number of the row group that was read last, decoded

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pictures)

    def __contains__(self, picture: object) -> bool:
        return picture in self._row

    def __getitem__(self, picture: str) -> Proposals:
        row = self._row[picture]
        number = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        try:
            with self._lock:
                if self._group is None or self._group[0] != number:
                    self._group = number, self._file.read_row_group(number, list(self._lists), use_threads=False)
                table = self._group[1]
            lists = [table[name][row - int(self._group_starts[number])].values for name in self._lists]
            found: list[Any] = [None if values is None else values.to_numpy() for values in lists]
            return Proposals(found[0].reshape(-1, 4), *found[1:])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def size(self, picture: str) -> tuple[int, int]:
        """Return width and height of a picture in pixels; raise KeyError."""
        width, height = self._sizes[self._row[picture]].tolist()
        return width, height

    def rows(self, pictures: Iterable[str] | None = None) -> Iterator[PictureProposals]:
        """Yield the rows of `pictures`, by default of all."""
        for picture in self.pictures if pictures is None else pictures:
            yield PictureProposals(picture, *self.size(picture), self[picture])

    def close(self) -> None:
        """Close the file; a picture cannot be read after that."""
        self._file.close()

    def __reduce__(self) -> tuple[type[ProposalStore], tuple[Path]]:
        return ProposalStore, (self.path,)

    def _damaged(self, reason: object) -> ValueError:
        text = " ".join(str(reason).split())
        return ValueError(f"{self.path} is no file of proposals, or truncated or damaged ({text}); make it again")


def write_store(path: Path, rows: Iterable[PictureProposals], parameters: Parameters) -> None:
    """Write `rows`, which may be a stream, to `path`, whole or not at all.

    The same rows and parameters give the same bytes. Raises: OSError naming `path`; what was there stays.
    """
    metadata = {
        "proposals.format": FORMAT,
        "proposals.parameters": _canonical(parameters),
        "proposals.fingerprint": fingerprint(parameters),
    }
    rows = iter(rows)
    with NewFile(path) as temporary, temporary.open("xb") as file:
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
        schema = SCHEMA.with_metadata(metadata)
        with pq.ParquetWriter(file, schema, write_page_checksum=True, **options) as writer:
            while group := list(islice(rows, PICTURES_A_GROUP)):
                writer.write_table(_table(group, schema))
        file.flush()
        os.fsync(file.fileno())


def _table(rows: Sequence[PictureProposals], schema: pa.Schema) -> pa.Table:
    """Return `rows` as an Arrow table."""
    found = [row.proposals for row in rows]
    starts = np.cumsum([0, *(len(proposals) for proposals in found)])
    flat = (
        (4 * starts, np.concatenate([proposals.boxes.reshape(-1) for proposals in found])),
        (starts, np.concatenate([proposals.scores for proposals in found])),
        (starts, np.concatenate([proposals.sources for proposals in found])),
    )
    lists = [
        pa.ListArray.from_arrays(pa.array(begin, pa.int32()), pa.array(values), type=field.type)
        for (begin, values), field in zip(flat, list(SCHEMA)[3:-1], strict=True)
    ]
    seen = [proposals.objectness for proposals in found]
    lists.append(pa.array([None if values is None else values.tolist() for values in seen], list(SCHEMA)[-1].type))
    columns = [
        pa.array([row.picture for row in rows], pa.string()),
        pa.array([row.width for row in rows], pa.int32()),
        pa.array([row.height for row in rows], pa.int32()),
    ]
    return pa.table([*columns, *lists], schema=schema)
