"""An image is uint8 RGB [H, W, 3]; any image file is read as one, upright and opaque, or one line says why not."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import stat
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

Image = npt.NDArray[np.uint8]  # [H, W, 3]
T = TypeVar("T")

MAX_PIXELS = 100_000_000
MAX_BYTES = 2**30  # of an encoded picture that comes from a stream
WHITE = 255
RESAVE = "save it again as an 8-bit JPEG or PNG"

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"ftypavi": "AVIF",  # from the fourth byte on, as the next
    b"jP  ": "JPEG 2000",
}

ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF: the orientations that swap width and height

_pillow_limit = threading.Lock()  # Pillow keeps its limit of pixels in a module variable


logging.getLogger("PIL").addHandler(logging.NullHandler())  # one line of ours says what is wrong with a picture


class ImageError(ValueError):
    """A picture that cannot be used: `name` of the file and a `reason` of one line that tells the cure."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def check_image(image: npt.NDArray[np.generic]) -> None:
    """Raise ValueError unless `image` is uint8 RGB [H, W, 3] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"an image must be uint8 RGB [height, width, 3] with at least one pixel, "
            f"got {image.dtype} {list(image.shape)}"
        )


def read_image(source: str | os.PathLike[str] | bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the picture in the file `source`, or encoded in the bytes `source`, as uint8 RGB [H, W, 3], C order.

    The EXIF rotation is applied, transparent pixels lie on white, 16 bits are scaled to 8, of an animation the first
    frame is taken. Raises: ImageError for a missing, unreadable, empty, truncated or damaged file, one that is no
    picture or no regular file (a pipe might never end), and a picture of more than `max_pixels` pixels; the
    header says so before anything is decoded.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "picture", max_pixels, _pixels)
    return _read_file(os.fspath(source), max_pixels, _pixels)


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height of an upright picture, from its header alone. Raises: ImageError as `read_image`."""
    with warnings.catch_warnings(action="ignore"):
        return _read_file(os.fspath(path), sys.maxsize, _size)


def _read_file(name: str, max_pixels: int, take: Callable[[Pillow.Image, str], T]) -> T:
    """Return what `take` makes of the picture in a file; raise ImageError."""
    try:
        check_file(name, "a picture", " file, or - for standard input")
        with Path(name).open("rb") as file:
            return _read(file, name, max_pixels, take)
    except PermissionError:
        raise ImageError(name, "permission denied; make it readable (chmod u+r)") from None
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror or error}") from None


def check_file(name: str, wanted: str, rest: str = " file") -> None:
    """Raise ImageError unless `name` is a regular file (a pipe might never end); `wanted`, `rest`: what to give."""
    try:
        mode = Path(name).stat().st_mode
    except FileNotFoundError:
        raise ImageError(name, "no such file") from None
    except PermissionError:
        raise ImageError(name, "permission denied; make it readable (chmod u+r)") from None
    except OSError as error:
        raise ImageError(name, f"cannot be read: {error.strerror or error}") from None
    if stat.S_ISDIR(mode):
        raise ImageError(name, f"is a folder; give {wanted} inside it")
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise ImageError(name, f"is a {kind}; give {wanted}{rest}")


def read_stream(file: IO[bytes], name: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return what is left in the open `file`; raise ImageError, naming it `name`, for more than `max_bytes`."""
    data = io.BytesIO()
    while chunk := file.read(2**20):
        if data.tell() + len(chunk) > max_bytes:
            raise ImageError(name, f"does not end within {max_bytes:,} bytes; save it as a file and give that")
        data.write(chunk)
    return data.getvalue()


def _read(file: IO[bytes], name: str, max_pixels: int, take: Callable[[Pillow.Image, str], T]) -> T:
    """Return what `take` makes of the picture in the open `file`; raise ImageError."""
    start = file.read(16)
    if not start:
        raise ImageError(name, "is empty (0 bytes)")
    file.seek(0)
    try:
        with _open_header(file, max_pixels) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(name, image.width * image.height, max_pixels)
            if image.format == "EPS":  # Pillow would run Ghostscript on it
                raise ImageError(name, "is an EPS drawing, not a picture; save it as PNG")
            return take(image, name)
    except (ImageError, MemoryError):
        raise
    except Pillow.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(name, int(found[0]) if found else max_pixels + 1, max_pixels) from None
    except UnidentifiedImageError:
        raise ImageError(name, _not_identified(start)) from None
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        if "truncated" in str(error).lower() or isinstance(error, EOFError | struct.error):
            raise ImageError(name, "is truncated: the file ends too early; copy or download it again") from error
        raise ImageError(name, f"is damaged ({' '.join(str(error).split())}); {RESAVE}") from error


def _open_header(file: IO[bytes], max_pixels: int) -> Pillow.Image:
    """Return the picture with only its header read, under our own limit in place of Pillow's.

    Raises what `PIL.Image.open` raises; DecompressionBombError only for more than twice `max_pixels`.
    """
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, max_pixels
        try:
            return Pillow.open(file)
        finally:
            Pillow.MAX_IMAGE_PIXELS = limit


def _too_large(name: str, pixels: int, max_pixels: int) -> ImageError:
    return ImageError(name, f"holds {pixels:,} pixels, more than {max_pixels:,}; raise the limit with --max-pixels")


def _not_identified(start: bytes) -> str:
    """Return the reason for a file that no decoder takes, by its first bytes."""
    if start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"avis"):
        return "is a HEIC picture or a video, which cannot be read; convert it to JPEG"
    for signature, kind in SIGNATURES.items():
        if signature in (start[: len(signature)], start[4 : 4 + len(signature)]):
            return f"is a damaged {kind} file, or a kind of {kind} that cannot be read; {RESAVE}"
    return "is not a picture; JPEG, PNG, WebP, GIF, BMP, TIFF and the like are read"


def _size(image: Pillow.Image, name: str) -> tuple[int, int]:
    """Return width and height of a picture of which only the header is read, upright."""
    width, height = image.size
    return (height, width) if _orientation(image) in ON_ITS_SIDE else (width, height)


def _pixels(image: Pillow.Image, name: str) -> Image:
    """Return the picture decoded and upright, as uint8 RGB [H, W, 3]; raise ImageError."""
    image.load()
    orientation = 1
    with contextlib.suppress(OSError):
        orientation = _orientation(image)
    if orientation != 1:
        ImageOps.exif_transpose(image, in_place=True)
    return _rgb(image, name)


def _orientation(image: Pillow.Image) -> int:
    """Return how EXIF turns a picture; 1, as it is stored, where the EXIF block is garbage."""
    try:
        return int(image.getexif().get(0x0112, 1))  # EXIF 2.32, tag Orientation
    except (SyntaxError, ValueError, TypeError, struct.error):
        return 1


def _rgb(image: Pillow.Image, name: str) -> Image:
    """Return the decoded picture, of any of Pillow's modes, as uint8 RGB [H, W, 3]; raise ImageError."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _eight_bits(image, name)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        opaque = Pillow.new("RGBA", image.size, (WHITE, WHITE, WHITE, WHITE))
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    if image.mode != "RGB":
        try:
            image = image.convert("RGB")
        except ValueError:
            raise ImageError(name, f"has colours of the kind {image.mode}, which cannot be read; {RESAVE}") from None
    return np.array(image)


def _eight_bits(image: Pillow.Image, name: str) -> npt.NDArray[np.uint8]:
    """Return a grey picture of 16-bit, 32-bit or float pixels, scaled to uint8 [H, W]; raise ImageError.

    Integers span 0..65535 (a PNG, TIFF or PGM of 16 bits, whatever Pillow holds it in), floats 0..1; a picture that
    leaves its span is refused, as its white is not known.
    """
    values = np.asarray(image)  # [H, W]
    white = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= white):  # a NaN fails both
        raise ImageError(name, f"has pixels outside 0..{white:g}, so its white is not known; {RESAVE}")
    grey = np.rint(values * np.float32(WHITE / white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = WHITE
    return grey
