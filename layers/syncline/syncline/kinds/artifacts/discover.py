"""Discover: compare the images that builds made, by the builds' logs, with all tags of the registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from syncline.clients.github.client import WorkflowRun
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.listings import InvalidEntry, OnInvalid, ignore
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.builds import Build, Builds, Destination, UnreadableRun
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.records import PushRecord, PushRecords, age_of
from syncline.kinds.facts import FactStore
from syncline.kinds.kind import Failure, Page, StepContext, failure_pages
from syncline.model import Item, Outcome, Result, Scope

BuildImage = tuple[Build, Destination]

RUN: Final = "run:"  # prefix of a run's number, in a scope and in the group of an unreadable run
LOG: Final = "log"  # name of the item of an unreadable run
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
        self._lists: dict[str, tuple[frozenset[str], list[InvalidEntry]]] = {}
        self.odd: list[InvalidEntry] = []

    def of(self, repository: str) -> frozenset[str]:
        return self._list(repository)[0]

    def odd_of(self, repository: str) -> list[InvalidEntry]:
        """Return the invalid entries in the list of a repository's tags."""
        return self._list(repository)[1]

    @cached_property
    def repositories(self) -> dict[str, int]:
        """All repositories of the project with their IDs; needs the API."""
        assert self._target.api is not None, "only the API lists repositories"
        self.odd.clear()
        return {found.path: found.id for found in self._target.api.repositories(self._collecting(self.odd))}

    def _list(self, repository: str) -> tuple[frozenset[str], list[InvalidEntry]]:
        if repository not in self._lists:
            odd: list[InvalidEntry] = []
            self._lists[repository] = frozenset(self._ask(repository, self._collecting(odd))), odd
        return self._lists[repository]

    def _collecting(self, found: list[InvalidEntry]) -> OnInvalid:
        def note(odd: InvalidEntry) -> None:
            found.append(odd)
            self._report(odd)

        return note

    def _ask(self, repository: str, odd: OnInvalid) -> Iterator[str]:
        if self._target.api is not None:
            number = self.repositories.get(repository)
            if number is not None:
                return self._target.api.tags(number, odd)
            if not any(each.name in (None, repository) for each in self.odd):
                return iter(())
        return self._target.registry.tags(repository, odd)


@dataclass
class BuildScan:
    """One scan of a sync's builds."""

    sync: ArtifactsSync
    builds: Builds
    target: ProjectTarget
    pushed: PushRecords
    memory: FactStore
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._tags = TagLists(self.target)
        self._is_complete = True

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield a page of unreadable runs, then one for each repository after the one that ``cursor`` names.

        All items of a repository are in one page, as it has one writer at a time. Reading logs takes long; what was read
        is remembered, so a scan that begins again gets further.
        """
        wanted: dict[str, list[BuildImage]] = {}
        unreadable: list[Failure | Result] = []
        found: set[str] = set()
        odd: list[InvalidEntry] = []
        runs = self.builds.runs(self.now(), odd.append)
        self._is_complete = not odd
        named = self._named(runs, scope, unreadable)
        candidates = self._with_younger(runs, named, unreadable)
        covered = {run.id for run in (*runs, *named)}
        for build in self.builds.youngest(candidates):
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
        if cursor is None:
            failures = [each for each in unreadable if isinstance(each, Failure)]
            found |= {failure.item.group for failure in failures}
            failures += self._absent(scope, found, context) if context.named else ()
            results = tuple(each for each in unreadable if isinstance(each, Result))
            yield Page("", results=results, failures=tuple(failures))
            if scope.everything:
                yield from failure_pages("", map(_failure_of_run, odd))
        yield from self._repositories(wanted, scope, cursor or "", context)

    def _repositories(
        self, wanted: Mapping[str, Sequence[BuildImage]], scope: Scope, after: str, context: StepContext
    ) -> Iterator[Page]:
        """Yield a page for each repository, and a last one for the invalid entries in GitLab's list of repositories."""
        for repository in sorted(wanted):
            if context.over:
                return
            if repository > after:
                yield self._page(repository, wanted[repository], scope, context)
        if scope.everything:
            failures = (Failure(Item("*", each.label), each.error) for each in self._tags.odd)
            yield from failure_pages(max(wanted, default=""), failures)

    def _absent(self, scope: Scope, found: set[str], context: StepContext) -> Iterator[Failure]:
        """Yield a failure for each name of a scope that no build has, except for items of a retry, which have results."""
        asked = {f"{group}:{name}" for group, name in context.asked}
        for name in sorted(set(scope.groups or ()) - found - asked):
            source = self.sync.source
            what = f"no successful run of {source.workflow} in {source.repository} within the limits of the sync has made {name}"
            yield Failure(Item(name, "*"), SynclineError("SOURCE_ABSENT", what))

    def _named(
        self, runs: Sequence[WorkflowRun], scope: Scope, unreadable: list[Failure | Result]
    ) -> list[WorkflowRun]:
        """Return the runs that the scope names and ``runs`` lacks. One with an invalid response joins ``unreadable``."""
        known = {run.id for run in runs}
        numbers = {int(g.removeprefix(RUN)) for g in scope.groups or () if g.startswith(RUN) and g[4:].isdigit()}
        found = []
        for number in sorted(numbers - known):
            try:
                run = self.builds.run(number)
            except SynclineError as error:
                if error.code.name == "BAD_ANSWER":
                    unreadable.append(Failure(Item(f"{RUN}{number}", "*"), error))
                elif error.code.name != "NOT_FOUND":
                    raise
                continue
            if self.builds.takes(run):
                found.append(run)
        return found

    def _with_younger(
        self, runs: Sequence[WorkflowRun], named: list[WorkflowRun], unreadable: list[Failure | Result]
    ) -> list[WorkflowRun]:
        """Return ``runs`` and ``named``, and all younger runs if one of ``named`` is older than all of ``runs``.

        A younger run may have made the same image tag. A run that is older than GitHub's list is moved from ``named`` to
        ``unreadable``.
        """
        found = {run.id: run for run in runs}
        if named and (not runs or min(map(_age, named)) < _age(runs[-1])):
            found |= {run.id: run for run in self.builds.since(min(named, key=_age))}
        oldest = min(map(_age, found.values()), default=None)
        for run in list(named):
            if oldest is None or _age(run) < oldest:
                named.remove(run)
                unreadable.append(Failure(Item(f"{RUN}{run.id}", "*"), self.builds.unlisted(run)))
        found |= {run.id: run for run in named}
        return sorted(found.values(), key=_age, reverse=True)

    def _page(self, repository: str, wanted: Sequence[BuildImage], scope: Scope, context: StepContext) -> Page:
        """Return the page of one repository: missing images, the youngest build first, and aliases that point elsewhere."""
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        present: list[BuildImage] = []
        wanted, failures = self._without_invalid(repository, wanted, scope)
        is_complete = not self._tags.odd_of(repository)
        may_have_unverified, is_verified = self.pushed.may_have_unverified(repository), True
        for build, destination in wanted:
            if not _covers(scope, build, destination):
                continue
            is_present = destination.tag in self._tags.of(repository)
            unavailable = unverified = None
            if not is_present:
                unavailable = self.pushed.unavailable_reason(build.run, destination)
            else:
                present.append((build, destination))
                push = self.pushed.of(repository, destination.tag) if may_have_unverified else None
                unverified = None if push is None or push.verified else push
            is_verified = is_verified and unverified is None
            asked = (repository, destination.tag) in context.asked  # its transfer compares the images
            if is_present and unverified is None and not asked and not self._is_older(build, destination):
                skipped += 1
                continue
            # The fingerprint is the run and attempt until the archive is read.
            detail = {"run": build.run.mark, "image": destination.image, "tag": build.tag}
            ended = int(build.run.updated)
            item = Item(repository, destination.tag, f"{RUN}{build.run.mark}", detail=detail, changed=ended)
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
            self.pushed.note_all_verified(repository)
        # An invalid entry may stand for a younger build.
        is_complete &= self._is_complete
        if scope.everything and is_complete and self.sync.aliases:
            items += self._aliases(present)
        return Page(repository, tuple(items), skipped, tuple(results), tuple(failures))

    def _without_invalid(
        self, repository: str, wanted: Sequence[BuildImage], scope: Scope
    ) -> tuple[Sequence[BuildImage], list[Failure]]:
        """Return the wanted images without the tags with an invalid entry, and the failures for these."""
        odd = {each.label: each for each in self._tags.odd_of(repository)}
        named = {destination.tag for build, destination in wanted if _covers(scope, build, destination)}
        reported = (each for label, each in odd.items() if scope.everything or label in named)
        failures = [Failure(Item(repository, each.label), each.error) for each in reported]
        return [(build, destination) for build, destination in wanted if destination.tag not in odd], failures

    def _is_replaced(self, push: PushRecord, item: Item) -> bool:
        """Return True if an item's tag still is the image that somebody else put, and must not be replaced."""
        if not push.other or self.sync.overwrite or item.detail["run"] != push.run:
            return False
        return self.target.registry.manifest_digest(item.group, item.name) == push.other

    def _is_first(self, item: Item, context: StepContext) -> bool:
        """Return True if no other scan of the run has found the item, as each is sent or reported once per run.

        A webhook that arrives during the transfer of its build adds a scan to the run, and GitHub may deliver it often.
        """
        if not context.run or context.plan:
            return True
        return self.memory.take(f"found@{context.run}@{item}@{item.source}", context.scan, _LONGEST_RUN)

    def _unreadable(self, unreadable: UnreadableRun, scope: Scope, context: StepContext) -> list[Failure | Result]:
        item = Item(f"{RUN}{unreadable.run.id}", LOG, f"{RUN}{unreadable.run.mark}")
        if (scope.groups is not None and item.group not in scope.groups) or not self._is_first(item, context):
            return []
        if unreadable.is_new:
            return [Failure(item, unreadable.error)]
        return [_failed(item, unreadable.error.code.name, unreadable.error.what)]

    def _is_older(self, build: Build, destination: Destination) -> bool:
        """Return True if the present tag is from an older run of the same image tag, and may be replaced.

        A tag without a record counts as older: the transfer leaves it if it is the same image.
        """
        if not self.sync.overwrite:
            return False
        run = self.pushed.run_of(destination)
        return run is None or age_of(run) < age_of(build.run.mark)

    def _aliases(self, present: Iterable[BuildImage]) -> Iterator[Item]:
        """Yield the aliases that do not point at the youngest present build. Transfers of missing builds update them."""
        registry = self.target.registry
        found = youngest_present(registry, self.pushed, present)
        if found is None:
            return
        destination, digest = found
        for alias in self.sync.aliases:
            current = registry.manifest_digest(destination.repository, alias)
            if current != digest:
                yield Item(destination.repository, alias, target=current, detail={"alias": True})


def youngest_present(
    registry: Registry, pushed: PushRecords, builds: Iterable[BuildImage]
) -> tuple[Destination, str] | None:
    """Return the destination of the youngest build's image, and its manifest's digest. ``builds`` has the youngest first.

    The age of a tag is that of the recorded run, whose image it has. That run may be older than the tag's build, if the
    tag was not replaced, or younger, if it is no longer listed as successful. A tag that somebody else put does not count.
    A tag without a record counts as the build's.
    """

    def age(made: BuildImage) -> tuple[int, int]:
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


def _failure_of_run(odd: InvalidEntry) -> Failure:
    return Failure(Item("*", odd.label) if odd.name is None else Item(f"{RUN}{odd.name}", "*"), odd.error)


def conflict(item: Item, push: PushRecord) -> Result:
    """Return the conflict of an item whose tag somebody else put."""
    why = f"{item} is {push.other} and is not overwritten with {push.manifest}"
    return Result(item.group, item.name, Outcome.CONFLICT, push.fingerprint, push.other, 0, "TAG_DIFFERS", why)


def _failed(item: Item, code: CodeName, reason: str) -> Result:
    """Return the result of an item that is known to fail."""
    return Result(item.group, item.name, Outcome.FAILED, item.source, code=code, reason=reason)


def _covers(scope: Scope, build: Build, destination: Destination) -> bool:
    return scope.groups is None or not _names_of(build, destination).isdisjoint(scope.groups)


def _names_of(build: Build, destination: Destination) -> set[str]:
    """Return the names by which a scope may name an image of a build."""
    return {f"{RUN}{build.run.id}", build.tag, destination.repository, str(destination)}
