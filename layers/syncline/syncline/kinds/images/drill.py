"""The restore drill of images: read all bytes of images at the target, as a restore would, and compare their digests.

The digest of an image covers all of its manifests and layers, so bytes with these digests are those of the source. Nothing
is kept. A layer may take several functions: the position in it and the state of its hash are in the cursor.

The selection of the sync applies as in a scan: what it leaves out is counted as left out, and so is an image that no rule
of ``verify`` lets pass and that the target lacks. Images of an index for other platforms than the selected ones are not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same_manifest
from syncline.clients.registry.reference import is_digest
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
from syncline.kinds.images.names import RenamedRepositories
from syncline.kinds.images.referrers import is_list, manifest_or_none
from syncline.kinds.images.scan_selection import RepositoryEnds, RepositorySelection
from syncline.kinds.images.selection import for_platforms
from syncline.kinds.images.signatures import Trust, UntrustedError
from syncline.kinds.images.transfer import child_at
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Item, Outcome, Result, Scope
from syncline.patterns import is_signature_tag
from syncline.running_hash import RunningHash

_CHUNK: Final = 1 << 20
_FIRST: Final = " "  # before every tag
_LAST: Final = "~"  # behind every tag
_AT_ONCE: Final = 8
"""Requests at a time for what the selection needs to know."""


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
    trust: Trust
    clock: Callable[[], float]
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
                yield from self._repository(name, group, start, context, share)
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
        taken = sorted(filter(sync.takes_repository, listed))
        if sync.needs_listing:
            renamed = RenamedRepositories(sync, taken)
            return renamed.usable(scope), (*failures, *renamed.failures(scope, named=scope.groups is not None))
        return taken, failures

    def _repository(
        self, name: str, group: str, start: _Position, context: StepContext, share: float
    ) -> Iterator[Page]:
        listed = self._tags(self.source, name)
        at_target = self._tags(self.target, group).keys()
        ends = RepositoryEnds(self.source.registry, name, self.target.registry, group)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="request") as requests:
            selection = RepositorySelection(self.sync.select, ends, self.notes, requests, self.clock())
            left_out = selection.left_out(listed)
            at_source = {*listed, *self.sync.source.digests_by_repository.get(name, ())} - left_out
            if not start.tag and not listed and not at_source:
                error = SynclineError("SOURCE_ABSENT", f"{self.source.registry.host} lists no tag of {name}")
                yield Page(str(_Position(name, _LAST)), failures=(Failure(Item(group, "*"), error),))
            if not start.tag and left_out:
                yield Page(str(_Position(name, _FIRST)), left_out=len(left_out))
            yield from self._images(ends, selection, at_source, at_target, start, context, share)

    def _images(  # noqa: PLR0913, PLR0917 - the tags and the position
        self,
        ends: RepositoryEnds,
        selection: RepositorySelection,
        at_source: Collection[str],
        at_target: Collection[str],
        start: _Position,
        context: StepContext,
        share: float,
    ) -> Iterator[Page]:
        name, group = ends.name, ends.group
        for tag in sorted(at_source):
            if tag < start.tag or (tag == start.tag and start.blobs is None):
                continue
            if context.over:
                return
            if (tag in at_target or is_digest(tag)) and not self._in_share(context.run, group, tag, share):
                continue
            position = start if tag == start.tag else _Position(name, tag, 0)
            page = self._image(ends, selection, position, context)
            yield page
            if json.loads(page.cursor)["blobs"] is not None:
                return

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
        self, ends: RepositoryEnds, selection: RepositorySelection, position: _Position, context: StepContext
    ) -> Page:
        """Return the page of an image; its cursor is within the image if the time ended first."""
        name, group = ends.name, ends.group
        done, tag = _Position(name, position.tag), position.tag
        source = at_target = None
        try:
            source = ends.source.manifest_digest(name, tag)
            if source is None and not is_digest(tag):
                return Page(str(done), left_out=1)  # gone since the listing
            manifest = manifest_or_none(ends.target, group, tag)
            at_target = None if manifest is None else manifest.digest
            if manifest is None or source is None or not self._is_copy(ends, tag, source, manifest):
                item = Item(group, tag, source, at_target)
                (judged,) = selection.judge([item], frozenset()).items or (None,)
                if judged is None or (manifest is None and self._is_untrusted(ends, item)):
                    return Page(str(done), left_out=1)
                where = f"{group}:{tag} at {ends.target.host}"
                raise _differs(
                    f"{where} is missing"
                    if at_target is None
                    else f"{where} is {at_target}, which the source does not have"
                )
            if self.sync.select.sparse and not is_digest(tag):
                manifest = for_platforms(manifest, self.sync.select) or manifest
            unfinished = self._blobs_read(self._blobs(name, group, manifest), group, position, context)
        except SynclineError as error:
            if context.over and error.retried:
                return Page(str(position))
            code = "RESTORE_DIFFERS" if error.is_any("NOT_FOUND", "DIGEST_MISMATCH") else error.code.name
            result = Result(group, tag, Outcome.FAILED, source, at_target, 0, code, error.what)
            return Page(str(done), results=(result,))
        return Page(str(done), equal=1) if unfinished is None else Page(str(unfinished))

    def _is_untrusted(self, ends: RepositoryEnds, item: Item) -> bool:
        """Return True if no run copies an image, since it does not satisfy a rule of ``verify``."""
        if not self.trust.rules:
            return False
        trust = self.trust.of(ends.source, ends.name)
        check = trust.check_attached if is_signature_tag(item.name) else trust.check
        try:
            check(ends.source.manifest(ends.name, item.name))
        except UntrustedError:
            return True
        return False

    def _is_copy(self, ends: RepositoryEnds, tag: str, source: str, manifest: Manifest) -> bool:
        """Return True if an image is that of the source, in another form, or an older one that the source still has."""
        registry, name = ends.source, ends.name
        if manifest.has_digest(source) or is_same_manifest(
            source, manifest.digest, lambda: registry.manifest(name, tag)
        ):
            return True
        if manifest_or_none(registry, name, manifest.digest) is not None:
            return True
        select = self.sync.select
        if not select.platforms or select.sparse or not manifest.is_index:
            return False
        # The source has no smaller index, but all images in it.
        chosen, parts = for_platforms(registry.manifest(name, tag), select), list(manifest.needed())
        if chosen is not None and manifest.has_digest(chosen.digest):
            return True
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
