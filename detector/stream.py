"""Many pictures: the stages of consecutive ones overlap, in bounded memory, and the results keep their order.

One thread reads, one proposes, and the caller's own classifies and suppresses; the kernels of all three leave the
interpreter's lock alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from detector.detector import Detector, Trace
from proposals.images import Image, check_image
from proposals.types import Proposals

T = TypeVar("T")

PATIENCE = 2.0  # seconds that an early end waits for a reader that waits itself, as for a pipe without a writer


class Outcome(NamedTuple, Generic[T]):
    """What became of one item: a trace, or the error that it met; its picture, None where reading failed."""

    item: T
    result: Trace | Exception
    image: Image | None


def detect_stream(
    items: Iterable[T],
    read: Callable[[T], Image],
    load: Callable[[], Detector],
    ahead: int = 2,
    stop: threading.Event | None = None,
    path: Callable[[T], Path | None] = lambda item: None,
) -> Generator[Outcome[T], None, None]:
    """Yield the outcome of every item in turn; a picture that fails yields its error and the others go on.

    read: makes an item an image, uint8 RGB [H, W, 3], in another thread than the caller's; load: returns the detector,
    and is called once, in a third thread, while the first item is read; ahead: how many further items may be read
    before the caller is done with one; path: of an item's file, by which a file of proposals knows it. What `items` or
    `load` itself raises is raised here after the outcomes before it. When the generator is closed, or interrupted, the
    threads end, and `items` is closed if it is a generator. `stop` is set at that moment: who gives it promises that
    `items` heeds it, and the end waits for as long as they take; without it, and for `read`, the end waits for PATIENCE
    at most.
    Raises: ValueError for an `ahead` below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead must be at least 1, got {ahead}")
    return _overlapped(_Threads(items, read, load, ahead, stop, path))


def _overlapped(threads: _Threads[T]) -> Generator[Outcome[T], None, None]:
    """Yield the outcomes, the next items being read and their regions proposed meanwhile."""
    try:
        threads.start()
        while (work := threads.next()) is not None:
            yield Outcome(work.item, _trace(work, threads.detector), work.image)
            del work  # an image that the caller is done with makes room for another one
            threads.done()
    finally:
        threads.end()


def _trace(work: _Work[T], detector: Detector | None) -> Trace | Exception:
    """Return what the network and the post-processing make of the proposals, or the error of the item."""
    if work.error is not None or work.image is None or detector is None:
        return work.error or ValueError("the picture was not read")
    try:
        trace = detector.trace(work.image, work.proposals)
    except Exception as error:
        return error
    return replace(trace, seconds={**trace.seconds, "propose": work.seconds})


@dataclass
class _Work(Generic[T]):
    """One item on its way through the threads."""

    item: T
    image: Image | None = None
    proposals: Proposals | None = None
    error: Exception | None = None
    seconds: float = 0.0  # that proposing took


class _Broken(NamedTuple):
    """What ends the whole stream: an error that belongs to no item."""

    error: BaseException


class _Threads(Generic[T]):
    """The reading and the proposing thread of one stream.

    They wait in two places only, for room and for work, and `end` gives them both; so none can hang there.
    """

    def __init__(
        self,
        items: Iterable[T],
        read: Callable[[T], Image],
        load: Callable[[], Detector],
        ahead: int,
        stop: threading.Event | None,
        path: Callable[[T], Path | None],
    ) -> None:
        self._items, self._read, self._load, self._path = items, read, load, path
        self.detector: Detector | None = None  # once it is loaded
        self._room = threading.Semaphore(ahead + 1)  # items that may be alive
        self._stop = stop or threading.Event()
        self._heeded = stop is not None  # by the items
        self._decoding = False  # whether the reader is in `read`, which may wait for ever
        self._decoded: SimpleQueue[_Work[T] | _Broken | None] = SimpleQueue()
        self._proposed: SimpleQueue[_Work[T] | _Broken | None] = SimpleQueue()  # None: no more
        # daemons: a reader that waits for ever must not keep the process
        self._reader = threading.Thread(target=self._reading, name="detect-read", daemon=True)
        self._proposer = threading.Thread(target=self._proposing, name="detect-propose", daemon=True)

    def start(self) -> None:
        self._reader.start()
        self._proposer.start()

    def next(self) -> _Work[T] | None:
        """Return the next item with its proposals or its error, None after the last; raise what broke the stream."""
        work = self._proposed.get()
        if isinstance(work, _Broken):
            raise work.error
        return work

    def done(self) -> None:
        """Make room for one item more."""
        self._room.release()

    def end(self) -> None:
        """Let the threads end, after the picture that each has in hand."""
        self._stop.set()
        self._room.release()
        self._decoded.put(None)
        if self._proposer.ident is not None:
            self._proposer.join()
        if self._reader.ident is not None:
            self._reader.join(PATIENCE)
            if self._heeded and not self._decoding:  # a thread left in a video decoder would abort the process
                self._reader.join()

    def _reading(self) -> None:
        try:
            iterator = iter(self._items)
            try:
                while True:
                    self._room.acquire()
                    if self._stop.is_set():
                        return
                    try:
                        item = next(iterator)
                    except StopIteration:
                        break
                    if self._stop.is_set():
                        return
                    self._decoding = True
                    self._decoded.put(self._decode(item))
                    self._decoding = False
                    del item  # nothing of it stays here while the thread waits
            finally:
                _close(iterator)
            self._decoded.put(None)
        except BaseException as error:  # raised again by `next`
            self._decoded.put(_Broken(error))

    def _decode(self, item: T) -> _Work[T]:
        work = _Work(item)
        try:
            work.image = self._read(item)
        except Exception as error:
            work.error = error
        return work

    def _proposing(self) -> None:
        try:
            self.detector = self._load()
            while not self._stop.is_set():
                work = self._decoded.get()
                if isinstance(work, _Work):
                    self._search(work, self.detector)
                self._proposed.put(work)
                if not isinstance(work, _Work):
                    return
                del work
        except BaseException as error:  # raised again by `next`
            self._proposed.put(_Broken(error))

    def _search(self, work: _Work[T], detector: Detector) -> None:
        if work.image is None:
            return
        begin = time.perf_counter()
        try:
            check_image(work.image)
            work.proposals = detector.propose(work.image, self._path(work.item))
        except Exception as error:
            work.error = error
        work.seconds = time.perf_counter() - begin


def _close(iterator: object) -> None:
    """Close a generator at once, so that the file it reads is free again."""
    if isinstance(iterator, Generator):
        iterator.close()
