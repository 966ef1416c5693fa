"""Output files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path


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


def write_bytes_atomic(path: str | Path, data: bytes, durable: bool = False) -> None:
    """Write `data` to `path` through a temporary file in the same folder and a rename.

    durable: wait until it is on the disk, so that a loss of power cannot take it.

    Until the rename the old file stays as it is; on any failure the temporary file is removed.
    Raises: OSError, of the class of the cause, naming `path`.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()  # the link stays, its target is replaced
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: it is a folder; give the name of a file")
        raise OSError(f"cannot write {path}: it is a device, pipe or socket; give the name of a file")
    temporary = path.parent / f".{os.urandom(8).hex()}.tmp"  # a name that nobody can foresee and occupy
    try:
        try:
            with temporary.open("xb") as file:  # never over or through what is there; the mode of any new file
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)  # os.replace: also over an existing file
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(
            f"cannot write {path}: {reason}; check that the folder exists, can be written and has room"
        ) from error


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
