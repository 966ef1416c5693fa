"""Selective Search of many pictures in worker processes, each with one picture at a time over a pipe of its own.

So a worker that dies takes no more than one picture with it, and its name is known.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proposals.store import PictureProposals
    from proposals.types import Proposals

ALGORITHM = 1  # part of the fingerprint; to be raised whenever the same parameters give other boxes
MAX_DEATHS = 3  # workers that die one after the other, without a finished picture between them, end the run
TICK = 0.2  # seconds within which a signal is noticed


class Stopped(Exception):
    """The run cannot go on; what is finished is kept."""


@dataclass(frozen=True)
class Search:
    """What is asked of the workers; without `max_pixels` it is what the fingerprint of the file is made of."""

    backend: str
    mode: str
    superpixel_scale: int
    seed: int
    max_boxes: int | None
    max_pixels: int

    def parameters(self) -> dict[str, str | int | None]:
        """Return all that decides about the boxes."""
        return {
            "algorithm": ALGORITHM,
            "backend": self.backend,
            "mode": self.mode,
            "superpixel_scale": self.superpixel_scale,
            "seed": self.seed,
            "max_boxes": self.max_boxes,
        }

    def run(self, image: Any) -> Proposals:
        """Return the proposals of a picture, uint8 RGB [H, W, 3]."""
        if self.backend == "opencv":
            from proposals.opencv import selective_search_opencv

            return selective_search_opencv(image, self.superpixel_scale, self.seed, self.max_boxes)
        from proposals.selective.search import selective_search

        return selective_search(image, self.mode, self.superpixel_scale, self.seed, self.max_boxes)


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Worker:
    """A process that searches, our end of the pipe to it, and the picture that it has in hand."""

    def __init__(self, search: Search) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.picture: str | None = None
        self.process = context.Process(target=_work, args=(theirs, search), daemon=True)
        with _blocked_signals():  # which the worker inherits: it is ours to end
            self.process.start()
        theirs.close()

    def give(self, picture: str, path: Path) -> None:
        """Send it a picture; if it is dead, that shows when it is next waited for."""
        self.picture = picture
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((picture, path))

    def end(self) -> None:
        """End the process, which keeps nothing."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def answers(
    pictures: Iterable[tuple[str, Path]], search: Search, count: int, stop: Callable[[], bool]
) -> Generator[tuple[str, PictureProposals | str] | None, None, None]:
    """Yield of each picture its row, or the reason why there is none, in the order of completion; None at each tick.

    The first worker compiles the kernels before the others start, which find them in the cache then.
    Raises: Stopped when workers die without end. Ends early when `stop` says so.
    """
    left = iter(pictures)
    workers = [_Worker(search)]
    deaths, grown = 0, False
    try:
        while workers and not stop():
            ready = connection.wait([worker.pipe for worker in workers], TICK)
            yield None
            for worker in [worker for worker in workers if worker.pipe in ready]:
                picture = worker.picture
                try:
                    answer = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    cause = _cause(worker.process.exitcode)
                    workers.remove(worker)
                    worker.end()
                    deaths += 1
                    if picture is not None:
                        yield picture, f"the process that searched it died ({cause}); a new run tries it again"
                    if picture is None or deaths == MAX_DEATHS:
                        raise Stopped(
                            f"worker processes die one after the other ({cause}); fewer --workers need less memory"
                        ) from None
                    workers.append(_Worker(search))
                    continue
                if picture is None:
                    if not grown:
                        workers += [_Worker(search) for _ in range(count - 1)]
                    grown = True
                else:
                    deaths = 0
                    yield picture, answer
                following = next(left, None)
                if following is None:
                    worker.end()
                    workers.remove(worker)
                else:
                    worker.give(*following)
    finally:
        for worker in workers:
            worker.end()


def _cause(exitcode: int | None) -> str:
    """Return in words how a process ended."""
    if exitcode == -9:  # SIGKILL, which is how Linux ends processes when memory runs out
        return "killed, perhaps for want of memory"
    return f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit status {exitcode}"


def _work(pipe: connection.Connection[Any, Any], search: Search) -> None:
    """Search pictures until the pipe ends: a worker process. It computes with one thread."""
    import logging

    import cv2
    import numpy as np

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that are read all the same
    if sys.stderr is None or not sys.stderr.isatty():
        logging.getLogger("proposals").setLevel(logging.ERROR)
    search.run(np.random.default_rng(0).integers(0, 256, (10, 100, 3), np.uint8))
    logging.getLogger("proposals").setLevel(logging.ERROR)
    try:
        pipe.send(None)
        while True:
            picture, path = pipe.recv()
            pipe.send(_one(picture, path, search))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the run has ended
        return


def _one(picture: str, path: Path, search: Search) -> PictureProposals | str:
    """Return the row of one picture, or the reason why there is none."""
    from proposals.images import ImageError, read_image
    from proposals.store import PictureProposals

    try:
        image = read_image(path, search.max_pixels)
        return PictureProposals(picture, image.shape[1], image.shape[0], search.run(image))
    except MemoryError:
        return "not enough memory for it"
    except ImageError as error:
        return error.reason
    except Exception as error:  # a fault of one picture must not cost the others
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back for a moment; a process that is started meanwhile never gets them."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # its start would let the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
