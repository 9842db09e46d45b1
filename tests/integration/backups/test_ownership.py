"""Backups change only their own files: foreign files are extras or conflicts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import RemoteBranch
from syncline.clients.http.listings import OnInvalid, refuse
from syncline.errors import SynclineError
from syncline.kinds.backups.ownership import OwnedFile, OwnedFiles
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.stores import BucketStore
from syncline.kinds.kind import Completed, StepContext
from syncline.model import Outcome, Result, Scope
from tests.rig.backups import Download, World, blobs, content

FILES = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(12)}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"


def put_into(store: FolderTarget | BucketStore, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        store.write(path, [data])


# -- foreign files -----------------------------------------------------------------------------------------------------

FOREIGN = {".github/CODEOWNERS": b"* @team", "docs/guide.md": b"guide", "src/a.py": b"a", "src/b.py": b"b"}


def test_foreign_folders_of_a_branch_stay(world: World) -> None:
    world.bare.fill(FOREIGN | {"README.md": b"hello"})
    world.put(FILES)
    for _ in range(2):
        results = world.codes(world.run())
        assert {name: code for name, code in results.items() if name in FOREIGN} == dict.fromkeys(FOREIGN, "extra")
        assert set(results.values()) <= {"moved", "extra"}
        assert world.bare.files() == FILES | FOREIGN | {"README.md": b"hello"}


def test_foreign_folders_do_not_count_in_the_message(world: World) -> None:
    world.bare.fill(FOREIGN)
    world.put(FILES)
    world.run()
    world.put({"east/n/f0.yaml": b"newer"})
    world.run("east/n/f0.yaml")
    message = world.bare.git("log", "-1", "--format=%B", "main")
    assert "- east: 12 files\n" in message
    assert "\nTotal files: 24\n" in message


def test_foreign_folders_of_a_store_stay(world: World, store: FolderTarget | BucketStore) -> None:
    put_into(store, FOREIGN)
    world.put(FILES)
    download = Download(world, store)
    for _ in range(2):
        results = download.run()
        assert {name: code for name, code in results.items() if name in FOREIGN} == dict.fromkeys(FOREIGN, "extra")
        assert set(results.values()) <= {"moved", "extra"}
        assert content(store) == blobs(FILES | FOREIGN)


def test_a_foreign_folder_that_cannot_be_listed_is_an_extra(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, listing = FolderTarget(tmp_path / "download"), FolderTarget.listing
    put_into(store, {"lost+found/x": b"x"})

    def refusing(self: FolderTarget, prefix: str, odd: OnInvalid = refuse) -> Iterator[tuple[str, str]]:
        if prefix == "lost+found":
            raise SynclineError("FILE_REFUSED", f"{prefix}: Permission denied")
        return listing(self, prefix, odd)

    monkeypatch.setattr(FolderTarget, "listing", refusing)
    world.put(FILES)
    assert Download(world, store).run() == dict.fromkeys(FILES, "moved") | {"lost+found/": "extra"}


def test_an_unreadable_file_fails_alone(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, fingerprint = FolderTarget(tmp_path / "download"), FolderTarget.fingerprint
    world.put(FILES)
    download = Download(world, store)
    download.run()
    put_into(store, {"east/n/foreign": b"x"})

    def refusing(self: FolderTarget, path: str) -> str | None:
        if path in ("east/n/foreign", "east/n/f0.yaml"):
            raise SynclineError("FILE_REFUSED", f"{path}: Permission denied")
        return fingerprint(self, path)

    monkeypatch.setattr(FolderTarget, "fingerprint", refusing)
    world.put({"east/n/f1.yaml": b"newer"})
    expected = {"east/n/f0.yaml": "FILE_REFUSED", "east/n/foreign": "extra", "east/n/f1.yaml": "moved"}
    assert download.run() == expected


def test_a_foreign_branch_beside_those_of_the_clusters_stays(world: World) -> None:
    each = world.but(layout=Layout(branch="bk/{cluster}"))
    each.bare.fill({"foreign/notes": b"mine"}, "bk/foreign")
    each.put(FILES)
    each.run()
    assert each.codes(each.run()) == {"foreign/notes": "extra"}
    assert each.bare.files("bk/foreign") == {"foreign/notes": b"mine"}


def test_foreign_files_in_a_cluster_of_ours_stay(world: World) -> None:
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/planted.yaml": b"planted"})
    assert world.codes(world.run()) == {"east/n/planted.yaml": "extra"}
    assert world.codes(world.run("east/n/planted.yaml")) == {"east/n/planted.yaml": "extra"}
    assert world.bare.files() == FILES | {"east/n/planted.yaml": b"planted"}


def test_foreign_files_in_a_stores_cluster_stay(world: World, store: FolderTarget | BucketStore) -> None:
    world.put(FILES)
    download = Download(world, store)
    download.run()
    put_into(store, {"east/n/planted.yaml": b"planted"})
    assert download.run() == {"east/n/planted.yaml": "extra"}
    assert download.run("east/n/planted.yaml") == {"east/n/planted.yaml": "extra"}
    assert content(store) == blobs(FILES | {"east/n/planted.yaml": b"planted"})


@pytest.mark.parametrize("scope", [(), ("east/n/f0.yaml",)], ids=["full scan", "events"])
def test_a_foreign_file_under_our_path_is_a_conflict(world: World, scope: tuple[str, ...]) -> None:
    foreign = {"east/n/f0.yaml": b"of somebody else"}
    world.bare.fill(foreign)
    world.put(FILES)
    world.run()
    for _ in range(2):
        result = world.run(*scope)["east/n/f0.yaml"]
        assert (result.outcome, result.code) == (Outcome.CONFLICT, "FILE_DIFFERS")
        assert (result.source, result.target) == (
            blob_id(FILES["east/n/f0.yaml"]),
            blob_id(foreign["east/n/f0.yaml"]),
        )
        assert world.bare.files() == FILES | foreign


@pytest.mark.parametrize("scope", [(), ("east/n/f0.yaml",)], ids=["full scan", "events"])
def test_a_foreign_file_in_a_store_is_a_conflict(
    world: World, store: FolderTarget | BucketStore, scope: tuple[str, ...]
) -> None:
    foreign = {"east/n/f0.yaml": b"of somebody else"}
    put_into(store, foreign)
    world.put(FILES)
    download = Download(world, store)
    download.run()
    for _ in range(2):
        assert download.run(*scope) == {"east/n/f0.yaml": "FILE_DIFFERS"}
        assert download.results["east/n/f0.yaml"].outcome is Outcome.CONFLICT
        assert content(store) == blobs(FILES | foreign)


def test_a_changed_file_is_a_conflict_until_it_is_restored(world: World) -> None:
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/f0.yaml": b"edited"})
    assert world.codes(world.run()) == {"east/n/f0.yaml": "FILE_DIFFERS"}
    world.bare.fill({"east/n/f0.yaml": FILES["east/n/f0.yaml"]})
    world.put({"east/n/f0.yaml": b"newer"})
    assert world.codes(world.run()) == {"east/n/f0.yaml": "moved"}


@pytest.mark.parametrize("scope", [(), ("east/n/s.yaml",)], ids=["full scan", "events"])
def test_leaving_out_a_secret_removes_no_foreign_file(world: World, scope: tuple[str, ...]) -> None:
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/s.yaml": b"public"})
    world.put({"east/n/s.yaml": SECRET})
    for _ in range(2):
        assert world.codes(world.run(*scope)) == {"east/n/s.yaml": "extra"}
        assert world.bare.files() == FILES | {"east/n/s.yaml": b"public"}


@pytest.mark.parametrize("scope", [(), ("east/n/s.yaml",)], ids=["full scan", "events"])
def test_leaving_out_a_secret_removes_no_foreign_file_of_a_store(
    world: World, store: FolderTarget | BucketStore, scope: tuple[str, ...]
) -> None:
    put_into(store, {"east/n/s.yaml": b"public"})
    world.put({"east/n/s.yaml": SECRET})
    download = Download(world, store)
    for _ in range(2):
        assert download.run(*scope) == {"east/n/s.yaml": "extra"}
        assert content(store) == blobs({"east/n/s.yaml": b"public"})


@pytest.mark.parametrize("scope", [(), ("Prod/n/x",)], ids=["full scan", "events"])
def test_a_foreign_folder_does_not_block_a_cluster(world: World, scope: tuple[str, ...]) -> None:
    world.bare.fill({"prod/notes": b"mine"})
    world.put({"Prod/n/x": b"x"})
    assert world.codes(world.run(*scope))["Prod/n/x"] == "moved"
    assert world.bare.files() == {"prod/notes": b"mine", "Prod/n/x": b"x"}


def test_extras_beyond_a_hundred_are_counted_and_not_listed(world: World) -> None:
    world.bare.fill({f"src/f{n}": b"x" for n in range(130)} | {f"east/f{n}": b"y" for n in range(3)})
    world.put(FILES)
    world.run()
    pages = world.scan()
    listed = [result.name for page in pages for result in page.results if result.outcome is Outcome.EXTRA]
    assert (len(listed), sum(page.extra for page in pages)) == (100 + 3, 30)


# -- a lost table ------------------------------------------------------------------------------------------------------


def test_after_a_lost_table_commits_show_ownership(world: World) -> None:
    world.bare.fill({"east/n/f1.yaml": b"foreign", "docs/x": b"x"})
    world.put(FILES)
    world.run()
    lost = world.without_table()
    lost.put({"east/n/f0.yaml": b"newer", "west/n/f5.yaml": b"newer"})
    lost.delete("west/n/f0.yaml")
    expected = {"east/n/f1.yaml": "FILE_DIFFERS", "docs/x": "extra", "west/n/f0.yaml": "removed"}
    expected |= {"east/n/f0.yaml": "moved", "west/n/f5.yaml": "moved"}
    got = {name: code for name, code in lost.codes(lost.run()).items() if code != "skipped"}
    assert got == expected
    assert lost.codes(lost.run()) == {"east/n/f1.yaml": "FILE_DIFFERS", "docs/x": "extra"}


def test_after_a_lost_table_events_recognize_our_files(world: World) -> None:
    world.put(FILES)
    world.run()
    lost = world.without_table()
    lost.put({"east/n/f0.yaml": b"newer"})
    lost.delete("east/n/f1.yaml")
    assert lost.codes(lost.run("east/n/f0.yaml", "east/n/f1.yaml")) == {
        "east/n/f0.yaml": "moved",
        "east/n/f1.yaml": "removed",
    }


def test_after_a_lost_table_a_push_in_between_makes_nothing_foreign(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(FILES)
    world.run()
    lost, push = world.without_table(), RemoteBranch.push
    lost.put({"east/n/f0.yaml": b"newer"})

    def overtaken(self: RemoteBranch, commit: str) -> None:
        if "docs/x" not in world.bare.files():
            world.bare.fill({"docs/x": b"x"})
        push(self, commit)

    monkeypatch.setattr(RemoteBranch, "push", overtaken)
    assert lost.codes(lost.run("east/n/f0.yaml")) == {"east/n/f0.yaml": "moved"}


@pytest.mark.parametrize("scope", [(), ("east/n/f0.yaml",)], ids=["full scan", "events"])
def test_a_pushed_but_unrecorded_file_is_ours(world: World, scope: tuple[str, ...]) -> None:
    world.put(FILES)
    world.run()
    rows, facts = copy.deepcopy(world.kept.rows), dict(world.kept.facts)
    world.put({"east/n/f0.yaml": b"second"})
    world.run()
    world.kept.rows, world.kept.facts = rows, facts
    world.put({"east/n/f0.yaml": b"third"})
    assert world.codes(world.run(*scope)) == {"east/n/f0.yaml": "moved"}


@pytest.mark.parametrize("scope", [(), ("east/n/f0.yaml",)])
def test_resetting_a_branch_before_our_commit_makes_nothing_foreign(world: World, scope: tuple[str, ...]) -> None:
    world.put(FILES)
    world.run()
    theirs = world.bare.fill({"README.md": b"hello"})
    world.put({"east/n/f0.yaml": b"newer"})
    assert world.codes(world.run("east/n/f0.yaml")) == {"east/n/f0.yaml": "moved"}
    world.bare.git("update-ref", "refs/heads/main", theirs)
    assert world.codes(world.run(*scope)) == {"east/n/f0.yaml": "moved"}
    assert world.bare.files() == FILES | {"README.md": b"hello", "east/n/f0.yaml": b"newer"}


def lose_the_second_commit(world: World) -> None:
    """Commit twice with a foreign commit in between, and reset the branch to the first commit."""
    world.put(FILES)
    world.run()
    first = world.bare.git("rev-parse", "main").strip()
    world.bare.fill({"README.md": b"hello"})
    world.put({"east/n/f0.yaml": b"newer"})
    world.run("east/n/f0.yaml")
    world.bare.git("update-ref", "refs/heads/main", first)


def test_resetting_a_branch_to_the_fetched_commit_makes_nothing_foreign(world: World) -> None:
    lose_the_second_commit(world)
    assert world.codes(world.run()) == {"east/n/f0.yaml": "moved"}
    assert world.bare.files() == FILES | {"east/n/f0.yaml": b"newer"}


class _KilledError(BaseException):
    """The function is killed."""


def test_a_function_killed_after_its_record_leaves_nothing_foreign_on_a_reset_branch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(FILES)
    world.run()
    first = world.bare.git("rev-parse", "main").strip()
    world.put({"east/n/f0.yaml": b"newer"})
    write = OwnedFiles.write

    def write_and_die(owned: OwnedFiles, changes: Mapping[str, OwnedFile | None]) -> None:
        write(owned, changes)
        raise _KilledError

    with monkeypatch.context() as dying:
        dying.setattr(OwnedFiles, "write", write_and_die)
        with pytest.raises(_KilledError):
            world.run("east/n/f0.yaml")
    world.bare.git("update-ref", "refs/heads/main", first)
    world.put({"east/n/f0.yaml": b"newest"})
    assert world.codes(world.run()) == {"east/n/f0.yaml": "moved"}


def test_files_unchanged_by_the_push_of_a_killed_function_are_equal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n/f0.yaml": b"newer", "west/n/f0.yaml": b"newer"})
    members, context = [item for page in world.scan() for item in page.items], StepContext(lambda: 100.0, work="batch")
    assert world.codes(world.run("west/n/f0.yaml")) == {"west/n/f0.yaml": "moved"}

    def die(*_: object) -> None:
        raise _KilledError

    with monkeypatch.context() as dying:
        dying.setattr(RemoteBranch, "set_tip", die)
        with pytest.raises(_KilledError):
            list(world.kind().transfer(members, context))
    arrived, equal = sorted(world.kind().transfer(members, context), key=lambda each: isinstance(each, Result))
    assert isinstance(arrived, Completed)
    assert isinstance(equal, Result)
    assert (arrived.item.name, equal.name, equal.outcome) == ("east/n/f0.yaml", "west/n/f0.yaml", Outcome.EQUAL)


@pytest.mark.parametrize("commits", [1, 9])
def test_commits_after_a_reset_make_nothing_foreign(world: World, commits: int) -> None:
    lose_the_second_commit(world)
    for number in range(commits):
        world.bare.fill({"README.md": b"hello %d" % number})
        world.put({"east/n/f1.yaml": b"version %d" % number})
        assert world.codes(world.run("east/n/f1.yaml")) == {"east/n/f1.yaml": "moved"}
    assert world.codes(world.run()) == {"east/n/f0.yaml": "moved"}


def test_a_plan_records_nothing(world: World) -> None:
    world.bare.fill({"docs/x": b"x"})
    world.put(FILES)
    world.run()
    lost = world.without_table()
    lost.delete("east/n/f0.yaml")
    pages = list(lost.kind().discover(Scope(), None, StepContext(lambda: 60.0, plan=True)))
    assert "east/n/f0.yaml" in {item.name for page in pages for item in page.items if item.detail}
    assert not lost.kept.facts
    assert not [row for rows in lost.kept.rows.values() for row in rows.rows]


def test_a_plan_does_not_change_the_records(world: World, store: FolderTarget | BucketStore) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n/f0.yaml": b"newer"})
    download, remembered = Download(world, store), copy.deepcopy(world.index.objects)
    for kind in (world.kind(), download.kind):
        list(kind.discover(Scope(), None, StepContext(lambda: 60.0, plan=True)))
    assert world.index.objects == remembered
    assert not download.index.counted


def test_later_foreign_commits_are_not_ours(world: World) -> None:
    """This also holds if the fetched history ends at a commit of ours."""
    world.bare.fill({"east/n/foreign.yaml": b"foreign"})
    world.put(FILES)
    world.run()
    for number in range(3):
        world.bare.fill({f"docs/{number}": b"x"})
        world.put({"east/n/f0.yaml": b"version %d" % number})
        world.run("east/n/f0.yaml")
    lost = world.without_table()
    lost.bare.fill({"west/n/f3.yaml": b"edited", "west/n/later.yaml": b"later"})
    got = {name: code for name, code in lost.codes(lost.run()).items() if code not in ("skipped", "extra")}
    assert got == {"west/n/f3.yaml": "FILE_DIFFERS"}
    files = lost.bare.files()
    assert files["east/n/foreign.yaml"] == b"foreign"
    assert files["west/n/later.yaml"] == b"later"


def test_the_history_is_not_read_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds if the branch has another file than our last commit, and it equals the source."""
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/f0.yaml": b"edited"})
    world.put({"east/n/f0.yaml": b"edited"})
    world.run("east/n/f0.yaml")
    world.kept.facts.clear()
    world.bare.fill({"east/n/foreign.yaml": b"foreign"})
    world.run()
    reads: list[str | None] = []
    read = RemoteBranch.blobs_with_trailer

    def noted(
        self: RemoteBranch, since: str | None, trailer: str, folder: bytes, *, having: Sequence[str] = ()
    ) -> dict[bytes, str | None]:
        reads.append(since)
        return read(self, since, trailer, folder, having=having)

    monkeypatch.setattr(RemoteBranch, "blobs_with_trailer", noted)
    world.run()
    assert reads == []


def test_after_a_lost_table_equal_files_of_a_store_are_adopted(world: World, store: FolderTarget | BucketStore) -> None:
    world.put(FILES)
    Download(world, store).run()
    download = Download(world, store)
    assert set(download.run().values()) == {"skipped"}
    world.put({"east/n/f0.yaml": b"newer"})
    world.delete("east/n/f1.yaml")
    assert download.run() == {"east/n/f0.yaml": "moved", "east/n/f1.yaml": "removed"}
    world.put({"west/n/f0.yaml": b"newest"})
    forgetful = Download(world, store)
    assert forgetful.run("west/n/f0.yaml") == {"west/n/f0.yaml": "FILE_DIFFERS"}


def test_files_of_an_earlier_version_in_a_store_are_ours(world: World, store: FolderTarget | BucketStore) -> None:
    """That version kept no records, but marked the files that it wrote."""
    world.put(FILES)
    earlier = Download(world, store)
    earlier.run()
    download = Download(world, store)
    sealer = SecretsFilter(SecretsPolicy.LEAVE_OUT)
    download.index.objects = {
        (place.replace(sealer.name, sealer.first_name), cluster): known
        for (place, cluster), known in earlier.index.objects.items()
    }
    world.put({"east/n/f0.yaml": b"newer", "west/n/f0.yaml": b"newer", "west/n/f1.yaml": SECRET})
    world.delete("east/n/f1.yaml")
    assert download.run("west/n/f0.yaml") == {"west/n/f0.yaml": "moved"}
    again = Download(world, store, like=download)
    again.index.objects = download.index.objects
    got = {name: code for name, code in again.run().items() if code != "skipped"}
    assert got == {"east/n/f0.yaml": "moved", "east/n/f1.yaml": "removed", "west/n/f1.yaml": "removed"}
