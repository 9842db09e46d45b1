"""Discover: the counts of a scan, and the chunks in which it sends items."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import pytest
from botocore.exceptions import EndpointConnectionError

from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Completed, Page, StepContext
from syncline.messages import Batch, decode
from syncline.model import EVERYTHING, Item, Outcome, Result, RunStatus, Scope, Trigger
from syncline.steps.discover import CHUNK_SECONDS
from tests.rig.made_up import SYNC, Answer, Steps, items, pages
from tests.rig.pump import Letter
from tests.rig.run_ids import made_run_id
from tests.unit.steps.conftest import CHUNK_ITEMS, CHUNK_RESULTS

pytestmark = pytest.mark.usefixtures("small_chunks")
SHARE = 5
SLOW = CHUNK_SECONDS / 3 + 0.1
"""Seconds per page; three such pages end a chunk."""


def test_each_difference_is_moved_once_and_equal_items_are_only_counted(steps: Steps) -> None:
    steps.kind.pages = [
        Page("a", items("1", "2", group="a"), equal=3),
        Page("b", results=(Result("b", "1", Outcome.CONFLICT, code="TAG_DIFFERS", reason="two images"),)),
        Page("c", equal=7),
    ]
    run = steps.run()
    counts = run.counts
    assert (counts.queued, counts.moved, counts.skipped, counts.conflict, counts.bytes) == (2, 2, 10, 1, 20)
    assert run.status is RunStatus.DONE
    assert set(steps.results()) == {("a", "1"), ("a", "2"), ("b", "1")}


def test_items_left_out_are_counted_and_are_no_failures(steps: Steps) -> None:
    steps.kind.pages = [
        Page("a", items("1", group="a"), equal=1, left_out=2),
        Page("b", results=(Result("b", "1", Outcome.LEFT_OUT, reason="not selected"),), left_out=3),
    ]
    run = steps.run()
    counts = run.counts
    assert (counts.left_out, counts.skipped, counts.queued, counts.moved, counts.failed) == (6, 1, 1, 1, 0)
    assert run.status is RunStatus.DONE
    assert steps.results()["b", "1"].outcome is Outcome.LEFT_OUT


def test_extras_are_counted_separately_and_are_no_failure(steps: Steps) -> None:
    steps.kind.pages = [
        Page("a", items("1", group="a"), extra=2),
        Page("b", results=(Result("b", "1", Outcome.EXTRA, None, "there"),), extra=3),
    ]
    run = steps.run()
    counts = run.counts
    assert (counts.extra, counts.queued, counts.moved, counts.failed) == (6, 1, 1, 0)
    assert run.status is RunStatus.DONE
    assert steps.results()["b", "1"].outcome is Outcome.EXTRA


def test_items_left_out_in_each_chunk_are_counted_once(steps: Steps) -> None:
    steps.kind.pages = [replace(page, left_out=1) for page in pages(CHUNK_ITEMS * 2 + 3)]
    assert steps.run().counts.left_out == CHUNK_ITEMS * 2 + 3


def test_the_context_has_the_batch_and_marks_later_scans_of_a_run(steps: Steps) -> None:
    seen: list[tuple[str, bool]] = []

    def scan(scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        if scope.groups is None and cursor is None:
            steps.start("team/0001")  # joins the run during its first scan
        for page in pages(CHUNK_ITEMS + 2):
            if (scope.groups is None or page.cursor in scope.groups) and (cursor is None or page.cursor > cursor):
                seen.append((context.work, context.joined))
                yield page

    steps.kind.look = scan
    run = steps.run()
    own, joined = seen[: CHUNK_ITEMS + 2], seen[CHUNK_ITEMS + 2 :]
    assert own[:CHUNK_ITEMS] == [(run.id, False)] * CHUNK_ITEMS
    # The first chunk was sent, so items are in flight, and the scan continues as another batch.
    assert len(set(own[CHUNK_ITEMS:])) == 1
    assert (own[-1][0] != run.id, own[-1][1]) == (True, True)
    [(work, late)] = joined
    assert (work.endswith("-look"), late) == (True, True)


def test_a_redelivered_batch_continues_under_the_same_work_id(steps: Steps) -> None:
    """The function dies after it has sent a chunk. The message of the rest has the ID of the work that it began."""
    first: list[tuple[str, str, bool]] = []
    second: list[tuple[str, str, bool]] = []
    seen = first

    def scan(_scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        for page in pages(CHUNK_ITEMS + 2):
            if cursor is None or page.cursor > cursor:
                seen.append((page.cursor, context.work, context.joined))
                if seen is first and len(seen) == CHUNK_ITEMS + 2:
                    raise EndpointConnectionError(endpoint_url="made.up")  # the message goes back to its queue
                yield page

    steps.kind.look = scan
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    assert len(first) == CHUNK_ITEMS + 2
    seen = second
    steps.pump.run()
    assert second == first[CHUNK_ITEMS:]
    assert steps.latest().counts.moved == CHUNK_ITEMS + 2


def test_a_retried_scan_is_not_the_first_of_its_run(steps: Steps) -> None:
    seen: list[tuple[str, bool]] = []

    def scan(_scope: Scope, _cursor: str | None, context: StepContext) -> Iterator[Page]:
        seen.append((context.work, context.joined))
        if len(seen) == 1:
            raise SynclineError("UNREACHABLE", "gone")
        yield from pages(1)

    steps.kind.look = scan
    run = steps.run()
    assert seen[0] == (run.id, False)
    assert (seen[1][0] != run.id, seen[1][1]) == (True, True)


@pytest.mark.parametrize("code", ["TIME_SHORT", "THROTTLED", "SERVER_ERROR"])
def test_an_interrupted_scan_continues_after_its_last_page(steps: Steps, code: CodeName) -> None:
    """A slow or throttling server interrupts each function's part of a long listing without differences."""
    begun: list[str | None] = []

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        begun.append(cursor)
        remaining = [page for page in pages(30) if cursor is None or page.cursor > cursor]
        for page in remaining[:3]:
            yield replace(page, items=(), equal=1)
        if len(remaining) > 3:
            raise SynclineError(code, "the listing was interrupted")

    steps.kind.look = scan
    run = steps.run()
    assert (run.status, run.counts.failed, run.counts.skipped) == (RunStatus.DONE, 0, 30)
    assert len(begun) == len(set(begun)) == 10


@pytest.mark.parametrize("allowed", [None, 0, 400])
def test_steps_get_the_removals_allowed_for_the_run(steps: Steps, allowed: int | None) -> None:
    seen: list[int | None] = []

    def scan(_scope: Scope, _cursor: str | None, context: StepContext) -> Iterator[Page]:
        seen.append(context.allow_removals)
        yield from pages(1)

    def move(item: Item, context: StepContext) -> Answer:
        seen.append(context.allow_removals)
        return Completed(item)

    steps.kind.look, steps.kind.move = scan, move
    run_id = made_run_id()
    steps.state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING, allow_removals=allowed)
    steps.start(run=run_id)
    steps.pump.run()
    assert seen == [allowed, allowed]
    assert steps.latest().allow_removals == allowed


def test_a_message_has_at_most_a_share_of_the_items_of_a_group(steps: Steps) -> None:
    steps.kind.pages, steps.kind.share = pages(1, SHARE * 2 + 1), SHARE
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    batches = [decode(letter.body) for letter in steps.mail.waiting()]
    assert [len(batch.items) for batch in batches if isinstance(batch, Batch)] == [SHARE, SHARE, 1]


def test_a_scan_of_many_groups_writes_small_records_and_letters(steps: Steps) -> None:
    """The batches of a scan do not carry its scope, which would make a record too large for the table."""
    rng = random.Random(steps.seed)
    groups = [f"team/{rng.randbytes(500).hex()}" for _ in range(40)]
    bad = [Result(group, "bad", Outcome.FAILED, code="PATH_REFUSED", reason="no path") for group in groups]
    steps.kind.pages = [Page("p", tuple(Item(group, "1", "digest") for group in groups), results=tuple(bad))]
    steps.start(*groups)
    steps.pump.run()
    counts = steps.latest().counts
    assert (counts.moved, counts.failed) == (40, 40)
    assert max(len(letter.body) for _, letter in steps.mail.dead()) < 10_000


def test_a_long_scan_sends_chunks_before_its_end(steps: Steps) -> None:
    sent: list[int] = []

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        for page in pages(CHUNK_ITEMS * 2 + 3):
            if cursor is None or page.cursor > cursor:
                sent.append(len(steps.mail.waiting()))
                yield page

    steps.kind.look = scan
    run = steps.run()
    assert run.counts.moved == run.counts.queued == CHUNK_ITEMS * 2 + 3
    assert sent[CHUNK_ITEMS] == CHUNK_ITEMS + 1  # the transfers of the first chunk, and the start itself
    assert sent[-1] == CHUNK_ITEMS * 2 + 1


def test_a_scan_with_many_results_ends_a_chunk_before_its_record_is_too_large(steps: Steps) -> None:
    recorded: list[int] = []

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        for name in (f"{n:04}" for n in range(CHUNK_RESULTS + 10)):
            if cursor is None or name > cursor:
                recorded.append(len(steps.results()))
                yield Page(name, results=(Result(name, "t", Outcome.CONFLICT, code="TAG_DIFFERS", reason="two"),))

    steps.kind.look = scan
    run = steps.run()
    assert run.counts.conflict == len(steps.results()) == CHUNK_RESULTS + 10
    assert recorded == [0] * CHUNK_RESULTS + [CHUNK_RESULTS] * 10


@pytest.mark.parametrize("differs", [False, True])
def test_a_slow_scan_sends_a_chunk_after_some_seconds(steps: Steps, *, differs: bool) -> None:
    works: list[str] = []

    def scan(_scope: Scope, _cursor: str | None, context: StepContext) -> Iterator[Page]:
        for page in pages(6):
            steps.clock.sleep(SLOW)
            works.append(context.work)
            yield page if differs else Page(page.cursor, equal=1)

    steps.kind.look = scan
    steps.run()
    chunks = [len(list(pages_of)) for _, pages_of in groupby(works)]
    assert chunks == ([3, 3] if differs else [6]), "without a difference there is nothing to send"


@pytest.mark.parametrize("at", [0, 1, CHUNK_ITEMS, CHUNK_ITEMS * 2 + 1])
def test_a_scan_delivered_twice_at_once_runs_once(steps: Steps, at: int) -> None:
    """The second delivery comes while the first is at page ``at``."""
    everything = pages(CHUNK_ITEMS * 2 + 6)
    letter = steps.start()
    twice = [Letter(letter.id, letter.url, letter.body, letter.sent, letter.due, copied=True)]
    seen: Counter[str] = Counter()

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        for number, page in enumerate(everything):
            if number == at and twice:
                steps.pump.deliver([twice.pop()])
            if cursor is None or page.cursor > cursor:
                seen[page.cursor] += 1
                yield page

    steps.kind.look = scan
    steps.pump.run()
    assert set(seen.values()) == {1}
    run = steps.latest()
    assert run.status is RunStatus.DONE
    assert len(steps.results()) == run.counts.moved == run.counts.queued == len(everything)


@pytest.mark.parametrize("pages_each", [1, 3])
def test_a_scan_continues_in_several_functions(steps: Steps, pages_each: int) -> None:
    functions: list[int] = []

    def scan(_scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        functions.append(0)
        for page in pages(8):
            if cursor is not None and page.cursor <= cursor:
                continue
            if context.over:
                return
            functions[-1] += 1
            steps.clock.sleep(285 / pages_each)
            yield page

    steps.kind.look = scan
    run = steps.run()
    assert run.counts.moved == len(steps.results()) == 8
    assert len(functions) >= 8 / pages_each
