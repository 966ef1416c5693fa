"""Classifiers of others in ONNX files: normalisation, softmax and batches by hand, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector.classes import leaf_matrix
from detector.runtimes.onnx import IMAGENET_MEAN, IMAGENET_STD, OnnxClassifier
from detector.samples import samples_folder
from detector.training.classifier import open_teacher
from eval.classification import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def linear(path: Path, batch: int | str = "batch", side: int | str = 32, outputs: int = 1000, seed: int = 0) -> Path:
    """Write a network that multiplies the mean colour by a matrix; return its path."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(3, outputs)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[2, 3], keepdims=0),
        onnx.helper.make_node("MatMul", ["colour", "matrix"], ["logits"]),
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "linear",
        [onnx.helper.make_tensor_value_info("pixels", float32, [batch, 3, side, side])],
        [onnx.helper.make_tensor_value_info("logits", float32, [batch, outputs])],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    np.save(path.with_suffix(".npy"), matrix)
    return path


def crops_of(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def by_hand(path: Path, crops: np.ndarray) -> np.ndarray:
    colour = (crops.astype(np.float64).mean(axis=(1, 2)) - IMAGENET_MEAN) / IMAGENET_STD
    powers = np.exp(colour @ np.load(path.with_suffix(".npy")).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_scores_by_hand_whatever_the_batch(tmp_path: Path, batch: int | str):
    path, crops = linear(tmp_path / "net.onnx", batch), crops_of(7)
    network = OnnxClassifier(path, batch_size=3)
    np.testing.assert_allclose(network(crops), by_hand(path, crops), rtol=1e-4)
    assert network(crops[:0]).shape == (0, 1000)
    assert network.model.size == 32 and "net.onnx at 32 px" in network.describe()
    np.testing.assert_array_equal(OnnxClassifier(path, classes="det")(crops), network(crops) @ leaf_matrix())


def test_crops_of_another_size_are_resized_for_a_file_of_one_size_alone(tmp_path: Path):
    grey = np.full((2, 48, 48, 3), 90, np.uint8)
    for side, size in ((32, 48), ("side", 48)):
        path = linear(tmp_path / f"{side}.onnx", side=side)
        network = OnnxClassifier(path, size)
        assert network.model.size == size
        np.testing.assert_allclose(network(grey), by_hand(path, grey), rtol=1e-4)
    assert OnnxClassifier(path).model.size == 224


def test_it_is_a_teacher(tmp_path: Path):
    path, crops = linear(tmp_path / "net.onnx"), crops_of(3)
    np.testing.assert_allclose(open_teacher(str(path), 32)(crops), by_hand(path, crops), rtol=1e-4)


def test_files_that_are_none(tmp_path: Path):
    text = tmp_path / "text.onnx"
    text.write_text("no network")
    with pytest.raises(ValueError, match=r"text\.onnx: onnxruntime cannot read it"):
        OnnxClassifier(text)
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        OnnxClassifier(tmp_path / "none.onnx")
    few = OnnxClassifier(linear(tmp_path / "few.onnx", outputs=10))
    with pytest.raises(ValueError, match=r"few\.onnx: gives \[10\] numbers, not ImageNet's 1,000 classes"):
        few(crops_of(1))


def test_eval_classification_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = linear(tmp_path / "net.onnx")
    labels = tmp_path / "list.txt"
    names = sorted(path.name for path in samples_folder().glob("*.jpg"))[:3]
    labels.write_text("".join(f"{name} {number}\n" for number, name in enumerate(names, start=281)))
    command = [str(labels), "--images", str(samples_folder()), "--model", str(path), "--quiet"]
    assert main(command) == 0
    assert "3 pictures, 1,000 classes" in capsys.readouterr().out
    assert main([*command, "--model", str(tmp_path / "none.onnx")]) == 2
    assert "none.onnx: no such file" in capsys.readouterr().err
