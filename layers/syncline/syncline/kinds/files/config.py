"""Configuration of a sync of the kind ``files``, and the checks between its keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, StrictBool, StrictInt, Tag, WithJsonSchema

from syncline.config.buckets import BucketEndpoint
from syncline.config.circles import Flow, excluding
from syncline.config.findings import Area, Finding, Location, Reach
from syncline.config.limits import Limits
from syncline.config.model import Model, ServerAddress
from syncline.config.sync import Gathering, Patterns, Removals, Sync
from syncline.config.values import (
    Duration,
    KeyPath,
    Proxy,
    SecretReference,
    ServerAuthority,
    is_loopback,
    server_of,
    split_host,
)
from syncline.errors import SynclineError
from syncline.patterns import literal_start

KEY: Final = "key:"
PREFIX: Final = "prefix:"
_MODE: Final = re.compile(r"([r-][w-][x-]){3}")
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
    if not text or (text.startswith("/") and ".." not in text.split("/") and text.isprintable()):
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
    ca: ServerAuthority = None
    proxy: Proxy = None
    limits: Limits = None
    prefix: PathStart = Field(
        "", description="The text put before each key to make it a path.", examples=["/data/customer/"]
    )
    requests: AtOnce = Field(
        32, description="Concurrent requests to the API, of all functions together.", examples=[64]
    )
    events: StrictBool = Field(
        False, description="Read the API's own events (`/pubSubFullList`) at the beginning of each full scan."
    )
    report: StrictBool = Field(False, description="Send the results of each run to `/reportResults`.")

    def addresses(self) -> Iterator[ServerAddress]:
        yield ServerAddress(self.file_manager, self.ca, self.proxy)

    @property
    def _address(self) -> tuple[str, str, str]:
        """The scheme, host and path."""
        match = _ADDRESS.fullmatch(self.file_manager)
        assert match is not None
        return match[1], match[2], match[3] or ""

    @property
    def location(self) -> Location:
        """An identity that is the same for all spellings of one API."""
        scheme, host, path = self._address
        return ("file manager", *server_of(host, 443 if scheme == "https" else 80), path)

    @property
    def record_location(self) -> Location:
        """An identity that is the same for two spellings of one API. It is part of the keys of records, so it is fixed."""
        scheme, host, path = self._address
        name, port = split_host(host)
        return ("file manager", "localhost" if is_loopback(host) else name, port or scheme, path)

    def plain_text_warnings(self, path: KeyPath) -> Iterator[Finding]:
        """Yield a warning if files are sent over a network without encryption."""
        scheme, host, _ = self._address
        if scheme == "http" and not is_loopback(host):
            yield Finding((*path, "file_manager"), "sends files unencrypted over the network; use https and ca")


class Source(BucketEndpoint):
    """The bucket that files come from."""

    sequencers: StrictBool | None = Field(
        None,
        description="True if the service numbers the events of a key in their order (`sequencer`), so that events older than the "
        "record cost no request. Defaults to true for AWS only: other services number by the clocks of their machines, or "
        "not at all.",
    )

    @property
    def sequenced(self) -> bool:
        """True if the order of the bucket's events is known."""
        return self.endpoint is None if self.sequencers is None else self.sequencers


class BucketTarget(BucketEndpoint):
    """Another bucket. If both are of one service, and it may read the source, it copies objects itself."""

    requests: AtOnce = Field(32, description="Concurrent requests to the bucket, of all functions together.")
    same_service: StrictBool = Field(
        True,
        description="Let the service copy objects if source and target have one endpoint. When false, the function reads "
        "and sends them.",
    )


class Reports(BucketEndpoint):
    """A bucket for reports (CSV files)."""

    full: StrictBool = Field(
        False,
        description="After each run that changed something, also write the state of all files (`new.csv`), and keep the "
        "previous one (`old.csv`). This reads every record; the other reports of a run read those of changed files.",
    )


class PermissionsRule(Model):
    """The source of files' permissions, which are sent to a file manager; buckets have none."""

    source: Literal["default", "metadata", "acl"] = Field(
        "metadata",
        description="`metadata` (`permissions`, or an octal `mode`, in the object's metadata), `acl` (one more request "
        "for each object), or `default` for none of them.",
        examples=["acl"],
    )
    default: Mode = Field("rw-r--r--", description="Permissions if the source states none.", examples=["rw-r-----"])
    owner: str | None = Field(None, description="The owner to set at the file manager.", examples=["www-data"])
    group: str | None = Field(None, description="The group to set at the file manager.", examples=["www-data"])


def _target_form(value: Any) -> str | None:
    if isinstance(value, FileManagerTarget) or (isinstance(value, dict) and "file_manager" in value):
        return "<file manager>"
    return "<bucket>" if isinstance(value, BucketTarget) or (isinstance(value, dict) and "bucket" in value) else None


_NOT_TARGET: Final = "is not a target; write {file_manager: https://…} or {bucket: …}"
Target: TypeAlias = Annotated[
    Annotated[FileManagerTarget, Tag("<file manager>")] | Annotated[BucketTarget, Tag("<bucket>")],
    Discriminator(_target_form, custom_error_type="target_form", custom_error_message=_NOT_TARGET),
]


class FilesSync(Sync):
    """The objects of a bucket, kept in sync in a file manager or another bucket."""

    kind: Literal["files"] = Field(description="The kind of the sync: `files`.", examples=["files"])
    source: Source = Field(description="The bucket that files come from.")
    target: Target = Field(description="The file manager or bucket that files go to.")
    select: Patterns = Field(Patterns(), description="The keys to sync, without the source's prefix.")
    permissions: PermissionsRule = Field(PermissionsRule(), description="The source of permissions.")
    overwrite: StrictBool = Field(
        False,
        description="Replace files at the target that this sync did not write. If false, each is a `conflict`.",
    )
    removals: Removals | None = Field(
        None,
        description="Remove files from the target that are gone from the source, within limits. Without it, none is "
        "removed.",
    )
    recheck: Duration = Field(
        "7d",
        description="The time within which every file is read again at the target, a share of them in each full scan. "
        "A target bucket is also listed in every full scan; a file manager cannot be listed.",
        examples=["1d"],
    )
    events: Gathering = Field(Gathering(), description="How events of the bucket are combined into one scan.")
    reports: Reports | None = Field(
        None,
        description="A bucket for the CSV files of each run (changed files before and after, and the differences), and "
        "for those that `syncline state` writes.",
    )

    def name_of(self, key: str) -> str:
        """Return the name of a key: the key without the source's prefix."""
        return key.removeprefix(self.source.prefix)

    def path_of(self, key: str) -> str:
        """Return the target's path for a key of the source."""
        return self.target.prefix + self.name_of(key)

    def key_of(self, path: str) -> str | None:
        """Return the source's key for a path of the target, None if the path does not belong to this sync."""
        if not path.startswith(self.target.prefix):
            return None
        key = self.source.prefix + path.removeprefix(self.target.prefix)
        return key if self.takes(key) else None

    def takes(self, key: str) -> bool:
        """Return True if the sync selects the key."""
        return key.startswith(self.source.prefix) and self.select.allows(self.name_of(key))

    @property
    def selects(self) -> bool:
        """True if the sync has a selection; else it takes every key below its prefix."""
        return bool(self.select.include or self.select.exclude)

    def target_id(self) -> str:
        """Return a short text that is the same for all spellings of one target."""
        return hashlib.blake2b(
            repr((self.target.record_location, self.target.prefix)).encode(), digest_size=6
        ).hexdigest()

    def problems(self) -> list[Finding]:
        source, target = self.source, self.target
        if source.location != target.location or not Area(source.prefix).meets(Area(target.prefix)):
            return []
        what = "overlaps the source; write another bucket, or prefixes of which neither begins with the other"
        return [Finding(("target", "bucket"), what, (("source",), ("target",)))]

    def warnings(self) -> list[Finding]:
        return [
            *self.source.plain_text_warnings(("source",)),
            *self.target.plain_text_warnings(("target",)),
            *super().warnings(),
            *(self.reports.plain_text_warnings(("reports",)) if self.reports is not None else ()),
        ]

    def reaches(self) -> list[Reach]:
        target = self.target
        if isinstance(target, FileManagerTarget):
            start, field, address = (
                re.sub("/+", "/", target.prefix).removeprefix("/"),
                "file_manager",
                target.file_manager,
            )
        else:
            start, field, address = target.prefix, "bucket", target.bucket
        advice = "give one of them another prefix"
        return [Reach(self.name, target.location, (Area(start),), ("target", field), address, advice)]

    def flows(self) -> list[Flow]:
        target, start = self.target, self.source.prefix
        if not isinstance(target, BucketTarget):
            return []
        wanted = [(literal_start(text), literal_start(text) == text) for text in self.select.include] or [("", False)]
        areas = tuple(Area(start + text, whole) for text, whole in wanted)
        excluded = excluding(self.select.exclude, start)
        return [
            Flow(
                self.name,
                self.source.location,
                target.location,
                areas,
                lambda area: (Area(self.path_of(area.start), area.exact),),
                lambda area: not self.takes(area.start) if area.exact else excluded(area),
                ("target", "bucket"),
                target.bucket,
            )
        ]

    def event_sources(self) -> tuple[str, ...]:
        manager = self.target.file_manager if isinstance(self.target, FileManagerTarget) else None
        return (f"bucket:{self.source.bucket}", *(() if manager is None else (f"files:{manager}",)))

    def gathering(self) -> Gathering:
        return self.events

    def scan_group(self, group: str, name: str) -> str:
        return group if group.startswith((KEY, PREFIX)) else f"{KEY}{name}"

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if not name.startswith(self.source.prefix) or not (name.endswith("/") or self.takes(name)):
                raise SynclineError(
                    "USAGE",
                    f"{name} is not a key that {self.name} takes; keys begin with {self.source.prefix!r} and match `select`",
                )
        return tuple(f"{PREFIX if name.endswith('/') else KEY}{name}" for name in names)
