"""Example pictures with their boxes: JPEG inside the page, the boxes as SVG above it."""

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
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE
from eval.report.conditions import at_least
from eval.report.content import ReportContent
from eval.report.markup import Html, counted, element, joined, name_of, number, percent, shortened
from eval.report.pictures import PictureScores, best_pictures, confident_errors, score_pictures, worst_pictures
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


@dataclass(frozen=True, eq=False)
class Marked:
    """Boxes of one style on one picture: boxes [K, 4], captions [K] ("" for none), texts [K] for the list below."""

    style: str
    boxes: Doubles
    captions: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A picture to show, and the row of the false positive that it is shown for."""

    picture: int
    accused: int | None = None


def examples_section(content: ReportContent) -> Html:
    """Return the best, the worst and the most confidently wrong pictures; a sentence where none can be read."""
    truth = content.truth
    on_disk = np.array([path is not None for path in truth.paths], dtype=np.bool_)
    if not on_disk.any() or content.examples < 1:
        reason = "No picture files came with this data set, so there is nothing to show."
        return element("p", reason if content.examples >= 1 else "No pictures were asked for.")
    scores = score_pictures(truth, content.predictions, content.evaluation)
    best = [_Candidate(int(i)) for i in best_pictures(scores) if on_disk[i]]
    wrong = [
        _Candidate(int(content.predictions.pictures[row]), int(row))
        for row in confident_errors(content.predictions, content.evaluation)
        if on_disk[content.predictions.pictures[row]]
    ]
    failures: dict[int, str] = {}
    half = -(
        -int(np.isfinite(scores.f1[on_disk]).sum()) // 2
    )  # of a small data set, so that some are left as the worst
    best_read = _readable(best, truth, min(content.examples, half), failures)
    seen = {candidate.picture for candidate, _ in best_read}
    worst = [_Candidate(int(i)) for i in worst_pictures(scores) if on_disk[i] and int(i) not in seen]
    worst_read = _readable(worst, truth, content.examples, failures)
    wrong_read = _readable(wrong, truth, content.examples, failures)
    rows = (
        ("The best", "Pictures of the highest score, of equal ones those with the most hits.", best_read),
        ("The worst", "Pictures of the lowest score, of equal ones those with the most errors.", worst_read),
        ("Most confident and wrong", "The false positives of the highest scores, one a picture.", wrong_read),
    )
    parts = [element("p", _how(scores, content.predictions)), _box_legend()]
    for title, text, pairs in rows:
        figures = [_figure(candidate, image, content, scores) for candidate, image in pairs]
        parts += [element("h3", title), element("p", text if figures else "None.")]
        parts += [element("div", *figures, class_="gallery")] if figures else []
    if failures:
        example = next(iter(failures.values()))
        lost = f"{counted(len(failures), 'picture')} could not be read and gave way to others, for example: {example}"
        parts.append(element("p", lost, class_="note"))
    return joined(parts)


def _how(scores: PictureScores, predictions: Predictions) -> str:
    what = "The score of a picture is its F1, 2 hits / (2 hits + wrong + missed), "
    if np.isinf(scores.threshold):
        return what + "with all predictions left out, as no prediction is right."
    return (
        f"{what}among the predictions {at_least(scores.threshold, predictions.scores)}: the one threshold for all "
        "classes that makes F1 largest over the whole data set. Only those predictions are drawn, and the one that a "
        "picture is shown for."
    )


def _box_legend() -> Html:
    items = []
    for style, (mark, text) in STYLES.items():
        frame = element("rect", class_=f"box {style}", x=4, y=4, width=36, height=16)
        halo = element("rect", class_=f"halo {style}", x=4, y=4, width=36, height=16)
        sample = element(
            "svg", halo, frame, class_="swatch", viewBox="0 0 44 24", width=44, height=24, aria_hidden="true"
        )
        items.append(element("li", sample, element("span", f"{mark} {text}".strip())))
    return element("ul", *items, class_="legend boxes", aria_label="How boxes are drawn")


def _readable(
    candidates: Sequence[_Candidate], truth: GroundTruth, limit: int, failures: dict[int, str]
) -> list[tuple[_Candidate, Image]]:
    """Return the first `limit` candidates whose picture can be read; fill `failures`: why a picture cannot."""
    found: list[tuple[_Candidate, Image]] = []
    for candidate in candidates[: TRIES * limit]:
        path = truth.paths[candidate.picture]
        if len(found) == limit or path is None or candidate.picture in failures:
            continue
        try:
            found.append((candidate, read_image(path)))
        except ImageError as error:
            failures[candidate.picture] = f"{path.name}: {error.reason}"
    return found


def _figure(candidate: _Candidate, image: Image, content: ReportContent, scores: PictureScores) -> Html:
    """Return a picture with its boxes and a caption that names all of them."""
    i = candidate.picture
    marks = picture_marks(i, content, scores.threshold, candidate.accused)
    data, size, scale = _jpeg(image)
    texts = [
        element("li", element("b", f"{title}: "), _listed(marks, styles))
        for title, styles in (
            ("Wrong", ("accused", "wrong")),
            ("Missed", ("missed",)),
            ("Right", ("hit",)),
            ("Not counted", ("ignored",)),
        )
        if any(len(mark.texts) for mark in marks if mark.style in styles)
    ]
    hits, wrong, missed = int(scores.hits[i]), int(scores.wrong[i]), int(scores.missed[i])
    counts = f"{counted(hits, 'hit')}, {wrong:,} wrong, {missed:,} missed"
    score = f"F1 {percent(float(scores.f1[i]), 0)} %, " if scores.f1[i] == scores.f1[i] else ""
    width, height = size
    picture = element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        width=width,
        height=height,
        alt=f"Picture {content.truth.names[i]}: {counts}",
    )
    return element(
        "figure",
        element("div", picture, _overlay(marks, size, scale), class_="picture"),
        element(
            "figcaption",
            element("p", name_of(content.truth.names[i]), class_="name"),
            element("p", score + counts),
            element("ul", *texts) if texts else Html(""),
        ),
    )


def picture_marks(i: int, content: ReportContent, threshold: float, accused: int | None = None) -> tuple[Marked, ...]:
    """Return the boxes of picture `i`: its ground truth, and its predictions of at least `threshold`.

    The false positive in row `accused` of the predictions is there whatever its score.
    """
    truth, predictions, matches = content.truth, content.predictions, content.evaluation.matches
    analysis = content.analysis
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
            kinds = [int(kind) for kind in analysis.false_positive_kind[chosen]]
            said = [
                f"{text} ({analysis.false_positive_kinds[kind]})" if kind >= 0 else text
                for text, kind in zip(said, kinds, strict=True)
            ]
        return Marked(style, predictions.boxes[chosen], captions, tuple(said))

    def annotated(style: str, chosen: Longs) -> Marked:
        names = [truth.class_names[label - 1] for label in truth.labels[chosen]]
        captions = tuple(f"? {name}" if style == "missed" else "" for name in names)
        if style == "missed" and analysis is not None:
            kinds = [int(kind) for kind in analysis.miss_kind[chosen]]
            names = [
                f"{name} ({analysis.miss_kinds[kind]})" if kind >= 0 else name
                for name, kind in zip(names, kinds, strict=True)
            ]
        return Marked(style, truth.boxes[chosen], captions, tuple(names) if style != "truth" else ())

    return (
        annotated("ignored", objects[~counts]),
        annotated("truth", objects[counts & found]),
        predicted("hit", hits),
        annotated("missed", objects[counts & ~found]),
        predicted("wrong", wrong),
        predicted("accused", meant),
    )


def _listed(marks: Sequence[Marked], styles: tuple[str, ...]) -> Html:
    """Return the texts of these styles as one line, equal ones once with their number."""
    counts = Counter(text for style in styles for mark in marks if mark.style == style for text in mark.texts)
    parts: list[str] = []
    for text, count in counts.items():
        parts += [", "] if parts else []
        parts += [name_of(text)] + ([f" × {count}"] if count > 1 else [])
    return joined(parts)


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


def _overlay(marks: Sequence[Marked], size: tuple[int, int], scale: float) -> Html:
    """Return the boxes and their captions as SVG in the units of the picture in the page."""
    width, height = size
    shapes: list[Html] = []
    placed: list[Longs] = []
    captions: list[tuple[str, str]] = []
    for mark in marks:
        boxes = np.clip(scale * mark.boxes[:MOST_BOXES], 0, [width, height, width, height])
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)  # a prediction may be inverted
        for box, caption in zip(boxes, mark.captions, strict=False):
            x1, y1, x2, y2 = box.tolist()
            sides = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            shapes.append(element("rect", class_=f"halo {mark.style}", **sides))
            shapes.append(element("rect", class_=f"box {mark.style}", **sides))
            if caption:
                placed.append(_whole_pixels(box, size))
                captions.append((mark.style, shortened(caption, LONGEST_CAPTION)))
    if captions:
        font = ImageFont.load_default(FONT_SIZE)
        widths = [ceil(font.getlength(text)) + 8 for _, text in captions]
        sizes = np.array([[(each, PLATE_HEIGHT) for each in widths]], dtype=np.int64)
        plates, levels = place_plates(np.array(placed), sizes, size)
        for (style, text), plate, level in zip(captions, plates.tolist(), levels.tolist(), strict=True):
            if level >= 0:
                x1, y1, x2, y2 = plate
                shapes.append(element("rect", class_=f"plate {style}", x=x1, y=y1, width=x2 - x1, height=y2 - y1))
                shapes.append(
                    element("text", text, class_=f"plate-text {style}", x=x1 + 4, y=y1 + 15, textLength=x2 - x1 - 8)
                )
    return element(
        "svg", *shapes, class_="overlay", viewBox=f"0 0 {number(width)} {number(height)}", aria_hidden="true"
    )


def _whole_pixels(box: Doubles, size: tuple[int, int]) -> Longs:
    """Return the pixels of a box inside the picture, at least one wide and high."""
    low = np.minimum(np.floor(box[:2]).astype(np.int64), np.array(size) - 1)
    high = np.maximum(np.ceil(box[2:]).astype(np.int64), low + 1)
    return np.concatenate([low, np.minimum(high, size)])
