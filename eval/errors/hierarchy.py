"""Which classes are similar: those that share a parent in the hierarchy of their data set."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from detector.classes import det_classes

Group = frozenset[str]


def similar_classes(class_names: Sequence[str], class_keys: Sequence[str] = ()) -> npt.NDArray[np.bool_]:
    """Return whether two labels 1..C share a parent, bool [C + 1, C + 1], symmetric; row and column 0 are unused.

    The hierarchy is the one that knows most of the classes: ILSVRC DET's (by name, or by WordNet id in `class_keys`),
    the sets of Hoiem et al. for VOC, or COCO's supercategories (configs/det_hierarchy.toml). A class that it does
    not know, and every class where it knows but one, is similar to none.
    """
    count = len(class_names)
    wnids = {c.wnid: c.name for c in det_classes()}
    keys = class_keys if len(class_keys) == count else ("",) * count
    names = [_plain(wnids.get(key, name)) for name, key in zip(class_names, keys, strict=True)]
    known = {title: sum(name in classes for name in names) for title, (classes, _) in _hierarchies().items()}
    groups = _hierarchies()[max(known, key=lambda title: known[title])][1]
    similar = np.zeros((count + 1, count + 1), np.bool_)
    for group in groups:
        labels = [label for label, name in enumerate(names, start=1) if name in group]
        similar[np.ix_(labels, labels)] = True
    np.fill_diagonal(similar, False)
    return similar


@cache
def _hierarchies() -> dict[str, tuple[Group, tuple[Group, ...]]]:
    """Return of each hierarchy the classes that it knows and its groups; the first wins where two know as many."""
    table = tomllib.loads(files("configs").joinpath("det_hierarchy.toml").read_text(encoding="utf-8"))
    found = {}
    for title in ("det", "voc", "coco"):
        groups = tuple(frozenset(map(_plain, group["classes"])) for group in table[title])
        classes = (
            frozenset(_plain(c.name) for c in det_classes()) if title == "det" else frozenset[str]().union(*groups)
        )
        found[title] = (classes, groups)
    return found


def _plain(name: str) -> str:
    """Return a class name without what spellings differ in: `dining table`, `diningtable`, `Dining_Table`."""
    return "".join(c for c in name.casefold() if c.isalnum())
