from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import perfect, sample_data, small_detector, small_model

from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from eval.errors import analysis
from eval.map import main

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
LINES = "1 24 0.9 100 100 300 300\n"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of the three smallest samples that have objects."""
    return sample_data(tmp_path_factory.mktemp("few") / "data", 3)


@pytest.fixture(scope="module")
def found(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return its ground truth as predictions."""
    return perfect(few, tmp_path_factory.mktemp("found") / "perfect.txt")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments of a run of a small detector."""
    folder = tmp_path_factory.mktemp("detector")
    settings = small_detector(folder / "detect.toml", small_model(folder / "small.safetensors"))
    return ["--detect-config", settings, "--json", "--resamples", "0"]


def test_ground_truth_as_predictions_scores_one(
    few: Path, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data", str(few), "--predictions", str(found)]) == 0
    out, err = capsys.readouterr()
    assert "mAP                  100.00 %   95 % interval 100.00 .. 100.00" in out
    assert "of the 200 classes have no ground truth here" in out and "mAP over all 200" in out
    assert err == ""
    assert not list(tmp_path.iterdir())  # nothing is written unasked


@pytest.mark.parametrize("protocol", ["ilsvrc", "voc07", "voc10", "coco"])
def test_json_is_one_document_and_counts_are_right(
    protocol: str, few: Path, found: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = read_dataset(few)
    assert main(["--data", str(few), "--predictions", str(found), "--json", "--protocol", protocol, "--errors"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["protocol"] == protocol and document["mean_ap"] == pytest.approx(1)
    assert document["pictures"] == 3 and document["objects"] == len(truth) == document["predictions"]
    assert document["classes_present"] == len(np.unique(truth.labels)) == len(document["per_class"])
    assert document["mean_ap_all_classes"] == pytest.approx(document["classes_present"] / 200)
    assert all(kind["count"] == 0 for kinds in document["errors"].values() for kind in kinds.values())


@pytest.mark.parametrize(
    ("names", "protocol"),
    [(None, "ilsvrc"), (["zebra", "dog"], "coco"), (["cat", "dog"], "coco"), (["thing"], "coco")],
)
def test_the_protocol_follows_the_whole_list_of_classes(
    names: list[str] | None, protocol: str, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(few.read_text())
    if names:
        document["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        for annotation in document["annotations"]:
            annotation["category_id"] = 1
    data = tmp_path / "data.json"
    data.write_text(json.dumps(document))
    predictions = perfect(data, tmp_path / "perfect.txt")
    assert main(["--data", str(data), "--predictions", str(predictions), "--json", "--resamples", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"] == protocol


def test_another_iou_is_said(few: Path, found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--data", str(few), "--predictions", str(found), "--resamples", "0", "--iou", "0.75"]
    assert main(args) == 0
    assert "ILSVRC DET (devkit 2014), at IoU 0.75 on data.json" in capsys.readouterr().out
    assert main([*args, "--json", "--protocol", "coco"]) == 0
    assert json.loads(capsys.readouterr().out)["iou"] == 0.75


def test_classes_restrict_the_score(few: Path, found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = read_dataset(few)
    name = truth.class_names[int(truth.labels[0]) - 1]
    args = ["--data", str(few), "--predictions", str(found), "--json", "--resamples", "0"]
    assert main([*args, "--classes", name]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in document["per_class"]] == [name] and document["classes"] == 1
    assert document["objects"] == int((truth.labels == truth.labels[0]).sum())
    assert document["mean_ap_interval"] is None
    assert main([*args, "--classes", "dgo"]) == 2
    assert "did you mean 'dog'?" in capsys.readouterr().err


def test_beyond_many_predictions_fewer_resamples(
    few: Path, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.map.MANY", 3)
    twice = tmp_path / "twice.txt"
    twice.write_text(found.read_text() * 2)
    args = ["--data", str(few), "--predictions", str(twice), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["resamples"] == 200
    assert main([*args, "--resamples", "300"]) == 0
    assert json.loads(capsys.readouterr().out)["resamples"] == 300


def test_the_errors_are_analysed_once_for_table_and_report(
    few: Path, found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, analyse = [], analysis.analyse
    monkeypatch.setattr(analysis, "analyse", lambda *data, **how: calls.append(how) or analyse(*data, **how))
    report = tmp_path / "report.html"
    assert main(["--data", str(few), "--predictions", str(found), "--errors", "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    assert "missed: not found" in out and "data:image/jpeg" in report.read_text() and f"is in {report}" in err
    assert len(calls) == 1
    assert main(["--data", str(few), "--predictions", str(found), "--report", str(report)]) == 0
    assert "missed" not in capsys.readouterr().out and len(calls) == 2
    assert main(["--data", str(few), "--predictions", str(found)]) == 0
    assert len(calls) == 2


def test_a_run_is_not_taken_for_that_of_other_pictures_or_boxes(
    detector: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = sample_data(tmp_path / "data", 1)
    args = ["--data", str(data), *detector, "--errors"]
    assert main(args) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*args, "--iou", "0.3"]) == 0  # the predictions stay, what the analysis needs does not
    again = capsys.readouterr()
    assert "was made with other boxes or thresholds" in again.err
    assert "not found" in json.loads(again.out)["errors"]["missed"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out) == first
    picture = next(data.parent.glob("*.jpg"))
    other = next(p for p in samples_folder().glob("*.jpg") if p.name != picture.name)
    picture.write_bytes(other.read_bytes())
    document = json.loads(data.read_text())
    document["images"][0] |= {"width": 10_000, "height": 10_000}
    data.write_text(json.dumps(document))
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] != first["predictions"]


@pytest.mark.slow
def test_without_data_the_samples_are_scored_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report.html"
    assert main(["--split", "val", "--json", "--errors", "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["data"] == "the bundled samples" and document["pictures"] == 11 and document["objects"] == 32
    assert 0.4 < document["mean_ap"] < 0.9
    assert "no data set is given" in err and "--data FOLDER" in err and "inception_v3_det" in err
    missed = document["errors"]["missed"]
    assert set(missed) == {"no proposal", "suppressed", "misclassified", "badly localised", "below threshold"}
    assert "no data set" in document["notes"][0]
    found = sum(row["true_positives"] for row in document["per_class"])
    assert sum(kind["count"] for kind in missed.values()) == 32 - found
    page = report.read_text()
    assert "the bundled samples" in page and "data:image/jpeg" in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]  # nothing else is left behind


KILLED = """
import os, signal, sys
import eval.predictions.store as store
from detector.detector import Detector
from eval.map import main
store.PART_PICTURES = 2
trace, left = Detector.trace, list(range(4))
def traced(self, image, path=None):
    left.pop() if left else os.kill(os.getpid(), signal.SIGKILL)
    return trace(self, image, path=path)
Detector.trace = traced
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    detector: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of nine pictures four are on the disk, in two parts, when the fifth is begun."""
    data = sample_data(tmp_path / "data", 9)
    args = ["--data", str(data), *detector, "--errors", "--out"]
    out, whole = tmp_path / "p.parquet", tmp_path / "whole.parquet"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *args, str(out)], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(out.with_name("p.parquet.parts").glob("0*.parquet"))) == 2 and not out.exists()
    assert main([*args, str(out)]) == 0
    again, err = capsys.readouterr()
    assert "4 of 9 pictures are done already" in err
    assert out.exists() and not out.with_name("p.parquet.parts").exists()
    assert main([*args, str(whole)]) == 0
    other = json.loads(capsys.readouterr().out)
    assert json.loads(again) == other
    assert main([*args[:2], "--predictions", str(out), "--json", "--resamples", "0", "--errors"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["mean_ap"] == other["mean_ap"]
    assert "no proposal" in scored["errors"]["missed"] and scored["errors"] == other["errors"]


def test_a_damaged_picture_is_skipped_said_and_costs_the_status(
    detector: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = sample_data(tmp_path / "data", 3)
    bad, empty, _ = sorted(data.parent.glob("*.jpg"))
    bad.write_bytes(bad.read_bytes()[:200])
    empty.write_bytes(b"")
    assert main(["--data", str(data), *detector]) == 1
    out, err = capsys.readouterr()
    assert err.count("counted as a picture without detections") == 2
    assert f"{bad}: " in err and f"{empty}: is empty" in err
    assert json.loads(out)["notes"] == ["2 pictures could not be read; they count as pictures without detections"]
    assert len(list((tmp_path / "detected").glob("*.parquet"))) == 1  # what was found of the others is kept
    for path in (bad, empty):
        shutil.copy(samples_folder() / path.name, path)
    assert main(["--data", str(data), *detector]) == 0
    assert "1 of 3 pictures are done already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--protocol", "voc08"], 2, "invalid choice: 'voc08'"),
        (["--iou", "1.5"], 2, "--iou: must lie in 0..1, got 1.5"),
        (["--iou", "high"], 2, "--iou: must be a number, got 'high'"),
        (["--resamples", "-1"], 2, "--resamples: must be at least 0, got -1"),
        (["--data", "nowhere"], 1, "nowhere: No such file or directory"),
        (["--config", "nowhere.toml"], 2, "cannot read nowhere.toml: No such file or directory"),
        (["--report", "."], 2, ". is a folder; give the name of a file"),
        (["--out", "lines.txt/p.parquet"], 2, "cannot write lines.txt/p.parquet: "),
        (["--predictions", "nowhere.txt"], 1, "nowhere.txt: No such file or directory"),
        (["--predictions", "empty.txt"], 1, "empty.txt: no predictions in it"),
        (["--data", "bad.json", "--predictions", "lines.txt"], 1, "bad.json"),
        (["--predictions", "lines.txt", "--out", "o.parquet"], 2, "--out is for a run of the detector"),
        (["--data", "", "--predictions", "lines.txt"], 2, "--predictions needs --data"),
        (["--predictions", "lines.txt", "--vote", "0"], 2, "--vote is for a run of the detector"),
        (["--config", "bad.toml"], 2, "unknown key 'protocl'; the nearest one is 'protocol'"),
    ],
)
def test_wrong_usage_and_bad_files_take_one_line(
    args: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty.txt", ""), ("lines.txt", LINES), ("bad.json", "{"), ("bad.toml", 'protocl = "x"\n')):
        (tmp_path / name).write_text(content)
    if "--data" not in args:
        args = ["--data", "samples", *args]
    if "--predictions" not in args and "--out" not in args:
        args = [*args, "--predictions", "lines.txt"]
    try:
        got = main(args)
    except SystemExit as error:
        got = int(str(error.code))
    out, err = capsys.readouterr()
    assert got == status and out == ""
    assert err.count("\n") == 1 and message in err and "Traceback" not in err


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_splits_of_ilsvrc_and_other_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    demo = str(SHARED / "ilsvrc" / "devkit" / "evaluation" / "demo.val.pred.det.txt")
    args = ["--data", str(SHARED / "ilsvrc"), "--predictions", demo, "--resamples", "0", "--json"]
    assert main([*args, "--split", "val2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["mean_ap"] == pytest.approx(0.601683480641, abs=1e-9) and document["classes_present"] == 200
    assert main([*args, "--split", "val2_mini"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == 76 and document["classes_present"] == 50


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_voc_classes_are_mapped_where_det_predictions_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from detector.datasets.class_maps import to_det

    data = SHARED / "voc2012" / "val.json"
    truth = to_det(read_dataset(data))
    path = perfect(truth, tmp_path / "lines.txt")
    assert main(["--data", str(data), "--predictions", str(path), "--det-classes", "--json", "--resamples", "0"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["protocol"] == "voc10" and document["mean_ap"] == pytest.approx(1)
    assert document["classes_present"] == len(np.unique(truth.labels)) and "mapped to the 200" in document["notes"][0]
