"""Two processes under torchrun learn what one does, and go on when one of them is killed (gloo, on the CPU)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detector.model import find_model
from detector.training.run_folder import load_checkpoint, read_log
from detector.weights import load_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples"
STEPS = 6
# single precision and other orders of summation, over six steps
TOLERANCE = 1e-4
KILLED = """
import os, signal, sys
from detector.cli.train import main
from detector.training.classifier import ClassifierTask

whole = ClassifierTask.losses
calls = []

def losses(self, network, batch):
    calls.append(1)
    if len(calls) == 4 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, network, batch)

ClassifierTask.losses = losses
# one write a line: those of two processes in one pipe do not mix
os.write(1, f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} of rank {os.environ['RANK']}\\n".encode())
sys.exit(main())
"""
TERMINATED = KILLED.replace("SIGKILL", "SIGTERM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, a configuration without dropout and batch norm, and a run of one process."""
    root = tmp_path_factory.mktemp("torchrun")
    for name, pictures in (("bird", ("eagle", "kite")), ("cat", ("chelsea",)), ("dog", ("dog", "horses"))):
        (root / "data" / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(SAMPLES / f"{picture}.jpg", root / "data" / name)
    (root / "mine.toml").write_text(
        f"""
data = '{root / "data"}'
steps = {STEPS}
log_steps = 1
checkpoint_minutes = 0.0
learning_rate = 0.02
width = 0.25
auxiliary = false
dropout = 0.0
size = 75
mini_batch = 4
device = "cpu"
""",
        encoding="utf-8",
    )
    found = launched(root, root / "alone", [sys.executable, "-m", "detector.train"])
    assert found.returncode == 0, found.stderr
    return root


def launched(folder: Path, out: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "classifier", "--config", str(folder / "mine.toml"), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,  # seconds where the cores are busy; a few suffice
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def torchrun(folder: Path, out: Path, *command: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    # a port that is free, so that two of these do not meet
    return launched(folder, out, [*launcher, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *command])


def losses(out: Path) -> list[float]:
    lines = [line for line in read_log(out / "log.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


def test_two_processes_learn_what_one_does(folder: Path, tmp_path: Path):
    found = torchrun(folder, tmp_path / "run", "-m", "detector.train")
    assert found.returncode == 0, found.stderr
    alone = losses(folder / "alone")
    assert max(alone) - min(alone) > 100 * TOLERANCE
    assert losses(tmp_path / "run") == pytest.approx(alone, rel=TOLERANCE)
    assert found.stderr.count("wrote ") == 1  # by the first process alone
    one, two = (load_weights(find_model(str(path))) for path in (folder / "alone", tmp_path / "run"))
    for name in ("conv1/7x7_s2", "loss3/classifier"):
        assert abs(one.kernel(name) - two.kernel(name)).max() < 1e-3


def test_a_killed_process_costs_what_the_last_checkpoint_lacks(folder: Path, tmp_path: Path):
    (tmp_path / "script.py").write_text(KILLED, encoding="utf-8")
    found = torchrun(folder, tmp_path / "run", "--max-restarts", "1", str(tmp_path / "script.py"))
    assert found.returncode == 0, found.stderr
    assert sorted(found.stdout.splitlines()) == [f"attempt {k} of rank {rank}" for k in (0, 1) for rank in (0, 1)]
    assert "going on after step" in found.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(folder / "alone"), rel=TOLERANCE)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == STEPS
    assert find_model(str(tmp_path / "run")).labels == ("bird", "cat", "dog")


def test_a_signal_to_one_process_ends_all_with_a_checkpoint(folder: Path, tmp_path: Path):
    """The fourth step is finished by both; no model is written; another start goes on."""
    (tmp_path / "script.py").write_text(TERMINATED, encoding="utf-8")
    found = torchrun(folder, tmp_path / "run", str(tmp_path / "script.py"))
    assert found.returncode != 0
    assert "terminated" in found.stderr and "wrote" not in found.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 4
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = launched(folder, tmp_path / "run", [sys.executable, "-m", "detector.train"])
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(folder / "alone"), rel=TOLERANCE)
