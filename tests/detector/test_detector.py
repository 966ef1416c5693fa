"""The whole detector on the sample pictures, with the shipped weights."""

import copy
import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.classes import det_names
from detector.detector import Detector
from detector.model import Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import fold, training_network
from detector.options import DetectOptions
from detector.postprocess import Regions, in_context, soften, suppress, vote, voted_boxes, weigh
from detector.runtimes.load import load_classifier
from detector.warp import warp
from detector.weights import save_weights
from detector.whole_crops import CONTEXT_MODEL, image_views
from proposals.boxes import from_xywh, iou
from proposals.opencv import selective_search_opencv
from proposals.proposer import make_proposer
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH, Proposals

SAMPLES = Path(__file__).parents[2] / "samples"


def with_options(detector: Detector, **changes: object) -> Detector:
    """The detector with other options and the same network; for those that do not concern the network."""
    other = copy.copy(detector)
    other.options = dataclasses.replace(detector.options, **changes)
    other.proposer = make_proposer(other.options, other.options.seed)
    return other


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / f"{name}.jpg").convert("RGB"))


def truth(name: str) -> dict[str, np.ndarray]:
    """Ground-truth boxes of a sample by class name."""
    table = json.loads((SAMPLES / "annotations.json").read_text())
    classes = {c["id"]: c["name"] for c in table["categories"]}
    image = next(i for i in table["images"] if i["file_name"] == f"{name}.jpg")
    boxes: dict[str, list[list[float]]] = {}
    for a in table["annotations"]:
        if a["image_id"] == image["id"]:
            boxes.setdefault(classes[a["category_id"]], []).append(a["bbox"])
    return {label: from_xywh(rows) for label, rows in boxes.items()}


@pytest.mark.parametrize(("name", "wanted"), [("dog", "dog"), ("dog", "bicycle"), ("horses", "horse")])
def test_objects_of_the_samples_are_found(trace, name, wanted):
    """Each is named at the default threshold, a box centred on it. The cat is not: see the model card."""
    found = trace(name).detections.of_class(wanted)
    assert len(found), f"no {wanted} in {name}.jpg"
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    objects = truth(name)[wanted]
    inside = (centres[:, None] >= objects[None, :, :2]) & (centres[:, None] <= objects[None, :, 2:])
    assert inside.all(axis=2).any(), f"{wanted}: none of {len(found)} boxes is centred on one"


@pytest.mark.parametrize(("name", "wanted"), [("dog", "car"), ("horses", "horse"), ("eagle", "bird")])
def test_objects_of_the_samples_are_localised(trace, name, wanted):
    """At the default threshold a box covers the object at IoU 0.5."""
    found = trace(name).detections.of_class(wanted)
    overlap = iou(found.boxes, truth(name)[wanted])
    assert len(found) and overlap.max() >= 0.5, f"{wanted}: {len(found)} boxes, best IoU {overlap.max(initial=0):.2f}"


@pytest.mark.parametrize(("name", "wanted"), [("eagle", "bird")])
def test_objects_are_found_among_the_proposals_around_them(detector, trace, name, wanted):
    """The stages one by one, without the proposals that do not touch the objects."""
    image, objects = picture(name), truth(name)[wanted]
    proposals = trace(name).proposals
    near = iou(proposals.boxes, objects).max(axis=1) > 0
    around = Proposals(proposals.boxes[near], proposals.scores[near], proposals.sources[near])
    scores = detector.classify(detector.crop(image, around))
    assert wanted in detector.suppress(image, around, scores).names
    lower = with_options(detector, threshold=0.2).suppress(image, around, scores).of_class(wanted)
    assert iou(lower.boxes, objects).max() >= 0.5  # as above


def test_a_picture_without_objects_of_the_classes_stays_empty(trace):
    assert len(trace("rocket").detections) == 0


def test_stages_and_their_order(detector, trace):
    image, made = picture("chelsea"), trace("chelsea")
    assert list(made.seconds) == ["propose", "crop", "classify", "suppress"]
    assert made.crops == len(made.proposals) == len(made.scores)
    found = made.detections
    assert found.image_size == (image.shape[1], image.shape[0])
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores >= detector.options.threshold).all()
    for label in np.unique(found.labels):
        boxes = found.boxes[found.labels == label]
        overlap = iou(boxes, boxes) - np.eye(len(boxes))
        assert overlap.max(initial=0) <= detector.options.nms + 1e-6
        assert len(boxes) <= detector.options.top


def test_proposals_follow_the_seed_and_the_superpixel_scale(detector):
    image, detector = picture("chelsea"), with_options(detector, proposals="ss")
    usual = detector.propose(image)
    seeded = with_options(detector, seed=5).propose(image)
    assert seeded.boxes.tobytes() != usual.boxes.tobytes()
    assert {tuple(b) for b in seeded.boxes.tolist()} == {tuple(b) for b in usual.boxes.tolist()}
    single = with_options(detector, superpixel_scale=1).propose(image)
    assert len(single) > 1.3 * len(usual)
    opencv = with_options(detector, backend="opencv", superpixel_scale=3, seed=7).propose(image)
    np.testing.assert_array_equal(opencv.boxes, selective_search_opencv(image, superpixel_scale=3, seed=7).boxes)


def test_crops_are_warps_with_16_px_of_context_and_the_fill_of_the_model(detector, trace):
    image, proposals = picture("chelsea"), trace("chelsea").proposals.top(20)
    crops = detector.crop(image, proposals)
    model = detector.classify.model
    np.testing.assert_array_equal(crops, warp(image, proposals.boxes, model.size, model.fill, context=16))
    assert crops[0, 0, 0].tolist() == [128, 128, 128]  # the mean of Inception-v3; the first proposal is the picture


# Four regions in two places: IoU of the first two is 0.5, of the last two 0.9, of any others 0
PLACES = Proposals(
    np.array([[0, 0, 20, 10], [0, 0, 10, 10], [60, 30, 80, 40], [60, 30, 80, 39]], np.float32),
    np.array([1, 0.75, 0.5, 0.25], np.float32),
    np.array([MULTIBOX, SELECTIVE_SEARCH, BOTH, SELECTIVE_SEARCH], np.uint8),
)
DOG, ZEBRA = (det_names().index(name) + 1 for name in ("dog", "zebra"))  # column 0 is background


def scores_of_places() -> np.ndarray:
    """Scores of the four regions; background scores highest everywhere and must not be detected."""
    scores = np.zeros((4, 201), np.float32)
    scores[:, 0] = 1
    scores[:, DOG] = 0.75, 0.625, 0.5, 0.25
    scores[:, ZEBRA] = 0, 0.375, 0.125, 0.5
    return scores


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # (region, label) by falling score, ties by index
        ({"nms": 0.5, "threshold": 0.25}, [(0, DOG), (1, DOG), (2, DOG), (3, ZEBRA), (1, ZEBRA)]),
        ({"nms": 0.49, "threshold": 0.25}, [(0, DOG), (2, DOG), (3, ZEBRA), (1, ZEBRA)]),
        (
            {"nms": 1.0, "threshold": 0.125},
            [(0, DOG), (1, DOG), (2, DOG), (3, ZEBRA), (1, ZEBRA), (3, DOG), (2, ZEBRA)],
        ),
        ({"nms": 0.5, "threshold": 0.5}, [(0, DOG), (1, DOG), (2, DOG), (3, ZEBRA)]),  # 0.5 is not below 0.5
        ({"nms": 0.5, "threshold": 0.51}, [(0, DOG), (1, DOG)]),
        ({"nms": 0.5, "threshold": 0.25, "top": 1}, [(0, DOG), (3, ZEBRA)]),
        ({"nms": 0.49, "threshold": 0.25, "top": 2}, [(0, DOG), (2, DOG), (3, ZEBRA), (1, ZEBRA)]),
        ({"threshold": 1.0}, []),
    ],
)
def test_suppression_by_hand(detector, options, expected):
    image = np.zeros((50, 100, 3), np.uint8)
    scores = scores_of_places()
    found = with_options(detector, vote=0.0, **options).suppress(image, PLACES, scores)
    regions, labels = [r for r, _ in expected], [label for _, label in expected]
    assert found.labels.tolist() == labels
    assert found.boxes.tolist() == PLACES.boxes[regions].tolist()
    assert found.sources.tolist() == PLACES.sources[regions].tolist()
    assert found.scores.tolist() == scores[regions, labels].tolist()
    assert found.image_size == (100, 50)


def test_boxes_of_a_class_vote_on_where_it_is(detector):
    """And of boxes that the votes moved onto each other the worse lose score, and leave below the threshold."""
    image, scores = np.zeros((50, 100, 3), np.uint8), scores_of_places()
    plain, voted = (
        with_options(detector, nms=0.5, threshold=0.25, vote=overlap).suppress(image, PLACES, scores)
        for overlap in (0, 0.4)
    )
    moved = voted_boxes(plain.boxes[:1], PLACES.boxes, scores[:, DOG], 0.4)
    np.testing.assert_array_equal(voted.boxes[0], moved[0])
    assert voted.boxes.tolist() != plain.boxes.tolist()
    assert (np.diff(voted.scores) <= 0).all() and len(voted) == len(plain) - 1


def test_the_picture_as_a_whole_weighs_the_classes():
    """Scores and the loss of boxes that lie on others, by the network's view of the whole picture."""
    image = picture("chelsea")
    options = DetectOptions(model="inception_v3@96", proposals="ss", threshold=0.01, context=0.25)
    inside = Detector(options)
    proposals = inside.propose(image).top(40)
    scores = inside.score(image, proposals).scores
    seen = load_classifier(find_model(CONTEXT_MODEL), "openvino", "cpu", "auto", 4)(image_views(image, 299))
    regions = Regions(proposals.boxes, scores[:, 1:], proposals.sources, (image.shape[1], image.shape[0]))
    weighed = weigh(regions, in_context(seen), 0.25)
    found = suppress(weighed, options.nms, options.threshold, options.top)
    assert weighed.power == 0.75
    expected = soften(vote(found, options.vote), options.nms, options.threshold).detections(det_names())
    found = inside.suppress(image, proposals, scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert "; scores weighed by inception_v3 of the whole image to the power 0.25; " in inside.describe()
    cat = det_names().index("domestic cat")
    ranks = [(of.max(axis=0) > of[:, cat].max()).sum() for of in (regions.scores, weighed.scores)]
    assert ranks[1] <= ranks[0]  # the picture shows a cat


def test_own_classes_have_no_context(tmp_path: Path):
    network = training_network(googlenet(3, "batch", 0.25), "batch")
    spec = Spec(
        network="googlenet", size=96, mean=128, scale=128, classes=3, width=0.25, norm="batch", class_names=("a", "b")
    )
    own = save_weights(tmp_path / "own.safetensors", fold(network), spec)
    with pytest.raises(ValueError, match="has classes of its own, of which inception_v3@299 knows nothing"):
        Detector(DetectOptions(model=own.file, proposals="ss", context=0.2))


def test_suppression_keeps_a_score_of_the_default_threshold_and_none_above_one(detector):
    scores = np.zeros((4, 201), np.float32)
    scores[0, DOG] = np.nextafter(np.float32(1), np.float32(2))  # a softmax may round upwards
    scores[2, DOG] = detector.options.threshold
    scores[3, ZEBRA] = np.nextafter(np.float32(detector.options.threshold), np.float32(0))
    found = detector.suppress(np.zeros((50, 100, 3), np.uint8), PLACES, scores)
    assert found.scores.tolist() == [1.0, np.float32(detector.options.threshold)]


@pytest.mark.slow
def test_same_bytes_at_any_batch_size(detector, trace):
    """A score depends neither on its batch nor on its place in it."""
    image, made = picture("chelsea"), trace("chelsea")
    crops = detector.crop(image, made.proposals.top(62))
    other = Detector(dataclasses.replace(detector.options, batch_size=5))
    np.testing.assert_array_equal(other.classify(crops), made.scores[:62])


def test_torch_gives_the_same_scores():
    image = picture("chelsea")
    options = DetectOptions(model="inception_v3_det@96", proposals="ss", precision="f32", device="cpu")
    ours = Detector(dataclasses.replace(options, runtime="openvino"))
    reference = Detector(dataclasses.replace(options, runtime="torch"))
    proposals = ours.propose(image).top(24)
    crops = ours.crop(image, proposals)
    np.testing.assert_array_equal(crops, reference.crop(image, proposals))
    np.testing.assert_allclose(ours.classify(crops), reference.classify(crops), atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 3), (30, 900)])
def test_odd_sizes(detector, size):
    image = np.asarray(Image.open(SAMPLES / "dog.jpg").convert("RGB").resize(size))
    found = detector(image)
    assert found.image_size == size
    assert (found.boxes >= 0).all() and (found.boxes <= [*size, *size]).all()


def test_crop_size_changes_what_the_network_sees(detector):
    image = picture("coffee")
    small = Detector(DetectOptions(model="inception_v3_det", proposals="ss", crop_size=96))
    assert "at 96 px" in small.describe() and "at 160 px" in detector.describe()
    assert small.crop(image, small.propose(image).top(2)).shape == (2, 96, 96, 3)


def test_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("detector.multibox.shipped_multibox", lambda: None)
    with pytest.raises(ValueError, match="no MultiBox weights are installed; use --proposals ss"):
        Detector(DetectOptions(proposals="both"))
    with pytest.raises(FileNotFoundError, match="known models"):
        Detector(DetectOptions(model="nothing", proposals="ss"))


def test_refuses_other_arrays(detector):
    with pytest.raises(ValueError, match="uint8 RGB"):
        detector(np.zeros((5, 5, 3), np.float32))


def test_the_kernels_are_not_loaded_by_a_daemon(monkeypatch: pytest.MonkeyPatch):
    """The end of Python stops daemons wherever they are; inside compiled code that aborts the process."""
    told = threading.Event()
    seen = []
    monkeypatch.setattr(
        "proposals.proposer.SelectiveSearch.prepare",
        lambda search: (seen.append(threading.current_thread().daemon), told.set()),
    )
    Detector(DetectOptions(model="inception_v3", proposals="ss"))
    assert told.wait(60) and seen == [False]
