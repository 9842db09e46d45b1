"""What is wrong with syncs although each of their keys is right.

A :class:`Finding` names the place by the path of keys inside the sync, or from ``syncs`` on where two are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncline.config import ImagesSync, RegistryEndpoint, Sync
from syncline.config_values import KeyPath, is_loopback, split_host
from syncline.select import literal_start


@dataclass(frozen=True, slots=True)
class Finding:
    """``rests_on`` names further places whose values the finding depends on."""

    path: KeyPath
    message: str
    rests_on: tuple[KeyPath, ...] = ()


def problems_of(sync: Sync) -> list[Finding]:
    """What makes a sync impossible, apart from every other sync."""
    return [*_selector_problems(sync), *_loop_problems(sync)]


def conflicts_between(syncs: Sequence[Sync]) -> list[Finding]:
    """Each sync that can write where an earlier one can, with the path beginning at ``syncs``.

    Where names are known only as patterns, whatever begins alike counts as the same place.
    """
    findings = []
    by_place: dict[tuple[str, int], list[_Reach]] = {}
    for sync in syncs:
        later = _Reach.of(sync)
        neighbours = by_place.setdefault(sync.target.place, [])
        for earlier in neighbours:
            common = earlier.common_with(later)
            if common is not None:
                findings.append(
                    Finding(
                        ("syncs", sync.name, "target", "registry"),
                        f"can write {common} at {sync.target.registry}, and so can the sync {earlier.sync.name}; give "
                        "one of them another prefix, or repositories or organizations that the other does not have",
                    )
                )
        neighbours.append(later)
    return findings


def warnings_of(sync: Sync) -> list[Finding]:
    """What is allowed and probably not meant, or dangerous."""
    return [
        *_plain_text_warnings(("source",), sync.source),
        *_plain_text_warnings(("target",), sync.target),
        *_idle_warnings(sync),
    ]


def _selector_problems(sync: ImagesSync) -> Iterator[Finding]:
    source = sync.source
    selectors = {
        "repositories": source.repositories is not None,
        "organizations": source.organizations is not None,
        "catalog": source.catalog,
    }
    given = [name for name, there in selectors.items() if there]
    if not given:
        yield Finding(
            ("source",), "does not say which repositories; write one of repositories, organizations and catalog: true"
        )
    if len(given) > 1:
        yield Finding(
            ("source", given[1]),
            f"stands beside {given[0]}; write exactly one of repositories, organizations and catalog: true",
            tuple(("source", name) for name in given),
        )
    if source.organizations is not None and source.api is None:
        yield Finding(
            ("source", "organizations"),
            "needs api: {kind: quay}, for a registry alone cannot list an organization; "
            "without that API write repositories or catalog: true",
            (("source", "api"),),
        )


def _loop_problems(sync: ImagesSync) -> Iterator[Finding]:
    """A source that is its own target, at once or because the copies would be found as sources again."""
    if sync.source.place != sync.target.place:
        return
    rests_on = (("source",), ("target",), ("select",))
    if not sync.target.prefix:
        yield Finding(
            ("target", "registry"),
            "is the source itself (same registry, same path); write another registry, or a prefix",
            rests_on,
        )
        return
    below = _Area(f"{sync.target.prefix}/")
    first = sync.target.prefix.partition("/")[0]
    kept_out = {f"{sync.target.prefix}/**", f"{first}/**"} & set(sync.select.repositories.exclude)
    if sync.source.repositories is not None:
        again = [name for name in sync.source.repositories if sync.takes_repository(sync.source_repository(name) or "")]
        if again:
            yield Finding(
                ("target", "prefix"),
                f"makes {again[0]} a target and a source of the same sync; write another prefix",
                rests_on,
            )
    elif not kept_out and any(area.meets(below) for area in _source_areas(sync)):
        yield Finding(
            ("target", "prefix"),
            "lies inside the source, so copies would be found and copied again; "
            f'add "{sync.target.prefix}/**" to select.repositories.exclude',
            rests_on,
        )


@dataclass(frozen=True, slots=True)
class _Area:
    """Repositories by how their names begin, or one repository by its ``whole`` name."""

    start: str
    whole: bool = False

    def meets(self, other: _Area) -> bool:
        if self.whole and other.whole:
            return self.start == other.start
        if self.whole:
            return self.start.startswith(other.start)
        return other.start.startswith(self.start) or (not other.whole and self.start.startswith(other.start))

    def within(self, other: _Area) -> _Area | None:
        """What both have in common."""
        if not self.meets(other):
            return None
        return self if self.whole or (not other.whole and len(self.start) >= len(other.start)) else other


def _source_areas(sync: ImagesSync) -> list[_Area]:
    """Where the repositories lie that a sync takes, as the source names them."""
    if sync.source.repositories is not None:
        return [_Area(name, whole=True) for name in sync.source.repositories if sync.takes_repository(name)]
    places = [_Area("")]
    if sync.source.organizations is not None:
        places = [_Area(f"{name}/") for name in sync.source.organizations]
    wanted = [_Area(literal_start(text), literal_start(text) == text) for text in sync.select.repositories.include]
    return [common for place in places for want in wanted or [_Area("")] if (common := place.within(want))]


@dataclass(frozen=True, slots=True)
class _Reach:
    """What a sync can write at its target: repositories by name, and beginnings of names."""

    sync: Sync
    names: frozenset[str]
    starts: tuple[_Area, ...]

    @classmethod
    def of(cls, sync: Sync) -> _Reach:
        areas = [_Area(sync.target_repository(area.start), area.whole) for area in _source_areas(sync)]
        names = frozenset(area.start for area in areas if area.whole)
        return cls(sync, names, tuple(area for area in areas if not area.whole))

    def writes(self, repository: str) -> bool:
        source = self.sync.source_repository(repository)
        return source is not None and self.sync.takes_repository(source)

    def common_with(self, other: _Reach) -> str | None:
        """A repository, or the beginning of many, that both can write; None if there is none."""
        names = self.names & other.names
        names |= self.names if other.starts else frozenset()
        names |= other.names if self.starts else frozenset()
        for name in sorted(names):
            if self.writes(name) and other.writes(name):
                return name
        meetings = (mine.within(theirs) for mine in self.starts for theirs in other.starts)
        return next((f"{common.start}*" for common in meetings if common), None)


def _plain_text_warnings(path: KeyPath, endpoint: RegistryEndpoint) -> Iterator[Finding]:
    if endpoint.plain_http and endpoint.auth != "anonymous" and not is_loopback(endpoint.registry):
        yield Finding(
            (*path, "plain_http"),
            f"sends the credentials of {endpoint.registry} readable over the network; use TLS and ca",
        )
    if endpoint.api is None or endpoint.api.token is None or endpoint.api_url is None:
        return
    scheme, _, host = endpoint.api_url.partition("://")
    if scheme == "http" and not is_loopback(host):
        yield Finding(
            (*path, "api"), f"sends the token of {split_host(host)[0]} readable over the network; use https and ca"
        )


def _idle_warnings(sync: ImagesSync) -> Iterator[Finding]:
    if sync.timezone is not None and not (sync.schedule or "").startswith("cron("):
        yield Finding(("timezone",), "has no effect without a cron schedule")
    if sync.source.repositories is not None and not _source_areas(sync):
        yield Finding(("select", "repositories"), "leaves out every one of source.repositories, so nothing is copied")
