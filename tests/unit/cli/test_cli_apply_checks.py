"""Checks of ``apply``: servers that do not answer, and kinds that the engine does not support."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.cli import apply_checks
from syncline.cli.commands_apply import _check_kinds
from syncline.config.file import parse_syncs
from syncline.errors import SynclineError
from syncline.kinds.backups.config import BackupsSource
from syncline.kinds.table import KINDS
from syncline.secrets import Secrets
from tests.rig.server import Reply, Server
from tests.standins.certificates import Authority
from tests.standins.proxy import http_proxy
from tests.unit.cli.cli_stack import ROOT, SYNCS, Stack

BACKUPS = """\
syncs:
  clusters:
    kind: backups
    source: {bucket: backups}
    target:
      repository: REPOSITORY
      auth: {ssh_key: "secret:syncline/git#key", known_hosts: "git.example ssh-ed25519 AAAA"}
"""


TOKENS = """\
syncs:
  gateway:
    kind: tokens
    sources:
      one: {api: "CLUSTER", namespace: gateway, service: nginx, auth: {token: "env:TOKEN"}}
      two: {namespace: gateway, service: nginx}
    check: {host: api.example}
"""


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secure(authority: Authority) -> Iterator[str]:
    """Return host and port of a server whose certificate is signed by ``authority``."""
    with Server(lambda _request: Reply(401), tls=authority.server_context()) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def closed() -> Iterator[str]:
    """Return an address without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def no_secrets() -> Secrets:
    return Secrets(lambda: None, lambda: None, {})  # type: ignore[arg-type, return-value]


def syncs(source: str, target: str) -> str:
    return SYNCS.replace("registry: prod.example", f"registry: {source}").replace(
        "registry: dr.example", f"registry: {target}"
    )


def test_unreachable_servers_are_named_with_their_keys(secure: str, closed: str) -> None:
    found = apply_checks.unreachable(parse_syncs(syncs(secure, closed).encode()).syncs.values(), no_secrets())
    assert [each.partition(": ")[0] for each in found] == ["prod.source", "prod.target"]
    assert secure in found[0]
    assert "certificate" in found[0]
    assert closed in found[1]
    assert "refused" in found[1]


def test_a_server_that_answers_401_is_reachable(secure: str, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(authority.pem)
    text = syncs(f"{secure}\n      ca: file:ca.pem", f"{secure}\n      ca: file:ca.pem")
    read = parse_syncs(text.encode(), folder=tmp_path)
    assert apply_checks.unreachable(read.syncs.values(), no_secrets()) == []


def test_the_proxy_of_an_endpoint_is_used(closed: str) -> None:
    with http_proxy() as proxy:
        proxy.refuse = "403 Forbidden"
        text = syncs(f"{closed}\n      proxy: {proxy.url}", f"dr.example\n      proxy: http://{closed}")
        found = apply_checks.unreachable(parse_syncs(text.encode()).syncs.values(), no_secrets())
    assert f"{closed}/v2/ through the proxy {proxy.url[7:]}: the proxy answered 403 to CONNECT" in found[0]
    assert f"dr.example/v2/ through the proxy {closed}: connection refused" in found[1]


@pytest.mark.parametrize(
    ("status", "reason"), [("407 Proxy Authentication Required", "answered 407"), ("", "answered 503")]
)
def test_a_proxy_that_refuses_to_forward_is_named(closed: str, status: str, reason: str) -> None:
    with http_proxy() as proxy:
        proxy.refuse = status
        one = f"{closed}\n      plain_http: true\n      proxy: {proxy.url}"
        found = apply_checks.unreachable(parse_syncs(syncs(one, one).encode()).syncs.values(), no_secrets())
    assert f"prod.source: GET http://{closed}/v2/ through the proxy {proxy.url[7:]} {reason}" in found[0]


def test_a_silent_server_does_not_delay_the_command() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        read = parse_syncs(syncs(address, address + "\n      plain_http: true").encode())
        found = apply_checks.unreachable(read.syncs.values(), no_secrets(), 0.3)
    assert [each.partition(": ")[0] for each in found] == ["prod.source", "prod.target"]


def test_each_cluster_of_a_tokens_sync_is_checked(closed: str) -> None:
    read = parse_syncs(TOKENS.replace("CLUSTER", f"https://{closed}").encode())
    found = apply_checks.unreachable(read.syncs.values(), no_secrets())
    assert [each.partition(": ")[0] for each in found] == ["gateway.sources.one"]


@pytest.mark.parametrize("address", ["git@{}:team/b.git", "ssh://git@{}/team/b.git"])
def test_ssh_servers_are_checked_by_a_connection(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[tuple[str, int]] = []

    def refuse(peer: tuple[str, int], **_: float) -> socket.socket:
        connections.append(peer)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    repository = address.format("git.example" if address.startswith("git") else "git.example:2222")
    read = parse_syncs(BACKUPS.replace("REPOSITORY", repository).encode())
    assert [each.path for each in read.syncs["clusters"].addresses()] == [("source",), ("target",)]
    monkeypatch.setattr(BackupsSource, "addresses", lambda _: iter(()))
    found = apply_checks.unreachable(read.syncs.values(), no_secrets())
    assert found == [f"clusters.target: {repository}: Connection refused (checked from this machine)"]
    assert connections == [("git.example", 22 if address.startswith("git") else 2222)]


@pytest.mark.usefixtures("checks_servers")
def test_an_unreachable_server_is_only_a_warning(stack: Stack, closed: str) -> None:
    result = stack.apply(syncs(closed, closed))
    assert result.exit_code == 0
    assert "warning: prod.source: " in result.stdout
    assert "(checked from this machine)" in result.stdout
    assert stack.target.state.sync_names() == ["prod"]
    assert "warning" not in stack.apply(syncs(closed, closed), "--offline").stdout


def test_a_kind_that_the_engine_does_not_know_is_refused(stack: Stack) -> None:
    read = parse_syncs(SYNCS.encode()).syncs.values()
    older = replace(stack.target, outputs={**stack.target.outputs, "Kinds": "files,tokens"})
    with pytest.raises(SynclineError, match=r".* does not support images, the kind of prod; run `syncline up`"):
        _check_kinds(older, read)
    _check_kinds(replace(older, outputs={**older.outputs, "Kinds": ",".join(KINDS)}), read)
    _check_kinds(stack.target, read)  # an older stack has no such output


def test_the_template_names_all_kinds() -> None:
    [line] = [line for line in (ROOT / "template.yaml").read_text().splitlines() if line.startswith("  Kinds:")]
    assert line == f'  Kinds: {{Value: "{",".join(sorted(KINDS))}"}}'
