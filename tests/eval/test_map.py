from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from detector.datasets.read import read_dataset
from detector.samples import samples_folder
from eval.map import main

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
LINES = "1 24 0.9 100 100 300 300\n"


@pytest.fixture()
def few(tmp_path: Path) -> Path:
    """Return a data set of the three smallest samples that have objects."""
    return data_of(tmp_path / "few", 3)


def data_of(folder: Path, count: int) -> Path:
    """Return the JSON file of a data set of `count` samples, their pictures beside it."""
    folder.mkdir()
    document = json.loads((samples_folder() / "annotations.json").read_text())
    used = {a["image_id"] for a in document["annotations"]}
    images = sorted((i for i in document["images"] if i["id"] in used), key=lambda i: i["width"] * i["height"])[:count]
    document["images"] = images
    ids = {i["id"] for i in images}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    for image in images:
        shutil.copy(samples_folder() / image["file_name"], folder)
    (folder / "few.json").write_text(json.dumps(document))
    return folder / "few.json"


def perfect(data: Path, path: Path) -> Path:
    """Write every ground-truth box as a prediction, in ILSVRC lines."""
    truth = read_dataset(data)
    rows = [
        f"{truth.numbers[p]} {label} 0.5 {b[0] + 1:g} {b[1] + 1:g} {b[2]:g} {b[3]:g}\n"
        for p, label, b in zip(truth.pictures, truth.labels, truth.boxes, strict=True)
    ]
    path.write_text("".join(rows))
    return path


def test_ground_truth_as_predictions_scores_one(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = perfect(few, tmp_path / "perfect.txt")
    assert main(["--data", str(few), "--predictions", str(found)]) == 0
    out, err = capsys.readouterr()
    assert "mAP                  100.00 %   95 % interval 100.00 .. 100.00" in out
    assert "of the 200 classes have no ground truth here" in out and "mAP over all 200" in out
    assert err == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few", "perfect.txt"]  # nothing is written unasked


def test_json_is_one_document_and_counts_are_right(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = read_dataset(few)
    found = perfect(few, tmp_path / "perfect.txt")
    for protocol in ("ilsvrc", "voc07", "voc10", "coco"):
        assert (
            main(["--data", str(few), "--predictions", str(found), "--json", "--protocol", protocol, "--errors"]) == 0
        )
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
    if names:
        document = json.loads(few.read_text())
        document["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        for annotation in document["annotations"]:
            annotation["category_id"] = 1
        few.write_text(json.dumps(document))
    found = perfect(few, tmp_path / "perfect.txt")
    assert main(["--data", str(few), "--predictions", str(found), "--json", "--resamples", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"] == protocol


def test_another_iou_is_said(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = perfect(few, tmp_path / "perfect.txt")
    args = ["--data", str(few), "--predictions", str(found), "--resamples", "0", "--iou", "0.75"]
    assert main(args) == 0
    assert "ILSVRC DET (devkit 2014), at IoU 0.75 on few.json" in capsys.readouterr().out
    assert main([*args, "--json", "--protocol", "coco"]) == 0
    assert json.loads(capsys.readouterr().out)["iou"] == 0.75


def test_classes_restrict_the_score(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = read_dataset(few)
    found = perfect(few, tmp_path / "perfect.txt")
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
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.map.MANY", 3)
    found = perfect(few, tmp_path / "perfect.txt")
    found.write_text(found.read_text() * 2)
    args = ["--data", str(few), "--predictions", str(found), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["resamples"] == 200
    assert main([*args, "--resamples", "300"]) == 0
    assert json.loads(capsys.readouterr().out)["resamples"] == 300


def test_a_run_is_not_taken_for_that_of_other_pictures_or_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = data_of(tmp_path / "data", 1)
    args = ["--data", str(data), "--json", "--resamples", "0", "--errors"]
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
    changed = json.loads(capsys.readouterr().out)
    assert changed["predictions"] != first["predictions"]


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
    assert "no data set is given" in err and "--data FOLDER" in err and "ensemble" in err
    missed = document["errors"]["missed"]
    assert set(missed) == {"no proposal", "suppressed", "misclassified", "badly localised", "below threshold"}
    assert "no data set" in document["notes"][0]
    found = sum(row["true_positives"] for row in document["per_class"])
    assert sum(kind["count"] for kind in missed.values()) == 32 - found
    page = report.read_text()
    assert "the bundled samples" in page and "data:image/jpeg" in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]  # nothing else is left behind


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", 9)
    out, whole = tmp_path / "p.parquet", tmp_path / "whole.parquet"
    command = [sys.executable, "-m", "eval.map", "--data", str(data), "--resamples", "0", "--json", "--errors", "--out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, str(out)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    parts = out.with_name("p.parquet.parts")
    deadline = time.monotonic() + 120
    while not list(parts.glob("0*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    again = subprocess.run([*command, str(out)], env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and "of 9 pictures are done already" in again.stderr
    assert out.exists() and not parts.exists()
    other = subprocess.run([*command, str(whole)], env=environment, capture_output=True, text=True)
    assert json.loads(again.stdout) == json.loads(other.stdout)
    scored = subprocess.run(
        [*command[:-1], "--predictions", str(out)], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(scored.stdout)["mean_ap"] == json.loads(other.stdout)["mean_ap"]
    misses = json.loads(scored.stdout)["errors"]["missed"]
    assert "no proposal" in misses and misses == json.loads(other.stdout)["errors"]["missed"]


def test_a_damaged_picture_is_skipped_said_and_costs_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = data_of(tmp_path / "data", 2)
    bad = sorted(data.parent.glob("*.jpg"))[0]
    bad.write_bytes(bad.read_bytes()[:200])
    assert main(["--data", str(data), "--json", "--resamples", "0"]) == 1
    out, err = capsys.readouterr()
    assert f"{bad}: " in err and "counted as a picture without detections" in err
    assert json.loads(out)["notes"] == ["1 pictures could not be read; they count as pictures without detections"]
    assert len(list((tmp_path / "detected").glob("*.parquet"))) == 1  # what was found of the others is kept
    shutil.copy(samples_folder() / bad.name, bad)
    assert main(["--data", str(data), "--json", "--resamples", "0"]) == 0
    assert "1 of 2 pictures are done already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--protocol", "voc08"], 2, "invalid choice: 'voc08'"),
        (["--iou", "0"], 2, "the IoU threshold must lie above 0 and not above 1, got 0"),
        (["--iou", "high"], 2, "invalid float value: 'high'"),
        (["--resamples", "-1"], 2, "resamples must not be negative"),
        (["--data", "nowhere"], 1, "nowhere: No such file or directory"),
        (["--config", "nowhere.toml"], 2, "cannot read nowhere.toml: No such file or directory"),
        (["--report", "."], 2, ". is a folder; give the name of a file"),
        (["--out", "lines.txt/p.parquet"], 2, "cannot write lines.txt/p.parquet: "),
        (["--predictions", "nowhere.txt"], 1, "nowhere.txt: No such file or directory"),
        (["--predictions", "empty.txt"], 1, "empty.txt: no predictions in it"),
        (["--data", "bad.json", "--predictions", "lines.txt"], 1, "bad.json"),
        (["--predictions", "lines.txt", "--out", "o.parquet"], 2, "--out is for a run of the detector"),
        (["--data", "", "--predictions", "lines.txt"], 2, "--predictions needs --data"),
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
    (tmp_path / "x").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "lines.txt").write_text(LINES)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.toml").write_text('protocl = "ilsvrc"\n')
    if "--data" not in args:
        args = ["--data", "samples", *args]
    if "--predictions" not in args and "--out" not in args:
        args = [*args, "--predictions", "lines.txt"]
    try:
        got = main(args)
    except SystemExit as error:
        got = int(str(error.code))
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "no data set is given" not in line]
    assert got == status and out == ""
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in err


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
    lines = [
        f"{truth.numbers[p]} {c} 0.5 {b[0] + 1!r} {b[1] + 1!r} {b[2]!r} {b[3]!r}\n"
        for p, c, b in zip(truth.pictures.tolist(), truth.labels.tolist(), truth.boxes.tolist(), strict=True)
    ]
    path = tmp_path / "lines.txt"
    path.write_text("".join(lines))
    assert main(["--data", str(data), "--predictions", str(path), "--det-classes", "--json", "--resamples", "0"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["protocol"] == "voc10" and document["mean_ap"] == pytest.approx(1)
    assert document["classes_present"] == len(np.unique(truth.labels)) and "mapped to the 200" in document["notes"][0]
