"""The options of each training stage: one flat dataclass a stage, read from one TOML file; each field with its source.

All stages that run stochastic gradient descent share the fields of `LoopOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine")
AVERAGES = ("none", "equal", "ema")
PRECISIONS = ("f32", "bf16")
DEVICES = ("auto", "cpu", "cuda")


def check_ranges(options: object, *ranges: tuple[str, float, float]) -> None:
    """Raise ValueError for the first of `ranges`, (name, lowest, highest), that the option of this name lies outside.

    So does NaN.
    """
    for name, low, high in ranges:
        value = getattr(options, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in {low:g}..{high:g}, got {value}")


@dataclass(frozen=True)
class LoopOptions:
    """What the training loop depends on, whatever is trained."""

    steps: int = 0  # mini-batches in all; 0: as many as `epochs` takes
    epochs: float = 0.0  # passes over the data; used where `steps` is 0
    accumulate: int = 1  # parts that a mini-batch is worked on in, to save memory; the gradients are summed
    optimizer: str = "sgd"  # sgd (GoogLeNet section 6, R-CNN) or adamw (Loshchilov & Hutter 2019)
    momentum: float = 0.9  # GoogLeNet section 6, R-CNN
    weight_decay: float = 5e-4  # R-CNN's solver; bvlc_googlenet has 2e-4
    learning_rate: float = 1e-3  # R-CNN section 2.3; bvlc_googlenet has 1e-2
    schedule: str = "step"  # constant, step (both papers) or cosine
    decay: float = 0.1  # factor of each step of the schedule: R-CNN 0.1, GoogLeNet 0.96
    decay_steps: int = 0  # mini-batches between two of them (R-CNN: 20,000); 0: as `decay_epochs`
    decay_epochs: float = 0.0  # passes between two of them (GoogLeNet section 6: 8)
    warmup_steps: int = 0  # mini-batches over which the learning rate rises from zero (Goyal et al. 2017)
    clip: float = 0.0  # largest norm of all gradients together; 0: not clipped
    average: str = "none"  # of the weights, for the final model: none, equal (Polyak, section 6) or ema
    average_from: float = 0.0  # share of the steps before an equal average begins
    ema_decay: float = 0.999  # of an exponential average
    precision: str = "f32"  # f32, or bf16 (autocast)
    compile: bool = False  # torch.compile
    device: str = "auto"  # auto, cpu or cuda
    workers: int = 0  # processes that make mini-batches ahead; 0: none
    seed: int = 0  # of weights, order of the data, augmentation and dropout
    log_steps: int = 20  # mini-batches between two lines of log.jsonl
    validate_steps: int = 500  # mini-batches between two validations
    checkpoint_minutes: float = 5.0  # between two checkpoints: what a kill can cost

    def __post_init__(self) -> None:
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("average", AVERAGES),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got '{getattr(self, name)}'")
        if self.steps < 0 or self.epochs < 0 or (not self.steps and not self.epochs):
            raise ValueError("give the length of the run: steps above 0, or epochs above 0")
        for name, least in (("accumulate", 1), ("log_steps", 1), ("validate_steps", 1), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("workers", "seed", "decay_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed must lie below {2**32}, got {self.seed}")
        check_ranges(
            self,
            ("momentum", 0.0, 1.0),
            ("ema_decay", 0.0, 1.0),
            ("average_from", 0.0, 1.0),
            ("decay", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("learning_rate", 0.0, 100.0),
            ("clip", 0.0, 1e9),
            ("decay_epochs", 0.0, 1e9),
            ("checkpoint_minutes", 0.0, 1e6),
        )


@dataclass(frozen=True)
class FinetuneOptions(LoopOptions):
    """`finetune`: R-CNN's domain-specific fine-tuning (section 2.3 of R-CNN, section 8 of GoogLeNet)."""

    model: str = "inception_v3"  # where the weights begin; NAME@SIZE for crops of another size
    data: tuple[str, ...] = ()  # data sets with boxes: paths, PATH#SPLIT for a split other than train
    partial: tuple[str, ...] = ()  # those of `data` that box only the class a picture was taken for
    label_only: tuple[str, ...] = ()  # those that name a picture's class and box nothing: a learned proposal is its box
    shares: tuple[float, ...] = ()  # how often regions of each of `data` are drawn, times their number; (): 1 each
    classes: str = "det"  # det: the 200 of ILSVRC, others mapped to them; own: those of the data
    proposals: str = ""  # Parquet file of python -m proposals.extract; "": made here, once
    frozen: str = ""  # last layer that keeps its weights; "": all are trained
    keep_features: bool = True  # compute the frozen layers' outputs once; False: anew for each region drawn, mirrored
    kept: str = ""  # layer behind `frozen` up to which the weights are those of `kept_from`, and stay
    kept_from: str = ""  # an earlier run of the same kind: members of an ensemble share these layers
    cache: str = ""  # folder for frozen layers' outputs, for all runs with the same regions; "": in the run folder
    pool_seed: int = 0  # of the choice of regions a picture, and of those mirrored in the cache
    cut_precision: str = "auto"  # of the frozen layers: auto, f32, bf16 or int8
    foreground: int = 32  # regions a mini-batch, R-CNN section 2.3
    background: int = 96  # likewise
    most_foreground: int = 0  # proposals a picture that are drawn from, beside its ground truth; 0: all
    most_background: int = 0  # likewise; with frozen layers, what has to be kept is the sum of both a picture
    jitter: int = 0  # moved copies of each ground-truth box, of IoU 0.5 and more with it, that are drawn from too
    near: float = 0.0  # share of the background from IoU 0.1..0.5 with an object (Fast R-CNN section 2.3)
    balance: float = 0.0  # of classes and data sets: 0 as they come (R-CNN), 1 each equally often
    unlabelled: float = 0.0  # weight of a background region as a negative for classes its data set does not label
    distill: float = 0.0  # weight of keeping the teachers' scores among the classes (ours)
    teachers: tuple[str, ...] = ()  # models whose mean scores are kept, NAME@SIZE; (): the network that is begun with
    head_rate: float = 10.0  # learning rate of the new classifier over that of the rest: R-CNN's solver
    dropout: float = 0.4  # GoogLeNet section 5
    held_out: float = 0.05  # share of the pictures that is only validated on
    batch_memory: int = 512  # MB of decoded pictures that each worker keeps

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data names no data set to train on")
        if unknown := [item for item in self.partial if item not in self.data]:
            raise ValueError(f"partial names '{unknown[0]}', which data does not")
        if unknown := [item for item in self.label_only if item not in self.data or item in self.partial]:
            raise ValueError(f"label_only names '{unknown[0]}', which must be one of data and none of partial")
        if self.shares and (len(self.shares) != len(self.data) or min(self.shares) < 0 or not sum(self.shares) > 0):
            raise ValueError(f"shares must have a number for each of the {len(self.data)} data sets, not all 0")
        if self.classes not in ("det", "own"):
            raise ValueError(f"classes must be det or own, got '{self.classes}'")
        if self.kept and not self.keep_features:
            raise ValueError("kept needs keep_features: only stored features are shared by several runs")
        if self.teachers and (not self.distill or (self.frozen and self.keep_features)):
            raise ValueError("teachers need distill above 0, and regions that are cropped anew (keep_features = false)")
        if bool(self.kept) != bool(self.kept_from) or (self.kept and not self.frozen):
            raise ValueError("kept and kept_from go together, with frozen layers before them")
        if self.foreground < 0 or self.background < 0 or not self.foreground + self.background:
            raise ValueError(f"a mini-batch needs regions, got {self.foreground} and {self.background}")
        if self.most_foreground < 0 or self.most_background < 0 or self.batch_memory < 0:
            raise ValueError("most_foreground, most_background and batch_memory must not be negative")
        check_ranges(self, ("balance", 0, 1), ("unlabelled", 0, 1), ("distill", 0, 1000), ("head_rate", 0, 1000))
        check_ranges(self, ("jitter", 0, 1000), ("near", 0, 1))
        for name in ("dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, below 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class ClassifierOptions(LoopOptions):
    """`classifier`: GoogLeNet's training on labelled pictures (section 6)."""

    data: str = ""  # folder of class folders, list file, or tar shards
    validation: str = ""  # likewise; "": none
    classes: str = ""  # file with a class a line, in the order of the outputs; "": what the data says
    network: str = "googlenet"  # googlenet or inception_v3
    norm: str = "lrn"  # of googlenet: lrn (the paper) or batch (trains faster, folds away)
    width: float = 1.0  # of googlenet's channels (section 7: one member of the ensemble is wider)
    auxiliary: bool = True  # of googlenet: section 5's classifiers on the side, in training only
    auxiliary_weight: float = 0.3  # section 5
    dropout: float = 0.4  # section 5
    start: str = ""  # weights to begin with: a model or a run folder; "": from scratch
    size: int = 224  # side of the crops, section 5
    mean: float = 128.0  # input = (pixel - mean) / scale
    scale: float = 128.0
    mini_batch: int = 32  # bvlc_googlenet
    area_min: float = 0.08  # section 6: crops of 8 % to 100 % of the area,
    aspect_min: float = 0.75  # with an aspect ratio of 3/4 to 4/3
    photometric: bool = True  # section 6: Howard's distortions
    interpolations: int = 4  # section 6: a random one of so many; 1: bilinear alone
    label_smoothing: float = 0.0  # Szegedy et al. 2015, not in this paper
    mixup: float = 0.0  # Zhang et al. 2018, likewise; alpha
    shards_mixed: int = 16  # tar shards whose pictures are shuffled together
    validate_pictures: int = 2000  # of the validation set, evenly spaced; 0: all

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data names no pictures to train on")
        if self.network not in ("googlenet", "inception_v3"):
            raise ValueError(f"network must be googlenet or inception_v3, got '{self.network}'")
        check_ranges(
            self,
            ("auxiliary_weight", 0.0, 10.0),
            ("dropout", 0.0, 0.99),
            ("area_min", 0.001, 1.0),
            ("aspect_min", 0.05, 1.0),
            ("label_smoothing", 0.0, 0.99),
            ("mixup", 0.0, 100.0),
            ("mean", 0.0, 255.0),
            ("scale", 1e-3, 1e6),
            ("mini_batch", 1, 65536),
            ("interpolations", 1, 4),
            ("size", 75, 640),
        )
        if self.validate_pictures < 0 or self.shards_mixed < 1:
            raise ValueError("validate_pictures must not be negative, shards_mixed at least 1")


@dataclass(frozen=True)
class DistillOptions(ClassifierOptions):
    """`distill`: a classifier learns the averaged scores of others on any pictures (Beyer et al. 2021).

    Teachers and student see the same crop. `data` needs no labels; label_smoothing and mixup are of no account.
    """

    teachers: tuple[str, ...] = ()  # models, run folders, or .onnx files, with ImageNet's 1,000 classes
    temperature: float = 1.0  # that both softmaxes are taken at

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teachers:
            raise ValueError("teachers names no network to learn from")
        check_ranges(self, ("temperature", 0.01, 100))
        if self.mixup or self.label_smoothing:
            raise ValueError("mixup and label_smoothing are of labels, which distillation has none of; leave them 0")


@dataclass(frozen=True)
class MultiBoxOptions(LoopOptions):
    """`multibox`: learned proposals (Erhan et al. 2014), heads on a frozen trunk.

    With `fine`, on two grids of cells and pictures seen anew at every step (Szegedy et al., arXiv:1412.1441); without,
    over whole pictures, on kept features of a few views of each.
    """

    model: str = "inception_v3@448"  # the trunk; NAME@SIZE: side of the square that a picture is stretched to
    frozen: str = "Mixed_6e"  # last layer of the trunk
    fine: str = "Mixed_5d"  # layer of the fine grid; "": one pair of heads over the whole picture
    data: tuple[str, ...] = ()  # data sets with boxes, as of FinetuneOptions; of every class
    partial: tuple[str, ...] = ()  # those of `data` in which only one object a picture is boxed
    shares: tuple[float, ...] = ()  # grids: of each of `data` in a mini-batch; (): by the numbers of their pictures
    fine_shapes: int = 6  # grids: k-means shapes of small boxes on each cell of the fine grid
    coarse_shapes: int = 14  # grids: of large ones on each cell of the coarse grid
    mixed: int = 128  # grids: channels of the heads
    whole: float = 0.2  # grids: share of the samples that show the whole picture
    shrunk: float = 0.3  # grids: share that shows it smaller, on grey (SSD, section 2.2, expands pictures so)
    cut_precision: str = "auto"  # of the trunk: auto, f32, bf16 or int8
    cache: str = ""  # whole pictures, as all below to `matching`: folder for the features; "": in the run folder
    priors: int = 200  # k-means centroids of the training boxes (Erhan et al. section 4.1)
    views: int = 8  # a picture: as it is, mirrored, and crops of it
    view_area: float = 0.3  # (grids too) least share of the picture's area that a crop shows
    kept_area: float = 0.5  # (grids too) least share of an object's area that must be inside a crop to count there
    reduced: int = 64  # channels of the heads' 1x1 convolution
    hidden: int = 512  # units of their hidden layer
    dropout: float = 0.3
    near_negatives: bool = True  # in partly labelled pictures, priors that show a labelled object badly are negatives
    matching: str = "priors"  # priors (Erhan et al. section 4.2) or predictions (the full cost)
    mini_batch: int = 64
    held_out: float = 0.05  # share of the pictures that is only validated on
    pool_seed: int = 0  # of the choice of views, and of the priors

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data names no data set to train on")
        if unknown := [item for item in self.partial if item not in self.data]:
            raise ValueError(f"partial names '{unknown[0]}', which data does not")
        if self.matching not in ("priors", "predictions"):
            raise ValueError(f"matching must be priors or predictions, got '{self.matching}'")
        if self.shares and (len(self.shares) != len(self.data) or min(self.shares) < 0 or not sum(self.shares) > 0):
            raise ValueError(f"shares must have a number for each of the {len(self.data)} data sets, not all 0")
        if self.whole + self.shrunk > 1:
            raise ValueError(f"whole and shrunk together must not exceed 1, got {self.whole} and {self.shrunk}")
        for name in ("priors", "views", "reduced", "hidden", "mini_batch", "fine_shapes", "coarse_shapes", "mixed"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("view_area", "kept_area", "dropout", "held_out", "whole", "shrunk"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, below 1, got {getattr(self, name)}")
