"""Restore drills: every planted damage is found, nothing but the scratch folder is written, and that is removed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from syncline.clients.git.objects import blob_id
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.kinds.backups.drill import DrillAccess
from syncline.kinds.backups.normalize import Normalizer
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.scratch import ScratchBucket, ScratchFolder, ScratchLocation, scratch_store
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.stores import BucketStore
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Result, Scope
from tests.rig.backups import Download, World, make_bucket, make_world
from tests.standins.git_http import git_http

FILES = {f"{c}/{n}/f{f}.yaml": f"{c} {n} {f}\n".encode() * 40 for c in ("east", "west") for n in "ab" for f in range(3)}
FILES |= {"east/a/empty": b"", "east/a/large.bin": bytes(range(256)) * 12_000}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"
KEY = base64.b64encode(bytes(range(64))).decode()
VICTIM = "east/a/f1.yaml"
BYTES = FILES[VICTIM]


@pytest.fixture
def world(s3: str, tmp_path: Path) -> World:
    return make_world(s3, tmp_path).but(layout=Layout(folder="clusters"))


def context(run: str = "run") -> StepContext:
    return StepContext(lambda: 100.0, run=run, work="work", plan=True)


def drilled(world: World, *groups: str, share: float = 1.0, run: str = "run") -> tuple[int, dict[str, str]]:
    """Return the number of equal files, and the code or outcome of each result."""
    scope = Scope.of(groups) if groups else EVERYTHING
    return _summary(list(world.kind().drill(scope, None, context(run), share)))


def _summary(pages: list[Page]) -> tuple[int, dict[str, str]]:
    results: list[Result] = [each for page in pages for each in page.results]
    found = {each.name: each.code or each.outcome.value for each in results}
    found |= {f"{f.item.group}{f.item.name}": f.error.code.name for page in pages for f in page.failures}
    assert not [item for page in pages for item in page.items]
    return sum(page.equal for page in pages), found


def commit(world: World, changes: dict[str, bytes | None]) -> None:
    """Commit changes of files to the branch, as somebody else would."""
    tip = world.bare.git("rev-parse", "main").strip().encode()
    lines = [b"commit refs/heads/main", b"committer else <else@example.com> 1750000000 +0000", b"data 7\nplanted"]
    lines += [b"from " + tip]
    for key, data in changes.items():
        path = b"clusters/" + key.encode()
        lines.append(b"D " + path if data is None else b"M 100644 inline %s\ndata %d\n%s" % (path, len(data), data))
    world.bare.git("fast-import", "--quiet", feed=b"\n".join(lines) + b"\n")


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def damage_blob(world: World) -> None:
    """Flip a byte of a blob in the repository's storage."""
    import zlib  # noqa: PLC0415

    oid = blob_id(BYTES)
    for pack in world.bare.path.glob("objects/pack/*.pack"):
        moved = world.bare.path / pack.name
        pack.rename(moved)
        world.bare.git("unpack-objects", "-q", feed=moved.read_bytes())
    loose = world.bare.path / "objects" / oid[:2] / oid[2:]
    loose.chmod(0o644)
    raw = zlib.decompress(loose.read_bytes())
    loose.write_bytes(zlib.compress(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:]))


COMMITTED: dict[str, dict[str, bytes | None]] = {
    "a flipped byte": {VICTIM: flipped(BYTES)},
    "a truncated file": {VICTIM: BYTES[:-1]},
    "an emptied file": {VICTIM: b""},
    "a missing file": {VICTIM: None},
    "a byte more": {VICTIM: BYTES + b"\n"},
    "swapped contents": {VICTIM: FILES["east/a/f2.yaml"], "east/a/f2.yaml": BYTES},
    "an extra file": {"east/a/planted.yaml": b"kind: Pod\n"},
    "an extra Secret": {"east/a/secret.yaml": SECRET},
    "a missing namespace": {f"east/b/f{each}.yaml": None for each in range(3)},
    "a flipped byte in a large file": {"east/a/large.bin": flipped(FILES["east/a/large.bin"])},
    "a content in place of none": {"east/a/empty": b"x"},
}


@pytest.mark.parametrize("planted", COMMITTED.values(), ids=COMMITTED.keys())
@pytest.mark.parametrize("scratch", ["none", "folder", "bucket"])
def test_damage_on_the_branch_is_found(
    world: World, s3: str, tmp_path: Path, planted: dict[str, bytes | None], scratch: str
) -> None:
    location = _scratch(scratch, world, s3, tmp_path)
    world = world.but(drill_access=DrillAccess(lambda: location))
    world.put({**FILES, "west/a/secret.yaml": SECRET})
    world.run()
    assert drilled(world) == (len(FILES), {})
    commit(world, planted)
    equal, found = drilled(world)
    assert found == dict.fromkeys(planted, "RESTORE_DIFFERS")
    assert equal == len(FILES.keys() - planted.keys())
    if location is not None:
        assert location.names() == []


def _scratch(form: str, world: World, s3: str, folder: Path) -> ScratchLocation | None:
    if form == "none":
        return None
    if form == "folder":
        return ScratchFolder(folder / "scratch")
    return ScratchBucket(make_bucket(s3, f"{world.bucket.name}-s", Http()), "drills/")


def test_a_flipped_byte_in_the_storage_of_git_is_found_over_http(world: World) -> None:
    world.put(FILES)
    world.run()
    with git_http(world.bare.path.parent) as http:
        served = world.but(url=f"{http.url}/{world.bare.path.name}")
        assert drilled(served) == (len(FILES), {})
        damage_blob(world)
        equal, found = drilled(served)
        assert found.keys() == {"east/*"}  # git's server cannot send the files of this cluster
        assert equal == 6


def test_a_missing_branch_is_a_failure(world: World) -> None:
    world.put(FILES)
    assert drilled(world) == (0, {"east/": "NOT_FOUND", "west/": "NOT_FOUND"})


def test_a_source_without_clusters_proves_nothing(world: World) -> None:
    assert drilled(world) == (0, {"*": "SOURCE_ABSENT"})


def test_what_changed_at_the_source_since_the_last_run_is_left_out(world: World) -> None:
    world.put(FILES)
    world.run()
    world.put({VICTIM: b"newer", "east/a/new.yaml": b"new"})
    world.delete("east/a/f2.yaml")
    equal, found = drilled(world)
    assert found == dict.fromkeys((VICTIM, "east/a/new.yaml", "east/a/f2.yaml"), "left_out")
    assert equal == len(FILES) - 2
    assert drilled(world.without_table())[1] | {"east/a/f2.yaml": "left_out"} == found  # without records, it is extra


def test_encrypted_and_normalized_files_are_compared_as_they_are_written(world: World, tmp_path: Path) -> None:
    pod = b"apiVersion: v1\nkind: Pod\nmetadata: {name: a, resourceVersion: '1'}\nstatus: x\n"
    access = DrillAccess(lambda: ScratchFolder(tmp_path / "scratch"), lambda: KEY)
    world = world.but(secrets_filter=SecretsFilter(SecretsPolicy.ENCRYPT, KEY, Normalizer()), drill_access=access)
    world.put({**FILES, "east/a/secret.yaml": SECRET, "east/a/pod.yaml": pod})
    world.run()
    assert drilled(world) == (len(FILES) + 2, {})
    world.put({"east/a/pod.yaml": pod.replace(b"'1'", b"'2'")})
    assert drilled(world) == (len(FILES) + 2, {})
    without = world.but(drill_access=DrillAccess())
    assert drilled(without)[1] == {"east/a/secret.yaml": "SECRET_SEALED"}


def test_an_unsigned_branch_is_a_failure(world: World) -> None:
    world = world.but(drill_access=DrillAccess(signers=lambda: ("ssh-ed25519 " + "A" * 68,)))
    world.put(FILES)
    world.run()
    assert drilled(world) == (0, {"east/": "COMMIT_UNSIGNED", "west/": "COMMIT_UNSIGNED"})


def test_samples_cover_other_files_in_each_drill(world: World) -> None:
    world.put(FILES)
    world.run()
    commit(world, {VICTIM: flipped(BYTES), "west/a/f0.yaml": None})
    found = [drilled(world, share=0.5, run=f"run{number}") for number in range(12)]
    assert all("west/a/f0.yaml" in each for _, each in found)  # what is missing is found without being in the sample
    assert 0 < sum(VICTIM in each for _, each in found) < 12
    assert all(0 < equal < len(FILES) for equal, _ in found)


def test_a_drill_continues_behind_its_cursor(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kinds.backups.compare._PORTION", 2)
    world.put(FILES)
    world.run()
    commit(world, {VICTIM: None, "west/b/f2.yaml": b"x"})
    equal, found, cursor, pages = 0, dict[str, str](), None, 0
    while True:
        with closing(world.kind().drill(EVERYTHING, cursor, context(), 1.0)) as drill:  # type: ignore[type-var]
            page = next(drill, None)
            if page is not None and cursor is None:
                page = next(drill)
        if page is None:
            break
        one, more = _summary([page])
        equal, found, cursor, pages = equal + one, found | more, page.cursor, pages + 1
    assert found == {VICTIM: "RESTORE_DIFFERS", "west/b/f2.yaml": "RESTORE_DIFFERS"}
    assert equal == len(FILES) - 2
    assert pages == 7


# -- folders and buckets as targets ------------------------------------------------------------------------------------


Damage = Callable[[BucketStore], object]
IN_BUCKET: dict[str, tuple[set[str], Damage]] = {
    "a flipped byte": ({VICTIM}, lambda store: store.bucket.put(VICTIM, flipped(BYTES))),
    "a truncated file": ({VICTIM}, lambda store: store.bucket.put(VICTIM, BYTES[:-1])),
    "a missing file": ({VICTIM}, lambda store: store.bucket.delete(VICTIM)),
    "an extra file": ({"east/a/x"}, lambda store: store.bucket.put("east/a/x", b"x")),
    "swapped contents": (
        {VICTIM, "east/a/f2.yaml"},
        lambda store: [
            store.bucket.put(VICTIM, FILES["east/a/f2.yaml"]),
            store.bucket.put("east/a/f2.yaml", BYTES),
        ],
    ),
}


@pytest.mark.parametrize(("damaged", "damage"), IN_BUCKET.values(), ids=IN_BUCKET.keys())
def test_damage_in_a_bucket_is_found(world: World, s3: str, damaged: set[str], damage: Damage) -> None:
    store = BucketStore(make_bucket(s3, f"{world.bucket.name}-copy", Http()), "")
    download = Download(world, store)
    world.put({**FILES, "west/a/secret.yaml": SECRET})
    download.run()
    assert _summary(list(download.kind.drill(EVERYTHING, None, context(), 1.0))) == (len(FILES), {})
    damage(store)
    equal, found = _summary(list(download.kind.drill(EVERYTHING, None, context(), 1.0)))
    assert found == dict.fromkeys(damaged, "RESTORE_DIFFERS")
    assert equal == len(FILES.keys() - damaged)


# -- scratch locations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "bucket"])
def test_a_scratch_folder_is_removed_and_that_of_a_dead_drill_too(
    world: World, s3: str, tmp_path: Path, form: str
) -> None:
    location = _scratch(form, world, s3, tmp_path)
    assert location is not None
    names = ["mine", "syncline-drill-other-000000000001-x", "syncline-drill-sync-000000009000-running"]
    for name in (*names, "syncline-drill-sync-000000000001-dead"):
        location.open(name).write("a/b", [b"x"])

    def fail() -> None:
        with scratch_store(location, "sync", "20260101-1", lambda: 5000.0) as store:
            store.write("c/d", [b"y"])
            assert location.names() == sorted([*names, "syncline-drill-sync-000000006200-20260101-1"])
            raise SynclineError("TIME_SHORT", "x")

    with pytest.raises(SynclineError):
        fail()
    assert location.names() == sorted(names)
