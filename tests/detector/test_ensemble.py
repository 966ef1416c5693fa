from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.detector import Detector
from detector.ensemble import member_scores, score_regions
from detector.model import find_model
from detector.options import DetectOptions
from detector.runtimes.openvino import OpenVinoClassifier
from detector.samples import sample_path
from detector.warp import warp
from proposals.images import read_image

MODEL = find_model("inception_v3")


@pytest.fixture(scope="module")
def image():
    return read_image(sample_path("chelsea.jpg"))


@pytest.fixture(scope="module")
def boxes(image):
    height, width = image.shape[:2]
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 200, (21, 2))
    return np.concatenate([low, np.minimum(low + rng.uniform(30, 250, (21, 2)), [width, height])], 1).astype(np.float32)


@pytest.fixture(scope="module")
def members():
    return [OpenVinoClassifier(replace(MODEL, size=size), "int8") for size in (75, 96, 112)]


def test_one_member_gives_the_scores_of_its_crops(members, image, boxes) -> None:
    found = score_regions(members[:1], image, boxes, None)
    crops = warp(image, boxes, 75, MODEL.fill)
    np.testing.assert_array_equal(found.scores, members[0](crops))
    assert found.asked == (21,) and found.crop_seconds > 0


def test_the_scores_are_the_mean_over_the_members(members, image, boxes) -> None:
    found = score_regions(members, image, boxes, None)
    each = [member(warp(image, boxes, member.model.size, MODEL.fill)) for member in members]
    np.testing.assert_allclose(found.scores, np.mean(each, axis=0), rtol=0, atol=1e-6)
    assert found.asked == (21, 21, 21)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-3)


def test_the_cascade_spares_what_the_first_member_calls_background(members, image, boxes) -> None:
    alone, whole = score_regions(members[:1], image, boxes, None), score_regions(members, image, boxes, None)
    threshold = float(np.median(alone.scores[:, 0]))
    found = score_regions(members, image, boxes, threshold)
    spared = alone.scores[:, 0] >= threshold
    assert 0 < spared.sum() < 21 and found.asked == (21, 21 - spared.sum(), 21 - spared.sum())
    np.testing.assert_array_equal(found.scores[spared], alone.scores[spared])
    # 8-bit networks round a batch as a whole: the same up to float32
    np.testing.assert_allclose(found.scores[~spared], whole.scores[~spared], rtol=0, atol=1e-6)
    assert score_regions(members, image, boxes, 1e-9).asked == (21, 0, 0)
    nobody = score_regions(members, image, boxes, 1.1)
    np.testing.assert_array_equal(nobody.scores, whole.scores)


def test_no_regions(members, image) -> None:
    found = score_regions(members, image, np.zeros((0, 4), np.float32), 0.5)
    assert found.scores.shape == (0, 201) and found.asked == (0, 0, 0)


def test_the_number_of_regions_does_not_change_scores(members, image, boxes) -> None:
    every, _ = member_scores(members[1], image, boxes)
    for count in (1, 7, 8, 9, 17):
        np.testing.assert_array_equal(member_scores(members[1], image, boxes[:count])[0], every[:count])


def test_the_detector_reads_the_ensemble_from_its_options(image) -> None:
    detector = Detector(
        DetectOptions(model="inception_v3@75", ensemble="inception_v3@96, inception_v3", crop_size=112, cascade=0)
    )
    assert [member.model.size for member in detector.members] == [75, 96, 112]
    assert detector.classify is detector.members[0]
    assert detector.describe().count("inception_v3") == 3
    small = image[:120, :160].copy()
    made = detector.trace(small)
    assert made.asked == (len(made.proposals),) * 3 and made.crops == 3 * len(made.proposals)
    assert list(made.seconds) == ["propose", "crop", "classify", "suppress"]
    spared = Detector(replace(detector.options, cascade=0.2)).trace(small)
    assert spared.asked[0] == len(spared.proposals) and spared.asked[1] == spared.asked[2] < spared.asked[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cascade": 1.5}, "cascade must lie in 0..1, got 1.5"),
        ({"ensemble": "inception"}, "inception: no model of that name and no file"),
        ({"ensemble": "inception_v3@20"}, "crops must have 75..640 px, not 20"),
    ],
)
def test_options_that_do_not_go(options, message) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Detector(DetectOptions(**options))
