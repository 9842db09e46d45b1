"""``run`` and ``plan``: start, progress and results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from syncline.cli import run_progress
from syncline.cli.deployment import Deployment
from syncline.messages import Start
from syncline.model import Outcome, Result, Run, RunStatus, Trigger
from syncline.store.state import State
from tests.unit.cli.cli_stack import FILES, GOOD, OTHER, SYNCS, Stack, conflict, failed, moved


@contextmanager
def functions(stack: Stack, work: Callable[[Run], object]) -> Iterator[list[Start]]:
    """Process the run of the next start message with ``work``, in a thread."""
    starts: list[Start] = []

    def process() -> None:
        deadline = time.monotonic() + 20
        while not starts and time.monotonic() < deadline:
            starts.extend(stack.started())
        start = starts[0]
        assert start.run is not None
        work(stack.target.state.run(start.sync, start.run))

    thread = threading.Thread(target=process)
    thread.start()
    yield starts
    thread.join()


def test_run_begins_and_queues_a_run(applied: Stack) -> None:
    value = applied.json("run", "prod")
    assert value["started"] is True
    [start] = applied.started()
    assert (start.sync, start.run, start.trigger, start.scope.everything) == (
        "prod",
        value["run"]["id"],
        Trigger.MANUAL,
        True,
    )
    assert value["run"]["status"] == "running"
    assert applied.target.state.current_run("prod") is not None


def test_a_second_run_is_not_started(applied: Stack) -> None:
    first = applied.json("run", "prod")["run"]["id"]
    result = applied.run("run", "prod")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith(f"prod is already running: run {first}, started ")
    assert "no new run was started" in result.stdout
    assert "syncline status prod --wait" in result.stdout
    assert applied.json("run", "prod") == {"started": False, "run": applied.json("run", "prod")["run"]}
    assert [start.run for start in applied.started()] == [first]


def test_waiting_for_a_run_that_was_not_started_is_an_error(applied: Stack) -> None:
    first = applied.json("run", "prod")["run"]["id"]
    result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0].startswith(f"error ALREADY_RUNNING: run {first} of prod has been in progress")


def test_only_limits_the_scope(applied: Stack) -> None:
    result = applied.run("run", "prod", "--only", "team/base", "--only", "team/app")
    assert result.stdout.splitlines()[0].endswith(" of prod started, only mirror/team/app, mirror/team/base")
    assert applied.started()[0].scope.groups == ("mirror/team/app", "mirror/team/base")


def test_only_refuses_a_repository_outside_the_sync(applied: Stack) -> None:
    for name, hint in (
        ("other/other", "it selects team/app, team/base"),
        ("team/ap", "did you mean team/app?"),
        ("mirror/team/base", "did you mean team/base?"),
    ):
        result = applied.run("run", "prod", "--only", name)
        assert result.exit_code == 2
        what = f"error USAGE: prod does not select the repository {name}; {hint}"
        assert result.stderr.splitlines()[0] == what
    assert applied.target.state.runs("prod") == []
    assert applied.started() == []


BACKUPS = """\
syncs:
  night:
    kind: backups
    source: {bucket: dumps}
    target: {bucket: copies}
    select: {clusters: {include: [production-east, "staging-*"]}}
"""


def test_only_suggests_a_cluster(stack: Stack) -> None:
    assert stack.apply(BACKUPS).exit_code == 0, stack.apply(BACKUPS).output
    result = stack.run("plan", "night", "--only", "production-eats")
    assert result.exit_code == 2
    what = "error USAGE: production-eats is not a cluster that night selects; did you mean production-east?"
    assert result.stderr.splitlines()[0] == what
    assert stack.started() == []


def test_only_refuses_more_than_one_scan_can_cover(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.model.LARGEST_SCOPE", 30)
    result = applied.run("plan", "prod", "--only", "team/app", "--only", "team/base")
    assert result.exit_code == 2
    assert result.stderr.startswith("error USAGE: --only names 2 parts, more than one scan can cover")
    assert applied.target.state.runs("prod") == []


TOKENS = """\
syncs:
  gateway:
    kind: tokens
    sources: {one: {namespace: gateway, service: nginx}}
    check: {host: api.example}
"""

REMOVING = FILES + "    removals: {count: 10}\n"


@pytest.mark.parametrize("count", [0, 400])
@pytest.mark.parametrize(
    ("name", "config"), [("shop-files", REMOVING), ("prod", SYNCS + "    removals: {count: 10}\n")]
)
def test_removals_are_allowed_for_one_run(stack: Stack, name: str, config: str, count: int) -> None:
    assert stack.apply(config).exit_code == 0
    result = stack.run("run", name, "--allow-removals", str(count))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].endswith(f" of {name} started, with up to {count} removals allowed")
    [start] = stack.started()
    assert start.run is not None
    assert stack.target.state.run(name, start.run).allow_removals == count


def test_a_run_without_the_option_has_no_allowance(stack: Stack) -> None:
    assert stack.apply(REMOVING).exit_code == 0
    assert stack.json("run", "shop-files")["run"]["allow_removals"] is None


def test_allow_removals_is_an_error_during_a_run(stack: Stack) -> None:
    assert stack.apply(REMOVING).exit_code == 0
    first = stack.json("run", "shop-files")["run"]["id"]
    result = stack.run("run", "shop-files", "--allow-removals", "400")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error ALREADY_RUNNING: run {first} of shop-files has been in progress")


def test_allow_removals_is_an_error_for_a_sync_without_removals(stack: Stack) -> None:
    assert stack.apply(SYNCS + FILES.removeprefix("syncs:\n")).exit_code == 0
    for name in ("prod", "shop-files"):
        what = f"{name} has no `removals` in syncs.yaml, so it removes nothing; set them, then `syncline apply`"
        result = stack.run("run", name, "--allow-removals", "1")
        assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error USAGE: {what}")
    assert stack.started() == []
    assert stack.run("run", "prod", "--allow-removals", "-1").exit_code == 2


def test_a_tokens_sync_has_no_runs(stack: Stack) -> None:
    result = stack.apply(TOKENS)
    assert (result.exit_code, "syncline plan" in result.output) == (0, False)
    what = "gateway is a sync of tokens, which has no runs; `syncline status gateway` shows its instances"
    for command in (["run"], ["plan"], ["report"], ["status", "--wait"]):
        result = stack.run(*command, "gateway")
        assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error USAGE: {what}")
    assert stack.target.state.runs("gateway") == []
    assert stack.started() == []


def test_an_unknown_sync_is_an_error(applied: Stack) -> None:
    for command in ("run", "plan", "retry", "cancel", "status", "report"):
        result = applied.run(command, "prdo")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == (
            "error NO_SUCH_SYNC: there is no sync named 'prdo'; did you mean prod?"
        )
    assert "existing syncs: prod" in applied.run("run", "xyz").stderr


def test_the_error_says_that_no_sync_is_applied(stack: Stack) -> None:
    result = stack.run("run", "prod")
    assert result.stderr.splitlines()[0] == (
        "error NO_SUCH_SYNC: there is no sync named 'prod'; no sync has been applied"
    )


def test_a_run_whose_message_cannot_be_sent_is_cancelled(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("syncline.messages.Queues.start", refuse)
        assert applied.run("run", "prod").exit_code == 130
    [run] = applied.target.state.runs("prod")
    assert run.status is RunStatus.CANCELLED
    assert applied.json("run", "prod")["started"] is True


def test_wait_reports_success(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, moved(), skipped=2310)):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("run 20")
    assert lines[0].endswith(" of prod started")
    assert lines[-2].startswith("✓ prod: 1 moved (3.0 MiB), 2,310 equal, in ")
    assert lines[-1].startswith("→ syncline report 20")


def test_wait_reports_no_differences(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, skipped=810)):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("✓ prod: no differences, 810 items equal, in ")


def test_an_empty_source_is_not_reported_as_equal(applied: Stack) -> None:
    """A misspelt repository must not look like a successful sync."""
    with functions(applied, applied.finish):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith(
        "✓ prod: nothing found: the source has no items that the sync selects, in "
    )


def test_a_source_whose_items_are_all_left_out_is_not_reported_as_empty(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, left_out=3)):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 0
    expected = "✓ prod: everything found was left out (3 items), in "
    assert result.stdout.splitlines()[-1].startswith(expected)


def test_items_left_out_are_reported(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, skipped=2, left_out=3)):
        result = applied.run("run", "prod", "--wait")
    assert result.stdout.splitlines()[-1].startswith("✓ prod: no differences, 2 items equal, 3 left out, in ")
    with functions(applied, lambda run: applied.finish(run, moved(), left_out=3)):
        value = applied.json("run", "prod", "--wait")
    assert value["run"]["counts"]["left_out"] == 3
    left_out = Result("mirror/team/app", "2.0", Outcome.LEFT_OUT, reason="the target has no such names")
    with functions(applied, lambda run: applied.finish(run, moved(), left_out)):
        value = applied.json("run", "prod", "--wait")
    lines = applied.run("report", value["run"]["id"]).stdout.splitlines()
    assert any(line.startswith("✓ prod: 1 moved (3.0 MiB), 1 left out, in ") for line in lines)
    assert ["left", "out", "mirror/team/app:2.0"] in [line.split() for line in lines]
    assert "  the target has no such names" in lines


def test_extras_are_reported_and_are_no_failure(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, skipped=2, extra=3)):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("✓ prod: no differences, 2 items equal, 3 extra, in ")
    extra = Result("main", "docs/guide.md", Outcome.EXTRA, None, "0123456789abcdef")
    with functions(applied, lambda run: applied.finish(run, moved(), extra)):
        value = applied.json("run", "prod", "--wait")
    assert value["run"]["counts"]["extra"] == 1
    lines = applied.run("report", value["run"]["id"]).stdout.splitlines()
    assert any(line.startswith("✓ prod: 1 moved (3.0 MiB), 1 extra, in ") for line in lines)
    assert ["extra", "main:docs/guide.md"] in [line.split()[:2] for line in lines]


def test_wait_reports_failures(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, moved(), failed())):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[1].startswith("✗ prod: 1 moved (3.0 MiB), 1 failed, in ")
    assert lines[2] == "  mirror/team/base:2.0: UNAUTHORIZED: dr.example does not accept the credentials"
    assert "syncline report " in lines[3]


def test_a_conflict_fails_the_command(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, conflict())):
        value = applied.json("run", "prod", "--wait", code=1)
    assert value["started"] is True
    assert value["run"]["counts"]["conflict"] == 1
    assert value["run"]["over"] is True
    assert value["run"]["seconds"] >= 0


def test_only_a_few_of_many_failures_are_named(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, *(failed(name=f"{n}.0") for n in range(9)))):
        result = applied.run("run", "prod", "--wait")
    assert result.stdout.count("UNAUTHORIZED") == 5
    assert "  and 4 others" in result.stdout


def test_wait_reports_a_cancelled_run(applied: Stack) -> None:
    def cancel(run: Run) -> None:
        applied.target.state.cancel_run("prod", run.id)
        applied.finish(run, Result("mirror/team/app", "1.0", Outcome.CANCELLED, GOOD))

    with functions(applied, cancel):
        result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 1
    assert "○ prod: cancelled after " in result.stdout
    assert "1 cancelled" in result.stdout


def test_wait_ends_for_a_run_without_progress(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_progress, "LOST_AFTER", 0.1)
    result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 1
    assert "no progress from run" in result.stdout
    assert "syncline cancel prod" in result.stdout


def test_a_plan_shows_what_would_move_and_moves_nothing(applied: Stack) -> None:
    would = Result("mirror/team/app", "1.0", Outcome.WOULD_MOVE, GOOD, None, 3 * 1024 * 1024)
    with functions(applied, lambda run: applied.finish(run, would, skipped=5)) as starts:
        result = applied.run("plan", "prod")
    assert starts[0].plan is True
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["would", "move", "mirror/team/app:1.0", "aaaaaaaaaaaa", "→", "-", "3.0", "MiB"]
    assert lines[1].startswith("✓ prod: 1 would move, 5 equal, in ")
    assert lines[2] == "at most 3.0 MiB would be sent"
    assert lines[3].startswith("→ syncline run prod --wait")
    assert applied.target.state.current_run("prod") is None


def test_a_plan_shows_removals_and_items_left_out(applied: Stack) -> None:
    gone = Result("east", "east/n/f1.yaml", Outcome.WOULD_REMOVE, None, OTHER)
    secret = Result(
        "east", "east/n/s.yaml", Outcome.LEFT_OUT, reason="east/n/s.yaml is or contains a Kubernetes Secret"
    )
    with functions(applied, lambda run: applied.finish(run, gone, secret)):
        result = applied.run("plan", "prod")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["would", "remove", "east:east/n/f1.yaml", "-", "→", "bbbbbbbbbbbb"]
    assert lines[1].split() == ["would", "leave", "out", "east:east/n/s.yaml"]
    assert lines[2] == "  east/n/s.yaml is or contains a Kubernetes Secret"
    assert lines[3].startswith("✓ prod: 1 would be removed, 1 left out, in ")
    assert lines[4].startswith("→ syncline run prod --wait")


def test_a_conflict_fails_a_plan(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, conflict())):
        value = applied.json("plan", "prod", code=1)
    assert value["run"]["plan"] is True
    assert [(each["name"], each["outcome"], each["code"]) for each in value["items"]] == [
        ("latest", "conflict", "TAG_DIFFERS")
    ]


def test_diff_shows_each_difference_with_both_fingerprints_and_exits_with_1(applied: Stack) -> None:
    would = Result("mirror/team/app", "1.0", Outcome.WOULD_MOVE, GOOD, None, 3 * 1024 * 1024)
    gone = Result("mirror/team/app", "0.9", Outcome.WOULD_REMOVE, None, OTHER)
    with functions(applied, lambda run: applied.finish(run, would, gone, conflict(), skipped=5, extra=2)) as starts:
        result = applied.run("diff", "prod", "--full", env={"COLUMNS": "250"})
    assert starts[0].plan is True
    assert result.exit_code == 1, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["conflict", "mirror/team/app:latest", GOOD, "→", OTHER]
    assert lines[1] == ["TAG_DIFFERS:", "the", "target", "has", "another", "image"]
    assert lines[2] == ["would", "remove", "mirror/team/app:0.9", "-", "→", OTHER]
    assert lines[3][:5] == ["would", "move", "mirror/team/app:1.0", GOOD, "→"]
    totals = "✗ prod: differs: 1 would move, 1 would be removed, 5 equal, 2 extra, 1 conflict, in "
    assert result.stdout.splitlines()[4].startswith(totals)
    assert applied.target.state.current_run("prod") is None


def test_diff_of_equal_sides_exits_with_0(applied: Stack) -> None:
    left_out = Result("east", "east/n/s.yaml", Outcome.LEFT_OUT, reason="a Secret")
    with functions(applied, lambda run: applied.finish(run, left_out, skipped=5, extra=1)):
        value = applied.json("diff", "prod")
    assert value["different"] is False
    assert (value["run"]["plan"], value["run"]["counts"]["skipped"]) == (True, 5)
    assert [each["outcome"] for each in value["items"]] == ["left_out"]


def test_diff_counts_an_item_that_could_not_be_compared_as_a_difference(applied: Stack) -> None:
    with functions(applied, lambda run: applied.finish(run, failed(), skipped=5)):
        assert applied.json("diff", "prod", code=1)["different"] is True


def test_a_comparison_that_did_not_end_is_an_error(applied: Stack) -> None:
    def lose(run: Run) -> None:
        applied.target.state.cancel_run(run.sync, run.id)
        applied.finish(run)

    with functions(applied, lose):
        result = applied.run("diff", "prod")
    assert result.exit_code == 2
    assert result.stderr.startswith("error RUN_CANCELLED: the comparison of prod (")


def test_a_plan_may_run_beside_a_run(applied: Stack) -> None:
    current = applied.begin()
    with functions(applied, lambda run: applied.finish(run, skipped=1)):
        assert applied.run("plan", "prod").exit_code == 0
    assert not applied.target.state.run("prod", current.id).over


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise KeyboardInterrupt at the first pause between two polls."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("syncline.cli.run_progress.time.sleep", interrupt)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_reported_as_json(applied: Stack) -> None:
    value = applied.json("run", "prod", "--wait", code=130)
    assert (value["interrupted"], value["cancelled"]) == (True, False)
    assert applied.target.state.run("prod", value["run"]["id"]).status is RunStatus.RUNNING


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_a_plan(applied: Stack) -> None:
    result = applied.run("plan", "prod")
    [run] = applied.target.state.runs("prod")
    assert result.exit_code == 130
    assert result.stderr == f"interrupted: plan {run.id} was cancelled; plans move nothing\n"
    assert run.status is RunStatus.CANCELLING


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_does_not_end_a_run_that_is_followed(applied: Stack) -> None:
    run = applied.begin()
    result = applied.run("status", "prod", "--wait")
    assert result.exit_code == 130
    assert f"run {run.id} of prod continues" in result.stderr


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_does_not_stop_a_cancellation(applied: Stack) -> None:
    run = applied.begin()
    result = applied.run("cancel", "prod")
    assert result.exit_code == 130
    first, second = result.stderr.splitlines()
    assert first == f"interrupted: run {run.id} of prod is being cancelled"
    assert second.endswith("to wait for its end")


def test_temporary_errors_are_ignored_while_waiting(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, errors = State.progress, [ReadTimeoutError(endpoint_url="http://x")] * 2

    def slow_at_first(state: State, run_id: str) -> object:
        if errors and threading.current_thread() is threading.main_thread():
            raise errors.pop()
        return progress(state, run_id)

    monkeypatch.setattr(State, "progress", slow_at_first)
    monkeypatch.setattr(Deployment, "local", property(lambda _: False))
    with functions(applied, lambda run: applied.finish(run, moved())):
        assert applied.run("run", "prod", "--wait").exit_code == 0


def test_an_engine_that_stops_during_the_wait_is_an_error(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr(State, "progress", gone)
    result = applied.run("run", "prod", "--wait")
    assert result.exit_code == 2
    assert result.stderr.startswith("error ENGINE_ABSENT: the engine at http://127.0.0.1:")
    assert "; the run continues\n" in result.stderr
