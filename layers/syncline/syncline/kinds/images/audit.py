"""Audit of images: every tag of source and target with its digest, all parts of the target's images, and all their bytes.

An audit compares repository by repository, in the order of their names, and the tags of each in blocks. Without options
it costs what a scan with nothing to do costs: listings, and a request for each digest that they lack. With ``parts`` the
target is asked for each manifest and each blob of the images that have equal digests, once per repository. With ``deep``
the blobs of one share are also read (:mod:`syncline.kinds.images.audit_bytes`); their digests decide to which share they
belong.

The selection of the sync applies as in a scan. A tag that it leaves out at the source is counted as left out; if the
target has it, its result says so, and it is neither extra nor different. Tags that only the target has and that no run
would copy by their names are no extras. With `platforms`, the target's digest is compared with that of the smaller index.
An image that satisfies no rule of `verify` is missing or different with the code UNTRUSTED, and is not repaired.

Nothing is read from records; damaged blobs are noted, for a repair. Names are held in memory: up to 200,000 repositories and the tags of some of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from syncline.clients.http.listings import InvalidEntry, ignore
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same_manifest
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import CodeName, SynclineError
from syncline.kinds.images.audit_bytes import Block, ByteAudit, judged
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.details import INDEX
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import (
    ListedTags,
    RegistryClients,
    ScanPosition,
    Tag,
    nothing_listed,
    repository_pages,
    tag_pages,
    target_repositories,
)
from syncline.kinds.images.referrers import is_list
from syncline.kinds.images.repositories import RenamedRepositories
from syncline.kinds.images.scan_selection import RepositoryEnds, RepositorySelection
from syncline.kinds.images.selection import for_platforms
from syncline.kinds.images.signatures import RepositoryTrust, Trust, UntrustedError
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished, failure_pages
from syncline.model import Audit, Item, Outcome, Result, Scope
from syncline.patterns import is_signature_tag

AT_ONCE: Final = 16
"""Repositories compared at a time, and requests for digests."""
_WITH_PARTS: Final = 4
"""Repositories whose parts are checked at a time; each has several requests at a time."""
BLOCK_TAGS: Final = 400
"""Tags in a page: an audit continues behind the last one."""
_OF_REPOSITORY: Final[tuple[CodeName, ...]] = (
    "UNREACHABLE",
    "THROTTLED",
    "TIME_SHORT",
    "TOO_SLOW",
    "UNAUTHORIZED",
    "RUN_CANCELLED",
    "LISTING_INCOMPLETE",
)
"""Errors that concern the server and not one image: its repository is audited again, or is unreadable."""
_UNNAMED: Final = "~"
"""Begins the names of repositories that only the target has in a sync that renames; sorts behind all names."""
_LEFT_OUT: Final = "`select` leaves it out at the source; the target has it, and runs leave it alone"
_UNLISTED: Final[tuple[CodeName, ...]] = ("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "REFUSED")


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository by its name at the source, which the listing of the source has or not (``listed``).

    In a sync that renames, one that only the target has is ``~`` and its name there.
    """

    name: str
    group: str
    listed: bool


@dataclass(frozen=True, slots=True)
class _Tags:
    """The tags of a repository at both registries. ``left_out`` are those that the selection leaves out by version or number."""

    repository: _Repository
    source: ListedTags
    target: ListedTags
    selection: RepositorySelection
    left_out: frozenset[str]
    trust: RepositoryTrust


class ImageAudit:
    """One audit of a sync's repositories."""

    def __init__(  # noqa: PLR0913 - the sync, both registries, and the rules
        self,
        sync: ImagesSync,
        source: RegistryClients,
        target: RegistryClients,
        notes: TargetNotes,
        audit: Audit,
        *,
        trust: Trust,
        clock: Callable[[], float],
    ) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._notes = notes
        self._audit = audit
        self._trust = trust
        self._clock = clock
        self._requests = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="request")

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield the pages behind a cursor: the name of a repository that is done, or ``name:tag`` within one."""
        if not self._audit.deep:
            for block in self._blocks(scope, cursor, context):
                yield block.page()
            return
        reader = ByteAudit(self._target.registry, self._notes.note_damaged, cursor, context)
        yield from reader.pages(self._blocks(scope, reader.begun, context))

    def _blocks(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Block]:
        at_once = _WITH_PARTS if self._audit.parts or self._audit.deep else AT_ONCE
        last, separator, within = (cursor or "").partition(":")
        # Repositories wait for digests, and digests wait for nothing, so the two pools cannot block one another.
        with self._requests, ThreadPoolExecutor(at_once, thread_name_prefix="repository") as pool:
            repositories, first = self._repositories(scope, context)
            if cursor is None:
                yield from first
            waiting = iter([each for each in repositories if (each.name, bool(separator)) > (last, False)])
            ahead: deque[Future[list[Block]]] = deque()
            try:
                while not context.over:
                    while len(ahead) < 2 * at_once and (each := next(waiting, None)) is not None:
                        behind = within if each.name == last else ""
                        ahead.append(pool.submit(self._of_repository, each, behind, context))
                    if not ahead:
                        return
                    yield from ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    # -- repositories --------------------------------------------------------------------------------------------

    def _repositories(self, scope: Scope, context: StepContext) -> tuple[list[_Repository], list[Block]]:
        """Return the repositories of source and target that belong to the sync and the scope, sorted by name.

        Also return a block with what their listings have beside them: invalid entries, and why none can be listed.
        """
        sync = self._sync
        if sync.needs_listing:
            return self._renamed(scope, context)
        if scope.groups is not None or sync.source.repositories is not None:
            named: Iterable[str | None] = sync.source.repositories or ()
            if scope.groups is not None:
                named = map(sync.source_repository, scope.groups)
            return self._sorted({each for each in named if each is not None}, set()), []
        organizations = sync.source.organizations or ()
        namespaces = {sync.target_repository(f"{name}/any").partition("/")[0] for name in organizations}
        at_target = self._requests.submit(self._at_target, namespaces, context)
        names, invalid = self._listed(context)
        groups, invalid_at_target, unlisted = at_target.result()
        others = {name for group in groups if (name := sync.source_repository(group)) is not None}
        return self._sorted(names, others - names), _first_blocks((*invalid, *invalid_at_target), unlisted)

    def _renamed(self, scope: Scope, context: StepContext) -> tuple[list[_Repository], list[Block]]:
        """Return the repositories of a sync that renames without naming them, and the block of their listings.

        All of the source are listed, also for a smaller scope. Those that only the target has are extra if a rule may have
        given them their name.
        """
        sync = self._sync
        listed, invalid = self._listed(context)
        renamed = RenamedRepositories(sync, filter(sync.takes_repository, listed))
        found = [_Repository(name, sync.target_repository(name), listed=True) for name in renamed.usable(scope)]
        wrong = [
            Block("", "*", [], failures=page.failures)
            for page in failure_pages("", renamed.failures(scope, named=scope.groups is not None))
        ]
        if scope.groups is not None:
            return found, wrong
        namespaces = {group.partition("/")[0] for group in renamed.targets}
        groups, invalid_at_target, unlisted = self._at_target(namespaces, context)
        others = sorted(group for group in groups - renamed.targets if sync.may_write(group))
        found += [_Repository(f"{_UNNAMED}{group}", group, listed=False) for group in others]
        return found, _first_blocks((*invalid, *invalid_at_target), unlisted) + wrong

    def _listed(self, context: StepContext) -> tuple[set[str], list[InvalidEntry]]:
        """Return the names of all repositories of the source, and the invalid entries of their listing."""
        invalid: list[InvalidEntry] = []
        names: set[str] = set()
        for page in repository_pages(self._source, self._sync.source.organizations, invalid.append, ScanPosition()):
            names.update(page.names)
            _check_time(context)
        if not names and all(each.error.code.name == "SOURCE_ABSENT" for each in invalid):
            # An empty listing may be a fault of the registry, and would make everything at the target extra.
            raise nothing_listed(self._source.registry, invalid[0].label if invalid else "the catalog")
        return names, invalid

    def _sorted(self, listed: set[str], others: set[str]) -> list[_Repository]:
        taken = sorted(name for name in listed | others if self._sync.takes_repository(name))
        return [_Repository(name, self._sync.target_repository(name), name in listed) for name in taken]

    def _at_target(self, namespaces: set[str], context: StepContext) -> tuple[set[str], list[InvalidEntry], str]:
        """Return the repositories of the target, the invalid entries of their listing, and why they cannot be listed."""
        organizations, invalid = self._sync.source.organizations, list[InvalidEntry]()
        registry = self._target.registry
        if self._target.api is not None and organizations is not None:
            found = target_repositories(self._target, namespaces, invalid.append, context)
            absent = sorted(namespaces - found.complete)
            what = f"the API of {registry.host} does not list all of {', '.join(absent)}, so extra repositories there are unknown"
            return set(found.states), invalid, what if absent else ""
        groups: set[str] = set()
        try:
            for page in registry.catalog_pages(invalid.append):
                groups.update(page.entries)
                _check_time(context)
        except SynclineError as error:
            if not error.is_any(*_UNLISTED):
                raise
            return set(), [], f"extra repositories at {registry.host} are unknown, since it lists none: {error.what}"
        return groups, invalid, ""

    # -- tags ----------------------------------------------------------------------------------------------------

    def _of_repository(self, repository: _Repository, behind: str, context: StepContext) -> list[Block]:
        """Return the blocks of a repository behind a tag, as many as the time allows."""
        blocks: list[Block] = []
        try:
            for block in self._compared(repository, behind, context):
                blocks.append(block)
                if context.over:
                    break
        except SynclineError as error:
            cursor = blocks[-1].cursor if blocks else f"{repository.name}:{behind}" if behind else None
            failure = Failure(Item(repository.group, "*"), error, further=bool(blocks), cursor=cursor)
            blocks.append(Block(repository.name, repository.group, [], failures=(failure,)))
        return blocks

    def _compared(self, repository: _Repository, behind: str, context: StepContext) -> Iterator[Block]:
        name, group = repository.name, repository.group
        source = _all_tags(self._source, name, context) if repository.listed else ListedTags({}, [])
        target = _all_tags(self._target, group, context)
        if repository.listed and source.is_empty:
            self._check_empty(name, named=context.named)
        invalid = {each.label: each for each in (*source.invalid, *target.invalid)}
        failures = tuple(
            Failure(Item(group, each.label), each.error)
            for each in invalid.values()
            if each.name is None or self._sync.takes_tag(each.name)
        )
        both = self._selected(repository, source, target)
        absent = {tag for tag in both.left_out if tag not in both.target.tags}
        tags = sorted(
            tag
            for tag in both.source.tags.keys() | both.target.tags.keys()
            if tag > behind and tag not in invalid and tag not in absent
        )
        outside = sum(not self._sync.takes_tag(tag) for tag in source.tags)
        verification = _Parts(self._target.registry, self._origin(name))
        for at in range(0, max(len(tags), 1), BLOCK_TAGS):
            some = tags[at : at + BLOCK_TAGS]
            cursor = name if at + BLOCK_TAGS >= len(tags) else f"{name}:{some[-1]}"
            first = at == 0 and not behind
            block = Block(cursor, group, [], outside + len(absent) if first else 0, failures if first else ())
            self._compare(both, some, block)
            if (self._audit.parts or self._audit.deep) and not verification.check(block, context, self._audit):
                return
            yield block

    def _selected(self, repository: _Repository, source: ListedTags, target: ListedTags) -> _Tags:
        """Return the tags that belong to the sync, with named digests, which both registries are asked for."""
        sync, name, group = self._sync, repository.name, repository.group
        ends = RepositoryEnds(self._source.registry, name, self._target.registry, group)
        selection = RepositorySelection(sync.select, ends, self._notes, self._requests, self._clock())
        taken = {tag: each for tag, each in source.tags.items() if sync.takes_tag(tag)}
        left_out = frozenset(selection.left_out(taken))
        digests = dict.fromkeys(sync.source.digests_by_repository.get(name, ()) if repository.listed else (), Tag())
        present = {
            tag: each
            for tag, each in target.tags.items()
            if sync.takes_tag(tag) and (tag in taken or (sync.select.may_take(tag) and not is_list(tag)))
        }
        trust = self._trust.of(self._source.registry, name)
        return _Tags(
            repository,
            ListedTags({**taken, **digests}, []),
            ListedTags({**present, **digests}, []),
            selection,
            left_out,
            trust,
        )

    def _check_empty(self, name: str, *, named: bool) -> None:
        """Raise LISTING_INCOMPLETE or SOURCE_ABSENT if a repository without tags must have some, as one that is `named`."""
        registry = self._source.registry
        if self._source.api is not None and any(True for _ in registry.tags(name, ignore)):
            what = f"the API of {registry.host} lists no tags of {name}, but its registry does"
            raise SynclineError("LISTING_INCOMPLETE", what)
        if name in self._sync.source.digests_by_repository:
            return
        if (named or self._sync.source.repositories is not None) and not registry.has_repository(name):
            raise SynclineError("SOURCE_ABSENT", f"{registry.host} has no repository {name}")

    def _compare(self, both: _Tags, tags: Sequence[str], block: Block) -> None:
        """Add the results of tags to a block, by their digests and the selection."""
        name, group = both.repository.name, both.repository.group
        at_source = self._digests(
            self._source.registry, name, {tag: both.source.tags[tag] for tag in tags if tag in both.source.tags}
        )
        at_target = self._digests(
            self._target.registry, group, {tag: both.target.tags[tag] for tag in tags if tag in both.target.tags}
        )
        items: list[Item] = []
        found: dict[str, Result] = {}
        for tag in tags:
            ours, theirs = at_source.get(tag), at_target.get(tag)
            error = next((each for each in (ours, theirs) if isinstance(each, SynclineError)), None)
            one, other = (None if isinstance(each, SynclineError) else each for each in (ours, theirs))
            if error is not None:
                found[tag] = Result(group, tag, Outcome.UNREADABLE, one, other, 0, error.code.name, error.what)
            elif tag in both.left_out:
                if other is None:
                    block.left_out += 1
                else:
                    found[tag] = Result(group, tag, Outcome.LEFT_OUT, one, other, reason=_LEFT_OUT)
            elif one is None and other is not None:
                rule = self._sync.keeping
                reason = "its name is that of a replaced image" if rule is not None and rule.looks_kept(tag) else None
                found[tag] = Result(group, tag, Outcome.EXTRA, None, other, reason=reason)
            elif one is not None:
                # Where the algorithms of the digests differ, the target's is that of the same bytes or another one.
                same = other is not None and self._is_same(name, one, other)
                items.append(Item(group, tag, one, one if same else other, changed=both.source.tags[tag].changed))
            elif is_digest(tag):
                what = "neither registry has it, and `source.digests` of the sync names it"
                found[tag] = Result(group, tag, Outcome.UNREADABLE, code="NOT_FOUND", reason=what)
        # Of a tag that is left out and at the target there is a result, as for one that a person asked for.
        judged_ = both.selection.judge(items, frozenset((each.group, each.name) for each in items if each.target))
        block.left_out += judged_.left_out
        for failure in judged_.failures:
            if failure.error.is_any(*_OF_REPOSITORY):
                raise failure.error
            item, code = failure.item, failure.error.code.name
            digests = item.source, item.target
            found[item.name] = Result(group, item.name, Outcome.UNREADABLE, *digests, 0, code, failure.error.what)
        targets = {each.name: each.target for each in items}
        found |= {each.name: replace(each, target=targets.get(each.name)) for each in judged_.results}
        answers = self._requests.map(partial(self._result, both), judged_.items)
        found |= {each.name: each for each in answers}
        block.results += [replace(found[tag], target=_digest_of(at_target, tag)) for tag in tags if tag in found]

    def _result(self, both: _Tags, item: Item) -> Result:
        """Return the result of a selected tag that the source has."""
        group, tag, one, other = item.group, item.name, item.source, item.target
        whole = item.detail.get(INDEX)
        error = None
        try:
            if other is not None and self._is_same(both.repository.name, str(one), other, whole):
                note = f"only the selected platforms of the source's index {whole}, so the digests differ"
                return Result(group, tag, Outcome.EQUAL, one, other, reason=note if whole else None)
            if self._sync.verify:
                manifest = self._source.registry.manifest(both.repository.name, whole or str(one))
                (both.trust.check_attached if is_signature_tag(tag) else both.trust.check)(manifest)
        except SynclineError as raised:
            if raised.is_any(*_OF_REPOSITORY):
                raise
            if not isinstance(raised, UntrustedError):
                return Result(group, tag, Outcome.UNREADABLE, one, other, 0, raised.code.name, raised.what)
            error = raised
        outcome = Outcome.MISSING if other is None else Outcome.DIFFERENT
        reason = f"{self._target.registry.host} does not have it" if other is None else "the digests differ"
        if error is not None:
            return Result(
                group, tag, outcome, one, other, 0, error.code.name, f"{reason}; no run copies it: {error.what}"
            )
        return Result(group, tag, outcome, one, other, reason=reason)

    def _is_same(self, name: str, one: str, other: str, whole: str | None = None) -> bool:
        """Return True if two digests are of the same bytes; with ``whole`` those of a smaller index of this one."""

        def manifest() -> Manifest:
            found = self._source.registry.manifest(name, whole or one)
            return (whole and for_platforms(found, self._sync.select)) or found

        return is_same_manifest(one, other, manifest)

    def _digests(
        self, registry: ImageStore, repository: str, tags: Mapping[str, Tag]
    ) -> dict[str, str | SynclineError | None]:
        """Return the digest of each tag, None if it no longer exists, or the error that concerns this tag alone."""
        unknown = [tag for tag, listed in tags.items() if listed.digest is None]
        requested = dict(zip(unknown, self._requests.map(partial(_digest, registry, repository), unknown), strict=True))
        return {tag: listed.digest or requested[tag] for tag, listed in tags.items()}

    def _origin(self, name: str) -> Origin:
        sync = self._sync
        return Origin(self._source.registry, lambda _: name, referrers=sync.referrers != "none", select=sync.select)


class _Parts:
    """The check of all parts of one repository's images at the target, each part once."""

    def __init__(self, target: ImageStore, origin: Origin) -> None:
        self._target = target
        self._met: dict[str, tuple[frozenset[str], tuple[Descriptor, ...]]] = {}
        self._verification = ImageVerification(target, origin, self._note)

    def _note(self, manifest: Manifest) -> None:
        """Note a manifest that was met, with the digests of its children, and its blobs."""
        children = manifest.needed()
        odd = [each for each in children if not each.names_manifest]
        blobs = tuple(each for each in (*manifest.blobs(), *odd) if not each.foreign)
        self._met[manifest.digest] = frozenset(each.digest for each in children), blobs

    def check(self, block: Block, context: StepContext, audit: Audit) -> bool:
        """Replace the results of equal images whose parts differ, and note the blobs of the others that are to be read.

        Return False if the time ended first. Raises errors that concern the server.
        """
        found = {each.name: each for each in block.results if each.outcome is Outcome.EQUAL}
        items = [Item(each.group, each.name, each.target) for each in found.values()]
        for answer in self._verification.verify(items, context):
            if isinstance(answer, Unfinished):
                return False
            result = found[answer.item.name]
            if isinstance(answer, Failure):
                found[result.name] = part_result(result, answer.error)
            elif isinstance(answer, Completed) and answer.note:
                notes = filter(None, (result.reason, answer.note))
                found[result.name] = replace(result, reason="; ".join(notes))
        block.results = [found.get(each.name, each) for each in block.results]
        if audit.deep:
            for result in block.results:
                if result.outcome is Outcome.EQUAL:
                    blobs = {each.digest: each for each in self._blobs(str(result.target)) if audit.covers(each.digest)}
                    block.blobs |= blobs
                    block.needs[result.name] = frozenset(blobs)
        return True

    def _blobs(self, digest: str) -> Iterator[Descriptor]:
        """Yield the blobs of a manifest, of its children and of what they contain."""
        waiting, seen = [digest], set[str]()
        while waiting:
            each = waiting.pop()
            if each in seen or each not in self._met:
                continue
            seen.add(each)
            children, blobs = self._met[each]
            yield from blobs
            waiting += children


def part_result(result: Result, error: SynclineError) -> Result:
    """Return the result of an image with equal digests, a part of which could not be verified.

    Raises errors that concern the server.
    """
    if error.is_any(*_OF_REPOSITORY):
        raise error
    return judged(result, error)


def _digest(registry: ImageStore, repository: str, tag: str) -> str | SynclineError | None:
    try:
        return registry.manifest_digest(repository, tag)
    except SynclineError as error:
        if error.is_any(*_OF_REPOSITORY):
            raise
        return error


def _digest_of(digests: Mapping[str, str | SynclineError | None], tag: str) -> str | None:
    digest = digests.get(tag)
    return None if isinstance(digest, SynclineError) else digest


def _first_blocks(invalid: Iterable[InvalidEntry], unlisted: str) -> list[Block]:
    """Return the blocks with the invalid entries of listings, and with the reason why the target lists nothing."""
    failures = [Failure(Item("*", each.label), each.error) for each in invalid]
    first = [Block("", "*", [], failures=page.failures) for page in failure_pages("", failures)]
    if unlisted:
        first.append(Block("", "*", [Result("*", "*", Outcome.LEFT_OUT, reason=unlisted)]))
    return first


def _all_tags(clients: RegistryClients, repository: str, context: StepContext) -> ListedTags:
    """Return all tags of a repository. Raises TIME_SHORT, and LISTING_TOO_LONG."""
    tags: dict[str, Tag] = {}
    invalid: list[InvalidEntry] = []
    for page in tag_pages(clients, repository, invalid):
        tags |= page.tags
        _check_time(context)
    return ListedTags(tags, invalid)


def _check_time(context: StepContext) -> None:
    if context.halted():
        raise SynclineError("RUN_CANCELLED", "the audit was cancelled within a listing")
    if context.left() <= 0:
        raise SynclineError("TIME_SHORT", "the time of the function ended within a listing")
