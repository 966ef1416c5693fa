"""Compiled models kept in the user's cache folder, each behind a checksum, the latest used few only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from proposals.files import write_bytes_atomic

KEPT = 12  # compiled models, twice an ensemble of six; one has 7 to 100 MB
DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """Return the folder for compiled models, made if need be: in $XDG_CACHE_HOME or ~/.cache, else None.

    A shared temporary folder is not used: compiled models are code.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
        folder = Path(base) / "googlenet-rcnn" / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None


def entry_name(*parts: object) -> str:
    """Return the file name of the model that `parts` describe."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32] + ".model"


def load(folder: Path | None, name: str) -> bytes | None:
    """Return the compiled model of that name, or None where there is none or its checksum is wrong."""
    if folder is None:
        return None
    try:
        content = (folder / name).read_bytes()
        os.utime(folder / name)  # in use, so among the last to go
    except OSError:
        return None
    body = content[DIGEST:]
    return body if hashlib.sha256(body).digest() == content[:DIGEST] else None


def store(folder: Path | None, name: str, body: bytes) -> None:
    """Keep a compiled model, and drop those longest unused beyond `KEPT`; a folder that takes no more is no error."""
    if folder is None:
        return
    try:
        write_bytes_atomic(folder / name, hashlib.sha256(body).digest() + body)
        entries = sorted(folder.glob("*.model"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in entries[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError:
        return
