"""The data set of a command: its options, read from the command line over a TOML file, and what they name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.predictions import BY
from eval.predictions import FORMATS as FILE_FORMATS
from eval.protocols import PROTOCOLS
from proposals.console import UsageError
from proposals.options import add_options, check_options, option, options_of, read_options

if TYPE_CHECKING:
    from detector.datasets.ground_truth import GroundTruth
    from eval.predictions.table import Predictions

AUTO = "auto"
SAMPLES = "the bundled samples"
SAMPLES_WORD = "samples"  # --data samples
FORMATS = (AUTO, "ilsvrc", "voc", "coco", "yolo")


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, its title in outputs, and how it is scored; iou: None for the protocol's own threshold."""

    truth: GroundTruth
    title: str
    protocol: str
    iou: float | None


@dataclass(frozen=True)
class EvalOptions:
    """The data set, the protocol and the intervals. Raises ValueError for a value outside its range."""

    data: str = option(
        "", "folder of ILSVRC DET, VOC or YOLO, or a COCO JSON file", off="the bundled samples", metavar="PATH"
    )
    format: str = option(AUTO, "format of the data", choices=FORMATS)
    split: str = option("val", "part of the data, such as val, val1, val2, val2_mini, train, test")
    protocol: str = option(
        AUTO, "metric; auto is ilsvrc for its 200 classes, voc10 for VOC, else coco", choices=(AUTO, *PROTOCOLS)
    )
    iou: float = option(0.0, "IoU threshold", low=0, high=1, off="the protocol's", metavar="IOU")
    resamples: int = option(1000, "resamples of the bootstrap over the pictures", low=0, off="no intervals")
    seed: int = option(0, "seed of the bootstrap", low=0)

    def __post_init__(self) -> None:
        check_options(self)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the data set, and --config."""
    group = parser.add_argument_group("data")
    add_options(group, EvalOptions, ("data", "format", "split"))
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file of these settings (docs/options.md)")


def add_score_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of the protocol and of the bootstrap, and return their group."""
    group = parser.add_argument_group("score")
    add_options(group, EvalOptions, ("protocol", "iou", "resamples", "seed"))
    return group


def add_prediction_arguments(group: argparse._ActionsContainer) -> None:
    """Add the options of how a file of predictions is read."""
    group.add_argument("--predictions-format", choices=(AUTO, *FILE_FORMATS), default=AUTO, help="(default: auto)")
    group.add_argument(
        "--image-id",
        choices=BY,
        default=AUTO,
        help="what a picture's number in predictions is: the data set's number, or the name of a file in digits "
        "(default: auto, by which all are pictures)",
    )
    group.add_argument("--skip-unknown", action="store_true", help="leave out predictions on pictures not in the data")


def eval_options(args: argparse.Namespace) -> EvalOptions:
    """Return the options of the TOML file, those of the command line put over them. Raises: UsageError."""
    try:
        return options_of(args, EvalOptions, read_options(EvalOptions, args.config))
    except OSError as error:
        raise UsageError(f"cannot read {args.config}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def open_data(options: EvalOptions, pictures: bool = True) -> Data:
    """Return the data set that the options name; the bundled samples where they name none.

    pictures: whether a missing picture is an error; scoring a file needs none.

    Raises: ValueError or OSError for what cannot be read, ValueError where there is no ground truth.
    """
    from detector.datasets.read import read_dataset

    if options.data in ("", SAMPLES_WORD):
        from detector.samples import samples_folder

        truth = read_dataset(samples_folder() / "annotations.json", "coco")
        return Data(truth, SAMPLES, _protocol(options, truth), options.iou or None)
    path = Path(options.data)
    truth = read_dataset(path, options.format, options.split, pictures)
    if not len(truth):
        raise ValueError(f"{options.data}: the split {options.split} has no ground truth; it cannot be scored here")
    title = path.name if path.suffix.lower() == ".json" else f"{path.resolve().name} {options.split}"
    return Data(truth, title, _protocol(options, truth), options.iou or None)


def _protocol(options: EvalOptions, truth: GroundTruth) -> str:
    """Return the protocol of the options.

    auto: ilsvrc for the 200 classes of ILSVRC DET, voc10 for the twenty of VOC or data in its format, else coco.
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


def in_det_classes(data: Data) -> tuple[Data, tuple[str, ...]]:
    """Return the data set in the 200 classes of ILSVRC DET, and notes; raise UsageError where they cannot be mapped."""
    from detector.classes import det_names
    from detector.datasets.class_maps import to_det

    if data.truth.class_names == det_names():
        return data, ()
    try:
        mapped = to_det(data.truth)
    except ValueError as error:
        raise UsageError(str(error)) from error
    counts = f"{len(mapped):,} of {len(data.truth):,} boxes have a counterpart"
    return replace(data, truth=mapped), (f"the classes are mapped to the 200 of ILSVRC DET: {counts}",)


def of_classes(truth: GroundTruth, predictions: Predictions, classes: Sequence[str]) -> tuple[GroundTruth, Predictions]:
    """Return ground truth and predictions of these classes (names or ids) alone, labelled 1.. in their order.

    All pictures stay. Raises: ValueError naming the nearest class where there is no such one.
    """
    import numpy as np

    from detector.classes import label_of
    from eval.predictions.table import Predictions

    labels = list(dict.fromkeys(label_of(name, truth.class_names) for name in classes))
    new = np.zeros(len(truth.class_names) + 1, np.int64)
    new[labels] = np.arange(1, len(labels) + 1)
    rows = np.flatnonzero(new[truth.labels])
    barred = truth.blacklist[new[truth.blacklist[:, 1]] > 0]
    chosen = predictions.select(new[predictions.labels] > 0)
    return (
        replace(
            truth,
            class_names=tuple(truth.class_names[label - 1] for label in labels),
            class_keys=tuple(truth.class_keys[label - 1] for label in labels),
            pictures=truth.pictures[rows],
            labels=new[truth.labels[rows]],
            boxes=truth.boxes[rows],
            difficult=truth.difficult[rows],
            crowd=truth.crowd[rows],
            areas=truth.areas[rows],
            blacklist=np.stack([barred[:, 0], new[barred[:, 1]]], axis=1),
        ),
        Predictions(chosen.pictures, new[chosen.labels].astype(np.int32), chosen.scores, chosen.boxes),
    )
