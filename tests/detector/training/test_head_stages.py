"""R-CNN's SVMs as a stage: from pictures to a model whose scores are the same in every runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from detector.cli.detect import main as detect
from detector.cli.train import main, read_config
from detector.datasets.class_maps import AMBIGUOUS
from detector.datasets.read import read_dataset
from detector.detector import Detector
from detector.export import export, run_file
from detector.model import Model, Spec, find_model
from detector.options import DetectOptions
from detector.quantize import quantized_file
from detector.runtimes.openvino import OpenVinoClassifier, OpenVinoFeatures
from detector.runtimes.torch import TorchClassifier
from detector.training.features import fill_cache
from detector.training.heads import head_examples, train_svms
from detector.training.options import BboxOptions, RegionOptions, SvmOptions
from detector.training.regions import IGNORED, PoolOptions, RegionPool, Source, build_pool, read_sources
from detector.warp import warp
from detector.weights import load_weights, save_weights
from proposals.images import read_image
from proposals.store import PictureProposals, ProposalStore, write_store
from proposals.types import SELECTIVE_SEARCH, Proposals

svm_options = partial(SvmOptions, data=("samples",))

SAMPLES = Path(__file__).parents[3] / "samples"
PICTURES = ("dog.jpg", "horses.jpg", "giraffe.jpg", "person.jpg")
NAMES = ("hound", "person", "zebra")
OF = {"dog": "hound", "person": "person", "zebra": "zebra"}
HEAD, LAST, LENGTH = "loss3/classifier", "inception_5b", 256  # of a GoogLeNet a quarter as wide
SIZE = 75
SHARP = ("c=1.0", "max_iterations=100000")  # features of random weights hardly differ
SMALL: dict[str, Any] = {
    "network": "googlenet",
    "size": SIZE,
    "mean": 128.0,
    "scale": 64.0,
    "width": 0.25,
    "norm": "batch",
}


def some_proposals(truth: np.ndarray, width: int, height: int, rng: np.random.Generator) -> Proposals:
    """Two boxes close to each object, and eight anywhere."""
    sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    near = np.repeat(truth, 2, axis=0) + np.repeat(sides, 2, axis=0) * rng.uniform(-0.06, 0.06, (2 * len(truth), 4))
    corners = rng.uniform(0, 0.6, (8, 2)) * (width, height)
    far = np.concatenate([corners, corners + rng.uniform(30, 120, (8, 2))], axis=1)
    boxes = np.concatenate([near, far]).astype(np.float32)
    return Proposals(boxes, np.zeros(len(boxes)), np.full(len(boxes), SELECTIVE_SEARCH))


@pytest.fixture(scope="module")
def folder(small_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in 8 bits, a data set of three classes of its own, proposals, and a finished run of SVMs in `run`."""
    root = tmp_path_factory.mktemp("svm")
    random = find_model(str(small_network))
    corners = np.random.default_rng(1).integers(0, 200, (16, 2))
    shown = np.concatenate([corners, corners + 100], axis=1).astype(np.float32)
    some = warp(read_image(SAMPLES / "dog.jpg"), shown, SIZE, random.fill)
    (root / "start.safetensors").write_bytes(quantized_file(random, some, {}))
    table = json.loads((SAMPLES / "annotations.json").read_text(encoding="utf-8"))
    kinds = {c["id"]: OF.get(c["name"], "") for c in table["categories"]}
    table["images"] = [i for i in table["images"] if i["file_name"] in PICTURES]
    shown = {i["id"] for i in table["images"]}
    table["annotations"] = [
        a | {"category_id": 1 + NAMES.index(kinds[a["category_id"]])}
        for a in table["annotations"]
        if a["image_id"] in shown and kinds[a["category_id"]]
    ]
    table["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    (root / "own.json").write_text(json.dumps(table), encoding="utf-8")
    for name in PICTURES:
        shutil.copy(SAMPLES / name, root)
    truth, rng = read_dataset(root / "own.json"), np.random.default_rng(0)
    rows = []
    for index, path in enumerate(truth.paths):
        assert path is not None
        width, height = (int(side) for side in truth.sizes[index])
        found = some_proposals(truth.boxes[truth.of_picture(index)], width, height, rng)
        rows.append(PictureProposals(path.name, width, height, found))
    write_store(root / "boxes.parquet", rows, {})
    text = f"""
model = {json.dumps(str(root / "start.safetensors"))}
proposals = {json.dumps(str(root / "boxes.parquet"))}
data = [{json.dumps(str(root / "own.json"))}]
classes = "own"
cut_precision = "f32"
"""
    (root / "svm.toml").write_text(text, encoding="utf-8")
    assert train(root, root / "run", *SHARP, "--quiet") == 0
    return root


def train(folder: Path, out: Path, *extra: str) -> int:
    return main(["svm", "--config", str(folder / "svm.toml"), "--out", str(out), *extra])


def pool_of(folder: Path) -> tuple[list[Source], RegionPool]:
    sources, names = read_sources([str(folder / "own.json")], (), True)
    store = ProposalStore(folder / "boxes.parquet")
    return sources, build_pool(sources, names, lambda path: store[path.name], PoolOptions())


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return find_model(str(folder / "run"))


def start_of(folder: Path) -> Model:
    return find_model(str(folder / "start.safetensors"))


@pytest.fixture(scope="module")
def crops(folder: Path) -> np.ndarray:
    boxes = ProposalStore(folder / "boxes.parquet")["dog.jpg"].boxes
    return warp(read_image(SAMPLES / "dog.jpg"), boxes, SIZE, start_of(folder).fill)


def pooled(model: Model, crops: np.ndarray) -> np.ndarray:
    """Features [N, D] of the layer before the classifier, in f32."""
    network = OpenVinoFeatures(model, len(model.layers) - 1, "f32")
    found = np.empty((len(crops), *network.shape), np.float32)
    network.run(len(crops), lambda start, stop, out: np.copyto(out, crops[start:stop]), found)
    return found.reshape(len(crops), -1)


def expected_scores(model: Model, features: np.ndarray) -> np.ndarray:
    """Sigmoids of the margins of the file's own rows, background being what the best of them leaves."""
    arrays = load_file(model.file)
    margins = features @ arrays[f"{HEAD}.weight"][1:, :, 0, 0].T + arrays[f"{HEAD}.bias"][1:]
    scores = 1 / (1 + np.exp(-margins.astype(np.float64)))
    return np.concatenate([1 - scores.max(axis=1, keepdims=True), scores], axis=1)


def test_the_file_has_the_svms_for_a_classifier_and_everything_else_as_it_was(folder: Path, model: Model):
    assert (model.head, model.sharpness, model.classes, model.size) == ("svm", 0, 4, SIZE)
    assert model.class_names == NAMES and model.outputs == "own" and model.quantized and not model.has_box_regression
    new, old = load_file(model.file), load_file(start_of(folder).file)
    assert {k for k in new if not k.startswith(HEAD)} == {k for k in old if not k.startswith(HEAD)}
    for name, array in old.items():
        if not name.startswith(HEAD):
            np.testing.assert_array_equal(new[name], array)
    assert not new[f"{HEAD}.weight"][0].any() and new[f"{HEAD}.bias"][0] == 0
    sources, pool = pool_of(folder)
    notes: list[str] = []
    parts = folder / "run" / "cache", pool, start_of(folder), LAST, "f32", 0, notes.append
    before = (folder / "run" / "cache" / "cache.json").read_bytes()
    cache = fill_cache(*parts, mirror=False)
    assert (folder / "run" / "cache" / "cache.json").read_bytes() == before and cache.features.shape[1:] == (
        LENGTH,
        1,
        1,
    )
    head = train_svms(head_examples(pool, sources, cache), svm_options(c=1.0, max_iterations=100_000))
    assert head.trained.all()
    np.testing.assert_array_equal(new[f"{HEAD}.weight"][1:, :, 0, 0], head.weights)
    np.testing.assert_array_equal(new[f"{HEAD}.bias"][1:], head.bias)
    objects = np.flatnonzero(pool.truth)  # the SVMs tell the objects that they were trained on
    margins = cache.features[objects].reshape(len(objects), -1).astype(np.float32) @ head.weights.T + head.bias
    assert (margins.argmax(axis=1) + 1 == pool.labels[objects]).all()


def test_features_are_of_regions_as_they_are(folder: Path):
    _, pool = pool_of(folder)
    start = start_of(folder)
    cache = fill_cache(folder / "run" / "cache", pool, start, LAST, "f32", 0, print, mirror=False)
    image = read_image(pool.paths[0])
    rows = np.flatnonzero(pool.pictures == 0)
    kept = cache.features[rows].reshape(len(rows), -1).astype(np.float32)
    straight = pooled(start, warp(image, pool.boxes[rows], SIZE, start.fill))
    turned = pooled(start, warp(image, pool.boxes[rows], SIZE, start.fill, mirrored=True))
    np.testing.assert_allclose(kept, straight, rtol=2e-3, atol=1e-4)
    assert (np.abs(kept - turned).max(axis=1) > 0.01).all()
    with pytest.raises(ValueError, match="other seed"):
        fill_cache(folder / "run" / "cache", pool, start, LAST, "f32", 0, print)


def test_every_runtime_gives_the_sigmoids_of_the_margins(model: Model, crops: np.ndarray):
    expected = expected_scores(model, pooled(model, crops))
    assert np.ptp(expected[:, 1:]) > 0.2
    found = OpenVinoClassifier(model, "f32")(crops)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(TorchClassifier(model)(crops), expected, atol=1e-4)
    assert np.abs(found.sum(axis=1) - 1).max() > 0.01  # no distribution
    np.testing.assert_allclose(OpenVinoClassifier(model, "int8")(crops), expected, atol=0.2)


def test_detect_takes_the_run(folder: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.toml").write_text(
        'proposals = "ss"\nss_boxes = 40\nthreshold = 0.0\nprecision = "f32"\ntop = 1\n', encoding="utf-8"
    )
    arguments = ["--model", str(folder / "run"), "--config", str(tmp_path / "mine.toml"), "--format", "json"]
    assert detect([str(SAMPLES / "dog.jpg"), *arguments, "--quiet"]) == 0
    shown = {d["class"]: d["score"] for d in json.loads(capsys.readouterr().out)["detections"]}
    detector = Detector(
        DetectOptions(model=str(folder / "run"), proposals="ss", ss_boxes=40, threshold=0.0, precision="f32")
    )
    image = read_image(SAMPLES / "dog.jpg")
    boxes = detector.propose(image).boxes
    expected = expected_scores(model, pooled(model, warp(image, boxes, SIZE, model.fill))).max(axis=0)
    assert shown == pytest.approx(dict(zip(NAMES, expected[1:].tolist(), strict=True)), abs=1e-3)


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".xml"])
def test_exported_files_have_the_same_scores(model: Model, crops: np.ndarray, tmp_path: Path, suffix: str):
    if suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    out = tmp_path / f"svm{suffix}"
    export(model, out, "f32", None, crops)
    np.testing.assert_allclose(run_file(out, crops, "f32"), expected_scores(model, pooled(model, crops)), atol=1e-4)


def test_a_finished_run_is_not_done_again(folder: Path, capsys: pytest.CaptureFixture[str]):
    file = folder / "run" / "model.safetensors"
    before = file.stat().st_mtime_ns, file.read_bytes()
    shutil.move(folder / "run" / "cache", folder / "kept")
    try:
        assert train(folder, folder / "run", *SHARP) == 0
        assert f"{folder / 'run'} holds this run already, finished" in capsys.readouterr().err
        assert (file.stat().st_mtime_ns, file.read_bytes()) == before and not (folder / "run" / "cache").exists()
        assert train(folder, folder / "run", "c=0.1", "--quiet") == 1
        assert "holds a run with c = 1.0, not 0.1" in capsys.readouterr().err
        assert read_config("svm", folder / "run" / "config.toml", []) == read_config("svm", folder / "svm.toml", SHARP)
    finally:
        shutil.move(folder / "kept", folder / "run" / "cache")


def test_the_classes_of_ilsvrc_and_a_shared_cache(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "det.toml").write_text(
        f'model = "{folder / "start.safetensors"}"\ndata = ["samples"]\n', encoding="utf-8"
    )
    rows = []
    rng = np.random.default_rng(1)
    for path in sorted(SAMPLES.glob("*.jpg")):
        height, width = read_image(path).shape[:2]
        rows.append(PictureProposals(path.name, width, height, some_proposals(np.zeros((0, 4)), width, height, rng)))
    write_store(tmp_path / "boxes.parquet", rows, {})
    extra = f"proposals={tmp_path / 'boxes.parquet'}", f"cache={tmp_path / 'shared'}", "most_background=4"
    config = "--config", str(tmp_path / "det.toml")
    assert main(["svm", *config, "--out", str(tmp_path / "a"), *extra]) == 0
    told = capsys.readouterr().err
    made = find_model(str(tmp_path / "a"))
    assert (made.outputs, made.classes, made.class_names, made.head) == ("det", 201, (), "svm")
    trained = load_weights(made).bias(HEAD)[1:] > -100
    assert 5 < trained.sum() < 30 and f"{trained.sum()} of 200 classes have an SVM" in told
    image = read_image(SAMPLES / "dog.jpg")[:SIZE, :SIZE]
    scores = OpenVinoClassifier(made, "int8")(image[None].copy())
    assert (scores[0, 1:][~trained] < 1e-6).all() and (scores[0, 1:][trained] > 1e-6).all()
    before = (tmp_path / "shared" / "cache.json").stat().st_mtime_ns
    assert main(["svm", *config, "--out", str(tmp_path / "b"), *extra, "c=0.01", "--quiet"]) == 0
    assert (tmp_path / "shared" / "cache.json").stat().st_mtime_ns == before
    assert not np.array_equal(
        load_weights(find_model(str(tmp_path / "b"))).kernel(HEAD), load_weights(made).kernel(HEAD)
    )


def small_source() -> tuple[Source, RegionPool]:
    """One picture: an object of class 2, a crowd, one that cannot be told, one of no class; a proposal of each kind."""
    truth = read_dataset(SAMPLES / "annotations.json").select([0, 1])
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]], float)
    fields: dict[str, Any] = {
        "pictures": np.array([1] * 4),
        "labels": np.array([1, 1, 1, 1]),
        "boxes": boxes,
        "difficult": np.zeros(4, bool),
        "crowd": np.array([False, True, False, False]),
        "areas": np.full(4, 100.0),
    }
    truth = replace(truth, **fields)
    known = np.ones((2, 3), bool)
    known[1] = [True, False, True]
    source = Source(truth, np.array([2, 2, IGNORED, 0]), known, True)
    found = Proposals(boxes.astype(np.float32) + np.float32(1), np.zeros(4), np.ones(4))
    return source, build_pool([source], ("a", "b"), lambda path: found, PoolOptions())


class Kept:
    """A cache of features that say which row they are of."""

    def __init__(self, rows: int, unread: int = 0) -> None:
        self.features = np.arange(rows, dtype=np.float16)[:, None, None, None].repeat(3, axis=1)
        self.scores = np.ones((rows, 3), np.float16)
        self.scores[:unread] = 0


def test_what_a_picture_gives(folder: Path):
    source, pool = small_source()
    examples = head_examples(pool, [source], Kept(len(pool)))  # type: ignore[arg-type]
    first, second = examples.pictures
    assert len(first.truth_boxes) == 0 and not first.labels.any() and first.known.tolist() == [True, True]
    assert second.labels.tolist() == [2, 0, 0, 0] and second.known.tolist() == [False, True]
    assert second.boxes[:, 0].tolist() == [0, 60, 1, 61]  # what lies on a crowd, or on who knows what, is no region
    assert second.truth_labels.tolist() == [2, AMBIGUOUS, AMBIGUOUS] and second.truth_boxes[:, 0].tolist() == [
        0,
        20,
        40,
    ]
    assert examples.of(second.rows)[:, 0].tolist() == [4, 5, 6, 7] and examples.of(second.rows).shape == (4, 3)
    left = head_examples(pool, [source], Kept(len(pool), unread=4)).pictures  # type: ignore[arg-type]
    assert len(left) == 1 and left[0].labels.tolist() == [2, 0, 0, 0]


def test_metadata_comes_back_and_quantizing_keeps_it(model: Model, crops: np.ndarray, tmp_path: Path):
    arrays = dict(load_weights(model).arrays)
    arrays["bbox.weight"], arrays["bbox.bias"] = np.ones((12, LENGTH), np.float16), np.ones(12, np.float32)
    settings = SMALL | {"classes": 4, "class_names": NAMES}
    made = save_weights(tmp_path / "both.safetensors", arrays, Spec(**settings, head="svm"))
    assert made.has_box_regression and made.head == "svm" and find_model(made.file) == made
    (tmp_path / "int8.safetensors").write_bytes(quantized_file(made, crops[:4], {}))
    again = find_model(str(tmp_path / "int8.safetensors"))
    assert replace(again, file=made.file, name=made.name, about=made.about) == made
    load_weights(again)
    plain = save_weights(tmp_path / "plain.safetensors", load_weights(model).arrays, Spec(**settings))
    assert (plain.head, plain.has_box_regression) == ("softmax", False) and find_model(plain.file) == plain
    arrays["bbox.weight"] = arrays["bbox.weight"][:8]
    with pytest.raises(ValueError, match=r"bbox\.weight has shape \[8, 256\], googlenet .*needs \[12, 256\]"):
        save_weights(tmp_path / "bad.safetensors", arrays, Spec(**settings))
    del arrays["bbox.weight"]
    assert not save_weights(tmp_path / "no_weight.safetensors", arrays, Spec(**settings)).has_box_regression


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"head": "svms"}, "head must be softmax or svm, got 'svms'"),
        ({"head": "svm", "sharpness": 2.0}, "with sharpness 0"),
        ({"head": "svm", "classes": 1000, "class_names": ()}, "SVMs are of background and classes"),
        (
            {"has_box_regression": True, "head": "softmax", "classes": 1000, "class_names": ()},
            "a box regression is of detection classes",
        ),
    ],
)
def test_models_that_make_no_sense(model: Model, fields: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        replace(model, **fields)


def test_scores_of_two_kinds_are_not_averaged(folder: Path, model: Model, tmp_path: Path):
    arrays = load_weights(model).arrays
    other = save_weights(
        tmp_path / "soft.safetensors",
        arrays,
        Spec(**SMALL, classes=4, class_names=NAMES),
    )
    with pytest.raises(
        ValueError, match="soft has softmax scores, model svm scores: different kinds of scores cannot be averaged"
    ):
        Detector(DetectOptions(model=str(folder / "run"), ensemble=other.file))
    assert len(Detector(DetectOptions(model=model.file, ensemble=f"{model.file}@75")).members) == 2


@pytest.mark.parametrize(
    ("stage", "extra", "status", "told"),
    [
        ("svm", ["data=[]"], 1, "data names no data set to train on"),
        ("svm", ["most_background=-1"], 1, "most_background must be at least 0, got -1"),
        ("svm", ["c=0.0"], 1, "c must be at least 1e-06, got 0"),
        ("svm", ["steps=5"], 1, "unknown key 'steps'"),
        ("svm", ["classes=voc"], 1, "classes must be one of det, own, got 'voc'"),
        ("bbox", ["ridge=0"], 1, "ridge must be at least 1e-06, got 0"),
        ("bbox", ['partial=["x"]'], 1, "partial names 'x', which data does not"),
        (
            "bbox",
            [],
            1,
            "start.safetensors: box regression goes with a classifier of background and the 3 classes, which",
        ),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    extra: list[str],
    status: int,
    told: str,
):
    found = main([stage, "--config", str(folder / "svm.toml"), "--out", str(tmp_path / "run"), *extra])
    error = capsys.readouterr().err
    assert (found, error.count("\n"), told in error) == (status, 1, True), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("stage", "kind"), [("svm", SvmOptions), ("bbox", BboxOptions)])
def test_the_configurations_are_the_defaults_which_are_r_cnn_s(stage: str, kind: type[SvmOptions | BboxOptions]):
    options = read_config(stage, SAMPLES.parent / "configs" / f"voc_{stage}.toml", [])
    own = {field.name: field.default for field in fields(kind) if field.name not in RegionOptions.__dataclass_fields__}
    assert {key: getattr(options, key) for key in own} == own
    assert options.most_background > 0  # not R-CNN's: the file says so


def test_fine_tuning_does_not_start_from_svms(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "finetune.toml"
    text = (folder / "svm.toml").read_text(encoding="utf-8").replace('cut_precision = "f32"', "steps = 1")
    path.write_text(text, encoding="utf-8")
    extra = (f"model={folder / 'run'}", "--quiet")
    assert main(["finetune", "--config", str(path), "--out", str(tmp_path / "run"), *extra]) == 1
    error = capsys.readouterr().err
    assert f"{folder / 'run'}: its classifier is SVMs" in error and error.count("\n") == 1
    assert "start from the finetuned model that the SVMs were trained on" in error
    assert not (tmp_path / "run").exists()
