"""The records of our files at the target, by cluster."""

from __future__ import annotations

import pytest

from syncline.kinds.backups.ownership import OwnedFile, OwnedFiles, content_marks
from syncline.kinds.backups.paths import Layout
from tests.rig.backups_memory import InMemoryOwnership

EAST, WEST = OwnedFile("blob 1", "etag 1", 7, 5), OwnedFile("blob 2", "etag 2", 8)


@pytest.fixture
def kept() -> InMemoryOwnership:
    return InMemoryOwnership()


@pytest.fixture
def owned(kept: InMemoryOwnership) -> OwnedFiles:
    return kept.owned(Layout(prefix="backups/", objects=((), ("*/*/*.tmp",))))


def test_files_are_recorded_by_cluster(kept: InMemoryOwnership, owned: OwnedFiles) -> None:
    owned.write({"backups/east/shop/a": EAST, "backups/west/shop/a": WEST, "elsewhere/east/a": WEST})
    assert {cluster: set(rows.rows) for cluster, rows in kept.rows.items()} == {
        "east": {"east/shop/a"},
        "west": {"west/shop/a"},
    }
    assert owned.of("east") == {"backups/east/shop/a": EAST}
    assert owned.get(["backups/east/shop/a", "backups/west/shop/a", "backups/west/shop/b", "elsewhere/east/a"]) == {
        "backups/east/shop/a": EAST,
        "backups/west/shop/a": WEST,
    }


def test_the_record_of_a_file_that_is_no_longer_ours_is_deleted(owned: OwnedFiles) -> None:
    assert not owned.has("east")
    owned.write({"backups/east/shop/a": EAST})
    assert owned.has("east")
    owned.write({"backups/east/shop/a": None})
    assert not owned.has("east")
    assert owned.of("east") == {}


def test_the_selected_files_of_some_clusters_are_counted(owned: OwnedFiles) -> None:
    owned.write(
        {f"backups/{cluster}/shop/{name}": EAST for cluster in ("east", "west") for name in ("a", "b", "c.tmp")}
    )
    assert owned.count(["east"]) == 2
    assert owned.count(["east", "west", "south"]) == 4


@pytest.mark.parametrize(
    ("fingerprint", "etag", "size", "marks"),
    [
        ("blob", "etag", 7, ("blob", ("etag", 7))),
        ("blob", "etag", 0, ("blob", ("etag", 0))),
        ("blob", "", -1, ("blob",)),
        ("blob", "etag", -1, ("blob",)),
        ("blob", "", 7, ("blob",)),
        ("blob", None, None, ("blob",)),
        ("blob", "etag", None, ("blob",)),
        (None, "etag", 7, (("etag", 7),)),
        ("", None, None, ()),
    ],
)
def test_content_marks_are_the_values_that_are_known(
    fingerprint: str | None, etag: str | None, size: int | None, marks: tuple[object, ...]
) -> None:
    assert content_marks(fingerprint, etag, size) == marks
