"""The official protocol to the last digit: the devkit's demo predictions as its own code scores them under Octave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval import evaluate, read_dataset, read_predictions

PIECE = Path(__file__).parent / "data"
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ilsvrc"
FIRST_APS = [0.482046332046, 0.565000000000, 0.610119047619, 0.662435097263, 0.510034794155]


def test_a_piece_of_the_demo_predictions_scores_as_the_official_code_says() -> None:
    """Three classes with all their boxes and predictions on val2; see data/SOURCE.md."""
    truth = read_dataset(PIECE / "val2_three_classes.json")
    predictions, notes = read_predictions(PIECE / "demo_three_classes.txt", truth)
    assert (len(truth), len(predictions)) == (106, 116)
    assert "9 boxes are inverted" in notes[0]
    result = evaluate("ilsvrc", truth, predictions)
    np.testing.assert_allclose(result.ap, FIRST_APS[:3], rtol=0, atol=1e-9)
    assert evaluate("voc10", truth, predictions).ap[1] == pytest.approx(0.535833, abs=1e-6)  # small boxes not forgiven


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/ilsvrc")
def test_the_demo_predictions_score_as_the_official_code_says() -> None:
    truth = read_dataset(DATA, "ilsvrc", "val2")
    predictions, notes = read_predictions(DATA / "devkit" / "evaluation" / "demo.val.pred.det.txt", truth)
    assert len(truth.names) == 9917 and len(predictions) == 23590 and len(notes) == 2
    result = evaluate("ilsvrc", truth, predictions)
    assert result.matches.positives.sum() == 26782
    assert result.mean_ap == pytest.approx(0.601683480641, abs=1e-9)
    assert result.mean_ap_all == pytest.approx(0.601683480641, abs=1e-9)
    assert result.median_ap == pytest.approx(0.614881339150, abs=1e-9)
    np.testing.assert_allclose(result.ap[:5], FIRST_APS, rtol=0, atol=1e-9)
