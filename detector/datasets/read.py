"""Read an annotated data set of any known format."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from detector.datasets.checks import wrong
from detector.datasets.coco import is_coco, read_coco
from detector.datasets.ground_truth import GroundTruth
from detector.datasets.ilsvrc import SPLITS as SPLITS
from detector.datasets.ilsvrc import is_ilsvrc, read_ilsvrc
from detector.datasets.voc import is_voc, read_voc
from detector.datasets.yolo import is_yolo, read_yolo

READERS = {"ilsvrc": read_ilsvrc, "voc": read_voc, "coco": read_coco, "yolo": read_yolo}
FORMATS = ("auto", *READERS)
IN_A_FILE = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}


def read_dataset(
    path: str | Path, format: str = "auto", split: str | None = None, pictures: bool = True
) -> GroundTruth:
    """Return the ground truth at `path`, a folder or a JSON or data.yaml file; every box is checked.

    `format`: one of FORMATS; auto tells by what is there. `split`: one of SPLITS for ILSVRC, for others whatever the
    data set calls its splits. None is val; a data set without splits is val as a whole, and has no other. `pictures`:
    whether one that is missing in a folder of pictures is an error; without, its path is None.
    Raises: ValueError "place: what is wrong; what to do about it" in one line; OSError, FileNotFoundError among them.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"unknown format '{format}'; give one of {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if format == "auto":
        format = guess_format(path)
    if not path.is_dir() and IN_A_FILE.get(path.suffix.casefold(), "coco") != format:
        raise wrong(path, f"a data set of format {format} is no such file", "give its folder")
    return READERS[format](path, split, pictures)


def guess_format(path: Path) -> str:
    """Return the format of the data set at `path`. Raises: ValueError when it looks like none."""
    if not path.is_dir():
        if path.suffix.casefold() in IN_A_FILE:
            return IN_A_FILE[path.suffix.casefold()]
        raise wrong(path, "is neither a folder nor .json or .yaml", "give the folder of the data set")
    for format, fits in (("ilsvrc", is_ilsvrc), ("voc", is_voc), ("yolo", is_yolo), ("coco", is_coco)):
        if fits(path):
            return format
    looked = "det_lists (ILSVRC), Annotations (VOC), images and labels (YOLO) or a .json file (COCO)"
    raise wrong(path, "no data set is recognised here", f"give a folder with {looked}, or name the format")
