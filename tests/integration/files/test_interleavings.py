"""Files: two scans and one file, in every order. In the end, the target equals the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import pytest

from syncline.messages import Start
from syncline.model import RunStatus, Scope, Trigger
from tests.rig.files import MODE, SYNC, FilesChain, record
from tests.rig.interleaving import Schedule, at_every_call, deliver, deliver_meanwhile, every_schedule
from tests.rig.pump import Pump
from tests.simulation.table import ModelTable

KEPT: Final = {f"kept/{number}": b"%d" % number for number in range(4)}
DAYS: Final = 2 * 24 * 3600.0
"""Seconds between two schedules, so that no two share a window of the removal limits."""
MOST: Final = 600
TOGETHER: Final = 8
"""Number of schedules after which a full scan checks all of them."""


@dataclass
class Subject:
    """One chain for all schedules, each of which has a separate key."""

    chain: FilesChain
    events: bool = False
    number: int = 0
    sequencer: int = 0
    key: str = ""
    contents: dict[str, bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chain = self.chain
        target = {"file_manager": chain.manager.url, "token": "env:FILES_TOKEN", "prefix": "/data/", "requests": 96}
        source = {**chain.endpoint(chain.name), "sequencers": self.events}
        # Scans are started directly, without gathering events, or events become messages at once.
        gathering = {"quiet": 0, "longest": 0}
        chain.configure(source=source, target=target, removals={"share": 1.0}, events=gathering)
        for key, content in KEPT.items():
            chain.upload(key, content)
        chain.run()
        chain.check()
        self.restore = cast("ModelTable", self.chain.table).saved()

    def new_key(self) -> None:
        self.number += 1
        if self.number % TOGETHER == 0:
            self.check_all()
            self._forget()
        self.key = f"schedule/{self.number}"
        self.chain.clock.sleep(DAYS)

    def _forget(self) -> None:
        """Start with an empty chain again, so that the table stays small."""
        self.restore()
        for key in self.contents:
            self.chain.bucket.delete(key)
            self.chain.manager.files.pop(f"/data/{key}", None)

    def notify(self, name: str = "ObjectCreated:Put") -> None:
        """Report a change of the key by an event or by a scan of the key."""
        self.sequencer += 1
        chain = self.chain
        if self.events:
            chain.clock.sleep(0.001)  # the names of notes contain the time
            chain.post(record(chain.name, self.key, name, f"{self.sequencer:016X}"))
        else:
            chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of([f"key:{self.key}"])))

    def put(self, content: bytes = b"the first") -> None:
        self.chain.upload(self.key, content)
        self.contents[self.key] = content
        self.notify()

    def put_again(self) -> None:
        self.put(b"the second, which is longer")

    def delete(self) -> None:
        self.chain.bucket.delete(self.key)
        self.contents[self.key] = None
        self.notify("ObjectRemoved:Delete")

    def check(self, why: object) -> None:
        """Check that the key is equal at source and target, and that no run or message remains."""
        chain, path = self.chain, f"/data/{self.key}"
        wanted, there = self.contents[self.key], chain.manager.files.get(path)
        assert (None if there is None else there.content) == wanted, f"wrong content or permissions after {why}"
        assert there is None or there.permissions == MODE, f"wrong content or permissions after {why}"
        assert chain.state.current_run(SYNC) is None, f"a run has not ended after {why}"
        run = chain.latest()
        assert run.status is RunStatus.DONE, f"{run} after {why}"
        assert (run.counts.failed, run.counts.conflict) == (0, 0), f"{run} after {why}"
        assert chain.state.progress(run.id).settled
        assert not chain.mail.letters, f"{chain.mail.letters} after {why}"

    def check_all(self) -> None:
        """Check that exactly the existing files have records, and that a full scan sends nothing.

        The scan may request a file whose record is older than the file. The next scan has nothing to do.
        """
        self.chain.check()
        run = self.chain.run()
        assert (run.counts.bytes, run.counts.removed, run.counts.failed, run.counts.conflict) == (0, 0, 0, 0)
        run = self.chain.run()
        self.chain.check()
        assert (run.counts.queued, run.counts.skipped) == (0, len(self.chain.objects()))


@pytest.fixture
def subject(strict: FilesChain) -> Subject:
    return Subject(strict)


def in_every_order(
    subject: Subject,
    synced: bool,
    acts: Callable[[], Sequence[Callable[[], None]]],
) -> int:
    """Try all orders of the acts and of the resulting messages; with ``synced``, the target has the file before."""
    count = 0
    for schedule in every_schedule(MOST):
        subject.new_key()
        if synced:
            subject.put(b"of old")
            subject.chain.pump.run()
            subject.check("the first scan")
        deliver(subject.chain.pump, schedule, acts())
        subject.check(schedule)
        count += 1
    print(f"{count} schedules")
    subject.check_all()
    return count


def test_a_creation_and_a_deletion(subject: Subject) -> None:
    assert in_every_order(subject, False, lambda: [subject.put, subject.delete]) > 10


def test_events_of_a_creation_and_a_deletion(strict: FilesChain) -> None:
    """Some events are gathered into one scan."""
    subject = Subject(strict, events=True)
    assert in_every_order(subject, False, lambda: [subject.put, subject.delete]) > 20


def test_a_creation_and_an_update(subject: Subject) -> None:
    assert in_every_order(subject, False, lambda: [subject.put, subject.put_again]) > 20


def test_an_update_and_a_deletion(subject: Subject) -> None:
    assert in_every_order(subject, True, lambda: [subject.put_again, subject.delete]) > 20


def test_a_deletion_and_a_creation(subject: Subject) -> None:
    assert in_every_order(subject, True, lambda: [subject.delete, subject.put_again]) > 20


@pytest.mark.parametrize(
    ("act", "meanwhile", "stride"), [("delete", 0, 3), ("delete", 1, 2), ("delete", 9, 3), ("put_again", 9, 3)]
)
def test_at_any_call_of_the_functions_that_copy(subject: Subject, act: str, meanwhile: int, stride: int) -> None:
    """Change the object before any call to the table, a queue, the source or the target.

    `meanwhile` functions of the resulting scan end before the call is made; the others run later.
    """
    pump = subject.chain.pump

    def begin() -> Pump:
        subject.new_key()
        subject.put()
        return pump

    def change() -> None:
        getattr(subject, act)()
        deliver_meanwhile(pump, meanwhile)

    assert at_every_call(begin, change, lambda number: subject.check(f"{act} before call {number}"), stride) > 20
    subject.check_all()


@pytest.mark.parametrize("act", ["delete", "put_again"])
def test_a_change_while_the_file_is_sent(subject: Subject, act: str) -> None:
    """The resulting scan is delivered at any later point."""
    chain = subject.chain
    acts: list[Callable[[], None]] = []
    chain.manager.on_save = lambda _path: acts.pop()() if acts else None
    for schedule in every_schedule(MOST):
        subject.new_key()
        acts[:] = [getattr(subject, act)]
        deliver(chain.pump, schedule, [subject.put])
        assert not acts
        subject.check(schedule)
    subject.check_all()


def test_schedules_are_all_tried() -> None:
    """Two independent chains of two messages can be merged in six ways."""
    seen: set[str] = set()
    for schedule in every_schedule(10):
        waiting, order = ["a1", "b1"], []
        while waiting:
            order.append(waiting.pop(schedule.choose(len(waiting))))
            waiting += [order[-1].replace("1", "2")] if order[-1].endswith("1") else []
            waiting.sort()
        seen.add("".join(order))
    assert len(seen) == 6
    assert Schedule([1]).choose(2) == 1
