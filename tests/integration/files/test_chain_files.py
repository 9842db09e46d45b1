"""The step chain from a real S3 server to the file manager: scans, events, renames, removals."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from syncline.kinds.files import discover, items, state_csv
from syncline.kinds.files import kind as files
from syncline.model import Outcome
from tests.integration.files.contents import NAMES, fill
from tests.rig.files import MODE, SYNC, FilesChain, record
from tests.rig.killable import KillableHttp
from tests.rig.pump import Delivery, Duplicates
from tests.standins.certificates import Authority
from tests.standins.file_manager_wire import Answer, json_answer
from tests.standins.rclone import Rclone

pytestmark = pytest.mark.moto

CHANGED_MODE = {"event_type": "change_permission", "file_path": "/data/a", "timestamp": "2026-11-25T01:00:00Z"}
"""An event of the file manager, without the new permissions."""


def manager_of(chain: FilesChain, **more: Any) -> dict[str, Any]:
    """Return the configuration of the file manager as a target."""
    return {"file_manager": chain.manager.url, "token": "env:FILES_TOKEN", "prefix": "/data/", **more}


class TestScans:
    def test_the_first_scan_moves_everything_and_the_second_nothing(self, chain: FilesChain) -> None:
        fill(chain)
        run = chain.run()
        chain.check()
        assert (run.counts.moved, run.counts.queued) == (len(NAMES), len(NAMES))
        asked = dict(chain.manager.operations)
        again = chain.run()
        chain.check()
        assert (again.counts.skipped, again.counts.moved, again.counts.queued) == (len(NAMES), 0, 0)
        assert chain.manager.operations == asked
        assert again.counts.requests == 1  # the listing

    def test_only_changed_objects_are_moved(self, chain: FilesChain) -> None:
        fill(chain)
        chain.run()
        chain.upload("a", b"something else")
        received = chain.manager.received
        run = chain.run()
        chain.check()
        assert (run.counts.moved, run.counts.skipped) == (1, len(NAMES) - 1)
        assert chain.manager.received == received + len(b"something else")

    def test_permissions_by_metadata(self, chain: FilesChain) -> None:
        fill(chain)
        chain.upload("secret", b"x", permissions="rw-------")
        chain.upload("octal", b"x", mode="0100640")
        chain.run()
        chain.check(modes={"/data/secret": "rw-------", "/data/octal": "rw-r-----"})

    def test_many_in_pages(self, chain: FilesChain) -> None:
        chain.configure()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: chain.bucket.put(f"d{n % 3}/f{n}", b"%d" % n), range(1010)))
        run = chain.run()
        chain.check()
        assert run.counts.moved == 1010
        again = chain.run()
        # This server may list another time for a recent object a moment later.
        assert (again.counts.skipped + again.counts.moved, again.counts.bytes) == (1010, 0)
        assert again.counts.moved < 10

    @pytest.mark.parametrize("tick", [0.0, 12.0])
    def test_in_many_windows(self, chain: FilesChain, monkeypatch: pytest.MonkeyPatch, tick: float) -> None:
        monkeypatch.setattr(discover, "WINDOW", 7)
        monkeypatch.setattr(items, "PAGE_BYTES", 200)
        chain.configure(removals={"share": 0.5})
        keys = [f"{'de'[n % 2]}/{n:03}" for n in range(30)]
        for key in keys:
            chain.upload(key, key.encode())
        chain.pump.tick = tick
        assert chain.run().counts.moved == 30
        chain.check()
        for key in keys[::3]:
            chain.bucket.delete(key)
        for key in keys[1::6]:
            chain.upload(key, b"changed")
        run = chain.run()
        chain.check()
        assert (run.counts.removed, run.counts.moved, run.counts.failed) == (10, 5, 0)
        chain.pump.tick = 0.0
        assert chain.run().counts.skipped == 20

    def test_a_plan_moves_nothing_and_distinguishes_removals_from_moves(self, chain: FilesChain) -> None:
        fill(chain, removals={"share": 0.5})
        chain.start(plan=True)
        chain.pump.run()
        assert chain.latest().counts.would_move == len(NAMES)
        assert chain.manager.files == {}
        chain.run()
        chain.bucket.delete(NAMES[0])
        chain.upload(NAMES[1], b"changed")
        chain.start(plan=True)
        chain.pump.run()
        plan = chain.latest()
        outcomes = {result.name: result.outcome for result in chain.state.results(plan.id)}
        assert outcomes == {NAMES[0]: Outcome.WOULD_REMOVE, NAMES[1]: Outcome.WOULD_MOVE}
        assert (plan.counts.would_move, plan.counts.would_remove) == (1, 1)

    def test_a_lost_table_costs_no_second_upload(self, chain: FilesChain) -> None:
        fill(chain)
        chain.run()
        received = chain.manager.received
        chain.records.write(dict.fromkeys(NAMES))
        run = chain.run()
        chain.check()
        assert (run.counts.moved, run.counts.skipped, run.counts.bytes) == (0, len(NAMES), 0)
        assert chain.manager.received == received

    def test_a_service_with_a_private_authority(self, chain: FilesChain) -> None:
        fill(chain)
        authority = Authority()
        assert isinstance(chain.rclone, Rclone)
        with Rclone(chain.rclone.root, authority=authority) as secure:
            assert secure.url.startswith("https://")
            source = {**chain.endpoint(chain.name), "endpoint": secure.url}
            chain.configure(source=source)
            assert chain.results(chain.run())["*"].code == "TLS_FAILED"
            assert chain.manager.files == {}
            chain.configure(source={**source, "ca": authority.pem})
            chain.run()
            chain.check()


class TestConflicts:
    def test_a_foreign_file_is_not_overwritten(self, chain: FilesChain) -> None:
        fill(chain)
        chain.manager.put("/data/a", b"somebody else's")
        run = chain.run()
        result = chain.results(run)["a"]
        assert (result.outcome, result.code) == (Outcome.CONFLICT, "FILE_DIFFERS")
        assert chain.manager.files["/data/a"].content == b"somebody else's"
        assert run.counts.moved == len(NAMES) - 1

    def test_a_foreign_file_is_replaced_with_overwrite(self, chain: FilesChain) -> None:
        fill(chain, overwrite=True)
        chain.manager.put("/data/a", b"somebody else's")
        chain.run()
        chain.check()


class TestRemovals:
    def test_without_permission_nothing_is_removed(self, chain: FilesChain) -> None:
        fill(chain)
        chain.run()
        chain.bucket.delete("a")
        run = chain.run()
        assert run.counts.removed == 0
        assert "/data/a" in chain.manager.files

    def test_deleted_objects_are_removed(self, chain: FilesChain) -> None:
        fill(chain, removals={})
        chain.run()
        chain.bucket.delete("a")
        run = chain.run()
        chain.check()
        assert (run.counts.removed, run.counts.skipped) == (1, len(NAMES) - 1)

    def test_removals_beyond_the_limit_are_refused(self, chain: FilesChain) -> None:
        fill(chain, removals={"share": 0.2})
        chain.run()
        for name in NAMES[:3]:
            chain.bucket.delete(name)
        chain.upload("new", b"is moved all the same")
        run = chain.run()
        assert chain.results(run)["*"].code == "REMOVALS_CAPPED"
        assert (run.counts.removed, run.counts.moved) == (0, 1)
        assert len(chain.manager.files) == len(NAMES) + 1
        assert [dead.code for dead in chain.dead()] == ["REMOVALS_CAPPED"]

    def test_an_empty_bucket_removes_nothing(self, chain: FilesChain) -> None:
        chain.configure(removals={"share": 1.0})
        chain.upload("only", b"x")
        chain.run()
        chain.bucket.delete("only")
        run = chain.run()
        assert chain.results(run)["*"].code == "REMOVALS_CAPPED"
        assert "/data/only" in chain.manager.files

    def test_a_file_that_exists_again_is_not_removed(self, chain: FilesChain) -> None:
        fill(chain, removals={})
        chain.run()
        chain.bucket.delete("a")
        chain.start()
        chain.pump.deliver(chain.mail.waiting()[:1])  # the scan
        chain.upload("a", b"is back")
        chain.pump.run()
        chain.check()


class TestRenames:
    def test_no_byte_is_sent_again(self, chain: FilesChain) -> None:
        fill(chain, removals={})
        chain.run()
        received, number = chain.manager.received, chain.manager.files["/data/b/c"].internal_id
        chain.upload("moved/c", b"b/c" * 3)
        chain.bucket.delete("b/c")
        run = chain.run()
        chain.check()
        assert chain.manager.received == received
        assert chain.manager.files["/data/moved/c"].internal_id == number
        assert (run.counts.moved, run.counts.removed, run.counts.bytes) == (1, 0, 0)

    def test_an_ambiguous_rename_is_a_creation_and_a_deletion(self, chain: FilesChain) -> None:
        fill(chain, removals={"share": 0.9})
        chain.run()
        for name in ("one", "two"):
            chain.upload(name, b"b/c" * 3)
        chain.bucket.delete("b/c")
        run = chain.run()
        chain.check()
        assert (run.counts.moved, run.counts.removed) == (2, 1)
        assert chain.manager.operations["rename"] + chain.manager.operations["move"] == 0

    def test_by_events_in_either_order(self, chain: FilesChain) -> None:
        fill(chain, removals={})
        chain.run()
        received = chain.manager.received
        chain.upload("z", b"aaa")
        chain.bucket.delete("a")
        chain.run_events(record(chain.name, "a", "ObjectRemoved:Delete"), record(chain.name, "z", "ObjectCreated:Copy"))
        chain.check()
        assert chain.manager.received == received
        assert chain.manager.operations["rename"] == 1


class TestEvents:
    def test_an_event_moves_its_key_and_scans_no_other(self, chain: FilesChain) -> None:
        fill(chain)
        run = chain.run_events(record(chain.name, "b c"))
        assert set(chain.manager.files) == {"/data/b c"}
        assert run.counts.moved == 1
        chain.run()
        chain.check()

    def test_lost_duplicate_late_and_forged_events(self, chain: FilesChain) -> None:
        fill(chain, removals={})
        chain.run()
        chain.bucket.delete("a")
        gone, made = record(chain.name, "a", "ObjectRemoved:Delete"), record(chain.name, "a")
        chain.run_events(gone, gone)
        chain.check()
        chain.run_events(made)  # late: the scan finds no object
        chain.check()
        chain.run_events(record(chain.name, "b c", "ObjectRemoved:Delete"))  # forged: the object exists
        chain.check()
        chain.upload("lost", b"nobody said a word")
        chain.run()
        chain.check()

    @pytest.mark.parametrize("seed", range(2))
    def test_late_and_duplicate_events_in_any_order(self, chain: FilesChain, seed: int) -> None:
        chain.configure(removals={"share": 1})
        rng, sent, existing = random.Random(seed), list[dict[str, Any]](), set[str]()
        for number in range(24):
            key = rng.choice("abcd")
            if key in existing:
                chain.bucket.delete(key)
            else:
                chain.upload(key, b"the %d" % number)
            existing ^= {key}
            name = "ObjectCreated:Put" if key in existing else "ObjectRemoved:Delete"
            sent.append(record(chain.name, key, name, f"{number:016X}"))
            if number % 8 == 7:  # a part of the events so far
                chain.run_events(*rng.sample(sent, 6))
        chain.pump.delivery = Delivery(rng, shuffle=True, duplicates=Duplicates.LATER, late=7)
        chain.run_events(*rng.sample(sent, len(sent)))
        chain.check()
        assert set(chain.manager.files) == {f"/data/{key}" for key in existing}

        reads = Counter(get=1 << 20, permissions=1 << 20)
        done = chain.manager.operations - reads
        chain.run_events(*reversed(sent))  # all events again, with creations of deleted objects last
        chain.check()
        assert chain.manager.operations - reads == done

    def test_a_creation_event_during_the_deletion(self, chain: FilesChain) -> None:
        fill(chain, removals={})
        chain.run()
        chain.bucket.delete("a")
        chain.post(record(chain.name, "a", "ObjectRemoved:Delete", "02"))
        chain.pump.run_until(chain.clock.now + 2.5)  # the key is scanned
        chain.post(record(chain.name, "a", sequencer="01"))
        chain.pump.run()
        chain.check()
        assert "/data/a" not in chain.manager.files

    def test_events_of_another_bucket_and_malformed_ones_are_ignored(self, chain: FilesChain) -> None:
        fill(chain)
        chain.post(record("elsewhere", "a"), {"Records": [{"eventVersion": "9"}]}, record(chain.name, "a"))
        chain.pump.run()
        assert set(chain.manager.files) == {"/data/a"}

    def test_the_file_managers_own_events(self, chain: FilesChain) -> None:
        fill(chain, target=manager_of(chain, events=True))
        chain.run()
        chain.manager.events = [
            CHANGED_MODE | {"metadata": {"new_permissions": "rwxr-x---"}},
            CHANGED_MODE | {"metadata": {"new_permissions": "r--------"}, "timestamp": "2026-11-24T01:00:00Z"},
            {"event_type": "create", "file_path": "/elsewhere/b"},
            {"event_type": "explode"},
        ]
        chain.run()
        chain.check(modes={"/data/a": "rwxr-x---"})
        asked = chain.manager.operations["permissions"]
        run = chain.run()  # the list still contains them
        chain.check(modes={"/data/a": "rwxr-x---"})
        assert chain.manager.operations["permissions"] == asked + 1  # read, and not set again
        assert [r.code for r in chain.results(run).values()] == ["ENTRY_INVALID"]

    def test_the_file_managers_events_from_a_queue(self, chain: FilesChain) -> None:
        fill(chain)
        event: dict[str, Any] = {"event_type": "create", "file_path": "/data/b c", "new_path": None, "metadata": {}}
        chain.run_events({"service": chain.manager.url, "events": [event]})
        assert set(chain.manager.files) == {"/data/b c"}
        chain.run_events({"service": chain.manager.url, **event, "file_path": "/data/a"})
        assert set(chain.manager.files) == {"/data/b c", "/data/a"}
        chain.post({"service": chain.manager.url, "events": [{"event_type": "explode"}]}, {"service": "elsewhere"})
        chain.pump.run()
        assert len(chain.manager.files) == 2


class TestReports:
    def test_each_run_is_reported(self, chain: FilesChain) -> None:
        chain.make_bucket("reports")
        reports = {**chain.endpoint("reports"), "prefix": "csv/"}
        fill(chain, target=manager_of(chain, report=True), removals={}, reports=reports)
        chain.manager.put("/data/a", b"somebody else's")
        run = chain.run()
        report = chain.manager.reports[-1]
        assert report["operations"] == {"saved": len(NAMES) - 1, "permissions": 0, "deleted": 0, "unchanged": 0}
        assert (report["run"], report["errors"], report["conflicts"]) == (run.id, {"FILE_DIFFERS": 1}, 1)
        chain.bucket.delete("b c")
        run = chain.run()
        assert chain.manager.reports[-1]["operations"]["deleted"] == 1
        key = f"csv/{SYNC}/{run.id}-differences.csv"
        lines = chain.bucket_called("reports").read(key, 1 << 20)[1].decode().splitlines()
        assert lines[0] == "operation,file_path,permissions,size,file_type,last_modified,internal_id"
        assert [line.split(",")[:5] for line in lines[1:]] == [["delete", "/data/b c", MODE, "9", "text/plain"]]

    def test_the_state_before_and_after_each_run_that_changed_something(self, chain: FilesChain) -> None:
        bucket = chain.bucket_called("reports-full")
        chain.make_bucket("reports-full")
        fill(chain, removals={}, reports={**chain.endpoint("reports-full"), "full": True})

        def paths(name: str) -> set[str]:
            lines = bucket.read(f"{SYNC}/{name}.csv", 1 << 20)[1].decode().splitlines()
            return {row.file_path for row in state_csv.read(lines)}

        chain.run()
        everything = {f"/data/{name}" for name in NAMES}
        assert paths("new") == everything
        assert bucket.head(f"{SYNC}/old.csv") is None
        chain.bucket.delete("b c")
        chain.run_events(record(chain.name, "b c", "ObjectRemoved:Delete"))
        chain.run()  # without changes, so no CSV file is written
        assert (paths("old"), paths("new")) == (everything, everything - {"/data/b c"})

    def test_a_state_too_large_for_the_remaining_time_is_not_written(
        self, chain: FilesChain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain.make_bucket("reports-late")
        monkeypatch.setattr(files, "REPORTING", -1.0)
        monkeypatch.setattr(KillableHttp, "set_deadline", lambda *_: None)
        fill(chain, reports={**chain.endpoint("reports-late"), "full": True})
        chain.run()
        chain.check()
        assert chain.bucket_called("reports-late").head(f"{SYNC}/new.csv") is None

    def test_changed_permissions_are_reported_as_such(self, chain: FilesChain) -> None:
        fill(chain, target=manager_of(chain, report=True, events=True))
        chain.run()
        chain.manager.events = [CHANGED_MODE | {"metadata": {"new_permissions": "rwxr-x---"}}]
        chain.upload("b c", b"something new")
        chain.run()
        chain.check(modes={"/data/a": "rwxr-x---"})
        operations = chain.manager.reports[-1]["operations"]
        assert [operations[name] for name in ("saved", "permissions", "deleted")] == [1, 1, 0]

    @pytest.mark.parametrize(("times", "is_sent"), [(6, True), (99, False)])
    def test_a_failed_report_is_sent_later_and_does_not_fail_the_run(
        self, chain: FilesChain, times: int, *, is_sent: bool
    ) -> None:
        fill(chain, target=manager_of(chain, report=True))
        chain.manager.misbehave("report", Answer(500, b"<html>", "text/html"), times=times)
        run = chain.run()
        chain.check()
        assert [report["run"] for report in chain.manager.reports] == ([run.id] if is_sent else [])


class TestFailures:
    @pytest.mark.parametrize(
        ("answer", "code", "times"),
        [
            (json_answer({"error": "too large"}, 413), "TOO_LARGE", 1),
            (Answer(200, b"<html>portal</html>", "text/html"), "BAD_ANSWER", 99),
            (Answer(200, b'{"internal_id": "id'), "BAD_ANSWER", 99),
            (Answer(503, b"<html>busy</html>", "text/html"), "SERVER_ERROR", 99),
        ],
    )
    def test_one_file_fails_alone(self, chain: FilesChain, answer: Answer, code: str, times: int) -> None:
        fill(chain)
        chain.manager.misbehave("create", answer, "/data/b c", times)
        run = chain.run()
        assert chain.results(run)["b c"].code == code
        assert (run.counts.moved, run.counts.failed) == (len(NAMES) - 1, 1)
        assert [dead.code for dead in chain.dead()] == [code]

    def test_temporary_failures_are_retried(self, chain: FilesChain) -> None:
        fill(chain)
        chain.manager.misbehave("create", Answer(200, b"", drop=True), times=5)
        chain.manager.misbehave("permissions", Answer(429, b"{}", headers=(("Retry-After", "2"),)), times=3)
        chain.manager.misbehave("get", Answer(200, b"<html>", "text/html"), times=3)
        chain.run()
        chain.check()

    def test_keys_without_a_valid_path_fail(self, chain: FilesChain) -> None:
        fill(chain)
        chain.upload("tab\there", b"x")
        run = chain.run()
        assert chain.results(run)["tab\there"].code == "PATH_REFUSED"
        assert run.counts.moved == len(NAMES)

    def test_the_limit_of_concurrent_requests_is_respected(self, chain: FilesChain) -> None:
        fill(chain)
        chain.manager.delay = 0.005
        chain.run()
        chain.check()
        assert 2 <= chain.manager.peak <= 4

    def test_an_object_replaced_while_it_streams(self, chain: FilesChain) -> None:
        chain.configure()
        chain.upload("large", b"old" * (1 << 20))
        chain.upload("other", b"0123456789abcdef" * (200 * 1024))
        replaced: list[str] = []

        def replace(path: str) -> None:
            if not replaced and path.endswith("large"):
                replaced.append(path)
                chain.upload("large", b"new" * (1 << 20) + b"!")

        chain.manager.on_save = replace
        chain.run()
        chain.check()
        assert replaced
