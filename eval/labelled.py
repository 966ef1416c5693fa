"""Pictures with one class each, from a folder, a list or a COCO-style file; classes by index, WordNet id or name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from detector.classes import BACKGROUND, IMAGENET_CLASSES, det_classes, leaf_matrix
from detector.datasets.checks import read_text
from detector.datasets.ground_truth import Longs
from detector.runtimes.base import DET
from proposals.image_files import SUFFIXES, natural_key, read_list

WNID = re.compile(r"(?<![0-9A-Za-z])n\d{8}(?!\d)")  # n01440764_18.JPEG, ILSVRC2012_val_00000293_n01440764.JPEG
CURE = "give an ImageNet index 0..999, a WordNet id such as n01440764, or a name"


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """P pictures with one class each.

    paths: [P]; labels: int64 [P], columns of the scores, 0..C-1; class_keys, class_names: [C], WordNet ids and names;
    left_out: why pictures were left out -> how many.
    """

    paths: tuple[Path, ...]
    labels: Longs
    class_keys: tuple[str, ...]
    class_names: tuple[str, ...]
    left_out: Mapping[str, int]


@cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return (WordNet id, names) of the 1,000 ImageNet classes in the order of the networks' outputs.

    Source: configs/imagenet_classes.txt, from the challenge's LOC_synset_mapping.txt.
    """
    lines = files("configs").joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    assert len(rows) == IMAGENET_CLASSES
    return tuple((wnid, name) for wnid, name in rows)


class Labels:
    """What a file may call a class, for scores of `imagenet`'s 1,000 classes or of the 200 of `det`."""

    def __init__(self, classes: str) -> None:
        """Take the classes that the scores are of: det or imagenet."""
        columns: list[int | None] = list(range(IMAGENET_CLASSES))
        rows = list(imagenet_classes())
        self._columns: dict[str, set[int | None]] = {}
        if classes == DET:
            columns = [int(c) - 1 if c != BACKGROUND else None for c in leaf_matrix().argmax(axis=1)]
            rows = [(c.wnid, c.name) for c in det_classes()]
            for number, row in enumerate(rows):
                self._add(row, number)
        self.class_keys, self.class_names = zip(*rows, strict=True)
        self._indices = columns
        taken = set(self._columns)  # a DET name wins over the same ImageNet name, the whole name over a synonym
        whole = list(imagenet_classes())
        for names in (whole, [name.split(",") for _, name in whole]):
            for column, keys in zip(columns, names, strict=True):
                self._add((key for key in keys if _folded(key) not in taken), column)
            taken = set(self._columns)

    def _add(self, keys: Iterable[str], column: int | None) -> None:
        for key in keys:
            self._columns.setdefault(_folded(key), set()).add(column)

    def column(self, label: str | int) -> int | None:
        """Return the column of a label: an ImageNet index, a WordNet id or a name; None for a class of no column.

        Raises: ValueError for an unknown label or one of several classes, ending in the cure.
        """
        text = str(label).strip()
        if text.isascii() and text.isdecimal():
            if int(text) >= IMAGENET_CLASSES:
                raise ValueError(f"class index {text} is not in 0..{IMAGENET_CLASSES - 1}; {CURE}")
            return self._indices[int(text)]
        found = self._columns.get(_folded(text), set())
        if len(found) > 1:
            raise ValueError(f"'{text}' is the name of {len(found)} classes; give the WordNet id")
        if not found:
            raise ValueError(f"unknown class '{text}'; {CURE}")
        return next(iter(found))


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def read_labelled(data: Path, labels: Labels, images: Path | None = None) -> LabelledPictures:
    """Return the labelled pictures of a folder, a list or a COCO-style JSON file, in their order there.

    A folder: with a folder a class (called by WordNet id, name or index), or flat with the WordNet id in every file
    name. A list: `path label` a line, a tab between them where the label has blanks; paths from the list's folder.
    JSON: the class is a picture's `wnid`, else that of its annotations; `images`, else the file's folder and its
    subfolder `images`, holds the pictures. Classes without a column and pictures of no or several classes are left out.
    Raises: OSError when something cannot be read, ValueError (file, line: what; cure) for what cannot be understood.
    """
    left_out: dict[str, int] = {}
    if data.is_dir():
        found = _folder(data, left_out)
    elif data.suffix.casefold() == ".json":
        found = _coco(data, images, left_out)
    else:
        found = _list(data, images)
    paths: list[Path] = []
    columns: list[int] = []
    for path, label, where in found:
        try:
            column = labels.column(label)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if column is None:
            _count(left_out, "of no detection class")
        else:
            paths.append(path)
            columns.append(column)
    if not paths:
        raise ValueError(f"{data}: no labelled pictures{_why(left_out)}")
    return LabelledPictures(tuple(paths), np.array(columns, np.int64), labels.class_keys, labels.class_names, left_out)


def _count(left_out: dict[str, int], why: str) -> None:
    left_out[why] = left_out.get(why, 0) + 1


def _why(left_out: Mapping[str, int]) -> str:
    if not left_out:
        return ""
    return f" ({', '.join(f'{count:,} {why}' for why, count in left_out.items())} left out)"


Labelled = Iterator[tuple[Path, str | int, str]]  # path, label, where it says so


def _folder(folder: Path, left_out: dict[str, int]) -> Labelled:
    """Yield the pictures of a folder with a folder a class (others are left out), or of a flat one."""
    entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: natural_key(p.name))
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        for path in filter(_is_picture, entries):
            found = set(WNID.findall(path.name))
            if len(found) != 1:
                raise ValueError(
                    f"{path}: no WordNet id in its name; put the pictures into a folder for each class, or give a list"
                )
            yield path, found.pop(), str(path)
        return
    for _ in filter(_is_picture, entries):
        _count(left_out, "beside the folders of the classes")
    for inside in classes:
        for path in sorted(inside.rglob("*"), key=lambda p: natural_key(str(p))):
            if _is_picture(path):
                yield path, inside.name, str(inside)


def _is_picture(path: Path) -> bool:
    return path.suffix.casefold() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _list(path: Path, images: Path | None) -> Labelled:
    """Yield the pictures of a list of `path label` lines."""
    folder = images or path.parent
    for number, text in read_list(path):
        picture, _, label = text.rpartition("\t" if "\t" in text else " ")
        if not picture.strip():
            raise ValueError(f"{path}, line {number}: '{text}' is not 'path label'; after the path, {CURE}")
        yield folder / picture.strip(), label, f"{path}, line {number}"


def _coco(path: Path, images: Path | None, left_out: dict[str, int]) -> Labelled:
    """Yield the pictures of a COCO-style file; those of no or of several classes are counted in `left_out`."""
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); write it again") from None
    except RecursionError:
        raise ValueError(f"{path}: not a COCO file, its JSON is nested too deeply") from None
    try:
        names = {entry["id"]: str(entry["name"]) for entry in document.get("categories", [])}
        classes: dict[object, set[str]] = {}
        for entry in document.get("annotations", []):
            classes.setdefault(entry["image_id"], set()).add(names[entry["category_id"]])
        pictures = [
            (str(entry["file_name"]), {str(entry["wnid"])} if "wnid" in entry else classes.get(entry["id"], set()))
            for entry in document["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a COCO file ({type(error).__name__}: {error}); it needs images (id, file_name), "
            "annotations (image_id, category_id) and categories (id, name)"
        ) from None
    folders = [images] if images else [path.parent / "images", path.parent]
    for name, found in pictures:
        if len(found) == 1:
            places = [folder / name for folder in folders]
            yield next(filter(Path.exists, places), places[0]), found.pop(), f"{path}: {name}"
        else:
            _count(left_out, "of several classes" if found else "without a class")
