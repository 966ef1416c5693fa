"""The proposals that training draws its regions from: a file of the user's, or one made once in the run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from detector.config import DetectOptions
from detector.console import Console
from detector.images import ImageError, read_image
from detector.training.region_pool import proposals_of
from detector.training.world import World
from proposals.region_proposals import Proposals
from proposals.store import PictureProposals, ProposalStore, write_store

STORE = "proposals.parquet"


def stored_proposals(
    file: str, paths: Sequence[Path], folder: Path, console: Console, world: World
) -> Callable[[Path], Proposals | None]:
    """Return the function that looks up a picture's proposals, None for a picture that has none.

    file: of `python -m proposals.extract`; "": Selective Search as `detect` runs it, on all `paths`, kept in `folder`.
    Raises: ValueError for a file without any of the pictures, or kept proposals of others; OSError.
    """
    if file:
        store = ProposalStore(file)
        missing = [path for path in paths if proposals_of(store, path) is None]
        if len(missing) == len(paths):
            raise ValueError(f"{file}: has none of these pictures ({paths[0]}, ...); make it from them")
        if missing:
            console.notice(f"{file}: has no proposals of {len(missing):,} pictures ({missing[0]}, ...); left out")
        return lambda path: proposals_of(store, path)
    made = folder / STORE
    if world.first and not made.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _make(made, paths, console)
    world.wait()
    kept = ProposalStore(made)
    if kept.parameters.get("pictures") != _digest(paths):
        raise ValueError(f"{made}: holds proposals of other pictures; remove it, or name another run folder")
    names = {path: str(number) for number, path in enumerate(paths)}
    return lambda path: kept.get(names[path])


def _make(file: Path, paths: Sequence[Path], console: Console) -> None:
    """Write the proposals of `paths`, numbered; a picture that cannot be read is said and left out."""
    from proposals.selective_search import selective_search

    scale = DetectOptions().superpixel_scale
    rows = []
    with console.progress("proposals", len(paths)) as advance:
        for number, path in enumerate(paths):
            try:
                image = read_image(path)
            except ImageError as error:
                console.notice(f"{path}: {error.reason}; left out")
            else:
                found = selective_search(image, superpixel_scale=scale, seed=0)
                rows.append(PictureProposals(str(number), image.shape[1], image.shape[0], found))
            advance(1)
    write_store(file, rows, {"superpixel_scale": scale, "seed": 0, "pictures": _digest(paths)})


def _digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the pictures' names in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(path.name for path in paths).encode("utf-8", "surrogateescape")).hexdigest()
