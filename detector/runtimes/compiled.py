"""Compiled OpenVINO graphs: the one core of the process, and a cache folder that spares compiling again.

A core gives the thread that makes it a signal stack, and takes that stack's memory away when it goes, whichever thread
lets it go. Where that is another one, the next signal (Ctrl-C, a child's end) ends the process with a segmentation
fault (seen with OpenVINO 2026.4). So the core is never let go.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import openvino as ov

from proposals.files import write_bytes_atomic

GRAPHS = 2  # raised when other graphs are built from the same weights: compiled ones in the cache are then of no use
KEPT = 12  # compiled models, twice an ensemble of six; one has 7 to 100 MB
DIGEST = hashlib.sha256().digest_size

_turn = threading.Lock()
_cores: list[ov.Core] = []


def core() -> ov.Core:
    """Return the core of this process, made at the first call; may be called from several threads."""
    with _turn:
        if not _cores:
            _cores.append(ov.Core())
        return _cores[0]


def compiled_model(build: Callable[[], ov.Model], options: Mapping[str, str], *key: object) -> ov.CompiledModel:
    """Return the graph that `build` makes, compiled for this CPU, from the cache where it is there and whole.

    key: all that the graph depends on. Raises: RuntimeError where OpenVINO cannot run it; what `build` raises.
    """
    machine = (ov.__version__, GRAPHS, core().get_property("CPU", "FULL_DEVICE_NAME"))
    folder = cache_folder()
    name = entry_name(machine, dict(options), *key)
    kept = load_entry(folder, name)
    if kept is not None:
        return core().import_model(io.BytesIO(kept), "CPU", dict(options))
    compiled = core().compile_model(build(), "CPU", dict(options))
    store_entry(folder, name, compiled.export_model().getvalue())
    return compiled


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


def load_entry(folder: Path | None, name: str) -> bytes | None:
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


def store_entry(folder: Path | None, name: str, body: bytes) -> None:
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
