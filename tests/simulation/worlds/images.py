"""Images: a source registry with its users, a target registry, and foreign writers at the target."""

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
Key = tuple[str, str]
"""A repository and a tag."""
_SKEW: Final = 10.0
"""Seconds by which clocks may differ, at most."""
_STALE: Final = 30.0
"""Seconds for which a registry may return the previous digest of a tag, with the difference of clocks."""
_FUNCTION_LIFETIME: Final = 1000.0
"""Seconds for which a function may continue after its run has ended."""
_SCANS_UNTIL_READ: Final = 16
"""Complete scans within which a foreign change of a tag is found at a target whose listing has no digests."""
_VERIFY_WINDOW: Final = 1800.0
"""Seconds after a put within which Syncline may replace it: the source tag changed before the put was verified."""


class ImagesWorld:
    """One sync of images between two registries."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.violations: list[str] = []
        self.deferred = 0
        self._stack = stack
        self.rng = rng
        self.source = RegistryServer(f"{name}.prod.example")
        self.target = RegistryServer(f"{name}.dr.example")
        stack.servers[self.source.host] = self.source
        stack.servers[self.target.host] = self.target
        self._overwrite = rng.random() < 0.4
        self._prefix = rng.choice(["", "mirror"])
        self._image_seeds = 0
        self._foreign_changes: dict[Key, float] = {}
        self._changes: defaultdict[Key, list[float]] = defaultdict(list)
        """By tag of the target: the times at which it changed at the source, or at the target by a foreign writer."""
        self._source_digests: defaultdict[Key, set[str]] = defaultdict(set)
        self._changed_after_put: dict[Key, float] = {}
        """By tag of the source: the time of its first change since Syncline put it at the target."""
        self._had_faults = False
        self._present_since: dict[Key, float] = {}
        self._present: defaultdict[Key, list[list[float]]] = defaultdict(list)
        """The periods in which the source had a tag, each with its begin and end."""
        self._puts: list[tuple[float, str, str]] = []
        self._first_seen: dict[tuple[str, str, str], float] = {}
        self._lists_were_cut = False
        self._empty_catalogs: list[tuple[float, float]] = []  # periods in which the source listed no repositories
        self._signed: set[str] = set()
        self._last_put: dict[Key, float] = {}
        self._auth = {server.host: self._credentials(server.host) for server in (self.source, self.target)}
        self.target.on_tag = self._target_changed
        self._watch = TagWatch(stack, self.target, self._push_foreign)
        self.source.on_tag = self._source_changed
        for _ in range(rng.randint(0, 6)):
            self.change_source()
        for _ in range(rng.choice([0, 0, 1, 2])):
            self.change_target()

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
        chance = rng.random()
        if chance < 0.6 or not source.tags():
            source.push_image(repository, tag, self._image_seed(), layers=rng.randint(1, 3))
        elif chance < 0.75:
            source.push_index(repository, tag, [self._image_seed(), self._image_seed()])
        elif chance < 0.85:
            (repository, tag), digest = rng.choice(sorted(source.tags().items()))
            source.push_signature(repository, digest, self._image_seed())
            self._signed.add(digest)
        elif chance < 0.93:
            (repository, tag), _ = rng.choice(sorted(source.tags().items()))
            source.delete_tag(repository, tag)
        else:
            # A tag is set to an image that exists.
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
        self._changes[self._at_target(repository), tag].append(now)
        if old is None:
            self._present[key].append([now, float("inf")])
        elif new is None:
            self._present[key][-1][1] = now
        if new is None:
            self._present_since.pop(key, None)
        else:
            self._source_digests[key].add(new)
            self._present_since.setdefault(key, now)
        put = self._last_put.get((self._at_target(repository), tag), 0.0)
        if key not in self._changed_after_put or self._changed_after_put[key] < put:
            self._changed_after_put[key] = now

    def _image_seed(self) -> int:
        """Return the seed of an image: a new one, or one that was used, so that images share layers."""
        if self._image_seeds and self.rng.random() < 0.2:
            return self.rng.randint(1, self._image_seeds)
        self._image_seeds += 1
        return self._image_seeds

    def change_target(self) -> None:
        rng = self.rng
        repository, tag = self._at_target(rng.choice(REPOSITORIES)), rng.choice(TAGS)
        if rng.random() < 0.7 or not self.target.tags():
            self._push_foreign(repository, tag)
        else:
            (repository, tag), _ = rng.choice(sorted(self.target.tags().items()))
            with self._watch.foreign_writer():
                self.target.delete_tag(repository, tag)

    def _push_foreign(self, repository: str, tag: str) -> None:
        """Push an image to the target as a foreign writer."""
        with self._watch.foreign_writer():
            self.target.push_image(repository, tag, 1000 + self.rng.randrange(50))

    def inject_fault(self) -> None:
        self._had_faults, rng = True, self.rng
        server = rng.choice([self.source, self.target])
        switch = rng.choice(
            ["answers_201_and_forgets", "empty_listing", "listing_cut", "mount_refused", "loses_uploads", "stale_tags"]
        )
        if switch == "answers_201_and_forgets":
            self.target.answers_201_and_forgets = True
        elif switch == "listing_cut":
            server.listing_cut = rng.randint(0, 2)
            self._lists_were_cut = True
        elif switch == "stale_tags":
            server.stale_tags = rng.uniform(0.1, 5.0)
        else:
            setattr(server, switch, True)
            # An empty catalog is an error, but a scan of one repository reads only its tags, and may find none.
            self._lists_were_cut |= switch == "empty_listing"
            if switch == "empty_listing" and server is self.source:
                self._empty_catalogs.append((self._stack.machine.now, float("inf")))

    def clear_faults(self) -> None:
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

    def _target_changed(self, repository: str, tag: str, old: str | None, new: str | None) -> None:
        """Check a change of a tag at the target when it happens."""
        now, key = self._stack.machine.now, (repository, tag)
        if new is not None:
            self._first_seen.setdefault((repository, tag, new), now)
        by = "a stranger" if self._watch.foreign else "syncline"
        self._stack.machine.note(
            f"{self.name}: {by} makes {repository}:{tag} {(new or 'absent')[7:15]}, was {(old or 'absent')[7:15]}"
        )
        if self._watch.foreign:
            self._changes[key].append(now)
            self._foreign_changes[key] = now
            self._last_put.pop(key, None)
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
            return  # a list of referrers, which the client writes
        if new not in self._source_digests[source_key]:
            self.violations.append(f"{named} became {new[:19]}, which the source tag never was")
        ours, self._last_put[key] = self._last_put.get(key), now
        self._puts.append((now, repository, tag))
        if old is None or old == new:
            return
        if ours is not None and abs(self._changed_after_put.get(source_key, 0.0) - ours) < _VERIFY_WINDOW:
            return  # the source tag changed while Syncline copied it
        if not self._overwrite and not self._watch.raced(repository, tag, old, self._foreign_changes.get(key)):
            self.violations.append(f"{named} was overwritten: {old[:19]} became {new[:19]}")

    def may_repeat(self, result: Result) -> bool:
        key = (result.group, result.name)
        return self._had_faults or result.source in self._signed or key in self._foreign_changes

    def check_report(self, run: Run, results: list[Result]) -> Iterator[str]:
        for each in results:
            seen = self._first_seen.get((each.group, each.name, each.source or ""), float("inf"))
            if each.outcome is Outcome.MOVED and seen > (run.ended or seen) + _SKEW:
                yield f"{each.group}:{each.name} is reported as moved, but was not at the target when the run ended"
        most = self._max_equal(run)
        if run.counts.skipped > most:
            yield f"{run.counts.skipped} tags are counted as equal, but the source never had more than {most}"
        yield from self._check_moved(run, results)
        yield from self._check_puts_reported(run, results)
        yield from self._check_unknown_reported(run, results)
        yield from self._check_empty_catalog_reported(run, results)
        if self._lists_were_cut or run.plan or run.scope.groups is not None or run.status is not RunStatus.DONE:
            return  # Syncline cannot know what a list lacked that was cut without an error
        present = sum(since < run.started - _SKEW for since in self._present_since.values())
        reported = run.counts.skipped + len({(each.group, each.name) for each in results})
        if reported < present and not any(each.name == "*" for each in results):
            yield f"{present} tags were at the source during the whole run, {reported} are accounted for: {run.counts}"

    def _max_equal(self, run: Run) -> int:
        """Return the number of tags in a run's scope that were at the source at any time of the run."""
        first, last = run.started - _SKEW, (run.ended or run.started) + _SKEW
        return sum(
            any(begun <= last and ended >= first for begun, ended in spans)
            for (repository, _), spans in self._present.items()
            if run.scope.groups is None or self._at_target(repository) in run.scope.groups
        )

    def _check_moved(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield tags that are reported as moved although neither a byte was sent nor the tag changed."""
        if self._had_faults:
            return  # with an empty listing, tags look absent
        puts = [(repository, tag) for at, repository, tag in self._puts if at > run.started - _STALE]
        for each in results:
            key = (each.group, each.name)
            if each.outcome is not Outcome.MOVED or each.moved_bytes or key in puts or each.source in self._signed:
                continue
            if not any(at > run.started - _STALE for at in self._changes[key]):
                yield f"{each.group}:{each.name} is reported as moved, but did not change"

    def _check_puts_reported(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield tags that a run has put and does not report."""
        if run.plan or run.status is not RunStatus.DONE or run.ended is None:
            return
        reported = {(each.group, each.name) for each in results}
        state = State(cast("Any", self._stack.table), lambda: self._stack.machine.now)
        others = [each for each in state.runs(self.name, 100) if each.id != run.id and not each.plan]
        for at, repository, tag in self._puts:
            key = (repository, tag)
            if key in reported or not run.started + _SKEW < at < run.ended - _SKEW:
                continue
            if any(each.started - _SKEW < at < (each.ended or at) + _FUNCTION_LIFETIME for each in others):
                continue  # a function of another run may still have been working
            if not any(at - _SKEW < changed < run.ended + _SKEW for changed in self._changes[key]):
                yield f"{repository}:{tag} was put, and is not reported"

    def _check_empty_catalog_reported(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield an error if the catalog was empty during a whole run, and the run does not report that."""
        if run.plan or run.scope.groups is not None or run.status is not RunStatus.DONE or run.ended is None:
            return
        first, last = run.started - _SKEW, run.ended + _SKEW
        empty = any(begin <= first and last <= end for begin, end in self._empty_catalogs)
        if empty and not any(each.name == "*" for each in results):
            yield f"the catalog was empty, and the run does not report that: {run.counts}"

    def _check_unknown_reported(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield repositories that an operator has named, that never existed, and that the run does not report."""
        if run.trigger is not Trigger.MANUAL or run.status is not RunStatus.DONE:
            return
        reported = {each.group for each in results if each.name == "*"}
        for group in run.scope.groups or ():
            if self._at_source(group) not in self.source.repositories and not reported & {group, "*"}:
                yield f"{group} is not at the source, and that is not reported"

    def _check_unreported(self, key: Key, digest: str, run: Run) -> Iterator[str]:
        """Yield a tag that differs and is not reported, unless the scan did not have to read it; then count it."""
        if self._may_be_unread(key, run):
            self.deferred += 1
        else:
            have = str(self.target.tags().get(key))
            yield f"{key} differs ({digest[:19]} is {have[:19]}), and is not reported"

    def _may_be_unread(self, key: Key, run: Run) -> bool:
        """Return True if a foreign writer has changed a tag of the target, and too few complete scans were made since."""
        changed = self._foreign_changes.get(key)
        if changed is None or run.plan or key not in self.target.tags():
            return False
        state = State(cast("Any", self._stack.table), lambda: self._stack.machine.now)
        scans = [each for each in state.runs(self.name, 100) if each.scope.everything and not each.plan]
        return sum(each.status is RunStatus.DONE and each.started > changed for each in scans) < _SCANS_UNTIL_READ

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        self.deferred = 0
        wanted = {(self._at_target(r), tag): digest for (r, tag), digest in self.source.tags().items()}
        have = self.target.tags()
        reported = {(each.group, each.name): each for each in results}
        if ("*", "*") in reported:
            return  # the whole scan failed, and the report says so
        for key, digest in sorted(wanted.items()):
            if key[1].startswith("sha256-"):
                continue
            result = reported.get(key) or reported.get((key[0], "*"))
            if have.get(key) == digest:
                if result is not None and result.outcome not in (Outcome.MOVED, Outcome.EQUAL, Outcome.EXTRA):
                    yield f"{key} is equal, and reported as {result.outcome} {result.code}"
            elif result is None:
                yield from self._check_unreported(key, digest, run)
            elif result.outcome not in (Outcome.CONFLICT, Outcome.FAILED, Outcome.KNOWN):
                yield f"{key} differs, and is reported as {result.outcome}"
            elif result.outcome is Outcome.CONFLICT and (self._overwrite or have.get(key) is None):
                yield f"{key} is reported as a conflict, but may be written"
        yield from (f"broken: {each}" for each in self.target.broken())
        # An item that was sent to transfer as a precaution, and was equal, is counted as equal.
        others = sum((e.group, e.name) in wanted and e.outcome is not Outcome.EQUAL for e in results)
        if not any(name == "*" for _, name in reported) and run.counts.skipped + others != len(wanted):
            yield f"{len(wanted)} tags, but {run.counts.skipped} counted as equal and {others} reported: {run.counts}"
