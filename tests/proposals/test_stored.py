"""Proposals of files: three formats there and back, and the row of an image."""

import pickle
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from scipy.io import savemat

from proposals.exchange import read_mat, read_pickle, write_mat, write_pickle
from proposals.images import Image
from proposals.store import PictureProposals, write_store
from proposals.stored import MissingError, StoredProposals, open_proposals
from proposals.types import FILE, SELECTIVE_SEARCH, Proposals, from_source

WRITERS = {"mat": write_mat, "pkl": write_pickle, "parquet": lambda path, rows: write_store(path, rows, {})}


def rows(*names: str) -> list[PictureProposals]:
    """Rows of images of 640 x 480; of the last there is no proposal."""
    made = []
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        corners = np.sort(rng.uniform(0, 400, (5 if number < len(names) - 1 else 0, 2, 2)), axis=1).reshape(-1, 4)
        found = from_source(corners, np.linspace(1, 0.2, len(corners)), SELECTIVE_SEARCH)
        made.append(PictureProposals(name, 640, 480, found))
    return made


@pytest.mark.parametrize("format", WRITERS)
def test_there_and_back(tmp_path: Path, format: str):
    """Boxes to the bit; the names and scores that a format lacks come from its order."""
    given = rows("a/000012.jpg", "a/b c.png", "é.webp")
    file = tmp_path / f"all.{format}"
    WRITERS[format](file, iter(given))
    found = open_proposals(file)
    assert list(found) == ([row.picture for row in given] if format == "parquet" else ["000012", "b c", "é"])
    for row, proposals in zip(given, found.values(), strict=True):
        np.testing.assert_array_equal(proposals.boxes, row.proposals.boxes)
        np.testing.assert_allclose(proposals.scores, row.proposals.scores)
        assert set(proposals.sources) <= {SELECTIVE_SEARCH if format == "parquet" else FILE}
    again = tmp_path / f"again.{format}"
    WRITERS[format](again, given)
    assert again.read_bytes() == file.read_bytes()
    stored = StoredProposals(file)
    assert len(stored) == 3 and stored.describe() == f"proposals of {file}"
    assert stored.of(PurePosixPath("a/b c.png"), (640, 480)).boxes.shape == (5, 4)


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path):
    for name, writer in WRITERS.items():
        writer(tmp_path / f"x.{name}", rows("a/1.jpg", "b/1.jpg"))
        assert [key.removesuffix(".jpg") for key in open_proposals(tmp_path / f"x.{name}")] == ["a/1", "b/1"]


def test_a_file_of_fast_rcnn(tmp_path: Path):
    """As its authors wrote them: cells, of whole numbers, y1 x1 y2 x2 from 1 to the last pixel."""
    images, boxes = np.empty((2, 1), object), np.empty((1, 2), object)
    images[:, 0] = ["000005", "000007"]
    boxes[0, 0], boxes[0, 1] = np.array([[1, 2, 10, 20], [3, 4, 5, 6]], np.uint16), np.zeros((0, 4))
    savemat(tmp_path / "voc.mat", {"images": images, "boxes": boxes})
    found = read_mat(tmp_path / "voc.mat")
    assert found["000005"].boxes.tolist() == [[1, 0, 20, 10], [3, 2, 6, 5]]
    assert found["000005"].scores.tolist() == [1, 0.5] and found["000005"].sources.tolist() == [FILE, FILE]
    assert len(found["000007"]) == 0
    write_mat(tmp_path / "ours.mat", rows("a.jpg", "b.jpg"))
    from scipy.io import loadmat

    content = loadmat(tmp_path / "ours.mat")  # as fast-rcnn's lib/datasets/pascal_voc.py reads it
    theirs = [content["boxes"].ravel()[i][:, (1, 0, 3, 2)] - 1 for i in range(2)]
    np.testing.assert_allclose(theirs[0] + [0, 0, 1, 1], rows("a.jpg", "b.jpg")[0].proposals.boxes, rtol=1e-6)
    assert [str(name[0][0]) for name in content["images"]] == ["a", "b"]


@pytest.mark.parametrize("ids", ["ids", "indexes"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_file_of_detectron(tmp_path: Path, ids: str, protocol: int):
    """Boxes to the last pixel, scores in no order; ids are numbers of COCO."""
    content = {
        "boxes": [np.array([[0, 0, 9, 9], [5, 5, 19, 9]], np.float32), np.zeros((0, 4), np.float32)],
        "scores": [np.array([0.25, 0.75], np.float32), np.zeros(0, np.float32)],
        ids: [139, np.int64(285)],
    }
    (tmp_path / "coco.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_pickle(tmp_path / "coco.pkl")
    assert list(found) == ["139", "285"]
    assert found["139"].boxes.tolist() == [[5, 5, 20, 10], [0, 0, 10, 10]]
    assert found["139"].scores.tolist() == [0.75, 0.25]
    stored = StoredProposals(tmp_path / "coco.pkl")
    assert len(stored.of(PurePosixPath("val2017/000000000139.jpg"))) == 2
    write_pickle(tmp_path / "ours.pkl", rows("000000000139.jpg", "000000000285.jpg"))
    assert b"numpy._core" not in (tmp_path / "ours.pkl").read_bytes()  # which numpy 1 does not know
    ours = pickle.loads((tmp_path / "ours.pkl").read_bytes())
    assert ours["ids"] == [139, 285] and [len(boxes) for boxes in ours["boxes"]] == [5, 0]


def test_a_file_of_detectron2(tmp_path: Path):
    """Half-open boxes, and logits."""
    boxes = [np.array([[1, 2, 10, 20]], np.float32)]
    for mode, wanted in ((None, [1, 2, 10, 20]), (0, [1, 2, 10, 20]), (1, [1, 2, 11, 22])):
        content = {"boxes": boxes, "objectness_logits": [np.array([-3.0])], "ids": ["x"]}
        content |= {} if mode is None else {"bbox_mode": mode}
        (tmp_path / "d2.pkl").write_bytes(pickle.dumps(content))
        assert read_pickle(tmp_path / "d2.pkl")["x"].boxes.tolist() == [wanted]


class Shell:
    """What a malicious file holds."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch ran",)


def cells(*values: object) -> np.ndarray:
    made = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        made[0, place] = value
    return made


BOX = np.array([[1.0, 1, 5, 5]])
LISTS = {"boxes": [BOX], "scores": [np.ones(1)], "ids": [1]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pkl", Shell(), "is no pickle of proposals, or a damaged one (it asks for posix.system, which is not"),
        ("x.pkl", {**LISTS, "more": np.sum}, "it asks for numpy.sum, which is not loaded"),
        ("x.pkl", b"", "is no pickle of proposals"),
        ("x.pkl", pickle.dumps(LISTS)[:-30], "is no pickle of proposals"),
        ("x.pkl", [1], "holds a list; files of Detectron hold a dict"),
        ("x.pkl", {"boxes": [], "ids": []}, "has no list 'scores'; files of Detectron have boxes, scores, and ids or"),
        ("x.pkl", {"boxes": [], "scores": []}, "has no list 'indexes'"),
        ("x.pkl", {**LISTS, "ids": [1, 2]}, "has 2 images, but boxes or scores of another number"),
        ("x.pkl", {"boxes": [BOX] * 2, "scores": [np.ones(1)] * 2, "ids": [1, 1]}, "has the image 1 twice"),
        ("x.pkl", {**LISTS, "scores": [np.array([np.nan])]}, "image 1: a proposal's score is NaN"),
        ("x.pkl", {**LISTS, "scores": [np.ones(2)]}, "image 1: "),
        ("x.pkl", {**LISTS, "boxes": [BOX[:, ::-1]]}, "image 1: box 0 is inverted"),
        ("x.pkl", {**LISTS, "boxes": [BOX[:, :3]]}, "image 1: its boxes have shape [1, 3], not [N, 4]"),
        ("x.pkl", {**LISTS, "bbox_mode": 4}, "has bbox_mode 4; 0 (xyxy) and 1 (xywh) are known"),
        ("x.mat", b"x" * 200, "is no MATLAB file, or a damaged one"),
        ("x.mat", b"MATLAB 7.3 MAT-file" + bytes(500), "is a MATLAB 7.3 file, which cannot be read; save it with"),
        ("x.mat", {"boxes": cells(BOX)}, "has no variable 'images'; files of Fast R-CNN have images and boxes"),
        ("x.mat", {"images": cells("a"), "boxes": cells(BOX - 1)}, "image a: has a box at 0; these files count pixels"),
        ("x.mat", {"images": cells("a", "b"), "boxes": cells(BOX)}, "has 2 images, but boxes or scores of another"),
        ("x.parquet", b"x" * 200, "is no file of proposals"),
    ],
)
def test_bad_files_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: object, message: str
):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif name.endswith(".pkl"):
        Path(name).write_bytes(pickle.dumps(content))
    else:
        savemat(name, content)
    with pytest.raises(ValueError) as caught:
        open_proposals(Path(name))
    assert str(caught.value).startswith(name) and message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("ran").exists()


def stored(folder: Path, *names: str) -> StoredProposals:
    write_store(folder / "all.parquet", rows(*names), {})
    return StoredProposals(folder / "all.parquet")


@pytest.mark.parametrize(
    ("names", "path", "wanted"),
    [
        (["a.jpg"], "a.jpg", "a.jpg"),
        (["a.jpg"], "/data/x/a.jpg", "a.jpg"),
        (["x/a.jpg", "y/a.jpg"], "/data/y/a.jpg", "y/a.jpg"),
        (["a.jpg", "x/a.jpg"], "/data/x/a.jpg", "x/a.jpg"),  # of two that the path ends in, the longer
        (["a.jpg", "x/a.jpg"], "/data/y/a.jpg", "a.jpg"),
        (["/old/voc/a.jpg"], "/new/voc/a.jpg", "/old/voc/a.jpg"),  # made on another machine
        (["../data/voc/a.jpg"], "/new/data/voc/a.jpg", "../data/voc/a.jpg"),
        (["p/q/a.jpg"], "q/a.jpg", "p/q/a.jpg"),
        (["a.png"], "a.jpg", "a.png"),
        (["a.png", "a.jpg"], "a.jpg", "a.jpg"),
        (["a"], "x/a.b.jpg", None),
        (["7"], "x/000007.jpg", "7"),
        (["7", "000007"], "x/000007.jpg", "000007"),
        (["07.jpg"], "7.jpg", None),  # two files, not one number
        (["x/a.jpg"], "y/a.jpg", None),  # the folders tell them apart
        (["train/a.jpg"], "/data/val/a.jpg", None),
        (["b.jpg"], "a.jpg", None),
    ],
)
def test_the_row_of_an_image(tmp_path: Path, names: list[str], path: str, wanted: str | None):
    found = stored(tmp_path, *names)
    assert found.has(PurePosixPath(path)) == (wanted is not None)
    if wanted is None:
        with pytest.raises(MissingError, match=r"all\.parquet has no proposals of this picture \(it has "):
            found.find(PurePosixPath(path))
    else:
        assert found.find(PurePosixPath(path)) == wanted


def test_what_fits_several_or_none_is_an_error(tmp_path: Path):
    both = stored(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(ValueError, match=r"has x/a\.jpg and y/a\.jpg; both may be it; give a longer path"):
        both.of(PurePosixPath("a.jpg"))
    one = stored(tmp_path, "a.jpg")
    assert len(one.of(PurePosixPath("x/a.jpg"))) == len(one.of(PurePosixPath("x/a.jpg"))) == 0
    with pytest.raises(ValueError, match=r"has one a\.jpg, which may be this picture or x/a\.jpg"):
        one.of(PurePosixPath("y/a.jpg"))


def image(width: int, height: int) -> Image:
    return np.zeros((height, width, 3), np.uint8)


def test_as_a_proposer_it_needs_the_name_and_the_size(tmp_path: Path):
    found = stored(tmp_path, "a.jpg", "b.jpg")
    assert found(image(640, 480), Path("a.jpg")).boxes.shape == (5, 4)
    with pytest.raises(MissingError, match="finds proposals by the name of a picture's file; this picture has none"):
        found(image(640, 480))
    with pytest.raises(ValueError, match="has it with 640 x 480 pixels, not 640 x 481"):
        found(image(640, 481), Path("a.jpg"))
    write_mat(tmp_path / "a.mat", rows("a.jpg", "b.jpg"))
    with pytest.raises(ValueError, match=r"has boxes of this picture beyond its 30 x 20 pixels"):
        StoredProposals(tmp_path / "a.mat")(image(30, 20), Path("a.jpg"))


def test_objectness_comes_back_and_older_files_have_none(tmp_path: Path):
    plain = rows("a.jpg", "b.jpg", "c.jpg")
    seen = Proposals(plain[1].proposals.boxes, plain[1].proposals.scores, plain[1].proposals.sources, np.full(5, 0.5))
    given = [plain[0], PictureProposals("b.jpg", 640, 480, seen), plain[2]]
    write_store(tmp_path / "a.parquet", given, {})
    found = open_proposals(tmp_path / "a.parquet")
    assert found["a.jpg"].objectness is None and found["c.jpg"].objectness is None
    np.testing.assert_array_equal(found["b.jpg"].objectness, np.full(5, 0.5, np.float32))
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "a.parquet").drop_columns("objectness")
    table = table.replace_schema_metadata({**table.schema.metadata, b"proposals.format": b"1"})
    pq.write_table(table, tmp_path / "old.parquet")
    old = open_proposals(tmp_path / "old.parquet")
    np.testing.assert_array_equal(old["b.jpg"].boxes, seen.boxes)
    assert old["b.jpg"].objectness is None
