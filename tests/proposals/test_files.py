from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from proposals.files import NewFile, check_folder, write_bytes_atomic, write_text_atomic


def test_writes_bytes_and_text_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "a.bin", b"\x00\r\n\xff")
    write_text_atomic(str(tmp_path / "a.txt"), "naïve\r\n犬\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n\xff"
    assert (tmp_path / "a.txt").read_bytes() == "naïve\r\n犬\n".encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.txt"]


def test_replaces_an_existing_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old and longer")
    write_text_atomic(target, "")
    assert target.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not rename over an open file")
def test_a_reader_of_the_old_file_never_sees_a_part(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with target.open() as reader:
        write_text_atomic(target, "new text")
        assert reader.read() == "old"
    assert target.read_text() == "new text"


def test_a_long_name_fits(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 251 + ".txt")
    write_text_atomic(target, "a")
    assert target.read_text() == "a"


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text_atomic(tmp_path / "written", "")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_lies_under_a_temporary_name_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    for name in (f".{os.getpid()}-{threading.get_ident()}.tmp", f".{os.getpid()}.tmp", ".a.txt.tmp", "a.txt.tmp"):
        (tmp_path / name).symlink_to("victim")
    write_text_atomic(tmp_path / "a.txt", "a")
    assert (tmp_path / "victim").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 6


def test_an_occupied_temporary_name_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)  # the name as if somebody had foreseen it
    (tmp_path / "victim").write_text("kept")
    (tmp_path / f".{bytes(8).hex()}.tmp.txt").symlink_to("victim")
    with pytest.raises(FileExistsError, match=r"cannot write .*a\.txt"):
        write_text_atomic(tmp_path / "a.txt", "a")
    assert (tmp_path / "victim").read_text() == "kept" and not (tmp_path / "a.txt").exists()


def test_a_folder_is_checked_without_being_made(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name, complaint in (
        ("file", "is no folder"),
        ("file/a/b", f"{tmp_path / 'file'} is no folder"),
        ("link", "is no folder"),
    ):
        with pytest.raises(NotADirectoryError) as caught:
            check_folder(tmp_path / name)
        assert caught.value.strerror == complaint


def test_a_closed_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o555)
    source = (
        "import os, pathlib, sys; from proposals.files import check_folder\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "for name in ('closed', 'closed/a'):\n"
        "    try: check_folder(pathlib.Path(name))\n"
        "    except PermissionError as error: print(error.strerror)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["permission denied"] * 2, done.stderr


def test_relative_name_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text_atomic("a.txt", "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    target = tmp_path / "none" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_text_atomic(target, "a")
    assert str(caught.value).startswith(f"cannot write {target}: ")
    assert "check that the folder exists" in str(caught.value)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    target = tmp_path / "file" / "a.txt"
    with pytest.raises(OSError, match=r"cannot write .*a\.txt"):
        write_text_atomic(target, "a")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_in_the_place_of_the_target_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").write_text("kept")
    with pytest.raises(OSError, match=r"cannot write .*folder"):
        write_bytes_atomic(target, b"a")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert (target / "inside").read_text() == "kept"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the folder's mode does not stop the super-user"
)
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"cannot write .*a\.txt"):
        write_text_atomic(folder / "a.txt", "a")
    assert list(folder.iterdir()) == []


def test_text_that_utf8_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write .*a\.txt: '\\udcff' is no text; rename the picture"):
        write_text_atomic(tmp_path / "a.txt", "dog\udcff.jpg")
    assert list(tmp_path.iterdir()) == []


def test_devices_and_links_are_left_in_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is a device, pipe or socket; give the name of a file"):
        write_bytes_atomic(pipe, b"x")
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        write_bytes_atomic(tmp_path, b"x")
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_bytes_atomic(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new" and pipe.is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe", "target"]


def test_files_that_are_written_together_get_their_names_together(tmp_path: Path) -> None:
    with NewFile(tmp_path / "a.xml", (".bin",)) as temporary:
        assert temporary.suffix == ".xml" and not (tmp_path / "a.bin").exists()
        temporary.write_text("graph")
        temporary.with_suffix(".bin").write_text("weights")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.xml": "graph", "a.bin": "weights"}


def test_what_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), NewFile(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match=r"'/nowhere/b'"), NewFile(tmp_path / "a") as temporary:
        Path("/nowhere/b").read_text()  # not what we write, so its own words stay
    with pytest.raises(FileNotFoundError, match=r"^cannot write .*a: No such file"):
        NewFile(tmp_path / "a").keep()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
