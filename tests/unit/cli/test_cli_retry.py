"""``retry`` and ``cancel``."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from syncline import messages
from syncline.errors import SynclineError
from syncline.messages import Batch, Outgoing, QueuedLetter, Start, decode, encode, to_json
from syncline.model import EVERYTHING, Counts, Item, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.operations import RetryLetter, SortedLetters, delete_letters
from syncline.steps.engine import BatchWork
from syncline.steps.results import answer_retry, mark_known
from syncline.store.batches import BatchRecord
from syncline.store.failures import KnownFailure
from syncline.store.state import State, first_batch
from tests.rig.run_ids import made_run_id
from tests.unit.cli.cli_stack import Stack, moved


def bodies(stack: Stack, step: Step) -> list[str]:
    queue = stack.target.queues.urls[step]
    found = stack.target.queues.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
    return [message["Body"] for message in found.get("Messages", [])]


def test_retry_without_dead_letters_does_nothing(applied: Stack) -> None:
    result = applied.run("retry", "prod")
    assert result.exit_code == 0
    assert result.stdout.startswith("prod has no dead letters to retry\n→ syncline run prod --wait")
    assert applied.target.state.runs("prod") == []


def test_retry_scans_the_groups_of_dead_letters(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/base", "mirror/team/app", "mirror/team/app")
    result = applied.run("retry", "prod")
    assert result.exit_code == 0, result.output
    assert "over mirror/team/app, mirror/team/base for 3 dead letters" in result.stdout
    [start] = applied.started()
    assert start.trigger is Trigger.RETRY
    assert start.scope == Scope.of(["mirror/team/app", "mirror/team/base"])
    assert applied.target.state.current_run("prod") == applied.target.state.run("prod", str(start.run))
    assert applied.dead_letters() == 3, "a dead letter stays until its item is verified"
    asked = applied.target.state.failures.asked("prod", str(start.run))
    assert asked == {("mirror/team/app", "1.0"), ("mirror/team/base", "1.0")}


def test_the_retry_of_a_failed_scan_covers_everything(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/base")
    applied.add_dead_letters()
    assert "over everything" in applied.run("retry", "prod").stdout
    [start] = applied.started()
    assert start.scope == EVERYTHING
    asked = applied.target.state.failures.asked("prod", str(start.run))
    assert asked == {("*", "*"), ("mirror/team/base", "1.0")}


@pytest.mark.parametrize("step", [Step.DISCOVER, Step.TRANSFER])
def test_a_failure_found_by_a_scan_is_retried_by_a_scan(applied: Stack, step: Step) -> None:
    """The dead letter of a result has none of the details that a transfer of the item needs."""
    state, queues = applied.target.state, applied.target.queues
    batch = Batch(made_run_id(), "prod", step, "b")
    result = Result("mirror/team/app", "1.0", Outcome.FAILED, "run:7.1", code="ARTIFACT_EXPIRED", reason="expired")
    _, [letter] = mark_known(state.failures, batch, [result], [], 0.0)
    assert [dict(item.detail) for item in letter.batch.items] == [{}]
    queues.send_dead_letters(step, [encode(letter)])
    applied.run("retry", "prod")
    [start] = applied.started()
    assert start.scope == Scope.of(["mirror/team/app"])
    assert state.failures.asked("prod", str(start.run)) == {("mirror/team/app", "1.0")}
    assert bodies(applied, Step.TRANSFER) == []
    assert applied.dead_letters(step) == 1


def test_dead_letters_of_other_syncs_stay(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/app", sync="dev")
    applied.target.queues.send_dead_letters(Step.TRANSFER, ["nobody's message"])
    applied.add_dead_letters("mirror/team/base")
    value = applied.json("retry", "prod")
    assert value["letters"] == {"retried": 1, "resumed": 0, "left": 2, "verified": 0}
    letters = applied.target.queues.dead_letters(Step.TRANSFER, hidden_for=0)
    assert {next(letters).body[:10] for _ in range(3)} == {'{"v":1,"ty', "nobody's m"}


def test_dead_letters_stay_during_a_run(applied: Stack) -> None:
    run = applied.begin()
    applied.add_dead_letters("mirror/team/base")
    result = applied.run("retry", "prod")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error ALREADY_RUNNING: run {run.id} of prod has been in progress")
    assert applied.started() == []
    assert len(list(_visible(applied))) == 1


def test_dead_letters_stay_if_the_run_cannot_be_queued(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    applied.add_dead_letters("mirror/team/base")

    def refuse(*_: object) -> None:
        raise RuntimeError("no network")

    with monkeypatch.context() as patched:
        patched.setattr("syncline.messages.Queues.start", refuse)
        assert applied.run("retry", "prod").exit_code == 2
    assert len(list(_visible(applied))) == 1
    assert applied.json("retry", "prod")["letters"]["retried"] == 1


def _visible(stack: Stack) -> list[str]:
    """Return the visible dead letters of transfer."""
    queue = stack.target.queues.dead_urls[Step.TRANSFER]
    found = stack.target.queues.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [message["Body"] for message in found.get("Messages", [])]


def test_a_message_of_the_current_run_goes_back_to_its_queue(applied: Stack) -> None:
    """SQS moves a message that was received too often to the dead letters. The run cannot end without it."""
    run = applied.begin()
    batch = first_batch(run).child(0, step=Step.TRANSFER, items=(Item("mirror/team/app", "1.0"),))
    root = BatchRecord((), (Outgoing(batch),))
    applied.target.state.end_batch(first_batch(run), root, Counts(queued=1))
    applied.target.queues.send_dead_letters(Step.TRANSFER, [encode(batch)])
    applied.add_dead_letters("mirror/team/base")
    result = applied.run("retry", "prod")
    assert result.exit_code == 0
    assert "1 message put back into its queue; the run in progress continues" in result.stdout
    assert "1 dead letter of prod kept until that run ends" in result.stdout
    assert [decode(body) for body in bodies(applied, Step.TRANSFER)] == [batch]
    assert len(_visible(applied)) == 1


def test_the_start_of_the_current_run_goes_back_to_its_queue(applied: Stack) -> None:
    run = applied.begin()
    start = Start("prod", Trigger.MANUAL, run=run.id)
    applied.target.queues.send_dead_letters(Step.DISCOVER, [encode(start)])
    assert applied.json("retry", "prod")["letters"] == {
        "retried": 0,
        "resumed": 1,
        "left": 0,
        "verified": 0,
    }
    assert applied.started() == [start]


def test_a_start_without_a_run_is_retried(applied: Stack) -> None:
    start = Start("prod", Trigger.WEBHOOK, Scope.of(["mirror/team/app"]))
    applied.target.queues.send_dead_letters(Step.DISCOVER, [encode(start)])
    assert applied.json("retry", "prod")["letters"]["retried"] == 1
    assert applied.started()[0].scope.groups == ("mirror/team/app",)


def test_messages_of_ended_runs_are_retried(applied: Stack) -> None:
    run = applied.finish(applied.begin(), moved())
    late = Batch(run.id, "prod", Step.VERIFY, "late", (Item("mirror/team/app", "1.0"),))
    forgotten = replace(late, run=made_run_id(), items=(Item("mirror/team/base", "1.0"),))
    applied.target.queues.send_dead_letters(Step.VERIFY, [encode(late), encode(forgotten)])
    assert applied.json("retry", "prod")["letters"]["retried"] == 2
    assert applied.started()[0].scope.groups == ("mirror/team/app", "mirror/team/base")


def test_a_message_of_another_version_stays_until_that_version_retries_it(
    applied: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = applied.begin()
    batch = first_batch(run).child(0, step=Step.TRANSFER, items=(Item("mirror/team/app", "1.0"),))
    root = BatchRecord((), (Outgoing(batch),))
    applied.target.state.end_batch(first_batch(run), root, Counts(queued=1))
    applied.target.queues.send_dead_letters(Step.TRANSFER, [json.dumps(to_json(batch) | {"v": 2})])
    assert applied.json("retry", "prod")["letters"]["resumed"] == 0
    assert len(_visible(applied)) == 1, "this version does not touch it"
    monkeypatch.setattr(messages, "VERSION", 2)
    assert applied.json("retry", "prod")["letters"]["resumed"] == 1
    assert [decode(body) for body in bodies(applied, Step.TRANSFER)] == [batch]
    assert _visible(applied) == []


def test_a_plan_leaves_no_dead_letters(applied: Stack) -> None:
    run = applied.begin(plan=True)
    work = BatchWork(first_batch(run))
    work.give_up(Item("mirror/team/app", "*"), SynclineError("NOT_FOUND", "it is gone"))
    assert [result.code for result in work.results] == ["NOT_FOUND"]
    assert work.dead == []


def test_only_the_first_of_many_repositories_are_named(applied: Stack) -> None:
    applied.add_dead_letters(*(f"mirror/team/r{n}" for n in range(8)))
    assert "mirror/team/r4 and 3 others for 8 dead letters" in applied.run("retry", "prod").stdout


def test_dead_letters_beyond_one_run_are_kept(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.operations.LARGEST_SCOPE", 80)
    applied.add_dead_letters(*(f"mirror/team/r{n}" for n in range(8)))
    result = applied.run("retry", "prod")
    assert result.exit_code == 0, result.output
    assert "5 dead letters of prod kept, more than one run can cover; run `syncline retry prod" in result.stdout
    [first] = applied.started()
    run = applied.target.state.run("prod", str(first.run))
    verify(applied, run, *(first.scope.groups or ()))
    assert applied.json("retry", "prod")["letters"] == {"retried": 3, "resumed": 0, "left": 2, "verified": 3}
    assert applied.dead_letters() == 5


def verify(stack: Stack, run: Run, *groups: str) -> None:
    """End a retry that found the items of these groups equal, as its functions would."""
    failures = stack.target.state.failures
    equal = [Result(group, "1.0", Outcome.EQUAL) for group in groups]
    gone = answer_retry(failures, run, equal)
    stack.finish(run, *equal, *gone)


def test_a_dead_letter_is_deleted_when_its_item_is_verified(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/app", "mirror/team/base")
    assert applied.run("retry", "prod").exit_code == 0
    run = applied.target.state.current_run("prod")
    assert run is not None
    verify(applied, run, "mirror/team/app")
    assert applied.json("status")["dead_letters"]["transfer"] == 1
    assert applied.target.state.failures.forgotten("prod") == run.id
    value = applied.json("retry", "prod")
    assert value["letters"] == {"retried": 1, "resumed": 0, "left": 0, "verified": 0}


def test_a_failure_recorded_during_the_deletion_of_its_letter_stays(applied: Stack) -> None:
    failures, key = applied.target.state.failures, ("mirror/team/app", "1.0")
    applied.add_dead_letters(key[0])
    [letter] = applied.target.queues.dead_letters(Step.TRANSFER, hidden_for=1)
    failures.write("prod", [KnownFailure(*key, "REFUSED", None, "it is so", "run", "run", 0.0)])
    delete_letters(applied.target, "prod", [RetryLetter(letter, EVERYTHING, (key,))])
    assert applied.dead_letters() == 0
    assert [each.key for each in failures.all("prod")] == [key]


def test_the_dead_letter_of_a_gone_item_stays_until_it_is_dropped(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/app", "mirror/team/base")
    assert applied.run("retry", "prod").exit_code == 0
    run = applied.target.state.current_run("prod")
    assert run is not None
    verify(applied, run, "mirror/team/base")
    shown = applied.run("status", "prod", "--wait")
    assert shown.exit_code == 1
    assert "mirror/team/app:1.0: ITEM_GONE: " in shown.stdout
    assert applied.json("status")["dead_letters"]["transfer"] == 1
    wrong = applied.run("retry", "prod", "--drop", "mirror/team/base:1.0")
    assert wrong.exit_code == 2
    assert "it has dead letters of: mirror/team/app:1.0" in wrong.stderr
    assert applied.dead_letters() == 1
    assert applied.run("retry", "prod", "--drop", "mirror/team/app:1.0").exit_code == 0
    assert applied.dead_letters() == 0
    assert applied.started() != []
    assert applied.run("retry", "prod").stdout.startswith("prod has no dead letters to retry\n")


def test_the_retry_of_thousands_of_dead_letters_fits_a_record(applied: Stack) -> None:
    letters = SortedLetters()
    groups = [f"mirror/team/{'long-' * 40}{n:05}" for n in range(5000)]
    given_up = [RetryLetter(QueuedLetter(Step.TRANSFER, "", g), Scope.of([g]), ((g, "1.0"),)) for g in groups]
    letters.take(given_up)
    assert len(letters.given_up) + len(letters.beyond) == len(groups)
    state = applied.target.state
    run, _ = state.begin_run("prod", made_run_id(), Trigger.RETRY, letters.scope, asked=letters.asked)
    assert state.run("prod", run.id).scope == letters.scope
    assert letters.scope.fits
    assert state.failures.asked("prod", run.id) == set(letters.asked)


@pytest.mark.parametrize("count", [1, 5000])
def test_a_full_scan_retries_as_many_dead_letters_as_fit(count: int) -> None:
    letters = SortedLetters()
    full_scan = RetryLetter(QueuedLetter(Step.DISCOVER, "", "0"), EVERYTHING, (("*", "*"),))
    each = [
        RetryLetter(QueuedLetter(Step.TRANSFER, "", str(n)), Scope.of([f"r{n}"]), ((f"r{n}", "1.0" * 20),))
        for n in range(count)
    ]
    letters.take([*each, full_scan])
    assert letters.scope == EVERYTHING
    assert letters.given_up[0] is full_scan
    assert bool(letters.beyond) is (count > 1)


def test_cancel_without_a_run_does_nothing(applied: Stack) -> None:
    result = applied.run("cancel", "prod")
    assert (result.exit_code, result.stdout) == (0, "no run of prod is in progress\n")
    assert applied.json("cancel", "prod") == {"cancelled": False, "run": None}


def test_cancel_ends_a_run_without_functions(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    run = applied.begin()
    result = applied.run("cancel", "prod")
    assert result.exit_code == 0
    assert result.stdout.startswith("○ prod: cancelled after ")
    assert applied.target.state.run("prod", run.id).status is RunStatus.CANCELLED
    assert applied.json("run", "prod")["started"] is True
    assert applied.json("cancel", "prod")["run"]["status"] == "cancelled"


def test_cancel_queues_a_message_so_that_a_function_reports_the_end(
    applied: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a function reports, and those of the run may all be dead."""
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    run = applied.begin()
    assert applied.run("cancel", "prod").exit_code == 0
    assert [decode(body) for body in bodies(applied, Step.DISCOVER)] == [first_batch(run)]


def test_cancel_succeeds_while_the_table_throttles(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    run, end_cancelled, throttled = applied.begin(), State.end_cancelled, list[int]()
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)

    def throttle(state: State, sync: str, run_id: str) -> Run | None:
        throttled.append(1)
        if len(throttled) < 3:
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, "GetItem")
        return end_cancelled(state, sync, run_id)

    monkeypatch.setattr(State, "end_cancelled", throttle)
    result = applied.run("cancel", "prod")
    assert (result.exit_code, result.stderr) == (0, "")
    assert applied.target.state.run("prod", run.id).status is RunStatus.CANCELLED


def test_the_run_of_a_removed_sync_can_be_cancelled(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    run = applied.begin()
    applied.target.state.remove_sync("prod")
    assert applied.run("cancel", "prod").stdout.startswith("○ prod: cancelled after ")
    assert applied.target.state.run("prod", run.id).over
    result = applied.run("cancel", "prod")
    assert "there is no sync named 'prod'" in result.stderr


def test_cancel_waits_for_the_end(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    run = applied.begin()
    progress = State.progress

    def ends_meanwhile(state: State, run_id: str) -> object:
        if state.run("prod", run.id).status is RunStatus.CANCELLING and not progress(state, run_id).settled:
            state.end_batch(first_batch(run), BatchRecord(()), Counts())
            state.finish_run("prod", run.id)
        return progress(state, run_id)

    monkeypatch.setattr(State, "progress", ends_meanwhile)
    result = applied.run("cancel", "prod")
    assert result.exit_code == 0
    assert result.stdout.startswith("○ prod: cancelled after ")


def test_cancel_ends_a_lost_run(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    run = applied.begin()
    monkeypatch.setattr("syncline.store.state.LOST_AFTER", -1)
    result = applied.run("cancel", "prod")
    assert result.exit_code == 0
    assert f"run {run.id} of prod was lost and has been ended; the sync can run again" in result.stdout
    assert applied.target.state.current_run("prod") is None
    assert [decode(body) for body in bodies(applied, Step.DISCOVER)] == [first_batch(run)]
