"""The systems of a sync of files: a source bucket, a target, their users and foreign writers, and faults."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final
from unittest.mock import patch

from syncline.clients.s3.head import ObjectHead
from syncline.kinds.files import wiring
from syncline.kinds.files.kind import threads_for
from syncline.model import EVERYTHING, Trigger
from syncline.operations import start_run
from tests.simulation.models.bucket import SimBucket
from tests.simulation.models.bucket_server import BucketServer, StoredObject, Write
from tests.simulation.models.file_manager import FileManagerServer, SimFileManager
from tests.simulation.stack import Stack
from tests.simulation.worlds.files_targets import BucketJudge, KeyHistory, ManagerJudge
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
REFUSED_KEYS: Final = ("media/", "up/../x", "two//parts", "odd/\uffff", "odd/\t")
"""Keys that a file manager cannot have as paths."""
FOREIGN_NAMES: Final = ("theirs.txt", "docs/theirs", "tmp/theirs")
_LARGE: Final = 1024 * 1024 + 7
"""Bytes of an object that Syncline streams in chunks."""


class FilesSystems:
    """The source bucket and the target of one sync, their users, foreign writers and faults."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.violations: list[str] = []
        self.machine = stack.machine
        self.history: defaultdict[str, KeyHistory] = defaultdict(KeyHistory)
        self._stack = stack
        self._operator = stack.operator(f"owner of {name}")
        self._contents = count(1)
        self._had_faults = self._has_unseen_headers = self._target_forgets = self._both_hide = False
        secrets = ("token", "source access", "source secret", "target access", "target secret")
        self._references = {each: stack.secret_store.plant(f"{each} of {name}") for each in secrets}
        self._choose(rng)
        host = f"{name}.s3.example"
        self.source = BucketServer(self.machine, f"{name}-media", host=host)
        self.source.versioned = rng.random() < 0.2
        self.source.on_write = self._source_changed
        self.source.on_event = self._notify
        self.target: BucketServer | FileManagerServer
        self.judge: BucketJudge | ManagerJudge
        stack.servers[f"{host}/{self.source.name}"] = self.source
        where = rng.random()
        if where < 0.4:
            self.target = FileManagerServer(self.machine, host=f"{name}.files.example")
            self.judge = ManagerJudge(self.target, self)
            stack.servers[self.target.host] = self.target
        else:
            neighbour = self.source if where < 0.7 else None
            other = BucketServer(self.machine, f"{name}-copy", host=f"{name}.other.example", same_service=neighbour)
            other.ignores_conditions = rng.random() < 0.25
            self.target, self.judge = other, BucketJudge(other, self)
            stack.servers[f"{other.host}/{other.name}"] = other
        for _ in range(rng.randint(0, 8)):
            self.change_source()
        for _ in range(rng.choice([0, 0, 1, 3])):
            self.change_target()

    def _choose(self, rng: random.Random) -> None:
        """Choose the configuration and how notifications are delivered."""
        self.overwrite = rng.random() < 0.3
        self._prefix = rng.choice(["", "", "customer/"])
        self._target_prefix = rng.choice(["", "mirror/"])
        self._exclude = rng.random() < 0.4
        self.default_mode = rng.choice(["rw-r--r--", "rw-rw----"])
        self.by_metadata = rng.random() < 0.7
        self._rechecks_hourly = rng.random() < 0.5
        self._sequenced = rng.random() < 0.5
        limits = rng.choice([(1.0, 1000), (1.0, 1000), (0.25, 1000), (0.5, 2), (1.0, 1), (1.0, 0)])
        self._limits = limits if rng.random() < 0.7 else None
        self._allowed_removals = self._removals = 0
        self._keys = rng.sample(KEYS, rng.randint(4, len(KEYS))) + rng.sample(REFUSED_KEYS, rng.choice([0, 0, 1, 2]))
        self._notifies = rng.random() < 0.7
        self._loss, self._duplication, self._delay = (rng.choice([0.0, 0.3]) for _ in range(3))

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
            "source": source | {"prefix": self._prefix, "sequencers": self._sequenced},
            "target": place,
            "select": {"exclude": ["tmp/**"] if self._exclude else []},
            "permissions": {
                "source": "metadata" if self.by_metadata else "default",
                "default": self.default_mode,
            },
            "overwrite": self.overwrite,
            "recheck": "1h" if self._rechecks_hourly else "7d",
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

    # -- users and foreign writers

    def change_source(self) -> Iterable[str]:
        rng, source = self.rng, self.source
        if rng.random() < 0.06 and self._limits is not None:
            self._allow_removals()
        there = [key for key in source.objects() if key.startswith(self._prefix)]
        chance = rng.random()
        if chance < 0.45 or not there:
            key = self._prefix + rng.choice(self._keys)
            source.set(key, self._content(), self._attributes())
            return [f"key:{key}"]
        key = rng.choice(there)
        stored = source.stored(key)
        assert stored is not None
        if chance < 0.6:
            new = self._prefix + rng.choice(self._keys)
            source.set(new, stored.content, stored.head())
            if new != key:
                source.remove(key)
            return [f"key:{key}", f"key:{new}"]
        if chance < 0.8:
            source.remove(key)
        elif chance < 0.9:
            source.set(key, stored.content, self._attributes())
        elif chance < 0.95:
            # The same bytes again, or other bytes of the same number.
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

    def _attributes(self) -> ObjectHead:
        rng = self.rng
        metadata = rng.choice([{}, {}, {"owner": "me"}, {"permissions": "rw-rw-r--"}, {"mode": "100640"}])
        headers = rng.choice([{}, {}, {"cache-control": "max-age=60"}, {"content-encoding": "gzip"}])
        return ObjectHead("", 0, rng.choice(["", "text/plain", "image/png"]), metadata=metadata, headers=headers)

    def _allow_removals(self) -> None:
        """Make an operator allow removals for one run."""
        most = self.rng.randint(1, 3)
        self._allowed_removals += most
        self._operator.run_command(
            f"run --allow-removals {most}",
            lambda context: start_run(context.deployment, self.name, Trigger.MANUAL, EVERYTHING, allow_removals=most),
        )

    def change_target(self) -> None:
        rng, target = self.rng, self.target
        there = [path for path in self.judge.paths() if path.startswith(self._at_target(""))]
        chance = rng.random()
        if chance < 0.25 and there:
            target.remove(rng.choice(there))
            return
        name = rng.choice([*self._keys, *FOREIGN_NAMES])
        path = rng.choice(there) if chance < 0.6 and there else self._at_target(name)
        if isinstance(target, FileManagerServer):
            # Always another size: nobody can see another content of the same size in the API.
            size = 100 + next(self._contents)
            target.set(path, b"theirs".ljust(size, b"!"))
            if chance > 0.9:
                target.set_mode(path, "rwxrwxrwx")
            return
        key = self.key_of(path)
        stored = None if key is None else self.source.stored(key)
        if chance > 0.8 and stored is not None:
            # The same bytes, or other bytes of the same number.
            target.set(path, stored.content if chance > 0.85 else stored.content[::-1], self._attributes())
        else:
            target.set(path, b"theirs %d" % next(self._contents), self._attributes())

    def _source_changed(self, write: Write, _old: StoredObject | None, new: StoredObject | None) -> None:
        history = self.history[write.key]
        history.changes += 1
        if new is None:
            history.deleted = self.machine.now
            return
        if write.old is None:
            history.created = self.machine.now
        if int(history.changed) == int(self.machine.now):
            # Two changes of headers within a second look alike until the object is checked again.
            self._has_unseen_headers = True
        history.changed = self.machine.now
        history.versions.append(new)
        path = self.path_of(write.key)
        if isinstance(self.judge, BucketJudge) and path not in self.judge.written and self.judge.ours(path):
            self.judge.written.add(path)
            self.judge.files_owned += 1

    def _notify(self, body: dict[str, Any]) -> None:
        """Send a notification of the bucket. It may be lost, duplicated or late."""
        rng, sqs = self.rng, self._stack.sqs
        if not self._notifies or (rng.random() < self._loss and not self._stack.faults.off):
            return
        for _ in range(2 if rng.random() < self._duplication else 1):
            delay = rng.uniform(0, 300) if rng.random() < self._delay and not self._stack.faults.off else 0.0
            sqs.put(self._stack.events, json.dumps(body), delay)

    # -- faults

    def inject_fault(self) -> None:
        self._had_faults, rng = True, self.rng
        target = self.target
        if isinstance(target, FileManagerServer):
            switch = rng.choice(["put_and_forget", "wrong_bytes", "reports_kept_size", "ignores_permissions", "source"])
            if switch != "source":
                setattr(target, switch, True)
                target.wrong_bytes |= switch == "reports_kept_size"
                return
        elif rng.random() < 0.3:
            switch = rng.choice(["put_and_forget", "wrong_bytes", "lost_bytes"])
            self._target_forgets |= switch == "put_and_forget"
            setattr(target, switch, True)
            return
        server = self.source if isinstance(target, FileManagerServer) else rng.choice([self.source, target])
        switch = rng.choice(["listing_cut", "listing_cut", "empty_listing", "stale_listing", "short_reads", "endless"])
        if switch == "listing_cut":
            # A cut that hides only the last object stays within the limits of removals.
            server.listing_cut = rng.choice([rng.randint(1, 3), max(1, len(server.objects()) - 1)])
        elif switch == "stale_listing":
            server.stale_listing = rng.uniform(0.1, 60.0)
        else:
            setattr(server, switch, True)
        # Syncline forgets a file that neither listing shows, and adopts it again by its ETag.
        self._both_hide |= all(isinstance(each, BucketServer) and each.hides for each in (self.source, target))

    def clear_faults(self) -> None:
        target = self.target
        if isinstance(target, FileManagerServer):
            target.put_and_forget = target.wrong_bytes = False
            target.reports_kept_size = target.ignores_permissions = False
        else:
            target.put_and_forget = target.wrong_bytes = target.lost_bytes = False
        for server in (self.source, target):
            if isinstance(server, BucketServer):
                server.listing_cut, server.stale_listing = 0, 0.0
                server.empty_listing = server.short_reads = server.endless = False

    # -- violations

    def violated(self, what: str) -> None:
        self.machine.note(f"{self.name}: VIOLATION: {what}")
        self.violations.append(f"{self.name}: {what}")

    def check_removal(self, path: str, *, renamed: bool) -> None:
        if self._limits is None:
            self.violated(f"removes {path!r}, but the sync may not remove files")
            return
        if renamed:
            return
        self._removals += 1
        share, most = self._limits
        most = min(most, max(1, int(share * self.judge.files_owned)))
        if self._removals > most + self._allowed_removals:
            limits = f"{most} and the {self._allowed_removals} that an operator allowed"
            self.violated(f"removes {path!r}, which is removal {self._removals}, more than {limits}")
