"""The restore drill of images: read all bytes of images at the target, as a restore would, and compare their digests.

The digest of an image covers all of its manifests and layers, so bytes with these digests are those of the source. An
image that a run would not copy, because of `select` or `verify`, is not expected at the target. Nothing is kept. A layer may take several functions: the position in it and the state of its hash are in the cursor.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same_manifest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import (
    RegistryClients,
    ScanPosition,
    Tag,
    nothing_listed,
    repository_pages,
    tag_pages,
)
from syncline.kinds.images.parts import child_at
from syncline.kinds.images.referrers import is_list, manifest_or_none
from syncline.kinds.images.repositories import RenamedRepositories
from syncline.kinds.images.scan_selection import RepositoryEnds, RepositorySelection
from syncline.kinds.images.selection import for_platforms
from syncline.kinds.images.signatures import NO_RULES, Trust, UntrustedError
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Item, Outcome, Result, Scope
from syncline.patterns import is_signature_tag
from syncline.running_hash import RunningHash

_CHUNK: Final = 1 << 20
_AT_ONCE: Final = 8  # requests for the times of images
_LAST: Final = "~"  # behind every tag


@dataclass(frozen=True, slots=True)
class _Position:
    """A position of a drill: behind `tag` of a repository of the source, or within that tag's image.

    Within an image, the first `blobs` of its blobs were read. `state` is that of the hash of the next one.
    """

    repository: str = ""
    tag: str = ""
    blobs: int | None = None
    state: list[str | int] | None = None

    def __str__(self) -> str:
        return json.dumps(asdict(self))


@dataclass(slots=True)
class ImageDrill:
    """Restore drills of one sync of images."""

    sync: ImagesSync
    source: RegistryClients
    target: RegistryClients
    notes: TargetNotes
    trust: Trust = NO_RULES
    clock: Callable[[], float] = time.time
    _read: set[tuple[str, str]] = field(default_factory=set)
    """The blobs, by repository and digest, that were read and are intact."""

    def pages(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        """Yield one page for each image of the sample; see :class:`syncline.kinds.kind.Drilling`."""
        at = _Position() if cursor is None else _Position(**json.loads(cursor))
        names, failures = self._repositories(scope)
        if cursor is None:
            yield Page(str(at), failures=failures)
        for name in names:
            if name < at.repository:
                continue
            if context.over:
                return
            group = self.sync.target_repository(name)
            start = at if name == at.repository else _Position(name)
            try:
                ends = RepositoryEnds(self.source.registry, name, self.target.registry, group)
                with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="request") as pool:
                    yield from self._repository(ends, start, context, share, pool)
            except SynclineError as error:
                if context.over:
                    return
                yield Page(str(_Position(name, _LAST)), failures=(Failure(Item(group, "*"), error),))

    def _repositories(self, scope: Scope) -> tuple[list[str], tuple[Failure, ...]]:
        """Return the repositories of the source, and failures for what its listing cannot name."""
        sync, invalid = self.sync, list[InvalidEntry]()
        if scope.groups is not None and not sync.needs_listing:
            listed = {name for group in scope.groups if (name := sync.source_repository(group)) is not None}
        elif sync.source.repositories is not None:
            listed = set(sync.source.repositories)
        else:
            pages = repository_pages(self.source, sync.source.organizations, invalid.append, ScanPosition())
            listed = {name for page in pages for name in page.names}
        if not listed and not invalid:
            raise nothing_listed(self.source.registry, "the catalog")
        failures = tuple(Failure(Item("*", each.label), each.error) for each in invalid)
        names = sorted(filter(sync.takes_repository, listed))
        if sync.needs_listing:
            renamed = RenamedRepositories(sync, names)
            return renamed.usable(scope), (*failures, *renamed.failures(scope, named=True))
        return names, failures

    def _repository(
        self, ends: RepositoryEnds, start: _Position, context: StepContext, share: float, requests: Executor
    ) -> Iterator[Page]:
        name, group = ends.name, ends.group
        listed = self._tags(self.source, name)
        at_target = self._tags(self.target, group)
        digests = self.sync.source.digests_by_repository.get(name, ())
        if not listed and not digests and not start.tag:
            error = SynclineError("SOURCE_ABSENT", f"{self.source.registry.host} lists no tag of {name}")
            yield Page(str(_Position(name, _LAST)), failures=(Failure(Item(group, "*"), error),))
        selection = RepositorySelection(self.sync.select, ends, self.notes, requests, self.clock())
        left_out = selection.left_out(listed)
        for tag in sorted({*listed, *digests} - left_out):
            if tag < start.tag or (tag == start.tag and start.blobs is None):
                continue
            if context.over:
                return
            if tag in at_target and not self._in_share(context.run, group, tag, share):
                continue
            position = start if tag == start.tag else _Position(name, tag, 0)
            page = self._image(name, group, position, context, selection)
            yield page
            if json.loads(page.cursor)["blobs"] is not None:
                return
        if left_out and start.tag != _LAST:
            yield Page(str(_Position(name, _LAST)), left_out=len(left_out))

    def _tags(self, clients: RegistryClients, repository: str) -> dict[str, Tag]:
        """Return the tags of a repository that belong to the sync; none if the repository does not exist."""
        invalid: list[InvalidEntry] = []
        found: dict[str, Tag] = {}
        try:
            for page in tag_pages(clients, repository, invalid):
                found |= page.tags
        except SynclineError as error:
            if error.code.name != "NOT_FOUND" or clients is self.source:
                raise
        bad = next((each.error for each in invalid if each.name is None or self.sync.takes_tag(each.name)), None)
        if bad is not None:
            raise bad
        return {tag: each for tag, each in found.items() if self.sync.takes_tag(tag) and not is_list(tag)}

    @staticmethod
    def _in_share(run: str, group: str, tag: str, share: float) -> bool:
        digest = hashlib.blake2b(f"{run}\0{group}:{tag}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < share * 2**64

    def _image(
        self, name: str, group: str, position: _Position, context: StepContext, selection: RepositorySelection
    ) -> Page:
        """Return the page of an image; its cursor is within the image if the time ended first."""
        done, tag = _Position(name, position.tag), position.tag
        source = at_target = None
        try:
            source = self.source.registry.manifest_digest(name, tag)
            if source is None:
                return Page(str(done), left_out=1)  # gone since the listing
            manifest = manifest_or_none(self.target.registry, group, tag)
            at_target = None if manifest is None else manifest.digest
            if manifest is None or not (manifest.has_digest(source) or self._is_older(name, tag, source, manifest)):
                wanted = self._wanted(name, Item(group, tag, source), selection)
                if isinstance(wanted, Page):
                    return replace(wanted, cursor=str(done))
                if manifest is None:
                    raise _differs(f"{group}:{tag} is missing at {self.target.registry.host}")
                if not manifest.has_digest(wanted):
                    where = f"{group}:{tag} at {self.target.registry.host}"
                    raise _differs(f"{where} is {at_target}, which the source does not have")
            if self.sync.select.sparse:
                manifest = for_platforms(manifest, self.sync.select) or manifest
            unfinished = self._blobs_read(self._blobs(name, group, manifest), group, position, context)
        except SynclineError as error:
            if context.over and error.retried:
                return Page(str(position))
            code = "RESTORE_DIFFERS" if error.is_any("NOT_FOUND", "DIGEST_MISMATCH") else error.code.name
            result = Result(group, tag, Outcome.FAILED, source, at_target, 0, code, error.what)
            return Page(str(done), results=(result,))
        return Page(str(done), equal=1) if unfinished is None else Page(str(unfinished))

    def _wanted(self, name: str, item: Item, selection: RepositorySelection) -> str | Page:
        """Return the digest that a run would copy, or the page of an image that it would leave out."""
        judged = selection.judge([item], frozenset())
        if judged.failures:
            raise judged.failures[0].error
        if not judged.items:
            return Page("", results=judged.results, left_out=judged.left_out)
        if self.trust.rules:
            trust = self.trust.of(self.source.registry, name)
            check = trust.check_attached if is_signature_tag(item.name) else trust.check
            try:
                check(self.source.registry.manifest(name, item.name))
            except UntrustedError as error:
                result = Result(item.group, item.name, Outcome.LEFT_OUT, error.digest, reason=error.what)
                return Page("", results=(result,))
        return str(judged.items[0].source)

    def _is_older(self, name: str, tag: str, source: str, manifest: Manifest) -> bool:
        """Return True if an image is the same in another form, or an older one that the source still has."""
        registry = self.source.registry
        if is_same_manifest(source, manifest.digest, lambda: registry.manifest(name, tag)):
            return True
        if manifest_or_none(registry, name, manifest.digest) is not None:
            return True
        if not self.sync.select.platforms or self.sync.select.sparse or not manifest.is_index:
            return False
        # The source has no smaller index, but all images in it.
        parts = list(manifest.needed())
        return bool(parts) and all(child_at(registry, name, part) is not None for part in parts)

    def _blobs(self, name: str, group: str, manifest: Manifest) -> list[Descriptor]:
        """Return the blobs of an image and of all that it contains. Raises RESTORE_DIFFERS for a missing manifest."""
        found: dict[str, Descriptor] = {}
        waiting, seen = [manifest], {manifest.digest}
        while waiting:
            each = waiting.pop()
            found |= {blob.digest: blob for blob in each.blobs() if not blob.foreign}
            for child in each.needed():
                if child.digest in seen:
                    continue
                seen.add(child.digest)
                part = child_at(self.target.registry, group, child)
                if isinstance(part, Manifest):
                    waiting.append(part)
                elif part is not None:
                    found[child.digest] = child
                elif child_at(self.source.registry, name, child) is not None:
                    raise _differs(f"{group}@{child.digest}, a part of {each.digest}, is missing")
        return [found[digest] for digest in sorted(found)]

    def _blobs_read(
        self, blobs: list[Descriptor], group: str, position: _Position, context: StepContext
    ) -> _Position | None:
        """Read the blobs behind a position. Return the new position if the time ended first, else None."""
        for number in range(position.blobs or 0, len(blobs)):
            blob, state = blobs[number], position.state if number == position.blobs else None
            if (group, blob.digest) in self._read:
                continue
            algorithm, _, expected = blob.digest.partition(":")
            running = RunningHash.resume(algorithm, state)
            if not self._hashed(self.target.registry, group, blob, running, context):
                return replace(position, blobs=number, state=running.state())
            if running.offset != blob.size or running.hexdigest() != expected:
                size = (
                    f"{running.offset} bytes instead of {blob.size}" if running.offset != blob.size else "other bytes"
                )
                raise _differs(f"the layer or configuration {group}@{blob.digest} has {size}")
            self._read.add((group, blob.digest))
        return None

    @staticmethod
    def _hashed(registry: ImageStore, group: str, blob: Descriptor, running: RunningHash, context: StepContext) -> bool:
        """Hash the rest of a blob; return False if the time ends first. Bytes beyond its size are not read."""
        if context.over:
            return False
        with registry.open_blob(group, blob.digest, running.offset) as stream:
            while running.offset <= blob.size and (data := stream.read(_CHUNK)):
                running.update(data)
                if context.over and running.offset < blob.size:
                    return False
        return True


def _differs(what: str) -> SynclineError:
    return SynclineError("RESTORE_DIFFERS", what)
