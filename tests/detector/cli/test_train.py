"""The command says what was wrong in one line, with the status that the mistake deserves."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detector.cli.train import STAGES, main, read_config
from detector.training.options import ClassifierOptions, FinetuneOptions
from proposals.console import UsageError

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples"


def config(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_options_come_from_the_file_and_the_command_line_over_it(tmp_path: Path):
    path = config(tmp_path, 'data = ["samples"]\nsteps = 5\nfrozen = "Mixed_7c"\n')
    o = read_config("finetune", path, ["steps=7", "learning_rate=1", "frozen=", 'data=["a=b", "c"]', " momentum =0.5"])
    assert isinstance(o, FinetuneOptions)
    assert (o.steps, o.learning_rate, o.frozen, o.data, o.momentum) == (7, 1.0, "", ("a=b", "c"), 0.5)
    text = read_config("classifier", config(tmp_path, "epochs = 1"), ["data=some folder", "validation='other'"])
    assert isinstance(text, ClassifierOptions) and (text.data, text.validation) == ("some folder", "other")


@pytest.mark.parametrize(
    ("text", "overrides", "told"),
    [
        ("", ["stpes=5"], "unknown key 'stpes'; the nearest one is 'steps'"),
        ("learn_rate = 1.0", [], "unknown key 'learn_rate'; the nearest one is 'learning_rate'"),
        ("", ["steps=5.5"], "'steps' must be int, got 5.5"),
        ("", ["data=samples"], "'data' must be a list of texts, got 'samples'"),
        ("", [], "give the length of the run: steps above 0, or epochs above 0"),
        ("steps = 5", [], "data names no data set to train on"),
        ('steps = 5\ndata = ["a"]\npartial = ["b"]', [], "partial names 'b', which data does not"),
        ('steps = 5\ndata = ["a"]', ["dropout=1.0"], "dropout must lie in 0..1, below 1, got 1"),
        ('steps = 5\ndata = ["a"]', ["foreground=0", "background=0"], "a mini-batch needs regions, got 0 and 0"),
    ],
)
def test_wrong_options_name_the_file(tmp_path: Path, text: str, overrides: list[str], told: str):
    path = config(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        read_config("finetune", path, overrides)
    assert str(caught.value) == f"{path}: {told}"


@pytest.mark.parametrize("text", ["steps", "=5", " =5", ""])
def test_what_is_no_key_value(tmp_path: Path, text: str):
    with pytest.raises(UsageError, match="are KEY=VALUE"):
        read_config("finetune", config(tmp_path, "steps = 5"), [text])


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the command; return its status and its line of standard error."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as left:
        assert isinstance(left.code, int)
        status = left.code
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("python -m detector.train: ")
    return status, error


@pytest.mark.parametrize(
    ("stage", "text", "extra", "status", "told"),
    [
        ("finetuen", "steps = 1", [], 2, "invalid choice: 'finetuen'"),
        ("finetune", "steps = 1", ["steps"], 2, "'steps': options over the file's are KEY=VALUE (see --help)"),
        ("finetune", "steps = 1", ["--steps=2"], 2, "unrecognized arguments: --steps=2"),
        ("finetune", "steps = = 1", [], 1, "mine.toml: not valid TOML"),
        ("finetune", "setps = 1", [], 1, "unknown key 'setps'; the nearest one is 'steps'"),
        ("finetune", 'steps = 1\ndata = ["nowhere/at_all"]', [], 1, "nowhere/at_all: No such file or directory"),
        ("finetune", 'steps = 1\ndata = ["samples"]', ["model=nothing"], 1, "nothing: no model of that name"),
        ("classifier", 'steps = 1\ndata = "nowhere/at_all"', [], 1, "nowhere/at_all: no such file or folder"),
        ("distill", 'steps = 1\ndata = "nowhere/at_all"', [], 1, "teachers names no network to learn from"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    text: str,
    extra: list[str],
    status: int,
    told: str,
):
    path = config(tmp_path, text)
    found, error = failed(capsys, stage, "--config", path, "--out", tmp_path / "run", *extra)
    assert (found, told in error) == (status, True), error
    assert not (tmp_path / "run").exists()


def test_a_missing_or_unreadable_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, error = failed(capsys, "finetune", "--config", tmp_path / "no.toml", "--out", tmp_path / "run")
    assert status == 1 and "no.toml: No such file or directory" in error
    status, error = failed(capsys, "finetune", "--config", tmp_path, "--out", tmp_path / "run")
    assert status == 1 and f"{tmp_path}: Is a directory" in error
    (tmp_path / "mine.toml").write_bytes(b"steps = 1 # \xff\n")
    status, error = failed(capsys, "finetune", "--config", tmp_path / "mine.toml", "--out", tmp_path / "run")
    assert status == 1 and "byte 12 is not UTF-8" in error
    status, error = failed(capsys, "finetune", "--out", tmp_path / "run")
    assert status == 2 and "--config" in error


def test_help_lists_the_stages(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(f"  {stage}" in out for stage in STAGES)


def class_folders(root: Path) -> Path:
    for name, picture in (("cat", "chelsea"), ("dog", "dog")):
        (root / name).mkdir(parents=True)
        shutil.copy(SAMPLES / f"{picture}.jpg", root / name)
    return root


def small_config(tmp_path: Path) -> Path:
    data = class_folders(tmp_path / "data")
    return config(
        tmp_path,
        f'data = {json.dumps(str(data))}\nsteps = 2\nwidth = 0.25\nnorm = "batch"\nauxiliary = false\nsize = 75\n'
        'mini_batch = 2\ndevice = "cpu"\n',
    )


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = small_config(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, error = failed(capsys, "classifier", "--config", path, "--out", tmp_path / "file" / "run", "--quiet")
    assert status == 1 and "Not a directory" in error
    status, error = failed(capsys, "classifier", "--config", path, "--out", tmp_path / "file", "--quiet")
    assert status == 1 and "File exists" in error


def limited() -> None:
    """Let no file grow beyond 200 kB, as a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@pytest.mark.slow
def test_a_disk_without_room_for_the_checkpoint_is_one_line(tmp_path: Path):
    arguments = ["classifier", "--config", str(small_config(tmp_path)), "--out", str(tmp_path / "run"), "--quiet"]
    found = subprocess.run(
        [sys.executable, "-m", "detector.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=limited,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 1, found.stderr
    lines = found.stderr.splitlines()
    assert len(lines) == 1 and "cannot write" in lines[0] and "last.pt" in lines[0]
    assert not (tmp_path / "run" / "last.pt").exists()
    assert not list((tmp_path / "run").glob(".*tmp"))
