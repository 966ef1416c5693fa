"""Where drawings and result files go: two files a picture, and two a video, however many frames it has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detector.arguments import DRAWN
from detector.inputs import OutputNames, Picture, Video
from detector.report import TABLE, Report
from proposals.files import NewFile, check_folder, write_text_atomic
from proposals.image_files import OUTPUT_MARK

if TYPE_CHECKING:
    from detector.detections import Detections
    from proposals.images import Image


class Saver:
    """A folder, made when the first file is written, or nowhere. To be closed, so that a video gets its end."""

    def __init__(self, args: argparse.Namespace, report: Report) -> None:
        from detector.formats import SUFFIX

        self.by_default = args.out is None and args.format == TABLE and not args.no_save
        self._format = "json" if args.format == TABLE else args.format
        self._suffix = OUTPUT_MARK + SUFFIX[self._format]
        self._report = report
        self.folder: Path | None = Path(DRAWN) if self.by_default else args.out
        self.used = False  # whether the folder is there
        self._names: OutputNames | None = None
        self._clip: _ClipFiles | None = None  # of the video whose frames are coming
        if self.folder is not None:
            drawings = [OUTPUT_MARK + suffix for suffix in (".jpg", ".png", ".mp4")]
            self._names = OutputNames(self.folder, (*drawings, self._suffix), args.paths)

    def stem(self, source: Picture | Video) -> str:
        """Return the stem of the files of `source`; asked once for each, so that a bad one keeps its name too."""
        return self._names.stem(source) if self._names is not None else ""

    def save(self, stem: str, image: Image, detections: Detections, name: str, image_id: int) -> None:
        """Write the picture with its boxes and, beside it, the results.

        Raises: OSError when they cannot be written, ValueError when it is the picture's fault.
        """
        self.close()
        self._make_folder()
        if self.folder is None:
            return
        from detector.drawing import JPEG_LIMIT, draw_detections, save_picture
        from detector.formats import render

        drawing = ".jpg" if max(image.shape[:2]) <= JPEG_LIMIT else ".png"
        save_picture(self.folder / f"{stem}{OUTPUT_MARK}{drawing}", draw_detections(image, detections))
        write_text_atomic(self.folder / (stem + self._suffix), render(detections, self._format, name, image_id))

    def save_frame(
        self, stem: str, image: Image, detections: Detections, name: str, image_id: int, rate: float
    ) -> None:
        """Add the frame with its boxes to the video of `stem`, `rate` frames a second, and its results to their file.

        Raises: OSError when they cannot be written.
        """
        if self._clip is None or self._clip.stem != stem:
            self.close()
            self._make_folder()
            if self.folder is None:
                return
            self._clip = _ClipFiles(self.folder, stem, self._suffix, self._format, rate)
        self._clip.add(image, detections, name, image_id)

    def close(self) -> None:
        """End the video whose frames were coming, so that its files have their names. Raises: OSError."""
        clip, self._clip = self._clip, None
        if clip is not None:
            clip.close()

    def _make_folder(self) -> None:
        """Make the folder; where nobody asked for it and it cannot be had, say so and save nothing from now on."""
        if self.folder is None or self.used:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_folder(self.folder)
        except OSError as error:
            reason = f"{self.folder}: cannot save in this folder: {error.strerror}"
            if not self.by_default:
                raise OSError(reason) from error
            self._report.note(f"{reason}; going on unsaved (--out names another folder)")
            self.folder = None
        else:
            self.used = True


class _ClipFiles:
    """The annotated video and the result file of one video, both growing with its frames."""

    def __init__(self, folder: Path, stem: str, suffix: str, format: str, rate: float) -> None:
        from detector.video import VideoWriter

        self.stem = stem
        self._video = VideoWriter(folder / f"{stem}{OUTPUT_MARK}.mp4", rate)
        self._results = _ResultFile(folder / (stem + suffix), format)

    def add(self, image: Image, detections: Detections, name: str, image_id: int) -> None:
        from detector.drawing import draw_detections

        self._results.add(detections, name, image_id)
        self._video.write(draw_detections(image, detections))

    def close(self) -> None:
        try:
            self._results.close()
        finally:
            self._video.close()


class _ResultFile:
    """One document of the frames of a video, written as they come, which appears whole."""

    def __init__(self, path: Path, format: str) -> None:
        from detector.formats import stream_start

        self._new = NewFile(path)
        self._format = format
        self._first = True
        self._file = self._new.temporary.open("x", encoding="utf-8", newline="")
        self._file.write(stream_start(format))

    def add(self, detections: Detections, name: str, image_id: int) -> None:
        """Write the results of one frame. Raises: OSError."""
        from detector.formats import stream_item

        text = stream_item(detections, self._format, name, image_id, self._first)
        self._first = self._first and not text
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise OSError(f"cannot write {self._new.path}: {error.strerror}; check that the disk has room") from error

    def close(self) -> None:
        """End the document and give it its name. Raises: OSError."""
        from detector.formats import stream_end

        with self._new, self._file as file:
            file.write(stream_end(self._format))
