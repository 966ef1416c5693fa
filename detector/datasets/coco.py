"""COCO's annotation files: one JSON file with `images`, `annotations` and `categories`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detector.datasets.checks import (
    DEFAULT_SPLIT,
    at,
    check_boxes,
    check_not_empty,
    check_unique,
    read_text,
    short,
    wrong,
)
from detector.datasets.ground_truth import Doubles, GroundTruth
from proposals.image_files import SUFFIXES

KEYS = ("images", "annotations", "categories")
MAX_ID = 2**63 - 1  # ids are kept as int64


def read_coco(path: Path, split: str | None = None, pictures: bool = True) -> GroundTruth:
    """Return a COCO data set: a JSON file (which is one split), or a folder with such files.

    In a folder, a split (None: val, or a single annotations.json) is `<split>.json` or `instances_<split>.json`, a
    year behind it or not, there or in `annotations*/`. Labels 1..C follow the rising category ids, which are
    `class_keys`; `numbers` are the image ids, whole numbers. `iscrowd` missing is 0, `area` missing the box's; a box
    of height or width 0 is kept only where its `area` is 0 too, as twice in COCO's own train2017. Pictures are looked
    for beside the file, in images/, ../images/ and ../<split>/ (and below, by their file_name, \\ standing for /, or by
    the last part of an address or a path of another computer); all must be there, unless `pictures` is False.
    Raises: ValueError with file, place and cure; OSError.
    """
    if path.is_dir():
        path, split = _file_of(path, split)
    elif split not in (None, DEFAULT_SPLIT):
        raise wrong(path, "a JSON file holds one split only", f"give no split, or the folder instead of '{split}'")
    else:
        split = None
    return parse_coco(_load(path), path, split, pictures)


def is_coco(path: Path) -> bool:
    """Return whether a folder looks like a COCO data set."""
    return any(path.glob("*.json")) or any(path.glob("annotations*/*.json"))


def _file_of(folder: Path, split: str | None) -> tuple[Path, str | None]:
    """Return the annotation file of a split in a folder, and the split; None for an annotations.json."""
    single = folder / "annotations.json"
    split = split or DEFAULT_SPLIT
    for pattern in (f"{split}.json", f"instances_{split}.json", f"{split}20??.json", f"instances_{split}20??.json"):
        found = [*sorted(folder.glob(pattern)), *sorted(folder.glob(f"annotations*/{pattern}"))]
        if len(found) > 1:
            raise wrong(folder, f"{' and '.join(p.name for p in found)} are both of split '{split}'", "give the file")
        if found:
            return found[0], split
    if single.is_file():
        if split == DEFAULT_SPLIT:
            return single, None
        raise wrong(single, f"the folder has no split '{split}', only this file", "give no split")
    raise wrong(folder, f"no {split}.json, annotations/instances_{split}.json or annotations.json", "give the file")


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise wrong(
            at(path, error.lineno), f"no valid JSON ({error.msg})", "get the file again, it may be cut off"
        ) from error
    except (ValueError, RecursionError) as error:
        raise wrong(path, "JSON with a number too long or nested too deeply", "get the file again") from error
    if not isinstance(data, dict):
        raise wrong(path, f"the JSON is {_kind(data)}", f"a data set is an object with {', '.join(KEYS)}")
    for key in KEYS:
        if key not in data:
            raise wrong(path, f"'{key}' is missing", f"a COCO data set has {', '.join(KEYS)}")
        if not isinstance(data[key], list):
            raise wrong(path, f"'{key}' is {_kind(data[key])}", "it must be a list")
    return data


def parse_coco(data: dict[str, Any], path: Path, split: str | None = None, pictures: bool = True) -> GroundTruth:
    """Return the data set of a loaded file; `path` names it in errors and is where pictures are looked for."""
    images = [_Item(path, "images", i, item) for i, item in enumerate(data["images"])]
    check_not_empty(len(images), path)
    numbers = [item.id() for item in images]
    check_unique(map(str, numbers), lambda i: images[i].place, "id")
    files = [item.text("file_name", "surrogateescape") for item in images]
    check_unique(files, lambda i: images[i].place, "file_name")
    sizes = [(item.side("width"), item.side("height")) for item in images]

    categories = [_Item(path, "categories", i, item) for i, item in enumerate(data["categories"])]
    keys = [item.id() for item in categories]
    check_unique(map(str, keys), lambda i: categories[i].place, "id")
    named = [_whole(item.get("category_id")) for item in data["annotations"] if isinstance(item, dict)]
    used = {key for key in named if type(key) is int}
    kept = [i for i, item in enumerate(categories) if keys[i] in used or not item.is_group(categories)]
    categories, keys = [categories[i] for i in kept], [keys[i] for i in kept]
    names = [item.text("name") for item in categories]
    check_unique(names, lambda i: categories[i].place, "name")
    order = sorted(range(len(keys)), key=keys.__getitem__)
    labels = {keys[i]: label for label, i in enumerate(order, 1)}

    place = {number: index for index, number in enumerate(numbers)}
    annotations = [_Item(path, "annotations", i, item) for i, item in enumerate(data["annotations"])]
    check_unique((str(item.id()) for item in annotations), lambda i: annotations[i].place, "id")
    owners = np.array([item.one_of("image_id", place, "image") for item in annotations], np.int64)
    objects = np.array([item.one_of("category_id", labels, "class") for item in annotations], np.int64)
    boxes = half_open(np.array([item.box() for item in annotations], np.float64).reshape(-1, 4))
    crowd = np.array([item.crowd() for item in annotations], np.bool_)
    said = [item.area() for item in annotations]
    size_table = np.array(sizes, np.int64).reshape(-1, 2)
    no_area = np.array([given == 0 for given in said], np.bool_)
    check_boxes(boxes, size_table[owners], lambda row: annotations[row].place, may_be_flat=no_area)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.array([area if given is None else given for given, area in zip(said, areas, strict=True)], np.float64)

    rows = np.argsort(owners, kind="stable")
    return GroundTruth(
        names=_stems(files),
        numbers=np.array(numbers, np.int64),
        sizes=size_table,
        paths=_paths(files, path, split, pictures),
        class_names=tuple(names[i] for i in order),
        class_keys=tuple(str(keys[i]) for i in order),
        pictures=owners[rows],
        labels=objects[rows],
        boxes=boxes[rows],
        difficult=np.zeros(len(rows), np.bool_),
        crowd=crowd[rows],
        areas=areas[rows],
        files=tuple(files),
    )


def half_open(boxes: Doubles) -> Doubles:
    """Return half-open xyxy boxes [N, 4] of COCO's x, y, width, height, in float64 (edges from 0)."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is for check_boxes to tell
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


class _Item:
    """One entry of a list of the file, read field by field; every error names it."""

    __slots__ = ("_fields", "_index", "_list", "_path")

    def __init__(self, path: Path, of: str, index: int, item: Any) -> None:
        self._path, self._list, self._index = path, of, index
        if not isinstance(item, dict):
            raise wrong(self.place, f"is {_kind(item)}", "it must be an object")
        self._fields: dict[str, Any] = item

    @property
    def place(self) -> str:
        return f"{self._path}, {self._list}[{self._index}]"

    def _get(self, key: str) -> Any:
        if key not in self._fields:
            raise wrong(self.place, f"'{key}' is missing", "add it")
        return self._fields[key]

    def id(self) -> int:
        value = _whole(self._get("id"))
        if type(value) is not int or abs(value) > MAX_ID:
            raise wrong(self.place, f"'id' is {_shown(value)}", "number them with whole numbers")
        return value

    def text(self, key: str, errors: str = "strict") -> str:
        """Return a text that UTF-8 holds; `surrogateescape` allows the bytes of a file name besides."""
        value = self._get(key)
        try:
            if isinstance(value, str) and value.encode("utf-8", errors).strip():
                return value
        except UnicodeEncodeError:
            pass  # half of a surrogate pair, which JSON can spell
        raise wrong(self.place, f"'{key}' is {_shown(value)}", "it must be text")

    def is_group(self, others: Sequence[_Item]) -> bool:
        """Return whether a category is one of Roboflow's, that only others belong to."""
        name = self._fields.get("name")
        groups = [other._fields.get("supercategory") for other in others if other is not self]
        return self._fields.get("supercategory") in (None, "", "none") and name in groups

    def side(self, key: str) -> int:
        value = _whole(self._fields.get(key) or 0)
        if type(value) is not int or not 0 <= value <= MAX_ID:
            raise wrong(self.place, f"'{key}' is {_shown(value)}", "give whole pixels, or leave it out")
        return value

    def one_of(self, key: str, known: dict[int, int], what: str) -> int:
        value = _whole(self._get(key))
        if type(value) is not int or value not in known:
            raise wrong(self.place, f"'{key}' {_shown(value)} is an unknown {what}", "correct it, or remove the object")
        return known[value]

    def box(self) -> list[float]:
        value = self._get("bbox")
        if not isinstance(value, list) or len(value) != 4 or not all(type(side) in (int, float) for side in value):
            raise wrong(self.place, f"'bbox' is {_shown(value)}", "give four numbers: x, y, width, height")
        try:
            return [float(side) for side in value]
        except OverflowError:
            raise wrong(self.place, "'bbox' has a number beyond all pictures", "correct or remove the box") from None

    def crowd(self) -> bool:
        value = self._fields.get("iscrowd")
        if value not in (None, 0, 1):
            raise wrong(self.place, f"'iscrowd' is {_shown(value)}", "give 0 or 1")
        return bool(value)

    def area(self) -> float | None:
        value = self._fields.get("area")
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 <= value <= MAX_ID:
            raise wrong(self.place, f"'area' is {_shown(value)}", "give square pixels, or leave it out")
        return float(value)


def _whole(value: Any) -> Any:
    """Return 200.0 as the whole number that it is, anything else unchanged."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 2**53 else value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shown(value: object) -> str:
    """Return a value as the file has it, shortened."""
    text = json.dumps(value, ensure_ascii=False).replace('"', "'")
    return short(text.encode("utf-8", "backslashreplace").decode())


def _stems(files: Sequence[str]) -> tuple[str, ...]:
    """Return the file names without folder and extension where that leaves them unique, else with folder, or whole."""
    paths = [PurePosixPath(name.replace("\\", "/")) for name in files]
    for names in ([p.stem for p in paths], [str(p.with_suffix("")) if p.name else str(p) for p in paths]):
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(files)


def _paths(files: Sequence[str], path: Path, split: str | None, needed: bool) -> tuple[Path | None, ...]:
    """Return the picture of each file name, in the folder that holds most of the first; None without such a folder.

    Raises: ValueError for a picture that is missing there, if they are `needed`.
    """
    folder, here = path.parent, split or path.stem.removeprefix("instances_")
    folders = [
        folder,
        *(base / name for base in (folder, folder.parent) for name in ("images", f"images/{here}", here)),
    ]
    folders += [base / f"{here}{year}" for base in (folder, folder.parent) for year in ("2014", "2017")]
    held = [(sum(_picture(f, name) is not None for name in files[:20]), f) for f in folders if f.is_dir()]
    count, best = max(held, key=lambda pair: pair[0], default=(0, folder))
    if not count:
        filled = [f for f in folders[1:] if f.is_dir() and any(p.suffix.casefold() in SUFFIXES for p in f.iterdir())]
        if not filled:
            return (None,) * len(files)
        best = filled[0]
    found = tuple(_picture(best, name) for name in files)
    if needed and None in found:
        name = files[found.index(None)]
        raise wrong(path, f"picture '{name}' is not in {best}", "add it, or remove it from 'images'")
    return found


def _picture(folder: Path, name: str) -> Path | None:
    """Return the picture of a file_name in a folder; of an address or a path of another computer its last part."""
    slashed = name.replace("\\", "/")
    elsewhere = "://" in name or slashed.startswith("/") or slashed[1:3] == ":/"
    for part in (name, slashed, *([slashed.rsplit("/", 1)[-1]] if elsewhere else [])):
        if part and (folder / part).is_file():
            return folder / part
    return None
