"""What a mini-batch holds, how often each region comes, and that nothing but seed and step decides it."""

from __future__ import annotations

import numpy as np
import pytest

from detector.training.mini_batches import Sampler, balanced_weights

LABELS = np.array([1, 1, 1, 1, 2, 2, 0, 0, 0, -1, -1])
SETS = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1])


def test_thirty_two_foreground_and_ninety_six_background():
    batch = Sampler(LABELS, SETS, 32, 96, 0.0, 1).draw(5)
    assert len(batch.rows) == len(batch.mirrored) == 128
    assert (LABELS[batch.rows[:32]] > 0).all() and (LABELS[batch.rows[32:]] == 0).all()


@pytest.mark.parametrize(
    ("balance", "wanted"),
    [
        (0.0, [1, 1, 1, 1, 1, 1]),
        # class 1 has 4 regions, 3 of set 0 and 1 of set 1; class 2 has 2, both of set 1
        (0.5, None),
        # half of the weight 6 to each class; in class 1 half of that to each set
        (1.0, [0.5, 0.5, 0.5, 1.5, 1.5, 1.5]),
    ],
)
def test_weights_by_a_hand_count(balance: float, wanted: list[float] | None):
    if wanted is None:  # classes as 4 ** 0.5 : 2 ** 0.5; the sets of class 1 as 3 ** 0.5 : 1
        first, second = 2 / (2 + 2**0.5), 2**0.5 / (2 + 2**0.5)
        near = 3**0.5 / (3**0.5 + 1)
        wanted = [6 * first * near / 3] * 3 + [6 * first * (1 - near)] + [6 * second / 2] * 2
    found = balanced_weights(LABELS[:6], SETS[:6], balance)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found.mean() == pytest.approx(1)


def test_shares_say_how_often_a_data_set_is_drawn():
    """Background: 2 regions of set 0, 1 of set 1; with shares 1 and 4 that is 2 : 4. Share 0 is never drawn."""
    rows = np.concatenate([Sampler(LABELS, SETS, 0, 100, 0.0, 1, (1.0, 4.0)).draw(step).rows for step in range(100)])
    assert (SETS[rows] == 1).mean() == pytest.approx(4 / 6, abs=0.03)
    rows = np.concatenate([Sampler(LABELS, SETS, 100, 0, 0.0, 1, (1.0, 0.0)).draw(step).rows for step in range(5)])
    assert set(rows.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="every foreground region is of a data set of share 0"):
        Sampler(LABELS, np.zeros_like(SETS), 1, 0, 0.0, 1, (0.0, 1.0))


def test_no_region_has_no_weight():
    assert len(balanced_weights(np.zeros(0, np.int64), np.zeros(0, np.int64), 1.0)) == 0


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_frequencies_over_many_draws(balance: float):
    sampler = Sampler(LABELS, SETS, 40, 20, balance, 3)
    draws = [sampler.draw(step) for step in range(500)]
    rows = np.concatenate([draw.rows for draw in draws])
    counts = np.bincount(rows, minlength=len(LABELS))
    shares = balanced_weights(LABELS[:6], SETS[:6], balance) / 6
    for row, share in enumerate(shares):
        assert abs(counts[row] - 20000 * share) < 4 * (20000 * share * (1 - share)) ** 0.5
    assert (np.abs(counts[6:9] - 10000 / 3) < 4 * (10000 * 2 / 9) ** 0.5).all()
    assert counts[9:].sum() == 0
    mirrored = np.concatenate([draw.mirrored for draw in draws])
    for own in (LABELS[rows] > 0, LABELS[rows] == 0):
        assert abs(mirrored[own].mean() - 0.5) < 4 * 0.5 / own.sum() ** 0.5


def test_a_batch_depends_on_seed_and_step_alone():
    one, two = Sampler(LABELS, SETS, 8, 8, 0.5, 7), Sampler(LABELS, SETS, 8, 8, 0.5, 7)
    for step in (9, 0, 4):
        two.draw(step)
    for step in range(5):
        first, second = one.draw(step), two.draw(step)
        assert np.array_equal(first.rows, second.rows) and np.array_equal(first.mirrored, second.mirrored)
    assert not np.array_equal(one.draw(1).rows, one.draw(2).rows)
    assert not np.array_equal(one.draw(1).rows, Sampler(LABELS, SETS, 8, 8, 0.5, 8).draw(1).rows)


def test_one_kind_alone():
    assert (LABELS[Sampler(LABELS, SETS, 4, 0, 0.0, 0).draw(0).rows] > 0).all()
    assert (LABELS[Sampler(LABELS, SETS, 0, 4, 1.0, 0).draw(0).rows] == 0).all()


@pytest.mark.parametrize(("labels", "kind"), [([1, 2, -1], "background"), ([0, 0, -1], "foreground")])
def test_a_kind_that_is_missing_is_named(labels: list[int], kind: str):
    with pytest.raises(ValueError, match=f"no {kind} region"):
        Sampler(np.array(labels), np.zeros(3, np.int64), 2, 6, 0.0, 0)
