"""The pictures of a data set for proposals used alone: their names, found in folders and lists, and their pixels."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names are found without numpy and Pillow, which --help should not wait for
    from PIL import Image as Pillow

    from proposals.images import Image

MAX_PIXELS = 100_000_000
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
OTHER_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = frozenset((*JPEG_SUFFIXES, *OTHER_SUFFIXES))
WHITE = 255
ORIENTATION = 0x0112  # EXIF 2.32, tag Orientation


class PictureError(ValueError):
    """A picture that cannot be used, or an argument that names none: one line of reason and cure, without its name."""


def read_picture(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Return the picture in the file `path` as uint8 RGB [H, W, 3], C order.

    The EXIF rotation is applied, transparent pixels lie on white, 16 bits are scaled to 8, of an animation the first
    frame is taken. Raises: PictureError for a missing, unreadable, truncated or damaged file, one that is no picture,
    and more than `max_pixels` pixels, which the header tells before anything is decoded. Pillow's own limit,
    `PIL.Image.MAX_IMAGE_PIXELS`, holds as well.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise PictureError("is no regular file")
        with Image.open(path) as picture:
            pixels = picture.width * picture.height
            if pixels > max_pixels:
                raise PictureError(f"holds {pixels:,} pixels, more than {max_pixels:,}; raise --max-pixels")
            if picture.format == "EPS":  # Pillow would run Ghostscript on it
                raise PictureError("is an EPS drawing, not a picture")
            picture.load()
            return np.array(_rgb(_upright(picture)))
    except (PictureError, MemoryError):
        raise
    except FileNotFoundError:
        raise PictureError("no such file") from None
    except PermissionError:
        raise PictureError("permission denied; make it readable (chmod u+r)") from None
    except Image.DecompressionBombError:
        raise PictureError("holds more pixels than Pillow's limit allows") from None
    except UnidentifiedImageError:
        raise PictureError("is not a picture, or is damaged") from None
    except Exception as error:  # Pillow's decoders raise what they like: OSError, SyntaxError, struct.error, ...
        if "truncated" in str(error).lower() or isinstance(error, EOFError | struct.error):
            raise PictureError("is truncated: the file ends too early; copy or download it again") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"is damaged ({reason}); save it again as JPEG or PNG") from error


def _upright(picture: Pillow.Image) -> Pillow.Image:
    """Return the picture turned as its EXIF block says; one whose block is garbage stays as it is stored."""
    from PIL import ImageOps

    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, struct.error):
        return picture
    return picture if orientation == 1 else ImageOps.exif_transpose(picture)


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    """Return a decoded picture of any of Pillow's modes as RGB; integers span 0..65535, floats 0..1."""
    import numpy as np
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):
        white = 1.0 if picture.mode == "F" else 65535.0
        values = np.asarray(picture)
        if not (values.min() >= 0 and values.max() <= white):  # a NaN fails both
            raise PictureError(f"has pixels outside 0..{white:g}, so its white is not known; save it as 8-bit PNG")
        picture = Image.fromarray(np.rint(values * np.float32(WHITE / white)).astype(np.uint8))
    if picture.has_transparency_data:
        opaque = Image.new("RGBA", picture.size, (WHITE, WHITE, WHITE, WHITE))
        opaque.alpha_composite(picture.convert("RGBA"))
        picture = opaque
    return picture.convert("RGB")


def find_pictures(argument: str) -> Iterator[Path]:
    """Yield the pictures that `argument` names: a file, a folder with all below it, or a pattern (`*`, `?`, `**`).

    Folders and patterns yield files with a picture's suffix, in natural order, without hidden ones; a folder's own
    pictures come before those of its subfolders. A file is taken whatever its suffix.
    Raises: PictureError where there is none.
    """
    path = Path(argument)
    found = False
    if path.is_dir():
        for picture in _walk(path):
            found = True
            yield picture
        if not found:
            raise PictureError("no pictures in this folder (looked for .jpg, .png, .webp, .tif and the like)")
    elif argument and (os.path.lexists(path) or not re.search(r"[*?[]", argument)):
        yield path  # reading it tells whether it is there
    else:
        root = Path(path.anchor)
        parts = path.parts[bool(path.anchor) :]
        try:
            matches = sorted(root.glob("/".join(parts)), key=lambda match: [natural(part) for part in match.parts])
        except (ValueError, IndexError) as error:
            raise PictureError(f"no such file, and no pattern either: {error}") from None
        for match in matches:
            hidden = any(part.startswith(".") and part not in parts for part in match.parts)
            if match.suffix.casefold() in SUFFIXES and not hidden and match.is_file():
                found = True
                yield match
        if not found:
            raise PictureError("no such file, and as a pattern it matches no picture")


def read_list(path: Path) -> list[str]:
    """Return the paths in a text file, one a line, blank lines left out; raise OSError."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]


def picture_id(path: Path, root: Path | None = None) -> str:
    """Return the name that a picture has in a file of proposals: its path with `/`, below `root` where that is given.

    Links are not followed. Raises: PictureError for a picture outside `root`, and for a name that is not UTF-8.
    """
    if root is not None:
        try:
            path = Path(os.path.normpath(path.absolute())).relative_to(os.path.normpath(root.absolute()))
        except ValueError:
            raise PictureError(f"is not below --root {root}") from None
    name = path.as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise PictureError("has a name that is not valid text; rename it") from None
    return name


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sorting key by which `img2` comes before `img10`, and upper and lower case stand together."""
    parts = re.split(r"([0-9]+)", name.casefold())  # text and digits in turn, text first
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def _walk(top: Path) -> Iterator[Path]:
    """Yield the pictures of a folder, then those of its subfolders; a folder reached twice by links comes once."""
    waiting, visited = [top], set[str]()
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        try:
            names = [path for path in folder.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise PictureError(f"the folder {folder} cannot be read: {error.strerror}") from None
        folders = []
        for path in sorted(names, key=lambda path: natural(path.name)):
            if path.is_dir():
                folders.append(path)
            elif path.suffix.casefold() in SUFFIXES:
                yield path
        waiting += reversed(folders)
