"""The data set of a command: its options, read from the command line over a TOML file, and what they name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.protocols import PROTOCOLS
from proposals.console import UsageError
from proposals.options import read_options

if TYPE_CHECKING:
    from detector.datasets.ground_truth import GroundTruth
    from eval.predictions.table import Predictions

AUTO = "auto"
SAMPLES = "the bundled samples"
SAMPLES_WORD = "samples"  # --data samples
FORMATS = (AUTO, "ilsvrc", "voc", "coco", "yolo")


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: its ground truth, its title in outputs, and the protocol by which it is scored."""

    truth: GroundTruth
    title: str
    protocol: str


@dataclass(frozen=True)
class EvalOptions:
    """The data set and the protocol."""

    data: str = ""  # empty: the bundled samples
    format: str = AUTO
    split: str = "val"
    protocol: str = AUTO
    resamples: int = 1000  # of the bootstrap; 0: no intervals
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in (AUTO, *PROTOCOLS):
            raise ValueError(f"protocol must be one of auto, {', '.join(PROTOCOLS)}, got '{self.protocol}'")
        for name in ("resamples", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def add_data_arguments(parser: argparse.ArgumentParser, otherwise: str = "default: the bundled samples") -> None:
    """Add --data, --format, --split and --config; `otherwise` says what happens without --data."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="PATH", help=f"folder of ILSVRC DET, VOC or YOLO, or a COCO JSON file ({otherwise})"
    )
    data.add_argument("--format", choices=FORMATS, help="of the data (default: auto)")
    data.add_argument("--split", metavar="NAME", help="val (default), val1, val2, val2_mini, train, ...")
    data.add_argument("--config", type=Path, metavar="FILE", help="TOML file of these settings")


def add_score_arguments(parser: argparse.ArgumentParser, resamples: str) -> argparse._ArgumentGroup:
    """Add --protocol, --iou, --resamples and --seed, and return their group; `resamples` says what the default is."""
    score = parser.add_argument_group("score")
    score.add_argument(
        "--protocol",
        choices=(AUTO, *PROTOCOLS),
        help="(default: auto; ilsvrc for its 200 classes, voc10 for VOC, else coco)",
    )
    score.add_argument("--iou", type=float, metavar="T", help="threshold (default: the protocol's)")
    score.add_argument("--resamples", type=int, metavar="N", help=f"of the bootstrap over pictures ({resamples})")
    score.add_argument("--seed", type=int, metavar="N", help="of the bootstrap (default: 0)")
    return score


def eval_options(args: argparse.Namespace) -> EvalOptions:
    """Return the options of the TOML file, those of the command line put over them. Raises: UsageError."""
    iou = getattr(args, "iou", None)
    if iou is not None and not 0 < iou <= 1:
        raise UsageError(f"--iou must lie above 0 and not above 1, got {iou:g}")
    try:
        options = read_options(EvalOptions, args.config)
        given = {name: getattr(args, name) for name in asdict(options) if getattr(args, name, None) is not None}
        return replace(options, **given)
    except OSError as error:
        raise UsageError(f"cannot read {args.config}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def open_data(options: EvalOptions) -> Data:
    """Return the data set that the options name; the bundled samples where they name none.

    Raises: ValueError or OSError for what cannot be read, ValueError where there is no ground truth.
    """
    from detector.datasets.read import read_dataset

    if options.data in ("", SAMPLES_WORD):
        from detector.samples import samples_folder

        truth = read_dataset(samples_folder() / "annotations.json", "coco")
        return Data(truth, SAMPLES, _protocol(options, truth))
    path = Path(options.data)
    truth = read_dataset(path, options.format, options.split)
    if not len(truth):
        raise ValueError(f"{options.data}: the split {options.split} has no ground truth; it cannot be scored here")
    title = path.name if path.suffix.lower() == ".json" else f"{path.resolve().name} {options.split}"
    return Data(truth, title, _protocol(options, truth))


def _protocol(options: EvalOptions, truth: GroundTruth) -> str:
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
