"""The command `detect`: from pictures on a command line to boxes on a terminal, in a file, in a drawing."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence

from detector import __version__
from detector.arguments import options_of, parse_arguments
from detector.report import Report, show_log, write_out
from detector.run import Run
from detector.saver import Saver
from proposals.console import (
    BROKEN_PIPE,
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USAGE,
    Terminated,
    UsageError,
    discard_stdout,
    printable,
    replace_closed_streams,
    termination_raised,
)

STARTED = time.perf_counter() - time.process_time()  # Python and the imports have only computed so far


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status.

    Raises: SystemExit from the parser, with status 0 after --help, 2 after wrong usage.
    """
    started = STARTED if argv is None else time.perf_counter()
    replace_closed_streams()
    try:
        with termination_raised():
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
    except Terminated:
        return _complain("terminated", TERMINATED)
    except BrokenPipeError:
        discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        discard_stdout()
        return _complain(str(error), FAILED)


def _list_models() -> int:
    """Print the models, one a line."""
    from detector.model import describe_models

    models = describe_models()
    width = max(len(name) for name, _ in models)
    write_out("".join(f"{name:<{width}}  {about}\n" for name, about in models))
    return 0


def _complain(text: str, status: int) -> int:
    """Print one line on standard error and return `status`."""
    print(f"detect: {printable(text)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
