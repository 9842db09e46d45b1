"""Discover: scans that fail in part or completely, and scans without progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext
from syncline.model import EVERYTHING, Item, RunStatus, Scope
from syncline.steps import engine as engine_module
from tests.rig.made_up import Answer, Steps, items, pages
from tests.unit.steps.conftest import CHUNK_ITEMS, CHUNK_RESULTS

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_an_unreadable_group_is_scanned_again_alone(steps: Steps) -> None:
    scopes: list[tuple[str, ...] | None] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        scopes.append(scope.groups)
        for page in pages(3):
            if scope.groups is not None and page.cursor not in scope.groups:
                continue
            if page.cursor == "team/0001" and len(scopes) < 3:
                error = SynclineError("SERVER_ERROR", "it failed")
                yield Page(page.cursor, failures=(Failure(Item(page.cursor, "*"), error),))
            else:
                yield page

    steps.kind.look = scan
    run = steps.run()
    assert scopes == [None, ("team/0001",), ("team/0001",)]
    assert run.counts.moved == 3
    assert run.counts.failed == 0


@pytest.mark.parametrize("steady", [False, True])
def test_the_scan_of_a_group_continues_after_its_last_page(steps: Steps, *, steady: bool) -> None:
    """Attempts with progress do not count. Without progress, the last attempt scans the group from its beginning."""
    asked: list[tuple[tuple[str, ...] | None, str | None]] = []

    def scan(scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        asked.append((scope.groups, cursor))
        at = int(cursor or 0)
        if at == 2 * engine_module.MAX_ATTEMPTS:
            return
        if scope.everything or steady:
            yield Page(str(at + 1), items(f"t{at}", group="team/long"))
        error, at = SynclineError("SERVER_ERROR", "it broke off"), at + 1 if scope.everything or steady else at
        failure = Failure(Item("team/long", "*"), error, further=scope.everything or steady, cursor=str(at))
        yield Page("team/long", failures=(failure,))

    steps.kind.look = scan
    run = steps.run()
    again = [cursor for groups, cursor in asked if groups == ("team/long",)]
    if steady:
        assert again == [str(number) for number in range(1, 2 * engine_module.MAX_ATTEMPTS + 1)]
        assert (run.counts.moved, run.counts.failed) == (2 * engine_module.MAX_ATTEMPTS, 0)
    else:
        assert again == [*["1"] * (engine_module.MAX_ATTEMPTS - 1), None]
        assert (run.counts.moved, run.counts.failed) == (1, 1)


def test_an_unreachable_registry_causes_few_scans_and_small_records(steps: Steps) -> None:
    """One retry covers many groups, but no more than fit a record of the table."""
    names = [f"team/{n:04}" for n in range(CHUNK_RESULTS * 2 + 5)]
    scopes: list[tuple[str, ...] | None] = []

    def scan(scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        scopes.append(scope.groups)
        for name in scope.groups or names:
            if cursor is not None and name <= cursor:
                continue
            if scope.everything:
                yield Page(name, failures=(Failure(Item(name, "*"), SynclineError("UNREACHABLE", "down")),))
            else:
                yield Page(name, items("1", group=name))

    steps.kind.look = scan
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (len(names), 0)
    again = [groups for groups in scopes if groups is not None]
    assert [len(groups) for groups in again] == [CHUNK_RESULTS, CHUNK_RESULTS, 5]


@pytest.mark.parametrize(("code", "scans"), [("SERVER_ERROR", engine_module.MAX_ATTEMPTS), ("FORBIDDEN", 1)])
def test_a_group_that_stays_unreadable_fails_with_its_reason(steps: Steps, code: CodeName, scans: int) -> None:
    asked: list[tuple[str, ...] | None] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        asked.append(scope.groups)
        yield Page("bad", failures=(Failure(Item("bad", "*"), SynclineError(code, "it is so")),))
        if scope.everything:
            yield Page("good", items("1", group="good"))

    steps.kind.look = scan
    run = steps.run()
    assert len(asked) == scans
    assert (run.counts.moved, run.counts.failed) == (1, 1)
    (dead,) = steps.dead()
    assert (dead.code, dead.reason, dead.batch.scope) == (code, "it is so", Scope.of(["bad"]))


@pytest.mark.parametrize(("code", "scans"), [("LISTING_INCOMPLETE", engine_module.MAX_ATTEMPTS), ("UNAUTHORIZED", 1)])
def test_a_failed_scan_ends_the_run_with_its_reason(steps: Steps, code: CodeName, scans: int) -> None:
    asked: list[str | None] = []

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        asked.append(cursor)
        raise SynclineError(code, "nothing to see")
        yield

    steps.kind.look = scan
    run = steps.run()
    assert len(asked) == scans
    assert run.status is RunStatus.DONE
    assert run.counts.failed == 1
    (dead,) = steps.dead()
    assert (dead.code, dead.batch.scope) == (code, EVERYTHING)


def test_a_scan_interrupted_after_a_chunk_continues_after_it(steps: Steps) -> None:
    breaks = iter([True, True])

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        for number, page in enumerate(pages(CHUNK_ITEMS + 3)):
            if cursor is None or page.cursor > cursor:
                if number == CHUNK_ITEMS + 2 and next(breaks, False):
                    raise SynclineError("UNREACHABLE", "gone")
                yield page

    steps.kind.look = scan
    run = steps.run()
    assert run.counts.moved == len(steps.results()) == CHUNK_ITEMS + 3
    assert run.counts.failed == 0


@pytest.mark.parametrize("slow", [False, True])
def test_a_scan_with_progress_has_all_its_attempts_again(steps: Steps, *, slow: bool) -> None:
    """It continues after a chunk, or in another function when the time of the first is over."""
    everything = pages(CHUNK_ITEMS + 1)
    fails = Counter(
        {page.cursor: engine_module.MAX_ATTEMPTS - 1 for page in (everything[0], everything[1 if slow else -1])}
    )

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        for page in everything:
            if cursor is None or page.cursor > cursor:
                if fails[page.cursor]:
                    fails[page.cursor] -= 1
                    raise SynclineError("UNREACHABLE", "gone")
                yield page
                if slow:
                    steps.clock.sleep(400)
                    return

    steps.kind.look = scan
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (len(everything), 0)
    assert not fails.total()


def test_the_attempts_of_a_scan_do_not_count_for_its_items(steps: Steps) -> None:
    scans, moves = iter(range(1, 100)), iter(range(1, 100))

    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        if next(scans) < engine_module.MAX_ATTEMPTS:
            raise SynclineError("UNREACHABLE", "gone")
        yield from pages(1)

    def move(item: Item, _context: StepContext) -> Answer:
        if next(moves) < engine_module.MAX_ATTEMPTS:
            return Failure(item, SynclineError("UNREACHABLE", "gone"))
        return Completed(item)

    steps.kind.look, steps.kind.move = scan, move
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (1, 0)


def test_a_failed_group_is_scanned_without_the_cursor_of_the_scan(steps: Steps) -> None:
    """A cursor is a position in one scope."""
    everything = pages(CHUNK_ITEMS + 1)
    unreadable = everything[-1].cursor
    again: list[str | None] = []

    def scan(scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        if scope.groups is not None:
            again.append(cursor)
            yield everything[-1]
            return
        yield from (page for page in everything[:-1] if cursor is None or page.cursor > cursor)
        yield Page(unreadable, failures=(Failure(Item(unreadable, "*"), SynclineError("UNREACHABLE", "gone")),))

    steps.kind.look = scan
    run = steps.run()
    assert again == [None]
    assert (run.counts.moved, run.counts.failed) == (len(everything), 0)


def test_an_unexpected_error_is_internal_and_ends_the_run(steps: Steps) -> None:
    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        raise ZeroDivisionError
        yield

    steps.kind.look = scan
    run = steps.run()
    assert run.counts.failed == 1
    assert [dead.code for dead in steps.dead()] == ["INTERNAL"]


def test_a_long_scan_is_not_ended_for_its_many_messages(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_HOPS", 4)
    steps.kind.pages = pages(CHUNK_ITEMS * 6)
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (CHUNK_ITEMS * 6, 0)


def test_a_scan_without_any_page_fails(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_HOPS", 4)

    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        steps.clock.sleep(400)
        return
        yield

    steps.kind.look = scan
    run = steps.run()
    assert run.status is RunStatus.DONE
    assert [dead.code for dead in steps.dead()] == ["NO_PROGRESS"]


def test_a_scan_without_progress_fails_soon(steps: Steps) -> None:
    scans: list[str | None] = []

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        scans.append(cursor)
        if cursor is None:
            yield Page("team/0001", items("1", group="team/0001"))
        steps.clock.sleep(400)

    steps.kind.look = scan
    run = steps.run()
    assert scans == [None, *["team/0001"] * engine_module.MAX_IDLE]
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 1, 1)
    (dead,) = steps.dead()
    assert (dead.code, dead.batch.scope) == ("NO_PROGRESS", EVERYTHING)
    assert dead.reason == "10 functions in a row made no progress after team/0001"


def test_a_scan_with_some_progress_does_not_fail(steps: Steps) -> None:
    scans = iter(range(1000))

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        reached = int(cursor or 0)
        if next(scans) % engine_module.MAX_IDLE == 0:
            yield Page(str(reached + 1), items("1", group=f"team/{reached}"))
        if reached < 4:
            steps.clock.sleep(400)

    steps.kind.look = scan
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (4, 0)


def test_a_scan_that_alternates_between_errors_and_no_progress_fails(steps: Steps) -> None:
    scans = iter(range(100))

    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        steps.clock.sleep(400)
        if next(scans) % 2:
            raise SynclineError("SERVER_ERROR", "it failed")
        yield from ()

    steps.kind.look = scan
    assert steps.run().counts.failed == 1
    assert next(scans) < 12


@pytest.mark.parametrize("pages_before", [0, CHUNK_ITEMS, CHUNK_ITEMS + 1])
def test_the_requests_of_a_failed_scan_are_counted(steps: Steps, pages_before: int) -> None:
    made = iter(range(1, 1000))

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        for page in pages(pages_before):
            if cursor is None or page.cursor > cursor:
                steps.kind.more_requests = next(made)
                yield page
        steps.kind.more_requests = next(made)
        raise SynclineError("UNAUTHORIZED", "no")

    steps.kind.look = scan
    run = steps.run()
    assert (run.counts.failed, run.counts.moved) == (1, pages_before // CHUNK_ITEMS * CHUNK_ITEMS)
    assert run.counts.requests == next(made) - 1 + 2 * run.counts.moved


def test_a_scan_that_fails_within_a_chunk_ends_its_run(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_HOPS", 0)
    steps.kind.pages = pages(CHUNK_ITEMS * 2)
    run = steps.run()
    assert run.status is RunStatus.DONE
    assert {dead.code for dead in steps.dead()} == {"NO_PROGRESS"}
