"""The options of each training stage: one flat dataclass a stage, read from one TOML file; docs/options.md lists them.

All stages that run stochastic gradient descent share the fields of `LoopOptions`, those that learn from boxes the
fields of `RegionOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proposals.options import check_options, option
from proposals.proposer import ProposalOptions

RCNN, SOLVER, G5, G6 = "R-CNN section 2.3", "R-CNN's solver", "GoogLeNet section 5", "GoogLeNet section 6"
SHARE: dict[str, Any] = {"low": 0, "high": 1}
PART: dict[str, Any] = {**SHARE, "below": True}
PRECISIONS = ("auto", "f32", "bf16", "int8")
# what an option needs to have an effect
STEPPED = {"schedule": ("step",)}
KEPT = {"frozen": (), "keep_features": (True,)}
GOOGLENET = {"network": ("googlenet",)}
SIDES = {"auxiliary": (True,), **GOOGLENET}


@dataclass(frozen=True)
class LoopOptions:
    """What the training loop depends on. Raises ValueError for a value outside its range."""

    steps: int = option(0, "mini-batches in all", low=0, off="as many as epochs takes")
    epochs: float = option(0.0, "passes over the data", low=0, high=1e6, needs={"steps": (0,)})
    accumulate: int = option(1, "parts of a mini-batch, worked on one after the other to save memory", low=1)
    optimizer: str = option("sgd", "rule of a step", choices=("sgd", "adamw"), source="GoogLeNet section 6, R-CNN")
    momentum: float = option(
        0.9, "momentum of sgd", **SHARE, needs={"optimizer": ("sgd",)}, source="GoogLeNet section 6, R-CNN"
    )
    weight_decay: float = option(5e-4, "weight decay, of biases too", **SHARE, source=SOLVER)
    learning_rate: float = option(
        1e-3, "learning rate at the beginning, after the warm-up", low=0, high=100, source=RCNN
    )
    schedule: str = option(
        "step", "how the learning rate falls", choices=("constant", "step", "cosine"), source="step: both papers"
    )
    decay: float = option(0.1, "factor by which the rate falls", **SHARE, needs=STEPPED, source=SOLVER)
    decay_steps: int = option(
        0, "mini-batches after which it falls; R-CNN 20,000", low=0, off="as decay_epochs", needs=STEPPED
    )
    decay_epochs: float = option(
        0.0, "passes after which it falls", low=0, high=1e6, needs=STEPPED | {"decay_steps": (0,)}, source=G6
    )
    warmup_steps: int = option(
        0, "mini-batches over which the learning rate rises from zero", low=0, source="arXiv:1706.02677"
    )
    clip: float = option(0.0, "largest norm of all gradients together", low=0, off="not clipped")
    average: str = option(
        "none",
        "average of the weights over the steps, for the final model",
        choices=("none", "equal", "ema"),
        source=G6,
    )
    average_from: float = option(
        0.0, "share of the steps before the average begins", **SHARE, needs={"average": ("equal", "ema")}
    )
    ema_decay: float = option(0.999, "decay of the exponential average", **SHARE, needs={"average": ("ema",)})
    precision: str = option("f32", "precision of the arithmetic; bf16 by autocast", choices=("f32", "bf16"))
    compile: bool = option(False, "compile the network with torch.compile")
    device: str = option("auto", "where the network is trained", choices=("auto", "cpu", "cuda"))
    workers: int = option(0, "processes that make mini-batches ahead", low=0, off="none")
    seed: int = option(0, "seed of weights, order of the data, augmentation and dropout", low=0, high=2**32, below=True)
    log_steps: int = option(20, "mini-batches between two lines of log.jsonl", low=1)
    validate_steps: int = option(500, "mini-batches between two validations", low=1)
    checkpoint_minutes: float = option(5.0, "minutes between two checkpoints: what a kill can cost", low=0)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.steps and not self.epochs:
            raise ValueError("give the length of the run: steps above 0, or epochs above 0")


@dataclass(frozen=True)
class RegionOptions(ProposalOptions):
    """What the stages share that learn from regions: the network, the data sets, and the regions of each picture."""

    model: str = option("inception_v3", "network to begin with: a model or run folder; NAME@SIZE for other crops")
    data: tuple[str, ...] = option((), "data sets with boxes: paths, PATH#SPLIT for a split other than train")
    partial: tuple[str, ...] = option((), "those of data that box only the class a picture was taken for")
    classes: str = option(
        "det", "classes: the 200 of ILSVRC, to which others are mapped, or the data's own", choices=("det", "own")
    )
    cache: str = option("", "folder for the features; runs with the same regions share it", off="in the run folder")
    cut_precision: str = option("auto", "precision in which the features are computed", choices=PRECISIONS)
    most_foreground: int = option(
        0, "most proposals of a picture with an IoU of 0.5 or more, beside its ground truth", low=0, off="all"
    )
    most_background: int = option(0, "most other proposals of a picture", low=0, off="all")
    pool_seed: int = option(
        0, "seed of the proposals, of the choice of these regions, and of those mirrored in the cache", low=0
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_data(self.data, self.partial)


@dataclass(frozen=True)
class FinetuneOptions(RegionOptions, LoopOptions):
    """`finetune`: R-CNN's domain-specific fine-tuning (R-CNN section 2.3, GoogLeNet section 8)."""

    cache: str = option("", "folder for the frozen layers' outputs; runs share it", off="in the run folder", needs=KEPT)
    cut_precision: str = option("auto", "precision of the frozen layers", choices=PRECISIONS, needs={"frozen": ()})
    label_only: tuple[str, ...] = option(
        (), "those of data with one class a picture and no box", source="arXiv:2201.02605"
    )
    shares: tuple[float, ...] = option(
        (), "how often regions of each of data are drawn, times their number; []: 1 each", low=0
    )
    frozen: str = option("", "last layer that keeps its weights", off="all are trained")
    keep_features: bool = option(True, "compute the frozen layers' outputs once; false: anew for each region drawn")
    kept: str = option(
        "", "layer behind frozen up to which kept_from gives the weights", needs=KEPT | {"kept_from": ()}
    )
    kept_from: str = option(
        "", "earlier run whose layers up to kept are taken, as members of an ensemble do", needs={"kept": ()}
    )
    foreground: int = option(32, "foreground regions of a mini-batch", low=0, source=RCNN)
    background: int = option(96, "background regions of a mini-batch", low=0, source=RCNN)
    jitter: int = option(0, "moved copies of each ground-truth box that are drawn from too", low=0, high=1000)
    near: float = option(
        0.0,
        "share of background with an IoU of 0.1 to 0.5",
        **SHARE,
        needs={"most_background": ()},
        source="Fast R-CNN section 2.3",
    )
    balance: float = option(
        0.0, "balance of classes and data sets: 0 as they come, as in R-CNN, 1 each equally often", **SHARE
    )
    unlabelled: float = option(
        0.0, "weight of background as a negative for classes that its data set does not label", **SHARE
    )
    distill: float = option(
        0.0,
        "weight of the loss that keeps the teachers' scores",
        low=0,
        high=1000,
        needs={"classes": ("det",)},
        source="ours",
    )
    teachers: tuple[str, ...] = option(
        (), "models whose mean scores are kept; []: the model that training begins with", needs={"distill": ()}
    )
    head_rate: float = option(
        10.0, "learning rate of the new classifier over that of the other layers", low=0, high=1000, source=SOLVER
    )
    dropout: float = option(0.4, "share of features dropped before the classifier", **PART, source=G5)
    held_out: float = option(0.05, "share of the pictures that is validated on and not trained on", **PART)
    batch_memory: int = option(512, "MB of decoded pictures that each worker keeps", low=0)

    def __post_init__(self) -> None:
        LoopOptions.__post_init__(self)
        RegionOptions.__post_init__(self)
        check_shares(self.data, self.shares)
        if unknown := [item for item in self.label_only if item not in self.data or item in self.partial]:
            raise ValueError(f"label_only names '{unknown[0]}', which must be one of data and none of partial")
        if self.teachers and self.frozen and self.keep_features:
            raise ValueError("teachers have no effect on kept features; set keep_features = false, or leave them out")
        if bool(self.kept) != bool(self.kept_from):
            raise ValueError("kept and kept_from go together; give both, or neither")
        if not self.foreground + self.background:
            raise ValueError(f"a mini-batch needs regions, got {self.foreground} and {self.background}")


@dataclass(frozen=True)
class SvmOptions(RegionOptions):
    """`svm`: R-CNN's linear SVMs with hard negatives in place of the softmax (R-CNN section 2.3, appendix B)."""

    c: float = option(1e-3, "C of liblinear", low=1e-6, source="rcnn_train.m")
    positive_weight: float = option(
        2.0, "weight of a positive's loss", low=1e-6, source="pos_loss_weight, rcnn_train.m"
    )
    bias: float = option(
        10.0,
        "value of the constant feature; large, so that the bias is free",
        low=1e-6,
        source="bias_mult, rcnn_train.m",
    )
    target_norm: float = option(20.0, "mean norm of the scaled features", low=1e-6, source="rcnn_scale_features.m")
    negative_iou: float = option(
        0.3, "IoU with every object of the class below which a region is a negative", low=1e-6, high=1, source=RCNN
    )
    retrain_after: int = option(
        2000, "new negatives of a class after which it is trained again", low=0, source="retrain_limit, rcnn_train.m"
    )
    hard: float = option(-1.0, "margin above which a negative is hard", low=-1e6, source="hard_thresh, rcnn_train.m")
    easy: float = option(-1.2, "margin below which a negative leaves", low=-1e6, source="evict_thresh, rcnn_train.m")
    tolerance: float = option(
        1e-4, "tolerance of the solver; with liblinear's 0.1 the order of the examples decides", low=1e-6, high=1
    )
    max_iterations: int = option(1000, "most iterations of the solver", low=1, source="liblinear")
    seed: int = option(0, "seed of the solver's order of examples", low=0, high=2**32, below=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.easy > self.hard:
            raise ValueError(f"easy ({self.easy}) lies above hard ({self.hard}): what was just found would be dropped")


@dataclass(frozen=True)
class BboxOptions(RegionOptions):
    """`bbox`: R-CNN's bounding-box regression, beside the classifier that the model has (R-CNN appendix C)."""

    ridge: float = option(1000.0, "lambda of the regression", low=1e-6, source="R-CNN appendix C")
    min_overlap: float = option(
        0.6, "IoU with an object above which a region learns from it", **PART, source="R-CNN appendix C"
    )
    target_norm: float = option(20.0, "mean norm of the scaled features", low=1e-6, source="rcnn_scale_features.m")
    max_pairs: int = option(4000, "most regions of a class, a sample of all", low=1, source="ours, for memory")
    shared_below: int = option(
        50,
        "boxes of a class below which one regression of all classes serves it",
        low=0,
        off="each its own",
        source="ours",
    )
    min_pairs: int = option(16, "fewest regions of a class; with fewer it moves no box", low=1, source="ours")
    seed: int = option(0, "seed of the sample of regions", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_pairs > self.max_pairs:
            raise ValueError(f"min_pairs must be 1 to max_pairs, got {self.min_pairs} of {self.max_pairs}")


@dataclass(frozen=True)
class PictureOptions(LoopOptions):
    """What `classifier` and `distill` share: pictures, the network, and how the pictures are seen."""

    data: str = option("", "pictures: folder of class folders, list file, or tar shards")
    validation: str = option("", "labelled pictures to validate on, likewise", off="none")
    classes: str = option("", "file with a class a line, in the order of the outputs", off="what the data says")
    network: str = option("googlenet", "network that is trained", choices=("googlenet", "inception_v3"))
    norm: str = option(
        "lrn", "normalisation of googlenet; batch norm trains faster", choices=("lrn", "batch"), needs=GOOGLENET
    )
    width: float = option(
        1.0, "factor of googlenet's channels", low=0.01, high=16, needs=GOOGLENET, source="GoogLeNet section 7"
    )
    auxiliary: bool = option(True, "train with googlenet's classifiers on the side", needs=GOOGLENET, source=G5)
    auxiliary_weight: float = option(0.3, "weight of their losses", low=0, high=10, needs=SIDES, source=G5)
    dropout: float = option(0.4, "share of features dropped before the classifier", low=0, high=0.99, source=G5)
    start: str = option("", "model or run folder to begin with", off="random weights")
    size: int = option(224, "side of the crops in pixels", low=75, high=640, source=G5)
    mean: float = option(128.0, "input = (pixel - mean) / scale", low=0, high=255)
    scale: float = option(128.0, "see mean", low=1e-3, high=1e6)
    mini_batch: int = option(32, "pictures of a mini-batch", low=1, high=65536, source="bvlc_googlenet")
    area_min: float = option(0.08, "least share of a picture's area that a crop shows", low=0.001, high=1, source=G6)
    aspect_min: float = option(
        0.75, "least aspect ratio of a crop; the largest is its inverse", low=0.05, high=1, source=G6
    )
    photometric: bool = option(True, "change the colours at random", source=G6)
    interpolations: int = option(
        4, "number of resizing methods to choose from at random; 1: bilinear alone", low=1, high=4, source=G6
    )
    shards_mixed: int = option(16, "tar shards whose pictures are shuffled together", low=1)
    validate_pictures: int = option(
        2000, "pictures of the validation set, evenly spaced", low=0, off="all", needs={"validation": ()}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data names no pictures to train on")


@dataclass(frozen=True)
class ClassifierOptions(PictureOptions):
    """`classifier`: GoogLeNet's training on labelled pictures (GoogLeNet section 6)."""

    label_smoothing: float = option(
        0.0, "share of a label that all classes get", low=0, high=0.99, source="Inception-v3 section 7"
    )
    mixup: float = option(
        0.0, "alpha, where two pictures are mixed", low=0, high=100, off="none", source="arXiv:1710.09412"
    )


@dataclass(frozen=True)
class DistillOptions(PictureOptions):
    """`distill`: a classifier learns the mean scores of others on any pictures (Beyer et al. 2021).

    Teachers and student see the same crop. Labels are not read.
    """

    teachers: tuple[str, ...] = option((), "models, run folders or .onnx files with ImageNet's 1,000 classes")
    temperature: float = option(1.0, "temperature of both softmaxes", low=0.01, high=100, source="arXiv:1503.02531")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teachers:
            raise ValueError("teachers names no network to learn from")


@dataclass(frozen=True)
class MultiBoxOptions(LoopOptions):
    """`multibox`: learned proposals, heads on two grids of a frozen trunk (Szegedy et al., arXiv:1412.1441).

    Pictures are seen anew at every step: crops, the whole, or the whole smaller on grey.
    """

    model: str = option(
        "inception_v3@448", "trunk; NAME@SIZE gives the side of the square that a picture is stretched to"
    )
    frozen: str = option("Mixed_6e", "last layer of the trunk")
    fine: str = option("Mixed_5d", "layer of the fine grid, before frozen")
    data: tuple[str, ...] = option((), "data sets with boxes of any class: paths, PATH#SPLIT")
    partial: tuple[str, ...] = option((), "those of data in which only one object of a picture is boxed")
    shares: tuple[float, ...] = option(
        (), "share of each of data in a mini-batch; []: by the numbers of their pictures", low=0
    )
    fine_shapes: int = option(6, "k-means shapes of small boxes on each cell of the fine grid", low=1)
    coarse_shapes: int = option(14, "k-means shapes of large boxes on each cell of the coarse grid", low=1)
    mixed: int = option(128, "channels of the heads", low=1)
    whole: float = option(0.2, "share of the samples that show the whole picture", **PART)
    shrunk: float = option(0.3, "share of the samples that show it smaller, on grey", **PART, source="SSD section 2.2")
    cut_precision: str = option("auto", "precision of the trunk", choices=PRECISIONS)
    view_area: float = option(0.3, "least share of the picture's area that a crop shows", **PART)
    kept_area: float = option(0.5, "least share of an object's area inside a crop for it to count", **PART)
    mini_batch: int = option(64, "samples of a mini-batch", low=1)
    held_out: float = option(0.05, "share of the pictures that is validated on and not trained on", **PART)
    pool_seed: int = option(0, "seed of the choice of held-out pictures, and of the priors", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_data(self.data, self.partial)
        check_shares(self.data, self.shares)
        if self.whole + self.shrunk > 1:
            raise ValueError(f"whole and shrunk together must not exceed 1, got {self.whole} and {self.shrunk}")


def check_data(data: tuple[str, ...], partial: tuple[str, ...]) -> None:
    """Raise ValueError where there is no data set, or `partial` names another one."""
    if not data:
        raise ValueError("data names no data set to train on")
    if unknown := [item for item in partial if item not in data]:
        raise ValueError(f"partial names '{unknown[0]}', which data does not")


def check_shares(data: tuple[str, ...], shares: tuple[float, ...]) -> None:
    """Raise ValueError where there are shares, and not a number for each data set, one of them above 0."""
    if shares and (len(shares) != len(data) or not sum(shares) > 0):
        raise ValueError(f"shares must have a number for each of the {len(data)} data sets, not all 0")
