"""The class table: the devkit's 200 classes, and the sums over their ImageNet leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from detector.classes import BACKGROUND, det_classes, det_names, label_of, leaf_matrix

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "ilsvrc"


def test_ids_run_from_1_to_200_and_no_leaf_is_taken_twice():
    classes = det_classes()
    assert [c.id for c in classes] == list(range(1, 201))
    assert len({c.wnid for c in classes}) == len(set(det_names())) == 200
    leaves = [leaf for c in classes for leaf in c.imagenet]
    assert len(leaves) == len(set(leaves)) == 495 and set(leaves) < set(range(1000))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not at hand")
def test_equals_the_devkit():
    import scipy.io

    meta = scipy.io.loadmat(SHARED / "devkit" / "data" / "meta_det.mat", squeeze_me=True)["synsets"]
    official = {int(row["ILSVRC2013_DET_ID"]): (str(row["WNID"]), str(row["name"])) for row in meta}
    order = [line.split()[0] for line in (SHARED / "LOC_synset_mapping.txt").read_text().splitlines()]
    reference = {c["id"]: c["imagenet1k"] for c in json.loads((SHARED / "det200.json").read_text())}
    for c in det_classes():
        assert official[c.id] == (c.wnid, c.name)
        assert [order[leaf] for leaf in c.imagenet] == reference[c.id]


def test_leaf_matrix_partitions_the_softmax():
    matrix = leaf_matrix()
    assert matrix.shape == (1000, 201)
    assert (matrix.sum(axis=1) == 1).all() and set(np.unique(matrix)) == {0, 1}
    assert matrix[281, label_of("domestic cat", det_names())] == 1  # 281: tabby
    assert matrix[0, BACKGROUND] == 1  # tench is below no detection class


def test_label_of_takes_names_and_ids_and_names_the_nearest():
    names = det_names()
    assert label_of("dog", names) == label_of("58", names) == label_of(" DOG ", names) == 58
    assert label_of("iPod", names) == label_of("ipod", names)
    with pytest.raises(ValueError, match="did you mean 'bicycle'"):
        label_of("bicylce", names)
    for wrong in ("0", "201", "-1", ""):
        with pytest.raises(ValueError, match="unknown class"):
            label_of(wrong, names)


def test_classes_named_like_numbers_and_with_underscores():
    digits = tuple(str(i) for i in range(10))
    assert label_of("5", digits) == 6  # the class named 5, not the fifth
    assert label_of("10", digits) == 10
    assert (
        label_of("traffic_light", ("car", "traffic_light")) == label_of("Traffic light", ("car", "traffic_light")) == 2
    )
