"""Checks of artifacts: each write to the registry when it happens, and the reports of runs.

The expected tags follow from what was built: the newest successful run that the sync selects decides an image tag, its
metadata block names the images, and its last attempt has them.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from syncline.clients.github.client import WorkflowRun
from syncline.clients.registry.reference import digest_of
from syncline.model import Outcome, Result, Run
from tests.simulation.machine import writer
from tests.simulation.models.github import GitHubServer
from tests.simulation.models.registry import RegistryServer
from tests.simulation.stack import Stack
from tests.simulation.worlds.artifacts_builds import REPOSITORY, Build, Key, has_images
from tests.simulation.worlds.tag_watch import TagWatch

_GZIP: Final = b"\x1f\x8b"
_SKEW: Final = 10.0
"""Seconds by which clocks may differ, at most."""
_MAX_DELAY: Final = 3 * 3600.0
"""Seconds for which a step may act on what an earlier step found: messages are delivered late and repeatedly."""

Rank = tuple[float, int, int]
"""The creation time of a run, its ID and its attempt. A newer attempt is greater."""
_OLDEST: Final[Rank] = (0.0, 0, 0)


@dataclass(frozen=True, slots=True)
class Rules:
    """The configuration that the judge has to know."""

    overwrite: bool
    branch: str | None
    limit: int
    aliases: Sequence[str]


@dataclass(frozen=True, slots=True)
class Expected:
    """The run that decides a tag, and the config digest of its image, None if the run did not save the image."""

    run: WorkflowRun
    config: str | None


class ArtifactsJudge:
    """The judge of one sync, which collects its ``violations``. ``builds`` are the runs at GitHub, by ID."""

    def __init__(
        self, name: str, stack: Stack, rules: Rules, github: GitHubServer, registry: RegistryServer, watch: TagWatch
    ) -> None:
        self.name = name
        self.rules = rules
        self.builds: dict[int, Build] = {}
        self.violations: list[str] = []
        self.had_faults = False
        self.had_wrong_bytes = False
        self._stack = stack
        self._github = github
        self._registry = registry
        self._watch = watch
        self._ranks: defaultdict[Key, dict[str, set[Rank]]] = defaultdict(dict)
        """The attempts that made each image of a tag, by config digest."""
        self._history: defaultdict[Key, list[tuple[float, str | None]]] = defaultdict(list)
        """The image that each tag should have had from a time on."""
        self._foreign_changes: dict[Key, float] = {}
        self._last_put: dict[Key, str] = {}
        """The image that Syncline put last, also if a foreign writer has replaced it."""
        self._ours: dict[Key, str] = {}
        """The image that Syncline put, until a foreign writer changes the tag."""
        self._adoptable: set[Key] = set()
        """Tags that a foreign writer set to the image of a build, so that a scan may have found them equal."""
        self._first_seen: dict[tuple[str, str, str], float] = {}
        registry.on_tag = self._tag_changed

    def note(self, text: str) -> None:
        self._stack.machine.note(f"{self.name}: {text}")

    # -- the expected tags

    def record_attempt(self, run: int) -> None:
        """Record the images of a run's last attempt."""
        build, about = self.builds[run], self._github.run(REPOSITORY, run)
        if build.valid and self._selects(about):
            for name, config in build.images.items():
                ranks = self._ranks[build.key(name)].setdefault(config, set())
                ranks.add((about.created, about.id, about.attempt))
        self.record_expected()

    def record_expected(self) -> None:
        """Record which image each tag should have from now on."""
        # A delivery or an operator may name a run that is older than those within the limit.
        expected = self._expected(len(self.builds))
        for key in sorted({*expected, *self._history}):
            config = expected[key].config if key in expected else None
            if not self._history[key] or self._history[key][-1][1] != config:
                self._history[key].append((self._stack.machine.now, config))

    def _selects(self, run: WorkflowRun) -> bool:
        return run.conclusion == "success" and self.rules.branch in (None, run.branch)

    def _selected(self, limit: int | None = None) -> list[tuple[WorkflowRun, Build]]:
        """Return the runs that the sync selects, the newest first."""
        found = [(self._github.run(REPOSITORY, run), build) for run, build in self.builds.items()]
        fit = [(run, build) for run, build in found if self._selects(run)]
        return sorted(fit, key=lambda each: (each[0].created, each[0].id), reverse=True)[: limit or self.rules.limit]

    def _expected(self, limit: int | None = None) -> dict[Key, Expected]:
        """Return the expected image of each tag. The newest run with an image tag decides, whichever images it has."""
        found: dict[Key, Expected] = {}
        seen: set[str] = set()
        for run, build in self._selected(limit):
            if build.valid and build.tag not in seen:
                seen.add(build.tag)
                found |= {build.key(name): Expected(run, build.images.get(name)) for name in sorted(build.wanted)}
        return found

    def _was_expected(self, key: Key, config: str) -> bool:
        """Return True if the tag should have had this image at some time within ``_MAX_DELAY``."""
        since, history = self._stack.machine.now - _MAX_DELAY, self._history[key]
        ends = [*(when for when, _ in history[1:]), float("inf")]
        return any(each == config and end >= since for (_, each), end in zip(history, ends, strict=True))

    # -- each write

    def _tag_changed(self, repository: str, tag: str, old: str | None, new: str | None) -> None:
        """Check a change of a tag when it happens."""
        key, now = (repository, tag), self._stack.machine.now
        made, before = self._config_at(repository, new), self._config_at(repository, old)
        by = "a stranger" if self._watch.foreign else "syncline"
        self.note(f"{by} makes {repository}:{tag} {_short(new)} ({_short(made)}), was {_short(old)} ({_short(before)})")
        if made is not None:
            self._first_seen.setdefault((repository, tag, made), now)
        if self._watch.foreign:
            self._foreign_changes[key] = now
            self._ours.pop(key, None)
            if made in self._ranks[key]:
                self._adoptable.add(key)
            return
        named = f"{self.name}: {repository}:{tag}"
        if (process := writer()) is not None:
            reference = f"{self._registry.host}/{repository}"
            self._stack.leases.check_writer(process, reference, now, f"{named} was put")
        if new is None or made is None:
            self.violations.append(f"{named} was removed")
            return
        self.violations += [f"{named} is incomplete: {each}" for each in self._registry.absent(repository, new)]
        self.violations += [f"{named} is damaged: {each}" for each in self._wrong_layers(repository, new)]
        if tag in self.rules.aliases:
            self._check_alias_put(repository, named, made)
        else:
            self._check_image_put(key, named, made, old, new)

    def _check_alias_put(self, repository: str, named: str, made: str) -> None:
        """Check the image of an alias: it is of a build, or at the tag of a build that Syncline never put.

        A foreign writer may have replaced that tag since Syncline read it.
        """
        built = any(made in ranks for (where, _), ranks in self._ranks.items() if where == repository)
        tags = self._registry.tags()
        wanted = {build.key(name) for build in self.builds.values() for name in build.wanted}
        keys = [key for key in wanted if key[0] == repository and key not in self._last_put]
        there = {
            each for key in keys for each in self._watch.possible(*key, tags.get(key), self._foreign_changes.get(key))
        }
        if not built and made not in {self._config_at(repository, digest) for digest in there}:
            self.violations.append(f"{named} became {made[:19]}, which no build made")

    def _check_image_put(self, key: Key, named: str, made: str, old: str | None, new: str) -> None:
        """Check an image that was put under the tag of its build."""
        ours, self._ours[key] = self._ours.get(key), made
        before = self._config_at(key[0], old)
        self._last_put[key] = made
        if not self._was_expected(key, made):
            self.violations.append(f"{named} became {made[:19]}, which is not of a build that decides the tag")
        if old in (None, new) or self._watch.raced(*key, old, self._foreign_changes.get(key)):
            return
        if not self.rules.overwrite:
            self.violations.append(f"{named} was overwritten: {_short(before)} became {_short(made)}")
        elif before == made:
            self.violations.append(f"{named} was put again with the same image")
        elif ours == before and before is not None and self._is_older(key, made, before):
            self.violations.append(f"{named} was replaced by an older build: {_short(before)} became {_short(made)}")

    def _is_older(self, key: Key, made: str, before: str) -> bool:
        """Return True if all runs that made one image are older than all that made another."""
        ranks = self._ranks[key]
        return made in ranks and before in ranks and max(ranks[made]) < min(ranks[before])

    def _config_at(self, repository: str, digest: str | None) -> str | None:
        """Return the config digest of a manifest, which is the ID of the image."""
        if digest is None:
            return None
        stored = self._registry.repositories[repository].manifests.get(digest)
        return None if stored is None or stored.is_index else stored.blobs[0][0]

    def _wrong_layers(self, repository: str, digest: str) -> Iterator[str]:
        """Yield the layers whose content differs from the config. Configs of foreign images list no layers."""
        found = self._registry.repositories[repository]
        (config, _), *layers = found.manifests[digest].blobs
        diff_ids = json.loads(found.blobs.get(config, b"{}")).get("rootfs", {}).get("diff_ids", [])
        for diff_id, (layer, _) in zip(diff_ids, layers, strict=False):
            packed = found.blobs.get(layer, b"")
            if packed.startswith(_GZIP) and digest_of(gzip.decompress(packed)) != diff_id:
                yield f"layer {layer[:19]} does not contain {diff_id[:19]}"

    # -- reports

    def may_repeat(self, result: Result) -> bool:
        return self.had_faults or (result.group, result.name) in self._foreign_changes

    def check_report(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the images that are reported as moved and were not at the target when the run ended."""
        for each in results:
            seen = self._first_seen.get((each.group, each.name, each.source or ""), float("inf"))
            if each.outcome is Outcome.MOVED and seen > (run.ended or seen) + _SKEW:
                yield f"{each.group}:{each.name} is reported as moved, but did not have that image when the run ended"

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the errors of a full run without faults."""
        reported = {(each.group, each.name): each for each in results}
        expected = self._expected()
        for key, image in sorted(expected.items()):
            yield from self._check_image(key, image, reported.get(key))
        unexpected = sum(r.outcome is Outcome.EQUAL and key not in expected for key, r in reported.items())
        equal = run.counts.skipped - unexpected
        others = sum(r.outcome is not Outcome.EQUAL and key in expected for key, r in reported.items())
        if equal + others != len(expected):
            yield f"{len(expected)} images, but {equal} counted as equal and {others} reported: {run.counts}"
        for made, build in self._selected():
            if not build.valid and not any(_names(each, made) and each.code for each in results):
                yield f"run {made.number} has no valid block, and is not reported"
        yield from self._check_aliases(expected, reported)
        yield from (f"broken: {each}" for each in self._registry.broken())

    def _check_image(self, key: Key, image: Expected, result: Result | None) -> Iterator[str]:
        digest = self._registry.tags().get(key)
        have = self._config_at(key[0], digest)
        if digest is not None and (have == image.config or not self.rules.overwrite):
            allowed = [Outcome.MOVED, Outcome.EQUAL, Outcome.EXTRA]
            if have != image.config:
                allowed += [Outcome.CONFLICT]
            # An image that cannot be downloaded cannot be compared with a foreign one, or with one of an earlier attempt.
            comparable = have == image.config and key not in self._foreign_changes and not self.rules.overwrite
            if not self._is_obtainable(image) and not comparable:
                allowed += [Outcome.FAILED, Outcome.KNOWN]
            if result is not None and result.outcome not in allowed:
                yield f"{key} is present, and is reported as {result.outcome} {result.code}"
        elif self._is_newer(key, have, image) or (
            digest is not None and key in self._foreign_changes and key in self._last_put.keys() | self._adoptable
        ):
            return  # lists of tags have no digests, so a foreign image in place of a build stays until a newer run
        elif result is None:
            yield f"{key} differs ({_short(image.config)} is {_short(have)}), and is not reported"
        elif result.outcome not in (Outcome.FAILED, Outcome.KNOWN) or not result.code:
            yield f"{key} differs, and is reported as {result.outcome} {result.code}"
        elif self._is_obtainable(image) and not self.had_wrong_bytes:
            yield f"{key} is obtainable, and is reported as {result.outcome} {result.code}: {result.reason}"

    def _is_newer(self, key: Key, have: str | None, image: Expected) -> bool:
        """Return True if an image is of a newer run than the expected one. That run is no longer listed."""
        ranks = self._ranks[key].get(have or "", set())
        return max(ranks, default=_OLDEST) > (image.run.created, image.run.id, image.run.attempt)

    def _is_obtainable(self, image: Expected) -> bool:
        artifacts = self._github.artifacts(REPOSITORY, image.run.id)[0]
        kept = [each for each in artifacts if has_images(each)]
        return image.config is not None and bool(kept) and not kept[-1].expired

    def _check_aliases(self, expected: Mapping[Key, Expected], reported: Mapping[Key, Result]) -> Iterator[str]:
        tags = self._registry.tags()
        for repository in sorted({repository for repository, _ in expected}):
            newest = self._newest_present(repository, expected)
            for alias in self.rules.aliases if newest is not None else ():
                key = (repository, alias)
                have = self._config_at(repository, tags.get(key))
                if key not in self._foreign_changes and have != newest and key not in reported:
                    yield f"{key} is {_short(have)}, and the newest image in its repository is {_short(newest)}"

    def _newest_present(self, repository: str, expected: Mapping[Key, Expected]) -> str | None:
        """Return the image of the newest build in a repository, None if it depends on Syncline's records."""
        found: list[tuple[Rank, Rank, str]] = []  # the oldest and the newest run that may have made an image
        for key in (key for key in expected if key[0] == repository and key in self._registry.tags()):
            config, ranks = self._config_at(repository, self._registry.tags()[key]), self._ranks[key]
            if config is None or self._last_put.get(key, config) != config:
                continue  # a foreign image in place of a build
            run = expected[key].run
            decides = (run.created, run.id, run.attempt)
            if key not in self._last_put and config != expected[key].config:
                found.append((_OLDEST, decides, ""))  # a foreign image: it counts as the build's until it is compared
            else:
                made = ranks.get(config, {decides})
                found.append((min(made), max(made), config))
        oldest, _, newest = max(found, default=(_OLDEST, _OLDEST, ""))
        others = [last for _, last, config in found if config != newest]
        return newest if newest and all(oldest > last for last in others) else None


def _names(result: Result, run: WorkflowRun) -> bool:
    """Return True if a result is about a run."""
    words = f"{result.group} {result.name}"
    return any(number in words for number in (f"run:{run.number}", str(run.id)))


def _short(digest: str | None) -> str:
    return "absent" if digest is None else digest[7:15]
