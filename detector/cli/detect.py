"""The command `detect`: from pictures on a command line to boxes on a terminal, in a file, in a drawing."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from detector import __version__
from detector.cli.inputs import InputOptions, Inputs
from detector.cli.outputs import DRAWN, FORMATS, TABLE, Results, Saver
from detector.cli.run import Run
from detector.options import DetectOptions
from proposals.console import FAILED, Console, Parser, UsageError, run, write_out
from proposals.files import check_folder
from proposals.image_files import OUTPUT_MARK
from proposals.options import add_options, options_of, read_options

STARTED = time.perf_counter() - time.process_time()  # Python and the imports have only computed so far
PROGRAM = "detect"
FINDING = ("threshold", "nms", "top", "vote", "bbox")  # options of the first group; all others are of the second

DESCRIPTION = """\
Find the objects of 200 classes in pictures and videos: propose regions, crop
them, classify the crops with an Inception network, suppress what is found
twice (GoogLeNet's R-CNN, 2014)."""

EPILOG = """\
examples:
  detect samples/dog.jpg                 list what is in a picture, and draw it:
                                         detected/dog.detected.jpg, .json too
  detect photos --classes dog,person --out found
                                         two classes, all pictures of a folder
  detect 'photos/**/*.png' --format csv  a pattern; one table of all pictures
  cat a.jpg | detect - --format json     a picture on standard input
  detect clip.mp4 --every 10             every tenth frame of a video, drawn in
                                         detected/clip.detected.mp4
  detect camera:0 --frames 100           a hundred frames of the first camera

Results are printed as each picture is done. coco and ilsvrc number the
pictures 1, 2, ... in the order of the inputs; a picture that cannot be read
and an argument that names none take a number too, a file given twice takes
one. json is a line a picture; yolo and voc print one picture after another,
and with --out give each a file of its own. A frame of a video counts as a
picture, clip.mp4#12 being the twelfth; --out writes one video and one result
file of all its frames, what was done by then also when it breaks off or is
interrupted. Folders pass over videos; folders and patterns pass over
hidden files and over the files that --out wrote. Where samples/dog.jpg does
not exist, the picture of that name that comes with the package is taken.
What follows -- is a name, even if it begins with a dash.

exit status: 0 all done, 1 a picture failed or an output could not be
written, 2 wrong usage, 130 interrupted, 143 terminated."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status.

    Raises: SystemExit from the parser, with status 0 after --help, 2 after wrong usage.
    """
    started = STARTED if argv is None else time.perf_counter()
    return run(PROGRAM, lambda: _main(argv, started))


def _main(argv: Sequence[str] | None, started: float) -> int:
    args = parse_arguments(argv)
    if args.list_models:
        return _list_models()
    if args.version:
        write_out(f"{PROGRAM} {__version__}\n")
        return 0
    if not args.paths:
        raise UsageError("no pictures given; try: detect samples/dog.jpg")
    options = detect_options(args)
    classes = _labels(args.classes, options.model) if args.classes is not None else ()
    folder = _output_folder(args)

    console = Console(PROGRAM, args.quiet)
    console.show_log()
    inputs = Inputs(args.paths, options_of(args, InputOptions))
    results = Results(args.format, console)
    saver = Saver(folder, args.out is not None, args.format, args.paths, console)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that are read anyhow
        well = Run(options, classes, inputs, results, saver, console, args.verbose, started).all()
    return 0 if well else FAILED


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says: options and names in any order, after `--` names only.

    Raises: SystemExit after --help (status 0) and after wrong usage (status 2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = make_parser().parse_intermixed_args(words[:end])  # which would forget that there was a --
    args.paths = [*args.paths, *words[end + 1 :]]
    return args


def make_parser() -> Parser:
    """Return the parser; options that are not given are None, so that --config and the defaults decide."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="picture, video, folder, pattern, - for standard input, or camera:0",
    )

    finding = parser.add_argument_group("what is found")
    add_options(finding, DetectOptions, FINDING)
    finding.add_argument(
        "--classes", metavar="LIST", help="only these, names or ids 1..200 with commas between (default: all)"
    )

    pipeline = parser.add_argument_group("how it is found")
    fields = (field.name for field in dataclasses.fields(DetectOptions))
    add_options(pipeline, DetectOptions, [name for name in fields if name not in FINDING])
    pipeline.add_argument("--config", metavar="FILE", type=Path, help="TOML file of these options; flags win over it")

    output = parser.add_argument_group("input and output")
    output.add_argument("--format", choices=FORMATS, default=TABLE, help="of the results (default: table)")
    output.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help=f"save NAME{OUTPUT_MARK}.jpg, the picture with its boxes (.png where it is too long for JPEG), and beside "
        f"it the results in --format (json for table); of a video NAME{OUTPUT_MARK}.mp4; inputs of one name become "
        f"NAME-2, NAME-3, ... (default: with --format table the folder '{DRAWN}', otherwise nothing is saved)",
    )
    output.add_argument("--no-save", action="store_true", help="save nothing")
    add_options(output, InputOptions)
    loudness = output.add_mutually_exclusive_group()
    quiet = "nothing on standard error but errors, and which bundled picture is taken"
    loudness.add_argument("-q", "--quiet", action="store_true", help=quiet)
    verbose = "times since the start and of the stages, proposals, crops per second"
    loudness.add_argument("-v", "--verbose", action="store_true", help=verbose)

    parser.add_argument("--list-models", action="store_true", help="list the models and exit")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def detect_options(args: argparse.Namespace) -> DetectOptions:
    """Return the options of the run: the flags over the file of --config over the defaults.

    Raises: UsageError, also for a model that is not there; weights are not read.
    """
    try:
        base = read_options(DetectOptions, args.config)
    except OSError as error:
        raise UsageError(f"--config {args.config}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    options = options_of(args, DetectOptions, base)

    from detector.model import find_model

    for option, names in (("model", [options.model]), ("ensemble", options.further_models)):
        for name in names:
            try:
                model = find_model(name)
            except (OSError, ValueError) as error:
                place = f"--{option}" if getattr(args, option) is not None else f"{args.config}: {option}"
                raise UsageError(f"{place} {error}") from None
            if options.bbox and option == "model" and not model.has_box_regression:
                cure = "train one with python -m detector.train bbox"
                raise UsageError(f"--bbox: {name} has no box regression; {cure}")
    _check_proposals(options)
    return options


def _check_proposals(options: DetectOptions) -> None:
    """Raise UsageError where there are no weights of MultiBox, or no file of proposals."""
    from detector.multibox import shipped_multibox

    if not options.searched and not options.learned and not Path(options.proposals).is_file():
        raise UsageError(f"--proposals {options.proposals}: no such file; give ss, multibox, both, or a file")
    if options.multibox and not Path(options.multibox).exists():
        raise UsageError(f"--multibox {options.multibox}: no such file; python -m detector.train multibox makes one")
    if options.learned and not options.multibox and shipped_multibox() is None:
        raise UsageError(f"proposals '{options.proposals}': no MultiBox weights are installed; use --proposals ss")


def _labels(text: str, model: str) -> tuple[int, ...]:
    """Return the labels of `dog,person` or `58,124`; raise UsageError naming the nearest class of an unknown one."""
    from detector.classes import label_of
    from detector.model import find_model

    try:
        return tuple(label_of(name.strip(), find_model(model).labels) for name in text.split(","))
    except ValueError as error:
        raise UsageError(f"--classes: {error}") from None


def _output_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder to save in, None for none; nothing is made. Raises: UsageError."""
    if args.out is None:
        return None if args.no_save or args.format != TABLE else Path(DRAWN)
    if args.no_save:
        raise UsageError("--no-save and --out exclude each other")
    try:
        check_folder(args.out)
    except OSError as error:
        raise UsageError(f"--out {args.out}: {error.strerror}; give a folder that can be written") from None
    return Path(args.out)


def _list_models() -> int:
    """Print the models, one a line."""
    from detector.model import describe_models
    from detector.multibox import shipped_multibox

    models = describe_models()
    if shipped_multibox() is not None:
        models.append(("multibox", "learned proposals, for --proposals and not for --model; ships with the package"))
    width = max(len(name) for name, _ in models)
    write_out("".join(f"{name:<{width}}  {about}\n" for name, about in models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
