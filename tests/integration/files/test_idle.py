"""Syncs become idle: chained ones, and those of services that state two times for one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from syncline.model import Run
from tests.integration.files.targets import BUCKETS, LARGE_PARTS, PARTS, TARGET, Pair
from tests.rig.files import SYNC, record
from tests.standins.s3 import S3Server, StoredObject

SECOND: Final = "b-to-c"
FINAL: Final = "final"
METADATA: Final = {"owner": "me", "mode": "0100640"}
HEADERS: Final = {"content-type": "text/csv", "cache-control": "no-store"}
UNEVEN: Final = [LARGE_PARTS[0][: 5 * 1024 * 1024], LARGE_PARTS[0][5 * 1024 * 1024 :], b"and more"]
"""Parts whose ETag no upload with our part size can reproduce."""


def fill(pair: Pair, large: Sequence[bytes] = PARTS, uneven: Sequence[bytes] = (b"1", b"2", b"3")) -> None:
    pair.put("docs/report.csv", b"a,b\n1,2\n", HEADERS, METADATA)
    pair.put("docs/plain.csv", b"a,b\n3,4\n", HEADERS)
    pair.put("docs/empty", b"", HEADERS, METADATA)
    pair.put_parts("docs/large.csv", large, HEADERS, METADATA)
    pair.put_parts("docs/uneven.csv", uneven, HEADERS)


def attributes(objects: dict[str, StoredObject]) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    return {key: (stored.headers, stored.metadata) for key, stored in objects.items()}


def contents(objects: dict[str, StoredObject]) -> dict[str, bytes]:
    return {key: stored.content for key, stored in objects.items()}


def assert_only_listings(pair: Pair, run: Run) -> None:
    """Assert that a run requested no object. At a file manager, one file may have been rechecked."""
    if pair.to_manager:
        assert run.counts.requests <= 1 + 2
    else:
        assert run.counts.requests == 2


@pytest.mark.parametrize("pair", BUCKETS, indirect=True)
class TestChained:
    """Bucket A is copied to B, and B to C."""

    @pytest.fixture(params=[True, False], ids=["on by the service", "on through the function"])
    def final(self, pair: Pair, request: pytest.FixtureRequest) -> Iterator[dict[str, StoredObject]]:
        """Apply both syncs, and yield the objects of C, which is at B's service or at another one."""
        with S3Server(clock=pair.chain.clock.time) as another:
            server = pair.target_server if request.param else another
            server.objects[FINAL] = {}
            pair.configure(removals={"share": 0.5})
            pair.chain.sync = SECOND
            source = pair.chain.endpoint(TARGET, pair.target_server.url)
            target = pair.chain.endpoint(FINAL, server.url)
            pair.chain.configure(source=source, target=target, removals={"share": 0.5})
            yield server.objects[FINAL]

    def runs(self, pair: Pair) -> list[Run]:
        """Run the one sync and then the other."""
        found: list[Run] = []
        for name in (SYNC, SECOND):
            pair.chain.sync = name
            found.append(pair.chain.run())
        return found

    def assert_idle(self, pair: Pair) -> None:
        for _round in range(2):
            for run in self.runs(pair):
                assert (run.counts.queued, run.counts.skipped) == (0, len(pair.objects))

    def test_they_converge_and_stay_idle(self, pair: Pair, final: dict[str, StoredObject]) -> None:
        fill(pair, LARGE_PARTS, UNEVEN)
        for run in self.runs(pair):
            assert (run.counts.moved, run.counts.failed, run.counts.conflict) == (5, 0, 0)
        assert contents(final) == contents(pair.copies) == contents(pair.objects)
        self.assert_idle(pair)

        pair.put_parts("docs/large.csv", [LARGE_PARTS[0], b"and another rest"], HEADERS, METADATA)
        pair.put("docs/report.csv", b"a,b\n5,6\n", HEADERS, METADATA)
        for run in self.runs(pair):
            assert (run.counts.moved, run.counts.failed, run.counts.conflict) == (2, 0, 0)
        assert contents(final) == contents(pair.copies) == contents(pair.objects)
        self.assert_idle(pair)

    def test_no_object_gets_metadata_of_ours(self, pair: Pair, final: dict[str, StoredObject]) -> None:
        fill(pair)
        self.runs(pair)
        assert attributes(pair.copies) == attributes(pair.objects)
        assert attributes(final) == attributes(pair.objects)

    def test_a_rename_passes_both_syncs(self, pair: Pair, final: dict[str, StoredObject]) -> None:
        fill(pair)
        self.runs(pair)
        pair.put_parts("docs/renamed.csv", (b"1", b"2", b"3"), HEADERS)
        pair.delete("docs/uneven.csv")
        self.runs(pair)
        assert contents(final) == contents(pair.copies) == contents(pair.objects)
        assert attributes(final) == attributes(pair.copies) == attributes(pair.objects)
        self.assert_idle(pair)

    def test_a_mark_of_an_earlier_version_is_not_trusted(self, pair: Pair, final: dict[str, StoredObject]) -> None:
        """B has a foreign object with copied metadata, whose ETag is that of another object."""
        metadata = {"syncline-etag": "0123456789abcdef0123456789abcdef-2"}
        pair.chain.sync = SECOND
        pair.target_server.put(TARGET, "docs/marked.csv", b"x,y\n", HEADERS, metadata)
        run = pair.chain.run()
        assert (run.counts.moved, run.counts.failed) == (1, 0)
        assert contents(final) == {"docs/marked.csv": b"x,y\n"}
        assert final["docs/marked.csv"].metadata == metadata
        assert pair.chain.run().counts.queued == 0


class TestTwoTimes:
    """A listing states another time than HEAD does for the same object."""

    @pytest.fixture(params=["source", "target", "both"])
    def skewed(self, pair: Pair, request: pytest.FixtureRequest) -> Pair:
        if request.param != "target":
            pair.source_server.listing_skew = 3600.0
        if request.param != "source":
            pair.target_server.listing_skew = -7.0
        pair.configure()
        fill(pair)
        return pair

    def assert_idle(self, pair: Pair, run: Run) -> None:
        assert (run.counts.queued, run.counts.moved, run.counts.skipped) == (0, 0, len(pair.objects))
        assert_only_listings(pair, run)

    def test_the_second_and_third_scan_move_nothing(self, skewed: Pair) -> None:
        pair = skewed
        assert pair.chain.run().counts.moved == 5
        run = pair.chain.run()
        assert (run.counts.moved, run.counts.skipped) == (0, 5)
        self.assert_idle(pair, pair.chain.run())
        assert pair.found() == contents(pair.objects)

    def test_events_between_scans_move_nothing(self, skewed: Pair) -> None:
        pair = skewed
        pair.chain.run()
        for _time in range(2):
            run = pair.chain.run_events(*(record(pair.chain.name, key) for key in pair.objects))
            assert (run.counts.moved, run.counts.skipped) == (0, 5)
            run = pair.chain.run()
            assert (run.counts.moved, run.counts.skipped) == (0, 5)
        self.assert_idle(pair, pair.chain.run())

    def test_objects_moved_by_events_stay_idle(self, skewed: Pair) -> None:
        pair = skewed
        run = pair.chain.run_events(*(record(pair.chain.name, key) for key in pair.objects))
        assert run.counts.moved == 5
        run = pair.chain.run()
        assert (run.counts.moved, run.counts.skipped) == (0, 5)
        self.assert_idle(pair, pair.chain.run())


def test_an_object_that_is_put_again_unchanged_costs_one_request(pair: Pair) -> None:
    """Its time differs, so it is requested once; then the new time is recorded."""
    pair.configure()
    fill(pair)
    pair.chain.run()
    written = len(pair.writes())
    pair.put("docs/report.csv", b"a,b\n1,2\n", HEADERS, METADATA)
    run = pair.chain.run()
    assert (run.counts.moved, run.counts.skipped) == (0, 5)
    assert len(pair.writes()) == written
    run = pair.chain.run()
    assert (run.counts.queued, run.counts.skipped) == (0, 5)
    assert_only_listings(pair, run)
