"""The arguments of the command `detect`: their parser, their help, and the settings that they make."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from detector.options import DetectOptions
from detector.report import TABLE, write_out
from proposals.console import WRONG_USAGE, UsageError, printable
from proposals.files import check_folder
from proposals.image_files import OUTPUT_MARK
from proposals.options import add_options, read_options
from proposals.options import options_of as given_options

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# The names of detector.formats.FORMATS after "table"; that module needs numpy, which --help should not wait for.
FORMATS = (TABLE, "json", "csv", "coco", "ilsvrc", "voc", "yolo")
MAX_PIXELS = 100_000_000
DRAWN = "detected"  # folder for the drawings of a plain `detect image.jpg`
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


class _Parser(argparse.ArgumentParser):
    """A parser that answers wrong usage with one line in place of the whole usage, and fails where help cannot go."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"detect: error: {printable(message)} (see detect --help)\n")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; raise OSError when standard output, the default, cannot take it."""
        if file is None:
            write_out(self.format_help())
        else:
            super().print_help(file)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says: options and names in any order, after `--` names only.

    Raises: SystemExit after --help (status 0) and after wrong usage (status 2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = make_parser().parse_intermixed_args(words[:end])  # which would forget that there was a --
    args.paths = [*args.paths, *words[end + 1 :]]
    return args


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; options that are not given are None, so that --config and the defaults decide."""
    parser = _Parser(
        prog="detect",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
    pipeline.add_argument(
        "--config", metavar="FILE", type=Path, help="TOML file of these settings; options given here win"
    )

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
    output.add_argument(
        "--every", type=int, metavar="N", default=1, help="look at every Nth frame of a video (default: 1)"
    )
    output.add_argument(
        "--frames", type=int, metavar="N", help="look at so many frames of each video or camera (default: all)"
    )
    output.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        default=MAX_PIXELS,
        help=f"refuse larger pictures unread (default: {MAX_PIXELS})",
    )
    loudness = output.add_mutually_exclusive_group()
    loudness.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="nothing on standard error but errors, and which bundled picture is taken",
    )
    loudness.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="times since the start and of the stages, proposals, crops per second",
    )

    parser.add_argument("--list-models", action="store_true", help="list the models and exit")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def options_of(args: argparse.Namespace) -> DetectOptions:
    """Return the settings of the run, the command line over --config over the defaults; `args.classes` become labels.

    Nothing is made or changed on disk. Raises: UsageError.
    """
    if not args.paths:
        raise UsageError("no pictures given; try: detect samples/dog.jpg")
    if args.max_pixels < 1:
        raise UsageError(f"--max-pixels must be at least 1, got {args.max_pixels}")
    if args.every < 1:
        raise UsageError(f"--every must be at least 1, got {args.every}")
    if args.frames is not None and args.frames < 1:
        raise UsageError(f"--frames must be at least 1, got {args.frames}")
    try:
        base = read_options(DetectOptions, args.config)
    except OSError as error:
        raise UsageError(f"--config {args.config}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    options = given_options(args, DetectOptions, base)
    if args.no_save and args.out is not None:
        raise UsageError("--no-save and --out exclude each other")
    if options.proposals != "ss":
        _check_multibox(options)
    _check_model(options.model, "--model " if args.model is not None else f"{args.config}: model ")
    if options.bbox:
        _check_boxes(options.model)
    for name in options.ensemble.split(","):
        if name.strip():
            _check_model(name.strip(), "--ensemble " if args.ensemble else f"{args.config}: ensemble ")
    if args.classes is not None:
        args.classes = _labels(args.classes, options.model)
    if args.out is not None:
        try:
            check_folder(args.out)
        except OSError as error:
            raise UsageError(f"--out {args.out}: {error.strerror}; give a folder that can be written") from None
    return options


def _labels(text: str, model: str) -> tuple[int, ...]:
    """Return the labels of `dog,person` or `58,124`; raise UsageError naming the nearest class of an unknown one."""
    from detector.classes import label_of
    from detector.model import find_model

    try:
        return tuple(label_of(name.strip(), find_model(model).labels) for name in text.split(","))
    except ValueError as error:
        raise UsageError(f"--classes: {error}") from None


def _check_multibox(options: DetectOptions) -> None:
    """Raise UsageError where the weights of the learned proposals are missing or damaged."""
    from detector.multibox import load_multibox, shipped_multibox

    path = options.multibox or shipped_multibox()
    if path is None:
        raise UsageError(f"proposals '{options.proposals}': no MultiBox weights are installed; use --proposals ss")
    try:
        load_multibox(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--multibox {error}" if options.multibox else str(error)) from None


def _check_model(name: str, source: str) -> None:
    """Raise UsageError when `name` is neither a model nor a weights file; `source` says in the message who named it."""
    from detector.model import find_model

    try:
        find_model(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}{error}") from None


def _check_boxes(name: str) -> None:
    """Raise UsageError where the model has no box regression."""
    from detector.model import find_model

    if not find_model(name).boxes:
        raise UsageError(f"--bbox: {name} has no box regression; train one with python -m detector.train bbox")
