"""Perfect predictions of every data set kind, in every format of predictions, with odd names: 100 %, or an error."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_problems import truth_of

from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.formats import render
from eval.predictions.pictures import match_names, match_numbers
from eval.predictions.readers import read_predictions
from eval.protocols import evaluate

SIDE = 64
CLASSES = ("thing", "other thing")


class Place(NamedTuple):
    """One object: the picture's path without and with suffix, its number, a label, a half-open box."""

    name: str
    file: str
    number: int
    label: int
    box: tuple[int, int, int, int]


NAMES: dict[str, tuple[str, ...]] = {
    "plain": ("a", "b", "c"),
    "digits": ("000002", "000003", "000005", "000007"),
    "small digits": ("2", "1", "3"),
    "equal names": ("clip1/0001", "clip2/0001", "clip2/0002"),
    "some in folders": ("1", "x/1", "x/2"),
    "blanks": ("my photo 1", "my photo 2", "my"),
    "dots": ("a.b", "a.c", "a", "a.jpg"),
    "unicode": ("für", "fur", "日本", "fu\u0308r2"),
}


def objects(names: Sequence[str]) -> list[Place]:
    """Return an object a picture, each at another place and of the two classes in turn."""
    return [
        Place(name, f"{name}.png", number, 1 + number % 2, (3 * number, 2, 3 * number + 30, 40))
        for number, name in enumerate(sorted(names), 1)
    ]


def as_coco(folder: Path, places: Sequence[Place], first: int = 1, step: int = 1) -> Path:
    images = [
        {"id": first + step * i, "file_name": p.file, "width": SIDE, "height": SIDE} for i, p in enumerate(places)
    ]
    boxes = [(p.box[0], p.box[1], p.box[2] - p.box[0], p.box[3] - p.box[1]) for p in places]
    annotations = [
        {"id": i + 1, "image_id": images[i]["id"], "category_id": p.label, "bbox": list(boxes[i])}
        for i, p in enumerate(places)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    path = folder / "gt.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def as_coco_with_other_ids(folder: Path, places: Sequence[Place]) -> Path:
    return as_coco(folder, places, first=len(places), step=-1)


def as_voc(folder: Path, places: Sequence[Place]) -> Path:
    for p in places:
        path = folder / "Annotations" / f"{p.name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        x1, y1, x2, y2 = p.box
        path.write_text(
            f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size><object><name>"
            f"{CLASSES[p.label - 1]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
            f"<ymax>{y2}</ymax></bndbox></object></annotation>"
        )
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


def as_voc_with_pictures(folder: Path, places: Sequence[Place]) -> Path:
    pictures(folder / "JPEGImages", places)
    return as_voc(folder, places)


def as_yolo(folder: Path, places: Sequence[Place]) -> Path:
    pictures(folder / "images" / "val", places)
    for p in places:
        path = folder / "labels" / "val" / f"{p.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        x1, y1, x2, y2 = (side / SIDE for side in p.box)
        path.write_text(f"{p.label - 1} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


def pictures(folder: Path, places: Sequence[Place]) -> None:
    for p in places:
        path = folder / p.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE)).save(path)


KINDS: dict[str, Callable[[Path, Sequence[Place]], Path]] = {
    "coco": as_coco,
    "coco with other ids": as_coco_with_other_ids,
    "voc": as_voc,
    "voc with pictures": as_voc_with_pictures,
    "yolo": as_yolo,
}

# what tools call a picture
SPELLINGS: dict[str, Callable[[Place], str]] = {
    "path": lambda p: p.file,
    "path without suffix": lambda p: p.name,
    "longer path": lambda p: f"/data/held out/{p.file}",
    "of Windows": lambda p: "C:\\data\\" + p.file.replace("/", "\\"),
    "file name": lambda p: Path(p.file).name,
    "stem": lambda p: Path(p.name).name,
    "other suffix": lambda p: f"{p.name}.jpeg",
}


def csv(folder: Path, places: Sequence[Place], column: str, named: Callable[[Place], str]) -> Path:
    path = folder / "p.csv"
    rows = [f'"{named(p)}","{CLASSES[p.label - 1]}",0.9,{",".join(map(str, p.box))}' for p in places]
    path.write_text("\n".join([f"{column},class,score,x1,y1,x2,y2", *rows]) + "\n")
    return path


def parquet(folder: Path, places: Sequence[Place], column: str, named: Callable[[Place], str | int]) -> Path:
    path = folder / "p.parquet"
    sides = {side: [float(p.box[i]) for p in places] for i, side in enumerate(("x1", "y1", "x2", "y2"))}
    table = {column: [named(p) for p in places], "label": [p.label for p in places], "score": [0.9] * len(places)}
    pq.write_table(pa.table({**table, **sides}), path)
    return path


def coco(folder: Path, places: Sequence[Place], named: Callable[[Place], str | int | float]) -> Path:
    path = folder / "p.json"
    entries = [
        {
            "image_id": named(p),
            "category_id": p.label,
            "bbox": [p.box[0], p.box[1], p.box[2] - p.box[0], p.box[3] - p.box[1]],
            "score": 0.9,
        }
        for p in places
    ]
    path.write_text(json.dumps(entries))
    return path


def found(p: Place) -> Detections:
    return Detections(
        np.array([p.box], np.float32), np.array([0.9]), np.array([p.label]), np.array([1]), (SIDE, SIDE), CLASSES
    )


def jsonl(folder: Path, places: Sequence[Place], named: Callable[[Place], str]) -> Path:
    path = folder / "p.jsonl"
    path.write_text("".join(render(found(p), "json", named(p), p.number) + "\n" for p in places))
    return path


def xml(folder: Path, places: Sequence[Place], named: Callable[[Place], str]) -> Path:
    path = folder / "p.xml"
    path.write_text("".join(render(found(p), "voc", named(p), p.number) + "\n" for p in places))
    return path


def voc_results(folder: Path, places: Sequence[Place], named: Callable[[Place], str]) -> Path:
    (folder / "results").mkdir(exist_ok=True)
    for label, name in enumerate(CLASSES, 1):
        rows = [(named(p), (p.box[0] + 1, p.box[1] + 1, *p.box[2:])) for p in places if p.label == label]
        text = "".join(f"{picture} 0.9 {' '.join(map(str, box))}\n" for picture, box in rows)
        (folder / "results" / f"comp4_det_val_{name.replace(' ', '_')}.txt").write_text(text)
    return folder / "results"


def ilsvrc(folder: Path, places: Sequence[Place], number: Callable[[Place], int]) -> Path:
    path = folder / "p.txt"
    rows = [f"{number(p)} {p.label} 0.9 {p.box[0] + 1} {p.box[1] + 1} {p.box[2]} {p.box[3]}\n" for p in places]
    path.write_text("".join(rows))
    return path


BY_NAME: dict[str, Callable[[Path, Sequence[Place], Callable[[Place], str]], Path]] = {
    "csv": lambda f, p, named: csv(f, p, "picture", named),
    "csv, image_id": lambda f, p, named: csv(f, p, "image_id", named),
    "parquet": lambda f, p, named: parquet(f, p, "picture", named),
    "coco": coco,
    "json": jsonl,
    "xml": xml,
    "voc": voc_results,
}
BY_NUMBER: dict[str, Callable[[Path, Sequence[Place], Callable[[Place], int]], Path]] = {
    "csv": lambda f, p, number: csv(f, p, "image_id", lambda place: str(number(place))),
    "csv, 1.0": lambda f, p, number: csv(f, p, "image_id", lambda place: f"{number(place)}.0"),
    "parquet": lambda f, p, number: parquet(f, p, "image_id", number),
    "coco": coco,
    "coco, 1.0": lambda f, p, number: coco(f, p, lambda place: float(number(place))),
    "ilsvrc": ilsvrc,
}


def score(truth: GroundTruth, path: Path, by: str = "auto") -> float | None:
    """Return the mAP in per cent, None where the file is refused in one line."""
    try:
        predictions, _ = read_predictions(path, truth, by=by)
    except ValueError as error:
        assert str(path) in str(error) and ";" in str(error) and "\n" not in str(error), error
        return None
    return 100 * evaluate("voc10", truth, predictions).mean_ap


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_perfect_predictions_have_100_percent_or_are_refused(kind: str, names: str, tmp_path: Path) -> None:
    places = objects(NAMES[names])
    truth = read_dataset(KINDS[kind](tmp_path, places))
    number = dict(zip(truth.names, truth.numbers.tolist(), strict=True))
    short = len(set(map(SPELLINGS["stem"], places))) == len(places)
    own = {p.name: number.get(p.name, number.get(Path(p.name).name)) for p in places}
    parts = (places, places[1:])
    for (format, write), (spelling, named), some in itertools.product(BY_NAME.items(), SPELLINGS.items(), parts):
        if format == "voc" and any(" " in named(p) for p in some):
            continue  # a test of its own
        if format == "coco" and kind == "yolo":
            continue  # classes are numbered otherwise
        percent = score(truth, write(tmp_path, some, named))
        full = percent is not None and percent == pytest.approx(100 * recall(places, some))
        assert percent is None or full, (format, spelling, len(some), percent)
        if format == "csv, image_id" and named(places[0]).isdecimal():
            continue  # numbers, as below
        if some is places and names != "dots" and (spelling == "path" or (short and names != "some in folders")):
            assert full, (format, spelling)  # nothing is ambiguous here
    for (format, write_numbers), some in itertools.product(BY_NUMBER.items(), parts):
        for what, by in (("number", own), ("name", {p.name: p.name for p in places})):
            if not all(str(by[p.name]).isdecimal() for p in some):
                continue
            if format.startswith("coco") and kind == "yolo":
                continue
            path = write_numbers(tmp_path, some, lambda p, by=by: int(by[p.name]))  # type: ignore[misc]
            percent = score(truth, path)
            right = pytest.approx(100 * recall(places, some))
            assert percent is None or percent == right, (format, what, len(some), percent)
            assert score(truth, path, what) in (right, right if short else None), (format, what)


def recall(places: Sequence[Place], some: Sequence[Place]) -> float:
    """Return the mean over the classes of the part of objects that are found, which is the AP without mistakes."""
    parts = [
        sum(p.label == label for p in some) / count
        for label in (1, 2)
        if (count := sum(p.label == label for p in places))
    ]
    return sum(parts) / len(parts)


def set_of(files: Sequence[str], numbers: Sequence[int]) -> GroundTruth:
    return truth_of([], len(files), names=tuple(files), files=tuple(files), numbers=np.array(numbers))


def test_digits_are_names_where_all_are_names() -> None:
    data = set_of(("000002.jpg", "000003.jpg", "000005.jpg"), (1, 2, 3))
    assert match_numbers(data, np.array([5, 2, 3, 2]), "p").tolist() == [2, 0, 1, 0]
    assert match_numbers(data, np.array([1, 2]), "p").tolist() == [0, 1]  # no file is named 1
    with pytest.raises(ValueError, match=r"p: its 2 picture numbers can be .* 2 is '000002.jpg' by name, '000003.jpg'"):
        match_numbers(data, np.array([2, 3]), "p")
    assert match_numbers(data, np.array([2, 3]), "p", "name").tolist() == [0, 1]
    assert match_numbers(data, np.array([2, 3]), "p", "number").tolist() == [1, 2]
    with pytest.raises(ValueError, match="--image-id"):  # by neither are all pictures
        match_numbers(data, np.array([1, 5]), "p")


def test_names_of_other_folders_are_of_other_pictures() -> None:
    data = set_of(("x/1.jpg", "x/2.jpg"), (1, 2))
    assert match_names(data, ["all/x/1.jpg", "all/z/2.jpg"], "p").tolist() == [0, -1]
    assert match_names(data, ["images/1.jpg", "images/2.jpg"], "p").tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"p: y/1.jpg and z/1.jpg both fit the picture x/1.jpg"):
        match_names(data, ["y/1.jpg", "z/1.jpg"], "p")


def test_names_that_fit_several() -> None:
    paths = (Path("/data/a/x.jpg"), Path("/data/b/x.jpg"), Path("/data/one/y.png"))
    data = truth_of([], 3, names=("a/x", "b/x", "y"), paths=paths)

    def found(*names: str) -> list[int]:
        return match_names(data, names, "p").tolist()

    assert found("b/x.jpg", "deep/a/x.jpg", "two/y.png", "one/y.png") == [1, 0, -1, 2]
    assert found("y.png", "one/y.png", "two/y.png") == [2, -1, -1]
    assert found("/data/a/x.jpg", "z/a/x.jpg") == [0, -1]
    with pytest.raises(ValueError, match=r"1 of 2 names fit several pictures, such as 'x.jpg' both a/x and b/x; write"):
        found("a/x.jpg", "x.jpg")
    with pytest.raises(ValueError, match=r"two/y.png and three/y.png both fit the picture y"):
        found("two/y.png", "three/y.png")
