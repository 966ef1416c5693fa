"""ILSVRC DET: each layout as distributed, the numbers of val.txt, boxes as they are, the devkit's own files."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from detector.classes import det_classes, det_names
from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "ilsvrc"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not at hand")
DOG, PERSON, BREED = "n02084071", "n00007846", "n02085620"  # BREED: Chihuahua, below dog


def xml(*objects: tuple[str, int, int, int, int]) -> str:
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><xmax>{x2}</xmax><ymin>{y1}</ymin><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    return f"<annotation><size><width>50</width><height>40</height></size>{items}</annotation>"


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The single tree with a devkit in it: val a 1, b 2, c 3; val2 c, a; train with two folders; test."""
    root = tmp_path / "ILSVRC"
    put(root / "ImageSets/DET/val.txt", "a 1\nb 2\nc 3\n")
    put(root / "devkit/data/det_lists/val.txt", "a 1\nb 2\nc 3\n")
    put(root / "devkit/data/det_lists/ilsvrc13_val2.txt", "c 1\na 2\n")
    put(root / "devkit/data/ILSVRC2014_det_validation_blacklist.txt", f"3 {PERSON}\n2 {DOG}\n3 {PERSON}\n")
    put(root / "Annotations/DET/val/a.xml", xml((DOG, 0, 0, 50, 41), (PERSON, 5, 6, 5, 6)))
    put(root / "Annotations/DET/val/b.xml", xml())
    put(root / "Annotations/DET/val/c.xml", xml((BREED, 1, 1, 10, 20)))
    put(root / "ImageSets/DET/train_2.txt", "n1/n1_9 1\nextra/e_1 0\n")
    put(root / "ImageSets/DET/train_10.txt", "extra/e_2 -1\nn1/n1_9 -1\n")
    put(root / "Annotations/DET/train/n1/n1_9.xml", xml((DOG, 1, 1, 2, 2)))
    put(root / "Annotations/DET/train/extra/e_1.xml", xml((PERSON, 1, 1, 2, 2)))
    put(root / "ImageSets/DET/test.txt", "t_1 1\nt_2 2\n")
    return root


def label(wnid: str) -> int:
    return next(c.id for c in det_classes() if c.wnid == wnid)


def test_val_of_the_single_tree_in_columns(tree: Path) -> None:
    truth = read_dataset(tree)
    assert truth.names == ("a", "b", "c") and truth.numbers.tolist() == [1, 2, 3]
    assert truth.class_names == det_names() and truth.class_keys[57] == DOG
    assert truth.sizes.tolist() == [[50, 40]] * 3 and truth.paths == (None,) * 3
    assert truth.pictures.tolist() == [0, 0, 2]
    assert truth.labels.tolist() == [label(DOG), label(PERSON), label(DOG)]  # the breed counts as a dog
    # 1-based inclusive: minus one on the left and top only; over the edge as it is; one pixel is one pixel
    assert truth.boxes.tolist() == [[-1, -1, 50, 41], [4, 5, 5, 6], [0, 0, 10, 20]]
    assert truth.areas.tolist() == [51 * 42, 1, 200]
    assert not truth.difficult.any() and not truth.crowd.any()
    assert truth.blacklist.tolist() == [[1, label(DOG)], [2, label(PERSON)]]  # each pair once, picture indices


def test_val2_takes_its_numbers_from_val_and_val1_is_the_rest(tree: Path) -> None:
    val2 = read_dataset(tree, "ilsvrc", "val2")
    assert val2.names == ("a", "c") and val2.numbers.tolist() == [1, 3]  # not 2 and 1, as in its own list
    assert val2.blacklist.tolist() == [[1, label(PERSON)]]
    val1 = read_dataset(tree, "ilsvrc", "val1")
    assert val1.names == ("b",) and val1.numbers.tolist() == [2] and len(val1) == 0
    assert val1.blacklist.tolist() == [[0, label(DOG)]]


def test_train_joins_its_lists_in_the_order_of_the_classes(tree: Path) -> None:
    truth = read_dataset(tree, split="train")
    assert truth.names == ("n1_9", "e_1", "e_2") and truth.numbers.tolist() == [1, 2, 3]
    assert truth.pictures.tolist() == [0, 1] and truth.labels.tolist() == [label(DOG), label(PERSON)]
    assert truth.sizes.tolist() == [[50, 40], [50, 40], [0, 0]]  # a negative without XML
    assert len(truth.blacklist) == 0  # its numbers are those of val
    for path in (tree / "ImageSets/DET").glob("train_*.txt"):
        path.unlink()
    assert read_dataset(tree, split="train").names == ("e_1", "n1_9")  # without lists: what is annotated


def test_test_has_pictures_and_no_objects(tree: Path) -> None:
    put(tree / "Data/DET/test/t_1.JPEG")
    put(tree / "Data/DET/test/t_2.JPEG")
    truth = read_dataset(tree, split="test")
    assert truth.names == ("t_1", "t_2") and len(truth) == 0
    assert truth.paths == tuple(tree / "Data/DET/test" / f"{n}.JPEG" for n in truth.names)


def test_the_folder_above_the_single_tree_will_do(tree: Path) -> None:
    assert_equal(read_dataset(tree.parent), read_dataset(tree))


def test_the_archives_of_2013_beside_the_devkit_and_a_tar_for_a_folder(tree: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    put(old / "ILSVRC2014_devkit/data/det_lists/val.txt", "a 1\nb 2\nc 3\n")
    put(
        old / "ILSVRC2014_devkit/data/ILSVRC2014_det_validation_blacklist.txt",
        f"3 {PERSON}\n2 {DOG}\n9 {DOG}\n",
    )
    for compression, suffix in (("w", ".tar"), ("w:gz", ".tgz")):
        archive = old / f"ILSVRC2013_DET_bbox_val{suffix}"
        with tarfile.open(archive, compression) as file:
            file.add(tree / "Annotations/DET/val", "ILSVRC2013_DET_bbox_val")
        assert_equal(read_dataset(old), read_dataset(tree))
        archive.unlink()
    for name in ("a", "b", "c"):
        put(old / f"ILSVRC2013_DET_val/{name}.JPEG")
        put(old / f"ILSVRC2013_DET_bbox_val/{name}.xml", (tree / f"Annotations/DET/val/{name}.xml").read_text())
    truth = read_dataset(old)
    assert truth.paths[2] == old / "ILSVRC2013_DET_val" / "c.JPEG"
    assert_equal(truth, read_dataset(tree))


def test_train_of_two_years_is_found_in_both_folders(tmp_path: Path) -> None:
    for year, name in ((2013, "n1_1"), (2014, "ILSVRC2014_train_1")):
        put(tmp_path / f"ILSVRC{year}_DET_bbox_train/x/{name}.xml", xml((DOG, 1, 1, 2, 2)))
        put(tmp_path / f"ILSVRC{year}_DET_train/x/{name}.JPEG")
    put(tmp_path / "ILSVRC2014_devkit/data/det_lists/train_pos_1.txt", "ILSVRC2014_train_1\n")
    put(tmp_path / "ILSVRC2014_devkit/data/det_lists/train_neg_1.txt", "n1_1\n")
    truth = read_dataset(tmp_path, split="train")
    assert sorted(truth.names) == ["ILSVRC2014_train_1", "n1_1"] and len(truth) == 2
    assert all(
        path is not None and path.is_file() and path.stem == name
        for path, name in zip(truth.paths, truth.names, strict=True)
    )


def assert_equal(a: GroundTruth, b: GroundTruth) -> None:
    for name in ("names", "class_names", "class_keys"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("numbers", "sizes", "pictures", "labels", "boxes", "difficult", "crowd", "areas", "blacklist"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


@needs_shared
def test_val2_of_the_devkit() -> None:
    began = time.process_time()
    truth = read_dataset(SHARED, split="val2")
    assert time.process_time() - began < 20  # about 1 s; a whole val is twice as long
    lists = SHARED / "devkit" / "data" / "det_lists"
    number = dict(line.split() for line in (lists / "val.txt").read_text().splitlines())
    own = [line.split()[0] for line in (lists / "ilsvrc13_val2.txt").read_text().splitlines()]
    assert len(truth.names) == 9917 and set(truth.names) == set(own)
    assert [int(number[name]) for name in truth.names] == truth.numbers.tolist()
    assert (np.diff(truth.numbers) > 0).all()
    listed = {tuple(pair) for pair in truth.blacklist.tolist()}
    pairs = zip(truth.pictures.tolist(), truth.labels.tolist(), strict=True)
    counted = [pair for pair in pairs if pair not in listed]
    assert len(counted) == 26782
    assert len(np.unique(truth.labels)) == 200
    index = truth.names.index("ILSVRC2012_val_00000006")
    assert truth.boxes[truth.of_picture(index)].tolist() == [[104, 203, 358, 279]]  # 105 204 358 279 in the XML
    assert (truth.boxes < 0).any()  # official boxes that begin at 0 in their 1-based files


@needs_shared
def test_val2_mini_is_the_same_part_of_val2_however_it_is_named() -> None:
    mini = read_dataset(SHARED / "val2_mini")
    assert len(mini.names) == 76 and len(mini) == 227
    assert all(path is not None and path.is_file() for path in mini.paths)
    assert_equal(read_dataset(SHARED, split="val2_mini"), mini)
    whole = read_dataset(SHARED, split="val2")
    place = {number: index for index, number in enumerate(whole.numbers.tolist())}
    assert_equal(whole.select([place[number] for number in mini.numbers.tolist()]), mini)


def save_classes(path: Path, swapped: bool = False) -> None:
    """Write a meta_det.mat of the 200 classes, and n99000001 two steps below dog."""
    scipy_io = pytest.importorskip("scipy.io")
    wnids = [c.wnid for c in det_classes()] + ["n99000000", "n99000001"]
    if swapped:
        wnids[0], wnids[1] = wnids[1], wnids[0]
    table = np.zeros(len(wnids), dtype=[("ILSVRC2014_DET_ID", "O"), ("WNID", "O"), ("children", "O")])
    children = {label(DOG): [201], 201: [202]}
    for i, wnid in enumerate(wnids, 1):
        table[i - 1] = (i, wnid, np.array(children.get(i, []), np.uint16))
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, {"synsets": table})


def test_a_synset_that_only_meta_det_places(tmp_path: Path) -> None:
    put(tmp_path / "det_lists/val.txt", "a 1\n")
    put(tmp_path / "ILSVRC2013_DET_bbox_val/a.xml", xml(("n99000001", 1, 1, 2, 2)))
    with pytest.raises(ValueError, match="unknown class 'n99000001'"):
        read_dataset(tmp_path)
    save_classes(tmp_path / "data" / "meta_det.mat")
    assert read_dataset(tmp_path).labels.tolist() == [label(DOG)]


def test_another_order_of_classes_is_refused(tree: Path) -> None:
    save_classes(tree / "devkit" / "data" / "meta_det.mat", swapped=True)
    with pytest.raises(ValueError, match=r"class 1 is n02691156, but n02672831 \(accordion\) here"):
        read_dataset(tree)
