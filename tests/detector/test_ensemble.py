"""The ensemble: votes, members that know no background, the cascade, and what the detector makes of its options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.detector import Detector
from detector.ensemble import combined, member_outputs, score_regions
from detector.model import find_model
from detector.options import DetectOptions
from detector.runtimes.openvino import OpenVinoClassifier
from detector.samples import sample_path
from detector.warp import warp
from proposals.images import read_image

MODEL = find_model("inception_v3")
ONE = find_model("inception_v3_det")
SIX = replace(ONE, members=6)


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


def drawn(seed: int) -> np.ndarray:
    """Scores [8, 1 + 200] that sum to 1."""
    return np.random.default_rng(seed).dirichlet(np.full(201, 0.1), 8).astype(np.float32)


def test_every_network_has_one_vote_those_in_one_file_too():
    """Six networks in a file, whose mean it gives, and one more: that one weighs a seventh."""
    a, b = drawn(0), drawn(1)
    assert (SIX.weight, ONE.weight, replace(SIX, votes=2.5).weight) == (6, 1, 2.5)
    np.testing.assert_allclose(combined([SIX, ONE], [a, b]), (6 * a + b) / 7, atol=1e-6)
    np.testing.assert_allclose(combined([ONE, ONE], [a, b]), (a + b) / 2, atol=1e-6)
    np.testing.assert_allclose(combined([MODEL, MODEL], [a, b]), (a + b) / 2, atol=1e-6)  # nobody knows background
    np.testing.assert_allclose(combined([ONE, replace(ONE, votes=3)], [a, b]), (a + 3 * b) / 4, atol=1e-6)


@pytest.mark.parametrize(("votes", "share"), [(0.0, 1 / 2), (3.0, 3 / 4)])
def test_who_knows_no_background_is_asked_for_the_class_alone(votes: float, share: float):
    assert SIX.knows_background and not MODEL.knows_background
    own, other = drawn(2), drawn(3)
    found = combined([ONE, replace(MODEL, votes=votes)], [own, other])
    np.testing.assert_array_equal(found[:, 0], own[:, 0])
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    p, q = (scores[:, 1:] / scores[:, 1:].sum(axis=1, keepdims=True) for scores in (own, other))
    np.testing.assert_allclose(found[:, 1:], (1 - own[:, :1]) * ((1 - share) * p + share * q), atol=1e-6)
    np.testing.assert_allclose(combined([replace(MODEL, votes=votes), ONE], [other, own]), found, atol=1e-7)


def test_a_region_of_nothing_but_background_stays_so():
    nothing = np.zeros((1, 201), np.float32)
    nothing[0, 0] = 1
    np.testing.assert_array_equal(combined([ONE, MODEL], [nothing, nothing]), nothing)


def test_members_of_three_kinds():
    """Objectness is the mean of those that know it, and the class a mixture by votes."""
    a, b, c = drawn(4), drawn(5), drawn(6)
    found = combined([SIX, ONE, MODEL], [a, b, c])
    seen = (6 * a + b) / 7
    np.testing.assert_allclose(found[:, 0], seen[:, 0], atol=1e-6)
    p, q = (scores[:, 1:] / scores[:, 1:].sum(axis=1, keepdims=True) for scores in (seen, c))
    np.testing.assert_allclose(found[:, 1:], (1 - seen[:, :1]) * (7 / 8 * p + 1 / 8 * q), atol=1e-6)


def test_those_that_know_no_background_weigh_alike_whatever_they_took_for_it():
    own, few, many = drawn(7), drawn(8), drawn(9)
    few[:, 1:] *= 0.01
    few[:, 0] = 1 - few[:, 1:].sum(axis=1)
    found = combined([replace(ONE, votes=2), MODEL, MODEL], [own, few, many])
    p, q, r = (scores[:, 1:] / scores[:, 1:].sum(axis=1, keepdims=True) for scores in (own, few, many))
    np.testing.assert_allclose(found[:, 1:], (1 - own[:, :1]) * (p / 2 + q / 4 + r / 4), atol=1e-5)


def test_one_member_gives_the_scores_of_its_crops(members, image, boxes) -> None:
    found = score_regions(members[:1], image, boxes)
    crops = warp(image, boxes, 75, MODEL.fill)
    np.testing.assert_array_equal(found.scores, members[0](crops))
    assert found.asked == (21,) and found.crop_seconds > 0 and found.deltas is None


def test_each_member_has_crops_of_its_own_size(members, image, boxes) -> None:
    found = score_regions(members, image, boxes)
    each = [member(warp(image, boxes, member.model.size, MODEL.fill)) for member in members]
    np.testing.assert_allclose(found.scores, np.mean(each, axis=0), rtol=0, atol=1e-6)
    assert found.asked == (21, 21, 21)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-3)


def test_the_cascade_spares_what_the_first_member_calls_background(members, image, boxes) -> None:
    alone, whole = score_regions(members[:1], image, boxes), score_regions(members, image, boxes)
    threshold = float(np.median(alone.scores[:, 0]))
    found = score_regions(members, image, boxes, threshold)
    spared = alone.scores[:, 0] >= threshold
    assert 0 < spared.sum() < 21 and found.asked == (21, 21 - spared.sum(), 21 - spared.sum())
    np.testing.assert_array_equal(found.scores[spared], alone.scores[spared])
    # 8-bit networks round a batch as a whole: the same up to float32
    np.testing.assert_allclose(found.scores[~spared], whole.scores[~spared], rtol=0, atol=1e-6)
    assert score_regions(members, image, boxes, 1e-9).asked == (21, 0, 0)


def test_no_regions(members, image) -> None:
    found = score_regions(members, image, np.zeros((0, 4), np.float32), 0.5)
    assert found.scores.shape == (0, 201) and found.asked == (0, 0, 0)


def test_the_number_of_regions_does_not_change_scores(members, image, boxes) -> None:
    (every, _), _ = member_outputs(members[1], image, boxes)
    for count in (1, 7, 8, 9, 17):
        np.testing.assert_array_equal(member_outputs(members[1], image, boxes[:count])[0].scores, every[:count])


def test_an_added_network_is_heard(image, boxes) -> None:
    """By default every region is shown to all: most scores change (a cascade for another network once spared most)."""
    options = DetectOptions(proposals="ss")
    alone, both = Detector(options), Detector(replace(options, ensemble="inception_v3@192"))
    one = score_regions(alone.members, image, boxes)
    proposals = replace(alone.propose(image).top(21), boxes=boxes)
    two = both.score(image, proposals)
    assert two.asked == (21, 21)
    changed = np.abs(two.scores[:, 1:] - one.scores[:, 1:]) > 1e-6
    assert changed.mean() > 0.5 and changed.any(axis=1).all()
    np.testing.assert_allclose(two.scores[:, 0], one.scores[:, 0], atol=1e-6)  # it knows no background


def test_the_detector_reads_the_ensemble_from_its_options(image) -> None:
    detector = Detector(
        DetectOptions(
            model="inception_v3@75", ensemble="inception_v3@96=2, inception_v3", crop_size=112, proposals="ss"
        )
    )
    assert [(member.model.size, member.model.weight) for member in detector.members] == [(75, 1), (96, 2), (112, 1)]
    assert detector.classify is detector.members[0]
    assert detector.describe().count("inception_v3") == 3
    proposals = detector.propose(image).top(30)
    made = detector.trace(image, proposals)
    assert made.asked == (30, 30, 30) and made.crops == 90
    assert list(made.seconds) == ["propose", "crop", "classify", "suppress"]


@pytest.mark.parametrize(
    ("option", "card", "spares"), [(0.0, 0.0, False), (0.0, 0.2, True), (0.2, 0.0, True), (1.0, 0.2, False)]
)
def test_no_cascade_without_a_measured_threshold(image, boxes, members, option, card, spares) -> None:
    """It is an option, or what the model's file says; 1 is for none."""
    detector = Detector.__new__(Detector)
    detector.options = DetectOptions(cascade=option)
    first = OpenVinoClassifier(replace(MODEL, size=75, cascade=card), "int8")
    detector.members = (first, members[1])
    asked = detector.score(image, type("Found", (), {"boxes": boxes})).asked
    assert asked[0] == 21 and (asked[1] < 21) == spares


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cascade": 1.5}, "cascade must lie in 0..1, got 1.5"),
        ({"ensemble": "inception"}, "inception: no model of that name and no file"),
        ({"ensemble": "inception_v3@20"}, "crops must have 75..640 px, not 20"),
        ({"ensemble": "inception_v3=-1"}, "inception_v3.safetensors: votes must be a number above 0, got -1.0"),
    ],
)
def test_options_that_do_not_go(options, message) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Detector(DetectOptions(**options))
