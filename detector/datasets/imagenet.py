"""The WordNet ids of the 1,000 ImageNet classes, in their standard order, and the DET class above each."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from detector.classes import det_classes


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1,000 ids (configs/imagenet_classes.txt); `imagenet_wnids()[i]` is output i of a classifier."""
    text = files("configs").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line.split(maxsplit=1)[0] for line in text.splitlines())


@cache
def _labels() -> dict[str, int]:
    leaves = {imagenet_wnids()[leaf]: c.id for c in det_classes() for leaf in c.imagenet}
    return leaves | {c.wnid: c.id for c in det_classes()}


def leaf_labels() -> dict[str, int]:
    """Return the label 1..200 by WordNet id, of the 200 classes and of the ImageNet classes below them."""
    return dict(_labels())
