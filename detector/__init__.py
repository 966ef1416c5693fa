"""The GoogLeNet R-CNN detector: propose, warp, classify, post-process.

The names below are the public face. Each is loaded when it is first used; none loads torch, OpenVINO or numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.detections import Detections
    from detector.detector import Detector, Trace
    from detector.drawing import draw
    from detector.model import Model, Spec, find_model
    from detector.options import DetectOptions
    from detector.samples import sample_path
    from detector.weights import save_weights
    from proposals.images import read_image

__version__ = "0.1.0"
__all__ = [
    "DetectOptions",
    "Detections",
    "Detector",
    "Model",
    "Spec",
    "Trace",
    "draw",
    "find_model",
    "read_image",
    "sample_path",
    "save_weights",
]

_HOMES = {
    "detector.detections": ("Detections",),
    "detector.detector": ("Detector", "Trace"),
    "detector.drawing": ("draw",),
    "detector.model": ("Model", "Spec", "find_model"),
    "detector.options": ("DetectOptions",),
    "detector.samples": ("sample_path",),
    "detector.weights": ("save_weights",),
    "proposals.images": ("read_image",),
}


def __getattr__(name: str) -> Any:
    """Load a name of the public face from its module."""
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module 'detector' has no attribute '{name}'")
