"""Proposal methods behind one face: an image in, ranked boxes out; and the options that choose between them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from proposals.options import FILE, check_options, option

if TYPE_CHECKING:  # `--help` needs the options alone
    from proposals.images import Image
    from proposals.types import Proposals

ALGORITHM = 1  # of Selective Search: to be raised whenever the same parameters give other boxes
SEARCH_THREADS = 2  # fast mode has two colour spaces
MAX_SCALE, MAX_BOXES = 100, 100_000
SEARCHED = {"proposals": ("ss", "both")}
LEARNED = {"proposals": ("multibox", "both")}

Key = Mapping[str, str | int | float | None]


class Proposer(Protocol):
    """A proposal method."""

    @property
    def key(self) -> Key:
        """Return all that decides about the boxes: a file of them says it of itself, and goes on with no others."""
        ...

    def __call__(self, image: Image, path: Path | None = None) -> Proposals:
        """Return the proposals of `image`, uint8 RGB [H, W, 3], best first; path: of its file, which names it.

        Raises: ValueError for another array, or an image of which the method knows nothing.
        """
        ...

    def prepare(self) -> None:
        """Load or compile what the first image would wait for, and keep errors for that."""
        ...

    def describe(self) -> str:
        """Return the method in words."""
        ...


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective Search of this package; see `proposals.selective.search`."""

    mode: str = "fast"
    superpixel_scale: int = 2
    seed: int = 0
    max_boxes: int | None = None
    threads: int = SEARCH_THREADS

    @property
    def key(self) -> Key:
        return _search_key("own", self.mode, self.superpixel_scale, self.seed, self.max_boxes)

    def __call__(self, image: Image, path: Path | None = None) -> Proposals:
        from proposals.selective.search import selective_search  # numba takes 0.3 s to import

        return selective_search(
            image, self.mode, self.superpixel_scale, self.seed, self.max_boxes, threads=self.threads
        )

    def prepare(self) -> None:
        import numpy as np

        with suppress(Exception):  # the first image meets it again; Python starts no threads in a process that ends
            replace(self, threads=1)(np.zeros((2, 2, 3), np.uint8))

    def describe(self) -> str:
        return f"Selective Search, {self.mode}, superpixel scale {self.superpixel_scale}"


@dataclass(frozen=True)
class OpenCvSearch:
    """Selective Search out of OpenCV's parts; see `proposals.opencv`."""

    superpixel_scale: int = 2
    seed: int = 0
    max_boxes: int | None = None

    @property
    def key(self) -> Key:
        return _search_key("opencv", "fast", self.superpixel_scale, self.seed, self.max_boxes)

    def __call__(self, image: Image, path: Path | None = None) -> Proposals:
        from proposals.opencv import selective_search_opencv

        return selective_search_opencv(image, self.superpixel_scale, self.seed, self.max_boxes)

    def prepare(self) -> None:
        pass

    def describe(self) -> str:
        return f"Selective Search of OpenCV, fast, superpixel scale {self.superpixel_scale}"


@dataclass(frozen=True)
class Merged:
    """Two methods as one list (GoogLeNet, section 8); budget: most boxes of each, as of `proposals.merging.merge`."""

    first: Proposer
    second: Proposer
    budget: tuple[int | None, int | None] = (None, None)

    @property
    def key(self) -> Key:
        shares = {f"budget_{i}": share for i, share in enumerate(self.budget, 1) if share is not None}
        return {**self.first.key, **self.second.key, **shares}

    def __call__(self, image: Image, path: Path | None = None) -> Proposals:
        from proposals.merging import merge

        return merge(self.first(image, path), self.second(image, path), self.budget)

    def prepare(self) -> None:
        first = threading.Thread(target=self.first.prepare)
        try:
            first.start()
        except RuntimeError:  # the process ends already
            return
        self.second.prepare()
        first.join()

    def describe(self) -> str:
        return f"{self.first.describe()}; {self.second.describe()}"


def _search_key(backend: str, mode: str, superpixel_scale: int, seed: int, max_boxes: int | None) -> Key:
    return {
        "algorithm": ALGORITHM,
        "backend": backend,
        "mode": mode,
        "superpixel_scale": superpixel_scale,
        "seed": seed,
        "max_boxes": max_boxes,
    }


@dataclass(frozen=True)
class ProposalOptions:
    """What proposes the regions; the same words in every command and in every training."""

    proposals: str = option(
        "both",
        "regions from Selective Search (ss), MultiBox, both, or a file of proposals: Parquet of "
        "python -m proposals.extract, .mat of Fast R-CNN, .pkl of Detectron",
        choices=("ss", "multibox", "both", FILE),
        source="GoogLeNet section 8",
    )
    mode: str = option(
        "fast",
        "variety of Selective Search: more colour spaces and segmentations give more regions",
        choices=("single", "fast", "quality"),
        needs={**SEARCHED, "backend": ("own",)},
        source="IJCV 2013 table 4; R-CNN has fast",
    )
    superpixel_scale: int = option(
        2,
        "size of the superpixels: 1 as in R-CNN, 2 as in GoogLeNet",
        low=1,
        high=MAX_SCALE,
        needs=SEARCHED,
        source="GoogLeNet section 8",
    )
    ss_boxes: int = option(
        0, "Selective Search regions of a picture, best first", low=0, high=MAX_BOXES, off="all", needs=SEARCHED
    )
    backend: str = option(
        "own", "Selective Search of this package or OpenCV's", choices=("own", "opencv"), needs=SEARCHED
    )
    multibox: str = option(
        "",
        "weights of MultiBox, a file or a run folder",
        off="the shipped ones",
        metavar="WEIGHTS",
        needs=LEARNED,
    )
    multibox_boxes: int = option(
        200, "MultiBox regions of a picture", low=1, high=MAX_BOXES, needs=LEARNED, source="GoogLeNet section 8"
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def searched(self) -> bool:
        """Whether Selective Search takes part."""
        return self.proposals in SEARCHED["proposals"]

    @property
    def learned(self) -> bool:
        """Whether MultiBox takes part."""
        return self.proposals in LEARNED["proposals"]


@dataclass(frozen=True)
class SeededProposalOptions(ProposalOptions):
    """The options with a seed of their own; trainings take that of their pool of regions."""

    seed: int = option(0, "seed of the random ranking of the Selective Search regions", low=0, needs=SEARCHED)


def make_proposer(o: ProposalOptions, seed: int = 0, threads: int = 0) -> Proposer:
    """Return the proposal method that the options name; seed: of Selective Search's ranking.

    threads: that work on one image, 0 for as many as help.

    MultiBox lies in the package `detector`, which is imported only where it is asked for.
    Raises: OSError where a file cannot be read; ValueError for a damaged one, or where no MultiBox is installed.
    """
    if not o.searched and not o.learned:
        from proposals.stored import StoredProposals

        return StoredProposals(Path(o.proposals))
    search: Proposer
    if o.backend == "opencv":
        search = OpenCvSearch(o.superpixel_scale, seed, o.ss_boxes or None)
    else:
        search = SelectiveSearch(o.mode, o.superpixel_scale, seed, o.ss_boxes or None, threads or SEARCH_THREADS)
    if not o.learned:
        return search
    from detector.multibox import MultiBox, load_multibox

    learned = MultiBox(load_multibox(o.multibox), top=o.multibox_boxes, threads=threads)
    return Merged(search, learned) if o.searched else learned
