"""A client for one branch of a remote git repository, without clone, checkout or index.

1. A bare, shallow, filtered fetch gets the last commit of the branch and the upper levels of its tree.
2. Deeper folders are fetched when they are needed, all of one level in one request. Blobs are fetched by ID.
3. New blobs and the commit are created with ``fast-import`` in a temporary repository. ``commit-tree`` signs a commit.
4. The commit is pushed with a lease on the fetched tip (``--force-with-lease``), so another commit is never lost. Only
   the update of the ref at the server counts.
5. After a failed push, or one without a result, the server is asked for the tip: the push may have succeeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from syncline.clients.git.access import GitCredentials, GitRemote, connection_options, private_folder, write_private
from syncline.clients.git.failures import disk_full_as_error
from syncline.clients.git.history import FULL_DEPTH, blobs_with_trailer
from syncline.clients.git.objects import (
    EMPTY_TREE,
    FILE,
    FOLDER,
    Commit,
    TreeEntry,
    blob_hash,
    branch_name_error,
    branch_ref,
    decode_name,
    quoted,
    read_commit,
    tree_entries,
)
from syncline.clients.git.program import CommandResult, GitRetryPolicy, GitRunner, RunningCommand
from syncline.clients.git.signatures import first_signed, ssh_settings
from syncline.clients.http.addresses import DIRECT, Route
from syncline.clients.http.retry import never_halted
from syncline.errors import SynclineError

_TIP: Final = "refs/syncline/tip"
_NEW: Final = "refs/syncline/new"
_HISTORY: Final = "refs/syncline/history"
_FULL: Final = 40  # digits of a complete ID
_ABSENT: Final = "couldn't find remote ref"
_OBJECT: Final = re.compile(rb"([0-9a-f]{40}) ([a-z]{1,10}) ([0-9]{1,18})")
_PARTIAL: Final = ("remote.origin.promisor=true", "remote.origin.partialclonefilter=blob:none")


@dataclass(frozen=True, slots=True)
class Person:
    """An author or committer."""

    name: str
    email: str

    def at(self, seconds: int) -> bytes:
        return f"{self.name} <{self.email}> {seconds} +0000".encode()


@dataclass(frozen=True, slots=True)
class NewCommit:
    """A commit to create: ``time`` in Unix seconds; ``signing_key`` is an SSH private key."""

    message: str
    author: Person
    committer: Person
    time: int
    signing_key: str | None = None


@dataclass(frozen=True, slots=True)
class BlobContent:
    """The content of a blob: chunks of exactly ``size`` bytes in total."""

    size: int
    chunks: Iterable[bytes]


class RemoteBranch:
    """One branch of one remote, created by :func:`open_branch`. Not safe for concurrent use."""

    def __init__(self, git: GitRunner, branch: str, depth: int) -> None:
        self._git = replace(git, settings=(*git.settings, *_PARTIAL))
        # Without the partial clone settings, git fetches no old blobs to compute deltas against.
        self._local = git
        self._ref = branch_ref(branch)
        self._depth = depth
        self._complete: set[str] = set()  # trees that were fetched with all trees below them
        self._trees: dict[str, dict[bytes, TreeEntry]] = {}
        self._blobs: set[str] = set()  # fetched blobs
        self.name = branch
        self.tip: Commit | None = None

    def fetch(self) -> Commit | None:
        """Fetch the branch's last commit with the trees of the upper ``depth`` levels; None if the branch is absent.

        Raises REPOSITORY_ABSENT, UNAUTHORIZED, FORBIDDEN, HOST_KEY_REFUSED, TLS_FAILED, UNREACHABLE and similar errors.
        """
        found = self._fetch_branch(_TIP, "--depth=1", f"--filter=tree:{self._depth}")
        self.tip = self._commit(_TIP) if found else None
        return self.tip

    def _fetch_branch(self, to: str, *options: str) -> bool:
        """Fetch the branch to a local ref; return False if it is absent."""
        done = self._git.fetch(*options, "origin", f"+{self._ref}:{to}", accept=(0, 128))
        if done.status and _ABSENT not in done.err:
            raise self._git.failure("fetch", done)
        return not done.status

    def fetch_commit(self, digits: str) -> Commit:
        """Fetch a commit instead of the branch's last: any by its full ID, one of the branch by the first digits.

        Raises NOT_FOUND if there is none, and USAGE if several begin with these digits.
        """
        oid = digits if len(digits) == _FULL else self._full(digits)
        try:
            self._git.fetch("--depth=1", f"--filter=tree:{self._depth}", "origin", f"+{oid}:{_TIP}")
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                raise SynclineError("NOT_FOUND", f"the repository has no commit {oid}") from None
            raise
        self.tip = self._commit(_TIP)
        return self.tip

    def _full(self, digits: str) -> str:
        """Return the full ID of the branch's commit that begins with these digits.

        Servers accept full IDs only, so all commits of the branch are fetched, without trees.
        """
        # Without an explicit depth, git keeps the depth of an earlier shallow fetch.
        is_found = self._fetch_branch(_HISTORY, f"--depth={FULL_DEPTH}", "--filter=tree:0")
        listed = self._git.run("rev-list", _HISTORY).out if is_found else b""
        found = [oid for oid in listed.decode().splitlines() if oid.startswith(digits)]
        if not found:
            raise SynclineError("NOT_FOUND", f"no commit of {self.name} begins with {digits}")
        if len(found) > 1:
            what = f"{digits} matches several commits of {self.name}: {', '.join(found)}; give more digits"
            raise SynclineError("USAGE", what)
        return found[0]

    def is_signed(self, public_keys: Sequence[str]) -> bool:
        """Return True if the fetched commit has a valid SSH signature of one of these keys."""
        return self.tip is not None and first_signed(self._local, [self.tip.oid], public_keys) is not None

    def newest_signed(self, public_keys: Sequence[str], most: int) -> str | None:
        """Return the ID of the newest of the branch's last `most` commits that is signed, None if none of them is."""
        if not self._fetch_branch(_HISTORY, f"--depth={most}", "--filter=tree:0"):
            return None
        oids = self._git.run("rev-list", "--first-parent", f"--max-count={most}", _HISTORY).out.decode().split()
        return first_signed(self._local, oids, public_keys)

    def newest_unsigned(self, public_keys: Sequence[str], most: int) -> str | None:
        """Return the ID of the newest unsigned one of the fetched commit and its ancestors, `most` of them; None without one."""
        assert self.tip is not None
        self._git.fetch(f"--depth={most}", "--filter=tree:0", "origin", f"+{self.tip.oid}:{_HISTORY}")
        oids = self._git.run("rev-list", f"--max-count={most}", _HISTORY).out.decode().split()
        return next((oid for oid in oids if first_signed(self._local, [oid], public_keys) is None), None)

    def remote_tip(self) -> str | None:
        """Return the ID of the branch's last commit at the server, None if the branch is absent."""
        out = self._git.query("ls-remote", "--quiet", "--refs", "origin", self._ref).out
        return out.split(b"\t")[0].decode() if out else None

    def heads(self, pattern: str) -> list[str]:
        """Return the valid names of the server's branches that match a pattern with ``*``."""
        return [name for name in self._heads(pattern) if branch_name_error(name) is None]

    def _check_free(self) -> None:
        """Raise BRANCH_BLOCKED if the name of another branch prevents the creation of this one."""
        parts = self.name.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        for name in self._heads(*above, f"{self.name}/*"):
            if name in above or name.startswith(f"{self.name}/"):  # a pattern also matches the ends of longer names
                what = f"{self.name!r} cannot be created while the branch {name!r} exists"
                raise SynclineError("BRANCH_BLOCKED", what)

    def _heads(self, *patterns: str) -> list[str]:
        """Return the names of the branches that match a pattern, except names that are not UTF-8."""
        refs = (f"refs/heads/{pattern}" for pattern in patterns)
        out = self._git.query("ls-remote", "--quiet", "--heads", "origin", *refs).out
        names = (line.partition(b"\trefs/heads/")[2] for line in out.splitlines())
        return [text for name in names if (text := decode_name(name)) is not None]

    def _commit(self, name: str) -> Commit:
        with self._git.start("cat-file", "--batch") as running:
            oid, size = _object(running, name, b"commit")
            return read_commit(oid, running.read_exactly(size))

    def folders(self, paths: Iterable[bytes]) -> dict[bytes, dict[bytes, TreeEntry]]:
        """Return the entries of folders by path; the root is ``b""``. A path that is no folder has no entries.

        Missing trees are fetched, with one request per level.
        """
        wanted = {tuple(path.split(b"/")) if path else () for path in paths}
        oids: dict[tuple[bytes, ...], str | None] = {(): self.tip.tree if self.tip else None}
        deepest = max((len(path) for path in wanted), default=0)
        for level in range(deepest + 1):
            here = {path[:level] for path in wanted if len(path) >= level}
            found = {path: oid for path in here if (oid := oids.get(path)) is not None}
            self._load(found.values(), level)
            below = {path[: level + 1] for path in wanted if len(path) > level}
            for path in below:
                parent = found.get(path[:-1])
                entry = self._trees[parent].get(path[-1]) if parent is not None else None
                oids[path] = entry.oid if entry is not None and entry.is_folder else None
        return {b"/".join(path): self._trees.get(oids.get(path) or "", {}) for path in wanted}

    def files(self, path: bytes, oid: str) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield every file below the folder ``path`` with its full path, in the order of bytes.

        ``oid`` is the folder's tree.
        """
        self.fetch_below([oid])
        # These trees are read once and may be many, so they are not cached.
        with self._git.start("cat-file", "--batch") as running:
            stack: list[tuple[bytes, TreeEntry]] = [(path, TreeEntry(FOLDER, oid))]
            while stack:
                path, entry = stack.pop()
                if not entry.is_folder:
                    yield path, entry
                    continue
                inner = list(_read_tree(running, entry.oid))
                stack += [(path + b"/" + name if path else name, each) for name, each in reversed(inner)]

    def fetch_below(self, oids: Sequence[str]) -> None:
        """Fetch these trees with all trees below them, the missing ones in one request.

        Git considers a present tree complete, and would later fetch each tree below it separately.
        """
        absent = [each for oid in dict.fromkeys(oids) for each in self._absent(oid)]
        self._fetch_objects(absent, "blob:none")
        self._complete.update((*oids, *absent))

    def _absent(self, oid: str) -> Iterator[str]:
        """Yield the topmost missing trees at or below this one."""
        if oid not in self._trees:
            yield from () if oid in self._complete else (oid,)
            return
        for entry in self._trees[oid].values():
            if entry.is_folder:
                yield from self._absent(entry.oid)

    def _fetch_objects(self, oids: Iterable[str], filter_: str) -> None:
        """Fetch objects by ID, in one request."""
        wanted = [oid for oid in dict.fromkeys(oids) if oid != EMPTY_TREE]
        if wanted:
            feed = "".join(f"{oid}\n" for oid in wanted).encode()
            self._git.fetch(f"--filter={filter_}", "--stdin", "origin", feed=feed)

    def _load(self, oids: Iterable[str], level: int) -> None:
        """Read trees of a level below the root, fetching missing ones."""
        new = [oid for oid in dict.fromkeys(oids) if oid not in self._trees]
        if level >= self._depth:
            self._fetch_objects((oid for oid in new if oid not in self._complete), "tree:0")
        if not new:
            return
        with self._git.start("cat-file", "--batch") as running:
            for oid in new:
                self._trees[oid] = entries = dict(_read_tree(running, oid))
                if oid in self._complete:
                    self._complete.update(e.oid for e in entries.values() if e.is_folder)

    @contextlib.contextmanager
    def blobs(self, oids: Sequence[str]) -> Iterator[Iterator[BlobContent]]:
        """Open blobs and yield their contents in this order. Each must be read completely before the next.

        Blobs that were not fetched before are fetched in one request.
        """
        self._fetch_objects((oid for oid in oids if oid not in self._blobs), "blob:none")
        self._blobs.update(oids)
        with self._git.start("cat-file", "--batch") as running:

            def each() -> Iterator[BlobContent]:
                for oid in oids:
                    _, size = _object(running, oid, b"blob")
                    yield BlobContent(size, _pieces(running.read_exactly, size))
                    running.read_exactly(1)

            yield each()

    def blobs_with_trailer(
        self, since: str | None, trailer: str, folder: bytes, *, having: Sequence[str] = ()
    ) -> dict[bytes, str | None]:
        """Return the blobs that commits with a trailer put since a commit; see :func:`.history.blobs_with_trailer`."""
        if self.tip is None:
            return {}
        return blobs_with_trailer(self._git, self._local, self.tip.oid, since, trailer, folder, having)

    def store(self, blobs: Iterable[bytes]) -> None:
        """Store blobs locally in one pack, for a later commit."""
        with self._fast_import() as running:
            for data in blobs:
                running.write_all((b"blob\ndata %d\n" % len(data), data, b"\n"))

    def store_stream(self, blob: BlobContent) -> str:
        """Store one large blob locally, in a separate pack and without holding it in memory; return its ID.

        Raises the exceptions of the chunks, and SOURCE_CHANGED if they do not have the announced size. Then nothing is
        stored.
        """
        digest = blob_hash(blob.size)
        with self._fast_import() as running:
            running.write_all((b"blob\ndata %d\n" % blob.size,))
            running.write_all(_counted(blob, digest))
            running.write_all((b"\n",))
        return digest.hexdigest()

    @contextlib.contextmanager
    def _fast_import(self, *options: str) -> Iterator[RunningCommand]:
        """Run ``git fast-import`` for the commands that the block writes. Raises its error."""
        with self._git.start("fast-import", "--quiet", "--done", *options) as running:
            yield running
            running.write_all((b"done\n",))
            if running.ended().status:
                raise running.error()

    def commit(self, new: NewCommit, changes: Mapping[bytes, str | None]) -> str:
        """Create a commit on the tip and return its ID. ``changes`` maps paths to blob IDs, None for a removal."""
        message = new.message.encode()
        with self._fast_import("--force") as running:
            head = [b"reset " + _NEW.encode(), b"", b"commit " + _NEW.encode()]
            head += [b"author " + new.author.at(new.time), b"committer " + new.committer.at(new.time)]
            head += [b"data %d" % len(message), message]
            head += [b"from " + self.tip.oid.encode()] if self.tip else []
            running.write_all((b"\n".join(head) + b"\n",))
            # Removals first, since a folder may replace a file.
            running.write_all(b"D " + quoted(path) + b"\n" for path, oid in changes.items() if oid is None)
            put = ((path, oid) for path, oid in changes.items() if oid is not None)
            running.write_all(b"M " + FILE + b" " + oid.encode() + b" " + quoted(path) + b"\n" for path, oid in put)
            running.write_all((b"\n",))
        created = self._commit(_NEW)
        return created.oid if new.signing_key is None else self._signed(created.tree, new)

    def _signed(self, tree: str, new: NewCommit) -> str:
        """Create the same commit with a signature, which fast-import cannot do; return its ID."""
        people = {
            f"GIT_{role}_{part}": value
            for role, person in (("AUTHOR", new.author), ("COMMITTER", new.committer))
            for part, value in (("NAME", person.name), ("EMAIL", person.email), ("DATE", f"{new.time} +0000"))
        }
        with private_folder() as folder:
            key = write_private(folder / "signing", f"{str(new.signing_key).rstrip()}\n")
            settings = [*ssh_settings(), "-c", f"user.signingKey={key}"]
            parent = ["-p", self.tip.oid] if self.tip else []
            git = replace(self._git, environment={**self._git.environment, **people})
            done = git.run(*settings, "commit-tree", tree, *parent, "-S", "-F", "-", feed=new.message.encode())
        return done.out.decode().strip()

    def set_tip(self, commit: str) -> None:
        """Set the tip to a commit that was pushed."""
        self.tip = self._commit(commit)

    def push(self, commit: str) -> None:
        """Push ``commit`` to the branch if its tip is still the fetched one.

        Raises BRANCH_MOVED if it is not, and BRANCH_BLOCKED, BRANCH_PROTECTED, OVER_LIMIT, FORBIDDEN or similar errors if
        the server refuses. If the result is lost, the server is asked for the tip.
        """
        for attempt in itertools.count(1):
            error = self._push(commit)
            if error is None or (now := self.remote_tip()) == commit:
                return
            if now is None and self.tip is None:
                self._check_free()  # some servers report another reason
            if now != (self.tip.oid if self.tip else None):
                raise SynclineError("BRANCH_MOVED", f"{self.name} is {now or 'gone'} since it was fetched")
            if not self._git.wait(error, attempt):
                raise error

    def check_push(self) -> None:
        """Raise FORBIDDEN or another error if the server does not let these credentials push. Nothing is sent to it.

        A dry run opens a push, for which the server checks the credentials, and ends before the first object. The rules
        of a branch apply later, so a protected branch is not noticed.
        """
        nobody = Person("Syncline", "syncline@localhost")
        commit = self.commit(NewCommit("A commit that stays here", nobody, nobody, 0), {})
        done = self._local.run(
            "push", "--dry-run", "--porcelain", "origin", f"+{commit}:{self._ref}", accept=range(-64, 256)
        )
        if done.status:
            message = f"{done.err}\n{done.out.decode('utf-8', 'replace')}"
            raise self._local.failure("push", CommandResult(done.status, b"", message))

    def _push(self, commit: str) -> SynclineError | None:
        lease = f"--force-with-lease={self._ref}:{self.tip.oid if self.tip else ''}"
        done = self._local.run(
            "push", "--porcelain", "--quiet", lease, "origin", f"{commit}:{self._ref}", accept=range(-64, 256)
        )
        if done.status == 0:
            return None
        message = f"{done.err}\n{done.out.decode('utf-8', 'replace')}"
        return self._local.failure("push", CommandResult(done.status, b"", message))


@dataclass(frozen=True, slots=True)
class RepositoryLocation:
    """A remote repository with credentials, route and retry policy."""

    remote: GitRemote
    access: GitCredentials = None
    route: Route = DIRECT
    retry: GitRetryPolicy = field(default_factory=GitRetryPolicy)


@contextlib.contextmanager
def open_branch(
    location: RepositoryLocation,
    branch: str,
    *,
    depth: int,
    left: Callable[[], float],
    halted: Callable[[], bool] = never_halted,
) -> Iterator[RemoteBranch]:
    """Open a branch in a private folder that is removed at the end of the block.

    ``depth`` is the number of tree levels that the first fetch gets. ``left`` returns the remaining seconds. Commands
    end once ``halted`` returns True.
    """
    with private_folder() as folder:
        settings, environment = connection_options(location.remote, location.access, location.route, folder)
        bare = folder / "bare"
        with disk_full_as_error():
            # Written directly: `git init` and two `git config` would take longer than the fetch.
            _initialise(bare, location.remote.url)
        account = (location.remote.host, location.access)
        git = GitRunner(bare, settings, environment, left, location.retry, halted, account, location.route)
        yield RemoteBranch(git, branch, depth)


def _initialise(bare: Path, url: str) -> None:
    for name in ("objects/pack", "refs/heads", "refs/syncline", "info"):
        (bare / name).mkdir(parents=True)
    (bare / "HEAD").write_text("ref: refs/heads/none\n", encoding="utf-8")
    escaped = url.replace("\\", "\\\\").replace('"', '\\"')
    (bare / "config").write_text(
        f'[core]\n\trepositoryformatversion = 0\n\tbare = true\n[remote "origin"]\n\turl = "{escaped}"\n',
        encoding="utf-8",
    )


def _object(running: RunningCommand, name: str, kind: bytes) -> tuple[str, int]:
    """Ask `git cat-file --batch` for an object; return its ID and size.

    Raises the error that prevented git from fetching a missing object, and BAD_ANSWER if the object is missing without
    an error or of another kind, which only the server can cause.
    """
    running.write(f"{name}\n".encode())
    line = running.line()
    if not line:
        raise running.error()
    found = _OBJECT.fullmatch(line)
    if found is None or found[2] != kind:
        error = running.error()
        if found is None and error.code.name != "GIT_FAILED":
            raise error
        answer = line[-60:].decode("utf-8", "replace")
        raise SynclineError("BAD_ANSWER", f"the git server sent no {kind.decode()} {name}: {answer!r}")
    return found[1].decode(), int(found[3])


def _read_tree(running: RunningCommand, oid: str) -> Iterator[tuple[bytes, TreeEntry]]:
    _, size = _object(running, oid, b"tree")
    return tree_entries(running.read_exactly(size + 1)[:-1])


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size:
        piece = read(min(size, 1 << 20))
        size -= len(piece)
        yield piece


def _counted(blob: BlobContent, digest: hashlib._Hash) -> Iterator[bytes]:
    passed = 0
    for chunk in blob.chunks:
        passed += len(chunk)
        if passed > blob.size:
            break
        digest.update(chunk)
        yield chunk
    if passed != blob.size:
        raise SynclineError("SOURCE_CHANGED", f"the object does not have the announced {blob.size} bytes")
