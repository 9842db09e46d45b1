"""Configuration of a sync of the kind ``images``, and the checks between its keys."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictInt

from syncline.config.circles import Flow, excluding
from syncline.config.findings import EVERYWHERE, Area, Finding, Location, Reach
from syncline.config.model import Model, ServerAddress
from syncline.config.registry import CreateRepositories, RegistryEndpoint
from syncline.config.sync import DrillRules, Sync, near_names
from syncline.config.values import (
    KeyPath,
    Organizations,
    Pattern,
    Prefix,
    Repositories,
    SecretReference,
    Url,
    check_host,
    check_repository,
    is_loopback,
    split_host,
    text_schema,
)
from syncline.errors import SynclineError
from syncline.kinds.images.config_rules import ImagesRemovals, Keeping, Overwriting, SignatureRule
from syncline.kinds.images.config_select import (
    ImagesSelect,
    NamedDigest,
    RenameRule,
    rename,
    renamed_areas,
    shared_names,
)
from syncline.patterns import allows, is_signature_tag, literal_start


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


LAYOUTS: Final = ("oci", "oci-archive", "docker-archive")
"""Places beside registries: OCI layouts in folders and files, and files of `docker save`."""


def _check_place(text: str) -> str:
    transport, colon, path = text.partition(":")
    if not colon or transport not in LAYOUTS:
        return check_host(text)
    if not path.startswith("/") or posixpath.normpath(path) != path:
        raise ValueError(
            f"has no absolute path without `.` and `..` after {transport}:, such as {transport}:/srv/images"
        )
    return text


Place: TypeAlias = Annotated[
    str,
    AfterValidator(_check_place),
    text_schema(pattern=rf"^(?:[A-Za-z0-9.:\[\]-]+|(?:{'|'.join(LAYOUTS)}):/.*)$"),
]


class ImagesEndpoint(RegistryEndpoint):
    """A registry of images and, optionally, its own API; or images on the disk of this machine."""

    registry: Place = Field(
        description="The registry's host and port, without scheme or path. For the engine on one machine also a layout "
        "on its disk: `oci:FOLDER`, or for a source `oci-archive:FILE` or `docker-archive:FILE`, with absolute paths.",
        examples=["quay.prod.example:8443", "oci:/srv/images"],
    )
    api: QuayApi | None = Field(None, description="The registry's own API, if it has one.")

    @property
    def layout(self) -> tuple[str, str] | None:
        """The transport and path of a layout or archive; None for a registry."""
        transport, _, path = self.registry.partition(":")
        return (transport, path) if transport in LAYOUTS and path.startswith("/") else None

    @property
    def location(self) -> Location:
        return super().location if self.layout is None else ("layout", self.layout[1])

    def addresses(self) -> Iterator[ServerAddress]:
        if self.layout is not None:
            return
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
        if self.layout is not None:
            return
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
    digests: tuple[NamedDigest, ...] = Field(
        (),
        description="Images without a tag, in addition to the tags: repository and digest. They are copied completely, and "
        "their repositories must be selected. A registry does not list such images.",
        examples=[["team/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]],
    )

    @cached_property
    def digests_by_repository(self) -> dict[str, tuple[str, ...]]:
        """``digests`` by repository."""
        found: dict[str, tuple[str, ...]] = {}
        for repository, _, digest in (each.partition("@") for each in sorted(set(self.digests))):
            found[repository] = (*found.get(repository, ()), digest)
        return found

    @cached_property
    def repository_set(self) -> frozenset[str]:
        """``repositories`` as a set, since the list may be long."""
        return frozenset(self.repositories or ())


class ImagesTarget(ImagesEndpoint):
    """The target registry. With `api`, existing images are compared 100 tags at a time."""

    prefix: Prefix = Field("", description="A path put before the name of each repository.", examples=["mirror"])
    create_repositories: CreateRepositories = None


class ImagesSync(Sync):
    """Container images, kept in sync from one registry to another."""

    kind: Literal["images"] = Field(description="The kind of the sync: `images`.", examples=["images"])
    source: ImagesSource = Field(description="The registry that images come from.")
    target: ImagesTarget = Field(description="The registry that images go to.")
    select: ImagesSelect = Field(
        default_factory=ImagesSelect, description="The images of the source that are synced. Defaults to all."
    )
    rename: Annotated[tuple[RenameRule, ...], Field(max_length=50)] = Field(
        (),
        description="Rules that give repositories another name at the target. The first rule whose `from` matches the "
        "complete name applies; a repository that none matches keeps its name.",
    )
    overwrite: Overwriting = Field(
        False,
        description="Replace tags that differ at the target. If false, each is a `conflict`. With `keep`, a replaced image "
        "keeps another tag.",
        examples=[{"keep": "{tag}-{date}"}],
    )
    removals: ImagesRemovals | None = Field(
        None,
        description="Remove tags from the target that are gone from the source, if this sync wrote them or found them "
        "equal, within limits. Without it, none is removed.",
    )
    immutable: Annotated[tuple[Pattern, ...], Field(max_length=100)] = Field(
        (),
        description="Tags that never move, by patterns: once verified, such a tag is not requested again as long as both "
        "registries list it.",
        examples=[["re:v?[0-9]+[.][0-9]+[.][0-9]+"]],
    )
    referrers: Literal["with-images", "always", "none"] = Field(
        "with-images",
        description="When signatures, attestations and SBOMs without a tag, which only name their image (`subject`), are "
        "copied: `with-images` when an image is copied, and when a push notification or `--only` names its repository; "
        "`always` also for images that are equal on both sides, at two requests or more for each digest and run if the source has a referrers API; `none` never.",
    )
    verify: tuple[SignatureRule, ...] = Field(
        (),
        description="Signatures that images must have at the source before they are copied. An image without one is not "
        "copied and is reported as `untrusted`.",
    )
    drill: DrillRules | None = Field(None, description="Restore drills.")
    concurrency: Annotated[StrictInt, Field(ge=1, le=32)] = Field(
        8, description="Images that one function copies at a time, 1 to 32."
    )

    @property
    def overwrites(self) -> bool:
        """True if tags that differ at the target are replaced."""
        return bool(self.overwrite)

    @property
    def keeping(self) -> Keeping | None:
        """The rule for the tags of replaced images, None if these are not kept."""
        return self.overwrite if isinstance(self.overwrite, Keeping) else None

    def target_repository(self, source: str) -> str:
        """Return the target's name for a repository of the source."""
        return self._below_prefix(rename(self.rename, source))

    def source_repository(self, target: str) -> str | None:
        """Return the source's name for a repository of the target, None for one outside the prefix.

        Also return None if `needs_listing`, and for a repository that is not listed in a sync that renames.
        """
        if self.rename:
            return self._listed_names.get(target)
        prefix = self._below_prefix("")
        return target.removeprefix(prefix) if target.startswith(prefix) else None

    @property
    def needs_listing(self) -> bool:
        """True if only a listing of the source tells which of its repositories has a name at the target."""
        return bool(self.rename) and self.source.repositories is None

    @cached_property
    def _listed_names(self) -> dict[str, str]:
        """The names at the source by those at the target, for listed repositories."""
        names = filter(self.takes_repository, self.source.repositories or ())
        return {self.target_repository(name): name for name in names}

    def _below_prefix(self, name: str) -> str:
        return f"{self.target.prefix}/{name}" if self.target.prefix else name

    def _target_areas(self, source: Area) -> tuple[Area, ...]:
        """Return the areas of the target for an area of the source."""
        return tuple(Area(self._below_prefix(each.start), each.exact) for each in renamed_areas(self.rename, source))

    def target_id(self) -> str:
        return hashlib.blake2b(repr(self.target.location).encode(), digest_size=6).hexdigest()

    def takes_repository(self, source: str) -> bool:
        """Return True if a repository of the source belongs to this sync."""
        if self.source.repositories is not None and source not in self.source.repository_set:
            return False
        if self.source.organizations is not None and source.partition("/")[0] not in self.source.organizations:
            return False
        return self.select.repositories.allows(source)

    def takes_tag(self, tag: str) -> bool:
        """Return True if a tag belongs to this sync by its name; signatures always do."""
        return is_signature_tag(tag) or self.select.tags.allows(tag)

    def is_immutable(self, tag: str) -> bool:
        """Return True if a tag never moves."""
        return bool(self.immutable) and allows(tag, self.immutable, ())

    def problems(self) -> list[Finding]:
        sides = ((self.source, "source"), (self.target, "target"))
        registries = [each for end, key in sides if end.layout is None for each in end.registry_problems((key,))]
        return [
            *_selector_problems(self),
            *_loop_problems(self),
            *_layout_problems(self),
            *registries,
            *_rename_problems(self),
            *_removal_problems(self),
            *_rule_problems(self),
            *self.select.problems(),
            *_digest_problems(self),
        ]

    def warnings(self) -> list[Finding]:
        return [
            *self.source.plain_text_warnings(("source",)),
            *self.target.plain_text_warnings(("target",)),
            *super().warnings(),
            *_idle_warnings(self),
        ]

    def local_paths(self) -> list[KeyPath]:
        sides = (("source", self.source), ("target", self.target))
        return [(name, "registry") for name, endpoint in sides if endpoint.layout is not None]

    def reaches(self) -> list[Reach]:
        areas = tuple(out for area in _source_areas(self) for out in self._target_areas(area))
        advice = "give one of them another prefix, or repositories or organizations that the other does not have"
        path: KeyPath = ("target", "registry")
        return [Reach(self.name, self.target.location, areas, path, self.target.registry, advice, self.may_write)]

    def flows(self) -> list[Flow]:
        excluded = excluding(self.select.repositories.exclude)
        return [
            Flow(
                self.name,
                self.source.location,
                self.target.location,
                tuple(_source_areas(self)),
                self._target_areas,
                lambda area: not self.takes_repository(area.start) if area.exact else excluded(area),
                ("target", "registry"),
                self.target.registry,
            )
        ]

    def may_write(self, target: str) -> bool:
        """Return True if a repository of the target may be a copy that this sync makes."""
        if self.needs_listing:
            name = target.removeprefix(self._below_prefix(""))
            unchanged = self.takes_repository(name) and self.target_repository(name) == target
            return unchanged or any(rule.may_give(name) for rule in self.rename)
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
    rests_on: tuple[KeyPath, ...] = (("source",), ("target",), ("select",), ("rename",))
    if sync.rename:
        yield from _rename_loops(sync, rests_on)
        return
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


def _layout_problems(sync: ImagesSync) -> Iterator[Finding]:
    if sync.target.layout is not None and sync.target.layout[0] != "oci":
        yield Finding(("target", "registry"), "is a file, which is written only as a whole; write oci:FOLDER")
    for name, endpoint in (("source", sync.source), ("target", sync.target)):
        if endpoint.layout is not None and endpoint.api is not None:
            yield Finding((name, "api"), "is for a registry; remove it", ((name, "registry"),))


def _rule_problems(sync: ImagesSync) -> Iterator[Finding]:
    for number, rule in enumerate(sync.verify):
        if (rule.public_key is None) == (rule.identity is None):
            given = "names no signer" if rule.identity is None else "names two signers"
            yield Finding(("verify", number), f"{given}; write exactly one of public_key and identity")


def _rename_loops(sync: ImagesSync, rests_on: tuple[KeyPath, ...]) -> Iterator[Finding]:
    """Yield a finding for a sync within one registry whose renamed copies may be found as sources again."""
    (flow,) = sync.flows()
    for area in flow.areas:
        for copy in flow.moved(area):
            again = next(flow.takes(copy), None)
            if again is not None:
                yield Finding(
                    ("rename",),
                    f"leaves copies in the source: {again.start}{'' if again.exact else '*'} is a target and a source of the "
                    "same sync; write a prefix, and exclude it in select.repositories",
                    rests_on,
                )
                return


def _rename_problems(sync: ImagesSync) -> Iterator[Finding]:
    """Yield findings for listed repositories that get the same or an invalid name."""
    if not sync.rename:
        return
    names = [name for name in sync.source.repositories or () if sync.takes_repository(name)]
    rests_on: tuple[KeyPath, ...] = (("source",), ("select",), ("target",))
    for target, sources in shared_names(names, sync.target_repository).items():
        what = f"gives {' and '.join(sources)} the same name {target}; write rules that keep them apart, or exclude one"
        yield Finding(("rename",), what, rests_on)
    for name in names:
        try:
            check_repository(sync.target_repository(name))
        except ValueError as error:
            what = f"gives {name} the name {sync.target_repository(name)!r}, which {error}"
            yield Finding(("rename",), what, rests_on)


def _removal_problems(sync: ImagesSync) -> Iterator[Finding]:
    """Yield a finding if a removed tag's repository at the source could not be told from its name at the target."""
    if sync.removals is not None and sync.needs_listing:
        what = (
            "cannot be combined with rename unless source.repositories names the repositories; name them, or remove it"
        )
        yield Finding(("removals",), what, (("rename",), ("source",)))


def _digest_problems(sync: ImagesSync) -> Iterator[Finding]:
    """Yield a finding for each named digest whose repository the sync does not select."""
    for number, text in enumerate(sync.source.digests):
        repository = text.partition("@")[0]
        if not sync.takes_repository(repository):
            what = f"names {repository}, which the sync does not select; add it to the selection, or remove the digest"
            yield Finding(("source", "digests", number), what, (("source",), ("select", "repositories")))


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
