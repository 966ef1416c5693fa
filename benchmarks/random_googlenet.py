"""GoogLeNets with random weights, for measuring speed: it does not depend on what the weights are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detector.model import Model, Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import fold, training_network
from detector.quantize import quantized_file
from detector.samples import sample_path
from detector.warp import warp
from detector.weights import save_weights
from proposals.images import Image, read_image
from proposals.selective.search import selective_search

SIZE, MEAN, SCALE = 224, 128.0, 128.0
OUTPUTS = 201  # background and the 200 detection classes
CALIBRATION_CROPS = 48


def dog() -> Image:
    """Return the bundled picture of a dog at 500 x 375."""
    return cv2.resize(read_image(sample_path("dog.jpg")), (500, 375), interpolation=cv2.INTER_AREA)


def crops_of(image: Image, size: int, count: int) -> npt.NDArray[np.uint8]:
    """Return the first crops of the proposals of `image`, repeated if there are too few."""
    boxes = selective_search(image, superpixel_scale=2).boxes
    return warp(image, np.resize(boxes, (count, 4)), size, (round(MEAN),) * 3)


def random_googlenet(folder: Path, seed: int, norm: str = "batch", width: float = 1.0) -> Model:
    """Write the weights of a random GoogLeNet with intervals for 8 bits, and return its model."""
    network = training_network(googlenet(OUTPUTS, norm, width), "batch" if norm == "batch" else "none", seed=seed)
    path = folder / f"googlenet{seed}.safetensors"
    arrays = {name: array.astype(np.float16) for name, array in fold(network).items()}
    about = {"network": "googlenet", "size": SIZE, "mean": MEAN, "scale": SCALE, "classes": OUTPUTS}
    model = save_weights(path, arrays, Spec(**about, width=width, norm=norm))
    if norm == "batch":  # 8 bits and LRN do not go together well, nor does anybody run them
        path.write_bytes(quantized_file(model, crops_of(dog(), SIZE, CALIBRATION_CROPS), {}))
    return find_model(str(path))
