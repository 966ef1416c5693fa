"""The proposals of a file in any of three formats: which of its rows belongs to an image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from proposals.exchange import MATLAB, PICKLE, read_mat, read_pickle
from proposals.image_files import SUFFIXES
from proposals.images import Image
from proposals.store import ProposalStore
from proposals.types import Proposals

if TYPE_CHECKING:
    from proposals.proposer import Key

Size = tuple[int, int]
Likeness = tuple[bool, int, bool, bool]
FOLDER: Likeness = (False, 2, False, False)  # that of two paths whose last folders have the same name


class MissingError(ValueError):
    """A file has no proposals of an image."""


def open_proposals(file: Path) -> Mapping[str, Proposals]:
    """Return the proposals in a file by the names of their images: .mat, .pkl, or Parquet under any other name.

    Raises: OSError; ValueError for a damaged file, or one of another kind.
    """
    suffix = file.suffix.casefold()
    if suffix in MATLAB:
        return read_mat(file)
    return read_pickle(file) if suffix in PICKLE else ProposalStore(file)


class StoredProposals:
    """A proposal method that looks an image's proposals up in a file, by the image's path."""

    def __init__(self, file: Path) -> None:
        """Open the file. Raises: as `open_proposals`."""
        self.file = file
        self._rows = open_proposals(file)
        self._asked: dict[str, PurePath] = {}  # the image that each name was found to be
        self._by_stem: dict[str, list[str]] = {}
        for name in self._rows:
            for stem in _stems(name)[: 2 if _bare(name) == name else 1]:
                self._by_stem.setdefault(stem, []).append(name)

    @property
    def key(self) -> Key:
        with self.file.open("rb") as file:
            return {"proposals_sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, image: Image, path: Path | None = None) -> Proposals:
        if path is None:
            raise MissingError(f"{self.file} finds proposals by the name of a picture's file; this picture has none")
        return self.of(path, (image.shape[1], image.shape[0]))

    def of(self, path: PurePath, size: Size | None = None) -> Proposals:
        """Return the proposals of the image `path`; size: its width and height, where they are known.

        Raises: MissingError where the file has none; ValueError where several fit alike, one fits several images, or
        it is of an image of another size.
        """
        name = self.find(path, size)
        file = Path(path).resolve() if Path(path).exists() else path
        other = self._asked.setdefault(name, file)
        if other != file:
            raise ValueError(f"{self.file} has one {name}, which may be this picture or {other}")
        found = self._rows[name]
        if size is not None:
            own = self._size(name) or size
            if own != size:
                raise ValueError(f"{self.file} has it with {own[0]} x {own[1]} pixels, not {size[0]} x {size[1]}")
            if len(found) and (found.boxes.max(axis=0)[2:] > size).any():
                raise ValueError(f"{self.file} has boxes of this picture beyond its {size[0]} x {size[1]} pixels")
        return found

    def has(self, path: PurePath, size: Size | None = None) -> bool:
        """Return whether the file has proposals of the image `path`. Raises: ValueError where several fit alike."""
        try:
            return bool(self.find(path, size))
        except MissingError:
            return False

    def find(self, path: PurePath, size: Size | None = None) -> str:
        """Return the name that the image `path` has in the file.

        It has the file name of the image, with or without a suffix; a number may lack the zeros before it. Its folders,
        where it has any, are those that the path ends in, or at least the last one is, or the size says that it is the
        same image. Of several such names the one with most folders in common counts. Raises: as `of`.
        """
        parts = (Path(path).absolute() if Path(path).exists() else path).parts
        fitting = dict.fromkeys(name for stem in _stems(path.name) for name in self._by_stem.get(stem, []))
        likeness = {name: _likeness(PurePosixPath(name), parts) for name in fitting}
        best = max(likeness.values(), default=None)
        found = [name for name, like in likeness.items() if like == best]
        if best is None or (best < FOLDER and (size is None or self._size(found[0]) != size)):
            example = f" (it has {next(iter(self._rows))}, ...)" if self._rows else ""
            raise MissingError(f"{self.file} has no proposals of this picture{example}")
        if len(found) > 1:
            raise ValueError(f"{self.file} has {found[0]} and {found[1]}; both may be it; give a longer path")
        return found[0]

    def _size(self, name: str) -> Size | None:
        return self._rows.size(name) if isinstance(self._rows, ProposalStore) else None

    def prepare(self) -> None:
        pass

    def describe(self) -> str:
        return f"proposals of {self.file}"


def _bare(name: str) -> str:
    """Return a file name without the suffix of an image."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.casefold() in SUFFIXES and path.stem else path.name


def _stems(name: str) -> tuple[str, ...]:
    """Return the keys of a name: its stem and, where that is a number, the number without zeros before it."""
    bare = _bare(name)
    return (bare, f"={int(bare)}") if bare.isdecimal() else (bare,)


def _likeness(name: PurePosixPath, path: tuple[str, ...]) -> Likeness:
    """Return how well a name of the file fits a path of the same stem.

    Whether one ends in all of the other, how many parts are equal, whether the suffix is, and the stem to the letter.
    """
    own = [part for part in name.parts if part not in ("..", ".")]
    same = 1
    while same < min(len(own), len(path)) and own[-same - 1] == path[-same - 1]:
        same += 1
    return same == min(len(own), len(path)), same, name.name == path[-1], _bare(name.name) == _bare(path[-1])
