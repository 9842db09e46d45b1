"""Files: removal limits hold for a sync and a window of time, for any trigger of its scans; renames do not count."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import pytest

from syncline.messages import Start
from syncline.model import EVERYTHING, Run, Scope, Step, Trigger
from syncline.store.runs import new_run_id
from tests.rig.files import SYNC, FilesChain, record
from tests.rig.pump import Duplicates, KillPoint, Letter

HOUR: Final = 3600.0
ALL: Final = 100
LIMITS: Final = {"share": 0.25, "count": 100}
ALLOWED: Final = 25


def filled(chain: FilesChain, limits: dict[str, Any] = LIMITS, count: int = ALL, **config: Any) -> FilesChain:
    chain.configure(removals=limits, **config)
    _put(chain, {f"d/{number:04}": b"the %d" % number for number in range(count)})
    chain.run()
    assert len(chain.manager.files) == count
    return chain


def _put(chain: FilesChain, objects: dict[str, bytes]) -> None:
    for key, content in objects.items():
        chain.bucket.put(key, content)


def deleted(chain: FilesChain, numbers: Iterable[int]) -> list[str]:
    keys = [f"d/{number:04}" for number in numbers]
    for key in keys:
        chain.bucket.delete(key)
    return keys


def send_deletions(chain: FilesChain, keys: Iterable[str]) -> Run:
    """Send events of deletions that are gathered into one scan."""
    body = [each for key in keys for each in record(chain.name, key, "ObjectRemoved:Delete")["Records"]]
    chain.clock.sleep(1)
    return chain.run_events(*({"Records": body[at : at + 10]} for at in range(0, len(body), 10)))


def gone(chain: FilesChain, before: int = ALL) -> int:
    return before - len(chain.manager.files)


def codes(chain: FilesChain, run: Run) -> set[str | None]:
    return {result.code for result in chain.results(run).values() if result.code}


def test_of_events_in_portions(strict: FilesChain) -> None:
    """250 of 300 files are deleted; the count allows 100 and the share 75."""
    chain = filled(strict, count=300)
    keys = deleted(chain, range(250))
    for at in range(0, 250, 50):
        run = send_deletions(chain, keys[at : at + 50])
        assert gone(chain, 300) <= 75
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    run = chain.run()
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    assert 50 <= gone(chain, 300) <= 75
    chain.clock.sleep(22 * HOUR)
    chain.run()
    assert gone(chain, 300) <= 75


def test_of_the_count(strict: FilesChain) -> None:
    chain = filled(strict, {"share": 0.5, "count": 20})
    keys = deleted(chain, range(40))
    for at in range(0, 40, 10):
        run = send_deletions(chain, keys[at : at + 10])
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    assert gone(chain) == 20


def test_of_full_scans_and_events_together(strict: FilesChain) -> None:
    chain = filled(strict)
    deleted(chain, range(20))
    assert chain.run().counts.removed == 20
    keys = deleted(chain, range(20, 40))
    run = send_deletions(chain, keys)
    assert gone(chain) <= ALLOWED
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    chain.run()
    assert gone(chain) <= ALLOWED


def test_after_the_window_more_removals_are_allowed(strict: FilesChain) -> None:
    """The share refers to the files at the start of the new window."""
    chain = filled(strict)
    keys = deleted(chain, range(20))
    send_deletions(chain, keys)
    assert gone(chain) == 20
    keys = deleted(chain, range(20, 40))
    run = send_deletions(chain, keys)
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    assert gone(chain) <= ALLOWED
    chain.clock.sleep(25 * HOUR)
    run = chain.run()
    assert not codes(chain, run)
    chain.check()


def test_a_window_of_another_length(strict: FilesChain) -> None:
    chain = filled(strict, LIMITS | {"per": "2h"})
    deleted(chain, range(20))
    assert chain.run().counts.removed == 20
    deleted(chain, range(20, 40))
    chain.clock.sleep(HOUR)
    assert codes(chain, chain.run()) == {"REMOVALS_CAPPED"}
    chain.clock.sleep(1.5 * HOUR)
    chain.run()
    chain.check()


def test_the_default_window_is_a_day(strict: FilesChain) -> None:
    chain = filled(strict, {"share": 0.25, "count": 100})
    deleted(chain, range(20))
    chain.run()
    deleted(chain, range(20, 35))
    chain.clock.sleep(22 * HOUR)
    assert codes(chain, chain.run()) == {"REMOVALS_CAPPED"}
    chain.clock.sleep(3 * HOUR)
    chain.run()
    chain.check()


def test_excluded_files_do_not_count_in_the_total(strict: FilesChain) -> None:
    """After 30 of 40 files are excluded, a quarter of the rest is two, not ten."""
    chain = filled(strict, count=40)
    chain.configure(removals=LIMITS, select={"exclude": [f"d/00{tens}*" for tens in (1, 2, 3)]})
    keys = deleted(chain, range(6))
    run = send_deletions(chain, keys)
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    assert gone(chain, 40) <= 2
    chain.run()
    assert gone(chain, 40) <= 2


@pytest.mark.parametrize("duplicates", [Duplicates.AT_ONCE, Duplicates.LATER, Duplicates.AT_THE_END])
def test_a_message_delivered_twice_is_counted_once(strict: FilesChain, duplicates: Duplicates) -> None:
    chain = filled(strict)
    chain.pump.delivery.duplicates = duplicates
    keys = deleted(chain, range(15))
    send_deletions(chain, keys)
    assert gone(chain) == 15
    keys = deleted(chain, range(15, ALLOWED))
    run = send_deletions(chain, keys)
    assert not codes(chain, run)
    chain.check()


def test_a_killed_function_uses_the_allowance_once(strict: FilesChain) -> None:
    """After kills before and after several calls, the same scan removes as many files as allowed."""
    chain = filled(strict)
    chain.reaper.effects.clear()
    chain.reaper.plan = {(number, when) for number in range(8, 60, 9) for when in (KillPoint.BEFORE, KillPoint.AFTER)}
    send_deletions(chain, deleted(chain, range(15)))
    assert gone(chain) == 15
    assert len(chain.reaper.effects) > 20
    chain.reaper.plan = set()
    run = send_deletions(chain, deleted(chain, range(15, ALLOWED)))
    assert not codes(chain, run)
    assert gone(chain) == ALLOWED


def test_a_run_may_be_allowed_more(strict: FilesChain) -> None:
    chain = filled(strict)
    deleted(chain, range(80))
    assert codes(chain, chain.run()) == {"REMOVALS_CAPPED"}
    run = _run_allowing(chain, 40)
    assert codes(chain, run) == {"REMOVALS_CAPPED"}
    assert gone(chain) <= 40
    run = _run_allowing(chain, 80)
    assert not codes(chain, run)
    assert gone(chain) == 80
    chain.check()
    chain.bucket.delete("d/0099")
    assert codes(chain, chain.run()) <= {"REMOVALS_CAPPED"}
    assert gone(chain) <= 81


def _run_allowing(chain: FilesChain, removals: int) -> Run:
    """Execute a run as the command starts it with `--allow-removals`."""
    chain.clock.sleep(1)
    begin: Any = chain.state.begin_run  # it does not have this keyword yet
    run_id = new_run_id(chain.clock.time)
    begin(SYNC, run_id, Trigger.MANUAL, EVERYTHING, allow_removals=removals)
    chain.queues.start(Start(SYNC, Trigger.MANUAL, run=run_id))
    chain.pump.run()
    return chain.latest()


class TestRenamesFirst:
    def test_a_renamed_folder(self, strict: FilesChain) -> None:
        chain = strict
        chain.configure(removals={})
        _put(chain, {f"old/{number:03}": b"content of %d" % number for number in range(400)})
        _put(chain, {f"other/{number:03}": b"other of %d" % number for number in range(600)})
        chain.run()
        received, before = chain.manager.received, chain.manager.operations.copy()
        for number in range(400):
            chain.bucket.put(f"new/{number:03}", b"content of %d" % number)
            chain.bucket.delete(f"old/{number:03}")
        run = chain.run()
        assert not codes(chain, run)
        chain.check()
        done = chain.manager.operations - before
        assert (done["create"], done["update"], done["delete"]) == (0, 0, 0)
        assert done["rename"] + done["move"] == 400
        assert (chain.manager.received, run.counts.bytes) == (received, 0)

    def test_by_events(self, strict: FilesChain) -> None:
        """Renames do not count as removals."""
        chain = filled(strict, LIMITS | {"count": 10}, count=100)
        received = chain.manager.received
        sent = []
        for number in range(30):
            chain.bucket.put(f"moved/{number:04}", b"the %d" % number)
            chain.bucket.delete(f"d/{number:04}")
            sent += record(chain.name, f"moved/{number:04}")["Records"]
            sent += record(chain.name, f"d/{number:04}", "ObjectRemoved:Delete")["Records"]
        run = chain.run_events({"Records": sent})
        assert not codes(chain, run)
        chain.check()
        assert chain.manager.received == received
        send_deletions(chain, deleted(chain, range(30, 40)))
        chain.check()

    def test_beside_removals_beyond_the_limits(self, strict: FilesChain) -> None:
        """The renames are made, and the deleted files stay."""
        chain = filled(strict, LIMITS | {"count": 10}, count=100)
        for number in range(30):
            chain.bucket.put(f"moved/{number:04}", b"the %d" % number)
            chain.bucket.delete(f"d/{number:04}")
        deleted(chain, range(30, 60))
        received = chain.manager.received
        run = chain.run()
        assert codes(chain, run) == {"REMOVALS_CAPPED"}
        assert chain.manager.received == received
        moved = {path for path in chain.manager.files if path.startswith("/data/moved/")}
        assert len(moved) == 30
        assert not any(f"/data/d/{number:04}" in chain.manager.files for number in range(30))
        assert gone(chain, 100) <= 10


def test_files_created_and_deleted_during_one_run(strict: FilesChain) -> None:
    """Each generation is created and deleted while a message of the run is queued, so that its scans join the run."""
    chain = strict
    chain.configure(removals={"share": 1, "count": 100})
    generations = [[f"d/{generation}/{number}" for number in range(4)] for generation in range(3)]

    def scan(keys: list[str]) -> None:
        chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of([f"key:{key}" for key in keys])))

    def create(keys: list[str]) -> None:
        _put(chain, dict.fromkeys(keys, b"a file of a generation"))
        scan(keys)

    def delete(keys: list[str]) -> None:
        for key in keys:
            chain.bucket.delete(key)
        scan(keys)

    acts = [partial(act, keys) for keys in generations for act in (create, delete)]

    acts.pop(0)()
    seen = [0]

    def go_on(letter: Letter) -> None:
        """Make the next change when the previous one has reached the target and is being verified."""
        files = len(chain.manager.files)
        if letter.step is Step.VERIFY and acts and files != seen[-1]:
            seen.append(files)
            acts.pop(0)()

    chain.pump.on_delivery = go_on
    chain.pump.run()
    assert not acts
    run = chain.latest()
    assert run.number == 1, "a scan started another run"
    assert (run.counts.removed, run.counts.failed) == (12, 0)
    assert not chain.manager.files
