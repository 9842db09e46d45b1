"""Known failures: the results of a batch, the records of failures, and the counts at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from syncline.errors import CodeName
from syncline.messages import Batch, DeadLetter
from syncline.model import EVERYTHING, Counts, Item, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.steps.results import ALL, answer_retry, final_counts, is_verified, mark_known, record_failures, unwritten
from syncline.store.batches import BatchRecord
from syncline.store.failures import LETTER_KEPT, Failures, Key, KnownFailure
from syncline.store.table import Database
from tests.rig.stack import new_table

SYNC = "images"
RUNS = [f"2026112{day}-101522-0000000000" for day in range(1, 8)]
BEFORE, NOW, NEXT = RUNS[2:5]
NOON = 1_790_000_000.0
DAY = 24 * 3600.0
BATCH = Batch(NOW, SYNC, Step.TRANSFER, "batch")


@pytest.fixture
def failures() -> Iterator[Failures]:
    with new_table() as table:
        yield Failures(Database(table), lambda: NOON)


def failed(
    name: str = "bad", code: CodeName = "REFUSED", source: str | None = "sha256:1", group: str = "team/app"
) -> Result:
    return Result(group, name, Outcome.FAILED, source, "sha256:2", code=code, reason="it is so")


def moved(name: str = "bad", outcome: Outcome = Outcome.MOVED) -> Result:
    return Result("team/app", name, outcome, "sha256:1")


def known(name: str = "bad", run: str = BEFORE, seen: str | None = None, **more: object) -> KnownFailure:
    made = replace(KnownFailure.of(failed(name), run, NOON - DAY), seen=seen or run)
    return replace(made, **more)  # type: ignore[arg-type]


def letter(name: str = "bad") -> DeadLetter:
    return DeadLetter(BATCH, "REFUSED", "it is so", ("team/app", name))


def all_of(failures: Failures) -> dict[str, KnownFailure]:
    return {each.name: each for each in failures.all(SYNC)}


class TestMarkKnown:
    """Results of a batch: new failures have a dead letter, known ones have none."""

    def test_a_new_failure_has_its_dead_letter(self, failures: Failures) -> None:
        results, dead = mark_known(failures, BATCH, [moved("1"), failed()], [letter()], NOON)
        assert (results, dead) == ((moved("1"), failed()), (letter(),))

    def test_other_results_stay(self, failures: Failures) -> None:
        assert mark_known(failures, BATCH, [moved("1")], [], NOON) == ((moved("1"),), ())

    def test_a_known_failure_has_no_dead_letter(self, failures: Failures) -> None:
        failures.write(SYNC, [known()])
        results, dead = mark_known(failures, BATCH, [moved("1"), failed()], [letter()], NOON)
        assert (results, dead) == ((moved("1"), replace(failed(), outcome=Outcome.KNOWN)), ())

    def test_a_changed_failure_keeps_its_dead_letter(self, failures: Failures) -> None:
        failures.write(SYNC, [known(code="FORBIDDEN")])
        assert mark_known(failures, BATCH, [failed()], [letter()], NOON) == ((failed(),), ())

    def test_only_a_failure_that_the_run_has_met_is_dropped(self, failures: Failures) -> None:
        failures.write(SYNC, [known(seen=NOW)])
        results, dead = mark_known(failures, BATCH, [failed(), moved("1"), failed("2")], [letter(), letter("2")], NOON)
        assert (results, dead) == ((moved("1"), failed("2")), (letter("2"),))

    @pytest.mark.parametrize(("age", "expiring"), [(LETTER_KEPT - DAY, False), (LETTER_KEPT - DAY + 1, True)])
    def test_a_dead_letter_that_expires_soon_is_renewed(
        self, failures: Failures, age: float, *, expiring: bool
    ) -> None:
        failures.write(SYNC, [known(buried=NOON - age)])
        _, dead = mark_known(failures, BATCH, [failed()], [letter()], NOON)
        assert dead == ((letter(),) if expiring else ())

    def test_a_failure_found_by_a_scan_has_a_dead_letter_for_its_group(self, failures: Failures) -> None:
        """The scan found it without a transfer, so there was no dead letter yet."""
        _, (dead,) = mark_known(failures, replace(BATCH, scope=EVERYTHING), [failed()], [], NOON)
        assert dead.key == ("team/app", "bad")
        assert (dead.code, dead.reason) == ("REFUSED", "it is so")
        assert dead.batch == replace(
            BATCH, items=(Item("team/app", "bad", "sha256:1", "sha256:2"),), scope=Scope.of(["team/app"])
        )

    def test_a_retried_failure_has_a_dead_letter(self, failures: Failures) -> None:
        failures.ask(SYNC, NOW, [("team/app", "bad")])
        results, dead = mark_known(failures, BATCH, [failed(), failed("2")], [letter(), letter("2")], NOON)
        assert (results, dead) == ((failed(), failed("2")), (letter("2"),))

    def test_a_plan_has_no_dead_letter(self, failures: Failures) -> None:
        assert mark_known(failures, replace(BATCH, plan=True), [failed()], [], NOON) == ((failed(),), ())


class TestRecordFailures:
    def met(self, failures: Failures, *results: Result, dead: Iterable[DeadLetter] = (), again: bool = False) -> None:
        record = BatchRecord(results, (), tuple(dead))
        if again:
            record = unwritten(failures, BATCH, record, lambda _: set())
        record_failures(failures, BATCH, record, NOON, again=again)

    def test_a_new_failure_is_recorded(self, failures: Failures) -> None:
        self.met(failures, failed(), dead=[letter()])
        assert all_of(failures) == {"bad": KnownFailure.of(failed(), NOW, NOON)}
        assert failures.any(SYNC)

    def test_a_known_failure_is_seen_and_keeps_its_dead_letter(self, failures: Failures) -> None:
        failures.write(SYNC, [known(acknowledged=True)])
        self.met(failures, replace(failed(), outcome=Outcome.KNOWN, source=None))
        assert all_of(failures) == {"bad": known(acknowledged=True, seen=NOW)}

    def test_a_known_failure_with_a_new_dead_letter(self, failures: Failures) -> None:
        failures.write(SYNC, [known()])
        self.met(failures, replace(failed(), outcome=Outcome.KNOWN), dead=[letter()])
        assert all_of(failures) == {"bad": known(seen=NOW, buried=NOON)}

    def test_a_source_fingerprint_found_later_is_recorded(self, failures: Failures) -> None:
        failures.write(SYNC, [known(source=None)])
        self.met(failures, replace(failed(), outcome=Outcome.KNOWN))
        assert all_of(failures) == {"bad": known(seen=NOW)}

    def test_a_changed_failure_is_new_and_not_acknowledged(self, failures: Failures) -> None:
        failures.write(SYNC, [known(code="FORBIDDEN", acknowledged=True)])
        self.met(failures, failed())
        assert all_of(failures) == {"bad": KnownFailure.of(failed(), NOW, NOON - DAY)}

    def test_a_known_failure_without_a_record_belongs_to_an_earlier_run(self, failures: Failures) -> None:
        self.met(failures, replace(failed(), outcome=Outcome.KNOWN))
        assert all_of(failures) == {"bad": replace(KnownFailure.of(failed(), "", NOON), seen=NOW)}

    @pytest.mark.parametrize("outcome", [Outcome.MOVED, Outcome.REMOVED, Outcome.EQUAL])
    def test_a_verified_item_is_solved(self, failures: Failures, outcome: Outcome) -> None:
        failures.write(SYNC, [known(), known("other")])
        self.met(failures, moved("bad", outcome))
        assert set(all_of(failures)) == {"other"}
        assert failures.find(SYNC, [("team/app", "bad")])["team/app", "bad"].solved == NOW

    def test_an_item_left_out_is_forgotten(self, failures: Failures) -> None:
        failures.write(SYNC, [known(), known("other")])
        self.met(failures, moved("bad", Outcome.LEFT_OUT))
        assert set(all_of(failures)) == {"other"}
        assert failures.find(SYNC, [("team/app", "bad")]) == {}

    def test_a_solved_failure_is_neither_solved_again_nor_forgotten(self, failures: Failures) -> None:
        failures.write(SYNC, [known("other")])
        failures.solve(SYNC, [known("1"), known("2")], BEFORE)
        self.met(failures, moved("1"), moved("2", Outcome.LEFT_OUT))
        found = failures.find(SYNC, [("team/app", "1"), ("team/app", "2")])
        assert [each.solved for each in found.values()] == [BEFORE, BEFORE]

    def test_a_conflict_and_a_cancelled_item_solve_nothing(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), known("2")])
        self.met(failures, moved("1", Outcome.CONFLICT), moved("2", Outcome.CANCELLED))
        assert set(all_of(failures)) == {"1", "2"}

    def test_a_repeated_end_changes_nothing(self, failures: Failures) -> None:
        """A later run may have met or solved the item."""
        later = [known("1", seen=NEXT), known("2", run=NEXT), known("3", seen=NOW)]
        failures.write(SYNC, later)
        failures.solve(SYNC, [known("4")], NEXT)
        self.met(failures, *(failed(name, "FORBIDDEN") for name in "1234"), moved("5"), again=True)
        assert all_of(failures) == {each.name: each for each in later}

    def test_a_repeated_end_records_missing_failures(self, failures: Failures) -> None:
        """The function died after the end of the batch."""
        failures.write(SYNC, [known("1")])
        self.met(failures, failed("1"), failed("2"), again=True)
        assert {name: each.seen for name, each in all_of(failures).items()} == {"1": NOW, "2": NOW}

    def test_a_repeated_end_does_not_record_a_failure_that_a_later_run_has_forgotten(self, failures: Failures) -> None:
        failures.forget(SYNC, [("team/app", "other")], NEXT)
        self.met(failures, failed(), again=True)
        assert not all_of(failures)

    def test_a_repeated_end_does_not_record_an_item_that_a_later_run_has_verified(self, failures: Failures) -> None:
        failures.write(SYNC, [known("3", seen=NOW)])
        record = BatchRecord((moved("0"), failed("1"), failed("2"), failed("3")), (), (letter("1"), letter("2")))
        asked: list[set[Key]] = []

        def since(keys: set[Key]) -> set[Key]:
            asked.append(keys)
            return {("team/app", "1")}

        left = unwritten(failures, BATCH, record, since)
        assert left == BatchRecord((moved("0"), failed("2")), (), (letter("2"),))
        assert asked == [{("team/app", "1"), ("team/app", "2")}]

    @pytest.mark.parametrize("forgetting", [BEFORE, NOW])
    def test_a_repeated_end_records_missing_failures_although_others_were_forgotten(
        self, failures: Failures, forgetting: str
    ) -> None:
        failures.forget(SYNC, [("team/app", "other")], forgetting)
        self.met(failures, failed(), again=True)
        assert set(all_of(failures)) == {"bad"}

    def test_a_repeated_end_records_missing_verifications(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), known("2"), known("3", seen=NOW), known("4", run=NEXT)])
        self.met(failures, moved("1"), moved("2", Outcome.LEFT_OUT), moved("3"), moved("4"), again=True)
        assert set(all_of(failures)) == {"3", "4"}
        found = failures.find(SYNC, [("team/app", "1"), ("team/app", "2")])
        assert {key[1]: each.solved for key, each in found.items()} == {"1": NOW}

    def test_a_plan_records_nothing(self, failures: Failures) -> None:
        record_failures(failures, replace(BATCH, plan=True), BatchRecord((failed(),)), NOON)
        assert not failures.any(SYNC)


def run(counts: Counts, scope: Scope = EVERYTHING, **more: object) -> Run:
    made = Run(NOW, SYNC, 3, Trigger.MANUAL, scope, NOON, counts=counts)
    return replace(made, **more)  # type: ignore[arg-type]


class TestFinalCounts:
    """The known and acknowledged failures at the end of a run."""

    def ends(self, failures: Failures, made: Run, *results: Result) -> tuple[int, int]:
        counts = final_counts(failures, made, results)
        assert replace(counts, known=0, acknowledged=0) == replace(made.counts, known=0, acknowledged=0)
        return counts.known, counts.acknowledged

    def test_a_sync_without_failures(self, failures: Failures) -> None:
        assert self.ends(failures, run(Counts(moved=3))) == (0, 0)

    def test_met_failures_are_counted_as_new_known_and_acknowledged(self, failures: Failures) -> None:
        accepted = [known("3", seen=NOW, acknowledged=True), known("4", seen=NOW, acknowledged=True)]
        failures.write(SYNC, [known("1", run=NOW), known("2", seen=NOW), *accepted])
        assert self.ends(failures, run(Counts(failed=1, known=3))) == (1, 2)
        assert failures.any(SYNC)

    def test_a_failure_that_a_full_scan_has_not_met_is_forgotten(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), known("2", acknowledged=True), known("3", seen=NOW)])
        assert self.ends(failures, run(Counts(known=1))) == (1, 0)
        assert set(all_of(failures)) == {"3"}
        assert failures.any(SYNC)

    def test_a_verified_item_is_not_counted_as_known(self, failures: Failures) -> None:
        """Another function has ended the batch and has not recorded it yet."""
        failures.write(SYNC, [known("1"), known("2"), known("3", seen=NOW)])
        made = run(Counts(moved=1, known=1), Scope.of(["team/app"]))
        assert self.ends(failures, made, moved("1"), moved("3")) == (2, 0)
        assert set(all_of(failures)) == {"1", "2", "3"}

    def test_a_failure_solved_during_the_count_is_not_counted(
        self, failures: Failures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = iter([[known("1"), known("2", seen=NOW)], [known("2", seen=NOW)]])
        monkeypatch.setattr(Failures, "all", lambda *_: iter(next(found)))
        failures.write(SYNC, [known("2")])
        assert self.ends(failures, run(Counts(moved=1, known=1))) == (1, 0)

    def test_without_the_last_failure_the_sync_has_none(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), known("2", acknowledged=True)])
        assert self.ends(failures, run(Counts())) == (0, 0)
        assert not failures.any(SYNC)

    def test_a_failure_written_during_the_count_is_kept(
        self, failures: Failures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures.write(SYNC, [known("1")])
        forget = Failures.forget

        def forget_and_write(self: Failures, sync: str, keys: Iterable[Key], run: str) -> None:
            forget(self, sync, keys, run)
            self.write(sync, [known("2", run=NEXT)])

        monkeypatch.setattr(Failures, "forget", forget_and_write)
        assert self.ends(failures, run(Counts())) == (0, 0)
        assert failures.any(SYNC)

    @pytest.mark.parametrize(
        "made",
        [
            run(Counts(), Scope.of(["team/other"])),
            run(Counts(), status=RunStatus.CANCELLING),
        ],
    )
    def test_a_failure_stays_after_a_partial_or_cancelled_scan(self, failures: Failures, made: Run) -> None:
        failures.write(SYNC, [known("1"), known("2", acknowledged=True)])
        assert self.ends(failures, made) == (1, 1)
        assert set(all_of(failures)) == {"1", "2"}

    @pytest.mark.parametrize(
        ("group", "kept"),
        [
            (ALL, {"a/1", "b/a/2", "ba/3"}),
            ("team/app", {"a/1", "b/a/2", "ba/3"}),
            ("a/", {"a/1", "b/a/2"}),
            ("a", set()),
            ("b/", {"b/a/2"}),
        ],
    )
    def test_failures_of_unreadable_groups_stay(self, failures: Failures, group: str, kept: set[str]) -> None:
        unreadable = KnownFailure.of(failed(ALL, "FORBIDDEN", group=group), NOW, NOON)
        failures.write(SYNC, [known("a/1"), known("b/a/2"), known("ba/3"), unreadable])
        assert self.ends(failures, run(Counts(failed=1))) == (len(kept), 0)
        assert set(all_of(failures)) == kept | {ALL}

    def test_a_scan_with_capped_removals_has_read_everything(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), KnownFailure.of(failed(ALL, "REMOVALS_CAPPED", group=ALL), NOW, NOON)])
        assert self.ends(failures, run(Counts(failed=1))) == (0, 0)

    def test_a_plan_counts_the_failures_that_it_has_met(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), known("2", acknowledged=True), known("3")])
        met = [replace(failed(name), outcome=Outcome.KNOWN) for name in "12"]
        plan = run(Counts(known=2, would_move=1), plan=True)
        assert self.ends(failures, plan, *met, moved("3", Outcome.WOULD_MOVE)) == (1, 1)
        assert self.ends(failures, replace(plan, counts=Counts()), *met) == (0, 0)
        assert set(all_of(failures)) == {"1", "2", "3"}


class TestAnswerRetry:
    """Results for the items of a retry."""

    def answers(self, failures: Failures, asked: Iterable[Key], *results: Result) -> tuple[set[Key], set[Key]]:
        """Return the items that are reported as gone, and those that are solved."""
        asked = list(asked)
        failures.ask(SYNC, NOW, asked)
        gone = answer_retry(failures, run(Counts(), trigger=Trigger.RETRY), results)
        assert {(each.outcome, each.code) for each in gone} <= {(Outcome.FAILED, "ITEM_GONE")}
        assert [(each.group, each.name) for each in gone] == sorted((each.group, each.name) for each in gone)
        found = failures.find(SYNC, asked)
        return {(each.group, each.name) for each in gone}, {key for key, each in found.items() if each.solved == NOW}

    def test_a_run_that_is_no_retry_reports_nothing(self, failures: Failures) -> None:
        assert answer_retry(failures, run(Counts()), [moved()]) == []

    def test_items_are_solved_fail_again_or_are_gone(self, failures: Failures) -> None:
        failures.write(SYNC, [known("1"), known("2", seen=NOW)])
        asked = [("team/app", name) for name in "1234"]
        results = [moved("1"), failed("2"), moved("3", Outcome.EQUAL), moved("other")]
        gone, solved = self.answers(failures, asked, *results)
        assert gone == {("team/app", "4")}
        assert solved == {("team/app", "1"), ("team/app", "3")}
        assert set(all_of(failures)) == {"2"}

    def test_an_item_that_also_failed_is_not_solved(self, failures: Failures) -> None:
        assert self.answers(failures, [("team/app", "1")], moved("1"), failed("1")) == (set(), set())

    def test_an_item_with_a_conflict_is_not_gone(self, failures: Failures) -> None:
        assert self.answers(failures, [("team/app", "1")], moved("1", Outcome.CONFLICT)) == (set(), set())

    @pytest.mark.parametrize("group", ["team/app", ALL])
    def test_an_item_of_an_unreadable_group_is_not_gone(self, failures: Failures, group: str) -> None:
        assert self.answers(failures, [("team/app", "1")], failed(ALL, "FORBIDDEN", group=group)) == (set(), set())

    @pytest.mark.parametrize("fails", [False, True])
    def test_an_unreadable_group_is_solved_by_a_scan(self, failures: Failures, *, fails: bool) -> None:
        asked = [("team/app", ALL), (ALL, ALL), (ALL, "bucket")]
        results = [failed(name, "FORBIDDEN", group=group) for group, name in asked if fails]
        assert self.answers(failures, asked, *results) == (set(), set() if fails else set(asked))

    def test_an_invalid_entry_that_is_not_met_is_solved(self, failures: Failures) -> None:
        failures.write(SYNC, [known("entry 3", code="ENTRY_INVALID"), known("1")])
        gone, solved = self.answers(failures, [("team/app", "entry 3"), ("team/app", "1")], moved("other"))
        assert (gone, solved) == ({("team/app", "1")}, {("team/app", "entry 3")})


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_item_is_verified_if_the_target_equals_the_source(outcome: Outcome) -> None:
    verified = outcome in (Outcome.MOVED, Outcome.REMOVED, Outcome.EQUAL)
    assert is_verified(moved("1", outcome)) is verified
    assert not is_verified(replace(moved("1", outcome), code="TAG_DIFFERS"))
