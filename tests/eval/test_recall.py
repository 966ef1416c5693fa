"""The command `python -m eval.recall`: its measures by hand and by brute force, and the command as it is run."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.datasets.ground_truth import GroundTruth
from eval.coverage import ALL, CURVE, as_json, as_plot, as_text, measure
from eval.recall import _proposed, main
from proposals.proposer import SelectiveSearch
from proposals.store import PictureProposals, write_store
from proposals.stored import StoredProposals
from proposals.types import SELECTIVE_SEARCH, Proposals, from_source

PROJECT = Path(__file__).parents[2]
SAMPLES = PROJECT / "samples"
PATIENCE = 120  # seconds, on a busy machine


def proposals(*boxes: tuple[float, ...]) -> Proposals:
    return from_source(np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes))[::-1], SELECTIVE_SEARCH)


def recall(*arguments: str | Path, cwd: Path = PROJECT) -> tuple[int, str, str]:
    """Run the command in a process of its own; return exit status, standard output and error."""
    command = [sys.executable, "-m", "eval.recall", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures of 100 x 100 with four objects; a crowd and an empty picture besides."""
    boxes = [(1, 1, [0, 0, 10, 10], 0), (1, 2, [20, 20, 40, 40], 0), (2, 1, [0, 0, 100, 100], 0)]
    boxes += [(3, 2, [50, 50, 20, 20], 0), (3, 1, [0, 0, 50, 50], 1)]
    content = {
        "images": [{"id": i, "file_name": f"p{i}.png", "width": 100, "height": 100} for i in (1, 2, 3, 4)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
            for n, (i, c, b, crowd) in enumerate(boxes, start=1)
        ],
    }
    (tmp_path / "images").mkdir()
    image = Image.open(SAMPLES / "chelsea.jpg").convert("RGB").resize((100, 100))
    for i in (1, 2, 3, 4):
        image.rotate(90 * i).save(tmp_path / "images" / f"p{i}.png")
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    return file


ROWS = {  # of each picture, best first
    "p1": proposals((0, 0, 100, 100), (0, 0, 10, 6), (20, 20, 60, 60)),  # IoU 0.6 of the dog, 1 of the car
    "p2": proposals((0, 0, 100, 80)),  # 0.8
    "p3": proposals((50, 50, 70, 58), (0, 0, 5, 5)),  # 0.4
}


def store(path: Path, folder: str = "images/", suffix: str = ".png", side: int = 100, **rows: Proposals) -> Path:
    given = rows or ROWS
    write_store(
        path, [PictureProposals(f"{folder}{n}{suffix}", side, side, p) for n, p in given.items()], {"mode": "x"}
    )
    return path


def test_measures_by_hand() -> None:
    overlaps = np.array([[0.0, 0.5, 1.0], [0.6, 0.5, 1.0]], np.float32)
    labels, areas = np.array([1, 2, 2]), np.array([1023.0, 1024.0, 9216.0])
    found = measure(overlaps, labels, areas, np.array([1, 4]), (1, ALL), ("dog", "car", "bus"))
    assert (found.pictures, found.objects) == (2, 3)
    assert found.boxes.tolist() == [1, 2.5]
    np.testing.assert_allclose(found.coverage, [2 / 3, 1])
    np.testing.assert_allclose(
        found.recall[:, [0, 55, 60, 70, 100]], [[1, 1 / 3, 1 / 3, 1 / 3, 1 / 3], [1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]]
    )
    np.testing.assert_allclose(found.average_recall, [1 / 3, (0.2 + 0 + 1) / 3], rtol=1e-6)
    np.testing.assert_allclose(found.mabo, [(0 + 0.75) / 2, (0.6 + 0.75) / 2], rtol=1e-6)
    assert [(g.name, g.objects) for g in found.sizes] == [("small", 1), ("medium", 1), ("large", 1)]
    assert [g.coverage.tolist() for g in found.sizes] == [[0, 1], [1, 1], [1, 1]]
    assert [(g.name, g.objects) for g in found.classes] == [("dog", 1), ("car", 2)]
    np.testing.assert_allclose(found.classes[1].average_recall, [0.5, 0.5])


def test_without_objects_nothing_is_measured() -> None:
    found = measure(np.zeros((2, 0), np.float32), np.zeros(0, int), np.zeros(0), np.zeros(0, int), (5, ALL), ())
    assert np.isnan(found.coverage).all()
    assert found.sizes == found.classes == ()
    assert json.loads(json.dumps(as_json(found), allow_nan=False))["coverage"] == [None, None]
    assert " - " in as_text(found, per_class=True)


@settings(max_examples=50, deadline=None)
@given(
    overlaps=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 3), st.integers(0, 12_000)), min_size=1, max_size=8)
)
def test_measures_by_brute_force(overlaps: list[tuple[int, int, int]]) -> None:
    ious = np.array([[iou / 20 for iou, _, _ in overlaps]], np.float32)
    labels, areas = (np.array([o[i] for o in overlaps]) for i in (1, 2))
    found = measure(ious, labels, areas.astype(float), np.array([3]), (ALL,), ("a", "b", "c"))
    for column, limit in enumerate(CURVE):
        reached = [iou * 5 >= round(limit * 100) for iou, _, _ in overlaps]
        assert found.recall[0, column] == pytest.approx(np.mean(reached))
    for groups, keys in (
        (found.sizes, ["small" if a < 1024 else "medium" if a < 9216 else "large" for a in areas]),
        (found.classes, ["abc"[label - 1] for label in labels]),
    ):
        assert sum(group.objects for group in groups) == len(overlaps)
        for group in groups:
            own = [iou for (iou, _, _), key in zip(overlaps, keys, strict=True) if key == group.name]
            assert group.objects == len(own)
            assert group.coverage[0] == pytest.approx(np.mean([iou >= 10 for iou in own]))
            assert group.average_recall[0] == pytest.approx(np.mean([max(iou - 10, 0) / 10 for iou in own]))


@pytest.mark.parametrize("folder", ["images/", "", "other/folder/"])
@pytest.mark.parametrize("suffix", [".png", ".JPEG", ""])
def test_a_file_of_proposals_by_name_path_and_stem(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, suffix: str
) -> None:
    file = store(tmp_path / "found.parquet", folder, suffix)
    assert main(["--data", str(data), "--proposals", str(file), "--boxes", "all,1,2,1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["counts"], found["pictures"], found["objects"], found["failed"]) == ([1, 2, None], 3, 4, 0)
    assert found["mean_boxes"] == pytest.approx([1, 5 / 3, 2])
    assert found["coverage"] == [1 / 4, 2 / 4, 3 / 4]
    assert found["recall"][2][found["iou"].index(0.4)] == 1  # 20 x 8 of 20 x 20
    np.testing.assert_allclose(found["average_recall"], [0.6 / 4, 0.8 / 4, 1.8 / 4], rtol=1e-6)
    assert {g["name"]: (g["objects"], g["coverage"]) for g in found["classes"]} == {
        "dog": (2, [1 / 2, 1, 1]),
        "car": (2, [0, 0, 1 / 2]),
    }
    assert [(g["name"], g["objects"]) for g in found["sizes"]] == [("small", 2), ("medium", 1), ("large", 1)]


def test_objects_marked_difficult_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two dogs found and a difficult one missed; in the second picture there is nothing but a difficult one."""
    voc = tmp_path / "VOC"
    (voc / "Annotations").mkdir(parents=True)
    for name, objects in (("p1", [(10, 0), (20, 0), (90, 1)]), ("p2", [(90, 1)])):
        items = "".join(
            f"<object><name>dog</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
            f"<xmax>{side}</xmax><ymax>{side}</ymax></bndbox></object>"
            for side, difficult in objects
        )
        (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{items}</annotation>")
    file = store(tmp_path / "found.parquet", p1=proposals((0, 0, 10, 10), (0, 0, 20, 20)))
    assert main(["--data", str(voc), "--proposals", str(file), "--boxes", "all", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["pictures"], found["objects"], found["failed"]) == (1, 2, 0)
    assert found["coverage"] == [1] and found["mabo"] == [1]
    assert "crowds and difficult objects left out: 2" in err


def test_tables_and_plots(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    file, plot = store(tmp_path / "found.parquet"), tmp_path / "curve.png"
    options = ["--data", str(data), "--proposals", str(file), "--boxes", "1,all"]
    assert main([*options, "--plot", str(plot), "--per-class"]) == 0
    out, err = capsys.readouterr()
    assert "4 objects of 2 classes in 3 pictures" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["all", "2", "0.750", "0.500", "0.250", "0.450", "0.700"] in lines  # MABO: dog 0.7, car 0.7
    assert ["0.80", "0.250", "0.500"] in lines
    assert ["small", "2", "0.000", "0.500", "0.100"] in lines
    assert ["dog", "2", "0.500", "1.000", "0.400"] in lines
    assert lines.index(["dog", "2", "0.500", "1.000", "0.400"]) < lines.index(["car", "2", "0.000", "0.500", "0.500"])
    assert "crowds and difficult objects left out: 1" in err
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    assert main([*options, "--quiet", "--plot", str(tmp_path / "c.svg")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "coverage by class" not in out
    assert (tmp_path / "c.svg").read_text().lstrip().startswith("<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.svg", "curve.png", "data.json", "found.parquet", "images"]


def test_the_same_measures_give_the_same_drawing() -> None:
    pytest.importorskip("matplotlib")
    overlaps = np.array([[0.6, 0.9]], np.float32)
    found = measure(overlaps, np.array([1, 1]), np.array([1.0, 1.0]), np.array([0]), (ALL,), ("dog",))
    assert as_plot(found, "svg") == as_plot(found, "svg")


def test_pictures_that_the_file_lacks_or_has_in_another_size_are_left_out_and_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = store(tmp_path / "found.parquet", p1=ROWS["p1"], p3=ROWS["p3"])
    assert main(["--data", str(data), "--proposals", str(file), "--json", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["pictures"] == 2
    assert json.loads(out)["failed"] == 1
    assert "p2" in err and "has no proposals of this picture" in err and "1 of 3 pictures left out" in err
    small = store(tmp_path / "small.parquet", side=50)
    assert main(["--data", str(data), "--proposals", str(small)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "has it with 50 x 50 pixels, not 100 x 100" in err
    assert err.splitlines()[-1] == "python -m eval.recall: no picture could be measured"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--boxes", "10,ten"], "--boxes takes numbers of at least 1 and all"),
        (["--boxes", "0"], "--boxes takes numbers of at least 1 and all"),
        (["--boxes", ""], "--boxes takes numbers of at least 1 and all"),
        (["--boxes", "1_0"], "--boxes takes numbers of at least 1 and all"),
        (["--boxes", "\u0661"], "--boxes takes numbers of at least 1 and all"),
        (["--boxes", "9" * 5000], "--boxes takes numbers of at least 1 and all"),
        (["--plot", "curve.pdf"], "--plot takes a name that ends in .png or .svg"),
        (["--plot", "nowhere/curve.png"], "there is no folder nowhere"),
        (["--proposals", "f.parquet", "--mode", "single"], "--mode has no effect with --proposals f.parquet"),
        (["--proposals", "f.parquet", "--seed", "1"], "--seed has no effect with --proposals f.parquet"),
        (["--backend", "opencv", "--mode", "quality"], "--mode has no effect with --backend opencv"),
    ],
)
def test_wrong_usage(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_the_parser_answers_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--mode", "slow"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert main(["--plot", "curve.png"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_files_that_cannot_be_read(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, others = tmp_path / "damaged.parquet", store(tmp_path / "others.parquet", q1=ROWS["p1"])
    damaged.write_bytes(store(tmp_path / "whole.parquet").read_bytes()[:-50])
    empty = tmp_path / "empty.json"
    empty.write_text(
        '{"images": [{"id": 1, "file_name": "p4.png", "width": 100, "height": 100}], "categories": '
        '[{"id": 1, "name": "dog"}], "annotations": []}'
    )
    for arguments, message in (
        (["--data", tmp_path / "missing.json"], "missing.json"),
        (["--data", data, "--proposals", tmp_path / "missing.parquet"], "missing.parquet: No such file"),
        (["--data", data, "--proposals", damaged], "damaged.parquet is no file of proposals, or truncated or damaged"),
        (["--data", data, "--proposals", others], "none of its 1 pictures is one of the data set"),
        (["--data", empty], "has no ground truth"),
    ):
        assert main([str(a) for a in arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert err.count("\n") == 1, err


def test_computed_pictures_equal_stored_ones(data: Path, tmp_path: Path) -> None:
    """On the fly as out of a file, one damaged picture skipped and said, in a process of its own."""
    broken = data.parent / "images" / "p2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    status, out, err = recall("--data", data, "--proposals", "ss", "--mode", "single", "--json", "--workers", 1)
    assert status == 1
    assert "p2.png" in err and "truncated" in err and "1 of 3 pictures left out" in err
    found = json.loads(out)
    assert found["pictures"] == 2
    assert found["proposals"] == "Selective Search, single, superpixel scale 2"
    from detector.datasets.read import read_dataset
    from proposals.images import read_image
    from proposals.recall import best_overlaps
    from proposals.recall import recall as recall_of
    from proposals.selective.search import selective_search

    truth = read_dataset(data, "coco")
    overlaps = [
        best_overlaps(
            truth.boxes[truth.of_picture(i)][~truth.crowd[truth.of_picture(i)]].astype(np.float32),
            selective_search(read_image(data.parent / "images" / f"p{i + 1}.png"), "single").boxes,
            [10**6],
        )
        for i in (0, 2)
    ]
    assert found["coverage"][-1] == recall_of(np.concatenate(overlaps, axis=1), [0.5])[0, 0]


def test_pictures_without_a_file_are_said(data: Path) -> None:
    from detector.datasets.read import read_dataset

    truth = read_dataset(data, "coco")
    bare = GroundTruth(**{**{f: getattr(truth, f) for f in truth.__dataclass_fields__}, "paths": (None,) * 4})
    found = list(_proposed(bare, [0, 2], SelectiveSearch(), 1, print))
    assert [picture for picture, _ in found] == [0, 2]
    assert all("no file of it" in str(proposals) for _, proposals in found)
    file = StoredProposals(store(data.parent / "found.parquet"))
    assert [len(proposals) for _, proposals in _proposed(bare, [0, 2], file, 1, print)] == [3, 2]


@pytest.mark.slow
def test_the_bundled_samples_by_default() -> None:
    status, out, err = recall()
    assert status == 0
    assert "bundled samples" in err
    assert err.count("\n") == 1
    assert "Selective Search, fast, superpixel scale 2; MultiBox (200 boxes, 448 px, OpenVINO on the CPU, " in out
    assert "), on the bundled samples: 32 objects" in out
    rows = [line.split() for line in out.splitlines()]
    coverage = [float(row[2]) for row in rows if row and row[0] in ("10", "30", "100", "200", "300", "1000", "all")]
    assert len(coverage) == 7
    assert coverage == sorted(coverage)
    assert 0.5 < coverage[-1] <= 1
