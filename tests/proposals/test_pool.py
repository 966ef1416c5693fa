"""Worker processes that die, and runs that are stopped."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from proposals.pool import MAX_DEATHS, StoppedError, propose_files
from proposals.proposer import Proposer
from proposals.store import PictureProposals

MODULE = """
import os
import time
import numpy as np
from proposals.types import SELECTIVE_SEARCH, from_source

class Deadly:
    key = {}
    def prepare(self): pass
    def describe(self): return "deadly"
    def __call__(self, image, path=None):
        if "poison" in path.name:
            os.kill(os.getpid(), 9)
        if "endless" in path.name:
            time.sleep(1000)
        if "wrong" in path.name:
            raise ValueError("two\\nlines")
        return from_source([[0, 0, image.shape[1], image.shape[0]]], [1], SELECTIVE_SEARCH)
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proposer:
    """A method that kills its process over some pictures, in a module that worker processes can import."""
    (tmp_path / "deadly_method.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from deadly_method import Deadly

    yield Deadly()
    del sys.modules["deadly_method"]


def pictures(folder: Path, *names: str) -> list[tuple[str, Path]]:
    for name in names:
        Image.new("RGB", (30, 20)).save(folder / f"{name}.png")
    return [(name, folder / f"{name}.png") for name in names]


def test_a_picture_that_kills_its_process_is_found_and_costs_no_other(deadly: Proposer, tmp_path: Path):
    names = ["a", "b", "poison1", "c", "wrong", "d", "poison2", "e"]
    notices: list[str] = []
    stream = propose_files(pictures(tmp_path, *names), deadly, 10**6, 2, notices.append)
    answers = [answer for answer in stream if answer is not None]
    assert sorted(name for name, _ in answers) == sorted(names)
    found = dict(answers)
    for name in ("poison1", "poison2"):
        assert found[name] == "the process that searched it was killed, perhaps for want of memory"
    assert found["wrong"] == "two lines"
    assert all(isinstance(found[name], PictureProposals) and found[name].width == 30 for name in "abcde")
    assert 1 <= len(notices) <= 2 and "a worker process was killed" in notices[0]


def test_processes_that_die_without_end_end_the_run(deadly: Proposer, tmp_path: Path):
    many = pictures(tmp_path, *(f"poison{i}" for i in range(8)))
    answers = []
    with pytest.raises(StoppedError, match="worker processes die one after the other; fewer --workers need less"):
        for answer in propose_files(many, deadly, 10**6, 2, lambda text: None):
            answers += [] if answer is None else [answer]
    assert len(answers) < MAX_DEATHS


def test_a_run_that_is_stopped_finishes_what_it_has_in_hand(deadly: Proposer, tmp_path: Path):
    done: list[str] = []
    stream = propose_files(
        pictures(tmp_path, *map(str, range(40))), deadly, 10**6, 2, lambda text: None, lambda: len(done) > 3
    )
    for answer in stream:
        if answer is not None:
            assert isinstance(answer[1], PictureProposals)
            done.append(answer[0])
    assert 4 <= len(done) <= 6


def test_a_picture_without_end_does_not_keep_a_stopped_run(
    deadly: Proposer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("proposals.pool.PATIENCE", 0.5)
    done: list[str] = []
    names = pictures(tmp_path, "endless", "a", "b")
    stream = propose_files(names, deadly, 10**6, 2, lambda text: None, lambda: len(done) == 2)
    for answer in stream:
        done.extend([] if answer is None else [answer[0]])
    assert sorted(done) == ["a", "b"]
