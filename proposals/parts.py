"""A data set of proposals in the making: parts that survive a kill, one file at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from proposals.pool import StoppedError, propose_files
from proposals.proposer import Proposer
from proposals.store import Parameters, PictureProposals, ProposalStore, write_store

PART_PICTURES, PART_SECONDS = 64, 10.0  # a part is written when either is reached: what a kill can cost
OPEN_PARTS = 8  # parts nearly follow the order of the pictures, so few have to be open while they are merged

Writer = Callable[[Path, Iterable[PictureProposals]], None]


class OtherParametersError(ValueError):
    """A file of proposals that was made with other parameters than those asked for."""


class Parts:
    """The finished pictures of one data set: those in its file, and those in the folder FILE.parts beside it.

    A part is a file like the whole. It appears complete or not at all, and a picture that is in the file or in two
    parts counts once, so that a run may be killed anywhere. One run at a time holds the folder.
    """

    def __init__(self, path: Path, parameters: Parameters, write: Writer | None = None) -> None:
        """Take what earlier runs have left; `damaged` then names the parts that were thrown away.

        write: writes the whole in another format than Parquet; such a file is never read, and must not be there yet.
        Raises: OtherParametersError for other `parameters`; ValueError for a damaged `path`; BlockingIOError while
        another run goes on; OSError.
        """
        self.path = path
        self.folder = path.with_name(path.name + ".parts")
        self.damaged: list[Path] = []
        self._parameters, self._write = parameters, write
        self._home: dict[str, Path] = {}  # the file that holds a picture
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = locked(self.folder / "lock")
        except BlockingIOError:
            raise BlockingIOError(f"another run is writing {path}; wait for it, or end it") from None
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self.folder}: {error.strerror}") from error
        for left in self.folder.glob(".*.tmp*"):  # of a killed run
            left.unlink()
        try:
            if write is None and path.exists():
                self._take(path)
            self._whole = len(self._home)
            self._last = self._take_parts()
        except BaseException:
            self.close()
            raise

    def __contains__(self, picture: object) -> bool:
        return picture in self._home

    def __len__(self) -> int:
        return len(self._home)

    def add(self, rows: Sequence[PictureProposals]) -> None:
        """Write `rows` as one part; raise OSError, after which it can be tried again."""
        part = self.folder / f"part-{self._last + 1:06d}.parquet"
        write_store(part, rows, self._parameters)
        self._last += 1
        for row in rows:
            self._home.setdefault(row.picture, part)

    def merge(self, order: Iterable[str]) -> bool:
        """Put all parts into the file, pictures in `order` first, others after them; return whether any was new.

        Raises: OSError or ValueError, after which the parts are still there.
        """
        new = len(self._home) > self._whole
        if new:
            pictures = dict.fromkeys(picture for picture in order if picture in self._home)
            others = (picture for picture in self._home if picture not in pictures)
            whole = self.folder / self.path.name  # a killed run leaves nothing outside of the folder
            rows = self._rows([*pictures, *others])
            if self._write is not None:
                self._write(whole, rows)
            else:
                write_store(whole, rows, self._parameters)
            whole.replace(self.path)
        self._whole = len(self._home)
        for part in self.folder.glob("part-*.parquet"):
            part.unlink()
        return new

    def close(self) -> None:
        """Let go of the folder, and remove it where no part is in it."""
        if not any(self.folder.glob("part-*.parquet")):
            shutil.rmtree(self.folder)
        self._lock.close()

    def _take_parts(self) -> int:
        """Note the pictures of all parts, throw damaged parts away, and return the highest number of a part."""
        last = 0
        for part in sorted(self.folder.glob("part-*.parquet")):
            last = int(part.stem.removeprefix("part-"))
            try:
                self._take(part)
            except OtherParametersError:
                raise
            except ValueError:
                part.unlink()
                self.damaged.append(part)
        return last

    def _take(self, path: Path) -> None:
        """Note the pictures of a file; raise OtherParametersError, or ValueError for a damaged one."""
        store = ProposalStore(path)
        store.close()
        asked, made = dict(self._parameters), dict(store.parameters)
        if made != asked:
            names = sorted(name for name in asked | made if asked.get(name) != made.get(name))
            was, wanted = (", ".join(f"{name} {of.get(name)}" for name in names) for of in (made, asked))
            raise OtherParametersError(
                f"{path} was made with {was}, not {wanted}; give the same options, name another --out, "
                f"or remove {self.path} and {self.folder}"
            )
        for picture in store.pictures:
            self._home.setdefault(picture, path)

    def _rows(self, pictures: Iterable[str]) -> Iterator[PictureProposals]:
        """Yield the rows of `pictures`, with a few files open at a time."""
        stores: dict[Path, ProposalStore] = {}
        for picture in pictures:
            home = self._home[picture]
            if home not in stores:
                while len(stores) >= OPEN_PARTS:
                    stores.pop(next(iter(stores))).close()
                stores[home] = ProposalStore(home)
            yield from stores[home].rows([picture])
        for store in stores.values():
            store.close()


def fill(
    parts: Parts,
    missing: Mapping[str, Path],
    proposer: Proposer,
    max_pixels: int,
    workers: int,
    failed: Callable[[str, str], None],
    notice: Callable[[str], None],
    advance: Callable[[int], None],
    stop: Callable[[], bool],
) -> int:
    """Compute the proposals of `missing` images, paths by their ids, into `parts`; return the number of boxes.

    failed: gets the id of an image that has none, and the reason; advance: is called with 1 after each image; notice
    and stop: as of `propose_files`. Raises: StoppedError where workers die without end, what is finished being kept;
    OSError where a part cannot be written.
    """
    waiting: list[PictureProposals] = []
    boxes, last = 0, time.monotonic()

    def keep() -> None:
        nonlocal waiting, last
        if waiting:
            parts.add(waiting)
        waiting, last = [], time.monotonic()

    stream = propose_files(missing.items(), proposer, max_pixels, min(workers, len(missing)), notice, stop)
    with contextlib.closing(stream):
        try:
            for answer in stream:
                if answer is not None:
                    picture, found = answer
                    if isinstance(found, PictureProposals):
                        waiting.append(found)
                        boxes += len(found.proposals)
                    else:
                        failed(picture, found)
                    advance(1)
                if len(waiting) >= PART_PICTURES or time.monotonic() - last > PART_SECONDS:
                    keep()
        except StoppedError:
            keep()
            raise
    keep()
    return boxes


def locked(path: Path) -> IO[bytes]:
    """Return the open file `path`, locked until it is closed or the process ends; raise BlockingIOError, OSError."""
    file = path.open("ab")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink == 0:  # the run that held it has just ended and removed it
            file.close()
            raise BlockingIOError
    return file
