"""Known failures: failures unchanged since an earlier run, until they are solved or acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.messages import Start
from syncline.model import Counts, Item, Outcome, Result, Run, Scope, Step, Trigger
from syncline.store.runs import new_run_id
from tests.rig.made_up import SYNC, Answer, MadeUp, Steps, items
from tests.rig.made_up import steps as made_steps
from tests.rig.pump import Duplicates, KillPoint

BAD = Item("team/app", "bad", "digest of bad")


def refuse(item: Item, _context: StepContext) -> Answer:
    if item.name == "bad":
        return Failure(item, SynclineError("REFUSED", "the target does not take it"))
    return Completed(item, 10)


def absent(item: Item, _context: StepContext) -> Completed | Unfinished | Failure:
    if item.name == "bad":
        return Failure(item, SynclineError("NOT_ARRIVED", "it is not there"))
    return Completed(item)


class DiedError(BaseException):
    """The death of a function."""


def at_transfer(kind: MadeUp) -> None:
    kind.pages, kind.move = [Page("p", items("bad", "good"))], refuse


def at_verify(kind: MadeUp) -> None:
    kind.pages, kind.prove = [Page("p", items("bad", "good"))], absent


def on_a_page(kind: MadeUp) -> None:
    error = SynclineError("PATH_REFUSED", "no path")
    kind.pages = [Page("p", items("good"), failures=(Failure(BAD, error),))]


def as_a_result(kind: MadeUp) -> None:
    result = Result("team/app", "bad", Outcome.FAILED, "digest of bad", None, 0, "PATH_REFUSED", "no path")
    kind.pages = [Page("p", items("good"), results=(result,))]


def of_a_group(kind: MadeUp) -> None:
    kind.pages = [Page("p", items("good"), failures=(Failure(Item("team/x", "*"), SynclineError("FORBIDDEN", "no")),))]


def of_the_scan(kind: MadeUp) -> None:
    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        raise SynclineError("UNAUTHORIZED", "the source does not accept the credentials")

    kind.look = scan


FAILURES = [at_transfer, at_verify, on_a_page, as_a_result, of_a_group, of_the_scan]


def again(steps: Steps, *groups: str) -> Run:
    """Run the sync once more, for everything or for some groups; return the run."""
    steps.clock.sleep(1)
    steps.start(*groups)
    steps.pump.run()
    return max(steps.state.runs(SYNC), key=lambda run: run.number)


def counted(counts: Counts) -> tuple[int, int, int]:
    return (counts.failed, counts.known, counts.acknowledged)


@pytest.mark.parametrize("fail", FAILURES)
def test_an_unchanged_failure_is_known_after_the_first_run(steps: Steps, fail: Callable[[MadeUp], None]) -> None:
    fail(steps.kind)
    first = again(steps)
    assert first.counts.failed == 1
    assert len(steps.dead()) == 1
    for _ in range(3):
        run = again(steps)
        assert run.counts.failed == 0, "the failure is new in every run"
        assert counted(run.counts) == (0, 1, 0)
        assert len(steps.dead()) == 1, "each run writes a dead letter"
    (known,) = [each for each in steps.results(run).values() if each.outcome is Outcome.KNOWN]
    assert known.code


@pytest.mark.parametrize(
    "change",
    [
        lambda item: Failure(item, SynclineError("FORBIDDEN", "another code")),
        lambda item: Failure(replace(item, source="another"), SynclineError("REFUSED", "the target does not take it")),
    ],
)
def test_a_changed_failure_is_new(steps: Steps, change: Callable[[Item], Failure]) -> None:
    at_transfer(steps.kind)
    again(steps)
    steps.state.failures.acknowledge(SYNC, next(steps.state.failures.all(SYNC)), acknowledged=True)
    steps.kind.move = lambda item, _context: change(item) if item.name == "bad" else Completed(item)
    assert counted(again(steps).counts) == (1, 0, 0)
    assert counted(again(steps).counts) == (0, 1, 0)
    assert len(steps.dead()) == 1


def test_a_source_fingerprint_found_later_is_no_change(steps: Steps) -> None:
    steps.kind.pages = [Page("p", (Item("team/app", "bad"),))]
    steps.kind.move = refuse
    again(steps)
    as_a_result(steps.kind)
    steps.kind.pages = [
        replace(page, results=tuple(replace(r, code="REFUSED") for r in page.results)) for page in steps.kind.pages
    ]
    assert counted(again(steps).counts) == (0, 1, 0)
    assert [each.source for each in steps.state.failures.all(SYNC)] == ["digest of bad"]


def test_a_failure_whose_item_is_moved_is_solved(steps: Steps) -> None:
    at_transfer(steps.kind)
    again(steps)
    steps.kind.move = lambda item, _context: Completed(item)
    assert counted(again(steps).counts) == (0, 0, 0)
    assert not steps.state.failures.any(SYNC)
    at_transfer(steps.kind)
    assert counted(again(steps).counts) == (1, 0, 0)


def test_a_failure_whose_item_is_found_equal_is_solved(steps: Steps) -> None:
    at_transfer(steps.kind)
    again(steps)
    again(steps)
    steps.kind.pages = [Page("p", equal=2)]
    assert counted(again(steps).counts) == (0, 0, 0)
    assert not steps.state.failures.any(SYNC)


def test_a_partial_scan_counts_known_failures_of_other_groups(steps: Steps) -> None:
    at_transfer(steps.kind)
    again(steps)
    steps.kind.pages = [Page("p", equal=1)]
    assert counted(again(steps, "team/other").counts) == (0, 1, 0)
    assert steps.state.failures.any(SYNC)


def test_a_failed_scan_solves_nothing(steps: Steps) -> None:
    at_transfer(steps.kind)
    again(steps)
    of_the_scan(steps.kind)
    assert counted(again(steps).counts) == (1, 1, 0)
    assert counted(again(steps).counts) == (0, 2, 0)


@pytest.mark.parametrize(("group", "solved"), [("team/app", False), ("team/other", True), ("bad/", True)])
def test_an_unreadable_group_solves_none_of_its_failures(steps: Steps, group: str, *, solved: bool) -> None:
    """Failures of other groups are solved; otherwise a group that fails permanently would keep them all forever."""
    at_transfer(steps.kind)
    again(steps)
    error = SynclineError("FORBIDDEN", "no")
    steps.kind.pages = [Page("p", equal=2, failures=(Failure(Item(group, "*"), error),))]
    again(steps)
    assert counted(again(steps).counts) == (0, 1 if solved else 2, 0)


def test_an_unreadable_folder_solves_none_of_its_failures(steps: Steps) -> None:
    steps.kind.pages = [Page("p", (Item("main", "backups/east/n/bad", "1"), Item("main", "backups/west/n/bad", "1")))]
    steps.kind.move = lambda item, _context: Failure(item, SynclineError("REFUSED", "no"))
    assert counted(again(steps).counts) == (2, 0, 0)
    error = SynclineError("FORBIDDEN", "no")
    steps.kind.pages = [Page("p", failures=(Failure(Item("east/", "*"), error),))]
    assert counted(again(steps).counts) == (1, 1, 0)
    assert {each.name for each in steps.state.failures.all(SYNC)} == {"backups/east/n/bad", "*"}


@pytest.mark.parametrize("corrected", [True, False])
def test_a_retry_solves_an_invalid_entry_that_was_corrected(steps: Steps, *, corrected: bool) -> None:
    """A scan cannot find an entry without a usable name again."""
    invalid = [Item("*", "gone"), Item("team/app", "entry 3 of the tags")]
    codes: tuple[CodeName, ...] = ("SOURCE_ABSENT", "ENTRY_INVALID")
    failures = [Failure(item, SynclineError(code, "odd")) for item, code in zip(invalid, codes, strict=True)]
    steps.kind.pages = [Page("p", equal=1, failures=tuple(failures))]
    again(steps)
    steps.kind.pages = [Page("p", equal=1, failures=() if corrected else tuple(failures))]
    steps.clock.sleep(1)
    asked = [(item.group, item.name) for item in invalid]
    run, _ = steps.state.begin_run(SYNC, new_run_id(steps.clock.time), Trigger.RETRY, Scope(), asked=asked)
    steps.queues.start(Start(SYNC, Trigger.RETRY, run=run.id))
    steps.pump.run()
    assert counted(steps.state.run(SYNC, run.id).counts) == ((0, 0, 0) if corrected else (0, 2, 0))
    found = steps.state.failures.find(SYNC, asked)
    assert [found[key].solved for key in asked] == [run.id if corrected else None] * 2


def test_an_acknowledged_failure_is_not_known_until_it_changes(steps: Steps) -> None:
    at_transfer(steps.kind)
    again(steps)
    (failure,) = steps.state.failures.all(SYNC)
    assert steps.state.failures.acknowledge(SYNC, failure, acknowledged=True)
    assert counted(again(steps).counts) == (0, 0, 1)
    assert counted(again(steps, "team/other").counts) == (0, 0, 1)
    assert steps.state.failures.acknowledge(SYNC, failure, acknowledged=False)
    assert counted(again(steps).counts) == (0, 1, 0)


def test_an_item_that_fails_twice_in_one_run_has_one_dead_letter(steps: Steps) -> None:
    at_transfer(steps.kind)
    steps.kind.pages = [Page("p", items("bad")), Page("q", items("bad"))]
    run = again(steps)
    assert run.counts.failed == 1
    assert len(steps.dead()) == 1


@pytest.mark.parametrize("duplicates", list(Duplicates))
def test_duplicated_messages_change_nothing(steps: Steps, duplicates: Duplicates) -> None:
    steps.pump.delivery.duplicates = duplicates
    at_transfer(steps.kind)
    assert counted(again(steps).counts) == (1, 0, 0)
    assert counted(again(steps).counts) == (0, 1, 0)


def test_a_plan_records_no_failures(steps: Steps) -> None:
    on_a_page(steps.kind)
    steps.start(plan=True)
    steps.pump.run()
    assert not steps.state.failures.any(SYNC)
    assert steps.dead() == []


@pytest.mark.moto
def test_a_run_without_failures_costs_three_calls_at_most(steps: Steps) -> None:
    """The mark of the sync is read twice for a batch that moved something, and once at the end of the run."""
    steps.kind.pages = [Page("p", items(*(f"t{n}" for n in range(50))))]
    calls: list[str] = []
    steps.table.meta.client.meta.events.register(
        "before-call.dynamodb", lambda model, params, **_: calls.append(f"{model.name} {params['body']!r}")
    )
    again(steps)
    failure_calls = [each for each in calls if "FAIL" in each]
    assert len(failure_calls) <= 3, failure_calls


@pytest.mark.parametrize("number", range(2, 14))
@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_known_failures_survive_a_function_that_dies_anywhere(number: int, when: KillPoint) -> None:
    """After a kill at any call with an effect, there is one result, one record and at least one dead letter."""
    with made_steps() as steps:
        at_transfer(steps.kind)
        steps.reaper.plan = {(number, when)}
        assert counted(again(steps).counts) == (1, 0, 0)
        assert len(list(steps.state.failures.all(SYNC))) == 1
        assert {dead.key for dead in steps.dead()} == {("team/app", "bad")}
        steps.reaper.plan = {(len(steps.reaper.effects) + number, when)}
        assert counted(again(steps).counts) == (0, 1, 0)


def test_a_function_that_dies_before_its_dead_letter_records_no_failure(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the failure would count as known, and known failures get no dead letter."""
    on_a_page(steps.kind)
    steps.start()

    def die(*_: object) -> None:
        raise DiedError

    monkeypatch.setattr("syncline.messages.Queues.send_dead_letters", die)
    with pytest.raises(DiedError):
        steps.pump.run()
    assert not list(steps.state.failures.all(SYNC))


@pytest.mark.parametrize("groups", [(), ("team/app",)])
def test_a_late_failure_is_not_recorded_after_another_run_has_verified_the_item(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, groups: tuple[str, ...]
) -> None:
    """The function died after the dead letter, and its message is redelivered after the other run."""
    at_transfer(steps.kind)
    with monkeypatch.context() as patch:
        patch.setattr("syncline.steps.engine.record_failures", lambda *_, **__: None)
        again(steps)
    late = next(letter for letter in steps.pump.delivered if letter.step is Step.TRANSFER)
    steps.kind.move = lambda item, _context: Completed(item, 10)
    assert counted(again(steps, *groups).counts) == (0, 0, 0)
    steps.mail.add(replace(late, id="late", due=steps.clock.now))
    steps.pump.run()
    assert not list(steps.state.failures.all(SYNC))
    assert len(steps.dead()) == 1
    steps.kind.pages = []
    assert counted(again(steps, "team/other").counts) == (0, 0, 0)
