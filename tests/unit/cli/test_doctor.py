"""``syncline doctor``: a healthy sync of each kind has no failure, and each misconfiguration has exactly one."""

from __future__ import annotations

import email.utils
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from syncline.cli.context import Context
from syncline.clients.replicas.instances import Instance
from syncline.kinds.table import KINDS
from syncline.model import Outcome, Trigger
from syncline.model import Result as ItemResult
from syncline.store.runs import run_id_of
from syncline.store.table import Database
from syncline.store.tokens import InstanceLists
from tests.rig.server import Reply, Request, Server, json_reply
from tests.standins.certificates import Authority
from tests.standins.oci import Fault
from tests.standins.s3 import Answer
from tests.unit.cli.cli_stack import Stack
from tests.unit.cli.doctor_worlds import (
    USER,
    WORLDS,
    World,
    absent_bucket,
    assert_one_failure,
    certificate_context,
    checked,
    closed_port,
    deleted_schedule,
    failures,
    made,
    remove_secret,
    set_output,
    source_over_tls,
)


@pytest.mark.parametrize("kind", WORLDS)
def test_a_healthy_sync_has_no_failure(kind: str, stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, kind) as world:
        lines = checked(world, code=0)
    assert {each["verdict"] for each in lines} <= {"ok", "unchecked", "warning"}
    assert sum(each["verdict"] == "ok" for each in lines) >= 6


def test_each_kind_has_checks() -> None:
    for kind in KINDS:
        assert (Path(__file__).parents[3] / f"layers/syncline/syncline/kinds/{kind}/wiring_doctor.py").exists()


# -- misconfigurations -------------------------------------------------------------------------------------------------


def self_signed(world: World) -> None:
    source_over_tls(world, certificate_context(world.folder))


def expired(world: World) -> None:
    source_over_tls(world, certificate_context(world.stack.home.parent, expired=True), "own.pem")


def for_another_name(world: World) -> None:
    authority = Authority()
    (world.stack.home.parent / "ca.pem").write_text(authority.pem)
    source_over_tls(world, authority.server_context("registry.example"), "ca.pem")


def wrong_host(world: World) -> None:
    world.replace(world.parts["source"].host, "registry.invalid:5000")


def nobody_listens(world: World) -> None:
    world.replace(world.parts["target"].host, closed_port())


def clock_behind(world: World) -> None:
    date = email.utils.formatdate(time.time() - 3600, usegmt=True)
    server = world.stop.enter_context(Server(lambda _: Reply(401, headers={"Date": date})))
    world.replace(world.parts["source"].host, f"127.0.0.1:{server.port}")


def absent_repository(world: World) -> None:
    world.replace("team/app", "team/absent")


def absent_project(world: World) -> None:
    world.replace("group/project", "group/absent")


def with_webhook(world: World) -> None:
    world.replace("    source:", "    webhook: {secret: 'secret:t/hook'}\n    source:")


BEFORE: Final[dict[str, tuple[str, Callable[[World], None], tuple[str, str, str]]]] = {
    "wrong host name": ("images", wrong_host, ("source", "UNREACHABLE", "registry.invalid cannot be resolved")),
    "closed port": ("images", nobody_listens, ("target", "UNREACHABLE", "connection refused")),
    "self-signed certificate": ("images", self_signed, ("source", "TLS_FAILED", "is self-signed")),
    "expired certificate": ("images", expired, ("source", "TLS_FAILED", "has expired")),
    "certificate for another name": ("images", for_another_name, ("source", "TLS_FAILED", "another address")),
    "clock one hour off": ("images", clock_behind, ("source", "CLOCK_DIFFERS", "60 minutes behind")),
    "missing repository": ("images", absent_repository, ("source", "SOURCE_ABSENT", "no repository team/absent")),
    "missing project": ("artifacts", absent_project, ("target.api", "NOT_FOUND", "no project group/absent")),
}
"""A world, how its configuration is wrong, and the part, the code and words of the one failure."""


@pytest.mark.parametrize("case", BEFORE)
def test_a_wrong_configuration_is_one_failure(case: str, stack: Stack, tmp_path: Path) -> None:
    kind, change, expected = BEFORE[case]
    with made(stack, tmp_path, kind, change) as world:
        assert_one_failure(world, expected)


def wrong_password(world: World) -> None:
    world.parts["source"].users = {USER: "another password"}


def push_denied(world: World) -> None:
    denied = Fault(403, {}, b'{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}')
    world.parts["target"].fault("PUT", "/blobs/uploads/", denied, times=None)


def another_region(world: World) -> None:
    answer: Answer = (301, {"x-amz-bucket-region": "eu-west-1"}, b"<Error><Code>PermanentRedirect</Code></Error>")
    world.parts["s3"].hook = lambda _method, bucket, _key, _query: answer if bucket == "shop" else None


def writes_denied(world: World) -> None:
    answer: Answer = (403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    world.parts["s3"].hook = lambda method, _bucket, _key, _query: answer if method == "PUT" else None


def reads_denied(world: World) -> None:
    """Deny the content, as KMS does without the permission to decrypt: the head and the listing are still answered."""
    denied: Answer = (403, {}, b"<Error><Code>AccessDenied</Code><Message>kms:Decrypt</Message></Error>")
    world.parts["s3"].hook = lambda method, _bucket, key, _query: denied if method == "GET" and key else None


def read_only_repository(world: World) -> None:
    world.parts["bare"].git("config", "http.receivepack", "false")


def wrong_git_token(world: World) -> None:
    world.parts["git"].users["x-access-token"] = "another token"


def absent_git_repository(world: World) -> None:
    shutil.rmtree(world.parts["bare"].path)


def protected_branch(world: World) -> None:
    run = world.stack.begin("sync")
    reason = "git push: protected branch hook declined"
    world.stack.finish(run, ItemResult("main", "a.yaml", Outcome.FAILED, "x", None, 0, "BRANCH_PROTECTED", reason))


def expired_gitlab_token(world: World) -> None:
    world.parts["gitlab"].before = lambda _method, target: (
        json_reply({"message": "401 Unauthorized: Token is expired"}, 401) if "projects" in target else None
    )


def narrow_gitlab_token(world: World) -> None:
    world.parts["gitlab"].token_scopes = ("read_registry",)


def expired_github_token(world: World) -> None:
    world.parts["github"].tokens.clear()


def exhausted_rate_limit(world: World) -> None:
    headers = {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "0"}
    headers["X-RateLimit-Reset"] = str(int(time.time()) + 1800)
    answer = Reply(403, b'{"message": "API rate limit exceeded"}', headers)
    world.parts["github"].before = lambda _method, target: answer if "/runs" in target else None


def secret_without_key(world: World) -> None:
    manager = world.stack.target.client("secretsmanager")
    manager.put_secret_value(SecretId="t/registry", SecretString='{"user": "x"}')


def disabled_schedule(world: World) -> None:
    change_schedule(world, State="DISABLED")


def changed_schedule(world: World) -> None:
    change_schedule(world, ScheduleExpression="rate(7 days)")


def change_schedule(world: World, **changes: Any) -> None:
    scheduler = world.stack.target.scheduler
    found = scheduler.get_schedule(Name="sync", GroupName="syncline")
    names = ("Name", "GroupName", "ScheduleExpression", "FlexibleTimeWindow", "Target", "State")
    scheduler.update_schedule(**{**{name: found[name] for name in names}, **changes})  # type: ignore[literal-required]


def dead_letters(world: World) -> None:
    world.stack.add_dead_letters("mirror/team/app", "mirror/team/base", sync="sync")


def stopped_replica(world: World) -> None:
    world.parts["servers"][1].stop()


def unhealthy_manager(world: World) -> None:
    world.parts["manager"].token = "another token"


AFTER: Final[dict[str, tuple[str, Callable[[World], Any], tuple[str, str, str]]]] = {
    "wrong password": ("images", wrong_password, ("source", "UNAUTHORIZED", "answered 401")),
    "push denied": ("images", push_denied, ("target", "FORBIDDEN", "access is denied")),
    "missing bucket": ("files", absent_bucket, ("target", "BUCKET_ABSENT", "shop-copy")),
    "bucket in another region": ("files", another_region, ("source", "REDIRECTED", "eu-west-1, not in us-east-1")),
    "writes denied": ("files", writes_denied, ("target", "FORBIDDEN", "AccessDenied")),
    "reads denied": ("files", reads_denied, ("source", "FORBIDDEN", "AccessDenied")),
    "wrong token of a file manager": ("managed_files", unhealthy_manager, ("target", "UNAUTHORIZED", "401")),
    "read-only repository": ("backups", read_only_repository, ("target", "FORBIDDEN", "git push")),
    "wrong git token": ("backups", wrong_git_token, ("target", "UNAUTHORIZED", "rejected the credentials")),
    "missing git repository": ("backups", absent_git_repository, ("target", "REPOSITORY_ABSENT", "not found")),
    "protected branch": ("backups", protected_branch, ("runs", "BRANCH_PROTECTED", "main a.yaml")),
    "expired GitLab token": ("artifacts", expired_gitlab_token, ("target.api", "UNAUTHORIZED", "expired")),
    "narrow GitLab token": ("artifacts", narrow_gitlab_token, ("target.api", "FORBIDDEN", "scope read_api")),
    "expired GitHub token": ("artifacts", expired_github_token, ("source", "UNAUTHORIZED", "Bad credentials")),
    "exhausted rate limit": ("artifacts", exhausted_rate_limit, ("source", "LIMIT_REACHED", "0 of 5000 requests left")),
    "missing secret": ("files", remove_secret("s3"), ("source.auth.secret_key", "SECRET_MISSING", "does not exist")),
    "secret without its key": ("images", secret_without_key, ("source.auth.password", "SECRET_MISSING", "password")),
    "deleted schedule": ("images", deleted_schedule, ("schedule", "SCHEDULE_ABSENT", "rate(1 hour)")),
    "disabled schedule": ("images", disabled_schedule, ("schedule", "SCHEDULE_DISABLED", "disabled")),
    "changed schedule": ("images", changed_schedule, ("schedule", "SCHEDULE_ABSENT", "is rate(7 days)")),
    "dead letters": ("images", dead_letters, ("runs", "DEAD_LETTERS", "2 dead letters")),
    "unreachable replica": ("tokens", stopped_replica, ("instances", "UNREACHABLE", "1 of 3 instances")),
}
"""A world, how it breaks after its sync was applied, and the part, the code and words of the one failure."""


@pytest.mark.parametrize("case", AFTER)
def test_a_broken_part_is_one_failure(case: str, stack: Stack, tmp_path: Path) -> None:
    kind, breaks, expected = AFTER[case]
    with made(stack, tmp_path, kind) as world:
        breaks(world)
        assert_one_failure(world, expected)


@pytest.fixture
def hooked(stack: Stack, tmp_path: Path) -> Iterator[tuple[World, list[int]]]:
    """A sync with a webhook, and the statuses with which `receive` answers, the last one for ever."""
    statuses = [401]
    with (
        Server(lambda request: Reply(statuses[0] if request.target == "/hooks/sync" else 404)) as receive,
        made(stack, tmp_path, "images", with_webhook) as world,
    ):
        set_output(stack, "ReceiveUrl", f"http://127.0.0.1:{receive.port}/")
        yield world, statuses


@pytest.mark.parametrize("name", ["sync.audit", "sync.drill"])
def test_a_missing_schedule_of_audits_or_drills_is_one_failure(stack: Stack, tmp_path: Path, name: str) -> None:
    def prepare(world: World) -> None:
        world.text += "    audit: {schedule: rate(2 days)}\n    drill: {schedule: rate(3 days)}\n"

    with made(stack, tmp_path, "images", prepare) as world:
        assert failures(world) == []
        stack.target.scheduler.delete_schedule(Name=name, GroupName="syncline")
        assert_one_failure(world, ("schedule", "SCHEDULE_ABSENT", f"of {name} does not exist"))


def test_a_missing_secret_of_a_webhook_is_one_failure(hooked: tuple[World, list[int]]) -> None:
    world, statuses = hooked
    assert failures(world) == []
    remove_secret("hook")(world)
    statuses[0] = 503  # the function cannot compare the secret
    assert_one_failure(world, ("webhook.secret", "SECRET_MISSING", "secret:t/hook does not exist"))


def test_a_webhook_that_fails_is_one_failure(hooked: tuple[World, list[int]]) -> None:
    world, statuses = hooked
    statuses[0] = 503
    assert_one_failure(world, ("webhook", "SERVER_ERROR", "does not accept deliveries"))


def test_a_webhook_that_is_unreachable_is_one_failure(hooked: tuple[World, list[int]]) -> None:
    world, _ = hooked
    set_output(world.stack, "ReceiveUrl", f"http://{closed_port()}/")
    assert_one_failure(world, ("webhook", "UNREACHABLE", "connection refused"))


def test_a_target_with_the_same_code_does_not_hide_a_webhook(stack: Stack, tmp_path: Path) -> None:
    def prepare(world: World) -> None:
        with_webhook(world)
        nobody_listens(world)

    with made(stack, tmp_path, "images", prepare) as world:
        set_output(stack, "ReceiveUrl", f"http://{closed_port()}/")
        failed = [each for each in checked(world) if each["verdict"] == "failed"]
        assert sorted((each["part"], each["code"]) for each in failed) == [
            ("target", "UNREACHABLE"),
            ("webhook", "UNREACHABLE"),
        ]
        assert {each["checked_by"] for each in failed} == {"this machine"}


def test_the_latest_delivery_is_shown(hooked: tuple[World, list[int]]) -> None:
    world, _ = hooked
    world.stack.finish(world.stack.begin("sync", trigger=Trigger.WEBHOOK))
    (line,) = [each for each in checked(world) if each["what"] == "delivery"]
    assert line["text"].startswith("the latest delivery started a run ")


def test_our_own_clock_that_is_wrong_is_one_failure(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def date(_: Request) -> Reply:
        return Reply(403, headers={"Date": email.utils.formatdate(usegmt=True)})

    def dated(world: World) -> None:
        world.replace(world.parts["s3"].url, f"http://127.0.0.1:{world.stop.enter_context(Server(date)).port}")

    with made(stack, tmp_path, "files", dated) as world:
        monkeypatch.setattr(Context, "now", lambda _: time.time() + 3600)
        assert_one_failure(world, ("source", "CLOCK_DIFFERS", "60 minutes behind"))


def test_a_schedule_that_does_not_start_is_one_failure(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(stack, tmp_path, "images") as world:
        monkeypatch.setattr(Context, "now", lambda _: time.time() + 3 * 3600)
        monkeypatch.setattr("syncline.wiring.server_checks.LONGEST_SKEW", 1e9)
        assert_one_failure(world, ("schedule", "SCHEDULE_SILENT", "was due 2 h ago"))


def through_proxy(secret: str) -> Callable[[World], None]:
    """Let the target be reached by a proxy that a secret holds."""

    def change(world: World) -> None:
        world.stack.target.client("secretsmanager").create_secret(Name="t/proxy", SecretString=secret)
        flow, block = "target: {", "target:\n      "
        start = flow if flow in world.text else block
        world.replace(start, f"{start}proxy: 'secret:t/proxy'{', ' if start == flow else chr(10) + ' ' * 6}")

    return change


PROXIED: Final = ("images", "files", "managed_files", "backups", "artifacts")


@pytest.mark.parametrize("kind", PROXIED)
def test_a_missing_secret_of_a_proxy_is_one_failure(kind: str, stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, kind, through_proxy("http://127.0.0.1:9")) as world:
        remove_secret("proxy")(world)
        assert_one_failure(world, ("target.proxy", "SECRET_MISSING", "secret:t/proxy does not exist"))


@pytest.mark.parametrize("kind", PROXIED)
def test_an_invalid_proxy_is_one_failure_without_its_password(kind: str, stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, kind, through_proxy("http://user:proxy-password@a:port")) as world:
        assert_one_failure(world, ("target", "CONFIG_INVALID", "`proxy` is not of the form"))
        assert "proxy-password" not in stack.run("doctor").output


def answering(status: int) -> Callable[[World], None]:
    """Let every replica give the same answer to the request that checks a token."""

    def change(world: World) -> None:
        servers = [world.stop.enter_context(Server(lambda _: Reply(status), "127.0.0.1")) for _ in range(2)]
        instances = [Instance(f"nginx-{each.port}", "127.0.0.1", each.port) for each in servers]
        lists = InstanceLists(Database(world.stack.target.table), time.time)
        lists.put("sync", [each.as_json() for each in instances], time.time() + 1)

    return change


def test_replicas_that_accept_any_token_are_one_failure(stack: Stack, tmp_path: Path) -> None:
    """With such a path, every token would count as in agreement at once."""
    with made(stack, tmp_path, "tokens", answering(200)) as world:
        assert_one_failure(world, ("instances", "CONFIG_INVALID", "accept a token that does not exist"))


@pytest.mark.parametrize("status", [404, 302, 500])
def test_replicas_that_answer_otherwise_are_a_warning(status: int, stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "tokens", answering(status)) as world:
        (line,) = [each for each in checked(world, code=0) if each["what"] == "replicas"]
    assert line["verdict"] == "warning"
    assert f"answered {status}" in line["text"]
    assert "check.path" in line["action"]


def test_a_file_manager_s_permission_to_write_is_not_called_checked(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "managed_files") as world:
        (line,) = [each for each in checked(world) if each["what"] == "write"]
    assert line["verdict"] == "unchecked"


def test_a_silent_schedule_is_found_between_runs_of_a_webhook(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries every 20 minutes do not make up for a schedule that has started nothing for hours."""
    with made(stack, tmp_path, "images") as world:
        begin = time.time()
        monkeypatch.setattr("syncline.wiring.server_checks.LONGEST_SKEW", 1e9)
        for number in range(1, 15):
            moment = begin + 1200 * number + 400
            monkeypatch.setattr(stack.target.state, "_clock", lambda moment=moment: moment)
            stack.finish(stack.begin("sync", trigger=Trigger.WEBHOOK, name=run_id_of(moment, b"12345")))
        monkeypatch.setattr(Context, "now", lambda _: begin + 1200 * 14 + 460)
        assert_one_failure(world, ("schedule", "SCHEDULE_SILENT", "none has started"))


def test_a_start_that_joined_a_run_is_no_silence(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(stack, tmp_path, "images") as world:
        begin = time.time()
        monkeypatch.setattr("syncline.wiring.server_checks.LONGEST_SKEW", 1e9)
        monkeypatch.setattr(stack.target.state, "_clock", lambda: begin + 3000)
        run = stack.begin("sync", trigger=Trigger.WEBHOOK, name=run_id_of(begin + 3000, b"12345"))
        monkeypatch.setattr(stack.target.state, "_clock", lambda: begin + 4000)
        stack.finish(run)
        monkeypatch.setattr(Context, "now", lambda _: begin + 6000)
        assert failures(world) == []


def test_a_folder_that_cannot_be_made_is_one_failure(stack: Stack, tmp_path: Path) -> None:
    """A link that points to nothing, and a file in place of a folder."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").touch()

    def into(folder: Path) -> Callable[[World], None]:
        def change(world: World) -> None:
            start = world.text.index("    target:")
            world.text = f"{world.text[:start]}    target: {{directory: {folder}}}\n"

        return change

    with made(stack, tmp_path, "backups", into(tmp_path / "link" / "below")) as world:
        assert_one_failure(world, ("target", "FILE_REFUSED", "link is no folder"))
        assert stack.apply(f"syncs:\n  sync:{world.text.replace('link', 'file')}").exit_code == 0
        assert_one_failure(world, ("target", "FILE_REFUSED", "file is no folder"))


def test_more_dead_letters_than_a_check_can_read_are_one_failure(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the check has no result in time, names the queues as unreachable, and leaves the letters hidden."""
    monkeypatch.setattr("syncline.cli.stack_checks._MOST_LETTERS", 2)
    with made(stack, tmp_path, "images") as world:
        stack.add_dead_letters("a", "b", sync="sync")
        assert_one_failure(world, ("runs", "DEAD_LETTERS", "2 dead letters"))
        stack.add_dead_letters("c", sync="another")
        assert_one_failure(world, ("queues", "DEAD_LETTERS", "there are 3 dead letters"))
