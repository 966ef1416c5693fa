"""The command `python -m proposals.extract`: on good and bad pictures, killed, resumed, refused, in three formats."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proposals.exchange import read_pickle
from proposals.extract import main, picture_id
from proposals.images import read_image
from proposals.opencv import selective_search_opencv
from proposals.proposer import SeededProposalOptions, make_proposer
from proposals.selective.search import selective_search
from proposals.store import ProposalStore
from proposals.stored import StoredProposals

PROJECT = Path(__file__).parents[2]
SAMPLES = PROJECT / "samples"
PATIENCE = 120  # seconds, on a busy machine
SAID = "python -m proposals.extract:"


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "proposals.extract", *map(str, arguments)]
    if "--proposals" not in arguments:
        command += ["--proposals", "ss"]
    return subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)


def ended(*arguments: str | Path, cwd: Path) -> tuple[int, str]:
    """Return exit status and standard error of the command in a process of its own."""
    process = start(*arguments, cwd=cwd)
    errors = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, errors


@pytest.fixture
def extract(tmp_path, monkeypatch, capsys):
    """The command in this process and in the folder of the test: exit status and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        words = [*map(str, arguments), "--proposals", "ss"]
        return main(words if "--workers" in words else [*words, "--workers", "1"]), capsys.readouterr().err

    return run


def strips(folder: Path, count: int, height: int = 10) -> list[str]:
    """Write thin pieces of a sample, which are searched in milliseconds; return their names in natural order."""
    folder.mkdir(exist_ok=True)
    image = Image.open(SAMPLES / "chelsea.jpg").convert("RGB").resize((100, 200))
    for i in range(count):
        top = i % (200 - height)
        image.crop((0, top, 100 - i // 200, top + height)).save(folder / f"s{i}.png")
    return [f"{folder.name}/s{i}.png" for i in range(count)]


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def workers(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_boxes_are_those_of_a_direct_call_on_any_number_of_workers(tmp_path, extract):
    names = strips(tmp_path / "pictures", 12)
    for count in (1, 2):
        assert extract("pictures", "--out", f"{count}.parquet", "--workers", count)[0] == 0
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    store = ProposalStore(tmp_path / "1.parquet")
    assert list(store.pictures) == names
    for name in names:
        image = np.asarray(Image.open(tmp_path / name))
        wanted, found = selective_search(image), store[name]
        assert found.boxes.tobytes() == wanted.boxes.tobytes()
        assert found.scores.tobytes() == wanted.scores.tobytes()
        assert found.sources.tobytes() == wanted.sources.tobytes()
        assert store.size(name) == (image.shape[1], image.shape[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "2.parquet", "pictures"]


def test_all_options_reach_the_search_and_the_parameters(tmp_path, extract):
    (name,) = strips(tmp_path / "p", 1, 40)
    options = ("--superpixel-scale", 1, "--seed", 7, "--ss-boxes", 5, "--mode", "single")
    assert extract(name, "--out", "own", *options, "--root", "p")[0] == 0
    store = ProposalStore(tmp_path / "own")
    image = np.asarray(Image.open(tmp_path / name))
    assert store["s0.png"].boxes.tobytes() == selective_search(image, "single", 1, 7, 5).boxes.tobytes()
    assert store.parameters == {
        "algorithm": 1,
        "backend": "own",
        "mode": "single",
        "superpixel_scale": 1,
        "seed": 7,
        "max_boxes": 5,
    }
    assert extract(name, "--out", "cv", "--backend", "opencv", "--seed", 3)[0] == 0
    assert (
        ProposalStore(tmp_path / "cv")[name].boxes.tobytes() == selective_search_opencv(image, seed=3).boxes.tobytes()
    )


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_without_a_lost_or_doubled_row(tmp_path):
    names = strips(tmp_path / "p", 200)
    command = ("p", "--out", "all", "--workers", 2)
    process = start(*command, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("all.parts/part-*.parquet")), process)
    orphans = workers(process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "all").exists()
    kept = {name for part in tmp_path.glob("all.parts/part-*") for name in ProposalStore(part)}
    assert 0 < len(kept) < len(names)
    status, errors = ended(*command, cwd=tmp_path)
    assert status == 0
    assert f"{len(kept)} of 200 pictures are in all already" in errors
    assert f"{200 - len(kept)} pictures, " in errors
    assert list(ProposalStore(tmp_path / "all").pictures) == names
    assert not (tmp_path / "all.parts").exists()
    assert len(orphans) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in orphans)  # they end with the pipe
    assert ended("p", "--out", "whole", cwd=tmp_path)[0] == 0
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "all").read_bytes()


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "t")]
)
@pytest.mark.slow
def test_a_signal_keeps_what_is_finished(tmp_path, number, status, word):
    strips(tmp_path / "p", 200)
    command = ("p", "--out", "all", "--quiet")
    process = start(*command, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("all.parts/part-*.parquet")), process)
    process.send_signal(number)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == status
    assert errors.count("\n") == 1 and errors.startswith(f"{SAID} {word}")
    kept = sum(len(ProposalStore(part)) for part in tmp_path.glob("all.parts/part-*"))
    assert f"{kept} finished pictures are kept" in errors


@pytest.mark.slow
def test_a_worker_that_dies_is_said_and_costs_no_picture(tmp_path):
    names = strips(tmp_path / "p", 200)
    process = start("p", "--out", "all", "--workers", 2, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("all.parts/part-*.parquet")), process)
    os.kill(workers(process)[0], signal.SIGKILL)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, errors
    assert errors.count("a worker process was killed, perhaps for want of memory; the pictures in work are tried") == 1
    assert list(ProposalStore(tmp_path / "all").pictures) == names


def test_bad_pictures_are_skipped_by_name_and_the_others_go_on(tmp_path, extract):
    good = strips(tmp_path / "p", 2)
    whole = (SAMPLES / "dog.jpg").read_bytes()
    (tmp_path / "p" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "p" / "empty.jpg").write_bytes(b"")
    (tmp_path / "p" / "text.jpg").write_text("no picture")
    Image.new("1", (9000, 5000)).save(tmp_path / "p" / "large.png")
    os.mkfifo(tmp_path / "p" / "pipe.jpg")
    command = ("p", "gone.jpg", "*.none", "--out", "all", "--backend", "opencv", "--max-pixels", 40_000_000)
    status, errors = extract(*command)
    assert status == 1
    for text in (
        "p/cut.jpg: is truncated",
        "p/empty.jpg: is empty (0 bytes)",
        "p/text.jpg: is not a picture",
        "p/large.png: holds 45,000,000 pixels, more than 40,000,000; raise the limit with --max-pixels",
        "gone.jpg: no such file",
        "*.none: no such file, and as a pattern",
    ):
        assert errors.count(f"{SAID} {text}") == 1
    assert f"{SAID} 6 skipped" in errors
    assert list(ProposalStore(tmp_path / "all").pictures) == good
    before = (tmp_path / "all").read_bytes()
    status, errors = extract(*command, "--quiet")  # they are tried again, and nothing is written
    assert (status, errors.count("\n")) == (1, 6)
    assert (tmp_path / "all").read_bytes() == before


def test_complete_extended_and_with_other_parameters(tmp_path, extract):
    strips(tmp_path / "p", 3)
    command = ("--out", "all", "--backend", "opencv")
    assert extract("p/s0.png", "p/s2.png", *command, "--quiet") == (0, "")
    before = (tmp_path / "all").stat()
    assert extract("p/s2.png", *command) == (0, f"{SAID} all is complete and unchanged: 2 pictures\n")
    assert (tmp_path / "all").stat().st_mtime_ns == before.st_mtime_ns
    status, errors = extract("p", *command)
    assert status == 0 and "2 of 3 pictures are in all already" in errors and f"{SAID} 1 pictures, " in errors
    assert ProposalStore(tmp_path / "all").pictures == ("p/s0.png", "p/s1.png", "p/s2.png")
    status, errors = extract("p", *command, "--seed", 1)
    assert status == 2 and errors.count("\n") == 1
    assert "all was made with seed 0, not seed 1; give the same options, name another --out, or remove all" in errors
    (tmp_path / "all").write_bytes((tmp_path / "all").read_bytes()[:-5])
    status, errors = extract("p", *command)
    assert status == 1 and "truncated or damaged" in errors and errors.count("\n") == 1
    assert not (tmp_path / "all.parts").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of a file to set")
@pytest.mark.slow
def test_a_part_that_cannot_be_written_ends_the_run_in_one_line(tmp_path):
    import resource

    strips(tmp_path / "p", 3)
    process = subprocess.run(
        [sys.executable, "-m", "proposals.extract", "p", "--out", "all", "--proposals", "ss", "--backend", "opencv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert process.returncode == 1
    assert (
        process.stderr.count("\n") == 1
        and "File too large" in process.stderr
        and "; 0 finished pictures are kept" in process.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["x.jpg"], "--out"),
        (["--out", "{}/all"], "no pictures"),
        (["x.jpg", "--out", "{}/no/all"], "there is no folder"),
        (["x.jpg", "--out", "{}"], "is a folder"),
        (["x.jpg", "--out", "{}/all", "--workers", "-1"], "--workers: must be at least 0, got -1"),
        (["x.jpg", "--out", "{}/all", "--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["x.jpg", "--out", "{}/all", "--mode", "slow"], "invalid choice"),
        (
            ["x.jpg", "--out", "{}/all", "--mode", "quality", "--backend", "opencv"],
            "--mode has no effect with --backend",
        ),
        (["x.jpg", "--out", "{}/all", "--proposals", "multibox", "--ss-boxes", "3"], "--ss-boxes has no effect with"),
        (["x.jpg", "--out", "{}/all", "--proposals", "nothing"], "nothing"),
        (["x.jpg", "--out", "{}/all", "--multibox", "nothing"], "nothing: no such file"),
        (["--list", "{}/none.txt", "--out", "{}/all"], "cannot read"),
        (["x.jpg", "--root", "{}/sub", "--out", "{}/all"], "no pictures"),
    ],
)
def test_wrong_usage(tmp_path, capsys, arguments, text):
    try:
        status: object = main([argument.format(tmp_path) for argument in arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 + (text == "no pictures" and "--root" in arguments)
    assert not any(tmp_path.iterdir())


def test_help_needs_none_of_the_large_libraries():
    code = (
        "import sys, proposals.extract; print({'numpy', 'cv2', 'numba', 'pyarrow', 'PIL', 'rich'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_a_list_is_taken_in_its_order_and_no_picture_twice(tmp_path, extract):
    strips(tmp_path / "p", 3)
    (tmp_path / "list.txt").write_text("p/s2.png\n\n./p/s0.png\np/s2.png\n")
    status, _ = extract("--list", "list.txt", "--out", "all", "--backend", "opencv", "p/s1.png")
    assert status == 0
    assert ProposalStore(tmp_path / "all").pictures == ("p/s1.png", "p/s2.png", "p/s0.png")


def test_the_id_of_a_picture_is_its_path_as_text():
    assert picture_id(Path("b/./9.png")) == "b/9.png"
    assert picture_id(Path("b/../b/9.png"), Path("b")) == "9.png"
    with pytest.raises(ValueError, match="not below --root b"):
        picture_id(Path("a.jpg"), Path("b"))
    with pytest.raises(ValueError, match="not valid text"):
        picture_id(Path(os.fsdecode(b"\xff.jpg")))


def test_pixels_and_names_are_those_of_detect(tmp_path, extract):
    """A 16-bit grey picture with a transparent value was black here and white there; a list had its mark in a name."""
    (tmp_path / "p").mkdir()
    values = np.full((40, 60), 4000, np.uint16)
    values[10:30, 20:50] = 65535
    Image.fromarray(values).save(tmp_path / "p" / "deep.png", transparency=4000)
    (tmp_path / "p" / "not.heic").write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfp/deep.png\r\n")
    status, errors = extract("p", "--out", "all", "--mode", "single")
    assert status == 1 and f"{SAID} p/not.heic: is not a picture" in errors
    image = read_image(tmp_path / "p" / "deep.png")
    assert image.min() == 255
    found = ProposalStore(tmp_path / "all")
    assert found["p/deep.png"].boxes.tobytes() == selective_search(image, "single").boxes.tobytes()
    assert extract("--list", "list.txt", "--out", "all", "--mode", "single", "--quiet") == (0, "")


@pytest.mark.parametrize("format", ["parquet", "mat", "pkl"])
def test_the_regions_of_detect_in_three_formats(tmp_path, capsys, format):
    """By default both, as `detect` has them; a file of them gives them back, also in another format."""
    (tmp_path / "p").mkdir()
    for name in ("chelsea", "dog"):
        Image.open(SAMPLES / f"{name}.jpg").resize((90, 60)).save(tmp_path / "p" / f"{name}.png")
    out = tmp_path / f"all.{format}"
    command = [str(tmp_path / "p"), "--out", str(out), "--workers", "1", "--quiet"]
    assert main(command) == 0
    proposer, stored = make_proposer(SeededProposalOptions()), StoredProposals(out)
    for path in (tmp_path / "p").iterdir():
        image = read_image(path)
        wanted, found = proposer(image), stored(image, path)
        np.testing.assert_array_equal(found.boxes, wanted.boxes)
        if format == "parquet":
            np.testing.assert_array_equal(found.sources, wanted.sources)
            np.testing.assert_array_equal(found.objectness, wanted.objectness)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "p"]
    if format != "parquet":
        assert main(command) == 2
        assert f"is there already, and a {format} file cannot be added to" in capsys.readouterr().err
        return
    again = ["--out", str(tmp_path / "again"), "--proposals", str(out), "--format", "pkl", "--workers", "1", "--quiet"]
    assert main([str(tmp_path / "p"), *again]) == 0
    found = read_pickle(tmp_path / "again")
    assert list(found) == ["chelsea", "dog"]
    np.testing.assert_array_equal(found["dog"].boxes, stored.of(tmp_path / "p" / "dog.png").boxes)
