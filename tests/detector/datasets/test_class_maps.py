"""VOC's, COCO's and ImageNet's classes among the 200."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from detector.classes import det_classes, det_names, leaf_matrix
from detector.datasets.class_maps import (
    AMBIGUOUS,
    NO_CLASS,
    class_map,
    det_labels,
    imagenet_wnids,
    leaf_labels,
    to_det,
)
from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset
from detector.datasets.voc import VOC_CLASSES
from detector.samples import samples_folder

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not at hand")


def truth_of(*names: str, blacklist: tuple[tuple[int, int], ...] = ()) -> GroundTruth:
    """Return a data set of these classes with an object of each, one a picture."""
    count = len(names)
    return GroundTruth(
        names=tuple(f"p{i}" for i in range(count)),
        numbers=np.arange(count),
        sizes=np.zeros((count, 2), np.int64),
        paths=(None,) * count,
        class_names=names,
        class_keys=tuple(map(str, range(count))),
        pictures=np.arange(count),
        labels=np.arange(1, count + 1),
        boxes=np.arange(count)[:, None] + np.array([[0.0, 0, 1, 1]]),
        difficult=np.arange(count) % 2 == 1,
        crowd=np.zeros(count, np.bool_),
        areas=np.ones(count),
        blacklist=np.array(blacklist, np.int64).reshape(-1, 2),
    )


def label(name: str) -> int:
    return det_names().index(name) + 1


def test_voc_loses_its_bottles() -> None:
    truth = to_det(truth_of("bottle", "aeroplane", "dog", blacklist=((0, 3), (1, 1))))
    assert truth.class_names == det_names() and truth.class_keys[0] == "n02672831"
    assert truth.names == ("p0", "p1", "p2")  # the first picture stays, without objects
    assert truth.pictures.tolist() == [1, 2] and truth.labels.tolist() == [label("airplane"), label("dog")]
    assert truth.boxes.tolist() == [[1, 1, 2, 2], [2, 2, 3, 3]] and truth.difficult.tolist() == [True, False]
    assert truth.blacklist.tolist() == [[0, label("dog")]]


def test_labels_tell_none_from_ambiguous() -> None:
    assert det_labels(truth_of("truck", "giraffe", "tv")).tolist() == [AMBIGUOUS, NO_CLASS, label("tv or monitor")]
    assert det_labels(truth_of(*VOC_CLASSES)).tolist().count(AMBIGUOUS) == 1
    tabby, tench = imagenet_wnids()[281], imagenet_wnids()[0]
    assert det_labels(truth_of(tabby, tench)).tolist() == [label("domestic cat"), NO_CLASS]
    assert det_labels(truth_of("zebra", "accordion")).tolist() == [200, 1]  # some of the 200, in another order


def test_the_200_are_returned_as_they_are() -> None:
    truth = read_dataset(samples_folder())
    assert to_det(truth) is truth


def test_strange_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="class 'unicorn' is of none of these sets"):
        to_det(truth_of("dog", "unicorn"))
    with pytest.raises(ValueError, match="the classes are of several sets"):
        to_det(truth_of("aeroplane", "fire hydrant"))


def test_where_two_sets_have_a_name_they_mean_the_same_class() -> None:
    """So it does not matter which set a part of the classes is taken for."""
    det = {c.name: c.id for c in det_classes()}
    voc, coco = class_map("voc"), class_map("coco")
    assert set(voc) == set(VOC_CLASSES) and len(coco) == 80
    for one, other in ((det, voc), (det, coco), (voc, coco)):
        assert all(one[name] == other[name] for name in one.keys() & other.keys())


def test_the_table_of_imagenet_fits_the_sums_of_scores() -> None:
    wnids = imagenet_wnids()
    assert len(wnids) == len(set(wnids)) == 1000 and all(len(w) == 9 and w[0] == "n" for w in wnids)
    matrix = leaf_matrix()
    assert [leaf_labels().get(wnid, 0) for wnid in wnids] == matrix.argmax(axis=1).tolist()
    assert all(leaf_labels()[c.wnid] == c.id for c in det_classes())


def test_the_comments_of_the_table_name_the_classes() -> None:
    text = files("configs").joinpath("class_maps.toml").read_text(encoding="utf-8")
    names = {c.wnid: c.name for c in det_classes()}
    lines = [line.split('"') for line in text.splitlines() if '= "n0' in line]
    assert len(lines) > 50 and all(parts[-1].split("# ")[1] == names[parts[-2]] for parts in lines)
    assert set(tomllib.loads(text)) == {"voc", "coco"}


@needs_shared
def test_equals_the_reference_maps_and_order() -> None:
    reference = json.loads((SHARED / "class_maps.json").read_text())
    ids = {c.wnid: c.id for c in det_classes()} | {None: NO_CLASS}
    for name in ("voc", "coco"):
        expected = {key: ids[wnid] for key, wnid in reference[name].items()}
        assert class_map(name) == expected | dict.fromkeys(reference["ambiguous"][name], AMBIGUOUS)
    order = [line.split()[0] for line in (SHARED / "ilsvrc/LOC_synset_mapping.txt").read_text().splitlines()]
    assert list(imagenet_wnids()) == order


@needs_shared
@pytest.mark.parametrize("file", ["voc2012/val.json", "coco2017/val.json", "ilsvrc/loc_full/annotations.json"])
def test_real_sets(file: str) -> None:
    truth = read_dataset(SHARED / file)
    mapped = to_det(truth)
    assert mapped.names == truth.names and 0 < len(mapped) < len(truth)
    assert len(mapped) == int((det_labels(truth)[truth.labels - 1] > 0).sum())
