from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector.datasets.read import read_dataset
from eval.predictions.readers import read_predictions
from eval.protocols import evaluate

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ilsvrc"


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
    first = [0.482046332046, 0.565000000000, 0.610119047619, 0.662435097263, 0.510034794155]
    np.testing.assert_allclose(result.ap[:5], first, rtol=0, atol=1e-9)
