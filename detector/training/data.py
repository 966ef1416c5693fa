"""Labelled pictures to train a classifier with: a folder of class folders, a list, or tar shards; without labels also
any folder or list, for distillation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from detector.datasets.ground_truth import Longs
from detector.training.shards import (
    MAX_CLASSES,
    SHARDS_MIXED,
    Names,
    checked_label,
    fingerprint_of,
    numbered_classes,
    read_shards,
    shard_paths,
)
from proposals.image_files import SUFFIXES, read_list
from proposals.images import Image, read_image

UNLABELLED = -1
KINDS = "give a folder of class folders, a list (.txt), or tar shards (.tar)"


class ImageSet(Protocol):
    """N pictures with a class each; cheap to pickle, and readable from any number of processes and threads.

    class_names: [C]; labels: int64 [N], 0..C-1, or -1 throughout where they were not asked for.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> Longs: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image:
        """Return picture `index`, uint8 RGB [H, W, 3]; raise proposals.images.ImageError where it cannot be read."""

    def order(self, epoch: int, seed: int) -> Longs:
        """Return the order int64 [N] in which an epoch sees the pictures: a permutation, the same for the same seed."""

    def fingerprint(self) -> str:
        """Return the sha256, in hex, of the names, sizes and labels, not of the contents. Raises: OSError."""


@dataclass(frozen=True, eq=False)
class FileSet:
    """N pictures in files of their own, below `folder`; an ImageSet.

    names: [N], their paths from the folder, in the file system's encoding; labels: int64 [N]; class_names: [C].
    """

    folder: Path
    names: Names
    labels: Longs
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return picture `index`, uint8 RGB [H, W, 3]; raise ImageError where it cannot be read."""
        return read_image(self._path(index))

    def order(self, epoch: int, seed: int) -> Longs:
        """Return the order int64 [N] in which an epoch sees the pictures: any permutation is equally likely."""
        return np.random.default_rng([seed, epoch]).permutation(len(self)).astype(np.int64)

    def fingerprint(self) -> str:
        """Return the sha256, in hex, of the names, sizes, labels and classes. Raises: OSError for a missing file."""
        sizes = np.fromiter((self._path(index).stat().st_size for index in range(len(self))), np.int64, len(self))
        return fingerprint_of(self.names, sizes, self.labels, self.class_names)

    def _path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self.names[index])


def open_images(
    path: str | os.PathLike[str],
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    labelled: bool = True,
    shards_mixed: int = SHARDS_MIXED,
) -> ImageSet:
    """Return the pictures that `path` names, by what is there.

    A folder of *.tar, one .tar, or a name with braces or a pattern (`train-{000..146}.tar`, `part?.tar`): WebDataset
    shards, `0001.jpg` with `0001.cls`, an integer; `shards_mixed` of them are shuffled together. Another folder: a
    folder for each class, the classes in the order of their names. A `.txt`: `path label` a line, a tab between them
    where the label has blanks, paths from the list's folder; labels are numbers 0..C-1 or names of classes.
    classes: their names in the order of the labels, or a file with one a line (up to the first tab); without it, those
    of the folders or labels found. labelled: False takes all pictures of a folder, list (paths alone will do) or
    shards, with the label -1.
    Raises: OSError when something is missing or cannot be read, ValueError for what cannot be understood; both in one
    line, with the file and the cure.
    """
    if shards_mixed < 1:
        raise ValueError(f"shards_mixed must be at least 1, got {shards_mixed}")
    names = None if classes is None else _class_names(classes)
    place = Path(path)
    if place.is_dir():
        shards = sorted(p for p in place.glob("*.tar") if p.is_file() and not p.name.startswith("."))
        if shards:
            return read_shards(shards, names, labelled, shards_mixed)
        return _class_folders(place, names) if labelled else _all_below(place, names or ())
    if place.suffix.casefold() == ".txt":
        return _list(place, names) if labelled else _bare_list(place, names or ())
    if place.is_file() and place.suffix.casefold() != ".tar":
        raise ValueError(f"{place}: cannot tell what it is by its name; {KINDS}")
    if not place.is_file() and not re.search(r"[*?[{]", os.fspath(path)):
        raise FileNotFoundError(f"{place}: no such file or folder; {KINDS}")
    return read_shards(shard_paths(os.fspath(path)), names, labelled, shards_mixed)


def _class_names(classes: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes, given or in a file; raise OSError, or ValueError for none or one twice."""
    if isinstance(classes, str | os.PathLike):
        where = os.fspath(classes)
        names = [line.split("\t")[0].strip() for _, line in _lines(Path(classes))]
    else:
        where, names = "classes", list(classes)
    if not names:
        raise ValueError(f"{where}: no class in it; write one name a line")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{where}: class '{twice}' comes twice; leave one of them out")
    return tuple(names)


def _class_folders(folder: Path, class_names: tuple[str, ...] | None) -> FileSet:
    """Return the pictures of a folder with a folder for each class."""
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise ValueError(
            f"{folder}: no class folder in it; put the pictures of each class into a folder, or give a list"
        )
    known = _numbers(found if class_names is None else class_names)
    names: list[str] = []
    labels: list[int] = []
    for name in found:
        if name not in known:
            raise ValueError(f"{folder / name}: is none of the {len(known):,} classes; rename it, or add it to them")
        pictures = [f"{name}/{below}" for below in _pictures_below(folder / name)]
        if not pictures and class_names is None:
            raise ValueError(f"{folder / name}: no picture in it; delete the folder, or give the list of classes")
        names += pictures
        labels += [known[name]] * len(pictures)
    if not names:
        raise ValueError(f"{folder}: no picture in its folders; put JPEG or PNG files there")
    return _file_set(folder, names, labels, tuple(known))


def _all_below(folder: Path, class_names: tuple[str, ...]) -> FileSet:
    """Return all the pictures in and below a folder, without labels."""
    names = list(_pictures_below(folder))
    if not names:
        raise ValueError(f"{folder}: no picture in or below it; put JPEG or PNG files there")
    return _file_set(folder, names, [UNLABELLED] * len(names), class_names)


def _pictures_below(folder: Path) -> Iterator[str]:
    """Yield the paths, from `folder`, of the pictures in and below it, known by suffix, sorted within each folder."""
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder).as_posix()
        for name in sorted(files):
            if not name.startswith(".") and f".{name.rpartition('.')[2].casefold()}" in SUFFIXES:
                yield name if inside == "." else f"{inside}/{name}"


def _refuse(error: OSError) -> None:
    raise error


def _list(path: Path, class_names: tuple[str, ...] | None) -> FileSet:
    """Return the pictures of a list of `path label` lines."""
    rows = list(_rows(path))
    numbered = class_names is None and all(re.fullmatch(r"\d{1,18}", label) for _, _, label in rows)
    known: Mapping[str, int] = {}
    if not numbered:
        known = _numbers(sorted({label for _, _, label in rows}) if class_names is None else class_names)
    count = MAX_CLASSES if numbered else len(known)
    names: list[str] = []
    labels: list[int] = []
    for where, name, label in rows:
        if label in known:
            labels.append(known[label])
        elif re.fullmatch(r"-?\d{1,18}", label):
            labels.append(checked_label(where, int(label), count))
        else:
            raise ValueError(f"{where}: unknown class '{label}'; correct it, or add it to the list of classes")
        _check_file(where, path.parent / name)
        names.append(name)
    found = numbered_classes(np.array(labels, np.int64)) if numbered else tuple(known)
    return _file_set(path.parent, names, labels, found)


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (where it stands, path, label) of the lines of a list; raise ValueError."""
    for number, line in _lines(path):
        name, _, label = line.rpartition("\t" if "\t" in line else " ")
        if not name.strip():
            raise ValueError(f"{path}, line {number}: '{line}' is not 'path label'; write the class after the path")
        yield f"{path}, line {number}", name.strip(), label.strip()


def _bare_list(path: Path, class_names: tuple[str, ...]) -> FileSet:
    """Return the pictures of a list of paths, without labels; those of a list with labels are left aside."""
    names: list[str] = []
    for number, line in _lines(path):
        name = line.partition("\t")[0].strip()
        shorter = name.rpartition(" ")[0].strip()
        if shorter and not (path.parent / name).is_file() and (path.parent / shorter).is_file():
            name = shorter
        _check_file(f"{path}, line {number}", path.parent / name)
        names.append(name)
    return _file_set(path.parent, names, [UNLABELLED] * len(names), class_names)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return (number, stripped text) of the lines of a file that are not blank; raise OSError or ValueError."""
    try:
        lines = read_list(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; correct its name") from None
    if not lines:
        raise ValueError(f"{path}: is empty; write one entry a line")
    return lines


def _check_file(where: str, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no such file {path}; paths start at the folder of the list")


def _numbers(class_names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(class_names)}


def _file_set(folder: Path, names: list[str], labels: list[int], class_names: tuple[str, ...]) -> FileSet:
    return FileSet(folder, np.array([os.fsencode(name) for name in names]), np.array(labels, np.int64), class_names)
