"""Labelled pictures in tar shards, the WebDataset layout: `0001.jpg` and `0001.cls` are one sample.

The headers are scanned once; a picture is then read at its offset, and nothing is unpacked. (`wids`, which does the
same, finds no member whose name is longer than 100 bytes and gives the rest of a truncated shard without a word.)
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Longs
from proposals.image_files import SUFFIXES
from proposals.images import Image, ImageError, read_image

Names = npt.NDArray[np.bytes_]  # UTF-8; one array, as a million strings would be copied into every worker process

SHARDS_MIXED = 16  # shards among whose pictures an epoch shuffles
MAX_CLASSES = 1_000_000  # where the classes are only numbered: a larger number is a slip
LABEL_SUFFIX = "cls"
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key (up to the first dot of the file's name), suffix
BLOCK = tarfile.BLOCKSIZE
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, eq=False)
class ShardSet:
    """N pictures in S tar shards, in the order of the shards and of their members; an ImageSet.

    shards: [S]; ends: int64 [S], the number of pictures up to the end of each shard; names: [N], of the members;
    offsets, sizes: int64 [N], bytes; labels: int64 [N], -1 without; class_names: [C].
    A file is opened for each read, so that processes and threads share nothing.
    """

    shards: tuple[Path, ...]
    ends: Longs
    names: Names
    offsets: Longs
    sizes: Longs
    labels: Longs
    class_names: tuple[str, ...]
    shards_mixed: int = SHARDS_MIXED

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image:
        """Return picture `index`, uint8 RGB [H, W, 3]; raise ImageError where it cannot be read."""
        index = range(len(self))[index]
        shard = self.shards[int(np.searchsorted(self.ends, index, side="right"))]
        name = f"{shard}: {self.names[index].decode()}"
        size = int(self.sizes[index])
        try:
            with shard.open("rb", buffering=0) as file:
                file.seek(int(self.offsets[index]))
                data = file.read(size)
        except OSError as error:
            raise ImageError(name, f"cannot be read: {error.strerror or error}") from None
        if len(data) < size:
            raise ImageError(name, "is truncated: the shard ends too early; copy or download it again")
        try:
            return read_image(data)
        except ImageError as error:
            raise ImageError(name, error.reason) from None

    def order(self, epoch: int, seed: int) -> Longs:
        """Return the order int64 [N] in which an epoch sees the pictures, a permutation.

        Shards come in random order; pictures are shuffled among each `shards_mixed` of them, so that a disk reads
        nearly in sequence.
        """
        rng = np.random.default_rng([seed, epoch])
        shards = rng.permutation(len(self.shards))
        starts = np.concatenate([[0], self.ends[:-1]])
        groups = []
        for first in range(0, len(shards), self.shards_mixed):
            group = [np.arange(starts[s], self.ends[s]) for s in shards[first : first + self.shards_mixed]]
            groups.append(rng.permutation(np.concatenate(group)))
        return np.concatenate(groups).astype(np.int64)

    def fingerprint(self) -> str:
        """Return the sha256, in hex, of the names of shards and members, the sizes, labels and classes."""
        shards = [path.name for path in self.shards]
        return fingerprint_of(self.names, self.sizes, self.labels, (*self.class_names, "", *shards), self.ends)


def fingerprint_of(names: Names, sizes: Longs, labels: Longs, words: Sequence[str], *more: Longs) -> str:
    """Return the sha256, in hex, of what identifies a set of pictures without reading them."""
    digest = hashlib.sha256(b"\0".join(names.tolist()))
    digest.update("\0".join(("", *words)).encode("utf-8", "surrogateescape"))
    for numbers in (sizes, labels, *more):
        digest.update(numbers.astype("<i8").tobytes())
    return digest.hexdigest()


def numbered_classes(labels: Longs) -> tuple[str, ...]:
    """Return the names "0".."C-1" of numbered classes, from their labels [N]; -1 counts as none."""
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))


def read_shards(
    shards: Sequence[Path], class_names: tuple[str, ...] | None, labelled: bool, shards_mixed: int = SHARDS_MIXED
) -> ShardSet:
    """Return the pictures of tar shards in WebDataset's layout, by one pass over their headers.

    class_names: None where the labels alone say how many classes there are; labelled: False leaves labels aside (-1).
    Raises: OSError for a shard that cannot be read; ValueError (shard: member: what; cure) for one that is no plain
    tar, truncated or damaged, a sample with two pictures or without picture or label, and a label out of range.
    """
    classes = MAX_CLASSES if class_names is None else len(class_names)
    samples: list[_Sample] = []
    ends: list[int] = []
    for shard in shards:
        samples += _scan(shard, classes, labelled)
        ends.append(len(samples))
    if not samples:
        raise ValueError(f"{shards[0]}: no picture in it{' and the other shards' * (len(shards) > 1)}; {_LAYOUT}")
    names, offsets, sizes, found = zip(*samples, strict=True)
    labels = np.array(found, np.int64)
    return ShardSet(
        tuple(shards),
        np.array(ends, np.int64),
        np.array(names, np.bytes_),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        labels,
        numbered_classes(labels) if class_names is None else class_names,
        shards_mixed,
    )


_LAYOUT = "a sample is a picture and its label, as 0001.jpg and 0001.cls"


class _Sample(NamedTuple):
    name: bytes
    offset: int
    size: int
    label: int


def _scan(shard: Path, classes: int, labelled: bool) -> list[_Sample]:
    """Return the samples of one shard; raise OSError or ValueError."""
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    with shard.open("rb") as file:
        for member in _members(shard, file):
            matched = MEMBER.fullmatch(member.name)
            if not matched or not member.isreg():
                continue
            key, suffix = matched[1], matched[2].casefold()
            if f".{suffix}" in SUFFIXES:
                if key in pictures:
                    raise ValueError(f"{shard}: {pictures[key].name} and {member.name} are one sample; {_LAYOUT}")
                pictures[key] = member
            elif labelled and suffix == LABEL_SUFFIX:
                file.seek(member.offset_data)
                labels[key] = _label(f"{shard}: {member.name}", file.read(min(member.size, BLOCK)), classes)
    if labelled and pictures.keys() != labels.keys():
        for key, member in pictures.items():
            if key not in labels:
                raise ValueError(f"{shard}: {member.name} has no label {key}.{LABEL_SUFFIX} in this shard; {_LAYOUT}")
        alone = next(key for key in labels if key not in pictures)
        raise ValueError(f"{shard}: {alone}.{LABEL_SUFFIX} has no picture in this shard; {_LAYOUT}")
    return [
        _Sample(m.name.encode("utf-8", "replace"), m.offset_data, m.size, labels.get(key, -1))
        for key, m in pictures.items()
    ]


def _members(shard: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an uncompressed tar; raise ValueError where it does not end as a tar does."""
    start = file.read(8)
    for magic, kind in PACKED.items():
        if start.startswith(magic):
            raise ValueError(f"{shard}: is compressed ({kind}), so no offset leads into it; decompress it")
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from tar
            end = tar.offset  # tarfile takes whatever is no header for the end
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: is truncated or no tar ({error}); copy or download it again") from None
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise ValueError(f"{shard}: is truncated or damaged at byte {end:,}; copy or download it again")


def _label(where: str, text: bytes, classes: int) -> int:
    """Return the integer in a .cls member; raise ValueError."""
    if not re.fullmatch(rb"\s*-?\d{1,18}\s*", text):
        shown = text[:20].decode("utf-8", "replace").strip()
        raise ValueError(f"{where}: '{shown}' is not an integer; write the class's number 0..C-1")
    return checked_label(where, int(text), classes)


def checked_label(where: str, label: int, classes: int) -> int:
    """Return a label; raise ValueError unless it is in 0..classes-1."""
    if not 0 <= label < classes:
        raise ValueError(f"{where}: label {label} is not in 0..{classes - 1}; correct it, or the list of classes")
    return label


def shard_paths(pattern: str) -> list[Path]:
    """Return the shards that a name with braces (`{0000..0146}`, `{a,b}`) or a pattern (`*`, `?`, `[...]`) stands for.

    Those of braces keep their order, those of a pattern are sorted; a file's own name is that file. Raises:
    FileNotFoundError where one is missing, ValueError for braces around no range.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    paths: list[Path] = []
    for name in _expanded(pattern):
        path = Path(name)
        if path.is_file():
            paths.append(path)
        elif not re.search(r"[*?[]", name):
            raise FileNotFoundError(f"{name}: no such shard; correct the numbers in {pattern}, or copy it there")
        elif found := sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file()):
            paths += found
        else:
            raise FileNotFoundError(f"{name}: matches no file; quote the pattern, and check its folder")
    return paths


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern with braces stands for, lazily: a slip in a number ends at the first missing."""
    if not (braces := re.search(r"\{([^{}]*)\}", pattern)):
        yield pattern
        return
    choices: Iterable[str] = braces[1].split(",")
    if ends := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", braces[1]):
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < MAX_CLASSES:
            raise ValueError(f"{braces[0]}: no range of shards; write the smaller number first, as {{0000..0146}}")
        choices = (str(number).zfill(len(ends[1])) for number in range(first, last + 1))
    for choice in choices:
        for rest in _expanded(pattern[braces.end() :]):
            yield pattern[: braces.start()] + choice + rest
