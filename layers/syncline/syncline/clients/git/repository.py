"""A branch of a remote repository, worked on without its content: no clone, no checkout, no index.

A bare, shallow, filtered fetch brings the branch's last commit and the top of its tree; of what lies below only those
folders follow that are asked for, all of a level in one request. New blobs and the commit are made with
``fast-import`` and pushed under a lease on what the branch was: the update of the ref at the server is the only thing
that counts. Whatever a push answers, or does not, the server is asked what the branch is now.
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

from syncline.clients.git.access import Access, Means, Remote, means, private_folder
from syncline.clients.git.failures import disk_full
from syncline.clients.git.history import WHOLE_HISTORY, blobs_put
from syncline.clients.git.objects import (
    EMPTY_TREE,
    FILE,
    FOLDER,
    Commit,
    Entry,
    blob_hash,
    branch_ref,
    quoted,
    read_commit,
    text_of,
    tree_entries,
    unfit_branch,
)
from syncline.clients.git.program import Done, Git, Patience, Running, program
from syncline.clients.http.pacing import never
from syncline.errors import SynclineError

_TIP: Final = "refs/syncline/tip"
_NEW: Final = "refs/syncline/new"
_HISTORY: Final = "refs/syncline/history"
_FULL: Final = 40  # digits of an ID
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
    """A commit to make: ``time`` in Unix seconds; ``signing_key`` is an SSH private key."""

    message: str
    author: Person
    committer: Person
    time: int
    signing_key: str | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """Content for a blob: its ``size`` in bytes and its chunks, which have exactly that many."""

    size: int
    chunks: Iterable[bytes]


class Branch:
    """One branch at one remote; made by :func:`open_branch`. Not for several threads at once."""

    def __init__(self, git: Git, branch: str, depth: int) -> None:
        self._git = replace(git, settings=(*git.settings, *_PARTIAL))
        # What is not here it then does without, instead of fetching old blobs to compare new ones with.
        self._pushing = git
        self._ref = branch_ref(branch)
        self._depth = depth
        self._whole: set[str] = set()  # trees that are here with all below them
        self._trees: dict[str, dict[bytes, Entry]] = {}
        self._blobs: set[str] = set()  # blobs that were fetched
        self.name = branch
        self.tip: Commit | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    def fetch(self) -> Commit | None:
        """The branch's last commit as it is now, with the trees of the upper ``depth`` levels; None if there is none.

        Raises REPOSITORY_ABSENT, UNAUTHORIZED, FORBIDDEN, HOST_KEY_REFUSED, TLS_FAILED, UNREACHABLE and their like.
        """
        done = self._fetch_tip(self._ref, accept=(0, 128))
        if done.status and _ABSENT not in done.err:
            raise self._git.failure("fetch", done)
        self.tip = None if done.status else self._commit(_TIP)
        return self.tip

    def _fetch_tip(self, what: str, accept: tuple[int, ...]) -> Done:
        """Fetch one commit and the trees of its upper levels, and note it as the tip."""
        return self._git.ask(
            "fetch",
            "--quiet",
            "--depth=1",
            f"--filter=tree:{self._depth}",
            "--no-tags",
            "--no-write-fetch-head",
            "origin",
            f"+{what}:{_TIP}",
            accept=accept,
        )

    def fetch_commit(self, digits: str) -> Commit:
        """Fetch a commit instead of the branch's last: any one by its full ID, one of the branch by its first digits.

        Raises NOT_FOUND if there is none, and USAGE if several begin with these digits.
        """
        oid = digits if len(digits) == _FULL else self._full(digits)
        done = self._fetch_tip(oid, accept=(0, 1, 128))
        if done.status:
            error = self._git.failure("fetch", done)
            if error.code.name == "NOT_FOUND":
                raise SynclineError("NOT_FOUND", f"the repository has no commit {oid}")
            raise error
        self.tip = self._commit(_TIP)
        return self.tip

    def _full(self, digits: str) -> str:
        """Return the full ID of the branch's commit that begins with these digits.

        A server takes full IDs only, so all commits of the branch are fetched, without their trees.
        """
        # Without the depth git goes no further back than an earlier fetch of one commit did.
        history = (f"--depth={WHOLE_HISTORY}", "--filter=tree:0", "--no-tags", "--no-write-fetch-head")
        done = self._git.ask("fetch", "--quiet", *history, "origin", f"+{self._ref}:{_HISTORY}", accept=(0, 128))
        if done.status and _ABSENT not in done.err:
            raise self._git.failure("fetch", done)
        listed = b"" if done.status else self._git.run("rev-list", _HISTORY).out
        found = [oid for oid in listed.decode().splitlines() if oid.startswith(digits)]
        if not found:
            raise SynclineError("NOT_FOUND", f"no commit of {self.name} begins with {digits}")
        if len(found) > 1:
            raise SynclineError(
                "USAGE", f"{digits} fits several commits of {self.name}: {', '.join(found)}; write more digits"
            )
        return found[0]

    def ask(self) -> str | None:
        """What the branch is at the server now: the id of its last commit."""
        out = self._git.ask("ls-remote", "--quiet", "--refs", "origin", self._ref).out
        return out.split(b"\t")[0].decode() if out else None

    def heads(self, pattern: str) -> list[str]:
        """Return the names of all branches at the server that a pattern with ``*`` in it fits and that could be ours."""
        return [name for name in self._heads(pattern) if unfit_branch(name) is None]

    def _check_free(self) -> None:
        """Raise BRANCH_BLOCKED if this branch cannot be made because of another's name."""
        parts = self.name.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        # A pattern also fits the ends of longer names.
        found = [
            name for name in self._heads(*above, f"{self.name}/*") if name in above or name.startswith(f"{self.name}/")
        ]
        if found:
            raise SynclineError("BRANCH_BLOCKED", f"{self.name!r} cannot be made while there is a branch {found[0]!r}")

    def _heads(self, *patterns: str) -> list[str]:
        """Return the names of the branches that a pattern fits. Names that are not UTF-8 are left out: none is ours."""
        refs = (f"refs/heads/{pattern}" for pattern in patterns)
        out = self._git.ask("ls-remote", "--quiet", "--heads", "origin", *refs).out
        names = (line.partition(b"\trefs/heads/")[2] for line in out.splitlines())
        return [text for name in names if (text := text_of(name)) is not None]

    def _commit(self, name: str) -> Commit:
        with self._git.start("cat-file", "--batch") as running:
            oid, size = _object(running, name, b"commit")
            return read_commit(oid, running.read_exactly(size))

    def folders(self, paths: Iterable[bytes]) -> dict[bytes, dict[bytes, Entry]]:
        """The entries of folders of the branch's tree, by their paths; the root is ``b""``. What is no folder is empty.

        Missing trees are fetched, one request for each level.
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
        return {b"/".join(path): self._entries(oids.get(path)) for path in wanted}

    def _entries(self, oid: str | None) -> dict[bytes, Entry]:
        return {} if oid is None else self._trees[oid]

    def files(self, path: bytes, oid: str) -> Iterator[tuple[bytes, Entry]]:
        """Every file below the folder ``path`` by its full path; in the order of bytes.

        ``oid`` is its tree.
        """
        self.fetch_below([oid])
        # Read once and maybe very many: not to be kept.
        with self._git.start("cat-file", "--batch") as running:
            stack: list[tuple[bytes, Entry]] = [(path, Entry(FOLDER, oid))]
            while stack:
                path, entry = stack.pop()
                if not entry.is_folder:
                    yield path, entry
                    continue
                inner = list(_read_tree(running, entry.oid))
                stack += [(path + b"/" + name if path else name, each) for name, each in reversed(inner)]

    def fetch_below(self, oids: Sequence[str]) -> None:
        """Have these trees here with all that is below them; one request for what is not.

        Git takes a tree that is here for whole, and would then fetch each below it by itself.
        """
        absent = [each for oid in dict.fromkeys(oids) for each in self._absent(oid)]
        self._fetch_objects(absent, "blob:none")
        self._whole.update((*oids, *absent))

    def _absent(self, oid: str) -> Iterator[str]:
        """The trees at or below this one that are not here yet, the uppermost of them."""
        if oid not in self._trees:
            yield from () if oid in self._whole else (oid,)
            return
        for entry in self._trees[oid].values():
            if entry.is_folder:
                yield from self._absent(entry.oid)

    def _fetch_objects(self, oids: Iterable[str], filter_: str) -> None:
        """Fetch objects by their ids, in one request."""
        wanted = [oid for oid in dict.fromkeys(oids) if oid != EMPTY_TREE]
        if wanted:
            self._git.ask(
                "fetch",
                "--quiet",
                f"--filter={filter_}",
                "--no-tags",
                "--no-write-fetch-head",
                "--stdin",
                "origin",
                feed="".join(f"{oid}\n" for oid in wanted).encode(),
            )

    def _load(self, oids: Iterable[str], level: int) -> None:
        """Have these trees, of this level below the root, read."""
        new = [oid for oid in dict.fromkeys(oids) if oid not in self._trees]
        if level >= self._depth:
            self._fetch_objects((oid for oid in new if oid not in self._whole), "tree:0")
        if not new:
            return
        with self._git.start("cat-file", "--batch") as running:
            for oid in new:
                self._trees[oid] = entries = dict(_read_tree(running, oid))
                if oid in self._whole:
                    self._whole.update(e.oid for e in entries.values() if e.is_folder)

    @contextlib.contextmanager
    def blobs(self, oids: Sequence[str]) -> Iterator[Iterator[Blob]]:
        """The content of blobs, in this order; each is to be read before the next.

        Those that were not fetched yet are fetched in one request.
        """
        self._fetch_objects((oid for oid in oids if oid not in self._blobs), "blob:none")
        self._blobs.update(oids)
        with self._git.start("cat-file", "--batch") as running:

            def each() -> Iterator[Blob]:
                for oid in oids:
                    _, size = _object(running, oid, b"blob")
                    yield Blob(size, _pieces(running.read_exactly, size))
                    running.read_exactly(1)

            yield each()

    def blobs_put(
        self, since: str | None, trailer: str, folder: bytes, *, having: Sequence[str] = ()
    ) -> dict[bytes, str | None]:
        """Return what the commits with a trailer put since another commit: see :func:`.history.blobs_put`."""
        if self.tip is None:
            return {}
        return blobs_put(self._git, self._pushing, self.tip.oid, since, trailer, folder, having)

    # -- writing -------------------------------------------------------------------------------------------------

    def store(self, blobs: Iterable[bytes]) -> None:
        """Keep these blobs in one pack here, for the commit that names them."""
        with self._git.start("fast-import", "--quiet", "--done") as running:
            for data in blobs:
                running.write_all((b"blob\ndata %d\n" % len(data), data, b"\n"))
            running.write_all((b"done\n",))
            done = running.ended()
            if done.status:
                raise running.error(done)

    def store_stream(self, blob: Blob) -> str:
        """Keep one large blob here, in a pack of its own and without holding it in memory; its id.

        Raises what the chunks raise, and SOURCE_CHANGED where they are more or fewer than the size; then nothing of
        it is kept.
        """
        digest = blob_hash(blob.size)
        with self._git.start("fast-import", "--quiet", "--done") as running:
            running.write_all((b"blob\ndata %d\n" % blob.size,))
            running.write_all(_counted(blob, digest))
            running.write_all((b"\ndone\n",))
            done = running.ended()
            if done.status:
                raise running.error(done)
        return digest.hexdigest()

    def commit(self, new: NewCommit, changes: Mapping[bytes, str | None]) -> str:
        """Make a commit on the tip; the id of it. ``changes`` maps paths to ids of blobs, or None to remove them."""
        message = new.message.encode()
        with self._git.start("fast-import", "--quiet", "--done", "--force") as running:
            head = [b"reset " + _NEW.encode(), b"", b"commit " + _NEW.encode()]
            head += [b"author " + new.author.at(new.time), b"committer " + new.committer.at(new.time)]
            head += [b"data %d" % len(message), message]
            head += [b"from " + self.tip.oid.encode()] if self.tip else []
            running.write_all((b"\n".join(head) + b"\n",))
            # Removals first: a folder may take the place of a file.
            running.write_all(b"D " + quoted(path) + b"\n" for path, oid in changes.items() if oid is None)
            running.write_all(
                b"M " + FILE + b" " + oid.encode() + b" " + quoted(path) + b"\n"
                for path, oid in changes.items()
                if oid is not None
            )
            running.write_all((b"\ndone\n",))
            done = running.ended()
            if done.status:
                raise running.error(done)
        made = self._commit(_NEW)
        return made.oid if new.signing_key is None else self._signed(made.tree, new)

    def _signed(self, tree: str, new: NewCommit) -> str:
        """The same commit with a signature, which fast-import cannot make."""
        people = {
            f"GIT_{role}_{part}": value
            for role, person in (("AUTHOR", new.author), ("COMMITTER", new.committer))
            for part, value in (("NAME", person.name), ("EMAIL", person.email), ("DATE", f"{new.time} +0000"))
        }
        with private_folder() as folder:
            key = folder / "signing"
            with disk_full():
                key.touch(mode=0o600)
                key.write_text(f"{str(new.signing_key).rstrip()}\n", encoding="utf-8")
            beside = Path(program()).parent / "ssh-keygen"
            settings = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={key}"]
            settings += ["-c", f"gpg.ssh.program={beside}"] if beside.exists() else []
            parent = ["-p", self.tip.oid] if self.tip else []
            done = self._git.run(
                *settings, "commit-tree", tree, *parent, "-S", "-F", "-", feed=new.message.encode(), extra=people
            )
        return done.out.decode().strip()

    def landed(self, commit: str) -> None:
        """A commit that was pushed is the tip from now on."""
        self.tip = self._commit(commit)

    def push(self, commit: str) -> None:
        """Make ``commit`` the branch's last, if the branch still is what was fetched.

        Raises BRANCH_MOVED if it is not, BRANCH_BLOCKED, BRANCH_PROTECTED, OVER_LIMIT, FORBIDDEN and their like where the server
        refuses. An answer that was lost is no failure: the branch itself is looked at.
        """
        for attempt in itertools.count(1):
            error = self._push(commit)
            if error is None or (now := self.ask()) == commit:
                return
            if now is None and self.tip is None:
                self._check_free()  # not every server says so, and some say that the branch has moved
            if now != (self.tip.oid if self.tip else None):
                raise SynclineError("BRANCH_MOVED", f"{self.name} is {now or 'gone'} since it was looked at")
            if not self._git.bears(error, attempt):
                raise error

    def _push(self, commit: str) -> SynclineError | None:
        lease = f"--force-with-lease={self._ref}:{self.tip.oid if self.tip else ''}"
        done = self._pushing.run(
            "push", "--porcelain", "--quiet", lease, "origin", f"{commit}:{self._ref}", accept=tuple(range(-64, 256))
        )
        if done.status == 0:
            return None
        said = f"{done.err}\n{done.out.decode('utf-8', 'replace')}"
        return self._pushing.failure("push", Done(done.status, b"", said))


@dataclass(frozen=True, slots=True)
class Place:
    """A repository and how to get at it; ``ca`` is PEM text trusted beside the system's roots."""

    remote: Remote
    access: Access = None
    ca: str | None = None
    patience: Patience = field(default_factory=Patience)


@contextlib.contextmanager
def open_branch(
    place: Place, branch: str, *, depth: int, left: Callable[[], float], halted: Callable[[], bool] = never
) -> Iterator[Branch]:
    """Open a branch to work on, in a private folder that is removed at the end.

    ``depth`` is the number of levels of the tree that come with the first fetch. ``left`` gives the seconds that are
    left; git's commands end once ``halted`` returns True.
    """
    with private_folder() as folder:
        by: Means = means(place.remote, place.access, place.ca, folder)
        bare = folder / "bare"
        with disk_full():
            # Written, not run: `git init` and two times `git config` would take longer than the fetch.
            _initialise(bare, place.remote.url)
        protocols = (place.remote.protocol,)
        git = Git(
            bare,
            protocols,
            by.settings,
            by.variables,
            by.environment,
            left,
            place.patience,
            halted,
            (place.remote.host, place.access),
        )
        yield Branch(git, branch, depth)


def _initialise(bare: Path, url: str) -> None:
    for name in ("objects/pack", "refs/heads", "refs/syncline", "info"):
        (bare / name).mkdir(parents=True)
    (bare / "HEAD").write_text("ref: refs/heads/none\n", encoding="utf-8")
    escaped = url.replace("\\", "\\\\").replace('"', '\\"')
    (bare / "config").write_text(
        f'[core]\n\trepositoryformatversion = 0\n\tbare = true\n[remote "origin"]\n\turl = "{escaped}"\n',
        encoding="utf-8",
    )


def _object(running: Running, name: str, kind: bytes) -> tuple[str, int]:
    """Ask `git cat-file --batch` for an object; return its ID and its size.

    Raises what kept git from fetching an object that is not here; BAD_ANSWER if the object is missing all the same or
    of another kind, which only the server can have caused.
    """
    running.write(f"{name}\n".encode())
    line = running.line()
    if not line:
        raise running.error(running.ended())
    found = _OBJECT.fullmatch(line)
    if found is None or found[2] != kind:
        error = running.error(running.ended())
        if found is None and error.code.name != "GIT_FAILED":
            raise error
        said = line[-60:].decode("utf-8", "replace")
        raise SynclineError("BAD_ANSWER", f"the git server gave no {kind.decode()} {name}: {said!r}")
    return found[1].decode(), int(found[3])


def _read_tree(running: Running, oid: str) -> Iterator[tuple[bytes, Entry]]:
    _, size = _object(running, oid, b"tree")
    return tree_entries(running.read_exactly(size + 1)[:-1])


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size:
        piece = read(min(size, 1 << 20))
        size -= len(piece)
        yield piece


def _counted(blob: Blob, digest: hashlib._Hash) -> Iterator[bytes]:
    passed = 0
    for chunk in blob.chunks:
        passed += len(chunk)
        if passed > blob.size:
            break
        digest.update(chunk)
        yield chunk
    if passed != blob.size:
        raise SynclineError("SOURCE_CHANGED", "the object's bytes are not as many as were announced")
