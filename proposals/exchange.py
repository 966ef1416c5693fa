"""Files of proposals as other projects have them: MATLAB files of Fast R-CNN, pickles of Detectron.

Both hold the regions of a whole data set in memory. Neither tells the size of an image, or what found a region.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from proposals.boxes import from_xywh
from proposals.files import write_bytes_atomic
from proposals.image_files import SUFFIXES
from proposals.selective.ranking import rank_scores
from proposals.store import PictureProposals
from proposals.types import FILE, Proposals, from_source

MATLAB, PICKLE = (".mat",), (".pkl", ".pickle")  # suffixes
XYXY, XYWH = 0, 1  # BoxMode of Detectron2
MAKERS = ("_reconstruct", "scalar", "_frombuffer")  # what numpy names in a pickle of an array
HEADER = 116  # bytes of text that a MATLAB file begins with

Found = dict[str, Proposals]


def read_mat(path: Path) -> Found:
    """Return the proposals of a MATLAB file of Fast R-CNN, by the names of its images, in its order.

    `images`: a cell of names, often without a suffix; `boxes`: a cell with an array [N, 4] for each, y1, x1, y2, x2,
    1-based and inclusive, best first. Raises: OSError; ValueError naming the file and what is wrong with it.
    """
    from scipy.io import loadmat

    data = path.read_bytes()
    if data[:10] == b"MATLAB 7.3":
        raise ValueError(f"{path}: is a MATLAB 7.3 file, which cannot be read; save it with the option -v7")
    try:
        content = loadmat(io.BytesIO(data), variable_names=("images", "boxes"))
    except Exception as error:  # the reader raises many kinds: ValueError, TypeError, struct.error, zlib.error, ...
        raise ValueError(f"{path}: is no MATLAB file, or a damaged one ({_one_line(error)}); make it again") from error
    if missing := [name for name in ("images", "boxes") if name not in content]:
        raise ValueError(f"{path}: has no variable '{missing[0]}'; files of Fast R-CNN have images and boxes")
    names = [str(np.ravel(name)[0]) if np.size(name) else "" for name in content["images"].ravel()]
    return _collected(path, names, content["boxes"].ravel(), None, _from_mat)


def _from_mat(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if len(boxes) and boxes.min() < 1:
        raise ValueError(f"has a box at {boxes.min():g}; these files count pixels from 1")
    return np.asarray(boxes[:, [1, 0, 3, 2]] - np.array([1, 1, 0, 0]))


def read_pickle(path: Path) -> Found:
    """Return the proposals of a pickle of Detectron, by the ids of its images as text, in its order.

    A dict of lists: `boxes`, arrays [N, 4]; `scores`, arrays [N]; `ids` or `indexes`. Boxes are x1, y1, x2, y2 with
    x2, y2 the last pixel, counted from 0. Files of Detectron2 have `objectness_logits` in place of `scores`; their
    boxes are half-open, or x, y, width, height where `bbox_mode` says so. Only numpy arrays and plain containers are
    loaded, whatever else the file asks for. Raises: OSError; ValueError naming the file and what is wrong with it.
    """
    try:
        content = _Arrays(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # of a damaged pickle nearly anything
        raise ValueError(f"{path}: is no pickle of proposals, or a damaged one ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; files of Detectron hold a dict")
    second = "objectness_logits" in content
    lists: list[list[Any]] = []
    for key in ("ids" if "ids" in content else "indexes", "boxes", "objectness_logits" if second else "scores"):
        if not isinstance(content.get(key), list | tuple | np.ndarray):
            raise ValueError(f"{path}: has no list '{key}'; files of Detectron have boxes, scores, and ids or indexes")
        lists.append(list(content[key]))
    ids, boxes, scores = lists
    mode = int(content.get("bbox_mode", XYXY))
    if mode not in (XYXY, XYWH):
        raise ValueError(f"{path}: has bbox_mode {mode}; {XYXY} (xyxy) and {XYWH} (xywh) are known")

    def half_open(corners: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return from_xywh(corners) if mode == XYWH else corners if second else corners + np.array([0, 0, 1, 1])

    return _collected(path, [_text(name) for name in ids], boxes, scores, half_open)


def write_mat(path: Path, rows: Iterable[PictureProposals]) -> None:
    """Write a MATLAB file that `read_mat` and Fast R-CNN read: all boxes in the order of their scores.

    The same rows give the same bytes. Raises: OSError naming `path`; ValueError for more than the format holds.
    """
    from scipy.io import savemat

    kept = list(rows)
    images, boxes = np.empty((len(kept), 1), object), np.empty((1, len(kept)), object)
    for place, (name, row) in enumerate(zip(_short_names(kept), kept, strict=True)):
        images[place, 0] = name
        corners = row.proposals.boxes.astype(np.float64) + np.array([1, 1, 0, 0])
        boxes[0, place] = corners[:, [1, 0, 3, 2]]
    content = io.BytesIO()
    try:
        savemat(content, {"images": images, "boxes": boxes}, do_compression=True)
    except Exception as error:  # MatWriteError, OverflowError, struct.error
        raise ValueError(f"{path}: cannot be written as a MATLAB file ({_one_line(error)}); use parquet") from error
    head = b"MATLAB 5.0 MAT-file: proposals of images".ljust(HEADER)  # scipy would write the time of day
    write_bytes_atomic(path, head + content.getvalue()[HEADER:])


def write_pickle(path: Path, rows: Iterable[PictureProposals]) -> None:
    """Write a pickle that `read_pickle` and Detectron read; ids are numbers where all names are.

    The same rows give the same bytes. Raises: OSError naming `path`.
    """
    kept = list(rows)
    names: list[str] = _short_names(kept)
    content = {
        "boxes": [row.proposals.boxes.astype(np.float64) - np.array([0, 0, 1, 1]) for row in kept],
        "scores": [np.array(row.proposals.scores) for row in kept],
        "ids": [int(name) for name in names] if all(map(str.isdecimal, names)) else names,
    }
    data = pickle.dumps(content, protocol=2)
    # numpy 1 does not know the module by the name that numpy 2 gives it
    for opcode, argument, place in reversed(list(pickletools.genops(data))):
        if opcode.name == "GLOBAL" and str(argument).startswith("numpy._core.") and place is not None:
            data = data[:place] + data[place:].replace(b"numpy._core.", b"numpy.core.", 1)
    write_bytes_atomic(path, data)


class _Arrays(pickle.Unpickler):
    """Loads numpy arrays, numbers and plain containers, and runs nothing that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encoded,
            ("__builtin__", "bytes"): _no_bytes,
            ("builtins", "bytes"): _no_bytes,
        }
        place = module.replace("numpy._core.", "numpy.core.")
        if place in ("numpy.core.multiarray", "numpy.core.numeric") and name in MAKERS:
            return super().find_class("numpy._core." + place.removeprefix("numpy.core."), name)
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not loaded")
        return known[module, name]


def _encoded(text: str, encoding: str) -> bytes:
    """Return what `_codecs.encode` does with the bytes of an array, and with nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for text in {encoding}, which is not loaded")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Return what old protocols have for the bytes of an empty array."""
    return b""


def _collected(
    path: Path,
    names: Sequence[str],
    boxes: Sequence[Any],
    scores: Sequence[Any] | None,
    half_open: Callable[[npt.NDArray[np.float64]], npt.NDArray[Any]],
) -> Found:
    """Return the proposals of all images, checked; scores: None where the order of the boxes ranks them."""
    if len(names) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        raise ValueError(f"{path}: has {len(names):,} images, but boxes or scores of another number; make it again")
    found: Found = {}
    for place, name in enumerate(names):
        if name in found or not name:
            raise ValueError(f"{path}: has {f'the image {name} twice' if name else 'an image without a name'}")
        try:
            corners = np.asarray(boxes[place], np.float64)
            corners = corners.reshape(0, 4) if not corners.size else corners
            if corners.ndim != 2 or corners.shape[1] != 4:
                raise ValueError(f"its boxes have shape {list(corners.shape)}, not [N, 4]")
            corners = half_open(corners)
            values = rank_scores(len(corners))
            if scores is not None:
                values = np.asarray(scores[place], np.float32).reshape(-1)
                order = np.argsort(-values, kind="stable")
                corners, values = corners[order], values[order]
            found[name] = from_source(corners, values, FILE)
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{path}: image {name}: {_one_line(error)}") from None
    return found


def _short_names(rows: Sequence[PictureProposals]) -> list[str]:
    """Return the names of the images without folder and suffix, or with folders where two would be one."""
    paths = [PurePosixPath(row.picture) for row in rows]
    bare = [path.with_suffix("") if path.suffix.casefold() in SUFFIXES and path.stem else path for path in paths]
    stems = [path.name for path in bare]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in bare]


def _text(name: object) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
