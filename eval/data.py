"""The data set of a command: its options, read from the command line over a TOML file, and what they name."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from detector.datasets.ground_truth import GroundTruth
from detector.options import read_options
from eval.options import AUTO, EvalOptions
from proposals.console import UsageError

SAMPLES = "the bundled samples"
SAMPLES_WORD = "samples"  # --data samples
FORMATS = (AUTO, "ilsvrc", "voc", "coco", "yolo")


def add_data_arguments(parser: argparse.ArgumentParser, otherwise: str = "default: the bundled samples") -> None:
    """Add --data, --format, --split and --config; `otherwise` says what happens without --data."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="PATH", help=f"folder of ILSVRC DET, VOC or YOLO, or a COCO JSON file ({otherwise})"
    )
    data.add_argument("--format", choices=FORMATS, help="of the data (default: auto)")
    data.add_argument("--split", metavar="NAME", help="val (default), val1, val2, val2_mini, train, ...")
    data.add_argument("--config", type=Path, metavar="FILE", help="TOML file of these settings, as configs/eval.toml")


def eval_options(args: argparse.Namespace) -> EvalOptions:
    """Return the options of the TOML file, those given on the command line put over them; raise UsageError."""
    try:
        options = read_options(EvalOptions, args.config, "eval.toml")
        given = {name: getattr(args, name) for name in asdict(options) if getattr(args, name, None) is not None}
        return replace(options, **given)
    except OSError as error:
        raise UsageError(f"cannot read {args.config}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def open_data(options: EvalOptions) -> tuple[GroundTruth, str]:
    """Return the data set and its title; the bundled samples where none is given.

    Raises: ValueError or OSError for what cannot be read, ValueError where there is no ground truth.
    """
    from detector.datasets.read import read_dataset

    if options.data in ("", SAMPLES_WORD):
        from detector.samples import samples_folder

        return read_dataset(samples_folder() / "annotations.json", "coco"), SAMPLES
    path = Path(options.data)
    truth = read_dataset(path, options.format, options.split)
    if not len(truth):
        raise ValueError(f"{options.data}: the split {options.split} has no ground truth; it cannot be scored here")
    return truth, path.name if path.suffix.lower() == ".json" else f"{path.resolve().name} {options.split}"


def protocol_of(options: EvalOptions, truth: GroundTruth) -> str:
    """Return the protocol that is asked for.

    Else ilsvrc for the 200 classes of ILSVRC DET, voc10 for the twenty of VOC or data in its format, coco for others.
    """
    if options.protocol != AUTO:
        return options.protocol
    from detector.classes import det_names
    from detector.datasets.read import guess_format
    from detector.datasets.voc import VOC_CLASSES

    if set(truth.class_names) == set(det_names()):
        return "ilsvrc"
    if set(truth.class_names) == set(VOC_CLASSES):
        return "voc10"
    format = options.format if options.format != AUTO else guess_format(Path(options.data))
    return {"ilsvrc": "ilsvrc", "voc": "voc10"}.get(format, "coco")
