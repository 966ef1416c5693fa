"""One run of the command `detect`: its inputs looked at in a stream, printed and saved in turn."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detector.cli.inputs import Inputs, Job, Picture
from detector.cli.outputs import Results, Saver
from detector.options import DetectOptions
from proposals.console import Console, UsageError
from proposals.image_files import Problem

if TYPE_CHECKING:
    from detector.detector import Detector, Trace
    from proposals.images import Image


@dataclass(frozen=True)
class Run:
    """One run over the inputs of a command line."""

    options: DetectOptions
    classes: tuple[int, ...]  # labels of the only classes to show; none: all
    inputs: Inputs
    results: Results
    saver: Saver
    console: Console
    verbose: bool
    started: float  # on the clock of time.perf_counter

    def all(self) -> bool:
        """Look at everything in turn; return whether all is well.

        Raises: UsageError when the detector cannot be had, OSError when an output cannot be written.
        """
        total = self.inputs.count() if self.console.shows_progress else 0
        with closing(self.results), closing(self.saver), self.console.progress("detect", total) as advance:
            well = self._look(advance)
            self.saver.close()
            self.results.finish()
        if self.saver.used:
            say = self.console.hint if self.saver.asked else self.console.note
            say(f"drawn pictures and results are in {self.saver.folder}{os.sep}")
        return well

    def _look(self, advance: Callable[[int], None]) -> bool:
        """Print and save what is found in each input; return whether all is well."""
        well = True
        jobs = self.inputs.jobs(self.saver.stem)
        for job in jobs:  # up to the first picture, as without one no network is needed
            if not isinstance(job.item, Problem):
                break
            well = False
            self._announce(job)
            self.console.failure(job.item.name, job.item.reason)
        else:
            return well
        from detector.stream import detect_stream

        stream = detect_stream(_chain(job, jobs), self.inputs.read, self._load, stop=self.inputs.stop, path=_path)
        with closing(stream) as outcomes:
            for job, result, image in outcomes:
                self._announce(job)
                well &= self._finish(job, result, image)
                if not isinstance(job.item, Problem):
                    advance(1)
        return well

    def _load(self) -> Detector:
        """Return the detector. Raises: UsageError for options that do not go together or a model that is not there."""
        from detector.detector import Detector

        try:
            detector = Detector(self.options)
        except (OSError, ValueError) as error:
            raise UsageError(str(error)) from error
        if self.verbose:
            self.console.note(f"{detector.describe()}; ready {self._since_start()}")
        return detector

    def _announce(self, job: Job) -> None:
        for text in job.notices:
            self.console.notice(text)

    def _finish(self, job: Job, result: Trace | Exception, image: Image | None) -> bool:
        """Print and save what was found, or report why nothing was and return False.

        Raises: OSError when an output cannot be written, as the next picture's could not be either.
        """
        from proposals.images import ImageError

        try:
            if isinstance(result, Exception) or image is None:
                raise result if isinstance(result, Exception) else ValueError("there is no picture")
            self._show(job, result, image)
        except OSError:
            raise
        except ImageError as error:
            self.console.failure(job.item.name, error.reason)
        except MemoryError:
            self.console.failure(job.item.name, "not enough memory for it; give a smaller picture")
        except ValueError as error:
            self.console.failure(job.item.name, str(error))
        except Exception as error:  # a fault of one picture must not cost the others their results
            self.console.failure(job.item.name, f"{type(error).__name__}: {error}")
            if self.verbose:
                traceback.print_exc()
        else:
            return True
        return False

    def _show(self, job: Job, trace: Trace, image: Image) -> None:
        """Print and save what was found."""
        item, number = job.item, job.number
        detections = trace.detections.of_class(*self.classes) if self.classes else trace.detections
        self.results.add(detections, item.name, number, sum(trace.seconds.values()))
        if self.verbose:
            self.console.note(f"{item.name}: {_account(trace, len(detections))}; printed {self._since_start()}")
        if isinstance(item, Picture):
            self.saver.save(job.stem, image, detections, item.name, number)
        elif not isinstance(item, Problem):
            self.saver.save_frame(job.stem, image, detections, item.name, number, item.rate)

    def _since_start(self) -> str:
        return f"{time.perf_counter() - self.started:.2f} s after the command started"


def _path(job: Job) -> Path | None:
    """Return the file of a picture; a frame has none."""
    return job.item.path if isinstance(job.item, Picture) else None


def _account(trace: Trace, shown: int) -> str:
    """Return in one line what each stage made and how long it took."""
    counts = {"proposals": len(trace.proposals), "crops": trace.crops, "detections": shown}
    if len(trace.asked) > 1:
        counts["regions spared by the cascade"] = trace.asked[0] - trace.asked[-1]
    numbers = ", ".join(f"{number:,} {what}" for what, number in counts.items())
    times = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in trace.seconds.items())
    classify = trace.seconds["classify"]
    return f"{numbers}; {times}" + (f" ({trace.crops / classify:,.0f} crops/s)" if classify > 0 else "")


def _chain(first: Job, rest: Generator[Job, None, None]) -> Generator[Job, None, None]:
    """Yield `first` and then the rest, which ends with this generator."""
    yield first
    del first  # the image of a frame
    yield from rest
