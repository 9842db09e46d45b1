"""``syncline doctor``: the checks of the stack, the output, and how checks run."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

from syncline.cli.aws import as_syncline_error
from syncline.cli.context import Context
from syncline.cli.output import Output
from syncline.cli.stack_checks import StackChecks
from syncline.errors import SynclineError
from syncline.messages import Start
from syncline.model import Step, Trigger
from syncline.wiring.checks import Check, CheckChain, CheckGroup, CheckVerdict, run_checks
from tests.rig.server import Reply, Request, Server
from tests.standins.certificates import Authority
from tests.standins.oci import OciRegistry
from tests.unit.cli.cli_stack import Stack
from tests.unit.cli.doctor_worlds import (
    World,
    absent_bucket,
    add_functions,
    assert_one_failure,
    checked,
    closed_port,
    deleted_schedule,
    made,
    set_output,
    source_over_tls,
)

# -- the stack ---------------------------------------------------------------------------------------------------------


def absent_table(stack: Stack) -> None:
    stack.target.client("dynamodb").delete_table(TableName=stack.target.output("TableName"))


def absent_queue(stack: Stack) -> None:
    stack.target.queues.sqs.delete_queue(QueueUrl=stack.target.queues.urls[Step.VERIFY])


def absent_function(stack: Stack) -> None:
    stack.target.client("lambda").delete_function(FunctionName="syncline-transfer")


def _mapping(stack: Stack) -> str:
    (found,) = stack.target.client("lambda").list_event_source_mappings(FunctionName="syncline-transfer")[
        "EventSourceMappings"
    ]
    return str(found["UUID"])


def disabled_mapping(stack: Stack) -> None:
    stack.target.client("lambda").update_event_source_mapping(UUID=_mapping(stack), Enabled=False)


def absent_mapping(stack: Stack) -> None:
    stack.target.client("lambda").delete_event_source_mapping(UUID=_mapping(stack))


def absent_watch(stack: Stack) -> None:
    stack.target.scheduler.delete_schedule(Name="syncline-watch")


def other_version(stack: Stack) -> None:
    set_output(stack, "Version", "0.0.9")


def older_version(stack: Stack) -> None:
    set_output(stack, "Version", None)


STACKS: Final[dict[str, tuple[Callable[[Stack], None], tuple[str, str, str]]]] = {
    "missing table": (absent_table, ("table", "TABLE_ABSENT", "syncline-table")),
    "missing watch": (absent_watch, ("functions", "SCHEDULE_ABSENT", "syncline-watch")),
    "missing queue": (absent_queue, ("queues", "QUEUE_ABSENT", "syncline-verify does not exist")),
    "missing function": (absent_function, ("queues", "QUEUE_UNREAD", "the function syncline-transfer of the queue")),
    "disabled mapping": (disabled_mapping, ("queues", "QUEUE_UNREAD", "of the queue syncline-transfer is disabled")),
    "missing mapping": (absent_mapping, ("queues", "QUEUE_UNREAD", "syncline-transfer has no event source mapping")),
    "other version": (other_version, ("functions", "VERSION_DIFFERS", "version 0.0.9 is deployed")),
    "version without a number": (older_version, ("functions", "VERSION_DIFFERS", "without a number")),
}


@pytest.mark.parametrize("case", STACKS)
def test_a_broken_stack_is_one_failure(case: str, stack: Stack, tmp_path: Path) -> None:
    breaks, expected = STACKS[case]
    with made(stack, tmp_path, "files") as world:
        breaks(stack)
        assert_one_failure(world, expected)


def test_other_commands_fail_with_the_code_of_the_doctor(stack: Stack) -> None:
    absent_table(stack)
    result = stack.run("status")
    assert result.exit_code == 2
    assert result.stderr.startswith("error TABLE_ABSENT: the table of the engine at ")
    assert "`syncline doctor` shows" in result.stderr
    response: Any = {"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}
    error = as_syncline_error(ClientError(response, "SendMessage"), "syncline", local=False)
    assert (error.code.name, error.what) == ("QUEUE_ABSENT", "a queue of syncline does not exist (SendMessage)")


def test_an_engine_that_does_not_run_is_one_failure(stack: Stack, tmp_path: Path) -> None:
    down = Stack(tmp_path / "down", stack.target)
    assert_one_failure(World(down, tmp_path, "sync"), ("engine", "ENGINE_ABSENT", "no engine runs in"))


def test_a_full_disk_is_one_failure(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.cli.stack_checks.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with made(stack, tmp_path, "files") as world:
        assert_one_failure(world, ("disk", "DISK_FULL", "1000 B are free"))


def test_a_message_that_waits_for_long_on_aws_is_a_warning(stack: Stack) -> None:
    remote = replace(stack.target, home=None)
    remote.queues.start(Start("sync", Trigger.MANUAL))
    dimensions = [{"Name": "QueueName", "Value": "syncline-discover"}]
    point = {"MetricName": "ApproximateAgeOfOldestMessage", "Dimensions": dimensions, "Value": 7200.0}
    remote.client("cloudwatch").put_metric_data(Namespace="AWS/SQS", MetricData=[point])
    context = Context("syncline", None, Output())
    chains = StackChecks(context, remote, frozenset()).chains()
    (line,) = [each for each in run_checks([CheckGroup("", "", chains)])[""] if each.what == "queues"]
    assert line.verdict is CheckVerdict.WARNING
    assert line.text.startswith("messages wait: discover for 2 h")
    assert "syncline logs NAME --stack syncline" in line.action


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_failure_is_a_line_with_its_code_and_a_line_with_the_remedy(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "images") as world:
        deleted_schedule(world)
        result = stack.run("doctor", "sync")
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  ✗ "))
    assert lines[at].startswith("  ✗ schedule: SCHEDULE_ABSENT: the schedule rate(1 hour) of sync does not exist")
    assert lines[at + 1].startswith("    → Run `syncline apply`")
    assert lines[-1] == "checked from this machine, where the functions run as well"
    assert lines[-2].startswith("1 problem, ")


def test_all_syncs_are_checked_and_a_failure_in_common_is_reported_once(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "files") as world:
        one, two = (world.text.replace("shop-copy,", f"shop-copy, prefix: {prefix}/,") for prefix in "ab")
        assert stack.apply(f"syncs:\n  one:{one}\n  two:{two}", "--prune", "--yes").exit_code == 0
        absent_bucket(world)
        lines = json.loads(stack.run("doctor", "--json").stdout)["checks"]
    assert {each["sync"] for each in lines} == {None, "one", "two"}
    assert [each["sync"] for each in lines if each["verdict"] == "failed"] == ["one"]
    assert any(each["text"] == "the same failure as above: one target list" for each in lines if each["sync"] == "two")


def test_dead_letters_do_not_hide_how_the_last_run_ended(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "images") as world:
        stack.add_dead_letters("mirror/team/app", sync="sync")
        lines = {each["what"]: each for each in checked(world) if each["part"] == "runs"}
    assert lines["dead letters"]["verdict"] == "failed"
    assert lines["last run"]["text"] == "no run has ended yet"
    assert lines["health"]["text"] == "no complete scan has ended yet"


def test_advice_names_the_sync_and_the_options_of_the_call(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "images") as world:
        stack.add_dead_letters("mirror/team/app", sync="sync")
        (action,) = [each["action"] for each in checked(world) if each["code"] == "DEAD_LETTERS"]
    assert action.startswith("`syncline report sync")
    assert "`syncline retry sync" in action
    assert "NAME" not in action


def test_channels_and_heartbeats_are_checked_and_get_nothing(stack: Stack, tmp_path: Path) -> None:
    received: list[Request] = []

    def hook(request: Request) -> Reply:
        received.append(request)
        return Reply(200)

    with Server(hook) as server:
        url = f"http://127.0.0.1:{server.port}"

        def notifying(world: World) -> None:
            stack.target.client("secretsmanager").create_secret(Name="t/slack", SecretString=f"{url}/services/hidden")
            world.text += f"""    notify:
      slack: {{url: "secret:t/slack"}}
      webhook: {{url: "{url}/hook", secret: "secret:t/hook"}}
      email: {{sender: a@b.example, to: [c@d.example], smtp: {{host: "{closed_port()}", tls: never}}}}
    heartbeat: {{url: "http://{closed_port()}/beat"}}
"""

        with made(stack, tmp_path, "images", notifying) as world:
            received.clear()
            lines = {each["part"]: each for each in checked(world) if each["what"] == "server"}
    assert {part: line["verdict"] for part, line in lines.items()} == {
        "notify.slack": "ok",
        "notify.webhook": "ok",
        "notify.email": "failed",
        "heartbeat": "failed",
    }
    assert lines["heartbeat"]["code"] == "UNREACHABLE"
    assert "hidden" not in str(lines)
    assert received == []


def test_an_unknown_name_is_an_error(stack: Stack) -> None:
    result = stack.run("doctor", "absent")
    assert result.exit_code == 2
    assert "NO_SUCH_SYNC" in result.stderr


@pytest.mark.parametrize("word", ["test", "--health-check", "check"])
def test_the_words_of_the_replaced_services_run_it(word: str, stack: Stack) -> None:
    add_functions(stack)
    result = stack.run(word)
    assert result.exit_code == 0
    assert "✓ table: " in result.stdout


def test_a_certificate_that_expires_soon_is_a_warning(stack: Stack, tmp_path: Path) -> None:
    def trusted(world: World) -> None:
        authority = Authority()  # its certificates are valid for a day
        (stack.home.parent / "ca.pem").write_text(authority.pem)
        source_over_tls(world, authority.server_context(), "ca.pem")

    with made(stack, tmp_path, "images", trusted) as world:
        lines = checked(world)
    (line,) = [each for each in lines if each["part"] == "source" and each["what"] == "certificate"]
    assert line["verdict"] == "warning"
    assert "expires on" in line["text"]


@pytest.mark.parametrize("zone", ["UTC", "+0100"])
def test_a_github_token_that_expires_soon_and_a_low_rate_limit_are_warnings(
    zone: str, stack: Stack, tmp_path: Path
) -> None:
    soon = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 3 * 86_400))
    headers = {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "12"}
    headers["GitHub-Authentication-Token-Expiration"] = f"{soon} {zone}"
    answer = Reply(200, b'{"total_count": 0, "workflow_runs": []}', headers)
    with made(stack, tmp_path, "artifacts") as world:
        world.parts["github"].before = lambda _method, target: answer if "/runs" in target else None
        warned = {each["what"]: each["text"] for each in checked(world, code=0) if each["verdict"] == "warning"}
    assert warned == {
        "token": f"the token expires on {soon[:10]}",
        "rate limit": "12 of 5000 requests of this hour are left",
    }


def test_a_gitlab_token_that_expires_soon_is_a_warning(stack: Stack, tmp_path: Path) -> None:
    soon = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 3 * 86_400))
    with made(stack, tmp_path, "artifacts") as world:
        world.parts["gitlab"].token_expires = soon
        (line,) = [each for each in checked(world, code=0) if each["part"] == "target.api" and each["what"] == "token"]
    assert (line["verdict"], line["text"]) == ("warning", f"the token expires on {soon}")


def test_nothing_is_written(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "files") as world:
        before = {name: dict(objects) for name, objects in world.parts["s3"].objects.items()}
        checked(world)
        assert {name: dict(objects) for name, objects in world.parts["s3"].objects.items()} == before
        assert world.parts["s3"].uploads == {}


def test_no_branch_and_no_upload_stays(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path / "git", "backups") as world:
        commits = world.parts["bare"].git("for-each-ref")
        checked(world)
        assert world.parts["bare"].git("for-each-ref") == commits
    with contextlib.ExitStack() as stop:
        registry = stop.enter_context(OciRegistry())
        registry.store.add_image("team/app", "1.0", b"a layer")
        text = f'"{registry.host}", plain_http: true'
        stack.apply(
            f"syncs:\n  sync:\n    kind: images\n    source: {{registry: {text}, repositories: [team/app]}}\n"
            f"    target: {{registry: {text}, prefix: mirror}}\n"
        )
        checked(World(stack, tmp_path, "sync"), code=0)
        asked = [(each.method, each.status) for each in registry.requests if "/uploads/" in each.target]
        assert registry.store.repositories.keys() == {"team/app"}
    assert asked == [("PUT", 404)]


# -- running checks ----------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_delays_no_other() -> None:
    free = threading.Event()
    hangs = CheckChain("one", [Check("answer", lambda: str(free.wait())), Check("next", lambda: "never")])
    quick = CheckChain("two", [Check("answer", lambda: "at once")])
    found = run_checks([CheckGroup("sync", "", [hangs, quick])], within=0.05)["sync"]
    free.set()
    assert [each.verdict for each in found] == [CheckVerdict.FAILED, CheckVerdict.UNCHECKED, CheckVerdict.OK]
    assert found[0].text == "the check of answer had no result within 0.05 s"


def test_a_defect_in_a_check_is_a_failure_of_that_check() -> None:
    def broken() -> str:
        raise ValueError("a secret may be in here")

    chains = [CheckChain("one", [Check("answer", broken)]), CheckChain("two", [Check("answer", lambda: "well")])]
    first, second = run_checks([CheckGroup("sync", "", chains)])["sync"]
    assert (first.code, second.verdict) == ("INTERNAL", CheckVerdict.OK)
    assert "secret" not in first.text


def test_what_this_machine_may_see_differently_is_a_warning() -> None:
    def refused() -> str:
        raise SynclineError("FORBIDDEN", "refused")

    chain = CheckChain("source", [Check("list", refused), Check("read", lambda: "")], lenient="with your role")
    first, second = run_checks([CheckGroup("sync", "files", [chain])])["sync"]
    assert (first.verdict, first.text) == (CheckVerdict.WARNING, "refused (with your role)")
    assert second.verdict is CheckVerdict.UNCHECKED


def test_what_the_functions_met_for_the_same_reason_is_no_second_failure() -> None:
    def refused() -> str:
        raise SynclineError("UNAUTHORIZED", "refused")

    def seen() -> str:
        raise SynclineError("UNAUTHORIZED", "the last run failed")

    here = CheckChain("source", [Check("list", refused)])
    there = CheckChain("runs", [Check("last run", seen)], by_functions=True)
    found = run_checks([CheckGroup("sync", "files", [here, there])])["sync"]
    assert [each.verdict for each in found] == [CheckVerdict.FAILED, CheckVerdict.UNCHECKED]


def test_a_kind_without_checks_of_its_own_has_those_of_its_servers(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(stack, tmp_path, "images") as world:
        monkeypatch.setattr("syncline.wiring.doctor.find_spec", lambda _: None)
        lines = checked(world, code=0)
    found = [(each["part"], each["what"]) for each in lines if each["part"] in ("source", "target")]
    assert found == [("source", "connection"), ("source", "clock"), ("target", "connection"), ("target", "clock")]
