"""MultiBox at work: a picture through the trunk and the heads, once, to 200 learned proposals (section 8).

The weights file holds the heads and names the classifier whose first layers are the trunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detector.model import Model, file_digest, find_model, model_names
from detector.networks.layers import cut_after
from detector.weights import sorted_metadata
from proposals.files import write_bytes_atomic
from proposals.images import Image, check_image
from proposals.multibox.decoding import WHOLE, decode_proposals, from_crop, merge_passes, unmirrored
from proposals.types import Proposals

MULTIBOX_FILE = "multibox.safetensors"  # in a run folder, and in the package
SHIPPED_SHA256 = "530cd08129073c9fc96a11358e4c465f10b1bc111c0391c9beebc5090bd9572a"
KEYS = ("trunk", "trunk_sha256", "frozen", "size")
LAYERS = ("reduce", "hidden", "locations", "confidences")
ARRAYS = ("priors", *(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")))
GRID_LAYERS = ("fine_reduce", "fine_mixed", "fine_outputs", "coarse_reduce", "coarse_mixed", "coarse_outputs")
SHAPES = ("fine_shapes", "coarse_shapes")
GRID_ARRAYS = (*SHAPES, *(f"{layer}.{kind}" for layer in GRID_LAYERS for kind in ("weight", "bias")))


@dataclass(frozen=True, eq=False)
class MultiBoxWeights:
    """trunk: the model whose first layers, up to `frozen`, come before the heads; arrays: the heads' and the priors.

    fine: the layer whose features the fine one of two grids has; "" for heads over the whole picture.
    """

    file: str
    trunk: Model
    frozen: str
    arrays: Mapping[str, npt.NDArray[np.float32]]
    fine: str = ""

    @property
    def cut(self) -> int | tuple[int, int]:
        """Return how many layers of the trunk come before the heads, or each of two grids. Raises: ValueError."""
        last = cut_after(self.trunk.layers, self.frozen)
        if not self.fine:
            return last
        first = cut_after(self.trunk.layers, self.fine)
        if first >= last:
            raise ValueError(f"{self.file}: layer '{self.fine}' of the fine grid does not come before '{self.frozen}'")
        return first, last


def save_multibox(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], trunk: Model, frozen: str, fine: str = ""
) -> None:
    """Write the heads in float16, priors and shapes in float32, whole or not at all. Raises: OSError."""
    from safetensors.numpy import save

    stored = {
        name: np.ascontiguousarray(array if name in ("priors", *SHAPES) else array.astype(np.float16))
        for name, array in arrays.items()
    }
    shipped = trunk.name in model_names() and find_model(trunk.name).file == trunk.file
    metadata = {
        "trunk": trunk.name if shipped else str(Path(trunk.file).resolve()),
        "trunk_sha256": file_digest(trunk),
        "frozen": frozen,
        "size": str(trunk.size),
    }
    if fine:
        metadata["fine"] = fine
    write_bytes_atomic(path, sorted_metadata(save(stored, metadata)))


def shipped_multibox() -> Path | None:
    """Return the path of the weights that ship with the package, None where there are none."""
    path = Path(str(files("detector").joinpath("models", MULTIBOX_FILE)))
    return path if path.is_file() else None


def multibox_digest(path: str) -> str:
    """Return the sha256 of the weights in a file or run folder, "" for those that ship; raise OSError, ValueError."""
    file = Path(path) if path else shipped_multibox()
    if file is None:
        raise ValueError("no MultiBox weights are installed; use --proposals ss")
    file = file / MULTIBOX_FILE if file.is_dir() else file
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_multibox(path: str | Path) -> MultiBoxWeights:
    """Return the weights in a file, or in a run folder. Raises: OSError; ValueError for a damaged or unfitting file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    path = path / MULTIBOX_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; python -m detector.train multibox makes one")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in names}
        if path == shipped_multibox() and multibox_digest(str(path)) != SHIPPED_SHA256:
            raise ValueError(f"{path}: is not the file that ships (sha256); install the package again")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fetch it again") from None
    wanted = GRID_ARRAYS if metadata.get("fine") else ARRAYS
    missing = [key for key in KEYS if key not in metadata] + [name for name in wanted if name not in arrays]
    if missing:
        raise ValueError(f"{path}: lacks '{missing[0]}'; not a weights file of MultiBox")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path}: has a value that is not a finite number; train it again")
    (_check_grid_shapes if metadata.get("fine") else _check_shapes)(path, arrays)
    if not metadata["size"].isdecimal():
        raise ValueError(f"{path}: the size of its metadata is no number; train it again")
    trunk = replace(find_model(metadata["trunk"]), size=int(metadata["size"]))
    if file_digest(trunk) != metadata["trunk_sha256"]:
        raise ValueError(f"{path}: was trained on another {metadata['trunk']}; train it again, or take that file")
    return MultiBoxWeights(str(path), trunk, metadata["frozen"], arrays, metadata.get("fine", ""))


def _check_shapes(path: Path, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Raise ValueError where the arrays of a file are not those of one network."""
    count, reduced, hidden = (len(arrays[name]) for name in ("priors", "reduce.bias", "hidden.bias"))
    wanted: dict[str, tuple[int, ...]] = {
        "priors": (count, 4),
        "reduce.weight": (reduced, *arrays["reduce.weight"].shape[1:2], 1, 1),
        "hidden.weight": (hidden, *arrays["hidden.weight"].shape[1:2]),
        "locations.weight": (4 * count, hidden),
        "locations.bias": (4 * count,),
        "confidences.weight": (count, hidden),
        "confidences.bias": (count,),
    }
    _compare_shapes(path, arrays, wanted)


def _check_grid_shapes(path: Path, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Raise ValueError where the arrays of a file are not those of one network on two grids."""
    wanted: dict[str, tuple[int, ...]] = {}
    for grid in ("fine", "coarse"):
        reduced, mixed = (len(arrays[f"{layer}.bias"]) for layer in ("fine_reduce", f"{grid}_mixed"))
        count = len(arrays[f"{grid}_shapes"])
        wanted |= {
            f"{grid}_shapes": (count, 2),
            f"{grid}_reduce.weight": (reduced, *arrays[f"{grid}_reduce.weight"].shape[1:2], 1, 1),
            f"{grid}_reduce.bias": (reduced,),
            f"{grid}_mixed.weight": (mixed, reduced, 3, 3),
            f"{grid}_outputs.weight": (5 * count, mixed, 1, 1),
            f"{grid}_outputs.bias": (5 * count,),
        }
    _compare_shapes(path, arrays, wanted)


def _compare_shapes(
    path: Path, arrays: Mapping[str, npt.NDArray[np.float32]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {list(arrays[name].shape)}, not {list(shape)}; train it again")


class MultiBox:
    """The learned proposals of pictures, through OpenVINO on the CPU."""

    def __init__(
        self, weights: MultiBoxWeights, precision: str = "auto", top: int = WHOLE, mirror: bool = False
    ) -> None:
        """top: boxes a picture; mirror: a second pass over the mirrored picture, at twice the cost.

        precision: of the trunk: auto, f32, bf16 or int8. Raises: ValueError for weights that do not fit each other.
        """
        from detector.runtimes.multibox_runtime import MultiBoxNetwork

        self.weights, self.top, self.mirror = weights, top, mirror
        self._network = MultiBoxNetwork(weights.trunk, weights.cut, weights.arrays, precision)

    def __call__(self, image: Image) -> Proposals:
        """Return the best proposals of `image` (uint8 RGB [H, W, 3]), in falling order of confidence."""
        check_image(image)
        height, width = image.shape[:2]
        size = self.weights.trunk.size
        smaller = width > size and height > size
        square = np.empty((size, size, 3), np.uint8)
        cv2.resize(image, (size, size), square, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        passes = [self._proposed(square, width, height)]
        if self.mirror:
            found = self._proposed(np.ascontiguousarray(square[:, ::-1]), width, height)
            passes.append(Proposals(unmirrored(found.boxes, width), found.scores, found.sources))
        return passes[0] if len(passes) == 1 else merge_passes(passes, self.top, self._network.nms)

    def _proposed(self, square: Image, width: int, height: int) -> Proposals:
        locations, logits = self._network(square)
        n = self._network
        return decode_proposals(locations, logits, n.priors, width, height, self.top, n.nms, n.deviation)

    def describe(self) -> str:
        """Return in one line what runs where."""
        passes = "2 passes" if self.mirror else "1 pass"
        name = "" if Path(self.weights.file) == shipped_multibox() else f" {self.weights.file}"
        where = f"{passes} at {self.weights.trunk.size} px, OpenVINO on the CPU, {self._network.precision}"
        return f"MultiBox{name} ({self.top} boxes, {where})"


def sub_crops(multibox: MultiBox, image: Image, windows: list[tuple[int, int, int, int]]) -> list[Proposals]:
    """Return the proposals of windows (x1, y1, x2, y2) of a picture, in its pixels: a pass each."""
    found = []
    for window in windows:
        x1, y1, x2, y2 = window
        inner = multibox(np.ascontiguousarray(image[y1:y2, x1:x2]))
        found.append(Proposals(from_crop(inner.boxes, np.array(window, np.float32)), inner.scores, inner.sources))
    return found
