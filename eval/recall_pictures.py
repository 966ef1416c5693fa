"""The proposals of the pictures of a data set: out of a file of `python -m proposals.extract`, or computed."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from detector.datasets.ground_truth import GroundTruth
from proposals.image_files import SUFFIXES
from proposals.store import ProposalStore
from proposals.types import Proposals
from proposals.workers import Search, Stopped, answers


class Found(NamedTuple):
    """The proposals of picture 0..P-1 of a data set, or in their place the reason why there are none."""

    picture: int
    proposals: Proposals | str


def stored(truth: GroundTruth, pictures: Sequence[int], file: Path) -> Generator[Found, None, None]:
    """Yield the proposals of `pictures` in a file, by `same_pictures`.

    Raises: OSError; ValueError for a damaged file, one that has none of the pictures, and names that fit several.
    """
    with contextlib.closing(ProposalStore(file)) as store:
        names = same_pictures(truth, pictures, store.pictures, file)
        if not names:
            example = f" (it has {store.pictures[0]}, not {truth.names[pictures[0]]})" if store.pictures else ""
            raise ValueError(
                f"{file}: none of its {len(store):,} pictures is one of the data set{example}; give others"
            )
        for picture in pictures:
            if picture not in names:
                yield Found(picture, f"not in {file}")
            else:
                name = names[picture]
                yield _checked(truth, picture, store.size(name), store[name])


def searched(truth: GroundTruth, pictures: Sequence[int], search: Search, workers: int) -> Generator[Found, None, None]:
    """Yield the Selective Search proposals of `pictures`, computed by `workers` processes, as they are done.

    Raises: OSError when the processes die without end.
    """
    index = {truth.names[picture]: picture for picture in pictures}
    files: dict[str, Path] = {}
    for name, picture in index.items():
        path = truth.paths[picture]
        if path is None:
            yield Found(picture, "the data set has no file of it; add the picture, or give --proposals")
        else:
            files[name] = path
    if not files:
        return
    stream = answers(files.items(), search, min(workers, len(files)), lambda: False)
    try:
        with contextlib.closing(stream):
            for answer in stream:
                if answer is None:
                    continue
                name, row = answer
                if isinstance(row, str):
                    yield Found(index[name], row)
                else:
                    yield _checked(truth, index[name], (row.width, row.height), row.proposals)
    except Stopped as error:
        raise OSError(str(error)) from error


def same_pictures(truth: GroundTruth, pictures: Sequence[int], names: Sequence[str], file: Path) -> dict[int, str]:
    """Return which of the `names` of a file of proposals each picture of a data set has there, if any.

    A name fits that is the picture's path, or that ends, without extension, in the picture's own name (its stem, with
    folders where stems collide). Of several that fit, the longest that the picture's path ends in.
    Raises: ValueError, naming `file`, where several fit and its path ends in none.
    """
    exact = set(names)
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(_bare(name)[-1], []).append(name)
    found: dict[int, str] = {}
    for picture in pictures:
        path = truth.paths[picture]
        if path is not None and path.as_posix() in exact:
            found[picture] = path.as_posix()
            continue
        own = PurePosixPath(truth.names[picture]).parts
        fitting = [name for name in by_stem.get(own[-1], []) if _bare(name)[-len(own) :] == own]
        if len(fitting) > 1:
            parts = () if path is None else path.absolute().parts
            ends = [name for name in fitting if parts[-len(PurePosixPath(name).parts) :] == PurePosixPath(name).parts]
            if not ends:
                raise ValueError(
                    f"{file}: {fitting[0]} and {fitting[1]} both fit the picture {truth.names[picture]}; "
                    "give a file of this data set alone"
                )
            fitting = [max(ends, key=len)]
        if fitting:
            found[picture] = fitting[0]
    return found


def _bare(name: str) -> tuple[str, ...]:
    """Return the parts of a path, the last without the suffix of a picture."""
    path = PurePosixPath(name)
    return (path.with_suffix("") if path.suffix.casefold() in SUFFIXES and path.stem else path).parts or ("",)


def _checked(truth: GroundTruth, picture: int, size: tuple[int, int], proposals: Proposals) -> Found:
    """Return the proposals, or why they do not belong to the picture: theirs has another size."""
    width, height = truth.sizes[picture].tolist()
    if width and height and (width, height) != size:
        reason = f"its proposals are of {size[0]} x {size[1]} pixels, its ground truth of {width} x {height}"
        return Found(picture, reason)
    return Found(picture, proposals)
