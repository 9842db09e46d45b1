"""Configuration of the selection of images, and of the rules that rename repositories."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    model_serializer,
    model_validator,
)

from syncline.config.findings import Area, Finding
from syncline.config.model import Model
from syncline.config.sync import Patterns
from syncline.config.values import Duration, Pattern, check_repository, matching, text_schema
from syncline.patterns import LONGEST_PATTERN, allows, compile_pattern, is_signature_tag, literal_start_of_regex
from syncline.schedule import seconds_of
from syncline.semver import LONGEST_RANGE, parse_range, version_of

_GROUP: Final = re.compile(r"\\([0-9])")
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9._/-]")


_PLATFORM: Final = r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?"
_DIGEST: Final = r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"


def _check_range(text: str) -> str:
    parse_range(text)
    return text


def _check_named_digest(text: str) -> str:
    repository, _, digest = text.partition("@")
    if re.fullmatch(_DIGEST, digest) is None:
        raise ValueError("is not REPOSITORY@DIGEST; write a name and a complete digest, such as team/app@sha256:…")
    check_repository(repository)
    return text


Platform: TypeAlias = Annotated[
    str,
    matching(_PLATFORM, "is not a platform; write os/architecture or os/architecture/variant, such as linux/arm64"),
    text_schema(pattern=f"^{_PLATFORM}$"),
]
NamedDigest: TypeAlias = Annotated[
    str, AfterValidator(_check_named_digest), text_schema(pattern=f"^[^@]+@({_DIGEST})$")
]


class ImagesSelect(Model):
    """The selection of the source's images. An image must satisfy all of the keys that are set."""

    repositories: Patterns = Field(Patterns(), description="Repositories, as the source names them.")
    tags: Patterns = Field(
        Patterns(),
        description="Tags. Those of signatures belong to their images whatever the patterns say; see `referrers`.",
    )
    semver: Annotated[str, AfterValidator(_check_range), text_schema(maxLength=LONGEST_RANGE)] | None = Field(
        None,
        description="Only tags that are versions in this range, as npm writes ranges. A `v` before the version is allowed. "
        "Prereleases are in a range only if it names one of the same version.",
        examples=[">=1.2 <3"],
    )
    prereleases: StrictBool = Field(
        False, description="Let `semver` and `newest_by: version` also take all prereleases, such as `1.2.0-rc.1`."
    )
    newest: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Only this number of tags of each repository, the newest of those that the other keys select.",
        examples=[5],
    )
    newest_by: Literal["time", "version"] = Field(
        "time",
        description="The order of `newest`: `time`, or `version`, which leaves out tags that are no versions and counts "
        "several tags of one version once.",
    )
    younger_than: Duration | None = Field(
        None, description="Only images younger than this when they are copied.", examples=["90d"]
    )
    older_than: Duration | None = Field(
        None,
        description="Only images older than this: a younger one is not copied yet. The report names it as left out.",
        examples=["24h"],
    )
    always: tuple[Pattern, ...] = Field(
        (),
        description="Tags that `semver`, `newest` and `younger_than` do not leave out, and that `newest` does not count.",
        examples=[["latest"]],
    )
    platforms: Annotated[tuple[Platform, ...], Field(max_length=50)] = Field(
        (),
        description="Copy only the images of an index for these platforms. The target then has a smaller index with another "
        "digest, which the report states. An image without an index is copied for any platform.",
        examples=[["linux/amd64", "linux/arm64"]],
    )
    sparse: StrictBool = Field(
        False,
        description="With `platforms`, keep the index and its digest, and leave out only the images of other platforms. The "
        "target must accept an index with absent images.",
    )

    @property
    def narrows(self) -> bool:
        """True if signatures may belong to images that are left out: by version, number, age or platform."""
        return bool(self.semver or self.newest or self.younger_than or self.older_than or self.platforms)

    def takes_version(self, tag: str) -> bool:
        """Return True if `semver` does not leave out a tag."""
        if self.semver is None:
            return True
        version = version_of(tag)
        return version is not None and parse_range(self.semver).contains(version, prereleases=self.prereleases)

    def may_take(self, tag: str) -> bool:
        """Return True if the keys may select a tag of this name: `semver` takes it, or it is fixed or a signature."""
        fixed = bool(self.always) and allows(tag, self.always, ())
        return is_signature_tag(tag) or self.takes_version(tag) or fixed

    def problems(self) -> Iterator[Finding]:
        """Yield problems between the keys."""
        if self.sparse and not self.platforms:
            yield Finding(("select", "sparse"), "has no effect without platforms; name them, or remove sparse")
        if "newest_by" in self.model_fields_set and self.newest is None:
            yield Finding(("select", "newest_by"), "has no effect without newest; set newest, or remove newest_by")
        by_version = self.semver is not None or (self.newest is not None and self.newest_by == "version")
        if self.prereleases and not by_version:
            what = "has no effect without semver or newest_by: version; write one of them, or remove prereleases"
            yield Finding(("select", "prereleases"), what)
        if self.younger_than and self.older_than and seconds_of(self.younger_than) <= seconds_of(self.older_than):
            what = f"is not longer than older_than ({self.older_than}), so no image is selected"
            yield Finding(("select", "younger_than"), what, (("select", "older_than"),))


def _check_from(text: str) -> str:
    if not text:
        raise ValueError("is empty; write a regular expression for the complete name, such as team-(.*)/(.*)")
    compile_pattern(f"re:{text}")
    return text


class RenameRule(Model):
    """A rule that gives repositories another name at the target."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    from_: Annotated[str, AfterValidator(_check_from), text_schema(maxLength=LONGEST_PATTERN)] = Field(
        alias="from",
        description="A regular expression for the complete name of a repository, as the source names it.",
        examples=["team-(.*)/(.*)"],
    )
    to: Annotated[str, text_schema(minLength=1, maxLength=LONGEST_PATTERN)] = Field(
        description="The name at the target, below `target.prefix`. `\\1` to `\\9` are the groups of `from`, and `\\0` is "
        "the complete name.",
        examples=["dr/\\1/\\2"],
    )

    @model_validator(mode="after")
    def _check_to(self) -> RenameRule:
        if not 0 < len(self.to) <= LONGEST_PATTERN:
            raise ValueError(f"to has {len(self.to)} characters; allowed are 1 to {LONGEST_PATTERN}")
        groups = self._expression.groups
        for number in _GROUP.findall(self.to):
            if int(number) > groups:
                raise ValueError(f"to has \\{number}, but from has {groups} groups in parentheses")
        if invalid := _NOT_IN_NAMES.search(_GROUP.sub("", self.to)):
            raise ValueError(f"to has the character {invalid[0]!r}, which no repository can have")
        return self

    @model_serializer(mode="wrap")
    def _with_alias(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name.removesuffix("_"): value for name, value in handler(self).items()}

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return compile_pattern(f"re:{self.from_}")

    def renamed(self, name: str) -> str | None:
        """Return the new name of a repository, None if the rule does not match it."""
        match = self._expression.fullmatch(name)
        return None if match is None else _GROUP.sub(lambda group: match[int(group[1])] or "", self.to)

    def may_give(self, name: str) -> bool:
        """Return True if a repository may have this name after the rule."""
        first, *more = _GROUP.split(self.to)[::2]
        if not more:
            return name == first
        *middle, last = more
        at = len(first)
        for text in middle:
            found = name.find(text, at)
            if found < 0:
                return False
            at = found + len(text)
        return name.startswith(first) and name.endswith(last) and at <= len(name) - len(last)

    def area(self, source: Area) -> Area | None:
        """Return the names that repositories of an area may have after the rule, None if it matches none of them."""
        if source.exact:
            name = self.renamed(source.start)
            return None if name is None else Area(name, exact=True)
        if source.within(Area(literal_start_of_regex(self.from_))) is None:
            return None
        start, *groups = _GROUP.split(self.to, maxsplit=1)
        return Area(start, exact=not groups)


Rename = tuple[RenameRule, ...]


def rename(rules: Rename, name: str) -> str:
    """Return the new name of a repository by the first rule that matches it, unchanged if none does."""
    return next((new for rule in rules if (new := rule.renamed(name)) is not None), name)


def renamed_areas(rules: Rename, source: Area) -> tuple[Area, ...]:
    """Return the areas that repositories of an area may have after the rules."""
    if source.exact:
        return (Area(rename(rules, source.start), exact=True),)
    return tuple(dict.fromkeys([source, *filter(None, (rule.area(source) for rule in rules))]))


def shared_names(sources: Iterable[str], target: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the names at the target that several repositories of the source would have, with these in order."""
    pairs = sorted((target(name), name) for name in set(sources))
    found: dict[str, list[str]] = {}
    for (one, first), (other, second) in pairwise(pairs):
        if one == other:
            found.setdefault(one, [first]).append(second)
    return found
