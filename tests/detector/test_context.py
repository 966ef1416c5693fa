"""What the whole picture says: its views and the means by hand, and the detector with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from detector.classes import det_names
from detector.cli.detect import main
from detector.detector import Detector
from detector.model import find_model
from detector.networks.googlenet import googlenet
from detector.networks.layers import convolutions
from detector.options import DetectOptions
from detector.postprocess import LEAST_SEEN, in_context
from detector.runtimes.load import load_classifier
from detector.samples import sample_path
from detector.weights import save_weights
from detector.whole_crops import CONTEXT_MODEL, whole_picture
from proposals.images import read_image


@pytest.mark.parametrize("upright", [False, True])
def test_views_by_hand(upright: bool) -> None:
    """Of a picture twice as long as high, whose quarters have the grey values 10, 20, 30 and 40."""
    image = np.repeat(np.repeat(np.array([10, 20, 30, 40], np.uint8), 8)[None, :, None], 16, axis=0)
    image = np.repeat(image.transpose(1, 0, 2) if upright else image, 3, axis=2)
    views = whole_picture(image, 8)
    assert views.shape == (4, 8, 8, 3) and views.dtype == np.uint8
    lines = views[:, :, 0, 0] if upright else views[:, 0, :, 0]
    assert lines[0].tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    assert lines[1].tolist() == [20] * 4 + [30] * 4
    assert (views[2] == views[0][:, ::-1]).all() and (views[3] == views[1][:, ::-1]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (700, 500)])
def test_views_of_any_picture(size: tuple[int, int]) -> None:
    assert whole_picture(np.zeros((*size, 3), np.uint8), 75).shape == (4, 75, 75, 3)


def test_scores_in_context_by_hand() -> None:
    scores = np.array([[0.5, 0.25, 0.0], [0.25, 0.0625, 1.0]], np.float32)
    seen = np.array([[0.5, 0.02, 0.0], [0.5, 0.06, 0.0]], np.float32)  # means 0.5, 0.04 and, too little, 0
    found = in_context(scores, seen, 0.5)
    np.testing.assert_allclose(
        found, [[0.5, 0.1, 0], [(0.25 * 0.5) ** 0.5, (0.0625 * 0.04) ** 0.5, LEAST_SEEN**0.5]], rtol=1e-6
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(in_context(scores, seen, 0.0), scores)


def test_the_detector_in_context() -> None:
    """Is the one without, on scores that the network's view of the whole picture has changed."""
    image = read_image(sample_path("chelsea.jpg"))
    plain = Detector(DetectOptions(model="inception_v3", proposals="ss", threshold=0.01))
    inside = Detector(dataclasses.replace(plain.options, context=0.25))
    proposals = plain.propose(image).top(40)
    scores = plain.score(image, proposals).scores
    network = load_classifier(find_model(CONTEXT_MODEL), "openvino", "cpu", "auto", 4)
    changed = in_context(scores, network(whole_picture(image, 299)), 0.25)
    expected, found = plain.suppress(image, proposals, changed), inside.suppress(image, proposals, scores)
    assert found.boxes.tolist() == expected.boxes.tolist() and found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert "; scores weighed by inception_v3 of the whole picture to the power 0.25; " in inside.describe()
    assert "whole picture" not in plain.describe()
    cat = det_names().index("domestic cat") + 1
    ranks = [(of[:, 1:].max(axis=0) > of[:, cat].max()).sum() for of in (scores, changed)]
    assert ranks[1] <= ranks[0]  # the picture shows a cat


def test_own_classes_have_no_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = googlenet(3, "batch", 0.25)
    rng = np.random.default_rng(0)
    arrays = {}
    for conv in convolutions(layers):
        arrays[f"{conv.name}.weight"] = rng.normal(0, 0.01, (conv.outputs, conv.inputs, *conv.kernel)).astype(
            np.float32
        )
        arrays[f"{conv.name}.bias"] = np.zeros(conv.outputs, np.float32)
    path = tmp_path / "own.safetensors"
    options = {"network": "googlenet", "size": 96, "mean": 128.0, "scale": 128.0, "classes": 3, "width": 0.25}
    save_weights(path, arrays, **options, norm="batch", class_names=("a", "b"))  # type: ignore[arg-type]
    status = main([str(sample_path("chelsea.jpg")), "--model", str(path), "--context", "0.2", "--no-save"])
    error = capsys.readouterr().err
    assert status != 0 and error.count("\n") == 1
    assert "has classes of its own, of which inception_v3@299 knows nothing; leave out context" in error


@pytest.mark.parametrize(("value", "message"), [("1", "context must be below 1"), ("-0.1", "context must lie in 0..1")])
def test_wrong_weights_are_one_line(value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no.png", f"--context={value}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
