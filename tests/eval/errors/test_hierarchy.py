"""Which classes are similar."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.classes import det_classes, det_names
from eval.errors.hierarchy import similar_classes

META_DET = Path(__file__).parents[3].parent / "shared" / "data" / "ilsvrc" / "devkit" / "data" / "meta_det.mat"
VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep"
)


def pairs(names: tuple[str, ...], keys: tuple[str, ...] = ()) -> set[tuple[str, str]]:
    similar = similar_classes(names, keys)
    assert np.array_equal(similar, similar.T)
    assert not similar.diagonal().any()
    assert not similar[0].any()
    return {(names[i - 1], names[j - 1]) for i, j in np.argwhere(similar).tolist() if i < j}


@pytest.mark.skipif(not META_DET.is_file(), reason="../shared has no devkit")
def test_det_is_what_the_devkit_says() -> None:
    loadmat = pytest.importorskip("scipy.io").loadmat
    synsets: Any = loadmat(META_DET, squeeze_me=True, struct_as_record=False)["synsets"]
    expected = np.zeros((201, 201), np.bool_)
    for synset in synsets:
        children = [int(c) for c in np.atleast_1d(synset.children) if c <= 200]
        expected[np.ix_(children, children)] = True
    np.fill_diagonal(expected, False)
    assert expected.any()
    assert np.array_equal(similar_classes(det_names()), expected)


def test_det_by_name_and_by_wordnet_id() -> None:
    wnids = tuple(c.wnid for c in det_classes())
    assert np.array_equal(similar_classes(wnids, wnids), similar_classes(det_names(), wnids))
    assert pairs(("dog", "domestic cat", "fox", "car", "bus", "golfcart")) == {
        ("dog", "domestic cat"),
        ("dog", "fox"),
        ("car", "golfcart"),
    }


def test_voc_has_the_sets_of_hoiem() -> None:
    found = pairs((*VOC.split(), "sofa", "train", "tvmonitor"))
    assert {("aeroplane", "bird"), ("bird", "person"), ("chair", "sofa"), ("aeroplane", "train")} <= found
    assert not any({"bottle", "pottedplant", "tvmonitor"} & set(pair) for pair in found)
    assert len(found) == 21 + 21 + 3 + 1  # 7 vehicles, 7 animals, 3 pieces of furniture, and what flies


def test_coco_has_supercategories_and_spelling_does_not_matter() -> None:
    names = ("person", "Dining_Table", "couch", "stop sign", "parkingmeter", "giraffe", "broccoli", "donut")
    assert pairs(names) == {("Dining_Table", "couch"), ("stop sign", "parkingmeter"), ("broccoli", "donut")}


def test_unknown_classes_are_similar_to_nothing() -> None:
    assert pairs(("this", "that")) == set()
    assert similar_classes(()).shape == (1, 1)
    assert pairs(("dog", "this", "fox")) == {("dog", "fox")}
