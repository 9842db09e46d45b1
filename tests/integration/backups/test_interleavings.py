"""Backups: two scans and one object, in every order. In the end, the branch equals the bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from moto import mock_aws

from syncline.messages import Start
from syncline.model import RunStatus, Scope, Trigger
from tests.rig.backups import SYNC, BackupsChain, s3_server
from tests.rig.interleaving import Schedule, at_every_call, deliver, deliver_meanwhile, every_schedule
from tests.rig.pump import Pump
from tests.standins.git_places import make_bare

KEY: Final = "east/n/subject.yaml"
KEPT: Final = {"east/n/kept.yaml": b"kept\n", "west/n/kept.yaml": b"kept, too\n"}
MOST: Final = 600
TOGETHER: Final = 8
"""A full scan checks only every eighth schedule, because it takes as long as a schedule."""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with mock_aws(), s3_server() as address:
        yield address


@dataclass
class Subjects:
    """A new chain for each schedule, and the changes of its object."""

    s3: str
    folder: Path
    chain: BackupsChain | None = None
    number: int = 0
    wanted: bytes | None = None
    scope: str = KEY
    """Scope of the scan after a change: the object, or its complete cluster."""

    def new(self, *, synced: bool) -> BackupsChain:
        self.number += 1
        bare = make_bare(self.folder / f"{self.number}.git")
        chain = self.chain = BackupsChain(self.s3, bare)
        chain.configure(removals={"share": 1.0})
        chain.upload(KEPT | ({KEY: b"of old"} if synced else {}))
        if synced:
            chain.run()
        else:
            bare.fill(KEPT)  # faster than a run that finds everything equal
        return chain

    def put(self) -> None:
        self._change(b"the first")

    def put_again(self) -> None:
        self._change(b"the second, which is longer")

    def delete(self) -> None:
        self._change(None)

    def _change(self, content: bytes | None) -> None:
        chain = self.chain
        assert chain is not None
        if content is None:
            chain.bucket.delete(KEY)
        else:
            chain.bucket.put(KEY, content)
        self.wanted = content
        chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of([self.scope])))

    def check(self, why: object) -> None:
        chain = self.chain
        assert chain is not None
        assert chain.bare.files() == KEPT | ({} if self.wanted is None else {KEY: self.wanted}), (
            f"wrong content after {why}"
        )
        assert not chain.mail.letters, f"{chain.mail.letters} after {why}"
        assert chain.state.current_run(SYNC) is None, f"a run has not ended after {why}"
        for run in chain.state.runs(SYNC, 20):
            assert run.status is RunStatus.DONE, f"{run} after {why}"
            assert (run.counts.failed, run.counts.conflict) == (0, 0), f"{run} after {why}"
        if self.number % TOGETHER == 0:
            chain.check_again()


@pytest.fixture
def subjects(s3: str, tmp_path: Path) -> Subjects:
    folder = tmp_path / f"r{abs(hash(tmp_path.name)) % 10**9}"
    folder.mkdir()
    return Subjects(s3, folder)


def in_every_order(subjects: Subjects, synced: bool, acts: Sequence[Callable[[], None]]) -> int:
    schedule: Schedule
    count = 0
    for schedule in every_schedule(MOST):
        chain = subjects.new(synced=synced)
        deliver(chain.pump, schedule, acts)
        subjects.check(schedule)
        count += 1
    print(f"{count} schedules")
    return count


@pytest.mark.parametrize("scope", [KEY, "east/"])
def test_a_creation_and_a_deletion(subjects: Subjects, scope: str) -> None:
    subjects.scope = scope
    assert in_every_order(subjects, False, [subjects.put, subjects.delete]) > 10


def test_an_update_and_a_deletion(subjects: Subjects) -> None:
    assert in_every_order(subjects, True, [subjects.put_again, subjects.delete]) > 10


def test_a_deletion_and_a_creation(subjects: Subjects) -> None:
    assert in_every_order(subjects, True, [subjects.delete, subjects.put]) > 10


@pytest.mark.parametrize(("act", "meanwhile", "stride"), [("delete", 9, 4), ("delete", 0, 7), ("put_again", 1, 7)])
def test_at_any_call_of_the_functions_that_commit(subjects: Subjects, act: str, meanwhile: int, stride: int) -> None:
    """Change the object before a call to the table, a queue or the bucket.

    `meanwhile` functions of the resulting scan end before the call is made; the others run later.
    """

    def begin() -> Pump:
        chain = subjects.new(synced=False)
        subjects.put()
        return chain.pump

    def change() -> None:
        getattr(subjects, act)()
        assert subjects.chain is not None
        deliver_meanwhile(subjects.chain.pump, meanwhile)

    assert at_every_call(begin, change, lambda number: subjects.check(f"{act} before call {number}"), stride) > 10
