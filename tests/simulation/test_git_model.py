"""The model of a git server answers as the real client over the real git program does."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import pytest

from syncline.clients.git.access import GitRemote
from syncline.clients.git.objects import EMPTY_TREE, blob_id, tree_id
from syncline.clients.git.program import GitRetryPolicy
from syncline.clients.git.repository import (
    BlobContent,
    NewCommit,
    Person,
    RemoteBranch,
    RepositoryLocation,
    open_branch,
)
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models.git import SimBranch, sim_open_branch
from tests.simulation.models.git_server import GitServer
from tests.simulation.network import Calls, Faults, Network
from tests.standins.git_http import git_http
from tests.standins.git_places import make_bare

URL: Final = "https://git.example/team/backups.git"
ME: Final = Person("Backup Bot", "backup@example.com")
FILES: Final = {f"c{c}/n{n}/f{f}": f"{c}{n}{f}".encode() for c in range(3) for n in range(2) for f in range(3)}
IDS: Final = {path.encode(): blob_id(data) for path, data in FILES.items()}
T = TypeVar("T")


class Sim:
    """The model, with faults off."""

    def __init__(self) -> None:
        machine = Machine(1)
        self.calls = Calls(machine, Process(machine, "p"), Faults(off=True))
        self.network = Network(self.calls, Http())
        self.server = GitServer(URL, lambda: 1_750_000_000.0)
        self.opened = sim_open_branch({URL: self.server}, lambda: self.network)
        self.files, self.lost = self.server.files, 0
        call = self.network.call

        def lossy(host: str, name: str, function: Callable[[], T], *, writes: bool = False, **more: bool) -> T:
            answer = call(host, name, function, writes=writes, **more)
            if writes and self.lost:
                self.lost -= 1
                raise SynclineError("UNREACHABLE", "the answer was lost")
            return answer

        self.network.call = lossy  # type: ignore[method-assign]

    def open(self, branch: str, depth: int, url: str = URL) -> contextlib.AbstractContextManager[RemoteBranch]:
        return self.opened(RepositoryLocation(GitRemote.parse(url)), branch, depth=depth, left=lambda: 60.0)

    def open_absent(self) -> contextlib.AbstractContextManager[RemoteBranch]:
        return self.open("main", 1, "https://git.example/absent.git")

    def fill(self, files: Mapping[str, bytes], branch: str = "main", message: str = "filled") -> str:
        return self.server.commit_outside(branch, files, message)

    def subjects(self, branch: str = "main") -> list[str]:
        return [commit.message.partition("\n")[0] for commit in self.server.log(branch)]

    def lose_push(self) -> None:
        self.lost = 1

    def protect(self) -> None:
        self.server.refuses_pushes = True

    def reset(self, commit: str, branch: str = "main") -> None:
        self.server.rewind(branch, [each.oid for each in self.server.log(branch)].index(commit))


class Real:
    """The git program: with a folder, or behind the stand-in for a host where an answer is to be lost."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.bare, self.stack, self.folder = make_bare(folder / "r.git"), stack, folder
        self.base = f"file://{folder}"
        self.files, self.fill, self.subjects = self.bare.files, self.bare.fill, self.bare.commits

    def open(self, branch: str, depth: int, name: str = "r") -> contextlib.AbstractContextManager[RemoteBranch]:
        place = RepositoryLocation(GitRemote.parse(f"{self.base}/{name}.git"))
        return open_branch(place, branch, depth=depth, left=lambda: 60.0)

    def open_absent(self) -> contextlib.AbstractContextManager[RemoteBranch]:
        return self.open("main", 1, "absent")

    def lose_push(self) -> None:
        http = self.stack.enter_context(git_http(self.folder))
        http.lose_pushes = 1
        self.base = http.url

    def protect(self) -> None:
        self.bare.refuse_pushes("GH006: Protected branch update failed")

    def reset(self, commit: str, branch: str = "main") -> None:
        self.bare.git("update-ref", f"refs/heads/{branch}", commit)


World = Sim | Real


@pytest.fixture(params=["model", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield Sim() if request.param == "model" else Real(tmp_path, stack)


@contextlib.contextmanager
def branch_of(world: World, name: str = "main", depth: int = 2) -> Iterator[RemoteBranch]:
    with world.open(name, depth) as branch:
        branch.fetch()
        yield branch


def new(message: str = "changed\n") -> NewCommit:
    return NewCommit(message, ME, ME, 1_752_358_018)


def code(call: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as caught:
        call()
    return caught.value.code.name


def content(branch: RemoteBranch, *oids: str) -> list[bytes]:
    with branch.blobs(oids) as blobs:
        return [b"".join(blob.chunks) for blob in blobs]


def commit(branch: RemoteBranch, changes: Mapping[str, bytes | None], message: str = "changed\n") -> str:
    branch.store([data for data in changes.values() if data is not None])
    return branch.commit(new(message), {p.encode(): None if d is None else blob_id(d) for p, d in changes.items()})


# -- as the real one ---------------------------------------------------------------------------------------------------


def test_a_branch_is_read_level_by_level(world: World) -> None:
    first = world.fill(FILES)
    with world.open("main", 2) as branch:
        tip = branch.fetch()
        assert tip is not None
        assert (tip.oid, tip.tree, tip.message) == (first, tree_id(IDS.items()), "filled")
        assert branch.tip == tip
        found = branch.folders([b"", b"c0/n0", b"c0/absent", b"c0/n0/f0", b"c0/", b"c1//n1"])
        assert list(found[b""]) == [b"c0", b"c1", b"c2"]
        assert {name: entry.fingerprint for name, entry in found[b"c0/n0"].items()} == {
            name: IDS[b"c0/n0/" + name] for name in (b"f0", b"f1", b"f2")
        }
        assert [found[path] for path in (b"c0/absent", b"c0/n0/f0", b"c0/", b"c1//n1")] == [{}, {}, {}, {}]
        assert branch.folders([]) == {}


def test_all_files_come_in_the_order_of_bytes(world: World) -> None:
    world.fill({"a/x": b"1", "a.b": b"2", "a-b/y": b"3", "ab": b"4", "ü/z": b"5"})
    with branch_of(world) as branch:
        assert branch.tip is not None
        listed = list(branch.files(b"", branch.tip.tree))
        assert [path.decode() for path, _ in listed] == ["a-b/y", "a.b", "a/x", "ab", "ü/z"]
        below = branch.folders([b""])[b""][b"a"].oid
        assert [path for path, _ in branch.files(b"p/a", below)] == [b"p/a/x"]
        branch.fetch_below([below, EMPTY_TREE])
        assert code(lambda: branch.fetch_below(["2" * 40])) == "NOT_FOUND"


def test_blobs_are_fetched_or_local(world: World) -> None:
    world.fill(FILES)
    with branch_of(world) as branch:
        one, other = IDS[b"c0/n0/f0"], IDS[b"c2/n1/f2"]
        assert content(branch, other, one, other) == [b"212", b"000", b"212"]
        branch.store([b"mine", b""])
        assert content(branch, blob_id(b"mine"), blob_id(b"")) == [b"mine", b""]
        branch.store([b"more"])
        # All are asked for if one is missing.
        assert code(lambda: content(branch, blob_id(b"more"), IDS[b"c1/n0/f0"])) == "NOT_FOUND"
        assert code(lambda: content(branch, "1" * 40)) == "NOT_FOUND"
        assert content(branch) == []


def test_a_commit_by_its_id(world: World) -> None:
    first = world.fill({"a/x": b"1"})
    second = world.fill({"a/x": b"2"})
    for digits in (first, first[:9]):
        with world.open("main", 2) as branch:
            assert code(lambda b=branch: b.fetch_commit("")) == "USAGE"  # type: ignore[misc]
            assert branch.fetch_commit(digits).oid == first
            assert branch.folders([b"a"])[b"a"][b"x"].oid == blob_id(b"1")
            assert code(lambda b=branch: b.fetch_commit("1" * 40)) == "NOT_FOUND"  # type: ignore[misc]
            assert branch.tip is not None
            assert branch.tip.oid == first
            assert code(lambda b=branch: b.fetch_commit("g")) == "NOT_FOUND"  # type: ignore[misc]
            assert branch.fetch_commit(second).oid == second
    with world.open("absent", 1) as branch:
        assert branch.fetch_commit(first).oid == first
        assert code(lambda: branch.fetch_commit(first[:9])) == "NOT_FOUND"


def test_a_commit_by_its_first_digits_after_a_fetch(world: World) -> None:
    first = world.fill({"a/x": b"1"})
    world.fill({"a/x": b"2"})
    with branch_of(world) as branch:
        assert branch.fetch_commit(first[:9]).oid == first


def test_a_trailer_with_a_sign_of_regular_expressions(world: World) -> None:
    world.fill({"a": b"1"}, message="m\n\nSyncline-Sync: a+b\n")
    with branch_of(world) as branch:
        assert branch.blobs_with_trailer(None, "Syncline-Sync: a+b", b"") == {b"a": blob_id(b"1")}


def test_a_commit_that_no_branch_has_is_still_there(world: World) -> None:
    first = world.fill({"a": b"1"})
    second = world.fill({"a": b"2"})
    world.reset(first)
    with branch_of(world) as branch:
        assert branch.remote_tip() == first
        assert branch.fetch_commit(second).oid == second


def test_the_names_of_branches(world: World) -> None:
    for name in ("main", "bk/east", "bk/west", "bk-2", "other"):
        world.fill({"a": name.encode()}, branch=name)
    with world.open("main", 1) as branch:
        assert branch.heads("*") == ["bk-2", "bk/east", "bk/west", "main", "other"]
        assert branch.heads("bk*") == ["bk-2", "bk/east", "bk/west"]
        assert branch.heads("bk/*") == ["bk/east", "bk/west"]
        assert branch.heads("*st") == ["bk/east", "bk/west"]
        assert branch.heads("east") == branch.heads("b.*") == []
        assert branch.heads("main") == ["main"]


def test_an_absent_branch(world: World) -> None:
    with world.open("backups/x", 2) as branch:
        assert branch.fetch() is None
        assert branch.tip is None
        assert branch.remote_tip() is None
        assert branch.folders([b"", b"a"]) == {b"": {}, b"a": {}}
        assert branch.heads("*") == []
        assert branch.blobs_with_trailer(None, "A: b", b"") == {}
        made = commit(branch, {"c1/new": b"new"})
        branch.push(made)
        assert branch.tip is None
        branch.set_tip(made)
        assert branch.tip is not None
        assert branch.remote_tip() == branch.tip.oid == made == "8a6e284b23a7abe6ab044d1fa61b624746c4271e"
    assert world.files("backups/x") == {"c1/new": b"new"}


def test_an_absent_repository(world: World) -> None:
    with world.open_absent() as branch:
        calls: list[Callable[[], object]] = [branch.fetch, branch.remote_tip, lambda: branch.heads("*")]
        calls += [lambda: branch.fetch_commit("abc"), lambda: branch.fetch_commit("1" * 40)]
        made = commit(branch, {"a": b"1"})
        calls += [lambda: branch.push(made)]
        assert [code(call) for call in calls] == ["REPOSITORY_ABSENT"] * 6


def test_no_name_for_a_branch(world: World) -> None:
    def opened() -> None:
        with world.open("a..b", 1):
            pass

    assert code(opened) == "BRANCH_INVALID"


def test_a_push_changes_the_branch_and_nothing_else_does(world: World) -> None:
    first = world.fill(FILES)
    large = bytes(range(256)) * 9_000
    with branch_of(world) as branch:
        oid = branch.store_stream(
            BlobContent(len(large), (large[at : at + 65536] for at in range(0, len(large), 65536)))
        )
        assert oid == blob_id(large)
        branch.store([b"small"])
        changes = {b"c0/n0/f0": None, b'c0/n0/a "b"\\c': blob_id(b"small"), b"c9/large": oid}
        made = branch.commit(new(), changes)
        assert branch.remote_tip() == first
        branch.push(made)
        branch.set_tip(made)
        assert [b"".join(each.chunks) for each in _only(branch, oid)] == [large]
        branch.push(made)
        second = commit(branch, {"c9/large": None})
        branch.push(second)
    kept = {path: data for path, data in FILES.items() if path != "c0/n0/f0"}
    assert world.files("main") == kept | {'c0/n0/a "b"\\c': b"small"}
    assert world.subjects() == ["changed", "changed", "filled"]


def _only(branch: RemoteBranch, oid: str) -> Iterator[BlobContent]:
    with branch.blobs([oid]) as blobs:
        yield from blobs


def test_a_stream_of_another_size_is_not_kept(world: World) -> None:
    with branch_of(world) as branch:
        for size, chunks in ((5, [b"four"]), (5, [b"six", b"six"]), (5, [])):
            assert code(lambda s=size, c=chunks: branch.store_stream(BlobContent(s, c))) == "SOURCE_CHANGED"  # type: ignore[misc]
        assert code(lambda: branch.commit(new(), {b"a": blob_id(b"four")})) != ""


def test_what_another_branch_object_stored_is_not_here(world: World) -> None:
    world.fill(FILES)
    with branch_of(world) as one:
        one.store([b"mine"])
    with branch_of(world) as other:
        assert code(lambda: other.commit(new(), {b"a": blob_id(b"mine")})) == "NOT_FOUND"
        # Content that the server has is fetched for the commit.
        other.push(other.commit(new(), {b"a": IDS[b"c0/n0/f0"]}))
    assert world.files("main")["a"] == b"000"


def test_paths_that_are_none(world: World) -> None:
    world.fill({"a/x": b"1"})
    with branch_of(world) as branch:
        for path in ("a//b", "/a", "a/"):
            assert code(lambda p=path: commit(branch, {p: b"1"})) == "GIT_FAILED"  # type: ignore[misc]
        made = commit(branch, {"a//x": None, "/a": None, "a/": None, "none/of/it": None, "a/x/y": None})
        branch.push(made)
    assert world.files("main") == {"a/x": b"1"}


def test_a_file_takes_the_place_of_a_folder_and_the_reverse(world: World) -> None:
    world.fill({"a/x": b"1", "a/y/z": b"2", "b": b"3", "c/d/e": b"4"})
    with branch_of(world, depth=1) as branch:
        branch.push(commit(branch, {"b/in/it": b"5", "a": b"6", "c/d/e": None, "b": None}))
    assert world.files("main") == {"b/in/it": b"5", "a": b"6"}


def test_a_branch_without_files(world: World) -> None:
    world.fill({"a/x": b"1"})
    with branch_of(world) as branch:
        made = commit(branch, {"a/x": None})
        branch.push(made)
        tip = branch.fetch()
        assert tip is not None
        assert (tip.oid, tip.tree) == (made, EMPTY_TREE)
        assert list(branch.files(b"", tip.tree)) == []
    assert world.files("main") == {}


def test_a_branch_that_moved(world: World) -> None:
    world.fill(FILES)
    with branch_of(world) as branch:
        made = commit(branch, {"c0/mine": b"mine"})
        theirs = world.fill({"c0/theirs": b"theirs"}, message="theirs")
        assert code(lambda: branch.push(made)) == "BRANCH_MOVED"
        assert branch.remote_tip() == theirs
        tip = branch.fetch()
        assert tip is not None
        assert tip.oid == theirs
        branch.push(commit(branch, {"c0/mine": b"mine"}))
    assert world.subjects() == ["changed", "theirs", "filled"]


def test_a_branch_that_was_made_or_rewound_meanwhile(world: World) -> None:
    with branch_of(world) as branch:
        made = commit(branch, {"c0/mine": b"mine"})
        first = world.fill(FILES)
        assert code(lambda: branch.push(made)) == "BRANCH_MOVED"
        world.fill({"more": b"1"})
        branch.fetch()
        made = commit(branch, {"c0/mine": b"mine"})
        world.reset(first)
        assert code(lambda: branch.push(made)) == "BRANCH_MOVED"
    assert world.subjects() == ["filled"]


def test_a_branch_in_the_way(world: World) -> None:
    world.fill(FILES)
    world.fill(FILES, branch="bk/east")
    for name in ("main/x", "bk", "bk/east/1"):
        with branch_of(world, name) as branch:
            made = commit(branch, {"a": b"1"})
            assert code(lambda b=branch, m=made: b.push(m)) == "BRANCH_BLOCKED"  # type: ignore[misc]


def test_a_protected_branch(world: World) -> None:
    first = world.fill(FILES)
    world.protect()
    with branch_of(world) as branch:
        assert code(lambda: branch.push(commit(branch, {"a": b"1"}))) == "BRANCH_PROTECTED"
        assert branch.remote_tip() == first
    with branch_of(world, "other") as branch:
        assert code(lambda: branch.push(commit(branch, {"a": b"1"}))) == "BRANCH_PROTECTED"


def test_a_push_whose_answer_is_lost(world: World) -> None:
    world.fill(FILES)
    world.lose_push()
    with branch_of(world) as branch:
        made = commit(branch, {"a": b"1"})
        branch.push(made)
        branch.set_tip(made)
        assert branch.remote_tip() == made
    assert world.subjects() == ["changed", "filled"]


def test_what_commits_with_a_trailer_put(world: World) -> None:
    ours = "backup\n\nSyncline-Sync: s\nSyncline-Batch: 1\n"
    world.fill({"a/x": b"1", "a/foreign": b"f"})
    second = world.fill({"a/x": b"2", "b/y": b"2", "b2": b"2"}, message=ours)
    world.fill({"a/x": b"3", "b/z": b"3"}, message="quotes Syncline-Sync: s in a line")
    with branch_of(world) as branch:
        branch.push(commit(branch, {"a/x": b"4", "b/z": None, "a/foreign": b"f"}, ours))
        branch.fetch()
        every = {b"a/x": blob_id(b"4"), b"b/z": None, b"b/y": blob_id(b"2"), b"b2": blob_id(b"2")}
        assert branch.blobs_with_trailer(None, "Syncline-Sync: s", b"") == every
        assert branch.blobs_with_trailer("1" * 40, "Syncline-Sync: s", b"") == every
        assert branch.blobs_with_trailer(None, "Syncline-Sync: s", b"b") == {b"b/z": None, b"b/y": blob_id(b"2")}
        assert branch.blobs_with_trailer(None, "Syncline-Sync: s", b"b2") == {b"b2": blob_id(b"2")}
        assert branch.blobs_with_trailer(second, "Syncline-Sync: s", b"") == {b"a/x": blob_id(b"4"), b"b/z": None}
        assert branch.blobs_with_trailer(None, "Syncline-Sync: other", b"") == {}
        assert branch.tip is not None
        newer = {b"a/x": blob_id(b"4"), b"b/z": None}
        assert branch.blobs_with_trailer(second, "Syncline-Sync: s", b"", having=[branch.tip.oid]) == newer
        assert branch.blobs_with_trailer(second, "Syncline-Sync: s", b"", having=[branch.tip.oid, "1" * 40]) == every


def test_random_commits_have_the_same_ids(tmp_path: Path) -> None:
    """Commits of the model have the ids that git gives them, whatever they change."""
    rng = random.Random(7)
    parts = ["a", "b", "a.b", "a-"]
    with contextlib.ExitStack() as stack:
        worlds: list[World] = [Sim(), Real(tmp_path, stack)]
        branches = [stack.enter_context(branch_of(each, depth=1)) for each in worlds]
        for number in range(15):
            paths = ["/".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 4))]
            changes = {path: rng.choice([None, b"%d" % number, b"same"]) for path in paths}
            made = [commit(branch, changes, f"no. {number}\n") for branch in branches]
            assert made[0] == made[1], changes
            for each, branch in zip(worlds, branches, strict=True):
                branch.push(made[0])
                branch.set_tip(made[0])
                if number % 5 == 4:
                    each.fill({f"z{number}": b"theirs"})
                    branch.fetch()
            assert branches[0].tip == branches[1].tip
        assert worlds[0].files("main") == worlds[1].files("main")


# -- the model's own ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sim() -> Sim:
    return Sim()


def test_the_log_and_who_wrote(sim: Sim) -> None:
    first = sim.fill(FILES)
    with branch_of(sim) as branch:
        made = commit(branch, {"a": b"1"}, "backup\n\nSyncline-Batch: 7\n")
        branch.push(made)
    newest = sim.server.log("main")[0]
    assert (newest.oid, newest.parent, newest.author) == (made, first, "Backup Bot <backup@example.com>")
    assert newest.trailers == {"Syncline-Batch": "7"}
    other = sim.server.rewrite("main", {"b": b"2"})
    assert sim.server.writes == [
        ("main", None, first, "outside"),
        ("main", first, made, "p"),
        ("main", made, other, "outside"),
    ]
    assert sim.files("main") == FILES | {"a": b"1", "b": b"2"}
    assert sim.subjects() == ["rewritten"]
    sim.server.delete("main")
    assert sim.server.branches == {}
    assert sim.files("main") == {}


def test_a_push_that_is_forgotten(sim: Sim) -> None:
    first = sim.fill(FILES)
    sim.server.push_and_forget = True
    with branch_of(sim) as branch:
        branch.push(commit(branch, {"a": b"1"}))
        assert branch.remote_tip() == first
    assert len(sim.server.writes) == 1


def test_a_repository_that_vanishes(sim: Sim) -> None:
    sim.fill(FILES)
    with branch_of(sim) as branch:
        made = commit(branch, {"a": b"1"})
        sim.server.vanishes = True
        assert code(lambda: branch.push(made)) == code(branch.fetch) == "REPOSITORY_ABSENT"
        assert len(sim.server.log("main")) == 1


def test_calls_are_as_many_as_requests(sim: Sim) -> None:
    sim.fill(FILES)
    points = sim.calls.faults.points
    with branch_of(sim) as branch:
        branch.folders([b"c0/n0", b"c1/n1"])
        content(branch, IDS[b"c0/n0/f0"], IDS[b"c1/n1/f1"])
        branch.push(commit(branch, {"c0/n0/new": b"1"}))
    assert points == {"git fetch": 1, "git fetch trees": 1, "git fetch blobs": 1, "git push": 1}


def test_time_and_patience(sim: Sim) -> None:
    sim.fill(FILES)
    patience = GitRetryPolicy(3, 5.0)
    for left, halted, name in ((0.0, False, "TIME_SHORT"), (60.0, True, "RUN_CANCELLED")):
        branch = SimBranch(
            sim.server,
            sim.network,
            "main",
            depth=1,
            left=lambda seconds=left: seconds,  # type: ignore[misc]
            halted=lambda over=halted: over,  # type: ignore[misc]
        )
        assert code(branch.fetch) == name
    sim.calls.faults.off, sim.calls.faults.broken = False, 1.0
    began = sim.calls.machine.now
    branch = SimBranch(sim.server, sim.network, "main", depth=1, retry=patience)
    assert code(branch.fetch) in ("UNREACHABLE", "SERVER_ERROR")
    assert sim.calls.faults.points["git fetch"] == 3
    assert sim.calls.machine.now - began >= 15
