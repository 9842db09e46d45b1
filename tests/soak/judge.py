"""Comparison of every source with its target, byte by byte and without code of the product, and checks of its reports."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

from tests.soak.deployment import KINDS, PREFIX, PROJECT, REPOSITORIES, Deployment, sync_name
from tests.soak.durable import read
from tests.soak.serve import BUCKETS, FILES
from tests.soak.servers import Servers
from tests.soak.writers import DOWN_ERRORS, INDEX, Work
from tests.standins.file_manager import Stored
from tests.standins.registry import OCI_MANIFEST, Registry, sha256

_ACCEPT: Final = f"{OCI_MANIFEST}, {INDEX}, application/vnd.docker.distribution.manifest.v2+json"
_COPIED: Final = tuple(kind for kind in KINDS if kind != "tokens")
_QUIET_LIMIT: Final = 600.0
_LIST_LIMIT: Final = 150.0


def idle(deployment: Deployment) -> list[str]:
    """Wait until no run is active and no message is queued. Return the errors if that takes too long."""
    end, quiet = time.monotonic() + _QUIET_LIMIT, 0
    while quiet < 3:
        _, status = deployment.syncline("status")
        busy = [each["name"] for each in status["syncs"] if each.get("current")]
        waiting = messages(deployment)
        quiet = 0 if busy or waiting else quiet + 1
        if time.monotonic() > end:
            return [f"after {_QUIET_LIMIT:.0f} s without faults {busy} still run, {waiting} messages wait"]
        time.sleep(1)
    return []


def messages(deployment: Deployment) -> int:
    """Return the number of messages in the queues, including delayed ones and those being processed."""
    sqs = deployment.client("sqs")
    urls = [deployment.outputs[f"{name}QueueUrl"] for name in ("Discover", "Transfer", "Commit", "Verify")]
    urls.append(sqs.get_queue_url(QueueName=deployment.outputs["EventsQueueArn"].rpartition(":")[2])["QueueUrl"])
    names = [f"ApproximateNumberOfMessages{each}" for each in ("", "NotVisible", "Delayed")]
    return sum(
        int(value)
        for url in urls
        for value in sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()
    )


def settle(deployment: Deployment) -> tuple[dict[str, int], list[str]]:
    """Retry the dead letters of every sync and run it in full. Return the numbers of dead letters before, and the errors."""
    letters: dict[str, int] = {}
    wrong = []
    for kind in _COPIED:
        name = sync_name(kind)
        retried = _run_when_idle(deployment, "retry", name)
        letters[kind] = retried[1].get("letters", {}).get("retried", 0)
        if letters[kind]:
            _drop_gone(deployment, name)
        code, output = _run_when_idle(deployment, "run", name)
        counts = output.get("run", {}).get("counts", {})
        if code or counts.get("failed") or counts.get("conflict"):
            _, report = deployment.syncline("report", name)
            bad = [each for each in report.get("items", []) if each["outcome"] in ("failed", "conflict")]
            about = [f"{each['name']}: {each['outcome']} {each['code']} {each['reason']}" for each in bad]
            wrong.append(
                f"{name}: the run without faults ended with {code}: {counts} {about[:5]} {output.get('error', '')}"
            )
    _, status = deployment.syncline("status")
    wrong += [f"{s['name']} is not in sync" for s in status["syncs"] if s["kind"] != "tokens" and not s["in_sync"]]
    return letters, wrong


def _drop_gone(deployment: Deployment, name: str) -> None:
    """Drop the dead letters of items that no longer exist at the source. `differences` detects a wrong ITEM_GONE."""
    _, report = deployment.syncline("report", name)
    gone = [f"{each['group']}:{each['name']}" for each in report.get("items", []) if each["code"] == "ITEM_GONE"]
    if gone:
        deployment.syncline("retry", name, *(word for item in gone for word in ("--drop", item)))


def left_letters(deployment: Deployment) -> int:
    """Return the number of dead letters."""
    return sum(deployment.syncline("status")[1]["dead_letters"].values())


def _run_when_idle(deployment: Deployment, command: str, name: str) -> tuple[int, Any]:
    """Run a command that waits for its run. Repeat it if a scheduled run is active."""
    for _ in range(20):
        code, output = deployment.syncline(command, name, "--wait")
        if output.get("error", {}).get("code") != "ALREADY_RUNNING":
            return code, output
        deployment.syncline("status", name, "--wait")
    return code, output


def differences(work: Work) -> Iterator[str]:
    """Yield the differences between each source and its target."""
    servers = work.servers
    yield from _images(servers)
    yield from _files(work)
    yield from _backups(work)
    yield from _artifacts(work)
    yield from _tokens(work)


# -- images ----------------------------------------------------------------------------------------------------------


def _tags(registry: Registry, repository: str) -> list[str]:
    return list(json.loads(registry.authorized("GET", f"/v2/{repository}/tags/list").body)["tags"] or [])


def _manifest(registry: Registry, repository: str, reference: str) -> bytes:
    path = f"/v2/{repository}/manifests/{reference}"
    return registry.authorized("GET", path, headers={"Accept": _ACCEPT}).body


def _images(servers: Servers) -> Iterator[str]:
    prod, dr = servers.prod.registry, servers.dr.registry
    for repository in REPOSITORIES:
        for tag in _tags(prod, repository):
            try:
                yield from _same_image(prod, dr, repository, tag)
            except AssertionError as error:
                yield f"image {repository}:{tag}: {error}"


def _same_image(prod: Registry, dr: Registry, repository: str, reference: str) -> Iterator[str]:
    manifest, copy = (_manifest(registry, repository, reference) for registry in (prod, dr))
    if manifest != copy:
        yield f"image {repository}:{reference}: {sha256(manifest)} at the source, {sha256(copy)} at the target"
        return
    content = json.loads(manifest)
    for child in content.get("manifests", ()):
        yield from _same_image(prod, dr, repository, child["digest"])
    for blob in (*content.get("layers", ()), *([content["config"]] if "config" in content else ())):
        bodies = [each.authorized("GET", f"/v2/{repository}/blobs/{blob['digest']}").body for each in (prod, dr)]
        if bodies[0] != bodies[1] or sha256(bodies[1]) != blob["digest"]:
            yield f"blob {repository}@{blob['digest']} differs"


# -- files and backups -----------------------------------------------------------------------------------------------


def _objects(work: Work, bucket: str) -> dict[str, tuple[bytes, str]]:
    s3 = work.s3
    found = {}
    for key in s3.keys(bucket):
        content, headers = s3.get(bucket, key)
        found[key] = (content, headers.get("x-amz-meta-permissions", ""))
    return found


def _compared(what: str, source: dict[str, Any], target: dict[str, Any]) -> Iterator[str]:
    yield from (f"{what} {name!r} is not at the target" for name in source.keys() - target.keys())
    yield from (f"{what} {name!r} is only at the target" for name in target.keys() - source.keys())
    yield from (f"{what} {name!r} differs" for name in source.keys() & target.keys() if source[name] != target[name])


def _files(work: Work) -> Iterator[str]:
    stored: dict[str, Stored] = read(work.servers.manager.folder / FILES)
    target = {path.removeprefix(PREFIX): (each.content, each.permissions) for path, each in stored.items()}
    yield from _compared("file", _objects(work, BUCKETS[0]), target)


def _backups(work: Work) -> Iterator[str]:
    source = {key: content for key, (content, _) in _objects(work, BUCKETS[1]).items()}
    bare = work.servers.bare
    yield from _compared("backup", source, bare.files())
    bare.check()


# -- artifacts -------------------------------------------------------------------------------------------------------


def _artifacts(work: Work) -> Iterator[str]:
    from tests.rig.artifacts import expected, image  # noqa: PLC0415 - it is large

    dr = work.servers.dr.registry
    for number, run in enumerate(work.builds, 1):
        tag = run.artifacts[0].name.removeprefix("images-")
        values = {"Build native CPU": "true", "Build native GPU": "false"}
        log = run.logs["0_build.txt"] if isinstance(run.logs, dict) else ""
        values["Build Java worker"] = "true" if "Build Java worker: \x1b[1mtrue" in str(log) else "false"
        architecture = {"amd64": "x86", "arm64": "arm"}[tag.rpartition("-")[2]]
        for name in expected(values):
            repository = f"{PROJECT}/{architecture}/{name}"
            built = image(name, tag)
            try:
                manifest = json.loads(_manifest(dr, repository, f"presto-{number}"))
                config = dr.authorized("GET", f"/v2/{repository}/blobs/{manifest['config']['digest']}").body
                if config != built.config:
                    yield f"artifact {repository}:presto-{number} has another configuration"
                for layer, content in zip(manifest["layers"], built.layers, strict=True):
                    if _plain(dr.authorized("GET", f"/v2/{repository}/blobs/{layer['digest']}").body) != content:
                        yield f"artifact {repository}:presto-{number}: a layer differs"
            except AssertionError as error:
                yield f"artifact {repository}:presto-{number}: {error}"


def _plain(layer: bytes) -> bytes:
    import gzip  # noqa: PLC0415

    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


# -- tokens ----------------------------------------------------------------------------------------------------------


def _tokens(work: Work) -> Iterator[str]:
    """Probe two sessions: one that all instances have must be synced, one that only its origin has must not."""
    end = time.monotonic() + _LIST_LIMIT
    while True:  # the list of instances may be a minute old
        try:
            verdicts = [work.probe(0, everywhere=everywhere) for everywhere in (True, False)]
        except DOWN_ERRORS as error:
            verdicts = [str(error), ""]
        if verdicts[0] == "Synced" or time.monotonic() > end:
            break
        time.sleep(2)
    if verdicts[0] != "Synced":
        yield f"token: one that every instance has is {verdicts[0]}"
    if verdicts[1] in ("Synced", ""):
        yield f"token: one that only the origin has is {verdicts[1] or 'not answered'}"
    yield from (f"token: {each}" for each in work.false_verdicts)
