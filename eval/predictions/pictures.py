"""Which picture of a data set a name or a number in a file of predictions means: one rule for all formats.

A name is tried, in this order, as: the picture's path within the data set with its suffix, without it, a longer or a
shorter path that ends so, the file name, the stem, and a text of digits as the number. A name that fits several
pictures, or several names that fit one equally well, are an error: a guess would give a wrong score.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from detector.datasets.checks import parse_int
from detector.datasets.ground_truth import GroundTruth, Longs
from proposals.image_files import SUFFIXES

UNKNOWN, SEVERAL = -1, -2  # in place of a picture: a name or number of none, of several
CURE = "write each picture's path within the data set, with its suffix"
STRIPPED = SUFFIXES | {".xml", ".txt", ".json"}
EXACT, TAIL, FILE_NAME = 3, 2, 1  # how well a name fits

Rank = tuple[int, int, int]  # how, the parts of the path in common, whether the suffix is too
Parts = tuple[str, ...]


def match_names(truth: GroundTruth, names: Sequence[str], source: str, by: str = "auto") -> Longs:
    """Return the picture 0..P-1 of each of the names of a file, or UNKNOWN.

    Raises: ValueError, naming `source`, an example and the cure, where names are ambiguous.
    """
    unique = list(dict.fromkeys(names))
    parts = {name: _parts(name) for name in unique}
    index = _Index(truth)
    with_folders = any(len(p) > 1 for p in parts.values())
    fits = {name: index.find(parts[name], with_folders) for name in unique}
    if not any(rank[0] > FILE_NAME for rank, _ in fits.values()):
        if by != "name" and unique and all(parse_int(name) is not None for name in unique):
            numbers = match_numbers(truth, np.array([int(name) for name in unique], np.int64), source, by)
            place = dict(zip(unique, numbers.tolist(), strict=True))
            return np.array([place[name] for name in names], np.int64)
    else:  # other folders have the same names; these are of pictures elsewhere
        fits = {name: fit if fit[0][0] > FILE_NAME else (fit[0], ()) for name, fit in fits.items()}
    best: dict[int, list[str]] = {}
    for name, (rank, found) in fits.items():
        if len(found) == 1:
            rivals = best.setdefault(found[0], [])
            if rivals and rank > fits[rivals[0]][0]:
                rivals.clear()
            if not rivals or rank == fits[rivals[0]][0]:
                rivals.append(name)
    for picture, rivals in best.items():
        if len({parts[name] for name in rivals}) > 1:
            best[picture] = [_in_path(truth, picture, rivals, parts, source)]
    for name, (_, found) in fits.items():
        if len(found) > 1 and not all(picture in best for picture in found):
            first, second = (index.shown(picture) for picture in found[:2])
            count = sum(len(fit[1]) > 1 for fit in fits.values())
            raise ValueError(
                f"{source}: {count:,} of {len(unique):,} names fit several pictures, such as '{name}' both {first} "
                f"and {second}; {CURE}"
            )
    owner = {name: picture for picture, rivals in best.items() for name in rivals}
    return np.array([owner.get(name, UNKNOWN) for name in names], np.int64)


def match_numbers(truth: GroundTruth, numbers: Longs, source: str, by: str = "auto") -> Longs:
    """Return the picture 0..P-1 of each number of a file, or UNKNOWN.

    Where names of pictures are digits, a number may be such a name (as tools for YOLO write) or the data set's own
    number. The one reading by which every number is a picture is taken. Raises: ValueError where both or neither are.
    """
    unique, places = np.unique(numbers, return_inverse=True)
    own = {number: picture for picture, number in enumerate(truth.numbers.tolist())}
    named: dict[int, int] = {}
    for picture, name in enumerate(truth.names):
        digits = parse_int(_bare(_parts(name))[-1])
        if digits is not None:
            named[digits] = SEVERAL if digits in named else picture
    by_number = np.array([own.get(number, UNKNOWN) for number in unique.tolist()], np.int64)
    by_name = np.array([named.get(number, UNKNOWN) for number in unique.tolist()], np.int64)
    if by == "auto":
        by = _reading(by_name, by_number)
    if by == "auto":
        row = int(np.argmax(by_name != by_number))
        shown = {UNKNOWN: "no picture", SEVERAL: "several pictures"}
        name, number = (shown.get(p) or f"'{truth.names[p]}'" for p in (int(by_name[row]), int(by_number[row])))
        raise ValueError(
            f"{source}: its {len(unique):,} picture numbers can be names of files or numbers of the data set: "
            f"{unique[row]} is {name} by name, {number} by number; say --image-id name or --image-id number"
        )
    chosen = by_name if by == "name" else by_number
    if (chosen == SEVERAL).any():
        several = unique[int(np.argmax(chosen == SEVERAL))]
        raise ValueError(f"{source}: the number {several} is the name of several pictures; {CURE}")
    return chosen[places.reshape(-1)] if len(numbers) else np.zeros(0, np.int64)


def _reading(by_name: Longs, by_number: Longs) -> str:
    """Return by which of the two more numbers are pictures, auto where that does not say."""
    named, numbered = by_name != UNKNOWN, by_number != UNKNOWN
    agree = bool((by_name == by_number)[named & numbered].all())
    if (agree and not (named & ~numbered).any()) or (numbered.all() and not named.all()):
        return "number"
    if (agree and not (numbered & ~named).any()) or (named.all() and not numbered.all()):
        return "name"
    return "auto"


class _Index:
    """The pictures of a data set by path, with and without suffix, and by the ends of these paths."""

    def __init__(self, truth: GroundTruth) -> None:
        self._files = [_parts(name) for name in (truth.files or truth.names)]
        self._bare = [_bare(p) for p in self._files] if truth.files else self._files
        self._by_file = _grouped(self._files) if truth.files else {}
        self._by_bare = _grouped(self._bare)
        self._ends = (_ends(self._files) if truth.files else {}, _ends(self._bare))

    def shown(self, picture: int) -> str:
        return "/".join(self._files[picture])

    def find(self, name: Parts, with_folders: bool) -> tuple[Rank, tuple[int, ...]]:
        """Return how well `name` fits, and the pictures that it fits so.

        with_folders: whether any name of the file has a folder; without, names may be file names alone.
        """
        bare = _bare(name)
        exact = self._look(self._by_file, self._by_bare, name, bare)
        ends = self._look(*self._ends, name, bare)
        if exact[1]:
            rivals = set(exact[1]) | set(self._by_bare.get(name, ()))
            if not with_folders:
                rivals |= set(ends[1])
            return (EXACT, len(name), exact[0]), tuple(sorted(rivals))
        if ends[1]:
            return (TAIL, len(name), ends[0]), ends[1]
        for start in range(1, len(name)):
            suffix, found = self._look(self._by_file, self._by_bare, name[start:], bare[start:])
            if found:
                return (TAIL, len(name) - start, suffix), found
        suffix, found = self._look(*self._ends, name[-1:], bare[-1:])
        return (FILE_NAME, 1, suffix), found

    @staticmethod
    def _look(
        files: dict[Parts, tuple[int, ...]], bares: dict[Parts, tuple[int, ...]], name: Parts, bare: Parts
    ) -> tuple[int, tuple[int, ...]]:
        for level, table, key in ((2, files, name), (1, bares, name), (0, bares, bare)):
            if key in table:
                return level, table[key]
        return 0, ()


def _grouped(paths: Sequence[Parts]) -> dict[Parts, tuple[int, ...]]:
    table: dict[Parts, tuple[int, ...]] = {}
    for picture, path in enumerate(paths):
        table[path] = (*table.get(path, ()), picture)
    return table


def _ends(paths: Sequence[Parts]) -> dict[Parts, tuple[int, ...]]:
    """Return the pictures by the ends of their paths; of many that end alike, the first two."""
    table: dict[Parts, tuple[int, ...]] = {}
    for picture, path in enumerate(paths):
        for start in range(1, len(path)):
            found = table.get(path[start:], ())
            if len(found) < 2:
                table[path[start:]] = (*found, picture)
    return table


def _in_path(truth: GroundTruth, picture: int, rivals: list[str], parts: dict[str, Parts], source: str) -> str:
    """Return the one of several names that is the longest end of the picture's path on the disk."""
    path = truth.paths[picture]
    own: Parts = () if path is None else _parts(path.absolute().as_posix())
    ends = [name for name in rivals if own[-len(parts[name]) :] == parts[name]]
    if not ends:
        raise ValueError(
            f"{source}: {rivals[0]} and {rivals[1]} both fit the picture {truth.names[picture]}; "
            "give a file of this data set alone"
        )
    return max(ends, key=lambda name: len(parts[name]))


def _parts(name: str) -> Parts:
    """Return the parts of a path, folders divided by / or \\, accents composed."""
    text = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return tuple(part for part in PurePosixPath(text).parts if part != "/") or ("",)


def _bare(path: Parts) -> Parts:
    """Return the parts of a path, the last without the suffix of a picture."""
    last = PurePosixPath(path[-1])
    return (*path[:-1], last.stem) if last.suffix.casefold() in STRIPPED else path
