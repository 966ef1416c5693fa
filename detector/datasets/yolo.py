"""YOLO data sets: `images/` and `labels/` with one text file a picture, `class cx cy w h`, normalised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.datasets.checks import (
    DEFAULT_SPLIT,
    at,
    check_boxes,
    check_not_empty,
    check_regular,
    check_unique,
    index_files,
    parse_float,
    parse_int,
    parse_whole,
    read_classes,
    read_text,
    read_words,
    short,
    short_names,
    walk,
    wrong,
)
from detector.datasets.ground_truth import GroundTruth
from proposals.image_files import SUFFIXES, read_list
from proposals.images import read_size

SLACK = 1e-3  # how far above 1 rounding may take a normalised number
YAML_CURE = "write the names into classes.txt, one a line"
YAML_SPLITS = ("train", "val", "test")
SETTINGS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def read_yolo(path: Path, split: str | None = None, pictures: bool = True) -> GroundTruth:
    """Return a YOLO data set: a folder, or its data.yaml.

    Where data.yaml (in a folder too) names the split (None: val) under `train`, `val` or `test`, its pictures are those
    in or below that folder or those folders, or the lines of that list file; `path` is where these are. Otherwise they
    are those in images/ with labels/ beside it, or in images/<split>/ with labels/<split>/, or <split>/images/ with
    <split>/labels/. A picture without a label file has no objects. Classes are the lines of classes.txt, else `names`
    of data.yaml. Numbers are relative to the upright picture, of which only the header is read. `numbers` count the
    pictures from 1 in the order of their names. Without its pictures (`pictures`) the set cannot be read.
    Raises: ValueError with file, line and cure; OSError.
    """
    root = path if path.is_dir() else path.parent
    classes = _classes(path)
    settings = next((p for p in (path, *(root / name for name in SETTINGS)) if p.is_file()), None)
    if settings and (named := named_places(settings, split or DEFAULT_SPLIT)):
        index, texts, base = _of_places(named)
    else:
        base, labels = _folders(root, split)
        index, texts = index_files(base), index_files(labels, (".txt",)) if labels.is_dir() else {}
    check_not_empty(len(index), base)
    short_index, short_texts = short_names(index), short_names(texts)
    if not any("/" in name for name in (*short_index, *short_texts)):  # then the folders of both may differ
        index = {name: index[key] for name, key in short_index.items()}
        texts = {name: texts[key] for name, key in short_texts.items()}
    for name, text in texts.items():
        if name not in index and name != "classes":
            raise wrong(text, f"there is no picture '{name}' in {base}", "add it, or remove the label file")

    keypoints = settings is not None and "kpt_shape" in _fields(settings)
    names = sorted(index)
    sizes = np.array([_size(index[name]) for name in names], np.int64)
    owners: list[int] = []
    objects: list[int] = []
    places: list[str] = []
    rows: list[list[float]] = []
    for picture, name in enumerate(names):
        if name not in texts:
            continue
        for line, words in read_words(texts[name]):
            label, row = _object(words, len(classes), keypoints, at(texts[name], line))
            owners.append(picture)
            objects.append(label)
            rows.append(row)
            places.append(at(texts[name], line))
    pictures_of = np.array(owners, np.int64)
    boxes = half_open(np.array(rows, np.float64).reshape(-1, 4), sizes[pictures_of])
    check_boxes(boxes, sizes[pictures_of], places.__getitem__)
    return GroundTruth(
        names=tuple(names),
        numbers=np.arange(1, len(names) + 1),
        sizes=sizes,
        paths=tuple(index[name] for name in names),
        class_names=classes,
        class_keys=tuple(str(i) for i in range(len(classes))),
        pictures=pictures_of,
        labels=np.array(objects, np.int64),
        boxes=boxes,
        difficult=np.zeros(len(owners), np.bool_),
        crowd=np.zeros(len(owners), np.bool_),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        files=tuple(index[name].relative_to(base).as_posix() for name in names),
        elsewhere=_elsewhere(root) - {file.stem for file in index.values()},
    )


def is_yolo(path: Path) -> bool:
    """Return whether a folder looks like a YOLO data set."""
    return ((path / "images").is_dir() and (path / "labels").is_dir()) or any((path / n).is_file() for n in SETTINGS)


def half_open(rows: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return boxes in pixels of normalised `cx cy w h` [N, 4] in pictures of width and height [N, 2], in float64."""
    centres, halves = rows[:, :2], rows[:, 2:] / 2
    return np.concatenate([(centres - halves) * sizes, (centres + halves) * sizes], axis=1)


def _size(path: Path) -> tuple[int, int]:
    """Return width and height of an upright picture. Raises: ValueError; OSError."""
    check_regular(path)
    return read_size(path)


def _classes(path: Path) -> tuple[str, ...]:
    """Return the class names of a folder, or of the YAML file given."""
    if path.is_file():
        return read_names(path)
    if classes := read_classes(path / "classes.txt"):
        return classes
    for name in SETTINGS:
        if (path / name).is_file():
            return read_names(path / name)
    raise wrong(path, "has neither classes.txt nor data.yaml", "write classes.txt, one class a line")


def _fields(path: Path) -> dict[str, list[Any]]:
    """Return the nodes of a YAML file by their keys. Raises: ValueError with file, line and cure; OSError."""
    import yaml

    text = read_text(path)
    try:
        root = yaml.compose(text, yaml.SafeLoader)  # nodes, which know their lines and keep a name such as `no` as text
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"no valid YAML ({getattr(error, 'problem', None) or str(error).splitlines()[0]})"
        raise wrong(at(path, mark.line + 1) if mark else path, what, YAML_CURE) from error
    except RecursionError as error:
        raise wrong(path, "YAML that is nested too deeply", YAML_CURE) from error
    found: dict[str, list[Any]] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        found.setdefault(str(key.value), []).append(value)
    return found


def read_names(path: Path) -> tuple[str, ...]:
    """Return the class names under `names` of a YAML file, a list or a mapping 0: a, 1: b.

    Raises: ValueError with file, line and cure for broken YAML, no or several `names`, a name that is no text or comes
    twice, or numbers that are not 0..C-1; OSError.
    """
    import yaml

    found = _fields(path).get("names", [])
    if len(found) != 1:
        raise wrong(path, "has no 'names:'" if not found else "has 'names:' more than once", YAML_CURE)
    (listed,) = found
    place = at(path, listed.start_mark.line + 1)
    if isinstance(listed, yaml.SequenceNode):
        nodes = listed.value
    elif isinstance(listed, yaml.MappingNode):
        numbered = {parse_int(str(key.value)): value for key, value in listed.value}
        if len(numbered) != len(listed.value) or any(i not in numbered for i in range(len(numbered))):
            raise wrong(place, f"the names are not numbered 0..{len(listed.value) - 1}", "number them so")
        nodes = [numbered[i] for i in range(len(numbered))]
    else:
        raise wrong(place, "'names:' is neither a list nor a mapping of numbers", YAML_CURE)
    if not nodes:
        raise wrong(place, "'names:' lists no class", YAML_CURE)
    for node in nodes:
        if not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":null") or not node.value.strip():
            raise wrong(at(path, node.start_mark.line + 1), "a class name is no text", YAML_CURE)
    names = [node.value.strip() for node in nodes]
    check_unique(names, lambda i: at(path, nodes[i].start_mark.line + 1), "class")
    return tuple(names)


def named_places(path: Path, split: str) -> list[Path]:
    """Return the folders and list files that data.yaml names for a split; none where it names no split at all.

    They are relative to `path`, and that to the folder of data.yaml, or to datasets/ beside it as with Ultralytics; a
    `path` of another computer stands for the folder of data.yaml. `../valid/images`, as Roboflow writes it, may be
    valid/images. Raises: ValueError with file, line and cure where the split or its place is not there.
    """
    import yaml

    fields = _fields(path)
    given = {key: [n for n in fields.get(key, ()) if not n.tag.endswith(":null")] for key in ("path", *YAML_SPLITS)}
    splits = [key for key in YAML_SPLITS if given[key]]
    if not splits or (split not in YAML_SPLITS and _layout(path.parent, split)):
        return []
    if split not in splits:
        raise wrong(path, f"names no split '{split}'", f"add it, or give one of {', '.join(splits)}")
    for key in ("path", split):
        if len(given[key]) > 1:
            raise wrong(path, f"has '{key}:' more than once", "leave one")
    (node,) = given[split]
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    folder = path.absolute().parent
    roots = [folder]
    if given["path"] and isinstance(given["path"][0], yaml.ScalarNode):
        said = Path(given["path"][0].value.replace("\\", "/")).expanduser()
        roots = [folder / said, folder.parent / said, folder.parent / "datasets" / said, folder]
    found = []
    for item in items:
        place = at(path, item.start_mark.line + 1)
        if not isinstance(item, yaml.ScalarNode) or not item.value.strip():
            raise wrong(place, f"'{split}:' is no path", "give a folder, a list of folders, or a list file")
        text = item.value.strip().replace("\\", "/")
        tried = [root / part for root in roots for part in dict.fromkeys((text, text.removeprefix("../")))]
        there = next((p for p in tried if p.exists()), None)
        if there is None and _layout(path.parent, split):
            return []
        if there is None:
            raise wrong(place, f"'{split}: {short(item.value)}' is not there, nor {tried[0]}", "correct 'path:' or it")
        found.append(Path(os.path.normpath(there)))
    return found


def _of_places(places: Sequence[Path]) -> tuple[dict[str, Path], dict[str, Path], Path]:
    """Return the pictures and the label files of folders and list files by name, and the folder of all pictures."""
    pictures: dict[Path, str] = {}  # with where each is listed
    for place in places:
        if place.is_dir():
            pictures.update((file, str(file)) for file in walk(place, SUFFIXES))
            continue
        for line, name in read_list(place):
            text = name.replace("\\", "/")
            file = next((f for f in (place.parent / text, place.parent.parent / text) if f.is_file()), None)
            if file is None:
                raise wrong(at(place, line), f"there is no picture {place.parent / text}", "correct the line")
            file = Path(os.path.normpath(file))
            if file in pictures:
                raise wrong(at(place, line), f"the picture '{short(name)}' comes a second time", "keep one of the two")
            pictures[file] = at(place, line)
    if not pictures:
        raise wrong(places[0], "lists no picture", "give a data set with at least one")
    folder = places[0] if len(places) == 1 and places[0].is_dir() else None
    base = folder or Path(os.path.commonpath([file.parent for file in pictures]))
    index: dict[str, Path] = {}
    for file, place_of in pictures.items():
        name = file.relative_to(base).with_suffix("").as_posix()
        if name in index:
            raise wrong(place_of, f"has the name of {index[name]}", "keep one of the two")
        index[name] = file
    beside = {name: _labels_of(file).with_suffix(".txt") for name, file in index.items()}
    texts = {name: file for name, file in beside.items() if file.is_file()}
    if folder and (labels := _labels_of(folder)) != folder and labels.is_dir():
        texts |= index_files(labels, (".txt",))  # those without a picture too, which is an error
    return index, texts, base


def _labels_of(path: Path) -> Path:
    """Return where the labels of a picture or folder are: the last part `images` of the path is `labels` there."""
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _layout(root: Path, split: str) -> bool:
    """Return whether the folders of a split are there by name."""
    return (root / "images" / split).is_dir() or (root / split / "images").is_dir()


def _folders(root: Path, split: str | None) -> tuple[Path, Path]:
    """Return the folders of pictures and of labels."""
    images = root / "images"
    split = split or DEFAULT_SPLIT
    for pictures, labels in (
        (images / split, root / "labels" / split),
        (root / split / "images", root / split / "labels"),
    ):
        if pictures.is_dir():
            return pictures, labels
    whole = images.is_dir() and any(p.suffix.casefold() in SUFFIXES for p in images.iterdir())
    if split == DEFAULT_SPLIT and whole:
        return images, root / "labels"
    there = {p.name for p in images.iterdir() if p.is_dir()} if images.is_dir() else set()
    there |= {p.parent.name for p in root.glob("*/images")}
    if there:
        cure = f"name one of the splits here: {', '.join(sorted(there))}"
    elif whole:
        cure = f"this set has no splits: name none, or {DEFAULT_SPLIT} for the whole"
    else:
        cure = f"put the pictures into images, or into images/{split}"
    raise wrong(root, f"there is no split {split}, neither images/{split} nor {split}/images", cure)


def _elsewhere(root: Path) -> frozenset[str | int]:
    """Return the names of all pictures of a data set, those of its other splits too."""
    folders = [folder for folder in (root / "images", *root.glob("*/images")) if folder.is_dir()]
    return frozenset(file.stem for folder in folders for file in walk(folder, SUFFIXES))


def _object(words: list[str], classes: int, keypoints: bool, place: str) -> tuple[int, list[float]]:
    """Return label and normalised box of one line: a box, a box with keypoints, or an outline, whose box it is."""
    outline = len(words) >= 7 and len(words) % 2 == 1 and not keypoints
    if len(words) != 5 and not outline and not (keypoints and len(words) > 5):
        raise wrong(place, f"{len(words)} numbers instead of 5", "write: class cx cy w h (or an outline)")
    label = parse_whole(words[0])
    if label is None or label >= classes:
        raise wrong(place, f"unknown class '{short(words[0])}'", f"the classes are 0..{classes - 1}")
    try:
        row = [parse_float(word) for word in (words[1:] if outline else words[1:5])]
    except ValueError:
        what = f"'{short(' '.join(words[1:]))}' are not {'all' if outline else 'four'} numbers"
        raise wrong(place, what, "write: class cx cy w h") from None
    if any(value < -SLACK or value > 1 + SLACK or (outline and value != value) for value in row):
        raise wrong(place, "a number is not in 0..1", "divide x and w by the picture's width, y and h by its height")
    if outline:
        (left, right), (top, bottom) = ((min(side), max(side)) for side in (row[::2], row[1::2]))
        row = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return label + 1, row
