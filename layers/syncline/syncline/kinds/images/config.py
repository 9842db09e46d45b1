"""Configuration of a sync of the kind ``images``, and the checks between its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt

from syncline.config.circles import Flow, excluding
from syncline.config.findings import EVERYWHERE, Area, Finding, Reach
from syncline.config.model import Model, ServerAddress
from syncline.config.registry import RegistryEndpoint
from syncline.config.sync import DrillRules, Patterns, Sync, near_names
from syncline.config.values import (
    KeyPath,
    Organizations,
    Prefix,
    Repositories,
    SecretReference,
    Url,
    is_loopback,
    split_host,
)
from syncline.errors import SynclineError
from syncline.patterns import is_signature_tag, literal_start


class QuayApi(Model):
    """Quay's own API. It lists organizations, and the digests of 100 tags in one response."""

    kind: Literal["quay"] = Field(description="The API's kind; `quay` is the only one.", examples=["quay"])
    url: Url | None = Field(
        None,
        description="The API's address. Defaults to the registry itself.",
        examples=["https://quay.prod.example:8443"],
    )
    token: SecretReference | None = Field(
        None,
        description="A reference to an OAuth token of the API (not a robot's password); public repositories need none.",
        examples=["secret:syncline/quay#api"],
    )


class ImagesEndpoint(RegistryEndpoint):
    """A registry of images and, optionally, its own API."""

    api: QuayApi | None = Field(None, description="The registry's own API, if it has one.")

    def addresses(self) -> Iterator[ServerAddress]:
        yield from super().addresses()
        if self.api is not None and self.api.url is not None:
            yield ServerAddress(self.api.url, self.ca, self.proxy, ("api", "url"))

    @property
    def api_url(self) -> str | None:
        """The base address of the API, without a slash at its end; None where there is no API."""
        if self.api is None:
            return None
        return self.api.url or f"{'http' if self.plain_http else 'https'}://{self.registry}"

    def plain_text_warnings(self, path: KeyPath) -> Iterator[Finding]:
        yield from super().plain_text_warnings(path)
        if self.api is None or self.api.token is None or self.api_url is None:
            return
        scheme, _, host = self.api_url.partition("://")
        if scheme == "http" and not is_loopback(host):
            yield Finding(
                (*path, "api"), f"sends the token of {split_host(host)[0]} readable over the network; use https and ca"
            )


class ImagesSource(ImagesEndpoint):
    """The source registry; exactly one of `repositories`, `organizations` and `catalog` selects its repositories."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["repositories"]},
                {"required": ["organizations", "api"]},
                {"required": ["catalog"], "properties": {"catalog": {"const": True}}},
            ]
        }
    )

    repositories: Repositories | None = Field(
        None, description="These repositories.", examples=[["team/app", "team/base"]]
    )
    organizations: Organizations | None = Field(
        None, description="All repositories of these organizations; needs `api`.", examples=[["payments", "web"]]
    )
    catalog: StrictBool = Field(
        False, description="All repositories that the registry lists in `_catalog`, which many registries refuse."
    )

    @cached_property
    def repository_set(self) -> frozenset[str]:
        """``repositories`` as a set, since the list may be long."""
        return frozenset(self.repositories or ())


class ImagesTarget(ImagesEndpoint):
    """The target registry. With `api`, existing images are compared 100 tags at a time."""

    prefix: Prefix = Field("", description="A path put before the name of each repository.", examples=["mirror"])


class ImagesSelect(Model):
    """The selection of the source's images."""

    repositories: Patterns = Field(Patterns(), description="Repositories, as the source names them.")
    tags: Patterns = Field(Patterns(), description="Tags. Those of signatures are always selected; see `referrers`.")


class ImagesSync(Sync):
    """Container images, kept in sync from one registry to another."""

    kind: Literal["images"] = Field(description="The kind of the sync: `images`.", examples=["images"])
    source: ImagesSource = Field(description="The registry that images come from.")
    target: ImagesTarget = Field(description="The registry that images go to.")
    select: ImagesSelect = Field(ImagesSelect(), description="The images of the source that are synced.")
    overwrite: StrictBool = Field(
        False,
        description="Replace tags that differ at the target. If false, each is a `conflict`.",
    )
    referrers: Literal["with-images", "always", "none"] = Field(
        "with-images",
        description="When signatures, attestations and SBOMs without a tag, which only name their image (`subject`), are "
        "copied: `with-images` when an image is copied, and when a push notification or `--only` names its repository; "
        "`always` also for images that are equal on both sides, at some requests for each tag and run; `none` never.",
    )
    drill: DrillRules | None = Field(None, description="Restore drills.")
    concurrency: Annotated[StrictInt, Field(ge=1, le=32)] = Field(
        8, description="Images that one function copies at a time, 1 to 32."
    )

    def target_repository(self, source: str) -> str:
        """Return the target's name for a repository of the source."""
        return f"{self.target.prefix}/{source}" if self.target.prefix else source

    def source_repository(self, target: str) -> str | None:
        """Return the source's name for a repository of the target, None for one outside the prefix."""
        prefix = f"{self.target.prefix}/" if self.target.prefix else ""
        return target.removeprefix(prefix) if target.startswith(prefix) else None

    def takes_repository(self, source: str) -> bool:
        """Return True if a repository of the source belongs to this sync."""
        if self.source.repositories is not None and source not in self.source.repository_set:
            return False
        if self.source.organizations is not None and source.partition("/")[0] not in self.source.organizations:
            return False
        return self.select.repositories.allows(source)

    def takes_tag(self, tag: str) -> bool:
        """Return True if a tag belongs to this sync; signatures always do."""
        return is_signature_tag(tag) or self.select.tags.allows(tag)

    def problems(self) -> list[Finding]:
        return [*_selector_problems(self), *_loop_problems(self)]

    def warnings(self) -> list[Finding]:
        return [
            *self.source.plain_text_warnings(("source",)),
            *self.target.plain_text_warnings(("target",)),
            *super().warnings(),
            *_idle_warnings(self),
        ]

    def reaches(self) -> list[Reach]:
        areas = tuple(Area(self.target_repository(area.start), area.exact) for area in _source_areas(self))
        advice = "give one of them another prefix, or repositories or organizations that the other does not have"
        path: KeyPath = ("target", "registry")
        return [Reach(self.name, self.target.location, areas, path, self.target.registry, advice, self._writes)]

    def flows(self) -> list[Flow]:
        excluded = excluding(self.select.repositories.exclude)
        return [
            Flow(
                self.name,
                self.source.location,
                self.target.location,
                tuple(_source_areas(self)),
                lambda area: Area(self.target_repository(area.start), area.exact),
                lambda area: not self.takes_repository(area.start) if area.exact else excluded(area),
                ("target", "registry"),
                self.target.registry,
            )
        ]

    def _writes(self, target: str) -> bool:
        source = self.source_repository(target)
        return source is not None and self.takes_repository(source)

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if not self.takes_repository(name):
                source = self.source_repository(name)  # for the name in a report, which is that of the target
                mistaken = source is not None and self.takes_repository(source)
                known = filter(self.takes_repository, self.source.repositories or ())
                hint = f"; did you mean {source}?" if mistaken else near_names(name, known)
                raise SynclineError("USAGE", f"{self.name} does not select the repository {name}{hint}")
        return tuple(self.target_repository(name) for name in names)


def _selector_problems(sync: ImagesSync) -> Iterator[Finding]:
    source = sync.source
    given = [name for name in ("repositories", "organizations", "catalog") if getattr(source, name)]
    if not given:
        yield Finding(("source",), "names no repositories; write one of repositories, organizations and catalog: true")
    if len(given) > 1:
        yield Finding(
            ("source", given[1]),
            f"cannot be combined with {given[0]}; write exactly one of repositories, organizations and catalog: true",
            tuple(("source", name) for name in given),
        )
    if source.organizations is not None and source.api is None:
        yield Finding(
            ("source", "organizations"),
            "needs api: {kind: quay}, since a registry alone cannot list an organization; "
            "without that API write repositories or catalog: true",
            (("source", "api"),),
        )


def _loop_problems(sync: ImagesSync) -> Iterator[Finding]:
    """Yield a finding for a source that is its own target, or whose copies would be found as sources again."""
    if sync.source.location != sync.target.location:
        return
    rests_on = (("source",), ("target",), ("select",))
    if not sync.target.prefix:
        yield Finding(
            ("target", "registry"),
            "is the source itself (same registry, same path); write another registry, or a prefix",
            rests_on,
        )
        return
    below = Area(f"{sync.target.prefix}/")
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


def _source_areas(sync: ImagesSync) -> list[Area]:
    """Return the areas of the source's repositories that a sync takes."""
    if sync.source.repositories is not None:
        return [Area(name, exact=True) for name in sync.source.repositories if sync.takes_repository(name)]
    bounds = [EVERYWHERE]
    if sync.source.organizations is not None:
        bounds = [Area(f"{name}/") for name in sync.source.organizations]
    wanted = [Area(literal_start(text), literal_start(text) == text) for text in sync.select.repositories.include]
    return [common for bound in bounds for want in wanted or [EVERYWHERE] if (common := bound.within(want))]


def _idle_warnings(sync: ImagesSync) -> Iterator[Finding]:
    if sync.source.repositories is not None and not _source_areas(sync):
        yield Finding(("select", "repositories"), "leaves out all of source.repositories, so nothing is copied")
