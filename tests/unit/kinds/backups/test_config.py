"""The configuration of syncs of backups: valid and invalid values, without repeating secrets."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from pydantic import ValidationError

from syncline.config.findings import conflicts_between
from syncline.errors import SynclineError
from syncline.kinds.backups.config import BackupsSync, BucketTarget, DirectoryTarget, GitKey, GitTarget
from syncline.kinds.backups.object_fields import DEFAULT_FIELDS
from syncline.kinds.backups.wiring import layout_of, secrets_filter_of
from syncline.ownership import Limits
from syncline.wiring.dependencies import Dependencies

GIT = {"repository": "https://git.example/org/backups.git"}
KEY = {"ssh_key": "secret:syncline/key", "known_hosts": "host ssh-ed25519 AAAA\n# a word\n"}


def sync(name: str = "clusters", **more: Any) -> BackupsSync:
    config = {"name": name, "kind": "backups", "source": {"bucket": "cluster-backups"}, "target": GIT, **more}
    return BackupsSync.model_validate_json(json.dumps(config))


@pytest.mark.parametrize(
    ("to", "target"),
    [
        ({"bucket": "cluster-backups", "prefix": "scratch"}, GIT),
        ({"bucket": "second-bucket"}, {"bucket": "second-bucket"}),
        ({"bucket": "second-bucket", "prefix": "copy/drills"}, {"bucket": "second-bucket", "prefix": "copy"}),
        ({"directory": "/mnt/backups"}, {"directory": "/mnt/backups"}),
        ({"directory": "/mnt//backups/./drills"}, {"directory": "/mnt/backups"}),
    ],
)
def test_scratch_files_within_source_or_target_are_refused(to: dict[str, Any], target: dict[str, Any]) -> None:
    (found,) = sync(target=target, drill={"to": to}).problems()
    assert found.path[:2] == ("drill", "to")


def test_scratch_files_beside_source_and_target_are_allowed() -> None:
    source = {"bucket": "cluster-backups", "prefix": "all"}
    for to in ({"bucket": "cluster-backups"}, {"bucket": "cluster-backups", "prefix": "allow"}, {"directory": "/mnt"}):
        assert not sync(source=source, target={"directory": "/mnt/all"}, drill={"to": to}).problems()


def test_scratch_files_within_the_target_of_another_sync_are_refused() -> None:
    drilled = sync(drill={"to": {"bucket": "second-bucket", "prefix": "copy/drills"}})
    other = sync("other", source={"bucket": "third"}, target={"bucket": "second-bucket", "prefix": "copy"})
    assert len(list(conflicts_between([*drilled.reaches(), *other.reaches()]))) == 1
    shared = (sync(n, target={"bucket": f"{n}-copy"}, drill={"to": {"bucket": "drills"}}) for n in ("aa", "aa-b"))
    assert not list(conflicts_between([reach for each in shared for reach in each.reaches()]))


@pytest.mark.parametrize(
    ("target", "model"),
    [
        (GIT, GitTarget),
        ({"repository": "git@host:org/b.git", "auth": KEY}, GitTarget),
        ({"repository": "ssh://git@host:2222/b.git", "branch": "backups/{cluster}", "auth": KEY}, GitTarget),
        ({"directory": "/mnt/backups"}, DirectoryTarget),
        ({"bucket": "second-bucket", "prefix": "copy"}, BucketTarget),
    ],
)
def test_the_forms_of_a_target(target: dict[str, Any], model: type[Any]) -> None:
    parsed = sync(target=target)
    assert isinstance(parsed.target, model)
    assert parsed.problems() == []
    assert BackupsSync.model_validate_json(parsed.model_dump_json()) == parsed


@pytest.mark.parametrize(
    "more",
    [
        {"target": {}},
        {"target": {"repository": "https://ann:hunter2@git.example/b.git"}},
        {"target": {"repository": "/srv/b.git"}},
        {"target": {"repository": "ext::sh -c hunter2"}},
        {"target": GIT | {"branch": "-x"}},
        {"target": GIT | {"branch": "a..b"}},
        {"target": GIT | {"branch": "x/{namespace}"}},
        {"target": GIT | {"branch": "HEAD"}},
        {"target": GIT | {"folder": "../x"}},
        {"target": GIT | {"folder": "a/.git/b"}},
        {"target": GIT | {"auth": {"token": "hunter2"}}},
        {"target": GIT | {"auth": {"ssh_key": "secret:x", "known_hosts": "hunter2"}}},
        {"target": {"directory": "relative"}},
        {"target": {"directory": "/a/../b"}},
        {"source": {"bucket": "UPPER"}},
        {"source": {"bucket": "b-b", "prefix": "/x"}},
        {"source": {"bucket": "b-b", "auth": "hunter2"}},
        {"secrets": "hunter2"},
        {"secrets": {"encrypt": "hunter2"}},
        {"commit": {"author": {"name": "a <b", "email": "a@b.example"}}},
        {"commit": {"author": {"name": "a", "email": "nobody"}}},
        {"commit": {"largest": 0}},
        {"concurrency": 0},
        {"normalize": True},
        {"normalize": {"drop": []}},
        {"normalize": {"drop": ["metadata.name"]}},
        {"normalize": {"drop": ["status", "metadata..a"]}},
    ],
    ids=str,
)
def test_invalid_values_are_not_repeated(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        sync(**more)
    for error in caught.value.errors(include_input=False, include_url=False):
        assert "hunter2" not in error["msg"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ({"repository": "git@host:org/b.git"}, ("target",)),
        ({"repository": "git@host:org/b.git", "auth": {"token": "secret:x"}}, ("target",)),
        (GIT | {"auth": KEY}, ("target", "auth")),
        ({"repository": "file:///srv/b.git", "auth": {"token": "secret:x"}}, ("target", "auth")),
        ({"repository": "file:///srv/b.git", "proxy": "http://h:1"}, ("target", "proxy")),
        ({"repository": "git@host:org/b.git", "auth": KEY, "proxy": "http://h:1"}, ("target", "proxy")),
        ({"bucket": "cluster-backups"}, ("target", "bucket")),
        ({"bucket": "cluster-backups", "prefix": "copy"}, ("target", "bucket")),
    ],
    ids=str,
)
def test_conflicting_keys(target: dict[str, Any], path: tuple[str, ...]) -> None:
    assert [finding.path for finding in sync(target=target).problems()] == [path]


@pytest.mark.parametrize(
    ("one", "two", "conflict"),
    [
        (GIT, {"repository": "git@git.example:org/backups"}, True),
        (GIT, GIT | {"branch": "other"}, False),
        (GIT, GIT | {"folder": "elsewhere"}, True),
        (GIT | {"folder": "here"}, GIT | {"folder": "elsewhere"}, False),
        (GIT | {"branch": "b/{cluster}"}, GIT | {"branch": "b/east"}, True),
        ({"directory": "/mnt/a"}, {"directory": "/mnt/a/b"}, True),
        ({"directory": "/mnt/a"}, {"directory": "/mnt/ab"}, False),
        ({"bucket": "x-x", "prefix": "a"}, {"bucket": "x-x", "prefix": "a/b"}, True),
        ({"bucket": "x-x", "prefix": "a"}, {"bucket": "y-y", "prefix": "a"}, False),
    ],
    ids=str,
)
def test_two_syncs_cannot_write_the_same_target(one: dict[str, Any], two: dict[str, Any], conflict: bool) -> None:
    reaches = [
        *sync(
            "one", target=one | ({"auth": KEY} if str(one.get("repository", "")).startswith("git@") else {})
        ).reaches(),
        *sync(
            "two", target=two | ({"auth": KEY} if str(two.get("repository", "")).startswith("git@") else {})
        ).reaches(),
    ]
    assert bool(list(conflicts_between(reaches))) is conflict


def test_warnings() -> None:
    plain = sync(
        source={"bucket": "b-b", "endpoint": "http://minio.example:9000"},
        target={"repository": "http://git.example/b.git"},
        secrets="keep",
    )
    assert [finding.path[0] for finding in plain.warnings()] == ["source", "target", "secrets"]
    assert sync().warnings() == []


def test_clusters_are_groups_and_buckets_are_event_sources() -> None:
    parsed = sync(select={"clusters": {"include": ["prod-*"]}}, source={"bucket": "b-b", "prefix": "x"})
    assert parsed.groups_of(["prod-a"]) == ("prod-a/",)
    with pytest.raises(SynclineError):
        parsed.groups_of(["dev"])
    assert parsed.event_sources() == ("bucket:b-b",)
    assert parsed.scan_group("main", "x/prod-a/n/y") == "x/prod-a/n/y"
    assert layout_of(parsed).takes("x/prod-a/n/y")
    assert not layout_of(parsed).takes("x/dev/n/y")


def test_known_hosts_by_reference_or_text() -> None:
    for known in ("secret:syncline/hosts", KEY["known_hosts"]):
        parsed = sync(target={"repository": "git@host:b.git", "auth": KEY | {"known_hosts": known}})
        assert isinstance(parsed.target, GitTarget)
        assert isinstance(parsed.target.auth, GitKey)
        assert str(parsed.target.auth.known_hosts) == known


def test_removals_have_limits_in_time() -> None:
    assert sync().removals.limits == Limits(0.25, 1000, 86_400.0)
    assert sync(removals={"share": 1, "count": 5, "per": "7d"}).removals.limits == Limits(1.0, 5, 7 * 86_400.0)
    with pytest.raises(ValidationError, match="is not a duration"):
        sync(removals={"per": "a week"})


def test_the_id_of_a_target_is_equal_for_all_spellings() -> None:
    targets: list[dict[str, Any]] = [
        {"repository": "https://git.example/org/backups.git"},
        {"repository": "https://git.example/org/backups", "auth": {"token": "env:TOKEN"}},
        {"repository": "https://git.example/org/backups.git", "branch": "other"},
        {"repository": "https://git.example/org/backups.git", "folder": "other"},
        {"directory": "/mnt/backups"},
        {"directory": "/mnt/backups2"},
        {"bucket": "second-bucket"},
        {"bucket": "second-bucket", "prefix": "copy"},
    ]
    ids = [sync(target=target).target_id() for target in targets]
    assert ids[0] == ids[1]
    assert len(set(ids)) == len(targets) - 1


@pytest.mark.parametrize(
    ("normalize", "dropped"),
    [(None, None), ({}, DEFAULT_FIELDS), ({"drop": ["Lease/spec.renewTime"]}, ("Lease/spec.renewTime",))],
)
def test_normalize_names_the_dropped_fields(normalize: dict[str, Any] | None, dropped: tuple[str, ...] | None) -> None:
    normalizer = secrets_filter_of(sync(normalize=normalize), cast("Dependencies", None)).normalizer
    assert (normalizer.fields if normalizer else None) == dropped
