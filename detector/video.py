"""Videos and cameras: frames in, one after another, and an annotated video out."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from proposals.files import NewFile, check_folder
from proposals.images import Image, ImageError, check_file

USUAL_RATE = 25.0  # frames a second, where a camera does not tell
HIGHEST_RATE = 1000.0  # what is above it, or not a number, is a header that does not know
LOST_FRAMES = 0.02  # of a video's frames may be missing before it counts as broken off: headers estimate
SLOWEST_RATE = 0.01  # frames a second in a written video
MOST_TICKS = 65535  # a second, in MPEG-4 part 2: vop_time_increment_resolution has 16 bits (ISO/IEC 14496-2, 6.3.3)
QUIET = "-8"  # FFmpeg's AV_LOG_QUIET

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", QUIET)  # read once, when the first video is opened
_LOG_LEVEL = threading.Lock()  # it is one for all threads


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame to look at: `name` as in `clip.mp4#12`, counted from 1; `rate` of the frames that are looked at."""

    name: str
    image: Image
    rate: float


def read_frames(
    name: str, source: Path | int, every: int, limit: int, max_pixels: int, stop: threading.Event | None = None
) -> Generator[Frame, None, None]:
    """Yield every `every`-th frame of a video file or of a camera, given by its number; `limit` at most (0: all).

    `name` is that of the messages and of the frames, which are uint8 RGB [H, W, 3], upright, decoded as they are asked
    for. Once `stop` is set, which another thread may do while this one passes over frames, no more come.
    Raises: ImageError when it cannot be opened, holds more than `max_pixels` a frame, or breaks off before its end;
    the frames until then have come.
    """
    capture = _open(name, source)
    try:
        rate, frames = _header(capture, source)
        taken = number = 0
        while not limit or taken < limit:
            if stop is not None and stop.is_set():
                return
            if not capture.grab():
                break
            number += 1
            if (number - 1) % every:
                continue
            found, image = capture.retrieve()
            if not found or image is None:
                raise ImageError(name, f"frame {number} is damaged; the frames before it are done")
            height, width = image.shape[:2]
            if height * width > max_pixels:
                reason = f"holds {height * width:,} pixels a frame, more than {max_pixels:,}"
                raise ImageError(name, f"{reason}; raise the limit with --max-pixels")
            taken += 1
            yield Frame(f"{name}#{number}", _rgb(image), rate / every)
        else:
            return  # as many as were asked for
        if complaint := _early_end(source, frames, number):
            raise ImageError(name, complaint)
    finally:
        capture.release()


def count_frames(name: str, source: Path | int, every: int, limit: int) -> int:
    """Return how many frames `read_frames` will yield by the header; 0 where that cannot be told."""
    frames = 0
    if isinstance(source, Path):
        try:
            capture = _open(name, source)
        except ImageError:
            return 1  # the complaint
        _, frames = _header(capture, source)
        capture.release()
    looked_at = -(-frames // every)
    return min(looked_at, limit) if frames and limit else looked_at or limit


def _open(name: str, source: Path | int) -> cv2.VideoCapture:
    """Return the open video or camera; raise ImageError."""
    with _silence():
        if isinstance(source, int):
            capture = cv2.VideoCapture(source)
            if capture.isOpened():
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not those that waited
                return capture
            reason = "no camera of this number can be opened; camera:0 is the first, and another program may hold it"
            raise ImageError(name, reason)
        check_file(str(source), "a video")
        try:
            path = os.path.realpath(source).encode("utf-8").decode()  # absolute, so never taken for an address
        except UnicodeEncodeError:
            raise ImageError(name, "has a name that is no text, which videos need; rename it") from None
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        if capture.isOpened():
            return capture
        reason = "cannot be opened as a video: it is damaged, cut off or of a kind that OpenCV does not read"
        raise ImageError(name, f"{reason}; convert it to MP4 (H.264)")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep OpenCV from printing what it has to say about a video, which would be more than our one line."""
    with _LOG_LEVEL:
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            cv2.utils.logging.setLogLevel(before)


def _header(capture: cv2.VideoCapture, source: Path | int) -> tuple[float, int]:
    """Return the frames a second and their number by the header, 0 where it does not tell."""
    rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    known = 0 < rate <= HIGHEST_RATE  # a NaN fails it
    countable = isinstance(source, Path) and 0 < frames < 2**31
    return float(rate) if known else USUAL_RATE, int(frames) if countable else 0


def _early_end(source: Path | int, frames: int, number: int) -> str:
    """Return what is wrong with a video that ended after `number` of `frames` frames, "" where it was over."""
    if isinstance(source, int):
        return f"the camera gave no more after frame {number}; is it still connected?"
    if not number:
        return "no frame of it can be read: it is damaged or empty; copy or download it again"
    if number < (1 - LOST_FRAMES) * frames - 1:
        return f"breaks off after frame {number} of {frames}; those before are done; copy or download it again"
    return ""


def _rgb(image: object) -> Image:
    """Return a frame as OpenCV gives it, BGR, as uint8 RGB [H, W, 3] in C order."""
    return np.ascontiguousarray(np.asarray(image, np.uint8)[:, :, ::-1])


def _writable(rate: float) -> float:
    """Return a rate close by, in frames a second, that MPEG-4 part 2 can tell.

    OpenCV asks for as many ticks a second as the rate has thousandths, hundredths or tenths, by its decimals.
    """
    decimals = 3 if rate <= MOST_TICKS // 1000 else 2 if rate <= MOST_TICKS // 100 else 1
    return max(round(rate, decimals), SLOWEST_RATE)


class VideoWriter:
    """An MP4 (MPEG-4 part 2) that appears under its name when it is closed, and not before.

    Its size is that of the first frame; an odd side loses its last row or column, as the codec wants even ones. Its
    rate is rounded to what the codec can tell: two decimals above 65 frames a second, one above 655.
    """

    def __init__(self, path: Path, rate: float) -> None:
        """Take the `path`, whose folder must exist, and the `rate` in frames a second. Raises: OSError."""
        check_folder(path.parent)
        self._file = NewFile(path)
        self._rate = _writable(rate)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0

    def write(self, image: Image) -> None:
        """Add a frame, uint8 RGB [H, W, 3], resized where it is not as large as the first. Raises: OSError."""
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            mp4v = cv2.VideoWriter.fourcc(*"mp4v")
            with _silence():
                writer = cv2.VideoWriter(str(self._file.temporary), cv2.CAP_FFMPEG, mp4v, self._rate, self._size)
            if not writer.isOpened():
                self._file.discard()
                width, height = self._size
                raise OSError(f"cannot write {self._file.path}: no MP4 of {width} x {height} can be made")
            self._writer = writer
        if (image.shape[1], image.shape[0]) != self._size:
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        self._writer.write(image[:, :, ::-1].copy())
        self._frames += 1

    def close(self) -> None:
        """End the video and give it its name; without a frame there is none. Raises: OSError where it is not whole."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if self._written() != self._frames:  # OpenCV does not tell when the disk is full
            self._file.discard()
            raise OSError(f"cannot write {self._file.path}: the video is not whole; check that the disk has room")
        self._file.keep()

    def _written(self) -> int:
        """Return the number of frames in the finished file."""
        with _silence():
            capture = cv2.VideoCapture(str(self._file.temporary), cv2.CAP_FFMPEG)
        try:
            return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        finally:
            capture.release()
