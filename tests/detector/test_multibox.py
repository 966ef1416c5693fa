"""MultiBox at work: its file, its network in two frameworks, and the command that runs it."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from detector.cli.detect import main
from detector.datasets.read import read_dataset
from detector.detector import Detector
from detector.model import Model, Spec, file_digest, find_model
from detector.multibox import (
    MULTIBOX_FILE,
    MultiBox,
    MultiBoxWeights,
    load_multibox,
    save_multibox,
    shipped_multibox,
    stretched,
)
from detector.networks.googlenet import googlenet
from detector.networks.layers import cut_after
from detector.networks.multibox_heads import MultiBoxHeads
from detector.networks.torch_module import fold, load_into, torch_network, training_network
from detector.options import DetectOptions
from detector.samples import sample_path, samples_folder
from detector.weights import load_weights, save_weights
from proposals.boxes import iou
from proposals.images import read_image
from proposals.merging import NEAR_DUPLICATE, objectness
from proposals.multibox.decode import NMS, decode_proposals
from proposals.multibox.priors import grid_priors
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH

SIZE = 96
FINE, COARSE = "inception_3a", "inception_4d"  # 64 channels on 12 x 12, 136 on 6 x 6
FINE_SHAPES = np.array([[0.05, 0.07], [0.1, 0.1]], np.float32)
COARSE_SHAPES = np.array([[0.3, 0.2], [0.3, 0.6], [0.8, 0.8]], np.float32)
PRIORS = 12 * 12 * 2 + 6 * 6 * 3
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A GoogLeNet of a quarter of the width with random weights."""
    network = training_network(googlenet(201, "batch", 0.25), "none", 0.0, 3)
    path = tmp_path_factory.mktemp("trunk") / "small.safetensors"
    return save_weights(
        path,
        fold(network),
        Spec(network="googlenet", size=SIZE, mean=128.0, scale=64.0, width=0.25, norm="batch", classes=201),
    )


@pytest.fixture(scope="module")
def heads() -> MultiBoxHeads:
    """Heads with random weights, whose outputs differ from place to place."""
    made = MultiBoxHeads((64, 136), FINE_SHAPES, COARSE_SHAPES, mixed=16, seed=4)
    generator = torch.Generator().manual_seed(5)
    for output in (made.fine_outputs, made.coarse_outputs):
        torch.nn.init.normal_(output.weight, std=0.3, generator=generator)
    return made


@pytest.fixture(scope="module")
def run(trunk: Model, heads: MultiBoxHeads, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that wrote `heads`."""
    folder = tmp_path_factory.mktemp("run")
    save_multibox(folder / MULTIBOX_FILE, heads.arrays(), trunk, COARSE, FINE)
    return folder


@pytest.fixture(scope="module")
def weights(run: Path) -> MultiBoxWeights:
    return load_multibox(run)


@pytest.fixture(scope="module")
def multibox(weights: MultiBoxWeights) -> MultiBox:
    return MultiBox(weights, "f32")


def dog() -> np.ndarray:
    return read_image(sample_path("dog"))


def test_the_file_gives_back_what_was_saved(
    trunk: Model, heads: MultiBoxHeads, run: Path, weights: MultiBoxWeights
) -> None:
    assert (weights.trunk, weights.fine, weights.frozen) == (replace(trunk, file=weights.trunk.file), FINE, COARSE)
    assert Path(weights.trunk.file).samefile(trunk.file) and weights.file == str(run / MULTIBOX_FILE)
    assert weights.cuts == (cut_after(trunk.layers, FINE), cut_after(trunk.layers, COARSE))
    wanted = heads.arrays()
    assert weights.arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        assert weights.arrays[name].dtype == np.float32
        if name.endswith("shapes"):
            np.testing.assert_array_equal(weights.arrays[name], array)  # float32
        np.testing.assert_allclose(weights.arrays[name], array, rtol=1e-3, atol=1e-6)  # float16
    assert load_multibox(run / MULTIBOX_FILE) is weights  # it is read once
    again = run / "again.safetensors"
    save_multibox(again, wanted, trunk, COARSE, FINE)
    assert again.read_bytes() == (run / MULTIBOX_FILE).read_bytes()
    again.unlink()


def test_a_shipped_trunk_is_named_and_another_is_a_path(heads: MultiBoxHeads, tmp_path: Path, trunk: Model) -> None:
    """Wherever the package lies, the shipped trunk is found; at the size that it was trained with."""
    shipped = find_model("inception_v3@128")
    save_multibox(tmp_path / "a.safetensors", heads.arrays(), shipped, "Mixed_6e", "Mixed_5d")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata == {
        "trunk": "inception_v3",
        "trunk_sha256": file_digest(shipped),
        "frozen": "Mixed_6e",
        "fine": "Mixed_5d",
        "size": "128",
    }
    assert load_multibox(tmp_path / "a.safetensors").trunk == shipped
    homonym = tmp_path / "inception_v3.safetensors"  # of the user's, with the name of ours
    homonym.write_bytes(Path(trunk.file).read_bytes())
    save_multibox(tmp_path / "b.safetensors", heads.arrays(), find_model(str(homonym)), COARSE, FINE)
    assert Path(load_multibox(tmp_path / "b.safetensors").trunk.file).samefile(homonym)


Change = Callable[[Arrays, dict[str, str]], object]


def damaged(run: Path, target: Path, change: Change) -> Path:
    """Write the file of `run` to `target` with its arrays or metadata changed."""
    arrays = load_file(run / MULTIBOX_FILE)
    with safe_open(run / MULTIBOX_FILE, framework="numpy") as file:
        metadata = file.metadata()
    change(arrays, metadata)
    save_file(arrays, target, metadata)
    return target


def nan(arrays: Arrays, metadata: dict[str, str]) -> None:
    arrays["fine_mixed.bias"][1] = np.nan


def cut(name: str) -> Change:
    """Return a change that takes the first row of an array."""
    return lambda arrays, metadata: arrays.update({name: np.ascontiguousarray(arrays[name][1:])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: a.pop("coarse_mixed.weight"), "lacks 'coarse_mixed.weight'; not a weights file of MultiBox"),
        (lambda a, m: a.pop("fine_shapes"), "lacks 'fine_shapes'; not a weights file of MultiBox"),
        (lambda a, m: m.pop("frozen"), "lacks 'frozen'; not a weights file of MultiBox"),
        (lambda a, m: m.pop("fine"), "lacks 'fine'; not a weights file of MultiBox"),
        (nan, "has a value that is not a finite number; train it again"),
        (cut("fine_shapes"), "fine_outputs.weight has shape [10, 16, 1, 1], not [5, 16, 1, 1]; train it again"),
        (cut("coarse_outputs.bias"), "coarse_outputs.bias has shape [14], not [15]; train it again"),
        (cut("coarse_reduce.bias"), "coarse_reduce.bias has shape [15], not [16]; train it again"),
        (cut("coarse_mixed.bias"), "coarse_mixed.weight has shape [24, 16, 3, 3], not [23, 16, 3, 3]; train it again"),
        (cut("fine_reduce.weight"), "fine_reduce.weight has shape [15, 64, 1, 1], not [16, 64, 1, 1]; train it again"),
        (lambda a, m: m.update(size="big"), "the size of its metadata is no number; train it again"),
        (lambda a, m: m.update(trunk_sha256="0" * 64), "small.safetensors; train it again, or take that file"),
        (lambda a, m: m.update(fine=COARSE), f"layer '{COARSE}' of the fine grid does not come before '{COARSE}'"),
        (
            lambda a, m: m.update(fine="inception_5a"),
            f"layer 'inception_5a' of the fine grid does not come before '{COARSE}'",
        ),
        (lambda a, m: m.update(fine="inception_3b"), "the heads take fine features of 64 channels, got 120"),
        (lambda a, m: m.update(frozen="inception_5a"), "the heads take coarse features of 136 channels, got 208"),
    ],
)
def test_a_damaged_or_unfitting_file_is_refused(run: Path, tmp_path: Path, change: Change, message: str) -> None:
    path = damaged(run, tmp_path / "bad.safetensors", change)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        MultiBox(load_multibox(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_files_that_are_none(run: Path, tmp_path: Path, trunk: Model) -> None:
    content = (run / MULTIBOX_FILE).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.safetensors: not a safetensors file, or a truncated one"):
        load_multibox(cut)
    with pytest.raises(FileNotFoundError, match=r"multibox.safetensors: no such file; python -m detector.train"):
        load_multibox(tmp_path)  # a run that has not ended
    with pytest.raises(ValueError, match="lacks 'trunk'; not a weights file of MultiBox"):
        load_multibox(trunk.file)


def test_a_trunk_that_is_gone_or_another_one_now(trunk: Model, heads: MultiBoxHeads, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(trunk.file).read_bytes())
    for name in ("m", "n", "o"):  # a file is read once, so that each look is at another one
        save_multibox(tmp_path / f"{name}.safetensors", heads.arrays(), find_model(str(other)), COARSE, FINE)
    load_multibox(tmp_path / "m.safetensors")
    arrays = dict(load_weights(trunk).arrays)
    arrays["conv1/7x7_s2.bias"] = arrays["conv1/7x7_s2.bias"] + 1
    save_weights(
        other, arrays, Spec(network="googlenet", size=SIZE, mean=128, scale=64, width=0.25, norm="batch", classes=201)
    )
    with pytest.raises(ValueError, match=r"was trained on another .*other.safetensors"):
        load_multibox(tmp_path / "n.safetensors")
    other.unlink()
    with pytest.raises(FileNotFoundError, match=r"other.safetensors: no model of that name and no file"):
        load_multibox(tmp_path / "o.safetensors")


def test_a_precision_that_the_trunk_has_not(weights: MultiBoxWeights) -> None:
    with pytest.raises(ValueError, match="holds no 8-bit intervals"):
        MultiBox(weights, "int8")


@pytest.mark.parametrize("size", [SIZE, 104])  # 12 and 6 cells, and 13 and 6, no multiple
def test_openvino_equals_torch(weights: MultiBoxWeights, size: int) -> None:
    """The trunk and the heads in torch against the one graph of both; the priors stand on the cells that there are."""
    trunk = replace(weights.trunk, size=size)
    multibox = MultiBox(replace(weights, trunk=trunk), "f32")
    first, last = weights.cuts
    part, whole = (torch_network(trunk.layers[:cut]).eval() for cut in (first, last))
    for network in (part, whole):
        load_into(network, load_weights(trunk))
    heads = MultiBoxHeads((64, 136), FINE_SHAPES, COARSE_SHAPES, mixed=16)
    heads.load_arrays(weights.arrays)
    seen = []
    for seed in range(2):
        square = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
        with torch.inference_mode():
            x = (torch.from_numpy(square[None]).permute(0, 3, 1, 2).float() - trunk.mean) / trunk.scale
            fine, coarse = part(x), whole(x)
            locations, logits = heads(fine, coarse)
        found = multibox.predict(square)
        seen.append(found[1])
        np.testing.assert_allclose(found[0], locations[0].numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found[1], logits[0].numpy(), rtol=1e-3, atol=1e-3)
    grids = [(int(f.shape[2]), int(f.shape[3])) for f in (fine, coarse)]
    assert grids == ([(12, 12), (6, 6)] if size == SIZE else [(13, 13), (6, 6)])
    np.testing.assert_array_equal(multibox.priors, grid_priors(grids, [FINE_SHAPES, COARSE_SHAPES]))
    assert np.abs(seen[0] - seen[1]).max() > 0.01  # results are copies, and depend on the picture


def test_the_proposals_of_an_image(weights: MultiBoxWeights, multibox: MultiBox) -> None:
    image = dog()
    found = MultiBox(weights, "f32", top=300)(image)
    priors = grid_priors([(12, 12), (6, 6)], [FINE_SHAPES, COARSE_SHAPES])
    assert len(priors) == PRIORS
    square = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(stretched(image, SIZE), square)
    wanted = decode_proposals(*multibox.predict(square), priors, 768, 576, 300)
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    assert 20 < len(found) <= 300 and (found.sources == MULTIBOX).all()
    assert (found.boxes >= 0).all() and (found.boxes <= [768, 576, 768, 576]).all()
    assert (found.scores > 0).all() and (found.scores < 1).all() and found.scores[0] > found.scores[-1]
    np.testing.assert_array_equal(found.objectness, objectness(found.boxes, found))
    overlaps = iou(found.boxes, found.boxes)[~np.eye(len(found), dtype=bool)]
    assert 0.3 < overlaps.max() <= NMS + 1e-6
    few = pickle.loads(pickle.dumps(MultiBox(weights, "f32", top=7, threads=1)))
    np.testing.assert_array_equal(few(image).boxes, found.boxes[:7])


def test_the_key_is_all_that_decides(weights: MultiBoxWeights, multibox: MultiBox) -> None:
    assert multibox.key == {
        "multibox": 1,
        "multibox_sha256": weights.sha256,
        "multibox_boxes": 200,
        "multibox_precision": "f32",
    }
    assert len(weights.sha256) == 64 and MultiBox(weights, "f32", threads=1).key == multibox.key
    assert MultiBox(weights, "bf16").key != multibox.key != MultiBox(weights, "f32", top=7).key


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (300, 2), (96, 96), (40, 60)])
def test_pictures_of_any_shape(multibox: MultiBox, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = multibox(image)
    height, width = shape
    assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
    assert (found.boxes[:, 2:] - found.boxes[:, :2] >= 1 - 1e-4).all()


def test_the_weights_are_read_and_the_trunk_is_hashed_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damaged(run, tmp_path / "same.safetensors", lambda arrays, metadata: None)
    hashed: list[str] = []
    monkeypatch.setattr(
        "detector.multibox.file_digest", lambda model: (hashed.append(model.file), file_digest(model))[1]
    )
    load_multibox(path)  # as eval.map does for its key
    MultiBox(load_multibox(path), "f32")(small_dog())
    assert len(hashed) == 1


def test_what_is_no_picture_is_refused(multibox: MultiBox) -> None:
    with pytest.raises(ValueError, match="an image must be uint8 RGB"):
        multibox(np.zeros((10, 10), np.uint8))


def test_describe_says_what_runs(weights: MultiBoxWeights) -> None:
    few = MultiBox(weights, "f32", top=50)
    assert few.describe() == f"MultiBox {weights.file} (50 boxes, 96 px, OpenVINO on the CPU, f32)"
    assert MultiBox(load_multibox()).describe().startswith("MultiBox (200 boxes, 448 px, OpenVINO on the CPU, ")


def options(trunk: Model, run: Path, **changes: object) -> DetectOptions:
    values: dict[str, object] = {"model": trunk.file, "multibox": str(run), "precision": "f32"}
    return DetectOptions(**(values | changes))  # type: ignore[arg-type]


def small_dog() -> np.ndarray:
    return np.ascontiguousarray(dog()[::3, ::3])


def test_the_detector_proposes_from_both(trunk: Model, run: Path) -> None:
    """With 200 learned boxes beside all, or the best, of Selective Search."""
    image = small_dog()
    searched = Detector(options(trunk, run, proposals="ss", multibox=""))
    learned = Detector(options(trunk, run, proposals="multibox"))
    both = Detector(options(trunk, run, proposals="both"))
    ss, mb, union = (detector.propose(image) for detector in (searched, learned, both))
    assert set(ss.sources) == {SELECTIVE_SEARCH} and set(mb.sources) == {MULTIBOX}
    assert {SELECTIVE_SEARCH, MULTIBOX} <= set(union.sources) <= {SELECTIVE_SEARCH, MULTIBOX, BOTH}
    assert max(len(ss), len(mb)) < len(union) <= len(ss) + len(mb)
    for found in (ss, mb):  # none is lost but to a near-duplicate
        assert (iou(found.boxes, union.boxes).max(axis=1) >= np.float32(NEAR_DUPLICATE) - 1e-6).all()
    assert "Selective Search" in searched.describe() and "MultiBox" not in searched.describe()
    assert learned.describe().startswith(f"MultiBox {run / MULTIBOX_FILE} (200 boxes, 96 px,")
    assert re.match(r"Selective Search, fast, superpixel scale 2; MultiBox \S+ \(200 boxes", both.describe())
    ends = "; scores weighed by objectness to the power 0.5; boxes vote from IoU 0.4"
    assert both.describe().endswith(ends) and learned.describe().endswith(ends)
    assert "objectness" not in searched.describe() and searched.describe().endswith("; boxes vote from IoU 0.4")
    few = Detector(options(trunk, run, proposals="both", ss_boxes=20, multibox_boxes=10)).propose(image)
    assert len(few) <= 30 and ((few.sources & SELECTIVE_SEARCH) > 0).sum() <= 20
    assert 1 <= (few.sources == MULTIBOX).sum() <= 10
    np.testing.assert_array_equal(
        Detector(options(trunk, run, proposals="ss", multibox="", ss_boxes=20)).propose(image).boxes, ss.boxes[:20]
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "dog.png"
    cv2.imwrite(str(path), cv2.cvtColor(small_dog(), cv2.COLOR_RGB2BGR))
    return path


def detect(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as left:
        assert isinstance(left.code, int)
        status = left.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("proposals", "wanted"),
    [("multibox", {"multibox"}), ("both", {"selective search", "multibox", "both"}), ("ss", {"selective search"})],
)
def test_the_command_says_where_boxes_come_from(
    trunk: Model,
    run: Path,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    proposals: str,
    wanted: set[str],
) -> None:
    status, out, err = detect(
        capsys,
        picture,
        "--model",
        trunk.file,
        "--proposals",
        proposals,
        *(() if proposals == "ss" else ("--multibox", run)),
        "--objectness",  # MultiBox of random weights: its confidence would fill the first places
        "0",
        "--threshold",
        "0",
        "--top",
        "3",
        "--format",
        "json",
        "--verbose",
    )
    assert status == 0
    sources = {found["source"] for found in json.loads(out)["detections"]}
    assert sources and sources <= wanted and (proposals != "both" or {"selective search", "multibox"} <= sources)
    assert (f"MultiBox {run / MULTIBOX_FILE} (200 boxes, 96 px" in err) == (proposals != "ss")


@pytest.mark.parametrize("proposals", ["both", "multibox"])
def test_weights_that_are_missing_or_damaged_are_one_line(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], proposals: str
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((run / MULTIBOX_FILE).read_bytes()[:1000])
    for path, message in (
        (tmp_path / "none.safetensors", "no such file; python -m detector.train multibox makes one"),
        (cut, "not a safetensors file, or a truncated one"),
        (damaged(run, tmp_path / "nan.safetensors", nan), "not a finite number; train it again"),
    ):
        status, out, err = detect(capsys, picture, "--proposals", proposals, "--multibox", path, "--no-save")
        assert (status, out) == (2, "")
        assert err.startswith("detect: error: ") and str(path) in err and message in err and err.count("\n") == 1


def test_without_weights_of_the_users_those_that_ship_are_taken(
    picture: Path, trunk: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none ship, that is one line."""
    status, out, err = detect(
        capsys, picture, "--model", trunk.file, "--proposals", "multibox", "--threshold", "0.9", "--format", "json"
    )
    if shipped_multibox() is None:
        assert (status, out) == (2, "")
        assert err == (
            "detect: error: proposals 'multibox': no MultiBox weights are installed; use --proposals ss "
            "(see detect --help)\n"
        )
    else:
        assert status == 0 and json.loads(out)["picture"]


def test_wrong_heads_end_the_command_with_one_line(
    run: Path, picture: Path, tmp_path: Path, trunk: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(run, tmp_path / "bad.safetensors", lambda a, m: m.update(fine="inception_3b"))
    status, out, err = detect(
        capsys,
        picture,
        "--model",
        trunk.file,
        "--proposals",
        "multibox",
        "--multibox",
        path,
        "--no-save",
        "--quiet",
        "--format",
        "json",
    )
    assert status in (1, 2) and out == ""
    assert err.count("\n") == 1 and "the heads take fine features" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multibox_boxes": 0}, "multibox_boxes must lie in 1..100000, got 0"),
        ({"ss_boxes": -1}, "ss_boxes must lie in 0..100000, got -1"),
        ({"proposals": ""}, "proposals must be one of ss, multibox, both, FILE, got ''"),
    ],
)
def test_options_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DetectOptions(**change)  # type: ignore[arg-type]


@pytest.mark.skipif(shipped_multibox() is None, reason="no MultiBox weights ship with this version")
def test_the_shipped_boxes_cover_a_sample() -> None:
    """The cat, which fills its picture."""
    path = shipped_multibox()
    assert path is not None
    found = MultiBox(load_multibox(path))(read_image(sample_path("chelsea")))
    assert 50 < len(found) <= 200
    truth = read_dataset(samples_folder() / "annotations.json")
    cat = truth.boxes[truth.of_picture(truth.names.index("chelsea"))].astype(np.float32)
    assert iou(cat, found.boxes).max(axis=1).min() > 0.5
