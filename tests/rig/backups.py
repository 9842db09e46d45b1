"""A bucket on an S3 server, a bare repository, and the kind between them, for the tests of backups."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from moto.server import ThreadedMotoServer

from syncline.clients.folder.target import FolderTarget
from syncline.clients.git.access import GitCredentials, GitRemote
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import Person, RepositoryLocation
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.errors import CodeName
from syncline.kinds.backups.commit import Signature, SyncSettings, TransferResult
from syncline.kinds.backups.download import AT_ONCE, Downloads
from syncline.kinds.backups.drill import DrillAccess
from syncline.kinds.backups.kind import Backups
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.source import Reader
from syncline.kinds.backups.stores import BucketStore
from syncline.kinds.kind import Completed, Failure, Page, StepContext
from syncline.model import EVERYTHING, Item, Outcome, Result, RunStatus, Scope
from syncline.ownership import Limits
from tests.rig.backups_memory import Clock, InMemoryIndex, InMemoryOwnership
from tests.rig.chain import Chain
from tests.rig.files import record
from tests.standins.git_places import Bare, make_bare

SYNC: Final = "clusters"
PACE: Final = StepContext(lambda: 60.0, work="run")
BOT: Final = Person("Backup Bot", "backup@example.com")

logging.getLogger("werkzeug").setLevel(logging.ERROR)


class BackupsChain(Chain):
    """A new bucket on the server `s3`, a branch and the steps between them."""

    def __init__(self, s3: str, bare: Bare, seed: int = 1) -> None:
        super().__init__(SYNC, {"S3_SECRET": "secret-of-the-tests"}, seed)
        self.s3 = s3
        self.bare = bare
        self.bucket = make_bucket(s3, f"b{uuid.uuid4().hex}", Http())

    def configure(self, **more: Any) -> None:
        """Apply a sync of the bucket to the branch; `more` are fields to add or replace, those of `target` one by one."""
        target = more.pop("target", {})
        target = target if "directory" in target else {"repository": f"file://{self.bare.path}"} | target
        keys = {"access_key": "AKIDOFTHETESTS", "secret_key": "env:S3_SECRET"}
        source = {"bucket": self.bucket.name, "endpoint": self.s3, "auth": keys}
        self.apply({"kind": "backups", "source": source, "target": target, "removals": {"share": 0.5}, **more})

    def upload(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self.bucket.put(key, data)

    def changed(self, *keys: str, name: str = "ObjectCreated:Put") -> None:
        """Post an event for each key, in a separate message, as S3 does."""
        self.post(*(record(self.bucket.name, key, name, "01") for key in keys))

    def key_of(self, result: Result) -> str:
        return result.name

    def check(self, expected: Mapping[str, bytes], most_commits: int) -> None:
        """Check the invariants after any run: the branch equals the bucket, in few commits, without leftovers."""
        assert self.bare.files() == expected
        assert len(self.bare.commits()) <= most_commits
        assert not self.mail.waiting()
        assert not self.mail.dead()
        for run in self.state.runs(SYNC, 20):
            assert run.status is RunStatus.DONE, run
            assert self.state.progress(run.id).settled
            counts = run.counts
            assert counts.failed == counts.conflict == 0
            assert counts.queued == counts.ended
        self.bare.check()

    def check_again(self) -> None:
        """Check that a full scan finds nothing to do."""
        self.reaper.plan = set()
        commits = self.bare.commits()
        counts = self.run().counts
        assert (counts.queued, counts.skipped) == (0, len(self.bare.files()))
        assert self.bare.commits() == commits


@dataclass(frozen=True)
class Caps:
    share: float = 0.5
    count: int = 1000
    per: float = 86_400.0

    @property
    def limits(self) -> Limits:
        return Limits(self.share, self.count, self.per)


@dataclass
class World:
    """A bucket, a repository and the settings of the kind between them; ``url`` is the repository's address."""

    bucket: Bucket
    bare: Bare
    url: str
    access: GitCredentials = None
    http: Http = field(default_factory=Http)
    index: InMemoryIndex = field(default_factory=InMemoryIndex)
    layout: Layout = field(default_factory=Layout)
    secrets_filter: SecretsFilter = field(default_factory=lambda: SecretsFilter(SecretsPolicy.LEAVE_OUT))
    caps: Caps = field(default_factory=Caps)
    largest: int = 100 * 1024 * 1024
    signing_key: str | None = None
    drill_access: DrillAccess = field(default_factory=DrillAccess)
    allow_removals: int | None = None
    batches: int = 0
    kept: InMemoryOwnership = field(default_factory=InMemoryOwnership)

    @property
    def clock(self) -> Clock:
        clock: Clock = self.kept.clock
        return clock

    def kind(self) -> Backups:
        signature = Signature(BOT, BOT, lambda: self.signing_key)
        settings = SyncSettings(
            "backups",
            f"{self.bucket}#{self.secrets_filter.name}",
            lambda group: f"{self.url}#{group}",
            self.layout,
            self.caps.limits,
            signature,
        )
        reader = Reader(self.bucket, self.secrets_filter, self.largest, 8, self.layout.path_of)
        remote = GitRemote.parse(self.url)
        owned = self.kept.owned(self.layout)
        place = RepositoryLocation(remote, self.access)
        return Backups(settings, reader, self.index, owned, lambda: place, self.http, self.drill_access)

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            self.bucket.put(key, data)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.bucket.delete(key)

    def scan(self, *groups: str) -> list[Page]:
        scope = Scope.of(groups) if groups else EVERYTHING
        context = StepContext(lambda: 100.0, allow_removals=self.allow_removals)
        return list(self.kind().discover(scope, None, context))

    def commit(self, items: list[Item], batch: str | None = None) -> list[TransferResult]:
        self.batches += 1
        work = batch or f"batch{self.batches}"
        return list(
            self.kind().transfer(items, StepContext(lambda: 100.0, work=work, allow_removals=self.allow_removals))
        )

    def run(self, *groups: str) -> dict[str, Result]:
        """Scan, commit and verify; return the result of each key that has one."""
        pages = self.scan(*groups)
        results = {result.name: result for page in pages for result in page.results}
        for page in pages:
            assert not page.failures, page.failures
        written: list[Item] = []
        for members in self.shares(pages):
            for answer in self.commit(members):
                match answer:
                    case Completed(item):
                        written.append(item)
                    case Failure(item, error):
                        results[item.name] = _failed(item, error.code.name, error.what)
                    case Result():
                        results[answer.name] = answer
                    case other:
                        raise AssertionError(other)
        for verified in self.kind().verify(written, StepContext(lambda: 100.0)):
            assert isinstance(verified, Completed), verified
            item = verified.item
            outcome = Outcome.REMOVED if item.source is None else Outcome.MOVED
            results[item.name] = Result(item.group, item.name, outcome, item.source, item.source)
        return results

    @staticmethod
    def shares(pages: Sequence[Page]) -> list[list[Item]]:
        """Return the items that the step discover puts into each message."""
        groups = [groupby(page.items, key=lambda item: item.group) for page in pages]
        return [list(members) for page in groups for _, members in page]

    def codes(self, results: Mapping[str, Result]) -> dict[str, str]:
        """Return the code, or else the outcome, of each result."""
        return {name: result.code or result.outcome.value for name, result in results.items()}

    def skipped(self) -> int:
        """Return the number of objects that a full scan finds equal, and check that it finds nothing else."""
        pages = self.scan()
        assert not [item for page in pages for item in page.items], pages
        return sum(page.equal for page in pages)

    def without_table(self) -> World:
        """Return the same world after the loss of its table."""
        return self.but(index=InMemoryIndex(), kept=InMemoryOwnership(self.clock))

    def but(self, **changes: Any) -> World:
        return dataclasses.replace(self, **changes)


class Download:
    """The kind with a folder or a bucket as its target, instead of a repository."""

    def __init__(
        self,
        world: World,
        store: FolderTarget | BucketStore,
        caps: Caps | None = None,
        secrets_filter: SecretsFilter | None = None,
        like: Download | None = None,
    ) -> None:
        secrets_filter = secrets_filter or SecretsFilter(SecretsPolicy.LEAVE_OUT)
        limits, signature = (caps or Caps()).limits, Signature(BOT, BOT)
        source_id, first = (f"{store}{name}" for name in (secrets_filter.name, secrets_filter.first_name))
        settings = SyncSettings("downloads", source_id, str, Layout(), limits, signature, first_source_id=first)
        self.index = InMemoryIndex()
        self.kept: InMemoryOwnership = InMemoryOwnership() if like is None else like.kept
        self.results: dict[str, Result] = {}
        reader = Reader(world.bucket, secrets_filter, 100_000_000, AT_ONCE, Layout().path_of)
        self.kind = Downloads(settings, reader, store, self.index, self.kept.owned(Layout()), world.http)

    def run(self, *groups: str) -> dict[str, str]:
        scope = Scope.of(groups) if groups else EVERYTHING
        pages = list(self.kind.discover(scope, None, PACE))
        self.results = {result.name: result for page in pages for result in page.results}
        done = {name: result.code or result.outcome.value for name, result in self.results.items()}
        done |= {f"{f.item.group}{f.item.name}": f.error.code.name for page in pages for f in page.failures}
        for item in [item for page in pages for item in page.items]:
            for answer in self.kind.transfer([item], PACE):
                match answer:
                    case Completed(written):
                        (verified,) = self.kind.verify([written], PACE)
                        assert isinstance(verified, Completed)
                        done[item.name] = "removed" if written.source is None else "moved"
                    case Result():
                        done[item.name] = answer.code or answer.outcome.value
                        self.results[item.name] = answer
                    case Failure():
                        done[item.name] = answer.error.code.name
        self.skipped = sum(page.equal for page in pages)
        self.left_out = sum(page.left_out for page in pages)
        return done


def content(store: FolderTarget | BucketStore) -> dict[str, str]:
    return {path: store.content_id(path) for top in store.top_folders() for path, _ in store.listing(top)}


def _failed(item: Item, code: CodeName, reason: str) -> Result:
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, code, reason)


@contextmanager
def s3_server() -> Iterator[str]:
    """Yield the address of an S3 server that accepts any key."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def blobs(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the ID that git gives each file."""
    return {path: blob_id(data) for path, data in files.items()}


def make_world(s3: str, folder: Path) -> World:
    """Return a world of a new bucket and a new repository below a test's folder."""
    http = Http()
    bare = make_bare(folder / "srv" / "r.git")
    name = folder.name.replace("_", "-")[:50].lower()
    return World(make_bucket(s3, f"{name}-b", http), bare, f"file://{bare.path}", None, http)


def make_bucket(url: str, name: str, http: Http) -> Bucket:
    """Return a new bucket."""
    bucket = Bucket(Endpoint.parse(url), name, lambda: AccessKeys("AKIDOFTHETESTS", "secret-of-the-tests"), http)
    bucket.put("", b"")  # PUT of the bucket itself
    return bucket
