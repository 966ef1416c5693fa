"""The image files of folders, patterns and lists, in natural order; `tests/detector/test_inputs.py` has what else."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proposals.image_files import Problem, find_images, natural_key, read_list


def found(argument: str) -> list[str]:
    return [item.reason if isinstance(item, Problem) else item.as_posix() for item in find_images(argument)]


@pytest.fixture(autouse=True)
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("b/10.jpg", "b/9.png", "b/8.apng", "b/7.heic", "b/a/1.JPG", "b/.hidden.jpg", "b/notes.txt", "a.jpg")
    for name in (*names, "b/9.detected.png", "[x].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "a" / "loop").symlink_to(tmp_path / "b")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        ("a.jpg", ["a.jpg"]),
        ("b/notes.txt", ["b/notes.txt"]),  # named, so taken; reading it tells what it is
        ("[x].jpg", ["[x].jpg"]),  # a file with wildcards in its name is that file
        ("b", ["b/7.heic", "b/8.apng", "b/9.png", "b/10.jpg", "b/a/1.JPG"]),
        ("b/*", ["b/7.heic", "b/8.apng", "b/9.png", "b/10.jpg"]),
        ("b/*.txt", ["b/notes.txt"]),
        ("[ab].jpg", ["a.jpg"]),
        ("no.jpg", ["no such file"]),
        ("*.gif", ["no such file, and as a pattern it matches no picture"]),
        ("", ["is an empty name; give a picture, a folder or a pattern"]),
    ],
)
def test_what_an_argument_names(argument: str, names: list[str]) -> None:
    assert found(argument) == names


@given(st.lists(st.text(alphabet="aB1023²٣.-", max_size=6)))
def test_natural_order_is_total(texts: list[str]) -> None:
    backwards = texts[::-1]
    assert sorted(texts, key=natural_key) == sorted(backwards, key=natural_key)


def test_natural_order_by_hand() -> None:
    right = ["9", "10", "a", "A9", "a09", "a10", "b"]
    assert sorted(["b", "a10", "A9", "a09", "a", "10", "9"], key=natural_key) == right


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list(mark: str) -> None:
    Path("list.txt").write_bytes(f"{mark}a b.jpg\r\n\n \t\n  Ünï\u2028.jpg  ".encode())
    assert read_list(Path("list.txt")) == [(1, "a b.jpg"), (4, "Ünï\u2028.jpg")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a.jpg\n\xe9.jpg\n", ", line 2: byte 0xe9 is not UTF-8"),
        ("a.jpg".encode("utf-16"), ": is UTF-16 text"),
    ],
)
def test_a_list_of_another_encoding(data: bytes, reason: str) -> None:
    Path("list.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"^list\.txt{reason}; save the file as UTF-8$"):
        read_list(Path("list.txt"))


def test_a_pipe_in_a_folder_is_passed_over() -> None:
    os.mkfifo("b/a/pipe.jpg")  # opening it would wait for ever
    assert "b/a/pipe.jpg" not in found("b")
