"""Looking: which images of builds the registry lacks, by the builds' own words and all pages of its tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from syncline.clients.github import WorkflowRun
from syncline.clients.gitlab import GitLab
from syncline.clients.oci import Registry
from syncline.config.artifacts import ArtifactsSync
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Build, Builds, Flawed, Place
from syncline.kinds.artifacts.pushed import Pushed
from syncline.kinds.kind import Failure, Pace, Page
from syncline.model import Item, Outcome, Result, Scope

RUN: Final = "run:"
"""Before a run's number, in a scope and as the group of a run that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Target:
    """A project's registry, and GitLab's API where there is one."""

    registry: Registry
    api: GitLab | None


class TagLists:
    """The tags of repositories, each list asked for once; with GitLab's API only of those that are there."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lists: dict[str, frozenset[str]] = {}
        self._numbers: dict[str, int] | None = None

    def of(self, repository: str) -> frozenset[str]:
        found = self._lists.get(repository)
        if found is None:
            found = self._lists[repository] = frozenset(self._ask(repository))
        return found

    def repositories(self) -> dict[str, int]:
        """All repositories of the project with their numbers; needs the API."""
        assert self._target.api is not None, "without it nobody lists them"
        if self._numbers is None:
            self._numbers = {found.path: found.id for found in self._target.api.repositories()}
        return self._numbers

    def _ask(self, repository: str) -> list[str]:
        if self._target.api is None:
            return self._target.registry.tags(repository)
        number = self.repositories().get(repository)
        return [] if number is None else list(self._target.api.tags(number))


class Look:
    """One look at a sync's builds."""

    def __init__(
        self, sync: ArtifactsSync, builds: Builds, target: Target, pushed: Pushed, now: Callable[[], float] = time.time
    ) -> None:
        self._sync = sync
        self._builds = builds
        self._target = target
        self._pushed = pushed
        self._now = now
        self._tags = TagLists(target)

    def pages(self, scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        """A page for each run, from the youngest on, behind the one that ``cursor`` names; the last one for aliases."""
        runs = self._builds.runs(self._now())
        newest: dict[str, Place] = {}
        behind = cursor is None
        for build in self._builds.youngest(self._with_named(runs, scope)):
            mark = str(build.run.id)
            places = () if isinstance(build, Flawed) else tuple(p for p in build.places if not self._is_gone(build, p))
            for place in places:
                newest.setdefault(place.repository, place)
            if not behind:
                behind = mark == cursor
                continue
            if pace.over:
                return
            page = self._flawed(build, scope) if isinstance(build, Flawed) else self._page(build, scope)
            if page is not None:
                yield page
        if cursor != "aliases" and not pace.over:
            yield Page("aliases", tuple(self._aliases(newest, scope)))

    def _with_named(self, runs: list[WorkflowRun], scope: Scope) -> list[WorkflowRun]:
        """The runs looked at, and those that the scope names though they are older."""
        known = {run.id for run in runs}
        numbers = {int(g.removeprefix(RUN)) for g in scope.groups or () if g.startswith(RUN) and g[4:].isdigit()}
        for number in sorted(numbers - known, reverse=True):
            try:
                run = self._builds.run(number)
            except SynclineError as error:
                if error.code.name != "NOT_FOUND":
                    raise
                continue
            if self._builds.takes(run):
                runs = sorted([*runs, run], key=lambda run: (run.created, run.id), reverse=True)
        return runs

    def _page(self, build: Build, scope: Scope) -> Page | None:
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        for place in build.places:
            if not _covers(scope, build, place):
                continue
            if place.tag in self._tags.of(place.repository) and not self._is_older(build, place):
                skipped += 1
                continue
            gone = self._pushed.why_gone(build.run, place)
            # Whoever names it wants it tried; only what has expired is beyond that.
            if gone is not None and (scope.everything or gone[0] == "ARTIFACT_EXPIRED"):
                code, reason = gone
                results.append(Result(place.repository, place.tag, Outcome.SKIPPED, code=code, reason=reason))
            else:
                items.append(item_of(build, place))
        if not items and not results and not skipped:
            return None
        return Page(str(build.run.id), tuple(items), skipped, tuple(results))

    def _flawed(self, flawed: Flawed, scope: Scope) -> Page | None:
        group = f"{RUN}{flawed.run.id}"
        if scope.groups is not None and group not in scope.groups:
            return None
        if flawed.fresh:
            return Page(str(flawed.run.id), failures=(Failure(Item(group, "*"), flawed.error),))
        # It was reported when it was found, and will not change: no failure at every look.
        code, reason = flawed.error.code.name, flawed.error.what
        return Page(str(flawed.run.id), results=(Result(group, "*", Outcome.SKIPPED, code=code, reason=reason),))

    def _is_older(self, build: Build, place: Place) -> bool:
        """Whether the tag that is there came from an earlier run of the same image tag, and may be replaced."""
        return self._sync.overwrite and self._pushed.run_of(place) not in (None, build.run.mark)

    def _is_gone(self, build: Build, place: Place) -> bool:
        return place.tag not in self._tags.of(place.repository) and self._pushed.why_gone(build.run, place) is not None

    def _aliases(self, newest: dict[str, Place], scope: Scope) -> Iterator[Item]:
        """The aliases that do not point at the youngest build, where that is there; else its transfer sees to them."""
        if not self._sync.aliases or not scope.everything:
            return
        for repository, place in sorted(newest.items()):
            if place.tag not in self._tags.of(repository):
                continue
            digest = self._target.registry.manifest_digest(repository, place.tag)
            for alias in self._sync.aliases:
                present = self._target.registry.manifest_digest(repository, alias)
                if digest is not None and present != digest:
                    yield Item(repository, alias, target=present, detail={"alias": True})


def item_of(build: Build, place: Place) -> Item:
    """The item that an image of a build is."""
    return Item(place.repository, place.tag, detail={"run": build.run.mark, "image": place.image, "tag": build.tag})


def _covers(scope: Scope, build: Build, place: Place) -> bool:
    if scope.groups is None:
        return True
    named = {f"{RUN}{build.run.id}", build.tag, place.repository, str(place)}
    return not named.isdisjoint(scope.groups)
