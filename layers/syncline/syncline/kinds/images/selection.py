"""Selection of images by version, number, age and platform.

The time of an image is that of its push where the registry's API tells it. Elsewhere it is the time of creation that the
image's config states. A config may state none, or a time that is no real one: reproducible builds write 1970 or another
old year. Then it is the time at which the image was first seen. With a quarantine, so it is for every image that appears
in a repository that an earlier scan saw: whoever builds an image may write any time into it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from syncline.clients.registry.manifest import Descriptor, Manifest
from syncline.clients.registry.reference import digest_matches, digest_of
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.facts import FactStore
from syncline.kinds.images.config_select import ImagesSelect
from syncline.kinds.images.details import INDEX
from syncline.kinds.images.listing import Tag
from syncline.model import Item, Outcome, Result, compact_json
from syncline.patterns import allows, is_signature_tag
from syncline.schedule import seconds_of
from syncline.semver import version_of
from syncline.text import duration

_LARGEST_CONFIG: Final = 4 * 1024 * 1024
_FIRST_YEAR: Final = 2013
"""The year of the first images; an earlier time is not that of a build."""
_AHEAD: Final = 24 * 3600
"""Seconds by which the clock of a builder may be ahead; a later time is not that of a build."""
_CREATED: Final = "org.opencontainers.image.created"
_SUBJECT_OF_ATTESTATION: Final = "vnd.docker.reference.digest"
_SHOWN: Final = 24
"""Digits of a digest in a memo."""
_MOST_IMAGES: Final = 50
"""Images of an index whose times are read; a larger index has the time at which it was first seen."""
_MOST: Final = 4000
"""Entries of a memo, whose fact must fit an item of the table."""
_KEPT: Final = "kept"
"""Key in a memo: when it was last stored to be kept. No digest is shortened to this."""
_KEEP_AGAIN: Final = 7 * 24 * 3600
_LAST: Final = float("inf")


class DigestMemo:
    """Short texts by digest for one repository, kept as one fact. Losing it costs requests. Safe to use from any number of threads."""

    def __init__(self, facts: FactStore, key: str) -> None:
        self._facts = facts
        self._key = key
        self._texts: dict[str, str] | None = None
        self._begun = False
        self._changed = False
        self._lock = threading.Lock()

    def get(self, digest: str) -> str | None:
        """Return the text of a digest, None if it is unknown."""
        return self._loaded().get(_short(digest))

    def set(self, digest: str, text: str) -> None:
        """Keep the text of a digest; :meth:`save` stores it."""
        self._loaded()[_short(digest)] = text
        self._changed = True

    @property
    def was_stored(self) -> bool:
        """True if an earlier scan stored texts."""
        self._loaded()
        return self._begun

    def keep(self, now: float) -> None:
        """Store the texts again before they expire, also if there are none."""
        kept = self._loaded().get(_KEPT)
        if kept is None or now - float(kept) > _KEEP_AGAIN:
            self._loaded()[_KEPT] = str(int(now))
            self._changed = True

    def save(self) -> None:
        """Store the texts if there are new ones. The oldest are dropped if there are too many."""
        if self._changed:
            self._facts.remember(self._key, compact_json(dict(list(self._loaded().items())[-_MOST:])))
            self._changed = False

    def _loaded(self) -> dict[str, str]:
        with self._lock:
            if self._texts is None:
                stored: Any = None
                with suppress(ValueError):
                    stored = json.loads(self._facts.recall(self._key) or "{}")
                self._texts = {str(k): str(v) for k, v in stored.items()} if isinstance(stored, dict) else {}
                self._begun = bool(self._texts)
            return self._texts


def _short(digest: str) -> str:
    return digest.partition(":")[2][:_SHOWN] or digest


class ImageTimes:
    """The times of the images of one repository, in Unix seconds.

    With ``quarantine``, an image that appears after the first scan has the time at which it was first seen.
    """

    def __init__(
        self, registry: ImageStore, repository: str, memo: DigestMemo, now: float, *, quarantine: bool = False
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._memo = memo
        self._now = now
        self._quarantine = quarantine

    def of(self, tags: Mapping[str, Tag], requests: Executor) -> dict[str, tuple[str | None, float | SynclineError]]:
        """Return the digest and the time of each tag, or the error for an image that cannot be read.

        A tag that no longer exists has no digest. ``requests`` sends several requests at a time.
        """
        unlisted = [tag for tag, listed in tags.items() if listed.digest is None and listed.changed is None]
        asked = dict(zip(unlisted, requests.map(self._digest, unlisted), strict=True))
        digests = {tag: asked.get(tag, listed.digest) for tag, listed in tags.items()}
        unread = {
            digest
            for tag, digest in digests.items()
            if isinstance(digest, str) and tags[tag].changed is None and self._memo.get(digest) is None
        }
        times = dict(zip(sorted(unread), requests.map(self._read, sorted(unread)), strict=True))
        for digest, found in times.items():
            if not isinstance(found, SynclineError):
                self._memo.set(digest, str(int(found)))
        return {tag: self._answer(tags[tag], digest, times) for tag, digest in digests.items()}

    def _answer(
        self, listed: Tag, digest: str | SynclineError | None, times: Mapping[str, float | SynclineError]
    ) -> tuple[str | None, float | SynclineError]:
        if isinstance(digest, SynclineError):
            return None, digest
        if listed.changed is not None or digest is None:
            return digest, float(listed.changed or 0)
        known = times.get(digest)
        return digest, known if known is not None else float(self._memo.get(digest) or 0)

    def _digest(self, tag: str) -> str | SynclineError | None:
        try:
            return self._registry.manifest_digest(self._repository, tag)
        except SynclineError as error:
            return error

    def _read(self, digest: str) -> float | SynclineError:
        """Return the time of creation of an image, or now if it states none that can be right or that counts."""
        try:
            created = self._created(self._registry.manifest(self._repository, digest))
        except SynclineError as error:
            return error
        usable = created is not None and created.year >= _FIRST_YEAR and created.timestamp() <= self._now + _AHEAD
        if self._quarantine and self._memo.was_stored:
            return self._now
        return created.timestamp() if created is not None and usable else self._now

    def _created(self, manifest: Manifest) -> datetime | None:
        """Return the time that an image states, for an index that of its youngest image; None if one states none."""
        stated = _parsed(manifest.annotations.get(_CREATED))
        if not manifest.is_index:
            return self._created_in_config(manifest) or stated
        children = [child for child in manifest.children() if child.names_manifest]
        known = [child for child in children if not child.platform.startswith("unknown")] or children
        if len(known) > _MOST_IMAGES:
            return None
        read = (self._registry.manifest(self._repository, each.digest, each.media_type) for each in known)
        times = [None if each.is_index else self._created_in_config(each) for each in read]
        times = [each or stated for each in times]
        return max(filter(None, times), default=stated) if all(times) else None

    def _created_in_config(self, manifest: Manifest) -> datetime | None:
        config = next(iter(manifest.blobs()), None)
        stated = None if config is None else self._config(config).get("created")
        return _parsed(stated) or _parsed(manifest.annotations.get(_CREATED))

    def _config(self, config: Descriptor) -> dict[str, Any]:
        """Return the config of an image, empty if it is not JSON, as that of an artifact."""
        if config.size > _LARGEST_CONFIG:
            return {}
        content = b""
        with self._registry.open_blob(self._repository, config.digest) as stream:
            for chunk in stream:
                content += chunk
                if len(content) > config.size:
                    break
        if not digest_matches(config.digest, content):
            what = f"{self._repository}@{config.digest} at {self._registry.host} has other bytes than its digest says"
            raise SynclineError("DIGEST_MISMATCH", what)
        with suppress(ValueError, RecursionError):
            value = json.loads(content)
            return value if isinstance(value, dict) else {}
        return {}


def _parsed(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    with suppress(ValueError, OverflowError):
        parsed = datetime.fromisoformat(text)
        return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return None


@dataclass(frozen=True, slots=True)
class Aged:
    """The digest of a tag, its time or the error of reading it, and the reason if it is left out by its age.

    ``waiting`` means that it is too young, and is copied later.
    """

    digest: str | None
    time: float | SynclineError
    reason: str | None
    waiting: bool


class TagSelection:
    """The selection of tags of one repository. ``times`` is asked only where the selection needs times."""

    def __init__(self, select: ImagesSelect, times: ImageTimes, requests: Executor, now: float) -> None:
        self._select = select
        self._times = times
        self._requests = requests
        self._now = now

    def left_out(self, tags: Mapping[str, Tag]) -> set[str]:
        """Return the tags that are left out by version or number; `tags` are all of the repository."""
        select = self._select
        if select.semver is None and select.newest is None:
            return set()
        open_ = {
            tag: t for tag, t in tags.items() if not is_signature_tag(tag) and ":" not in tag and not self._fixed(tag)
        }
        kept = {tag: listed for tag, listed in open_.items() if select.takes_version(tag)}
        if select.newest is not None:
            if select.newest_by == "version":
                return open_.keys() - self._newest_versions(kept)
            return open_.keys() - self._newest_times(kept)
        return open_.keys() - kept.keys()

    def _newest_versions(self, tags: Mapping[str, Tag]) -> set[str]:
        select = self._select
        versions = {tag: version for tag in tags if (version := version_of(tag)) is not None}
        if select.semver is None and not select.prereleases:
            versions = {tag: version for tag, version in versions.items() if not version.prerelease}
        usable, waiting = set(versions), set[str]()
        if self._by_age:
            aged = self._times.of({tag: tags[tag] for tag in versions}, self._requests)
            usable, waiting = self._divided(aged)
        newest = set(sorted({versions[tag] for tag in usable})[-(select.newest or 0) :])
        return {tag for tag in usable if versions[tag] in newest} | waiting

    def _newest_times(self, tags: Mapping[str, Tag]) -> set[str]:
        aged = self._times.of(tags, self._requests)
        usable, waiting = self._divided(aged)
        order = sorted(usable, key=lambda tag: (_sortable(aged[tag][1]), version_of(tag) is not None, tag))
        return {*order[-(self._select.newest or 0) :], *waiting}

    def _divided(self, aged: Mapping[str, tuple[str | None, float | SynclineError]]) -> tuple[set[str], set[str]]:
        """Return the tags that are not left out by age, and those that are too young, which the report names."""
        # An image that cannot be read is kept, so that its transfer reports why.
        reasons = {tag: self.reason(tag, at) for tag, (_, at) in aged.items()}
        waiting = {tag for tag, (_, at) in aged.items() if self.is_waiting(at)}
        return {tag for tag, reason in reasons.items() if reason is None}, waiting

    @property
    def _by_age(self) -> bool:
        return bool(self._select.older_than or self._select.younger_than)

    def _fixed(self, tag: str) -> bool:
        return bool(self._select.always) and allows(tag, self._select.always, ())

    def aged(self, items: Sequence[Item]) -> dict[str, Aged]:
        """Return the ages of items by tag, empty if the selection does not depend on them."""
        if not self._by_age:
            return {}
        asked = [item for item in items if not is_signature_tag(item.name) and ":" not in item.name]
        tags = {item.name: Tag(item.detail.get(INDEX, item.source), None, item.changed) for item in asked}
        found = self._times.of(tags, self._requests)
        return {tag: Aged(digest, at, self.reason(tag, at), self.is_waiting(at)) for tag, (digest, at) in found.items()}

    def is_waiting(self, at: float | SynclineError) -> bool:
        """Return True if an image of this time is not copied yet."""
        oldest = self._select.older_than
        return oldest is not None and not isinstance(at, SynclineError) and self._now - at < seconds_of(oldest)

    def reason(self, tag: str, at: float | SynclineError) -> str | None:
        """Return the reason why an image of this time is left out, None if it is not."""
        if isinstance(at, SynclineError):
            return None
        age, select = max(0.0, self._now - at), self._select
        if select.older_than is not None and self.is_waiting(at):
            left = duration(seconds_of(select.older_than) - age)
            return f"the image is {duration(age)} old and is copied when it is {select.older_than} old, in {left}"
        if select.younger_than is not None and age >= seconds_of(select.younger_than) and not self._fixed(tag):
            return f"the image is {duration(age)} old; only images younger than {select.younger_than} are copied"
        return None


def _sortable(at: float | SynclineError) -> float:
    return _LAST if isinstance(at, SynclineError) else at


def for_platforms(manifest: Manifest, select: ImagesSelect) -> Manifest | None:
    """Return a manifest with only the selected platforms, the same one if all are, and None if none is.

    Without ``sparse`` it is a smaller index with another digest. Its bytes depend on those of the index and on the
    selection only, so that every scan computes the same digest: never change its form. Attestations stay with their image.
    An index that states no platform at all is no index of platforms and stays complete.
    """
    if not select.platforms or not manifest.is_index:
        return manifest
    children = manifest.children()
    if not any(child.platform for child in children):
        return manifest
    kept = {child.digest for child in children if _is_selected(child.platform, select.platforms)}
    if not kept:
        return None
    value = json.loads(manifest.body)
    entries = [each for each in value["manifests"] if each["digest"] in kept or _attested(each) in kept]
    if len(entries) == len(children):
        return manifest
    if select.sparse:
        left = {child.digest for child in children} - {each["digest"] for each in entries}
        return replace(manifest, skipped=frozenset(left))
    body = json.dumps({**value, "manifests": entries}, separators=(",", ":")).encode()
    return Manifest(digest_of(body), manifest.media_type, body)


def _is_selected(platform: str, selected: Iterable[str]) -> bool:
    name = _normal(platform)
    return any(name == each or name.startswith(f"{each}/") for each in map(_normal, selected))


def _normal(platform: str) -> str:
    # v8 is the only variant of arm64 in use, and most indexes do not state it.
    return platform.removesuffix("/v8") if platform.endswith("/arm64/v8") else platform


def _attested(entry: Mapping[str, Any]) -> str | None:
    """Return the digest of the image that an entry attests, as BuildKit adds it to an index; None for other entries."""
    annotations = entry.get("annotations")
    subject = annotations.get(_SUBJECT_OF_ATTESTATION) if isinstance(annotations, dict) else None
    return subject if isinstance(subject, str) else None


def none_selected(group: str, tag: str, index: str) -> Result:
    """Return the result for an index that has none of the selected platforms."""
    reason = f"the index {index} has none of the selected platforms"
    return Result(group, tag, Outcome.LEFT_OUT, index, reason=reason)
