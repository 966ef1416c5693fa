"""The formats in which detections are written: one file a picture, or one document of all pictures."""

from __future__ import annotations

from detector.detections import Detections
from detector.formats.writers import (
    CSV_HEADER,
    coco_entries,
    csv_rows,
    to_coco,
    to_csv,
    to_ilsvrc,
    to_json,
    to_voc,
    to_yolo,
)

FORMATS: tuple[str, ...] = ("json", "csv", "coco", "ilsvrc", "voc", "yolo")
SUFFIX: dict[str, str] = {
    "json": ".json",
    "csv": ".csv",
    "coco": ".json",
    "ilsvrc": ".txt",
    "voc": ".xml",
    "yolo": ".txt",
}


def render(detections: Detections, format: str, picture: str, image_id: int) -> str:
    """Return the content of a file of its own for one picture, valid alone, in one of FORMATS.

    `picture` names it in json, csv and voc, `image_id` in coco and ilsvrc; yolo names it by the file's name.
    Raises: ValueError for an unknown format.
    """
    match format:
        case "json":
            return to_json(detections, picture)
        case "csv":
            return to_csv(detections, picture)
        case "coco":
            return to_coco(detections, image_id)
        case "ilsvrc":
            return to_ilsvrc(detections, image_id)
        case "voc":
            return to_voc(detections, picture)
        case "yolo":
            return to_yolo(detections)
    raise _unknown(format)


def stream_start(format: str) -> str:
    """Return what stands before the first picture of a document of many, which `stream_item` and `stream_end` go on.

    json: a line a picture; csv: the header once; coco: one list; ilsvrc: lines; voc: an annotation each; yolo: lines
    after a comment that names the picture. Raises: ValueError for an unknown format.
    """
    if format not in FORMATS:
        raise _unknown(format)
    return {"csv": CSV_HEADER, "coco": "["}.get(format, "")


def stream_item(detections: Detections, format: str, picture: str, image_id: int, first: bool) -> str:
    """Return the part of one picture of a stream; `first` while all parts before it were empty (COCO's commas)."""
    match format:
        case "csv":
            return csv_rows(detections, picture)
        case "coco":
            entries = ",\n".join(coco_entries(detections, image_id))
            return f"{'' if first else ','}\n{entries}" if entries else ""
        case "yolo":
            return f"# {' '.join(picture.splitlines())}\n{to_yolo(detections)}"
    return render(detections, format, picture, image_id)


def stream_end(format: str) -> str:
    """Return what stands after the last picture of a stream."""
    if format not in FORMATS:
        raise _unknown(format)
    return "\n]\n" if format == "coco" else ""


def _unknown(format: str) -> ValueError:
    return ValueError(f"unknown format '{format}'; choose one of {', '.join(FORMATS)}")
