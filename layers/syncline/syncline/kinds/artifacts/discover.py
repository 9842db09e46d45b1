"""Discover: compare the images that builds made, by the builds' logs, with all tags of the registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from syncline.clients.github.client import WorkflowRun
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.listings import InvalidEntry, OnInvalid, ignore
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.builds import Build, Builds, Destination, UnreadableRun
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.facts import FactStore
from syncline.kinds.artifacts.records import PushRecord, PushRecords, age_of
from syncline.kinds.kind import Failure, Page, StepContext, failure_pages
from syncline.model import Item, Outcome, Result, Scope

RUN: Final = "run:"
"""Prefix of a run's number, in a scope and in the group of an unreadable run."""
LOG: Final = "log"
"""Name of the item of an unreadable run."""
_LONGEST_RUN: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ProjectTarget:
    """A project's registry, and GitLab's API if the sync names it."""

    registry: Registry
    api: GitLab | None


class TagLists:
    """The tags of repositories, each list read once; with GitLab's API only those of existing repositories.

    ``odd`` has the invalid entries of GitLab's list of repositories, once it was read. ``report`` is called with each
    invalid entry of any list.
    """

    def __init__(self, target: ProjectTarget, report: OnInvalid = ignore) -> None:
        self._target = target
        self._report = report
        self._lists: dict[str, frozenset[str]] = {}
        self._odd: dict[str, list[InvalidEntry]] = {}
        self._numbers: dict[str, int] | None = None
        self.odd: list[InvalidEntry] = []

    def of(self, repository: str) -> frozenset[str]:
        found = self._lists.get(repository)
        if found is None:
            odd = self._odd[repository] = []
            found = self._lists[repository] = frozenset(self._ask(repository, self._collecting(odd)))
        return found

    def odd_of(self, repository: str) -> list[InvalidEntry]:
        """Return the invalid entries in the list of a repository's tags."""
        self.of(repository)
        return self._odd[repository]

    def repositories(self) -> dict[str, int]:
        """Return all repositories of the project with their IDs; needs the API."""
        assert self._target.api is not None, "only the API lists repositories"
        if self._numbers is None:
            self.odd.clear()
            listed = self._target.api.repositories(self._collecting(self.odd))
            self._numbers = {found.path: found.id for found in listed}
        return self._numbers

    def _collecting(self, found: list[InvalidEntry]) -> OnInvalid:
        def note(odd: InvalidEntry) -> None:
            found.append(odd)
            self._report(odd)

        return note

    def _ask(self, repository: str, odd: OnInvalid) -> Iterator[str]:
        if self._target.api is not None:
            number = self.repositories().get(repository)
            if number is not None:
                return self._target.api.tags(number, odd)
            if not any(each.name in (None, repository) for each in self.odd):
                return iter(())
        return self._target.registry.tags(repository, odd)


class BuildScan:
    """One scan of a sync's builds."""

    def __init__(  # noqa: PLR0913 - each is handed in
        self,
        sync: ArtifactsSync,
        builds: Builds,
        target: ProjectTarget,
        pushed: PushRecords,
        memory: FactStore,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sync = sync
        self._memory = memory
        self._builds = builds
        self._target = target
        self._pushed = pushed
        self._now = now
        self._tags = TagLists(target)
        self._is_complete = True

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield a page of unreadable runs, then one for each repository after the one that ``cursor`` names.

        All items of a repository are in one page, as it has one writer at a time. Reading logs takes long; what was read
        is remembered, so a scan that begins again gets further.
        """
        wanted: dict[str, list[tuple[Build, Destination]]] = {}
        unreadable: list[Page] = []
        found: set[str] = set()
        odd: list[InvalidEntry] = []
        runs = self._builds.runs(self._now(), odd.append)
        self._is_complete = not odd
        named = self._named(runs, scope, unreadable)
        candidates = self._with_younger(runs, named, unreadable)
        covered = {run.id for run in (*runs, *named)}
        for build in self._builds.youngest(candidates):
            if context.over:
                return
            if build.run.id not in covered:
                continue  # it only takes its image tag from older runs
            if isinstance(build, UnreadableRun):
                unreadable += self._unreadable(build, scope, context) if cursor is None else []
                found.add(f"{RUN}{build.run.id}")
                continue
            for destination in build.destinations:
                wanted.setdefault(destination.repository, []).append((build, destination))
                found |= _names_of(build, destination)
        found |= {failure.item.group for page in unreadable for failure in page.failures}
        if cursor is None:
            results = tuple(result for page in unreadable for result in page.results)
            failures = [failure for page in unreadable for failure in page.failures]
            failures += self._absent(scope, found, context) if context.named else ()
            yield Page("", results=results, failures=tuple(failures))
            if scope.everything:
                yield from failure_pages("", map(_failure_of_run, odd))
        yield from self._repositories(wanted, scope, cursor or "", context)

    def _repositories(
        self, wanted: Mapping[str, Sequence[tuple[Build, Destination]]], scope: Scope, after: str, context: StepContext
    ) -> Iterator[Page]:
        """Yield a page for each repository, and a last one for the invalid entries in GitLab's list of repositories."""
        for repository in sorted(wanted):
            if context.over:
                return
            if repository > after:
                yield self._page(repository, wanted[repository], scope, context)
        if scope.everything:
            odd = (Failure(Item("*", each.label), each.error) for each in self._tags.odd)
            yield from failure_pages(max(wanted, default=""), odd)

    def _absent(self, scope: Scope, found: set[str], context: StepContext) -> Iterator[Failure]:
        """Yield a failure for each name of a scope that no build has, except for items of a retry, which have results."""
        asked = {f"{group}:{name}" for group, name in context.asked}
        for name in sorted(set(scope.groups or ()) - found - asked):
            source = self._sync.source
            what = f"no successful run of {source.workflow} in {source.repository} within the limits of the sync has made {name}"
            yield Failure(Item(name, "*"), SynclineError("SOURCE_ABSENT", what))

    def _named(self, runs: Sequence[WorkflowRun], scope: Scope, unreadable: list[Page]) -> list[WorkflowRun]:
        """Return the runs that the scope names and ``runs`` lacks: they are older, or not listed yet.

        A run with an invalid response of GitHub is added to ``unreadable``.
        """
        known = {run.id for run in runs}
        numbers = {int(g.removeprefix(RUN)) for g in scope.groups or () if g.startswith(RUN) and g[4:].isdigit()}
        found = []
        for number in sorted(numbers - known):
            try:
                run = self._builds.run(number)
            except SynclineError as error:
                if error.code.name == "BAD_ANSWER":
                    unreadable.append(_failed_page(number, error))
                elif error.code.name != "NOT_FOUND":
                    raise
                continue
            if self._builds.takes(run):
                found.append(run)
        return found

    def _with_younger(
        self, runs: Sequence[WorkflowRun], named: list[WorkflowRun], unreadable: list[Page]
    ) -> list[WorkflowRun]:
        """Return ``runs`` and ``named``, and all younger runs if one of ``named`` is older than all of ``runs``.

        A younger run may have made the same image tag. A run that is older than GitHub's list is moved from ``named`` to
        ``unreadable``.
        """
        found = {run.id: run for run in runs}
        if named and (not runs or min(map(_age, named)) < _age(runs[-1])):
            found |= {run.id: run for run in self._builds.since(min(named, key=_age))}
        oldest = min(map(_age, found.values()), default=None)
        for run in list(named):
            if oldest is None or _age(run) < oldest:
                named.remove(run)
                unreadable.append(_failed_page(run.id, self._builds.unlisted(run)))
        found |= {run.id: run for run in named}
        return sorted(found.values(), key=_age, reverse=True)

    def _page(
        self, repository: str, wanted: Sequence[tuple[Build, Destination]], scope: Scope, context: StepContext
    ) -> Page:
        """Return the page of one repository: missing images, the youngest build first, and aliases that point elsewhere."""
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        present: list[tuple[Build, Destination]] = []
        wanted, failures = self._without_invalid(repository, wanted, scope)
        is_complete = not self._tags.odd_of(repository)
        may_have_unverified, is_verified = self._pushed.may_have_unverified(repository), True
        for build, destination in wanted:
            is_present = destination.tag in self._tags.of(repository)
            unavailable = None if is_present else self._pushed.unavailable_reason(build.run, destination)
            if not _covers(scope, build, destination):
                continue
            unverified = self._pushed.unverified(destination) if is_present and may_have_unverified else None
            if is_present:
                present.append((build, destination))
            is_verified = is_verified and unverified is None
            asked = (repository, destination.tag) in context.asked  # its transfer compares the images
            if is_present and unverified is None and not asked and not self._is_older(build, destination):
                skipped += 1
                continue
            item = item_of(build, destination)
            if not self._is_first(item, context):
                continue
            # An item that somebody names is tried again, unless it has expired.
            if unavailable is not None and (scope.everything or unavailable[0] == "ARTIFACT_EXPIRED"):
                results.append(_failed(item, *unavailable))
            elif unverified is not None and self._is_replaced(unverified, item):
                results.append(conflict(item, unverified))
            else:
                items.append(item)
        if scope.everything and may_have_unverified and is_complete and is_verified and not context.plan:
            self._pushed.note_all_verified(repository)
        # An invalid entry may stand for a younger build.
        is_complete &= self._is_complete
        if scope.everything and is_complete and self._sync.aliases:
            items += self._aliases(present)
        return Page(repository, tuple(items), skipped, tuple(results), tuple(failures))

    def _without_invalid(
        self, repository: str, wanted: Sequence[tuple[Build, Destination]], scope: Scope
    ) -> tuple[Sequence[tuple[Build, Destination]], list[Failure]]:
        """Return the wanted images without the tags with an invalid entry, and the failures for these."""
        odd = {each.label: each for each in self._tags.odd_of(repository)}
        named = {destination.tag for build, destination in wanted if _covers(scope, build, destination)}
        failures = [
            Failure(Item(repository, label), each.error)
            for label, each in odd.items()
            if scope.everything or label in named
        ]
        return [(build, destination) for build, destination in wanted if destination.tag not in odd], failures

    def _is_replaced(self, push: PushRecord, item: Item) -> bool:
        """Return True if an item's tag still is the image that somebody else put, and must not be replaced."""
        if not push.other or self._sync.overwrite or item.detail["run"] != push.run:
            return False
        return self._target.registry.manifest_digest(item.group, item.name) == push.other

    def _is_first(self, item: Item, context: StepContext) -> bool:
        """Return True if no other scan of the run has found the item, as each is sent or reported once per run.

        A webhook that arrives during the transfer of its build adds a scan to the run, and GitHub may deliver it often.
        """
        if not context.run or context.plan:
            return True
        return self._memory.take(f"found@{context.run}@{item}@{item.source}", context.scan, _LONGEST_RUN)

    def _unreadable(self, unreadable: UnreadableRun, scope: Scope, context: StepContext) -> list[Page]:
        item = Item(f"{RUN}{unreadable.run.id}", LOG, f"{RUN}{unreadable.run.mark}")
        if (scope.groups is not None and item.group not in scope.groups) or not self._is_first(item, context):
            return []
        if unreadable.is_new:
            return [Page("", failures=(Failure(item, unreadable.error),))]
        return [Page("", results=(_failed(item, unreadable.error.code.name, unreadable.error.what),))]

    def _is_older(self, build: Build, destination: Destination) -> bool:
        """Return True if the present tag is from an older run of the same image tag, and may be replaced.

        A tag without a record counts as older: the transfer leaves it if it is the same image.
        """
        if not self._sync.overwrite:
            return False
        run = self._pushed.run_of(destination)
        return run is None or age_of(run) < age_of(build.run.mark)

    def _aliases(self, present: Iterable[tuple[Build, Destination]]) -> Iterator[Item]:
        """Yield the aliases that do not point at the youngest present build.

        The transfer of a missing build updates them itself.
        """
        registry = self._target.registry
        found = youngest_present(registry, self._pushed, present)
        if found is None:
            return
        destination, digest = found
        for alias in self._sync.aliases:
            current = registry.manifest_digest(destination.repository, alias)
            if current != digest:
                yield Item(destination.repository, alias, target=current, detail={"alias": True})


def youngest_present(
    registry: Registry, pushed: PushRecords, builds: Iterable[tuple[Build, Destination]]
) -> tuple[Destination, str] | None:
    """Return the destination of the youngest build's image, and its manifest's digest. ``builds`` has the youngest first.

    The age of a tag is that of the recorded run, whose image it has. That run may be older than the tag's build, if the
    tag was not replaced, or younger, if it is no longer listed as successful. A tag that somebody else put does not count.
    A tag without a record counts as the build's.
    """

    def age(made: tuple[Build, Destination]) -> tuple[int, int]:
        build, destination = made
        return age_of(pushed.run_of(destination) or build.run.mark)

    for _, destination in sorted(builds, key=age, reverse=True):
        digest = registry.manifest_digest(destination.repository, destination.tag)
        if digest is not None and not pushed.is_replaced(registry, destination.repository, destination.tag, digest):
            return destination, digest
    return None


def _age(run: WorkflowRun) -> tuple[float, int]:
    """Return the key by which GitHub orders runs; that of a younger run is greater."""
    return run.created, run.id


def _failed_page(run: int, error: SynclineError) -> Page:
    return Page("", failures=(Failure(Item(f"{RUN}{run}", "*"), error),))


def _failure_of_run(odd: InvalidEntry) -> Failure:
    return Failure(Item("*", odd.label) if odd.name is None else Item(f"{RUN}{odd.name}", "*"), odd.error)


def item_of(build: Build, destination: Destination) -> Item:
    """Return the item of an image of a build. Its fingerprint is the run and attempt until the archive is read."""
    detail = {"run": build.run.mark, "image": destination.image, "tag": build.tag}
    return Item(destination.repository, destination.tag, f"{RUN}{build.run.mark}", detail=detail)


def conflict(item: Item, push: PushRecord) -> Result:
    """Return the conflict of an item whose tag somebody else put."""
    why = f"{item} is {push.other} and is not overwritten with {push.manifest}"
    return Result(item.group, item.name, Outcome.CONFLICT, push.fingerprint, push.other, 0, "TAG_DIFFERS", why)


def _failed(item: Item, code: CodeName, reason: str) -> Result:
    """Return the result of an item that is known to fail."""
    return Result(item.group, item.name, Outcome.FAILED, item.source, code=code, reason=reason)


def _covers(scope: Scope, build: Build, destination: Destination) -> bool:
    if scope.groups is None:
        return True
    return not _names_of(build, destination).isdisjoint(scope.groups)


def _names_of(build: Build, destination: Destination) -> set[str]:
    """Return the names by which a scope may name an image of a build."""
    return {f"{RUN}{build.run.id}", build.tag, destination.repository, str(destination)}
