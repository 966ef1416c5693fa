"""What a model is: its network, input and outputs, as the metadata of its weights file says; and the named ones."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from detector.classes import IMAGENET_CLASSES, check_class_names, det_names
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


def _names(text: str) -> tuple[str, ...]:
    """Return the texts of a JSON list."""
    try:
        names = json.loads(text)
    except RecursionError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError
    return tuple(names)


# of a field of `Spec`, by its annotation: how it is read from a text, and what the text must be
KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "tuple[str, ...]": (_names, "a JSON list of names"),
}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What the metadata of a weights file says of its network. A field that is added here is written and read too."""

    network: str
    size: int  # side of the crops, pixels
    mean: float  # input = (pixel - mean) / scale
    scale: float
    sharpness: float = 0.0  # softmax of sharpness x logits / their standard deviation; 0: of the logits as they are
    classes: int = IMAGENET_CLASSES  # outputs of the network
    width: float = 1.0  # factor of GoogLeNet's channels
    norm: str = "lrn"  # GoogLeNet's: the paper's lrn, or batch (batch norm, folded in)
    class_names: tuple[str, ...] = ()  # of own classes: outputs 1.., output 0 being background
    members: int = 1  # Inception-v3 networks in the file that share their first layers, and whose scores are averaged
    head: str = SOFTMAX  # softmax, or svm: outputs 1.. are margins, and scores their sigmoids (R-CNN section 2.3)
    cascade: float = 0.0  # background score from which others of an ensemble need not be asked, measured; 0: never

    def __post_init__(self) -> None:
        if self.network not in (*NETWORKS, DOWNLOADED):
            raise ValueError(f"unknown network '{self.network}'; there are {', '.join(NETWORKS)}")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ValueError(f"crops must have {MIN_SIZE}..{MAX_SIZE} px, not {self.size}")
        if not (0 <= self.mean <= 255 and 0 < self.scale < inf and 0 <= self.sharpness < inf):
            raise ValueError(
                "mean must lie in 0..255, scale be above 0 and sharpness not below 0, "
                f"got {self.mean}, {self.scale} and {self.sharpness}"
            )
        if self.network != "googlenet" and (self.width, self.norm) != (1.0, "lrn"):
            raise ValueError(f"width and norm are GoogLeNet's; {self.network} has none of them")
        if self.network != "inception_v3" and self.members != 1:
            raise ValueError("only inception_v3 has members that share their first layers")
        if self.head not in (SOFTMAX, SVM):
            raise ValueError(f"head must be {SOFTMAX} or {SVM}, got '{self.head}'")
        if self.head == SVM and (self.sharpness or self.members != 1 or self.outputs == "imagenet"):
            raise ValueError("SVMs are of background and classes, in one network, with sharpness 0")
        if not 0 <= self.cascade <= 1:
            raise ValueError(f"cascade must lie in 0..1, got {self.cascade}")
        self._check_names()

    def _check_names(self) -> None:
        """Raise ValueError unless each output has a name, and no two names are alike."""
        names = self.class_names
        if names and (len(names) != self.classes - 1 or len(set(names)) != len(names) or not all(names)):
            raise ValueError(
                f"{self.classes} outputs are background and {self.classes - 1} classes, each with a name of "
                f"its own; class_names has {len(set(names) - {''})} different ones"
            )
        if not names and self.classes != IMAGENET_CLASSES and self.classes != 1 + len(det_names()):
            raise ValueError(
                f"{self.classes} outputs are neither ImageNet's {IMAGENET_CLASSES} nor background and the "
                f"{len(det_names())} detection classes; name the others in class_names"
            )
        check_class_names(names)

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
    def knows_background(self) -> bool:
        """Whether it was trained with background. One of ImageNet's classes was not: it counts other leaves as that."""
        return self.outputs != "imagenet"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels 1.. of a detection with this network: columns 1.. of its scores."""
        return self.class_names or det_names()

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour of missing context: the mean, zero after normalisation."""
        return (round(self.mean),) * 3

    def to_metadata(self) -> dict[str, str]:
        """Return what a weights file says of the network; `from_metadata` reads it."""
        values = {item.name: getattr(self, item.name) for item in fields(Spec)}
        return {name: json.dumps(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> Spec:
        """Return what the metadata of a weights file say; keys that are no field are left alone. Raises: ValueError."""
        values: dict[str, Any] = {}
        for name, kind in ((item.name, str(item.type)) for item in fields(Spec)):
            if name in metadata:
                read, what = KINDS[kind]
                try:
                    values[name] = read(metadata[name])
                except ValueError:
                    raise ValueError(f"{name} of its metadata is '{metadata[name]}', not {what}") from None
        missing = [name for name in ("size", "mean", "scale", "network") if name not in values]
        if missing:
            raise ValueError(f"its metadata lacks '{missing[0]}'; not a weights file of this project")
        if values["network"] not in NETWORKS:
            raise ValueError(f"unknown network '{values['network']}'; there are {', '.join(NETWORKS)}")
        return Spec(**values)


@dataclass(frozen=True, kw_only=True)
class Model(Spec):
    """A network with its weights: what a runtime needs to know."""

    name: str
    file: str  # a path, or "" for torchvision's download
    sha256: str = ""  # of the file; "" where it is not recorded (a file of the user's)
    about: str = ""
    quantized: bool = False  # whether the file holds the intervals that an 8-bit run needs
    has_box_regression: bool = False  # whether the file holds one too (R-CNN appendix C)
    member: int = -1  # only this one of several networks in the file; -1: all
    votes: float = field(default=0.0, repr=False)  # that it has in an ensemble; 0: one for each of its networks

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
            if self.has_box_regression and (self.members != 1 or self.outputs == "imagenet"):
                raise ValueError("a box regression is of detection classes, in one network")
            if not 0 <= self.votes < inf:
                raise ValueError(f"votes must be a number above 0, got {self.votes}")
            if self.network in NETWORKS:
                _ = self.layers
        except ValueError as error:
            raise ValueError(f"{self.file or self.name}: {error}") from None

    @staticmethod
    def of_file(path: Path, spec: Spec, arrays: Collection[str]) -> Model:
        """Return the model in the weights file at `path`, which holds `arrays` of these names. Raises: ValueError."""
        return Model(
            **{item.name: getattr(spec, item.name) for item in fields(Spec)},
            name=path.stem,
            file=str(path),
            about=str(path),
            quantized=any(key.endswith(".range") for key in arrays),
            has_box_regression=f"{BOXES}.weight" in arrays,
        )

    @property
    def weight(self) -> float:
        """Its votes in an ensemble: one for each network whose mean its scores are, unless others are given."""
        return self.votes or (self.members if self.member < 0 else 1)

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


class ModelName(NamedTuple):
    """NAME[@SIZE][=VOTES] in its parts; 0 where one is not given."""

    base: str
    size: int
    votes: float


def split_name(name: str) -> ModelName:
    """Return the parts of a model's name; the name of a file that is there is whole."""
    if Path(name).is_file():
        return ModelName(name, 0, 0.0)
    rest, _, number = name.rpartition("=")
    try:
        votes = float(number) if rest else 0.0
    except ValueError:
        votes = 0.0
    rest = rest if votes else name
    base, _, side = rest.rpartition("@")
    if base and side.isdecimal() and not Path(rest).is_file():
        return ModelName(base, int(side), votes)
    return ModelName(rest, 0, votes)


def find_model(name: str) -> Model:
    """Return the model of that name, or the one in the weights file at that path.

    NAME@SIZE is for crops of another size; NAME=VOTES for an ensemble, in which one network has one vote.
    A weights file of the user's (.safetensors) names its network, crop size and normalisation in its metadata.
    Raises: FileNotFoundError when `name` is neither, ValueError when the file is not such a one.
    """
    base, side, votes = split_name(name)
    if side or votes:
        model = find_model(base)
        return replace(model, size=side or model.size, votes=votes)
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
    try:
        spec = Spec.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Model.of_file(path, spec, keys)


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
    return digest_of(Path(model.file))


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, which is computed once as long as the file stays the same. Raises: OSError."""
    state = path.stat()
    return _digest(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
