"""Files as other tools and other people write them, the smallest that once had a wrong number or were refused."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.datasets.read import read_dataset
from eval.map import main

ROOT = Path(__file__).resolve().parents[2]
BOX = [19, 19, 71, 71]
CSV = "picture,class,score,x1,y1,x2,y2\n"
OBJECT = (
    "<object><name>widget</name><difficult>0</difficult><bndbox><xmin>20</xmin><ymin>20</ymin><xmax>90</xmax>"
    "<ymax>90</ymax></bndbox></object>"
)
SIZE = "<size><width>200</width><height>150</height></size>"


def coco(path: Path, *names: str, box: list[Any] = BOX, **fields: Any) -> Path:
    """Write a data set of one object a picture; `fields` of the images and of the annotations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbered = list(enumerate(names, 1))
    images = [{"id": i, "file_name": n, "width": 200, "height": 150} | fields.get("image", {}) for i, n in numbered]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": box} | fields.get("annotation", {}) for i, _ in numbered
    ]
    categories = fields.get("categories", [{"id": 1, "name": "widget"}])
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def voc(folder: Path, *names: str, xml: str = f"<annotation>{SIZE}{OBJECT}</annotation>") -> Path:
    for name in names:
        path = folder / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(xml)
    (folder / "classes.txt").write_text("widget\n")
    return folder


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (200, 150)).save(path)


def csv(folder: Path, *names: str) -> Path:
    path = folder / "preds.csv"
    path.write_text(CSV + "".join(f'"{name}",widget,0.9,19,19,90,90\n' for name in names))
    return path


def score(capsys: pytest.CaptureFixture[str], data: Path, predictions: Path, *options: str) -> float:
    """Return the mAP in per cent."""
    capsys.readouterr()
    argv = ["--data", str(data), "--predictions", str(predictions), "--resamples", "0", "--json", *options]
    status = main(argv)
    out, err = capsys.readouterr()
    assert status == 0, err
    return 100 * float(json.loads(out)["mean_ap"])


def test_the_most_predictions_of_coco_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """150 objects and as many perfect predictions: 67 of 101 recalls are reached, as pycocotools has it."""
    boxes = [[10 * (i % 15), 10 * (i // 15), 8, 8] for i in range(150)]
    data = coco(tmp_path / "gt.json", "a.jpg")
    content = json.loads(data.read_text())
    content["annotations"] = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    data.write_text(json.dumps(content))
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    (tmp_path / "results.json").write_text(json.dumps(results))
    argv = ["--data", str(data), "--predictions", str(tmp_path / "results.json"), "--resamples", "0", "--json", "-q"]
    assert main([*argv, "--protocol", "coco"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["mean_ap"] == pytest.approx(67 / 101)
    said = "50 of 150 predictions beyond the 100 best of their class in a picture do not count, as COCO has it"
    assert said in err and json.loads(out)["notes"] == [said]
    assert main([*argv, "--protocol", "voc10"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_ap"] == pytest.approx(1)


def test_a_split_file_with_a_byte_order_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coco(tmp_path / "a.json", "1.jpg", "2.jpg")
    data.write_bytes(b"\xef\xbb\xbf" + data.read_bytes())
    argv = ["split_coco.py", str(data), "--train", str(tmp_path / "t.json"), "--held-out", str(tmp_path / "h.json")]
    monkeypatch.setattr(sys, "argv", [*argv, "--every", "2"])
    runpy.run_path(str(ROOT / "scripts" / "split_coco.py"), run_name="__main__")
    assert [len(json.loads((tmp_path / f"{n}.json").read_text())["images"]) for n in "th"] == [1, 1]
    monkeypatch.setattr(sys, "argv", [*argv, "--every", "3"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "scripts" / "split_coco.py"), run_name="__main__")
    assert "--every 3 holds out none or all of 2 pictures; give 2 to 2" in capsys.readouterr().err


def test_a_voc_result_file_with_a_byte_order_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco(tmp_path / "gt.json", "a.jpg", "b.jpg")
    results = tmp_path / "det_widget.txt"
    results.write_bytes(b"\xef\xbb\xbfa 0.9 20 20 90 90\r\nb 0.8 20 20 90 90\r\n")
    assert score(capsys, data, results, "--predictions-format", "voc") == pytest.approx(100)


def test_scoring_a_file_needs_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two pictures one is there; the detector and training still refuse the data set."""
    names = ("a.jpg", "b.jpg"), ("/home/x/a.jpg", "/home/x/b.jpg"), ("C:\\x\\a.jpg", "http://host/x/b.jpg")
    picture(tmp_path / "images" / "a.jpg")
    for files in names:
        data = coco(tmp_path / "val.json", *files)
        for spelling in (files, ("a.jpg", "b.jpg"), ("a", "b")):
            assert score(capsys, data, csv(tmp_path, *spelling)) == pytest.approx(100)
        assert main(["--data", str(data), "--model", "fast"]) == 1
        assert "b.jpg' is not in" in capsys.readouterr().err
    data = voc(tmp_path / "voc", "a", "b")
    picture(data / "JPEGImages" / "a.jpg")
    assert score(capsys, data, csv(tmp_path, "a", "b")) == pytest.approx(100)
    assert main(["--data", str(data), "--model", "fast"]) == 1
    assert "picture 'b' is not in" in capsys.readouterr().err


def test_backslashes_of_windows_in_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco(tmp_path / "val.json", "images\\1.jpg", "images\\2.jpg")
    for name in ("1.jpg", "2.jpg"):
        picture(tmp_path / "images" / name)
    truth = read_dataset(data)
    assert truth.names == ("1", "2") and truth.paths == (tmp_path / "images/1.jpg", tmp_path / "images/2.jpg")
    for spelling in (("images\\1.jpg", "images\\2.jpg"), ("1.jpg", "2.jpg"), ("images/1", "images/2")):
        assert score(capsys, data, csv(tmp_path, *spelling)) == pytest.approx(100)


def test_names_with_blanks_in_lists_and_results_of_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("my photo 1", "my photo 2", "my")
    data = voc(tmp_path / "voc", *names)
    sets = data / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("my photo 1\nmy photo 2\nmy\n")
    (sets / "quoted.txt").write_text('"my photo 1"\n"my photo 2"\n"my"\n')
    (sets / "widget_val.txt").write_text("my photo 1  1\nmy photo 2 -1\nmy  0\n")
    results = tmp_path / "det_widget.txt"
    results.write_text("".join(f"{name} 0.9 20 20 90 90\n" for name in names))
    for split in ("val", "quoted", "widget_val"):
        assert read_dataset(data, split=split).names == names
        assert score(capsys, data, csv(tmp_path, *names), "--split", split) == pytest.approx(100)
        argv = ("--split", split, "--predictions-format", "voc")
        assert score(capsys, data, results, *argv) == pytest.approx(100)


def test_a_category_that_only_groups_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Roboflow writes category 0 so; of the name of a class it once was refused, else a class without objects."""
    for group in ("widget", "things"):
        categories = [
            {"id": 0, "name": group, "supercategory": "none"},
            {"id": 1, "name": "widget", "supercategory": group},
            {"id": 2, "name": "rare", "supercategory": group},
        ]
        data = coco(tmp_path / "gt.json", "a.jpg", categories=categories)
        assert read_dataset(data).class_names == ("widget", "rare")
        assert score(capsys, data, csv(tmp_path, "a")) == pytest.approx(100)
    categories = [{"id": 0, "name": "widget"}, {"id": 1, "name": "widget"}]
    with pytest.raises(ValueError, match="name 'widget' comes a second time"):
        read_dataset(coco(tmp_path / "gt.json", "a.jpg", categories=categories))


@pytest.mark.parametrize(
    "line",
    [
        "0.0 0.275 0.36 0.35 0.4733",
        "0.000000e+00 2.75e-01 3.6e-01 3.5e-01 4.733e-01",
        "0 0.1 0.1233 0.45 0.1233 0.45 0.5967 0.1 0.5967",
        "0 0.1 0.1233 0.45 0.3 0.2 0.5967",
    ],
    ids=["class 0.0", "of numpy", "corners", "outline"],
)
def test_label_lines_of_yolo(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line)
    (tmp_path / "classes.txt").write_text("widget\n")
    assert read_dataset(tmp_path).boxes[0] == pytest.approx([20, 18.5, 90, 89.5], abs=0.02)
    assert score(capsys, tmp_path, csv(tmp_path, "a"), "--iou", "0.5") == pytest.approx(100)


def test_keypoints_of_yolo_are_no_outline(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.275 0.36 0.35 0.4733 0.3 0.3 0.2 0.2")
    (tmp_path / "data.yaml").write_text("names: [widget]\nkpt_shape: [2, 2]\n")
    assert read_dataset(tmp_path).boxes[0] == pytest.approx([20, 18.5, 90, 89.5], abs=0.02)


@pytest.mark.parametrize(
    "xml",
    [
        f"<annotation>{SIZE.replace('200', '200.0').replace('150', '150.0')}{OBJECT}</annotation>",
        *(
            f"<annotation>{SIZE}{OBJECT.replace('<difficult>0', f'<difficult>{word}')}</annotation>"
            for word in ("", "False", "Unspecified", "0.0", "no")
        ),
        f'<?xml version="1.0" encoding="GBK"?>\n<annotation><filename>\u56fe.jpg</filename>{SIZE}{OBJECT}</annotation>',
    ],
)
def test_spellings_in_xml(xml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = voc(tmp_path, "a")
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml.encode("gbk"))
    truth = read_dataset(data)
    assert truth.sizes.tolist() == [[200, 150]] and not truth.difficult.any()
    assert score(capsys, data, csv(tmp_path, "a")) == pytest.approx(100)


@pytest.mark.parametrize(
    "fields",
    [
        {"image": {"width": 200.0, "height": 150.0}},
        {"annotation": {"iscrowd": None}},
        {"annotation": {"iscrowd": False}},
        {"annotation": {"iscrowd": 0.0}},
        {"annotation": {"image_id": 1.0, "category_id": 1.0}},
    ],
)
def test_spellings_in_coco(fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco(tmp_path / "gt.json", "a.jpg", **fields)
    assert score(capsys, data, csv(tmp_path, "a")) == pytest.approx(100)
    assert read_dataset(data).sizes.tolist() == [[200, 150]]


def test_the_label_map_of_cvat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = voc(tmp_path / "voc", "a")
    (data / "classes.txt").unlink()
    (data / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nwidget:250,50,83::\n")
    (data / "ImageSets" / "Main").mkdir(parents=True)
    (data / "ImageSets" / "Main" / "default.txt").write_text("a\n")
    assert read_dataset(data, split="default").class_names == ("widget",)
    assert score(capsys, data, csv(tmp_path, "a"), "--split", "default") == pytest.approx(100)
