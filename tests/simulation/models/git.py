"""The client of a git server in memory: one branch, in one process.

Objects that a process fetches or stores are local to its branch. Only a push changes the server.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from syncline.clients.git.access import TokenCredentials
from syncline.clients.git.objects import FOLDER, Commit, TreeEntry, blob_hash
from syncline.clients.git.program import GitRetryPolicy, GitRunner
from syncline.clients.git.repository import BlobContent, NewCommit, RemoteBranch, RepositoryLocation
from syncline.clients.http.retry import never_halted
from syncline.errors import SynclineError
from tests.simulation.models.git_server import GitServer, Objects, Tree, apply_changes
from tests.simulation.network import Network

T = TypeVar("T")
_ID_LENGTH: Final = 40
_FIRST_COMMITS: Final = 100  # commits of a history that are fetched before all others
_CHUNK: Final = 1 << 20
_HALT_CHECK: Final = 1.0  # seconds after which a running command checks that its run was not cancelled


class SimBranch(RemoteBranch):
    """A branch of a :class:`GitServer` in one process. Methods that only call these are the real client's.

    The pauses of ``retry`` take simulated time.
    """

    def __init__(
        self,
        server: GitServer,
        network: Network,
        branch: str,
        *,
        depth: int,
        host: str = "git",
        retry: GitRetryPolicy | None = None,
        left: Callable[[], float] = lambda: 600.0,
        halted: Callable[[], bool] = never_halted,
    ) -> None:
        machine = network.calls.machine
        retry = replace(retry or GitRetryPolicy(), sleep=machine.sleep)
        super().__init__(GitRunner(Path("/nonexistent"), left=left, retry=retry, halted=halted), branch, depth)
        self.server = server
        self.network = network
        self.host = host
        self.closed = False
        self._local_objects = Objects()

    # -- calls

    def _begin(self, command: str) -> None:
        """Check that a command may begin. Raises TIME_SHORT, RUN_CANCELLED."""
        assert not self.closed, "the branch was closed"
        if self._git.left() <= 0:
            raise SynclineError("TIME_SHORT", f"no time is left for git {command}")
        if self._git.halted():
            raise SynclineError("RUN_CANCELLED", f"git {command} was not started: the run was cancelled")

    def _call_once(self, command: str, name: str, function: Callable[[], T], *, writes: bool = False) -> T:
        """Make one call. Raises TIME_SHORT, RUN_CANCELLED if the command is stopped before its answer."""
        self._begin(command)
        machine = self.network.calls.machine
        began = machine.now
        try:
            answer = self.network.call(self.host, name, function, writes=writes)
        except SynclineError as error:
            error.retry_after = None  # git does not report it
            raise
        if self._git.left() <= 0:
            raise SynclineError("TIME_SHORT", f"git {command} was stopped: its time is over")
        if machine.now - began > _HALT_CHECK and self._git.halted():
            raise SynclineError("RUN_CANCELLED", f"git {command} was stopped: the run was cancelled")
        return answer

    def _call_with_retries(self, command: str, name: str, function: Callable[[], T]) -> T:
        """Make a call that only reads, with retries."""
        for attempt in itertools.count(1):
            try:
                return self._call_once(command, name, function)
            except SynclineError as error:
                if not self._git.wait(error, attempt):
                    raise
        raise AssertionError  # unreachable

    def _ensure(self, oid: str) -> None:
        """Fetch an object if it is not local. Git does so on its own, for a tree with all trees below it."""
        self._fetch_absent("git fetch missing", [oid], None)

    def _tree(self, oid: str) -> Tree:
        self._ensure(oid)
        return self._local_objects.trees[oid]

    # -- reading

    def fetch(self) -> Commit | None:
        def read() -> tuple[str | None, Objects]:
            oid = self.server.tip(self.name)
            return oid, self.server.fetch(oid, self._depth) if oid else Objects()

        oid, found = self._call_with_retries("fetch", "git fetch", read)
        self._local_objects.update(found)
        self.tip = self._local_objects.commits[oid].commit if oid else None
        return self.tip

    def fetch_commit(self, digits: str) -> Commit:
        oid = digits if len(digits) == _ID_LENGTH else self._full_id(digits)
        self._local_objects.update(
            self._call_with_retries("fetch", "git fetch", lambda: self.server.fetch(oid, self._depth))
        )
        self.tip = self._local_objects.commits[oid].commit
        return self.tip

    def _full_id(self, digits: str) -> str:
        commits = self._call_with_retries(
            "fetch", "git fetch history", lambda: self.server.history(self.server.tip(self.name))
        )
        found = [commit.oid for commit in commits if commit.oid.startswith(digits)]
        if not found:
            raise SynclineError("NOT_FOUND", f"no commit of {self.name} begins with {digits}")
        if len(found) > 1:
            raise SynclineError("USAGE", f"{digits} matches several commits of {self.name}: {', '.join(found)}")
        return found[0]

    def remote_tip(self) -> str | None:
        return self._call_with_retries("ls-remote", "git ls-remote", lambda: self.server.tip(self.name))

    def _heads(self, *patterns: str) -> list[str]:
        heads = self._call_with_retries("ls-remote", "git ls-remote heads", self.server.heads)
        fits = re.compile("|".join(f"(?:.*/refs/heads/)?{re.escape(p).replace(chr(92) + '*', '.*')}" for p in patterns))
        return [name for name in heads if fits.fullmatch(name)]

    def _commit(self, name: str) -> Commit:
        self._begin("cat-file")
        self._ensure(name)
        return self._local_objects.commits[name].commit

    def folders(self, paths: Iterable[bytes]) -> dict[bytes, Tree]:
        # The order of the real client is that of a set.
        return dict(sorted(super().folders(paths).items()))

    def _load(self, oids: Iterable[str], level: int) -> None:
        new = [oid for oid in dict.fromkeys(oids) if oid not in self._trees]
        if level >= self._depth:
            self._fetch_objects((oid for oid in new if oid not in self._complete), "tree:0")
        for oid in new:
            self._trees[oid] = dict(self._tree(oid))
            if oid in self._complete:
                self._complete.update(e.oid for e in self._trees[oid].values() if e.is_folder)

    def _fetch_objects(self, oids: Iterable[str], filter_: str) -> None:
        self._fetch_absent("git fetch trees", list(dict.fromkeys(oids)), 1 if filter_ == "tree:0" else None)

    def _fetch_absent(self, name: str, oids: Sequence[str], levels: int | None) -> None:
        """Fetch objects in one call, unless all of them are local."""
        if not all(oid in self._local_objects for oid in oids):
            self._local_objects.update(
                self._call_with_retries("fetch", name, lambda: self.server.fetch_objects(oids, levels))
            )

    def files(self, path: bytes, oid: str) -> Iterator[tuple[bytes, TreeEntry]]:
        self.fetch_below([oid])
        stack = [(path, TreeEntry(FOLDER, oid))]
        while stack:
            path, entry = stack.pop()
            if not entry.is_folder:
                yield path, entry
                continue
            inner = [(path + b"/" + name if path else name, each) for name, each in self._tree(entry.oid).items()]
            stack += reversed(inner)

    @contextlib.contextmanager
    def blobs(self, oids: Sequence[str]) -> Iterator[Iterator[BlobContent]]:
        self._fetch_absent("git fetch blobs", list(dict.fromkeys(oid for oid in oids if oid not in self._blobs)), None)
        self._blobs.update(oids)

        def chunks_of(data: bytes, read: list[int]) -> Iterator[bytes]:
            for at in range(0, len(data), _CHUNK):
                assert not self.closed, "the branch was closed"
                read[0] += len(data[at : at + _CHUNK])
                yield data[at : at + _CHUNK]

        def each() -> Iterator[BlobContent]:
            for oid in oids:
                data, read = self._local_objects.blobs[oid], [0]
                yield BlobContent(len(data), chunks_of(data, read))
                assert read[0] == len(data), "a blob must be read before the next"

        yield each()

    def blobs_with_trailer(
        self, since: str | None, trailer: str, folder: bytes, *, having: Sequence[str] = ()
    ) -> dict[bytes, str | None]:
        if self.tip is None:
            return {}
        tip = self.tip.oid
        for most in (_FIRST_COMMITS, None):
            every = self._call_with_retries("fetch", "git fetch history", lambda: self.server.history(tip))
            new = list(itertools.takewhile(lambda commit: commit.oid != since, every))
            if not {commit.oid for commit in new}.issuperset(having):
                new = every
            if most is None or len(every) <= most or len(new) < most:
                break
        ours = [commit for commit in new if trailer in commit.message.split("\n")]
        found: dict[bytes, str | None] = {}
        if ours:
            for path, blob in self._call_with_retries(
                "fetch", "git fetch changes", lambda: self.server.changes_of(ours, folder)
            ):
                found.setdefault(path, blob)
        return found

    # -- writing

    def store(self, blobs: Iterable[bytes]) -> None:
        self._begin("fast-import")
        for data in blobs:
            self._local_objects.blob(bytes(data))

    def store_stream(self, blob: BlobContent) -> str:
        self._begin("fast-import")
        digest, data = blob_hash(blob.size), bytearray()
        for chunk in blob.chunks:
            data += chunk
            if len(data) > blob.size:
                break
            digest.update(chunk)
        if len(data) != blob.size:
            raise SynclineError("SOURCE_CHANGED", f"the object does not have the announced {blob.size} bytes")
        return self._local_objects.blob(bytes(data))

    def commit(self, new: NewCommit, changes: Mapping[bytes, str | None]) -> str:
        self._begin("fast-import")
        for oid in changes.values():
            if oid is not None:
                self._ensure(oid)
                if oid not in self._local_objects.blobs:
                    raise SynclineError("GIT_FAILED", f"git fast-import: not a blob: {oid}")
        tree = apply_changes(self.tip.tree if self.tip else None, changes, self._tree, self._local_objects)
        return self._local_objects.commit(tree, self.tip.oid if self.tip else None, new).oid

    def _push(self, commit: str) -> SynclineError | None:
        old, by = self.tip.oid if self.tip else None, self.network.calls.process.name
        push = lambda: self.server.push(self.name, old, commit, self._local_objects, by)  # noqa: E731
        try:
            self._call_once("push", "git push", push, writes=True)
        except SynclineError as error:
            if error.code.name in ("TIME_SHORT", "RUN_CANCELLED"):
                raise
            return error
        return None


Open = Callable[..., contextlib.AbstractContextManager[RemoteBranch]]


def sim_open_branch(servers: Mapping[str, GitServer], network: Callable[[], Network]) -> Open:
    """Return a replacement for :func:`open_branch`. ``network`` returns the network of the running process.

    ``servers`` has the repositories by their URLs. A repository at any other URL does not exist.
    """

    @contextlib.contextmanager
    def open_branch(
        place: RepositoryLocation,
        branch: str,
        *,
        depth: int,
        left: Callable[[], float],
        halted: Callable[[], bool] = never_halted,
    ) -> Iterator[SimBranch]:
        server = servers.get(place.remote.url)
        if server is None:
            server = GitServer(place.remote.url, lambda: 0.0)
            server.vanishes = True
        host, retry = place.remote.host or "localhost", place.retry
        if isinstance(place.access, TokenCredentials):
            pair = f"{place.access.username}:{place.access.token}".encode()
            texts = [place.access.token, f"Basic {base64.b64encode(pair).decode()}"]
            network().identities[host] = lambda: texts
        made = SimBranch(server, network(), branch, depth=depth, host=host, retry=retry, left=left, halted=halted)
        try:
            yield made
        finally:
            made.closed = True

    return open_branch
