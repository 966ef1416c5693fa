from __future__ import annotations

import numpy as np
import pytest
from small_problems import ground_truth, predicted

from eval.data import of_classes
from eval.protocols.ilsvrc import evaluate_ilsvrc

BOX = (1.0, 1.0, 40.0, 40.0)


def test_a_subset_scores_as_its_classes_do_among_all() -> None:
    rows = [(7, 1, BOX), (7, 2, BOX), (3, 3, BOX), (3, 2, BOX), (11, 3, BOX)]
    found = predicted(
        [(7, 2, 0.9, BOX), (3, 3, 0.8, BOX), (3, 2, 0.7, (60, 60, 90, 90)), (7, 3, 0.95, BOX)], [7, 3, 11]
    )
    truth = ground_truth(rows, [7, 3, 11], blacklist=[(7, 3), (3, 2)])
    whole = evaluate_ilsvrc(truth, found)
    small, chosen = of_classes(truth, found, ["bird", "dog"])
    part = evaluate_ilsvrc(small, chosen)
    assert small.class_names == ("bird", "dog") and small.class_keys == ("3", "2") and len(small.names) == 3
    assert part.ap.tolist() == [whole.ap[2], whole.ap[1]]
    assert part.matches.positives.tolist() == [2, 1]  # the blacklist goes along
    assert sorted(map(tuple, small.blacklist.tolist())) == [(0, 1), (1, 2)]
    np.testing.assert_array_equal(chosen.labels, [2, 1, 2, 1])


def test_classes_twice_and_unknown_ones() -> None:
    truth, found = ground_truth([(7, 1, BOX)], [7]), predicted([], [7])
    assert of_classes(truth, found, ["cat", "1", "cat"])[0].class_names == ("cat",)
    with pytest.raises(ValueError, match="did you mean 'dog'"):
        of_classes(truth, found, ["dgo"])
