"""The command: exit statuses, one-line errors, clean standard output, files of its own, and the real detector."""

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector import __version__, formats
from detector.cli import detect as command
from detector.cli.inputs import MAX_PIXELS
from detector.cli.outputs import FORMATS, PLAIN_COLUMNS, plain_rows, print_table
from detector.detections import Detections
from detector.detector import Detector
from detector.formats.readers import from_voc
from detector.options import DetectOptions
from proposals.console import printable
from proposals.images import MAX_PIXELS as LOADER_MAX_PIXELS
from proposals.images import read_image
from proposals.types import MULTIBOX, SELECTIVE_SEARCH

ROOT = Path(__file__).parents[3]
DOG = ROOT / "samples" / "dog.jpg"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three flat strips of a real picture, which have few regions and so take little time."""
    dog = Image.open(DOG)
    for name, top in (("a.png", 330), ("b.png", 360), ("sub/a.png", 390)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        dog.crop((130, top, 290, top + 10)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK: list[str] = []  # options of a run in which the network is not the point


@pytest.fixture(autouse=True)
def quick(small_network: str) -> None:
    QUICK[:] = ["--model", small_network, "--proposals", "ss"]


def main(arguments: Sequence[str]) -> int:
    """Run the command in this process with a small network."""
    return command.main([*QUICK, *arguments])


def detect(*arguments: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    line = [sys.executable, "-m", "detector.cli", *QUICK, *arguments]
    return subprocess.run(line, capture_output=True, env=ENVIRONMENT, timeout=120, **options)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The complaint of a command that must end with status 2, one line on standard error and nothing else."""
    try:
        status = command.main(arguments)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert err.startswith("detect: error: ") and err.endswith(" (see --help)\n") and err.count("\n") == 1
    return err.removeprefix("detect: error: ").removesuffix(" (see --help)\n")


def test_names_told_twice_agree() -> None:
    assert ("table", *formats.FORMATS) == FORMATS
    assert MAX_PIXELS == LOADER_MAX_PIXELS


def test_help_version_and_models(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    words = (
        "--model --proposals --threshold --nms --top --classes --format --out --device --runtime --batch-size --seed"
    )
    for option in (
        *words.split(),
        "--every",
        "--frames",
        "--max-pixels",
        "--config",
        "--quiet",
        "--verbose",
        "--list-models",
        "--version",
    ):
        assert option in text
    default = DetectOptions()
    assert f"(default: {default.threshold:g})" in text and f"(default: {default.model})" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"detect {__version__}\n"
    assert command.main(["--list-models"]) == 0
    assert any(line.startswith(f"{default.model}  ") for line in capsys.readouterr().out.splitlines())


def test_wrong_usage(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    for arguments, complaint in (
        ([], "no pictures given; try: detect samples/dog.jpg"),
        (["--threshold", "2"], "argument --threshold: must lie in 0..1, got 2"),
        (["--threshold", "nan"], "argument --threshold: must lie in 0..1, got nan"),
        (["--nms=-1"], "argument --nms: must lie in 0..1, got -1"),
        (["--top", "0"], "argument --top: must be at least 1, got 0"),
        (["--batch-size", "-1"], "argument --batch-size: must lie in 0..1024, got -1"),
        (["--seed=-1"], "argument --seed: must be at least 0, got -1"),
        (["--max-pixels", "0"], "argument --max-pixels: must be at least 1, got 0"),
        (["--every", "0"], "argument --every: must be at least 1, got 0"),
        (["--frames=-1"], "argument --frames: must be at least 0, got -1"),
        (["--threshold", "high"], "argument --threshold: must be a number, got 'high'"),
        (["--top", "1.5"], "argument --top: must be a whole number, got '1.5'"),
        (["--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["--proposals", "grid"], "--proposals grid: no such file; give ss, multibox, both, or a file"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--thresh", "0.5"], "unrecognized arguments: --thresh"),
        (["--quiet", "--verbose"], "argument -v/--verbose: not allowed with argument -q/--quiet"),
        (["--classes", "dgo"], "--classes: unknown class 'dgo' (a name or an id 1..200); did you mean 'dog'?"),
        (["--classes", "dog,,cat"], "--classes: unknown class ''"),
        (["--classes", "201"], "--classes: unknown class '201'"),
        (["--ensemble", "inception_v3,inc"], "--ensemble inc: no model of that name and no file"),
        (["--cascade", "2"], "argument --cascade: must lie in 0..1, got 2"),
        (["--cascade", "0.5"], "--cascade has no effect without --ensemble"),
        (["--model", "inception"], "--model inception: no model of that name and no file; known models: "),
        (["--config", "no.toml"], "--config no.toml: No such file or directory"),
        (["--out", "a.png"], "--out a.png: is no folder; give a folder that can be written"),
        (["--out", "a.png/x"], "--out a.png/x: a.png is no folder; give a folder that can be written"),
        (["--out", "out", "--no-save"], "--no-save and --out exclude each other"),
    ):
        found = usage_error(capsys, *arguments, *(["a.png"] if arguments else []))
        assert found.startswith(complaint), found
    assert sorted(path.name for path in album.iterdir()) == ["a.png", "b.png", "sub"]  # no folder for no outputs


def test_config_file(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    config = album / "my.toml"
    for text, complaint in (
        ("treshold = 0.5", "my.toml: unknown key 'treshold'; the nearest one is 'threshold'"),
        ("threshold = 'x'", "my.toml: 'threshold' must be float, got 'x'"),
        ("threshold =", "my.toml: not valid TOML"),
        ("model = 'none'", "my.toml: model none: no model of that name and no file"),
        ("# é", "my.toml: byte 2 is not UTF-8; save the file as UTF-8 text"),
    ):
        config.write_text(text, encoding="latin-1")
        assert complaint in usage_error(capsys, "--config", "my.toml", "no.png")  # before any picture is looked for
    config.write_text("threshold = 0.9\ntop = 1")
    assert main(["a.png", "--config", "my.toml", "--threshold", "0.001", "--format", "json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["detections"]
    assert len({d["label"] for d in found}) == len(found) > 0  # top = 1 a class is the file's
    assert min(d["score"] for d in found) < 0.9  # the command line goes over the file


@pytest.mark.parametrize("proposals", ["multibox", "both"])
def test_multibox_without_weights_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, album: Path, proposals: str
) -> None:
    monkeypatch.setattr("detector.multibox.shipped_multibox", lambda: None)
    with pytest.raises(ValueError, match="no MultiBox weights are installed"):
        Detector(DetectOptions(proposals=proposals))
    complaint = usage_error(capsys, "no.png", "--proposals", proposals)  # no.png is not even missed
    assert complaint == f"proposals '{proposals}': no MultiBox weights are installed; use --proposals ss"


def test_options_without_effect_are_wrong_usage(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    cure = "give --proposals multibox or both"
    for arguments, complaint in (
        (("--multibox", "x.safetensors", "--proposals", "ss"), f"--multibox has no effect with --proposals ss; {cure}"),
        (("--objectness", "0.25", "--proposals", "ss"), f"--objectness has no effect with --proposals ss; {cure}"),
        (("--backend", "opencv", "--proposals", "multibox"), "--backend has no effect with --proposals multibox; "),
        (("--objectness", "1"), "argument --objectness: must lie in 0..1, below 1, got 1"),
    ):
        assert usage_error(capsys, "no.png", *arguments).startswith(complaint)
    config = album / "my.toml"
    config.write_text("objectness = 0.25\nproposals = 'ss'")
    assert usage_error(capsys, "no.png", "--config", "my.toml").startswith("my.toml: objectness has no effect with ")
    config.write_text("objectness = 0.25")  # for other runs than this one
    assert main(["a.png", "--config", "my.toml", "--proposals", "ss", "--format", "json", "-q"]) == 0


def test_results_are_those_of_the_detector(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    options = DetectOptions(model=QUICK[1], proposals="ss", threshold=0.001, top=5)
    expected = Detector(options)(read_image("a.png"))
    assert len(expected) > 1
    assert main(["a.png", "--threshold", "0.001", "--top", "5", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert out == formats.render(expected, "json", "a.png", 1) and err == ""


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_streams_and_fills_files(capsys: pytest.CaptureFixture[str], album: Path, format: str) -> None:
    status = main(["a.png", "no.png", "sub/a.png", "--threshold", "0.001", "--format", format, "--out", "out"])
    out, err = capsys.readouterr()
    assert status == 1
    assert err == "detect: no.png: no such file\n"
    kind = "json" if format == "table" else format
    saved = {path.name for path in (album / "out").iterdir()}
    suffix = formats.SUFFIX[kind]
    assert saved == {f"{stem}.detected{end}" for stem in ("a", "a-2") for end in (".jpg", suffix)}
    for stem, name in (("a", "a.png"), ("a-2", "sub/a.png")):
        assert read_image(f"out/{stem}.detected.jpg").shape == read_image(name).shape
    text = (album / "out" / f"a-2.detected{suffix}").read_text()
    match format:
        case "table":
            lines = out.splitlines()
            assert lines[0].split("\t") == list(PLAIN_COLUMNS)
            assert {line.split("\t")[0] for line in lines[1:]} == {"a.png", "sub/a.png"}
            assert {len(line.split("\t")) for line in lines} == {8}
            assert json.loads(text)["picture"] == "sub/a.png"
        case "json":
            assert [json.loads(line)["picture"] for line in out.splitlines()] == ["a.png", "sub/a.png"]
            assert out.endswith(text)
        case "csv":
            header, *rows = out.splitlines()
            assert text.splitlines() == [header, *[row for row in rows if row.startswith("sub/a.png,")]]
        case "coco":
            entries = json.loads(out)
            assert {entry["image_id"] for entry in entries} == {1, 3}  # no.png takes a number, as a damaged one would
            assert json.loads(text) == [entry for entry in entries if entry["image_id"] == 3]
        case "ilsvrc":
            assert text.splitlines() == [line for line in out.splitlines() if line.startswith("3 ")] != []
        case "voc":
            assert list(from_voc(out.encode(), "stdout")) == ["a.png", "sub/a.png"]
            assert list(from_voc(text.encode(), "file")) == ["sub/a.png"]
        case "yolo":
            assert out.startswith("# a.png\n") and out.endswith(f"# sub/a.png\n{text}")


def test_a_bad_picture_keeps_its_number_and_name(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    (album / "bad").mkdir()
    (album / "bad" / "a.png").write_bytes((album / "a.png").read_bytes()[:100])
    status = main(["bad/a.png", "a.png", "--threshold", "0.001", "--format", "coco", "--out", "out"])
    out, err = capsys.readouterr()
    assert status == 1
    assert {entry["image_id"] for entry in json.loads(out)} == {2}
    assert err == "detect: bad/a.png: is truncated: the file ends too early; copy or download it again\n"
    assert sorted(path.name for path in (album / "out").iterdir()) == ["a-2.detected.jpg", "a-2.detected.json"]


def test_failures_are_lines_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    (album / "text.jpg").write_text("hello")
    (album / "empty.jpg").touch()
    (album / "void").mkdir()
    arguments = [
        "no.jpg",
        "*.gif",
        "void",
        "text.jpg",
        "empty.jpg",
        "a.png",
        "--max-pixels",
        "1599",
        "--format",
        "json",
    ]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "detect: no.jpg: no such file",
        "detect: *.gif: no such file, and as a pattern it matches no picture",
        "detect: void: no pictures in this folder (looked for .jpg, .png, .webp, .tif and the like)",
        "detect: text.jpg: is not a picture; JPEG, PNG, WebP, GIF, BMP, TIFF and the like are read",
        "detect: empty.jpg: is empty (0 bytes)",
        "detect: a.png: holds 1,600 pixels, more than 1,599; raise the limit with --max-pixels",
    ]


def test_nothing_to_read_does_not_load_the_network(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    begin = time.perf_counter()
    assert main(["no.jpg", "--format", "coco"]) == 1
    assert time.perf_counter() - begin < 0.3
    assert json.loads(capsys.readouterr().out) == []


def test_classes_and_verbose(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    assert main(["a.png", "--threshold", "0", "--classes", "Dog, 59", "--verbose", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    found = [line.split(",")[1] for line in out.splitlines()[1:]]
    assert set(found) == {"dog", "domestic cat"}
    ready, stages = err.splitlines()
    seconds = [re.search(r"(\d+\.\d\d) s after the command started$", line) for line in (ready, stages)]
    assert seconds[0] and seconds[1] and 0 < float(seconds[0][1]) < float(seconds[1][1]) < 60
    for word in ("proposals", "crops, ", f"{len(found)} detections", "propose", "classify", "suppress", "crops/s)"):
        assert word in stages


def test_inputs_are_never_overwritten_and_reruns_write_the_same(album: Path) -> None:
    shutil.copy("a.png", "a.detected.jpg")
    before = Path("a.detected.jpg").read_bytes()
    for _ in range(2):
        assert main(["a.png", "a.detected.jpg", "--out", ".", "--quiet"]) == 0
        assert Path("a.detected.jpg").read_bytes() == before
        assert sorted(path.name for path in album.glob("a*")) == [
            *("a-2.detected.jpg", "a-2.detected.json", "a.detected.detected.jpg", "a.detected.detected.json"),
            *("a.detected.jpg", "a.png"),
        ]


def test_outputs_in_a_folder_are_no_inputs_of_the_next_run(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    for _ in range(2):
        assert main(["sub", "--out", "sub", "--format", "json"]) == 0
        assert [json.loads(line)["picture"] for line in capsys.readouterr().out.splitlines()] == ["sub/a.png"]
    assert sorted(path.name for path in (album / "sub").iterdir()) == [
        *("a.detected.jpg", "a.detected.json", "a.png"),
    ]


def test_standard_input_odd_names_and_options_between(album: Path) -> None:
    odd = [os.fsdecode(b"\xff.png"), "new\nline.png", "-dash.png"]
    for name in odd:
        shutil.copy("a.png", name)
    content = Path("a.png").read_bytes()
    done = detect("-", odd[0], "--format", "json", odd[1], "--out", "out", "--", odd[2], input=content)
    assert done.returncode == 0 and done.stderr == b""
    lines = [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]
    assert [line["picture"] for line in lines] == ["-", *odd]
    assert len({json.dumps(line["detections"]) for line in lines}) == 1
    assert (album / "out" / "stdin.detected.jpg").exists()
    assert len(list((album / "out").iterdir())) == 8
    done = detect(*odd[:2], "--format", "csv", "--quiet", "--threshold", "0.001")
    assert done.returncode == 0
    assert {name.split(",")[0] for name in done.stdout.decode().splitlines()[1:]} >= {"\\xff.png"}
    done = detect(odd[0] + "no", "two\nlines")
    assert (done.returncode, done.stderr) == (
        1,
        b"detect: \\xff.pngno: no such file\ndetect: two\\nlines: no such file\n",
    )


def test_no_picture_on_standard_input(album: Path) -> None:
    done = detect("-", input=b"")
    assert (done.returncode, done.stderr) == (1, b"detect: -: is empty (0 bytes)\n")


def test_bundled_sample_outside_a_checkout(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    assert (
        main(["samples/dog.jpg", "--format", "json", "--classes", "dog", "--threshold", "0", "--ss-boxes", "40"]) == 0
    )
    out, err = capsys.readouterr()
    assert err.startswith("detect: samples/dog.jpg is not here; using the bundled ")
    result = json.loads(out)
    assert (result["picture"], result["width"], result["height"]) == ("samples/dog.jpg", 768, 576)
    assert result["detections"] and {d["class"] for d in result["detections"]} == {"dog"}


def modules_after(code: str, cwd: Path) -> set[str]:
    script = f"import sys\n{code}\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=ENVIRONMENT, cwd=cwd, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_command_imports_little(album: Path) -> None:
    heavy = {"torch", "torchvision", "openvino", "cv2", "rich", "numpy", "PIL", "sklearn", "pandas", "scipy"}
    for option in ("--version", "--help"):
        code = f"from detector.cli.detect import main\ntry: main(['{option}'])\nexcept SystemExit: pass"
        assert not heavy & modules_after(code, album)
    run = "from detector.cli.detect import main\nassert main(['a.png', '--runtime', 'openvino', '--out', 'out']) == 0"
    loaded = modules_after(run, album)
    assert "openvino" in loaded
    # scipy.linalg is not on the list: numba takes BLAS from it where it is installed
    assert not {"torch", "torchvision", "sklearn", "pandas", "scipy.sparse", "scipy.optimize", "matplotlib"} & loaded


def test_broken_pipe_ends_quietly(album: Path) -> None:
    line = [sys.executable, "-m", "detector.cli", *QUICK, "a.png", "b.png", "--threshold", "0", "--format", "csv"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b"picture,")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stderr.close()


@pytest.mark.parametrize("arguments", [["a.png", "--format", "json"], ["--list-models"], ["--help"], ["--version"]])
def test_full_disk(album: Path, arguments: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "detector.cli", *QUICK, *arguments]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60)
    assert done.stderr == b"detect: cannot write to standard output: No space left on device\n"
    assert done.returncode == 1


def test_out_folder_that_goes_away(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    (album / "out").mkdir()
    (album / "out" / "a.detected.jpg").mkdir()  # a folder where the picture should go
    assert main(["a.png", "b.png", "--out", "out", "--format", "json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["picture"] == "a.png"  # what was found is not lost with the drawing
    assert err.count("\n") == 1 and "out/a.detected.jpg" in err and err.startswith("detect: cannot write ")


def test_a_default_folder_that_cannot_be_had_costs_only_the_drawings(
    capsys: pytest.CaptureFixture[str], album: Path
) -> None:
    (album / "detected").touch()  # stands where the folder would, as a read-only folder around it would
    assert main(["a.png", "b.png", "--threshold", "0.001"]) == 0
    out, err = capsys.readouterr()
    assert {line.split("\t")[0] for line in out.splitlines()[1:]} == {"a.png", "b.png"}
    reason = "cannot save in this folder: File exists"
    assert err == f"detect: detected: {reason}; going on unsaved (--out names another folder)\n"


def test_folders_are_made_when_there_is_something_to_save(album: Path) -> None:
    for arguments in (["no.png"], ["no.png", "--out", "a/b"]):
        assert main(arguments) == 1
    assert sorted(path.name for path in album.iterdir()) == ["a.png", "b.png", "sub"]
    assert main(["a.png", "--out", "a/b"]) == 0
    assert sorted(path.name for path in (album / "a" / "b").iterdir()) == ["a.detected.jpg", "a.detected.json"]


def test_a_picture_too_long_for_jpeg_is_drawn_as_png(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    Image.new("RGB", (65_501, 21), "teal").save("long.png")
    assert main(["long.png", "--format", "json", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["width"], err) == (65_501, "")
    assert sorted(path.name for path in (album / "out").iterdir()) == ["long.detected.json", "long.detected.png"]
    assert read_image("out/long.detected.png").shape == (21, 65_501, 3)


def test_a_bundled_picture_is_told_even_to_a_quiet_run(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    assert main(["-q", "samples/dog.jpg", "--max-pixels", "1", "--format", "json"]) == 1
    note, complaint = capsys.readouterr().err.splitlines()
    assert note.startswith("detect: samples/dog.jpg is not here; using the bundled ")
    assert complaint.startswith("detect: samples/dog.jpg: holds ")
    assert main(["-q", "dog.jpg", "--format", "json"]) == 1
    assert capsys.readouterr() == ("", "detect: dog.jpg: no such file\n")


def test_a_pipe_without_a_writer_does_not_hang(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    os.mkfifo("pipe.jpg")
    assert main(["pipe.jpg", "--format", "json"]) == 1
    complaint = "detect: pipe.jpg: is a pipe; give a picture file, or - for standard input\n"
    assert capsys.readouterr() == ("", complaint)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--", "-x.png"], ["-x.png"]),
        (["a.png", "--", "-x.png", "--"], ["a.png", "-x.png", "--"]),
        (["-q", "--", "-x.png"], ["-x.png"]),
        (["a.png", "-q", "--"], ["a.png"]),
    ],
)
def test_names_after_two_dashes(
    capsys: pytest.CaptureFixture[str], album: Path, arguments: list[str], names: list[str]
) -> None:
    shutil.copy("a.png", "-x.png")
    shutil.copy("a.png", "--")
    assert main(["--format", "json", *arguments]) == 0
    assert [json.loads(line)["picture"] for line in capsys.readouterr().out.splitlines()] == names


@pytest.mark.parametrize(("closed", "out"), [(">&-", b""), ("2>&-", b'{"picture": "a.png"'), (">&- 2>&-", b"")])
def test_closed_streams(album: Path, closed: str, out: bytes) -> None:
    line = f'exec "$0" -m detector.cli "$@" a.png no.png --format json --verbose {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable, *QUICK], capture_output=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 1  # of no.png, which is told where there is a stream for it
    assert done.stdout.startswith(out) and bool(done.stdout) == bool(out)
    assert (b"no.png: no such file" in done.stderr) == ("2>" not in closed) and b"Traceback" not in done.stderr


def test_termination_cleans_up(album: Path) -> None:
    for i in range(200):
        shutil.copy("a.png", f"copy{i}.png")
    options = ["--format", "coco", "--threshold", "0.01", "--out", "out"]
    line = [sys.executable, "-m", "detector.cli", *QUICK, ".", *options]
    process = subprocess.Popen(line, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    first = b""
    while b"image_id" not in first:
        first += process.stdout.read(4096) or pytest.fail("the command ended too early")
    process.terminate()
    rest, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, b"detect: terminated\n")
    assert json.loads(first + rest)
    assert not list(album.rglob("*.tmp"))


def test_termination_is_left_as_it_was(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    for handler in (signal.SIG_DFL, signal.SIG_IGN):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            assert main(["no.png"]) == 1
            assert signal.getsignal(signal.SIGTERM) == handler
        finally:
            signal.signal(signal.SIGTERM, before)


def test_unwritable_out_folder(capsys: pytest.CaptureFixture[str], album: Path) -> None:
    (album / "locked").mkdir(mode=0o500)
    if os.access(album / "locked", os.W_OK):
        pytest.skip("permissions do not bind this user")
    assert usage_error(capsys, "a.png", "--out", "locked").startswith("--out locked: permission denied")


def test_interrupt(album: Path) -> None:
    for i in range(200):
        shutil.copy("a.png", f"copy{i}.png")
    line = [sys.executable, "-m", "detector.cli", *QUICK, ".", "--format", "coco", "--threshold", "0.01"]
    process = subprocess.Popen(line, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    first = b""
    while b"image_id" not in first:  # results come while the command is at work
        first += process.stdout.read(4096) or pytest.fail("the command ended too early")
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"detect: interrupted\n"
    assert json.loads(first + rest)  # what was done by then is a whole document


def test_interrupt_while_standard_input_keeps_the_command_waiting(album: Path) -> None:
    line = [sys.executable, "-m", "detector.cli", *QUICK, "a.png", "-", "b.png", "--format", "json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(line, env=ENVIRONMENT, **pipes)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["picture"] == "a.png"
    process.send_signal(signal.SIGINT)  # nobody writes to its standard input, nor closes it
    assert process.wait(30) == 130
    assert (process.stdout.read(), process.stderr.read()) == (b"", b"detect: interrupted\n")
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_notes_and_complaints_stay_among_the_results(album: Path) -> None:
    """On one stream, so that their order shows: read ahead, but told in turn."""
    (album / "bad.png").write_text("hello")
    arguments = ["a.png", "bad.png", "samples/dog.jpg", "b.png", "--max-pixels", "2000", "--format", "json"]
    line = [sys.executable, "-m", "detector.cli", *QUICK, *arguments]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, timeout=60)
    heads = ('{"picture": "a.png"', "detect: bad.png: is not", "detect: samples/dog.jpg is not here", "detect: samples")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 5
    for line, head in zip(lines, (*heads, '{"picture": "b.png"'), strict=True):
        assert line.startswith(head)


def on_terminal(*arguments: str) -> tuple[int, str]:
    """The status and the screen of a command whose three streams are a terminal of 100 columns."""
    pid, screen = pty.fork()
    if pid == 0:
        environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "50"}
        os.execve(sys.executable, [sys.executable, "-m", "detector.cli", *QUICK, *arguments], environment)
    text = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the terminal closes with its last process
            break
        if not part:
            break
        text += part
    os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


@pytest.mark.slow
def test_terminal_gets_tables_a_bar_and_a_hint(album: Path) -> None:
    status, screen = on_terminal("a.png", "b.png", "no.png", "--threshold", "0.001")
    assert status == 1
    assert "a.png" in screen and "160 x 10" in screen and "score" in screen and "selective search" in screen
    assert "\x1b[1m" in screen  # colours and bold
    assert "0/2" in screen and "1/2" in screen  # the bar counts pictures, not complaints
    assert "detect: no.png: no such file" in screen
    assert "drawn pictures and results are in detected/" in screen
    status, screen = on_terminal("a.png")
    assert status == 0
    assert "drawn pictures and results are in detected/" in screen and (album / "detected" / "a.detected.jpg").is_file()
    assert "0/1" not in screen


def test_quiet_terminal_gets_nothing_but_results(album: Path) -> None:
    status, screen = on_terminal("a.png", "b.png", "--quiet", "--format", "json")
    assert status == 0
    assert [json.loads(line)["picture"] for line in screen.splitlines()] == ["a.png", "b.png"]


def test_a_narrow_terminal_keeps_class_and_score_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    detections = Detections(
        np.array([[0, 0, 1, 1], [1000, 1001, 1300, 1400]], np.float32),
        np.array([0.98766, 0.5], np.float32),
        np.array([1, 2]),
        np.array([SELECTIVE_SEARCH, SELECTIVE_SEARCH]),
        (5000, 6000),
        ("salt or pepper shaker", "dog"),
    )
    for columns in (40, 69, 70, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        screen = io.StringIO()
        monkeypatch.setattr(sys, "stdout", screen)
        print_table(detections, "a.jpg", 0.1)
        lines = screen.getvalue().splitlines()
        assert max(map(len, lines)) <= columns and "…" not in screen.getvalue()
        rows = [line for line in lines if re.match(r" *(salt or pepper shaker +0\.988|dog +0\.500) ", line)]
        assert len(rows) == 2
        words = " ".join(screen.getvalue().split())
        assert ("selective" in words) == (columns >= 70)
        assert all(number in words for number in ("1000", "1001", "1300", "1400"))


def test_terminal_as_standard_input_is_no_picture(album: Path) -> None:
    status, screen = on_terminal("-")
    assert status == 1
    assert "detect: -: no picture on standard input; pipe one into the command" in screen


def test_plain_rows_by_hand() -> None:
    detections = Detections(
        np.array([[0, 0, 1, 1], [1.25, 2, 30, 40.75]], np.float32),
        np.array([0.98766, 0.5], np.float32),
        np.array([2, 1]),
        np.array([MULTIBOX, SELECTIVE_SEARCH]),
        (50, 60),
        ("dog", "domestic cat"),
    )
    assert plain_rows(detections, "a\tb.jpg") == (
        "a\\tb.jpg\tdomestic cat\t0.9877\t0.0\t0.0\t1.0\t1.0\tmultibox\n"
        "a\\tb.jpg\tdog\t0.5000\t1.2\t2.0\t30.0\t40.8\tselective search\n"
    )
    assert plain_rows(Detections.empty((5, 5), ("dog",)), "x") == ""


def test_printable() -> None:
    assert printable("Ünï 狗 [x].jpg") == "Ünï 狗 [x].jpg"
    assert printable("a\nb\t\x1b[0m\u2028") == "a\\nb\\t\\x1b[0m\\u2028"
    assert printable(os.fsdecode(b"\xffa")) == "\\xffa"


def test_memory_does_not_grow_with_the_pictures(album: Path) -> None:
    big = Image.open(DOG).crop((130, 330, 290, 332)).resize((1600, 20))
    for i in range(12):
        big.save(f"sub/{i}.bmp")
    code = """
import resource, sys
from detector.cli.detect import main
peaks = []
for count in (4, 12):
    assert main([*sys.argv[1:], *[f"sub/{i}.bmp" for i in range(count)], "--quiet", "--format", "json"]) == 0
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *QUICK], capture_output=True, env=ENVIRONMENT, text=True, timeout=120
    )
    first, second = map(int, done.stderr.split())
    assert second < 1.3 * first


def test_an_ensemble_and_its_cascade() -> None:
    from detector.cli.detect import detect_options, parse_arguments

    args = ["a.jpg", "--no-save", "--model", "inception_v3@96", "--ensemble", "inception_v3@75", "--cascade", "0.3"]
    options = detect_options(parse_arguments(args))
    assert (options.model, options.ensemble, options.cascade) == ("inception_v3@96", "inception_v3@75", 0.3)
