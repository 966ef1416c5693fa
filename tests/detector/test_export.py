"""Exported networks: what is written runs as our runtime does, and nothing is left of what does not."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from detector import export
from detector.agreement import Agreement, agreement
from detector.export import check, main, run_file
from detector.model import Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.layers import convolutions
from detector.runtimes.compiled import core
from detector.weights import save_weights

SIZE = 80
needs_onnx = pytest.mark.skipif(
    any(export.find_spec(name) is None for name in export.PACKAGES), reason="the extra `export` is not installed"
)


def small_googlenet(path, classes, norm="lrn", ranges=False):
    """A GoogLeNet of a tenth of the width with random weights."""
    rng = np.random.default_rng(5)
    arrays = {}
    for c in convolutions(googlenet(classes, norm, 0.1)):
        spread = np.sqrt(2 / (c.inputs * c.kernel[0] * c.kernel[1]))
        arrays[f"{c.name}.weight"] = (spread * rng.standard_normal((c.outputs, c.inputs, *c.kernel))).astype(np.float32)
        arrays[f"{c.name}.bias"] = (0.05 * rng.standard_normal(c.outputs)).astype(np.float32)
        if ranges and c.relu:
            arrays[f"{c.name}.range"] = np.array([0, 6], np.float32)
    return save_weights(
        path, arrays, Spec(network="googlenet", size=SIZE, mean=117, scale=60, classes=classes, width=0.1, norm=norm)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def leaves(folder):
    """The model whose 1,000 outputs are summed into classes."""
    return small_googlenet(folder / "leaves.safetensors", 1000)


@pytest.fixture(scope="module")
def own(folder):
    """The model that has background and the 200 classes itself, and intervals."""
    return small_googlenet(folder / "own.safetensors", 201, "batch", ranges=True)


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(1).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)


@needs_onnx
def test_onnx_takes_any_batch_and_gives_the_same_scores(leaves, crops, tmp_path):
    import onnx
    import onnxruntime

    out = tmp_path / "a.onnx"
    result = export.export(leaves, out, "f32", None, crops)
    assert result.crops == 7 and result.largest < 1e-5
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    one, five = (session.run(None, {"crops": crops[:n]})[0] for n in (1, 5))
    assert one.shape == (1, 201) and five.shape == (5, 201)
    np.testing.assert_allclose(one[0], five[0], atol=1e-6)
    np.testing.assert_allclose(five.sum(axis=1), 1, atol=1e-5)
    proto = onnx.load(out)
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert about["network"] == "googlenet" and about["classes"].splitlines()[:2] == ["background", "accordion"]
    assert proto.opset_import[0].version >= 17
    assert str(export.__file__).encode() not in out.read_bytes()  # no folders of the machine that wrote it
    assert not [path for path in tmp_path.iterdir() if path != out]


@needs_onnx
def test_onnx_in_8_bits_stores_bytes_and_stays_close(own, crops, tmp_path):
    import onnx

    out = tmp_path / "a.onnx"
    result = export.export(own, out, "int8", None, crops)
    assert result.mean < 1e-3
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    n = len(list(convolutions(own.layers)))
    # input and all outputs but the classifier's; kernels besides
    assert kinds.count("QuantizeLinear") == n and kinds.count("DequantizeLinear") == 2 * n
    export.export(own, tmp_path / "f.onnx", "f32", None, crops)
    assert out.stat().st_size < 0.6 * (tmp_path / "f.onnx").stat().st_size


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_openvino_ir_takes_any_batch(own, crops, tmp_path, precision):
    out = tmp_path / "a.xml"
    result = export.export(own, out, precision, None, crops)
    assert result.top == 1 or precision != "f32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    np.testing.assert_allclose(run_file(out, crops[:1], precision)[0], run_file(out, crops, precision)[0], atol=1e-5)


def test_fixed_batch_is_fixed_in_the_file(leaves, crops, tmp_path):
    out = tmp_path / "a.xml"
    assert export.export(leaves, out, "f32", 4, crops).largest < 1e-5
    assert list(core().read_model(out).input(0).get_shape()) == [4, SIZE, SIZE, 3]


def test_bf16_weights_take_half_the_room(leaves, crops, tmp_path):
    sizes = []
    for precision in ("f32", "bf16"):
        export.export(leaves, tmp_path / "a.xml", precision)
        sizes.append((tmp_path / "a.bin").stat().st_size)
    assert 0.45 < sizes[1] / sizes[0] < 0.65


def test_what_differs_is_not_kept_and_the_old_file_stays(leaves, crops, tmp_path, monkeypatch):
    out = tmp_path / "a.xml"
    out.write_text("old")
    monkeypatch.setitem(export.TOLERANCES, "f32", export.Tolerance(-1, 1))
    with pytest.raises(ValueError, match=r"a\.xml: differs from our runtime beyond the tolerance of f32"):
        export.export(leaves, out, "f32", None, crops)
    assert out.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a.xml"]


def test_another_networks_file_fails_the_check(leaves, own, crops, tmp_path):
    out = tmp_path / "a.xml"
    export.export(own, out)
    with pytest.raises(ValueError, match="beyond the tolerance of f32"):
        check(export.compare(leaves, out, "f32", crops), out, "f32")
    with pytest.raises(ValueError, match=r"takes \[80, 80, 3\], the model's crops are \[96, 96, 3\]"):
        export.compare(replace(leaves, size=96), out, "f32", np.zeros((1, 96, 96, 3), np.uint8))


def test_agreement_by_hand():
    reference = np.array([[0.7, 0.3], [0.4, 0.6]], np.float32)
    found = np.array([[0.6, 0.4], [0.6, 0.4]], np.float32)
    result = agreement(found, reference)
    assert result == Agreement(2, 0.5, pytest.approx(0.15), pytest.approx(0.2))
    for bad in (found[:1], np.full((2, 2), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"shape|finite"):
            agreement(bad, reference)
    with pytest.raises(ValueError, match="no crops"):
        agreement(found[:0], reference[:0])


def test_the_command_writes_then_checks(leaves, tmp_path, capsys):
    out = tmp_path / "a.xml"
    assert main([leaves.file, "--out", str(out)]) == 0
    assert "wrote" in (said := capsys.readouterr().err) and "top class agrees on 100.0%" in said
    written = out.stat().st_mtime_ns
    assert main([leaves.file, "--out", str(out), "--check"]) == 0
    assert out.stat().st_mtime_ns == written and "wrote" not in capsys.readouterr().err
    out.write_text("<net/>")
    assert main([leaves.file, "--out", str(out), "--check"]) == 1
    assert "cannot be run" in capsys.readouterr().err
    assert main([leaves.file, "--out", str(tmp_path / "none.xml"), "--check"]) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["nothing", "--out", "{}/a.xml"], 1, "nothing: no model of that name and no file"),
        (["{model}", "--out", "{}/a.pt"], 2, r"must end in .onnx or .xml"),
        (["{model}", "--out", "{}/a.onnx", "--precision", "bf16"], 2, "for an .xml file only"),
        (["{model}", "--out", "{}/a.xml", "--precision", "int8"], 1, "make them with python -m detector.quantize"),
        (["{model}", "--out", "{}/no/a.xml"], 1, "is no folder; make it first"),
        (["{model}", "--out", "{}/folder.xml"], 1, "it is a folder"),
        (["{model}@3", "--out", "{}/a.xml"], 1, "crops must have"),
        (["torchvision_googlenet", "--out", "{}/a.xml"], 1, "give an .onnx file"),
    ],
)
def test_errors_are_one_line(leaves, tmp_path, capsys, arguments, status, line):
    (tmp_path / "folder.xml").mkdir()
    words = [word.replace("{model}", leaves.file).replace("{}", str(tmp_path)) for word in arguments]
    assert main(words) == status
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.xml"]


def test_wrong_batch_is_wrong_usage(leaves, tmp_path, capsys):
    for text in ("0", "-1", "many", "9999"):
        with pytest.raises(SystemExit) as stopped:
            main([leaves.file, "--out", str(tmp_path / "a.xml"), f"--batch={text}"])
        assert stopped.value.code == 2 and "--batch" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_cure(leaves, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main([leaves.file, "--out", str(tmp_path / "a.onnx")]) == 1
    said = capsys.readouterr().err
    assert "ONNX files need onnxscript" in said and "googlenet-rcnn[export]" in said and said.count("\n") == 1


def test_a_closed_folder_is_said_before_anything_is_computed(leaves, tmp_path, capsys, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr("proposals.files.os.access", lambda path, mode: False)  # a superuser may write anywhere
    assert main([leaves.file, "--out", str(closed / "a.xml")]) == 1
    assert "permission denied" in capsys.readouterr().err
    shutil.rmtree(closed)


def test_the_named_model_is_known():
    assert find_model("inception_v3").quantized
