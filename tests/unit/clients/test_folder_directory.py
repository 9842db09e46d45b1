"""A directory whose links are never followed: the functions that targets of backups do not use."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.clients.folder.directory import Directory
from syncline.errors import SynclineError


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Return a directory with `d/f` and with links to a folder and to a file outside of it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (root / "d" / "f").write_bytes(b"inside")
    (outside / "f").write_bytes(b"outside")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "f")
    return Directory(root)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as caught:
        act()
    return caught.value.code.name


def test_links_are_not_opened(directory: Directory) -> None:
    for path in ("file", "folder/f"):
        assert code_of(lambda path=path: directory.open(path)) == "LINK_REFUSED"  # type: ignore[misc]
        assert code_of(lambda path=path: directory.append(path)) == "LINK_REFUSED"  # type: ignore[misc]
    assert code_of(lambda: directory.rename("d/f", "folder/f")) == "LINK_REFUSED"
    assert code_of(lambda: directory.rename("folder/f", "d/f")) == "LINK_REFUSED"
    assert code_of(lambda: directory.remove_tree("folder")) == "LINK_REFUSED"
    assert code_of(lambda: directory.stat("folder/f")) == "LINK_REFUSED"
    assert (directory.root.parent / "outside" / "f").read_bytes() == b"outside"
    assert (directory.root / "d" / "f").read_bytes() == b"inside"


def test_a_file_is_read_extended_and_renamed(directory: Directory) -> None:
    with directory.append("d/part") as file:
        file.write(b"one")
    with directory.append("d/part") as file:
        file.write(b" two")
        file.seek(0)
        assert file.read() == b"one two"
    directory.rename("d/part", "new/whole")
    with directory.open("new/whole") as file:
        assert file.read() == b"one two"
    with pytest.raises(FileNotFoundError):
        directory.open("d/part")
    with pytest.raises(FileNotFoundError):
        directory.rename("d/part", "d/f")


def test_a_new_file_has_the_mode_of_the_umask(directory: Directory) -> None:
    umask = os.umask(0o027)
    try:
        with directory.replace("d/replaced"), directory.append("d/appended"):
            pass
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (directory.root / "d").iterdir()}
    assert modes | {"f": 0} == {"f": 0, "replaced": 0o640, "appended": 0o640}


def test_a_replaced_file_keeps_its_mode(directory: Directory) -> None:
    for mode in (0o600, 0o664, 0o4755):
        (directory.root / "d" / "f").chmod(mode)
        with directory.replace("d/f") as file:
            file.write(b"new")
        assert stat.S_IMODE((directory.root / "d" / "f").stat().st_mode) == mode & 0o777


def test_a_tree_is_removed_and_links_in_it_are_not_followed(directory: Directory) -> None:
    (directory.root / "d" / "out").symlink_to(directory.root.parent / "outside")
    assert directory.remove_tree("d")
    assert not directory.remove_tree("d")
    assert (directory.root.parent / "outside" / "f").read_bytes() == b"outside"
    assert code_of(lambda: directory.remove_tree("file")) == "LINK_REFUSED"


def test_a_walk_yields_everything_except_folders(directory: Directory) -> None:
    (directory.root / ".syncline-0123456789abcdef").write_bytes(b"unfinished")
    (directory.root / ".syncline-config").write_bytes(b"somebody's")
    assert [path for path, _ in directory.walk()] == [".syncline-config", "file", "folder", "d/f"]
    assert [path for path, _ in directory.walk("d")] == ["d/f"]
    assert list(directory.walk("absent")) == []
    assert code_of(lambda: list(directory.walk("d/f"))) == "PATH_COLLIDES"
    assert directory.folders() == ["d"]


def test_a_file_that_is_not_regular_is_not_opened(directory: Directory) -> None:
    os.mkfifo(directory.root / "pipe")
    for path in ("pipe", "d"):
        assert code_of(lambda path=path: directory.open(path)) == "PATH_COLLIDES"  # type: ignore[misc]
        assert code_of(lambda path=path: directory.append(path)) == "PATH_COLLIDES"  # type: ignore[misc]


def test_errors_of_the_system_have_a_code_and_a_reason(directory: Directory) -> None:
    def write() -> None:
        with directory.replace("d/" + 300 * "x"):
            pass

    with pytest.raises(SynclineError, match="File name too long") as caught:
        write()
    assert caught.value.code.name == "FILE_REFUSED"
    assert [each.name for each in (directory.root / "d").iterdir()] == ["f"]
    assert code_of(lambda: directory.remove("d")) == "PATH_COLLIDES"
