"""Backups touch only what is theirs: foreign files are extras or conflicts, and removals have limits in time."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncline.clients.entries import OnOdd, refuse
from syncline.clients.folders import Folder
from syncline.clients.git_objects import blob_id
from syncline.clients.git_repository import Branch
from syncline.clients.http import Http
from syncline.errors import SynclineError
from syncline.kinds.backups import Layout
from syncline.kinds.backups.sealing import Rule, Sealer
from syncline.kinds.backups.stores import BucketStore
from syncline.kinds.kind import Arrived, Failure, Pace
from syncline.model import Outcome, Scope
from tests.backups_memory import KeptRows
from tests.backups_world import PACE, Caps, Download, World, content, make_bucket, s3_server
from tests.standins.git_places import make_bare

FILES = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(12)}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"

logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def world(s3: str, tmp_path: Path) -> World:
    http = Http()
    bare = make_bare(tmp_path / "srv" / "r.git")
    name = tmp_path.name.replace("_", "-")[:50].lower()
    return World(make_bucket(s3, f"{name}-b", http), bare, f"file://{bare.path}", None, http)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, s3: str, world: World, tmp_path: Path) -> Folder | BucketStore:
    if request.param == "folder":
        return Folder(tmp_path / "download")
    return BucketStore(make_bucket(s3, f"{world.bucket.name}-second", Http()), "copy/")


def put_into(store: Folder | BucketStore, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        store.write(path, [data])


def blobs(files: dict[str, bytes]) -> dict[str, str]:
    return {path: blob_id(data) for path, data in files.items()}


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


def test_foreign_folders_of_a_store_stay(world: World, store: Folder | BucketStore) -> None:
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
    store, listing = Folder(tmp_path / "download"), Folder.listing
    put_into(store, {"lost+found/x": b"x"})

    def refusing(self: Folder, prefix: str, odd: OnOdd = refuse) -> Iterator[tuple[str, str]]:
        if prefix == "lost+found":
            raise SynclineError("FILE_REFUSED", f"{prefix}: Permission denied")
        return listing(self, prefix, odd)

    monkeypatch.setattr(Folder, "listing", refusing)
    world.put(FILES)
    assert Download(world, store).run() == dict.fromkeys(FILES, "moved") | {"lost+found/": "extra"}


def test_a_file_that_cannot_be_read_costs_itself_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fingerprint = Folder(tmp_path / "download"), Folder.fingerprint
    world.put(FILES)
    download = Download(world, store)
    download.run()
    put_into(store, {"east/n/foreign": b"x"})

    def refusing(self: Folder, path: str) -> str | None:
        if path in ("east/n/foreign", "east/n/f0.yaml"):
            raise SynclineError("FILE_REFUSED", f"{path}: Permission denied")
        return fingerprint(self, path)

    monkeypatch.setattr(Folder, "fingerprint", refusing)
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


def test_foreign_files_in_a_stores_cluster_stay(world: World, store: Folder | BucketStore) -> None:
    world.put(FILES)
    download = Download(world, store)
    download.run()
    put_into(store, {"east/n/planted.yaml": b"planted"})
    assert download.run() == {"east/n/planted.yaml": "extra"}
    assert download.run("east/n/planted.yaml") == {"east/n/planted.yaml": "extra"}
    assert content(store) == blobs(FILES | {"east/n/planted.yaml": b"planted"})


@pytest.mark.parametrize("scope", [(), ("east/n/f0.yaml",)], ids=["full scan", "events"])
def test_a_foreign_file_in_the_way_is_a_conflict(world: World, scope: tuple[str, ...]) -> None:
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
    world: World, store: Folder | BucketStore, scope: tuple[str, ...]
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


def test_what_somebody_changed_is_a_conflict_and_ours_again_when_it_is_put_back(world: World) -> None:
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/f0.yaml": b"edited"})
    assert world.codes(world.run()) == {"east/n/f0.yaml": "FILE_DIFFERS"}
    world.bare.fill({"east/n/f0.yaml": FILES["east/n/f0.yaml"]})
    world.put({"east/n/f0.yaml": b"newer"})
    assert world.codes(world.run()) == {"east/n/f0.yaml": "moved"}


@pytest.mark.parametrize("scope", [(), ("east/n/s.yaml",)], ids=["full scan", "events"])
def test_a_secret_that_is_left_out_removes_no_foreign_file(world: World, scope: tuple[str, ...]) -> None:
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/s.yaml": b"public"})
    world.put({"east/n/s.yaml": SECRET})
    for _ in range(2):
        assert world.codes(world.run(*scope)) == {"east/n/s.yaml": "extra"}
        assert world.bare.files() == FILES | {"east/n/s.yaml": b"public"}


@pytest.mark.parametrize("scope", [(), ("east/n/s.yaml",)], ids=["full scan", "events"])
def test_a_secret_that_is_left_out_removes_no_foreign_file_of_a_store(
    world: World, store: Folder | BucketStore, scope: tuple[str, ...]
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
    pages = world.look()
    listed = [result.name for page in pages for result in page.results if result.outcome is Outcome.EXTRA]
    assert (len(listed), sum(page.extra for page in pages)) == (100 + 3, 30)


# -- a lost table ------------------------------------------------------------------------------------------------------


def test_after_a_lost_table_commits_tell_what_is_ours(world: World) -> None:
    world.bare.fill({"east/n/f1.yaml": b"foreign", "docs/x": b"x"})
    world.put(FILES)
    world.run()
    lost = world.forgetful()
    lost.put({"east/n/f0.yaml": b"newer", "west/n/f5.yaml": b"newer"})
    lost.delete("west/n/f0.yaml")
    expected = {"east/n/f1.yaml": "FILE_DIFFERS", "docs/x": "extra", "west/n/f0.yaml": "removed"}
    expected |= {"east/n/f0.yaml": "moved", "west/n/f5.yaml": "moved"}
    got = {name: code for name, code in lost.codes(lost.run()).items() if code != "skipped"}
    assert got == expected
    assert lost.codes(lost.run()) == {"east/n/f1.yaml": "FILE_DIFFERS", "docs/x": "extra"}


def test_after_a_lost_table_events_know_what_is_ours(world: World) -> None:
    world.put(FILES)
    world.run()
    lost = world.forgetful()
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
    lost, push = world.forgetful(), Branch.push
    lost.put({"east/n/f0.yaml": b"newer"})

    def overtaken(self: Branch, commit: str) -> None:
        if "docs/x" not in world.bare.files():
            world.bare.fill({"docs/x": b"x"})
        push(self, commit)

    monkeypatch.setattr(Branch, "push", overtaken)
    assert lost.codes(lost.run("east/n/f0.yaml")) == {"east/n/f0.yaml": "moved"}


@pytest.mark.parametrize("scope", [(), ("east/n/f0.yaml",)], ids=["full scan", "events"])
def test_what_a_function_pushed_and_did_not_record_is_ours(world: World, scope: tuple[str, ...]) -> None:
    world.put(FILES)
    world.run()
    rows, facts = copy.deepcopy(world.kept.rows), dict(world.kept.facts)
    world.put({"east/n/f0.yaml": b"second"})
    world.run()
    world.kept.rows, world.kept.facts = rows, facts
    world.put({"east/n/f0.yaml": b"third"})
    assert world.codes(world.run(*scope)) == {"east/n/f0.yaml": "moved"}


def test_a_plan_records_nothing(world: World) -> None:
    world.bare.fill({"docs/x": b"x"})
    world.put(FILES)
    world.run()
    lost = world.forgetful()
    lost.delete("east/n/f0.yaml")
    pages = list(lost.kind().discover(Scope(), None, Pace(lambda: 60.0, plan=True)))
    assert "east/n/f0.yaml" in {item.name for page in pages for item in page.items if item.detail}
    assert not lost.kept.facts
    assert not [row for rows in lost.kept.rows.values() for row in rows.rows]


def test_a_plan_leaves_what_is_remembered_as_it_is(world: World, store: Folder | BucketStore) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n/f0.yaml": b"newer"})
    download, remembered = Download(world, store), copy.deepcopy(world.memory.objects)
    for kind in (world.kind(), download.kind):
        list(kind.discover(Scope(), None, Pace(lambda: 60.0, plan=True)))
    assert world.memory.objects == remembered
    assert not download.memory.counted


def test_what_others_committed_since_is_not_ours(world: World) -> None:
    """Also where the history that is read ends at a commit of ours."""
    world.bare.fill({"east/n/foreign.yaml": b"foreign"})
    world.put(FILES)
    world.run()
    for number in range(3):
        world.bare.fill({f"docs/{number}": b"x"})
        world.put({"east/n/f0.yaml": b"version %d" % number})
        world.run("east/n/f0.yaml")
    lost = world.forgetful()
    lost.bare.fill({"west/n/f3.yaml": b"edited", "west/n/later.yaml": b"later"})
    got = {name: code for name, code in lost.codes(lost.run()).items() if code not in ("skipped", "extra")}
    assert got == {"west/n/f3.yaml": "FILE_DIFFERS"}
    files = lost.bare.files()
    assert files["east/n/foreign.yaml"] == b"foreign"
    assert files["west/n/later.yaml"] == b"later"


def test_what_was_read_of_the_history_is_not_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the branch has another file than our last commit of it, which is equal to the source."""
    world.put(FILES)
    world.run()
    world.bare.fill({"east/n/f0.yaml": b"edited"})
    world.put({"east/n/f0.yaml": b"edited"})
    world.run("east/n/f0.yaml")
    world.kept.facts.clear()
    world.bare.fill({"east/n/foreign.yaml": b"foreign"})
    world.run()
    reads: list[str | None] = []
    read = Branch.blobs_put

    def noted(self: Branch, since: str | None, trailer: str, folder: bytes) -> dict[bytes, str | None]:
        reads.append(since)
        return read(self, since, trailer, folder)

    monkeypatch.setattr(Branch, "blobs_put", noted)
    world.run()
    assert reads == []


def test_after_a_lost_table_equal_files_of_a_store_are_adopted(world: World, store: Folder | BucketStore) -> None:
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


def test_what_an_earlier_version_wrote_to_a_store_is_ours(world: World, store: Folder | BucketStore) -> None:
    """It kept no records, but noted what it wrote."""
    world.put(FILES)
    earlier = Download(world, store)
    earlier.run()
    download = Download(world, store)
    sealer = Sealer(Rule.LEAVE_OUT)
    download.memory.objects = {
        (place.replace(sealer.name, sealer.first_name), cluster): known
        for (place, cluster), known in earlier.memory.objects.items()
    }
    world.put({"east/n/f0.yaml": b"newer", "west/n/f0.yaml": b"newer", "west/n/f1.yaml": SECRET})
    world.delete("east/n/f1.yaml")
    assert download.run("west/n/f0.yaml") == {"west/n/f0.yaml": "moved"}
    again = Download(world, store, like=download)
    again.memory.objects = download.memory.objects
    got = {name: code for name, code in again.run().items() if code != "skipped"}
    assert got == {"east/n/f0.yaml": "moved", "east/n/f1.yaml": "removed", "west/n/f1.yaml": "removed"}


# -- limits of removals ------------------------------------------------------------------------------------------------


def test_a_cluster_of_one_file_that_vanished_stays(world: World, store: Folder | BucketStore) -> None:
    world.put(FILES | {"lone/n/x": b"x"})
    download = Download(world, store)
    world.run()
    download.run()
    world.delete("lone/n/x")
    for scope in ((), ("lone/n/x",)):
        assert world.codes(world.run(*scope)) == {"lone/n/x": "REMOVALS_CAPPED"}
        assert download.run(*scope) == {"lone/n/x": "REMOVALS_CAPPED"}
    assert world.bare.files() == FILES | {"lone/n/x": b"x"}
    assert content(store) == blobs(FILES | {"lone/n/x": b"x"})
    meant = world.but(allow_removals=1)
    assert meant.codes(meant.run()) == {"lone/n/x": "removed"}


def test_many_scans_of_one_event_remove_no_more_than_one_scan(world: World, store: Folder | BucketStore) -> None:
    caps = Caps(share=0.25)
    here, download = world.but(caps=caps), Download(world, store, caps)
    here.put(FILES)
    here.run()
    download.run()
    for number in range(12):
        key = f"east/n/f{number}.yaml"
        here.delete(key)
        expected = "removed" if number < 3 else "REMOVALS_CAPPED"
        assert here.codes(here.run(key)) == {key: expected}
        assert download.run(key) == {key: expected}
    assert len([path for path in here.bare.files() if path.startswith("east/")]) == 9


def test_files_of_equal_content_do_not_explain_one_another(world: World, store: Folder | BucketStore) -> None:
    caps = Caps(share=0.25)
    here, download = world.but(caps=caps), Download(world, store, caps)
    alike = dict.fromkeys([f"east/n/f{n}.yaml" for n in range(12)], b"alike")
    for key in alike:
        here.put({key: b"alike"})
        here.run()
        download.run()
        here.clock.now += 60
        download.kept.clock.now += 60
    here.delete(*list(alike)[1:])
    for number in range(1, 12):
        key = f"east/n/f{number}.yaml"
        here.run(key)
        download.run(key)
    assert len(here.bare.files()) == 9
    assert len(content(store)) == 9


def test_every_window_begins_anew(world: World) -> None:
    here = world.but(caps=Caps(share=0.25, per=3600))
    here.put(FILES)
    here.run()
    keys = [f"east/n/f{n}.yaml" for n in range(6)]
    here.delete(*keys[:3])
    assert set(here.codes(here.run()).values()) == {"removed"}
    here.delete(*keys[3:5])
    assert set(here.codes(here.run()).values()) == {"REMOVALS_CAPPED"}
    here.clock.now += 3601
    assert set(here.codes(here.run()).values()) == {"removed"}


def test_only_what_is_ours_and_selected_counts(world: World) -> None:
    """One fourth of four selected files is one; of all 24 that lie in the cluster it would be six."""
    many = {f"east/n/f{n}.log": b"%d" % n for n in range(20)}
    few = {f"east/n/f{n}.yaml": b"%d" % n for n in range(4)}
    world.bare.fill({f"east/n/foreign{n}.yaml": b"x" for n in range(20)})
    world.put(many | few)
    world.run()
    here = world.but(layout=Layout(objects=(("**/*.yaml",), ())), caps=Caps(share=0.25))
    here.delete("east/n/f0.yaml", "east/n/f1.yaml")
    for scope in (("east/n/f0.yaml", "east/n/f1.yaml"), ()):
        codes = here.codes(here.run(*scope))
        assert {code for code in codes.values() if code != "extra"} == {"REMOVALS_CAPPED"}


@pytest.mark.parametrize("told", [True, False], ids=["events", "full scan"])
@pytest.mark.parametrize("branch", ["main", "bk/{cluster}"])
def test_a_renamed_cluster_is_a_rename(world: World, branch: str, *, told: bool) -> None:
    here = world.but(layout=Layout(branch=branch), caps=Caps(share=0.25))
    alike = {"east/n/same0": b"same", "east/n/same1": b"same", "east/n/empty": b""}
    here.put(FILES | alike)
    here.run()
    old = {key: data for key, data in (FILES | alike).items() if key.startswith("east/")}
    new = {key.replace("east/", "orient/"): data for key, data in old.items()}
    here.clock.now += 60
    here.put(new)
    here.delete(*old)
    if told and "{" in branch:
        here.run(*old, *new)  # branches are committed to one by one
        here.run()
    else:
        codes = here.codes(here.run(*(*old, *new) if told else ()))
        assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(old, "removed")
    names = here.layout.branch_of
    assert here.bare.files(names("orient")).keys() >= new.keys()
    assert not [path for path in here.bare.files(names("east")) if path.startswith("east/")]


@pytest.mark.parametrize("told", [True, False], ids=["events", "full scan"])
def test_of_a_renamed_cluster_what_went_stays(world: World, *, told: bool) -> None:
    here = world.but(caps=Caps(share=0.25))
    here.put(FILES)
    here.run()
    old = {key: data for key, data in FILES.items() if key.startswith("east/")}
    lost, *moved = old
    new = {key.replace("east/", "orient/"): old[key] for key in moved}
    here.put(new)
    here.delete(*old)
    codes = here.codes(here.run(*(*old, *new) if told else ()))
    assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(moved, "removed") | {lost: "REMOVALS_CAPPED"}


@pytest.mark.parametrize("told", [True, False], ids=["events", "full scan"])
def test_a_renamed_cluster_is_a_rename_in_a_store(world: World, store: Folder | BucketStore, *, told: bool) -> None:
    download = Download(world, store, Caps(share=0.25))
    world.put(FILES)
    download.run()
    old = {key: data for key, data in FILES.items() if key.startswith("east/")}
    new = {key.replace("east/", "orient/"): data for key, data in old.items()}
    world.put(new)
    world.delete(*old)
    codes = download.run(*(*old, *new) if told else ())
    assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(old, "removed")
    assert content(store) == blobs({k: d for k, d in FILES.items() if k not in old} | new)


@pytest.mark.parametrize("told", [True, False], ids=["events", "full scan"])
def test_renamed_files_are_no_removals(world: World, *, told: bool) -> None:
    here = world.but(caps=Caps(share=0.25))
    here.put(FILES)
    here.run()
    old = [f"east/n/f{n}.yaml" for n in range(6)]
    new = {key.replace("/n/", "/m/"): FILES[key] for key in old}
    here.put(new)
    here.delete(*old)
    codes = here.codes(here.run(*(*old, *new) if told else ()))
    assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(old, "removed")


def test_a_secret_that_was_kept_counts_as_a_removal_in_a_store(world: World, store: Folder | BucketStore) -> None:
    secrets = {f"east/n/s{n}.yaml": SECRET + b"# %d\n" % n for n in range(12)}
    world.put(secrets)
    download = Download(world, store, Caps(share=0.25), Sealer(Rule.KEEP))
    download.run()
    leaving = Download(world, store, Caps(share=0.25), Sealer(Rule.LEAVE_OUT), download)
    codes = leaving.run()
    assert sorted(codes.values()) == ["REMOVALS_CAPPED"] * 9 + ["removed"] * 3


# -- the proof of a removal --------------------------------------------------------------------------------------------


class Stubborn(Folder):
    """A folder that says that it removed a file, and did not."""

    def remove(self, path: str) -> None: ...


def test_removals_of_a_batch_that_are_refused_read_the_records_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put({key: SECRET + data for key, data in FILES.items()})
    store = Folder(tmp_path / "download")
    kept = Download(world, store, sealer=Sealer(Rule.KEEP))
    kept.run()
    reads: list[KeptRows] = []
    scan = KeptRows.scan

    def noted(self: KeptRows) -> Iterator[tuple[str, list[Any]]]:
        reads.append(self)
        return scan(self)

    strict = Download(world, store, Caps(count=2), like=kept)
    items = [item for page in strict.kind.discover(Scope(), None, PACE) for item in page.items if item.group == "east"]
    monkeypatch.setattr(KeptRows, "scan", noted)
    answers = list(strict.kind.transfer(items, PACE))
    assert sum(isinstance(answer, Failure) for answer in answers) == 10
    assert len(reads) <= 8


def test_a_removal_is_verified(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    store = Stubborn(tmp_path / "download")
    download = Download(world, store)
    download.run()
    world.delete("east/n/f0.yaml")
    pace = Pace(lambda: 60.0, work="run")
    (page,) = [page for page in download.kind.discover(Scope(), None, pace) if page.items]
    (answer,) = download.kind.transfer(page.items, pace)
    assert isinstance(answer, Arrived), "verify decides whether it is removed"
    (proof,) = download.kind.verify([answer.item], pace)
    assert isinstance(proof, Failure)
    assert proof.error.code.name == "NOT_ARRIVED"
