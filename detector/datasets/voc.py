"""Pascal VOC data sets: `Annotations/`, `JPEGImages/` and `ImageSets/Main/`, official or made in their style."""

from __future__ import annotations

from pathlib import Path

from detector.datasets.annotation_xml import XmlFiles, assemble, parse
from detector.datasets.checks import (
    DEFAULT_SPLIT,
    at,
    check_not_empty,
    check_unique,
    find_pictures,
    read_classes,
    read_words,
    wrong,
)
from detector.datasets.ground_truth import GroundTruth

# the 20 classes of VOC 2007..2012, in the order of the development kit
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(path: Path, split: str | None = None) -> GroundTruth:
    """Return a VOC data set: VOCdevkit with one year in it, VOC2007, VOC2012, or any folder of their layout.

    The pictures are those of ImageSets/Main/<split>.txt (None: val), or all annotated ones where there is no
    ImageSets. The classes are the lines of classes.txt if there is one, else VOC's 20; without ImageSets those that
    occur, sorted. Boxes are 1-based inclusive in the files. `numbers` count the pictures from 1, in their order.
    Raises: ValueError with file, line and cure; OSError.
    """
    folder = _year(path)
    sets = folder / "ImageSets" / "Main"
    files = XmlFiles([folder / "Annotations"])
    if sets.is_dir():
        source = _list_of(sets, split or DEFAULT_SPLIT)
        lines = [(words[0], line) for line, words in read_words(source)]
        names = [name for name, _ in lines]
        check_unique(names, lambda i: at(source, lines[i][1]), "picture")
    elif split not in (None, DEFAULT_SPLIT):
        raise wrong(sets, f"there is no such folder to tell split '{split}'", "make it, or give no split")
    else:
        source, names, lines = folder / "Annotations", files.names(), []
    check_not_empty(len(names), source)

    annotations = []
    for index, name in enumerate(names):
        found = files.read(name)
        if found is None:
            what = f"picture '{name}' has no {folder / 'Annotations' / name}.xml"
            raise wrong(at(source, lines[index][1]), what, "get the file, or give a split that is annotated")
        annotations.append(parse(found[1], found[0]))

    classes = read_classes(folder / "classes.txt")
    if not classes:
        classes = VOC_CLASSES if sets.is_dir() else tuple(sorted({n for a in annotations for n in a.names}))
    return assemble(
        files,
        names,
        range(1, len(names) + 1),
        find_pictures(names, [folder / "JPEGImages"], lambda i: at(source, lines[i][1]) if lines else str(source)),
        annotations,
        (classes, classes),
        {name: label for label, name in enumerate(classes, 1)},
        lambda name: f"correct it, or list the classes of your own in {folder / 'classes.txt'}, one a line",
    )


def is_voc(path: Path) -> bool:
    """Return whether a folder looks like a VOC data set."""
    return (path / "Annotations").is_dir() or any(path.glob("VOC20??/Annotations"))


def _year(path: Path) -> Path:
    """Return the folder that holds Annotations/: `path`, or the one year in it."""
    if (path / "Annotations").is_dir():
        return path
    years = [found.parent for found in sorted(path.glob("VOC20??/Annotations"))]
    if not years:
        raise wrong(path, "has no folder Annotations", "give a folder such as VOCdevkit/VOC2007")
    if len(years) > 1:
        raise wrong(path, f"holds {' and '.join(year.name for year in years)}", "give one of them")
    return years[0]


def _list_of(sets: Path, split: str) -> Path:
    path = sets / f"{split}.txt"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in sets.glob("*.txt") if "_" not in p.stem)) or "none"
        raise wrong(path, f"there is no split '{split}'", f"the splits here: {there}")
    return path
