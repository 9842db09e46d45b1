"""``syncline doctor``: a healthy sync of each kind has no failure, and each misconfiguration has exactly one."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import ipaddress
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from syncline.cli.context import Context
from syncline.cli.output import Output
from syncline.cli.stack_checks import StackChecks
from syncline.clients.replicas.instances import Instance
from syncline.errors import CODES, SynclineError
from syncline.kinds.table import KINDS
from syncline.messages import Start
from syncline.model import Outcome, Step, Trigger
from syncline.model import Result as ItemResult
from syncline.store.table import Database
from syncline.store.tokens import InstanceLists
from syncline.wiring.checks import Check, CheckChain, CheckGroup, CheckVerdict, run_checks
from tests.rig.server import Reply, Request, Server, json_reply
from tests.standins.certificates import Authority
from tests.standins.file_manager import FileManagerServer
from tests.standins.git_http import git_http
from tests.standins.git_places import make_bare
from tests.standins.github import TOKEN as GITHUB_TOKEN
from tests.standins.github import GitHubServer, Run
from tests.standins.gitlab import TOKEN as GITLAB_TOKEN
from tests.standins.gitlab import GitLabServer
from tests.standins.oci import Fault, OciRegistry
from tests.standins.programs import needs
from tests.standins.s3 import ACCESS, SECRET, Answer, S3Server
from tests.unit.cli.cli_stack import Stack

USER, PASSWORD = "robot", "password-of-the-tests"
SECRETS: Final = {
    "registry": json.dumps({"password": PASSWORD}),
    "s3": SECRET,
    "git": "git-token-of-the-tests",
    "github": GITHUB_TOKEN,
    "gitlab": GITLAB_TOKEN,
    "hook": "hook-secret-of-the-tests",
    "manager": "manager-token-of-the-tests",
}
AUTH: Final = f"auth: {{username: {USER}, password: 'secret:t/registry#password'}}"


@dataclass
class World:
    """The servers of one sync, and its configuration in YAML."""

    stack: Stack
    folder: Path
    name: str = ""
    text: str = ""
    parts: dict[str, Any] = field(default_factory=dict)
    stop: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def replace(self, old: str, new: str) -> None:
        assert old in self.text, self.text
        self.text = self.text.replace(old, new)


def checked(world: World, *names: str, code: int | None = None) -> list[dict[str, Any]]:
    result = world.stack.run("doctor", *(names or (world.name,)), "--json")
    value = json.loads(result.stdout)
    failed = [each for each in value["checks"] if each["verdict"] == "failed"]
    assert result.exit_code == (bool(failed) if code is None else code), result.output
    assert not any(secret in result.output for secret in (PASSWORD, *SECRETS.values()))
    return list(value["checks"])


def failures(world: World) -> list[dict[str, Any]]:
    return [each for each in checked(world) if each["verdict"] == "failed"]


# -- worlds ------------------------------------------------------------------------------------------------------------


def images(world: World) -> None:
    source, target = (world.stop.enter_context(OciRegistry({USER: PASSWORD})) for _ in range(2))
    source.store.add_image("team/app", "1.0", b"a layer")
    target.store.add_image("mirror/team/app", "0.9", b"another layer")
    world.parts |= {"source": source, "target": target}
    world.text = f"""
    kind: images
    schedule: rate(1 hour)
    source: {{registry: "{source.host}", plain_http: true, repositories: [team/app], {AUTH}}}
    target: {{registry: "{target.host}", plain_http: true, prefix: mirror, {AUTH}}}
"""


def files(world: World) -> None:
    server = world.stop.enter_context(S3Server("shop", "shop-copy"))
    server.put("shop", "a/b", b"content")
    world.parts["s3"] = server
    end = f'endpoint: "{server.url}", auth: {{access_key: {ACCESS}, secret_key: "secret:t/s3"}}'
    world.text = f"""
    kind: files
    source: {{bucket: shop, {end}}}
    target: {{bucket: shop-copy, {end}}}
"""


def managed_files(world: World) -> None:
    files(world)
    server = world.stop.enter_context(FileManagerServer(token=SECRETS["manager"]))
    world.parts["manager"] = server
    world.text = (
        world.text.partition("    target:")[0]
        + f'    target: {{file_manager: "{server.url}", token: "secret:t/manager"}}\n'
    )


def backups(world: World) -> None:
    needs("git")
    server = world.stop.enter_context(S3Server("clusters"))
    server.put("clusters", "east/shop/one.yaml", b"kind: Service")
    bare = make_bare(world.folder / "git" / "backups.git")
    bare.fill({"README": b"backups"})
    git = world.stop.enter_context(git_http(world.folder / "git", {"x-access-token": SECRETS["git"]}))
    world.parts |= {"s3": server, "bare": bare, "git": git}
    world.text = f"""
    kind: backups
    source:
      bucket: clusters
      endpoint: "{server.url}"
      auth: {{access_key: {ACCESS}, secret_key: "secret:t/s3"}}
    target: {{repository: "{git.url}/backups.git", branch: main, auth: {{token: "secret:t/git"}}}}
"""


def artifacts(world: World) -> None:
    github = world.stop.enter_context(GitHubServer())
    github.runs.append(Run(1, {}))
    registry = world.stop.enter_context(OciRegistry({USER: PASSWORD}))
    registry.store.add_image("group/project/x86/app", "1.0", b"a layer")
    gitlab = world.stop.enter_context(GitLabServer(lambda: {"group/project/x86/app": {"1.0": "sha256:" + "a" * 64}}))
    world.parts |= {"github": github, "registry": registry, "gitlab": gitlab}
    world.text = f"""
    kind: artifacts
    source: {{repository: team/builds, workflow: build.yml, url: "{github.url}", auth: {{token: "secret:t/github"}}}}
    build:
      metadata: {{keys: [Image tag], tag: Image tag}}
      images: [{{name: app}}]
      mapping: [{{tag: "{{tag}}-amd64", to: "x86/{{image}}:{{tag}}"}}]
    target:
      registry: "{registry.host}"
      plain_http: true
      project: group/project
      {AUTH}
      api: {{url: "{gitlab.url}", token: "secret:t/gitlab"}}
"""


def tokens(world: World) -> None:
    servers = [world.stop.enter_context(Server(lambda _: Reply(401), "127.0.0.1")) for _ in range(3)]
    world.parts["servers"] = servers
    instances = [Instance(f"nginx-{number}", "127.0.0.1", each.port) for number, each in enumerate(servers)]
    lists = InstanceLists(Database(world.stack.target.table), time.time)
    lists.put("sync", [each.as_json() for each in instances], time.time())
    world.text = """
    kind: tokens
    sources: {prod: {namespace: gateway, service: nginx}}
    check: {host: api.example, plain_http: true}
    stale_after: 3600
"""


WORLDS: Final = {each.__name__: each for each in (images, files, managed_files, backups, artifacts, tokens)}


@contextmanager
def made(stack: Stack, folder: Path, kind: str, change: Callable[[World], None] | None = None) -> Iterator[World]:
    """Start the servers of a kind, apply its sync after ``change``, and stop the servers at the end."""
    manager = stack.target.client("secretsmanager")
    for name, value in SECRETS.items():
        manager.create_secret(Name=f"t/{name}", SecretString=value)
    world = World(stack, folder, "sync")
    with world.stop:
        WORLDS[kind](world)
        if change is not None:
            change(world)
        result = stack.apply(f"syncs:\n  sync:{world.text}")
        assert result.exit_code == 0, result.output
        yield world


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


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def certificate_context(folder: Path, *, expired: bool = False) -> ssl.SSLContext:
    """Return a context with a self-signed certificate for loopback, and its PEM in ``folder/own.pem``."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    begin, end = (now - dt.timedelta(days=9), now - dt.timedelta(days=2 if expired else -90))
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(begin).not_valid_after(end)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(loopback, critical=False).sign(key, hashes.SHA256())
    pem = certificate.public_bytes(Encoding.PEM)
    (folder / "own.pem").write_bytes(pem)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "chain.pem").write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem")
    return context


def source_over_tls(world: World, context: ssl.SSLContext, ca: str = "") -> None:
    server = world.stop.enter_context(Server(lambda _: Reply(401), tls=context))
    source = world.parts["source"].host
    world.replace(f'"{source}", plain_http: true', f'"127.0.0.1:{server.port}"' + (f", ca: file:{ca}" if ca else ""))


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


def assert_one_failure(world: World, expected: tuple[str, str, str]) -> None:
    lines = checked(world)
    failed = [each for each in lines if each["verdict"] == "failed"]
    assert [(each["part"], each["code"]) for each in failed] == [expected[:2]], failed
    assert expected[2] in failed[0]["text"]
    assert failed[0]["action"]
    assert failed[0]["code"] in CODES


def wrong_password(world: World) -> None:
    world.parts["source"].users = {USER: "another password"}


def push_denied(world: World) -> None:
    denied = Fault(403, {}, b'{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}')
    world.parts["target"].fault("PUT", "/blobs/uploads/", denied, times=None)


def absent_bucket(world: World) -> None:
    del world.parts["s3"].objects["shop-copy"]


def another_region(world: World) -> None:
    answer: Answer = (301, {"x-amz-bucket-region": "eu-west-1"}, b"<Error><Code>PermanentRedirect</Code></Error>")
    world.parts["s3"].hook = lambda _method, bucket, _key, _query: answer if bucket == "shop" else None


def writes_denied(world: World) -> None:
    answer: Answer = (403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    world.parts["s3"].hook = lambda method, _bucket, _key, _query: answer if method == "PUT" else None


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


def remove_secret(name: str) -> Callable[[World], None]:
    return lambda world: world.stack.target.client("secretsmanager").delete_secret(
        SecretId=f"t/{name}", ForceDeleteWithoutRecovery=True
    )


def secret_without_key(world: World) -> None:
    manager = world.stack.target.client("secretsmanager")
    manager.put_secret_value(SecretId="t/registry", SecretString='{"user": "x"}')


def deleted_schedule(world: World) -> None:
    world.stack.target.scheduler.delete_schedule(Name="sync", GroupName="syncline")


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
    "wrong token of a file manager": ("managed_files", unhealthy_manager, ("target", "UNAUTHORIZED", "401")),
    "read-only repository": ("backups", read_only_repository, ("target", "FORBIDDEN", "git push")),
    "wrong git token": ("backups", wrong_git_token, ("target", "UNAUTHORIZED", "rejected the credentials")),
    "missing git repository": ("backups", absent_git_repository, ("target", "REPOSITORY_ABSENT", "not found")),
    "protected branch": ("backups", protected_branch, ("runs", "BRANCH_PROTECTED", "main a.yaml")),
    "expired GitLab token": ("artifacts", expired_gitlab_token, ("target.api", "UNAUTHORIZED", "expired")),
    "narrow GitLab token": ("artifacts", narrow_gitlab_token, ("target.api", "FORBIDDEN", "scope read_api")),
    "expired GitHub token": ("artifacts", expired_github_token, ("source", "UNAUTHORIZED", "Bad credentials")),
    "exhausted rate limit": ("artifacts", exhausted_rate_limit, ("source", "THROTTLED", "rate limit exceeded")),
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


# -- the stack ---------------------------------------------------------------------------------------------------------


def absent_table(stack: Stack) -> None:
    stack.target.client("dynamodb").delete_table(TableName=stack.target.output("TableName"))


def absent_queue(stack: Stack) -> None:
    stack.target.queues.sqs.delete_queue(QueueUrl=stack.target.queues.urls[Step.VERIFY])


def absent_watch(stack: Stack) -> None:
    stack.target.scheduler.delete_schedule(Name="syncline-watch")


def set_output(stack: Stack, name: str, value: str | None) -> None:
    record = json.loads((stack.home / "engine.json").read_text())
    record["outputs"] |= {name: value}
    record["outputs"] = {key: each for key, each in record["outputs"].items() if each is not None}
    (stack.home / "engine.json").write_text(json.dumps(record))


def other_version(stack: Stack) -> None:
    set_output(stack, "Version", "0.0.9")


def older_version(stack: Stack) -> None:
    set_output(stack, "Version", None)


STACKS: Final[dict[str, tuple[Callable[[Stack], None], tuple[str, str, str]]]] = {
    "missing table": (absent_table, ("table", "TABLE_ABSENT", "syncline-table")),
    "missing watch": (absent_watch, ("functions", "SCHEDULE_ABSENT", "syncline-watch")),
    "missing queue": (absent_queue, ("queues", "QUEUE_ABSENT", "syncline-verify does not exist")),
    "other version": (other_version, ("functions", "VERSION_DIFFERS", "version 0.0.9 is deployed")),
    "version without a number": (older_version, ("functions", "VERSION_DIFFERS", "without a number")),
}


@pytest.mark.parametrize("case", STACKS)
def test_a_broken_stack_is_one_failure(case: str, stack: Stack, tmp_path: Path) -> None:
    breaks, expected = STACKS[case]
    with made(stack, tmp_path, "files") as world:
        breaks(stack)
        assert_one_failure(world, expected)


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
    assert lines[-1] == "checked from this machine, where the functions run, too"
    assert lines[-2].startswith("1 problem, ")


def test_all_syncs_are_checked_and_a_failure_in_common_is_reported_once(stack: Stack, tmp_path: Path) -> None:
    with made(stack, tmp_path, "files") as world:
        one, two = (world.text.replace("shop-copy,", f"shop-copy, prefix: {prefix}/,") for prefix in "ab")
        assert stack.apply(f"syncs:\n  one:{one}\n  two:{two}", "--prune", "--yes").exit_code == 0
        absent_bucket(world)
        lines = json.loads(stack.run("doctor", "--json").stdout)["checks"]
    assert {each["sync"] for each in lines} == {None, "one", "two"}
    assert [each["sync"] for each in lines if each["verdict"] == "failed"] == ["one"]
    assert any(each["text"] == "the same failure as above: one target" for each in lines if each["sync"] == "two")


def test_an_unknown_name_is_an_error(stack: Stack) -> None:
    result = stack.run("doctor", "absent")
    assert result.exit_code == 2
    assert "NO_SUCH_SYNC" in result.stderr


@pytest.mark.parametrize("word", ["test", "--health-check", "check"])
def test_the_words_of_the_replaced_services_run_it(word: str, stack: Stack) -> None:
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
