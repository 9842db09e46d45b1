"""Artifacts: a workflow that builds images, a project's registry at GitLab, and strangers who tag images there.

The truth is taken from what was built: the youngest successful run of those that the sync looks at decides what a tag
is, its block names the images, and its last attempt holds them.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from syncline.clients.github.client import WorkflowRun
from syncline.clients.registry.reference import digest_of
from syncline.config.sync import load_sync
from syncline.kinds.artifacts import wiring
from syncline.model import Outcome, Result, Run
from syncline.wiring.syncs import changed_groups_of
from tests.simulation.machine import current_process
from tests.simulation.models.builds import DAMAGED, Format, image_of
from tests.simulation.models.github import GitHubServer, SimGitHub
from tests.simulation.models.gitlab import GitLabServer, SimGitLab
from tests.simulation.models.registry import RegistryServer, SimRegistry
from tests.simulation.stack import Stack
from tests.simulation.worlds.artifacts_builds import (
    COORDINATOR,
    ODD_BLOCKS,
    PLATFORMS,
    PROJECT,
    REPOSITORY,
    STEMS,
    WORKERS,
    WORKFLOW,
    Build,
    Key,
    beside,
    build_rules,
    config_of,
    has_images,
)
from tests.simulation.worlds.identities import github_identity, registry_identity, token_identity
from tests.simulation.worlds.tag_watch import TagWatch

_GZIP: Final = b"\x1f\x8b"
_SKEW: Final = 10.0
"""Seconds by which clocks may differ, at most."""
_OLD: Final = 3 * 3600.0
"""Seconds after which no work may rest on what a scan found: messages come late and again, and each step looks anew."""

Rank = tuple[float, int, int]
"""When a run was created, its id and its attempt: greater is younger."""
_NEVER: Final[Rank] = (0.0, 0, 0)


@dataclass(frozen=True, slots=True)
class Winner:
    """The build that decides what a tag is. ``config`` is None if the build does not have the image it announces."""

    run: WorkflowRun
    config: str | None


class ArtifactsWorld:
    """One sync of the builds of a workflow to the registry of a project."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.violations: list[str] = []
        self.late = 0
        self._stack = stack
        self.github = GitHubServer(stack.machine, f"api.{name}.example")
        self.registry = RegistryServer(f"registry.{name}.example")
        self.gitlab = GitLabServer(self.registry, PROJECT, f"gitlab.{name}.example")
        stack.servers |= {server.host: server for server in (self.github, self.gitlab, self.registry)}
        self._overwrite = rng.random() < 0.5
        self._branch = rng.choice([None, None, "main"])
        self._limit = rng.choice([2, 5, 20])
        self._aliases = rng.choice([[], ["latest"], ["latest", "newest"]])
        self._api = rng.random() < 0.7
        self._references = {
            each: stack.secret_store.plant(f"{each} of {name}") for each in ("github", "gitlab", "registry")
        }
        self._builds: dict[int, Build] = {}
        self._layers = 0
        self._spoiled = False
        self._damaged = False
        self._outside = True
        self._ranks: defaultdict[Key, dict[str, set[Rank]]] = defaultdict(dict)
        self._won: defaultdict[Key, list[tuple[float, str | None]]] = defaultdict(list)
        self._foreign: dict[Key, float] = {}
        self._put: dict[Key, str] = {}
        self._adoptable: set[Key] = set()
        """Tags that had the image of a build by a stranger's hand, so that a scan may have found them equal."""
        self._first_there: dict[tuple[str, str, str], float] = {}
        self._ours: dict[Key, str] = {}
        self.registry.on_tag = self._written
        self._watch = TagWatch(stack, self.registry, self._push_theirs)
        self._add_build()  # a workflow that never ran is not known
        for _ in range(rng.randint(0, 5)):
            self._change()
        for _ in range(rng.choice([0, 0, 1, 2])):
            self.change_target()
        self._outside = False

    def config(self) -> dict[str, Any]:
        source: dict[str, Any] = {
            "repository": REPOSITORY,
            "workflow": WORKFLOW,
            "limit": self._limit,
            "url": f"https://api.{self.name}.example",
            "auth": {"token": self._references["github"]},
        }
        if self._branch is not None:
            source["branch"] = self._branch
        auth = {"username": "builder", "password": self._references["registry"]}
        target: dict[str, Any] = {"registry": self.registry.host, "project": PROJECT, "auth": auth}
        if self._api:
            target["api"] = {"url": f"https://gitlab.{self.name}.example", "token": self._references["gitlab"]}
        return {
            "name": self.name,
            "kind": "artifacts",
            "source": source,
            "build": build_rules(),
            "target": target,
            "overwrite": self._overwrite,
            "aliases": self._aliases,
        }

    def reconfigure(self) -> dict[str, Any] | None:
        return self.config()  # another limit would be another truth, from a moment that nobody knows

    @contextmanager
    def wired(self) -> Iterator[None]:
        servers = self._stack.servers

        def github_at(source: Any, secrets: Any, http: Any) -> SimGitHub:
            http.network.identities[_host(source.url)] = github_identity(source, secrets, http)
            return SimGitHub(servers[_host(source.url)], http.network)

        def gitlab_at(place: Any, secrets: Any, http: Any) -> SimGitLab | None:
            if place.api is None:
                return None
            http.network.identities[_host(place.api.url)] = token_identity(place.api.token, secrets)
            return SimGitLab(servers[_host(place.api.url)], http.network)

        def registry_at(place: Any, secrets: Any, http: Any) -> SimRegistry:
            http.network.identities[place.registry] = registry_identity(place, secrets)
            return SimRegistry(servers[place.registry], http.network)

        with ExitStack() as stack:
            for replaced in (github_at, gitlab_at, registry_at):
                stack.enter_context(patch.object(wiring, replaced.__name__, replaced))
            yield

    # -- the builds

    def change_source(self) -> Iterable[str]:
        run = self._change()
        if self.rng.random() < 0.2:  # the delivery is of another run, first of one whose image tag was made again
            made = {build.tag: each for each, build in sorted(self._builds.items())}
            again = [each for each, build in sorted(self._builds.items()) if made[build.tag] != each]
            run = self.rng.choice(again or sorted(self._builds))
        return self._hints(run)

    def _change(self) -> int:
        rng = self.rng
        runs = sorted(self._builds)
        what = rng.random()
        if what < 0.6 or not runs:
            return self._add_build()
        run = rng.choice(runs)
        build, status = self._builds[run], self.github.run(REPOSITORY, run).status
        self._note(f"run {run} of {build.tag} changes")
        if status != "completed":
            self.github.finish(run, rng.choice(["success", "success", "failure"]))
            self._made(run)
        elif what < 0.8:
            images = {name: self._layers_of(name) for name in build.images} if rng.random() < 0.7 else None
            self.github.rerun(run, images=images, conclusion=rng.choice(["success", "success", "failure", None]))
            if images is not None:
                build.images = {name: config_of(name, build.tag, layers) for name, layers in images.items()}
            self._made(run)
        elif what < 0.93 or len(runs) < 2:
            artifacts = self.github.artifacts(REPOSITORY, run)[0]
            saved = [each for each in artifacts if has_images(each)]
            if saved:
                self.github.expire(saved[-1].id if rng.random() < 0.7 else rng.choice(artifacts).id)
        else:
            self.github.remove_build(run)
            del self._builds[run]
            self._judge_winners()
        return run

    def _add_build(self) -> int:
        rng = self.rng
        tag = f"{rng.choice(STEMS)}-{rng.choice(list(PLATFORMS))}"
        names = [COORDINATOR, *rng.sample(list(WORKERS), rng.randint(0, 3))]
        metadata: dict[str, str | None] = {}
        odd = rng.random()
        if odd < 0.1:
            metadata |= rng.choice(ODD_BLOCKS)
        wanted = frozenset(names)
        if 0.1 <= odd < 0.16:  # an image is announced, and not saved
            name = rng.choice(names)
            names.remove(name)
            if name != COORDINATOR:
                metadata[WORKERS[name]] = "true"
        images = {name: self._layers_of(name) for name in names}
        if 0.16 <= odd < 0.22 and names:  # an image is saved with another layer than its config says
            damaged = names.pop()
            images[damaged].append(DAMAGED + images[damaged][-1])
            metadata |= {WORKERS[damaged]: "true"} if damaged in WORKERS else {}  # in later attempts, too
        conclusion = rng.choice(["success"] * 6 + ["failure", None])
        form: Format = "legacy" if rng.random() < 0.5 else "oci"
        run = self.github.add_build(
            REPOSITORY,
            WORKFLOW,
            tag=tag,
            images=images,
            metadata=metadata,
            conclusion=conclusion,
            form=form,
            branch="main" if rng.random() < 0.8 else "other",
            took=rng.choice([20.0, 60.0, 900.0]),
            beside=beside(rng) if rng.random() < 0.3 else None,
            behind=beside(rng) if rng.random() < 0.2 else None,
        )
        made = {name: config_of(name, tag, images[name]) for name in names}
        self._builds[run] = Build(tag, not 0 <= odd < 0.1, made, wanted)
        self._note(f"run {run} of {tag}: {conclusion}, {', '.join(sorted(wanted))}, odd {odd:.2f}")
        self._made(run)
        return run

    def _layers_of(self, name: str) -> list[bytes]:
        """Return the content of an image's layers: a base that images share, and some that are new or were before."""
        rng = self.rng
        numbers = []
        for _ in range(rng.randint(1, 2)):
            if not self._layers or rng.random() < 0.8:
                self._layers += 1
                numbers.append(self._layers)
            else:
                numbers.append(rng.randint(1, self._layers))
        return [b"base", *(f"{name} layer {n} ".encode() * rng.choice([1, 400]) for n in dict.fromkeys(numbers))]

    def _made(self, run: int) -> None:
        """Note what an attempt made, and who decides now."""
        build, about = self._builds[run], self.github.run(REPOSITORY, run)
        if build.valid and self._takes(about):
            for name, config in build.images.items():
                ranks = self._ranks[build.key(name)].setdefault(config, set())
                ranks.add((about.created, about.id, about.attempt))
        self._judge_winners()

    def _takes(self, run: WorkflowRun) -> bool:
        return run.conclusion == "success" and self._branch in (None, run.branch)

    def _selected(self, limit: int | None = None) -> list[tuple[WorkflowRun, Build]]:
        """Return the runs that the sync looks at, the youngest first."""
        found = [(self.github.run(REPOSITORY, run), build) for run, build in self._builds.items()]
        fit = [(run, build) for run, build in found if self._takes(run)]
        return sorted(fit, key=lambda each: (each[0].created, each[0].id), reverse=True)[: limit or self._limit]

    def winners(self, limit: int | None = None) -> dict[Key, Winner]:
        """Return what each tag should be. The youngest run with an image tag counts, whichever images it has."""
        found: dict[Key, Winner] = {}
        seen: set[str] = set()
        for run, build in self._selected(limit):
            if build.valid and build.tag not in seen:
                seen.add(build.tag)
                found |= {build.key(name): Winner(run, build.images.get(name)) for name in sorted(build.wanted)}
        return found

    def _judge_winners(self) -> None:
        # A delivery, or a person, may name a run that is older than those that are looked at.
        winners = self.winners(len(self._builds))
        for key in sorted({*winners, *self._won}):
            config = winners[key].config if key in winners else None
            if not self._won[key] or self._won[key][-1][1] != config:
                self._won[key].append((self._stack.machine.now, config))

    def _is_fresh(self, key: Key, config: str) -> bool:
        """Return True if a tag should have been this image at any time not long ago."""
        since = self._stack.machine.now - _OLD
        ends = [*(when for when, _ in self._won[key][1:]), float("inf")]
        return any(won == config and end >= since for (_, won), end in zip(self._won[key], ends, strict=True))

    def _hints(self, run: int) -> tuple[str, ...]:
        """Return the groups that the delivery about a run names."""
        sync = load_sync(json.dumps(self.config()))
        if run not in self._builds:
            return ()
        about = self.github.run(REPOSITORY, run)
        event = {
            "action": "completed" if about.status == "completed" else "in_progress",
            "workflow_run": {
                "id": about.id,
                "run_number": about.number,
                "run_attempt": about.attempt,
                "head_branch": about.branch,
                "head_sha": about.sha,
                "path": about.path,
                "event": about.event,
                "status": about.status,
                "conclusion": about.conclusion or None,
            },
            "workflow": {"path": about.path},
            "repository": {"full_name": REPOSITORY},
        }
        return changed_groups_of(sync, event, self._stack.machine.now)

    # -- strangers

    def change_target(self) -> None:
        rng = self.rng
        self._outside = True
        tags = self.registry.tags()
        build = self._builds[rng.choice(sorted(self._builds))]
        repository, tag = build.key(rng.choice([COORDINATOR, *WORKERS]))
        what = rng.random()
        if what < 0.1 and self._aliases:
            tag = rng.choice(self._aliases)
        if what < 0.45 or not tags:
            self._push_theirs(repository, tag)
        elif what < 0.6:
            # Somebody pushes the same image with another program: the same config, other bytes of its layers.
            name = repository.rpartition("/")[2]
            if name in build.images:
                layers = [f"packed otherwise, {name} {rng.randrange(5)}".encode()]
                config = image_of(name, build.tag, self.github.layers(self._run_of(build))[name]).config
                self.registry.push_config(repository, tag, config, layers)
        else:
            (repository, tag), digest = rng.choice(sorted(tags.items()))
            if what < 0.75:
                manifests = sorted(self.registry.repositories[repository].manifests)
                self.registry.move_tag(repository, tag, rng.choice([*manifests, digest]))
            else:
                self.registry.delete_tag(repository, tag)
        self._outside = False

    def _push_theirs(self, repository: str, tag: str) -> None:
        """Push an image as a stranger does."""
        self._outside = True
        self.registry.push_image(repository, tag, 1000 + self.rng.randrange(50))
        self._outside = False

    def _run_of(self, build: Build) -> int:
        return next(run for run, each in self._builds.items() if each is build)

    # -- the servers

    def spoil(self) -> None:
        self._spoiled, rng = True, self.rng
        switch = rng.choice(
            [
                "github.listing_cut",
                "github.empty_listing",
                "github.digest_null",
                "github.wrong_bytes",
                "github.url_lives",
                "gitlab.listing_cut",
                "gitlab.empty_listing",
                "gitlab.digest_null",
                "registry.listing_cut",
                "registry.empty_listing",
                "registry.answers_201_and_forgets",
                "registry.loses_uploads",
                "registry.mount_refused",
                "registry.stale_tags",
            ]
        )
        self._note(f"{switch} from now on")
        self._damaged |= switch == "github.wrong_bytes"
        where, _, name = switch.partition(".")
        value = {
            "listing_cut": rng.randint(0, 2),
            "url_lives": rng.choice([0.5, 5.0]),
            "loses_uploads": rng.choice([0.1, 1.0]),
            "stale_tags": rng.uniform(0.1, 5.0),
        }.get(name, True)
        setattr(getattr(self, where), name, value)

    def heal(self) -> None:
        for server in (self.github, self.gitlab, self.registry):
            server.behave()

    def groups(self) -> list[str]:
        tags = sorted({build.tag for build in self._builds.values()})
        repositories = sorted({build.key(name)[0] for build in self._builds.values() for name in build.wanted})
        return [*tags, *(f"run:{run}" for run in sorted(self._builds)), *repositories]

    def size(self) -> int:
        return len(self._builds) * (1 + len(WORKERS)) + len(self.registry.tags())

    # -- the judgement

    def _written(self, repository: str, tag: str, old: str | None, new: str | None) -> None:
        """Judge a change of a tag at GitLab at the moment at which it happens."""
        key, now = (repository, tag), self._stack.machine.now
        made, was = self._config_at(repository, new), self._config_at(repository, old)
        by = "a stranger" if self._outside else "syncline"
        self._note(f"{by} makes {repository}:{tag} {_short(new)} ({_short(made)}), was {_short(old)} ({_short(was)})")
        if made is not None:
            self._first_there.setdefault((repository, tag, made), now)
        if self._outside:
            self._foreign[key] = now
            self._ours.pop(key, None)
            if made in self._ranks[key]:
                self._adoptable.add(key)
            return
        named = f"{self.name}: {repository}:{tag}"
        if (process := current_process()) is not None:
            reference = f"{self.registry.host}/{repository}"
            self._stack.leases.check_writer(process, reference, now, f"{named} was put")
        if new is None or made is None:
            self.violations.append(f"{named} was removed")
            return
        self.violations += [f"{named} is not whole: {each}" for each in self.registry.absent(repository, new)]
        self.violations += [f"{named} is not what was saved: {each}" for each in self._wrong_layers(repository, new)]
        if tag in self._aliases:
            self._judge_alias(repository, named, made)
        else:
            self._judge_image(key, named, made, old, new)

    def _judge_alias(self, repository: str, named: str, made: str) -> None:
        """Judge an image that an alias was pointed at. A stranger's counts as a build's where we never put another.

        It may have been replaced a moment ago, while the alias was on its way.
        """
        built = any(made in ranks for (where, _), ranks in self._ranks.items() if where == repository)
        tags = self.registry.tags()
        wanted = {build.key(name) for build in self._builds.values() for name in build.wanted}
        keys = [key for key in wanted if key[0] == repository and key not in self._put]
        there = {each for key in keys for each in self._watch.possible(*key, tags.get(key), self._foreign.get(key))}
        if not built and made not in {self._config_at(repository, digest) for digest in there}:
            self.violations.append(f"{named} became {made[:19]}, which no build made")

    def _judge_image(self, key: Key, named: str, made: str, old: str | None, new: str) -> None:
        """Judge an image that was put under its build's tag."""
        ours, self._ours[key] = self._ours.get(key), made
        was = self._config_at(key[0], old)
        self._put[key] = made
        if not self._is_fresh(key, made):
            self.violations.append(f"{named} became {made[:19]}, which no build that decides has made")
        if old in (None, new) or self._watch.raced(*key, old, self._foreign.get(key)):
            return
        if not self._overwrite:
            self.violations.append(f"{named} was overwritten: {_short(was)} became {_short(made)}")
        elif was == made:
            self.violations.append(f"{named} is the same image, and was put again")
        elif ours == was and was is not None and self._is_older(key, made, was):
            self.violations.append(f"{named} was replaced by an older build: {_short(was)} became {_short(made)}")

    def _is_older(self, key: Key, made: str, was: str) -> bool:
        """Return True if all runs that made one image are older than all that made another."""
        ranks = self._ranks[key]
        return made in ranks and was in ranks and max(ranks[made]) < min(ranks[was])

    def _config_at(self, repository: str, digest: str | None) -> str | None:
        """Return the config digest of a manifest: the image's ID."""
        if digest is None:
            return None
        stored = self.registry.repositories[repository].manifests.get(digest)
        return None if stored is None or stored.is_index else stored.blobs[0][0]

    def _wrong_layers(self, repository: str, digest: str) -> Iterator[str]:
        """Yield the layers of an image whose content is not what its config says. A stranger's say nothing."""
        found = self.registry.repositories[repository]
        (config, _), *layers = found.manifests[digest].blobs
        said = json.loads(found.blobs.get(config, b"{}")).get("rootfs", {}).get("diff_ids", [])
        for diff_id, (layer, _) in zip(said, layers, strict=False):
            packed = found.blobs.get(layer, b"")
            if packed.startswith(_GZIP) and digest_of(gzip.decompress(packed)) != diff_id:
                yield f"the layer {layer[:19]} has not the content {diff_id[:19]}"

    def ends_twice(self, result: Result) -> bool:
        return self._spoiled or (result.group, result.name) in self._foreign

    def untruths(self, run: Run, results: list[Result]) -> Iterator[str]:
        for each in results:
            came = self._first_there.get((each.group, each.name, each.source or ""), float("inf"))
            if each.outcome is Outcome.MOVED and came > (run.ended or came) + _SKEW:
                yield f"{each.group}:{each.name} is reported as moved, and was not that image by then"

    def differences(self, run: Run, results: list[Result]) -> Iterator[str]:
        told = {(each.group, each.name): each for each in results}
        winners = self.winners()
        for key, winner in sorted(winners.items()):
            yield from self._wrong(key, winner, told.get(key))
        equal = run.counts.skipped - sum(r.outcome is Outcome.EQUAL and key not in winners for key, r in told.items())
        others = sum(r.outcome is not Outcome.EQUAL and key in winners for key, r in told.items())
        if equal + others != len(winners):
            yield f"{len(winners)} images, {equal} of them equal and {others} reported: {run.counts}"
        for made, build in self._selected():
            if not build.valid and not any(_names(each, made) and each.code for each in results):
                yield f"run {made.number} has no valid block, and is not reported"
        yield from self._wrong_aliases(winners, told)
        yield from (f"broken: {each}" for each in self.registry.broken())

    def _wrong(self, key: Key, winner: Winner, result: Result | None) -> Iterator[str]:
        digest = self.registry.tags().get(key)
        have = self._config_at(key[0], digest)
        if digest is not None and (have == winner.config or not self._overwrite):
            allowed = [Outcome.MOVED, Outcome.EQUAL, Outcome.EXTRA]
            if have != winner.config:
                allowed += [Outcome.CONFLICT]
            # It cannot be compared with what somebody else put there, or an earlier attempt of the run.
            if not self._is_obtainable(winner) and (have != winner.config or key in self._foreign or self._overwrite):
                allowed += [Outcome.FAILED, Outcome.KNOWN]
            if result is not None and result.outcome not in allowed:
                yield f"{key} is there, and is reported as {result.outcome} {result.code}"
        elif self._is_younger(key, have, winner) or (
            digest is not None and key in self._foreign and key in self._put.keys() | self._adoptable
        ):
            return  # what a stranger put in place of a build stays until a younger run: lists of tags have no digests
        elif result is None:
            yield f"{key} differs ({_short(winner.config)} is {_short(have)}), and is not reported"
        elif result.outcome not in (Outcome.FAILED, Outcome.KNOWN) or not result.code:
            yield f"{key} differs, and is reported as {result.outcome} {result.code}"
        elif self._is_obtainable(winner) and not self._damaged:
            yield f"{key} is obtainable, and is reported as {result.outcome} {result.code}: {result.reason}"

    def _is_younger(self, key: Key, have: str | None, winner: Winner) -> bool:
        """Return True if an image is of a run that is younger than the one that decides, and is no longer listed."""
        ranks = self._ranks[key].get(have or "", set())
        return max(ranks, default=_NEVER) > (winner.run.created, winner.run.id, winner.run.attempt)

    def _is_obtainable(self, winner: Winner) -> bool:
        artifacts = self.github.artifacts(REPOSITORY, winner.run.id)[0]
        kept = [each for each in artifacts if has_images(each)]
        return winner.config is not None and bool(kept) and not kept[-1].expired

    def _wrong_aliases(self, winners: Mapping[Key, Winner], told: Mapping[Key, Result]) -> Iterator[str]:
        tags = self.registry.tags()
        for repository in sorted({repository for repository, _ in winners}):
            youngest = self._youngest_there(repository, winners)
            for alias in self._aliases if youngest is not None else ():
                key = (repository, alias)
                have = self._config_at(repository, tags.get(key))
                if key not in self._foreign and have != youngest and key not in told:
                    yield f"{key} is {_short(have)}, and the youngest image there is {_short(youngest)}"

    def _youngest_there(self, repository: str, winners: Mapping[Key, Winner]) -> str | None:
        """Return the image of the youngest build in a repository, None if that is a matter of what is remembered."""
        found: list[tuple[Rank, Rank, str]] = []  # the oldest and the youngest run that may have made an image
        for key in (key for key in winners if key[0] == repository and key in self.registry.tags()):
            config, ranks = self._config_at(repository, self.registry.tags()[key]), self._ranks[key]
            if config is None or self._put.get(key, config) != config:
                continue  # a stranger's, in place of a build
            run = winners[key].run
            decides = (run.created, run.id, run.attempt)
            if key not in self._put and config != winners[key].config:
                found.append((_NEVER, decides, ""))  # a stranger's: it counts as the build's until it is looked into
            else:
                made = ranks.get(config, {decides})
                found.append((min(made), max(made), config))
        oldest, _, youngest = max(found, default=(_NEVER, _NEVER, ""))
        others = [last for _, last, config in found if config != youngest]
        return youngest if youngest and all(oldest > last for last in others) else None

    def _note(self, what: str) -> None:
        self._stack.machine.note(f"{self.name}: {what}")


def _host(url: str) -> str:
    return url.removeprefix("https://").partition("/")[0]


def _names(result: Result, run: WorkflowRun) -> bool:
    """Return True if a result is about a run."""
    words = f"{result.group} {result.name}"
    return any(number in words for number in (f"run:{run.number}", str(run.id)))


def _short(digest: str | None) -> str:
    return "absent" if digest is None else digest[7:15]
