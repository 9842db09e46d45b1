"""A sync of the kind ``files``, and what is checked between its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, StrictBool, StrictInt, Tag, WithJsonSchema

from syncline.config.base import BaseSync, Gathering, Model, Patterns, Removals
from syncline.config.buckets import AccessKey, BucketEndpoint
from syncline.config.findings import Area, Finding, Place, Reach
from syncline.config.values import Authority, KeyPath, SecretReference, is_loopback, split_host
from syncline.errors import SynclineError

KEY: Final = "key:"
PREFIX: Final = "prefix:"
_MODE: Final = re.compile(r"[r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]")
_ADDRESS: Final = re.compile(r"(https?)://([^/?#@]+)(/[^?#\s]*)?")


def _check_mode(text: str) -> str:
    if _MODE.fullmatch(text):
        return text
    raise ValueError("is not a file's permissions; write nine characters such as rw-r--r--")


def _check_address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("is not an address; write https://host[:port][/path], and the token under token")
    split_host(match[2])
    return text.rstrip("/")


def _check_path(text: str) -> str:
    if text.startswith("/") and ".." not in text.split("/") and text.isprintable():
        return text
    if not text:
        return text
    raise ValueError("is not the beginning of paths; write one such as /data/, or leave it out")


Mode: TypeAlias = Annotated[
    str, AfterValidator(_check_mode), WithJsonSchema({"type": "string", "pattern": f"^{_MODE.pattern}$"})
]
Address: TypeAlias = Annotated[
    str, AfterValidator(_check_address), WithJsonSchema({"type": "string", "pattern": "^https?://"})
]
PathStart: TypeAlias = Annotated[str, AfterValidator(_check_path), WithJsonSchema({"type": "string"})]
AtOnce: TypeAlias = Annotated[StrictInt, Field(ge=1, le=512)]


class FileManagerTarget(Model):
    """A file manager with an HTTP API: `/saveToDisk`, `/updatePermissions` and the rest."""

    file_manager: Address = Field(description="The API's address.", examples=["https://files.example/api"])
    token: SecretReference | None = Field(
        None, description="A reference to the bearer token.", examples=["secret:syncline/files#token"]
    )
    ca: Authority | None = Field(
        None,
        description="The authority that signed the API's certificate, if the system does not know it.",
        examples=["file:files-ca.pem"],
    )
    prefix: PathStart = Field(
        "", description="What is put before each key to make it a path.", examples=["/data/customer/"]
    )
    requests: AtOnce = Field(
        32, description="Requests at the API at a time, over all functions together.", examples=[64]
    )
    events: StrictBool = Field(
        False, description="Whether a full look begins with what the API tells in `/pubSubFullList`."
    )
    report: StrictBool = Field(False, description="Whether each run's results go to `/reportResults`.")

    @property
    def place(self) -> Place:
        """What is the same for two spellings of one API."""
        match = _ADDRESS.fullmatch(self.file_manager)
        assert match is not None
        name, port = split_host(match[2])
        loopback = is_loopback(match[2])
        return ("file manager", "localhost" if loopback else name, port or match[1], match[3] or "")

    def plain_text_warnings(self, path: KeyPath) -> Iterator[Finding]:
        """Whether files go readable over a network."""
        match = _ADDRESS.fullmatch(self.file_manager)
        assert match is not None
        if match[1] == "http" and not is_loopback(match[2]):
            yield Finding((*path, "file_manager"), "sends files readable over the network; use https and ca")


class Source(BucketEndpoint):
    """The bucket that files come from."""

    sequencers: StrictBool | None = Field(
        None,
        description="Whether the service numbers the events of a key in their order (`sequencer`), so that one which is "
        "older than what is known costs no request. When absent only AWS is believed: others number by the clocks of "
        "their machines, or not at all.",
    )

    @property
    def sequenced(self) -> bool:
        """Whether the order of its events is known."""
        return self.endpoint is None if self.sequencers is None else self.sequencers


class BucketTarget(BucketEndpoint):
    """Another bucket. Where both are of one service, and it may read the source, it copies by itself."""

    requests: AtOnce = Field(32, description="Requests at the bucket at a time, over all functions together.")
    same_service: StrictBool = Field(
        True,
        description="Whether objects are copied by the service, where source and target have one endpoint; else they "
        "go through the function.",
    )


class Reports(BucketEndpoint):
    """A bucket for sheets (CSV)."""

    full: StrictBool = Field(
        False,
        description="Whether each run that changed something also writes the state of all files (`new.csv`), and keeps "
        "the one before (`old.csv`). It reads every record; the sheets of a run read those of what changed.",
    )


class PermissionsRule(Model):
    """Where a file's permissions come from; a file manager is told them, a bucket knows none."""

    source: Literal["default", "metadata", "acl"] = Field(
        "metadata",
        description="`metadata` (`permissions`, or an octal `mode`, in the object's metadata), `acl` (one more request "
        "for each object), or `default` for none of them.",
        examples=["acl"],
    )
    default: Mode = Field("rw-r--r--", description="Where the source tells none.", examples=["rw-r-----"])
    owner: str | None = Field(None, description="The owner that the file manager is told.", examples=["www-data"])
    group: str | None = Field(None, description="The group that the file manager is told.", examples=["www-data"])


def _target_form(value: Any) -> str | None:
    if isinstance(value, FileManagerTarget) or (isinstance(value, dict) and "file_manager" in value):
        return "<file manager>"
    return "<bucket>" if isinstance(value, BucketTarget) or (isinstance(value, dict) and "bucket" in value) else None


_NOT_TARGET: Final = "is not a target; write {file_manager: https://…} or {bucket: …}"
Target: TypeAlias = Annotated[
    Annotated[FileManagerTarget, Tag("<file manager>")] | Annotated[BucketTarget, Tag("<bucket>")],
    Discriminator(_target_form, custom_error_type="target_form", custom_error_message=_NOT_TARGET),
]


class FilesSync(BaseSync):
    """The objects of a bucket, kept true in a file manager or another bucket."""

    kind: Literal["files"] = Field(description="What is kept true: `files`.", examples=["files"])
    source: Source = Field(description="The bucket that files come from.")
    target: Target = Field(description="Where files go: a file manager, or another bucket.")
    select: Patterns = Field(Patterns(), description="Which keys, as the source names them, without its prefix.")
    permissions: PermissionsRule = Field(PermissionsRule(), description="Where permissions come from.")
    overwrite: StrictBool = Field(
        False,
        description="Whether a file at the target that did not come from here is replaced. When false it is a `conflict`.",
    )
    removals: Removals | None = Field(
        None, description="Lets what is gone from the source be removed from the target, within limits. Absent: never."
    )
    events: Gathering = Field(Gathering(), description="How many events of the bucket become one look.")
    reports: Reports | None = Field(
        None,
        description="A bucket for the sheets (CSV) of each run, of what it changed before, after and between, and for "
        "those asked for by hand.",
    )

    def path_of(self, key: str) -> str:
        """The target's path for a key of the source."""
        return self.target.prefix + key.removeprefix(self.source.prefix)

    def key_of(self, path: str) -> str | None:
        """The source's key for a path of the target, None for one that is none of this sync's."""
        if not path.startswith(self.target.prefix):
            return None
        key = self.source.prefix + path.removeprefix(self.target.prefix)
        return key if self.takes(key) else None

    def takes(self, key: str) -> bool:
        """Whether a key of the source belongs to this sync. What only stands for a folder does not."""
        if not key.startswith(self.source.prefix) or key.endswith("/"):
            return False
        return self.select.allows(key.removeprefix(self.source.prefix))

    def problems(self) -> list[Finding]:
        source, target = self.source, self.target
        if isinstance(target, BucketTarget) and source.place == target.place:
            one, other = Area(source.prefix), Area(target.prefix)
            if one.meets(other):
                what = "is the source itself, or lies within it; write another bucket, or prefixes apart"
                return [Finding(("target", "bucket"), what, (("source",), ("target",)))]
        return []

    def warnings(self) -> list[Finding]:
        found = [
            *self.source.plain_text_warnings(("source",)),
            *self.target.plain_text_warnings(("target",)),
            *super().warnings(),
        ]
        if self.reports is not None:
            found += self.reports.plain_text_warnings(("reports",))
        return found

    def reaches(self) -> list[Reach]:
        advice = "give one of them another prefix"
        target = self.target
        at = target.file_manager if isinstance(target, FileManagerTarget) else target.bucket
        path = ("target", "file_manager" if isinstance(target, FileManagerTarget) else "bucket")
        return [Reach(self.name, target.place, (Area(target.prefix),), path, at, advice)]

    def hears(self) -> tuple[str, ...]:
        sources = [f"bucket:{self.source.bucket}"]
        if isinstance(self.target, FileManagerTarget):
            sources.append(f"files:{self.target.file_manager}")
        return tuple(sources)

    def gathering(self) -> Gathering:
        return self.events

    def look_at(self, group: str, name: str) -> str:
        return group if group.startswith((KEY, PREFIX)) else f"{KEY}{name}"

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if not name.startswith(self.source.prefix) or not (name.endswith("/") or self.takes(name)):
                raise SynclineError("USAGE", f"{name} is not a key that {self.name} keeps true")
        return tuple(f"{PREFIX if name.endswith('/') else KEY}{name}" for name in names)


PAGE: Final[tuple[tuple[str, type[Model], str], ...]] = (
    ("A sync of files", FilesSync, ""),
    ("Files, `source`, and `target` where it is a bucket", BucketEndpoint, ""),
    ("Files, `source`, besides", Source, ""),
    ("Files, `reports`, besides", Reports, ""),
    ("Files, `target` where it is a bucket, besides", BucketTarget, ""),
    ("Files, `target` where it is a file manager", FileManagerTarget, ""),
    ("Files, `permissions`", PermissionsRule, ""),
    ("`auth` of a bucket", AccessKey, "Besides this form `auth` can be the word `role` or `anonymous`."),
)
"""The sections of the reference page: title, model, a note."""

CHECKS: Final = """\
- A bucket that is its own target has prefixes of which neither begins with the other.
- No two syncs write below one prefix of one target.
- Only warned about: files or credentials over plain HTTP to another machine, a `timezone` that has no effect.
"""
