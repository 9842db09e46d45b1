"""Configuration of the kind ``artifacts``: images that GitHub workflow runs leave, for a registry at GitLab."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, WithJsonSchema

from syncline.config.findings import Area, Finding, Reach
from syncline.config.limits import Limits
from syncline.config.model import Model, ServerAddress
from syncline.config.registry import RegistryEndpoint
from syncline.config.sync import Sync
from syncline.config.templates import TemplateText
from syncline.config.values import KeyPath, Proxy, SecretReference, ServerAuthority, Url, is_loopback

_REPOSITORY: Final = r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$"
_PROJECT: Final = r"^[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)+$"
_TAG: Final = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
_DEEPEST: Final = 2  # path levels that GitLab allows below a project


def _check(pattern: str, reason: str) -> AfterValidator:
    """Return a validator of texts that match a pattern; ``reason`` is the error of another text."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(reason)
        return text

    return AfterValidator(check)


_CHECK_REPOSITORY: Final = _check(_REPOSITORY, "is not a repository at GitHub; write owner/name")
_CHECK_PROJECT: Final = _check(
    _PROJECT, "is not a project's path; write group/project in lower case, as the registry has it"
)
_CHECK_TAG: Final = _check(_TAG, "is not a tag; use up to 128 of A-Z a-z 0-9 . _ -, not beginning with . or -")
AliasTag = Annotated[str, _CHECK_TAG, WithJsonSchema({"type": "string", "pattern": _TAG})]


class GitHubApp(Model):
    """A GitHub App that is installed on the repository."""

    app: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        description="The App's client ID or App ID, as text.", examples=["123456"]
    )
    key: SecretReference = Field(
        description="A reference to its private key, in PEM form.", examples=["secret:syncline/github#key"]
    )
    installation: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="The installation ID. Defaults to the installation on the repository.", examples=[42]
    )


class GitHubToken(Model):
    """A personal access token, fine-grained or classic, with the right to read actions."""

    token: SecretReference = Field(description="A reference to the token.", examples=["secret:syncline/github#token"])


class ArtifactsSource(Model):
    """The builds: successful runs of one workflow, the youngest first."""

    repository: Annotated[str, _CHECK_REPOSITORY, WithJsonSchema({"type": "string", "pattern": _REPOSITORY})] = Field(
        description="The repository at GitHub.", examples=["team/builds"]
    )
    workflow: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="The workflow's file, with or without its path.", examples=["build-images.yml"]
    )
    branch: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        None, description="Only runs on this branch.", examples=["main"]
    )
    event: Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")] | None = Field(
        None, description="Only runs that this event started.", examples=["workflow_dispatch"]
    )
    limit: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        20, description="The number of runs to scan, the youngest first, 1 to 1000."
    )
    max_age_days: Annotated[StrictInt, Field(ge=1, le=400)] | None = Field(
        None, description="Maximum age of runs in days; older ones are left out.", examples=[30]
    )
    auth: Literal["anonymous"] | GitHubToken | GitHubApp = Field(
        "anonymous", description="The credentials: `{token: …}` or `{app: …, key: …}`. Logs and artifacts need some."
    )
    url: Url = Field(
        "https://api.github.com",
        description="The URL of the API; for GitHub Enterprise with its path.",
        examples=["https://github.example/api/v3"],
    )
    ca: ServerAuthority = None
    proxy: Proxy = None
    limits: Limits = None

    def addresses(self) -> Iterator[ServerAddress]:
        yield ServerAddress(self.url, self.ca, self.proxy)


class Metadata(Model):
    """The metadata block in the log of a build, one `Key: value` per line."""

    keys: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = Field(
        description="The keys of the block.", examples=[["Image tag", "Target platform"]]
    )
    required: tuple[str, ...] = Field(
        (), description="The keys that a block must have; all of them when empty.", examples=[["Image tag"]]
    )
    tag: str = Field(description="The key whose value is the build's image tag.", examples=["Image tag"])
    time: str | None = Field(
        None,
        description="A key with a time (ISO 8601). A block whose time is outside the run is ignored as that of another build.",
        examples=["Generated at"],
    )
    check: TemplateText | None = Field(
        None,
        description="The image tag expected from the block's other values. A block with another tag is ignored as that of another "
        "build. `{Some key:.12}` is the first 12 characters of a value. Case is ignored, and sequences of characters "
        "other than letters, digits, `_` and `.` count as equal.",
        examples=["app-{Commit:.12}-{Target platform}"],
    )

    @property
    def needed(self) -> tuple[str, ...]:
        return self.required or self.keys


class ImageRule(Model):
    """An image that a build makes."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")] = Field(
        description="The image's name.", examples=["app-worker"]
    )
    when: Mapping[str, str] = Field(
        {}, description="Only if the block has these values.", examples=[{"Build worker": "true"}]
    )

    def applies(self, block: Mapping[str, str]) -> bool:
        return all(block.get(key, "").lower() == value.lower() for key, value in self.when.items())


class TagMapping(Model):
    """A mapping of image tags of builds to repositories and tags at GitLab."""

    tag: TemplateText = Field(description="Image tags of this form.", examples=["{tag}-linux-amd64"])
    to: TemplateText = Field(
        description="The repository below the project, and the tag.", examples=["x86/{image}:{tag}"]
    )

    def repository(self, image: str) -> str:
        """Return the repository of an image below the project, with placeholders if it depends on the tag."""
        return self.to.text.rpartition(":")[0].replace("{image}", image)


class Build(Model):
    """The metadata and the artifacts of a build."""

    metadata: Metadata = Field(description="The metadata block in the log.")
    images: Annotated[tuple[ImageRule, ...], Field(min_length=1, max_length=200)] = Field(
        description="The images that a build makes."
    )
    mapping: Annotated[tuple[TagMapping, ...], Field(min_length=1, max_length=50)] = Field(
        description="The repositories and tags of the images; the first matching entry counts."
    )
    archive: TemplateText = Field(
        "{image}-{tag}.tar*",
        validate_default=True,
        description="The name of an image's file in the artifact; `*` matches any characters. A single archive of all images "
        "may have any name.",
        examples=["{image}-{tag}.tar.gz"],
    )
    artifact: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "*", description="The names of artifacts with images; `*` matches any characters.", examples=["images-*"]
    )

    def expected(self, block: Mapping[str, str]) -> tuple[str, ...]:
        """Return the images that a build with this block made."""
        return tuple(rule.name for rule in self.images if rule.applies(block))

    def destination(self, image: str, tag: str) -> tuple[str, str] | None:
        """Return the repository (below the project) and tag at GitLab for an image of a build, None if no entry matches."""
        for form in self.mapping:
            values = form.tag.match(tag)
            if values is not None:
                repository, _, name = form.to.fill({**values, "image": image}).rpartition(":")
                return repository, name
        return None

    def origin(self, repository: str, tag: str) -> tuple[str, str] | None:
        """Return the image and image tag for a repository and tag at GitLab, None if no entry matches."""
        for form in self.mapping:
            values = form.to.match(f"{repository}:{tag}") or {}
            if values.get("image") not in {rule.name for rule in self.images}:
                continue
            original = form.tag.fill(values)
            if self.destination(values["image"], original) == (repository, tag):
                return values["image"], original
        return None

    def repositories(self) -> tuple[str, ...]:
        """Return the repositories below the project that do not depend on the tag."""
        found = {form.repository(rule.name) for form in self.mapping for rule in self.images}
        return tuple(sorted(name for name in found if "{" not in name))

    def is_archive(self, file: str, image: str, tag: str) -> bool:
        """Return True if a file, by its name, is an image's own archive."""
        return fnmatchcase(file.rpartition("/")[2], self.archive.fill({"image": image, "tag": tag}))


class GitLabApi(Model):
    """GitLab's own API: it lists the repositories of a project."""

    url: Url = Field(description="The URL of GitLab.", examples=["https://gitlab.example"])
    token: SecretReference = Field(
        description="A reference to a token with `read_api`.", examples=["secret:syncline/gitlab#token"]
    )
    token_kind: Literal["personal", "job", "oauth"] = Field(
        "personal",
        description="The type of the token: `personal` (also for project and group tokens), `job` or `oauth`.",
    )


class ArtifactsTarget(RegistryEndpoint):
    """The registry of a GitLab project. Its `auth` is a user name and a deploy, personal or job token."""

    project: Annotated[str, _CHECK_PROJECT, WithJsonSchema({"type": "string", "pattern": _PROJECT})] = Field(
        description="The project's path.", examples=["group/project"]
    )
    api: GitLabApi | None = Field(
        None, description="GitLab's API. Without it, the tags of each repository are listed by the registry."
    )

    def addresses(self) -> Iterator[ServerAddress]:
        yield from super().addresses()
        if self.api is not None:
            yield ServerAddress(self.api.url, self.ca, self.proxy, ("api", "url"))


class ArtifactsSync(Sync):
    """Copy images that GitHub workflow runs leave as artifacts to the registry of a GitLab project."""

    kind: Literal["artifacts"] = Field(description="The kind of the sync: `artifacts`.", examples=["artifacts"])
    source: ArtifactsSource = Field(description="The builds.")
    build: Build = Field(description="The metadata and artifacts of the builds.")
    target: ArtifactsTarget = Field(description="The registry to copy images to.")
    aliases: tuple[AliasTag, ...] = Field(
        (),
        description="Additional tags of each repository that point at the image of the youngest build.",
        examples=[["latest"]],
    )
    overwrite: StrictBool = Field(False, description="Replace an existing tag when a younger run has made it again.")
    attestations: StrictBool = Field(
        False,
        description="Attach GitHub's attestations of the artifact's zip, and of the image's digest, to each image that is copied: "
        "one referrer for each bundle. They are not verified here; they prove who built the zip or the image to whoever "
        "verifies them at the target.",
    )

    def problems(self) -> list[Finding]:
        return [
            *super().problems(),
            *self.target.registry_problems(("target",)),
            *_metadata_problems(self.build),
            *_mapping_problems(self),
        ]

    def warnings(self) -> list[Finding]:
        found = [*super().warnings(), *self.target.plain_text_warnings(("target",))]
        api = self.target.api
        if api is not None and api.url.startswith("http:") and not is_loopback(api.url.partition("://")[2]):
            found.append(Finding(("target", "api", "url"), "sends the token readable over the network; use https"))
        if self.source.auth == "anonymous":
            found.append(
                Finding(("source", "auth"), "is anonymous, but GitHub requires authentication for logs and artifacts")
            )
        return found

    def reaches(self) -> list[Reach]:
        areas = {self._area(form, rule.name) for form in self.build.mapping for rule in self.build.images}
        advice = "give one of them another project, or map its images to other repositories"
        at = f"{self.target.registry}/{self.target.project}"
        return [
            Reach(self.name, self.target.location, tuple(sorted(areas, key=str)), ("target", "project"), at, advice)
        ]

    def scan_group(self, group: str, name: str) -> str:
        return group if group.startswith("run:") or name == "*" else f"{group}:{name}"

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return names of builds (``run:123`` or an image tag) and of target repositories, unchanged."""
        return tuple(names)

    def _area(self, form: TagMapping, image: str) -> Area:
        start, brace, _ = form.repository(image).partition("{")
        return Area(f"{self.target.project}/{start}", exact=not brace)


def _metadata_problems(build: Build) -> Iterator[Finding]:
    metadata = build.metadata
    named: dict[KeyPath, Iterable[str]] = {
        ("metadata", "tag"): [metadata.tag],
        ("metadata", "required"): metadata.required,
        ("metadata", "time"): [metadata.time] if metadata.time else [],
        ("metadata", "check"): sorted(metadata.check.names) if metadata.check else [],
        **{("images", number, "when"): rule.when for number, rule in enumerate(build.images)},
    }
    for path, names in named.items():
        for name in names:
            if name not in metadata.keys:
                yield Finding(("build", *path), f"names {name!r}, which is not one of the keys")
    images = Counter(rule.name for rule in build.images)
    for name in sorted(name for name, count in images.items() if count > 1):
        yield Finding(("build", "images"), f"has {name} twice")


def _mapping_problems(sync: ArtifactsSync) -> Iterator[Finding]:
    for number, form in enumerate(sync.build.mapping):
        path: KeyPath = ("build", "mapping", number, "to")
        repository, colon, tag = form.to.text.rpartition(":")
        if not colon or not repository or not tag:
            yield Finding(path, "has no tag; write repository:tag, such as x86/{image}:{tag}")
        if "image" not in form.to.names:
            yield Finding(path, "does not name {image}, so all images would go to one repository")
        if missing := form.to.names - form.tag.names - {"image"}:
            yield Finding(path, f"uses {{{min(missing)}}}, which `tag` does not have")
        if repository.count("/") + 1 > _DEEPEST:
            yield Finding(path, f"has more than {_DEEPEST} levels below the project, which GitLab does not take")
