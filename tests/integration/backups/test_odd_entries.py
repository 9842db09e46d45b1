"""An invalid entry of a branch or bucket fails alone, and foreign changes of our entries are repaired."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from syncline.errors import SynclineError
from syncline.kinds.backups.paths import Layout
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Scope
from tests.rig.backups import World, make_world
from tests.standins.git_places import Bare

FILES = {f"{c}/n{n}/f{f}": f"{c} {n} {f}\n".encode() for c in ("east", "west") for n in range(2) for f in range(2)}
PLANTED = b"planted"
COMMIT = b"0123456789" * 4


@pytest.fixture
def world(s3: str, tmp_path: Path) -> World:
    world = make_world(s3, tmp_path)
    world.put(FILES)
    return world.but(layout=Layout(folder="clusterbackup"))


def plant(bare: Bare, *commands: bytes, branch: str = "main") -> None:
    """Make a foreign commit from these fast-import commands. Paths are arbitrary bytes."""
    ref = f"refs/heads/{branch}"
    there = bare.git("for-each-ref", "--format=%(objectname)", ref).strip()
    lines = [b"commit " + ref.encode(), b"committer else <else@example.com> 1750000000 +0000", b"data 7", b"planted"]
    lines += [b"from " + there.encode()] if there else []
    bare.git("fast-import", "--quiet", feed=b"\n".join([*lines, *commands]) + b"\n")


def file(path: bytes, data: bytes = PLANTED, mode: bytes = b"100644") -> bytes:
    return b"M %s inline %s\ndata %d\n%s" % (mode, path, len(data), data)


def submodule(path: bytes) -> bytes:
    return b"M 160000 %s %s" % (COMMIT, path)


def entry(bare: Bare, path: str, branch: str = "main") -> str:
    """Return mode and content of a path of the branch."""
    mode, _, oid, _ = bare.git("ls-tree", branch, path).split(maxsplit=3)
    return f"{mode} {bare.git('cat-file', 'blob', oid)}"


def discover(world: World, *groups: str) -> dict[str, str]:
    """Return the codes of a scan's results."""
    scope = Scope.of(groups) if groups else EVERYTHING
    pages = list(world.kind().discover(scope, None, StepContext(lambda: 100.0)))
    return {result.name: result.code or "" for page in pages for result in page.results}


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"clusterbackup/east/n0/\xff", b"clusterbackup/\xff/n0/f", b"\xff"])
def test_a_name_that_is_not_utf_8_affects_nothing_else(world: World, path: bytes) -> None:
    world.run()
    plant(world.bare, file(path))
    world.put({"east/n0/new": b"new", "west/n0/f0": b"changed"})
    world.delete("east/n0/f1")
    assert world.codes(world.run()) == {"east/n0/new": "moved", "west/n0/f0": "moved", "east/n0/f1": "removed"}
    assert world.codes(world.run()) == {}
    assert world.bare.git("log", "-1", "--format=", "--name-only", "--all", "--", ":(glob)**").count("\\377") == 0
    listed = world.bare.git("ls-tree", "-r", "--name-only", "main")
    assert listed.count("\\377") == 1, "the foreign file was changed"


@pytest.mark.parametrize("name", ["bad..name", "a b", "x.lock", "c~1"])
def test_a_cluster_that_cannot_be_a_branch_fails_alone(world: World, name: str) -> None:
    world = world.but(layout=Layout(branch="bk/{cluster}"))
    world.put({f"{name}/n0/f0": b"x"})
    assert discover(world) == {f"{name}/": "BRANCH_INVALID"}
    pages = world.scan()
    assert {item.name for page in pages for item in page.items} == set(FILES)
    assert discover(world, f"{name}/") == {f"{name}/": "BRANCH_INVALID"}
    hinted = world.run(f"{name}/n0/f0", "east/n0/f0")
    assert world.codes(hinted) == {f"{name}/n0/f0": "BRANCH_INVALID", "east/n0/f0": "moved"}


def test_a_foreign_branch_with_an_impossible_name_is_not_a_cluster(world: World) -> None:
    world = world.but(layout=Layout(branch="bk/{cluster}"))
    world.run()
    plant(world.bare, file(b"-x/n0/f"), branch="bk/" + 220 * "x")
    assert world.codes(world.run()) == {}


@pytest.mark.parametrize(("other", "template"), [("bk", "bk/{cluster}"), ("bk/east/old", "bk/{cluster}")])
def test_a_branch_that_blocks_ours_is_reported_at_once(world: World, other: str, template: str) -> None:
    world = world.but(layout=Layout(branch=template))
    plant(world.bare, file(b"f"), branch=other)
    items = [item for page in world.scan() for item in page.items if item.group == "bk/east"]
    begun = time.monotonic()
    with pytest.raises(SynclineError, match=f"'{other}'") as caught:
        world.commit(items)
    assert caught.value.code.name == "BRANCH_BLOCKED"
    assert not caught.value.retried
    assert time.monotonic() - begun < 5


# -- other modes and types instead of our files ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [b"100755", b"120000"])
@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("groups", [(), ("east/n0/f0",)])
def test_a_changed_mode_is_repaired(world: World, mode: bytes, remembers: bool, groups: tuple[str, ...]) -> None:
    world.run()
    path = "clusterbackup/east/n0/f0"
    plant(world.bare, file(path.encode(), FILES["east/n0/f0"], mode))
    again = world if remembers else world.but(index=type(world.index)())
    assert world.codes(again.run(*groups))["east/n0/f0"] == "moved"
    assert entry(world.bare, path) == f"100644 {FILES['east/n0/f0'].decode()}"
    assert set(world.codes(world.run()).values()) <= {"skipped"}


@pytest.mark.parametrize("groups", [(), ("east/n0/f0",)])
def test_a_submodule_instead_of_our_file_is_foreign(world: World, groups: tuple[str, ...]) -> None:
    world.run()
    path = "clusterbackup/east/n0/f0"
    plant(world.bare, submodule(path.encode()))
    assert world.codes(world.run(*groups))["east/n0/f0"] == "FILE_DIFFERS"
    assert world.bare.git("ls-tree", "main", path).startswith("160000 ")


@pytest.mark.parametrize(
    "thing", [file(b"clusterbackup/east/n0"), submodule(b"clusterbackup/east/n0")], ids=["file", "submodule"]
)
@pytest.mark.parametrize("groups", [(), ("east/n0/f0", "east/n0/f1")])
def test_an_entry_instead_of_our_folder_is_replaced(world: World, thing: bytes, groups: tuple[str, ...]) -> None:
    world.run()
    plant(world.bare, b"D clusterbackup/east/n0", thing)
    codes = world.codes(world.run(*groups))
    assert codes["east/n0/f0"] == codes["east/n0/f1"] == "moved"
    assert world.bare.files() == {f"clusterbackup/{path}": data for path, data in FILES.items()}
    assert set(world.codes(world.run()).values()) <= {"skipped"}
    world.put({"west/n0/new": b"new"})
    world.run()
    assert "Total files: 9\n" in world.bare.git("log", "-1", "--format=%B", "main")


@pytest.mark.parametrize("place", [b"clusterbackup", b"clusterbackup/east"])
def test_an_entry_instead_of_the_folder_of_a_cluster_stays(world: World, place: bytes) -> None:
    plant(world.bare, file(place))
    codes = world.codes(world.run())
    blocked = {key for key in FILES if place == b"clusterbackup" or key.startswith("east/")}
    assert codes == {key: "PATH_COLLIDES" if key in blocked else "moved" for key in FILES}
    assert world.bare.show(place.decode()) == PLANTED


def test_an_object_instead_of_a_folder_stays_if_the_bucket_has_it(world: World) -> None:
    world.put({"east/both": b"file"})
    world.run()
    world.put({"east/both/inner": b"inner"})
    assert world.codes(world.run("east/both/inner")) == {"east/both/inner": "PATH_COLLIDES"}
    assert world.codes(world.run()) == {"east/both/inner": "PATH_COLLIDES"}
    assert world.bare.show("clusterbackup/east/both") == b"file"
    world.delete("east/both")
    assert world.codes(world.run())["east/both/inner"] == "moved"
    assert world.bare.show("clusterbackup/east/both/inner") == b"inner"
    assert world.codes(world.run()) == {}
