"""Checkpoints of a training run: written whole or not at all, the last one and the best one kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from proposals.files import write_bytes_atomic

LAST, BEST = "last.pt", "best.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, texts, lists and dicts of them). Raises: OSError; the old file stays then."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes_atomic(path, buffer.getvalue(), durable=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, on the CPU. Raises: OSError; ValueError for a damaged file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: a damaged checkpoint ({reason}); remove it to begin the run anew") from None
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{path}: no checkpoint of a training run; remove it to begin the run anew")
    return state
