"""Removals of backups: limits over a window of time, renames, and their verification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.stores import BucketStore
from syncline.kinds.kind import Completed, Failure, StepContext
from syncline.model import Scope
from tests.rig.backups import PACE, Caps, Download, World, blobs, content
from tests.rig.backups_memory import InMemoryRecords

FILES = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(12)}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"


def test_a_deleted_cluster_of_one_file_stays(world: World, store: FolderTarget | BucketStore) -> None:
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


def test_many_scans_of_one_event_remove_no_more_than_one_scan(world: World, store: FolderTarget | BucketStore) -> None:
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


def test_files_of_equal_content_are_not_mistaken_for_renames(world: World, store: FolderTarget | BucketStore) -> None:
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


def test_every_window_has_a_new_limit(world: World) -> None:
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


def test_only_our_selected_files_count(world: World) -> None:
    """A quarter of the four selected files is one; a quarter of all 24 files of the cluster would be six."""
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


@pytest.mark.parametrize("by_events", [True, False], ids=["events", "full scan"])
@pytest.mark.parametrize("branch", ["main", "bk/{cluster}"])
def test_a_renamed_cluster_is_a_rename(world: World, branch: str, *, by_events: bool) -> None:
    here = world.but(layout=Layout(branch=branch), caps=Caps(share=0.25))
    alike = {"east/n/same0": b"same", "east/n/same1": b"same", "east/n/empty": b""}
    here.put(FILES | alike)
    here.run()
    old = {key: data for key, data in (FILES | alike).items() if key.startswith("east/")}
    new = {key.replace("east/", "orient/"): data for key, data in old.items()}
    here.clock.now += 60
    here.put(new)
    here.delete(*old)
    if by_events and "{" in branch:
        here.run(*old, *new)  # each branch has separate commits
        here.run()
    else:
        codes = here.codes(here.run(*(*old, *new) if by_events else ()))
        assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(old, "removed")
    names = here.layout.branch_of
    assert here.bare.files(names("orient")).keys() >= new.keys()
    assert not [path for path in here.bare.files(names("east")) if path.startswith("east/")]


@pytest.mark.parametrize("by_events", [True, False], ids=["events", "full scan"])
def test_files_missing_in_a_renamed_cluster_stay(world: World, *, by_events: bool) -> None:
    here = world.but(caps=Caps(share=0.25))
    here.put(FILES)
    here.run()
    old = {key: data for key, data in FILES.items() if key.startswith("east/")}
    lost, *moved = old
    new = {key.replace("east/", "orient/"): old[key] for key in moved}
    here.put(new)
    here.delete(*old)
    codes = here.codes(here.run(*(*old, *new) if by_events else ()))
    assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(moved, "removed") | {lost: "REMOVALS_CAPPED"}


@pytest.mark.parametrize("by_events", [True, False], ids=["events", "full scan"])
def test_a_renamed_cluster_is_a_rename_in_a_store(
    world: World, store: FolderTarget | BucketStore, *, by_events: bool
) -> None:
    download = Download(world, store, Caps(share=0.25))
    world.put(FILES)
    download.run()
    old = {key: data for key, data in FILES.items() if key.startswith("east/")}
    new = {key.replace("east/", "orient/"): data for key, data in old.items()}
    world.put(new)
    world.delete(*old)
    codes = download.run(*(*old, *new) if by_events else ())
    assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(old, "removed")
    assert content(store) == blobs({k: d for k, d in FILES.items() if k not in old} | new)


@pytest.mark.parametrize("by_events", [True, False], ids=["events", "full scan"])
def test_renamed_files_do_not_count_as_removals(world: World, *, by_events: bool) -> None:
    here = world.but(caps=Caps(share=0.25))
    here.put(FILES)
    here.run()
    old = [f"east/n/f{n}.yaml" for n in range(6)]
    new = {key.replace("/n/", "/m/"): FILES[key] for key in old}
    here.put(new)
    here.delete(*old)
    codes = here.codes(here.run(*(*old, *new) if by_events else ()))
    assert codes == dict.fromkeys(new, "moved") | dict.fromkeys(old, "removed")


def test_removing_a_formerly_stored_secret_counts_as_a_removal_in_a_store(
    world: World, store: FolderTarget | BucketStore
) -> None:
    secrets = {f"east/n/s{n}.yaml": SECRET + b"# %d\n" % n for n in range(12)}
    world.put(secrets)
    download = Download(world, store, Caps(share=0.25), SecretsFilter(SecretsPolicy.KEEP))
    download.run()
    leaving = Download(world, store, Caps(share=0.25), SecretsFilter(SecretsPolicy.LEAVE_OUT), download)
    codes = leaving.run()
    assert sorted(codes.values()) == ["REMOVALS_CAPPED"] * 9 + ["removed"] * 3


# -- verification of removals ------------------------------------------------------------------------------------------


class WithoutRemovals(FolderTarget):
    """A folder that reports removals without performing them."""

    def remove(self, path: str) -> None: ...


def test_refused_removals_of_a_batch_read_the_records_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put({key: SECRET + data for key, data in FILES.items()})
    store = FolderTarget(tmp_path / "download")
    kept = Download(world, store, secrets_filter=SecretsFilter(SecretsPolicy.KEEP))
    kept.run()
    reads: list[InMemoryRecords] = []
    scan = InMemoryRecords.scan

    def noted(self: InMemoryRecords) -> Iterator[tuple[str, list[Any]]]:
        reads.append(self)
        return scan(self)

    strict = Download(world, store, Caps(count=2), like=kept)
    items = [item for page in strict.kind.discover(Scope(), None, PACE) for item in page.items if item.group == "east"]
    monkeypatch.setattr(InMemoryRecords, "scan", noted)
    answers = list(strict.kind.transfer(items, PACE))
    assert sum(isinstance(answer, Failure) for answer in answers) == 10
    assert len(reads) <= 8


def test_a_removal_is_verified(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    store = WithoutRemovals(tmp_path / "download")
    download = Download(world, store)
    download.run()
    world.delete("east/n/f0.yaml")
    context = StepContext(lambda: 60.0, work="run")
    (page,) = [page for page in download.kind.discover(Scope(), None, context) if page.items]
    (answer,) = download.kind.transfer(page.items, context)
    assert isinstance(answer, Completed), "the removal failed before its verification"
    (proof,) = download.kind.verify([answer.item], context)
    assert isinstance(proof, Failure)
    assert proof.error.code.name == "NOT_ARRIVED"
