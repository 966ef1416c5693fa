"""The commands of the package as the shell sees them: exit statuses of signals, streams that the caller closed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proposals.console import Console

PROJECT = Path(__file__).parents[2]
SAMPLES = PROJECT / "samples"
PATIENCE = 120  # seconds, on a busy machine
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT)}
posix = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors of POSIX")


@pytest.fixture
def long_work(tmp_path: Path) -> list[str]:
    """A command that takes half a minute, and says that its first picture is damaged when it has begun with them."""
    names = [f"p{i:02}.jpg" for i in range(40)]
    (tmp_path / names[0]).write_bytes((SAMPLES / "chelsea.jpg").read_bytes()[:5000])
    for name in names[1:]:
        (tmp_path / name).symlink_to(SAMPLES / "chelsea.jpg")
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9]} for i in range(len(names))],
    }
    data = tmp_path / "data.json"
    data.write_text(json.dumps(content))
    options = ["--data", str(data), "--mode", "quality", "--superpixel-scale", "1", "--workers", "1", "--json"]
    return [sys.executable, "-m", "eval.recall", *options]


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_the_work_with_its_status(
    number: signal.Signals, status: int, said: str, long_work: list[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        process = subprocess.Popen(
            long_work, cwd=PROJECT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            assert process.stderr is not None
            assert "p00.jpg" in process.stderr.readline()  # it works
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == status
    assert out == "" and err == f"python -m eval.recall: {said}\n"


@pytest.fixture(params=["eval.map", "eval.recall"])
def short_work(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A command that prints JSON, and a note on standard error."""
    if request.param == "eval.recall":
        return [sys.executable, "-m", "eval.recall", "--mode", "single", "--workers", "1", "--json"]
    content = json.loads((SAMPLES / "annotations.json").read_text())
    found = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for a in content["annotations"]]
    found.append({**found[0], "image_id": 10**6})  # of no picture of the set, which is said
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found))
    return [
        sys.executable,
        "-m",
        "eval.map",
        "--data",
        "samples",
        "--predictions",
        str(file),
        "--skip-unknown",
        "--json",
    ]


def with_streams(command: list[str], redirection: str) -> tuple[int, str, str]:
    """Run a command with a redirection of the shell; return exit status, standard output and error."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        cwd=PROJECT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@posix
def test_closed_streams_are_no_failure_and_leave_the_other_one_clean(short_work: list[str]) -> None:
    status, out, err = with_streams(short_work, "")
    assert status == 0 and json.loads(out) and err.startswith("python -m eval.") and err.count("\n") == 1
    assert with_streams(short_work, "2>&-") == (0, out, "")
    assert with_streams(short_work, ">&-") == (0, "", err)
    assert with_streams(short_work, "<&- >&- 2>&-") == (0, "", "")


@posix
def test_errors_of_closed_streams_keep_their_status() -> None:
    wrong = [sys.executable, "-m", "eval.recall", "--data", "nowhere.json"]
    assert with_streams(wrong, "2>&-") == (1, "", "")
    status, out, err = with_streams(wrong, ">&-")
    assert (status, out) == (1, "") and "nowhere.json" in err and err.count("\n") == 1
    assert with_streams([*wrong, "--workers=-1"], "2>&-") == (2, "", "")


@pytest.mark.parametrize("package", ["proposals", "detector"])
def test_the_log_of_both_packages_becomes_notes(capsys: pytest.CaptureFixture[str], package: str) -> None:
    logs = [logging.getLogger(name) for name in ("proposals", "detector")]
    before = [(log.handlers, log.propagate) for log in logs]
    try:
        Console("detect").show_log()
        thread = threading.Thread(target=logging.getLogger(package).warning, args=("left out: %d", 7))
        thread.start()
        thread.join()
        assert capsys.readouterr() == ("", "detect: left out: 7\n")
        Console("detect", quiet=True).show_log()
        logging.getLogger(package).warning("left out")
        assert capsys.readouterr() == ("", "")
    finally:
        for log, (handlers, propagate) in zip(logs, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
