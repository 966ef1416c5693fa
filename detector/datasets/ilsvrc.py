"""ILSVRC DET as distributed: the devkit's lists and class table, the annotations in XML, the pictures.

Three layouts are known, and told apart by what is there: the archives of 2013 and 2014 unpacked beside the devkit
(`ILSVRC2013_DET_val/`, `ILSVRC2013_DET_bbox_val/` or a tar of it, `ILSVRC2014_devkit/data/`); the later single tree
(`ILSVRC/{Annotations,Data,ImageSets}/DET/`); and a small set: `list.txt` (name, id in val.txt), `images/`, `bbox/`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.classes import det_classes, det_names
from detector.datasets.checks import (
    DEFAULT_SPLIT,
    at,
    check_not_empty,
    check_regular,
    check_unique,
    find_pictures,
    parse_int,
    read_words,
    short,
    wrong,
)
from detector.datasets.class_maps import leaf_labels
from detector.datasets.ground_truth import GroundTruth
from detector.datasets.voc import Annotation, XmlFiles, assemble, parse

SPLITS = ("train", "val", "val1", "val2", "val2_mini", "test")
LISTS = ("data/det_lists", "det_lists", "ImageSets/DET")
ARCHIVES = ("", ".tar", ".tar.gz", ".tgz")
BBOX_FOLDERS = {  # by the pictures that a split is of
    "train": ("Annotations/DET/train", "ILSVRC201?_DET_bbox_train"),
    "val": ("Annotations/DET/val", "ILSVRC201?_DET_bbox_val"),
    "val2": ("det_val2_bbox", "data/det_val2_bbox"),
}
PICTURE_FOLDERS = {
    "train": ("Data/DET/train", "ILSVRC201?_DET_train"),
    "val": ("Data/DET/val", "ILSVRC201?_DET_val"),
    "test": ("Data/DET/test", "ILSVRC201?_DET_test"),
}
VAL_PICTURES = 20_121  # of ILSVRC DET 2013 and 2014
EDGE = 1.0  # official boxes reach 0 in their 1-based files, or a pixel beyond; they count as they are


@dataclass(frozen=True)
class Listed:
    """A picture of a list: its name, its number (in val.txt, where the split is a part of it), where it stands."""

    name: str
    number: int
    place: str


def read_ilsvrc(path: Path, split: str | None = None, pictures: bool = True) -> GroundTruth:
    """Return a split of ILSVRC DET, by default val; a folder with list.txt, images/ and bbox/ is one split.

    `class_names` are the detector's, `class_keys` the WordNet ids; a name in the XML may be of a synset below a class.
    Pictures come by rising number: the ids of val.txt (not those of ilsvrc13_val2.txt, which counts anew) for val,
    val1 (val without val2), val2 and val2_mini, of test.txt for test, and for train their place in its lists. train
    without lists is all its annotated pictures; its pictures are not all annotated completely, and one without XML
    has no objects. test has none. Boxes are 1-based inclusive in the files and kept where they reach over the edge.
    Raises: ValueError with file, line and cure; OSError.
    """
    if is_small_set(path):
        if split not in (None, DEFAULT_SPLIT, path.name, "val2_mini"):
            raise wrong(path, f"a folder with list.txt has no split '{split}'", "give no split")
        return _read_small(path, _bases(path) + _bases(path.absolute().parent), pictures)
    split = split or DEFAULT_SPLIT
    bases = _bases(path)
    if split == "val2_mini":
        if not is_small_set(path / split):
            raise wrong(path / split, "no folder with list.txt, images and bbox", "give a folder that holds it")
        return _read_small(path / split, bases, pictures)
    if split not in SPLITS:
        raise wrong(path, f"ILSVRC DET has no split '{split}'", f"give one of {', '.join(SPLITS)}")

    kind = "val" if split in ("val1", "val2") else split
    folders = _find(bases, PICTURE_FOLDERS[kind])
    files = None if kind == "test" else XmlFiles(_annotations(path, bases, split))
    if split == "train" and files is not None:
        listed = _train_list(bases, files)
    elif split in ("val1", "val2"):
        listed = _part_of_val(path, bases, split)
    else:
        listed = _read_list(_list(path, bases, f"{split}.txt"))
    return _read(listed, files, folders, bases, kind, pictures)


def is_ilsvrc(path: Path) -> bool:
    """Return whether a folder looks like ILSVRC DET."""
    return is_small_set(path) or bool(_find(_bases(path), LISTS)) or bool(_find([path], ("ILSVRC201?_DET_*",)))


def is_small_set(path: Path) -> bool:
    """Return whether a folder has list.txt, images/ and bbox/."""
    return (path / "list.txt").is_file() and (path / "images").is_dir() and (path / "bbox").is_dir()


def _bases(path: Path) -> list[Path]:
    """Return the folders in which the parts of the data set may be: itself, the single tree, the devkit."""
    return [path, path / "ILSVRC", *sorted(path.glob("*devkit*")), *sorted(path.glob("ILSVRC/*devkit*"))]


def _find(bases: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """Return what there is of `patterns` below the first of `bases` that has any."""
    for base in bases:
        if found := [path for pattern in patterns for path in sorted(base.glob(pattern))]:
            return found
    return []


def _list(path: Path, bases: Sequence[Path], *names: str) -> Path:
    found = _find(bases, [f"{folder}/{name}" for folder in LISTS for name in names])
    if not found:
        raise wrong(path, f"no {names[0]} in {' or '.join(LISTS)}", "put the devkit of ILSVRC beside the data")
    return found[0]


def _annotations(path: Path, bases: Sequence[Path], split: str) -> list[Path]:
    """Return the folders or archives of XML of a split."""
    kinds = {"train": ("train",), "val2": ("val", "val2")}.get(split, ("val",))
    stems = [stem for kind in kinds for stem in BBOX_FOLDERS[kind]]
    for kind in kinds:
        if found := _find(bases, [stem + suffix for stem in BBOX_FOLDERS[kind] for suffix in ARCHIVES]):
            folders = [source for source in found if source.is_dir()]
            return folders or found  # the folder, where an archive lies beside what was unpacked from it
    what = f"no annotations of {split}: no {' or '.join(stems)}"
    raise wrong(path, what, "put the folder or its tar archive there, or give another split")


def _read_list(path: Path) -> list[Listed]:
    """Return the pictures of a list by rising number; lines `name number`, the number of a line where it is missing."""
    listed: list[Listed] = []
    for line, words in read_words(path):
        number = parse_int(words[1]) if len(words) > 1 else len(listed) + 1
        if len(words) > 2 or number is None:
            raise wrong(at(path, line), f"'{short(' '.join(words))}' is not a name and a number", "correct the line")
        listed.append(Listed(words[0].rsplit("/", 1)[-1], number, at(path, line)))
    check_not_empty(len(listed), path)
    check_unique([item.name for item in listed], lambda i: listed[i].place, "picture")
    check_unique([str(item.number) for item in listed], lambda i: listed[i].place, "number")
    return sorted(listed, key=lambda item: item.number)


def _part_of_val(path: Path, bases: Sequence[Path], split: str) -> list[Listed]:
    """Return val2, or val without it, with the numbers of val.txt."""
    val = _read_list(_list(path, bases, "val.txt"))
    part = _read_list(_list(path, bases, "ilsvrc13_val2.txt", "val2.txt"))
    known = {item.name for item in val}
    for item in part:
        if item.name not in known:
            raise wrong(item.place, f"picture '{item.name}' is not in val.txt", "take both lists from one devkit")
    chosen = {item.name for item in part}
    return [item for item in val if (item.name in chosen) == (split == "val2")]


def _train_list(bases: Sequence[Path], files: XmlFiles) -> list[Listed]:
    """Return the pictures of all train lists (positive, partial, negative), each once, in the order of the classes."""
    lists = [path for path in _find(bases, [f"{folder}/train*.txt" for folder in LISTS]) if path.is_file()]
    places: dict[str, str] = {}
    for path in sorted(lists, key=lambda p: [int(n) for n in re.findall(r"\d+", p.stem)]):
        for line, words in read_words(path):
            places.setdefault(words[0].rsplit("/", 1)[-1], at(path, line))
    if not lists:
        places = {name: str(files.sources[0]) for name in files.names()}
    check_not_empty(len(places), lists[0] if lists else files.sources[0])
    return [Listed(name, number, place) for number, (name, place) in enumerate(places.items(), 1)]


def _read_small(path: Path, bases: Sequence[Path], pictures: bool) -> GroundTruth:
    return _read(_read_list(path / "list.txt"), XmlFiles([path / "bbox"]), [path / "images"], bases, "val", pictures)


def _read(
    listed: Sequence[Listed],
    files: XmlFiles | None,
    folders: Sequence[Path],
    bases: Sequence[Path],
    kind: str,
    pictures: bool,
) -> GroundTruth:
    """Return the listed pictures with their XML, which pictures of train may lack; without `files` no objects.

    The blacklist goes by the numbers of val.txt, and so belongs to `kind` val alone.
    """
    labels = _labels(bases)
    annotations = []
    for item in listed:
        found = files.read(item.name) if files else None
        if found is None and files and kind != "train":
            what = f"picture '{item.name}' has no XML in {' or '.join(map(str, files.sources))}"
            raise wrong(item.place, what, "get the annotations again")
        annotations.append(parse(found[1], found[0]) if found else Annotation((0, 0), [], [], []))
    names = [item.name for item in listed]
    return assemble(
        files or XmlFiles([]),
        names,
        [item.number for item in listed],
        find_pictures(names, folders, lambda i: listed[i].place, pictures),
        annotations,
        (det_names(), [c.wnid for c in det_classes()]),
        labels,
        lambda name: "name one of the 200 classes, or a synset below one, by its WordNet id",
        EDGE,
        _blacklist(listed, bases, labels) if kind == "val" else (),
        _elsewhere(listed, bases) if kind == "val" else (),
    )


def _elsewhere(listed: Sequence[Listed], bases: Sequence[Path]) -> set[str | int]:
    """Return the names and numbers of val.txt that a part of val does not list; the numbers alone without that file."""
    found = _find(bases, [f"{folder}/val.txt" for folder in LISTS])
    whole = _read_list(found[0]) if found else ()
    known = {*range(1, VAL_PICTURES + 1), *(item.name for item in whole), *(item.number for item in whole)}
    return known - {item.name for item in listed} - {item.number for item in listed}


def _blacklist(listed: Sequence[Listed], bases: Sequence[Path], labels: dict[str, int]) -> list[tuple[int, int]]:
    """Return the (picture, label) pairs of the devkit's blacklist, lines `number wnid`, of the pictures listed."""
    pattern = "*det_validation_blacklist.txt"
    found = _find(bases, [pattern, f"data/{pattern}"])
    if not found:
        return []
    places = {item.number: index for index, item in enumerate(listed)}
    pairs = []
    for line, words in read_words(found[0]):
        number = parse_int(words[0])
        if len(words) != 2 or number is None:
            what = f"'{short(' '.join(words))}' is not a number and a WordNet id"
            raise wrong(at(found[0], line), what, "correct the line")
        if words[1] not in labels:
            what = f"unknown class '{short(words[1])}'"
            raise wrong(at(found[0], line), what, "give the WordNet id of one of the 200")
        if number in places:
            pairs.append((places[number], labels[words[1]]))
    return sorted(set(pairs))


def _labels(bases: Sequence[Path]) -> dict[str, int]:
    """Return the label of each WordNet id of a class or a synset below one.

    Those below are ImageNet's leaves, as the detector knows them, and what the hierarchy of meta_det.mat adds, where
    that file is; the one of 2013 places 102 synsets, all of them such leaves.
    """
    found = _find(bases, ("meta_det.mat", "data/meta_det.mat"))
    return {**(_meta_labels(found[0]) if found else {}), **leaf_labels()}


def _meta_labels(path: Path) -> dict[str, int]:
    """Return the label of each synset that meta_det.mat has at or below one of the 200 classes."""
    check_regular(path)
    try:
        synsets: Any = importlib.import_module("scipy.io").loadmat(path, squeeze_me=True)["synsets"]
        number = next(name for name in synsets.dtype.names if name.endswith("_DET_ID"))
        wnids = {int(row[number]): str(row["WNID"]) for row in synsets}
        children = {int(row[number]): np.atleast_1d(row["children"]).astype(int).tolist() for row in synsets}
    except OSError:
        raise
    except Exception as error:  # scipy tells a broken file by errors of many kinds
        raise wrong(path, "is no class table of ILSVRC", "take it from the devkit again") from error
    labels: dict[str, int] = {}
    for det_class in det_classes():
        if wnids.get(det_class.id) != det_class.wnid:
            what = f"class {det_class.id} is {wnids.get(det_class.id)}, but {det_class.wnid} ({det_class.name}) here"
            raise wrong(path, what, "take meta_det.mat from the devkit of ILSVRC 2013 or 2014")
        waiting = [det_class.id]
        while waiting:
            synset = waiting.pop()
            if labels.setdefault(wnids[synset], det_class.id) == det_class.id:
                waiting += [child for child in children[synset] if wnids[child] not in labels]
    return labels
