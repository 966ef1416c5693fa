"""A checkpoint comes back as it was, is written whole or not at all, and a damaged one is told in one line."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch

from detector.training.run_folder import load_checkpoint, save_checkpoint

STATE = {
    "step": 7,
    "network": {"w": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "best": float("-inf"),
    "measures": {"score": 0.5},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}


def test_there_and_back(tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", STATE)
    found = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(found["network"]["w"], STATE["network"]["w"])  # type: ignore[index]
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], torch.ones(4))
    assert (found["step"], found["best"], found["measures"]) == (7, float("-inf"), {"score": 0.5})
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_every_kind_of_damage_gives_one_line(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    cases = [whole[: len(whole) * k // 16] for k in range(16)]
    cases += [b"\0" * len(whole), b"no checkpoint at all\n", whole[::-1], b"\x80\x02." + whole]
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"last\.pt: .*checkpoint.*remove it to begin the run anew") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", range(0, 100, 3))
def test_a_flipped_bit_is_found_or_does_no_harm(tmp_path: Path, place: int):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    content[len(content) * place // 100] ^= 0x10
    path.write_bytes(bytes(content))
    try:
        found = load_checkpoint(path)
    except ValueError as error:
        assert "last.pt" in str(error) and "\n" not in str(error)
    else:
        assert torch.equal(found["network"]["w"], STATE["network"]["w"])  # type: ignore[index]


def test_a_file_of_something_else(tmp_path: Path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="no checkpoint of a training run"):
        load_checkpoint(tmp_path / "last.pt")
    torch.save(Path("code"), tmp_path / "last.pt")  # an object that could run code when loaded
    with pytest.raises(ValueError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "last.pt")


def test_the_old_one_stays_where_the_new_one_cannot_be_written(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a disk that is full after 1,000 bytes
    try:
        with pytest.raises(OSError, match=r"cannot write .*last\.pt"):
            save_checkpoint(path, {**STATE, "step": 8})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
