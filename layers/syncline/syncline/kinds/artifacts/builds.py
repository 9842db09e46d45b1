"""Builds: the runs of a workflow with the metadata in their logs, the youngest of each image tag.

The metadata is a block of `Key: value` lines. A log has a time before each line, colours, and a byte order mark at its
start. The output of a step follows its script, which is between `##[group]Run` and `##[endgroup]` and may contain the same
keys with variables for values. The same block may occur twice, in the log of the job and in that of the step.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple

from syncline.clients.github.client import GitHub, WorkflowRun
from syncline.clients.http.listings import InvalidEntry, OnInvalid, ignore, refuse
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.errors import CodeName, SynclineError, stored_code
from syncline.kinds.artifacts.archive.streams import ArchiveLimits, WindowedSource
from syncline.kinds.artifacts.archive.zip import ZipArchive
from syncline.kinds.artifacts.config import ArtifactsSync, Metadata
from syncline.kinds.facts import FactStore

_LOG_LIMITS: Final = ArchiveLimits(members=10_000, size=4 << 30)
_PERMANENT: Final[frozenset[CodeName]] = frozenset(
    {"METADATA_INVALID", "ARTIFACT_EXPIRED", "ARCHIVE_INVALID", "ARCHIVE_REFUSED", "REFERENCE_INVALID"}
)
_DAY: Final = 86400.0
READING: Final = 2  # version of our parsing of logs and archives; a later one may accept what an earlier one refused
_TIME: Final = re.compile(r"\ufeff?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z ?")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_VARIABLE: Final = re.compile(r"\$[({A-Za-z_]|\$\d|`")
_REPLACED: Final = re.compile(r"[^a-z0-9_.]+")
_LONGEST_LINE: Final = 64 * 1024
_BETWEEN: Final = re.compile(r"$|\++ |[A-Za-z][\w .()/-]{0,79}:( |$)")
"""Lines that may be between two lines of a block: empty ones, a shell's trace (`set -x`), and unknown keys."""
_MOST_BETWEEN: Final = 10
_LONGEST_RUN: Final = 1000  # largest number of consecutive lines of blocks
_SLACK: Final = 3600.0  # seconds by which a block's time may be outside its run, as clocks differ


@dataclass(frozen=True, slots=True)
class Destination:
    """The repository and tag of an image of a build at the target; ``repository`` is the full path at the registry."""

    image: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Build:
    """A run, its block, its image tag, and the destinations of its images."""

    run: WorkflowRun
    block: Mapping[str, str]
    tag: str
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class UnreadableRun:
    """A run without valid metadata; ``is_new`` if that was not known before."""

    run: WorkflowRun
    error: SynclineError
    is_new: bool


@dataclass
class Builds:
    """The builds of one sync. The log of a run never changes, so it is read once and remembered."""

    sync: ArtifactsSync
    github: GitHub
    facts: FactStore

    def __post_init__(self) -> None:
        self._known: dict[str, Build | UnreadableRun] = {}
        rules = f"{READING}{self.sync.build.model_dump_json()}{self.sync.target.project}"
        self._rules = hashlib.blake2b(rules.encode(), digest_size=6).hexdigest()

    def runs(self, now: float, odd: OnInvalid = refuse) -> list[WorkflowRun]:
        """Return the successful runs that the sync covers, the youngest first; ``now`` is in Unix seconds.

        Raises SOURCE_ABSENT if the repository, the workflow, or any run of it on the branch and by the event that
        syncs.yaml names does not exist.
        """
        source = self.sync.source
        since = None if source.max_age_days is None else _since(now - source.max_age_days * _DAY)
        odd_runs: list[InvalidEntry] = []
        runs = list(islice(self._listed(odd_runs.append, status="success", created=since), source.limit))
        for each in odd_runs:
            odd(each)
        if not runs and not odd_runs:
            self._check_named()
        return runs

    def since(self, run: WorkflowRun) -> list[WorkflowRun]:
        """Return the successful runs since ``run`` that GitHub lists, the youngest first, regardless of the sync's limits."""
        return list(self._listed(ignore, status="success", created=_since(run.created)))

    def unlisted(self, run: WorkflowRun) -> SynclineError:
        """Return the error of a run that is older than GitHub's list."""
        source = self.sync.source
        return SynclineError(
            "LISTING_INCOMPLETE",
            f"GitHub's list of the runs of {source.workflow} in {source.repository} ends before run {run.id}, so a younger "
            "one may have made the same images (it lists at most 1000 runs); nothing of this run is transferred",
        )

    def _listed(self, odd: OnInvalid, **filters: str | None) -> Iterator[WorkflowRun]:
        source = self.sync.source
        filters |= {"branch": source.branch, "event": source.event}
        try:
            yield from self.github.runs(source.repository, source.workflow, odd, **filters)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            what = f"{error.what}: {source.repository} has no workflow {source.workflow}, or the credentials may not read it"
            raise SynclineError("SOURCE_ABSENT", what) from None

    def _check_named(self) -> None:
        """Raise SOURCE_ABSENT if the workflow never ran on the branch, or by the event, that syncs.yaml names."""
        source = self.sync.source
        named = [f"on branch {source.branch}"] if source.branch else []
        named += [f"by event {source.event}"] if source.event else []
        odd: list[InvalidEntry] = []
        if named and next(self._listed(odd.append), None) is None and not odd:
            what = f"{source.workflow} in {source.repository} has never run {' and '.join(named)}"
            raise SynclineError("SOURCE_ABSENT", what)

    def run(self, number: int) -> WorkflowRun:
        return self.github.run(self.sync.source.repository, number)

    def takes(self, run: WorkflowRun) -> bool:
        """Return True if a run belongs to the sync, as a hint may name any run."""
        source = self.sync.source
        return (
            run.conclusion == "success"
            and run.path.rpartition("/")[2] == source.workflow.rpartition("/")[2]
            and source.branch in (None, run.branch)
            and source.event in (None, run.event)
        )

    def youngest(self, runs: list[WorkflowRun]) -> Iterator[Build | UnreadableRun]:
        """Yield the build of the youngest run for each image tag, and unreadable runs."""
        seen: set[str] = set()
        for run in runs:
            build = self.build(run)
            if isinstance(build, UnreadableRun):
                yield build
            elif build.tag not in seen:
                seen.add(build.tag)
                yield build

    def build(self, run: WorkflowRun) -> Build | UnreadableRun:
        """Return the build of a run. Raises temporary errors of GitHub."""
        key = f"build@{self.github.endpoint.host}/{self.sync.source.repository}@{run.mark}@{self._rules}"
        found = self._known.get(key) or self._remembered(run, key) or self._read(run, key)
        self._known[key] = replace(found, is_new=False) if isinstance(found, UnreadableRun) else found
        return found

    def _remembered(self, run: WorkflowRun, key: str) -> Build | UnreadableRun | None:
        noted = self.facts.recall(key)
        if noted is None:
            return None
        match json.loads(noted):
            case {"error": [code, reason]}:
                return UnreadableRun(run, SynclineError(stored_code(code), reason), is_new=False)
            case value:
                return self._build_of(run, value["block"])

    def _read(self, run: WorkflowRun, key: str) -> Build | UnreadableRun:
        try:
            build = self._build_of(run, self._block(run))
        except SynclineError as error:
            # An error in the run's content is permanent; others may be temporary.
            if error.code.name not in _PERMANENT:
                raise
            self.facts.remember(key, json.dumps({"error": [error.code.name, error.what]}))
            return UnreadableRun(run, error, is_new=True)
        self.facts.remember(key, json.dumps({"block": dict(build.block)}))
        return build

    def _block(self, run: WorkflowRun) -> dict[str, str]:
        rules = self.sync.build.metadata
        logs = self.github.logs(self.sync.source.repository, run)
        archive = ZipArchive(WindowedSource(logs), _LOG_LIMITS)
        found = [
            block
            for entry in archive.entries
            if not entry.name.endswith("/")
            for block in blocks_in(lines_of(archive.open(entry)), rules)
        ]
        return block_of(found, rules, run.created, run.updated, logs.name)

    def _build_of(self, run: WorkflowRun, block: dict[str, str]) -> Build:
        rules = self.sync.build
        tag = block[rules.metadata.tag]
        destinations = []
        for image in rules.expected(block):
            destination = rules.destination(image, tag)
            if destination is None:
                raise SynclineError(
                    "METADATA_INVALID", f"run {run.id} made {tag[:160]!r}, which matches no entry of `mapping`"
                )
            repository = parse_repository(f"{self.sync.target.project}/{destination[0]}")
            destinations.append(Destination(image, repository, parse_tag(destination[1])))
        return Build(run, block, tag, tuple(destinations))


def _since(moment: float) -> str:
    """Return GitHub's filter for runs created at a moment (Unix seconds) or later."""
    return f">={datetime.fromtimestamp(moment, UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a log without times and colours, very long ones truncated."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(_clean, lines)
        rest = rest[:_LONGEST_LINE]
    if rest:
        yield _clean(rest)


def _clean(line: bytes) -> str:
    text = line[:_LONGEST_LINE].decode("utf-8", "replace").removeprefix("\ufeff")
    return _COLOURS.sub("", _TIME.sub("", text, count=1)).rstrip()


def blocks_in(lines: Iterable[str], rules: Metadata) -> Iterator[dict[str, str]]:
    """Yield the blocks of one log that have all required keys, in order.

    The lines of a block are consecutive within one step, except for empty lines, a shell's trace and unknown keys. Any
    other output ends the block.
    """
    keys = {key.lower(): key for key in rules.keys}
    run: list[_Line] = []
    others, is_script = 0, False
    for number, line in enumerate(lines):
        if line.startswith("##["):
            is_script = line.startswith("##[group]Run ")
            yield from _blocks_of(run, rules)
            run = []
        if is_script:
            continue
        name, _, value = (part.strip() for part in line.partition(":"))
        key = keys.get(name.lower())
        if key is None or not value:
            others += 1
            ends_block = not _BETWEEN.match(line.strip()) or others > _MOST_BETWEEN
        else:
            ends_block = _VARIABLE.search(value) is not None
        if run and not ends_block and (run[-1].key, run[-1].value) == (key, value):
            continue  # printed twice
        if ends_block or len(run) >= _LONGEST_RUN:
            yield from _blocks_of(run, rules)
            run = []
        if key is not None and value and not ends_block:
            run.append(_Line(number, key, value))
            others = 0
    yield from _blocks_of(run, rules)


class _Line(NamedTuple):
    """A line of a block: its number in the log, its key and its value."""

    number: int
    key: str
    value: str


def _blocks_of(run: list[_Line], rules: Metadata) -> Iterator[dict[str, str]]:
    """Yield the blocks in consecutive lines.

    A repeated key begins another block, or is a stray line. Read from the start, a stray line before the block replaces
    the block's own line; read from the end, one after the block does. The reading with more lines in blocks counts, then
    the one with fewer lines between them. If they are equal, both count.
    """
    needed = set(rules.needed)
    forward = _cut(run)
    backward = [block[::-1] for block in _cut(run[::-1])][::-1]
    readings = [[block for block in blocks if needed <= {line.key for line in block}] for blocks in (forward, backward)]
    ranks = [(sum(map(len, blocks)), -sum(b[-1].number - b[0].number for b in blocks)) for blocks in readings]
    best = [blocks for blocks, rank in zip(readings, ranks, strict=True) if rank == max(ranks)]
    for block in best[0] + [block for blocks in best[1:] for block in blocks if block not in best[0]]:
        yield {line.key: line.value for line in block}


def _cut(run: list[_Line]) -> list[list[_Line]]:
    """Return the lines in parts, each of which has every key only once."""
    parts: list[list[_Line]] = []
    for line in run:
        if not parts or any(each.key == line.key for each in parts[-1]):
            parts.append([])
        parts[-1].append(line)
    return parts


def block_of(
    found: Iterable[Mapping[str, str]], rules: Metadata, began: float, ended: float, where: str
) -> dict[str, str]:
    """Return the block of a run that lasted from ``began`` to ``ended`` (Unix seconds). Raises METADATA_INVALID."""
    distinct = {tuple(sorted(block.items())): dict(block) for block in found}
    if not distinct:
        raise _invalid(where, f"have no metadata block with {', '.join(rules.needed)}")
    own = [block for block in distinct.values() if _belongs_to_run(block, rules, began, ended)]
    if not own:
        raise _invalid(
            where, f"have only the metadata block of another build: {next(iter(distinct.values()))[rules.tag][:120]!r}"
        )
    if len(own) > 1:
        tags = sorted({block[rules.tag] for block in own})
        raise _invalid(where, f"have {len(own)} different metadata blocks, of {', '.join(tags)[:300]}")
    return own[0]


def _belongs_to_run(block: Mapping[str, str], rules: Metadata, began: float, ended: float) -> bool:
    if rules.check is not None:
        try:
            if _normalized(rules.check.fill(block)) != _normalized(block[rules.tag]):
                return False
        except KeyError:
            return False
    if rules.time is None or rules.time not in block:
        return rules.time is None
    at = _seconds(block[rules.time])
    return at is not None and began - _SLACK <= at <= ended + _SLACK


def _normalized(tag: str) -> str:
    """Return a tag in lower case, with one `-` for the characters that builds replace when they make a tag of a ref."""
    return _REPLACED.sub("-", tag.lower())


def _seconds(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _invalid(where: str, what: str) -> SynclineError:
    return SynclineError("METADATA_INVALID", f"the {where} {what}")
