"""The proposals that training draws its regions from: a file of the user's, or one made once in the run folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detector.options import DetectOptions
from detector.training.processes import World, noted_signals
from detector.training.regions import proposals_of
from proposals.console import Console
from proposals.filling import fill
from proposals.images import MAX_PIXELS
from proposals.parts import OtherParametersError, Parts
from proposals.store import ProposalStore
from proposals.types import Proposals
from proposals.workers import Search, Stopped, usable_cores

STORE = "proposals.parquet"


def stored_proposals(
    file: str, paths: Sequence[Path], folder: Path, console: Console, world: World
) -> Callable[[Path], Proposals | None]:
    """Return the function that looks up a picture's proposals, None for a picture that has none.

    file: of `python -m proposals.extract`; "": Selective Search as `detect` runs it, on all `paths`, kept in `folder`,
    part by part, so that a run that was ended goes on.
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
    pictures = _digest(paths)
    names = {path: str(number) for number, path in enumerate(paths)}
    if world.first and not made.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _make(made, names, pictures, console)
    world.wait()
    kept = ProposalStore(made)
    if kept.parameters.get("pictures") != pictures:
        raise ValueError(f"{made}: holds proposals of other pictures; remove it, or name another run folder")
    return lambda path: kept.get(names[path])


def _make(file: Path, names: Mapping[Path, str], pictures: str, console: Console) -> None:
    """Write the proposals of all pictures, going on where a run before was ended; `names`: ids by the paths.

    pictures: their digest. A picture that has none, being unreadable for instance, is said and left out.
    Raises: ValueError where a run before made them of other pictures, or none has any; OSError.
    """
    search = Search("own", "fast", DetectOptions().superpixel_scale, 0, None, MAX_PIXELS)
    paths = {name: path for path, name in names.items()}
    try:
        parts = Parts(file, {**search.parameters(), "pictures": pictures})
    except OtherParametersError:
        raise ValueError(
            f"{file}.parts: holds proposals of other pictures, or made by another version; remove it, or name another "
            "run folder"
        ) from None
    with contextlib.closing(parts):
        for part in parts.damaged:
            console.notice(f"{part} was damaged and is thrown away; its pictures are searched again")
        missing = {name: path for name, path in paths.items() if name not in parts}
        if len(parts):
            console.note(f"the proposals of {len(parts):,} of {len(paths):,} pictures are there already")

        def failed(name: str, reason: str) -> None:
            console.notice(f"{paths[name]}: {reason}; left out")

        with noted_signals() as signals, console.progress("proposals", len(paths)) as advance:
            advance(len(parts))
            try:
                if missing:
                    fill(parts, missing, search, usable_cores(), failed, advance, lambda: signals.caught is not None)
            except Stopped as error:
                raise ChildProcessError(
                    f"{error}: make a file with python -m proposals.extract then, and name it in proposals"
                ) from None
        if not len(parts):
            raise ValueError(f"none of the {len(paths):,} pictures has proposals; check that they can be read")
        parts.merge(paths)


def _digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the pictures' names in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(path.name for path in paths).encode("utf-8", "surrogateescape")).hexdigest()
