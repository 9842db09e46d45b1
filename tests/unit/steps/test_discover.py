from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from botocore.exceptions import EndpointConnectionError

from syncline.errors import SynclineError
from syncline.kinds.kind import Arrived, Failure, Pace, Page
from syncline.messages import Batch, decode
from syncline.model import EVERYTHING, Item, Outcome, Result, RunStatus, Scope, Step, Trigger
from syncline.steps import discover as discover_module
from syncline.steps import engine as engine_module
from tests.made_up import SYNC, Answer, Steps, items
from tests.pump import Letter

CHUNK_ITEMS = 4
CHUNK_RESULTS = 20
SHARE = 5


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything a tenth of its size, for speed."""
    for name in ("CHUNK_ITEMS", "CHUNK_RESULTS"):
        monkeypatch.setattr(discover_module, name, globals()[name])


def pages(count: int, each: int = 1) -> list[Page]:
    """Pages of one group each, of so many items."""
    groups = [f"team/{number:04}" for number in range(count)]
    return [Page(group, items(*(f"t{n}" for n in range(each)), group=group)) for group in groups]


def test_each_difference_is_moved_once_and_what_is_equal_only_counted(steps: Steps) -> None:
    steps.kind.pages = [
        Page("a", items("1", "2", group="a"), skipped=3),
        Page("b", results=(Result("b", "1", Outcome.CONFLICT, code="TAG_DIFFERS", reason="two images"),)),
        Page("c", skipped=7),
    ]
    run = steps.run()
    counts = run.counts
    assert (counts.queued, counts.moved, counts.skipped, counts.conflict, counts.bytes) == (2, 2, 10, 1, 20)
    assert run.status is RunStatus.DONE
    assert set(steps.results()) == {("a", "1"), ("a", "2"), ("b", "1")}


def test_what_is_left_out_is_counted_apart_and_is_no_failure(steps: Steps) -> None:
    steps.kind.pages = [
        Page("a", items("1", group="a"), skipped=1, left_out=2),
        Page("b", results=(Result("b", "1", Outcome.LEFT_OUT, reason="not selected"),), left_out=3),
    ]
    run = steps.run()
    counts = run.counts
    assert (counts.left_out, counts.skipped, counts.queued, counts.moved, counts.failed) == (6, 1, 1, 1, 0)
    assert run.status is RunStatus.DONE
    assert steps.results()["b", "1"].outcome is Outcome.LEFT_OUT


def test_what_is_left_out_in_each_chunk_is_counted_once(steps: Steps) -> None:
    steps.kind.pages = [replace(page, left_out=1) for page in pages(CHUNK_ITEMS * 2 + 3)]
    assert steps.run().counts.left_out == CHUNK_ITEMS * 2 + 3


def test_a_scan_knows_its_batch_and_whether_it_is_the_first_of_its_run(steps: Steps) -> None:
    seen: list[tuple[str, bool]] = []

    def look(scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        if scope.groups is None and cursor is None:
            steps.start("team/0001")  # joins the run while its first scan is under way
        for page in pages(CHUNK_ITEMS + 2):
            if (scope.groups is None or page.cursor in scope.groups) and (cursor is None or page.cursor > cursor):
                seen.append((pace.work, pace.joined))
                yield page

    steps.kind.look = look
    run = steps.run()
    own, joined = seen[: CHUNK_ITEMS + 2], seen[CHUNK_ITEMS + 2 :]
    assert own[:CHUNK_ITEMS] == [(run.id, False)] * CHUNK_ITEMS
    # Sent on what it had found, so there are items in flight, and it goes on as another batch.
    assert len(set(own[CHUNK_ITEMS:])) == 1
    assert (own[-1][0] != run.id, own[-1][1]) == (True, True)
    [(work, late)] = joined
    assert (work.endswith("-look"), late) == (True, True)


def test_a_batch_that_is_delivered_again_is_the_same_work(steps: Steps) -> None:
    """The function dies after it has sent on a chunk: the rest, which comes by message, is the work that it began."""
    first: list[tuple[str, str, bool]] = []
    second: list[tuple[str, str, bool]] = []
    seen = first

    def look(_scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        for page in pages(CHUNK_ITEMS + 2):
            if cursor is None or page.cursor > cursor:
                seen.append((page.cursor, pace.work, pace.joined))
                if seen is first and len(seen) == CHUNK_ITEMS + 2:
                    raise EndpointConnectionError(endpoint_url="made.up")  # the message goes back to its queue
                yield page

    steps.kind.look = look
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    assert len(first) == CHUNK_ITEMS + 2
    seen = second
    steps.pump.run()
    assert second == first[CHUNK_ITEMS:]
    assert steps.latest().counts.moved == CHUNK_ITEMS + 2


def test_a_scan_that_is_tried_again_is_not_the_first_of_its_run(steps: Steps) -> None:
    seen: list[tuple[str, bool]] = []

    def look(_scope: Scope, _cursor: str | None, pace: Pace) -> Iterator[Page]:
        seen.append((pace.work, pace.joined))
        if len(seen) == 1:
            raise SynclineError("UNREACHABLE", "gone")
        yield from pages(1)

    steps.kind.look = look
    run = steps.run()
    assert seen[0] == (run.id, False)
    assert (seen[1][0] != run.id, seen[1][1]) == (True, True)


@pytest.mark.parametrize("allowed", [None, 0, 400])
def test_steps_are_told_of_the_removals_allowed_for_the_run(steps: Steps, allowed: int | None) -> None:
    seen: list[int | None] = []

    def look(_scope: Scope, _cursor: str | None, pace: Pace) -> Iterator[Page]:
        seen.append(pace.allow_removals)
        yield from pages(1)

    def move(item: Item, pace: Pace) -> Answer:
        seen.append(pace.allow_removals)
        return Arrived(item)

    steps.kind.look, steps.kind.move = look, move
    steps.state.begin_run(SYNC, "by-hand", Trigger.HAND, EVERYTHING, allow_removals=allowed)
    steps.start(run="by-hand")
    steps.pump.run()
    assert seen == [allowed, allowed]
    assert steps.latest().allow_removals == allowed


def test_items_of_one_group_go_into_messages_of_at_most_a_share(steps: Steps) -> None:
    steps.kind.pages, steps.kind.share = pages(1, SHARE * 2 + 1), SHARE
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    batches = [decode(letter.body) for letter in steps.mail.waiting()]
    assert [len(batch.items) for batch in batches if isinstance(batch, Batch)] == [SHARE, SHARE, 1]


def test_a_long_look_sends_on_what_it_found_while_it_goes_on(steps: Steps) -> None:
    sent: list[int] = []

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        for page in pages(CHUNK_ITEMS * 2 + 3):
            if cursor is None or page.cursor > cursor:
                sent.append(len(steps.mail.waiting()))
                yield page

    steps.kind.look = look
    run = steps.run()
    assert run.counts.moved == run.counts.queued == CHUNK_ITEMS * 2 + 3
    assert sent[CHUNK_ITEMS] == CHUNK_ITEMS + 1  # the transfers of the first chunk, and the start itself
    assert sent[-1] == CHUNK_ITEMS * 2 + 1


def test_a_look_with_many_results_ends_a_chunk_before_its_record_is_too_large(steps: Steps) -> None:
    steps.kind.pages = [
        Page(f"{n:04}", results=(Result(f"{n:04}", "t", Outcome.CONFLICT, code="TAG_DIFFERS", reason="two"),))
        for n in range(CHUNK_RESULTS + 10)
    ]
    run = steps.run()
    assert run.counts.conflict == len(steps.results()) == CHUNK_RESULTS + 10


@pytest.mark.parametrize("at", [0, 1, CHUNK_ITEMS, CHUNK_ITEMS * 2 + 1])
def test_a_look_delivered_twice_at_the_same_time_loses_nothing(steps: Steps, at: int) -> None:
    """The second delivery begins and ends while the first one is at its ``at``-th page; both find different chunks."""
    everything = pages(CHUNK_ITEMS * 2 + 6)
    twice: list[Letter] = []

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        for number, page in enumerate(everything):
            if number == at and twice:
                steps.kind.look = slower
                steps.pump.deliver([twice.pop()])
                steps.kind.look = look
            if cursor is None or page.cursor > cursor:
                yield page

    def slower(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        """The same pages; time passes, so the chunks are others."""
        for page in everything:
            if cursor is None or page.cursor > cursor:
                steps.clock.sleep(0.7)
                yield page

    steps.kind.look = look
    letter = steps.start()
    twice.append(Letter(letter.id, letter.url, letter.body, letter.sent, letter.due, copied=True))
    steps.pump.run()
    run = steps.latest()
    assert run.status is RunStatus.DONE
    assert len(steps.results()) == run.counts.moved == run.counts.queued == len(everything)


@pytest.mark.parametrize("pages_each", [1, 3])
def test_a_look_goes_on_over_several_functions(steps: Steps, pages_each: int) -> None:
    functions: list[int] = []

    def look(_scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        functions.append(0)
        for page in pages(8):
            if cursor is not None and page.cursor <= cursor:
                continue
            if pace.over:
                return
            functions[-1] += 1
            steps.clock.sleep(285 / pages_each)
            yield page

    steps.kind.look = look
    run = steps.run()
    assert run.counts.moved == len(steps.results()) == 8
    assert len(functions) >= 8 / pages_each


def test_a_group_that_cannot_be_looked_at_is_looked_at_again_alone(steps: Steps) -> None:
    scopes: list[tuple[str, ...] | None] = []

    def look(scope: Scope, _cursor: str | None, _pace: Pace) -> Iterator[Page]:
        scopes.append(scope.groups)
        for page in pages(3):
            if scope.groups is not None and page.cursor not in scope.groups:
                continue
            if page.cursor == "team/0001" and len(scopes) < 3:
                error = SynclineError("SERVER_ERROR", "it failed")
                yield Page(page.cursor, failures=(Failure(Item(page.cursor, "*"), error),))
            else:
                yield page

    steps.kind.look = look
    run = steps.run()
    assert scopes == [None, ("team/0001",), ("team/0001",)]
    assert run.counts.moved == 3
    assert run.counts.failed == 0


def test_a_registry_that_is_down_causes_few_looks_and_small_records(steps: Steps) -> None:
    """One look again for many groups, and never more of them than a record of the table holds."""
    names = [f"team/{n:04}" for n in range(CHUNK_RESULTS * 2 + 5)]
    scopes: list[tuple[str, ...] | None] = []

    def look(scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        scopes.append(scope.groups)
        for name in scope.groups or names:
            if cursor is not None and name <= cursor:
                continue
            if scope.everything:
                yield Page(name, failures=(Failure(Item(name, "*"), SynclineError("UNREACHABLE", "down")),))
            else:
                yield Page(name, items("1", group=name))

    steps.kind.look = look
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (len(names), 0)
    again = [groups for groups in scopes if groups is not None]
    assert [len(groups) for groups in again] == [CHUNK_RESULTS, CHUNK_RESULTS, 5]


@pytest.mark.parametrize(("code", "looks"), [("SERVER_ERROR", engine_module.ATTEMPTS), ("FORBIDDEN", 1)])
def test_a_group_that_stays_unreadable_is_given_up_with_its_reason(steps: Steps, code: str, looks: int) -> None:
    asked: list[tuple[str, ...] | None] = []

    def look(scope: Scope, _cursor: str | None, _pace: Pace) -> Iterator[Page]:
        asked.append(scope.groups)
        yield Page("bad", failures=(Failure(Item("bad", "*"), SynclineError(code, "it is so")),))
        if scope.everything:
            yield Page("good", items("1", group="good"))

    steps.kind.look = look
    run = steps.run()
    assert len(asked) == looks
    assert (run.counts.moved, run.counts.failed) == (1, 1)
    (dead,) = steps.dead()
    assert (dead.code, dead.reason, dead.batch.scope) == (code, "it is so", Scope.of(["bad"]))


@pytest.mark.parametrize(("code", "looks"), [("LISTING_INCOMPLETE", engine_module.ATTEMPTS), ("UNAUTHORIZED", 1)])
def test_a_look_that_fails_as_a_whole_ends_the_run_with_its_reason(steps: Steps, code: str, looks: int) -> None:
    asked: list[str | None] = []

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        asked.append(cursor)
        raise SynclineError(code, "nothing to see")
        yield

    steps.kind.look = look
    run = steps.run()
    assert len(asked) == looks
    assert run.status is RunStatus.DONE
    assert run.counts.failed == 1
    (dead,) = steps.dead()
    assert (dead.code, dead.batch.scope) == (code, EVERYTHING)


def test_a_look_that_breaks_off_after_a_chunk_goes_on_behind_it(steps: Steps) -> None:
    breaks = iter([True, True])

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        for number, page in enumerate(pages(CHUNK_ITEMS + 3)):
            if cursor is None or page.cursor > cursor:
                if number == CHUNK_ITEMS + 2 and next(breaks, False):
                    raise SynclineError("UNREACHABLE", "gone")
                yield page

    steps.kind.look = look
    run = steps.run()
    assert run.counts.moved == len(steps.results()) == CHUNK_ITEMS + 3
    assert run.counts.failed == 0


def test_an_unforeseen_error_is_internal_and_has_its_end(steps: Steps) -> None:
    def look(_scope: Scope, _cursor: str | None, _pace: Pace) -> Iterator[Page]:
        raise ZeroDivisionError
        yield

    steps.kind.look = look
    run = steps.run()
    assert run.counts.failed == 1
    assert [dead.code for dead in steps.dead()] == ["INTERNAL"]


def test_a_look_of_any_length_is_not_taken_for_one_without_end(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "HOPS", 4)
    steps.kind.pages = pages(CHUNK_ITEMS * 6)
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (CHUNK_ITEMS * 6, 0)


def test_a_look_that_never_gets_anywhere_is_given_up(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "HOPS", 4)

    def look(_scope: Scope, _cursor: str | None, _pace: Pace) -> Iterator[Page]:
        steps.clock.sleep(400)
        return
        yield

    steps.kind.look = look
    run = steps.run()
    assert run.status is RunStatus.DONE
    assert [dead.code for dead in steps.dead()] == ["NO_PROGRESS"]


def test_a_look_that_stays_where_it_is_is_given_up_soon(steps: Steps) -> None:
    looks: list[str | None] = []

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        looks.append(cursor)
        if cursor is None:
            yield Page("team/0001", items("1", group="team/0001"))
        steps.clock.sleep(400)

    steps.kind.look = look
    run = steps.run()
    assert looks == [None, *["team/0001"] * engine_module.IDLE]
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 1, 1)
    (dead,) = steps.dead()
    assert (dead.code, dead.batch.scope) == ("NO_PROGRESS", EVERYTHING)
    assert dead.reason == "10 functions one after another got no further behind team/0001"


def test_a_look_that_gets_further_now_and_then_is_not_given_up(steps: Steps) -> None:
    looks = iter(range(1000))

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        reached = int(cursor or 0)
        if next(looks) % engine_module.IDLE == 0:
            yield Page(str(reached + 1), items("1", group=f"team/{reached}"))
        if reached < 4:
            steps.clock.sleep(400)

    steps.kind.look = look
    run = steps.run()
    assert (run.counts.moved, run.counts.failed) == (4, 0)


def test_a_look_that_fails_and_stays_where_it_is_in_turn_is_given_up_too(steps: Steps) -> None:
    looks = iter(range(100))

    def look(_scope: Scope, _cursor: str | None, _pace: Pace) -> Iterator[Page]:
        steps.clock.sleep(400)
        if next(looks) % 2:
            raise SynclineError("SERVER_ERROR", "it failed")
        yield from ()

    steps.kind.look = look
    assert steps.run().counts.failed == 1
    assert next(looks) < 12


@pytest.mark.parametrize("pages_before", [0, CHUNK_ITEMS, CHUNK_ITEMS + 1])
def test_the_requests_of_a_look_that_failed_are_counted(steps: Steps, pages_before: int) -> None:
    made = iter(range(1, 1000))

    def look(_scope: Scope, cursor: str | None, _pace: Pace) -> Iterator[Page]:
        for page in pages(pages_before):
            if cursor is None or page.cursor > cursor:
                steps.kind.more_requests = next(made)
                yield page
        steps.kind.more_requests = next(made)
        raise SynclineError("UNAUTHORIZED", "no")

    steps.kind.look = look
    run = steps.run()
    assert (run.counts.failed, run.counts.moved) == (1, pages_before // CHUNK_ITEMS * CHUNK_ITEMS)
    assert run.counts.requests == next(made) - 1 + 2 * run.counts.moved


def test_a_look_that_is_given_up_within_a_chunk_ends_its_run(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "HOPS", 0)
    steps.kind.pages = pages(CHUNK_ITEMS * 2)
    run = steps.run()
    assert run.status is RunStatus.DONE
    assert {dead.code for dead in steps.dead()} == {"NO_PROGRESS"}


def test_a_plan_moves_nothing_beside_a_run(steps: Steps) -> None:
    steps.begin("under-way")
    steps.kind.pages = [Page("a", items("1", "2", group="a"), skipped=1)]
    steps.start(plan=True)
    steps.pump.run()
    plan = next(run for run in steps.state.runs(SYNC) if run.plan)
    assert plan.status is RunStatus.DONE
    assert (plan.counts.would_move, plan.counts.skipped, plan.counts.moved) == (2, 1, 0)
    assert steps.kind.moved == []
    current = steps.state.current_run(SYNC)
    assert current is not None
    assert current.id == "under-way"


def test_a_plan_of_a_part_does_not_join_the_run_under_way(steps: Steps) -> None:
    steps.begin("under-way")
    steps.kind.pages = [Page("a", items("1", group="a"))]
    steps.start("a", plan=True)
    steps.pump.run()
    assert steps.kind.moved == []
    plan = next(run for run in steps.state.runs(SYNC) if run.plan)
    assert (plan.counts.would_move, plan.scope) == (1, Scope.of(["a"]))


def test_a_second_start_of_everything_says_so_and_does_nothing(steps: Steps) -> None:
    steps.begin("under-way")
    steps.kind.pages = pages(1)
    steps.start()
    steps.pump.run()
    assert [run.id for run in steps.state.runs(SYNC)] == ["under-way"]
    assert steps.kind.moved == []


def test_a_full_look_waits_for_a_run_that_looks_at_a_part_only(steps: Steps) -> None:
    """A registry that is pushed to all the time must not have its scheduled look passed over every time."""
    steps.state.begin_run(SYNC, "20260101-part", Trigger.WEBHOOK, Scope.of(["a"]))
    steps.kind.look = lambda scope, _cursor, _pace: [
        Page(group, items("1", group=group)) for group in scope.groups or ("a", "b")
    ]
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    assert steps.kind.moved == []
    steps.put(Batch("20260101-part", SYNC, Step.DISCOVER, "20260101-part", scope=Scope.of(["a"])))
    steps.pump.run()
    latest = steps.latest()
    assert (latest.scope, latest.status, latest.counts.queued) == (EVERYTHING, RunStatus.DONE, 2)


def test_an_event_joins_the_run_under_way_and_the_run_waits_for_it(steps: Steps) -> None:
    scopes: list[tuple[str, ...] | None] = []

    def look(scope: Scope, _cursor: str | None, _pace: Pace) -> Iterator[Page]:
        scopes.append(scope.groups)
        group = scope.groups[0] if scope.groups else "all"
        yield Page(group, items("1", group=group))

    steps.kind.look = look
    steps.start()
    steps.start("hinted")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert scopes == [None, ("hinted",)]
    assert run.counts.moved == 2
    assert set(steps.results()) == {("all", "1"), ("hinted", "1")}


def test_an_event_begins_a_run_of_its_own_where_none_is_under_way(steps: Steps) -> None:
    steps.kind.look = lambda scope, _cursor, _pace: [Page("hinted", items("1", group=(scope.groups or ("all",))[0]))]
    steps.start("hinted")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert run.scope == Scope.of(["hinted"])
    assert run.counts.moved == 1


def test_an_event_waits_for_a_run_that_is_being_cancelled(steps: Steps) -> None:
    """Longer than SQS would show a message again and again: the hint is not laid aside as a dead letter."""
    steps.begin("20260101-older")
    steps.state.cancel_run(SYNC, "20260101-older")
    steps.kind.look = lambda scope, _cursor, _pace: [Page("x", items("1", group=(scope.groups or ("all",))[0]))]
    steps.start("hinted")
    deadline = steps.clock.now + 300
    while steps.clock.now < deadline:
        (letter,) = steps.mail.waiting()
        steps.clock.now = max(steps.clock.now, letter.due)
        steps.pump.deliver([letter])
    run = steps.state.run(SYNC, "20260101-older")
    steps.put(Batch("20260101-older", SYNC, Step.DISCOVER, "20260101-older", scope=run.scope))
    steps.pump.run()
    assert steps.mail.dead() == []
    latest = steps.latest()
    assert (latest.scope, latest.counts.moved) == (Scope.of(["hinted"]), 1)


def test_a_run_that_was_begun_by_the_sender_is_carried_out_under_its_id(steps: Steps) -> None:
    steps.state.begin_run(SYNC, "mine", Trigger.HAND, EVERYTHING)
    steps.kind.pages = pages(2)
    steps.start(run="mine")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert (run.id, run.status, run.counts.moved) == ("mine", RunStatus.DONE, 2)


def test_a_start_that_comes_again_after_its_run_does_nothing(steps: Steps) -> None:
    steps.kind.pages = pages(2)
    letter = steps.start()
    steps.pump.run()
    again = Letter(letter.id, letter.url, letter.body, letter.sent, steps.clock.now)
    steps.mail.add(again)
    steps.pump.deliver([again])
    assert steps.mail.waiting() == [], "what followed has all ended, and is not sent again"
    (run,) = steps.state.runs(SYNC)
    assert run.counts.moved == 2
    assert len(steps.kind.moved) == 2
