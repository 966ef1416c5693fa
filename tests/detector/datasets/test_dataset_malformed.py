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


def coco(*places: tuple[str, int, dict[str, Any]], drop: tuple[str, ...] = ()) -> Files:
    """Return the COCO file with entries `list[index]` updated by the fields, those in `drop` taken out."""
    data = json.loads(json.dumps(COCO))
    for of, index, fields in places:
        data[of][index].update(fields)
        for key in drop:
            data[of][index].pop(key)
    return {"data.json": json.dumps(data)}


def whole(**lists: object) -> Files:
    return {"data.json": json.dumps({**COCO, **lists})}


CASES: dict[str, tuple[Files, str | None, str]] = {  # files, split, message
    "xml cut off": (
        {**VOC, "Annotations/a.xml": xml(item())[:60]},
        None,
        "DATA/Annotations/a.xml, line 2: no valid XML (unclosed token); get the file again",
    ),
    "xml empty": (
        {**VOC, "Annotations/a.xml": ""},
        None,
        "DATA/Annotations/a.xml, line 1: no valid XML (no element found); get the file again",
    ),
    "xml not utf-8": (
        {**VOC, "Annotations/a.xml": b"<annotation>\n<size>\xff</size></annotation>"},
        None,
        "DATA/Annotations/a.xml, line 2: byte 0xff is not UTF-8; save the file as UTF-8",
    ),
    "xml unknown encoding": (
        {**VOC, "Annotations/a.xml": '<?xml version="1.0" encoding="klingon"?><annotation/>'},
        None,
        "DATA/Annotations/a.xml, line 1: its encoding cannot be read (unknown encoding: klingon); "
        "save the file as UTF-8",
    ),
    "xml of something else": (
        {**VOC, "Annotations/a.xml": "<svg/>"},
        None,
        "DATA/Annotations/a.xml: the XML holds <svg>; an annotation file holds <annotation>",
    ),
    "xml size no number": (
        {**VOC, "Annotations/a.xml": xml(size="<width>wide</width>")},
        None,
        "DATA/Annotations/a.xml: <size> says 'wide' x '0'; give whole pixels",
    ),
    "xml unknown class": (
        {**VOC, "Annotations/a.xml": xml(item(), item("dgo"))},
        None,
        "DATA/Annotations/a.xml, line 4: unknown class 'dgo'; "
        "correct it, or list the classes of your own in DATA/classes.txt, one a line",
    ),
    "xml no name": (
        {**VOC, "Annotations/a.xml": xml(item(" "))},
        None,
        "DATA/Annotations/a.xml, line 3: <object> without <name>; correct or remove the object",
    ),
    "xml no box": (
        {**VOC, "Annotations/a.xml": xml(item(), "<object><name>dog</name></object>")},
        None,
        "DATA/Annotations/a.xml, line 4: object without <bndbox>; correct or remove the object",
    ),
    "xml side missing": (
        {**VOC, "Annotations/a.xml": xml(item().replace("<xmax>10</xmax>", ""))},
        None,
        "DATA/Annotations/a.xml, line 3: <bndbox> without <xmax>; correct or remove the object",
    ),
    "xml side no number": (
        {**VOC, "Annotations/a.xml": xml(item(), item(box=(1, "one", 3, 4)))},
        None,
        "DATA/Annotations/a.xml, line 4: <ymin> is 'one', not a number; correct or remove the object",
    ),
    "xml side nan": (
        {**VOC, "Annotations/a.xml": xml(item(), item(), item(box=("nan", 1, 3, 4)))},
        None,
        "DATA/Annotations/a.xml, line 5: a coordinate is not a finite number; correct or remove the box",
    ),
    "xml side of python's own": (
        {**VOC, "Annotations/a.xml": xml(item(box=(1, 1, "1_0", 4)))},
        None,
        "DATA/Annotations/a.xml, line 3: <xmax> is '1_0', not a number; correct or remove the object",
    ),
    "xml side in other digits": (
        {**VOC, "Annotations/a.xml": xml(item(box=(1, 1, "\u0661\u0660", 4)))},
        None,
        "DATA/Annotations/a.xml, line 3: <xmax> is '\u0661\u0660', not a number; correct or remove the object",
    ),
    "xml size in other digits": (
        {**VOC, "Annotations/a.xml": xml(size="<width>5\u0660</width><height>40</height>")},
        None,
        "DATA/Annotations/a.xml: <size> says '5\u0660' x '40'; give whole pixels",
    ),
    "xml size of 5,000 digits": (
        {**VOC, "Annotations/a.xml": xml(size=f"<width>{'1' * 5000}</width>")},
        None,
        f"DATA/Annotations/a.xml: <size> says '{'1' * 57}...' x '0'; give whole pixels",
    ),
    "xml far off": (
        {**VOC, "Annotations/a.xml": xml(item(), item(box=(1, 1, 9, "1e300")))},
        None,
        "DATA/Annotations/a.xml, line 4: a coordinate is beyond 10,000,000 pixels; correct or remove the box",
    ),
    "xml inverted": (
        {**VOC, "Annotations/a.xml": xml(item(), item(box=(10, 1, 5, 4)))},
        None,
        "DATA/Annotations/a.xml, line 4: the box is -4 x 4 pixels; correct or remove it, both sides must be above 0",
    ),
    "xml no height": (
        {**VOC, "Annotations/a.xml": xml(item(box=(1, 5, 9, 4)))},
        None,
        "DATA/Annotations/a.xml, line 3: the box is 9 x 0 pixels; correct or remove it, both sides must be above 0",
    ),
    "xml outside": (
        {**VOC, "Annotations/a.xml": xml(item(), item(box=(51, 1, 60, 4)))},
        None,
        "DATA/Annotations/a.xml, line 4: the box lies wholly outside its picture of 50 x 40 pixels; "
        "correct or remove it",
    ),
    "xml difficult no flag": (
        {**VOC, "Annotations/a.xml": xml(item(more="<difficult>yes</difficult>"))},
        None,
        "DATA/Annotations/a.xml, line 3: <difficult> is 'yes', not 0 or 1; correct or remove the object",
    ),
    "voc xml missing": (
        {k: v for k, v in VOC.items() if k != "Annotations/b.xml"},
        None,
        "DATA/ImageSets/Main/val.txt, line 2: picture 'b' has no DATA/Annotations/b.xml; "
        "get the file, or give a split that is annotated",
    ),
    "voc picture missing": (
        {**VOC, "JPEGImages/a.jpg": picture()},
        None,
        "DATA/ImageSets/Main/val.txt, line 2: picture 'b' is not in DATA/JPEGImages; add it, or take it off the list",
    ),
    "voc picture listed twice": (
        {**VOC, "ImageSets/Main/val.txt": "a\nb\na\n"},
        None,
        "DATA/ImageSets/Main/val.txt, line 3: picture 'a' comes a second time; keep one of the two",
    ),
    "voc list empty": (
        {**VOC, "ImageSets/Main/val.txt": "\n"},
        None,
        "DATA/ImageSets/Main/val.txt: lists no picture; give a data set with at least one",
    ),
    "voc list not utf-8": (
        {**VOC, "ImageSets/Main/val.txt": b"a\n\xe9\n"},
        None,
        "DATA/ImageSets/Main/val.txt, line 2: byte 0xe9 is not UTF-8; save the file as UTF-8",
    ),
    "voc no such split": (
        VOC,
        "test",
        "DATA/ImageSets/Main/test.txt: there is no split 'test'; the splits here: val",
    ),
    "voc no list": (
        {"Annotations/a.xml": xml(item())},
        "train",
        "DATA/ImageSets/Main: there is no such folder to tell split 'train'; make it, or give no split",
    ),
    "voc two years": (
        {f"{year}/{k}": v for year in ("VOC2007", "VOC2012") for k, v in VOC.items()},
        None,
        "DATA: holds VOC2007 and VOC2012; give one of them",
    ),
    "voc class listed twice": (
        {**VOC, "classes.txt": "dog\ncat\ndog\n"},
        None,
        "DATA/classes.txt, line 3: class 'dog' comes a second time; keep one of the two",
    ),
    "voc class blank": (
        {**VOC, "classes.txt": "dog\n\ncat\n"},
        None,
        "DATA/classes.txt, line 2: the line is blank; write one class a line",
    ),
    "ilsvrc unknown class": (
        {**ILSVRC, "ILSVRC2013_DET_bbox_val/b.xml": xml(item("n00000001"))},
        None,
        "DATA/ILSVRC2013_DET_bbox_val/b.xml, line 3: unknown class 'n00000001'; "
        "name one of the 200 classes, or a synset below one, by its WordNet id",
    ),
    "ilsvrc far outside": (
        {**ILSVRC, "ILSVRC2013_DET_bbox_val/b.xml": xml(item(DOG, (52, 1, 60, 9)))},
        None,
        "DATA/ILSVRC2013_DET_bbox_val/b.xml, line 3: the box lies wholly outside its picture of 50 x 40 pixels; "
        "correct or remove it",
    ),
    "ilsvrc xml missing": (
        {**ILSVRC, "det_lists/val.txt": "a 1\nb 2\nc 3\n"},
        None,
        "DATA/det_lists/val.txt, line 3: picture 'c' has no XML in DATA/ILSVRC2013_DET_bbox_val; "
        "get the annotations again",
    ),
    "ilsvrc name twice": (
        {**ILSVRC, "det_lists/val.txt": "a 1\na 2\n"},
        None,
        "DATA/det_lists/val.txt, line 2: picture 'a' comes a second time; keep one of the two",
    ),
    "ilsvrc number twice": (
        {**ILSVRC, "det_lists/val.txt": "a 1\nb 1\n"},
        None,
        "DATA/det_lists/val.txt, line 2: number '1' comes a second time; keep one of the two",
    ),
    "ilsvrc line no number": (
        {**ILSVRC, "det_lists/val.txt": "a 1\nb two\n"},
        None,
        "DATA/det_lists/val.txt, line 2: 'b two' is not a name and a number; correct the line",
    ),
    "ilsvrc number of python's own": (
        {**ILSVRC, "det_lists/val.txt": "a 1\nb 1_0\n"},
        None,
        "DATA/det_lists/val.txt, line 2: 'b 1_0' is not a name and a number; correct the line",
    ),
    "ilsvrc number in other digits": (
        {**ILSVRC, "det_lists/val.txt": "a 1\nb \uff12\n"},
        None,
        "DATA/det_lists/val.txt, line 2: 'b \uff12' is not a name and a number; correct the line",
    ),
    "ilsvrc number of 5,000 digits": (
        {**ILSVRC, "det_lists/val.txt": f"a 1\nb {'2' * 5000}\n"},
        None,
        f"DATA/det_lists/val.txt, line 2: 'b {'2' * 55}...' is not a name and a number; correct the line",
    ),
    "ilsvrc blacklist in other digits": (
        {**ILSVRC, "data/ILSVRC2014_det_validation_blacklist.txt": f"\uff11 {DOG}\n"},
        None,
        f"DATA/data/ILSVRC2014_det_validation_blacklist.txt, line 1: '\uff11 {DOG}' is not a number and a WordNet id; "
        "correct the line",
    ),
    "ilsvrc picture missing": (
        {**ILSVRC, "ILSVRC2013_DET_val/a.JPEG": picture()},
        None,
        "DATA/det_lists/val.txt, line 2: picture 'b' is not in DATA/ILSVRC2013_DET_val; "
        "add it, or take it off the list",
    ),
    "ilsvrc blacklist line": (
        {**ILSVRC, "data/ILSVRC2014_det_validation_blacklist.txt": "1\n"},
        None,
        "DATA/data/ILSVRC2014_det_validation_blacklist.txt, line 1: '1' is not a number and a WordNet id; "
        "correct the line",
    ),
    "ilsvrc blacklist class": (
        {**ILSVRC, "data/ILSVRC2014_det_validation_blacklist.txt": f"1 {DOG}\n2 n1\n"},
        None,
        "DATA/data/ILSVRC2014_det_validation_blacklist.txt, line 2: unknown class 'n1'; "
        "give the WordNet id of one of the 200",
    ),
    "ilsvrc no class table": (
        {**ILSVRC, "data/meta_det.mat": "no Matlab file"},
        None,
        "DATA/data/meta_det.mat: is no class table of ILSVRC; take it from the devkit again",
    ),
    "ilsvrc no annotations": (
        ILSVRC,
        "train",
        "DATA: no annotations of train: no Annotations/DET/train or ILSVRC201?_DET_bbox_train; "
        "put the folder or its tar archive there, or give another split",
    ),
    "ilsvrc no list": (
        ILSVRC,
        "test",
        "DATA: no test.txt in data/det_lists or det_lists or ImageSets/DET; put the devkit of ILSVRC beside the data",
    ),
    "ilsvrc no such split": (
        ILSVRC,
        "trainval",
        "DATA: ILSVRC DET has no split 'trainval'; give one of train, val, val1, val2, val2_mini, test",
    ),
    "val2 archive cut off": (
        {**VAL2, "devkit/data/det_val2_bbox.tar.gz": tar(b=xml(item(DOG)))[:100]},
        "val2",
        "DATA/devkit/data/det_val2_bbox.tar.gz: is no tar archive, or broken or cut off; get it again",
    ),
    "val2 no archive": (
        {**VAL2, "devkit/data/det_val2_bbox.tar.gz": b"<html>Not found</html>"},
        "val2",
        "DATA/devkit/data/det_val2_bbox.tar.gz: is no tar archive, or broken or cut off; get it again",
    ),
    "val2 not in the archive": (
        {**VAL2, "devkit/data/det_val2_bbox.tar.gz": tar(a=xml())},
        "val2",
        "DATA/devkit/data/det_lists/val.txt, line 2: picture 'b' has no XML in DATA/devkit/data/det_val2_bbox.tar.gz; "
        "get the annotations again",
    ),
    "val2 not in val": (
        {**VAL2, "devkit/data/det_lists/ilsvrc13_val2.txt": "z 1\n"},
        "val2",
        "DATA/devkit/data/det_lists/ilsvrc13_val2.txt, line 1: picture 'z' is not in val.txt; "
        "take both lists from one devkit",
    ),
    "val2 box in the archive": (
        {**VAL2, "devkit/data/det_val2_bbox.tar.gz": tar(b=xml(item(DOG, (9, 9, 1, 1))))},
        "val2",
        "DATA/devkit/data/det_val2_bbox.tar.gz/det_val2_bbox/b.xml, line 3: the box is -7 x -7 pixels; "
        "correct or remove it, both sides must be above 0",
    ),
    "small set has one split": (
        SMALL,
        "train",
        "DATA: a folder with list.txt has no split 'train'; give no split",
    ),
    "small set picture missing": (
        {**SMALL, "list.txt": "a 7\nb 8\n", "bbox/b.xml": xml()},
        None,
        "DATA/list.txt, line 2: picture 'b' is not in DATA/images; add it, or take it off the list",
    ),
    "coco cut off": (
        {"data.json": json.dumps(COCO, indent=0)[:200]},
        None,
        "DATA/data.json, line 25: no valid JSON (Expecting value); get the file again, it may be cut off",
    ),
    "coco not utf-8": (
        {"data.json": b'{"images":\n "\xff"}'},
        None,
        "DATA/data.json, line 2: byte 0xff is not UTF-8; save the file as UTF-8",
    ),
    "coco no object": (
        {"data.json": "[1]"},
        None,
        "DATA/data.json: the JSON is a list; a data set is an object with images, annotations, categories",
    ),
    "coco list missing": (
        {"data.json": '{"images": [], "annotations": []}'},
        None,
        "DATA/data.json: 'categories' is missing; a COCO data set has images, annotations, categories",
    ),
    "coco list of another type": (
        whole(annotations={}),
        None,
        "DATA/data.json: 'annotations' is an object; it must be a list",
    ),
    "coco entry of another type": (
        whole(images=["a.jpg"]),
        None,
        "DATA/data.json, images[0]: is text; it must be an object",
    ),
    "coco empty": (
        whole(images=[], annotations=[]),
        None,
        "DATA/data.json: lists no picture; give a data set with at least one",
    ),
    "coco id is text": (
        coco(("images", 1, {"id": "b"})),
        None,
        "DATA/data.json, images[1]: 'id' is 'b'; number them with whole numbers",
    ),
    "coco field missing": (
        coco(("annotations", 1, {}), drop=("bbox",)),
        None,
        "DATA/data.json, annotations[1]: 'bbox' is missing; add it",
    ),
    "coco picture id twice": (
        coco(("images", 1, {"id": 1})),
        None,
        "DATA/data.json, images[1]: id '1' comes a second time; keep one of the two",
    ),
    "coco file name twice": (
        coco(("images", 1, {"file_name": "a.jpg"})),
        None,
        "DATA/data.json, images[1]: file_name 'a.jpg' comes a second time; keep one of the two",
    ),
    "coco file name no text": (
        coco(("images", 1, {"file_name": None})),
        None,
        "DATA/data.json, images[1]: 'file_name' is null; it must be text",
    ),
    "coco width negative": (
        coco(("images", 1, {"width": -1})),
        None,
        "DATA/data.json, images[1]: 'width' is -1; give whole pixels, or leave it out",
    ),
    "coco annotation id twice": (
        coco(("annotations", 1, {"id": 1})),
        None,
        "DATA/data.json, annotations[1]: id '1' comes a second time; keep one of the two",
    ),
    "coco category twice": (
        whole(categories=[{"id": 18, "name": "dog"}, {"id": 18, "name": "cat"}]),
        None,
        "DATA/data.json, categories[1]: id '18' comes a second time; keep one of the two",
    ),
    "coco category name twice": (
        whole(categories=[{"id": 18, "name": "dog"}, {"id": 19, "name": "dog"}]),
        None,
        "DATA/data.json, categories[1]: name 'dog' comes a second time; keep one of the two",
    ),
    "coco unknown class": (
        coco(("annotations", 1, {"category_id": 19})),
        None,
        "DATA/data.json, annotations[1]: 'category_id' 19 is an unknown class; correct it, or remove the object",
    ),
    "coco unknown picture": (
        coco(("annotations", 1, {"image_id": 3})),
        None,
        "DATA/data.json, annotations[1]: 'image_id' 3 is an unknown image; correct it, or remove the object",
    ),
    "coco box nan": (
        coco(("annotations", 1, {"bbox": [float("nan"), 2, 3, 4]})),
        None,
        "DATA/data.json, annotations[1]: a coordinate is not a finite number; correct or remove the box",
    ),
    "coco box of three": (
        coco(("annotations", 1, {"bbox": [1, 2, 3]})),
        None,
        "DATA/data.json, annotations[1]: 'bbox' is [1, 2, 3]; give four numbers: x, y, width, height",
    ),
    "coco box of text": (
        coco(("annotations", 1, {"bbox": ["1", 2, 3, 4]})),
        None,
        "DATA/data.json, annotations[1]: 'bbox' is ['1', 2, 3, 4]; give four numbers: x, y, width, height",
    ),
    "coco box far off": (
        coco(("annotations", 1, {"bbox": [1e200, 2, 3, 4]})),
        None,
        "DATA/data.json, annotations[1]: a coordinate is beyond 10,000,000 pixels; correct or remove the box",
    ),
    "coco box with a sum beyond numbers": (
        coco(("annotations", 1, {"bbox": [1e308, 1, 1.7e308, 4]})),
        None,
        "DATA/data.json, annotations[1]: a coordinate is not a finite number; correct or remove the box",
    ),
    "coco box without end": (
        coco(("annotations", 1, {"bbox": [float("-inf"), 1, float("inf"), 4]})),
        None,
        "DATA/data.json, annotations[1]: a coordinate is not a finite number; correct or remove the box",
    ),
    "coco number of 5,000 digits": (
        {"data.json": json.dumps(COCO).replace("[1, 2, 3, 4]", f"[1, 2, 3, {'4' * 5000}]")},
        None,
        "DATA/data.json: JSON with a number too long or nested too deeply; get the file again",
    ),
    "coco class of half a character": (
        whole(categories=[{"id": 18, "name": "dog\ud800"}]),
        None,
        "DATA/data.json, categories[0]: 'name' is 'dog\\ud800'; it must be text",
    ),
    "coco class of a byte": (
        whole(categories=[{"id": 18, "name": "dog\udcff"}]),
        None,
        "DATA/data.json, categories[0]: 'name' is 'dog\\udcff'; it must be text",
    ),
    "coco file name of half a character": (
        coco(("images", 1, {"file_name": "\ud800.jpg"})),
        None,
        "DATA/data.json, images[1]: 'file_name' is '\\ud800.jpg'; it must be text",
    ),
    "coco box flat": (
        coco(("annotations", 1, {"bbox": [1, 2, 0, 4]})),
        None,
        "DATA/data.json, annotations[1]: the box is 0 x 4 pixels; correct or remove it, both sides must be above 0",
    ),
    "coco box inverted": (
        coco(("annotations", 1, {"bbox": [1, 2, 3, -4], "area": 0})),
        None,
        "DATA/data.json, annotations[1]: the box is 3 x -4 pixels; correct or remove it, both sides must be above 0",
    ),
    "coco box outside": (
        coco(("annotations", 0, {"bbox": [-8, 2, 8, 4]})),
        None,
        "DATA/data.json, annotations[0]: the box lies wholly outside its picture of 50 x 40 pixels; "
        "correct or remove it",
    ),
    "coco iscrowd": (
        coco(("annotations", 0, {"iscrowd": 2})),
        None,
        "DATA/data.json, annotations[0]: 'iscrowd' is 2; give 0 or 1",
    ),
    "coco area": (
        coco(("annotations", 0, {"area": -1})),
        None,
        "DATA/data.json, annotations[0]: 'area' is -1; give square pixels, or leave it out",
    ),
    "coco picture missing": (
        {**coco(), "images/a.jpg": picture()},
        None,
        "DATA/data.json: picture 'b.jpg' is not in DATA/images; add it, or remove it from 'images'",
    ),
    "coco file has no splits": (
        coco(),
        "train",
        "DATA/data.json: a JSON file holds one split only; give no split, or the folder instead of 'train'",
    ),
    "coco no such split": (
        {"train.json": "{}"},
        None,
        "DATA: no val.json, annotations/instances_val.json or annotations.json; give the file",
    ),
    "coco split twice": (
        {"val2014.json": "{}", "val2017.json": "{}"},
        "val",
        "DATA: val2014.json and val2017.json are both of split 'val'; give the file",
    ),
    "yolo unknown class": (
        {**YOLO, "labels/a.txt": "0 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2\n"},
        None,
        "DATA/labels/a.txt, line 2: unknown class '2'; the classes are 0..1",
    ),
    "yolo class of python's own": (
        {**YOLO, "labels/a.txt": "0_1 0.5 0.5 0.2 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: unknown class '0_1'; the classes are 0..1",
    ),
    "yolo class in other digits": (
        {**YOLO, "labels/a.txt": "\u0661 0.5 0.5 0.2 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: unknown class '\u0661'; the classes are 0..1",
    ),
    "yolo class of 5,000 digits": (
        {**YOLO, "labels/a.txt": f"{'1' * 5000} 0.5 0.5 0.2 0.2\n"},
        None,
        f"DATA/labels/a.txt, line 1: unknown class '{'1' * 57}...'; the classes are 0..1",
    ),
    "yolo number of python's own": (
        {**YOLO, "labels/a.txt": "0 0.5 0.5 0.1_5 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: '0.5 0.5 0.1_5 0.2' are not four numbers; write: class cx cy w h",
    ),
    "yolo number in other digits": (
        {**YOLO, "labels/a.txt": "0 0.5 0.5 0.\u0665 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: '0.5 0.5 0.\u0665 0.2' are not four numbers; write: class cx cy w h",
    ),
    "yolo number of 5,000 digits": (
        {**YOLO, "labels/a.txt": f"0 0.5 0.5 {'1' * 5000} 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: a number is not in 0..1; "
        "divide x and w by the picture's width, y and h by its height",
    ),
    "yolo outline": (
        {**YOLO, "labels/a.txt": "0 0.1 0.1 0.2 0.2 0.3 0.3\n"},
        None,
        "DATA/labels/a.txt, line 1: 7 numbers instead of 5; write: class cx cy w h (outlines are not read)",
    ),
    "yolo no number": (
        {**YOLO, "labels/a.txt": "0 a 0.1 0.2 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: 'a 0.1 0.2 0.2' are not four numbers; write: class cx cy w h",
    ),
    "yolo nan": (
        {**YOLO, "labels/a.txt": "\n0 nan 0.1 0.2 0.2\n"},
        None,
        "DATA/labels/a.txt, line 2: a coordinate is not a finite number; correct or remove the box",
    ),
    "yolo in pixels": (
        {**YOLO, "labels/a.txt": "0 25 20 10 8\n"},
        None,
        "DATA/labels/a.txt, line 1: a number is not in 0..1; "
        "divide x and w by the picture's width, y and h by its height",
    ),
    "yolo flat": (
        {**YOLO, "labels/a.txt": "0 0.5 0.5 0 0.2\n"},
        None,
        "DATA/labels/a.txt, line 1: the box is 0 x 8 pixels; correct or remove it, both sides must be above 0",
    ),
    "yolo picture missing": (
        {**YOLO, "labels/c.txt": ""},
        None,
        "DATA/labels/c.txt: there is no picture 'c' in DATA/images; add it, or remove the label file",
    ),
    "yolo no picture": (
        {**YOLO, "images/b.png": "text"},
        None,
        "DATA/images/b.png: no picture that can be read; replace it",
    ),
    **{
        f"yolo {format} cut off": (
            {**YOLO, "images/b.png": cut(format)},
            None,
            "DATA/images/b.png: no picture that can be read; replace it",
        )
        for format in ("jpeg", "png", "bmp", "webp")
    },
    "yolo bmp garbled": (
        {**YOLO, "images/b.png": garbled_bmp()},
        None,
        "DATA/images/b.png: no picture that can be read; replace it",
    ),
    "yolo two pictures of a name": (
        {**YOLO, "images/b.jpg": picture()},
        None,
        "DATA/images/b.png: has the name of DATA/images/b.jpg; keep one of the two",
    ),
    "yolo no classes": (
        {k: v for k, v in YOLO.items() if k != "classes.txt"},
        None,
        "DATA: has neither classes.txt nor data.yaml; write classes.txt, one class a line",
    ),
    "yolo yaml without names": (
        {**YOLO, "classes.txt": "", "data.yaml": "nc: 2\n"},
        None,
        "DATA/data.yaml: has no 'names:'; write the names into classes.txt, one a line",
    ),
    "yolo yaml beyond us": (
        {**YOLO, "classes.txt": "", "data.yaml": "names:\n  - dog\n  - *cat\n"},
        None,
        "DATA/data.yaml, line 3: '- *cat' cannot be read as a class name; write the names into classes.txt, one a line",
    ),
    "yolo yaml numbers": (
        {**YOLO, "classes.txt": "", "data.yaml": "names:\n  0: dog\n  2: cat\n"},
        None,
        "DATA/data.yaml, line 1: the names are not numbered 0..1; number them so",
    ),
    "yolo yaml number of 5,000 digits": (
        {**YOLO, "classes.txt": "", "data.yaml": f"names:\n  {'0' * 5000}: dog\n"},
        None,
        f"DATA/data.yaml, line 2: '{'0' * 57}...' cannot be read as a class name; "
        "write the names into classes.txt, one a line",
    ),
    "yolo yaml number in other digits": (
        {**YOLO, "classes.txt": "", "data.yaml": "names: {\u0660: dog}\n"},
        None,
        "DATA/data.yaml, line 1: '\u0660: dog' cannot be read as a class name; "
        "write the names into classes.txt, one a line",
    ),
    "yolo no such split": (
        {**YOLO, "images/val/c.png": picture()},
        "test",
        "DATA: there is no split test, neither images/test nor test/images; name one of the splits here: val",
    ),
    "yolo no val": (
        {**YOLO, "images/train/c.png": picture(), "images/a.png": picture()},
        "dev",
        "DATA: there is no split dev, neither images/dev nor dev/images; name one of the splits here: train",
    ),
    "yolo no splits": (
        YOLO,
        "train",
        "DATA: there is no split train, neither images/train nor train/images; "
        "this set has no splits: name none, or val for the whole",
    ),
    "yolo no pictures": (
        {"classes.txt": "dog\n", "images/readme.txt": "", "labels/a.txt": ""},
        None,
        "DATA: there is no split val, neither images/val nor val/images; "
        "put the pictures into images, or into images/val",
    ),
    "nothing known": (
        {"readme.txt": "hello"},
        None,
        "DATA: no data set is recognised here; "
        "give a folder with det_lists (ILSVRC), Annotations (VOC), images "
        "and labels (YOLO) or a .json file (COCO), or name the format",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files, split, message = CASES[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    target = tmp_path / "data.json" if "data.json" in files else tmp_path
    with warnings.catch_warnings(record=True) as warned, pytest.raises(ValueError) as caught:
        warnings.simplefilter("always")
        read_dataset(target, "auto", split)
    assert not warned and capfd.readouterr() == ("", "")
    text = str(caught.value).replace(str(tmp_path), "DATA").replace(os.sep, "/")
    assert text == message
    assert "\n" not in text and ": " in text and "; " in text


GOOD: dict[str, tuple[Files, str | None]] = {
    "voc": (VOC, None),
    "ilsvrc": (ILSVRC, "val"),
    "val2": (VAL2, "val2"),
    "small": (SMALL, None),
    "yolo": (YOLO, None),
    "coco": (coco(), None),
}


@pytest.mark.parametrize("case", GOOD)
def test_the_sets_that_the_cases_break_are_good(case: str, tmp_path: Path) -> None:
    files, split = GOOD[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    truth = read_dataset(tmp_path / "data.json" if "data.json" in files else tmp_path, "auto", split)
    assert len(truth) == (2 if case == "coco" else 1)


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
    "coco": (coco(), None, "data.json"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("case", PIPES)
def test_a_pipe_is_refused_and_not_waited_for(case: str, tmp_path: Path) -> None:
    files, split, pipe = PIPES[case]
    for name, content in {**files, pipe: ""}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != pipe:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
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
    for name, content in YOLO.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
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
    file.write_text(coco(("images", 0, {"file_name": "\udcff.jpg"}))["data.json"])  # as Python lists such a file
    assert read_dataset(file).names == ("\udcff", "b")


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 25 and len({message for _, _, message in CASES.values()}) >= 25
