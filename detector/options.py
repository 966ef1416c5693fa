"""The options of one detection run, each with its value, range, help and source."""

from __future__ import annotations

from dataclasses import dataclass

from proposals.options import FILE, option
from proposals.proposer import SeededProposalOptions

MIN_CROP, MAX_CROP = 75, 640  # the limits of detector.model, which needs numpy
MAX_BATCH = 1024
DEVICES = ("auto", "cpu", "cuda")
RUNTIMES = ("auto", "openvino", "torch")
PRECISIONS = ("auto", "f32", "bf16", "int8")


@dataclass(frozen=True)
class DetectOptions(SeededProposalOptions):
    """What one detection run depends on. Raises ValueError for a value outside its range."""

    model: str = option(
        "inception_v3_det",
        "a model of detect --list-models, a run folder or a weights file; NAME@SIZE for crops of that size",
    )
    ensemble: str = option(
        "",
        "further models, NAME[@SIZE][=VOTES] with commas between; the scores of all are averaged, each network having "
        "one vote",
        off="none",
        metavar="LIST",
        source="GoogLeNet section 8",
    )
    cascade: float = option(
        0.0,
        "background score of the first model from which the further models skip a region; 1: they skip none",
        low=0,
        high=1,
        off="the one measured for the model, and where there is none they skip none",
        metavar="SCORE",
        needs={"ensemble": ()},
        source="docs/engine.md",
    )
    objectness: float = option(
        0.5,
        "weight of MultiBox's confidence in a score",
        low=0,
        high=1,
        below=True,
        off="none, as in the paper",
        metavar="WEIGHT",
        needs={"proposals": ("multibox", "both", FILE)},
        source="ours, docs/models.md",
    )
    context: float = option(
        0.0,
        "weight of the classes of the whole picture in a score",
        low=0,
        high=1,
        below=True,
        off="none, as in the paper",
        metavar="WEIGHT",
        source="ours, docs/models.md",
    )
    threshold: float = option(
        0.3,
        "lowest score of a detection that is shown",
        low=0,
        high=1,
        metavar="SCORE",
        source="best F1 of the default model, docs/models.md",
    )
    nms: float = option(
        0.3,
        "of two boxes of a class with a higher IoU, only the better one stays",
        low=0,
        high=1,
        metavar="IOU",
        source="R-CNN section 2.2 and its code",
    )
    vote: float = option(
        0.4,
        "boxes with at least this IoU with a detection vote on its place",
        low=0,
        high=1,
        off="no vote, as in the paper",
        metavar="IOU",
        source="arXiv:1505.01749, docs/models.md",
    )
    top: int = option(100, "most boxes of a class in a picture", low=1, source="R-CNN's code")
    bbox: bool = option(
        False,
        "move each box as the model's box regression says, for a model that has one",
        source="R-CNN appendix C; GoogLeNet's entry had none",
    )
    device: str = option("auto", "where the networks run", choices=DEVICES)
    runtime: str = option("auto", "what runs the networks", choices=RUNTIMES)
    precision: str = option("auto", "numbers that the networks compute with", choices=PRECISIONS)
    crop_size: int = option(0, "side of the crops in pixels", low=MIN_CROP, high=MAX_CROP, off="the model's own")
    batch_size: int = option(
        0, "crops that a network takes at once", low=0, high=MAX_BATCH, off="what suits the device"
    )

    @property
    def further_models(self) -> tuple[str, ...]:
        """The names in `ensemble`."""
        return tuple(name.strip() for name in self.ensemble.split(",") if name.strip())
