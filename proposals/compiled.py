"""Kernels compiled at their first call and kept on disk: `@compiled` is numba's `njit`, its cache made safe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

log = logging.getLogger("proposals")
_kernels: list[Any] = []
_ready = threading.Event()
_first = threading.Lock()

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return `function` compiled by numba, without the interpreter's lock.

    The machine code is kept beside the source, or in the user's cache folder where the installation is read-only, or
    nowhere where neither can be written (it is then compiled in every process). `fastmath` lets sums be vectorised;
    the order of a sum is fixed when it is compiled, so the same machine gives the same bytes.
    """
    try:
        kernel = njit(function, cache=True, nogil=True, fastmath=True)
    except RuntimeError:  # numba found no folder for its cache
        kernel = njit(function, nogil=True, fastmath=True)
    _kernels.append(kernel)
    return cast(F, kernel)


def compiled_exactly(function: F) -> F:
    """Return `function` as `compiled` does, but with every operation rounded as IEEE 754 says, as metrics need it."""
    try:
        return cast(F, njit(function, cache=True, nogil=True))
    except RuntimeError:  # numba found no folder for its cache
        return cast(F, njit(function, nogil=True))


def _on_disk(kernel: Any) -> bool:
    """Whether the cache folder holds machine code of `kernel`."""
    folder = kernel.stats.cache_path
    return folder is not None and any(Path(folder).glob(f"*.{kernel.__name__}-*.nbi"))


def notice_compilation() -> None:
    """Say so, in one line of the logger `proposals`, when the first call of a process has to compile its kernels."""
    with _first:
        if not _ready.is_set() and not all(_on_disk(kernel) for kernel in _kernels):
            log.warning("compiling Selective Search for this machine, once (about ten seconds)")
        _ready.set()
