"""No foreign file is overwritten or removed at the target, for any trigger of a scan."""

from __future__ import annotations

import pytest

from syncline.model import Outcome, Run
from tests.integration.files.targets import (
    BUCKETS,
    LARGE_PARTS,
    Pair,
    Scan,
    events,
    full_scan,
    keys_manually,
    prefix_manually,
)

THEIRS = b"written by somebody else, and only here"
REMOVALS = {"share": 1.0, "count": 100}
looks = pytest.mark.parametrize("scan", [full_scan, events, keys_manually, prefix_manually])
only_buckets = pytest.mark.parametrize("pair", BUCKETS, indirect=True)


def assert_conflict(pair: Pair, run: Run, key: str) -> None:
    """Assert that ``key`` is a conflict and that the target still has the foreign content."""
    assert pair.found()[key] == THEIRS
    result = pair.chain.results(run)[key]
    assert (result.outcome, result.code) == (Outcome.CONFLICT, "FILE_DIFFERS")
    assert run.counts.conflict == 1


class TestForeignFileUnderOurKey:
    @looks
    def test_of_a_new_key(self, pair: Pair, scan: Scan) -> None:
        pair.configure()
        pair.put("docs/report", b"ours")
        pair.put("docs/fine", b"fine")
        pair.theirs("docs/report", THEIRS)
        run = scan(pair, "docs/report", "docs/fine")
        assert_conflict(pair, run, "docs/report")
        assert pair.found()["docs/fine"] == b"fine"
        assert run.counts.moved == 1
        assert_conflict(pair, scan(pair, "docs/report"), "docs/report")

    @looks
    def test_of_an_update(self, pair: Pair, scan: Scan) -> None:
        """Our object becomes foreign when another client replaces it."""
        pair.configure()
        pair.put("docs/report", b"ours")
        pair.put("docs/fine", b"fine")
        assert pair.chain.run().counts.moved == 2
        pair.theirs("docs/report", THEIRS)
        pair.put("docs/report", b"ours, changed")
        pair.put("docs/fine", b"fine, changed")
        run = scan(pair, "docs/report", "docs/fine")
        assert_conflict(pair, run, "docs/report")
        assert pair.found()["docs/fine"] == b"fine, changed"
        assert_conflict(pair, scan(pair, "docs/report"), "docs/report")

    @looks
    def test_of_a_removal(self, pair: Pair, scan: Scan) -> None:
        pair.configure(removals=REMOVALS)
        for key in ("docs/report", "docs/fine", "docs/stays"):
            pair.put(key, key.encode())
        pair.chain.run()
        pair.theirs("docs/report", THEIRS)
        pair.delete("docs/report")
        pair.delete("docs/fine")
        run = scan(pair, "docs/report", "docs/fine")
        assert_conflict(pair, run, "docs/report")
        assert pair.found() == {"docs/report": THEIRS, "docs/stays": b"docs/stays"}
        assert run.counts.removed == 1

    @pytest.mark.parametrize("scan", [full_scan, events])
    def test_of_a_rename(self, pair: Pair, scan: Scan) -> None:
        pair.configure(removals=REMOVALS)
        pair.put("docs/old", b"renamed at the source")
        pair.put("docs/stays", b"stays")
        pair.chain.run()
        pair.theirs("docs/report", THEIRS)
        pair.put("docs/report", b"renamed at the source")
        pair.delete("docs/old")
        run = scan(pair, "docs/report", "docs/old")
        assert_conflict(pair, run, "docs/report")
        assert_conflict(pair, pair.chain.run(), "docs/report")
        assert pair.found() == {"docs/report": THEIRS, "docs/stays": b"stays"}

    def test_of_a_rename_under_the_old_name(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        pair.put("docs/old", b"renamed at the source")
        pair.put("docs/stays", b"stays")
        pair.chain.run()
        pair.theirs("docs/old", THEIRS)
        pair.put("docs/new", b"renamed at the source")
        pair.delete("docs/old")
        wanted = {"docs/old": THEIRS, "docs/new": b"renamed at the source", "docs/stays": b"stays"}
        for _run in range(3):
            pair.chain.run()
            assert pair.found() == wanted

    def test_is_replaced_with_overwrite(self, pair: Pair) -> None:
        pair.configure(overwrite=True)
        pair.put("docs/report", b"ours")
        pair.theirs("docs/report", THEIRS)
        run = pair.chain.run()
        assert pair.found() == {"docs/report": b"ours"}
        assert (run.counts.moved, run.counts.conflict) == (1, 0)
        pair.theirs("docs/report", THEIRS)
        run = pair.chain.run("key:docs/report")
        assert pair.found() == {"docs/report": b"ours"}
        assert run.counts.moved == 1

    def test_is_not_removed_as_an_extra(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        pair.put("docs/ours", b"ours")
        pair.put("docs/stays", b"stays")
        pair.theirs("docs/report", THEIRS)
        pair.chain.run()
        pair.delete("docs/ours")
        run = pair.chain.run()
        assert run.counts.removed == 1
        assert pair.found() == {"docs/report": THEIRS, "docs/stays": b"stays"}


class TestEqualForeignFile:
    @only_buckets
    @looks
    def test_it_is_adopted(self, pair: Pair, scan: Scan) -> None:
        pair.configure(removals=REMOVALS)
        for key in ("docs/a", "docs/b"):
            pair.put(key, key.encode())
            pair.theirs(key, key.encode())
        pair.put("docs/stays", b"stays")
        run = scan(pair, "docs/a", "docs/b", "docs/stays")
        assert (run.counts.skipped, run.counts.moved, run.counts.conflict) == (2, 1, 0)
        assert pair.writes("docs/a", "docs/b") == []
        pair.put("docs/a", b"changed")
        pair.delete("docs/b")
        run = scan(pair, "docs/a", "docs/b")
        assert pair.found() == {"docs/a": b"changed", "docs/stays": b"stays"}
        assert (run.counts.moved, run.counts.removed, run.counts.conflict) == (1, 1, 0)

    def test_it_is_adopted_again_after_a_lost_table(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        for key in ("docs/a", "docs/b", "docs/stays"):
            pair.put(key, key.encode())
        pair.chain.run()
        written = len(pair.writes())
        pair.chain.lose_table()
        run = pair.chain.run()
        assert (run.counts.skipped, run.counts.moved, run.counts.conflict) == (3, 0, 0)
        assert len(pair.writes()) == written
        pair.put("docs/a", b"changed")
        pair.delete("docs/b")
        run = pair.chain.run()
        assert pair.found() == {"docs/a": b"changed", "docs/stays": b"docs/stays"}
        assert (run.counts.moved, run.counts.removed, run.counts.conflict) == (1, 1, 0)

    def test_what_differs_after_a_lost_table_is_a_conflict(self, pair: Pair) -> None:
        pair.configure()
        pair.put("docs/report", b"ours")
        pair.put("docs/fine", b"fine")
        pair.chain.run()
        pair.chain.lose_table()
        pair.theirs("docs/report", THEIRS)
        assert_conflict(pair, pair.chain.run(), "docs/report")


@pytest.mark.parametrize("pair", ["file manager"], indirect=True)
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param('{"etag":"%s"}', id="an etag alone"),
        pytest.param('{"etag":"%s","key":"docs/report","modified":1790000001,"version":null}', id="as we write it"),
    ],
)
def test_the_sources_etag_in_a_files_metadata_does_not_make_it_ours(pair: Pair, metadata: str) -> None:
    """The metadata may have been copied from another file: this one has another size."""
    pair.configure()
    etag = pair.put("docs/report", b"ours")
    pair.chain.manager.put("/data/docs/report", THEIRS, metadata % etag)
    assert_conflict(pair, pair.chain.run(), "docs/report")


@only_buckets
class TestBetweenCheckAndWrite:
    """A foreign write just before our request, with a service that honours ``If-Match`` and ``If-None-Match``."""

    @looks
    def test_a_new_object_is_not_overwritten(self, pair: Pair, scan: Scan) -> None:
        pair.configure()
        pair.put("docs/report", b"ours")
        pair.intrude("docs/report", THEIRS)
        assert_conflict(pair, scan(pair, "docs/report"), "docs/report")

    def test_a_new_object_of_several_parts_is_not_overwritten(self, pair: Pair) -> None:
        pair.configure()
        pair.put_parts("docs/report", LARGE_PARTS)
        pair.intrude("docs/report", THEIRS)
        assert_conflict(pair, pair.chain.run(), "docs/report")
        assert pair.target_server.uploads == {}

    def test_an_updated_object_is_not_overwritten(self, pair: Pair) -> None:
        pair.configure()
        pair.put("docs/report", b"ours")
        pair.chain.run()
        pair.put("docs/report", b"ours, changed")
        pair.intrude("docs/report", THEIRS)
        assert_conflict(pair, pair.chain.run(), "docs/report")

    def test_a_removed_object_is_not_removed(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        pair.put("docs/report", b"ours")
        pair.put("docs/stays", b"stays")
        pair.chain.run()
        pair.delete("docs/report")
        pair.intrude("docs/report", THEIRS)
        assert_conflict(pair, pair.chain.run(), "docs/report")

    def test_a_renamed_object_overwrites_nothing(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        pair.put("docs/old", b"renamed at the source")
        pair.put("docs/stays", b"stays")
        pair.chain.run()
        pair.put("docs/report", b"renamed at the source")
        pair.delete("docs/old")
        pair.intrude("docs/report", THEIRS)
        assert_conflict(pair, pair.chain.run(), "docs/report")

    def test_a_service_without_conditions_is_checked_before_the_write(self, pair: Pair) -> None:
        pair.target_server.honours_conditions = False
        pair.configure(removals=REMOVALS)
        pair.put("docs/report", b"ours")
        pair.put("docs/a", b"a")
        pair.put("docs/stays", b"stays")
        pair.theirs("docs/report", THEIRS)
        assert_conflict(pair, pair.chain.run(), "docs/report")
        pair.put("docs/a", b"changed")
        pair.chain.run()
        pair.delete("docs/a")
        pair.chain.run()
        assert pair.found() == {"docs/report": THEIRS, "docs/stays": b"stays"}
