"""Region proposals: the methods that suggest where objects may be, and the geometry of boxes. Usable alone.

The names below are the public face. Each is loaded when it is first used; none loads torch or OpenVINO, and none but
Selective Search loads numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proposals.boxes import iou, nms
    from proposals.images import read_image
    from proposals.merging import merge
    from proposals.opencv import selective_search_opencv
    from proposals.proposer import Merged, OpenCvSearch, ProposalOptions, Proposer, SelectiveSearch, make_proposer
    from proposals.recall import average_recall, best_overlaps
    from proposals.selective.search import Strategy, selective_search
    from proposals.store import ProposalStore
    from proposals.stored import StoredProposals, open_proposals
    from proposals.types import Proposals

__all__ = [
    "Merged",
    "OpenCvSearch",
    "ProposalOptions",
    "ProposalStore",
    "Proposals",
    "Proposer",
    "SelectiveSearch",
    "StoredProposals",
    "Strategy",
    "average_recall",
    "best_overlaps",
    "iou",
    "make_proposer",
    "merge",
    "nms",
    "open_proposals",
    "read_image",
    "selective_search",
    "selective_search_opencv",
]

_HOMES = {
    "proposals.boxes": ("iou", "nms"),
    "proposals.images": ("read_image",),
    "proposals.merging": ("merge",),
    "proposals.opencv": ("selective_search_opencv",),
    "proposals.proposer": (
        "Merged",
        "OpenCvSearch",
        "ProposalOptions",
        "Proposer",
        "SelectiveSearch",
        "make_proposer",
    ),
    "proposals.recall": ("average_recall", "best_overlaps"),
    "proposals.selective.search": ("Strategy", "selective_search"),
    "proposals.store": ("ProposalStore",),
    "proposals.stored": ("StoredProposals", "open_proposals"),
    "proposals.types": ("Proposals",),
}


def __getattr__(name: str) -> Any:
    """Load a name of the public face from its module."""
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module 'proposals' has no attribute '{name}'")
