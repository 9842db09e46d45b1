"""Looking: which images of builds the registry lacks, by the builds' own words and all pages of its tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from syncline.clients.github.client import WorkflowRun
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.listings import InvalidEntry, OnInvalid, ignore
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.builds import Build, Builds, Flawed, Place
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.memory import Facts, Push, Pushed, age_of
from syncline.kinds.kind import Failure, Page, StepContext, failure_pages
from syncline.model import Item, Outcome, Result, Scope

RUN: Final = "run:"
"""Before a run's number, in a scope and as the group of a run that cannot be understood."""
LOG: Final = "log"
"""The name of the item that stands for a run that cannot be understood."""
_LONGEST_RUN: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """A project's registry, and GitLab's API where there is one."""

    registry: Registry
    api: GitLab | None


class TagLists:
    """The tags of repositories, each list asked for once; with GitLab's API only of those that are there.

    ``odd`` has the odd entries of GitLab's list of repositories, once that was asked for. ``tell`` is called with each
    odd entry of any list.
    """

    def __init__(self, target: Target, tell: OnInvalid = ignore) -> None:
        self._target = target
        self._tell = tell
        self._lists: dict[str, frozenset[str]] = {}
        self._odd: dict[str, list[InvalidEntry]] = {}
        self._numbers: dict[str, int] | None = None
        self.odd: list[InvalidEntry] = []

    def of(self, repository: str) -> frozenset[str]:
        found = self._lists.get(repository)
        if found is None:
            odd = self._odd[repository] = []
            found = self._lists[repository] = frozenset(self._ask(repository, self._noting(odd)))
        return found

    def odd_of(self, repository: str) -> list[InvalidEntry]:
        """Return the odd entries in the list of a repository's tags."""
        self.of(repository)
        return self._odd[repository]

    def repositories(self) -> dict[str, int]:
        """All repositories of the project with their numbers; needs the API."""
        assert self._target.api is not None, "without it nobody lists them"
        if self._numbers is None:
            self.odd.clear()
            listed = self._target.api.repositories(self._noting(self.odd))
            self._numbers = {found.path: found.id for found in listed}
        return self._numbers

    def _noting(self, found: list[InvalidEntry]) -> OnInvalid:
        def note(odd: InvalidEntry) -> None:
            found.append(odd)
            self._tell(odd)

        return note

    def _ask(self, repository: str, odd: OnInvalid) -> Iterator[str]:
        if self._target.api is not None:
            number = self.repositories().get(repository)
            if number is not None:
                return self._target.api.tags(number, odd)
            if not any(each.name in (None, repository) for each in self.odd):
                return iter(())
        return self._target.registry.tags(repository, odd)


class Look:
    """One look at a sync's builds."""

    def __init__(  # noqa: PLR0913 - each is handed in
        self,
        sync: ArtifactsSync,
        builds: Builds,
        target: Target,
        pushed: Pushed,
        memory: Facts,
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
        self._is_whole = True

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """A page for what cannot be understood, then one for each repository, behind the one that ``cursor`` names.

        What belongs to one repository comes together, for there is one writer to it. Reading logs takes its time; what
        was read is remembered, so a look that begins again gets further.
        """
        wanted: dict[str, list[tuple[Build, Place]]] = {}
        flawed: list[Page] = []
        found: set[str] = set()
        odd: list[InvalidEntry] = []
        runs = self._builds.runs(self._now(), odd.append)
        self._is_whole = not odd
        named = self._named(runs, scope, flawed)
        candidates = self._with_younger(runs, named, flawed)
        covered = {run.id for run in (*runs, *named)}
        for build in self._builds.youngest(candidates):
            if context.over:
                return
            if build.run.id not in covered:
                continue  # all it does is to keep its image tag from older runs
            if isinstance(build, Flawed):
                flawed += self._flawed(build, scope, context) if cursor is None else []
                found.add(f"{RUN}{build.run.id}")
                continue
            for place in build.places:
                wanted.setdefault(place.repository, []).append((build, place))
                found |= _names_of(build, place)
        found |= {failure.item.group for page in flawed for failure in page.failures}
        if cursor is None:
            failures = (*_all(flawed, "failures"), *(self._absent(scope, found, context) if context.named else ()))
            yield Page("", results=_all(flawed, "results"), failures=failures)
            if scope.everything:
                yield from failure_pages("", map(_failure_of_run, odd))
        yield from self._repositories(wanted, scope, cursor or "", context)

    def _repositories(
        self, wanted: Mapping[str, Sequence[tuple[Build, Place]]], scope: Scope, after: str, context: StepContext
    ) -> Iterator[Page]:
        """A page for each repository, and behind the last of them one for what is odd in GitLab's list of them."""
        for repository in sorted(wanted):
            if context.over:
                return
            if repository > after:
                yield self._page(repository, wanted[repository], scope, context)
        if scope.everything:
            odd = (Failure(Item("*", each.label), each.error) for each in self._tags.odd)
            yield from failure_pages(max(wanted, default=""), odd)

    def _absent(self, scope: Scope, found: set[str], context: StepContext) -> Iterator[Failure]:
        """Yield a failure for each name of a scope that no build has. A retry answers for its items by itself."""
        asked = {f"{group}:{name}" for group, name in context.asked}
        for name in sorted(set(scope.groups or ()) - found - asked):
            source = self._sync.source
            what = f"no successful run of {source.workflow} in {source.repository} has made {name}, as far as it is scanned"
            yield Failure(Item(name, "*"), SynclineError("SOURCE_ABSENT", what))

    def _named(self, runs: Sequence[WorkflowRun], scope: Scope, flawed: list[Page]) -> list[WorkflowRun]:
        """Return the runs that the scope names and ``runs`` does not have: they are older, or not listed yet.

        One of which GitHub's answer cannot be used is added to ``flawed``.
        """
        known = {run.id for run in runs}
        numbers = {int(g.removeprefix(RUN)) for g in scope.groups or () if g.startswith(RUN) and g[4:].isdigit()}
        found = []
        for number in sorted(numbers - known):
            try:
                run = self._builds.run(number)
            except SynclineError as error:
                if error.code.name == "BAD_ANSWER":
                    flawed.append(_failed_page(number, error))
                elif error.code.name != "NOT_FOUND":
                    raise
                continue
            if self._builds.takes(run):
                found.append(run)
        return found

    def _with_younger(
        self, runs: Sequence[WorkflowRun], named: list[WorkflowRun], flawed: list[Page]
    ) -> list[WorkflowRun]:
        """Return ``runs``, ``named``, and where one of these is older than all of ``runs``, all that are younger than it.

        A younger run may have made the same image tag. A run whose younger ones the list lacks is moved from ``named``
        to ``flawed``.
        """
        found = {run.id: run for run in runs}
        if named and (not runs or min(map(_age, named)) < _age(runs[-1])):
            found |= {run.id: run for run in self._builds.since(min(named, key=_age))}
        oldest = min(map(_age, found.values()), default=None)
        for run in list(named):
            if oldest is None or _age(run) < oldest:
                named.remove(run)
                flawed.append(_failed_page(run.id, self._builds.unlisted(run)))
        found |= {run.id: run for run in named}
        return sorted(found.values(), key=_age, reverse=True)

    def _page(self, repository: str, wanted: Sequence[tuple[Build, Place]], scope: Scope, context: StepContext) -> Page:
        """What one repository lacks, the youngest build first, and its aliases where they point elsewhere."""
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        there: list[tuple[Build, Place]] = []
        wanted, failures = self._without_odd(repository, wanted, scope)
        is_whole = not self._tags.odd_of(repository)
        may_be_unproved, is_proved = self._pushed.may_be_unproved(repository), True
        for build, place in wanted:
            is_there = place.tag in self._tags.of(repository)
            gone = None if is_there else self._pushed.why_gone(build.run, place)
            if not _covers(scope, build, place):
                continue
            unproved = self._pushed.unproved(place) if is_there and may_be_unproved else None
            if is_there:
                there.append((build, place))
            is_proved = is_proved and unproved is None
            asked = (repository, place.tag) in context.asked  # its transfer looks closer
            if is_there and unproved is None and not asked and not self._is_older(build, place):
                skipped += 1
                continue
            item = item_of(build, place)
            if not self._is_first(item, context):
                continue
            # Whoever names it wants it tried; only what has expired is beyond that.
            if gone is not None and (scope.everything or gone[0] == "ARTIFACT_EXPIRED"):
                results.append(_failed(item, *gone))
            elif unproved is not None and self._is_taken(unproved, item):
                results.append(conflict(item, unproved))
            else:
                items.append(item)
        if scope.everything and may_be_unproved and is_whole and is_proved and not context.plan:
            self._pushed.note_all_proved(repository)
        # An odd entry may stand for a younger build.
        is_whole &= self._is_whole
        if scope.everything and is_whole and self._sync.aliases:
            items += self._aliases(there)
        return Page(repository, tuple(items), skipped, tuple(results), tuple(failures))

    def _without_odd(
        self, repository: str, wanted: Sequence[tuple[Build, Place]], scope: Scope
    ) -> tuple[Sequence[tuple[Build, Place]], list[Failure]]:
        """Return what is wanted without the tags that the list has as odd entries, and the failures for these."""
        odd = {each.label: each for each in self._tags.odd_of(repository)}
        named = {place.tag for build, place in wanted if _covers(scope, build, place)}
        failures = [
            Failure(Item(repository, label), each.error)
            for label, each in odd.items()
            if scope.everything or label in named
        ]
        return [(build, place) for build, place in wanted if place.tag not in odd], failures

    def _is_taken(self, push: Push, item: Item) -> bool:
        """Return True if the tag of an item still is what somebody else put there, and is not to be replaced."""
        if not push.other or self._sync.overwrite or item.detail["run"] != push.run:
            return False
        return self._target.registry.manifest_digest(item.group, item.name) == push.other

    def _is_first(self, item: Item, context: StepContext) -> bool:
        """Return True if no other scan of the run has found the item: each is sent, or reported, once in a run.

        A webhook that comes while its build is transferred adds a scan to the run, and GitHub may deliver it many times.
        """
        if not context.run or context.plan:
            return True
        return self._memory.take(f"found@{context.run}@{item}@{item.source}", context.scan, _LONGEST_RUN)

    def _flawed(self, flawed: Flawed, scope: Scope, context: StepContext) -> list[Page]:
        item = Item(f"{RUN}{flawed.run.id}", LOG, f"{RUN}{flawed.run.mark}")
        if (scope.groups is not None and item.group not in scope.groups) or not self._is_first(item, context):
            return []
        if flawed.fresh:
            return [Page("", failures=(Failure(item, flawed.error),))]
        return [Page("", results=(_failed(item, flawed.error.code.name, flawed.error.what),))]

    def _is_older(self, build: Build, place: Place) -> bool:
        """Whether the tag that is there came from an older run of the same image tag, and may be replaced.

        One that nobody remembers is looked into: where it is the same image, it is left as it is.
        """
        if not self._sync.overwrite:
            return False
        run = self._pushed.run_of(place)
        return run is None or age_of(run) < age_of(build.run.mark)

    def _aliases(self, there: Iterable[tuple[Build, Place]]) -> Iterator[Item]:
        """Yield the aliases that do not point at the youngest build of those that are there.

        The transfer of one that is not there yet sees to them once it has come.
        """
        registry = self._target.registry
        found = youngest_there(registry, self._pushed, there)
        if found is None:
            return
        place, digest = found
        for alias in self._sync.aliases:
            present = registry.manifest_digest(place.repository, alias)
            if present != digest:
                yield Item(place.repository, alias, target=present, detail={"alias": True})


def youngest_there(
    registry: Registry, pushed: Pushed, builds: Iterable[tuple[Build, Place]]
) -> tuple[Place, str] | None:
    """Return the place with the image of the youngest build and its manifest's digest. ``builds`` has the youngest first.

    A tag counts as the run whose image it has: the one that is remembered. That run may be older than the tag's build, if
    the tag was not replaced, and younger, if it is no longer listed as successful. What somebody else put does not count,
    except where nobody remembers who put it: then it counts as the build's.
    """

    def age(made: tuple[Build, Place]) -> tuple[int, int]:
        build, place = made
        return age_of(pushed.run_of(place) or build.run.mark)

    for _, place in sorted(builds, key=age, reverse=True):
        digest = registry.manifest_digest(place.repository, place.tag)
        if digest is not None and not pushed.is_replaced(registry, place.repository, place.tag, digest):
            return place, digest
    return None


def _age(run: WorkflowRun) -> tuple[float, int]:
    """Return what GitHub lists runs by: of a younger run it is greater."""
    return run.created, run.id


def _failed_page(run: int, error: SynclineError) -> Page:
    return Page("", failures=(Failure(Item(f"{RUN}{run}", "*"), error),))


def _failure_of_run(odd: InvalidEntry) -> Failure:
    return Failure(Item("*", odd.label) if odd.name is None else Item(f"{RUN}{odd.name}", "*"), odd.error)


def _all(pages: Sequence[Page], what: Literal["results", "failures"]) -> tuple[Any, ...]:
    return tuple(each for page in pages for each in getattr(page, what))


def item_of(build: Build, place: Place) -> Item:
    """Return the item of an image of a build. Until the archive is read, its run and attempt stand for its fingerprint."""
    detail = {"run": build.run.mark, "image": place.image, "tag": build.tag}
    return Item(place.repository, place.tag, f"{RUN}{build.run.mark}", detail=detail)


def conflict(item: Item, push: Push) -> Result:
    """Return the result of an item whose tag somebody else has put."""
    why = f"{item} is {push.other} and is not overwritten with {push.manifest}"
    return Result(item.group, item.name, Outcome.CONFLICT, push.fingerprint, push.other, 0, "TAG_DIFFERS", why)


def _failed(item: Item, code: CodeName, reason: str) -> Result:
    """Return the result of an item that is known to fail."""
    return Result(item.group, item.name, Outcome.FAILED, item.source, code=code, reason=reason)


def _covers(scope: Scope, build: Build, place: Place) -> bool:
    if scope.groups is None:
        return True
    return not _names_of(build, place).isdisjoint(scope.groups)


def _names_of(build: Build, place: Place) -> set[str]:
    """Return the names by which a scope may mean an image of a build."""
    return {f"{RUN}{build.run.id}", build.tag, place.repository, str(place)}
