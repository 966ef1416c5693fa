"""The options of R-CNN's two stages behind fine-tuning, `svm` and `bbox`: flat, read from one TOML file each."""

from __future__ import annotations

from dataclasses import dataclass

from detector.training.box_regression import BoxRegressionOptions
from detector.training.heads import SvmOptions


@dataclass(frozen=True)
class HeadOptions:
    """What both stages depend on: the network whose features are kept, and the regions; as of FinetuneOptions."""

    model: str = "inception_v3"  # a run folder of finetune; NAME@SIZE for crops of another size
    data: tuple[str, ...] = ()  # data sets with boxes: paths, PATH#SPLIT for a split other than train
    partial: tuple[str, ...] = ()  # those of `data` that box only the class a picture was taken for
    classes: str = "det"  # det: the 200 of ILSVRC, others mapped to them; own: those of the data
    proposals: str = ""  # Parquet file of python -m proposals.extract; "": made here, once
    cache: str = ""  # folder for the features, 2 bytes a number; "": in the run folder
    cut_precision: str = "auto"  # in which they are computed: auto, f32, bf16 or int8
    most_foreground: int = 0  # proposals a picture of IoU >= 0.5, beside its ground truth; 0: all, as R-CNN
    most_background: int = 0  # likewise, of the others
    pool_seed: int = 0  # of the choice of these

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data names no data set to train on")
        if unknown := [item for item in self.partial if item not in self.data]:
            raise ValueError(f"partial names '{unknown[0]}', which data does not")
        if self.classes not in ("det", "own"):
            raise ValueError(f"classes must be det or own, got '{self.classes}'")
        for name in ("most_foreground", "most_background", "pool_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class SvmStageOptions(SvmOptions, HeadOptions):
    """`svm`: R-CNN's linear SVMs with hard negatives in place of the softmax (section 2.3, appendix B)."""

    def __post_init__(self) -> None:
        HeadOptions.__post_init__(self)
        SvmOptions.__post_init__(self)


@dataclass(frozen=True)
class BboxStageOptions(BoxRegressionOptions, HeadOptions):
    """`bbox`: R-CNN's bounding-box regression, beside the classifier that the model has (appendix C)."""

    def __post_init__(self) -> None:
        HeadOptions.__post_init__(self)
        BoxRegressionOptions.__post_init__(self)
