"""Evaluation of detections: mAP by ILSVRC, VOC or COCO, its intervals, comparisons, and where the errors come from.

The names below are the public face. Each is loaded when it is first used; none loads torch or OpenVINO.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.datasets.ground_truth import GroundTruth
    from detector.datasets.read import read_dataset
    from eval.bootstrap import Intervals, bootstrap_intervals
    from eval.comparison import Comparison, compare_predictions
    from eval.errors.analysis import Analysis, analyse
    from eval.predictions.readers import read_predictions
    from eval.predictions.table import Predictions
    from eval.protocols import PROTOCOLS, evaluate
    from eval.protocols.evaluation import Evaluation
    from eval.report import write_report
    from eval.summary import Scored

__all__ = [
    "PROTOCOLS",
    "Analysis",
    "Comparison",
    "Evaluation",
    "GroundTruth",
    "Intervals",
    "Predictions",
    "Scored",
    "analyse",
    "bootstrap_intervals",
    "compare_predictions",
    "evaluate",
    "read_dataset",
    "read_predictions",
    "write_report",
]

_HOMES = {
    "detector.datasets.ground_truth": ("GroundTruth",),
    "detector.datasets.read": ("read_dataset",),
    "eval.bootstrap": ("Intervals", "bootstrap_intervals"),
    "eval.comparison": ("Comparison", "compare_predictions"),
    "eval.errors.analysis": ("Analysis", "analyse"),
    "eval.predictions.readers": ("read_predictions",),
    "eval.predictions.table": ("Predictions",),
    "eval.protocols": ("PROTOCOLS", "evaluate"),
    "eval.protocols.evaluation": ("Evaluation",),
    "eval.report": ("write_report",),
    "eval.summary": ("Scored",),
}


def __getattr__(name: str) -> Any:
    """Load a name of the public face from its module."""
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module 'eval' has no attribute '{name}'")
