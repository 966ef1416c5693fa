"""Flat options read from one TOML file; an unknown key is an error that names the nearest right one."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DetectOptions:
    """What one detection run depends on (configs/detect.toml holds the defaults that `detect` uses)."""

    model: str = "ensemble"  # a name of `detector.model`, or a path; NAME@SIZE for crops of another size
    ensemble: str = ""  # further models with commas between, whose scores are averaged with those of `model`
    cascade: float = 0.55  # background score of `model` from which the others are not asked; 0: they always are
    proposals: str = "both"  # ss, multibox or both (section 8)
    multibox: str = ""  # weights of the learned proposals: a file or a run folder; "": those that ship
    multibox_boxes: int = 200  # of them a picture (section 8)
    objectness: float = 0.5  # weight of MultiBox's confidence in a score, ours, below 1; 0: none, as the paper
    context: float = 0.0  # weight of the whole picture's classes in a score, ours, below 1; 0: none, as the paper
    ss_boxes: int = 0  # Selective Search boxes a picture, best first; 0: all
    backend: str = "own"  # implementation of Selective Search: own or opencv
    superpixel_scale: int = 2  # section 8: superpixel size increased by 2x
    threshold: float = 0.3  # best F1 of the default model (docs/models.md): detections of a lower score are not shown
    nms: float = 0.3  # R-CNN's IoU threshold, per class
    vote: float = 0.4  # IoU from which boxes vote on where a detection is (arXiv:1505.01749); 0: none, as the paper
    top: int = 100  # R-CNN: at most 100 boxes an image and class
    bbox: bool = False  # R-CNN's box regression, of `model`; GoogLeNet's entry had none, "due to lack of time"
    device: str = "auto"  # auto, cpu or cuda
    runtime: str = "auto"  # auto, openvino or torch
    precision: str = "auto"  # auto, f32, bf16 or int8
    crop_size: int = 0  # side of the crops in pixels; 0: the model's own
    batch_size: int = 0  # crops that a network takes at once; 0: what suits the device
    seed: int = 0  # of the proposals' ranking

    def __post_init__(self) -> None:
        for name in ("threshold", "nms", "vote", "cascade", "objectness", "context"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.objectness == 1:
            raise ValueError("objectness must be below 1: with 1 all classes of a box have the same score")
        if self.context == 1:
            raise ValueError("context must be below 1: with 1 all boxes of a class have the same score")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        for name, least, limit in (
            ("batch_size", 0, MAX_BATCH),
            ("superpixel_scale", 1, MAX_SCALE),
            ("multibox_boxes", 1, MAX_BOXES),
            ("ss_boxes", 0, MAX_BOXES),
        ):
            if not least <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must lie in {least}..{limit}, got {getattr(self, name)}")
        if self.crop_size and not MIN_CROP <= self.crop_size <= MAX_CROP:
            raise ValueError(f"crop_size must be 0 (the model's own) or {MIN_CROP}..{MAX_CROP}, got {self.crop_size}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got '{getattr(self, name)}'")


MIN_CROP, MAX_CROP = 75, 640  # the limits of detector.model, which needs numpy
MAX_BATCH, MAX_SCALE, MAX_BOXES = 1024, 100, 100_000
CHOICES = {
    "proposals": ("ss", "multibox", "both"),
    "backend": ("own", "opencv"),
    "device": ("auto", "cpu", "cuda"),
    "runtime": ("auto", "openvino", "torch"),
    "precision": ("auto", "f32", "bf16", "int8"),
}


def options_from(cls: type[T], table: Mapping[str, object], source: str) -> T:
    """Return the dataclass `cls` filled from `table`; `source` names the file in messages.

    Raises: ValueError for an unknown key (naming the nearest right one) or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    values: dict[str, object] = {}
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
            raise ValueError(f"{source}: unknown key '{key}'; the nearest one is '{near[0]}'")
        wanted = hints[key]
        if wanted is float and type(value) is int:
            value = float(value)
        if get_origin(wanted) is tuple:  # a list of texts, or of numbers
            kinds, name = ((int, float), "numbers") if get_args(wanted)[0] is float else ((str,), "texts")
            if not isinstance(value, list) or not all(type(item) in kinds for item in value):
                raise ValueError(f"{source}: '{key}' must be a list of {name}, got {value!r}")
            value = tuple(map(float, value)) if name == "numbers" else tuple(value)
        elif type(value) is not wanted:
            raise ValueError(f"{source}: '{key}' must be {wanted.__name__}, got {value!r}")
        values[key] = value
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def read_options(cls: type[T], path: Path | None = None, default: str = "detect.toml") -> T:
    """Return the dataclass `cls` read from a TOML file, or from the file `default` of the package `configs`.

    Raises: OSError when the file cannot be read; ValueError for text that is not UTF-8, broken TOML, an unknown key or
    a wrong type.
    """
    source = str(path) if path else f"configs/{default}"
    try:
        table = tomllib.loads((path or files("configs").joinpath(default)).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: not valid TOML: {error}") from None
    return options_from(cls, table, source)
