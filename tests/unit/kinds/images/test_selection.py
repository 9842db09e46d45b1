"""Selections leave out what they say, smaller indexes have fixed bytes, and contradictory keys are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import DOCKER_LIST, OCI_INDEX, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.config.file import ConfigInvalid, parse_syncs
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images import selection
from syncline.kinds.images.config_select import ImagesSelect
from syncline.kinds.images.listing import HELD_TAGS, Tag
from syncline.kinds.images.selection import DigestMemo, ImageTimes, TagSelection, for_platforms
from syncline.semver import parse_range, version_of
from tests.unit.kinds.images.world import RegistryPair, found

NOW: Final = 1_790_000_000
DAY: Final = 24 * 3600
PLATFORMS: Final = ("linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7", "windows/amd64", "")


def left_out(select: dict[str, Any], tags: dict[str, int | None]) -> set[str]:
    """Return the tags that a selection leaves out by version or number, by the times of their push."""
    memo = DigestMemo(ProcessFacts(), "times")
    times = ImageTimes(cast("Registry", None), "team/app", memo, NOW)
    with ThreadPoolExecutor(1) as requests:
        chosen = TagSelection(ImagesSelect.model_validate(select), times, requests, NOW)
        return chosen.left_out({tag: Tag(f"sha256:{tag}", None, at) for tag, at in tags.items()})


def index(*platforms: str, media_type: str = OCI_INDEX) -> Manifest:
    """Return an index with an entry for each platform."""
    entries = []
    for number, text in enumerate(platforms):
        os, architecture, variant = [*text.split("/"), "", ""][:3]
        platform = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
        entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{number:064}", "size": 1}
        entries.append({**entry, **({"platform": platform} if text else {})})
    value = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries, "annotations": {"é": "ü"}}
    body = json.dumps(value, indent=3).encode()
    return Manifest(digest_of(body), media_type, body)


tags = st.dictionaries(
    st.sampled_from(["1.0.0", "v1.0.0", "1.2", "1.10.0", "2.0.0-rc.1", "2.0.0", "latest", "nightly", "3"]),
    st.integers(NOW - 10 * DAY, NOW),
    min_size=1,
)


@given(tags, st.integers(1, 4))
def test_the_newest_by_time_are_not_older_than_those_left_out(some: dict[str, int], count: int) -> None:
    out = left_out({"newest": count}, dict(some))
    kept = some.keys() - out
    assert len(kept) == min(count, len(some))
    assert not out or min(some[tag] for tag in kept) >= max(some[tag] for tag in out)


@given(tags, st.integers(1, 4), st.booleans())
def test_the_newest_versions_are_not_lower_than_those_left_out(
    some: dict[str, int], count: int, prereleases: bool
) -> None:
    out = left_out({"newest": count, "newest_by": "version", "prereleases": prereleases}, dict(some))
    versions = {tag: version for tag in some if (version := version_of(tag)) is not None}
    usable = {tag: version for tag, version in versions.items() if prereleases or not version.prerelease}
    kept = {usable[tag] for tag in some.keys() - out}
    assert len(kept) == min(count, len(set(usable.values())))
    assert all(version < min(kept) for tag, version in usable.items() if tag in out)


@given(tags, st.sampled_from(["^1", ">=1.2", "2.0.0-rc.1 || 3", "*"]))
def test_a_range_leaves_out_what_is_not_in_it(some: dict[str, int], text: str) -> None:
    out = left_out({"semver": text, "always": ["lat*"]}, dict(some))
    for tag in some:
        version = version_of(tag)
        in_range = version is not None and parse_range(text).contains(version)
        assert (tag not in out) == (in_range or tag == "latest")


@given(st.lists(st.sampled_from(PLATFORMS), max_size=6), st.sets(st.sampled_from(PLATFORMS[:4]), min_size=1))
def test_a_smaller_index_has_exactly_the_selected_entries(platforms: list[str], chosen: set[str]) -> None:
    whole = index(*platforms)
    select = ImagesSelect(platforms=tuple(sorted(chosen)))
    small = for_platforms(whole, select)
    wanted = [text for text in platforms if text in chosen]
    if not any(platforms) or len(wanted) == len(platforms):
        assert small is whole
    elif not wanted:
        assert small is None
    else:
        assert small is not None
        assert [child.platform for child in small.children()] == wanted
        assert small.digest == digest_of(small.body) != whole.digest
        assert set(small.children()) <= set(whole.children())
        assert for_platforms(small, select) is small
        sparse = for_platforms(whole, select.model_copy(update={"sparse": True}))
        assert sparse is not None
        assert (sparse.digest, sparse.body) == (whole.digest, whole.body)
        assert sparse.children() == small.children() == sparse.needed()


@pytest.mark.parametrize(
    ("media_type", "digest"),
    [
        (OCI_INDEX, "sha256:acabe6b2249d8482276be72a90655d2f8cc44b95ff4f094d6d21132f77d083af"),
        (DOCKER_LIST, "sha256:4a326ffb56e0542eef66811fea9015241f8e6879745b452ef3f35f9f6cfaa39b"),
    ],
)
def test_the_bytes_of_a_smaller_index_are_the_same_in_every_version(media_type: str, digest: str) -> None:
    """Another form would make every index that was copied before a conflict."""
    small = for_platforms(index(*PLATFORMS[:3], media_type=media_type), ImagesSelect(platforms=("linux/amd64",)))
    assert small is not None
    assert small.digest == digest


def test_a_platform_without_a_variant_selects_all_of_them() -> None:
    small = for_platforms(index(*PLATFORMS), ImagesSelect(platforms=("linux/arm", "linux/arm64/v8")))
    assert small is not None
    assert [child.platform for child in small.children()] == ["linux/arm64", "linux/arm/v6", "linux/arm/v7"]


class TestMemos:
    def test_a_memo_keeps_its_last_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selection, "_MOST", 2)
        facts = ProcessFacts()
        memo = DigestMemo(facts, "key")
        for text in "abc":
            memo.set(f"sha256:{text}", text)
        memo.save()
        again = DigestMemo(facts, "key")
        assert [again.get(f"sha256:{text}") for text in "abc"] == [None, "b", "c"]

    @pytest.mark.parametrize("stored", ["", "[]", "{", "null", '{"a": {}}'])
    def test_an_unreadable_memo_is_empty(self, stored: str) -> None:
        facts = ProcessFacts()
        facts.remember("key", stored)
        assert DigestMemo(facts, "key").get("sha256:b") is None


def test_of_a_very_long_repository_the_newest_cannot_be_found() -> None:
    many = {f"{number}.0.0": f"d{number}" for number in range(HELD_TAGS + 200)}
    pair = RegistryPair({"team/a": many, "team/b": {"1": "d"}}, {}, select={"newest": 1, "newest_by": "version"})
    pages = pair.scan()
    assert [failure.error.code.name for page in pages for failure in page.failures] == ["LISTING_TOO_LONG"]
    assert found(pages) == [("team/b", "1")]


def test_signatures_of_images_that_are_left_out_are_left_out() -> None:
    image, other = "a" * 64, "b" * 64
    listed = {"1": f"sha256:{image}", "2": f"sha256:{other}", f"sha256-{image}.sig": "s1", f"sha256-{other}.sig": "s2"}
    pair = RegistryPair({"team/a": listed}, {}, api=True, select={"semver": "2"})
    (page,) = pair.scan()
    assert found([page]) == [("team/a", "2")]
    assert page.left_out == 3
    pair = RegistryPair({"team/a": listed}, {"team/a": {"2": f"sha256:{other}"}}, select={"semver": "2"})
    pair.target.content = {"team/a": {"2": f"sha256:{other}", f"sha256:{other}": f"sha256:{other}"}}
    pages = pair.scan()
    assert found(pages) == [("team/a", f"sha256-{other}.sig")]


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ("semver: latest", "select.semver: has 'latest', which is no comparison of versions"),
        ("semver: ''", "select.semver: is empty"),
        ("semver: 1.2", "select.semver: is a number, not text"),
        ("newest: 0", "select.newest: is 0, which is too small"),
        ("newest: five", "select.newest"),
        ("newest_by: version", "select.newest_by: has no effect without newest"),
        ("{newest: 1, newest_by: age}", "select.newest_by: is not an allowed word; allowed: 'time' or 'version'"),
        ("prereleases: true", "select.prereleases: has no effect without semver"),
        ("older_than: 1 day", "select.older_than: is not a duration"),
        ("{older_than: 2d, younger_than: 48h}", "select.younger_than: is not longer than older_than (2d)"),
        ("platforms: [amd64]", "select.platforms[0]: is not a platform; write os/architecture"),
        ("platforms: linux/amd64", "select.platforms"),
        ("sparse: true", "select.sparse: has no effect without platforms"),
        ("always: ['***']", "select.always[0]: has three stars in a row"),
    ],
)
def test_an_invalid_selection_has_one_clear_error(lines: str, part: str) -> None:
    select = lines if lines.startswith("{") else f"{{{lines}}}"
    assert part in refusal(select=select)


@pytest.mark.parametrize(
    ("digest", "part"),
    [
        ("team/app", "source.digests[0]: is not REPOSITORY@DIGEST"),
        ("team/app@sha256:abc", "source.digests[0]: is not REPOSITORY@DIGEST"),
        (f"Team/app@sha256:{'0' * 64}", "source.digests[0]: has capital letters"),
        (f"team/web@sha256:{'0' * 64}", "source.digests[0]: names team/web, which the sync does not select"),
    ],
)
def test_an_invalid_digest_has_one_clear_error(digest: str, part: str) -> None:
    assert part in refusal(source=f"{{registry: prod.example, repositories: [team/app], digests: ['{digest}']}}")


def refusal(**keys: str) -> str:
    lines = {"source": "{registry: prod.example, repositories: [team/app]}", "target": "{registry: dr.example}", **keys}
    text = "syncs:\n  s:\n    kind: images\n" + "".join(f"    {key}: {value}\n" for key, value in lines.items())
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(text.encode())
    (problem,) = raised.value.problems
    return f"{problem.path.removeprefix('syncs.s.')}: {problem.message}"
