"""Proposals that a run makes itself: finished pictures survive a kill, and a bad picture costs no more than itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector.datasets.read import read_dataset
from detector.detector import Detector
from detector.options import DetectOptions
from detector.training.processes import World
from detector.training.region_proposals import region_proposals
from proposals.console import Console
from proposals.images import read_image
from proposals.parts import Parts
from proposals.proposer import ProposalOptions
from proposals.selective.search import selective_search
from proposals.store import PictureProposals, ProposalStore
from proposals.types import SELECTIVE_SEARCH, Proposals

ROOT = Path(__file__).parents[3]
SEARCH = ProposalOptions(proposals="ss")
ALONE = World(0, 1, torch.device("cpu"))
PATIENCE = 120  # seconds, on a busy machine


def strips(folder: Path, count: int) -> list[Path]:
    """Write thin pieces of a sample, which are searched in milliseconds."""
    folder.mkdir()
    image = Image.open(ROOT / "samples" / "chelsea.jpg").convert("RGB").resize((100, 200))
    paths = [folder / f"s{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        image.crop((0, i % 190, 100 - i // 190, i % 190 + 10)).save(path)
    return paths


def searched(path: Path) -> np.ndarray:
    return selective_search(read_image(path), superpixel_scale=DetectOptions().superpixel_scale, seed=0).boxes


def lookup(paths: list[Path], folder: Path):
    return region_proposals(SEARCH, 0, paths, folder, Console("test"), ALONE)


def test_a_bad_picture_is_said_and_left_out_and_a_path_given_twice_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    paths = strips(tmp_path / "p", 3)
    paths[1].write_text("no picture", encoding="utf-8")
    found = lookup([*paths, paths[0]], tmp_path / "run")
    errors = capsys.readouterr().err
    assert f"test: {paths[1]}: is not a picture" in errors and errors.endswith("left out\n") and errors.count("\n") == 1
    assert found(paths[1]) is None
    for path in (paths[0], paths[2]):
        np.testing.assert_array_equal(found(path).boxes, searched(path))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["proposals.parquet"]
    assert len(ProposalStore(tmp_path / "run" / "proposals.parquet")) == 2
    before = (tmp_path / "run" / "proposals.parquet").stat().st_mtime_ns
    lookup([*paths, paths[0]], tmp_path / "run")  # complete: nothing is tried again
    assert capsys.readouterr().err == "" and (tmp_path / "run" / "proposals.parquet").stat().st_mtime_ns == before


def test_training_sees_the_regions_that_detection_sees(tmp_path: Path):
    """Merged, with the same sources and objectness, in a file of the run folder; it was Selective Search alone."""
    path = tmp_path / "cat.png"
    Image.open(ROOT / "samples" / "chelsea.jpg").convert("RGB").resize((120, 80)).save(path)
    found = region_proposals(ProposalOptions(), 0, [path], tmp_path / "run", Console("test"), ALONE)(path)
    wanted = Detector(DetectOptions(model="inception_v3")).propose(read_image(path))
    assert found is not None and set(found.sources) == {1, 2, 3}
    for name in ("boxes", "scores", "sources", "objectness"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    with pytest.raises(ValueError, match=r"proposals\.parquet: holds proposals of other options or weights; remove it"):
        region_proposals(SEARCH, 0, [path], tmp_path / "run", Console("test"), ALONE)
    (tmp_path / "mine").mkdir()
    file = tmp_path / "run" / "proposals.parquet"  # its pictures have numbers for names
    with pytest.raises(ValueError, match="has none of these pictures"):
        region_proposals(ProposalOptions(proposals=str(file)), 0, [path], tmp_path / "mine", Console("test"), ALONE)


def test_pictures_that_all_fail_are_one_line_and_may_be_mended(tmp_path: Path):
    (path,) = strips(tmp_path / "p", 1)
    good = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 pictures has proposals"):
        lookup([path], tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    path.write_bytes(good)
    np.testing.assert_array_equal(lookup([path], tmp_path / "run")(path).boxes, searched(path))


def test_a_part_of_other_pictures_is_refused(tmp_path: Path):
    paths = strips(tmp_path / "p", 2)
    (tmp_path / "run").mkdir()
    box = Proposals(np.array([[0, 0, 9, 9]], np.float32), np.zeros(1), np.full(1, SELECTIVE_SEARCH))
    parts = Parts(tmp_path / "run" / "proposals.parquet", {"pictures": "of others"})
    parts.add([PictureProposals("0", 100, 10, box)])
    parts.close()
    with pytest.raises(ValueError, match=r"proposals\.parquet\.parts: holds proposals of other pictures"):
        lookup(paths, tmp_path / "run")
    assert list((tmp_path / "run" / "proposals.parquet.parts").glob("part-*"))  # which may be of use to somebody


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    strips(tmp_path / "p", 200)
    table = {
        "images": [{"id": i, "file_name": f"s{i}.png", "width": 100 - i // 190, "height": 10} for i in range(200)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 20, 8], "area": 160, "iscrowd": 0}
            for i in range(200)
        ],
        "categories": [{"id": 1, "name": "fur"}],
    }
    (tmp_path / "p" / "own.json").write_text(json.dumps(table), encoding="utf-8")
    text = f'steps = 1\nclasses = "own"\nproposals = "ss"\ndata = [{json.dumps(str(tmp_path / "p" / "own.json"))}]\n'
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "detector.train", "finetune", "--config", tmp_path / "mine.toml", "--out", run],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + PATIENCE
    while not list(run.glob("proposals.parquet.parts/part-*.parquet")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    parts = run / "proposals.parquet.parts"
    kept = sum(len(ProposalStore(part)) for part in parts.glob("part-*"))
    assert 0 < kept < 200 and not (run / "proposals.parquet").exists()
    paths = [path for path in read_dataset(tmp_path / "p" / "own.json").paths if path is not None]
    found = lookup(paths, run)
    assert capsys.readouterr().err == f"test: the proposals of {kept} of 200 pictures are there already\n"
    assert len(ProposalStore(run / "proposals.parquet")) == 200 and not parts.exists()
    for path in (paths[0], paths[199]):
        np.testing.assert_array_equal(found(path).boxes, searched(path))
