"""The command `detect`: from pictures on a command line to boxes on a terminal, in a file, in a drawing."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from detector.arguments import WRONG_USAGE, UsageError, make_parser, options_of
from detector.config import DetectOptions
from detector.inputs import OUTPUT_MARK, OutputNames, Picture, Problem, expand
from detector.report import TABLE, Report, printable

if TYPE_CHECKING:
    from detector.detections import Detections
    from detector.images import RgbImage
    from detector.pipeline import Detector

FAILED = 1
INTERRUPTED = 130  # as a shell counts: 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status.

    Raises: SystemExit from the parser, with status 0 after --help and --version, 2 after wrong usage.
    """
    try:
        args = make_parser().parse_intermixed_args(argv)
        if args.list_models:
            return _list_models()
        options = options_of(args)
        report = Report(args.format, args.quiet, args.verbose)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that are read all the same
                return _run(args, options, report)
        finally:
            report.close()
    except UsageError as error:
        return _complain(f"error: {error} (see detect --help)", WRONG_USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        _discard_stdout()
        return _complain(str(error), FAILED)


def _list_models() -> int:
    """Print the models, one a line."""
    from detector.weights import describe_models

    models = describe_models()
    width = max(len(name) for name, _ in models)
    print("\n".join(f"{name:<{width}}  {about}" for name, about in models), flush=True)
    return 0


def _load(options: DetectOptions) -> Detector:
    """Return the detector; raise UsageError when the options do not go together or the model cannot be had."""
    from detector.pipeline import Detector

    try:
        return Detector(options)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error


def _run(args: argparse.Namespace, options: DetectOptions, report: Report) -> int:
    """Look at every picture in turn, the network loading while the first one is read; return the exit status.

    Raises: UsageError when the detector cannot be had, OSError when an output cannot be written.
    """
    suffixes = [OUTPUT_MARK + ".jpg", OUTPUT_MARK + _result_suffix(args.format)] if args.out is not None else []
    names = OutputNames(args.out, suffixes, args.paths) if args.out is not None else None
    report.start(_count(args.paths) if report.wants_total else 0)
    begin = time.perf_counter()
    image_id, failed = 0, False
    loading: Future[Detector] | None = None
    with ThreadPoolExecutor(1) as pool:
        for item in expand(args.paths, _sample, report.note):
            if isinstance(item, Problem):
                report.error(item.reason, item.name)
                failed = True
                continue
            image_id += 1
            if loading is None:
                loading = pool.submit(_load, options)
            target = args.out / names.stem(item) if names is not None else None
            image = _read(item, args.max_pixels, report)
            detector = loading.result()
            if report.verbose and image_id == 1:
                report.note(f"{detector.describe()}; ready after {time.perf_counter() - begin:.2f} s")
            done = image is not None and _look(detector, image, item, image_id, target, args, report)
            failed |= not done
            report.advance()
    report.finish()
    if names is not None and image_id:
        report.hint(f"drawn pictures and results are in {args.out}{os.sep}")
    return FAILED if failed else 0


def _look(
    detector: Detector,
    image: RgbImage,
    picture: Picture,
    image_id: int,
    target: Path | None,
    args: argparse.Namespace,
    report: Report,
) -> bool:
    """Detect, save under the stem `target` and print; report a picture that fails and return False.

    Raises: OSError when an output cannot be written, as the next picture's could not be either.
    """
    begin = time.perf_counter()
    try:
        trace = detector.trace(image)
        detections = trace.detections.of_class(*args.classes) if args.classes else trace.detections
        seconds = time.perf_counter() - begin
        if target is not None:
            _save(target, image, detections, report.file_name(picture.name), image_id, args.format)
        if report.verbose:
            counts = {"proposals": len(trace.proposals), "crops": trace.crops, "detections": len(detections)}
            report.stages(picture.name, counts, trace.seconds)
        report.results(detections, picture.name, image_id, seconds)
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


def _read(picture: Picture, max_pixels: int, report: Report) -> RgbImage | None:
    """Return the decoded picture, or report why there is none."""
    from detector.images import ImageError, read_image

    try:
        if picture.path is not None:
            return read_image(picture.path, max_pixels)
        if sys.stdin is None or sys.stdin.isatty():
            raise ImageError(picture.name, "no picture on standard input; pipe one into the command")
        return read_image(sys.stdin.buffer.read(), max_pixels)
    except ImageError as error:
        report.error(error.reason, picture.name)
    except MemoryError:
        report.error("not enough memory to read it; give a smaller picture", picture.name)
    return None


def _save(target: Path, image: RgbImage, detections: Detections, name: str, image_id: int, format: str) -> None:
    """Write the picture with its boxes and, beside it, the results; raise OSError, or ValueError for the picture."""
    from detector.draw import draw_detections, save_picture
    from detector.files import write_text_atomic
    from detector.formats import render

    stem = str(target) + OUTPUT_MARK
    save_picture(f"{stem}.jpg", draw_detections(image, detections))
    text = render(detections, _result_format(format), name, image_id)
    write_text_atomic(f"{stem}{_result_suffix(format)}", text)


def _result_format(format: str) -> str:
    """Return the format of result files: JSON where the terminal shows a table."""
    return "json" if format == TABLE else format


def _result_suffix(format: str) -> str:
    from detector.formats import SUFFIX

    return SUFFIX[_result_format(format)]


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
