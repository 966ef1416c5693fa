"""Output files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

LONGEST_SUFFIX = 16  # a temporary name must not be longer than names may be


def check_folder(folder: Path) -> None:
    """Raise OSError, with its cause in `strerror`, where `folder` can be neither written in nor made; make nothing."""
    path = folder
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    if not path.is_dir():
        what = "is no folder" if path == folder else f"{path} is no folder"
        raise NotADirectoryError(errno.ENOTDIR, what, str(folder))
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "permission denied", str(folder))


class NewFile:
    """A file that appears under its name whole or not at all: written as `temporary`, then renamed.

    As a context manager it yields `temporary`, and keeps what was written there unless something is raised. Until then
    an old file stays as it is. The temporary name lies in the same folder and has the same suffix.
    """

    def __init__(self, path: str | Path, beside: tuple[str, ...] = ()) -> None:
        """Choose the temporary name; make nothing. A link stays, and its target is replaced.

        beside: suffixes of files that are written along with `temporary`, under its stem; they get their names first.
        Raises: OSError where `path` is there and no file.
        """
        path = Path(path)
        self.path = path.resolve() if path.is_symlink() else path
        if self.path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder; give the name of a file")
        if self.path.exists() and not self.path.is_file():
            raise OSError(f"cannot write {path}: it is a device, pipe or socket; give the name of a file")
        suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
        name = f".{os.urandom(8).hex()}.tmp{suffix}"  # that nobody can foresee and occupy
        self.temporary = self.path.parent / name
        self._beside = beside

    def keep(self) -> None:
        """Give the file its name. Raises: OSError, of the class of the cause, naming `path`."""
        with self:
            pass

    def discard(self) -> None:
        """Remove what was written."""
        for suffix in (*self._beside, self.temporary.suffix):
            with suppress(OSError):  # the reason why it could not be written says more
                self.temporary.with_suffix(suffix).unlink()

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                for suffix in (*self._beside, self.temporary.suffix):
                    place = self.path if suffix == self.temporary.suffix else self.path.with_suffix(suffix)
                    self.temporary.with_suffix(suffix).replace(place)  # os.replace: also over an existing file
            elif isinstance(error, OSError):
                raise error
        except OSError as cause:
            if cause.errno is None or not self._owns(cause.filename):
                raise
            reason = f"{cause.strerror or cause}; check that the folder exists, can be written and has room"
            raise type(cause)(f"cannot write {self.path}: {reason}") from cause
        finally:
            self.discard()

    def _owns(self, name: object) -> bool:
        """Return whether an error that names this file, or none, comes from writing ours."""
        return name is None or str(name).startswith(str(self.temporary.with_suffix("")))


def write_bytes_atomic(path: str | Path, data: bytes, durable: bool = False) -> None:
    """Write `data` to `path`, whole or not at all, as `NewFile` does.

    durable: wait until it is on the disk, so that a loss of power cannot take it. Raises: OSError as there.
    """
    with NewFile(path) as temporary, temporary.open("xb") as file:  # never over what is there; any new file's mode
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, line ends as they are, as `write_bytes_atomic` does.

    Raises: OSError as there; ValueError for a character that UTF-8 cannot hold (half of a surrogate pair, as in
    the name of a picture whose bytes are not text).
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"cannot write {path}: {text[error.start : error.end]!r} is no text; rename the picture that has it"
        ) from error
    write_bytes_atomic(path, data)
