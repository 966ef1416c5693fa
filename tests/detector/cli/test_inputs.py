"""Files, folders, patterns and standard input become pictures in a natural order; results get names of their own."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.cli.inputs import Picture, Video, expand
from detector.cli.outputs import OutputNames
from detector.samples import sample_path
from proposals.image_files import Problem

ROOT = Path(__file__).parents[3]
CAT = ROOT / "samples" / "chelsea.jpg"


def names(*arguments: str) -> list[str]:
    """The names that `arguments` expand to, a problem as `name: reason`; the bundled samples are known."""
    items = expand(arguments, lambda text: None)
    return [item.name if isinstance(item, Picture) else f"{item.name}: {item.reason}" for item in items]


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, and with what must not be taken for one; it is the current folder."""
    for name in (
        "img10.jpg",
        "img2.JPG",
        "IMG1.png",
        "sub/deep/z.webp",
        "sub/a.tif",
        "sub2/b.jpeg",
        "notes.txt",
        ".hidden.jpg",
        ".cache/c.jpg",
        "img2.detected.jpg",
        "._img2.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CAT, path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


IN_ORDER = ["IMG1.png", "img2.JPG", "img10.jpg", "sub/a.tif", "sub/deep/z.webp", "sub2/b.jpeg"]


def test_folder_is_walked_in_natural_order(album: Path) -> None:
    assert names(".") == IN_ORDER
    assert names(str(album)) == [str(album / name) for name in IN_ORDER]
    assert names("sub/") == ["sub/a.tif", "sub/deep/z.webp"]


def test_patterns(album: Path) -> None:
    assert names("*.jpg") == ["img10.jpg"]
    assert names("img*") == ["img2.JPG", "img10.jpg"]
    assert names("*") == ["IMG1.png", "img2.JPG", "img10.jpg"]
    assert names("**/*.tif") == ["sub/a.tif"]
    assert sorted(names("**")) == sorted(IN_ORDER)
    assert names("sub*/[ab].*") == ["sub/a.tif", "sub2/b.jpeg"]
    assert names("img?.JPG") == ["img2.JPG"]
    assert names(f"{album}/sub/*") == [f"{album}/sub/a.tif"]
    assert names(f"../{album.name}/sub2/*.jpeg") == [f"../{album.name}/sub2/b.jpeg"]
    assert names("*.txt") == ["notes.txt"]  # asked for by suffix; reading it tells that it is no picture


def test_pattern_without_a_match_is_a_problem(album: Path) -> None:
    complaint = "no such file, and as a pattern it matches no picture"
    assert names("*.gif", "img10.jpg") == [f"*.gif: {complaint}", "img10.jpg"]
    assert names("nowhere/*.jpg") == [f"nowhere/*.jpg: {complaint}"]
    assert names("[") == [f"[: {complaint}"]
    assert names("img**.gif")[0].startswith("img**.gif: no such file, and")


def test_a_file_with_wildcards_in_its_name_is_that_file(album: Path) -> None:
    shutil.copy(CAT, album / "img[2].jpg")
    shutil.copy(CAT, album / "what?.jpg")
    assert names("img[2].jpg", "what?.jpg") == ["img[2].jpg", "what?.jpg"]


def test_explicit_names_are_taken_whatever_they_are(album: Path) -> None:
    assert names("notes.txt", ".hidden.jpg", "img2.detected.jpg") == ["notes.txt", ".hidden.jpg", "img2.detected.jpg"]


def test_missing_and_empty_names(album: Path) -> None:
    assert names("no.jpg", "") == [
        "no.jpg: no such file",
        "'': is an empty name; give a picture, a folder, a pattern or -",
    ]
    (album / "gone.jpg").symlink_to("nowhere.jpg")
    assert names("gone.jpg") == ["gone.jpg: no such file"]
    assert "gone.jpg" in names(".")  # a broken link among the pictures is not passed over in silence


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert names(str(tmp_path)) == [
        f"{tmp_path}: no pictures in this folder (looked for .jpg, .png, .webp, .tif and the like)"
    ]


def test_unreadable_folder_is_a_problem_and_the_rest_goes_on(album: Path) -> None:
    (album / "sub").chmod(0)
    user = os.geteuid()
    if user == 0:
        album.chmod(0o755)
        try:
            os.seteuid(65534)  # root may read everything
        except OSError:
            pytest.skip("permissions do not bind this user")
    try:
        found = names(".")
    finally:
        os.seteuid(user)
        (album / "sub").chmod(0o755)
    assert found == [*IN_ORDER[:3], "sub: the folder cannot be read: Permission denied", "sub2/b.jpeg"]


def test_each_file_comes_once(album: Path) -> None:
    (album / "link.jpg").symlink_to("img10.jpg")
    assert names("img10.jpg", "./img10.jpg", str(album / "img10.jpg"), "link.jpg", "*.jpg") == ["img10.jpg"]
    assert names("-", "-") == ["-"]
    twice = names("sub2", ".")
    assert twice == ["sub2/b.jpeg", *IN_ORDER[:3], *IN_ORDER[3:5]]


def test_links_in_a_circle_end(album: Path) -> None:
    (album / "sub" / "up").symlink_to(album)
    (album / "self.jpg").symlink_to("self.jpg")
    assert [name for name in names(".") if name != "self.jpg"] == IN_ORDER


def test_a_pipe_in_a_folder_is_passed_over(album: Path) -> None:
    os.mkfifo(album / "sub" / "pipe.jpg")  # opening it would wait for ever
    assert names("sub") == ["sub/a.tif", "sub/deep/z.webp"]


@pytest.mark.parametrize(
    "name", ["two words.jpg", "new\nline.jpg", "-rf.jpg", "Ünïcode 狗.jpg", os.fsdecode(b"\xff\xfe.jpg"), "tab\t.jpg"]
)
def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CAT, name)
    for argument in (name, ".", "*.jpg"):
        assert list(expand([argument], print)) == [Picture(name, Path(name))]


def test_bundled_samples_stand_in_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    dog = sample_path("dog.jpg")
    assert list(expand(["samples/dog.jpg"], notes.append)) == [Picture("samples/dog.jpg", dog)]
    assert notes == [f"samples/dog.jpg is not here; using the bundled {dog}"]
    assert len(list(expand(["samples"], notes.append))) == 11
    for name in ("dog.jpg", "other/dog.jpg", "dog", "samples/wolf.jpg", "/dog.jpg"):  # only samples/ is ours
        assert list(expand([name], notes.append)) == [Problem(name, "no such file")]
    (tmp_path / "samples").mkdir()
    shutil.copy(CAT, "samples/dog.jpg")  # a file of the user's goes first
    own = Picture("samples/dog.jpg", Path("samples/dog.jpg"))
    assert list(expand(["samples/dog.jpg"], notes.append)) == [own]
    assert len(notes) == 2


def test_expansion_is_lazy(album: Path) -> None:
    items = expand([".", "no.jpg"], print)
    assert next(items) == Picture("IMG1.png", Path("IMG1.png"))
    (album / "sub2" / "b.jpeg").rename(album / "sub2" / "later.jpeg")
    assert Picture("sub2/later.jpeg", Path("sub2/later.jpeg")) in list(items)


def stems(paths: list[str], folder: Path, inputs: list[str] | None = None) -> list[str]:
    outputs = OutputNames(folder, [".detected.jpg", ".detected.json"], paths if inputs is None else inputs)
    return [outputs.stem(Picture(path, None if path == "-" else Path(path))) for path in paths]


def test_output_names_never_collide(tmp_path: Path) -> None:
    assert stems(["a/x.jpg", "b/x.png", "c/X.jpg", "x-2.jpg", "y.jpg", "-", "stdin.jpg"], tmp_path) == [
        "x",
        "x-2",
        "X-3",
        "x-2-2",
        "y",
        "stdin",
        "stdin-2",
    ]
    assert stems(["x-2.jpg", "a/x.jpg", "b/x.jpg"], tmp_path) == ["x-2", "x", "x-3"]


def test_output_names_leave_inputs_alone(tmp_path: Path) -> None:
    inputs = [str(tmp_path / "x.jpg"), str(tmp_path / "x.detected.jpg")]
    for path in inputs:
        shutil.copy(CAT, path)
    assert stems(inputs, tmp_path) == ["x-2", "x.detected"]
    assert stems(inputs, tmp_path / "elsewhere") == ["x", "x.detected"]
    json = [str(tmp_path / "x.jpg"), str(tmp_path / "x.detected.json")]
    assert stems(json, tmp_path)[0] == "x-2"


@given(st.lists(st.text(alphabet="xX-2", min_size=1, max_size=4), max_size=12))
def test_output_names_are_different_and_repeatable(bases: list[str]) -> None:
    paths = [f"{i}/{base}.jpg" for i, base in enumerate(bases)]
    found = stems(paths, Path("nowhere"))
    assert len({stem.casefold() for stem in found}) == len(paths)
    assert found == stems(paths, Path("nowhere"))


def test_long_names_leave_room_for_a_suffix(tmp_path: Path) -> None:
    (stem,) = stems(["狗" * 84 + ".jpg"], tmp_path)
    assert stem == "狗" * 66  # three bytes each, at most 200
    (tmp_path / f"{stem}-1000.detected.json").touch()


def test_many_equal_names_stay_quick(tmp_path: Path) -> None:
    found = stems([f"{i}/image.jpg" for i in range(20_000)], tmp_path, inputs=[])
    assert found[-1] == "image-20000"


@pytest.fixture
def clips(album: Path) -> Path:
    for name in ("clip2.mp4", "clip10.MP4", "clip2.detected.mp4", "sub/c.avi", ".hidden.mp4"):
        (album / name).touch()  # a video is known by its suffix; reading comes later
    return album


def test_videos_are_taken_where_they_are_named(clips: Path) -> None:
    def found(*arguments: str) -> list[object]:
        return list(expand(arguments, print))

    assert found("sub/c.avi") == [Video("sub/c.avi", Path("sub/c.avi"))]
    assert found("clip*.mp4", "clip10.MP4", "./clip2.mp4") == [
        Video("clip2.mp4", Path("clip2.mp4")),
        Video("clip10.MP4", Path("clip10.MP4")),
    ]
    assert found("**/*.avi") == [Video("sub/c.avi", Path("sub/c.avi"))]
    assert names(".") == IN_ORDER  # neither a folder nor a bare wildcard yields videos
    assert names("*") == IN_ORDER[:3]
    assert found("no.mp4") == [Problem("no.mp4", "no such file")]


def test_cameras(album: Path) -> None:
    cameras = list(expand(["camera:0", "camera:12", "camera:00"], print))
    assert cameras == [Video("camera:0", 0), Video("camera:12", 12)]
    for name in ("camera:", "camera:x", "camera:-1", "camera:0 ", "camera:1234"):
        assert list(expand([name], print)) == [Problem(name, "no such file")]
    shutil.copy(CAT, "camera:0")  # a file of the user's goes first
    assert list(expand(["camera:0"], print)) == [Picture("camera:0", Path("camera:0"))]


def test_names_of_results_of_videos(tmp_path: Path) -> None:
    outputs = OutputNames(tmp_path, [".detected.mp4", ".detected.json"], [str(tmp_path / "x.detected.mp4")])
    sources = [Video("x.mp4", Path("x.mp4")), Video("x.avi", Path("x.avi")), Video("camera:3", 3)]
    assert [outputs.stem(source) for source in sources] == ["x-2", "x-3", "camera-3"]
