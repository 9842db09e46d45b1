"""A folder as a target: no link below it leads outside, even one that is created concurrently."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.clients.git.objects import blob_id
from syncline.errors import SynclineError


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder with a file, outside of the target."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_bytes(b"precious")
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    """Return a target in which the link `c0/ln` leads outside."""
    folder = tmp_path / "target"
    (folder / "c0").mkdir(parents=True)
    (folder / "c0" / "ln").symlink_to(outside)
    return folder


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as caught:
        act()
    return caught.value.code.name


def test_no_call_follows_a_link_to_a_folder(root: Path, outside: Path) -> None:
    folder = FolderTarget(root)
    assert code_of(lambda: folder.write("c0/ln/precious.txt", [b"x"])) == "LINK_REFUSED"
    assert code_of(lambda: folder.write("c0/ln/new/file.txt", [b"x"])) == "LINK_REFUSED"
    assert code_of(lambda: folder.remove("c0/ln/precious.txt")) == "LINK_REFUSED"
    assert folder.fingerprint("c0/ln/precious.txt") is None
    assert folder.content_id("c0/ln/precious.txt") == ""
    assert code_of(lambda: list(folder.listing("c0/ln"))) == "LINK_REFUSED"
    assert list(folder.listing("c0")) == []
    assert [each.name for each in outside.iterdir()] == ["precious.txt"]
    assert (outside / "precious.txt").read_bytes() == b"precious"


def test_a_link_at_the_top_is_not_a_cluster(root: Path, outside: Path) -> None:
    (root / "c1").symlink_to(outside)
    assert FolderTarget(root).top_folders() == ["c0"]
    assert code_of(lambda: list(FolderTarget(root).listing("c1"))) == "LINK_REFUSED"


def test_a_link_instead_of_a_file_is_kept(root: Path, outside: Path) -> None:
    (root / "c0" / "f").symlink_to(outside / "precious.txt")
    folder = FolderTarget(root)
    assert folder.fingerprint("c0/f") is None
    assert folder.content_id("c0/f") == ""
    assert code_of(lambda: folder.write("c0/f", [b"ours"])) == "LINK_REFUSED"
    assert code_of(lambda: folder.remove("c0/f")) == "LINK_REFUSED"
    assert (root / "c0" / "f").is_symlink()
    assert (outside / "precious.txt").read_bytes() == b"precious"


def test_a_link_may_be_replaced_without_changing_its_target(root: Path, outside: Path) -> None:
    (root / "c0" / "f").symlink_to(outside / "precious.txt")
    assert FolderTarget(root, replaces=True).write("c0/f", [b"ours"]) == blob_id(b"ours")
    assert not (root / "c0" / "f").is_symlink()
    assert (outside / "precious.txt").read_bytes() == b"precious"


def test_a_folder_replaced_by_a_link_during_a_write_is_not_followed(root: Path, outside: Path) -> None:
    """Chunks are read during the write, so their iterator runs between check and use."""

    def chunks() -> Iterator[bytes]:
        yield b"ours"
        (root / "c0" / "ns").rename(root / "moved")
        (root / "c0" / "ns").symlink_to(outside)
        yield b" too"

    folder = FolderTarget(root)
    assert code_of(lambda: folder.write("c0/ns/precious.txt", chunks())) == "LINK_REFUSED"
    assert [each.name for each in outside.iterdir()] == ["precious.txt"]
    assert (outside / "precious.txt").read_bytes() == b"precious"


def test_an_invalid_path_is_refused(root: Path) -> None:
    folder = FolderTarget(root)
    for path in ("../outside/precious.txt", "/etc/passwd", "c0//f", "c0/./f", "c0/../f", ""):
        assert code_of(lambda path=path: folder.write(path, [b"x"])) == "PATH_REFUSED"  # type: ignore[misc]


def test_a_folder_instead_of_a_file_has_a_code_and_vice_versa(root: Path) -> None:
    folder = FolderTarget(root)
    (root / "c0" / "d" / "e").mkdir(parents=True)
    (root / "c0" / "f").write_bytes(b"f")
    assert code_of(lambda: folder.write("c0/d", [b"x"])) == "PATH_COLLIDES"
    assert code_of(lambda: folder.write("c0/f/inner", [b"x"])) == "PATH_COLLIDES"
    assert code_of(lambda: folder.remove("c0/d")) == "PATH_COLLIDES"
    assert folder.fingerprint("c0/f/inner") is None
    assert sorted(each.name for each in (root / "c0").iterdir()) == ["d", "f", "ln"], "no temporary file is left"


def test_a_pipe_does_not_block(root: Path) -> None:
    os.mkfifo(root / "c0" / "pipe")
    folder = FolderTarget(root)
    assert folder.fingerprint("c0/pipe") is None
    assert code_of(lambda: folder.write("c0/pipe", [b"ours"])) == "PATH_COLLIDES"
    assert FolderTarget(root, replaces=True).write("c0/pipe", [b"ours"]) == blob_id(b"ours")


def test_a_name_that_is_not_utf_8_hides_no_other_file(root: Path) -> None:
    with open(os.fsencode(root) + b"/c0/\xff", "wb") as file:  # noqa: PTH123 - bytes, not text
        file.write(b"x")
    folder = FolderTarget(root)
    folder.write("c0/f", [b"ours"])
    assert [path for path, _ in folder.listing("c0")] == ["c0/f"]


def test_a_write_is_atomic(root: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise SynclineError("UNREACHABLE", "the source is gone")

    folder = FolderTarget(root)
    folder.write("c0/f", [b"before"])
    assert code_of(lambda: folder.write("c0/f", chunks())) == "UNREACHABLE"
    assert (root / "c0" / "f").read_bytes() == b"before"
    assert sorted(each.name for each in (root / "c0").iterdir()) == ["f", "ln"]


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(root)
    folder = FolderTarget(tmp_path / "named")
    assert folder.write("c0/f", [b"ours"]) == blob_id(b"ours")
    assert (root / "c0" / "f").read_bytes() == b"ours"


def test_empty_folders_are_removed_with_the_last_file(root: Path) -> None:
    folder = FolderTarget(root)
    folder.write("c1/ns/f", [b"x"])
    folder.remove("c1/ns/f")
    folder.remove("c1/ns/f")
    assert folder.top_folders() == ["c0"]
    assert root.is_dir()


def test_a_written_file_can_be_read_by_others(root: Path) -> None:
    umask = os.umask(0o022)
    try:
        FolderTarget(root).write("c0/new", [b"x"])
    finally:
        os.umask(umask)
    assert (root / "c0" / "new").stat().st_mode & 0o777 == 0o644
