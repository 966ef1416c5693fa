"""The command `detect`: from pictures on a command line to boxes on a terminal, in a file, in a drawing."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detector import __version__
from detector.arguments import DRAWN, WRONG_USAGE, UsageError, options_of, parse_arguments
from detector.config import DetectOptions
from detector.files import check_folder, write_text_atomic
from detector.inputs import OUTPUT_MARK, OutputNames, Picture, Problem, expand
from detector.report import TABLE, Report, printable, show_log, write_out

if TYPE_CHECKING:
    from detector.detections import Detections
    from detector.images import RgbImage
    from detector.pipeline import Detector

FAILED = 1
INTERRUPTED = 130  # as a shell counts: 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM
STARTED = time.perf_counter() - time.process_time()  # Python and the imports have only computed so far


class _Terminated(BaseException):
    """SIGTERM arrived."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status.

    Raises: SystemExit from the parser, with status 0 after --help, 2 after wrong usage.
    """
    started = STARTED if argv is None else time.perf_counter()
    _replace_closed_streams()
    try:
        with _termination_raised():
            args = parse_arguments(argv)
            if args.list_models:
                return _list_models()
            if args.version:
                write_out(f"detect {__version__}\n")
                return 0
            options = options_of(args)
            report = Report(args.format, args.quiet, args.verbose)
            show_log(report)
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that are read anyhow
                    return _Run(args, report, _Saver(args, report), started).all(options)
            finally:
                report.close()
    except UsageError as error:
        return _complain(f"error: {error} (see detect --help)", WRONG_USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except _Terminated:
        return _complain("terminated", TERMINATED)
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        _discard_stdout()
        return _complain(str(error), FAILED)


def _replace_closed_streams() -> None:
    """Let what is written to a stream that the caller closed (`>&-`) vanish; Python has None in its place."""
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


@contextmanager
def _termination_raised() -> Iterator[None]:
    """Turn SIGTERM into _Terminated meanwhile, so that outputs end whole and temporary files go.

    Where the signal has a handler already, or in another thread than the main one, it stays as it is.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the cleaning up
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _list_models() -> int:
    """Print the models, one a line."""
    from detector.weights import describe_models

    models = describe_models()
    width = max(len(name) for name, _ in models)
    write_out("".join(f"{name:<{width}}  {about}\n" for name, about in models))
    return 0


def _load(options: DetectOptions) -> Detector:
    """Return the detector; raise UsageError when the options do not go together or the model cannot be had."""
    from detector.pipeline import Detector

    try:
        return Detector(options)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


class _Saver:
    """Where drawings and result files go: a folder, made when the first of them is written, or nowhere."""

    def __init__(self, args: argparse.Namespace, report: Report) -> None:
        from detector.formats import SUFFIX

        self.by_default = args.out is None and args.format == TABLE and not args.no_save
        self._format = "json" if args.format == TABLE else args.format
        self._suffix = OUTPUT_MARK + SUFFIX[self._format]
        self._report = report
        self.folder: Path | None = Path(DRAWN) if self.by_default else args.out
        self.used = False  # whether the folder is there
        self._names: OutputNames | None = None
        if self.folder is not None:
            drawings = OUTPUT_MARK + ".jpg", OUTPUT_MARK + ".png"
            self._names = OutputNames(self.folder, (*drawings, self._suffix), args.paths)

    def stem(self, picture: Picture) -> str:
        """Return the stem of the files of `picture`; asked once for each, so that a bad one keeps its name too."""
        return self._names.stem(picture) if self._names is not None else ""

    def save(self, stem: str, image: RgbImage, detections: Detections, name: str, image_id: int) -> None:
        """Write the picture with its boxes and, beside it, the results.

        Raises: OSError when they cannot be written, ValueError when it is the picture's fault.
        """
        self._make_folder()
        if self.folder is None:
            return
        from detector.draw import JPEG_LIMIT, draw_detections, save_picture
        from detector.formats import render

        drawing = ".jpg" if max(image.shape[:2]) <= JPEG_LIMIT else ".png"
        save_picture(self.folder / f"{stem}{OUTPUT_MARK}{drawing}", draw_detections(image, detections))
        write_text_atomic(self.folder / (stem + self._suffix), render(detections, self._format, name, image_id))

    def _make_folder(self) -> None:
        """Make the folder; where nobody asked for it and it cannot be had, say so and save nothing from now on."""
        if self.folder is None or self.used:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_folder(self.folder)
        except OSError as error:
            reason = f"{self.folder}: cannot save in this folder: {error.strerror}"
            if not self.by_default:
                raise OSError(reason) from error
            self._report.note(f"{reason}; going on unsaved (--out names another folder)")
            self.folder = None
        else:
            self.used = True


@dataclass(frozen=True)
class _Run:
    """One run over the pictures of the command line; `started` on the clock of time.perf_counter."""

    args: argparse.Namespace
    report: Report
    saver: _Saver
    started: float

    def all(self, options: DetectOptions) -> int:
        """Look at every picture in turn, the network loading while the first one is read; return the exit status.

        Raises: UsageError when the detector cannot be had, OSError when an output cannot be written.
        """
        report, paths = self.report, self.args.paths
        report.start(_count(paths) if report.wants_total else 0)
        failed = False
        loading: Future[Detector] | None = None
        with ThreadPoolExecutor(1) as pool:
            for image_id, item in enumerate(expand(paths, _sample, report.notice), start=1):
                if isinstance(item, Problem):
                    report.error(item.reason, item.name)
                    failed = True
                    continue
                first = loading is None
                if loading is None:
                    loading = pool.submit(_load, options)
                stem = self.saver.stem(item)
                image = self._read(item)
                detector = loading.result()
                if first and report.verbose:
                    report.note(f"{detector.describe()}; ready {self._since_start()}")
                done = image is not None and self._look(detector, image, item, image_id, stem)
                failed |= not done
                report.advance()
        report.finish()
        if self.saver.used:
            (report.note if self.saver.by_default else report.hint)(
                f"drawn pictures and results are in {self.saver.folder}{os.sep}"
            )
        return FAILED if failed else 0

    def _look(self, detector: Detector, image: RgbImage, picture: Picture, image_id: int, stem: str) -> bool:
        """Detect, print and save under `stem`; report a picture that fails and return False.

        Raises: OSError when an output cannot be written, as the next picture's could not be either.
        """
        report, classes = self.report, self.args.classes
        begin = time.perf_counter()
        try:
            trace = detector.trace(image)
            detections = trace.detections.of_class(*classes) if classes else trace.detections
            report.results(detections, picture.name, image_id, time.perf_counter() - begin)
            if report.verbose:
                counts = {"proposals": len(trace.proposals), "crops": trace.crops, "detections": len(detections)}
                report.stages(picture.name, counts, trace.seconds, self._since_start())
            self.saver.save(stem, image, detections, report.file_name(picture.name), image_id)
        except OSError:
            raise
        except MemoryError:
            report.error("not enough memory for it; give a smaller picture", picture.name)
            return False
        except ValueError as error:
            report.error(str(error), picture.name)
            return False
        except Exception as error:  # a fault of one picture must not cost the others their results
            report.error(f"{type(error).__name__}: {error}", picture.name)
            if report.verbose:
                traceback.print_exc()
            return False
        return True

    def _read(self, picture: Picture) -> RgbImage | None:
        """Return the decoded picture, or report why there is none."""
        from detector.images import ImageError, read_image, read_stream

        try:
            if picture.path is not None:
                return read_image(picture.path, self.args.max_pixels)
            if sys.stdin is None or sys.stdin.isatty():
                raise ImageError(picture.name, "no picture on standard input; pipe one into the command")
            return read_image(read_stream(sys.stdin.buffer, picture.name), self.args.max_pixels)
        except ImageError as error:
            self.report.error(error.reason, picture.name)
        except MemoryError:
            self.report.error("not enough memory to read it; give a smaller picture", picture.name)
        return None

    def _since_start(self) -> str:
        return f"{time.perf_counter() - self.started:.2f} s after the command started"


def _sample(name: str) -> Path:
    """Return the path of a bundled sample; raise FileNotFoundError when there is none of that name."""
    from detector.samples import sample_path

    return sample_path(name)


def _count(arguments: Sequence[str]) -> int:
    """Return the number of pictures that the arguments name, without opening one."""
    return sum(isinstance(item, Picture) for item in expand(arguments, _sample, lambda text: None))


def _complain(text: str, status: int) -> int:
    """Print one line on standard error and return `status`."""
    print(f"detect: {printable(text)}", file=sys.stderr)
    return status


def _discard_stdout() -> None:
    """Drop what standard output can no longer take, which would complain once more when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
