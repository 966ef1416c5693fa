"""Box regression targets: where a ground-truth box lies as seen from a proposal, and back (R-CNN, appendix C)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, as_boxes

Doubles = npt.NDArray[np.float64]


def box_targets(proposals: Boxes, truth: Boxes) -> Floats:
    """Return the targets that move each proposal onto the ground-truth box of the same row.

    Shapes: [N, 4], [N, 4] -> float32 [N, 4]: tx, ty, the shift of the centre in widths and heights of the proposal,
    and tw, th, the natural logarithms of the growth of its sides (R-CNN, arXiv 1311.2524v5, equations 6 to 9).
    Widths are x2 - x1 of half-open boxes. Raises: ValueError for arrays that are no boxes or differ in length, and
    for a box without area, from which or to which no logarithm leads.
    """
    proposals, truth = as_boxes(proposals), as_boxes(truth)
    if len(proposals) != len(truth):
        raise ValueError(f"{len(proposals)} proposals, {len(truth)} ground-truth boxes: each proposal needs its own")
    start, sides = _centres_and_sides(proposals)
    end, wanted = _centres_and_sides(truth)
    for what, extent in (("proposal", sides), ("ground-truth box", wanted)):
        flat = (extent <= 0).any(axis=1)
        if flat.any():
            raise ValueError(f"{what} {int(np.flatnonzero(flat)[0])} has no area; leave such boxes out of regression")
    return np.concatenate([(end - start) / sides, np.log(wanted / sides)], axis=1).astype(np.float32)


def apply_targets(boxes: Boxes, targets: Floats) -> Boxes:
    """Return each box moved by the targets of the same row: the inverse of `box_targets`, neither clipped nor rounded.

    Shapes: [N, 4], [N, 4] -> float32 [N, 4] (R-CNN, equations 1 to 4). A box without area moves nowhere. Raises:
    ValueError for arrays that are no boxes, or targets of another shape.
    """
    boxes, moves = as_boxes(boxes), np.asarray(targets, dtype=np.float64)
    if moves.shape != boxes.shape:
        raise ValueError(f"targets must have shape {list(boxes.shape)} as the boxes have, got {list(moves.shape)}")
    centres, sides = _centres_and_sides(boxes)
    centres = centres + moves[:, :2] * sides
    half = np.exp(moves[:, 2:]) * sides / 2
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def _centres_and_sides(boxes: Boxes) -> tuple[Doubles, Doubles]:
    """Return (centres [N, 2], sides [N, 2]), each (x, y)."""
    corners = boxes.astype(np.float64)
    return (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
