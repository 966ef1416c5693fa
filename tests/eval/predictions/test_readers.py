from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import truth_of

from detector.classes import det_names
from detector.datasets.ground_truth import GroundTruth
from detector.detections import Detections
from detector.formats import FORMATS as WRITTEN
from detector.formats import render
from eval.predictions.readers import FORMATS, read_predictions
from eval.predictions.table import Predictions

NUMBERS = (30, 7)


def truth(class_names: tuple[str, ...] = ("cat", "dog"), class_keys: tuple[str, ...] = ("n01", "n02")) -> GroundTruth:
    """Return two pictures, a.jpg with the number 30 and sub/b.jpg with 7, without objects."""
    return truth_of([], 2, class_names, names=("a", "sub/b"), numbers=np.array(NUMBERS), class_keys=class_keys)


def rows(predictions: Predictions) -> list[tuple[int, int, float, list[float]]]:
    return list(
        zip(
            predictions.pictures.tolist(),
            predictions.labels.tolist(),
            predictions.scores.tolist(),
            predictions.boxes.tolist(),
            strict=True,
        )
    )


ROW = (1, 2, 0.25, [0.0, 1.0, 10.0, 20.5])
CSV = "picture,class,score,x1,y1,x2,y2\n"
COCO_ROW = '{"image_id": 7, "category_id": 2, "bbox": [0, 1, 10, 19.5], "score": 0.25}'
JSON_ROW = (
    '{"picture": "photos/b.jpg", "width": 100, "height": 100, "detections": [{"class": "dog", "label": 2, '
    '"score": 0.25, "box": [0, 1, 10, 20.5], "source": "selective search"}]}\n'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.txt", "7 2 0.25 1 2 10 20.5\n"),
        ("lines_without_end.txt", "7 2 0.25 1 2 10 20.5"),
        ("blanks.txt", "\n  7   2\t0.25 1 2 10 20.5  \r\n\n"),
        ("results.json", f"[{COCO_ROW}]"),
        ("results_with_mark.json", f"\ufeff[\n{COCO_ROW}\n]\n"),
        ("table.csv", f"{CSV}sub/b.jpg,dog,0.25,0,1,10,20.5\n"),
        ("stems.csv", f"{CSV}b,n02,0.25,0,1,10,20.5\n"),
        ("numbers.csv", "image_id,label,score,x1,y1,x2,y2,extra\n7,2,0.25,0,1,10,20.5,x\n"),
        ("floats.csv", "image_id,label,score,x1,y1,x2,y2\n7.0,2.0,0.25,0,1,10,20.5\n"),
        ("names.csv", "image_id,label,score,x1,y1,x2,y2\nb.jpg,2,0.25,0,1,10,20.5\n"),
        ("floats.json", f"[{COCO_ROW.replace('7', '7.0').replace('2,', '2.0,')}]"),
        ("names.json", f"[{COCO_ROW.replace('7', chr(34) + 'b' + chr(34))}]"),
        ("detect.json", JSON_ROW),
        ("comp4_det_test_dog.txt", "b 0.25 1 2 10 20.5\n"),
        ("mark.txt", "\ufeff7 2 0.25 1 2 10 20.5\n"),
        ("mark.csv", f"\ufeff{CSV}sub/b.jpg,dog,0.25,0,1,10,20.5\n"),
        ("mark.json", f"\ufeff{JSON_ROW}"),
        ("comp4_det_mark_dog.txt", "\ufeffb 0.25 1 2 10 20.5\n"),
    ],
)
def test_each_format_gives_the_same_row(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    found, notes = read_predictions(path, truth())
    assert rows(found) == [ROW] and notes == []


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    sides = {"x1": [0.0], "y1": [1.0], "x2": [10.0], "y2": [20.5]}
    for table in (
        {"picture": ["b"], "class": ["dog"], "score": [0.25], **sides},
        {"image_id": [7], "label": [2], "score": [0.25], **sides},
        {"picture": pa.array(["b"]).dictionary_encode(), "label": [2], "score": [0.25], **sides},
    ):
        pq.write_table(pa.table(table), path)
        assert rows(read_predictions(path, truth())[0]) == [ROW]


def test_coco_category_ids_are_those_of_the_data_set(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(f"[{COCO_ROW.replace('2,', '90,', 1)}]")
    found, _ = read_predictions(path, truth(class_keys=("18", "90")))
    assert found.labels.tolist() == [2]
    with pytest.raises(ValueError, match="entry 1: unknown class '91'"):
        path.write_text(f"[{COCO_ROW.replace('2,', '91,', 1)}]")
        read_predictions(path, truth(class_keys=("18", "90")))


def test_voc_folder_of_results_and_of_annotations(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "comp4_det_test_dog.txt").write_text("b 0.25 1 2 10 20.5\n")
    (folder / "comp4_det_test_cat.txt").write_text("a 0.5 1 1 5 5\n")
    assert rows(read_predictions(folder, truth())[0]) == [(0, 1, 0.5, [0, 0, 5, 5]), ROW]
    other = tmp_path / "xml"
    other.mkdir()
    found = Detections(
        np.array([[0, 1, 10, 20]]), np.array([0.25]), np.array([2]), np.array([1]), (100, 100), ("cat", "dog")
    )
    (other / "b.xml").write_text(render(found, "voc", "b.jpg", 1))
    assert rows(read_predictions(other, truth())[0]) == [(1, 2, 0.25, [0, 1, 10, 20])]


def test_other_pictures_and_inverted_boxes_are_said(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("7 2 0.25 1 2 10 20.5\n8 2 0.5 1 1 2 2\n30 1 0.5 9 9 2 2\n")
    unknown = r"1 of 3 predictions are on pictures that the data set does not have, such as number 8 \(line 2; its own"
    with pytest.raises(ValueError, match=unknown):
        read_predictions(path, truth())
    assert len(read_predictions(path, replace(truth(), elsewhere=frozenset([8])))[0]) == 2
    found, notes = read_predictions(path, truth(), skip_unknown=True)
    assert found.pictures.tolist() == [1, 0]
    assert notes == [
        f"{path}: 1 of 3 predictions are on other pictures; left out",
        f"{path}: 1 boxes are inverted (xmax < xmin or ymax < ymin): false positives",
    ]


WRONG: list[tuple[str, str | bytes, str]] = [
    ("p.txt", "", "no predictions in it; give the file that the detector wrote"),
    ("p.txt", "\n \n", "no predictions in it; give the file that the detector wrote"),
    (
        "p.txt",
        "7 2 0.25 1 2 10\n",
        "line 1: 6 columns; 7 are needed: image_id class_id confidence xmin ymin xmax ymax",
    ),
    (
        "p.txt",
        "7 2 0.25 1 2 10 20\n7 2 0.25 1 2 10 20 9\n",
        "line 2: 8 columns; 7 are needed: image_id class_id confidence xmin ymin xmax ymax",
    ),
    ("p.txt", "7 2 0.25 1 2 10 20\n7 dog 0.25 1 2 10 20\n", "line 2: class_id is 'dog', not a whole number"),
    ("p.txt", "7.5 2 0.25 1 2 10 20\n", "line 1: image_id is '7.5', not a whole number"),
    ("p.txt", "7_0 2 0.25 1 2 10 20\n", "line 1: image_id is '7_0', not a whole number"),
    (
        "p.txt",
        f"{'9' * 30} 2 0.25 1 2 10 20\n",
        "line 1: image_id is '999999999999999999999999999999', not a whole number",
    ),
    ("p.txt", f"7 {'9' * 5000} 0.25 1 2 10 20\n", "line 1: class_id is '9999"),
    ("p.csv", "label,label,image_id,score,x1,y1,x2,y2\n1,2,7,0.5,0,0,1,1\n", "two columns are named label; leave one"),
    ("p.json", f"[{COCO_ROW.replace('7', '9' * 5000, 1)}]", "the file is damaged"),
    ("p.txt", "7 2 high 1 2 10 20\n", "line 1: confidence is 'high', not a number"),
    ("p.txt", "7 2 0.25 1 2 10 20\n\n7 2 nan 1 2 10 20\n", "line 3: the score is nan; write a number"),
    ("p.txt", "7 2 0.25 1 inf 10 20\n", "line 1: the box 0 inf 10 20 is not finite; write four numbers"),
    ("p.txt", "7 3 0.25 1 2 10 20\n", "line 1: class 3 is not in 1..2; number the classes as the data set does"),
    ("p.txt", "7 0 0.25 1 2 10 20\n", "line 1: class 0 is not in 1..2; number the classes as the data set does"),
    (
        "p.txt",
        "8 2 0.25 1 2 10 20\n",
        "none of its pictures is in the data set (the first is number 8); give the data and the split that it was "
        "made on",
    ),
    ("p.txt", b"\xff\xfe7 2", "line 1: 2 columns; 7 are needed: image_id class_id confidence xmin ymin xmax ymax"),
    ("p.json", "[", "line 1: Expecting value; the file is damaged or cut off"),
    ("p.json", f"[{COCO_ROW},", "line 1: Expecting value; the file is damaged or cut off"),
    ("p.json", '[{"image_id": 7}]', "entry 1: no category_id; each needs image_id, category_id, bbox, score"),
    ("p.json", "[3]", "entry 1: no image_id; each needs image_id, category_id, bbox, score"),
    ("p.json", '{"images": [], "annotations": []}', "this is ground truth, not predictions; give it as --data"),
    ("p.txt", "[", "line 1: Expecting value; the file is damaged or cut off"),
    ("p.json", "[" + COCO_ROW.replace("7", '"x"', 1) + "]", "none of its pictures is in the data set"),
    ("p.json", "[" + COCO_ROW.replace("7", "7.5", 1) + "]", "entry 1: image_id is 7.5, not a whole number"),
    ("p.json", "[" + COCO_ROW.replace("7", "true", 1) + "]", "entry 1: image_id is True, not a whole number"),
    (
        "p.csv",
        f"{CSV}a,dog,0.5,1,1,2,2\n".replace("picture", "image_id").replace("a,dog", "7.5,dog"),
        "is 7.5, not a wh",
    ),
    ("p.json", f"[{COCO_ROW.replace('0.25', 'true')}]", "entry 1: score is True, not a number"),
    (
        "p.json",
        f"[{COCO_ROW.replace('[0, 1, 10, 19.5]', '[0, 1]')}]",
        "entry 1: bbox must be a list of 4 numbers, got [0, 1]",
    ),
    ("p.json", f"[{COCO_ROW.replace('19.5', 'null')}]", "entry 1: bbox is [0, 1, 10, None], not a number"),
    ("p.json", f"[{COCO_ROW.replace('0.25', 'NaN')}]", "entry 1: the score is nan; write a number"),
    ("p.json", f"[{COCO_ROW.replace('7', '9' * 30, 1)}]", "a number in image_id is too large"),
    ("p.json", b"[\xff]", "line 1: byte 0xff is not UTF-8; save the file as UTF-8"),
    (
        "p.csv",
        "picture,score,x1,y1,x2,y2\na,0.5,1,1,2,2\n",
        "no column class or label; needed are picture or image_id, class or label, score, x1, y1, x2, y2",
    ),
    (
        "p.csv",
        "class,label\n",
        "no column x1; needed are picture or image_id, class or label, score, x1, y1, x2, y2",
    ),
    ("p.csv", f"{CSV}a,dgo,0.5,1,1,2,2\n", "row 1: unknown class 'dgo' (a name or an id 1..2); did you mean 'dog'?"),
    ("p.csv", f"{CSV}a,dog,0.5,1,1,2,2\na,dog,nan,1,1,2,2\n", "row 2: the score is nan; write a number"),
    ("p.csv", f"{CSV}a,dog,0.5,1,1,2\n", "line 2: 6 columns, 7 in the header"),
    ("p.csv", f"{CSV}a,dog,much,1,1,2,2\n", "line 2: score is 'much', not a number"),
    ("p.csv", "", "no header; the first line names the columns"),
    ("p.parquet", b"PAR1 no", "not a Parquet file, or a damaged one"),
    (
        "comp4_det_val_cow.txt",
        "a 0.5 1 1 2 2\n",
        "its name ends in none of the classes; VOC result files are named ..._CLASS.txt",
    ),
    (
        "comp4_det_val_dog.txt",
        "a 0.5 1 1 2\n",
        "line 1: 5 columns; 6 are needed: picture confidence xmin ymin xmax ymax",
    ),
    ("a.xml", b"<annotation>\n\xff</annotation>", "line 2: byte 0xff is not UTF-8"),
    ("comp4_det_val_dog.txt", "a 0.5 1 1 2 z\n", "line 1: ymax is 'z', not a number"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_malformed_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        read_predictions(path, truth())
    text = str(caught.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text


@pytest.mark.parametrize(("name", "content"), [("p.json", "[]"), ("p.csv", CSV)])
def test_a_detector_that_found_nothing(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    found, notes = read_predictions(path, truth())
    assert len(found) == 0 and notes == [f"{path}: no predictions in it"]


def test_the_longest_class_that_fits_the_name_of_a_voc_file(tmp_path: Path) -> None:
    for name, label in (
        ("comp4_det_val_hot_dog.txt", 2),
        ("comp4_det_val_hot dog.txt", 2),
        ("comp4_det_val_dog.txt", 1),
    ):
        path = tmp_path / name
        path.write_text("a 0.5 1 1 2 2\n")
        assert read_predictions(path, truth(("dog", "hot dog")))[0].labels.tolist() == [label]


def test_an_id_that_the_data_set_lacks_is_no_label(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(f"[{COCO_ROW}]")  # category 2: there are 1 and 90
    with pytest.raises(ValueError, match=r"entry 1: class 2 is none of the data set's ids \(1, 90, \.\.\.\)"):
        read_predictions(path, truth(class_keys=("1", "90")))


def test_a_file_that_is_not_there_or_of_an_unknown_format(tmp_path: Path) -> None:
    for name in ("p.txt", "p.json", "p.csv", "p.parquet", "p.xml"):
        with pytest.raises(FileNotFoundError):
            read_predictions(tmp_path / name, truth())
    with pytest.raises(ValueError, match="unknown format 'yolo' of predictions; choose one of ilsvrc, coco"):
        read_predictions(tmp_path / "p.txt", truth(), "yolo")
    with pytest.raises(ValueError, match=r"neither \.txt nor \.xml files in this folder"):
        read_predictions(tmp_path, truth())


@pytest.mark.parametrize("format", [f for f in WRITTEN if f in FORMATS])
def test_what_detect_writes_is_read_back(tmp_path: Path, format: str) -> None:
    found = Detections(
        np.array([[0, 0, 50.5, 40], [10.25, 20, 30, 60]], np.float32),
        np.array([0.5, 0.125], np.float32),
        np.array([58, 200]),
        np.array([1, 2]),
        (100, 100),
        det_names(),
    )
    suffix = {"voc": ".xml", "csv": ".csv", "coco": ".json", "json": ".json", "ilsvrc": ".txt"}[format]
    path = tmp_path / f"a{suffix}"
    path.write_text(render(found, format, "a.jpg", 30))
    read, notes = read_predictions(path, truth(det_names(), tuple(str(i) for i in range(1, 201))))
    assert read.pictures.tolist() == [0, 0] and notes == []
    assert read.labels.tolist() == [58, 200]
    np.testing.assert_allclose(read.scores, found.scores, atol=1e-6)
    np.testing.assert_allclose(read.boxes, found.boxes, atol=1e-6)


numbers = st.floats(-1e4, 1e4).map(lambda v: round(v, 4))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(NUMBERS), st.integers(1, 2), st.floats(-5, 5), numbers, numbers, numbers, numbers),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([" ", "  ", "\t"]),
)
def test_the_fast_and_the_slow_reader_agree(lines: list[tuple[float, ...]], gap: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.txt"
        path.write_text("".join(gap.join(map(repr, line)) + "\n" for line in lines))
        found, _ = read_predictions(path, truth())
    assert found.labels.tolist() == [line[1] for line in lines]
    assert found.scores.tolist() == [line[2] for line in lines]
    assert found.boxes.tolist() == [[line[3] - 1, line[4] - 1, line[5], line[6]] for line in lines]
    assert found.pictures.tolist() == [NUMBERS.index(int(line[0])) for line in lines]
