"""Named models and their weights: what ships with the package, a file of the user's, or torchvision's download."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.networks.inception_v3 import INCEPTION_V3
from detector.networks.layers import Layer, convolutions

Array = npt.NDArray[np.float32]

NETWORKS: dict[str, tuple[Layer, ...]] = {"inception_v3": INCEPTION_V3}
DOWNLOADED = "torchvision_googlenet"  # the network that torchvision defines and fetches; torch runtime only


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
    about: str

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The network as data; raises ValueError for the one that only torchvision defines."""
        if self.network not in NETWORKS:
            raise ValueError(f"model '{self.name}' runs in torch only; add --runtime torch")
        return NETWORKS[self.network]

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour of missing context: the mean, zero after normalisation."""
        return (round(self.mean),) * 3


@dataclass(frozen=True)
class Weights:
    """The arrays of one network with batch norm folded in, 8-bit or float (scripts/inception_v3_from_tflite.py)."""

    arrays: Mapping[str, npt.NDArray[Any]]

    def kernel(self, name: str) -> Array:
        """Return the weights of convolution `name`: float32 [out, in, height, width]."""
        values = self.arrays[f"{name}.weight"]
        if values.dtype != np.uint8:
            return values.astype(np.float32)
        scale, zero = self.arrays[f"{name}.quantization"]
        return np.asarray((values.astype(np.float32) - zero) * scale, dtype=np.float32)

    def bias(self, name: str) -> Array:
        """Return the bias of convolution `name`: float32 [out]."""
        return self.arrays[f"{name}.bias"].astype(np.float32)

    def interval(self, name: str) -> tuple[float, float]:
        """Return the interval that the output of convolution `name` was quantized to in training."""
        low, high = self.arrays[f"{name}.range"]
        return float(low), float(high)

    @property
    def quantized(self) -> bool:
        """Whether the file holds what an 8-bit run needs."""
        return any(key.endswith(".range") for key in self.arrays)


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


def find_model(name: str) -> Model:
    """Return the model of that name, or the one in the weights file at that path.

    A weights file of the user's (.safetensors) names its network, crop size and normalisation in its metadata.
    Raises: FileNotFoundError when `name` is neither, ValueError when the file is not such a one.
    """
    if name in _models():
        model = _models()[name]
        if not model.file:
            return model
        return replace(model, file=str(files("detector").joinpath("models", model.file)))
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no model of that name and no file; known models: {', '.join(_models())}")
    metadata = _metadata(path)
    try:
        return Model(
            name=path.stem,
            network=metadata["network"],
            file=str(path),
            sha256="",
            size=int(metadata["size"]),
            mean=float(metadata["mean"]),
            scale=float(metadata["scale"]),
            sharpness=float(metadata.get("sharpness", "0")),
            about=str(path),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: its metadata must give network, size, mean and scale ({error} is missing or wrong); "
            "not a weights file of this project"
        ) from None


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fetch it again") from None


def load_weights(model: Model) -> Weights:
    """Return the weights of a model, read from its file and checked against its sha256 and its network's shapes.

    Raises: OSError when the file cannot be read; ValueError when it is damaged or does not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    layers = model.layers
    path = Path(model.file)
    content = path.read_bytes()
    if model.sha256 and hashlib.sha256(content).hexdigest() != model.sha256:
        raise ValueError(
            f"{path}: damaged or truncated (its sha256 is not the recorded one); install the package again"
        )
    try:
        arrays = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fetch it again") from None
    for conv in convolutions(layers):
        wanted = {"weight": (conv.outputs, conv.inputs, *conv.kernel), "bias": (conv.outputs,)}
        for part, shape in wanted.items():
            found = arrays.get(f"{conv.name}.{part}")
            if found is None or found.shape != shape:
                what = "is missing" if found is None else f"has shape {list(found.shape)}"
                raise ValueError(
                    f"{path}: {conv.name}.{part} {what}, {model.network} needs {list(shape)}; "
                    "the file belongs to another network"
                )
    return Weights(arrays)
