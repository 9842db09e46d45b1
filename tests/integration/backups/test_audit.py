"""An audit compares every object with every file of a branch, a folder or a bucket, whatever the records say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import BlobContent, RemoteBranch
from syncline.errors import SynclineError
from syncline.kinds.backups import compare
from syncline.kinds.backups.download import Downloads
from syncline.kinds.backups.kind import Backups
from syncline.kinds.backups.stores import BucketStore
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Audit, Outcome, Result, Scope
from tests.rig.backups import Download, World, blobs

pytestmark = pytest.mark.moto

EQUAL, DIFFERENT, MISSING, EXTRA = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.MISSING, Outcome.EXTRA
FILES = {
    f"{cluster}/n/f{number}.yaml": f"{cluster} {number}\n".encode()
    for cluster in ("east", "west")
    for number in range(3)
}
SECRET = b"apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\ndata:\n  password: c2VjcmV0\n"


def audited(kind: Backups | Downloads, *groups: str, **options: Any) -> dict[str, Result]:
    scope = Scope.of(groups) if groups else EVERYTHING
    pages = list(kind.audit(scope, None, StepContext(lambda: 100.0), Audit(**options)))
    assert not [page.failures for page in pages if page.failures]
    return {each.name: each for page in pages for each in page.results}


def outcomes(results: dict[str, Result]) -> dict[str, Outcome]:
    return {key: each.outcome for key, each in results.items() if each.outcome is not EQUAL}


@pytest.fixture
def filled(world: World) -> World:
    """Return a world whose branch another tool has filled with all objects."""
    world.put(FILES)
    world.bare.fill(FILES)
    return world


@pytest.fixture
def download(world: World, store: FolderTarget | BucketStore) -> Download:
    """Return a download whose folder or bucket has all objects."""
    world.put(FILES)
    for key, data in FILES.items():
        store.write(key, [data])
    return Download(world, store)


@pytest.mark.parametrize("deep", [False, True])
def test_an_equal_branch(filled: World, *, deep: bool) -> None:
    commits = filled.bare.commits()
    results = audited(filled.kind(), deep=deep)
    assert {key: (each.outcome, each.source) for key, each in results.items()} == {
        key: (EQUAL, blob) for key, blob in blobs(FILES).items()
    }
    assert sum(each.moved_bytes for each in results.values()) == (sum(map(len, FILES.values())) if deep else 0)
    assert filled.bare.commits() == commits


def test_a_named_cluster_that_the_source_does_not_have_is_a_failure(filled: World) -> None:
    context = StepContext(lambda: 100.0, named=True)
    pages = list(filled.kind().audit(Scope.of(["east/", "north/"]), None, context, Audit()))
    (failure,) = [each for page in pages for each in page.failures]
    assert (failure.item.name, failure.error.code.name) == ("*", "SOURCE_ABSENT")
    assert {each.outcome for page in pages for each in page.results} == {EQUAL}


def test_each_outcome_on_a_branch(filled: World) -> None:
    filled.put({"east/n/f0.yaml": b"changed", "north/n/new.yaml": b"new", "east/n/secret.yaml": SECRET})
    filled.delete("west/n/f1.yaml")
    filled.bare.fill({"south/n/only.yaml": b"only here"})
    results = audited(filled.kind())
    assert outcomes(results) == {
        "east/n/f0.yaml": DIFFERENT,
        "north/n/new.yaml": MISSING,
        "west/n/f1.yaml": EXTRA,
        "south/n/only.yaml": EXTRA,
        "east/n/secret.yaml": Outcome.LEFT_OUT,
    }
    different = results["east/n/f0.yaml"]
    assert (different.source, different.target) == (blob_id(b"changed"), blob_id(FILES["east/n/f0.yaml"]))


def test_a_secret_at_the_target_is_extra(filled: World) -> None:
    filled.put({"east/n/secret.yaml": SECRET})
    filled.bare.fill({"east/n/secret.yaml": SECRET})
    results = audited(filled.kind())
    assert outcomes(results) == {"east/n/secret.yaml": EXTRA}
    assert "Secret" in str(results["east/n/secret.yaml"].reason)


def test_a_damaged_and_an_unreadable_blob(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git checks what it fetches, so a damaged blob is one that cannot be fetched, or that changes on the way."""
    read, lost = RemoteBranch.blobs, blob_id(FILES["west/n/f2.yaml"])

    def blobs_of(branch: RemoteBranch, oids: list[str]) -> Any:
        if lost in oids:
            raise SynclineError("GIT_FAILED", f"{lost} is corrupt")
        opened = read(branch, oids)
        if oids != [blob_id(FILES["east/n/f1.yaml"])]:
            return opened
        manager = opened

        class Flipped:
            def __enter__(self) -> Any:
                for blob in manager.__enter__():
                    content = b"".join(blob.chunks)
                    return iter([BlobContent(blob.size, iter([content[:-1] + b"!"]))])
                raise AssertionError

            def __exit__(self, *args: object) -> None:
                manager.__exit__(None, None, None)

        return Flipped()

    monkeypatch.setattr(RemoteBranch, "blobs", blobs_of)
    monkeypatch.setattr(compare, "_PORTION", 1)
    results = audited(filled.kind(), deep=True)
    assert outcomes(results) == {"east/n/f1.yaml": DIFFERENT, "west/n/f2.yaml": Outcome.UNREADABLE}
    assert "damaged" in str(results["east/n/f1.yaml"].reason)
    monkeypatch.setattr(compare, "_PORTION", 200)
    results = audited(filled.kind(), deep=True)
    assert outcomes(results) == {"west/n/f2.yaml": Outcome.UNREADABLE}


def test_a_missing_branch(world: World) -> None:
    world.put(FILES)
    assert outcomes(audited(world.kind())) == dict.fromkeys(FILES, MISSING)


def test_an_empty_bucket_is_no_source(world: World) -> None:
    world.bare.fill(FILES)
    with pytest.raises(SynclineError) as caught:
        audited(world.kind())
    assert caught.value.code.name == "SOURCE_ABSENT"


def test_a_part_of_the_keys(filled: World) -> None:
    filled.put({"east/n/f0.yaml": b"changed", "west/n/f0.yaml": b"changed"})
    assert audited(filled.kind(), "east/").keys() == {key for key in FILES if key.startswith("east/")}
    assert outcomes(audited(filled.kind(), "west/n/f0.yaml")) == {"west/n/f0.yaml": DIFFERENT}


def test_the_shares_cover_everything_once(filled: World) -> None:
    read = [
        each
        for part in (1, 2, 3)
        for each in audited(filled.kind(), deep=True, part=part, of=3).values()
        if each.moved_bytes
    ]
    assert sorted(each.name for each in read) == sorted(FILES)


def test_many_functions_find_the_same(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_PORTION", 1)
    filled.put({"east/n/f0.yaml": b"changed"})
    filled.bare.fill({"west/n/extra.yaml": b"extra"})
    whole, found = audited(filled.kind()), dict[str, Result]()
    cursor: str | None = None
    for _ in range(len(whole) + 2):
        pages = filled.kind().audit(EVERYTHING, cursor, StepContext(lambda: 100.0), Audit())
        for page in itertools.islice((page for page in pages if page.results), 1):
            found |= {each.name: each for each in page.results if each.name not in found}
            cursor = page.cursor
    assert found == whole


@pytest.mark.parametrize("deep", [False, True])
def test_each_outcome_in_a_folder_or_bucket(
    world: World, store: FolderTarget | BucketStore, download: Download, *, deep: bool
) -> None:
    assert not outcomes(audited(download.kind, deep=deep))
    store.write("east/n/f0.yaml", [b"EAST 0\n"])
    store.remove("east/n/f1.yaml")
    store.write("south/n/only.yaml", [b"only here"])
    results = audited(download.kind, deep=deep)
    assert outcomes(results) == {"east/n/f0.yaml": DIFFERENT, "east/n/f1.yaml": MISSING, "south/n/only.yaml": EXTRA}
    assert results["east/n/f0.yaml"].source == blob_id(world.bucket.read("east/n/f0.yaml", 100)[1])


def test_a_repair_sends_a_missing_file_again(filled: World) -> None:
    filled.put({"north/n/new.yaml": b"new", "west/n/other.yaml": b"other"})
    filled.bare.fill({"west/n/other.yaml": b"foreign"})
    wrong = outcomes(audited(filled.kind()))
    assert wrong == {"north/n/new.yaml": MISSING, "west/n/other.yaml": DIFFERENT}
    results = filled.run(*wrong)
    assert filled.codes(results) == {"north/n/new.yaml": "moved", "west/n/other.yaml": "FILE_DIFFERS"}
    assert outcomes(audited(filled.kind(), deep=True)) == {"west/n/other.yaml": DIFFERENT}
