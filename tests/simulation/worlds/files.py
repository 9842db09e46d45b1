"""Files: a bucket, the bucket or file manager that follows it, people who work with it, and strangers at the target."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final
from unicodedata import normalize
from unittest.mock import patch

from syncline.cli.run_progress import start_run
from syncline.clients.s3.head import ObjectHead
from syncline.kinds.files import wiring
from syncline.kinds.files.kind import threads_for
from syncline.model import EVERYTHING, Outcome, Result, Run, Trigger
from tests.simulation.models.bucket import SimBucket
from tests.simulation.models.bucket_server import BucketServer, StoredObject, Write
from tests.simulation.models.file_manager import FileManagerServer, SimFileManager
from tests.simulation.resource_limits import usage
from tests.simulation.stack import Stack
from tests.simulation.worlds.files_targets import BucketJudge, ManagerJudge, Past
from tests.simulation.worlds.identities import bucket_identity, token_identity

KEYS: Final = (
    "a.txt",
    "docs/a",
    "docs/a/b",
    "docs/readme",
    "docs/Readme",
    "docs/ä ö+%20.txt",
    "media/\u00e9t\u00e9.jpg",
    "media/e\u0301te\u0301.jpg",
    "media/x",
    "media/y",
    "media/z",
    "tmp/part",
)
ODD: Final = ("media/", "up/../x", "two//parts", "odd/\uffff", "odd/\t")
THEIRS: Final = ("theirs.txt", "docs/theirs", "tmp/theirs")
_LARGE: Final = 1024 * 1024 + 7
"""Bytes of an object that is not held in memory, but passes in chunks."""
_BY_EVENT: Final = 600.0
"""Seconds in which a change that was told must be at the target."""
_COPY: Final = 10
"""Requests that a file's copy takes, with the scan before it and its verification, at most."""
_LATE: Final = 60.0
"""Seconds that a message is late at most, which is longer than a sync waits for more events."""
_TURN: Final = 3600.0
"""Seconds in which every file is read again, where it has its turn in each full run."""
_REFUSALS: Final = frozenset({"PATH_REFUSED", "PATH_COLLIDES"})
"""Codes of keys that a file manager cannot have."""


class FilesWorld:
    """One sync of files from a bucket to another bucket, or to a file manager."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.violations: list[str] = []
        self.late = 0
        self.machine = stack.machine
        self.past: defaultdict[str, Past] = defaultdict(Past)
        self._stack = stack
        self._operator = stack.operator(f"owner of {name}")
        self._contents = count(1)
        self._spoiled = self._lazy = self._forgets = self._hides = False
        self._judged = 0
        secret = ("token", "source access", "source secret", "target access", "target secret")
        self._references = {each: stack.secret_store.plant(f"{each} of {name}") for each in secret}
        self._adopted: set[str] = set()
        self._choose(rng)
        host = f"{name}.s3.example"
        self.source = BucketServer(self.machine, f"{name}-media", host=host)
        self.source.versioned = rng.random() < 0.2
        self.source.on_write = self._source_changed
        self.source.on_event = self._tell
        self.target: BucketServer | FileManagerServer
        self.judge: BucketJudge | ManagerJudge
        stack.servers[f"{host}/{self.source.name}"] = self.source
        where = rng.random()
        if where < 0.4:
            self.target = FileManagerServer(self.machine, host=f"{name}.files.example")
            self.judge = ManagerJudge(self.target, self)
            stack.servers[self.target.host] = self.target
        else:
            beside = self.source if where < 0.7 else None
            other = BucketServer(self.machine, f"{name}-copy", host=f"{name}.other.example", beside=beside)
            other.ignores_conditions = rng.random() < 0.25
            self.target, self.judge = other, BucketJudge(other, self)
            stack.servers[f"{other.host}/{other.name}"] = other
        for _ in range(rng.randint(0, 8)):
            self.change_source()
        for _ in range(rng.choice([0, 0, 1, 3])):
            self.change_target()

    def _choose(self, rng: random.Random) -> None:
        """Choose what the configuration says and what the place is like."""
        self.overwrite = rng.random() < 0.3
        self._prefix = rng.choice(["", "", "customer/"])
        self._target_prefix = rng.choice(["", "mirror/"])
        self._exclude = rng.random() < 0.4
        self.default_mode = rng.choice(["rw-r--r--", "rw-rw----"])
        self.by_metadata = rng.random() < 0.7
        self.rereads = rng.random() < 0.5
        self.sequenced = rng.random() < 0.5
        limits = rng.choice([(1.0, 1000), (1.0, 1000), (0.25, 1000), (0.5, 2), (1.0, 1), (1.0, 0)])
        self._limits = limits if rng.random() < 0.7 else None
        self._allowed = self._removals = 0
        self._keys = rng.sample(KEYS, rng.randint(4, len(KEYS))) + rng.sample(ODD, rng.choice([0, 0, 1, 2]))
        self._tells = rng.random() < 0.7
        self._loses, self._doubles, self._delays = (rng.choice([0.0, 0.3]) for _ in range(3))

    # -- the configuration

    def config(self) -> dict[str, Any]:
        rng, target = self.rng, self.target
        place: dict[str, Any] = {"prefix": self._target_prefix, "requests": rng.choice([1, 2, 32])}
        if isinstance(target, FileManagerServer):
            place |= {"file_manager": f"https://{target.host}", "report": rng.random() < 0.3}
            place["token"] = self._references["token"]
            place["prefix"] = f"/{self._target_prefix}"
        else:
            place |= {"bucket": target.name, "endpoint": f"https://{target.host}", "auth": self._keys_of("target")}
            place["same_service"] = rng.random() < 0.8
        source = {
            "bucket": self.source.name,
            "endpoint": f"https://{self.source.host}",
            "auth": self._keys_of("source"),
        }
        config = {
            "name": self.name,
            "kind": "files",
            "source": source | {"prefix": self._prefix, "sequencers": self.sequenced},
            "target": place,
            "select": {"exclude": ["tmp/**"] if self._exclude else []},
            "permissions": {
                "source": "metadata" if self.by_metadata else "default",
                "default": self.default_mode,
            },
            "overwrite": self.overwrite,
            "recheck": "1h" if self.rereads else "7d",
            "events": {"quiet": rng.choice([0, 2, 20]), "longest": rng.choice([20, 60])},
        }
        if self._limits is not None:
            config["removals"] = {"share": self._limits[0], "count": self._limits[1], "per": "7d"}
        return config

    def _keys_of(self, side: str) -> dict[str, str]:
        return {"access_key": self._references[f"{side} access"], "secret_key": self._references[f"{side} secret"]}

    def reconfigure(self) -> dict[str, Any] | None:
        return self.config()

    @contextmanager
    def wired(self) -> Iterator[None]:
        servers = self._stack.servers

        def bucket_at(place: Any, parts: Any) -> SimBucket:
            host = place.endpoint.removeprefix("https://")
            parts.http.network.identities[host] = bucket_identity(place, parts)
            return SimBucket(servers[f"{host}/{place.bucket}"], parts.http.network)

        def manager_at(config: Any, parts: Any) -> SimFileManager:
            gate, host = threading.BoundedSemaphore(threads_for(config.requests)), config.file_manager[8:]
            parts.http.network.identities[host] = token_identity(config.token, parts.secrets)
            return SimFileManager(servers[host], parts.http.network, gate)

        with ExitStack() as stack:
            stack.enter_context(patch.object(wiring, "bucket_at", bucket_at))
            stack.enter_context(patch.object(wiring, "manager_at", manager_at))
            yield

    # -- names

    def key_of(self, path: str) -> str | None:
        prefix = self._at_target("")
        if not path.startswith(prefix):
            return None
        key = self._prefix + path.removeprefix(prefix)
        return key if self._selects(key) else None

    def path_of(self, key: str) -> str:
        return self._at_target(key.removeprefix(self._prefix))

    def _at_target(self, name: str) -> str:
        return f"{'/' if isinstance(self.target, FileManagerServer) else ''}{self._target_prefix}{name}"

    def _selects(self, key: str) -> bool:
        name = key.removeprefix(self._prefix)
        return key.startswith(self._prefix) and not (self._exclude and name.startswith("tmp/"))

    def source_object(self, key: str) -> StoredObject | None:
        return self.source.stored(key)

    def groups(self) -> list[str]:
        return [*(f"key:{self._prefix}{name}" for name in self._keys), f"prefix:{self._prefix}docs/"]

    def size(self) -> int:
        return len(self.source.objects()) + len(self.judge.paths())

    # -- people and strangers

    def change_source(self) -> Iterable[str]:
        rng, source = self.rng, self.source
        if rng.random() < 0.06 and self._limits is not None:
            self._allow()
        there = [key for key in source.objects() if key.startswith(self._prefix)]
        what = rng.random()
        if what < 0.45 or not there:
            key = self._prefix + rng.choice(self._keys)
            source.set(key, self._content(), self._about())
            return [f"key:{key}"]
        key = rng.choice(there)
        stored = source.stored(key)
        assert stored is not None
        if what < 0.6:
            new = self._prefix + rng.choice(self._keys)
            source.set(new, stored.content, stored.head())
            if new != key:
                source.remove(key)
            return [f"key:{key}", f"key:{new}"]
        if what < 0.8:
            source.remove(key)
        elif what < 0.9:
            source.set(key, stored.content, self._about())
        elif what < 0.95:
            # The same bytes once more, or as many others.
            source.set(key, stored.content if rng.random() < 0.3 else stored.content[::-1], stored.head())
        else:
            for gone in rng.sample(there, rng.randint(1, len(there))):
                source.remove(gone)
        return [f"key:{key}"]

    def _content(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.1:
            return rng.choice([b"", b"same", b"also the same"])
        content = b"version %d " % next(self._contents)
        return content.ljust(_LARGE, b".") if rng.random() < 0.04 else content.ljust(rng.randint(10, 60), b".")

    def _about(self) -> ObjectHead:
        rng = self.rng
        metadata = rng.choice([{}, {}, {"owner": "me"}, {"permissions": "rw-rw-r--"}, {"mode": "100640"}])
        headers = rng.choice([{}, {}, {"cache-control": "max-age=60"}, {"content-encoding": "gzip"}])
        return ObjectHead("", 0, rng.choice(["", "text/plain", "image/png"]), metadata=metadata, headers=headers)

    def _allow(self) -> None:
        """Let an operator allow removals for one run."""
        most = self.rng.randint(1, 3)
        self._allowed += most
        self._operator.run_command(
            f"run --allow-removals {most}",
            lambda context: start_run(context.deployment, self.name, Trigger.MANUAL, EVERYTHING, allow_removals=most),
        )

    def change_target(self) -> None:
        rng, target = self.rng, self.target
        there = [path for path in self.judge.paths() if path.startswith(self._at_target(""))]
        what = rng.random()
        if what < 0.25 and there:
            target.remove(rng.choice(there))
            return
        name = rng.choice([*self._keys, *THEIRS])
        path = rng.choice(there) if what < 0.6 and there else self._at_target(name)
        if isinstance(target, FileManagerServer):
            # Neither side can see another content of the same size.
            size = 100 + next(self._contents)
            target.set(path, b"theirs".ljust(size, b"!"))
            if what > 0.9:
                target.set_mode(path, "rwxrwxrwx")
            return
        key = self.key_of(path)
        stored = None if key is None else self.source.stored(key)
        if what > 0.8 and stored is not None:
            # The same bytes, or as many others.
            target.set(path, stored.content if what > 0.85 else stored.content[::-1], self._about())
        else:
            target.set(path, b"theirs %d" % next(self._contents), self._about())

    def _source_changed(self, write: Write, _old: StoredObject | None, new: StoredObject | None) -> None:
        past = self.past[write.key]
        past.changes += 1
        if new is None:
            past.gone = self.machine.now
            return
        if write.old is None:
            past.since = self.machine.now
        if int(past.changed) == int(self.machine.now):
            # A change of headers within a second is not seen until it is the object's turn.
            self._lazy = True
        past.changed = self.machine.now
        past.versions.append(new)
        path = self.path_of(write.key)
        if isinstance(self.judge, BucketJudge) and path not in self.judge.written and self.judge.ours(path):
            self.judge.written.add(path)
            self.judge.came += 1

    def _tell(self, body: dict[str, Any]) -> None:
        """Send a notification as the bucket does."""
        rng, sqs = self.rng, self._stack.sqs
        if not self._tells or (rng.random() < self._loses and not self._stack.faults.off):
            return
        for _ in range(2 if rng.random() < self._doubles else 1):
            delay = rng.uniform(0, 300) if rng.random() < self._delays and not self._stack.faults.off else 0.0
            sqs.put(self._stack.events, json.dumps(body), delay)

    # -- servers that misbehave

    def spoil(self) -> None:
        self._spoiled, rng = True, self.rng
        target = self.target
        if isinstance(target, FileManagerServer):
            switch = rng.choice(["put_and_forget", "wrong_bytes", "admits", "ignores_permissions", "source"])
            if switch != "source":
                setattr(target, switch, True)
                target.wrong_bytes |= switch == "admits"
                return
        elif rng.random() < 0.3:
            switch = rng.choice(["put_and_forget", "wrong_bytes", "lost_bytes"])
            self._forgets |= switch == "put_and_forget"
            setattr(target, switch, True)
            return
        server = self.source if isinstance(target, FileManagerServer) else rng.choice([self.source, target])
        switch = rng.choice(["listing_cut", "listing_cut", "empty_listing", "stale_listing", "short_reads", "endless"])
        if switch == "listing_cut":
            # The limits of removals allow no more than the last files to be gone.
            server.listing_cut = rng.choice([rng.randint(1, 3), max(1, len(server.objects()) - 1)])
        elif switch == "stale_listing":
            server.stale_listing = rng.uniform(0.1, 60.0)
        else:
            setattr(server, switch, True)
        # A file that neither listing shows is forgotten, and adopted again by its ETag.
        self._hides |= all(isinstance(each, BucketServer) and each.hides for each in (self.source, target))

    def heal(self) -> None:
        target = self.target
        if isinstance(target, FileManagerServer):
            target.put_and_forget = target.wrong_bytes = target.admits = target.ignores_permissions = False
        else:
            target.put_and_forget = target.wrong_bytes = target.lost_bytes = False
        for server in (self.source, target):
            if isinstance(server, BucketServer):
                server.listing_cut, server.stale_listing = 0, 0.0
                server.empty_listing = server.short_reads = server.endless = False

    # -- the judgement

    def accuse(self, what: str) -> None:
        self.machine.note(f"{self.name}: VIOLATION: {what}")
        self.violations.append(f"{self.name}: {what}")

    def removed(self, path: str, *, renamed: bool) -> None:
        if self._limits is None:
            self.accuse(f"removes {path!r}, and nothing may be removed")
            return
        if renamed:
            return
        self._removals += 1
        share, most = self._limits
        most = min(most, max(1, int(share * self.judge.came)))
        if self._removals > most + self._allowed:
            self.accuse(f"removes {path!r}, the removal {self._removals} of {most}, and {self._allowed} were allowed")

    def ends_twice(self, result: Result) -> bool:
        """A run that events joined may meet a file once more, if somebody changed it there or here meanwhile."""
        past = self.past[result.name]
        return self._spoiled or past.changes > 1 or self.path_of(result.name) in self.judge.touched

    def untruths(self, run: Run, results: list[Result]) -> Iterator[str]:  # noqa: ARG002 - as each world has it
        for each in results:
            if each.outcome is Outcome.MOVED and each.source and not self.past[each.name].had_etag(each.source):
                yield f"{each.name!r} is reported as moved, and the source never had {each.source}"

    def differences(self, run: Run, results: list[Result]) -> Iterator[str]:
        told = {each.name: each for each in results}
        wanted = {key: self.source.stored(key) for key in self.source.objects() if self._selects(key)}
        self._adopted.clear()
        self.late = 0
        for key, stored in wanted.items():
            assert stored is not None
            yield from self._item(key, stored, told.get(key))
        if self._adopted:
            yield from self._by_turn()
        yield from self._counts(run, results, set(wanted))
        yield from self._left(run, results, set(wanted))
        self._judged += 1
        if self._judged == 2:
            yield from self._by_event({each.name for each in results if each.outcome is Outcome.CONFLICT})

    def _left(self, run: Run, results: list[Result], wanted: set[str]) -> Iterator[str]:
        """Yield what is at the target although it had to be removed, and what was removed although nothing had to be."""
        if not self._below() and run.counts.removed:
            yield f"the source is empty, and {run.counts.removed} files were removed"
        faults = self._stack.faults
        harmed = (
            self._spoiled
            or faults.killed
            or faults.lost_replies
            or faults.unreachable
            or faults.server_errors
            or faults.rate_limited
        )
        if self._limits is None or harmed or not self._below() or any(each.name == "*" for each in results):
            return
        for path in sorted(self.judge.written):
            key, untouched = self.key_of(path), path not in self.judge.touched
            if key is not None and key not in wanted and untouched and self.judge.ours(path):
                yield f"{path!r} is ours and gone from the source, and is still there"

    def _by_turn(self) -> Iterator[str]:
        """Yield how files differ that a run has adopted by their ETags, after another run, in which it is their turn."""
        self._operator.run_command(
            "run", lambda context: start_run(context.deployment, self.name, Trigger.MANUAL, EVERYTHING)
        )
        self.machine.run(self.machine.now + 2 * _TURN)
        for key in self._adopted:
            stored = self.source.stored(key)
            how = None if stored is None or self._forgets else self.judge.differs(key, stored)
            if how is not None:
                yield f"{key!r} was adopted and has had its turn since, and {how}"

    def _by_event(self, conflicts: set[str]) -> Iterator[str]:
        """Change an object, tell of it, and yield how the target differs a while later.

        A conflict with a file that somebody else put there, as the source had it before, stays one.
        """
        # The quiet time after an event is measured by the clocks of two processes.
        if not self._tells or self._stack.skew > 0.25:
            return
        key = self._prefix + self.rng.choice(self._keys)
        path = self.path_of(key)
        there = path in self.judge.paths()
        if key in conflicts and path in self.judge.touched:
            return
        if there and self.source.stored(key) is None:
            return  # what a lost write left behind may be nobody's
        refused = self._odd(key) or ".." in key  # no service has such a key: an event of one is forged
        if not self._selects(key) or refused or (there and not self.judge.ours(path) and not self.overwrite):
            return
        self.machine.run(self.machine.now + 2)
        self.source.set(key, self._content(), self._about())
        if self._collides(key):
            return
        if self._limits == (1.0, 1000) and self.rng.random() < 0.5:
            yield from self._deleted_at_once(key)
            return
        self.machine.run(self.machine.now + _BY_EVENT)
        stored = self.source.stored(key)
        assert stored is not None
        if (how := self.judge.differs(key, stored)) is not None:
            yield f"{key!r} was changed and told, and {how}"
        elif self._limits == (1.0, 1000):
            self.source.remove(key)
            self.machine.run(self.machine.now + _BY_EVENT)
            if path in self.judge.paths():
                yield f"{key!r} was deleted and told, and its file is still there"

    def _deleted_at_once(self, key: str) -> Iterator[str]:
        """Delete an object at some request of its copy, and yield whether its file is still there a while later.

        From then on messages are late: so the deletion is heard of before the copy is verified, or after it.
        """
        requests, end = self._requests() + self.rng.randint(1, _COPY), self.machine.now + 100
        while self._requests() < requests and self.machine.now < end:
            self.machine.run(self.machine.now + 0.01)
        self._stack.sqs.late = self.rng.choice([0.0, _LATE])
        self.source.remove(key)
        self.machine.run(self.machine.now + _BY_EVENT)
        self._stack.sqs.late = 0.0
        if self.path_of(key) in self.judge.paths() and self.judge.ours(self.path_of(key)):
            yield f"{key!r} was deleted while it was copied, and its file is still there"

    def _requests(self) -> int:
        """Return the number of requests that were made to servers until now."""
        return usage(self._stack.faults, 0, self._stack.sqs).requests

    def _item(self, key: str, stored: StoredObject, result: Result | None) -> Iterator[str]:
        """Yield what is wrong with the result of one object."""
        how = self.judge.differs(key, stored)
        outcome = None if result is None else result.outcome
        code = None if result is None else result.code
        if how is None:
            if outcome not in (None, Outcome.MOVED, Outcome.EQUAL) and not self._refuses(key, code):
                yield f"{key!r} is equal, and reported as {result}"
        elif outcome is Outcome.LEFT_OUT or result is None:
            if not self._is_marker(key) and not self._is_late(key, how):
                yield f"{key!r} {how}, and is not reported"
        elif outcome not in (Outcome.CONFLICT, Outcome.FAILED, Outcome.KNOWN):
            if not self._is_damaged(key, how):  # also by the rename of a damaged file
                yield f"{key!r} {how}, and is reported as {result}"
        elif code == "FILE_DIFFERS":
            if self.overwrite or "absent" in how:
                yield f"{key!r} {how}, and is reported as a conflict that is none: {result}"
        elif not self._refuses(key, code):
            yield f"{key!r} {how} in calm, and is reported as {result}"

    def _is_late(self, key: str, how: str) -> bool:
        """Return and count whether a difference need not be seen yet."""
        unseen = self._is_unseen(key, how)
        self.late += unseen
        return unseen

    def _is_unseen(self, key: str, how: str) -> bool:
        """Return True if a difference is found when it is the file's turn to be read again, and it need not be by now."""
        if self._is_damaged(key, how):
            return True
        if "headers" in how and self._forgets:
            return True  # a service that has forgotten a change of headers looks like one that does not keep them
        changed = self.path_of(key) in self.judge.touched or self._hides
        if self.rereads:
            # A listing shows equal bytes; the file is known from this run on, and then it has its turns.
            late = isinstance(self.target, BucketServer) and "headers" in how and changed and not self._judged
            self._adopted |= {key} if late else set()
            return late
        if isinstance(self.target, FileManagerServer):
            return changed or (self._lazy and "permissions" in how)
        return "headers" in how and (changed or self._lazy)

    def _is_damaged(self, key: str, how: str) -> bool:
        """Return True for bytes that a service has damaged and states the ETag of: version and size are verified."""
        return "bytes" in how and self.path_of(key) in self.judge.damaged

    def _is_marker(self, key: str) -> bool:
        return isinstance(self.target, FileManagerServer) and key.endswith("/")

    def _refuses(self, key: str, code: str | None) -> bool:
        """Return True if a file manager rightly refuses a key with a code."""
        if not isinstance(self.target, FileManagerServer) or code not in _REFUSALS:
            return False
        return self._odd(key) if code == "PATH_REFUSED" else self._collides(key)

    def _odd(self, key: str) -> bool:
        """Return True if a file manager cannot have the path of a key."""
        return isinstance(self.target, FileManagerServer) and key.removeprefix(self._prefix) in ODD

    def _collides(self, key: str) -> bool:
        """Return True if a file manager may take the key for another one, or as a folder."""
        if not isinstance(self.target, FileManagerServer):
            return False
        one = _plain(key)
        others = [_plain(other) for other in self.source.objects() if other != key]
        return any(one == other or other.startswith(f"{one}/") or one.startswith(f"{other}/") for other in others)

    def _counts(self, run: Run, results: list[Result], wanted: set[str]) -> Iterator[str]:
        """Yield what is wrong with the counts of a full run."""
        counts = run.counts
        ends = (Outcome.MOVED, Outcome.CONFLICT, Outcome.FAILED, Outcome.KNOWN)
        ended = {each.name for each in results if each.outcome in ends and each.name in wanted}
        # What is gone from the source and turned out not to be ours is skipped, too.
        foreign = sum(each.outcome is Outcome.EQUAL and each.name not in wanted for each in results)
        if counts.skipped - foreign + len(ended) + counts.left_out != len(self._below()):
            yield f"{len(self._below())} objects are counted as {counts}"
        alone = [path for path in self.judge.paths() if (key := self.key_of(path)) is not None and key not in wanted]
        if counts.extra > len(alone):  # what the target alone has is not counted by this kind
            yield f"{len(alone)} files at the target alone are counted as {counts}"

    def _below(self) -> list[str]:
        return [key for key in self.source.objects() if key.startswith(self._prefix)]


def _plain(text: str) -> str:
    return normalize("NFC", text).casefold()
