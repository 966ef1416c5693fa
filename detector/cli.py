"""The command `detect`: from pictures on a command line to boxes on a terminal, in a file, in a drawing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from detector import __version__
from detector.arguments import WRONG_USAGE, UsageError, options_of, parse_arguments
from detector.report import Report, printable, show_log, write_out
from detector.run import Run
from detector.saver import Saver

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
                    return 0 if Run(args, report, Saver(args, report), started).all(options) else FAILED
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
