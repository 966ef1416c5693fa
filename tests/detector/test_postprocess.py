"""Weighing, suppression, regression, voting and softening: by hand, against loops, and against torchvision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import batched_nms

from detector.postprocess import (
    LEAST_SEEN,
    Candidates,
    Regions,
    in_context,
    regress,
    soften,
    suppress,
    vote,
    voted_boxes,
    weigh,
)
from proposals.boxes import as_boxes, iou
from proposals.types import MULTIBOX, Proposals, from_source

CORNERS = arrays(np.float32, (6, 2, 2), elements=st.integers(0, 20).map(float))
SCORES, SCORES_OF_NINE = (arrays(np.float32, count, elements=st.floats(0, 1, width=32)) for count in (6, 9))


def boxes_of(corners: np.ndarray) -> np.ndarray:
    return as_boxes(np.sort(corners, axis=1).reshape(-1, 4))


def regions_of(boxes: np.ndarray, scores: object, deltas: np.ndarray | None = None) -> Regions:
    return Regions(as_boxes(boxes), np.asarray(scores, np.float32), np.zeros(len(boxes), np.uint8), (110, 90), deltas)


def candidates(regions: Regions, rows: list[int], columns: list[int]) -> Candidates:
    places = np.array(rows, np.int64), np.array(columns, np.int64)
    return Candidates(regions, *places, regions.boxes[places[0]], regions.scores[places])


def learned() -> Proposals:
    return from_source([[0, 0, 10, 10], [0, 0, 20, 10]], [0.8, 0.6], MULTIBOX)


class TestWeigh:
    def test_scores_are_geometric_means(self):
        regions = regions_of(learned().boxes, [[0.2, 0.8], [0.5, 0.0]])
        of_boxes, of_classes = np.array([[0.5], [0.1]], np.float32), np.array([[0.5, 0.04]], np.float32)
        found = weigh(regions, of_boxes, 0.5)
        np.testing.assert_allclose(found.scores, [[0.1**0.5, 0.4**0.5], [0.05**0.5, 0]], rtol=1e-6)
        assert found.scores.dtype == np.float32 and found.power == 0.5
        np.testing.assert_allclose(
            weigh(regions, of_classes, 0.5).scores, [[0.1**0.5, 0.032**0.5], [0.5, 0]], rtol=1e-6
        )
        assert weigh(regions, of_boxes, 0.0) is regions
        assert weigh(found, of_classes, 0.25).power == 0.375  # what is left of the networks' scores

    def test_what_a_picture_says_is_the_mean_of_its_views_and_something_at_least(self):
        seen = np.array([[0.48, 0.02, 0.5, 0.0], [0.14, 0.06, 0.8, 0.0]], np.float32)
        np.testing.assert_allclose(in_context(seen), [[0.04, 0.65, LEAST_SEEN]], rtol=1e-6)
        assert in_context(seen).dtype == np.float32


class TestSuppress:
    @pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
    def test_it_is_torchvisions(self, overlap: float):
        rng = np.random.default_rng(4)
        boxes = boxes_of(rng.uniform(0, 100, (150, 2, 2)).astype(np.float32))
        scores = rng.permutation(150 * 5).reshape(150, 5).astype(np.float32) / 750  # no two alike
        found = suppress(regions_of(boxes, scores), overlap, 0.2)
        rows, columns = np.nonzero(scores >= np.float32(0.2))
        kept = batched_nms(
            torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows, columns]), torch.from_numpy(columns), overlap
        ).numpy()
        pairs = set(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
        assert pairs == set(zip(rows[kept].tolist(), columns[kept].tolist(), strict=True)) and 50 < len(pairs) < 600
        np.testing.assert_array_equal(found.boxes, boxes[found.rows])
        np.testing.assert_array_equal(found.scores, scores[found.rows, found.columns])

    def test_at_most_so_many_of_a_class(self):
        boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]
        found = suppress(regions_of(boxes, [[0.5, 0], [0.9, 0.4], [0.7, 0.3]]), 0.3, 0.1, 2)
        assert sorted(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == [(1, 0), (1, 1), (2, 0), (2, 1)]


class TestRegress:
    def test_boxes_are_moved_by_their_own_class_and_clipped(self):
        boxes = as_boxes([[10, 10, 30, 50], [80, 60, 100, 80]])
        deltas = np.zeros((2, 2, 4), np.float32)
        deltas[0, 1] = [0.5, -0.25, 0, np.log(2)]  # centre (20, 30) to (30, 20), sides 20 x 40 to 20 x 80
        deltas[1, 0] = [0.5, 0, np.log(3), 0]  # centre (90, 70) to (100, 70), sides 20 to 60 x 20
        regions = regions_of(boxes, np.full((2, 2), 0.5), deltas)
        found = regress(candidates(regions, [0, 0, 1], [1, 0, 0]), 0.3)
        np.testing.assert_allclose(found.boxes, [[20, 0, 40, 60], [10, 10, 30, 50], [70, 60, 110, 80]], atol=1e-4)
        assert len(regress(candidates(regions, [], []), 0.3).boxes) == 0

    def test_what_has_become_one_is_suppressed_class_by_class(self):
        """The fourth box lies outside the picture once it is moved."""
        boxes = [[0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 10], [200, 5, 205, 9], [20, 0, 30, 10]]
        scores = np.zeros((5, 2))
        scores[range(5), [1, 1, 0, 1, 1]] = [0.5, 0.9, 0.4, 0.8, 0.1]
        regions = regions_of(boxes, scores, np.zeros((5, 2, 4), np.float32))
        found = candidates(regions, [0, 1, 2, 3, 4], [1, 1, 0, 1, 1])
        assert regress(found, 0.3).rows.tolist() == [1, 2, 4]
        assert regress(found, 0.95).rows.tolist() == [0, 1, 2, 4]


class TestVote:
    def test_by_hand(self):
        """The second voter overlaps the first box by 0.8 and counts a quarter of it; the third, by 0.25, is none."""
        voters = as_boxes([[0, 0, 10, 10], [0, 0, 8, 10], [0, 0, 5, 5]])
        found = voted_boxes(voters[:1], voters, np.array([0.8, 0.4, 1.0], np.float32), 0.5)
        np.testing.assert_allclose(found, [[0, 0, 0.8 * 10 + 0.2 * 8, 10]], rtol=1e-6)
        assert found.dtype == np.float32

    def test_an_overlap_of_just_so_much_votes(self):
        voters = as_boxes([[0, 0, 10, 10], [0, 0, 5, 10]])
        scores = np.array([0.5, 0.5], np.float32)
        np.testing.assert_allclose(voted_boxes(voters[:1], voters, scores, 0.5), [[0, 0, 7.5, 10]])
        np.testing.assert_array_equal(voted_boxes(voters[:1], voters, scores, np.nextafter(0.5, 1)), voters[:1])

    def test_boxes_without_voters_stay(self):
        boxes = as_boxes([[0, 0, 10, 10], [3, 3, 3, 9]])  # the second is empty and overlaps nothing, not even itself
        np.testing.assert_array_equal(voted_boxes(boxes, boxes, np.zeros(2, np.float32), 0.5), boxes)
        np.testing.assert_array_equal(voted_boxes(boxes[1:], boxes, np.ones(2, np.float32), 0.5), boxes[1:])
        np.testing.assert_array_equal(voted_boxes(boxes, as_boxes([]), np.zeros(0, np.float32), 0.5), boxes)
        assert voted_boxes(as_boxes([]), boxes, np.ones(2, np.float32), 0.5).shape == (0, 4)

    @given(CORNERS, CORNERS, SCORES, st.sampled_from([0.3, 0.5, 0.9]))
    def test_against_a_loop(self, a: np.ndarray, b: np.ndarray, scores: np.ndarray, overlap: float):
        boxes, voters = boxes_of(a), boxes_of(b)
        found = voted_boxes(boxes, voters, scores, overlap)
        for row, box in enumerate(boxes):
            votes = [
                (float(score) ** 2, voter)
                for score, voter in zip(scores, voters, strict=True)
                if iou(box[None], voter[None])[0, 0] >= overlap
            ]
            total = sum(weight for weight, _ in votes)
            wanted = sum(weight * voter.astype(np.float64) for weight, voter in votes) / total if total else box
            assert found[row] == pytest.approx(wanted, rel=1e-5, abs=1e-5)

    def test_each_class_has_the_votes_of_its_own_boxes(self):
        """Both classes keep box 0; only in the second, which is moved ten pixels to the right, has box 1 a score."""
        deltas = np.zeros((2, 2, 4), np.float32)
        deltas[:, 1, 0] = [1, 10 / 8]  # by ten pixels each
        regions = regions_of([[0, 0, 10, 10], [0, 0, 8, 10]], [[0.5, 0.5], [0.0, 0.5]], deltas)
        found = vote(regress(candidates(regions, [0, 0], [0, 1]), 0.5), 0.5)
        np.testing.assert_allclose(found.boxes, [[0, 0, 10, 10], [10, 0, 19, 10]], atol=1e-5)
        assert len(vote(candidates(regions, [], []), 0.5).boxes) == 0


class TestSoften:
    BOXES = ((0, 0, 10, 10), (0, 0, 5, 10), (0, 0, 5, 5), (0, 0, 10, 10))

    def found(self, power: float = 1.0) -> Candidates:
        """Each of the first three has an IoU of 0.5 with the one before; the fourth is the first in another class."""
        scores = [[0.8, 0], [0.4, 0], [0.2, 0], [0, 0.1]]
        regions = dataclasses.replace(regions_of(np.array(self.BOXES), scores), power=power)
        return candidates(regions, [0, 1, 2, 3], [0, 0, 0, 1])

    def test_by_hand(self):
        np.testing.assert_allclose(soften(self.found(), 0.5, 0).scores, [0.8, 0.2, 0.1, 0.1])
        np.testing.assert_allclose(soften(self.found(), 0.51, 0).scores, [0.8, 0.4, 0.2, 0.1])
        assert soften(self.found(), 0.5, 0.15).rows.tolist() == [0, 1]
        same = candidates(regions_of(np.tile([0, 0, 9, 9], (2, 1)), [[0.5], [0.5]]), [0, 1], [0, 0])
        assert soften(same, 0.3, 0).scores.tolist() == [0.5, 0]  # of equal ones the first
        assert len(soften(self.found().select([]), 0.3, 0).boxes) == 0

    def test_the_loss_has_the_power_of_the_networks_part(self):
        """Objectness and context both take from it: 0.5 x 0.75."""
        regions = regions_of(np.array(self.BOXES), np.full((4, 2), 0.5))
        weighed = weigh(weigh(regions, np.ones((4, 1), np.float32), 0.5), np.ones((1, 2), np.float32), 0.25)
        assert weighed.power == 0.375
        found = soften(self.found(weighed.power), 0.5, 0)
        np.testing.assert_allclose(found.scores, [0.8, 0.4 * 0.5**0.375, 0.2 * 0.5**0.375, 0.1], rtol=1e-6)

    @given(
        arrays(np.float32, (9, 2, 2), elements=st.integers(0, 20).map(float)),
        SCORES_OF_NINE,
        st.sampled_from([0.3, 0.5]),
    )
    def test_against_a_loop(self, corners: np.ndarray, scores: np.ndarray, overlap: float):
        boxes, columns = boxes_of(corners), np.arange(9) % 2
        regions = regions_of(boxes, np.stack([scores, scores], axis=1))
        found = soften(candidates(regions, list(range(9)), columns.tolist()), overlap, 0).scores
        for row in range(9):
            better = [
                float(iou(boxes[row][None], boxes[other][None])[0, 0])
                for other in range(9)
                if columns[other] == columns[row] and (-scores[other], other) < (-scores[row], row)
            ]
            largest = max(better, default=0.0)
            factor = 1 - largest if largest >= overlap else 1
            assert found[row] == pytest.approx(scores[row] * factor, rel=1e-5, abs=1e-7)


def test_detections_fall_in_score_and_say_where_they_come_from():
    regions = regions_of([[0, 0, 9, 9], [5, 5, 20, 20]], [[0.2, 0.9], [0.6, 0.1]])
    found = candidates(dataclasses.replace(regions, sources=np.array([1, 2], np.uint8)), [0, 1], [0, 0])
    detections = found.detections(("cat", "dog"))
    assert (detections.labels.tolist(), detections.sources.tolist()) == ([1, 1], [2, 1])
    np.testing.assert_allclose(detections.scores, [0.6, 0.2])
    assert detections.image_size == (110, 90) and detections.class_names == ("cat", "dog")
