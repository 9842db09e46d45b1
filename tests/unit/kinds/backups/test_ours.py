"""The record of the files at the target that are ours, kept by cluster."""

from __future__ import annotations

import pytest

from syncline.kinds.backups.ours import Ledger, Ours, marks_of
from syncline.kinds.backups.paths import Layout
from tests.backups_memory import KeptLedger

EAST, WEST = Ours("blob 1", "etag 1", 7, 5), Ours("blob 2", "etag 2", 8)


@pytest.fixture
def kept() -> KeptLedger:
    return KeptLedger()


@pytest.fixture
def ledger(kept: KeptLedger) -> Ledger:
    return kept.ledger(Layout(prefix="backups/", objects=((), ("*/*/*.tmp",))))


def test_files_are_recorded_by_cluster(kept: KeptLedger, ledger: Ledger) -> None:
    ledger.write({"backups/east/shop/a": EAST, "backups/west/shop/a": WEST, "elsewhere/east/a": WEST})
    assert {cluster: set(rows.rows) for cluster, rows in kept.rows.items()} == {
        "east": {"east/shop/a"},
        "west": {"west/shop/a"},
    }
    assert ledger.of("east") == {"backups/east/shop/a": EAST}
    assert ledger.some(["backups/east/shop/a", "backups/west/shop/a", "backups/west/shop/b", "elsewhere/east/a"]) == {
        "backups/east/shop/a": EAST,
        "backups/west/shop/a": WEST,
    }


def test_a_file_that_is_not_ours_any_more_is_forgotten(ledger: Ledger) -> None:
    assert not ledger.has("east")
    ledger.write({"backups/east/shop/a": EAST})
    assert ledger.has("east")
    ledger.write({"backups/east/shop/a": None})
    assert not ledger.has("east")
    assert ledger.of("east") == {}


def test_the_selected_files_of_some_clusters_are_counted(ledger: Ledger) -> None:
    ledger.write(
        {f"backups/{cluster}/shop/{name}": EAST for cluster in ("east", "west") for name in ("a", "b", "c.tmp")}
    )
    assert ledger.count(["east"]) == 2
    assert ledger.count(["east", "west", "south"]) == 4


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
def test_files_are_alike_by_what_is_known_of_them(
    fingerprint: str | None, etag: str | None, size: int | None, marks: tuple[object, ...]
) -> None:
    assert marks_of(fingerprint, etag, size) == marks
