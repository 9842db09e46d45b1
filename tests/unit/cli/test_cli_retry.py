"""``retry`` and ``cancel``."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from syncline import messages
from syncline.cli.commands_retry import RetryLetter, SortedLetters, delete_letters
from syncline.errors import SynclineError
from syncline.messages import Batch, Outgoing, QueuedLetter, Start, decode, encode, to_json
from syncline.model import EVERYTHING, Counts, Item, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.steps.engine import BatchWork
from syncline.steps.results import answer_retry, mark_known
from syncline.store.batches import BatchRecord
from syncline.store.failures import KnownFailure
from syncline.store.state import State, first_batch
from tests.rig.run_ids import made_run_id
from tests.unit.cli.cli_stack import Stack, moved


@pytest.fixture
def applied(stack: Stack) -> Stack:
    assert stack.apply().exit_code == 0
    return stack


def bodies(stack: Stack, step: Step) -> list[str]:
    queue = stack.target.queues.urls[step]
    found = stack.target.queues.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
    return [message["Body"] for message in found.get("Messages", [])]


def test_nothing_was_given_up(applied: Stack) -> None:
    result = applied.run("retry", "prod")
    assert result.exit_code == 0
    assert result.stdout == "prod has no dead letters to retry\n"
    assert applied.target.state.runs("prod") == []


def test_what_was_given_up_is_looked_at_again(applied: Stack) -> None:
    applied.bury("mirror/team/base", "mirror/team/app", "mirror/team/app")
    result = applied.run("retry", "prod")
    assert result.exit_code == 0, result.output
    assert "over mirror/team/app, mirror/team/base for 3 dead letters" in result.stdout
    [start] = applied.started()
    assert start.trigger is Trigger.RETRY
    assert start.scope == Scope.of(["mirror/team/app", "mirror/team/base"])
    assert applied.target.state.current_run("prod") == applied.target.state.run("prod", str(start.run))
    assert applied.dead() == 3, "a letter stays until its item is verified"
    asked = applied.target.state.failures.asked("prod", str(start.run))
    assert asked == {("mirror/team/app", "1.0"), ("mirror/team/base", "1.0")}


def test_a_look_that_was_given_up_as_a_whole_is_done_again_as_a_whole(applied: Stack) -> None:
    applied.bury("mirror/team/base")
    applied.bury()
    assert "over everything" in applied.run("retry", "prod").stdout
    [start] = applied.started()
    assert start.scope == EVERYTHING
    asked = applied.target.state.failures.asked("prod", str(start.run))
    assert asked == {("*", "*"), ("mirror/team/base", "1.0")}


@pytest.mark.parametrize("step", [Step.DISCOVER, Step.TRANSFER])
def test_an_item_that_a_scan_knew_to_fail_is_scanned_again_and_never_sent_on_as_it_is(
    applied: Stack, step: Step
) -> None:
    """The letter of a result has an item without the kind's own details, which no transfer could carry out."""
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
    assert applied.dead(step) == 1


def test_letters_of_others_are_put_back(applied: Stack) -> None:
    applied.bury("mirror/team/app", sync="dev")
    applied.target.queues.send_dead_letters(Step.TRANSFER, ["nobody's message"])
    applied.bury("mirror/team/base")
    value = applied.json("retry", "prod")
    assert value["letters"] == {"retried": 1, "resumed": 0, "left": 2, "verified": 0}
    letters = applied.target.queues.dead_letters(Step.TRANSFER, hidden_for=0)
    assert {next(letters).body[:10] for _ in range(3)} == {'{"v":1,"ty', "nobody's m"}


def test_letters_stay_where_a_run_is_under_way(applied: Stack) -> None:
    run = applied.begin()
    applied.bury("mirror/team/base")
    result = applied.run("retry", "prod")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error ALREADY_RUNNING: run {run.id} of prod has been in progress")
    assert applied.started() == []
    assert len(list(_seen(applied))) == 1


def test_letters_stay_where_the_run_cannot_be_queued(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    applied.bury("mirror/team/base")

    def refuse(*_: object) -> None:
        raise RuntimeError("no network")

    with monkeypatch.context() as patched:
        patched.setattr("syncline.messages.Queues.start", refuse)
        assert applied.run("retry", "prod").exit_code == 2
    assert len(list(_seen(applied))) == 1
    assert applied.json("retry", "prod")["letters"]["retried"] == 1


def _seen(stack: Stack) -> list[str]:
    """The letters of transfer that can be seen now."""
    queue = stack.target.queues.dead_urls[Step.TRANSFER]
    found = stack.target.queues.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [message["Body"] for message in found.get("Messages", [])]


def test_work_that_a_run_waits_for_goes_back_to_its_queue(applied: Stack) -> None:
    """SQS itself moves a message that was received too often; its run never ends without it."""
    run = applied.begin()
    batch = first_batch(run).child(0, step=Step.TRANSFER, items=(Item("mirror/team/app", "1.0"),))
    root = BatchRecord((), (Outgoing(batch),))
    applied.target.state.end_batch(first_batch(run), root, Counts(queued=1))
    applied.target.queues.send_dead_letters(Step.TRANSFER, [encode(batch)])
    applied.bury("mirror/team/base")
    result = applied.run("retry", "prod")
    assert result.exit_code == 0
    assert "1 message put back into its queue; the run in progress continues" in result.stdout
    assert "1 dead letter of prod kept until that run ends" in result.stdout
    assert [decode(body) for body in bodies(applied, Step.TRANSFER)] == [batch]
    assert len(_seen(applied)) == 1


def test_a_start_that_a_run_waits_for_goes_back_too(applied: Stack) -> None:
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


def test_a_start_that_never_began_a_run_is_done_again(applied: Stack) -> None:
    start = Start("prod", Trigger.WEBHOOK, Scope.of(["mirror/team/app"]))
    applied.target.queues.send_dead_letters(Step.DISCOVER, [encode(start)])
    assert applied.json("retry", "prod")["letters"]["retried"] == 1
    assert applied.started()[0].scope.groups == ("mirror/team/app",)


def test_work_of_a_run_that_is_over_is_done_again(applied: Stack) -> None:
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
    assert len(_seen(applied)) == 1, "this version leaves it where it is"
    monkeypatch.setattr(messages, "VERSION", 2)
    assert applied.json("retry", "prod")["letters"]["resumed"] == 1
    assert [decode(body) for body in bodies(applied, Step.TRANSFER)] == [batch]
    assert _seen(applied) == []


def test_a_plan_leaves_nothing_to_retry(applied: Stack) -> None:
    run = applied.begin(plan=True)
    work = BatchWork(first_batch(run))
    work.give_up(Item("mirror/team/app", "*"), SynclineError("NOT_FOUND", "it is gone"))
    assert [result.code for result in work.results] == ["NOT_FOUND"]
    assert work.dead == []


def test_many_repositories_are_counted(applied: Stack) -> None:
    applied.bury(*(f"mirror/team/r{n}" for n in range(8)))
    assert "mirror/team/r4 and 3 others for 8 dead letters" in applied.run("retry", "prod").stdout


def test_more_than_one_run_takes_is_left_for_the_next(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.cli.commands_retry.LARGEST_SCOPE", 80)
    applied.bury(*(f"mirror/team/r{n}" for n in range(8)))
    result = applied.run("retry", "prod")
    assert result.exit_code == 0, result.output
    assert "5 dead letters of prod kept, more than one run can cover; run `syncline retry prod" in result.stdout
    [first] = applied.started()
    run = applied.target.state.run("prod", str(first.run))
    verify(applied, run, *(first.scope.groups or ()))
    assert applied.json("retry", "prod")["letters"] == {"retried": 3, "resumed": 0, "left": 2, "verified": 3}
    assert applied.dead() == 5


def verify(stack: Stack, run: Run, *groups: str) -> None:
    """End a retry in which the items of these groups were found equal, as its functions would."""
    failures = stack.target.state.failures
    equal = [Result(group, "1.0", Outcome.EQUAL) for group in groups]
    gone = answer_retry(failures, run, equal)
    stack.finish(run, *equal, *gone)


def test_a_letter_goes_when_its_item_is_verified(applied: Stack) -> None:
    applied.bury("mirror/team/app", "mirror/team/base")
    assert applied.run("retry", "prod").exit_code == 0
    run = applied.target.state.current_run("prod")
    assert run is not None
    verify(applied, run, "mirror/team/app")
    assert applied.json("status")["dead_letters"]["transfer"] == 1
    assert applied.target.state.failures.forgotten("prod") == run.id
    value = applied.json("retry", "prod")
    assert value["letters"] == {"retried": 1, "resumed": 0, "left": 0, "verified": 0}


def test_a_failure_that_is_noted_while_its_letter_goes_stays(applied: Stack) -> None:
    failures, key = applied.target.state.failures, ("mirror/team/app", "1.0")
    applied.bury(key[0])
    [letter] = applied.target.queues.dead_letters(Step.TRANSFER, hidden_for=1)
    failures.write("prod", [KnownFailure(*key, "REFUSED", None, "it is so", "run", "run", 0.0)])
    delete_letters(applied.target, "prod", [RetryLetter(letter, EVERYTHING, (key,))])
    assert applied.dead() == 0
    assert [each.key for each in failures.all("prod")] == [key]


def test_an_item_that_is_gone_says_so_and_its_letter_stays_until_it_is_dropped(applied: Stack) -> None:
    applied.bury("mirror/team/app", "mirror/team/base")
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
    assert applied.dead() == 1
    assert applied.run("retry", "prod", "--drop", "mirror/team/app:1.0").exit_code == 0
    assert applied.dead() == 0
    assert applied.started() != []
    assert applied.run("retry", "prod").stdout == "prod has no dead letters to retry\n"


def test_thousands_of_dead_letters_make_a_run_that_can_be_written_down(applied: Stack) -> None:
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
def test_a_scan_of_everything_answers_for_as_many_letters_as_fit(count: int) -> None:
    letters = SortedLetters()
    whole = RetryLetter(QueuedLetter(Step.DISCOVER, "", "0"), EVERYTHING, (("*", "*"),))
    each = [
        RetryLetter(QueuedLetter(Step.TRANSFER, "", str(n)), Scope.of([f"r{n}"]), ((f"r{n}", "1.0" * 20),))
        for n in range(count)
    ]
    letters.take([*each, whole])
    assert letters.scope == EVERYTHING
    assert letters.given_up[0] is whole
    assert bool(letters.beyond) is (count > 1)


def test_cancelling_what_does_not_run(applied: Stack) -> None:
    result = applied.run("cancel", "prod")
    assert (result.exit_code, result.stdout) == (0, "no run of prod is in progress\n")
    assert applied.json("cancel", "prod") == {"cancelled": False, "run": None}


def test_cancelling_ends_a_run_that_no_function_works_on(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    run = applied.begin()
    result = applied.run("cancel", "prod")
    assert result.exit_code == 0
    assert result.stdout.startswith("○ prod: cancelled after ")
    assert applied.target.state.run("prod", run.id).status is RunStatus.CANCELLED
    assert applied.json("run", "prod")["started"] is True
    assert applied.json("cancel", "prod")["run"]["status"] == "cancelled"


def test_cancelling_lets_a_function_report_the_end(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may: the functions that worked on the run may all be dead."""
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    run = applied.begin()
    assert applied.run("cancel", "prod").exit_code == 0
    assert [decode(body) for body in bodies(applied, Step.DISCOVER)] == [first_batch(run)]


def test_cancelling_while_the_table_throttles(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_cancelling_the_run_of_a_removed_sync(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    run = applied.begin()
    applied.target.state.remove_sync("prod")
    assert applied.run("cancel", "prod").stdout.startswith("○ prod: cancelled after ")
    assert applied.target.state.run("prod", run.id).over
    result = applied.run("cancel", "prod")
    assert "there is no sync named 'prod'" in result.stderr


def test_cancelling_and_waiting_for_the_end(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_cancelling_a_lost_run_frees_the_sync(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    run = applied.begin()
    monkeypatch.setattr("syncline.store.state.LOST_AFTER", -1)
    result = applied.run("cancel", "prod")
    assert result.exit_code == 0
    assert f"run {run.id} of prod was lost and has been ended; the sync can run again" in result.stdout
    assert applied.target.state.current_run("prod") is None
    assert [decode(body) for body in bodies(applied, Step.DISCOVER)] == [first_batch(run)]
