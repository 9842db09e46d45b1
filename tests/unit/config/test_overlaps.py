"""Overlapping targets of two syncs, and cycles of syncs: both are refused when the file is read."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.config.file import ConfigInvalid, parse_syncs
from syncline.config.findings import templates_meet

REPOSITORY: Final = "https://git.example/ops/backups.git"
AWS: Final = {"bucket": "shelf", "region": "eu-central-1"}
MINIO: Final = {"bucket": "shelf", "endpoint": "https://minio.example"}


def refusals(**syncs: dict[str, Any]) -> list[str]:
    """Return the messages of the problems of a file with these syncs."""
    try:
        parse_syncs(json.dumps({"syncs": syncs}).encode())
    except ConfigInvalid as error:
        return [problem.message for problem in error.problems]
    return []


def check(one: dict[str, Any], other: dict[str, Any], *, overlap: bool) -> None:
    """Check that two syncs are refused if they overlap, in either order, and that the message names both."""
    for first, second in ((one, other), (other, one)):
        found = refusals(**{"sync-a": first, "sync-b": second})
        assert bool(found) is overlap, found
        if overlap:
            (message,) = found
            assert "sync-a" in message


def backups(target: dict[str, Any], **more: Any) -> dict[str, Any]:
    ssh = not str(target.get("repository", "https:")).startswith(("http", "file"))
    known = "git.example ssh-ed25519 AAAA"
    auth = {"auth": {"ssh_key": "secret:k", "known_hosts": known}} if ssh else {}
    return {"kind": "backups", "source": {"bucket": "clusters"}, "target": {**target, **auth}, **more}


def git(folder: str = "", branch: str = "main", repository: str = REPOSITORY) -> dict[str, Any]:
    return backups({"repository": repository, "branch": branch, "folder": folder})


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("one", "one/c0", True),
        ("", "one", True),
        ("", "", True),
        ("one", "One", True),
        ("a/b", "A/B/c", True),
        ("one", "two", False),
        ("one", "one-more", False),
        ("a/b", "a/c", False),
    ],
)
def test_folders_of_one_branch_overlap_if_one_contains_the_other(one: str, other: str, overlap: bool) -> None:
    check(git(one), git(other), overlap=overlap)
    check(git(one), git(other, branch="other"), overlap=False)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("bk/{cluster}", "bk/{cluster}", True),
        ("bk/{cluster}", "bk/prod", True),
        ("bk/{cluster}", "bk/prod/more", False),
        ("bk/{cluster}", "bk", False),
        ("bk/{cluster}", "bk2/{cluster}", False),
        ("bk/{cluster}", "bk/{cluster}/daily", False),
        ("x{cluster}z", "xy{cluster}", True),
        ("x{cluster}-a", "x{cluster}-b", False),
        ("x{cluster}/b", "x-a/{cluster}", True),
        ("main", "Main", False),
    ],
)
def test_branches_overlap_if_a_name_fits_both(one: str, other: str, overlap: bool) -> None:
    check(git(branch=one), git(branch=other), overlap=overlap)
    check(git("x", branch=one), git("y", branch=other), overlap=False)


NAMES: Final = ["".join(name) for length in range(7) for name in itertools.product("ab/", repeat=length)]
templates = st.lists(st.sampled_from(["a", "b", "/", "{c}"]), max_size=3).map("".join)


def fits(template: str, name: str) -> bool:
    return re.fullmatch("[^/]+".join(map(re.escape, template.split("{c}"))), name) is not None


@given(templates, templates)
def test_templates_overlap_if_a_name_fits_both(one: str, other: str) -> None:
    # The shortest name that fits two templates of three parts has at most six characters.
    assert templates_meet(one, other) is any(fits(one, name) and fits(other, name) for name in NAMES)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (REPOSITORY, "https://git.example/ops/backups", True),
        (REPOSITORY, "https://GIT.example.:443/ops/backups.git/", True),
        (REPOSITORY, "http://git.example/ops/backups.git", True),
        (REPOSITORY, "git@git.example:ops/backups.git", True),
        (REPOSITORY, "ssh://git@git.example/ops/backups", True),
        (REPOSITORY, "ssh://git@git.example:2222/ops/backups", True),
        ("https://git.example:8443/ops/backups", "ssh://git@git.example/ops/backups", True),
        (REPOSITORY, "https://git.example//ops/Backups", True),
        ("http://localhost:3000/ops/r", "http://127.0.0.1:3000/ops/r.git", True),
        ("http://[::1]:3000/ops/r", "http://127.0.0.1:3000/ops/r", True),
        ("file:///srv/r.git", "file:///srv/./r", True),
        ("http://localhost:3000/ops/r", "http://localhost:3001/ops/r", False),
        (REPOSITORY, "https://git.example/ops/other.git", False),
        (REPOSITORY, "https://other.example/ops/backups.git", False),
        ("file:///srv/r.git", "file:///srv/R.git", False),
    ],
)
def test_urls_of_one_repository_are_recognized(one: str, other: str, overlap: bool) -> None:
    check(git(repository=one), git(repository=other), overlap=overlap)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("/mnt/one", "/mnt/one/c0", True),
        ("/mnt/one", "/mnt/One/", True),
        ("/mnt/one", "/mnt//./one", True),
        ("/mnt/one", "/mnt/one2", False),
    ],
)
def test_directories_overlap_if_one_contains_the_other(one: str, other: str, overlap: bool) -> None:
    check(backups({"directory": one}), backups({"directory": other}), overlap=overlap)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ({**AWS, "prefix": "a/"}, {**AWS, "prefix": "a/b/"}, True),
        ({**AWS, "prefix": "a/"}, {**AWS, "prefix": "b/"}, False),
        (AWS, {**AWS, "prefix": "a/"}, True),
        (AWS, {"bucket": "shelf", "region": "us-east-1"}, True),
        (AWS, {"bucket": "shelf", "endpoint": "https://s3.eu-central-1.amazonaws.com"}, True),
        (AWS, {"bucket": "shelf", "endpoint": "https://s3.amazonaws.com:443"}, True),
        (MINIO, {"bucket": "shelf", "endpoint": "https://MINIO.example:443"}, True),
        (MINIO, {"bucket": "shelf", "endpoint": "https://minio.example:9000"}, False),
        (MINIO, {"bucket": "other", "endpoint": "https://minio.example"}, False),
        (
            {"bucket": "shelf", "endpoint": "http://localhost:9000"},
            {"bucket": "shelf", "endpoint": "http://127.0.0.1:9000"},
            True,
        ),
        (AWS, MINIO, False),
    ],
)
def test_buckets_overlap_with_the_same_endpoint_name_and_prefix(
    one: dict[str, Any], other: dict[str, Any], overlap: bool
) -> None:
    def files(target: dict[str, Any]) -> dict[str, Any]:
        return {"kind": "files", "source": {"bucket": "first"}, "target": target}

    check(files(one), files(other), overlap=overlap)
    check(backups(one), backups(other), overlap=overlap)
    check(files(one), backups(other), overlap=overlap)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ({"prefix": "/a/"}, {"prefix": "/a/b/"}, True),
        ({}, {"prefix": "/a/"}, True),
        ({"prefix": "/a/"}, {"prefix": "/a//b/"}, True),
        ({"prefix": "/a/"}, {"prefix": "/b/"}, False),
        ({}, {"file_manager": "https://FILES.example:443/api/"}, True),
        ({}, {"file_manager": "https://files.example/other"}, False),
    ],
)
def test_file_managers_overlap_with_the_same_host_and_prefix(
    one: dict[str, Any], other: dict[str, Any], overlap: bool
) -> None:
    def files(target: dict[str, Any]) -> dict[str, Any]:
        target = {"file_manager": "https://files.example/api", **target}
        return {"kind": "files", "source": {"bucket": "first"}, "target": target}

    check(files(one), files(other), overlap=overlap)


def images(source: str, target: str, prefix: str = "", **more: Any) -> dict[str, Any]:
    selection = more.pop("selection", {"catalog": True})
    ends = {"source": {"registry": source, **selection}, "target": {"registry": target, "prefix": prefix}}
    return {"kind": "images", **ends, **more}


def files(source: dict[str, Any], target: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "files", "source": source, "target": target, **more}


def shelf(name: str, prefix: str = "") -> dict[str, Any]:
    return {"bucket": name, "endpoint": "https://minio.example", "prefix": prefix}


NOT_M: Final = {"repositories": {"exclude": ["m/**"]}}
ONLY_APP: Final = {"repositories": ["app"]}


@pytest.mark.parametrize(
    ("syncs", "cycle"),
    [
        # With catalogs, each sync would copy the copies of the other: m/app, m/m/app, …
        ([images("s.example", "t.example", "m"), images("t.example", "s.example", "m")], True),
        ([images("s.example", "t.example"), images("T.example:443", "s.example", "m")], True),
        (
            [
                images("s.example", "t.example", "m"),
                images("t.example", "u.example", "n"),
                images("u.example", "s.example", "o"),
            ],
            True,
        ),
        ([images("s.example", "t.example", "m"), images("t.example", "s.example", "m", select=NOT_M)], False),
        ([images("s.example", "t.example", "m", select=NOT_M), images("t.example", "s.example", "m")], False),
        ([images("s.example", "t.example", "m"), images("t.example", "u.example", "m")], False),
        # Named repositories that do not overlap form no cycle.
        (
            [
                images("s.example", "t.example", "m", selection=ONLY_APP),
                images("t.example", "s.example", "m", selection={"repositories": ["m/app"]}),
            ],
            False,
        ),
        (
            [
                images("s.example", "t.example", selection=ONLY_APP),
                images("t.example", "s.example", selection={"repositories": ["base"]}),
            ],
            False,
        ),
        (
            [
                images("s.example", "t.example", selection=ONLY_APP),
                images("t.example", "s.example", selection=ONLY_APP),
            ],
            True,
        ),
        ([files(shelf("one-s"), shelf("two-s", "m/")), files(shelf("two-s"), shelf("one-s", "m/"))], True),
        ([files(shelf("one-s", "a/"), shelf("two-s", "b/")), files(shelf("two-s", "b/"), shelf("one-s", "a/"))], True),
        ([files(shelf("one-s", "a/"), shelf("two-s", "b/")), files(shelf("two-s", "b/"), shelf("one-s", "c/"))], False),
        (
            [
                files(shelf("one-s"), shelf("two-s", "m/")),
                files(shelf("two-s"), shelf("one-s", "m/"), select={"exclude": ["m/**"]}),
            ],
            False,
        ),
        (
            [
                files(shelf("one-s"), shelf("two-s", "m/")),
                {**backups(shelf("one-s", "m/")), "source": shelf("two-s")},
            ],
            True,
        ),
        # The copies end: S/a, T/a, S/b, T/b.
        (
            [
                images("s.example", "t.example", selection={"repositories": ["a/x", "b/a/x"]}),
                images("t.example", "s.example", "b", selection={"repositories": ["a/x"]}),
            ],
            False,
        ),
    ],
)
def test_cycles_of_syncs_are_refused(syncs: list[dict[str, Any]], cycle: bool) -> None:
    for order in (syncs, syncs[::-1]):
        named = {f"sync-{chr(97 + number)}": each for number, each in enumerate(order)}
        found = refusals(**named)
        assert bool(found) is cycle, found
        if cycle:
            (message,) = found
            assert all(name in message for name in named), message


def test_many_syncs_between_the_same_registries_are_compared_in_time() -> None:
    hosts = [f"h{number}.example" for number in range(12)]
    syncs = {
        f"{one[:-8]}-to-{other[:-8]}": images(one, other, f"{one[:-8]}-{other[:-8]}")
        for one in hosts
        for other in hosts
        if one != other
    }
    assert refusals(**syncs)
