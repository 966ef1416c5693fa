"""The one OpenVINO core of the process, which is never let go, and what it compiles.

A core gives the thread that makes it a signal stack, and takes that stack's memory away when it goes, whichever thread
lets it go. Where that is another one, the next signal (Ctrl-C, a child's end) ends the process with a segmentation
fault (seen with OpenVINO 2026.4).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping

import openvino as ov

from detector.networks.openvino_graph import GRAPHS
from detector.runtimes import model_cache

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
    folder = model_cache.cache_folder()
    name = model_cache.entry_name(machine, dict(options), *key)
    kept = model_cache.load(folder, name)
    if kept is not None:
        return core().import_model(io.BytesIO(kept), "CPU", dict(options))
    compiled = core().compile_model(build(), "CPU", dict(options))
    model_cache.store(folder, name, compiled.export_model().getvalue())
    return compiled
