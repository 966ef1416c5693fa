"""Output files that appear complete or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder and a rename.

    Until the rename the old file stays as it is; on any failure the temporary file is removed.
    Raises: OSError, of the class of the cause, naming `path`.
    """
    path = Path(path)
    temporary = path.parent / f".{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        try:
            temporary.write_bytes(data)
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
