"""Data sets of few samples, and a small network, for the tests that run the detector."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from detector.datasets.ground_truth import GroundTruth
from detector.datasets.read import read_dataset
from detector.model import Spec
from detector.networks.googlenet import googlenet
from detector.networks.torch_module import fold, training_network
from detector.samples import samples_folder
from detector.weights import save_weights


def small_model(path: Path, names: tuple[str, ...] = (), seed: int = 3) -> str:
    """Write a narrow GoogLeNet with random weights, for the 200 classes or those of `names`; return its path."""
    classes = 1 + (len(names) or 200)
    network = training_network(googlenet(classes, "batch", 0.1), "none", 0.0, seed)
    options = {
        "size": 75,
        "mean": 128.0,
        "scale": 64.0,
        "width": 0.1,
        "norm": "batch",
        "classes": classes,
        "sharpness": 4.0,
    }
    return save_weights(path, fold(network), Spec(network="googlenet", class_names=names, **options)).file  # type: ignore[arg-type]


def small_detector(path: Path, model: str, ensemble: str = "") -> str:
    """Write settings of a detector that takes 50 regions of Selective Search; return their path."""
    lines = (f'model = "{model}"', f'ensemble = "{ensemble}"', "cascade = 0.0", 'proposals = "ss"', "objectness = 0.0")
    path.write_text("\n".join([*lines, "ss_boxes = 50"]) + "\n")
    return str(path)


def sample_data(folder: Path, count: int) -> Path:
    """Return the JSON file of a data set of the `count` smallest samples that have objects, their pictures beside."""
    folder.mkdir()
    document = json.loads((samples_folder() / "annotations.json").read_text())
    used = {a["image_id"] for a in document["annotations"]}
    images = sorted((i for i in document["images"] if i["id"] in used), key=lambda i: i["width"] * i["height"])[:count]
    ids = {i["id"] for i in images}
    document |= {"images": images, "annotations": [a for a in document["annotations"] if a["image_id"] in ids]}
    for image in images:
        shutil.copy(samples_folder() / image["file_name"], folder)
    (folder / "data.json").write_text(json.dumps(document))
    return folder / "data.json"


def two_objects(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the JSON file of a data set of one picture with an object of each of the first two classes."""
    folder.mkdir()
    shutil.copy(samples_folder() / "chelsea.jpg", folder)
    data = {
        "images": [{"id": 1, "file_name": "chelsea.jpg", "width": 451, "height": 300}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": k, "bbox": [50, 20, 200, 150], "area": 30000, "iscrowd": 0}
            for k in (1, 2)
        ],
    }
    (folder / "data.json").write_text(json.dumps(data))
    return folder / "data.json"


def perfect(data: Path | GroundTruth, path: Path) -> Path:
    """Write every ground-truth box as a prediction, in ILSVRC lines."""
    truth = read_dataset(data) if isinstance(data, Path) else data
    rows = zip(truth.numbers[truth.pictures].tolist(), truth.labels.tolist(), truth.boxes.tolist(), strict=True)
    lines = [f"{number} {label} 0.5 {x1 + 1!r} {y1 + 1!r} {x2!r} {y2!r}\n" for number, label, (x1, y1, x2, y2) in rows]
    path.write_text("".join(lines))
    return path
