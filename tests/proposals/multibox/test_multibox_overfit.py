"""Everything together: heads, loss and decoding learn the boxes of a few pictures by heart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from proposals.boxes import as_boxes, iou
from proposals.multibox.decoding import decode_proposals
from proposals.multibox.heads import MultiBoxHeads
from proposals.multibox.loss import multibox_loss
from proposals.multibox.priors import kmeans_priors

VOC = Path(__file__).parents[3].parent / "shared" / "data" / "voc2012" / "val.json"
PICTURES, TOP = 8, 8


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Compute on one thread: tensors this small gain nothing from more, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def voc_pictures():
    """The normalised boxes of each picture of VOC 2012's validation set, by picture."""
    if not VOC.exists():
        pytest.skip("needs ../shared/data/voc2012/val.json")
    document = json.loads(VOC.read_text())
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in document["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        boxes[annotation["image_id"]].append([x / width, y / height, (x + w) / width, (y + h) / height])
    return [as_boxes(of_one) for of_one in boxes.values()]


def recall(heads, features, priors, truth):
    """The share of the boxes of all pictures that the first `TOP` proposals reach with an IoU of 0.5."""
    with torch.no_grad():
        locations, logits = (output.numpy() for output in heads.eval()(features))
    best = []
    for index, boxes in enumerate(truth):
        found = decode_proposals(locations[index], logits[index], priors, 100, 100, TOP)
        best.append(iou(boxes * np.float32(100), found.boxes).max(axis=1, initial=0))
    return float((np.concatenate(best) >= 0.5).mean())


@pytest.mark.parametrize("matching", ["priors", "predictions"])
def test_overfits_random_features(matching):
    pictures = voc_pictures()
    priors = kmeans_priors(np.concatenate(pictures), 50, seed=0)
    truth = [boxes for boxes in pictures if 2 <= len(boxes) <= TOP][:PICTURES]
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(PICTURES, 64, 4, 4)).astype(np.float32))
    heads = MultiBoxHeads(64, (4, 4), priors, reduced=16, hidden=128)
    assert recall(heads, features, priors, truth) < 0.6
    optimizer = torch.optim.Adam(heads.parameters(), lr=3e-3)
    losses = []
    heads.train()
    for _ in range(150):
        loss = multibox_loss(*heads(features), priors, truth, matching=matching)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert losses[-1] < losses[0] / 20
    assert recall(heads, features, priors, truth) > 0.95
