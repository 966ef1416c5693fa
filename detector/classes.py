"""The 200 classes of the ILSVRC detection task and the ImageNet-1k classes below each of them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

BACKGROUND = 0  # column 0 of the network's scores; labels of detections start at 1
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class DetClass:
    """One detection class: `id` 1..200 as in the devkit, WordNet id, name, ImageNet-1k indices (0-based) below it."""

    id: int
    wnid: str
    name: str
    imagenet: tuple[int, ...]


@cache
def det_classes() -> tuple[DetClass, ...]:
    """Return the 200 classes in the order of their ids (configs/ilsvrc_det.toml, from the devkit's meta_det.mat)."""
    table = tomllib.loads(files("configs").joinpath("ilsvrc_det.toml").read_text(encoding="utf-8"))
    return tuple(DetClass(c["id"], c["wnid"], c["name"], tuple(c["imagenet"])) for c in table["classes"])


@cache
def det_names() -> tuple[str, ...]:
    """Return the 200 names; `det_names()[label - 1]` is the name of a label."""
    return tuple(c.name for c in det_classes())


def folded_name(name: str) -> str:
    """Return a class name as it is compared: without case, a blank for an underscore."""
    return name.strip().casefold().replace("_", " ")


def check_class_names(names: Sequence[str]) -> None:
    """Raise ValueError naming the classes where two differ by case, blanks or underscores alone, or one is no text."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip() or not name.isprintable():
            raise ValueError(f"class name {name!r} is empty or holds a control character; rename the class")
        other = seen.setdefault(folded_name(name), name)
        if other != name:
            raise ValueError(f"classes {other!r} and {name!r} differ by case or blanks alone; rename one of them")


def label_of(name: str, names: tuple[str, ...]) -> int:
    """Return the label 1..N of a class given by name or by id ("dog" or "58"); a class may itself be named "58".

    Raises: ValueError naming the nearest class when there is no such one.
    """
    if name in names:
        return names.index(name) + 1
    folded = {folded_name(n): i + 1 for i, n in enumerate(names)}
    key = folded_name(name)
    if key in folded:
        return folded[key]
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return int(name)
    near = difflib.get_close_matches(key, folded, n=1, cutoff=0.5)
    hint = f"; did you mean '{names[folded[near[0]] - 1]}'?" if near else ""
    raise ValueError(f"unknown class '{name}' (a name or an id 1..{len(names)}){hint}")


@cache
def leaf_matrix() -> npt.NDArray[np.float32]:
    """Return the 0/1 matrix [1000, 201] that adds softmax scores of ImageNet-1k into background and 200 classes.

    Column 0 (background) collects the ImageNet classes below no detection class, so every row sums to 1.
    """
    matrix = np.zeros((IMAGENET_CLASSES, len(det_classes()) + 1), np.float32)
    for det_class in det_classes():
        matrix[list(det_class.imagenet), det_class.id] = 1
    matrix[:, BACKGROUND] = 1 - matrix.sum(axis=1)
    return matrix
