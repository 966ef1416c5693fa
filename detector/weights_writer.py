"""Weights files of this project, as `detector.model` reads them: written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.classes import IMAGENET_CLASSES
from detector.model import BOXES, OPTIONAL, SOFTMAX, Model
from detector.weights import check_arrays
from proposals.files import write_bytes_atomic


def save_weights(
    path: str | Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    network: str,
    size: int,
    mean: float,
    scale: float,
    sharpness: float = 0.0,
    classes: int = IMAGENET_CLASSES,
    width: float = 1.0,
    norm: str = "lrn",
    class_names: tuple[str, ...] = (),
    members: int = 1,
    head: str = SOFTMAX,
) -> Model:
    """Write a weights file that `find_model` takes, whole or not at all; return its model.

    arrays: NAME.weight [out, in, height, width] and NAME.bias [out] of each convolution, float32 or float16, batch
    norm folded in, and where there is a box regression bbox.weight and bbox.bias; the other arguments as the fields of
    `Model`. Raises: ValueError, before anything is written, for arrays that do not fit the network; OSError when the
    file cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    quantized = any(key.endswith(".range") for key in arrays)
    model = Model(
        name=path.stem,
        network=network,
        file=str(path),
        sha256="",
        size=size,
        mean=mean,
        scale=scale,
        sharpness=sharpness,
        quantized=quantized,
        about=str(path),
        classes=classes,
        width=width,
        norm=norm,
        class_names=class_names,
        members=members,
        head=head,
        boxes=f"{BOXES}.weight" in arrays,
    )
    check_arrays(model, arrays)
    content = save({key: np.ascontiguousarray(value) for key, value in arrays.items()}, model_metadata(model))
    write_bytes_atomic(path, sorted_metadata(content))
    return model


def model_metadata(model: Model) -> dict[str, str]:
    """Return what a weights file says of its model; `find_model` reads it."""
    fields = {key: str(getattr(model, key)) for key in ("network", "size", "mean", "scale", *OPTIONAL)}
    return fields | {"class_names": json.dumps(model.class_names)}


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
