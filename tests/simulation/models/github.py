"""GitHub in memory, as GitHub documents it: workflow runs, artifacts, logs and the store; and its client in one process.

The artifact of a run that :meth:`GitHubServer.add_build` adds is a real zip of image archives.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final, TypeVar, cast

from syncline.clients.github.client import PAGE, Artifact, GitHub, RemoteFile, WorkflowRun
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Response
from syncline.clients.http.listings import IN_MEMORY_LIMITS, EntryReader, OnInvalid, refuse
from syncline.errors import SynclineError
from tests.simulation.machine import EPOCH, Machine
from tests.simulation.models.builds import Format, artifact_of, iso, logs_of, metadata_block
from tests.simulation.network import Network

API: Final = "api.github.example"
STORE: Final = "store.github.example"
MAX_FILTERED: Final = 1000
"""The maximal number of runs in a filtered list."""
T = TypeVar("T")

_URL_LIFE: Final = 50.0  # seconds for which the client uses a signed URL
_RENEWALS: Final = 2


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL of the store that allows reading until a time, without credentials."""

    key: tuple[str, int, int]
    until: float


@dataclass(slots=True)
class _Build:
    repository: str
    workflow: str
    tag: str
    images: Mapping[str, Sequence[bytes]]
    form: Format
    metadata: Mapping[str, str | None]
    took: float
    run: WorkflowRun
    artifacts: list[Artifact] = field(default_factory=list)


class GitHubServer:
    """GitHub and its store, which all processes share. Errors have the codes that the client documents.

    Faults: the list of runs ends after ``listing_cut`` runs as if these were all, is empty (``empty_listing``) or never
    ends (``endless``). Artifacts have no digest (``digest_null``). Downloads of artifacts have one wrong byte
    (``wrong_bytes``). Signed URLs are valid for ``url_lives`` seconds.
    """

    def __init__(self, machine: Machine, host: str = API) -> None:
        self.host = host
        self.behave()
        self._machine = machine
        self._builds: dict[int, _Build] = {}
        self._counts: dict[tuple[str, str], int] = {}  # all runs of each workflow, also removed ones
        self._contents: dict[tuple[str, int, int], bytes] = {}
        self._last_id = 1_000

    def behave(self) -> None:
        """Turn all faults off."""
        self.listing_cut: int | None = None
        self.empty_listing = False
        self.endless = False
        self.digest_null = False
        self.wrong_bytes = False
        self.url_lives = 60.0

    # -- users of GitHub

    def add_build(
        self,
        repository: str,
        workflow: str,
        *,
        tag: str,
        images: Mapping[str, Sequence[bytes]],
        metadata: Mapping[str, str | None] | None = None,
        conclusion: str | None = "success",
        form: Format = "oci",
        branch: str = "main",
        event: str = "workflow_dispatch",
        took: float = 60.0,
        artifacts_before: Mapping[str, bytes] | None = None,
        artifacts_after: Mapping[str, bytes] | None = None,
    ) -> int:
        """Add a run that ends now, and return its ID. Its artifact contains an archive of each of ``images``.

        An image is a list of the contents of its layers, bottom first; see :func:`image_of`. ``metadata`` replaces lines
        of the block that :func:`metadata_block` makes, or removes them (None). With the conclusion None, the run is in
        progress.
        ``artifacts_before`` and ``artifacts_after`` are listed before and after the artifact with the images.
        """
        count = self._counts[repository, workflow] = self._counts.get((repository, workflow), 0) + 1
        ended = float(int(self._machine.now))
        number = self._run_id(ended - took)
        run = WorkflowRun(
            id=number,
            attempt=0,
            number=count,
            branch=branch,
            sha=hashlib.sha1(f"{branch} {tag}".encode()).hexdigest(),
            event=event,
            status="completed",
            conclusion="",
            path=f".github/workflows/{workflow}",
            created=ended - took,
            started=ended - took,
            updated=ended,
            url=f"https://github.example/runs/{number}",
        )
        build = _Build(repository, workflow, tag, images, form, dict(metadata or {}), took, run)
        self._builds[number] = build
        for name, content in sorted((artifacts_before or {}).items()):
            self._add_artifact(build, name, content)
        self._attempt(build, conclusion, ended - took, ended)
        for name, content in sorted((artifacts_after or {}).items()):
            self._add_artifact(build, name, content)
        return number

    def rerun(
        self, run: int, *, images: Mapping[str, Sequence[bytes]] | None = None, conclusion: str | None = "success"
    ) -> None:
        """Add an attempt to a run, with other images if given. The artifacts of earlier attempts remain."""
        build = self._builds[run]
        build.images = build.images if images is None else images
        ended = float(int(self._machine.now))
        self._attempt(build, conclusion, max(ended - build.took, min(build.run.updated, ended)), ended)

    def layers(self, run: int) -> dict[str, list[bytes]]:
        """Return the contents of the layers of each image of a run."""
        return {name: list(layers) for name, layers in self._builds[run].images.items()}

    def finish(self, run: int, conclusion: str = "success") -> None:
        """End a run that is in progress."""
        build = self._builds[run]
        build.run = replace(build.run, attempt=build.run.attempt - 1)
        self._attempt(build, conclusion, build.run.started, float(int(self._machine.now)))

    def expire(self, artifact: int) -> None:
        """End the retention of an artifact. Signed URLs that were issued remain valid."""
        for build in self._builds.values():
            build.artifacts = [replace(a, expired=a.expired or a.id == artifact) for a in build.artifacts]

    def remove_build(self, run: int) -> None:
        """Remove a run with its artifacts and its logs."""
        build = self._builds.pop(run)
        gone = {("artifact", each.id, 0) for each in build.artifacts}
        gone |= {("logs", run, attempt) for attempt in range(1, build.run.attempt + 1)}
        self._contents = {key: content for key, content in self._contents.items() if key not in gone}

    def _run_id(self, created: float) -> int:
        """Return the ID for a run. A run that was created later has a greater ID."""
        number = int(created - EPOCH + 100_000) * 1000
        while number in self._builds:
            number += 1
        return number

    def _next_id(self) -> int:
        self._last_id += 7
        return self._last_id

    def _attempt(self, build: _Build, conclusion: str | None, began: float, ended: float) -> None:
        run = build.run = replace(
            build.run,
            attempt=build.run.attempt + 1,
            started=began,
            updated=ended,
            status="in_progress" if conclusion is None else "completed",
            conclusion=conclusion or "",
        )
        if conclusion is None:
            return
        if build.images:
            given = tuple((name, tuple(layers)) for name, layers in build.images.items())
            self._add_artifact(build, f"images-{build.tag}", artifact_of(given, build.tag, build.form))
        lines = {**metadata_block(build.tag, build.images, (began + ended) / 2), **build.metadata}
        kept = {key: value for key, value in lines.items() if value is not None}
        self._contents["logs", run.id, run.attempt] = logs_of(kept, (began + ended) / 2)

    def _add_artifact(self, build: _Build, name: str, content: bytes) -> None:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        artifact = Artifact(
            self._next_id(), name, len(content), expired=False, digest=digest, created=iso(self._machine.now)
        )
        self._contents["artifact", artifact.id, 0] = content
        build.artifacts.append(artifact)

    # -- the API

    def runs(
        self, repository: str, workflow: str, filters: Mapping[str, str], page: int
    ) -> tuple[tuple[WorkflowRun, ...], int | None]:
        """Return a page of a workflow's runs, newest first, and the number of the next page."""
        if (repository, workflow) not in self._counts:
            raise SynclineError("NOT_FOUND", f"GET runs of {repository}/{workflow} answered 404: Not Found")
        if self.empty_listing:
            return (), None
        found = [b.run for b in self._builds.values() if (b.repository, b.workflow) == (repository, workflow)]
        found = sorted((run for run in found if _fits(run, filters)), key=lambda r: (r.created, r.id), reverse=True)
        if filters:
            del found[MAX_FILTERED:]
        if self.listing_cut is not None:
            del found[self.listing_cut :]
        listed, following = _page(found, page)
        if self.endless:
            before = (page - 1) * PAGE + len(listed) - len(found)
            listed += tuple(_made_up(workflow, before + number) for number in range(PAGE - len(listed)))
            following = page + 1
        return listed, following

    def run(self, repository: str, run: int) -> WorkflowRun:
        return self._build(repository, run).run

    def artifacts(self, repository: str, run: int, page: int = 1) -> tuple[tuple[Artifact, ...], int | None]:
        """Return a page of the artifacts of all attempts of a run, and the number of the next page."""
        found = self._build(repository, run).artifacts
        return _page([replace(each, digest=None) if self.digest_null else each for each in found], page)

    def artifact_url(self, repository: str, artifact: int) -> SignedUrl:
        for build in self._builds.values():
            for each in build.artifacts:
                if (build.repository, each.id) == (repository, artifact):
                    if each.expired:
                        raise SynclineError("ARTIFACT_EXPIRED", f"artifact {each.name} ({each.id}) has expired")
                    return SignedUrl(("artifact", artifact, 0), self._machine.now + self.url_lives)
        raise SynclineError("NOT_FOUND", f"GET artifact {artifact} answered 404: Not Found")

    def logs_url(self, repository: str, run: int, attempt: int) -> SignedUrl:
        """Return a signed URL of the logs of an attempt. Absent logs count as expired."""
        key = ("logs", run, attempt)
        if run not in self._builds or self._builds[run].repository != repository or key not in self._contents:
            raise SynclineError("ARTIFACT_EXPIRED", f"logs of run {run} has expired")
        return SignedUrl(key, self._machine.now + self.url_lives)

    def read(self, url: SignedUrl, start: int, end: int) -> tuple[bytes, int]:
        """Return a range of the content at a signed URL, and its whole size. Raises FORBIDDEN if the URL has expired."""
        if self._machine.now > url.until:
            raise SynclineError("FORBIDDEN", f"GET {STORE} answered 403: AuthenticationFailed")
        if url.key not in self._contents:
            raise SynclineError("NOT_FOUND", f"GET {STORE} answered 404: BlobNotFound")
        content = self._contents[url.key]
        if start >= len(content):
            raise SynclineError("REFUSED", f"GET {STORE} answered 416: InvalidRange")
        if self.wrong_bytes and url.key[0] == "artifact":
            at = len(content) // 2
            content = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        return content[start:end], len(content)

    def _build(self, repository: str, run: int) -> _Build:
        build = self._builds.get(run)
        if build is None or build.repository != repository:
            raise SynclineError("NOT_FOUND", f"GET run {run} of {repository} answered 404: Not Found")
        return build


class SimGitHub(GitHub):
    """The client of one process."""

    def __init__(self, server: GitHubServer, network: Network) -> None:
        self.endpoint = Endpoint("https", server.host)
        self.http = network.http
        self.server = server
        self.network = network
        self.prefix = ""

    def send(self, method: str, target: str) -> Response:
        raise AssertionError(f"the model has no {method} {target}")

    def runs(
        self, repository: str, workflow: str, on_invalid: OnInvalid = refuse, **filters: str | None
    ) -> Iterator[WorkflowRun]:
        given = {key: value for key, value in filters.items() if value}
        file = workflow.rpartition("/")[2]
        entries = EntryReader(f"the runs of {file} at {self.server.host}", on_invalid, _id_of, limits=IN_MEMORY_LIMITS)
        return self._pages(entries, "GET runs", partial(self.server.runs, repository, file, given))

    def run(self, repository: str, run_id: int) -> WorkflowRun:
        return self.network.call(self.server.host, "GET run", partial(self.server.run, repository, run_id))

    def artifacts(self, repository: str, run_id: int, on_invalid: OnInvalid = refuse) -> list[Artifact]:
        entries = EntryReader(
            f"the artifacts of run {run_id} at {self.server.host}", on_invalid, _id_of, limits=IN_MEMORY_LIMITS
        )
        return list(self._pages(entries, "GET artifacts", partial(self.server.artifacts, repository, run_id)))

    def content(self, repository: str, artifact: Artifact) -> RemoteFile:
        name = f"artifact {artifact.name} ({artifact.id})"
        return SimRemoteFile(self, partial(self.server.artifact_url, repository, artifact.id), name)

    def logs(self, repository: str, run: WorkflowRun) -> RemoteFile:
        url = partial(self.server.logs_url, repository, run.id, run.attempt)
        return SimRemoteFile(self, url, f"logs of run {run.id}")

    def _pages(
        self, entries: EntryReader, name: str, fetch_page: Callable[[int], tuple[tuple[T, ...], int | None]]
    ) -> Iterator[T]:
        page = 1
        while True:
            found, following = self.network.call(self.server.host, name, partial(fetch_page, page))
            yield from entries.read(found, lambda entry: cast("T", entry))
            if following is None:
                return
            entries.at(str(following))
            page = following


class SimRemoteFile(RemoteFile):
    """A download. Each range is one call, and has the content of that time."""

    def __init__(self, github: SimGitHub, request_url: Callable[[], SignedUrl], name: str) -> None:
        super().__init__(github, "", name)
        self._sim = github
        self._request_url = request_url
        self._signed: SignedUrl | None = None

    def _stream(self, start: int, end: int) -> Response:
        network, server = self._sim.network, self._sim.server
        for _ in range(_RENEWALS + 1):
            self._renew_if_old()
            assert self._signed is not None
            try:
                data, size = network.call(STORE, "GET download", partial(server.read, self._signed, start, end))
            except SynclineError as error:
                if error.code.name in ("FORBIDDEN", "NOT_FOUND", "REFUSED"):
                    self._expires = 0.0
                if error.code.name in ("FORBIDDEN", "NOT_FOUND"):
                    continue
                raise
            if self._size not in (None, size):
                raise SynclineError("BAD_ANSWER", f"{STORE} gives other bytes of {self.name} than those asked for")
            self._size = size
            return cast("Response", io.BytesIO(data))  # the client uses only read and close
        raise SynclineError("SERVER_ERROR", f"the store rejects each download URL for {self.name}")

    def _renew_if_old(self) -> None:
        now = self._sim.network.calls.machine.now
        if now >= self._expires:
            self._signed = self._sim.network.call(self._sim.server.host, "GET download address", self._request_url)
            self._expires = now + _URL_LIFE


def _made_up(workflow: str, number: int) -> WorkflowRun:
    """Return a run of the distant past, which only the endless list has."""
    began, id_ = 1.5e9 - 60 * number, 10**12 - number
    path, url = f".github/workflows/{workflow}", f"https://github.example/runs/{id_}"
    return WorkflowRun(id_, 1, 0, "main", "0" * 40, "push", "completed", "success", path, began, began, began + 30, url)


def _page(entries: Sequence[T], page: int) -> tuple[tuple[T, ...], int | None]:
    following = page + 1 if page * PAGE < len(entries) else None
    return tuple(entries[(page - 1) * PAGE : page * PAGE]), following


def _id_of(entry: WorkflowRun | Artifact) -> str:
    return str(entry.id)


def _fits(run: WorkflowRun, filters: Mapping[str, str]) -> bool:
    """Return True if a run matches the filters status, branch, event, head_sha and created (``>=`` a time)."""
    known = {"branch": run.branch, "event": run.event, "head_sha": run.sha}
    for name, value in filters.items():
        if name == "status":
            fits = value in (run.status, run.conclusion)
        elif name == "created":
            fits = run.created >= _since(value)
        else:
            fits = value == known[name]
        if not fits:
            return False
    return True


def _since(value: str) -> float:
    assert value.startswith(">="), value
    return datetime.fromisoformat(value[2:]).timestamp()
