"""The error analysis: golden values by hand, and a literal reference on thousands of small problems."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import small_problems
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import Box, predictions_of

from detector.datasets.ground_truth import Doubles, GroundTruth
from eval.errors.analysis import Analysis, analyse, iou_thresholds
from eval.errors.false_positives import BACKGROUND, DUPLICATE, LOCALISATION, OTHER, SIMILAR
from eval.errors.hierarchy import similar_classes
from eval.errors.misses import (
    BADLY_LOCALISED,
    BELOW_THRESHOLD,
    KINDS_WITH_PROPOSALS,
    KINDS_WITHOUT,
    MISCLASSIFIED,
    NO_PROPOSAL,
    NOT_FOUND,
    SUPPRESSED,
)
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from eval.protocols.average_precision import average_precision
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE, Evaluation
from proposals.boxes import Boxes
from proposals.types import SELECTIVE_SEARCH, Proposals, from_source

NAMES = ("dog", "domestic cat", "car")  # dog and cat are similar, the car is not


def truth_of(objects: Sequence[tuple[int, int, Box]], pictures: int = 1, difficult: Sequence[int] = ()) -> GroundTruth:
    return small_problems.truth_of(objects, pictures, NAMES, difficult)


DOG, CAT, SECOND_DOG = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)
SCENE = truth_of([(0, 1, DOG), (0, 2, CAT), (0, 1, SECOND_DOG)])
FOUND = predictions_of(
    [
        (0, 1, 0.9, DOG),
        (0, 1, 0.8, DOG),
        (0, 1, 0.7, (40, 0, 50, 4)),  # IoU 0.4
        (0, 1, 0.6, CAT),
        (0, 3, 0.5, CAT),
        (0, 3, 0.4, (60, 0, 70, 10)),
    ]
)


def analysed(
    truth: GroundTruth,
    found: Predictions,
    protocol: str = "voc10",
    proposals: Mapping[int, Proposals | Boxes] | None = None,
    raw: Predictions | None = None,
) -> Analysis:
    return analyse(truth, found, evaluate(protocol, truth, found), proposals=proposals, raw=raw)


def miss_names(analysis: Analysis) -> list[str | None]:
    return [None if kind < 0 else analysis.miss_kinds[kind] for kind in analysis.miss_kind]


def test_false_positives_by_hand() -> None:
    found = analysed(SCENE, FOUND)
    assert found.false_positive_kind.tolist() == [-1, DUPLICATE, LOCALISATION, SIMILAR, OTHER, BACKGROUND]
    assert found.false_positives.tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert found.protocol == "voc10"
    assert found.class_names == NAMES


def test_misses_by_hand() -> None:
    found = analysed(SCENE, FOUND)
    assert found.miss_kinds == KINDS_WITHOUT
    assert miss_names(found) == [None, MISCLASSIFIED, BADLY_LOCALISED]
    assert found.misses.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_gains_by_hand() -> None:
    """Dog: right, then three wrong, of two: AP 1/2. Cat: AP 0 of one. Car: no ground truth."""
    found = analysed(SCENE, FOUND)
    nothing = [np.nan] * 5
    # right, wrong, right, wrong of two: (1 + 2/3) / 2
    np.testing.assert_allclose(found.false_positive_gains, [[0, 1 / 3, 0, 0, 0], [0, 0, 1, 1, 0], nothing])
    np.testing.assert_allclose(found.false_positive_map_gains, [0, 1 / 6, 1 / 2, 1 / 2, 0])
    np.testing.assert_allclose(found.miss_gains, [[0, 0, 1 / 2, 0], [0, 1, 0, 0], nothing[:4]])
    np.testing.assert_allclose(found.miss_map_gains, [0, 1 / 2, 1 / 4, 0])


def test_a_false_positive_before_a_true_one_costs_and_its_removal_gains() -> None:
    found = predictions_of([(0, 1, 0.9, (60, 0, 70, 10)), (0, 1, 0.8, DOG)])
    analysis = analysed(truth_of([(0, 1, DOG)]), found)
    assert analysis.false_positive_gains[0].tolist() == [0, 0, 0, 0, 0.5]


def test_an_object_is_gained_once_by_the_best_of_its_bad_boxes() -> None:
    """Two misplaced boxes of one object, background, then a right one: fixed, ranks 1 and 3 of three are right."""
    truth = truth_of([(0, 1, DOG), (0, 1, SECOND_DOG)])
    found = predictions_of(
        [
            (0, 1, 0.9, (40, 0, 50, 4)),
            (0, 1, 0.8, (40, 0, 50, 3)),
            (0, 1, 0.7, (60, 0, 70, 10)),
            (0, 1, 0.6, DOG),
        ]
    )
    analysis = analysed(truth, found)
    after = average_precision(np.array([True, False, True]), 2)
    assert analysis.false_positive_gains[0, LOCALISATION] == pytest.approx(after - (1 / 4) / 2)


def test_a_corrected_class_ranks_by_its_own_score() -> None:
    """The cat at 0.5 joins between a wrong cat at 0.6 and a right one at 0.4: wrong, right, right of two."""
    truth = truth_of([(0, 2, CAT), (0, 2, SECOND_DOG)])
    found = predictions_of([(0, 2, 0.6, (60, 0, 70, 10)), (0, 1, 0.5, CAT), (0, 2, 0.4, SECOND_DOG)])
    analysis = analysed(truth, found)
    before, after = (1 / 2) / 2, (2 / 3 + 2 / 3) / 2
    assert analysis.false_positive_gains[1, SIMILAR] == pytest.approx(after - before)


def test_a_confused_box_that_is_misplaced_too_is_only_taken_away() -> None:
    truth = truth_of([(0, 2, CAT)])
    analysis = analysed(truth, predictions_of([(0, 1, 0.5, (20, 0, 30, 4))]))
    assert analysis.false_positive_kind.tolist() == [SIMILAR]
    assert analysis.false_positive_gains[1].tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("boxes", "raw", "kind"),
    [
        (np.zeros((0, 4)), None, NO_PROPOSAL),
        (np.array([(40, 0, 50, 4)]), None, NO_PROPOSAL),
        (np.array([SECOND_DOG]), None, BELOW_THRESHOLD),
        (np.array([(40, 0, 50, 5)]), None, BELOW_THRESHOLD),  # IoU 1/2 reaches 0.5
        (np.array([SECOND_DOG]), [(0, 1, 0.3, SECOND_DOG)], SUPPRESSED),
        (np.array([SECOND_DOG]), [(0, 1, 0.3, (40, 0, 50, 5))], SUPPRESSED),  # IoU 1/2 reaches 0.5
        (np.array([SECOND_DOG]), [(0, 2, 0.3, SECOND_DOG)], BELOW_THRESHOLD),  # of another class
        (np.array([SECOND_DOG]), [(0, 1, 0.3, (40, 0, 50, 4))], BELOW_THRESHOLD),  # does not reach it
        (np.zeros((0, 4)), [(0, 1, 0.3, SECOND_DOG)], NO_PROPOSAL),  # the first that fits
        (None, [(0, 1, 0.3, SECOND_DOG)], SUPPRESSED),
        (None, None, NOT_FOUND),
    ],
)
def test_misses_with_proposals_and_raw_boxes(
    boxes: Doubles | None, raw: list[tuple[int, int, float, Box]] | None, kind: str
) -> None:
    found = predictions_of([(0, 1, 0.9, DOG)])
    analysis = analysed(
        truth_of([(0, 1, DOG), (0, 1, SECOND_DOG)]),
        found,
        proposals=None if boxes is None else {0: boxes.astype(np.float32)},
        raw=None if raw is None else predictions_of(raw),
    )
    assert analysis.miss_kinds == (KINDS_WITHOUT if boxes is None else KINDS_WITH_PROPOSALS)
    assert miss_names(analysis) == [None, kind]


def test_proposals_of_a_picture_as_they_are_found_or_missing() -> None:
    truth = truth_of([(0, 1, DOG), (1, 1, DOG), (2, 1, DOG)], pictures=3)
    proposals: dict[int, Proposals | Boxes] = {
        1: from_source([DOG], [1.0], SELECTIVE_SEARCH),
        2: np.array([DOG], np.float32),
    }
    analysis = analysed(truth, predictions_of([]), proposals=proposals)
    assert miss_names(analysis) == [NO_PROPOSAL, BELOW_THRESHOLD, BELOW_THRESHOLD]


def test_one_box_over_two_objects_of_a_class_is_lost_to_the_neighbour() -> None:
    truth = truth_of([(0, 1, DOG), (0, 1, (0, 0, 10, 9))])
    analysis = analysed(truth, predictions_of([(0, 1, 0.9, DOG)]))
    assert miss_names(analysis) == [None, SUPPRESSED]


HALF_DOG = (0, 0, 10, 5)  # IoU 1/2 with DOG, which is enough


def test_an_iou_of_exactly_the_threshold_reaches_an_object() -> None:
    by_another_class = analysed(truth_of([(0, 1, DOG)]), predictions_of([(0, 3, 0.9, HALF_DOG)]))
    assert miss_names(by_another_class) == [MISCLASSIFIED]
    by_a_neighbours_box = analysed(truth_of([(0, 1, DOG), (0, 1, HALF_DOG)]), predictions_of([(0, 1, 0.9, HALF_DOG)]))
    assert miss_names(by_a_neighbours_box) == [SUPPRESSED, None]
    again = analysed(truth_of([(0, 1, DOG)]), predictions_of([(0, 1, 0.9, DOG), (0, 1, 0.8, HALF_DOG)]))
    assert again.false_positive_kind.tolist() == [-1, DUPLICATE]
    confused = analysed(truth_of([(0, 1, DOG)]), predictions_of([(0, 2, 0.9, HALF_DOG)]))
    assert confused.false_positive_gains[0, SIMILAR] == 1  # its box is right


def test_of_bad_boxes_with_one_score_the_first_becomes_right() -> None:
    """Two misplaced boxes of one object and background between them, all at 0.5: fixed, right and wrong."""
    wrong = [(0, 1, 0.5, (0, 0, 10, 4)), (0, 1, 0.5, (60, 0, 70, 10)), (0, 1, 0.5, (0, 0, 10, 3))]
    analysis = analysed(truth_of([(0, 1, DOG)]), predictions_of(wrong))
    assert analysis.false_positive_kind.tolist() == [LOCALISATION, BACKGROUND, LOCALISATION]
    assert analysis.false_positive_gains[0, LOCALISATION] == 1


def test_a_corrected_class_joins_behind_equal_scores() -> None:
    found = predictions_of([(0, 1, 0.5, CAT), (0, 2, 0.5, (60, 0, 70, 10))])
    analysis = analysed(truth_of([(0, 2, CAT)]), found)
    assert analysis.false_positive_gains[1, SIMILAR] == 1 / 2


def test_a_right_box_of_another_class_does_not_misclassify() -> None:
    """A rider and a horse share their place; the horse is right, so that the person is not taken for one."""
    truth = truth_of([(0, 1, DOG), (0, 3, DOG)])
    analysis = analysed(truth, predictions_of([(0, 1, 0.9, DOG), (0, 1, 0.8, DOG)]))
    assert miss_names(analysis) == [None, NOT_FOUND]


def test_the_thresholds_are_those_of_the_protocol() -> None:
    truth = truth_of([(0, 1, DOG), (0, 1, (0, 0, 90, 90)), (0, 1, (0, 0, 2, 2))])
    assert iou_thresholds(truth, "ilsvrc").tolist() == [0.25, 0.5, 4 / 144]
    assert iou_thresholds(truth, "voc07").tolist() == [0.5] * 3
    assert iou_thresholds(truth, "coco", 0.75).tolist() == [0.75] * 3
    assert iou_thresholds(truth, "coco", 1.0).tolist() == [1 - 1e-10] * 3  # as pycocotools
    assert iou_thresholds(truth, "voc10", 1.0).tolist() == [1.0] * 3
    near = predictions_of([(0, 1, 0.9, (0, 0, 10, 4)), (0, 1, 0.8, (0, 0, 10, 4))])
    small = truth_of([(0, 1, DOG)])
    assert analysed(small, near, "ilsvrc").false_positive_kind.tolist() == [-1, DUPLICATE]
    assert analysed(small, near, "voc10").false_positive_kind.tolist() == [LOCALISATION, LOCALISATION]
    tiny = truth_of([(0, 1, (0, 0, 2, 2))])  # its threshold, 1/36, is below 0.1: what reaches it touches it
    found = predictions_of([(0, 2, 0.9, (0, 0, 8, 8))])
    assert analysed(tiny, found, "ilsvrc").false_positive_kind.tolist() == [SIMILAR]
    assert miss_names(analysed(tiny, found, "ilsvrc")) == [MISCLASSIFIED]


def test_what_does_not_count_is_no_miss_but_can_be_confused_with() -> None:
    truth = truth_of([(0, 2, CAT)], difficult=[0])
    found = predictions_of([(0, 2, 0.9, CAT), (0, 1, 0.8, CAT)])
    analysis = analysed(truth, found)
    assert analysis.false_positive_kind.tolist() == [-1, SIMILAR]
    assert analysis.miss_kind.tolist() == [-1]
    assert np.isnan(analysis.false_positive_map_gains).all()
    assert np.isnan(analysis.miss_map_gains).all()


def test_crowds_of_coco_are_neither_missed_nor_false() -> None:
    truth = dataclasses.replace(truth_of([(0, 1, DOG), (0, 1, (20, 0, 90, 90))]), crowd=np.array([False, True]))
    found = predictions_of([(0, 1, 0.9, (30, 10, 40, 20)), (0, 1, 0.8, (85, 0, 95, 9)), (0, 2, 0.7, (20, 0, 90, 80))])
    analysis = analysed(truth, found, "coco")
    # inside the crowd; half of it inside, IoU < 0.1; another class over the crowd
    assert analysis.false_positive_kind.tolist() == [-1, -1, SIMILAR]
    assert miss_names(analysis) == [NOT_FOUND, None]
    assert analysis.false_positive_gains[0].tolist() == [0] * 5


def test_nothing_at_all() -> None:
    for truth in (truth_of([], pictures=0), truth_of([])):
        analysis = analysed(truth, predictions_of([]))
        assert analysis.false_positives.tolist() == np.zeros((3, 5)).tolist()
        assert analysis.misses.sum() == analysis.confusion.sum() == 0
        assert analysis.confusion_score == np.inf
    empty = analysed(truth_of([]), predictions_of([(0, 1, 0.5, DOG)]))
    assert empty.false_positive_kind.tolist() == [BACKGROUND]
    missed = analysed(truth_of([(0, 1, DOG)]), predictions_of([]))
    assert missed.miss_map_gains.tolist() == [0, 0, 0, 1]


def test_boxes_without_area_touch_nothing() -> None:
    truth = truth_of([(0, 1, (5, 5, 5, 5))])
    analysis = analysed(truth, predictions_of([(0, 1, 0.5, (5, 5, 5, 5)), (0, 1, 0.5, (0, 0, 10, 10))]), "ilsvrc")
    assert analysis.false_positive_kind.tolist() == [BACKGROUND, BACKGROUND]


# A literal reference: one prediction, one object at a time.


def iou_of(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def reference_kinds(
    truth: GroundTruth, found: Predictions, evaluation: Evaluation, thresholds: Doubles
) -> tuple[list[int], list[int]]:
    """The kind of each prediction, and the object it is about; -1 for none."""
    similar = similar_classes(truth.class_names)
    kinds, about = [], []
    for i in range(len(found)):
        kind, best, best_iou = BACKGROUND, -1, -1.0
        if evaluation.matches.outcome[i] != FALSE_POSITIVE:
            kinds.append(-1)
            about.append(-1)
            continue
        for g in range(len(truth)):
            iou = iou_of(found.boxes[i], truth.boxes[g])
            if truth.pictures[g] != found.pictures[i] or iou <= 0 or iou < min(0.1, thresholds[g]):
                continue
            if truth.labels[g] == found.labels[i]:
                this = DUPLICATE if iou >= thresholds[g] else LOCALISATION
            else:
                this = SIMILAR if similar[truth.labels[g], found.labels[i]] else OTHER
            if this < kind or (this == kind and iou > best_iou):
                kind, best, best_iou = this, g, iou
        kinds.append(kind)
        about.append(best)
    return kinds, about


def reference_misses(
    truth: GroundTruth,
    found: Predictions,
    evaluation: Evaluation,
    thresholds: Doubles,
    kinds: list[int],
    proposals: dict[int, Doubles] | None,
    raw: Predictions | None,
) -> list[str | None]:
    """The kind of each missed object, by the order of the checks."""
    names: list[str | None] = []
    for g in range(len(truth)):
        taken = any(evaluation.matches.taken[i] == g for i in range(len(found)))
        if taken or not evaluation.matches.counted[g]:
            names.append(None)
            continue
        here = [i for i in range(len(found)) if found.pictures[i] == truth.pictures[g]]
        ious = {i: iou_of(found.boxes[i], truth.boxes[g]) for i in here}
        own = [i for i in here if found.labels[i] == truth.labels[g] and ious[i] > 0]
        others = [i for i in here if found.labels[i] != truth.labels[g] and ious[i] > 0]
        blamed = [i for i in here if kinds[i] not in (-1, DUPLICATE)]
        unsuppressed = (
            []
            if raw is None
            else [
                i
                for i in range(len(raw))
                if raw.pictures[i] == truth.pictures[g]
                and raw.labels[i] == truth.labels[g]
                and 0 < iou_of(raw.boxes[i], truth.boxes[g]) >= thresholds[g]
            ]
        )
        proposed = [] if proposals is None else proposals.get(int(truth.pictures[g]), np.zeros((0, 4)))
        if proposals is not None and not any(0 < iou_of(b, truth.boxes[g]) >= thresholds[g] for b in proposed):
            names.append(NO_PROPOSAL)
        elif unsuppressed or any(ious[i] >= thresholds[g] for i in own):
            names.append(SUPPRESSED)
        elif any(ious[i] >= thresholds[g] for i in others if i in blamed):
            names.append(MISCLASSIFIED)
        elif any(ious[i] >= min(0.1, thresholds[g]) for i in own if i in blamed):
            names.append(BADLY_LOCALISED)
        else:
            names.append(NOT_FOUND if proposals is None else BELOW_THRESHOLD)
    return names


def reference_gains(
    truth: GroundTruth,
    found: Predictions,
    evaluation: Evaluation,
    thresholds: Doubles,
    kinds: list[int],
    about: list[int],
    fixed_kind: int,
) -> list[float]:
    """The AP of each class after the fix less the one before: lists of (rank, row), rebuilt and sorted anew."""
    matches = evaluation.matches
    place = {int(row): i for i, row in enumerate(matches.order)}
    taken = {int(g) for g in matches.taken}
    gains = []
    for label in range(1, len(truth.class_names) + 1):
        before, after = [], []
        for i in range(len(found)):
            if matches.outcome[i] == NOT_COUNTED:
                continue
            entry = (-found.scores[i], 0, place[i], bool(matches.outcome[i] == TRUE_POSITIVE))
            if found.labels[i] == label:
                before.append(entry)
            if kinds[i] != fixed_kind:
                if found.labels[i] == label:
                    after.append(entry)
                continue
            g = about[i]
            if fixed_kind in (DUPLICATE, BACKGROUND) or g in taken or not matches.counted[g]:
                continue
            right_box = {j: iou_of(found.boxes[j], truth.boxes[g]) >= thresholds[g] for j in range(len(found))}
            rivals = [
                j
                for j in range(len(found))
                if kinds[j] == fixed_kind and about[j] == g and (fixed_kind == LOCALISATION or right_box[j])
            ]
            if rivals and i == min(rivals, key=lambda j: (-found.scores[j], place[j])) and truth.labels[g] == label:
                joins = 0 if fixed_kind == LOCALISATION else 1  # behind equal scores
                after.append((-found.scores[i], joins, place[i], True))
        positives = int(matches.positives[label - 1])
        old, new = (np.array([e[3] for e in sorted(entries)], np.bool_) for entries in (before, after))
        gains.append(average_precision(new, positives) - average_precision(old, positives))
    return gains


side = st.integers(0, 6)
box = st.tuples(side, side, st.integers(0, 6), st.integers(0, 6)).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
label = st.integers(1, 3)
score = st.sampled_from([0.1, 0.2, 0.3, 0.4])
picture = st.integers(0, 2)


@st.composite
def problems(draw: st.DrawFn) -> tuple[GroundTruth, Predictions, Predictions | None, dict[int, Doubles] | None]:
    objects = sorted(draw(st.lists(st.tuples(picture, label, box), max_size=6)), key=lambda o: o[0])
    difficult = draw(st.lists(st.integers(0, 5), max_size=2))
    found = draw(st.lists(st.tuples(picture, label, score, box), max_size=10))
    near = [(p, draw(label), draw(score), b) for p, _, b in objects if draw(st.booleans())]
    raw = draw(st.none() | st.lists(st.tuples(picture, label, score, box), max_size=4))
    boxes = draw(st.none() | st.dictionaries(picture, st.lists(box, max_size=4)))
    return (
        truth_of(objects, 3, difficult),
        predictions_of([*found, *near]),
        None if raw is None else predictions_of(raw),
        None if boxes is None else {p: np.array(b, np.float32).reshape(-1, 4) for p, b in boxes.items()},
    )


@settings(max_examples=300, deadline=None)
@given(problem=problems(), protocol=st.sampled_from(["ilsvrc", "voc10"]))
def test_agrees_with_the_literal_reference(
    problem: tuple[GroundTruth, Predictions, Predictions | None, dict[int, Doubles] | None], protocol: str
) -> None:
    truth, found, raw, proposals = problem
    evaluation = evaluate(protocol, truth, found)
    analysis = analyse(truth, found, evaluation, proposals=proposals, raw=raw)
    thresholds = iou_thresholds(truth, protocol)
    kinds, about = reference_kinds(truth, found, evaluation, thresholds)
    assert analysis.false_positive_kind.tolist() == kinds
    expected = reference_misses(truth, found, evaluation, thresholds, kinds, proposals, raw)
    assert miss_names(analysis) == expected
    for kind in range(5):
        gains = reference_gains(truth, found, evaluation, thresholds, kinds, about, kind)
        np.testing.assert_allclose(analysis.false_positive_gains[:, kind], gains, atol=1e-12)
    # counts are those of the kinds, and no fix costs anything
    assert analysis.false_positives.sum() == (evaluation.matches.outcome == FALSE_POSITIVE).sum()
    assert analysis.misses.sum() == evaluation.matches.counted.sum() - (evaluation.matches.taken >= 0).sum()
    assert not (analysis.false_positive_gains < -1e-12).any()
    assert not (analysis.miss_gains < -1e-12).any()
    # AP and what is missed: with every missed object found and every false positive gone, nothing is left to gain
    ap = np.array([average_precision_of(evaluation, c) for c in range(1, 4)])
    assert not (ap + analysis.miss_gains.max(axis=1) > 1 + 1e-12).any()


def average_precision_of(evaluation: Evaluation, label: int) -> float:
    outcome = evaluation.matches.outcome[evaluation.matches.of_class(label)]
    hits = outcome[outcome != NOT_COUNTED] == TRUE_POSITIVE
    return average_precision(hits, int(evaluation.matches.positives[label - 1]))


@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_the_order_of_the_pictures_has_no_say(
    problem: tuple[GroundTruth, Predictions, Predictions | None, dict[int, Doubles] | None],
) -> None:
    """The predictions of one picture come in any place among those of the others."""
    truth, found, _, _ = problem
    rows = np.argsort(found.pictures, kind="stable")[::-1]
    rows = rows[np.argsort(-found.pictures[rows], kind="stable")]  # pictures backwards
    moved = found.select(rows)
    there, here = analysed(truth, found, "ilsvrc"), analysed(truth, moved, "ilsvrc")
    again = moved.select(np.argsort(rows))
    assert np.array_equal(again.boxes, found.boxes)
    if len(np.unique(found.scores)) == len(found):  # of equal scores the first is taken
        assert here.false_positive_kind[np.argsort(rows)].tolist() == there.false_positive_kind.tolist()
        assert here.misses.tolist() == there.misses.tolist()
