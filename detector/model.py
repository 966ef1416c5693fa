"""Named models and their weights: what ships with the package, a file of the user's, or torchvision's download."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from detector.classes import IMAGENET_CLASSES, det_names, folded_name
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import MIN_SIZE, inception_v3
from detector.networks.layers import Conv, Layer

Array = npt.NDArray[np.float32]
Outputs = Literal["imagenet", "det", "own"]
SOFTMAX, SVM = "softmax", "svm"  # what the last layer's outputs are turned into scores by
BOXES = "bbox"  # arrays of the box regression: bbox.weight [4 C, D], bbox.bias [4 C], rows class by class

NETWORKS = ("inception_v3", "googlenet")
MAX_SIZE = 640  # beyond it there is nothing to gain
TRAINED = "model.safetensors"  # what a run of detector.train writes into its folder
DOWNLOADED = "torchvision_googlenet"  # the network that torchvision defines and fetches; torch runtime only
# what the metadata of a weights file need not say
OPTIONAL = {
    "sharpness": "0",
    "classes": str(IMAGENET_CLASSES),
    "width": "1",
    "norm": "lrn",
    "class_names": "[]",
    "members": "1",
    "head": SOFTMAX,
}


@dataclass(frozen=True)
class Model:
    """What a runtime needs to know of a model: its network, where the weights lie, and what its input is."""

    name: str
    network: str
    file: str  # a path, or "" for torchvision's download
    sha256: str  # of the file; "" where nobody recorded it (a file of the user's)
    size: int  # side of the crops, pixels
    mean: float  # input = (pixel - mean) / scale
    scale: float
    sharpness: float  # softmax of sharpness x logits / their standard deviation; 0: of the logits as they are
    quantized: bool  # whether the file holds the intervals that an 8-bit run needs
    about: str
    classes: int = IMAGENET_CLASSES  # outputs of the network
    width: float = 1.0  # factor of GoogLeNet's channels
    norm: str = "lrn"  # GoogLeNet's: the paper's lrn, or batch (batch norm, folded in)
    class_names: tuple[str, ...] = ()  # of own classes: outputs 1.., output 0 being background
    members: int = 1  # Inception-v3 networks in the file that share their first layers, and whose scores are averaged
    member: int = -1  # only this one of them; -1: all
    head: str = SOFTMAX  # softmax, or svm: outputs 1.. are margins, and scores their sigmoids (R-CNN section 2.3)
    boxes: bool = False  # whether the file holds a box regression too (R-CNN appendix C)

    def __post_init__(self) -> None:
        where = self.file or self.name
        if self.network not in (*NETWORKS, DOWNLOADED):
            raise ValueError(f"{where}: unknown network '{self.network}'; there are {', '.join(NETWORKS)}")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ValueError(f"{where}: crops must have {MIN_SIZE}..{MAX_SIZE} px, not {self.size}")
        if not (0 <= self.mean <= 255 and 0 < self.scale < inf and 0 <= self.sharpness < inf):
            raise ValueError(
                f"{where}: mean must lie in 0..255, scale be above 0 and sharpness not below 0, "
                f"got {self.mean}, {self.scale} and {self.sharpness}"
            )
        if self.network != "googlenet" and (self.width, self.norm) != (1.0, "lrn"):
            raise ValueError(f"{where}: width and norm are GoogLeNet's; {self.network} has none of them")
        if self.network != "inception_v3" and self.members != 1:
            raise ValueError(f"{where}: only inception_v3 has members that share their first layers")
        if self.head not in (SOFTMAX, SVM):
            raise ValueError(f"{where}: head must be {SOFTMAX} or {SVM}, got '{self.head}'")
        if self.head == SVM and (self.sharpness or self.members != 1 or self.outputs == "imagenet"):
            raise ValueError(f"{where}: SVMs are of background and classes, in one network, with sharpness 0")
        if self.boxes and (self.members != 1 or self.outputs == "imagenet"):
            raise ValueError(f"{where}: a box regression is of detection classes, in one network")
        names = self.class_names
        if names and (len(names) != self.classes - 1 or len(set(names)) != len(names) or not all(names)):
            raise ValueError(
                f"{where}: {self.classes} outputs are background and {self.classes - 1} classes, each with a name of "
                f"its own; class_names has {len(set(names) - {''})} different ones"
            )
        if not names and self.classes != IMAGENET_CLASSES and self.classes != 1 + len(det_names()):
            raise ValueError(
                f"{where}: {self.classes} outputs are neither ImageNet's {IMAGENET_CLASSES} nor background and the "
                f"{len(det_names())} detection classes; name the others in class_names"
            )
        if len({folded_name(name) for name in names}) < len(names) or not all(name.isprintable() for name in names):
            raise ValueError(f"{where}: class names must differ by more than case, and hold no control characters")
        try:
            if self.network in NETWORKS:
                _ = self.layers
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The network as data; raises ValueError for the one that only torchvision defines."""
        match self.network:
            case "googlenet":
                return googlenet(self.classes, self.norm, self.width)
            case "inception_v3":
                return inception_v3(self.classes, self.members, self.member)
            case _:
                raise ValueError(f"model '{self.name}' runs in torch only; leave --runtime openvino out")

    @property
    def classifier(self) -> Conv:
        """The last layer; raises ValueError for networks that share their first layers, each of which has its own."""
        last = self.layers[-1]
        if not isinstance(last, Conv):
            raise ValueError(f"{self.file or self.name}: holds {self.members} networks, each with its own classifier")
        return last

    @property
    def outputs(self) -> Outputs:
        """What the network's outputs are.

        "imagenet": its 1,000 leaves, which are summed into background and the 200 detection classes; "det": background
        and these 200; "own": background and `class_names`.
        """
        if self.class_names:
            return "own"
        return "imagenet" if self.classes == IMAGENET_CLASSES else "det"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels 1.. of a detection with this network: columns 1.. of its scores."""
        return self.class_names or det_names()

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour of missing context: the mean, zero after normalisation."""
        return (round(self.mean),) * 3


@cache
def _models() -> Mapping[str, Model]:
    table = tomllib.loads(files("configs").joinpath("models.toml").read_text(encoding="utf-8"))
    return {name: Model(name=name, **entry) for name, entry in table.items()}


def model_names() -> tuple[str, ...]:
    """Return the names that `find_model` knows (configs/models.toml)."""
    return tuple(_models())


def describe_models() -> list[tuple[str, str]]:
    """Return (name, one line about it) of each named model."""
    return [(model.name, model.about) for model in _models().values()]


def split_size(name: str) -> tuple[str, int]:
    """Return the name and the crop size of NAME@SIZE; the size is 0 where none is given, or a file has that name."""
    base, _, side = name.rpartition("@")
    return (base, int(side)) if base and side.isdecimal() and not Path(name).is_file() else (name, 0)


def find_model(name: str) -> Model:
    """Return the model of that name, or the one in the weights file at that path; NAME@SIZE for crops of another size.

    A weights file of the user's (.safetensors) names its network, crop size and normalisation in its metadata.
    Raises: FileNotFoundError when `name` is neither, ValueError when the file is not such a one.
    """
    base, side = split_size(name)
    if side:
        return replace(find_model(base), size=side)
    if name in _models():
        model = _models()[name]
        if not model.file:
            return model
        return replace(model, file=str(files("detector").joinpath("models", model.file)))
    path = Path(name)
    if path.is_dir():
        path /= TRAINED
        if not path.is_file() and (Path(name) / "multibox.safetensors").is_file():
            raise ValueError(f"{name}: a run of learned proposals, not of a classifier; use --multibox {name}")
        if not path.is_file():
            raise FileNotFoundError(f"{name}: this folder has no {TRAINED}; a training run writes it when it ends")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no model of that name and no file; known models: {', '.join(_models())}")
    if path.suffix.lower() in (".pth", ".pt", ".ckpt"):
        raise ValueError(
            f"{path}: a torch checkpoint; weights of this project are .safetensors. torchvision's GoogLeNet is --model "
            f"{DOWNLOADED} (without a download where torch's hub folder holds the file)"
        )
    metadata, keys = _header(path)
    if "trunk" in metadata:
        raise ValueError(f"{path}: weights of learned proposals, not of a classifier; use --multibox {path}")
    missing = [key for key in ("size", "mean", "scale", "network") if key not in metadata]
    if missing:
        raise ValueError(f"{path}: its metadata lacks '{missing[0]}'; not a weights file of this project")
    fields = OPTIONAL | metadata
    if fields["network"] not in NETWORKS:
        raise ValueError(f"{path}: unknown network '{fields['network']}'; there are {', '.join(NETWORKS)}")
    try:
        size, classes, members = (int(fields[key]) for key in ("size", "classes", "members"))
        mean, scale, sharpness, width = (float(fields[key]) for key in ("mean", "scale", "sharpness", "width"))
    except ValueError as error:
        raise ValueError(f"{path}: a number of its metadata is none ({error})") from None
    return Model(
        name=path.stem,
        network=fields["network"],
        file=str(path),
        sha256="",
        size=size,
        mean=mean,
        scale=scale,
        sharpness=sharpness,
        quantized=any(key.endswith(".range") for key in keys),
        about=str(path),
        classes=classes,
        width=width,
        norm=fields["norm"],
        class_names=_names(path, fields["class_names"]),
        members=members,
        head=fields["head"],
        boxes=f"{BOXES}.weight" in keys,
    )


def _names(path: Path, text: str) -> tuple[str, ...]:
    """Return the class names of a file's metadata, a JSON list of texts."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: class_names of its metadata must be a JSON list of names")
    return tuple(names)


def _header(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the metadata and the names of the arrays of a weights file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {}), list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fetch it again") from None


def file_digest(model: Model) -> str:
    """Return the sha256 of the model's file; raise OSError when it cannot be read."""
    with Path(model.file).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
