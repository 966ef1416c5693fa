"""Videos: frames in, an annotated video out, one line for what cannot be read; and the command on real clips."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from detector import formats
from detector.cli import detect
from detector.detector import Detector
from detector.formats.readers import from_voc
from detector.options import DetectOptions
from detector.video import USUAL_RATE, VideoWriter, count_frames, read_frames
from proposals.images import Image, ImageError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SIZE = (160, 16)  # flat strips have few regions, which take little time
PIXELS = 10**6


def strip(number: int) -> Image:
    """A strip of a real picture, from another place for each number."""
    dog = Pillow.open(ROOT / "samples" / "dog.jpg")
    return np.asarray(dog.crop((130 + 3 * number, 330, 130 + 3 * number + SIZE[0], 330 + SIZE[1])))


def make_clip(path: Path, frames: int, codec: str = "mp4v", rate: float = 10.0) -> None:
    """Write a video with OpenCV alone, without the writer under test."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, SIZE)
    for number in range(frames):
        writer.write(strip(number)[:, :, ::-1].copy())
    writer.release()


def damage(path: Path, share: float = 0.5) -> None:
    """Blank the last `share` of the video; the header, which tells the number of frames, stays."""
    content = bytearray(path.read_bytes())
    blank = int(share * len(content))
    content[-blank:] = bytes(blank)
    path.write_bytes(content)


QUICK: list[str] = []  # options of a run in which the network is not the point


@pytest.fixture(autouse=True)
def quick(small_network: str) -> None:
    QUICK[:] = ["--model", small_network, "--proposals", "ss"]


def main(arguments: Sequence[str]) -> int:
    """Run `detect` in this process with a small network."""
    return detect.main([*QUICK, *arguments])


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a clip of three frames and a picture."""
    make_clip(tmp_path / "clip.mp4", 3)
    Pillow.fromarray(strip(9)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def facts(path: Path) -> tuple[int, float, int, int]:
    """Frames, rate, width and height of a video, the frames counted by decoding them."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    frames = 0
    while capture.read()[0]:
        frames += 1
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return frames, rate, *size


def frames_of(name: str, every: int = 1, limit: int = 0) -> list[tuple[str, float]]:
    return [(frame.name, frame.rate) for frame in read_frames(name, Path(name), every, limit, PIXELS)]


def complaint(name: str, max_pixels: int = PIXELS) -> str:
    with pytest.raises(ImageError) as caught:
        list(read_frames(name, Path(name), 1, 0, max_pixels))
    assert caught.value.name == name
    return caught.value.reason


def test_frames_are_the_pictures_in_rgb(tmp_path: Path) -> None:
    make_clip(tmp_path / "x.avi", 4, "MJPG")
    path = tmp_path / "x.avi"
    found = list(read_frames("x.avi", path, 1, 0, PIXELS))
    assert [frame.name for frame in found] == ["x.avi#1", "x.avi#2", "x.avi#3", "x.avi#4"]
    for number, frame in enumerate(found):
        assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous and frame.rate == 10
        error = np.abs(frame.image.astype(int) - strip(number)).mean()
        swapped = np.abs(frame.image[:, :, ::-1].astype(int) - strip(number)).mean()
        assert error < 8 < swapped


def test_every_and_limit(clips: Path) -> None:
    make_clip(clips / "long.mp4", 7)
    assert frames_of("long.mp4", every=3) == [(f"long.mp4#{n}", 10 / 3) for n in (1, 4, 7)]
    assert frames_of("long.mp4", limit=2) == [("long.mp4#1", 10.0), ("long.mp4#2", 10.0)]
    assert frames_of("long.mp4", every=4, limit=9) == [("long.mp4#1", 2.5), ("long.mp4#5", 2.5)]
    for every, limit in ((1, 0), (3, 0), (1, 2), (4, 9), (9, 0)):
        assert count_frames("long.mp4", Path("long.mp4"), every, limit) == len(frames_of("long.mp4", every, limit))
    assert count_frames("camera:0", 0, 2, 5) == 5 and count_frames("camera:0", 0, 2, 0) == 0


def test_frames_are_decoded_as_they_are_asked_for(clips: Path) -> None:
    frames = read_frames("clip.mp4", Path("clip.mp4"), 1, 0, PIXELS)
    assert next(frames).name == "clip.mp4#1"
    frames.close()
    assert list(frames) == []


def test_no_frame_comes_after_the_stop(clips: Path) -> None:
    video, stop = ("clip.mp4", Path("clip.mp4")), threading.Event()
    frames = read_frames(*video, 1, 0, PIXELS, stop)
    assert next(frames).name == "clip.mp4#1"
    stop.set()
    assert list(frames) == []  # and no complaint that the video breaks off
    assert list(read_frames(*video, 1, 0, PIXELS, stop)) == []


def test_what_is_no_video_gets_one_line(clips: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (clips / "text.mp4").write_text("hello")
    (clips / "empty.mp4").touch()
    (clips / "folder.mp4").mkdir()
    os.mkfifo(clips / "pipe.mp4")
    content = (clips / "clip.mp4").read_bytes()
    (clips / "cut.mp4").write_bytes(content[: len(content) // 2])
    odd = os.fsdecode(b"\xff.mp4")
    (clips / odd).write_bytes(content)
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        assert complaint(name).startswith("cannot be opened as a video: it is damaged, cut off")
    assert complaint("folder.mp4") == "is a folder; give a video inside it"
    assert complaint("pipe.mp4") == "is a pipe; give a video file"
    assert complaint("no.mp4") == "no such file"
    assert complaint(odd) == "has a name that is no text, which videos need; rename it"
    reason = "holds 2,560 pixels a frame, more than 2,559; raise the limit with --max-pixels"
    assert complaint("clip.mp4", 2559) == reason
    assert capfd.readouterr() == ("", "")  # FFmpeg and OpenCV keep quiet


def test_a_name_that_looks_like_a_pattern_is_a_file(clips: Path) -> None:
    (clips / "clip.mp4").rename(clips / "img%02d.mp4")
    assert len(frames_of("img%02d.mp4")) == 3


def test_a_camera_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match="no camera of this number can be opened"):
        list(read_frames("camera:97", 97, 1, 1, PIXELS))
    assert capfd.readouterr() == ("", "")


def test_a_video_that_breaks_off(clips: Path) -> None:
    make_clip(clips / "broken.avi", 20, "MJPG")
    damage(clips / "broken.avi")
    seen = []
    with pytest.raises(ImageError, match=r"breaks off after frame \d+ of 20; those before are done; copy"):
        for frame in read_frames("broken.avi", Path("broken.avi"), 1, 0, PIXELS):
            seen.append(frame.name)
    assert 5 <= len(seen) < 18 and seen == [f"broken.avi#{n + 1}" for n in range(len(seen))]
    assert len(frames_of("broken.avi", limit=3)) == 3  # enough for who wants no more
    make_clip(clips / "hollow.avi", 3, "MJPG")
    damage(clips / "hollow.avi", 0.9)
    assert re.match("cannot be opened as a video|no frame of it can be read", complaint("hollow.avi"))


def test_written_video_has_size_rate_and_frames(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", 12.5)
    for number in range(5):
        writer.write(strip(number))
        assert not (tmp_path / "x.mp4").exists()
    writer.write(strip(5)[:8, :40])  # a frame of another size is resized, not lost
    writer.close()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]
    assert facts(tmp_path / "x.mp4") == (6, 12.5, *SIZE)
    frames = list(read_frames("x", tmp_path / "x.mp4", 1, 5, PIXELS))
    for number, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - strip(number)).mean() < 12


def test_written_video_of_odd_size_one_frame_and_none(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", USUAL_RATE)
    writer.write(np.full((31, 41, 3), 200, np.uint8))
    writer.close()
    assert facts(tmp_path / "x.mp4") == (1, USUAL_RATE, 40, 30)
    VideoWriter(tmp_path / "none.mp4", USUAL_RATE).close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize(
    ("rate", "written"),
    [
        (0.0001, 0.01),
        (0.0007, 0.01),
        (1 / 3, 0.333),
        (30000 / 1001, 29.97),
        (64.9876, 64.988),
        (65.0001, 65.0),
        (65.5371, 65.54),
        (113.3386, 113.34),
        (1000 / 7, 142.86),
        (240000 / 1001, 239.76),
        (654.996, 655.0),
        (655.37, 655.4),
        (999.99, 1000.0),
        (1000.0, 1000.0),
    ],
)
def test_rates_that_the_codec_cannot_tell_are_rounded(tmp_path: Path, rate: float, written: float) -> None:
    writer = VideoWriter(tmp_path / "x.mp4", rate)
    for number in range(3):
        writer.write(strip(number))
    writer.close()
    frames, found, *size = facts(tmp_path / "x.mp4")
    assert (frames, *size) == (3, *SIZE) and found == pytest.approx(written, rel=1e-6)


def test_video_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.mp4").mkdir()
    with pytest.raises(OSError, match=r"x.mp4: it is a folder"):
        VideoWriter(tmp_path / "x.mp4", 10)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is no folder"):
        VideoWriter(tmp_path / "file" / "y.mp4", 10)
    writer = VideoWriter(tmp_path / "small.mp4", 10)
    with pytest.raises(OSError, match="no MP4 of 1 x 30 can be made"):
        writer.write(np.zeros((30, 1, 3), np.uint8))
    writer.close()  # there is nothing to give a name to
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.mp4"]


def test_a_video_that_is_not_whole_is_not_passed_off_as_one(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("old")
    writer = VideoWriter(tmp_path / "x.mp4", 10)
    writer.write(strip(0))
    (temporary,) = tmp_path.glob(".*.tmp.mp4")
    temporary.unlink()  # as lost as on a full disk
    with pytest.raises(OSError, match="the video is not whole"):
        writer.close()
    assert (tmp_path / "x.mp4").read_text() == "old"


def test_results_are_those_of_the_detector_on_each_frame(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a.png", "clip.mp4", "--every", "2", "--threshold", "0.001", "--format", "json", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    detector = Detector(DetectOptions(model=QUICK[1], proposals="ss", threshold=0.001))
    frames = list(read_frames("clip.mp4", Path("clip.mp4"), 2, 0, PIXELS))
    expected = [formats.render(detector(frame.image), "json", frame.name, 1) for frame in frames]
    picture, *lines = out.splitlines(keepends=True)
    assert lines == expected and [frame.name for frame in frames] == ["clip.mp4#1", "clip.mp4#3"]
    assert json.loads(picture)["picture"] == "a.png" and err == ""
    assert (clips / "out" / "clip.detected.json").read_text() == "".join(lines)
    assert facts(clips / "out" / "clip.detected.mp4") == (2, 5.0, *SIZE)  # half the rate: as long as the clip
    names = ["a.detected.jpg", "a.detected.json", "clip.detected.json", "clip.detected.mp4"]
    assert sorted(path.name for path in (clips / "out").iterdir()) == names


@pytest.mark.parametrize("format", ["table", "csv", "coco", "voc"])
def test_every_kind_of_document(clips: Path, capsys: pytest.CaptureFixture[str], format: str) -> None:
    arguments = ["no.mp4", "clip.mp4", "a.png", "--frames", "2", "--threshold", "0.001", "--out", "."]
    assert main([*arguments, "--format", format]) == 1
    out, err = capsys.readouterr()
    assert err == "detect: no.mp4: no such file\n"
    kind = "json" if format == "table" else format
    text = (clips / f"clip.detected{formats.SUFFIX[kind]}").read_text()
    names = ["clip.mp4#1", "clip.mp4#2"]
    match format:
        case "table":
            assert [json.loads(line)["picture"] for line in text.splitlines()] == names
            assert {line.split("\t")[0] for line in out.splitlines()[1:]} == {*names, "a.png"}
        case "csv":
            assert {line.split(",")[0] for line in text.splitlines()[1:]} == set(names)
        case "coco":  # the missing video is 1, the frames 2 and 3, the picture 4
            assert {entry["image_id"] for entry in json.loads(out)} == {2, 3, 4}
            assert json.loads(text) == [entry for entry in json.loads(out) if entry["image_id"] < 4]
        case "voc":
            assert list(from_voc(text.encode(), "clip")) == names
    assert main(["*.mp4", "--frames", "1", "--format", "json"]) == 0  # and the annotated one is no input
    assert [json.loads(line)["picture"] for line in capsys.readouterr().out.splitlines()] == ["clip.mp4#1"]


def test_what_a_broken_video_gave_stays(clips: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_clip(clips / "broken.avi", 8, "MJPG")
    damage(clips / "broken.avi", 0.35)
    assert main(["broken.avi", "a.png", "--format", "json", "--out", "out"]) == 1
    out, err = capfd.readouterr()
    *names, last = [json.loads(line)["picture"] for line in out.splitlines()]
    assert last == "a.png" and names == [f"broken.avi#{n + 1}" for n in range(len(names))] and 1 <= len(names) < 7
    assert err.startswith(f"detect: broken.avi: breaks off after frame {len(names)} of 8; ") and err.count("\n") == 1
    assert facts(clips / "out" / "broken.detected.mp4")[0] == len(names)
    assert len((clips / "out" / "broken.detected.json").read_text().splitlines()) == len(names)


def test_a_video_alone_that_cannot_be_opened_loads_no_network(clips: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (clips / "bad.mp4").write_text("hello")
    assert main(["bad.mp4", "camera:97", "--format", "coco"]) == 1
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert json.loads(out) == [] and "bad.mp4: cannot be opened" in first and "camera:97: no camera" in second


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_video_is_finished(clips: Path, number: int, status: int) -> None:
    make_clip(clips / "long.mp4", 500)
    command = [sys.executable, "-m", "detector.cli", *QUICK, "long.mp4", "--format", "json", "--out", "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    first = process.stdout.readline() + process.stdout.readline()
    process.send_signal(number)
    rest, err = process.communicate(timeout=60)
    word = "interrupted" if status == 130 else "terminated"
    assert (process.returncode, err) == (status, f"detect: {word}\n".encode())
    done = len((first + rest).splitlines())
    assert 2 <= done < 500
    frames, rate, *size = facts(clips / "out" / "long.detected.mp4")
    assert (rate, *size) == (10.0, *SIZE) and done - 1 <= frames <= done
    assert done - 1 <= len((clips / "out" / "long.detected.json").read_text().splitlines()) <= done
    assert len(list((clips / "out").iterdir())) == 2  # nothing temporary


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 141)])
def test_an_end_while_frames_are_passed_over(clips: Path, number: int | None, status: int) -> None:
    """A signal, or an output that takes no more, while the reader needs seconds to the next frame it looks at."""
    content = io.BytesIO()
    Pillow.new("RGB", (1280, 720), (90, 120, 60)).save(content, "JPEG", optimize=True)
    (clips / "long.avi").write_bytes(8000 * content.getvalue())  # as a stream of pictures, which needs no encoding
    command = [sys.executable, "-m", "detector.cli", *QUICK, "long.avi", "a.png", "--every", "7999", "--no-save"]
    process = subprocess.Popen(
        [*command, "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None and process.stderr is not None
    if number is None:
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(60), err) == (status, b"")
        return
    assert json.loads(process.stdout.readline())["picture"] == "long.avi#1"
    process.send_signal(number)
    rest, err = process.communicate(timeout=60)
    word = "interrupted" if status == 130 else "terminated"
    assert (process.returncode, rest, err) == (status, b"", f"detect: {word}\n".encode())
