"""The same pictures come out of folders, lists and tar shards; every slip gives one line with the file and the cure."""

import gzip
import io
import os
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.training.data import ImageSet, open_images
from proposals.images import ImageError, read_image

SAMPLES = Path(__file__).parents[3] / "samples"
CLASSES = ("bird", "cat", "horse and foal")
PICTURES = (("eagle", 0), ("kite", 0), ("chelsea", 1), ("giraffe", 2), ("horses", 2))  # sorted by class, then name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """JPEG files of the sample pictures, a few KB each."""
    files = {}
    for name, _ in PICTURES:
        file = io.BytesIO()
        Image.open(SAMPLES / f"{name}.jpg").resize((48, 32)).save(file, "JPEG")
        files[name] = file.getvalue()
    return files


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_folder(root: Path, small: dict[str, bytes]) -> Path:
    for name, label in PICTURES:
        (root / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (root / CLASSES[label] / f"{name}.jpg").write_bytes(small[name])
    return root


def write_flat(root: Path, small: dict[str, bytes]) -> Path:
    root.mkdir(parents=True)
    for name, content in small.items():
        (root / f"{name}.jpg").write_bytes(content)
    return root


def write_list(root: Path, small: dict[str, bytes], line: Callable[[str, int], str]) -> Path:
    write_flat(root / "images", small)
    (root / "list.txt").write_text("\n".join(line(name, label) for name, label in PICTURES), encoding="utf-8")
    return root / "list.txt"


def write_shards(root: Path, small: dict[str, bytes]) -> Path:
    """Two shards, 00.tar of three samples and 01.tar of two, in the order of PICTURES."""
    for number, part in enumerate((PICTURES[:3], PICTURES[3:])):
        members: dict[str, bytes] = {}
        for name, label in part:
            members |= {f"{name}.cls": b"%d\n" % label, f"{name}.JPG": small[name], f"{name}.json": b"{}"}
        write_tar(root / f"{number:02}.tar", members)
    return root


def opened(kind: str, root: Path, small: dict[str, bytes]) -> tuple[ImageSet, tuple[str, ...]]:
    """Return the pictures of PICTURES out of a source of that kind, and the class names to expect."""
    numbers = ("0", "1", "2")
    match kind:
        case "folder":
            return open_images(write_folder(root, small)), CLASSES
        case "numbers":
            return open_images(write_list(root, small, lambda name, label: f"images/{name}.jpg {label}")), numbers
        case "names":
            listed = write_list(root, small, lambda name, label: f"images/{name}.jpg\t{CLASSES[label]}\r\n")
            return open_images(listed), CLASSES
        case "classes":
            listed = write_list(root, small, lambda name, label: f"images/{name}.jpg\t{CLASSES[label]}")
            (root / "classes.txt").write_text("".join(f"{c}\ta longer name\n" for c in CLASSES), encoding="utf-8")
            return open_images(listed, classes=root / "classes.txt"), CLASSES
        case "shards":
            return open_images(write_shards(root, small)), numbers
        case "braces":
            write_shards(root, small)
            return open_images(f"{root}/{{00..01}}.tar", classes=CLASSES), CLASSES
        case "pattern":
            write_shards(root, small)
            return open_images(f"{root}/0?.tar"), numbers
        case _:
            members = {}
            for name, label in PICTURES:
                members |= {f"train.d/{name}.jpeg": small[name], f"train.d/{name}.cls": b"%d" % label}
            return open_images(str(write_tar(root / "one.tar", members))), numbers


KINDS = ("folder", "numbers", "names", "classes", "shards", "braces", "pattern", "one tar")


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_pictures(kind: str, small: dict[str, bytes], tmp_path: Path) -> None:
    images, names = opened(kind, tmp_path / "data", small)
    assert len(images) == len(PICTURES)
    assert images.class_names == names
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [label for _, label in PICTURES]
    for index, (name, _) in enumerate(PICTURES):
        picture = images.read(index)
        assert picture.dtype == np.uint8 and picture.shape == (32, 48, 3)
        np.testing.assert_array_equal(picture, read_image(small[name]))
    np.testing.assert_array_equal(images.read(-1), picture)
    with pytest.raises(IndexError):
        images.read(len(PICTURES))


@pytest.mark.parametrize("kind", ("folder", "shards"))
def test_pickles_and_other_processes_read_the_same(kind: str, small: dict[str, bytes], tmp_path: Path) -> None:
    images, _ = opened(kind, tmp_path / "data", small)
    images.read(0)
    copy = pickle.loads(pickle.dumps(images))
    assert copy.fingerprint() == images.fingerprint()
    np.testing.assert_array_equal(copy.order(3, 4), images.order(3, 4))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for index, picture in enumerate(pool.map(images.read, range(len(images)))):
            np.testing.assert_array_equal(picture, images.read(index))


@pytest.mark.parametrize("kind", ("folder", "list", "labelled list", "shards", "labelled shards"))
def test_without_labels(kind: str, small: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "data"
    match kind:
        case "folder":
            path = write_folder(root, small)
            (root / "top.jpg").write_bytes(small["eagle"])
            (root / "notes.txt").write_text("no picture")
            (root / ".hidden.jpg").write_bytes(b"")
            order = ["eagle", *(name for name, _ in PICTURES)]  # a folder's own pictures come first
        case "list":
            path, order = write_list(root, small, lambda name, _: f"images/{name}.jpg"), [name for name, _ in PICTURES]
        case "labelled list":
            path = write_list(root, small, lambda name, label: f"images/{name}.jpg {label}")
            order = [name for name, _ in PICTURES]
        case "shards":
            path, order = write_tar(root / "a.tar", {f"{n}.jpg": c for n, c in small.items()}), list(small)
        case _:
            path, order = write_shards(root, small), [name for name, _ in PICTURES]
    images = open_images(path, labelled=False)
    assert images.labels.tolist() == [-1] * len(order)
    assert images.class_names == ()
    for index, name in enumerate(order):
        np.testing.assert_array_equal(images.read(index), read_image(small[name]))
    assert open_images(path, classes=CLASSES, labelled=False).class_names == CLASSES


def test_classes_given_set_the_labels(small: dict[str, bytes], tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", small)
    images = open_images(root, classes=["horse and foal", "zebra", "cat", "bird"])
    assert images.labels.tolist() == [3, 3, 2, 0, 0]
    assert images.class_names == ("horse and foal", "zebra", "cat", "bird")
    (root / "zebra").mkdir()  # may stay empty, as the classes are given
    assert len(open_images(root, classes=["horse and foal", "zebra", "cat", "bird"])) == 5
    (root / "bird" / "deep" / "er").mkdir(parents=True)
    (root / "bird" / "deep" / "er" / "z.jpg").write_bytes(small["kite"])
    assert open_images(root, classes=[*CLASSES, "zebra"]).labels.tolist() == [0, 0, 0, 1, 2, 2]


def test_list_of_names_and_numbers(small: dict[str, bytes], tmp_path: Path) -> None:
    listed = write_list(tmp_path / "a", small, lambda name, label: f"images/{name}.jpg {('bird', 'cat', 2)[label]}")
    assert open_images(listed, classes=["cat", "bird", "horse"]).labels.tolist() == [1, 1, 0, 2, 2]
    blanks = write_list(tmp_path / "b", small, lambda name, label: f"\n  images/{name}.jpg   {label * 5}  \n\n")
    images = open_images(blanks)
    assert images.labels.tolist() == [0, 0, 5, 10, 10]
    assert images.class_names == tuple(map(str, range(11)))


def test_keys_end_at_the_first_dot(small: dict[str, bytes], tmp_path: Path) -> None:
    members = {
        "v1.0/a.jpg": small["eagle"],
        "v1.0/a.cls": b"1",
        "v1.0/a.seg.png": b"of the sample a, but not its picture",
        "v2.0/a.jpg": small["kite"],
        "v2.0/a.cls": b"0",
        "v2.0/._a.jpg": b"left by another system",
        "README": b"no dot",
        f"{'long' * 60}.jpg": small["chelsea"],  # needs a header of its own
        f"{'long' * 60}.cls": b"2",
    }
    images = open_images(write_tar(tmp_path / "a.tar", members))
    assert images.labels.tolist() == [1, 0, 2]
    for index, name in enumerate(("eagle", "kite", "chelsea")):
        np.testing.assert_array_equal(images.read(index), read_image(small[name]))


def test_braces_of_words_and_widths(small: dict[str, bytes], tmp_path: Path) -> None:
    for name in ("train-9", "train-10", "val-9", "val-10", "a{b}"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": small["kite"], f"{name}.cls": b"0"})

    def shards(pattern: str) -> list[str]:
        images = open_images(f"{tmp_path}/{pattern}")
        return [path.stem for path in images.shards]

    assert shards("{val,train}-{9..10}.tar") == ["val-9", "val-10", "train-9", "train-10"]
    assert shards("{train}-*.tar") == ["train-10", "train-9"]
    assert shards("a{b}.tar") == ["a{b}"]  # a file's own name
    with pytest.raises(FileNotFoundError, match=r"train-09.tar: no such shard; correct the numbers in .*\{09..10\}"):
        shards("train-{09..10}.tar")


def many(root: Path, shards: int, per_shard: int) -> Path:
    for shard in range(shards):
        members = {}
        for number in range(per_shard + shard % 2):
            members |= {f"{shard}_{number}.jpg": b"x", f"{shard}_{number}.cls": b"%d" % shard}
        write_tar(root / f"{shard:03}.tar", members)
    return root


def check_orders(images: ImageSet) -> None:
    count = len(images)
    orders = {}
    for epoch, seed in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0)):
        order = images.order(epoch, seed)
        assert order.dtype == np.int64 and order.shape == (count,)
        assert sorted(order.tolist()) == list(range(count))
        np.testing.assert_array_equal(order, images.order(epoch, seed))
        orders[epoch, seed] = tuple(order.tolist())
    assert len(set(orders.values())) == 5


def test_order_of_files_is_any_permutation(small: dict[str, bytes], tmp_path: Path) -> None:
    images = open_images(write_flat(tmp_path / "flat", small), labelled=False)
    first = np.bincount([images.order(epoch, 7)[0] for epoch in range(2000)], minlength=5)
    assert ((first - 400) ** 2 / 400).sum() < 18.5  # chi-squared, 4 degrees, 1 in 1,000
    lines = "".join(f"flat/{name}.jpg {number % 7}\n" for number, name in enumerate([*small] * 30))
    (tmp_path / "list.txt").write_text(lines)
    check_orders(open_images(tmp_path / "list.txt"))


def test_order_of_shards_is_local_and_mixed(tmp_path: Path) -> None:
    root = many(tmp_path / "shards", 10, 20)
    images = open_images(root, shards_mixed=3)
    check_orders(images)
    firsts = set()
    for epoch in range(30):
        shards = images.labels[images.order(epoch, 5)]  # the label is the number of the shard
        start, seen = 0, []
        while start < len(shards):
            group = set(shards[start : start + 40].tolist())  # no third of three shards fits into 40 pictures
            size = int(np.isin(images.labels, list(group)).sum())
            inside = shards[start : start + size]
            assert set(inside.tolist()) == group and len(group) == (3 if start + size < len(shards) else 1)
            if len(group) == 3:
                assert np.count_nonzero(np.diff(inside)) > 20  # shuffled together: in sequence there would be 2
            seen.append(tuple(sorted(group)))
            start += size
        assert len(seen) == 4
        firsts |= set(seen[0])
    assert firsts == set(range(10))  # every shard comes first now and then
    alone = open_images(root, shards_mixed=1)
    assert np.count_nonzero(np.diff(alone.labels[alone.order(0, 0)])) == 9
    assert any(np.diff(alone.order(0, 0)[:20]) < 0)


def test_empty_shard_beside_others(small: dict[str, bytes], tmp_path: Path) -> None:
    for number in (0, 2, 4):
        write_tar(tmp_path / f"{number}.tar", {})
    for number, name in ((1, "kite"), (3, "eagle")):
        write_tar(tmp_path / f"{number}.tar", {"a.jpg": small[name], "a.cls": b"0"})
    images = open_images(tmp_path, shards_mixed=1)
    for index, name in enumerate(("kite", "eagle")):
        np.testing.assert_array_equal(images.read(index), read_image(small[name]))
    assert sorted(images.order(0, 0).tolist()) == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprint_is_of_names_sizes_and_labels(kind: str, small: dict[str, bytes], tmp_path: Path) -> None:
    images, _ = opened(kind, tmp_path / "a", small)
    mark = images.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", mark)
    assert opened(kind, tmp_path / "b", small)[0].fingerprint() == mark  # elsewhere
    turned = small | {"kite": bytes(len(small["kite"]))}
    assert opened(kind, tmp_path / "c", turned)[0].fingerprint() == mark  # contents are not read
    longer = small | {"kite": small["kite"] + b"x"}
    assert opened(kind, tmp_path / "d", longer)[0].fingerprint() != mark


def test_fingerprint_tells_labels_names_and_classes_apart(small: dict[str, bytes], tmp_path: Path) -> None:
    def mark(name: str, label: str, classes: list[str]) -> str:
        (tmp_path / name).write_bytes(small["kite"])
        (tmp_path / "list.txt").write_text(f"{name} {label}")
        return open_images(tmp_path / "list.txt", classes=classes).fingerprint()

    marks = [
        mark("a.jpg", "0", ["x", "y"]),
        mark("a.jpg", "1", ["x", "y"]),
        mark("b.jpg", "0", ["x", "y"]),
        mark("a.jpg", "0", ["x", "z"]),
    ]
    assert len(set(marks)) == 4
    assert mark("a.jpg", "x", ["x", "y"]) == marks[0]


def test_bad_pictures_are_told_when_read(small: dict[str, bytes], tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", small)
    (root / "bird" / "eagle.jpg").write_bytes(b"no picture")
    (root / "bird" / "kite.jpg").write_bytes(small["kite"][:500])
    images = open_images(root)
    (root / "cat" / "chelsea.jpg").unlink()
    reasons = ("eagle.jpg: is not a picture", "kite.jpg: is truncated", "chelsea.jpg: no such file")
    for index, reason in enumerate(reasons):
        with pytest.raises(ImageError, match=re.escape(reason)):
            images.read(index)
    images.read(3)

    shard = write_tar(
        tmp_path / "a.tar", {"a.jpg": b"no picture", "a.cls": b"0", "b.jpg": small["kite"], "b.cls": b"0"}
    )
    images = open_images(shard)
    with pytest.raises(ImageError, match=r"a\.tar: a\.jpg: is not a picture"):
        images.read(0)
    with shard.open("r+b") as file:
        file.truncate(int(images.offsets[1]) + 100)
    with pytest.raises(ImageError, match=r"a\.tar: b\.jpg: is truncated: the shard ends too early; copy or download"):
        images.read(1)
    shard.unlink()
    with pytest.raises(ImageError, match=r"a\.tar: b\.jpg: cannot be read: No such file"):
        images.read(1)


def refused(kind: type[Exception], message: str, *arguments: object, **options: object) -> None:
    with pytest.raises(kind) as caught:
        open_images(*arguments, **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_slips_in_folders(small: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    refused(FileNotFoundError, r"data: no such file or folder; give a folder of class folders, a list", folder)
    folder.mkdir()
    refused(ValueError, r"data: no class folder in it; put the pictures of each class into a folder", folder)
    refused(ValueError, r"data: no picture in or below it; put JPEG", folder, labelled=False)
    (folder / "loose.jpg").write_bytes(small["kite"])
    (folder / ".cache").mkdir()
    refused(ValueError, r"data: no class folder in it", folder)
    write_folder(folder, small)
    (folder / "dog").mkdir()
    refused(ValueError, r"dog: no picture in it; delete the folder, or give the list of classes", folder)
    refused(ValueError, r"dog: is none of the 3 classes; rename it, or add it to them", folder, CLASSES)
    shutil.rmtree(folder / "dog")
    refused(ValueError, r"classes: class 'cat' comes twice", folder, [*CLASSES, "cat"])
    refused(ValueError, r"classes: no class in it; write one name a line", folder, [])
    refused(FileNotFoundError, r"names\.txt: no such file", folder, tmp_path / "names.txt")
    refused(ValueError, r"shards_mixed must be at least 1, got 0", folder, shards_mixed=0)
    for name in CLASSES:
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    refused(ValueError, r"data: no picture in its folders", folder, CLASSES)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_folder_behind_a_closed_door(small: dict[str, bytes], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", small)
    (folder / "cat").chmod(0)
    try:
        refused(PermissionError, "cat", folder)
    finally:
        (folder / "cat").chmod(0o755)


def test_slips_in_lists(small: dict[str, bytes], tmp_path: Path) -> None:
    write_flat(tmp_path / "images", small)
    path = tmp_path / "list.txt"

    def check(kind: type[Exception], message: str, text: str | bytes, **options: object) -> None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        refused(kind, message, path, **options)

    refused(FileNotFoundError, r"list\.txt: no such file", path)
    check(ValueError, r"list\.txt: is empty; write one entry a line", "\n  \n")
    check(ValueError, r"list\.txt, line 1: byte 0xff is not UTF-8", b"ab\xff")
    check(
        ValueError, r"list\.txt, line 2: 'images/kite\.jpg' is not 'path label'", "images/kite.jpg 0\nimages/kite.jpg"
    )
    check(FileNotFoundError, r"list\.txt, line 3: no such file .*gone\.jpg; paths start at", "\n\nimages/gone.jpg 0")
    known = {"classes": ["bird", "cat"]}
    check(ValueError, r"line 1: unknown class 'dog'; correct it, or add it to the list", "images/kite.jpg dog", **known)
    check(ValueError, r"line 1: label 2 is not in 0\.\.1; correct it", "images/kite.jpg 2", **known)
    check(ValueError, r"line 1: label -1 is not in 0\.\.1", "images/kite.jpg -1", **known)
    check(ValueError, r"line 1: label 1000000 is not in 0\.\.999999", "images/kite.jpg 1000000")
    check(FileNotFoundError, r"line 2: no such file .*gone\.jpg", "images/kite.jpg\ngone.jpg", labelled=False)
    (tmp_path / "list.csv").write_text("images/kite.jpg 0")
    refused(ValueError, r"list\.csv: cannot tell what it is by its name; give a folder", tmp_path / "list.csv")


def test_slips_in_shards(small: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    good = {"a.jpg": small["kite"], "a.cls": b"0", "b.jpg": small["eagle"], "b.cls": b"1"}

    def check(message: str, members: dict[str, bytes] | bytes, **options: object) -> None:
        if isinstance(members, bytes):
            path.write_bytes(members)
        else:
            write_tar(path, members)
        refused(ValueError, message, path, **options)

    refused(FileNotFoundError, r"a\.tar: no such file or folder", path)
    refused(FileNotFoundError, r"\*\.tar: matches no file; quote the pattern", f"{tmp_path}/*.tar")
    refused(FileNotFoundError, r"01\.tar: no such shard", f"{tmp_path}/{{01..03}}.tar")
    refused(ValueError, r"\{3\.\.1\}: no range of shards; write the smaller number first", f"{tmp_path}/{{3..1}}.tar")
    check(r"a\.tar: a\.jpg has no label a\.cls in this shard; a sample is a picture", {"a.jpg": small["kite"]})
    check(r"a\.tar: a\.cls has no picture in this shard; a sample is", {"a.cls": b"0", "a.txt": b""})
    check(r"a\.tar: a\.jpg and a\.png are one sample", {"a.jpg": b"x", "a.png": b"x", "a.cls": b"0"})
    check(r"a\.tar: b\.cls: 'cat' is not an integer; write the class's number", good | {"b.cls": b"cat"})
    check(r"a\.tar: b\.cls: '' is not an integer", good | {"b.cls": b""})
    check(r"a\.tar: b\.cls: label 1 is not in 0\.\.0; correct it", good, classes=["bird"])
    check(r"a\.tar: b\.cls: label -1 is not in 0\.\.999999", good | {"b.cls": b"-1"})
    check(r"a\.tar: no picture in it; a sample is", {"a.txt": b""})
    check(r"a\.tar: no picture in it; a sample is", {})
    check(r"a\.tar: is truncated or no tar", b"")
    check(r"a\.tar: is truncated or no tar", b"not a tar at all" * 100)
    whole = write_tar(path, good).read_bytes()
    check(r"a\.tar: is compressed \(gzip\).*decompress it", gzip.compress(whole))
    end = open_images(write_tar(path, good)).offsets[1] - 512  # of the header of b.jpg
    for length in (end, end + 100, end + 512, end + 700):
        check(r"a\.tar: is truncated .*; copy or download it again", whole[:length])
    broken = bytearray(whole)
    broken[end + 10] ^= 1  # the checksum of a header no longer fits
    check(r"a\.tar: is truncated or damaged at byte [\d,]+; copy or download it again", bytes(broken))
    path.write_bytes(whole)
    assert open_images(path).labels.tolist() == [0, 1]
    write_tar(tmp_path / "b.tar", {"c.jpg": small["kite"]})
    refused(ValueError, r"b\.tar: c\.jpg has no label", tmp_path)


def test_a_torch_loader_reads_shards_in_its_workers(small: dict[str, bytes], tmp_path: Path) -> None:
    from torch.utils.data import DataLoader, Dataset

    images = open_images(write_shards(tmp_path / "data", small))
    images.read(0)

    class Pictures(Dataset[int]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> int:
            return int(images.read(index).sum())

    order = images.order(0, 0).tolist()
    loader = DataLoader(Pictures(), batch_size=1, sampler=order, num_workers=2, collate_fn=int_of)
    assert list(loader) == [int(images.read(index).sum()) for index in order]


def int_of(batch: list[int]) -> int:
    return batch[0]
