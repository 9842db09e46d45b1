"""The order of events of files, and the CSV files with the changes of each run."""

from __future__ import annotations

import csv
import random
from typing import Any

import pytest

from syncline.kinds.files import state_csv
from tests.rig.files import MODE, SYNC, FilesChain, record
from tests.rig.pump import Delivery, Duplicates

REMOVED = "ObjectRemoved:Delete"


def ordered(chain: FilesChain, **more: Any) -> None:
    """Apply a sync that trusts the sequence of its bucket's events."""
    chain.configure(source={**chain.endpoint(chain.name), "sequencers": True}, removals={"share": 1}, **more)


class TestOrder:
    def test_a_late_creation_costs_no_request_and_restores_nothing(self, chain: FilesChain) -> None:
        ordered(chain)
        for key in "ab":
            chain.upload(key, b"x")
            chain.run_events(record(chain.name, key, sequencer="0A"))
        chain.bucket.delete("a")
        assert chain.run_events(record(chain.name, "a", REMOVED, "0B")).counts.removed == 1
        chain.check()  # only files have records
        run = chain.run_events(record(chain.name, "a", sequencer="0A"))
        assert (run.counts.requests, run.counts.queued) == (0, 0)
        chain.check()
        run = chain.run()
        assert (run.counts.skipped, run.counts.queued) == (1, 0)

        chain.records.write({"a": None})  # the record expired
        run = chain.run_events(record(chain.name, "a", sequencer="0A"))
        # Both sides are read, and a 404 of the source is confirmed by a listing.
        assert (run.counts.requests, run.counts.queued) == (3, 0)
        chain.check()

    def test_a_delete_marker_is_a_deletion(self, chain: FilesChain) -> None:
        ordered(chain)
        chain.upload("a", b"x")
        chain.run_events(record(chain.name, "a", sequencer="0A"))
        chain.bucket.delete("a")
        chain.run_events(record(chain.name, "a", "ObjectRemoved:DeleteMarkerCreated", "0B"))
        chain.check()
        assert chain.run_events(record(chain.name, "a", sequencer="0A")).counts.requests == 0
        chain.upload("a", b"again")
        chain.run_events(record(chain.name, "a", sequencer="0C"))
        chain.check()

    def test_a_rename_keeps_the_order_of_both_keys(self, chain: FilesChain) -> None:
        ordered(chain)
        chain.upload("a", b"content")
        chain.run_events(record(chain.name, "a", sequencer="0A"))
        chain.upload("b", b"content")
        chain.bucket.delete("a")
        events = [record(chain.name, "b", "ObjectCreated:Copy", "0B"), record(chain.name, "a", REMOVED, "0C")]
        chain.pump.delivery.batches = True
        chain.run_events(*events)
        chain.check()
        assert chain.manager.operations["rename"] == 1
        assert chain.run_events(record(chain.name, "a", sequencer="0A"), *events).counts.requests == 0

    def test_a_full_scan_discards_a_wrong_sequence_number(self, chain: FilesChain) -> None:
        ordered(chain)
        chain.upload("a", b"x")
        chain.run_events(record(chain.name, "a", sequencer="F" * 18))
        chain.upload("a", b"other")
        assert chain.run_events(record(chain.name, "a", sequencer="0B")).counts.requests == 0
        chain.run()
        chain.check()
        chain.upload("a", b"and another")
        chain.run_events(record(chain.name, "a", sequencer="0C"))
        chain.check()

    @pytest.mark.parametrize("seed", range(2))
    def test_late_and_duplicate_events_in_any_order(self, chain: FilesChain, seed: int) -> None:
        ordered(chain)
        rng, sent, existing = random.Random(seed), list[dict[str, Any]](), set[str]()
        for number in range(1, 25):
            key = rng.choice("abcd")
            if key in existing:
                chain.bucket.delete(key)
            else:
                chain.upload(key, b"the %d" % number)
            existing ^= {key}
            sent.append(
                record(chain.name, key, "ObjectCreated:Put" if key in existing else REMOVED, f"00{number:014X}")
            )
            if number % 8 == 0:
                chain.run_events(*rng.sample(sent, 6))
        chain.pump.delivery = Delivery(rng, shuffle=True, duplicates=Duplicates.LATER, late=7)
        chain.run_events(*rng.sample(sent, len(sent)))
        chain.check()
        assert set(chain.manager.files) == {f"/data/{key}" for key in existing}


def test_a_failed_rename_keeps_the_record_of_the_file(chain: FilesChain) -> None:
    chain.configure(removals={"share": 0.9}, overwrite=True)
    chain.upload("a", b"content")
    chain.upload("b", b"is existing all the time")
    chain.run()
    chain.manager.put("/data/z", b"somebody else's, in the way")
    chain.upload("z", b"content")
    chain.bucket.delete("a")
    chain.run()
    assert chain.manager.files["/data/z"].content == b"content"
    chain.run()  # the file under the old name still has a record, and is removed
    chain.check()


class TestSheets:
    def test_the_changes_of_a_run_are_written(self, chain: FilesChain) -> None:
        bucket = chain.bucket_called(f"{chain.name}-reports")
        chain.make_bucket(f"{chain.name}-reports")
        chain.configure(removals={"share": 0.9}, reports=chain.endpoint(f"{chain.name}-reports"))

        def sheet(run: str, what: str) -> dict[str, list[str]]:
            """Return rows by path, without times and numbers."""
            lines = bucket.read(f"{SYNC}/{run}-{what}.csv", 1 << 20)[1].decode().splitlines()
            head, *rows = csv.reader(lines)
            at = head.index("file_path")
            assert head == list(state_csv.DIFFERENCES if at else state_csv.COLUMNS)
            return {row[at]: [*row[:at], *row[at + 1 : at + 4]] for row in rows}

        for key, content in (("same", b"1"), ("changed", b"22"), ("gone", b"333"), ("old name", b"4444")):
            chain.upload(key, content)
        run = chain.run().id
        first = sheet(run, "after")
        assert len(first) == 4
        assert sheet(run, "before") == {}
        assert sheet(run, "differences") == {path: ["create", *row] for path, row in first.items()}

        chain.upload("changed", b"another")
        chain.upload("new", b"55555")
        chain.upload("new name", b"4444")
        chain.bucket.delete("gone")
        chain.bucket.delete("old name")
        run = chain.run().id
        chain.check()

        def row(size: int) -> list[str]:
            return [MODE, str(size), "text/plain"]

        assert sheet(run, "before") == {
            "/data/changed": row(2),
            "/data/gone": row(3),
            "/data/old name": row(4),
        }
        assert sheet(run, "after") == {"/data/changed": row(7), "/data/new": row(5), "/data/new name": row(4)}
        assert sheet(run, "differences") == {
            "/data/changed": ["update", *row(7)],
            "/data/new": ["create", *row(5)],
            "/data/new name": ["create", *row(4)],
            "/data/gone": ["delete", *row(3)],
            "/data/old name": ["delete", *row(4)],
        }

        run = chain.run().id  # without changes
        assert sheet(run, "differences") == {}
        assert bucket.head(f"{SYNC}/{run}-before.csv") is None
        assert bucket.head(f"{SYNC}/{run}-after.csv") is None

    def test_the_changes_of_an_event_are_written(self, chain: FilesChain) -> None:
        bucket = chain.bucket_called(f"{chain.name}-reports")
        chain.make_bucket(f"{chain.name}-reports")
        ordered(chain, reports=chain.endpoint(f"{chain.name}-reports"))
        chain.upload("a", b"1")
        chain.upload("b", b"1")
        chain.run()
        chain.upload("a", b"22")
        run = chain.run_events(record(chain.name, "a", sequencer="0A")).id
        lines = {
            what: bucket.read(f"{SYNC}/{run}-{what}.csv", 1 << 20)[1].decode().splitlines()
            for what in ("before", "after", "differences")
        }
        assert [len(each) for each in lines.values()] == [2, 2, 2]
        assert lines["before"][1].startswith("/data/a,rw-r--r--,1,")
        assert lines["after"][1].startswith("/data/a,rw-r--r--,2,")
        assert lines["differences"][1] == f"update,{lines['after'][1]}"
