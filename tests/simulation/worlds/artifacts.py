"""Artifacts: a workflow that builds images, a project's registry at GitLab, and foreign writers who tag images there."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from syncline.config.sync import load_sync
from syncline.kinds.artifacts import wiring
from syncline.model import Result, Run
from syncline.wiring.syncs import changed_groups_of
from tests.simulation.models.builds import DAMAGED, Format, image_of
from tests.simulation.models.github import GitHubServer, SimGitHub
from tests.simulation.models.gitlab import GitLabServer, SimGitLab
from tests.simulation.models.registry import RegistryServer, SimRegistry
from tests.simulation.stack import Stack
from tests.simulation.worlds.artifacts_builds import (
    COORDINATOR,
    INVALID_BLOCKS,
    PLATFORMS,
    PROJECT,
    REPOSITORY,
    STEMS,
    WORKERS,
    WORKFLOW,
    Build,
    build_rules,
    config_of,
    has_images,
    other_artifacts,
)
from tests.simulation.worlds.artifacts_judge import ArtifactsJudge, Rules
from tests.simulation.worlds.identities import github_identity, registry_identity, token_identity
from tests.simulation.worlds.tag_watch import TagWatch


class ArtifactsWorld:
    """One sync of the builds of a workflow to the registry of a project."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.deferred = 0
        self._stack = stack
        self.github = GitHubServer(stack.machine, f"api.{name}.example")
        self.registry = RegistryServer(f"registry.{name}.example")
        self.gitlab = GitLabServer(self.registry, PROJECT, f"gitlab.{name}.example")
        stack.servers |= {server.host: server for server in (self.github, self.gitlab, self.registry)}
        self._rules = Rules(
            overwrite=rng.random() < 0.5,
            branch=rng.choice([None, None, "main"]),
            limit=rng.choice([2, 5, 20]),
            aliases=rng.choice([[], ["latest"], ["latest", "newest"]]),
        )
        self._api = rng.random() < 0.7
        self._references = {each: stack.vault.plant(f"{each} of {name}") for each in ("github", "gitlab", "registry")}
        self._layers = 0
        self._watch = TagWatch(stack, self.registry, self._push_foreign)
        self._judge = ArtifactsJudge(name, stack, self._rules, self.github, self.registry, self._watch)
        self._builds, self.violations = self._judge.builds, self._judge.violations
        self._add_build()  # GitHub does not know a workflow that never ran
        for _ in range(rng.randint(0, 5)):
            self._change_build()
        for _ in range(rng.choice([0, 0, 1, 2])):
            self.change_target()

    def config(self) -> dict[str, Any]:
        source: dict[str, Any] = {
            "repository": REPOSITORY,
            "workflow": WORKFLOW,
            "limit": self._rules.limit,
            "url": f"https://api.{self.name}.example",
            "auth": {"token": self._references["github"]},
        }
        if self._rules.branch is not None:
            source["branch"] = self._rules.branch
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
            "overwrite": self._rules.overwrite,
            "aliases": self._rules.aliases,
        }

    def reconfigure(self) -> dict[str, Any] | None:
        # Another limit would change the expected tags at a time that the judge cannot know.
        return self.config()

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

    # -- builds

    def change_source(self) -> Iterable[str]:
        run = self._change_build()
        if self.rng.random() < 0.2:  # the delivery is about another run, preferably one whose image tag was built again
            newest = {build.tag: each for each, build in sorted(self._builds.items())}
            older = [each for each, build in sorted(self._builds.items()) if newest[build.tag] != each]
            run = self.rng.choice(older or sorted(self._builds))
        return self._delivered_groups(run)

    def _change_build(self) -> int:
        """Add a run, or change one: end it, repeat it, expire an artifact of it or remove it. Return its ID."""
        rng = self.rng
        runs = sorted(self._builds)
        chance = rng.random()
        if chance < 0.6 or not runs:
            return self._add_build()
        run = rng.choice(runs)
        build, status = self._builds[run], self.github.run(REPOSITORY, run).status
        self._judge.note(f"run {run} of {build.tag} changes")
        if status != "completed":
            self.github.finish(run, rng.choice(["success", "success", "failure"]))
            self._judge.record_attempt(run)
        elif chance < 0.8:
            images = {name: self._layers_of(name) for name in build.images} if rng.random() < 0.7 else None
            self.github.rerun(run, images=images, conclusion=rng.choice(["success", "success", "failure", None]))
            if images is not None:
                build.images = {name: config_of(name, build.tag, layers) for name, layers in images.items()}
            self._judge.record_attempt(run)
        elif chance < 0.93 or len(runs) < 2:
            artifacts = self.github.artifacts(REPOSITORY, run)[0]
            saved = [each for each in artifacts if has_images(each)]
            if saved:
                self.github.expire(saved[-1].id if rng.random() < 0.7 else rng.choice(artifacts).id)
        else:
            self.github.remove_build(run)
            del self._builds[run]
            self._judge.record_expected()
        return run

    def _add_build(self) -> int:
        """Add a run and return its ID. By chance its block is invalid, or an image is absent or damaged."""
        rng = self.rng
        tag = f"{rng.choice(STEMS)}-{rng.choice(list(PLATFORMS))}"
        names = [COORDINATOR, *rng.sample(list(WORKERS), rng.randint(0, 3))]
        metadata: dict[str, str | None] = {}
        chance = rng.random()
        if chance < 0.1:
            metadata |= rng.choice(INVALID_BLOCKS)
        wanted = frozenset(names)
        if 0.1 <= chance < 0.16:  # the block names an image that is not saved
            name = rng.choice(names)
            names.remove(name)
            if name != COORDINATOR:
                metadata[WORKERS[name]] = "true"
        images = {name: self._layers_of(name) for name in names}
        if 0.16 <= chance < 0.22 and names:  # a layer of an image differs from the image's config
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
            artifacts_before=other_artifacts(rng) if rng.random() < 0.3 else None,
            artifacts_after=other_artifacts(rng) if rng.random() < 0.2 else None,
        )
        saved = {name: config_of(name, tag, images[name]) for name in names}
        self._builds[run] = Build(tag, chance >= 0.1, saved, wanted)
        self._judge.note(f"run {run} of {tag}: {conclusion}, {', '.join(sorted(wanted))}, odd {chance:.2f}")
        self._judge.record_attempt(run)
        return run

    def _layers_of(self, name: str) -> list[bytes]:
        """Return the content of an image's layers: a base that all images share, and layers that are new or were used."""
        rng = self.rng
        numbers = []
        for _ in range(rng.randint(1, 2)):
            if not self._layers or rng.random() < 0.8:
                self._layers += 1
                numbers.append(self._layers)
            else:
                numbers.append(rng.randint(1, self._layers))
        return [b"base", *(f"{name} layer {n} ".encode() * rng.choice([1, 400]) for n in dict.fromkeys(numbers))]

    def _delivered_groups(self, run: int) -> tuple[str, ...]:
        """Return the groups that the webhook delivery about a run names."""
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

    # -- foreign writers

    def change_target(self) -> None:
        rng = self.rng
        with self._watch.foreign_writer():
            tags = self.registry.tags()
            build = self._builds[rng.choice(sorted(self._builds))]
            repository, tag = build.key(rng.choice([COORDINATOR, *WORKERS]))
            chance = rng.random()
            if chance < 0.1 and self._rules.aliases:
                tag = rng.choice(self._rules.aliases)
            if chance < 0.45 or not tags:
                self._push_foreign(repository, tag)
            elif chance < 0.6:
                # The same image, pushed with another program: the same config, layers with other bytes.
                name = repository.rpartition("/")[2]
                if name in build.images:
                    layers = [f"packed otherwise, {name} {rng.randrange(5)}".encode()]
                    config = image_of(name, build.tag, self.github.layers(self._run_of(build))[name]).config
                    self.registry.push_config(repository, tag, config, layers)
            else:
                (repository, tag), digest = rng.choice(sorted(tags.items()))
                if chance < 0.75:
                    manifests = sorted(self.registry.repositories[repository].manifests)
                    self.registry.move_tag(repository, tag, rng.choice([*manifests, digest]))
                else:
                    self.registry.delete_tag(repository, tag)

    def _push_foreign(self, repository: str, tag: str) -> None:
        """Push an image as a foreign writer."""
        with self._watch.foreign_writer():
            self.registry.push_image(repository, tag, 1000 + self.rng.randrange(50))

    def _run_of(self, build: Build) -> int:
        return next(run for run, each in self._builds.items() if each is build)

    # -- faults

    def inject_fault(self) -> None:
        self._judge.had_faults, rng = True, self.rng
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
        self._judge.note(f"{switch} from now on")
        self._judge.had_wrong_bytes |= switch == "github.wrong_bytes"
        where, _, name = switch.partition(".")
        value = {
            "listing_cut": rng.randint(0, 2),
            "url_lives": rng.choice([0.5, 5.0]),
            "loses_uploads": rng.choice([0.1, 1.0]),
            "stale_tags": rng.uniform(0.1, 5.0),
        }.get(name, True)
        setattr(getattr(self, where), name, value)

    def clear_faults(self) -> None:
        for server in (self.github, self.gitlab, self.registry):
            server.behave()

    def groups(self) -> list[str]:
        tags = sorted({build.tag for build in self._builds.values()})
        repositories = sorted({build.key(name)[0] for build in self._builds.values() for name in build.wanted})
        return [*tags, *(f"run:{run}" for run in sorted(self._builds)), *repositories]

    def size(self) -> int:
        return len(self._builds) * (1 + len(WORKERS)) + len(self.registry.tags())

    # -- checks

    def may_repeat(self, result: Result) -> bool:
        return self._judge.may_repeat(result)

    def check_report(self, run: Run, results: list[Result]) -> Iterator[str]:
        yield from self._judge.check_report(run, results)

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        yield from self._judge.check_full_run(run, results)


def _host(url: str) -> str:
    return url.removeprefix("https://").partition("/")[0]
