"""The HTML report: well formed, escaped, self-contained, deterministic, and whole for every odd data set."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_problems import predictions_of, truth_of

from detector.datasets.ground_truth import GroundTruth
from eval.bootstrap import bootstrap_intervals
from eval.errors.analysis import analyse
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from eval.protocols.evaluation import Evaluation, Matches
from eval.report import write_report
from eval.report.charts import LEFT, TOP, envelope, precision_at, step_path
from eval.report.context import Confusion, at_least, confused_pairs
from eval.report.examples import (
    best_pictures,
    confident_errors,
    picture_marks,
    score_pictures,
    shortened,
    worst_pictures,
)
from eval.report.page import render
from eval.summary import Scored
from proposals.boxes import Boxes

VOID = {"br", "img", "input", "meta"}
MEGABYTE = 2**20


class Page(HTMLParser):
    """Collects the elements of a page, and what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.faults: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"{tag} stays open" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) != len(attrs):
            self.faults.append(f"{tag} has an attribute twice")
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} ends where it is not open")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.text).split())


def checked(text: str) -> Page:
    """Return the page after every check that each report must pass."""
    page = Page(text)
    assert page.faults == []
    ids = [str(attributes["id"]) for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes, inside in page.elements:
        assert "style" not in attributes, "the policy of the page forbids it"
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "srcset", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            if value is not None:
                assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value[:40])
                assert not value.startswith("#") or value[1:] in ids
        for name in ("aria-labelledby", "for"):
            assert all(target in ids for target in str(attributes.get(name) or ids[0]).split())
        if tag == "input":
            labelled = any(each.get("for") == attributes.get("id") for each in page.all("label") if "for" in each)
            assert labelled or "label" in inside or "aria-label" in attributes
        if tag == "img":
            assert attributes.get("alt")
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    assert len(page.all("caption")) == len(page.all("table"))
    assert {"viewport", "color-scheme"} <= {each.get("name") for each in page.all("meta")}
    assert [each["lang"] for each in page.all("html")] == ["en"]
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(", text)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _, _ in page.elements}
    policy = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and str(policy[0]).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "nan" not in re.findall(r"[A-Za-z]+", page.shown)
    return page


def data_set(
    objects: list[tuple[int, int, tuple[float, float, float, float]]],
    found: list[tuple[int, int, float, tuple[float, float, float, float]]],
    classes: tuple[str, ...] = ("cat", "dog"),
    paths: tuple[Path | None, ...] = (None, None, None),
    **fields: tuple[str, ...],
) -> tuple[GroundTruth, Predictions]:
    """Return objects (picture, label, box) and predictions (picture, label, score, box)."""
    return truth_of(objects, len(paths), classes, paths=paths, **fields), predictions_of(found)


def scored(
    truth: GroundTruth, predictions: Predictions, protocol: str = "voc10", full: bool = True, iou: float | None = None
) -> Scored:
    """Return the evaluation, with intervals, errors and a note if `full`."""
    evaluation = evaluate(protocol, truth, predictions, iou)
    plain = Scored("a data set", truth, predictions, evaluation)
    if not full:
        return plain
    return replace(
        plain,
        intervals=bootstrap_intervals(evaluation, truth, predictions, 20, 0),
        analysis=analyse(truth, predictions, evaluation, iou=iou),
        notes=("A note.",),
    )


def shown(*data: GroundTruth | Predictions, **options: object) -> str:
    """Return the words of the page about a data set."""
    return checked(render(scored(*data, **options))).shown  # type: ignore[arg-type]


A, B, FAR = (0.0, 0.0, 50.0, 50.0), (50.0, 50.0, 100.0, 100.0), (80.0, 0.0, 100.0, 20.0)
OBJECTS = [(0, 1, A), (0, 2, B), (1, 1, A), (1, 1, B)]
# Of picture 0 both are found; of picture 1 one, with a dog where a cat is; in picture 2 there is nothing.
FOUND = [(0, 1, 0.9, A), (0, 2, 0.8, B), (1, 1, 0.7, A), (1, 2, 0.95, B), (2, 1, 0.2, FAR)]


SCORES = {
    0.7: "0.7",
    0.123456: "0.123",
    8.57e-05: "0.0001",
    0.00042: "0.0004",
    1e-30: "of almost any score",
    0.0: "0",
    -1e-30: "0",
    -5.25: "-5.25",
    1234567.0: "1230000",
}


def bar_widths(text: str, table: str, style: str) -> list[float]:
    """Return the widths of the bars in the cells of a style of one table."""
    body = text.split(f'id="{table}"')[1].split("</table>")[0]
    cells = re.findall(rf'<td class="bar-cell {style}">.*?</td>', body)
    return [float(re.findall(r'class="fill" width="([\d.]+)"', cell)[0]) for cell in cells]


PROPOSALS: dict[int, Boxes] = {0: np.array([A, B], np.float32), 1: np.array([(0, 0, 50, 30)], np.float32)}


@pytest.fixture(scope="module")
def small() -> Scored:
    return scored(*data_set(OBJECTS, FOUND))


@pytest.fixture
def with_pictures(tmp_path: Path) -> Scored:
    paths = tuple(tmp_path / f"{i}.png" for i in range(3))
    for i, path in enumerate(paths):
        Image.new("RGB", (100, 100), (40 * i, 90, 120)).save(path)
    return scored(*data_set(OBJECTS, FOUND, paths=paths))


def test_the_page_is_well_formed_and_says_the_figures(small: Scored) -> None:
    page = checked(
        render(small, PROPOSALS, provenance=(("Detector", "GoogLeNet"), ("Predictions", "<submission>.txt")))
    )
    ap = small.evaluation.ap
    assert f"{100 * small.evaluation.mean_ap:.2f} %" in page.shown
    assert f"{100 * ap[0]:.1f}" in page.shown and f"{100 * ap[1]:.1f}" in page.shown
    assert "A note." in page.shown and "95 % interval" in page.shown
    assert "Not every class" not in page.shown
    assert "average recall 55.0 %" in page.shown  # IoU 1, 1, 0.6 and 0 of the four objects
    assert "a data set: 3 pictures, 4 boxes; 5 predictions." in page.shown
    inside = [tag for tag, _, each in page.elements if tag in ("dt", "dd") and "header" in each]
    assert inside == ["dt", "dd"] * 2 and "Detector GoogLeNet Predictions <submission>.txt" in page.shown


def test_without_the_optional_parts(small: Scored) -> None:
    page = checked(render(scored(small.truth, small.predictions, full=False)))
    assert page.shown.count("not analysed") == 2
    assert "Proposals" not in page.shown and "interval" not in page.shown.replace("intervals", "")
    assert not [each for each in page.all("dl") if each["class"] == "provenance"]
    assert "No picture files came with this data set" in page.shown


@pytest.mark.parametrize(
    ("protocol", "forgiven", "points"),
    [("ilsvrc", True, None), ("voc07", False, "11"), ("voc10", False, None), ("coco", False, "101")],
)
def test_the_page_says_what_differs_between_protocols(protocol: str, forgiven: bool, points: str | None) -> None:
    text = shown(*data_set(OBJECTS, FOUND), protocol=protocol)
    assert ("AP75" in text) == (protocol == "coco")
    assert ("small boxes are forgiven 10 pixels" in text) == forgiven
    assert ("IoU 0.5 or more, less for small boxes" in text) == forgiven
    assert re.findall(r"mAP above, which takes (\d+) points", text) == [points] * 2 * (points is not None)


def test_another_iou_is_said_wherever_an_iou_stands() -> None:
    text = shown(*data_set(OBJECTS, FOUND), protocol="coco", iou=0.7)
    assert "Protocol: COCO, at IoU 0.7" in text and "reaches the threshold: 0.7 here" in text
    assert "Gains are of AP over all points at IoU 0.7" in text
    assert "to 0.95" not in text and "at ten IoUs" not in text
    own = shown(*data_set(OBJECTS, FOUND), protocol="coco")
    assert "Protocol: COCO, IoU 0.5 to 0.95" in own and "at IoU 0.5, not of the mAP above" in own
    assert "takes 101 points at ten IoUs" in own


def test_gain_bars_of_both_tables_have_one_scale(small: Scored) -> None:
    analysis = small.analysis
    assert analysis is not None
    gains = np.concatenate([analysis.false_positive_map_gains, analysis.miss_map_gains])
    assert gains[:5].max() != gains[5:].max() and min(gains[:5].max(), gains[5:].max()) > 0
    text = render(small)
    widths = bar_widths(text, "false-positives", "gain") + bar_widths(text, "misses", "gain")
    np.testing.assert_allclose(widths, 100 * gains / gains.max(), atol=0.01)


def test_errors_and_confusions_state_their_conditions() -> None:
    # The dog at IoU 0.25 touches the cat and does not reach it: an error of a similar class, and no confusion.
    objects = [(0, 1, A), (0, 2, B), (1, 1, A)]
    found = [(0, 1, 0.9, A), (0, 2, 0.6, B), (1, 2, 0.95, (0.0, 0.0, 25.0, 25.0)), (2, 1, 0.1, FAR)]
    result = scored(*data_set(objects, found))
    assert result.analysis is not None
    assert result.analysis.false_positives.sum(axis=0).tolist() == [0, 0, 1, 0, 1]
    text = checked(render(result)).shown
    errors, confusions = text.split(" Errors ")[-1].split(" Confusions ", 1)
    assert "Predictions of every score count here. A box touches an object from IoU 0.1 on" in errors
    assert "reaches it at IoU 0.5 or more" in errors
    assert "reaches (IoU 0.5 or more), among the predictions with a score of at least 0.6" in confusions
    assert "Under these conditions no class is taken for another." in confusions


def test_scores_are_printed_without_exponents() -> None:
    scores = np.array([-1e9, 1e9])
    said = {score: at_least(score, scores).removeprefix("with a score of at least ") for score in SCORES}
    assert said == SCORES
    assert at_least(8.57e-05, np.array([8.57e-05, 0.5])) == "of any score"


def test_an_interval_that_is_not_known_is_one_dash() -> None:
    # Cats are in two pictures, dogs in one, of whose spread nothing is known.
    result = scored(*data_set(OBJECTS, FOUND))
    assert result.intervals is not None and np.isnan(result.intervals.per_class).tolist() == [[False] * 2, [True] * 2]
    text = checked(render(result)).shown
    rows = text.split("Average precision by class, with 95 % intervals")[1].split("Precision and recall")[0]
    assert "– to" not in rows and "to –" not in rows
    assert re.search(r"dog \d+\.\d – 1 ", rows) and re.search(r"cat \d+\.\d \d+ to \d+ 3 ", rows)


@pytest.mark.parametrize(("classes", "boxed"), [(40, False), (41, True)])
def test_only_a_long_table_of_classes_scrolls_in_itself(classes: int, boxed: bool) -> None:
    objects = [(0, label, A) for label in range(1, classes + 1)]
    names = tuple(f"class {label}" for label in range(1, classes + 1))
    page = checked(render(scored(*data_set(objects, [(0, 1, 0.5, A)], classes=names), full=False)))
    frames = [each for each in page.all("div") if each.get("aria-labelledby") == "class-table-caption"]
    assert [each["class"] for each in frames] == ["scroll tall" if boxed else "scroll"]


def test_an_empty_data_set() -> None:
    truth, predictions = data_set([], [], classes=(), paths=())
    result = scored(truth, predictions, full=False)
    page = checked(render(replace(result, analysis=analyse(truth, predictions, result.evaluation))))
    assert "No object of this data set counts" in page.shown and "No class has ground truth." in page.shown


@pytest.mark.parametrize(
    ("objects", "found", "classes", "said"),
    [
        (OBJECTS, [], ("cat", "dog"), ["0.00 %"]),
        ([], FOUND, ("cat", "dog"), ["No class has ground truth.", "so there is no mAP"]),
        ([(0, 1, A)], [(0, 1, 0.5, A)], ("cat",), ["100.00 %", "Classes to draw"]),
        (
            [(0, 1, A)],
            FOUND,
            ("cat", "dog", "owl", "bee"),
            ["mean over the 1 that do; over all 4 it is", "3 of 4 classes have no ground truth"],
        ),
    ],
    ids=["no predictions", "no objects", "one class", "absent classes"],
)
def test_odd_data_sets(objects: list, found: list, classes: tuple[str, ...], said: list[str]) -> None:  # type: ignore[type-arg]
    text = shown(*data_set(objects, found, classes))
    assert [each for each in said if each not in text] == []


HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></title>&amp;",
    "שלום\u202eevil",
    "line\nbreak\x00\x1b[31m",
    "half\udc80",
    "very long " * 200,
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_wherever_they_stand(name: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (100, 100)).save(picture)
    paths = (picture, tmp_path / "missing.png", None)
    truth, predictions = data_set(
        OBJECTS, FOUND, classes=(name, f"{name} two"), paths=paths, names=(name, f"{name}1", f"{name}2")
    )
    plain = scored(truth, predictions)
    text = render(replace(plain, title=name, notes=(name,)), PROPOSALS, provenance=((name, name),))
    page = checked(text)
    assert len(page.all("script")) == 1 and not {"src"} & set(page.all("script")[0])
    assert {str(each["src"])[:15] for each in page.all("img")} == {"data:image/jpeg"}
    assert "\u202e" not in text and "\x1b" not in text and "\x00" not in text
    text.encode("utf-8")
    visible = {"<script>alert(1)</script>": name, "</style></title>&amp;": name}.get(name)
    assert visible is None or visible in page.shown


def test_two_hundred_classes_and_20000_pictures_fit() -> None:
    random = np.random.default_rng(0)
    classes, pictures, count = 200, 20_000, 100_000
    truth, predictions = data_set([], [], tuple(f"class {i}" for i in range(classes)), (None,) * pictures)
    labels = random.integers(1, classes + 1, count)
    boxes = np.tile(np.array([A]), (count, 1))
    outcome = (random.random(count) < 0.5).astype(np.int8)
    order = np.lexsort((np.arange(count), labels))
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=classes + 1)[1:])])
    positives = np.bincount(labels[outcome == 1], minlength=classes + 1)[1:] + 5
    matches = Matches(order, starts, outcome, np.full(count, -1), np.zeros(0, np.bool_), positives)
    where = random.integers(0, pictures, count).astype(np.int32)
    predictions = Predictions(where, labels.astype(np.int32), random.random(count), boxes)
    evaluation = Evaluation("ilsvrc", truth.class_names, random.random(classes), (matches,))
    text = render(Scored("many pictures", truth, predictions, evaluation))
    assert len(text) < 2 * MEGABYTE
    page = checked(text)
    assert len([each for each in page.all("path") if str(each.get("id")).startswith("curve-")]) == classes


def test_example_pictures(with_pictures: Scored) -> None:
    page = checked(render(with_pictures))
    images = page.all("img")
    # The best: picture 0; the worst: picture 1, the only other one with a score; confident and wrong: 1, then 2.
    assert [str(each["alt"]).split(":")[0] for each in images] == [f"Picture p{i}" for i in (0, 1, 1, 2)], [
        each["alt"] for each in images
    ]
    assert "Only those predictions are drawn" in page.shown
    assert len(page.all("figcaption")) == len(images)


def test_examples_can_be_left_out(with_pictures: Scored) -> None:
    page = checked(render(with_pictures, pictures=0))
    assert not page.all("img") and "No pictures were asked for." in page.shown


def test_pictures_that_are_missing_or_damaged_are_told(with_pictures: Scored) -> None:
    first, second, _ = with_pictures.truth.paths
    assert first is not None and second is not None
    first.unlink()
    second.write_bytes(b"no picture")
    page = checked(render(with_pictures))
    assert "2 pictures could not be read" in page.shown and "0.png: no such file" in page.shown


def test_large_pictures_are_scaled_and_inverted_boxes_drawn(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (1200, 600)).save(path)
    objects = [(0, 1, (0.0, 0.0, 600.0, 600.0))]
    found = [(0, 1, 0.9, (0.0, 0.0, 600.0, 600.0)), (0, 2, 0.8, (1000.0, 500.0, 800.0, 100.0))]
    page = checked(render(scored(*data_set(objects, found, paths=(path,)), protocol="ilsvrc")))
    assert {(each["width"], each["height"]) for each in page.all("img")} == {("480", "240")}
    boxes = [each for each in page.all("rect") if str(each.get("class")) == "box accused" and each["x"] != "4"]
    assert [(each["x"], each["y"], each["width"], each["height"]) for each in boxes] == [("320", "40", "80", "160")]


def test_the_same_content_gives_the_same_bytes(with_pictures: Scored, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, with_pictures)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_writing_is_whole_or_not_at_all(small: Scored, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(OSError, match="cannot write"):
        write_report(tmp_path / "no folder" / "report.html", small)
    write_report(path, small)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_picture_scores_by_hand(small: Scored) -> None:
    scores = score_pictures(small.truth, small.predictions, small.evaluation)
    # With 3 of 4 right at 0.7: F1 = 2 * 3 / (4 + 4). At 0.2 one more is wrong.
    assert scores.threshold == 0.7
    assert scores.hits.tolist() == [2, 1, 0] and scores.wrong.tolist() == [0, 1, 0]
    assert scores.missed.tolist() == [0, 1, 0]
    np.testing.assert_allclose(scores.f1, [1.0, 0.5, np.nan])
    assert best_pictures(scores).tolist() == [0, 1]
    assert worst_pictures(scores).tolist() == [1]
    assert confident_errors(small.predictions, small.evaluation).tolist() == [3, 4]


def test_no_hit_leaves_no_prediction() -> None:
    result = scored(*data_set(OBJECTS, [(0, 1, 0.9, FAR)]), full=False)
    scores = score_pictures(result.truth, result.predictions, result.evaluation)
    assert scores.threshold == float("inf") and scores.wrong.tolist() == [0, 0, 0]
    assert not len(best_pictures(scores)) and worst_pictures(scores).tolist() == [0, 1]


def test_marks_of_a_picture(small: Scored) -> None:
    marks = {mark.style: mark for mark in picture_marks(1, small, 0.7, accused=3)}
    assert marks["hit"].boxes.tolist() == [list(A)] and marks["accused"].boxes.tolist() == [list(B)]
    assert marks["truth"].boxes.tolist() == [list(A)] and marks["missed"].boxes.tolist() == [list(B)]
    assert not len(marks["wrong"].boxes) and not len(marks["ignored"].boxes)
    assert marks["missed"].captions == ("? cat",) and marks["accused"].captions == ("× dog 0.95",)


def test_envelope_by_hand() -> None:
    recall, precision = np.array([0.25, 0.25, 0.5, 0.75]), np.array([1.0, 0.5, 2 / 3, 0.75])
    steps, best = envelope(recall, precision)
    assert steps.tolist() == [0.25, 0.5, 0.75] and best.tolist() == [1.0, 0.75, 0.75]
    assert precision_at((steps, best), np.array([0.0, 0.25, 0.3, 0.75, 0.8])).tolist() == [1, 1, 0.75, 0.75, 0]
    assert step_path((steps, best)) == f"M{LEFT} {TOP}H{LEFT + 130}V{TOP + 85}H{LEFT + 390}"
    assert step_path((np.zeros(0), np.zeros(0))) == ""


def test_envelope_has_the_area_of_ap() -> None:
    result = scored(*data_set(OBJECTS, FOUND), full=False)
    for label in (1, 2):
        steps, best = envelope(*result.evaluation.curve(label))
        area = float((np.diff(steps, prepend=0) * best).sum())
        assert area == pytest.approx(float(result.evaluation.ap[label - 1]))


def test_confused_pairs(small: Scored) -> None:
    assert small.analysis is not None
    assert confused_pairs(small.analysis) == [Confusion("cat", "dog", 1, 1 / 3)]
    assert "Confusions: 1 Object Taken for" in checked(render(small)).shown


def test_long_names_are_cut() -> None:
    assert shortened("abcdef", 4) == "abc…" and shortened("abcd", 4) == "abcd"
