"""One run of the command `detect`: its inputs numbered and named, looked at in a stream, printed and saved in turn."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from detector.inputs import Picture, Video, expand
from detector.options import DetectOptions
from detector.report import Report
from detector.saver import Saver
from proposals.console import UsageError
from proposals.image_files import Problem

if TYPE_CHECKING:
    from detector.detector import Detector, Trace
    from detector.video import Frame
    from proposals.images import Image


@dataclass(frozen=True)
class Job:
    """One picture, one frame or one complaint: its number, the stem of its files, and what to say before it."""

    image_id: int
    item: Picture | Frame | Problem
    stem: str
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run over the inputs of the command line; `started` on the clock of time.perf_counter."""

    args: argparse.Namespace
    report: Report
    saver: Saver
    started: float
    stop: threading.Event = field(default_factory=threading.Event)  # set at the end, also an early one

    def all(self, options: DetectOptions) -> bool:
        """Look at everything in turn, the network loading while the first picture is read; return whether all is well.

        Raises: UsageError when the detector cannot be had, OSError when an output cannot be written.
        """
        report = self.report
        report.start(_count(self.args) if report.wants_total else 0)
        try:
            well = self._look(options)
        finally:
            self.saver.close()
        report.finish()
        if self.saver.used:
            (report.note if self.saver.by_default else report.hint)(
                f"drawn pictures and results are in {self.saver.folder}{os.sep}"
            )
        return well

    def _look(self, options: DetectOptions) -> bool:
        """Do all of it but the ends."""
        well = True
        with ExitStack() as unread:
            jobs = unread.enter_context(closing(self._jobs()))
            for job in jobs:  # up to the first picture, as without one no network is needed
                if not isinstance(job.item, Problem):
                    break
                self._announce(job)
                self.report.error(job.item.reason, job.item.name)
                well = False
            else:
                return well
            with ThreadPoolExecutor(1) as pool:
                loading = pool.submit(_load, options)
                first = _attempt(self._read, job)
                detector = loading.result()
            if self.report.verbose:
                self.report.note(f"{detector.describe()}; ready {self._since_start()}")
            from detector.stream import detect_stream

            def read(later: Job) -> Image:
                if later is not job:
                    return self._read(later)
                image = first.pop()
                if isinstance(image, Exception):
                    raise image
                return image

            unread.pop_all()  # the reader of the stream, which may be in the midst of them, closes them
            with closing(detect_stream(_chain(job, jobs), read, detector, stop=self.stop)) as outcomes:
                for done, result, image in outcomes:
                    self._announce(done)
                    well &= self._tell(done, result, image)
                    if not isinstance(done.item, Problem):
                        self.report.advance()
        return well

    def _jobs(self) -> Generator[Job, None, None]:
        """Yield the inputs in turn, each frame of a video by itself, numbered from 1. Another thread may ask for them.

        What they have to say is kept for the thread that prints.
        """
        notices: list[str] = []
        image_id = 0
        for source in expand(self.args.paths, _sample, notices.append):
            if self.stop.is_set():
                return
            stem = "" if isinstance(source, Problem) else self.saver.stem(source)
            for item in self._frames(source) if isinstance(source, Video) else (source,):
                image_id += 1
                yield Job(image_id, item, stem, tuple(notices))
                notices.clear()

    def _frames(self, video: Video) -> Iterator[Frame | Problem]:
        """Yield the frames of a video, and a Problem where it ends too early."""
        from detector.video import read_frames
        from proposals.images import ImageError

        try:
            yield from read_frames(video, self.args.every, self.args.frames or 0, self.args.max_pixels, self.stop)
        except ImageError as error:
            yield Problem(video.name, error.reason)
        except MemoryError:
            yield Problem(video.name, "not enough memory to read it; give a smaller video")

    def _read(self, job: Job) -> Image:
        """Return the decoded picture, or raise why there is none."""
        from proposals.images import ImageError, read_image, read_stream

        item, limit = job.item, self.args.max_pixels
        if isinstance(item, Problem):
            raise ImageError(item.name, item.reason)
        if not isinstance(item, Picture):
            return item.image
        try:
            if item.path is not None:
                return read_image(item.path, limit)
            if sys.stdin is None or sys.stdin.isatty():
                raise ImageError(item.name, "no picture on standard input; pipe one into the command")
            # unbuffered, as the lock of a buffer would be missed by a process that ends while this waits for data
            return read_image(read_stream(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), item.name), limit)
        except MemoryError:
            raise ImageError(item.name, "not enough memory to read it; give a smaller picture") from None

    def _announce(self, job: Job) -> None:
        for text in job.notices:
            self.report.notice(text)

    def _tell(self, job: Job, result: Trace | Exception, image: Image | None) -> bool:
        """Print and save what was found, or report why nothing was and return False.

        Raises: OSError when an output cannot be written, as the next picture's could not be either.
        """
        from proposals.images import ImageError

        report, item = self.report, job.item
        try:
            if isinstance(result, Exception) or image is None or isinstance(item, Problem):
                raise result if isinstance(result, Exception) else ValueError("there is no picture")
            self._show(job, result, image)
        except OSError:
            raise
        except ImageError as error:
            report.error(error.reason, item.name)
        except MemoryError:
            report.error("not enough memory for it; give a smaller picture", item.name)
        except ValueError as error:
            report.error(str(error), item.name)
        except Exception as error:  # a fault of one picture must not cost the others their results
            report.error(f"{type(error).__name__}: {error}", item.name)
            if report.verbose:
                traceback.print_exc()
        else:
            return True
        return False

    def _show(self, job: Job, trace: Trace, image: Image) -> None:
        """Print and save what was found."""
        report, classes, item, name = self.report, self.args.classes, job.item, job.item.name
        detections = trace.detections.of_class(*classes) if classes else trace.detections
        report.results(detections, name, job.image_id, sum(trace.seconds.values()))
        if report.verbose:
            counts = {"proposals": len(trace.proposals), "crops": trace.crops, "detections": len(detections)}
            if len(trace.asked) > 1:
                counts["regions spared by the cascade"] = trace.asked[0] - trace.asked[-1]
            report.stages(name, counts, trace.seconds, self._since_start())
        if isinstance(item, Picture):
            self.saver.save(job.stem, image, detections, report.file_name(name), job.image_id)
        elif not isinstance(item, Problem):
            self.saver.save_frame(job.stem, image, detections, report.file_name(name), job.image_id, item.rate)

    def _since_start(self) -> str:
        return f"{time.perf_counter() - self.started:.2f} s after the command started"


def _load(options: DetectOptions) -> Detector:
    """Return the detector; raise UsageError when the options do not go together or the model cannot be had."""
    from detector.detector import Detector

    try:
        return Detector(options)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _attempt(read: Callable[[Job], Image], job: Job) -> list[Image | Exception]:
    """Return the picture, or what reading it raised, in a list from which it can be taken."""
    try:
        return [read(job)]
    except Exception as error:
        return [error]


def _chain(first: Job, rest: Generator[Job, None, None]) -> Generator[Job, None, None]:
    """Yield `first` and then the rest, which ends with this generator."""
    yield first
    del first  # the picture of a frame
    yield from rest


def _sample(name: str) -> Path:
    """Return the path of a bundled sample; raise FileNotFoundError when there is none of that name."""
    from detector.samples import sample_path

    return sample_path(name)


def _count(args: argparse.Namespace) -> int:
    """Return the number of pictures and frames to come, without opening a picture; 0 where a camera has no limit."""
    total = 0
    sources: Sequence[Picture | Video | Problem] = list(expand(args.paths, _sample, lambda text: None))
    for source in sources:
        if isinstance(source, Video):
            from detector.video import count_frames

            frames = count_frames(source, args.every, args.frames or 0)
            if not frames:
                return 0
            total += frames
        elif isinstance(source, Picture):
            total += 1
    return total
