"""Draw boxes with captions on a picture, lay pictures out on a contact sheet, and save them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from detector.detections import Detections
from proposals.boxes import Boxes, as_boxes, descending
from proposals.files import write_bytes_atomic
from proposals.images import Image

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.int64]  # [N, 4], whole half-open pixels
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

HUE_STEP, LIGHTNESS_STEP = 0.7548776662466927, 0.5698402909980532  # R2 sequence: spreads points evenly (Roberts 2018)
LIGHTNESS = (0.58, 0.88)  # OKLab, from and to
CHROMA = 0.24  # more than sRGB holds for most hues; lowered until the colour is one of sRGB
HALO = (0, 0, 0, 110)  # a translucent dark rim, for bright lines on bright ground
PAPER, INK, LETTERBOX = (250, 250, 250), (40, 40, 40), (226, 226, 226)

FONT_SCALES = (1.0, 0.8, 0.65)  # of the caption, tried from the largest
SMALLER_FONT_COST = 0.1
LARGE_PLATE_COST = 0.2  # a doubling beyond the size of the box
HIDING_COST = 2.0  # a hidden box
SLIDE_COST = 0.02
GAP = 1  # pixels between two plates

JPEG_QUALITY = 92
JPEG_LIMIT = 65500  # the longest side libjpeg writes
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


@lru_cache(maxsize=4096)
def colour_of(label: int) -> Colour:
    """Return the sRGB colour of a class, the same in every picture: quasi-random hue and lightness in OKLab."""
    hue = 2 * math.pi * (label * HUE_STEP % 1)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * (label * LIGHTNESS_STEP % 1)
    for chroma in np.arange(CHROMA, 0, -0.01).tolist():
        linear = _linear_srgb(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
        if linear.min() >= 0 and linear.max() <= 1:
            break
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0, 1) ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(255 * np.clip(encoded, 0, 1)).astype(int).tolist()
    return red, green, blue


def draw_boxes(image: Image, boxes: Boxes, captions: Sequence[str], labels: npt.ArrayLike) -> Image:
    """Return a copy of `image` with every box in the colour of its class and its caption on a plate beside it.

    Shapes: image uint8 RGB [H, W, 3], boxes [N, 4] half-open pixels, captions and labels [N]; later boxes lie on top
    and choose the place of their plate first. Plates never leave the picture nor cover one another: where there is
    no room the caption becomes smaller or is left out, as is an empty one. What lies outside the picture is cut.
    Raises: ValueError for an image of another kind, lengths that differ, or boxes that `as_boxes` refuses.
    """
    canvas = _canvas(image)
    classes = np.asarray(labels, dtype=np.int64).reshape(-1)
    boxes = as_boxes(boxes)
    if not len(boxes) == len(captions) == len(classes):
        raise ValueError(f"{len(boxes)} boxes, {len(captions)} captions and {len(classes)} labels: not one length")
    visible, rows = _visible_pixels(boxes, canvas.width, canvas.height)
    if not len(rows):
        return np.array(canvas)
    colours = [colour_of(int(classes[row])) for row in rows]
    texts = [_one_line(captions[row]) for row in rows]
    side = math.sqrt(canvas.width * canvas.height)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for box, colour in zip(visible.tolist(), colours, strict=True):
        _outline(pen, box, colour, max(1, round(side / 260)))
    fonts = [ImageFont.load_default(max(9, round(scale * max(13.0, 0.02 * side)))) for scale in FONT_SCALES]
    sizes = np.array([[_plate_size(font, text) for text in texts] for font in fonts], dtype=np.int64)
    plates, levels = place_plates(visible, sizes, (canvas.width, canvas.height))
    for plate, level, text, colour in zip(plates.tolist(), levels.tolist(), texts, colours, strict=True):
        if level >= 0:
            pen.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=colour)
            middle = (plate[1] + plate[3]) / 2
            pen.text((plate[0] + _padding(fonts[level]), middle), text, _ink_on(colour), fonts[level], anchor="lm")
    return np.array(canvas)


def draw(image: Image, detections: Detections) -> Image:
    """Return a copy of `image` [H, W, 3] with its detections, captioned "dog 0.93", the highest scores on top.

    Raises: ValueError when the detections belong to a picture of another size.
    """
    if detections.image_size != (image.shape[1], image.shape[0]):
        size = " x ".join(map(str, detections.image_size))
        raise ValueError(f"detections on a picture of {size} do not fit one of {image.shape[1]} x {image.shape[0]}")
    rising = detections.select(descending(detections.scores)[::-1])
    captions = [f"{name} {score:.2f}" for name, score in zip(rising.names, rising.scores.tolist(), strict=True)]
    return draw_boxes(image, rising.boxes, captions, rising.labels)


def place_plates(
    boxes: Pixels, sizes: npt.NDArray[np.int64], image_size: tuple[int, int]
) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return where the caption plates go and at which font level, the last box choosing first.

    Shapes: boxes [N, 4] inside a picture of `image_size` (width, height); sizes [L, N, 2] the width and height of
    each plate at each font level -> plates [N, 4], levels [N]; a plate left out has level -1 and is empty. Each
    takes the cheapest free place: above its box before below, beside and inside, and hiding little of any box.
    """
    width, height = image_size
    plates = np.zeros((len(boxes), 4), np.int64)
    levels = np.full(len(boxes), -1, np.int64)
    areas = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1)
    taken = np.zeros((0, 4), np.int64)
    for row in range(len(boxes) - 1, -1, -1):
        places, costs, place_levels = _candidates(boxes[row], sizes[:, row], width, height)
        free = (places[:, 0] >= 0) & (places[:, 1] >= 0) & (places[:, 2] <= width) & (places[:, 3] <= height)
        free &= (places[:, 2] > places[:, 0]) & (places[:, 3] > places[:, 1])
        free &= (_shared(places, taken + np.array([-GAP, -GAP, GAP, GAP])) == 0).all(axis=1)
        if free.any():
            hidden = (_shared(places[free], boxes) / areas).sum(axis=1)
            best = np.flatnonzero(free)[np.argmin(costs[free] + HIDING_COST * hidden)]
            plates[row], levels[row] = places[best], place_levels[best]
            taken = np.concatenate([taken, places[best][None]])
    return plates, levels


def contact_sheet(images: Sequence[Image], titles: Sequence[str], columns: int, width: int) -> Image:
    """Return the pictures on one sheet `width` pixels wide, in rows of equal 4:3 cells, a title below each.

    Each picture keeps its aspect and is letterboxed on a neutral ground; a title too long for its cell is cut.
    Raises: ValueError for no pictures, another number of titles, or a width without room for the columns.
    """
    if not images or len(images) != len(titles):
        raise ValueError(f"a contact sheet needs a title for each picture, got {len(images)} and {len(titles)}")
    if columns < 1 or width < 32 * columns:
        raise ValueError(f"no room for {columns} columns in a contact sheet {width} pixels wide; allow 32 a column")
    columns = min(columns, len(images))
    gap = max(2, min(width // 100, width // (8 * columns)))
    cell_w = (width - gap * (columns + 1)) // columns
    cell_h = max(1, round(cell_w * 3 / 4))
    font = ImageFont.load_default(max(9, min(24, round(cell_w / 22))))
    strip = _plate_size(font, "Ag")[1] + gap // 2
    rows = math.ceil(len(images) / columns)
    sheet = Pillow.new("RGB", (width, gap + rows * (cell_h + strip + gap)), PAPER)
    pen = ImageDraw.Draw(sheet)
    margin = (width - columns * cell_w - (columns - 1) * gap) // 2
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        picture = _canvas(image)
        scale = min(cell_w / picture.width, cell_h / picture.height)
        size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
        picture = picture.resize(size, Pillow.Resampling.LANCZOS)
        x, y = margin + i % columns * (cell_w + gap), gap + i // columns * (cell_h + strip + gap)
        pen.rectangle((x, y, x + cell_w - 1, y + cell_h - 1), fill=LETTERBOX)
        sheet.paste(picture, (x + (cell_w - size[0]) // 2, y + (cell_h - size[1]) // 2))
        pen.text((x + cell_w / 2, y + cell_h + strip / 2), _cut(font, title, cell_w), INK, font, anchor="mm")
    return np.array(sheet)


def save_picture(path: str | Path, image: Image) -> None:
    """Write `image` uint8 RGB [H, W, 3] to `path`: .png, or .jpg of quality 92; it appears whole or not at all.

    Raises: ValueError for another suffix or a picture too large for JPEG, OSError naming the file.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"cannot write {path}: a picture is saved as .jpg or .png")
    picture = _canvas(image)
    if kind == "JPEG" and max(picture.size) > JPEG_LIMIT:
        raise ValueError(f"cannot write {path}: a JPEG has at most {JPEG_LIMIT} pixels a side; save it as .png")
    encoded = io.BytesIO()
    if kind == "JPEG":
        picture.save(encoded, kind, quality=JPEG_QUALITY, subsampling=0)  # 4:4:4 keeps thin coloured lines sharp
    else:
        picture.save(encoded, kind)
    write_bytes_atomic(path, encoded.getvalue())


def _linear_srgb(lightness: float, a: float, b: float) -> npt.NDArray[np.float64]:
    """Return linear sRGB [3] of OKLab coordinates (Ottosson 2020, "A perceptual color space for image processing")."""
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear: npt.NDArray[np.float64] = to_rgb @ (to_lms @ np.array([lightness, a, b])) ** 3
    return linear


def _ink_on(colour: Colour) -> Colour:
    """Return black or white, whichever has the higher contrast on `colour` (WCAG 2.1 relative luminance)."""
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _canvas(image: Image) -> Pillow.Image:
    """Return a Pillow copy of `image`, checked."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture must be uint8 RGB [H, W, 3], got {image.dtype} {list(image.shape)}")
    return Pillow.fromarray(np.ascontiguousarray(image)).copy()


def _visible_pixels(boxes: Boxes, width: int, height: int) -> tuple[Pixels, npt.NDArray[np.intp]]:
    """Return the pixels of the boxes that show in the picture, each at least one wide and high, and their rows."""
    limit = np.array([width, height, width, height])
    pixels = np.floor(np.clip(boxes.astype(np.float64), -2, limit + 2) + 0.5).astype(np.int64)
    pixels[:, 2:] = np.maximum(pixels[:, 2:], pixels[:, :2] + 1)
    rows = np.flatnonzero((pixels[:, 2:] > 0).all(axis=1) & (pixels[:, :2] < limit[:2]).all(axis=1))
    return np.clip(pixels[rows], 0, limit), rows


def _outline(pen: ImageDraw.ImageDraw, box: Sequence[int], colour: Colour, line: int) -> None:
    """Draw the frame of `box` inside its edges, thinner on a small box, with a dark rim on both sides."""
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1
    line = max(1, min(line, min(x2 - x1, y2 - y1) // 8))
    rim = max(1, line // 3)
    pen.rectangle((x1 - rim, y1 - rim, x2 + rim, y2 + rim), outline=HALO, width=rim)
    inner = (x1 + line, y1 + line, x2 - line, y2 - line)
    if inner[2] - inner[0] > 2 * rim and inner[3] - inner[1] > 2 * rim:
        pen.rectangle(inner, outline=HALO, width=rim)
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)


def _candidates(
    box: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], width: int, height: int
) -> tuple[Pixels, npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return places [K, 4] that touch `box` [4] for plates of `sizes` [L, 2], their costs [K] and font levels [K]."""
    x1, y1, x2, y2 = box.tolist()
    found: list[tuple[int, int, int, int, float, int]] = []
    for level, (w, h) in enumerate(sizes.tolist()):
        base = SMALLER_FONT_COST * level + LARGE_PLATE_COST * math.log2(max(1.0, w * h / ((x2 - x1) * (y2 - y1))))
        slides = np.rint(np.linspace(x1, x2 - w, 7)).astype(int).tolist()
        for cost, y in ((0.0, y1 - h), (0.1, y2), (0.2, y1), (0.25, y2 - h)):
            found += [
                (max(0, min(x, width - w)), y, w, h, base + cost + SLIDE_COST * i, level) for i, x in enumerate(slides)
            ]
        for y in (y1, y2 - h):
            y = max(0, min(y, height - h))
            found += [(x2, y, w, h, base + 0.15, level), (x1 - w, y, w, h, base + 0.15, level)]
    table = np.array(found, dtype=np.float64)
    places = table[:, :4].astype(np.int64)
    places[:, 2:] += places[:, :2]
    return places, table[:, 4], table[:, 5].astype(np.int64)


def _shared(a: Pixels, b: Pixels) -> npt.NDArray[np.int64]:
    """Return the number of pixels each box of `a` [N, 4] shares with each of `b` [M, 4] -> [N, M]."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.asarray(np.maximum(sides, 0).prod(axis=2), dtype=np.int64)


def _padding(font: Font) -> int:
    """Return the space left and right of a caption in `font`, in pixels."""
    return max(2, round(_line_height(font) / 4))


def _line_height(font: Font) -> int:
    return math.ceil(font.getbbox("Ag|")[3] - font.getbbox("Ag|")[1])


def _plate_size(font: Font, text: str) -> tuple[int, int]:
    """Return the width and height of the plate of a caption; nothing for an empty one."""
    if not text:
        return 0, 0
    return math.ceil(font.getlength(text)) + 2 * _padding(font), _line_height(font) + 2


def _one_line(text: str) -> str:
    """Return a caption that a font can draw: on one line, without halves of surrogate pairs."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _cut(font: Font, text: str, width: int) -> str:
    """Return `text` on one line, its end replaced by dots where it is wider than `width` pixels."""
    text = _one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..." if text else ""
