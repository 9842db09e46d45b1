"""Servers and a sync of each kind for the tests of ``syncline doctor``, and what breaks them."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from syncline.clients.replicas.instances import Instance
from syncline.errors import CODES
from syncline.model import Step
from syncline.store.table import Database
from syncline.store.tokens import InstanceLists
from tests.rig.server import Reply, Server
from tests.standins.file_manager import FileManagerServer
from tests.standins.git_http import git_http
from tests.standins.git_places import make_bare
from tests.standins.github import TOKEN as GITHUB_TOKEN
from tests.standins.github import GitHubServer, Run
from tests.standins.gitlab import TOKEN as GITLAB_TOKEN
from tests.standins.gitlab import GitLabServer
from tests.standins.oci import OciRegistry
from tests.standins.programs import needs
from tests.standins.s3 import ACCESS, SECRET, S3Server
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
    add_functions(stack)
    world = World(stack, folder, "sync")
    with world.stop:
        WORLDS[kind](world)
        if change is not None:
            change(world)
        result = stack.apply(f"syncs:\n  sync:{world.text}")
        assert result.exit_code == 0, result.output
        yield world


def add_functions(stack: Stack) -> None:
    """Create the functions that take the messages of the queues."""
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = stack.target.client("iam").create_role(RoleName="functions", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    functions, queues = stack.target.client("lambda"), stack.target.queues
    for step in Step:
        name = f"syncline-{step.value}"
        functions.create_function(
            FunctionName=name, Runtime="python3.11", Role=role, Handler="app.handler", Code={"ZipFile": b"content"}
        )
        queue = queues.sqs.get_queue_attributes(QueueUrl=queues.urls[step], AttributeNames=["QueueArn"])
        functions.create_event_source_mapping(FunctionName=name, EventSourceArn=queue["Attributes"]["QueueArn"])


def assert_one_failure(world: World, expected: tuple[str, str, str]) -> None:
    lines = checked(world)
    failed = [each for each in lines if each["verdict"] == "failed"]
    assert [(each["part"], each["code"]) for each in failed] == [expected[:2]], failed
    assert expected[2] in failed[0]["text"]
    assert failed[0]["action"]
    assert failed[0]["code"] in CODES


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


def remove_secret(name: str) -> Callable[[World], None]:
    return lambda world: world.stack.target.client("secretsmanager").delete_secret(
        SecretId=f"t/{name}", ForceDeleteWithoutRecovery=True
    )


def deleted_schedule(world: World) -> None:
    world.stack.target.scheduler.delete_schedule(Name="sync", GroupName="syncline")


def absent_bucket(world: World) -> None:
    del world.parts["s3"].objects["shop-copy"]


def set_output(stack: Stack, name: str, value: str | None) -> None:
    record = json.loads((stack.home / "engine.json").read_text())
    record["outputs"] |= {name: value}
    record["outputs"] = {key: each for key, each in record["outputs"].items() if each is not None}
    (stack.home / "engine.json").write_text(json.dumps(record))
