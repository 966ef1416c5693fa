from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.classes import det_names
from detector.detections import Detections
from detector.formats import FORMATS, SUFFIX, render, stream_end, stream_item, stream_start
from detector.formats.readers import from_json, from_voc
from detector.formats.writers import EXACT, to_coco, to_csv, to_ilsvrc, to_json, to_voc, to_yolo
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH, SOURCE_NAMES

NAMES = ("cat", "dog", 'tv, "or" <monitor> & more')
SIZE = (100, 80)
EMPTY = Detections.empty(SIZE, NAMES)
TWO = Detections(
    [[10.5, 20, 60, 70.25], [0, 0, 100, 80]],
    [0.9, 0.1],
    [2, 1],
    [MULTIBOX, SELECTIVE_SEARCH],
    SIZE,
    NAMES,
)
ODD = Detections([[0.1, 0.2, 0.3, 0.7]], [1 / 3], [3], [BOTH], (1, 1), NAMES)

JSON_TWO = (
    '{"picture": "in/dog.jpg", "width": 100, "height": 80, "detections": ['
    '{"class": "dog", "label": 2, "score": 0.9, "box": [10.5, 20.0, 60.0, 70.25], "source": "multibox"}, '
    '{"class": "cat", "label": 1, "score": 0.1, "box": [0.0, 0.0, 100.0, 80.0], "source": "selective search"}]}\n'
)
HEADER = "picture,class,label,score,x1,y1,x2,y2,source,width,height\n"
CSV_ROWS = (
    "in/dog.jpg,dog,2,0.9,10.5,20,60,70.25,multibox,100,80\nin/dog.jpg,cat,1,0.1,0,0,100,80,selective search,100,80\n"
)
COCO_FIRST = '{"image_id": 7, "category_id": 2, "bbox": [10.5, 20.0, 49.5, 50.25], "score": 0.9}'
COCO_SECOND = '{"image_id": 7, "category_id": 1, "bbox": [0.0, 0.0, 100.0, 80.0], "score": 0.1}'
ILSVRC_TWO = "7 2 0.9 11.5 21 60 70.25\n7 1 0.1 1 1 100 80\n"
# cx = (10.5 + 60) / 2 / 100, cy = (20 + 70.25) / 2 / 80, w = 49.5 / 100, h = 50.25 / 80
YOLO_TWO = "1 0.3525 0.5640625 0.495 0.628125 0.9\n0 0.5 0.5 1.0 1.0 0.1\n"
VOC_TWO = """<annotation>
  <folder>in</folder>
  <filename>dog.jpg</filename>
  <size>
    <width>100</width>
    <height>80</height>
    <depth>3</depth>
  </size>
  <object>
    <name>dog</name>
    <bndbox>
      <xmin>11.5</xmin>
      <ymin>21</ymin>
      <xmax>60</xmax>
      <ymax>70.25</ymax>
    </bndbox>
    <score>0.9</score>
  </object>
  <object>
    <name>cat</name>
    <bndbox>
      <xmin>1</xmin>
      <ymin>1</ymin>
      <xmax>100</xmax>
      <ymax>80</ymax>
    </bndbox>
    <score>0.1</score>
  </object>
</annotation>
"""
GOLDEN = {
    "json": JSON_TWO,
    "csv": HEADER + CSV_ROWS,
    "coco": f"[\n{COCO_FIRST},\n{COCO_SECOND}\n]\n",
    "ilsvrc": ILSVRC_TWO,
    "voc": VOC_TWO,
    "yolo": YOLO_TWO,
}
PICTURE = "in/dog.jpg"


def read(format: str, text: str, picture: str, image_id: int, like: Detections, flag: int) -> Detections:
    """Read back the one picture of `text`, with what the format lacks taken from `like` and `flag`."""
    if format == "json":
        return from_json(text, "f", like.class_names)[picture]
    if format == "voc":
        return with_sources(from_voc(text.encode(), "f", like.class_names)[picture], flag)
    width, height = like.image_size
    rows = []  # box, score, label, source
    match format:
        case "csv":
            for row in csv.DictReader(io.StringIO(text, newline="")):
                assert row["picture"] == picture and row["class"] == like.class_names[int(row["label"]) - 1]
                source = next(flag for flag, name in SOURCE_NAMES.items() if name == row["source"])
                assert (int(row["width"]), int(row["height"])) == like.image_size
                box = [float(row[side]) for side in ("x1", "y1", "x2", "y2")]
                rows.append((box, float(row["score"]), int(row["label"]), source))
        case "coco":
            for entry in json.loads(text):
                assert entry["image_id"] == image_id
                x, y, w, h = entry["bbox"]
                rows.append(([x, y, x + w, y + h], entry["score"], entry["category_id"], flag))
        case "ilsvrc":
            for number, label, score, *corners in (line.split() for line in text.splitlines()):
                assert int(number) == image_id
                x1, y1 = (float(EXACT.subtract(Decimal(corner), Decimal(1))) for corner in corners[:2])
                rows.append(([x1, y1, float(corners[2]), float(corners[3])], float(score), int(label), flag))
        case "yolo":
            for index, *numbers in (line.split() for line in text.splitlines() if not line.startswith("#")):
                cx, cy, w, h, score = map(float, numbers)
                box = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
                rows.append((box, score, int(index) + 1, flag))
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [[]] * 4
    return Detections(np.reshape(columns[0], (-1, 4)), *columns[1:], like.image_size, like.class_names)


def with_sources(d: Detections, flag: int) -> Detections:
    return Detections(d.boxes, d.scores, d.labels, [flag] * len(d), d.image_size, d.class_names)


def kept(format: str, d: Detections, flag: int) -> Detections:
    """What a format keeps of `d`: only json and csv hold the sources."""
    return d if format in ("json", "csv") else with_sources(d, flag)


def many(seed: int, side: int, count: int) -> Detections:
    """Boxes of thousandths of a pixel on a picture of `side`, and any float32 scores."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, side * 1000 + 1, (count, 2, 2)), axis=1) / 1000
    return Detections(
        ends.reshape(count, 4).astype(np.float32),
        rng.random(count, dtype=np.float32),
        rng.integers(1, 4, count),
        rng.integers(1, 4, count),
        (side, side),
        NAMES,
    )


def test_formats_and_suffixes() -> None:
    assert FORMATS == ("json", "csv", "coco", "ilsvrc", "voc", "yolo")
    assert [SUFFIX[f] for f in FORMATS] == [".json", ".csv", ".json", ".txt", ".xml", ".txt"]


@pytest.mark.parametrize("format", FORMATS)
def test_golden_file(format: str) -> None:
    assert render(TWO, format, PICTURE, 7) == GOLDEN[format]


@pytest.mark.parametrize("format", FORMATS)
def test_golden_file_reads_back(format: str) -> None:
    back = read(format, GOLDEN[format], PICTURE, 7, TWO, SELECTIVE_SEARCH)
    assert back.same_as(kept(format, TWO, SELECTIVE_SEARCH))
    assert not back.boxes.flags.writeable


def test_render_is_the_writer_of_the_format() -> None:
    assert [render(ODD, f, "a", 3) for f in FORMATS] == [
        to_json(ODD, "a"),
        to_csv(ODD, "a"),
        to_coco(ODD, 3),
        to_ilsvrc(ODD, 3),
        to_voc(ODD, "a"),
        to_yolo(ODD),
    ]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("json", '{"picture": "a", "width": 100, "height": 80, "detections": []}\n'),
        ("csv", HEADER),
        ("coco", "[\n]\n"),
        ("ilsvrc", ""),
        ("yolo", ""),
    ],
)
def test_golden_empty_file(format: str, expected: str) -> None:
    assert render(EMPTY, format, "a", 1) == expected


@pytest.mark.parametrize("format", ["json", "coco", "ilsvrc", "voc", "yolo"])
def test_empty_reads_back(format: str) -> None:
    assert read(format, render(EMPTY, format, "a", 1), "a", 1, EMPTY, SELECTIVE_SEARCH).same_as(EMPTY)


def test_the_one_pixel_box_at_the_origin_in_each_convention() -> None:
    pixel = Detections([[0, 0, 1, 1]], [1], [1], [1], (4, 2), NAMES)
    assert to_ilsvrc(pixel, 1) == "1 1 1 1 1 1 1\n"
    assert json.loads(to_coco(pixel, 1))[0]["bbox"] == [0, 0, 1, 1]
    assert to_yolo(pixel) == "0 0.125 0.25 0.25 0.5 1\n"
    corners = ElementTree.fromstring(to_voc(pixel, "a")).find("object/bndbox")
    assert corners is not None
    assert [c.text for c in corners] == ["1", "1", "1", "1"]


def test_decimals_gain_no_digits() -> None:
    assert to_ilsvrc(ODD, 1) == "1 3 0.33333334 1.1 1.2 0.3 0.7\n"  # float32(0.1) + 1 is 1.10000000149
    assert json.loads(to_coco(ODD, 1))[0]["bbox"] == [0.1, 0.2, 0.2, 0.5]  # 0.7 - 0.2 is 0.49999999999999994


def test_a_degenerate_box_survives_the_inclusive_formats() -> None:
    line = Detections([[5, 6, 5, 9]], [0.5], [1], [1], SIZE, NAMES)
    assert to_ilsvrc(line, 1) == "1 1 0.5 6 7 5 9\n"
    for format in FORMATS:
        assert read(format, render(line, format, "a", 1), "a", 1, line, 1).same_as(line)


def test_default_class_names_are_the_200_of_ilsvrc() -> None:
    d = Detections([[0, 0, 1, 1]], [0.5], [58], [SELECTIVE_SEARCH], SIZE, det_names())
    assert from_json(to_json(d, "a"), "f")["a"].same_as(d)
    assert from_voc(to_voc(d, "a").encode(), "f")["a"].same_as(d)


@pytest.mark.parametrize("format", FORMATS)
@given(seed=st.integers(0, 2**32), side=st.integers(1, 5000), count=st.integers(0, 6), flag=st.sampled_from([1, 2, 3]))
def test_round_trip_on_pictures(format: str, seed: int, side: int, count: int, flag: int) -> None:
    d = many(seed, side, count)
    if format == "csv" and count == 0:
        return
    assert read(format, render(d, format, "a", 5), "a", 5, d, flag).same_as(kept(format, d, flag))


FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize("format", ["json", "csv", "ilsvrc", "voc"])
@given(xs=st.tuples(FLOAT32, FLOAT32), ys=st.tuples(FLOAT32, FLOAT32), score=st.floats(0, 1, width=32))
def test_round_trip_of_any_float32(format: str, xs: tuple[float, float], ys: tuple[float, float], score: float) -> None:
    (x1, x2), (y1, y2) = sorted(xs), sorted(ys)
    d = Detections([[x1, y1, x2, y2]], [score], [1], [MULTIBOX], (1, 1), NAMES)
    assert read(format, render(d, format, "a", 5), "a", 5, d, MULTIBOX).same_as(d)


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=("Cc",)), min_size=1)


@pytest.mark.parametrize("format", ["json", "csv", "voc"])
@given(picture=NAME.filter(lambda name: not name.startswith("//")), name=NAME)
def test_round_trip_of_any_name(format: str, picture: str, name: str) -> None:
    if format == "voc" and any(c in picture + name for c in "\ufffe\uffff"):
        return
    d = Detections([[0, 0, 1, 1]], [0.5], [1], [1], SIZE, (name,))
    assert read(format, render(d, format, picture, 1), picture, 1, d, 1).same_as(d)


def test_names_are_escaped() -> None:
    text = to_voc(ODD, 'a & <b> "c".jpg')
    assert "<filename>a &amp; &lt;b&gt;" in text
    assert 'tv, "or" &lt;monitor&gt; &amp; more' in text
    assert '"tv, ""or"" <monitor> & more"' in to_csv(ODD, "a")
    assert to_json(ODD, "犬\udcff.jpg").isascii()
    assert list(from_json(to_json(ODD, "犬\udcff.jpg"), "f", NAMES)) == ["犬\udcff.jpg"]
    assert next(csv.reader(io.StringIO(to_csv(ODD, "a\nb,c").removeprefix(HEADER))))[0] == "a\nb,c"


@pytest.mark.parametrize("picture", ["dog.jpg", "/dog.jpg", "a/b/dog.jpg", "/a/dog.jpg", "./dog.jpg"])
def test_voc_splits_the_folder(picture: str) -> None:
    text = to_voc(TWO, picture)
    assert "<filename>dog.jpg</filename>" in text
    assert list(from_voc(text.encode(), "f", NAMES)) == [picture]


@pytest.mark.parametrize("picture", ["a\x01.jpg", "a\r.jpg", "a\udcff.jpg", "a\uffff.jpg"])
def test_voc_refuses_what_xml_cannot_hold(picture: str) -> None:
    with pytest.raises(ValueError, match="which XML cannot hold; rename it"):
        to_voc(TWO, picture)


def test_voc_reads_foreign_annotations() -> None:
    text = VOC_TWO.replace("<name>dog", "<pose>Left</pose><name> Dog ").replace("<depth>3</depth>", "")
    for declared, encoding in (("utf-8", "utf-8"), ("utf-8", "utf-8-sig"), ("gbk", "gbk"), ("UTF-16", "utf-16")):
        whole = f'<?xml version="1.0" encoding="{declared}"?>\n{text}'.replace("dog.jpg", "é.jpg")
        assert from_voc(whole.encode(encoding), "f", NAMES)["in/é.jpg"].names == ["dog", "cat"]


def test_json_reads_indented_files_and_a_byte_order_mark() -> None:
    pretty = "\ufeff" + json.dumps(json.loads(JSON_TWO), indent=2)
    assert from_json(pretty, "f", NAMES)[PICTURE].same_as(TWO)


# --- streams ---------------------------------------------------------------------------------------------------

STREAM = [(EMPTY, "none.jpg", 1), (TWO, "in/dog.jpg", 7), (EMPTY, "gap.jpg", 8), (ODD, "odd.jpg", 9)]
COCO_ODD = '{"image_id": 9, "category_id": 3, "bbox": [0.1, 0.2, 0.2, 0.5], "score": 0.33333334}'


def stream(format: str, results: list[tuple[Detections, str, int]] = STREAM) -> str:
    parts, first = [stream_start(format)], True
    for detections, picture, number in results:
        parts.append(stream_item(detections, format, picture, number, first))
        first = first and not parts[-1]
    return "".join([*parts, stream_end(format)])


def test_golden_streams() -> None:
    none = '{{"picture": "{}", "width": 100, "height": 80, "detections": []}}\n'
    assert stream("json") == (none.format("none.jpg") + JSON_TWO + none.format("gap.jpg") + to_json(ODD, "odd.jpg"))
    assert stream("csv").startswith(HEADER + CSV_ROWS + "odd.jpg,")
    assert stream("csv").count("\n") == 4
    assert stream("coco") == f"[\n{COCO_FIRST},\n{COCO_SECOND},\n{COCO_ODD}\n]\n"
    assert stream("ilsvrc") == ILSVRC_TWO + "9 3 0.33333334 1.1 1.2 0.3 0.7\n"
    assert stream("voc").count("<annotation>\n") == 4
    assert stream("voc").splitlines()[0] == "<annotation>"
    assert stream("yolo").startswith("# none.jpg\n# in/dog.jpg\n" + YOLO_TWO + "# gap.jpg\n# odd.jpg\n2 ")


def test_streams_read_back() -> None:
    for format, results in (
        ("json", from_json(stream("json"), "f", NAMES)),
        ("voc", from_voc(stream("voc").encode(), "f", NAMES)),
    ):
        assert len(results) == 4
        for (expected, _, _), back in zip(STREAM, results.values(), strict=True):
            assert back.same_as(kept(format, expected, SELECTIVE_SEARCH))
    for format in ("coco", "ilsvrc", "csv", "yolo"):
        text = stream(format, STREAM[:3])
        assert read(format, text, PICTURE, 7, TWO, 1).same_as(kept(format, TWO, 1))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("results", [[], STREAM[:1], STREAM[1:2], [STREAM[0], STREAM[2]], STREAM[::-1]])
def test_every_stream_is_one_valid_document(format: str, results: list[tuple[Detections, str, int]]) -> None:
    text = stream(format, results)
    count = sum(len(d) for d, _, _ in results)
    match format:
        case "json":
            assert [json.loads(line)["picture"] for line in text.splitlines()] == [p for _, p, _ in results]
        case "csv":
            assert len(list(csv.DictReader(io.StringIO(text)))) == count
        case "coco":
            assert len(json.loads(text)) == count
        case "voc":
            documents = [f"{part}</annotation>" for part in text.split("</annotation>\n")[:-1]]
            assert [ElementTree.fromstring(d).tag for d in documents] == ["annotation"] * len(results)
        case _:
            assert sum(not line.startswith("#") for line in text.splitlines()) == count


def test_a_line_break_in_a_name_ends_no_comment() -> None:
    assert stream_item(TWO, "yolo", "a\n0 b.jpg", 1, True) == "# a 0 b.jpg\n" + YOLO_TWO


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "<annotation>\n<filename>é".encode("latin-1"),
            "f, line 2: byte 0xe9 is not UTF-8; declare the right encoding",
        ),
        (b'<?xml version="1.0" encoding="ascii"?>\n\xe9', "f, line 2: byte 0xe9 is not ASCII; declare the right"),
        (
            b"<?xml version='1.0' encoding='latin-99'?>",
            "f, line 1: its encoding 'latin-99' is unknown; save the file as",
        ),
    ],
)
def test_encodings_that_are_not_what_they_say(data: bytes, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_voc(data, "f", NAMES)
    assert str(caught.value).startswith(message)


def test_unknown_format() -> None:
    for call in (
        lambda: render(TWO, "xml", "a", 1),
        lambda: stream_start("xml"),
        lambda: stream_item(TWO, "xml", "a", 1, True),
        lambda: stream_end("xml"),
    ):
        with pytest.raises(ValueError, match="unknown format 'xml'; choose one of json, csv, coco"):
            call()


# --- malformed files -------------------------------------------------------------------------------------------


def swapped(format: str, old: str, new: str) -> str:
    assert old in GOLDEN[format]
    return GOLDEN[format].replace(old, new, 1)


DEEP = "[" * 100_000
BAD = [
    # JSON
    ("json", "", "f: the file is empty; an object"),
    ("json", JSON_TWO[:100], "f, line 1: not JSON, or cut off"),
    ("json", JSON_TWO + "\n" + JSON_TWO[:-5], "f, line 3: not JSON, or cut off"),
    ("json", DEEP, "f, line 1: not readable as JSON"),
    ("json", "[]", "f, line 1: the entry of a picture is []; it must be an object {...}"),
    ("json", JSON_TWO + JSON_TWO, "f, line 2: picture 'in/dog.jpg' comes twice"),
    ("json", swapped("json", '"width": 100, ', ""), "f, line 1: the field 'width' is missing"),
    ("json", swapped("json", '"height": 80', '"height": 0'), "f, line 1: the picture is 100 x 0"),
    ("json", swapped("json", '"height": 80', '"height": 80.5'), "f, line 1: height is 80.5; it must be a whole number"),
    ("json", swapped("json", '"in/dog.jpg"', "3"), "f, line 1: picture is 3; it must be a text"),
    ("json", swapped("json", '"score": 0.1, ', ""), "f, line 1, detection 2: the field 'score' is missing"),
    ("json", swapped("json", "0.9", '"0.9"'), "detection 1: score is '0.9'; it must be a number"),
    ("json", swapped("json", "0.9", "true"), "detection 1: score is True; it must be a number"),
    ("json", swapped("json", "0.9", "null"), "detection 1: score is None; it must be a number"),
    ("json", swapped("json", "0.9", "NaN"), "detection 1: score is nan; it must be a finite number"),
    ("json", swapped("json", "0.9", "1.5"), "detection 1: score 1.5 is not in 0..1"),
    ("json", swapped("json", "10.5", "1e39"), "detection 1: box is 1e+39; it must be a finite number"),
    ("json", swapped("json", "10.5", "1" * 400), "detection 1: box is 111"),
    ("json", swapped("json", "10.5", "1" * 5000), "f, line 1: not readable as JSON"),
    ("json", swapped("json", "10.5, ", ""), "detection 1: box has 3 numbers; 4 are needed"),
    ("json", swapped("json", "10.5", "60.5"), "detection 1: the box 60.5 20 60 70.25 is inverted"),
    ("json", swapped("json", "[10.5, 20.0, 60.0, 70.25]", "5"), "detection 1: box is 5; it must be a list [...]"),
    ("json", swapped("json", '"dog", ', '"dgo", '), "detection 1: unknown class 'dgo' (a name"),
    ("json", swapped("json", '"dog", ', '"cat", '), "detection 1: label 2 is 'dog', not 'cat'; write label 1"),
    ("json", swapped("json", '"label": 2', '"label": 4'), "detection 1: label 4 is not in 1..3; read the file with"),
    ("json", swapped("json", '"label": 2', '"label": 2.0'), "detection 1: label is 2.0; it must be a whole number"),
    (
        "json",
        swapped("json", "multibox", "magic"),
        "unknown source 'magic'; write one of file, selective search, multibox",
    ),
    # VOC
    ("voc", "", "f: no <annotation> in the file"),
    ("voc", VOC_TWO[:200], "f, line 12: not XML, or cut off"),
    ("voc", "<!DOCTYPE a [<!ENTITY b 'c'>]>" + VOC_TWO, "f: XML with a document type or entities is not read"),
    ("voc", swapped("voc", "dog<", "&dog;<"), "f, line 10: not XML, or cut off: undefined entity"),
    ("voc", "</annotations><annotations>", "f, line 1: not XML"),
    ("voc", "<picture/>", "f, annotation 1: the element is <picture>; <annotation> is needed"),
    ("voc", VOC_TWO + VOC_TWO, "f, annotation 2: picture 'in/dog.jpg' comes twice"),
    ("voc", swapped("voc", "<filename>dog.jpg</filename>", ""), "f, annotation 1: the element <filename> is missing"),
    ("voc", swapped("voc", "<width>100", "<width>wide"), "f, annotation 1: width is 'wide'; it must be a whole number"),
    ("voc", swapped("voc", "<width>100", "<width>-5"), "f, annotation 1: the picture is -5 x 80"),
    ("voc", swapped("voc", "<score>0.1</score>", ""), "f, annotation 1, object 2: the element <score> is missing"),
    ("voc", swapped("voc", "<ymax>80</ymax>", ""), "object 2: the element <bndbox/ymax> is missing"),
    ("voc", swapped("voc", "<ymax>80", "<ymax>"), "object 2: ymax is ''; it must be a number"),
    ("voc", swapped("voc", "<name>cat", "<name>cta"), "object 2: unknown class 'cta' (a name"),
    ("voc", swapped("voc", "<xmin>1<", "<xmin>102<"), "object 2: the box 101 0 100 80 is inverted"),
]


@pytest.mark.parametrize(("format", "text", "message"), BAD, ids=[f"{f}-{i}" for i, (f, _, _) in enumerate(BAD)])
def test_malformed_files_name_the_place_and_the_cure(format: str, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(format, text, PICTURE, 7, TWO, SELECTIVE_SEARCH)
    assert message in str(caught.value) and str(caught.value).startswith("f")
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


@pytest.mark.parametrize("format", ["json", "voc"])
@given(cut=st.integers(0, 2000))
def test_a_file_cut_anywhere_is_read_in_part_or_refused_with_its_name(format: str, cut: int) -> None:
    try:
        part = read(format, GOLDEN[format][:cut], PICTURE, 7, TWO, SELECTIVE_SEARCH)
    except ValueError as error:
        assert str(error).startswith("f")
    else:
        assert len(part) <= len(TWO)
