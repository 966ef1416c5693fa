"""Kernels compiled at their first call and kept on disk: `@compiled` is numba's `njit`, its cache made safe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from numba import njit

NOTICE_AFTER = 1.5  # seconds; kernels from the cache are there in less

log = logging.getLogger("proposals")
_ready = threading.Event()

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return `function` compiled by numba, without the interpreter's lock.

    The machine code is kept beside the source, or in the user's cache folder where the installation is read-only, or
    nowhere where neither can be written (it is then compiled in every process). `fastmath` lets sums be vectorised;
    the order of a sum is fixed when it is compiled, so the same machine gives the same bytes.
    """
    try:
        return cast(F, njit(function, cache=True, nogil=True, fastmath=True))
    except RuntimeError:  # numba found no folder for its cache
        return cast(F, njit(function, nogil=True, fastmath=True))


@contextmanager
def notice_compilation() -> Iterator[None]:
    """Say so, in one line of the logger `proposals`, when the first call of a process has to compile its kernels."""
    if _ready.is_set():
        yield
        return
    text = "compiling Selective Search for this machine, once (about ten seconds)"
    timer = threading.Timer(NOTICE_AFTER, log.warning, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _ready.set()
