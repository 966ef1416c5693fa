"""What the commands share: one-line errors, notes, a progress bar, exit statuses, a parser."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from rich.progress import Progress

FAILED, WRONG_USAGE = 1, 2
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # as a shell counts: 128 + SIGINT, SIGPIPE, SIGTERM


def printable(name: str) -> str:
    """Return `name` on one line: control characters and bytes that are not text become escapes such as `\\n`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded(name))


def decoded(name: str) -> str:
    """Return a file name as valid text: bytes that are not UTF-8 become escapes such as `\\xff`, all else stays."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class UsageError(Exception):
    """What was asked for cannot be done; one clear line."""


class Terminated(BaseException):
    """SIGTERM arrived."""


class Parser(argparse.ArgumentParser):
    """A parser that answers wrong usage with one line and takes no abbreviated options."""

    def __init__(self, program: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=program,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.prog}: error: {printable(message)} (see --help)\n")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; raise OSError where standard output, the default, cannot take it."""
        if file is None:
            write_out(self.format_help())
        else:
            super().print_help(file)


class Console:
    """Standard error of one command: notes, errors and one progress bar. Any thread may print."""

    def __init__(self, program: str, quiet: bool = False) -> None:
        self.program, self.quiet = program, quiet
        self._bar: Progress | None = None
        self._lock = threading.RLock()

    def note(self, text: str) -> None:
        """Print one line that is good to know, unless the run is quiet."""
        if not self.quiet:
            self.notice(text)

    def notice(self, text: str) -> None:
        """Print one line that a quiet run needs too: what failed, was skipped, or changes what the results mean."""
        with self.without_bar():
            print(f"{self.program}: {printable(text)}", file=sys.stderr, flush=True)

    def failure(self, name: str, reason: str) -> None:
        """Print one line about an input that failed: its name and the reason."""
        self.notice(f"{name}: {reason}")

    def hint(self, text: str) -> None:
        """Print one line of advice where a person sees it: both streams on a terminal, the run not quiet."""
        if sys.stdout.isatty() and sys.stderr.isatty():
            self.note(text)

    @property
    def shows_progress(self) -> bool:
        """Whether a bar can be seen: standard error is a terminal, and the run is not quiet."""
        return not self.quiet and sys.stderr.isatty()

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar for `total` steps where it can be seen; yield the function that moves it by so many steps."""
        if total < 2 or not self.shows_progress:
            yield lambda steps: None
            return
        import rich.console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            *(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
            console=rich.console.Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        task = bar.add_task(what, total=total)
        with bar:
            self._bar = bar
            try:
                yield lambda steps: bar.advance(task, steps)
            finally:
                self._bar = None

    @contextlib.contextmanager
    def without_bar(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed there."""
        with self._lock:
            bar = self._bar
            if bar is not None:
                bar.stop()
            try:
                yield
            finally:
                if bar is not None and self._bar is bar:
                    bar.start()

    def show_log(self) -> None:
        """Print what the packages log (that kernels are being compiled) as notes."""
        for package in ("proposals", "detector"):
            log = logging.getLogger(package)
            log.handlers, log.propagate = [_Notes(self)], False


class _Notes(logging.Handler):
    """Turns log records into notes of a command."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.note(record.getMessage())


def write_out(text: str) -> None:
    """Write `text` to standard output at once; raise BrokenPipeError, or OSError with a clear line."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to standard output: {error.strerror}") from error


def run(program: str, work: Callable[[], int]) -> int:
    """Return the exit status of `work`, its errors printed in one line: 1 failed, 2 wrong usage, 130, 141 or 143."""
    replace_closed_streams()
    console = Console(program)
    try:
        with termination_raised():
            status = work()
            sys.stdout.flush()
            return status
    except UsageError as error:
        console.notice(f"error: {error} (see --help)")
        return WRONG_USAGE
    except BrokenPipeError:
        discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        discard_stdout()
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        console.notice(named)
        return FAILED
    except ValueError as error:
        console.notice(str(error))
        return FAILED
    except MemoryError:
        console.notice("not enough memory")
        return FAILED
    except KeyboardInterrupt as error:
        console.notice("; ".join(["interrupted", *map(str, error.args)]))
        return INTERRUPTED
    except Terminated as error:
        console.notice("; ".join(["terminated", *map(str, error.args)]))
        return TERMINATED


def replace_closed_streams() -> None:
    """Let what is written to a stream that the caller closed (`>&-`) vanish; Python has None in its place."""
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """Turn SIGTERM into Terminated meanwhile, so that outputs end whole and temporary files go.

    Where the signal has a handler already, or in another thread than the main one, it stays as it is.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the cleaning up
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Signals:
    """SIGINT and SIGTERM noted, not raised, while work must not be broken off."""

    caught: int | None = None


@contextlib.contextmanager
def noted_signals() -> Iterator[Signals]:
    """Note SIGINT and SIGTERM meanwhile; afterwards raise KeyboardInterrupt or Terminated for a noted one."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, frame: FrameType | None) -> None:
        signals.caught = signals.caught or number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals.caught is not None:
        raise KeyboardInterrupt if signals.caught == signal.SIGINT else Terminated


def discard_stdout() -> None:
    """Drop what standard output can no longer take, which would complain once more when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
