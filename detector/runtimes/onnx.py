"""Classifiers of others in ONNX files, as teachers and to be measured; runs where onnxruntime is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detector.classes import IMAGENET_CLASSES, leaf_matrix
from detector.runtimes.base import DET, IMAGENET, Crops, Scores

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # torchvision's, on 0..255
SIZE = 224  # crops of a file that takes any size


@dataclass(frozen=True)
class OnnxModel:
    """The file, and the side of the crops that it takes; `fixed`: it takes no other; weight: its votes."""

    name: str
    size: int
    fixed: bool
    weight: float = 1.0


class OnnxClassifier:
    """A network with ImageNet's 1,000 classes in an .onnx file: crops uint8 [N, S, S, 3] in, scores out.

    The file is one of `detector.export` (uint8 crops in, scores out), or takes float32 NCHW normalised as torchvision
    does and gives logits, as an export of torchvision's or timm's networks.
    """

    def __init__(self, path: Path, size: int = 0, batch_size: int = 64, classes: str = IMAGENET) -> None:
        """Open the file; size: of the crops, 0 for the file's own, or 224 where it takes any; classes: imagenet or det.

        Raises: FileNotFoundError; ValueError where onnxruntime is missing, or the file is no such network.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            import onnxruntime
        except ImportError:
            raise ValueError(f"{path}: needs the package onnxruntime (pip install onnxruntime)") from None
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
        except Exception as error:  # its own kinds, one for each way a file can be wrong
            raise ValueError(f"{path}: onnxruntime cannot read it ({str(error).splitlines()[0]})") from None
        sources = self._session.get_inputs()
        source = sources[0]
        self._whole = source.type == "tensor(uint8)"
        if len(sources) != 1 or len(source.shape) != 4 or source.type not in ("tensor(uint8)", "tensor(float)"):
            raise ValueError(f"{path}: must take one array of images, uint8 NHWC or float32 NCHW")
        batch, side = source.shape[0], source.shape[1 if self._whole else 2]
        fixed = isinstance(side, int)
        self.model = OnnxModel(path.name, side if fixed and not size else size or SIZE, fixed)
        self._side = side if fixed else 0
        self._batch = batch if isinstance(batch, int) else batch_size
        self._any_batch = not isinstance(batch, int)
        self._leaves = leaf_matrix() if classes == DET else None
        self._path, self._name = path, source.name

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores of `crops` [N, S, S, 3]: [N, 1000], or [N, 201] with classes det; others are resized.

        Raises: ValueError where the network gives scores of other classes.
        """
        parts = [self._scores(crops[start : start + self._batch]) for start in range(0, len(crops), self._batch)]
        found = np.concatenate([np.empty((0, IMAGENET_CLASSES), np.float32), *parts])
        return found if self._leaves is None else found @ self._leaves

    def describe(self) -> str:
        """Return in one line what runs where."""
        return f"{self.model.name} at {self._side or self.model.size} px, {self._session.get_providers()[0]} (ONNX)"

    def _scores(self, crops: Crops) -> Scores:
        import cv2

        count = len(crops)
        if self._side and self._side != crops.shape[1]:
            shape = (self._side, self._side)
            crops = np.stack([cv2.resize(crop, shape, interpolation=cv2.INTER_AREA) for crop in crops])
        if not self._any_batch and count < self._batch:
            crops = np.concatenate([crops, np.zeros((self._batch - count, *crops.shape[1:]), np.uint8)])
        pixels = crops if self._whole else normalised(crops)
        try:
            found = self._session.run(None, {self._name: np.ascontiguousarray(pixels)})[0][:count]
        except Exception as error:  # as above
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self._path}: does not run on crops of {crops.shape[1]} px ({reason})") from None
        if found.ndim != 2 or found.shape[1] != IMAGENET_CLASSES:
            raise ValueError(f"{self._path}: gives {list(found.shape[1:])} numbers, not ImageNet's 1,000 classes")
        if not self._whole:
            found = np.exp(found - found.max(axis=1, keepdims=True))
            found /= found.sum(axis=1, keepdims=True)
        return np.asarray(found, np.float32)


def normalised(crops: Crops) -> npt.NDArray[np.float32]:
    """Return crops uint8 [N, S, S, 3] as torchvision's networks take them: float32 [N, 3, S, S]."""
    mean, deviation = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    return ((crops.astype(np.float32) - mean) / deviation).transpose(0, 3, 1, 2)
