"""The one OpenVINO core of the process, which is never let go.

A core gives the thread that makes it a signal stack, and takes that stack's memory away when it goes, whichever thread
lets it go. Where that is another one, the next signal (Ctrl-C, a child's end) ends the process with a segmentation
fault (seen with OpenVINO 2026.4).
"""

from __future__ import annotations

import threading

import openvino as ov

_turn = threading.Lock()
_cores: list[ov.Core] = []


def core() -> ov.Core:
    """Return the core of this process, made at the first call; may be called from several threads."""
    with _turn:
        if not _cores:
            _cores.append(ov.Core())
        return _cores[0]
