"""MultiBox at work: an image through the trunk and the heads, once, to 200 learned proposals (section 8).

The weights file holds the heads, and names the classifier whose first layers are the trunk.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from detector.model import Model, file_digest, find_model, model_names
from detector.networks.layers import cost, cut_after
from detector.weights import sorted_metadata
from proposals.boxes import Boxes, Floats
from proposals.files import write_bytes_atomic
from proposals.images import Image, check_image
from proposals.merging import objectness
from proposals.multibox.decode import TOP, decode_proposals
from proposals.multibox.priors import grid_priors
from proposals.types import Proposals

if TYPE_CHECKING:
    from detector.runtimes.multibox import MultiBoxNetwork
    from proposals.proposer import Key

ALGORITHM = 1  # to be raised whenever the same weights give other boxes
MULTIBOX_FILE = "multibox.safetensors"  # in a run folder, and in the package
SHIPPED_SHA256 = "530cd08129073c9fc96a11358e4c465f10b1bc111c0391c9beebc5090bd9572a"
KEYS = ("trunk", "trunk_sha256", "frozen", "fine", "size")
GRIDS = ("fine", "coarse")
LAYERS = tuple(f"{grid}_{layer}" for grid in GRIDS for layer in ("reduce", "mixed", "outputs"))
SHAPES = tuple(f"{grid}_shapes" for grid in GRIDS)
ARRAYS = (*SHAPES, *(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")))

Arrays = Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class MultiBoxWeights:
    """trunk: the model whose first layers come before the heads: those up to `fine` for the fine grid, those up to
    `frozen` for the coarse one; arrays: of the heads; sha256: of the file, and of the trunk's.
    """

    file: str
    trunk: Model
    frozen: str
    fine: str
    arrays: Arrays
    sha256: str = ""
    trunk_sha256: str = ""

    @property
    def cuts(self) -> tuple[int, int]:
        """Return how many layers of the trunk come before each of the two grids. Raises: ValueError."""
        first, last = (cut_after(self.trunk.layers, name) for name in (self.fine, self.frozen))
        if first >= last:
            raise ValueError(f"{self.file}: layer '{self.fine}' of the fine grid does not come before '{self.frozen}'")
        return first, last


def save_multibox(path: Path, arrays: Mapping[str, npt.NDArray[Any]], trunk: Model, frozen: str, fine: str) -> None:
    """Write the heads in float16, the shapes of the priors in float32, whole or not at all. Raises: OSError."""
    from safetensors.numpy import save

    stored = {
        name: np.ascontiguousarray(array if name in SHAPES else array.astype(np.float16))
        for name, array in arrays.items()
    }
    shipped = trunk.name in model_names() and find_model(trunk.name).file == trunk.file
    metadata = {
        "trunk": trunk.name if shipped else str(Path(trunk.file).resolve()),
        "trunk_sha256": file_digest(trunk),
        "frozen": frozen,
        "fine": fine,
        "size": str(trunk.size),
    }
    write_bytes_atomic(path, sorted_metadata(save(stored, metadata)))


def shipped_multibox() -> Path | None:
    """Return the path of the weights that ship with the package, None where there are none."""
    path = Path(str(files("detector").joinpath("models", MULTIBOX_FILE)))
    return path if path.is_file() else None


def load_multibox(path: str | Path = "") -> MultiBoxWeights:
    """Return the weights in a file or in a run folder, "" for those that ship.

    Raises: OSError; ValueError for a damaged or unfitting file, or where none ship.
    """
    file = Path(path) if str(path) else shipped_multibox()
    if file is None:
        raise ValueError("no MultiBox weights are installed; use --proposals ss")
    file = file / MULTIBOX_FILE if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; python -m detector.train multibox makes one")
    state = file.stat()
    return _load(file, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1)  # eval.map asks for the digest before the detector takes the weights
def _load(path: Path, changed: int, size: int) -> MultiBoxWeights:
    """Return the weights in the file `path`, of this time of change and size."""
    from safetensors import SafetensorError, safe_open

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path == shipped_multibox() and digest != SHIPPED_SHA256:
        raise ValueError(f"{path}: is not the file that ships (sha256); install the package again")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in list(file.keys())}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one ({error}); fetch it again") from None
    missing = [key for key in KEYS if not metadata.get(key)] + [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"{path}: lacks '{missing[0]}'; not a weights file of MultiBox")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path}: has a value that is not a finite number; train it again")
    _check_shapes(path, arrays)
    if not metadata["size"].isdecimal():
        raise ValueError(f"{path}: the size of its metadata is no number; train it again")
    trunk = replace(find_model(metadata["trunk"]), size=int(metadata["size"]))
    if file_digest(trunk) != metadata["trunk_sha256"]:
        raise ValueError(f"{path}: was trained on another {metadata['trunk']}; train it again, or take that file")
    return MultiBoxWeights(
        str(path), trunk, metadata["frozen"], metadata["fine"], arrays, digest, metadata["trunk_sha256"]
    )


def _check_shapes(path: Path, arrays: Arrays) -> None:
    """Raise ValueError where the arrays of a file are not those of one network."""
    for grid in GRIDS:
        reduced, mixed = (len(arrays[f"{layer}.bias"]) for layer in ("fine_reduce", f"{grid}_mixed"))
        count = len(arrays[f"{grid}_shapes"])
        wanted: dict[str, tuple[int, ...]] = {
            f"{grid}_shapes": (count, 2),
            f"{grid}_reduce.weight": (reduced, *arrays[f"{grid}_reduce.weight"].shape[1:2], 1, 1),
            f"{grid}_reduce.bias": (reduced,),
            f"{grid}_mixed.weight": (mixed, reduced, 3, 3),
            f"{grid}_outputs.weight": (5 * count, mixed, 1, 1),
            f"{grid}_outputs.bias": (5 * count,),
        }
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ValueError(
                    f"{path}: {name} has shape {list(arrays[name].shape)}, not {list(shape)}; train it again"
                )


class MultiBox:
    """The learned proposals of images, through OpenVINO on the CPU: a `Proposer`. Threads take turns."""

    def __init__(self, weights: MultiBoxWeights, precision: str = "auto", top: int = TOP, threads: int = 0) -> None:
        """top: boxes of an image; threads: that work on one, 0 for as many as there are cores.

        precision: of the trunk: auto, f32, bf16 or int8. The network is compiled with the first image.
        Raises: ValueError for heads of another trunk or size, or a precision that the trunk has not.
        """
        from detector.runtimes.openvino import checked_precision

        self.weights, self.top, self.threads = weights, top, threads
        self.precision = checked_precision(weights.trunk, precision)
        self.priors = _priors(weights)
        self._network: MultiBoxNetwork | None = None
        self._turn = threading.Lock()

    @property
    def key(self) -> Key:
        return {
            "multibox": ALGORITHM,
            "multibox_sha256": self.weights.sha256,
            "multibox_boxes": self.top,
            "multibox_precision": self.precision,
        }

    def __call__(self, image: Image, path: Path | None = None) -> Proposals:
        """Return the best proposals of `image` (uint8 RGB [H, W, 3]), in falling order of confidence."""
        check_image(image)
        height, width = image.shape[:2]
        locations, logits = self.predict(stretched(image, self.weights.trunk.size))
        found = decode_proposals(locations, logits, self.priors, width, height, self.top)
        return replace(found, objectness=objectness(found.boxes, found))

    def prepare(self) -> None:
        """Compile the network, or fetch it compiled from the cache; an error comes with the first image."""
        with suppress(OSError, ValueError, RuntimeError):
            self._load()

    def _load(self) -> None:
        from detector.runtimes.multibox import MultiBoxNetwork

        with self._turn:
            if self._network is None:
                self._network = MultiBoxNetwork(self.weights, self.precision, self.threads)

    def predict(self, square: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return the residuals [K, 4] and logits [K] of an image stretched to the trunk's size, uint8 [S, S, 3]."""
        self._load()
        assert self._network is not None
        with self._turn:
            return self._network(square)

    def describe(self) -> str:
        """Return in one line what runs where."""
        name = "" if Path(self.weights.file) == shipped_multibox() else f" {self.weights.file}"
        where = f"{self.weights.trunk.size} px, OpenVINO on the CPU, {self.precision}"
        return f"MultiBox{name} ({self.top} boxes, {where})"

    def __reduce__(self) -> tuple[type[MultiBox], tuple[MultiBoxWeights, str, int, int]]:
        return MultiBox, (self.weights, self.precision, self.top, self.threads)


def stretched(image: Image, size: int) -> Image:
    """Return the image as a square of `size` pixels."""
    height, width = image.shape[:2]
    square = np.empty((size, size, 3), np.uint8)
    smaller = width > size and height > size
    cv2.resize(image, (size, size), square, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return square


def _priors(weights: MultiBoxWeights) -> Boxes:
    """Return the priors on the cells of both grids. Raises: ValueError for heads of other layers than the trunk's."""
    grids: list[tuple[int, int]] = []
    for grid, cut in zip(GRIDS, weights.cuts, strict=True):
        shape = cost(weights.trunk.layers[:cut], (3, weights.trunk.size, weights.trunk.size)).output
        channels = weights.arrays[f"{grid}_reduce.weight"].shape[1]
        if shape[0] != channels:
            raise ValueError(f"{weights.file}: the heads take {grid} features of {channels} channels, got {shape[0]}")
        grids.append((shape[1], shape[2]))
    return grid_priors(grids, [weights.arrays[name] for name in SHAPES])
