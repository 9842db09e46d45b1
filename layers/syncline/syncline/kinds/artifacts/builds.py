"""Builds: the runs of a workflow with what each says of itself, the youngest of each image tag."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from syncline.clients.github.client import GitHub, WorkflowRun
from syncline.clients.http.listings import Odd, OnOdd, ignore, refuse
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.config.artifacts import ArtifactsSync
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import Limits, Windowed
from syncline.kinds.artifacts.archive.zips import Zip
from syncline.kinds.artifacts.metadata import block_of, blocks_in, lines_of
from syncline.kinds.images.places import Memory

_LOG_LIMITS: Final = Limits(members=10_000, size=4 << 30)
_FOR_GOOD: Final = frozenset(
    {"METADATA_INVALID", "ARTIFACT_EXPIRED", "ARCHIVE_INVALID", "ARCHIVE_REFUSED", "REFERENCE_INVALID"}
)
_DAY: Final = 86400.0
READING: Final = 2
"""The version of our reading of logs and archives. A later one may understand what an earlier one refused."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image of a build goes: ``repository`` is its whole name at the registry."""

    image: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Build:
    """A run, its block, its image tag, and where its images go."""

    run: WorkflowRun
    block: Mapping[str, str]
    tag: str
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Flawed:
    """A run that cannot be understood; ``fresh`` if that was found out just now."""

    run: WorkflowRun
    error: SynclineError
    fresh: bool


class Builds:
    """The builds of one sync. What a run says never changes, so it is read once and remembered."""

    def __init__(self, sync: ArtifactsSync, github: GitHub, memory: Memory) -> None:
        self._sync = sync
        self._github = github
        self._memory = memory
        rules = f"{READING}{sync.build.model_dump_json()}{sync.target.project}"
        self._known: dict[str, Build | Flawed] = {}
        self._rules = hashlib.blake2b(rules.encode(), digest_size=6).hexdigest()

    def runs(self, now: float, odd: OnOdd = refuse) -> list[WorkflowRun]:
        """Return the successful runs that the sync covers, the youngest first; ``now`` is in Unix seconds.

        Raises SOURCE_ABSENT if the repository, the workflow, or any run of it on the branch and by the event that
        syncs.yaml names does not exist.
        """
        source = self._sync.source
        since = None if source.max_age_days is None else _since(now - source.max_age_days * _DAY)
        odd_runs: list[Odd] = []
        runs = list(islice(self._listed(odd_runs.append, status="success", created=since), source.limit))
        for each in odd_runs:
            odd(each)
        if not runs and not odd_runs:
            self._check_named()
        return runs

    def since(self, run: WorkflowRun) -> list[WorkflowRun]:
        """Return the successful runs from ``run`` on that GitHub lists, the youngest first, whatever the sync's limits."""
        return list(self._listed(ignore, status="success", created=_since(run.created)))

    def unlisted(self, run: WorkflowRun) -> SynclineError:
        """Return the error of a run that GitHub's list does not reach."""
        source = self._sync.source
        what = (
            f"GitHub's list of the runs of {source.workflow} in {source.repository} ends before run {run.id}, so a younger "
            "one may have made the same images (it lists at most 1000 runs); nothing of this run is transferred"
        )
        return SynclineError("LISTING_INCOMPLETE", what)

    def _listed(self, odd: OnOdd, **filters: str | None) -> Iterator[WorkflowRun]:
        source = self._sync.source
        filters |= {"branch": source.branch, "event": source.event}
        try:
            yield from self._github.runs(source.repository, source.workflow, odd, **filters)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            what = (
                f"{error.what}: no repository {source.repository} with a workflow {source.workflow}, or no right to it"
            )
            raise SynclineError("SOURCE_ABSENT", what) from None

    def _check_named(self) -> None:
        """Raise SOURCE_ABSENT if the workflow never ran on the branch, or by the event, that syncs.yaml names."""
        source = self._sync.source
        named = [f"on branch {source.branch}"] if source.branch else []
        named += [f"by event {source.event}"] if source.event else []
        odd: list[Odd] = []
        if named and next(self._listed(odd.append), None) is None and not odd:
            what = f"{source.workflow} in {source.repository} has never run {' and '.join(named)}"
            raise SynclineError("SOURCE_ABSENT", what)

    def run(self, number: int) -> WorkflowRun:
        return self._github.run(self._sync.source.repository, number)

    def takes(self, run: WorkflowRun) -> bool:
        """Whether a run is one of the sync's, as a hint may name any."""
        source = self._sync.source
        return (
            run.conclusion == "success"
            and run.path.rpartition("/")[2] == source.workflow.rpartition("/")[2]
            and source.branch in (None, run.branch)
            and source.event in (None, run.event)
        )

    def youngest(self, runs: list[WorkflowRun]) -> Iterator[Build | Flawed]:
        """A build for each image tag, of the youngest run that made it; and runs that cannot be understood."""
        seen: set[str] = set()
        for run in runs:
            build = self.build(run)
            if isinstance(build, Flawed):
                yield build
            elif build.tag not in seen:
                seen.add(build.tag)
                yield build

    def build(self, run: WorkflowRun) -> Build | Flawed:
        """What a run says of itself. Raises what GitHub's failures are, as far as they may pass."""
        key = f"build@{self._github.endpoint.host}/{self._sync.source.repository}@{run.id}.{run.attempt}@{self._rules}"
        found = self._known.get(key) or self._noted(run, key)
        if found is None:
            found = self._learnt(run, key)
        self._known[key] = replace(found, fresh=False) if isinstance(found, Flawed) else found
        return found

    def _noted(self, run: WorkflowRun, key: str) -> Build | Flawed | None:
        noted = self._memory.recall(key)
        if noted is None:
            return None
        value = json.loads(noted)
        if "error" in value:
            return Flawed(run, SynclineError(*value["error"]), fresh=False)
        return self._made(run, value["block"])

    def _learnt(self, run: WorkflowRun, key: str) -> Build | Flawed:
        try:
            build = self._made(run, self._block(run))
        except SynclineError as error:
            # What the run's own content is to blame for stays so; all else may pass.
            if error.code.name not in _FOR_GOOD:
                raise
            self._memory.remember(key, json.dumps({"error": [error.code.name, error.what]}))
            return Flawed(run, error, fresh=True)
        self._memory.remember(key, json.dumps({"block": dict(build.block)}))
        return build

    def _block(self, run: WorkflowRun) -> dict[str, str]:
        rules = self._sync.build.metadata
        logs = self._github.logs(self._sync.source.repository, run)
        archive = Zip(Windowed(logs), _LOG_LIMITS)
        found = [
            block
            for entry in archive.entries
            if not entry.name.endswith("/")
            for block in blocks_in(lines_of(archive.open(entry)), rules)
        ]
        return block_of(found, rules, run.created, run.updated, logs.name)

    def _made(self, run: WorkflowRun, block: dict[str, str]) -> Build:
        rules = self._sync.build
        tag = block[rules.metadata.tag]
        places = []
        for image in rules.expected(block):
            place = rules.place(image, tag)
            if place is None:
                raise SynclineError(
                    "METADATA_INVALID", f"run {run.id} made {tag[:160]!r}, which no form of `mapping` fits"
                )
            repository = parse_repository(f"{self._sync.target.project}/{place[0]}")
            places.append(Place(image, repository, parse_tag(place[1])))
        return Build(run, block, tag, tuple(places))


def _since(moment: float) -> str:
    """Return GitHub's filter for runs created at a moment (Unix seconds) or later."""
    return f">={datetime.fromtimestamp(moment, UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"
