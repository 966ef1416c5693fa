"""Broken ground truth of every format: what is wrong, where, and the cure, in one line, exactly as the user gets it."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.datasets.read import read_dataset

Files = dict[str, str | bytes]  # the contents by path


def xml(*objects: str, size: str = "<width>50</width><height>40</height>") -> str:
    """Return an annotation: <size> in line 2, the objects from line 3 on, one a line."""
    return "\n".join(["<annotation>", f"<size>{size}</size>", *objects, "</annotation>\n"])


def item(name: str = "dog", box: tuple[object, ...] = (1, 1, 10, 20), more: str = "") -> str:
    sides = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def picture(width: int = 50, height: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "png")
    return file.getvalue()


def cut(format: str) -> bytes:
    """Return the beginning of a picture, within the header that tells its size or just behind it."""
    file = io.BytesIO()
    Image.effect_noise((200, 100), 50).save(file, format)
    return file.getvalue()[: {"jpeg": 30, "png": 60, "bmp": 25, "webp": 25}[format]]


def garbled_bmp() -> bytes:
    """Return a BMP of 7 bits a pixel, which there is none of."""
    file = io.BytesIO()
    Image.new("RGB", (5, 4)).save(file, "bmp")
    return file.getvalue()[:28] + b"\x07" + file.getvalue()[29:]


def tar(**members: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(f"det_val2_bbox/{name}.xml")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return file.getvalue()


DOG = "n02084071"
VOC: Files = {"ImageSets/Main/val.txt": "a\nb\n", "Annotations/a.xml": xml(item()), "Annotations/b.xml": xml()}
ILSVRC: Files = {
    "det_lists/val.txt": "a 1\nb 2\n",
    "ILSVRC2013_DET_bbox_val/a.xml": xml(item(DOG)),
    "ILSVRC2013_DET_bbox_val/b.xml": xml(),
}
VAL2: Files = {
    "devkit/data/det_lists/val.txt": "a 1\nb 2\n",
    "devkit/data/det_lists/ilsvrc13_val2.txt": "b 1\n",
    "devkit/data/det_val2_bbox.tar.gz": tar(b=xml(item(DOG))),
}
SMALL: Files = {"list.txt": "a 7\n", "images/a.JPEG": picture(), "bbox/a.xml": xml(item(DOG))}
YOLO: Files = {
    "classes.txt": "dog\ncat\n",
    "images/a.png": picture(),
    "images/b.png": picture(),
    "labels/a.txt": "0 0.5 0.5 0.2 0.2\n",
}
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 50, "height": 40}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 18, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 2, "category_id": 18, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 18, "name": "dog"}],
}


INF, DROP = float("inf"), object()
CORRECT = "; correct it, or remove the object"
SIDES = "; give four numbers: x, y, width, height"


def coco(*places: tuple[str, int, dict[str, Any]]) -> str:
    """Return the COCO file with entries `list[index]` updated by the fields, those that are DROP taken out."""
    data = json.loads(json.dumps(COCO))
    for of, index, fields in places:
        data[of][index] = {k: v for k, v in (data[of][index] | fields).items() if v is not DROP}
    return json.dumps(data)


def whole(**lists: object) -> str:
    return json.dumps({**COCO, **lists})


BLACKLIST = "data/ILSVRC2014_det_validation_blacklist.txt"
OBJECT, BOX = "; correct or remove the object", "; correct or remove the box"
RESAVE, FETCH = "; save it again as an 8-bit JPEG or PNG", "; copy or download it again"
BOTH = "; keep one of the two"
FLAT = "; correct or remove it, both sides must be above 0"
AGAIN, FOUR, NAMES = (
    "; get the file again",
    "; write: class cx cy w h",
    "; write the names into classes.txt, one a line",
)
LISTED = "; add it, or take it off the list"

# what stands in one file of a set, and the message behind the name of that file
ONE_FILE: list[tuple[Files, str | None, str, str | bytes, str]] = [
    *[
        (VOC, None, "Annotations/a.xml", text, message)
        for text, message in (
            (xml(item())[:60], f", line 2: no valid XML (unclosed token){AGAIN}"),
            ("", f", line 1: no valid XML (no element found){AGAIN}"),
            (
                b"<annotation>\n<size>\xff</size></annotation>",
                ", line 2: byte 0xff is not UTF-8; declare the right encoding in the first line, or save it as UTF-8",
            ),
            (
                b'<?xml version="1.0" encoding="ascii"?>\n<annotation>\xe9',
                ", line 2: byte 0xe9 is not ASCII; declare the right encoding in the first line, or save it as UTF-8",
            ),
            (
                '<?xml version="1.0" encoding="klingon"?><annotation/>',
                ", line 1: its encoding 'klingon' is unknown; save the file as UTF-8",
            ),
            ("<svg/>", ": the XML holds <svg>; an annotation file holds <annotation>"),
            (xml(size="<width>wide</width>"), ": <size> says 'wide' x '0'; give whole pixels"),
            (
                xml(size="<width>5\u0660</width><height>40</height>"),
                ": <size> says '5\u0660' x '40'; give whole pixels",
            ),
            (xml(size=f"<width>{'1' * 5000}</width>"), f": <size> says '{'1' * 57}...' x '0'; give whole pixels"),
            (
                xml(item(), item("dgo")),
                ", line 4: unknown class 'dgo'; correct it, or list the classes of your own in DATA/classes.txt, one a "
                "line",
            ),
            (xml(item(" ")), f", line 3: <object> without <name>{OBJECT}"),
            (xml(item(), "<object><name>dog</name></object>"), f", line 4: object without <bndbox>{OBJECT}"),
            (xml(item().replace("<xmax>10</xmax>", "")), f", line 3: <bndbox> without <xmax>{OBJECT}"),
            (xml(item(), item(box=(1, "one", 3, 4))), f", line 4: <ymin> is 'one', not a number{OBJECT}"),
            (xml(item(box=(1, 1, "1_0", 4))), f", line 3: <xmax> is '1_0', not a number{OBJECT}"),
            (xml(item(box=(1, 1, "\u0661\u0660", 4))), f", line 3: <xmax> is '\u0661\u0660', not a number{OBJECT}"),
            (
                xml(item(more="<difficult>perhaps</difficult>")),
                f", line 3: <difficult> is 'perhaps', not 0 or 1{OBJECT}",
            ),
            (xml(item(), item(), item(box=("nan", 1, 3, 4))), f", line 5: a coordinate is not a finite number{BOX}"),
            (xml(item(), item(box=(1, 1, 9, "1e300"))), f", line 4: a coordinate is beyond 10,000,000 pixels{BOX}"),
            (xml(item(), item(box=(10, 1, 5, 4))), f", line 4: the box is -4 x 4 pixels{FLAT}"),
            (xml(item(box=(1, 5, 9, 4))), f", line 3: the box is 9 x 0 pixels{FLAT}"),
            (
                xml(item(), item(box=(51, 1, 60, 4))),
                ", line 4: the box lies wholly outside its picture of 50 x 40 pixels; correct or remove it",
            ),
        )
    ],
    (VOC, None, "ImageSets/Main/val.txt", "a\nb\na\n", f", line 3: picture 'a' comes a second time{BOTH}"),
    (VOC, None, "ImageSets/Main/val.txt", "\n", ": lists no picture; give a data set with at least one"),
    (VOC, None, "ImageSets/Main/val.txt", b"a\n\xe9\n", ", line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    (VOC, None, "ImageSets/Main/val.txt", "a\nb\n".encode("utf-16"), ": is UTF-16 text; save the file as UTF-8"),
    (VOC, None, "classes.txt", "dog\ncat\ndog\n", f", line 3: class 'dog' comes a second time{BOTH}"),
    (VOC, None, "classes.txt", "dog\n\ncat\n", ", line 2: the line is blank; write one class a line"),
    (
        ILSVRC,
        None,
        "ILSVRC2013_DET_bbox_val/b.xml",
        xml(item("n00000001")),
        ", line 3: unknown class 'n00000001'; name one of the 200 classes, or a synset below one, by its WordNet id",
    ),
    (
        ILSVRC,
        None,
        "ILSVRC2013_DET_bbox_val/b.xml",
        xml(item(DOG, (52, 1, 60, 9))),
        ", line 3: the box lies wholly outside its picture of 50 x 40 pixels; correct or remove it",
    ),
    *[
        (ILSVRC, None, "det_lists/val.txt", text, message)
        for text, message in (
            (
                "a 1\nb 2\nc 3\n",
                ", line 3: picture 'c' has no XML in DATA/ILSVRC2013_DET_bbox_val; get the annotations again",
            ),
            ("a 1\na 2\n", f", line 2: picture 'a' comes a second time{BOTH}"),
            ("a 1\nb 1\n", f", line 2: number '1' comes a second time{BOTH}"),
            *[
                (f"a 1\nb {number}\n", f", line 2: 'b {shown}' is not a name and a number; correct the line")
                for number, shown in (
                    *(("two", "two"), ("1_0", "1_0"), ("\uff12", "\uff12")),
                    ("2" * 5000, f"{'2' * 55}..."),
                )
            ],
        )
    ],
    *[
        (
            ILSVRC,
            None,
            BLACKLIST,
            text,
            f", line 1: '{text.strip()}' is not a number and a WordNet id; correct the line",
        )
        for text in ("1\n", f"\uff11 {DOG}\n")
    ],
    (
        ILSVRC,
        None,
        BLACKLIST,
        f"1 {DOG}\n2 n1\n",
        ", line 2: unknown class 'n1'; give the WordNet id of one of the 200",
    ),
    (
        ILSVRC,
        None,
        "data/meta_det.mat",
        "no Matlab file",
        ": is no class table of ILSVRC; take it from the devkit again",
    ),
    *[
        (
            VAL2,
            "val2",
            "devkit/data/det_val2_bbox.tar.gz",
            broken,
            ": is no tar archive, or broken or cut off; get it again",
        )
        for broken in (tar(b=xml(item(DOG)))[:100], b"<html>Not found</html>")
    ],
    (
        VAL2,
        "val2",
        "devkit/data/det_val2_bbox.tar.gz",
        tar(b=xml(item(DOG, (9, 9, 1, 1)))),
        f"/det_val2_bbox/b.xml, line 3: the box is -7 x -7 pixels{FLAT}",
    ),
    (
        VAL2,
        "val2",
        "devkit/data/det_lists/ilsvrc13_val2.txt",
        "z 1\n",
        ", line 1: picture 'z' is not in val.txt; take both lists from one devkit",
    ),
    *[
        ({}, None, "data.json", text, message)
        for text, message in (
            (
                json.dumps(COCO, indent=0)[:200],
                ", line 25: no valid JSON (Expecting value); get the file again, it may be cut off",
            ),
            (b'{"images":\n "\xff"}', ", line 2: byte 0xff is not UTF-8; save the file as UTF-8"),
            ("[1]", ": the JSON is a list; a data set is an object with images, annotations, categories"),
            (
                '{"images": [], "annotations": []}',
                ": 'categories' is missing; a COCO data set has images, annotations, categories",
            ),
            (whole(annotations={}), ": 'annotations' is an object; it must be a list"),
            (whole(images=["a.jpg"]), ", images[0]: is text; it must be an object"),
            (whole(images=[], annotations=[]), ": lists no picture; give a data set with at least one"),
            (
                json.dumps(COCO).replace("[1, 2, 3, 4]", f"[1, 2, 3, {'4' * 5000}]"),
                f": JSON with a number too long or nested too deeply{AGAIN}",
            ),
            *[
                (whole(categories=[{"id": 18, "name": "dog"}, second]), f", categories[1]: {complaint}")
                for second, complaint in (
                    ({"id": 18, "name": "cat"}, f"id '18' comes a second time{BOTH}"),
                    ({"id": 19, "name": "dog"}, f"name 'dog' comes a second time{BOTH}"),
                    ({"id": 19, "name": "dog\ud800"}, "'name' is 'dog\\ud800'; it must be text"),
                    ({"id": 19, "name": "dog\udcff"}, "'name' is 'dog\\udcff'; it must be text"),
                )
            ],
        )
    ],
    *[
        ({}, None, "data.json", coco((of, index, fields)), f", {of}[{index}]: {message}")
        for of, index, fields, message in (
            ("images", 1, {"id": "b"}, "'id' is 'b'; number them with whole numbers"),
            ("images", 1, {"id": 1}, f"id '1' comes a second time{BOTH}"),
            ("images", 1, {"file_name": "a.jpg"}, f"file_name 'a.jpg' comes a second time{BOTH}"),
            ("images", 1, {"file_name": None}, "'file_name' is null; it must be text"),
            ("images", 1, {"file_name": "\ud800.jpg"}, "'file_name' is '\\ud800.jpg'; it must be text"),
            ("images", 1, {"width": -1}, "'width' is -1; give whole pixels, or leave it out"),
            ("annotations", 1, {"bbox": DROP}, "'bbox' is missing; add it"),
            ("annotations", 1, {"id": 1}, f"id '1' comes a second time{BOTH}"),
            ("annotations", 1, {"category_id": 19}, f"'category_id' 19 is an unknown class{CORRECT}"),
            ("annotations", 1, {"image_id": 3}, f"'image_id' 3 is an unknown image{CORRECT}"),
            ("annotations", 1, {"bbox": [float("nan"), 2, 3, 4]}, f"a coordinate is not a finite number{BOX}"),
            ("annotations", 1, {"bbox": [1e308, 1, 1.7e308, 4]}, f"a coordinate is not a finite number{BOX}"),
            ("annotations", 1, {"bbox": [-INF, 1, INF, 4]}, f"a coordinate is not a finite number{BOX}"),
            ("annotations", 1, {"bbox": [1e200, 2, 3, 4]}, f"a coordinate is beyond 10,000,000 pixels{BOX}"),
            ("annotations", 1, {"bbox": [1, 2, 3]}, f"'bbox' is [1, 2, 3]{SIDES}"),
            ("annotations", 1, {"bbox": ["1", 2, 3, 4]}, f"'bbox' is ['1', 2, 3, 4]{SIDES}"),
            ("annotations", 1, {"bbox": [1, 2, 0, 4]}, f"the box is 0 x 4 pixels{FLAT}"),
            ("annotations", 1, {"bbox": [1, 2, 3, -4], "area": 0}, f"the box is 3 x -4 pixels{FLAT}"),
            (
                *("annotations", 0, {"bbox": [-8, 2, 8, 4]}),
                "the box lies wholly outside its picture of 50 x 40 pixels; correct or remove it",
            ),
            ("annotations", 0, {"iscrowd": 2}, "'iscrowd' is 2; give 0 or 1"),
            ("annotations", 0, {"area": -1}, "'area' is -1; give square pixels, or leave it out"),
        )
    ],
    *[
        (YOLO, None, "labels/a.txt", text, message)
        for text, message in (
            (
                "0 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2\n",
                ", line 2: unknown class '2'; the classes are 0..1",
            ),
            ("0_1 0.5 0.5 0.2 0.2\n", ", line 1: unknown class '0_1'; the classes are 0..1"),
            ("\u0661 0.5 0.5 0.2 0.2\n", ", line 1: unknown class '\u0661'; the classes are 0..1"),
            (
                f"{'1' * 5000} 0.5 0.5 0.2 0.2\n",
                f", line 1: unknown class '{'1' * 57}...'; the classes are 0..1",
            ),
            ("0 0.5 0.5 0.1_5 0.2\n", f", line 1: '0.5 0.5 0.1_5 0.2' are not four numbers{FOUR}"),
            ("0 0.5 0.5 0.\u0665 0.2\n", f", line 1: '0.5 0.5 0.\u0665 0.2' are not four numbers{FOUR}"),
            ("0 a 0.1 0.2 0.2\n", f", line 1: 'a 0.1 0.2 0.2' are not four numbers{FOUR}"),
            (
                "0 0.1 0.1 0.2 0.2 0.3\n",
                f", line 1: 6 numbers instead of 5{FOUR} (or an outline)",
            ),
            ("\n0 nan 0.1 0.2 0.2\n", f", line 2: a coordinate is not a finite number{BOX}"),
            *[
                (
                    text,
                    ", line 1: a number is not in 0..1; divide x and w by the picture's width, y and h by its height",
                )
                for text in ("0 25 20 10 8\n", f"0 0.5 0.5 {'1' * 5000} 0.2\n")
            ],
            ("0 0.5 0.5 0 0.2\n", f", line 1: the box is 0 x 8 pixels{FLAT}"),
        )
    ],
    (
        *(YOLO, None, "labels/c.txt", ""),
        ": there is no picture 'c' in DATA/images; add it, or remove the label file",
    ),
    *[
        (YOLO, None, "images/b.png", broken, f": is {message}")
        for broken, message in (
            ("text", "not a picture; JPEG, PNG, WebP, GIF, BMP, TIFF and the like are read"),
            (garbled_bmp(), f"damaged (Unsupported BMP pixel depth (7)){RESAVE}"),
            (cut("jpeg"), f"truncated: the file ends too early{FETCH}"),
            (cut("png"), f"truncated: the file ends too early{FETCH}"),
            (cut("bmp"), f"truncated: the file ends too early{FETCH}"),
            (cut("webp"), f"damaged (could not create decoder object){RESAVE}"),
        )
    ],
    *[
        ({**YOLO, "classes.txt": ""}, None, "data.yaml", text, message)
        for text, message in (
            ("nc: 2\n", f": has no 'names:'{NAMES}"),
            ("", f": has no 'names:'{NAMES}"),
            ("names: [a]\nnames: [b]\n", f": has 'names:' more than once{NAMES}"),
            ("names: [dog\n", f", line 2: no valid YAML (expected ',' or ']', but got '<stream end>'){NAMES}"),
            ("names:\n  - dog\n  - *cat\n", f", line 3: no valid YAML (found undefined alias 'cat'){NAMES}"),
            (
                "names: \x01\n",
                f": no valid YAML (unacceptable character #x0001: special characters are not allowed){NAMES}",
            ),
            ("[" * 5000, f": YAML that is nested too deeply{NAMES}"),
            ("names: dog\n", f", line 1: 'names:' is neither a list nor a mapping of numbers{NAMES}"),
            ("names:\n", f", line 1: 'names:' is neither a list nor a mapping of numbers{NAMES}"),
            ("names: []\n", f", line 1: 'names:' lists no class{NAMES}"),
            ("names:\n- dog\n- [cat]\n", f", line 3: a class name is no text{NAMES}"),
            ("names:\n- dog: 1\n", f", line 2: a class name is no text{NAMES}"),
            ("names: [dog, ~]\n", f", line 1: a class name is no text{NAMES}"),
            ("names:\n- dog\n- dog\n", f", line 3: class 'dog' comes a second time{BOTH}"),
            ("names:\n  0: dog\n  2: cat\n", ", line 2: the names are not numbered 0..1; number them so"),
            ("names: {0: dog, 0: cat}\n", ", line 1: the names are not numbered 0..1; number them so"),
            ("names: {dog, cat}\n", ", line 1: the names are not numbered 0..1; number them so"),
            (f"names:\n  {'0' * 99}: dog\n", ", line 2: the names are not numbered 0..0; number them so"),
            ("names: {\u0660: dog}\n", ", line 1: the names are not numbered 0..0; number them so"),
            (b"names: [d\xf6g]\n", ", line 1: byte 0xf6 is not UTF-8; save the file as UTF-8"),
        )
    ],
]
# a set whose parts do not go together, the split, and the whole message
MANY_FILES: list[tuple[Files, str | None, str]] = [
    (
        {k: v for k, v in VOC.items() if k != "Annotations/b.xml"},
        None,
        "DATA/ImageSets/Main/val.txt, line 2: picture 'b' has no DATA/Annotations/b.xml; "
        "get the file, or give a split that is annotated",
    ),
    (
        {**VOC, "JPEGImages/a.jpg": picture()},
        None,
        f"DATA/ImageSets/Main/val.txt, line 2: picture 'b' is not in DATA/JPEGImages{LISTED}",
    ),
    (VOC, "test", "DATA/ImageSets/Main/test.txt: there is no split 'test'; the splits here: val"),
    (
        {"Annotations/a.xml": xml(item())},
        "train",
        "DATA/ImageSets/Main: there is no such folder to tell split 'train'; make it, or give no split",
    ),
    (
        {f"{year}/{k}": v for year in ("VOC2007", "VOC2012") for k, v in VOC.items()},
        None,
        "DATA: holds VOC2007 and VOC2012; give one of them",
    ),
    (
        {**ILSVRC, "ILSVRC2013_DET_val/a.JPEG": picture()},
        None,
        f"DATA/det_lists/val.txt, line 2: picture 'b' is not in DATA/ILSVRC2013_DET_val{LISTED}",
    ),
    (
        ILSVRC,
        "train",
        "DATA: no annotations of train: no Annotations/DET/train or ILSVRC201?_DET_bbox_train; "
        "put the folder or its tar archive there, or give another split",
    ),
    (
        ILSVRC,
        "test",
        "DATA: no test.txt in data/det_lists or det_lists or ImageSets/DET; put the devkit of ILSVRC beside the data",
    ),
    (
        ILSVRC,
        "trainval",
        "DATA: ILSVRC DET has no split 'trainval'; give one of train, val, val1, val2, val2_mini, test",
    ),
    (
        {**VAL2, "devkit/data/det_val2_bbox.tar.gz": tar(a=xml())},
        "val2",
        "DATA/devkit/data/det_lists/val.txt, line 2: picture 'b' has no XML in DATA/devkit/data/det_val2_bbox.tar.gz; "
        "get the annotations again",
    ),
    (SMALL, "train", "DATA: a folder with list.txt has no split 'train'; give no split"),
    (
        {**SMALL, "list.txt": "a 7\nb 8\n", "bbox/b.xml": xml()},
        None,
        f"DATA/list.txt, line 2: picture 'b' is not in DATA/images{LISTED}",
    ),
    (
        {"data.json": coco(), "images/a.jpg": picture()},
        None,
        "DATA/data.json: picture 'b.jpg' is not in DATA/images; add it, or remove it from 'images'",
    ),
    (
        {"data.json": coco()},
        "train",
        "DATA/data.json: a JSON file holds one split only; give no split, or the folder instead of 'train'",
    ),
    (
        {"train.json": "{}"},
        None,
        "DATA: no val.json, annotations/instances_val.json or annotations.json; give the file",
    ),
    (
        {"val2014.json": "{}", "val2017.json": "{}"},
        "val",
        "DATA: val2014.json and val2017.json are both of split 'val'; give the file",
    ),
    ({**YOLO, "images/b.jpg": picture()}, None, f"DATA/images/b.png: has the name of DATA/images/b.jpg{BOTH}"),
    (
        {k: v for k, v in YOLO.items() if k != "classes.txt"},
        None,
        "DATA: has neither classes.txt nor data.yaml; write classes.txt, one class a line",
    ),
    (
        {**YOLO, "images/val/c.png": picture()},
        "test",
        "DATA: there is no split test, neither images/test nor test/images; name one of the splits here: val",
    ),
    (
        {**YOLO, "images/train/c.png": picture(), "images/a.png": picture()},
        "dev",
        "DATA: there is no split dev, neither images/dev nor dev/images; name one of the splits here: train",
    ),
    (
        YOLO,
        "train",
        "DATA: there is no split train, neither images/train nor train/images; "
        "this set has no splits: name none, or val for the whole",
    ),
    (
        {"classes.txt": "dog\n", "images/readme.txt": "", "labels/a.txt": ""},
        None,
        "DATA: there is no split val, neither images/val nor val/images; "
        "put the pictures into images, or into images/val",
    ),
    (
        {"readme.txt": "hello"},
        None,
        "DATA: no data set is recognised here; give a folder with det_lists (ILSVRC), Annotations (VOC), images and "
        "labels (YOLO) or a .json file (COCO), or name the format",
    ),
]
CASES = [
    *[({**files, name: text}, split, f"DATA/{name}{message}") for files, split, name, text, message in ONE_FILE],
    *MANY_FILES,
]


def write(files: Files, folder: Path) -> Path:
    """Write a data set; return what names it: the folder, or its JSON file."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "data.json" if "data.json" in files else folder


@pytest.mark.parametrize(("files", "split", "message"), CASES, ids=[message[:50] for _, _, message in CASES])
def test_message(
    files: Files, split: str | None, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = write(files, tmp_path)
    with warnings.catch_warnings(record=True) as warned, pytest.raises(ValueError) as caught:
        warnings.simplefilter("always")
        read_dataset(target, "auto", split)
    assert not warned and capfd.readouterr() == ("", "")
    text = str(caught.value).replace(str(tmp_path), "DATA").replace(os.sep, "/")
    assert text == message
    assert "\n" not in text and ": " in text and "; " in text


@pytest.mark.parametrize(
    ("files", "split", "objects"),
    [
        *((VOC, None, 1), (ILSVRC, "val", 1), (VAL2, "val2", 1), (SMALL, None, 1), (YOLO, None, 1)),
        ({"data.json": coco()}, None, 2),
    ],
)
def test_the_sets_that_the_cases_break_are_good(files: Files, split: str | None, objects: int, tmp_path: Path) -> None:
    assert len(read_dataset(write(files, tmp_path), "auto", split)) == objects


def test_what_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_dataset(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere") and caught.value.strerror


PIPES = {
    "voc": (VOC, None, "Annotations/a.xml"),
    "voc list": (VOC, None, "ImageSets/Main/val.txt"),
    "voc classes": (VOC, None, "classes.txt"),
    "ilsvrc": (ILSVRC, None, "ILSVRC2013_DET_bbox_val/a.xml"),
    "ilsvrc list": (ILSVRC, None, "det_lists/val.txt"),
    "ilsvrc class table": (ILSVRC, None, "data/meta_det.mat"),
    "val2": (VAL2, "val2", "devkit/data/det_val2_bbox.tar.gz"),
    "yolo": (YOLO, None, "labels/b.txt"),
    "yolo picture": (YOLO, None, "images/a.png"),
    "coco": ({"data.json": coco()}, None, "data.json"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("case", PIPES)
def test_a_pipe_is_refused_and_not_waited_for(case: str, tmp_path: Path) -> None:
    files, split, pipe = PIPES[case]
    write({k: v for k, v in files.items() if k != pipe}, tmp_path)
    (tmp_path / pipe).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / pipe)
    writer = os.open(tmp_path / pipe, os.O_RDWR | os.O_NONBLOCK)
    end = threading.Timer(5, os.close, [writer])  # a reader that waits gets nothing after a while
    end.start()
    target = tmp_path / "data.json" if case == "coco" else tmp_path
    format = case.split()[0].replace("val2", "ilsvrc")
    try:
        with pytest.raises(ValueError) as caught:
            read_dataset(target, format, split)
    finally:
        if end.is_alive():
            end.cancel()
            os.close(writer)
    assert str(caught.value) == f"{tmp_path / pipe}: is a pipe, socket or device; put a file in its place"


def test_a_link_to_nowhere_is_not_taken_for_a_picture_without_objects(tmp_path: Path) -> None:
    write(YOLO, tmp_path)
    link = tmp_path / "labels" / "b.txt"
    link.symlink_to(tmp_path / "gone.txt")
    with pytest.raises(FileNotFoundError) as caught:
        read_dataset(tmp_path)
    assert caught.value.filename == str(link)


def test_a_path_may_be_text(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(json.dumps(COCO))
    assert read_dataset(str(file)).names == read_dataset(file).names


def test_a_file_name_may_have_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(coco(("images", 0, {"file_name": "\udcff.jpg"})))  # as Python lists such a file
    assert read_dataset(file).names == ("\udcff", "b")
