"""Decoded pictures, the most recently used ones kept, up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from proposals.images import Image, read_image


class PictureCache:
    """Reads pictures as `read_image` does, each once as long as it is kept."""

    def __init__(self, megabytes: int) -> None:
        self._limit, self._held = megabytes * 1_000_000, 0
        self._pictures: OrderedDict[Path, Image] = OrderedDict()

    def read(self, path: Path) -> Image:
        """Return the picture, uint8 [H, W, 3]. Raises: what `read_image` raises."""
        found = self._pictures.get(path)
        if found is None:
            found = read_image(path)
            self._pictures[path] = found
            self._held += found.nbytes
            while self._held > self._limit and len(self._pictures) > 1:
                self._held -= self._pictures.popitem(last=False)[1].nbytes
        else:
            self._pictures.move_to_end(path)
        return found

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int]]:
        return PictureCache, (self._limit // 1_000_000,)
