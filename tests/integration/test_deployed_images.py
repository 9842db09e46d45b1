"""The deployed functions between two real registries, driven by the command and checked by skopeo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import pytest

from syncline.cli import local_engine as engine
from syncline.cli.deploy import STACK, client_arguments
from syncline.cli.local_engine import Engine
from tests.rig.container import wait_for
from tests.standins.pairs import RegistryPair, TokenRegistryPair
from tests.standins.registry import Htpasswd, Registry, basic, sha256

TOP: Final = Path(__file__).parents[2]
INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
HOOK: Final = "a-long-random-text"
Skopeo = Callable[..., bytes]


@dataclass(frozen=True)
class Deployed:
    """The stack on a separate engine, and the command."""

    home: Path
    engine: Engine

    def keep_secret(self, name: str, value: dict[str, str]) -> None:
        secrets = boto3.client("secretsmanager", **client_arguments(self.engine.endpoint))  # type: ignore[call-overload]
        secrets.create_secret(Name=name, SecretString=json.dumps(value))

    def syncline(self, *arguments: str, exits: int = 0) -> Any:
        """Run the command; return its JSON output. Fail if its exit code is not ``exits``."""
        return self._said([*arguments, "--home", str(self.home)], {}, exits)

    def by_name(self, *arguments: str, exits: int = 0) -> Any:
        """Run the command with only the name of the stack and the AWS settings of the environment; return its JSON output."""
        about = client_arguments(self.engine.endpoint)
        variables = {
            "AWS_ENDPOINT_URL": about["endpoint_url"],
            "AWS_DEFAULT_REGION": about["region_name"],
            "AWS_ACCESS_KEY_ID": about["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": about["aws_secret_access_key"],
        }
        return self._said([*arguments, "--stack", STACK], variables, exits)

    @staticmethod
    def _said(arguments: Sequence[str], variables: dict[str, str], exits: int) -> Any:
        command = [sys.executable, "-m", "syncline.cli.main", *arguments, "--json"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment | variables, check=False
        )
        assert done.returncode == exits, done.stdout + done.stderr
        return json.loads(done.stdout)

    def apply(self, folder: Path, **syncs: dict[str, Any]) -> Any:
        """Apply the syncs from a file; JSON is valid YAML."""
        file = folder / "syncs.yaml"
        file.write_text(json.dumps({"syncs": {name.replace("_", "-"): sync for name, sync in syncs.items()}}))
        return self.syncline("apply", str(file), "--prune")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    home = tmp_path_factory.mktemp("home")
    running = engine.up(home, TOP, port=0, say=print)
    stack = Deployed(home, running)
    stack.keep_secret("syncline/ann", {"password": "ann's password"})
    stack.keep_secret("syncline/reader", {"password": "reader's password"})
    stack.keep_secret("syncline/writer", {"password": "writer's password"})
    stack.keep_secret("syncline/hooks", {"pushed": HOOK})
    yield stack
    engine.down(home)


def fill(registry: Registry, namespace: str) -> dict[str, str]:
    """Push two repositories with common layers, a multi-architecture index and a signature; return digests by reference."""
    common = os.urandom(1_200_000)
    app, base = f"{namespace}/team/app", f"{namespace}/base"
    digests = {
        f"{base}:1": registry.push_image(base, "1", [common]),
        f"{app}:1": registry.push_image(app, "1", [common, b"the app, version 1"]),
        f"{app}:2": registry.push_image(app, "2", [common, b"the app, version 2"]),
    }
    children = []
    for tag, architecture in (("1", "amd64"), ("2", "arm64")):
        digest = digests[f"{app}:{tag}"]
        body = registry.authorized("GET", f"/v2/{app}/manifests/{digest}", headers={"Accept": MANIFEST}).body
        platform = {"os": "linux", "architecture": architecture}
        children.append({"mediaType": MANIFEST, "digest": digest, "size": len(body), "platform": platform})
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}, indent=3).encode()
    registry.push_manifest(app, "multi", index, INDEX)
    digests[f"{app}:multi"] = sha256(index)
    signature = f"{digests[f'{app}:multi'].replace(':', '-')}.sig"
    digests[f"{app}:{signature}"] = registry.push_image(app, signature, [b'{"critical": {}}'])
    return digests


def sync(prod: Registry, dr: Registry, source: Sequence[str], target: Sequence[str], **more: Any) -> dict[str, Any]:
    def end(registry: Registry, who: Sequence[str]) -> dict[str, Any]:
        auth = {"username": who[0], "password": f"secret:{who[1]}#password"}
        return {"registry": registry.host, "plain_http": True, "auth": auth}

    repositories = {"repositories": more.pop("repositories")}
    return {"kind": "images", "source": end(prod, source) | repositories, "target": end(dr, target), **more}


def same(skopeo: Skopeo, digests: dict[str, str], prod: Sequence[str], dr: Sequence[str]) -> None:
    """Check with skopeo that both registries return the same bytes. Each is a host and credentials."""
    for reference, digest in digests.items():
        raw = [
            skopeo("inspect", "--raw", "--tls-verify=false", "--creds", creds, f"docker://{host}/{reference}")
            for host, creds in (prod, dr)
        ]
        assert sha256(raw[0]) == sha256(raw[1]) == digest, reference


def test_between_registries_with_passwords(
    deployed: Deployed, registry_pair: RegistryPair, namespace: str, skopeo: Skopeo, tmp_path: Path
) -> None:
    prod, dr = registry_pair.prod, registry_pair.dr
    digests = fill(prod, namespace)
    ann = ("ann", "syncline/ann")
    repositories = [f"{namespace}/team/app", f"{namespace}/base"]
    deployed.apply(tmp_path, copied=sync(prod, dr, ann, ann, repositories=repositories))

    plan = deployed.syncline("plan", "copied")
    assert plan["run"]["counts"]["would_move"] == len(digests)
    assert deployed.syncline("run", "copied", "--wait")["run"]["counts"]["moved"] == len(digests)
    creds = "ann:ann's password"
    same(skopeo, digests, (prod.host, creds), (dr.host, creds))
    image = f"docker://{dr.host}/{namespace}/team/app:multi"
    skopeo("copy", "--all", "--src-tls-verify=false", "--src-creds", creds, image, f"dir:{tmp_path / 'copy'}")

    again = deployed.syncline("run", "copied", "--wait")["run"]
    assert (again["counts"]["skipped"], again["counts"]["queued"]) == (len(digests), 0)

    prod.push_image(f"{namespace}/base", "1", [b"another image under the same tag"])
    conflict = deployed.syncline("run", "copied", "--wait", exits=1)["run"]
    assert (conflict["counts"]["conflict"], conflict["counts"]["moved"]) == (1, 0)
    kept = skopeo("inspect", "--raw", "--tls-verify=false", "--creds", creds, f"docker://{dr.host}/{namespace}/base:1")
    assert sha256(kept) == digests[f"{namespace}/base:1"], "a different tag was overwritten"


def test_a_stack_is_driven_by_its_name(
    deployed: Deployed, registry_pair: RegistryPair, namespace: str, tmp_path: Path
) -> None:
    prod, dr = registry_pair.prod, registry_pair.dr
    digests = fill(prod, namespace)
    ann = ("ann", "syncline/ann")
    repositories = [f"{namespace}/team/app", f"{namespace}/base"]
    file = tmp_path / "syncs.yaml"
    file.write_text(json.dumps({"syncs": {"by-name": sync(prod, dr, ann, ann, repositories=repositories)}}))
    deployed.by_name("apply", str(file), "--prune")
    assert deployed.by_name("plan", "by-name")["run"]["counts"]["would_move"] == len(digests)
    ran = deployed.by_name("run", "by-name", "--wait")["run"]
    assert (ran["counts"]["moved"], ran["counts"]["failed"]) == (len(digests), 0)
    [status] = deployed.by_name("status", "by-name")["syncs"]
    assert (status["current"], status["last"]["id"]) == (None, ran["id"])
    assert {item["name"] for item in deployed.by_name("report", "by-name", "--full")["items"]} >= {"1", "2", "multi"}
    assert deployed.by_name("retry", "by-name")["letters"]["retried"] == 0
    deployed.by_name("cancel", "by-name")
    assert deployed.syncline("status", "by-name")["syncs"][0]["last"]["id"] == ran["id"], (
        "the name led to another stack"
    )


def test_between_registries_with_tokens(
    deployed: Deployed, token_registry_pair: TokenRegistryPair, namespace: str, skopeo: Skopeo, tmp_path: Path
) -> None:
    prod, dr = token_registry_pair.prod, token_registry_pair.dr
    digests = fill(prod, namespace)
    reader, writer = ("reader", "syncline/reader"), ("writer", "syncline/writer")
    repositories = [f"{namespace}/team/app", f"{namespace}/base"]
    deployed.apply(tmp_path, copied=sync(prod, dr, reader, writer, repositories=repositories))
    assert deployed.syncline("run", "copied", "--wait")["run"]["counts"]["moved"] == len(digests)
    same(skopeo, digests, (prod.host, "reader:reader's password"), (dr.host, "writer:writer's password"))

    # With only read permissions, every item fails separately with its code and becomes a dead letter.
    only_reader = sync(prod, dr, reader, reader, repositories=repositories)
    only_reader["target"]["prefix"] = "elsewhere"
    deployed.apply(tmp_path, copied=only_reader)
    assert deployed.syncline("run", "copied", "--wait", exits=1)["run"]["counts"]["failed"] == len(digests)
    report = deployed.syncline("report", "copied", exits=1)
    assert {item["code"] for item in report["items"]} <= {"FORBIDDEN", "UNAUTHORIZED"}


def test_a_push_is_copied_at_once(deployed: Deployed, namespace: str, skopeo: Skopeo, tmp_path: Path) -> None:
    users = {"ann": "ann's password"}
    repository = f"{namespace}/pushed"
    hook = f"{deployed.engine.outputs['ReceiveUrl']}hooks/pushed/{HOOK}"
    with Registry(auth=Htpasswd(users), notify=hook) as prod, Registry(auth=Htpasswd(users)) as dr:
        ann = ("ann", "syncline/ann")
        webhook = {"secret": "secret:syncline/hooks#pushed"}
        deployed.apply(tmp_path, pushed=sync(prod, dr, ann, ann, repositories=[repository], webhook=webhook))
        digest = prod.push_image(repository, "1", [b"just pushed"])
        end = time.monotonic() + 30
        headers = {"Authorization": basic("ann", users["ann"]), "Accept": MANIFEST}
        while dr.request("HEAD", f"/v2/{repository}/manifests/1", headers=headers).status != 200:
            assert time.monotonic() < end, "the push was not copied within 30 seconds"
            time.sleep(0.05)
        creds = "ann:ann's password"
        same(skopeo, {f"{repository}:1": digest}, (prod.host, creds), (dr.host, creds))


def test_a_sync_that_is_not_verified_in_time_is_stale(
    deployed: Deployed, registry_pair: RegistryPair, namespace: str, tmp_path: Path
) -> None:
    """The function watch measures it, without a schedule and without a run."""
    ann = ("ann", "syncline/ann")
    late = sync(registry_pair.prod, registry_pair.dr, ann, ann, repositories=[f"{namespace}/base"])
    deployed.apply(tmp_path, late=late | {"fresh_within": "1s"})
    client = boto3.client("lambda", **client_arguments(deployed.engine.endpoint))  # type: ignore[call-overload]

    def stale() -> bool:
        answer = json.loads(client.invoke(FunctionName=f"{STACK}-watch")["Payload"].read())
        assert answer.keys() == {"stale"}, answer
        return bool(answer["stale"] == ["late"])

    wait_for(stale)
    assert deployed.syncline("status", "late")["syncs"][0]["stale"] is True
