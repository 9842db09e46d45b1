"""Restores of committed files, from any commit, and downloads without a repository."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.clients.git.access import GitRemote
from syncline.clients.git.repository import RepositoryLocation, open_branch
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.restore import Restorer, RestoreResult
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.stores import BucketStore, FileStore
from syncline.kinds.kind import StepContext
from syncline.model import Outcome, Result, Scope
from tests.rig.backups import Caps, Download, World, content, make_bucket, make_world

FILES = {
    f"{c}/{n}/f{f}.yaml": f"{c} {n} {f}\n".encode() for c in ("east", "west") for n in ("a", "b") for f in range(3)
}
FILES |= {"east/a/deep/er/x": b"", "east/a/large.bin": os.urandom(3_000_000)}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"
KEY = base64.b64encode(bytes(range(64))).decode()
PACE = StepContext(lambda: 60.0, work="run")


@pytest.fixture
def world(s3: str, tmp_path: Path) -> World:
    return make_world(s3, tmp_path).but(layout=Layout(folder="clusterbackup"))


@contextmanager
def restoring(world: World, place: FileStore, key: str | None = None) -> Iterator[Restorer]:
    remote = RepositoryLocation(GitRemote.parse(world.url))
    with open_branch(remote, "main", depth=world.layout.depth, left=lambda: 60.0) as branch:
        yield Restorer(branch, world.layout, place, key)


def back(world: World, part: str, place: FileStore, at: str | None = None, key: str | None = None) -> RestoreResult:
    with restoring(world, place, key) as restore:
        return restore.write(restore.plan(part, at))


def below(part: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path.startswith(f"{part}/")}


def in_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["east", "east/a", "west/b"])
def test_a_part_is_restored_to_a_folder(world: World, tmp_path: Path, part: str) -> None:
    world.put(FILES)
    world.run()
    restored = back(world, part, FolderTarget(tmp_path / "back"))
    assert in_folder(tmp_path / "back") == below(part, FILES)
    assert restored.files == len(below(part, FILES))
    assert restored.commit == world.bare.git("rev-parse", "main").strip()


def test_a_part_is_restored_to_a_bucket(world: World, s3: str) -> None:
    world.put(FILES)
    world.run()
    bucket = make_bucket(s3, f"{world.bucket.name}-back", Http())
    back(world, "east", BucketStore(bucket, "again/"))
    found = {each.key: bucket.read(each.key, 4_000_000)[1] for page in bucket.pages("") for each in page.objects}
    assert found == {f"again/{path}": data for path, data in below("east", FILES).items()}


def test_an_earlier_commit_is_restored(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    world.run()
    first = world.bare.git("rev-parse", "main").strip()
    world.put({"east/a/f0.yaml": b"changed"})
    world.delete("east/b/f1.yaml")
    world.run()
    back(world, "east", FolderTarget(tmp_path / "then"), at=first)
    back(world, "east", FolderTarget(tmp_path / "now"))
    assert in_folder(tmp_path / "then") == below("east", FILES)
    now = below("east", FILES) | {"east/a/f0.yaml": b"changed"}
    assert in_folder(tmp_path / "now") == {path: data for path, data in now.items() if path != "east/b/f1.yaml"}


def test_secrets_are_restored_with_the_key(world: World, tmp_path: Path) -> None:
    sealing = world.but(secrets_filter=SecretsFilter(SecretsPolicy.ENCRYPT, KEY))
    sealing.put(FILES | {"east/a/secret.yaml": SECRET})
    sealing.run()
    restored = back(sealing, "east", FolderTarget(tmp_path / "back"), key=KEY)
    assert in_folder(tmp_path / "back")["east/a/secret.yaml"] == SECRET
    assert restored.decrypted == 1
    for key, code in ((None, "SECRET_SEALED"), (base64.b64encode(bytes(64)).decode(), "SECRET_SEALED")):
        restored = back(sealing, "east", FolderTarget(tmp_path / code), key=key)
        assert [(each.path, each.code) for each in restored.refused] == [("east/a/secret.yaml", code)]
        assert in_folder(tmp_path / code) == below("east", FILES)


@pytest.mark.parametrize(("part", "at"), [("north", None), ("east/z", None), ("east", "1" * 40)])
def test_absent_parts_and_commits_cannot_be_restored(world: World, tmp_path: Path, part: str, at: str | None) -> None:
    world.put(FILES)
    world.run()
    with pytest.raises(SynclineError) as caught:
        back(world, part, FolderTarget(tmp_path / "back"), at=at)
    assert caught.value.code.name == "NOT_FOUND"


def test_paths_outside_the_folder_are_refused(world: World, tmp_path: Path) -> None:
    world.bare.fill({"clusterbackup/east/n/x\\y": b"planted"})
    restored = back(world, "east", FolderTarget(tmp_path / "back"))
    assert [each.code for each in restored.refused] == ["PATH_REFUSED"]
    assert not (tmp_path / "back").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "east").symlink_to(tmp_path / "out")
    with pytest.raises(SynclineError, match="symbolic link"):
        FolderTarget(tmp_path / "linked").write("east/x", [b"x"])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_loses_written_files_is_reported(world: World, tmp_path: Path) -> None:
    class LosingFolder(FolderTarget):
        def content_id(self, path: str) -> str:
            (tmp_path / "back" / path).write_bytes(b"something else")
            return super().content_id(path)

    world.put(FILES)
    world.run()
    restored = back(world, "west", LosingFolder(tmp_path / "back"))
    assert restored.files == 0
    assert {each.code for each in restored.refused} == {"DIGEST_MISMATCH"}


def test_a_file_that_changes_after_the_plan_stays(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    world.run()
    with restoring(world, FolderTarget(tmp_path / "back", replaces=True)) as restore:
        plan = restore.plan("west/a")
        assert in_folder(tmp_path / "back") == {}, "the plan wrote a file"
        (tmp_path / "back/west/a").mkdir(parents=True)
        (tmp_path / "back/west/a/f1.yaml").write_bytes(b"just written")
        restored = restore.write(plan)
    assert [(each.path, each.code) for each in restored.refused] == [("west/a/f1.yaml", "TARGET_CHANGED")]
    assert in_folder(tmp_path / "back") == below("west/a", FILES) | {"west/a/f1.yaml": b"just written"}


def test_a_failing_place_keeps_no_incomplete_file(world: World, tmp_path: Path) -> None:
    class Full(FolderTarget):
        def write(self, path: str, chunks: Iterable[bytes]) -> str:
            def until_full() -> Iterator[bytes]:
                if path == "east/a/large.bin":
                    yield next(iter(chunks))
                    raise OSError(errno.ENOSPC, "No space left on device")
                yield from chunks

            return super().write(path, until_full())

    world.put(FILES)
    world.run()
    restored = back(world, "east", Full(tmp_path / "back"))
    done = {path: data for path, data in below("east", FILES).items() if path < "east/a/large.bin"}
    assert in_folder(tmp_path / "back") == done
    assert {each.path for each in restored.refused} == below("east", FILES).keys() - done.keys()
    assert {each.code for each in restored.refused} == {"TARGET_FULL"}
    assert back(world, "east", FolderTarget(tmp_path / "back")).unchanged == len(done)


def test_existing_objects_of_the_bucket_are_compared(world: World, s3: str) -> None:
    world.put(FILES)
    world.run()
    bucket = make_bucket(s3, f"{world.bucket.name}-back", Http())
    bucket.put("again/east/a/f0.yaml", b"edited")
    bucket.put("again/east/a/f1.yaml", FILES["east/a/f1.yaml"])
    with restoring(world, BucketStore(bucket, "again/")) as restore:
        plan = restore.plan("east/a")
        assert plan.overwritten == ["east/a/f0.yaml"]
        assert plan.unchanged == 1
        assert restore.write(plan).overwritten == 1
    assert bucket.read("again/east/a/f0.yaml", 100)[1] == FILES["east/a/f0.yaml"]


# -- downloads ---------------------------------------------------------------------------------------------------------


def test_downloads_follow_the_bucket(world: World, store: FolderTarget | BucketStore) -> None:
    from syncline.clients.git.objects import blob_id  # noqa: PLC0415

    world.put(FILES | {"east/a/secret.yaml": SECRET, "east/.git/config": b"x"})
    download = Download(world, store)
    first = download.run()
    assert first.pop("east/.git/config") == "PATH_REFUSED"
    assert first.pop("east/a/secret.yaml") == "left_out"
    assert first == dict.fromkeys(FILES, "moved")
    assert content(store) == {path: blob_id(data) for path, data in FILES.items()}
    assert download.run() == {"east/.git/config": "PATH_REFUSED"}
    assert (download.skipped, download.left_out) == (len(FILES), 1)
    assert download.index.file_counts("downloads#").keys() == {"east", "west"}
    world.put({"west/a/f0.yaml": b"changed"})
    world.delete("west/b/f1.yaml")
    assert download.run("west/a/f0.yaml", "west/b/f1.yaml") == {"west/a/f0.yaml": "moved", "west/b/f1.yaml": "removed"}
    assert download.run() == {"east/.git/config": "PATH_REFUSED"}


def test_downloads_name_left_out_items_and_read_large_objects_twice(
    world: World, store: FolderTarget | BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("download", "secrets_detection"):
        monkeypatch.setattr(f"syncline.kinds.backups.{module}.LARGEST", 2_500_000)
    world.put(
        {
            "east/a/large": b"a: b\n" * 600_000,
            "east/a/large.txt": b"a: b\n" * 600_000 + SECRET,
            "east/a/middle.txt": b"a: b\n" * 450_000 + SECRET,
            "east/a/small": b"\t{{ x }}\n" + SECRET,
        }
    )
    download = Download(world, store)
    unseen = {"east/a/large.txt": "SECRETS_UNSEEN", "east/a/small": "SECRET_SUSPECTED"}
    first = download.run()
    assert first == {"east/a/large": "moved", "east/a/middle.txt": "left_out"} | unseen
    assert {result.outcome for result in download.results.values()} == {Outcome.LEFT_OUT}
    assert list(content(store)) == ["east/a/large"]
    assert download.run() == unseen
    assert (download.skipped, download.left_out) == (1, 1)


def test_a_deleted_cluster_is_kept_in_downloads(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    download = Download(world, FolderTarget(tmp_path / "download"))
    download.run()
    world.delete(*below("west", FILES))
    assert set(download.run().values()) == {"REMOVALS_CAPPED"}
    assert in_folder(tmp_path / "download") == FILES
    world.delete(*below("east", FILES))
    with pytest.raises(SynclineError, match="lists no cluster"):
        download.run()


def test_removals_by_events_are_capped_in_downloads(world: World, store: FolderTarget | BucketStore) -> None:
    world.put(FILES)
    first = Download(world, store)
    first.run()
    there, west, east = content(store), below("west", FILES), below("east", FILES)
    world.delete(*west, next(iter(east)))
    codes = Download(world, store, like=first).run(*west, next(iter(east)))
    assert codes.pop(next(iter(east))) == "removed", "the limit of the cluster allows one removal"
    assert codes == dict.fromkeys(west, "REMOVALS_CAPPED")
    assert content(store).keys() == there.keys() - {next(iter(east))}

    world.put({key: FILES[key] for key in list(west)[3:]})
    within = [*list(west)[:3], *list(east)[1:4]]
    world.delete(*within)
    few, more = Download(world, store, Caps(count=6), like=first), Download(world, store, Caps(count=7), like=first)
    assert set(few.run(*within).values()) == {"REMOVALS_CAPPED"}, "the limit of all clusters together was exceeded"
    assert set(more.run(*within).values()) == {"removed"}
    assert content(store).keys() == there.keys() - {*within, next(iter(east))}


def test_an_object_deleted_during_its_download_is_removed_by_the_next_scan(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    download = Download(world, FolderTarget(tmp_path / "download"))
    download.run()
    key = next(iter(FILES))
    world.put({key: b"changed"})
    (page,) = [page for page in download.kind.discover(Scope.of([key]), None, PACE) if page.items]
    world.delete(key)
    (answer,) = download.kind.transfer(page.items, PACE)
    assert isinstance(answer, Result)
    assert answer.outcome is Outcome.EQUAL
    assert in_folder(tmp_path / "download") == FILES
    assert download.run(key) == {key: "removed"}


def test_a_changed_download_stays(world: World, tmp_path: Path) -> None:
    world.put(FILES)
    download = Download(world, FolderTarget(tmp_path / "download"))
    download.run()
    (tmp_path / "download/east/a/f0.yaml").write_bytes(b"tampered")
    assert download.run() == {"east/a/f0.yaml": "FILE_DIFFERS"}
    assert in_folder(tmp_path / "download") == FILES | {"east/a/f0.yaml": b"tampered"}


def test_an_event_removes_nothing_behind_a_symlink(world: World, tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "download"
    outside.mkdir()
    (outside / "precious.txt").write_bytes(b"precious")
    (target / "c0").mkdir(parents=True)
    (target / "c0" / "ln").symlink_to(outside)
    world.put({"c0/f": b"ours"})
    download = Download(world, FolderTarget(target))
    assert download.run() == {"c0/f": "moved"}
    assert download.run("c0/ln/precious.txt") == {}
    world.put({"c0/ln/precious.txt": b"ours", "c0/ln/new.txt": b"ours", "c0/g": b"ours"})
    refused = {"c0/ln/precious.txt": "LINK_REFUSED", "c0/ln/new.txt": "LINK_REFUSED"}
    assert download.run() == {**refused, "c0/g": "moved"}
    assert in_folder(outside) == {"precious.txt": b"precious"}


def test_a_cluster_whose_folder_is_a_symlink_fails_alone(world: World, tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "download"
    outside.mkdir()
    target.mkdir()
    (target / "east").symlink_to(outside)
    world.put(FILES)
    download = Download(world, FolderTarget(target))
    codes = download.run()
    assert codes == {"east/*": "LINK_REFUSED"} | dict.fromkeys(below("west", FILES), "moved")
    assert in_folder(outside) == {}
