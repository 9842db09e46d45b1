"""``apply``: the complete file is checked first, then only differences are written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.cli.applied_syncs import load_applied
from syncline.cli.output import Output
from syncline.kinds.files.config import BucketTarget, FilesSync
from syncline.messages import decode
from syncline.model import RunStatus, Trigger
from tests.unit.cli.cli_stack import FILES, SYNCS, Stack

WITH_SECRETS = (
    SYNCS.replace("      prefix: mirror\n", "      prefix: mirror\n      auth: {token: 'env:DR_TOKEN'}\n")
    + "    webhook:\n      secret: secret:syncline/hooks#prod\n"
)


@pytest.fixture
def with_hook(stack: Stack) -> Stack:
    stack.target.client("secretsmanager").create_secret(Name="syncline/hooks", SecretString='{"prod": "s3cr3t-hook"}')
    return stack


def schedule(stack: Stack, name: str = "prod") -> Any:
    return stack.target.scheduler.get_schedule(Name=name, GroupName="syncline")


def schedules(stack: Stack) -> list[str]:
    return [each["Name"] for each in stack.target.scheduler.list_schedules(GroupName="syncline")["Schedules"]]


def test_a_sync_is_stored_with_its_schedule(stack: Stack) -> None:
    result = stack.apply()
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == ["syncs.yaml: 1 sync", "  prod  added  rate(1 hour), created"]
    assert "syncline plan prod" in result.stdout.splitlines()[-1]
    assert json.loads(stack.target.state.sync_config("prod"))["target"]["prefix"] == "mirror"
    made = schedule(stack)
    assert made["ScheduleExpression"] == "rate(1 hour)"
    assert made["ScheduleExpressionTimezone"] == "UTC"
    assert made["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert made["State"] == "ENABLED"
    assert made["Target"]["Arn"] == stack.target.output("DiscoverQueueArn")
    assert made["Target"]["RoleArn"] == stack.target.output("SchedulerRoleArn")
    start: Any = decode(made["Target"]["Input"])
    assert (start.sync, start.trigger, start.scope.everything, start.run) == ("prod", Trigger.SCHEDULE, True, None)


def test_a_second_apply_changes_nothing(stack: Stack) -> None:
    stack.apply()
    before = schedule(stack)["LastModificationDate"]
    value = stack.json("apply", str(stack.home.parent / "syncs.yaml"))
    assert [(each["change"], each["schedule_change"]) for each in value["syncs"]] == [("unchanged", "unchanged")]
    assert schedule(stack)["LastModificationDate"] == before


def test_changes_are_shown_and_written(stack: Stack) -> None:
    stack.apply()
    result = stack.apply(SYNCS.replace("rate(1 hour)", "cron(0 3 * * ? *)\n    timezone: Asia/Kolkata"))
    assert "  prod  changed  cron(0 3 * * ? *) Asia/Kolkata, updated" in result.stdout
    assert schedule(stack)["ScheduleExpressionTimezone"] == "Asia/Kolkata"


def test_a_disabled_sync_keeps_its_schedule_switched_off(stack: Stack) -> None:
    result = stack.apply(SYNCS + "    enabled: false\n")
    assert "disabled" in result.stdout
    assert schedule(stack)["State"] == "DISABLED"


def test_a_removed_schedule_is_deleted_and_foreign_schedules_stay(stack: Stack) -> None:
    stack.apply()
    foreign = {"Arn": "arn:aws:sqs:us-east-1:123456789012:other", "RoleArn": stack.target.output("SchedulerRoleArn")}
    stack.target.scheduler.create_schedule(
        Name="foreign",
        GroupName="syncline",
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=foreign,  # type: ignore[arg-type]
    )
    result = stack.apply(SYNCS.replace("    schedule: rate(1 hour)\n", ""))
    assert "no schedule, deleted" in result.stdout
    assert schedules(stack) == ["foreign"]


CHANGED = (
    "shop-files: the target changed. The next run compares all items with the new target; "
    "items copied to the old target stay there."
)


@pytest.fixture
def with_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identify the targets of files by bucket and prefix."""

    def target_id(sync: FilesSync) -> str:
        assert isinstance(sync.target, BucketTarget)
        return f"{sync.target.bucket}/{sync.target.prefix}"

    monkeypatch.setattr(FilesSync, "target_id", target_id)


@pytest.mark.usefixtures("with_identity")
@pytest.mark.parametrize("target", ["{bucket: elsewhere}", "{bucket: shop-copy, prefix: below/}"])
def test_a_changed_target_is_explained(stack: Stack, target: str) -> None:
    changed = FILES.replace("{bucket: shop-copy}", target)
    assert "the target changed" not in stack.apply(FILES).stdout
    run = stack.begin("shop-files")
    lines = stack.apply(changed).stdout.splitlines()
    assert lines.count(CHANGED) == 1
    (continues,) = [line for line in lines if line.startswith(f"run {run.id} of shop-files is in progress")]
    assert " and target; `syncline cancel shop-files" in continues
    value = stack.json("apply", str(stack.home.parent / "syncs.yaml"))
    assert [(each["change"], each["target_changed"]) for each in value["syncs"]] == [("unchanged", False)]
    (stack.home.parent / "syncs.yaml").write_text(FILES)
    value = stack.json("apply", str(stack.home.parent / "syncs.yaml"))
    assert [(each["change"], each["target_changed"]) for each in value["syncs"]] == [("changed", True)]


@pytest.mark.usefixtures("with_identity")
def test_no_target_change_is_reported_for_other_changes(stack: Stack) -> None:
    stack.apply(FILES)
    result = stack.apply(FILES + "    overwrite: true\n")
    assert ("changed" in result.stdout, CHANGED in result.stdout) == (True, False)
    # A configuration stored by an older version.
    stack.target.state.put_sync("shop-files", '{"kind": "files", "name": "shop-files", "gone": 1}')
    assert CHANGED not in stack.apply(FILES).stdout


@pytest.mark.usefixtures("with_identity")
def test_a_changed_target_of_images_is_explained(stack: Stack) -> None:
    stack.apply()
    result = stack.apply(SYNCS.replace("dr.example", "other.example"))
    assert ["prod", "changed"] in [line.split()[:2] for line in result.stdout.splitlines()]
    assert "prod: the target changed" in result.stdout


def test_a_run_in_progress_keeps_its_configuration(stack: Stack) -> None:
    stack.apply()
    run = stack.begin()
    result = stack.apply(SYNCS.replace("prefix: mirror", "prefix: other"))
    assert f"run {run.id} of prod is in progress and keeps its old configuration\n" in result.stdout
    state = stack.target.state
    assert json.loads(state.config_of("prod", run.config))["target"]["prefix"] == "mirror"
    assert json.loads(state.sync_config("prod"))["target"]["prefix"] == "other"


def test_applying_another_file_keeps_the_syncs_of_the_first(stack: Stack) -> None:
    stack.apply()
    before = schedule(stack)["LastModificationDate"]
    run = stack.begin()
    result = stack.apply(FILES)
    assert result.exit_code == 0, result.output
    assert "not in syncs.yaml, kept: prod; --prune removes syncs that are not in the file" in result.stdout.splitlines()
    assert stack.target.state.sync_names() == ["prod", "shop-files"]
    assert schedule(stack)["LastModificationDate"] == before
    assert stack.target.state.run("prod", run.id).status is RunStatus.RUNNING
    assert sorted(load_applied(stack.home)) == ["prod", "shop-files"]
    value = stack.json("apply", str(stack.home.parent / "syncs.yaml"))
    assert [(each["name"], each["change"]) for each in value["syncs"]] == [
        ("shop-files", "unchanged"),
        ("prod", "kept"),
    ]


def test_a_file_may_not_conflict_with_the_syncs_that_are_kept(stack: Stack) -> None:
    assert stack.apply(FILES).exit_code == 0
    other = FILES.replace("shop-files", "other").replace("{bucket: shop}", "{bucket: elsewhere}")
    result = stack.apply(other)
    assert result.exit_code == 2
    assert "CONFIG_INVALID" in result.stderr
    assert "shop-files" in result.stderr
    assert stack.target.state.sync_names() == ["shop-files"]
    assert stack.apply(other, "--prune").exit_code == 0
    assert stack.target.state.sync_names() == ["other"]


def test_a_dry_run_shows_what_would_change_and_changes_nothing(stack: Stack) -> None:
    stack.apply(SYNCS + FILES.removeprefix("syncs:\n"))
    before = schedule(stack)["LastModificationDate"]
    changed = SYNCS.replace("prefix: mirror", "prefix: other")
    result = stack.apply(changed, "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "syncs.yaml: 1 sync; nothing was applied"
    assert lines[1].split() == ["prod", "changed"]
    assert [line.strip() for line in lines if line.strip()[0] in "+-"] == [
        '-target.prefix: "mirror"',
        '+target.prefix: "other"',
    ]
    assert lines[-1].split() == ["shop-files", "kept"]
    value = stack.json("apply", str(stack.home.parent / "syncs.yaml"), "--dry-run", "--prune")
    assert [(each["name"], each["change"]) for each in value["syncs"]] == [
        ("prod", "changed"),
        ("shop-files", "removed"),
    ]
    assert json.loads(stack.target.state.sync_config("prod"))["target"]["prefix"] == "mirror"
    assert stack.target.state.sync_names() == ["prod", "shop-files"]
    assert schedule(stack)["LastModificationDate"] == before


@pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_apply_asks_before_it_removes_syncs(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, answer: str, *, removed: bool
) -> None:
    stack.apply()
    monkeypatch.setattr(Output, "interactive", True)
    result = stack.apply(FILES, "--prune", answer=answer)
    assert "Remove 1 sync? [y/N]: " in result.stderr
    assert result.exit_code == (0 if removed else 2)
    assert ("nothing was applied" in result.stdout) is not removed
    assert stack.target.state.sync_names() == (["shop-files"] if removed else ["prod"])


def test_apply_does_not_ask_with_yes_or_without_removals(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.apply()
    monkeypatch.setattr(Output, "interactive", True)
    assert "[y/N]" not in stack.apply(SYNCS, "--prune", answer="").stderr
    assert "[y/N]" not in stack.apply(FILES, "--prune", "--yes", answer="").stderr
    assert stack.target.state.sync_names() == ["shop-files"]


def test_prune_names_and_removes_a_sync_that_is_not_in_the_file(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.store.state.CANCELLED_AFTER", 0.0)
    stack.apply()
    run = stack.begin()
    result = stack.apply("syncs: {}\n", "--prune")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "prod is not in syncs.yaml and will be removed; copied items stay at the target"
    assert "  prod  removed  schedule deleted" in lines
    assert f"run {run.id} of prod was in progress and has been cancelled" in lines
    assert stack.target.state.sync_names() == []
    assert schedules(stack) == []
    assert stack.target.state.run("prod", run.id).status is RunStatus.CANCELLED
    assert stack.target.state.current_run("prod") is None


def test_a_file_with_any_error_is_not_applied(stack: Stack) -> None:
    result = stack.apply(SYNCS.replace("rate(1 hour)", "rate(1 hours)").replace("prefix:", "prefx:"))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "error CONFIG_INVALID: 2 problems"
    assert lines[1].startswith("  syncs.yaml:4:15: syncs.prod.schedule: ")
    assert lines[2].startswith("  syncs.yaml:10:7: syncs.prod.target.prefx: ")
    assert lines[3].startswith("→ Correct the line")
    assert stack.target.state.sync_names() == []


def test_problems_are_reported_as_json(stack: Stack) -> None:
    file = stack.home.parent / "syncs.yaml"
    file.write_text(SYNCS.replace("rate(1 hour)", "hourly"))
    error = stack.json("apply", str(file), code=2)["error"]
    assert error["code"] == "CONFIG_INVALID"
    assert [(each["line"], each["path"]) for each in error["problems"]] == [(4, "syncs.prod.schedule")]


def test_an_absent_file_is_an_error(stack: Stack) -> None:
    result = stack.run("apply", "nowhere.yaml")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == (
        "error USAGE: cannot read nowhere.yaml: No such file or directory; pass the path of the file with the syncs, "
        "or write one with `syncline init KIND`"
    )


def test_secrets_are_resolved_as_in_the_functions(with_hook: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.cli.local_engine.environment_of", lambda _: {"DR_TOKEN": "t0k3n-value"})
    result = with_hook.apply(WITH_SECRETS)
    assert result.exit_code == 0, result.output
    address = with_hook.target.output("ReceiveUrl")
    assert f"  prod  {address}hooks/prod/****" in result.stdout.splitlines()
    shown = result.output + with_hook.target.state.sync_config("prod") + (with_hook.home / "applied.json").read_text()
    assert "s3cr3t-hook" not in shown
    assert "t0k3n-value" not in shown


def test_all_missing_secrets_are_reported(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DR_TOKEN", raising=False)
    result = stack.apply(WITH_SECRETS)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == "error SECRET_MISSING: 2 problems"
    assert any("prod.target.auth.token: env:DR_TOKEN is not set; set it" in line for line in lines)
    assert any("prod.webhook.secret: secret:syncline/hooks#prod does not exist" in line for line in lines)
    assert stack.target.state.sync_names() == []


def test_a_variable_set_after_the_start_of_the_engine_is_an_error(
    with_hook: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.cli.local_engine.environment_of", lambda _: {})
    monkeypatch.setenv("DR_TOKEN", "t0k3n-value")
    result = with_hook.apply(WITH_SECRETS)
    assert result.exit_code == 2
    assert "set here, but was not when the engine was started; run `syncline down` and `syncline up`" in result.stderr
    assert "t0k3n-value" not in result.output


def test_a_variable_changed_after_the_start_of_the_engine_is_a_warning(
    with_hook: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.cli.local_engine.environment_of", lambda _: {"DR_TOKEN": "old-value"})
    monkeypatch.setenv("DR_TOKEN", "new-value")
    result = with_hook.apply(WITH_SECRETS)
    assert result.exit_code == 0
    assert "warning: env:DR_TOKEN has another value here than when the engine was started" in result.stdout
    assert "-value" not in result.output


def test_applied_syncs_are_saved(stack: Stack) -> None:
    stack.apply()
    assert list(load_applied(stack.home)) == ["prod"]
    stack.apply("syncs: {}\n", "--prune")
    assert load_applied(stack.home) == {}
