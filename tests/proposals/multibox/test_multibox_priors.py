"""Priors: k-means on boxes with known centroids and on VOC 2012, the 1,420 fixed ones, and their coverage."""

import json
from pathlib import Path

import numpy as np
import pytest

from proposals.boxes import area, as_boxes
from proposals.multibox.priors import kmeans_priors, multiscale_priors, prior_coverage

VOC = Path(__file__).parents[3].parent / "shared" / "data" / "voc2012" / "val.json"


def voc_boxes():
    """All boxes of VOC 2012's validation pictures, normalised: [N, 4]."""
    if not VOC.exists():
        pytest.skip("needs ../shared/data/voc2012/val.json")
    document = json.loads(VOC.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    boxes = []
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        boxes.append([x / width, y / height, (x + w) / width, (y + h) / height])
    return as_boxes(boxes)


def test_centroids_by_hand():
    """Two groups of two boxes, far apart: the centroids are the means, the smaller box first."""
    boxes = as_boxes([[0, 0, 0.9, 0.9], [0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2, 0.3]])
    priors = kmeans_priors(boxes, 2, seed=3)
    assert priors.dtype == np.float32
    np.testing.assert_allclose(priors, [[0.1, 0.1, 0.2, 0.25], [0, 0, 0.95, 0.95]], atol=1e-6)


def test_equal_areas_are_sorted_by_corners():
    boxes = as_boxes([[0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5]])
    expected = [[0, 0, 0.5, 0.5], [0, 0.5, 0.5, 1], [0.5, 0, 1, 0.5], [0.5, 0.5, 1, 1]]
    assert kmeans_priors(boxes, 4, seed=0).tolist() == expected


def test_kmeans_is_seeded():
    boxes = as_boxes(np.sort(np.random.default_rng(0).random((300, 2, 2)), axis=1).reshape(-1, 4))
    first, again, other = (kmeans_priors(boxes, 20, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)
    assert (np.diff(area(first)) >= 0).all()


@pytest.mark.parametrize(
    ("boxes", "count", "message"),
    [
        ([[0, 0, 0.5, 0.5]] * 3 + [[0, 0, 1, 1]], 3, "3 priors need as many distinct boxes, there are 2"),
        ([[0, 0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8]], 2, "there are 1"),  # a box without area does not count
        ([], 1, "there are 0"),
        ([[0, 0, 0.5, 0.5]], 0, "count must be at least 1"),
        ([[0, 0, 500, 300]], 1, "between 0 and 1; divide them"),
    ],
)
def test_kmeans_refuses(boxes, count, message):
    with pytest.raises(ValueError, match=message):
        kmeans_priors(as_boxes(boxes), count, seed=0)


def test_kmeans_covers_more_than_random_boxes_on_voc():
    boxes = voc_boxes()
    fitted, held_out = boxes[::2], boxes[1::2]
    random = as_boxes(np.sort(np.random.default_rng(0).random((50, 2, 2)), axis=1).reshape(-1, 4))
    covered = prior_coverage(kmeans_priors(fitted, 50, seed=0), held_out)
    assert covered > prior_coverage(random, held_out) + 0.1


def test_multiscale_priors():
    priors = multiscale_priors()
    assert priors.shape == (1420, 4) and priors.dtype == np.float32
    assert (priors >= 0).all() and (priors <= 1).all() and (area(priors) > 0).all()
    assert len(np.unique(priors, axis=0)) == 1420
    # the second shape of the first cell of the 8x8 grid is the square of one cell; x moves first
    np.testing.assert_allclose(priors[1], [0, 0, 1 / 8, 1 / 8], atol=1e-7)
    np.testing.assert_allclose(priors[11 + 1], [1 / 8, 0, 2 / 8, 1 / 8], atol=1e-7)
    np.testing.assert_allclose(priors[8 * 11 + 1], [0, 1 / 8, 1 / 8, 2 / 8], atol=1e-7)
    # a cell in the middle of the 3x3 grid, nothing cut: width / height 1/2 at area 1/9
    centre = priors[(64 + 36 + 16 + 4) * 11]
    assert (centre[2] - centre[0]) / (centre[3] - centre[1]) == pytest.approx(0.5)
    assert area(centre[None])[0] == pytest.approx(1 / 9)
    np.testing.assert_allclose(priors[-1], [0.025, 0.025, 0.975, 0.975], atol=1e-7)


def test_multiscale_priors_cover_most_of_voc():
    """The whole picture alone covers far less, so the shapes and grids do the work."""
    boxes, priors = voc_boxes(), multiscale_priors()
    assert prior_coverage(priors, boxes) > 0.8 > prior_coverage(priors[-1:], boxes)


def test_coverage_by_hand():
    priors = as_boxes([[0, 0, 0.5, 0.5]])
    boxes = as_boxes([[0, 0, 0.5, 0.5], [0, 0, 0.25, 0.5], [0, 0, 0.125, 0.5], [0.5, 0.5, 1, 1], [0.1, 0.1, 0.1, 0.4]])
    assert prior_coverage(priors, boxes) == pytest.approx(2 / 5)  # IoU 1, 1/2 (which counts), 1/4, 0, 0
    assert prior_coverage(as_boxes([]), boxes) == 0
    assert np.isnan(prior_coverage(priors, as_boxes([])))
