"""A data set of proposals in the making: parts that survive a kill, merged into one file at the end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from proposals.store import Parameters, PictureProposals, ProposalStore, write_store

OPEN_PARTS = 8  # parts follow the order of the pictures nearly, so that few are open while they are merged


class OtherParametersError(ValueError):
    """A file of proposals that was made with other parameters than those asked for."""


class Parts:
    """The finished pictures of one data set: those in its file, and those in the folder FILE.parts beside it.

    A part is a file like the whole. It appears complete or not at all, and a picture that is in the file or in two
    parts counts once, so that a run may be killed anywhere. One run at a time holds the folder.
    """

    def __init__(self, path: Path, parameters: Parameters) -> None:
        """Take what earlier runs have left; `damaged` then names the parts that were thrown away.

        Raises: OtherParametersError for other `parameters`; ValueError for a damaged `path`; BlockingIOError while
        another run goes on; OSError.
        """
        self.path = path
        self.folder = path.with_name(path.name + ".parts")
        self.damaged: list[Path] = []
        self._parameters = parameters
        self._home: dict[str, Path] = {}  # the file that holds a picture
        self._open: dict[Path, ProposalStore] = {}
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
            if path.exists():
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
            write_store(whole, self._rows([*pictures, *others]), self._parameters)
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
