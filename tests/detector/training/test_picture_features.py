"""What a picture gives to training: checks, overlaps with each class, the scale of the features."""

import dataclasses

import numpy as np
import pytest

from detector.datasets.class_maps import AMBIGUOUS
from detector.training.picture_features import (
    PictureFeatures,
    ambiguous_overlaps,
    class_overlaps,
    each_picture,
    feature_norms,
    feature_scale,
)

# two objects of class 2, one of class 1, an ambiguous one between them; two proposals
PARTS = {
    "features": np.arange(10, dtype=np.float32).reshape(5, 2),
    "boxes": [[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [5, 0, 15, 10], [100, 100, 110, 105]],
    "labels": [2, 2, 1, 0, 0],
    "truth_boxes": [[0, 0, 10, 10], [100, 100, 110, 110], [20, 0, 30, 10], [0, 20, 10, 30]],
    "truth_labels": [2, AMBIGUOUS, 2, 1],
    "known": [True, True, False],
}


def picture(**changes) -> PictureFeatures:
    return PictureFeatures(**PARTS | changes)


def test_types_and_length():
    found = picture()
    kinds = {field.name: getattr(found, field.name).dtype for field in dataclasses.fields(found)}
    assert kinds == {
        "features": np.float32,
        "boxes": np.float32,
        "labels": np.int64,
        "truth_boxes": np.float32,
        "truth_labels": np.int64,
        "known": np.bool_,
    }
    assert len(found) == 5
    assert repr(found) == "PictureFeatures(5 regions, 4 objects of 3 classes)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros(5)}, r"features must have shape \[N, D\], got \[5\]"),
        ({"labels": [[2, 2, 1, 0, 0]]}, r"labels must have shape \[N\]"),
        ({"known": True}, r"known must have shape \[C\]"),
        ({"boxes": PARTS["boxes"][:4]}, "4 boxes, 5 labels"),
        ({"truth_boxes": PARTS["truth_boxes"][:3]}, "3 truth_boxes, 4 labels"),
        ({"features": np.zeros((4, 2))}, "5 boxes, 4 rows of features"),
        ({"features": np.array([[0, 0]] * 4 + [[0, np.nan]])}, "the features of region 4 are not finite"),
        ({"boxes": [*PARTS["boxes"][:4], [9, 0, 5, 5]]}, "inverted"),
        ({"labels": [4, 2, 1, 0, 0]}, r"a label is not in 0\.\.3"),
        ({"labels": [2, 2, 1, 0, -1]}, r"a label is not in 0\.\.3"),
        ({"truth_labels": [2, 0, 2, 1]}, "label of an object"),
        ({"truth_labels": [2, AMBIGUOUS, 2, 4]}, "label of an object"),
        ({"labels": [2, 2, 0, 1, 0]}, "must come before the proposals"),
        ({"labels": [2, 1, 2, 0, 0]}, "not the objects of the ground truth"),
        ({"labels": [2, 2, 0, 0, 0]}, "not the objects of the ground truth"),
        ({"boxes": [[0, 0, 10, 11], *PARTS["boxes"][1:]]}, "not the objects of the ground truth"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        picture(**changes)


def test_overlaps_by_hand():
    expected = [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1 / 3, 0], [0, 0, 0]]  # 50 of 150 pixels
    np.testing.assert_allclose(class_overlaps(picture()), expected, rtol=1e-6)
    assert class_overlaps(picture()).dtype == np.float32
    np.testing.assert_allclose(ambiguous_overlaps(picture()), [0, 0, 0, 0, 0.5])


def test_the_best_of_several_objects_counts():
    found = picture(
        boxes=[*PARTS["boxes"][:4], [18, 0, 30, 10]],  # 100 of 120 pixels of the second object, 0 of the first
    )
    np.testing.assert_allclose(class_overlaps(found)[4], [0, 100 / 120, 0], rtol=1e-6)


def test_without_regions_or_objects():
    nothing = PictureFeatures(np.zeros((0, 2)), [], [], [], [], [True, False])
    assert class_overlaps(nothing).shape == (0, 2)
    assert ambiguous_overlaps(nothing).shape == (0,)
    assert feature_norms(nothing) == 0
    alone = PictureFeatures(np.ones((2, 3)), [[0, 0, 1, 1], [1, 1, 4, 4]], [0, 0], [], [], [True, False])
    assert class_overlaps(alone).tolist() == [[0, 0], [0, 0]]
    assert ambiguous_overlaps(alone).tolist() == [0, 0]


def test_scale_by_hand():
    found = picture(features=np.array([[3, 4], [0, 0], [6, 8], [0, 1], [4, 0]]))
    assert feature_norms(found) == 5 + 0 + 10 + 1 + 4
    assert feature_scale(20, 5, target=20) == 5  # mean norm 4
    assert feature_scale(0, 5, target=20) == 1


def test_pictures_that_fit_together_are_given_in_order():
    pictures = [picture(), picture(features=np.zeros((5, 2)))]
    assert list(each_picture(pictures, 3)) == pictures
    assert list(each_picture(lambda: iter(pictures), 3)) == pictures


def test_pictures_that_do_not_fit_together():
    with pytest.raises(ValueError, match="picture 1 tells of 2 classes, not of 3"):
        list(each_picture([picture(), picture(known=[True, True])], 3))
    with pytest.raises(ValueError, match="picture 1 has features of 4 numbers, the first of 2"):
        list(each_picture([picture(), picture(features=np.zeros((5, 4)))], 3))
    with pytest.raises(ValueError, match="no picture"):
        list(each_picture([], 3))
