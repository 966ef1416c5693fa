"""Proposals computed in worker processes and kept, part by part, as they are finished."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from proposals.parts import Parts
from proposals.store import PictureProposals
from proposals.workers import Search, Stopped, answers

PART_PICTURES, PART_SECONDS = 64, 10.0  # a part is written when either is reached: what a kill can cost


def fill(
    parts: Parts,
    missing: Mapping[str, Path],
    search: Search,
    workers: int,
    failed: Callable[[str, str], None],
    advance: Callable[[int], None],
    stop: Callable[[], bool],
) -> int:
    """Compute the proposals of `missing` pictures, paths by their ids, into `parts`; return the number of boxes.

    failed: told the id of a picture that has none, and the reason; advance: called with 1 after each picture; stop:
    asked several times a second whether to end early, with all that is finished kept.
    Raises: Stopped where workers die without end, what is finished being kept; OSError where a part cannot be written.
    """
    waiting: list[PictureProposals] = []
    boxes, last = 0, time.monotonic()
    try:
        with contextlib.closing(answers(missing.items(), search, min(workers, len(missing)), stop)) as stream:
            for answer in stream:
                if answer is not None:
                    picture, found = answer
                    if isinstance(found, PictureProposals):
                        waiting.append(found)
                        boxes += len(found.proposals)
                    else:
                        failed(picture, found)
                    advance(1)
                if len(waiting) >= PART_PICTURES or (waiting and time.monotonic() - last > PART_SECONDS):
                    parts.add(waiting)
                    waiting, last = [], time.monotonic()
    except Stopped:
        if waiting:
            parts.add(waiting)
        raise
    if waiting:
        parts.add(waiting)
    return boxes
