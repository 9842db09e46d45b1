"""The models as functions load them, and the checks that involve several keys or syncs."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from syncline.config import findings
from syncline.config.file import parse_syncs
from syncline.config.registry import BasicAuth, TokenAuth
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.secrets import Reference

PACKAGE = Path(__file__).parents[3] / "layers/syncline"


def sync(name: str = "a", *, select: dict[str, Any] | None = None, **ends: dict[str, Any]) -> ImagesSync:
    source = {"registry": "prod.example", "repositories": ["team/app"]} | ends.get("source", {})
    source = {key: value for key, value in source.items() if value is not None}
    target = {"registry": "dr.example"} | ends.get("target", {})
    parts = {"name": name, "kind": "images", "source": source, "target": target, "select": select or {}}
    return ImagesSync.model_validate(parts)


def conflicts_between(syncs: list[ImagesSync]) -> list[findings.Finding]:
    return list(findings.conflicts_between([reach for sync in syncs for reach in sync.reaches()]))


FULL = b"""syncs:
  prod-to-dr:
    kind: images
    schedule: cron(0 3 * * ? *)
    timezone: Asia/Kolkata
    enabled: false
    webhook: {secret: "secret:syncline/hooks#prod"}
    source:
      registry: Quay.prod.example:8443
      organizations: [payments, web]
      api: {kind: quay, token: "secret:syncline/quay#api"}
      auth: {username: "env:U", password: "env:P"}
      auth_realms: [auth.example.com]
      ca: secret:ca
      proxy: http://proxy.example:3128
    target:
      registry: "[::1]:5000"
      plain_http: true
      auth: {token: "ssm:/dr/token"}
      api: {kind: quay, url: "https://quay.dr.example:8443/"}
      prefix: mirror/prod
      proxy: secret:syncline/proxy#url
    select:
      repositories: {include: ["payments/*", "re:^web/.*-prod$"], exclude: ["*/old"]}
      tags: {include: ["v*"]}
    overwrite: true
    concurrency: 32
"""


def full_sync() -> ImagesSync:
    full = parse_syncs(FULL).syncs["prod-to-dr"]
    assert isinstance(full, ImagesSync)
    return full


def test_a_sync_equals_the_one_loaded_from_its_json() -> None:
    full = full_sync()
    again = load_sync(full.model_dump_json())
    assert isinstance(again, ImagesSync)
    assert again == full
    assert hash(again) == hash(full)
    assert again.source.auth == BasicAuth(username=Reference("env", "U"), password=Reference("env", "P"))
    assert again.target.auth == TokenAuth(token=Reference("ssm", "/dr/token"))
    assert (again.source.proxy, str(again.target.proxy)) == ("http://proxy.example:3128", "secret:syncline/proxy#url")
    assert again.webhook is not None
    assert again.webhook.secret == Reference("secret", "syncline/hooks", "prod")


def test_absent_keys_have_defaults() -> None:
    plain = sync()
    assert (plain.schedule, plain.timezone, plain.enabled, plain.webhook) == (None, None, True, None)
    assert (plain.overwrite, plain.concurrency) == (False, 8)
    assert (plain.source.auth, plain.source.auth_realms, plain.source.ca, plain.source.proxy) == (
        "anonymous",
        (),
        None,
        None,
    )
    assert plain.select.tags.allows("anything")


def test_names_are_mapped_from_source_to_target_and_back() -> None:
    full = full_sync()
    assert full.target_repository("web/app") == "mirror/prod/web/app"
    assert full.source_repository("mirror/prod/web/app") == "web/app"
    assert full.source_repository("mirror/production/web/app") is None
    assert full.source_repository("mirror/prod") is None
    assert sync().target_repository("team/app") == "team/app"
    assert sync().source_repository("team/app") == "team/app"


def test_a_sync_selects_names_by_its_patterns() -> None:
    full = full_sync()
    names = ["payments/app", "payments/a/b", "payments/old", "web/x-prod", "web/x", "other/app"]
    assert [name for name in names if full.takes_repository(name)] == ["payments/app", "web/x-prod"]
    signature = f"sha256-{'a' * 64}.sig"
    assert [tag for tag in ["v1", "latest", signature] if full.takes_tag(tag)] == ["v1", signature]
    assert [name for name in ["team/app", "team/base"] if sync().takes_repository(name)] == ["team/app"]


def test_the_api_has_the_host_of_the_registry_by_default() -> None:
    full = full_sync()
    assert full.source.api_url == "https://Quay.prod.example:8443"
    assert full.target.api_url == "https://quay.dr.example:8443"
    assert sync().source.api_url is None
    plain = sync(source={"plain_http": True, "api": {"kind": "quay"}})
    assert plain.source.api_url == "http://prod.example"


def test_models_are_frozen_and_hide_invalid_values() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sync().enabled = False  # type: ignore[misc]
    with pytest.raises(ValidationError) as raised:
        sync(source={"auth": {"username": "u", "password": "hunter2"}})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "images"}',
        '{"kind": "files"}',
        '{"kind": []}',
        json.dumps(json.loads(sync().model_dump_json()) | {"colour": "red"}),
    ],
)
def test_a_sync_of_another_version_is_not_loaded(text: str) -> None:
    with pytest.raises(SynclineError, match=r"CONFIG_INVALID.*run `syncline apply` again"):
        load_sync(text)


def test_a_time_zone_is_not_checked_again_on_load(monkeypatch: pytest.MonkeyPatch) -> None:
    text = full_sync().model_dump_json()
    monkeypatch.setattr("zoneinfo.available_timezones", lambda: {"UTC"})
    assert load_sync(text).timezone == "Asia/Kolkata"
    with pytest.raises(ValidationError):
        ImagesSync.model_validate_json(text)


# One sync


def test_a_source_on_the_same_host_at_another_port_is_another_registry() -> None:
    assert sync(target={"registry": "prod.example:8443"}).problems() == []


@pytest.mark.parametrize("exclude", ["mirror/dr/**", "mirror/**"])
def test_copies_below_a_prefix_of_the_source_must_be_excluded(exclude: str) -> None:
    ends: dict[str, Any] = {
        "source": {"repositories": None, "catalog": True},
        "target": {"registry": "prod.example", "prefix": "mirror/dr"},
    }
    assert len(sync(**ends).problems()) == 1
    assert sync(**ends, select={"repositories": {"exclude": [exclude]}}).problems() == []
    assert sync(**ends, select={"repositories": {"include": ["team/*"]}}).problems() == []


def test_organizations_may_be_copied_into_another_organization() -> None:
    source = {"repositories": None, "organizations": ["payments"], "api": {"kind": "quay"}}
    assert sync(source=source, target={"registry": "prod.example", "prefix": "mirror"}).problems() == []
    assert len(sync(source=source, target={"registry": "prod.example", "prefix": "payments"}).problems()) == 1


# Two syncs

CATALOG = {"repositories": None, "catalog": True}
PAYMENTS = {"repositories": None, "organizations": ["payments"], "api": {"kind": "quay"}}
WEB = {"repositories": None, "organizations": ["web"], "api": {"kind": "quay"}}
ONLY_TEAM = {"repositories": {"include": ["team/*"]}}
NOT_APP = {"repositories": {"exclude": ["team/app"]}}


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (sync("a"), sync("b"), "team/app"),
        (sync("a"), sync("b", target={"registry": "DR.example.:443"}), "team/app"),
        (sync("a"), sync("b", source={"registry": "elsewhere.example"}), "team/app"),
        (sync("a"), sync("b", target={"registry": "dr.example:5000"}), None),
        (sync("a"), sync("b", target={"plain_http": True}), None),
        (sync("a"), sync("b", target={"prefix": "mirror"}), None),
        (sync("a"), sync("b", source={"repositories": ["team/base"]}), None),
        (sync("a"), sync("b", source={"repositories": ["app"]}, target={"prefix": "team"}), "team/app"),
        (sync("a"), sync("b", source=CATALOG), "team/app"),
        (sync("a"), sync("b", source=CATALOG, target={"prefix": "team"}), "team/app"),
        (sync("a"), sync("b", source=CATALOG, target={"prefix": "tea"}), None),
        (sync("a"), sync("b", source=CATALOG, select=NOT_APP), None),
        (sync("a"), sync("b", select=NOT_APP), None),
        (sync("a"), sync("b", source=PAYMENTS), None),
        (sync("a", source={"repositories": ["web/x", "payments/x"]}), sync("b", source=PAYMENTS), "payments/x"),
        (sync("a", source=PAYMENTS), sync("b", source=PAYMENTS), "payments/*"),
        (sync("a", source=PAYMENTS), sync("b", source=WEB), None),
        (sync("a", source=PAYMENTS), sync("b", source=CATALOG), "payments/*"),
        (sync("a", source=PAYMENTS), sync("b", source=CATALOG, select=ONLY_TEAM), None),
        (sync("a", source=CATALOG), sync("b", source=CATALOG, target={"prefix": "x"}), "x/*"),
        (sync("a", source=CATALOG, target={"prefix": "y"}), sync("b", source=CATALOG, target={"prefix": "x"}), None),
        (sync("a", source=CATALOG, target={"prefix": "x/y"}), sync("b", source=WEB, target={"prefix": "x"}), None),
        (
            sync("a", source=CATALOG, target={"prefix": "x/web"}),
            sync("b", source=WEB, target={"prefix": "x"}),
            "x/web/*",
        ),
    ],
)
def test_two_syncs_that_can_write_the_same_target(one: ImagesSync, other: ImagesSync, common: str | None) -> None:
    found = conflicts_between([one, other])
    assert len(found) == (common is not None)
    assert len(conflicts_between([other, one])) == len(found)
    if common is not None:
        assert found[0].path == ("syncs", "b", "target", "registry")
        assert f"can write {common} at" in found[0].message
        assert "the sync a;" in found[0].message


def test_each_overlapping_pair_is_reported() -> None:
    assert len(conflicts_between([sync(name) for name in "abcd"])) == 6


parts = st.sampled_from(["a", "b", "ab"])
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
patterns = st.sampled_from(["*", "a/*", "a/**", "**/b", "ab*", "a*/b", "re:a.*", "[ab]/**", "a/b"])
sources = st.one_of(
    st.lists(paths, min_size=1, max_size=3, unique=True).map(lambda names: {"repositories": names}),
    st.lists(parts, min_size=1, max_size=2, unique=True).map(
        lambda names: {"repositories": None, "organizations": names, "api": {"kind": "quay"}}
    ),
    st.just(CATALOG),
)
selects = st.fixed_dictionaries(
    {"include": st.lists(patterns, max_size=2), "exclude": st.lists(patterns, max_size=1)}
).map(lambda patterns: {"repositories": patterns})
syncs = st.builds(
    lambda source, prefix, select: sync(source=source, target={"prefix": prefix}, select=select),
    sources,
    st.just("") | parts,
    selects,
)


ALL_NAMES = ["/".join(names) for length in (1, 2, 3) for names in itertools.product(("a", "b", "ab"), repeat=length)]


@given(syncs, syncs)
def test_all_pairs_of_syncs_that_write_one_repository_are_found(one: ImagesSync, other: ImagesSync) -> None:
    def writes(some: ImagesSync, target: str) -> bool:
        source = some.source_repository(target)
        return source is not None and some.takes_repository(source)

    if any(writes(one, target) and writes(other, target) for target in ALL_NAMES):
        assert conflicts_between([one, other.model_copy(update={"name": "b"})])


@given(syncs)
def test_all_syncs_that_copy_their_own_copies_are_found(some: ImagesSync) -> None:
    target = some.target.model_copy(update={"registry": some.source.registry})
    copying = some.model_copy(update={"target": target})
    if any(
        copying.takes_repository(name) and copying.takes_repository(copying.target_repository(name))
        for name in ALL_NAMES
    ):
        assert copying.problems()


# Limits


@pytest.mark.parametrize(
    ("text", "rate"),
    [("64kB", 64_000), ("50MB", 50_000_000), ("2GB", 2_000_000_000), ("70000B", 70_000), (70_000, 70_000)],
)
def test_rates_of_limits(text: str | int, rate: int) -> None:
    limits = sync(source={"limits": {"bytes_per_second": text}}).source.limits
    assert limits is not None
    assert limits.byte_rate == rate
    assert (limits.requests_per_second, limits.concurrent) == (None, None)


def test_a_stored_sync_keeps_its_limits() -> None:
    limits = {"requests_per_second": 2.5, "concurrent": 4, "bytes_per_second": "1MB"}
    ecr = {"registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com", "auth": "ecr", "create_repositories": "ecr"}
    written = sync(source={"limits": limits}, target=ecr)
    assert load_sync(written.model_dump_json()) == written
    assert written.problems() == []


# Warnings

AUTH = {"auth": {"token": "env:T"}}
QUAY = {"api": {"kind": "quay", "token": "env:T"}}


@pytest.mark.parametrize(
    ("ends", "path"),
    [
        ({"source": AUTH | {"plain_http": True}}, ("source", "plain_http")),
        ({"target": {"auth": "docker-config", "plain_http": True}}, ("target", "plain_http")),
        ({"target": QUAY | {"plain_http": True}}, ("target", "api")),
        ({"source": {"api": {"kind": "quay", "url": "http://quay.example", "token": "env:T"}}}, ("source", "api")),
        ({"source": {"plain_http": True}}, None),
        ({"source": AUTH}, None),
        ({"source": AUTH | {"plain_http": True, "registry": "localhost:5000"}}, None),
        ({"source": AUTH | QUAY | {"plain_http": True, "registry": "127.0.0.1:5000"}}, None),
        ({"source": AUTH | {"plain_http": True, "registry": "[::1]:5000"}}, None),
        ({"source": AUTH | {"plain_http": True, "registry": "127.0.0.1.example"}}, ("source", "plain_http")),
        ({"select": {"repositories": {"include": ["web/*"]}}}, ("select", "repositories")),
    ],
)
def test_dangerous_values_have_warnings(ends: dict[str, Any], path: tuple[str, ...] | None) -> None:
    assert [finding.path for finding in sync(**ends).warnings()] == ([path] if path else [])


def test_warnings_of_a_file_have_positions() -> None:
    text = """syncs:
  a:
    kind: images
    timezone: UTC
    source: {registry: prod.example, repositories: [a]}
    target: {registry: dr.example, auth: {token: "env:T"}, plain_http: true}
"""
    found = [(warning.line, warning.column, warning.path) for warning in parse_syncs(text.encode()).warnings]
    assert found == [(4, 15, "syncs.a.timezone"), (6, 72, "syncs.a.target.plain_http")]


def test_different_limits_of_one_server_have_a_warning() -> None:
    text = """syncs:
  a:
    kind: images
    source: {registry: prod.example, repositories: [a], limits: {concurrent: 4}}
    target: {registry: dr.example, limits: {concurrent: 4}}
  b:
    kind: images
    source: {registry: "PROD.example:443", repositories: [b], limits: {concurrent: 8}}
    target: {registry: dr.example, limits: {concurrent: 4}}
"""
    (found,) = parse_syncs(text.encode()).warnings
    assert (found.line, found.path) == (8, "syncs.b.source.limits")
    assert "in the sync a" in str(found)


# The functions' import


IMPORTS = """
import sys, time
from pydantic import BaseModel, Field, ValidationError
began = time.process_time()
import syncline.config
print(round((time.process_time() - began) * 1000))
print(*(name for name in ("yaml", "boto3", "botocore", "difflib") if name in sys.modules))
"""


def test_the_import_in_functions_is_light() -> None:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environment, capture_output=True, text=True, check=True)
    milliseconds, modules = done.stdout.split("\n")[:2]
    assert int(milliseconds) < 150  # 25 on an idle machine, with pydantic imported already
    assert modules == ""
