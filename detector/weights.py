"""A network's weights file: read, checked against its sha256 and its layers' shapes, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.model import BOXES, Array, Model, Spec, digest_of
from detector.networks.layers import convolutions
from proposals.files import write_bytes_atomic


@dataclass(frozen=True)
class Weights:
    """The arrays of one network with batch norm folded in, 8-bit or float (scripts/inception_v3_from_tflite.py)."""

    arrays: Mapping[str, npt.NDArray[Any]]

    def kernel(self, name: str) -> Array:
        """Return the weights of convolution `name`: float32 [out, in, height, width]."""
        values = self.arrays[f"{name}.weight"]
        if values.dtype == np.int8:
            return values * self.arrays[f"{name}.scale"].astype(np.float32)[:, None, None, None]
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


def load_weights(model: Model) -> Weights:
    """Return the weights of a model, read from its file and checked against its sha256 and its network's shapes.

    A file is read once for all models that are loaded from it one after another; `forget` lets it go.
    Raises: OSError when the file cannot be read; ValueError when it is damaged or does not fit the network.
    """
    _ = model.layers  # raises for a network that has no weights file
    path = Path(model.file)
    digest = digest_of(path)
    if model.sha256 and digest != model.sha256:
        raise ValueError(
            f"{path}: damaged or truncated (its sha256 is not the recorded one); install the package again"
        )
    arrays = _arrays(path, digest)
    check_arrays(model, arrays)
    return Weights(arrays)


@lru_cache(maxsize=2)
def _arrays(path: Path, digest: str) -> Mapping[str, npt.NDArray[Any]]:
    """Return the arrays of a file; `digest`: another one is another file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fetch it again") from None
    except KeyError as error:  # numpy has no such type
        raise ValueError(f"{path}: holds arrays of type {error}; save them as float32 or float16") from None
    for array in arrays.values():
        array.flags.writeable = False
    return MappingProxyType(arrays)


def forget() -> None:
    """Let go of the files that `load_weights` keeps for the next model."""
    _arrays.cache_clear()


def check_arrays(model: Model, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ValueError, naming the file and the array, unless `arrays` are those that the network needs."""
    for conv in convolutions(model.layers):
        wanted: dict[str, tuple[int, ...]] = {
            "weight": (conv.outputs, conv.inputs, *conv.kernel),
            "bias": (conv.outputs,),
        }
        stored = arrays.get(f"{conv.name}.weight")
        if stored is not None and stored.dtype == np.uint8:
            wanted["quantization"] = (2,)
        if stored is not None and stored.dtype == np.int8:
            wanted["scale"] = (conv.outputs,)
        if model.quantized and conv.relu:
            wanted["range"] = (2,)
        for part, shape in wanted.items():
            _check(model, f"{conv.name}.{part}", arrays.get(f"{conv.name}.{part}"), shape)
    if model.has_box_regression:
        moves = 4 * (model.classes - 1)
        for part, shape in (("weight", (moves, model.classifier.inputs)), ("bias", (moves,))):
            _check(model, f"{BOXES}.{part}", arrays.get(f"{BOXES}.{part}"), shape)


def _check(model: Model, name: str, found: npt.NDArray[np.generic] | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the array `name` is there, of that shape and finite; an interval must not be empty."""
    path = model.file
    if found is None or found.shape != shape:
        what = "is missing" if found is None else f"has shape {list(found.shape)}"
        variant = f" of width {model.width:g} and {model.classes} outputs" if model.network == "googlenet" else ""
        raise ValueError(
            f"{path}: {name} {what}, {model.network}{variant} needs {list(shape)}; the file belongs to another "
            "network, or its metadata names other classes or another width than it has"
        )
    if found.dtype not in (np.float16, np.float32, np.uint8, np.int8):
        raise ValueError(f"{path}: {name} holds {found.dtype}; save it as float32 or float16")
    if not np.isfinite(found.astype(np.float32)).all():
        raise ValueError(f"{path}: {name} has a value that is not a finite number; train or convert it again")
    if name.endswith(".range") and not found[0] < found[1]:
        raise ValueError(f"{path}: {name} is an empty interval; train or convert it again")


def save_weights(path: str | Path, arrays: Mapping[str, npt.NDArray[Any]], spec: Spec) -> Model:
    """Write a weights file that `find_model` takes, whole or not at all; return its model.

    arrays: NAME.weight [out, in, height, width] and NAME.bias [out] of each convolution, float32 or float16, batch
    norm folded in, and where there is a box regression bbox.weight and bbox.bias. Raises: ValueError, before anything
    is written, for arrays that do not fit the network; OSError when the file cannot be written.
    """
    model = Model.of_file(Path(path), spec, arrays)
    check_arrays(model, arrays)
    write_bytes_atomic(Path(path), file_bytes(arrays, spec.to_metadata()))
    return model


def file_bytes(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file. The same arrays and metadata give the same bytes."""
    from safetensors.numpy import save

    return sorted_metadata(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}, dict(metadata)))


def sorted_metadata(content: bytes) -> bytes:
    """Return a safetensors file with its metadata in alphabetical order; the package writes them in any order.

    So the same arrays and metadata give the same bytes.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
