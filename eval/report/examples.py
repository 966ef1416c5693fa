"""Example pictures: the best, the worst and the most confidently wrong ones, with their boxes."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFont

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from detector.drawing import place_plates
from eval.errors.confusion import best_score
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE, Evaluation
from eval.summary import Scored
from proposals.console import printable
from proposals.images import Image, ImageError, read_image

LONGEST_SIDE = 480  # pixels of a picture in the page
JPEG_QUALITY = 80
TRIES = 5  # pictures that may fail to be read for each that is wanted
MOST_BOXES = 40  # of one style in a picture; the lists below it name all
FONT_SIZE, PLATE_HEIGHT = 15, 20  # of captions, in pixels of the picture in the page
LONGEST_CAPTION = 22
# Style of each kind of box in page.css, its mark, and what the legend says:
STYLES = {
    "truth": ("", "object, found (dashed)"),
    "missed": ("?", "object, missed (heavy dashes)"),
    "ignored": ("", "object that does not count (dots)"),
    "hit": ("✓", "prediction, right (solid)"),
    "wrong": ("×", "prediction, wrong (heavy solid)"),
    "accused": ("×", "the wrong prediction meant (double)"),
}
LISTS = (("Wrong", ("accused", "wrong")), ("Missed", ("missed",)), ("Right", ("hit",)), ("Not counted", ("ignored",)))


@dataclass(frozen=True, eq=False)
class PictureScores:
    """The F1 of each of P pictures among the predictions of at least `threshold`.

    F1 = 2 hits / (2 hits + wrong + missed), float64 [P], nan where nothing counts; hits, wrong, missed: int64 [P].
    """

    threshold: float
    f1: Doubles
    hits: Longs
    wrong: Longs
    missed: Longs


@dataclass(frozen=True, eq=False)
class Marked:
    """Boxes of one style on one picture: boxes [K, 4], captions [K] ("" for none), texts [K] for the list below."""

    style: str
    boxes: Doubles
    captions: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Rectangle:
    """A box, or with a text a caption's plate, in the units of the picture in the page."""

    style: str
    x: float
    y: float
    width: float
    height: float
    text: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture of the page: JPEG in base64, its boxes and plates, and the texts below it with how often each comes."""

    name: str
    jpeg: str
    width: int
    height: int
    rectangles: tuple[Rectangle, ...]
    hits: int
    wrong: int
    missed: int
    f1: float
    lists: tuple[tuple[str, dict[str, int]], ...]


@dataclass(frozen=True)
class Examples:
    """rows: the best, the worst and the most confidently wrong pictures; failures: why some could not be read."""

    rows: tuple[tuple[Figure, ...], ...]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A picture to show, and the row of the false positive that it illustrates."""

    picture: int
    accused: int | None = None


def score_pictures(truth: GroundTruth, predictions: Predictions, evaluation: Evaluation) -> PictureScores:
    """Return the score of each picture, at the threshold that makes F1 largest over all of them.

    One threshold for all classes, as a user of the detector sets it; infinity without a hit.
    """
    matches, count = evaluation.matches, len(truth.names)
    threshold = best_score(predictions.scores, matches)
    kept = predictions.scores >= threshold
    hits = np.bincount(predictions.pictures[kept & (matches.outcome == TRUE_POSITIVE)], minlength=count)
    wrong = np.bincount(predictions.pictures[kept & (matches.outcome == FALSE_POSITIVE)], minlength=count)
    missed = np.bincount(truth.pictures[matches.counted], minlength=count) - hits
    total = 2 * hits + wrong + missed
    f1 = np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)
    return PictureScores(threshold, f1, hits, wrong, missed)


def best_pictures(scores: PictureScores) -> Longs:
    """Return the pictures with a hit, the highest F1 first, of equal ones that with the most hits."""
    order = np.lexsort((-scores.hits, -scores.f1))
    return order[scores.hits[order] > 0]


def worst_pictures(scores: PictureScores) -> Longs:
    """Return the pictures with an error, the lowest F1 first, of equal ones that with the most errors."""
    errors = scores.wrong + scores.missed
    order = np.lexsort((-errors, scores.f1))
    return order[errors[order] > 0]


def confident_errors(predictions: Predictions, evaluation: Evaluation) -> Longs:
    """Return the false positive of the highest score of each picture that has one, the highest first: rows."""
    rows = np.flatnonzero(evaluation.matches.outcome == FALSE_POSITIVE)
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    first = np.unique(predictions.pictures[rows], return_index=True)[1]
    return rows[np.sort(first)]


def examples(scored: Scored, scores: PictureScores, limit: int) -> Examples:
    """Return up to `limit` pictures for each of the three rows; those that cannot be read give way to others."""
    truth, predictions = scored.truth, scored.predictions
    best = [_Candidate(i) for i in best_pictures(scores).tolist()]
    worst = [_Candidate(i) for i in worst_pictures(scores).tolist()]
    wrong = [
        _Candidate(int(predictions.pictures[row]), row)
        for row in confident_errors(predictions, scored.evaluation).tolist()
    ]
    on_disk = np.array([path is not None for path in truth.paths], np.bool_)
    half = -(-int(np.isfinite(scores.f1[on_disk]).sum()) // 2)  # of a small data set, so that some are the worst
    failures: dict[int, str] = {}
    best_read = _readable(best, truth, min(limit, half), failures)
    seen = {candidate.picture for candidate, _ in best_read}
    worst_read = _readable([each for each in worst if each.picture not in seen], truth, limit, failures)
    wrong_read = _readable(wrong, truth, limit, failures)
    rows = tuple(
        tuple(_figure(candidate, image, scored, scores) for candidate, image in row)
        for row in (best_read, worst_read, wrong_read)
    )
    return Examples(rows, tuple(failures.values()))


def _readable(
    candidates: Sequence[_Candidate], truth: GroundTruth, limit: int, failures: dict[int, str]
) -> list[tuple[_Candidate, Image]]:
    """Return the first `limit` candidates whose picture can be read; fill `failures`: why a picture cannot."""
    found: list[tuple[_Candidate, Image]] = []
    candidates = [each for each in candidates if truth.paths[each.picture] is not None]
    for candidate in candidates[: TRIES * limit]:
        path = truth.paths[candidate.picture]
        if len(found) == limit or path is None or candidate.picture in failures:
            continue
        try:
            found.append((candidate, read_image(path)))
        except ImageError as error:
            failures[candidate.picture] = f"{path.name}: {error.reason}"
    return found


def _figure(candidate: _Candidate, image: Image, scored: Scored, scores: PictureScores) -> Figure:
    """Return a picture with its boxes and the lists that name all of them."""
    i = candidate.picture
    marks = picture_marks(i, scored, scores.threshold, candidate.accused)
    jpeg, size, scale = _jpeg(image)
    lists = []
    for title, styles in LISTS:
        counts = Counter(text for style in styles for mark in marks if mark.style == style for text in mark.texts)
        if counts:
            lists.append((title, dict(counts)))
    return Figure(
        scored.truth.names[i],
        jpeg,
        *size,
        _rectangles(marks, size, scale),
        int(scores.hits[i]),
        int(scores.wrong[i]),
        int(scores.missed[i]),
        float(scores.f1[i]),
        tuple(lists),
    )


def picture_marks(i: int, scored: Scored, threshold: float, accused: int | None = None) -> tuple[Marked, ...]:
    """Return the boxes of picture `i`: its ground truth, and its predictions of at least `threshold`.

    The false positive in row `accused` of the predictions is there at any score.
    """
    truth, predictions, matches = scored.truth, scored.predictions, scored.evaluation.matches
    analysis = scored.analysis
    rows = np.flatnonzero((predictions.pictures == i) & (matches.outcome != NOT_COUNTED))
    rows = rows[predictions.scores[rows] >= threshold]
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    hits = rows[matches.outcome[rows] == TRUE_POSITIVE]
    wrong = rows[(matches.outcome[rows] == FALSE_POSITIVE) & (rows != accused)]
    meant = np.array([] if accused is None else [accused], np.int64)
    objects = np.arange(len(truth))[truth.of_picture(i)]
    found = np.isin(objects, matches.taken[hits])
    counts = matches.counted[objects]

    def predicted(style: str, chosen: Longs) -> Marked:
        names = [truth.class_names[label - 1] for label in predictions.labels[chosen]]
        said = [f"{name} {score:.2f}" for name, score in zip(names, predictions.scores[chosen].tolist(), strict=True)]
        captions = tuple(f"{STYLES[style][0]} {text}" for text in said)
        if analysis is not None:
            said = _with_kinds(said, analysis.false_positive_kind[chosen].tolist(), analysis.false_positive_kinds)
        return Marked(style, predictions.boxes[chosen], captions, tuple(said))

    def annotated(style: str, chosen: Longs) -> Marked:
        names = [truth.class_names[label - 1] for label in truth.labels[chosen]]
        captions = tuple(f"? {name}" if style == "missed" else "" for name in names)
        if style == "missed" and analysis is not None:
            names = _with_kinds(names, analysis.miss_kind[chosen].tolist(), analysis.miss_kinds)
        return Marked(style, truth.boxes[chosen], captions, tuple(names) if style != "truth" else ())

    return (
        annotated("ignored", objects[~counts]),
        annotated("truth", objects[counts & found]),
        predicted("hit", hits),
        annotated("missed", objects[counts & ~found]),
        predicted("wrong", wrong),
        predicted("accused", meant),
    )


def _with_kinds(texts: list[str], kinds: list[int], names: tuple[str, ...]) -> list[str]:
    """Return the texts with the kind of error in brackets where there is one."""
    return [f"{text} ({names[kind]})" if kind >= 0 else text for text, kind in zip(texts, kinds, strict=True)]


def _jpeg(image: Image) -> tuple[str, tuple[int, int], float]:
    """Return the picture as JPEG in base64, its width and height there, and the scale from the original."""
    picture = Pillow.fromarray(image)
    scale = min(1.0, LONGEST_SIDE / max(picture.size))
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    if size != picture.size:
        picture = picture.resize(size, Pillow.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii"), size, scale


def _rectangles(marks: Sequence[Marked], size: tuple[int, int], scale: float) -> tuple[Rectangle, ...]:
    """Return the boxes, then the plates of the captions that find room."""
    width, height = size
    found: list[Rectangle] = []
    placed: list[Longs] = []
    captions: list[tuple[str, str]] = []
    for mark in marks:
        boxes = np.clip(scale * mark.boxes[:MOST_BOXES], 0, [width, height, width, height])
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)  # a prediction may be inverted
        for box, caption in zip(boxes, mark.captions, strict=False):
            x1, y1, x2, y2 = box.tolist()
            found.append(Rectangle(mark.style, x1, y1, x2 - x1, y2 - y1))
            if caption:
                placed.append(_whole_pixels(box, size))
                captions.append((mark.style, shortened(caption, LONGEST_CAPTION)))
    if captions:
        font = ImageFont.load_default(FONT_SIZE)
        sizes = np.array([[(ceil(font.getlength(text)) + 8, PLATE_HEIGHT) for _, text in captions]], np.int64)
        plates, levels = place_plates(np.array(placed), sizes, size)
        for (style, text), (x1, y1, x2, y2), level in zip(captions, plates.tolist(), levels.tolist(), strict=True):
            if level >= 0:
                found.append(Rectangle(style, x1, y1, x2 - x1, y2 - y1, text))
    return tuple(found)


def _whole_pixels(box: Doubles, size: tuple[int, int]) -> Longs:
    """Return the pixels of a box inside the picture, at least one wide and high."""
    low = np.minimum(np.floor(box[:2]).astype(np.int64), np.array(size) - 1)
    high = np.maximum(np.ceil(box[2:]).astype(np.int64), low + 1)
    return np.concatenate([low, np.minimum(high, size)])


def shortened(text: str, length: int) -> str:
    """Return `text` on one line, cut to `length` characters with dots."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
