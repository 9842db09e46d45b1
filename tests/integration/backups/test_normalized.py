"""A day of an idle cluster: what changes by itself in its objects makes no commit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from syncline.clients.http.client import Http
from syncline.kinds.backups.normalize import Normalizer
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.stores import BucketStore
from syncline.model import Outcome
from tests.rig.backups import Download, World, make_bucket, make_world

HOURS = 24
NORMALIZER = Normalizer()


@pytest.fixture
def world(s3: str, tmp_path: Path) -> World:
    return make_world(s3, tmp_path)


def normalizing(world: World, policy: SecretsPolicy = SecretsPolicy.LEAVE_OUT) -> World:
    return world.but(secrets_filter=SecretsFilter(policy, None, NORMALIZER))


def backup(hour: int, replicas: int = 2) -> dict[str, bytes]:
    """Return the objects of a backup: only what the cluster itself writes depends on the hour."""

    def metadata(name: str) -> dict[str, object]:
        manager = {"manager": "kubelet", "operation": "Update", "time": f"2026-01-01T{hour:02}:00:00Z"}
        return {"managedFields": [manager], "name": name, "resourceVersion": str(1000 + hour), "uid": f"u-{name}"}

    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata("web"),
        "spec": {"replicas": replicas},
        "status": {"conditions": [{"type": "Available", "lastUpdateTime": str(hour)}]},
    }
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata("node-1"),
        "spec": {"holderIdentity": "node-1", "renewTime": f"2026-01-01T{hour:02}:30:00.000000Z"},
    }
    leader = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **metadata("leader"),
            "annotations": {"control-plane.alpha.kubernetes.io/leader": f'{{"renewTime":"{hour}"}}'},
        },
        "data": {"a": "b"},
    }
    pods = {"apiVersion": "v1", "items": [deployment, lease], "kind": "List", "metadata": {"resourceVersion": ""}}
    return {
        "east/a/deployment.yaml": yaml.safe_dump(deployment).encode(),
        "east/a/lease.json": json.dumps(lease, indent=4).encode(),
        "east/a/leader.yaml": yaml.safe_dump(leader).encode(),
        "east/a/all.yaml": "---\n".join(map(yaml.safe_dump, (pods, leader))).encode(),
        "east/a/large.yaml": yaml.safe_dump({**pods, "items": [copy.deepcopy(deployment) for _ in range(30)]}).encode()
        + b"# padding\n" * 250_000,
        "east/a/notes.txt": b"status: the same every hour\n",
    }


def commits(world: World) -> int:
    return int(world.bare.git("rev-list", "--count", "main"))


@pytest.mark.parametrize("policy", [SecretsPolicy.LEAVE_OUT, SecretsPolicy.KEEP])
def test_a_day_of_an_idle_cluster_makes_no_commit(world: World, policy: SecretsPolicy) -> None:
    world = normalizing(world, policy)
    world.put(backup(0))
    world.run()
    assert commits(world) == 1
    for hour in range(1, HOURS):
        world.put(backup(hour))
        results = world.run()
        assert {each.outcome for each in results.values()} == {Outcome.EQUAL}
        assert world.skipped() == len(backup(0))  # the next scan reads nothing again
    assert commits(world) == 1
    world.put(backup(HOURS, replicas=3))
    changed = {name for name, each in world.run().items() if each.outcome is Outcome.MOVED}
    assert changed == {"east/a/deployment.yaml", "east/a/all.yaml", "east/a/large.yaml"}
    assert commits(world) == 2


def test_without_normalization_each_backup_makes_a_commit(world: World) -> None:
    for hour in range(3):
        world.put(backup(hour))
        world.run()
    assert commits(world) == 3


def test_what_is_committed_can_be_applied_again(world: World) -> None:
    world = normalizing(world)
    world.put(backup(0))
    world.run()
    for document in yaml.safe_load_all(world.bare.git("show", "main:east/a/deployment.yaml")):
        assert document["metadata"] == {"name": "web", "uid": "u-web"}
        assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}


def test_normalization_is_switched_on_in_one_commit(world: World) -> None:
    world.put(backup(0))
    world.run()
    world = normalizing(world)
    assert {name for name, each in world.run().items() if each.outcome is Outcome.MOVED} == backup(0).keys() - {
        "east/a/notes.txt"
    }
    assert commits(world) == 2
    world.put(backup(1))
    world.run()
    assert commits(world) == 2


def test_a_download_of_an_unchanged_object_writes_nothing(world: World, s3: str) -> None:
    store = BucketStore(make_bucket(s3, f"{world.bucket.name}-copy", Http()), "")
    download = Download(world, store, secrets_filter=SecretsFilter(SecretsPolicy.KEEP, None, NORMALIZER))
    small = {key: data for key, data in backup(0).items() if "large" not in key}
    world.put(small)
    download.run()
    assert store.content_id("east/a/lease.json")
    modified = {each.key: each.modified for page in store.bucket.pages("") for each in page.objects}
    world.put({key: data for key, data in backup(1).items() if key in small})
    assert set(download.run().values()) == {"skipped"}
    assert {each.key: each.modified for page in store.bucket.pages("") for each in page.objects} == modified
