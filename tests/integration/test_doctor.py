"""``syncline doctor`` against real servers: docker-registry with a token server, sshd with git, and nginx."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from syncline.store.table import Database
from syncline.store.tokens import InstanceLists
from tests.standins.git_places import make_bare, sshd
from tests.standins.nginx import HOST, Gateway
from tests.standins.programs import needs
from tests.standins.registry import Registry
from tests.standins.s3 import ACCESS, SECRET, S3Server
from tests.standins.token_server import TokenServer, User
from tests.unit.cli.cli_stack import Stack, made_stack
from tests.unit.cli.doctor_worlds import add_functions


@pytest.fixture(scope="module")
def moto_port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def stack(moto_port: int, tmp_path: Path) -> Iterator[Stack]:
    with made_stack(moto_port, tmp_path) as made:
        add_functions(made)
        yield made


def failures(stack: Stack) -> list[tuple[str, str, str]]:
    """Return the part, the check and the code of each failure."""
    checks: list[dict[str, Any]] = json.loads(stack.run("doctor", "--json").stdout)["checks"]
    return [(each["part"], each["what"], each["code"]) for each in checks if each["verdict"] == "failed"]


def secret(stack: Stack, name: str, value: str) -> None:
    stack.target.client("secretsmanager").create_secret(Name=name, SecretString=value)


IMAGES = """
syncs:
  sync:
    kind: images
    source: {{registry: "{source}", plain_http: true, repositories: [team/app], auth: {auth}}}
    target: {{registry: "{target}", plain_http: true, prefix: mirror, auth: {auth}}}
"""


@pytest.fixture
def registries(stack: Stack) -> Iterator[tuple[Registry, Registry, TokenServer]]:
    """Two registries that trust one token server, with an image each, and the applied sync of both."""
    needs("docker-registry")
    server = TokenServer({"robot": User("password", {"*": "pull,push"})}).start()
    secret(stack, "t/registry", "password")
    with Registry(auth=server) as source, Registry(auth=server) as target:
        source.push_image("team/app", "1.0")
        target.push_image("mirror/team/app", "0.9")
        auth = "{username: robot, password: 'secret:t/registry'}"
        result = stack.apply(IMAGES.format(source=source.host, target=target.host, auth=auth))
        assert result.exit_code == 0, result.output
        yield source, target, server
    server.stop()


def uploads(registry: Registry) -> list[Path]:
    return [each for each in (registry.folder / "data").rglob("_uploads/*") if each.is_dir()]


def test_a_registry_whose_token_grants_no_push_is_one_failure(
    stack: Stack, registries: tuple[Registry, Registry, TokenServer]
) -> None:
    _, target, server = registries
    assert failures(stack) == []
    server.users["robot"] = User("password", {"mirror/*": "pull", "*": "pull,push"})
    assert failures(stack) == [("target", "push", "FORBIDDEN")]
    assert uploads(target) == []


def test_a_registry_that_may_not_be_pulled_from_is_one_failure(
    stack: Stack, registries: tuple[Registry, Registry, TokenServer]
) -> None:
    registries[2].users["robot"] = User("password", {"team/*": "", "*": "pull,push"})
    assert failures(stack) == [("source", "pull", "FORBIDDEN")]


def test_a_registry_without_tokens_keeps_no_upload(stack: Stack) -> None:
    needs("docker-registry")
    with Registry() as source, Registry() as target:
        source.push_image("team/app", "1.0")
        stack.apply(IMAGES.format(source=source.host, target=target.host, auth="anonymous"))
        assert failures(stack) == []
        assert uploads(target) == []
        assert json.loads(target.request("GET", "/v2/_catalog").body) == {"repositories": []}


READ_ONLY = (
    'command="case \\"$SSH_ORIGINAL_COMMAND\\" in git-receive-pack*) '
    "echo 'ERROR: The key you are authenticating with has been marked as read only.' >&2; exit 1;; "
    '*) exec sh -c \\"$SSH_ORIGINAL_COMMAND\\";; esac" '
)
"""An option of authorized_keys that refuses pushes, as a read-only deploy key does."""


def test_a_read_only_deploy_key_is_one_failure(stack: Stack, tmp_path: Path) -> None:
    needs("sshd", "git")
    bare = make_bare(tmp_path / "git" / "backups.git")
    bare.fill({"README": b"backups"})
    (tmp_path / "sshd").mkdir()
    with S3Server("clusters") as s3, sshd(tmp_path / "sshd") as server:
        s3.put("clusters", "east/shop/one.yaml", b"kind: Service")
        secret(stack, "t/s3", SECRET)
        secret(stack, "t/key", server.key)
        sync = {
            "kind": "backups",
            "source": {
                "bucket": "clusters",
                "endpoint": s3.url,
                "auth": {"access_key": ACCESS, "secret_key": "secret:t/s3"},
            },
            "target": {
                "repository": server.url(bare),
                "branch": "main",
                "auth": {"ssh_key": "secret:t/key", "known_hosts": server.known_hosts},
            },
        }
        result = stack.apply(json.dumps({"syncs": {"sync": sync}}))
        assert result.exit_code == 0, result.output
        assert failures(stack) == []
        allowed = tmp_path / "sshd" / "authorized_keys"
        allowed.write_text(READ_ONLY + allowed.read_text())
        assert failures(stack) == [("target", "push", "FORBIDDEN")]
        assert bare.commits() == ["filled"]


def test_an_nginx_replica_that_does_not_answer_is_one_failure(stack: Stack, tmp_path: Path) -> None:
    needs("nginx")
    with Gateway(3) as gateway:
        (tmp_path / "ca.pem").write_text(gateway.authority.pem)
        check = {"host": HOST, "path": "/check", "ca": "file:ca.pem"}
        sync = {
            "kind": "tokens",
            "sources": {"prod": {"namespace": "gateway", "service": "nginx"}},
            "check": check,
            "stale_after": 3600,
        }
        result = stack.apply(json.dumps({"syncs": {"sync": sync}}))
        assert result.exit_code == 0, result.output
        instances = [each.as_json() for each in gateway.listed]
        InstanceLists(Database(stack.target.table), time.time).put("sync", instances, time.time())
        assert failures(stack) == []
        gateway.instances[1].kill()
        assert failures(stack) == [("instances", "replicas", "UNREACHABLE")]
