"""A proposal method on many image files, in worker processes.

A worker that is killed breaks the whole pool of `concurrent.futures`. The images that the workers had in hand are then
tried again, each alone in a new pool: a file that kills its process is found that way, and no other image is lost.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proposals.proposer import Proposer
    from proposals.store import PictureProposals

MAX_DEATHS = 4  # broken pools one after the other, without a finished image between them, end the run
TICK = 0.2  # seconds within which a signal is noticed
PATIENCE = 10.0  # seconds that a stopped run waits for the images that its workers have in hand

Answer = tuple[str, "PictureProposals | str"]

log = logging.getLogger("proposals")


class StoppedError(ChildProcessError):
    """The run cannot go on; what is finished is kept."""


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def propose_files(
    images: Iterable[tuple[str, Path]],
    proposer: Proposer,
    max_pixels: int,
    workers: int,
    notice: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Answer | None, None, None]:
    """Yield of each image its row, or the reason why there is none, in the order of completion; None at each tick.

    images: ids and paths; proposer: to be pickled; notice: is called with a line when a worker has died. Once `stop`
    returns True no image is begun; those that the workers have in hand are the last, unless they take too long.
    Raises: StoppedError when workers die without end.
    """
    left, suspects, deaths = iter(images), deque[tuple[str, Path]](), 0
    while not stop():
        alone = bool(suspects)
        batch = iter([suspects.popleft()]) if alone else left
        in_hand: dict[str, Path] = {}
        try:
            with contextlib.closing(
                _pooled(batch, proposer, max_pixels, 1 if alone else workers, in_hand, stop)
            ) as pool:
                for answer in pool:
                    deaths = deaths if answer is None else 0
                    yield answer
        except BrokenProcessPool:
            if stop():
                return
            deaths += 1
            if alone and in_hand:
                yield next(iter(in_hand)), "the process that searched it was killed, perhaps for want of memory"
            elif in_hand:
                notice("a worker process was killed, perhaps for want of memory; the pictures in work are tried again")
                suspects += in_hand.items()
            if deaths == MAX_DEATHS:
                raise StoppedError(
                    "worker processes die one after the other; fewer --workers need less memory"
                ) from None
        else:
            if not alone:
                return


def _pooled(
    batch: Iterator[tuple[str, Path]],
    proposer: Proposer,
    max_pixels: int,
    workers: int,
    in_hand: dict[str, Path],
    stop: Callable[[], bool],
) -> Generator[Answer | None, None, None]:
    """Yield as `propose_files` does, from one pool; `in_hand` holds what was begun. Raises: BrokenProcessPool.

    The first worker compiles the kernels before the others start, which find them in the cache then.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(proposer, max_pixels))
    futures: dict[Future[PictureProposals | str], str] = {}
    others, stopped = set(multiprocessing.active_children()), 0.0
    try:
        with _blocked_signals():
            ready = pool.submit(_warm_up)
        while not wait([ready], TICK).done and not stop():
            yield None
        if stop():
            return
        ready.result()
        while True:
            while len(in_hand) < workers and not stop() and (image := next(batch, None)) is not None:
                in_hand[image[0]] = image[1]
                with _blocked_signals():
                    futures[pool.submit(_one, *image)] = image[0]
            if not futures:
                return
            done = wait(futures, TICK, FIRST_COMPLETED).done
            yield None
            stopped = (stopped or time.monotonic()) if stop() else 0.0
            if stopped and time.monotonic() - stopped > PATIENCE:
                return
            for future in done:
                answer = future.result()
                name = futures.pop(future)
                del in_hand[name]
                yield name, answer
    finally:
        if futures or stop():  # not all is done
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
        pool.shutdown(cancel_futures=True)


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


class _Worker:
    """What a worker process works with."""

    proposer: Proposer
    max_pixels: int


def _start(proposer: Proposer, max_pixels: int) -> None:
    """Make this process a worker, which computes with one thread and ends when its parent does."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that can be read
    if sys.stderr is None or not sys.stderr.isatty():
        log.setLevel(logging.ERROR)
    _Worker.proposer, _Worker.max_pixels = proposer, max_pixels


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)  # a worker of a killed parent would wait for work for ever


def _warm_up() -> None:
    _Worker.proposer.prepare()
    log.setLevel(logging.ERROR)


def _one(picture: str, path: Path) -> PictureProposals | str:
    """Return the row of one image, or the reason why there is none."""
    from proposals.images import ImageError, read_image
    from proposals.store import PictureProposals

    try:
        image = read_image(path, _Worker.max_pixels)
        return PictureProposals(picture, image.shape[1], image.shape[0], _Worker.proposer(image, path))
    except MemoryError:
        return "not enough memory for it"
    except ImageError as error:
        return error.reason
    except Exception as error:  # a fault of one image must not cost the others
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return kind + " ".join(str(error).split())
