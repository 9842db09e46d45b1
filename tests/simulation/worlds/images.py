"""Images: a production registry, its twin, people who push and retag, and strangers who write to the twin."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast
from unittest.mock import patch

from syncline.kinds.images import wiring
from syncline.model import Outcome, Result, Run, RunStatus, Trigger
from syncline.store.state import State
from tests.simulation.machine import current_process
from tests.simulation.models.registry import RegistryServer, SimRegistry
from tests.simulation.stack import Stack
from tests.simulation.worlds.identities import registry_identity
from tests.simulation.worlds.tag_watch import TagWatch

REPOSITORIES: Final = ("team/app", "team/base", "web/front")
TAGS: Final = ("v1", "v2", "latest", "stable", "edge")
_SKEW: Final = 10.0
"""Seconds by which clocks may differ, at most."""
_STALE: Final = 30.0
"""Seconds for which a registry may show a tag as it was, with the difference of clocks."""
_LONGEST: Final = 1000.0
"""Seconds for which a function may go on after its run was ended."""
_MOVED_ON: Final = 1800.0
"""Seconds within which a tag of ours may be replaced: it moved on at the source before it was verified."""


class ImagesWorld:
    """One sync of images between two registries."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.violations: list[str] = []
        self.late = 0
        self._stack = stack
        self.rng = rng
        self.source = RegistryServer(f"{name}.prod.example")
        self.target = RegistryServer(f"{name}.dr.example")
        stack.servers[self.source.host] = self.source
        stack.servers[self.target.host] = self.target
        self._overwrite = rng.random() < 0.4
        self._prefix = rng.choice(["", "mirror"])
        self._seeds = 0
        self._foreign: dict[tuple[str, str], float] = {}
        self._changed: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._was: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._moved: dict[tuple[str, str], float] = {}
        self._spoiled = False
        self._since: dict[tuple[str, str], float] = {}
        self._there: defaultdict[tuple[str, str], list[list[float]]] = defaultdict(list)
        self._puts: list[tuple[float, str, str]] = []
        self._first_there: dict[tuple[str, str, str], float] = {}
        self._cut = False
        self._empty_catalogs: list[tuple[float, float]] = []  # periods in which the source listed no repositories
        self._signed: set[str] = set()
        self._put: dict[tuple[str, str], float] = {}
        self._auth = {server.host: self._credentials(server.host) for server in (self.source, self.target)}
        self._outside = True
        self.target.on_tag = self._written
        self._watch = TagWatch(stack, self.target, self._push_theirs)
        self.source.on_tag = self._source_changed
        for _ in range(rng.randint(0, 6)):
            self.change_source()
        for _ in range(rng.choice([0, 0, 1, 2])):
            self.change_target()
        self._outside = False

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "images",
            "source": {"registry": self.source.host, "catalog": True, "auth": self._auth[self.source.host]},
            "target": {"registry": self.target.host, "prefix": self._prefix, "auth": self._auth[self.target.host]},
            "overwrite": self._overwrite,
            "concurrency": self.rng.choice([1, 2, 4]),
            "referrers": self.rng.choice(["with-images", "always", "none"]),
        }

    def reconfigure(self) -> dict[str, Any] | None:
        return self.config()

    @contextmanager
    def wired(self) -> Iterator[None]:
        def registry_at(place: Any, secrets: Any, http: Any) -> SimRegistry:
            http.network.identities[place.registry] = registry_identity(place, secrets)
            return SimRegistry(self._stack.servers[place.registry], http.network)

        with patch.object(wiring, "registry_at", registry_at):
            yield

    def _credentials(self, host: str) -> dict[str, Any]:
        plant = self._stack.secret_store.plant
        if self.rng.random() < 0.3:
            return {"token": plant(f"token of {host}")}
        return {"username": plant(f"user of {host}"), "password": plant(f"password of {host}")}

    def change_source(self) -> Iterable[str]:
        rng, source = self.rng, self.source
        repository, tag = rng.choice(REPOSITORIES), rng.choice(TAGS)
        what = rng.random()
        if what < 0.6 or not source.tags():
            source.push_image(repository, tag, self._seed(), layers=rng.randint(1, 3))
        elif what < 0.75:
            source.push_index(repository, tag, [self._seed(), self._seed()])
        elif what < 0.85:
            (repository, tag), digest = rng.choice(sorted(source.tags().items()))
            source.push_signature(repository, digest, self._seed())
            self._signed.add(digest)
        elif what < 0.93:
            (repository, tag), _ = rng.choice(sorted(source.tags().items()))
            source.delete_tag(repository, tag)
        else:
            # A tag moves back to an image that was there before.
            (repository, _), digest = rng.choice(sorted(source.tags().items()))
            source.move_tag(repository, tag, digest)
        return [self._at_target(repository)]

    def _source_changed(self, repository: str, tag: str, old: str | None, new: str | None) -> None:
        note = (
            f"{self.name}: source {repository}:{tag} becomes {(new or 'absent')[7:15]}, was {(old or 'absent')[7:15]}"
        )
        self._stack.machine.note(note)
        key = (repository, tag)
        now = self._stack.machine.now
        self._changed[self._at_target(repository), tag].append(now)
        if old is None:
            self._there[key].append([now, float("inf")])
        elif new is None:
            self._there[key][-1][1] = now
        if new is None:
            self._since.pop(key, None)
        else:
            self._was[key].add(new)
            self._since.setdefault(key, self._stack.machine.now)
        if key not in self._moved or self._moved[key] < self._put.get((self._at_target(repository), tag), 0.0):
            self._moved[key] = self._stack.machine.now  # the first change after we put it

    def _seed(self) -> int:
        """Return the seed of an image: at times one that was used before, as layers are shared."""
        if self._seeds and self.rng.random() < 0.2:
            return self.rng.randint(1, self._seeds)
        self._seeds += 1
        return self._seeds

    def change_target(self) -> None:
        rng = self.rng
        repository, tag = self._at_target(rng.choice(REPOSITORIES)), rng.choice(TAGS)
        self._outside = True
        if rng.random() < 0.7 or not self.target.tags():
            self._push_theirs(repository, tag)
        else:
            (repository, tag), _ = rng.choice(sorted(self.target.tags().items()))
            self.target.delete_tag(repository, tag)
        self._outside = False

    def _push_theirs(self, repository: str, tag: str) -> None:
        """Push an image to the target as a stranger does."""
        self._outside = True
        self.target.push_image(repository, tag, 1000 + self.rng.randrange(50))
        self._outside = False

    def spoil(self) -> None:
        self._spoiled, rng = True, self.rng
        server = rng.choice([self.source, self.target])
        switch = rng.choice(
            ["answers_201_and_forgets", "empty_listing", "listing_cut", "mount_refused", "loses_uploads", "stale_tags"]
        )
        if switch == "answers_201_and_forgets":
            self.target.answers_201_and_forgets = True
        elif switch == "listing_cut":
            server.listing_cut = rng.randint(0, 2)
            self._cut = True
        elif switch == "stale_tags":
            server.stale_tags = rng.uniform(0.1, 5.0)
        else:
            setattr(server, switch, True)
            # A repository may be without tags; a scan of it alone sees no catalog, whose emptiness is not believed.
            self._cut |= switch == "empty_listing"
            if switch == "empty_listing" and server is self.source:
                self._empty_catalogs.append((self._stack.machine.now, float("inf")))

    def heal(self) -> None:
        for server in (self.source, self.target):
            server.behave()
        now = self._stack.machine.now
        self._empty_catalogs = [(begin, min(end, now)) for begin, end in self._empty_catalogs]

    def groups(self) -> list[str]:
        return [self._at_target(repository) for repository in REPOSITORIES]

    def size(self) -> int:
        return len(self.source.tags()) + len(self.target.tags())

    def _at_target(self, repository: str) -> str:
        return f"{self._prefix}/{repository}" if self._prefix else repository

    def _at_source(self, repository: str) -> str:
        return repository.removeprefix(f"{self._prefix}/") if self._prefix else repository

    def _written(self, repository: str, tag: str, old: str | None, new: str | None) -> None:
        """Judge a change of a tag at the target at the moment at which it happens."""
        now, key = self._stack.machine.now, (repository, tag)
        if new is not None:
            self._first_there.setdefault((repository, tag, new), now)
        by = "a stranger" if self._outside else "syncline"
        self._stack.machine.note(
            f"{self.name}: {by} makes {repository}:{tag} {(new or 'absent')[7:15]}, was {(old or 'absent')[7:15]}"
        )
        if self._outside:
            self._changed[key].append(now)
            self._foreign[key] = now
            self._put.pop(key, None)
            return
        named = f"{self.name}: {repository}:{tag}"
        process = current_process()
        if process is not None:
            reference = f"{self.target.host}/{repository}"
            self._stack.leases.check_writer(process, reference, now, f"{named} was put")
        if new is None:
            self.violations.append(f"{named} was removed")
            return
        source_key = (self._at_source(repository), tag)
        if tag.startswith("sha256-"):
            return  # lists of referrers are the client's own
        if new not in self._was[source_key]:
            self.violations.append(f"{named} became {new[:19]}, which the source never had there")
        ours, self._put[key] = self._put.get(key), now
        self._puts.append((now, repository, tag))
        if old is None or old == new:
            return
        if ours is not None and abs(self._moved.get(source_key, 0.0) - ours) < _MOVED_ON:
            return  # the tag moved on at the source while we copied it
        if not self._overwrite and not self._watch.raced(repository, tag, old, self._foreign.get(key)):
            self.violations.append(f"{named} was overwritten: {old[:19]} became {new[:19]}")

    def ends_twice(self, result: Result) -> bool:
        return self._spoiled or result.source in self._signed or (result.group, result.name) in self._foreign

    def untruths(self, run: Run, results: list[Result]) -> Iterator[str]:
        for each in results:
            came = self._first_there.get((each.group, each.name, each.source or ""), float("inf"))
            if each.outcome is Outcome.MOVED and came > (run.ended or came) + _SKEW:
                yield f"{each.group}:{each.name} is reported as moved, and was not at the target by then"
        most = self._most_equal(run)
        if run.counts.skipped > most:
            yield f"{run.counts.skipped} tags are counted as equal, and there never were more than {most}"
        yield from self._untouched(run, results)
        yield from self._untold(run, results)
        yield from self._unknown(run, results)
        yield from self._unreported_empty_catalog(run, results)
        if self._cut or run.plan or run.scope.groups is not None or run.status is not RunStatus.DONE:
            return  # who reads a list that was cut in silence cannot know what it lacks
        there = sum(since < run.started - _SKEW for since in self._since.values())
        told = run.counts.skipped + len({(each.group, each.name) for each in results})
        if told < there and not any(each.name == "*" for each in results):
            yield f"{there} tags were at the source all the time, {told} are accounted for: {run.counts}"

    def _most_equal(self, run: Run) -> int:
        """Return how many tags of a run's scope were at the source at any time of the run."""
        first, last = run.started - _SKEW, (run.ended or run.started) + _SKEW
        return sum(
            any(begun <= last and ended >= first for begun, ended in spans)
            for (repository, _), spans in self._there.items()
            if run.scope.groups is None or self._at_target(repository) in run.scope.groups
        )

    def _untouched(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield tags that are reported as moved although neither a byte was sent nor the tag changed."""
        if self._spoiled:
            return  # a listing without tags makes them look absent
        puts = [(repository, tag) for at, repository, tag in self._puts if at > run.started - _STALE]
        for each in results:
            key = (each.group, each.name)
            if each.outcome is not Outcome.MOVED or each.moved_bytes or key in puts or each.source in self._signed:
                continue
            if not any(at > run.started - _STALE for at in self._changed[key]):
                yield f"{each.group}:{each.name} is reported as moved, and nobody has touched it"

    def _untold(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield tags that a run has put and does not tell of."""
        if run.plan or run.status is not RunStatus.DONE or run.ended is None:
            return
        told = {(each.group, each.name) for each in results}
        state = State(cast("Any", self._stack.table), lambda: self._stack.machine.now)
        others = [each for each in state.runs(self.name, 100) if each.id != run.id and not each.plan]
        for at, repository, tag in self._puts:
            key = (repository, tag)
            if key in told or not run.started + _SKEW < at < run.ended - _SKEW:
                continue
            if any(each.started - _SKEW < at < (each.ended or at) + _LONGEST for each in others):
                continue  # a function of another run may have been at work still
            if not any(at - _SKEW < changed < run.ended + _SKEW for changed in self._changed[key]):
                yield f"{repository}:{tag} was put, and is not reported"

    def _unreported_empty_catalog(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield an error if the catalog was empty during a whole run, and the run does not report that."""
        if run.plan or run.scope.groups is not None or run.status is not RunStatus.DONE or run.ended is None:
            return
        first, last = run.started - _SKEW, run.ended + _SKEW
        empty = any(begin <= first and last <= end for begin, end in self._empty_catalogs)
        if empty and not any(each.name == "*" for each in results):
            yield f"the catalog was empty, and the run does not report that: {run.counts}"

    def _unknown(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield repositories that a person has named, that never were, and of which nothing is said."""
        if run.trigger is not Trigger.MANUAL or run.status is not RunStatus.DONE:
            return
        told = {each.group for each in results if each.name == "*"}
        for group in run.scope.groups or ():
            if self._at_source(group) not in self.source.repositories and not told & {group, "*"}:
                yield f"{group} is not at the source, and that is not reported"

    def differences(self, run: Run, results: list[Result]) -> Iterator[str]:
        wanted = {(self._at_target(r), tag): digest for (r, tag), digest in self.source.tags().items()}
        have = self.target.tags()
        told = {(each.group, each.name): each for each in results}
        if ("*", "*") in told:
            return  # the whole scan failed, which is said
        for key, digest in sorted(wanted.items()):
            if key[1].startswith("sha256-"):
                continue
            result = told.get(key) or told.get((key[0], "*"))
            if have.get(key) == digest:
                if result is not None and result.outcome not in (Outcome.MOVED, Outcome.EQUAL, Outcome.EXTRA):
                    yield f"{key} is equal, and reported as {result.outcome} {result.code}"
            elif result is None:
                yield f"{key} differs ({digest[:19]} is {str(have.get(key))[:19]}), and is not reported"
            elif result.outcome not in (Outcome.CONFLICT, Outcome.FAILED, Outcome.KNOWN):
                yield f"{key} differs, and is reported as {result.outcome}"
            elif result.outcome is Outcome.CONFLICT and (self._overwrite or have.get(key) is None):
                yield f"{key} is reported as a conflict that is none"
        yield from (f"broken: {each}" for each in self.target.broken())
        # What was sent on to be sure, and was equal, is counted as equal.
        told_of = sum((e.group, e.name) in wanted and e.outcome is not Outcome.EQUAL for e in results)
        if not any(name == "*" for _, name in told) and run.counts.skipped + told_of != len(wanted):
            yield f"{len(wanted)} tags, {run.counts.skipped} of them equal and {told_of} reported: {run.counts}"
