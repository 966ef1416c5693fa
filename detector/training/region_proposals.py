"""The proposals that training draws its regions from: a file of the user's, or those of detection, made once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detector.training.processes import World
from proposals.console import Console, noted_signals
from proposals.images import MAX_PIXELS
from proposals.parts import OtherParametersError, Parts, fill
from proposals.pool import StoppedError, usable_cores
from proposals.proposer import ProposalOptions, Proposer, make_proposer
from proposals.store import ProposalStore
from proposals.stored import MissingError, StoredProposals
from proposals.types import Proposals

STORE = "proposals.parquet"


def region_proposals(
    o: ProposalOptions, seed: int, paths: Sequence[Path], folder: Path, console: Console, world: World
) -> Callable[[Path], Proposals | None]:
    """Return the function that looks up a picture's proposals, None for a picture that has none.

    o: what proposes, as in detection, or a file of proposals; what is computed for all `paths` is kept in `folder`,
    part by part, so that a run that was ended goes on; seed: of Selective Search's ranking.
    Raises: ValueError for a file without any of the pictures, or kept proposals of others; OSError.
    """
    proposer = make_proposer(o, seed, threads=1)
    if isinstance(proposer, StoredProposals):
        return _of_file(proposer, paths, console)
    made = folder / STORE
    key = {**proposer.key, "pictures": _digest(paths)}
    names = {path: str(number) for number, path in enumerate(paths)}
    if world.first and not made.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _make(made, names, proposer, key, console)
    world.wait()
    kept = ProposalStore(made)
    if kept.parameters != key:
        what = "pictures" if kept.parameters.get("pictures") != key["pictures"] else "options or weights"
        raise ValueError(f"{made}: holds proposals of other {what}; remove it, or name another run folder")
    return lambda path: kept.get(names[path])


def _of_file(stored: StoredProposals, paths: Sequence[Path], console: Console) -> Callable[[Path], Proposals | None]:
    """Return the look-up in a file; say how many pictures it lacks. Raises: ValueError where it lacks all."""

    def found(path: Path) -> Proposals | None:
        try:
            return stored.of(path)
        except MissingError:
            return None

    missing = [path for path in paths if not stored.has(path)]
    if len(missing) == len(paths):
        raise ValueError(f"{stored.file}: has none of these pictures ({paths[0]}, ...); make it from them")
    if missing:
        console.notice(
            f"{stored.file}: has no proposals of {len(missing):,} pictures ({missing[0]}, ...); they are left out"
        )
    return found


def _make(
    file: Path,
    names: Mapping[Path, str],
    proposer: Proposer,
    key: Mapping[str, str | int | float | None],
    console: Console,
) -> None:
    """Write the proposals of all pictures, going on where a run before was ended; `names`: ids by the paths.

    A picture that has none, being unreadable for instance, is said and left out.
    Raises: ValueError where a run before made them of other pictures, or none has any; OSError.
    """
    paths = {name: path for path, name in names.items()}
    try:
        parts = Parts(file, key)
    except OtherParametersError:
        raise ValueError(
            f"{file}.parts: holds proposals of other pictures or options; remove it, or name another run folder"
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
            told = failed, console.notice, advance, lambda: signals.caught is not None
            try:
                if missing:
                    fill(parts, missing, proposer, MAX_PIXELS, usable_cores(), *told)
            except StoppedError as error:
                raise ChildProcessError(
                    f"{error}: make a file with python -m proposals.extract then, and name it in proposals"
                ) from None
        if not len(parts):
            raise ValueError(f"none of the {len(paths):,} pictures has proposals; check that they can be read")
        parts.merge(paths)


def _digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the pictures' names in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(path.name for path in paths).encode("utf-8", "surrogateescape")).hexdigest()
