"""Backups: a bucket that clusters write to, a repository, and foreign writers who commit to it or rewrite its history."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, cast
from unittest.mock import patch

from syncline.kinds.backups import kind, wiring
from syncline.model import Result, Run
from tests.simulation.machine import current, writer
from tests.simulation.models.bucket import SimBucket
from tests.simulation.models.bucket_server import BucketServer
from tests.simulation.models.git import sim_open_branch
from tests.simulation.models.git_server import OUTSIDE, BranchUpdate, GitServer
from tests.simulation.network import Network
from tests.simulation.stack import Stack
from tests.simulation.worlds.backups_judge import Judge, Rules
from tests.simulation.worlds.identities import bucket_identity

CLUSTERS: Final = ("east", "west")
NAMESPACES: Final = ("shop", "auth", "kube-system")
NAMES: Final = ("configmaps/app.yaml", "deployments/web.yaml", "secrets/db.yaml", "all.yaml")
FOREIGN: Final = ("README.md", "east/NOTES.md", "west/shop/local.yaml", "north/shop/all.yaml", "tools/run.sh")
LEFT_OUT: Final = "kube-system"
"""The namespace that the selection excludes."""
_KEY: Final = base64.b64encode(bytes(range(64))).decode()
_TOKEN: Final = "ghp_planted-token-of-the-simulation"


class BackupsWorld:
    """One sync of a bucket into a repository."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self._stack = stack
        machine = stack.machine
        self.source = BucketServer(machine, f"{name}-backups", host=f"s3.{name}.example")
        self.target = GitServer(f"https://git.{name}.example/backups.git", lambda: machine.now)
        stack.servers[self.source.name] = self.source
        stack.servers[self.target.url] = self.target
        plant = stack.vault.plant
        self._references = {"key": plant(f"key of {name}", _KEY), "git": plant(f"git token of {name}", _TOKEN)}
        self._references |= {each: plant(f"{each} key of {name}") for each in ("access", "secret")}
        self._prefix = rng.choice(["", "backups/"])
        self._events = {"quiet": rng.choice([1, 5, 30]), "longest": rng.choice([30, 60])}
        self._removals: dict[str, Any] = {"share": rng.choice([0.25, 0.5, 1]), "count": rng.choice([1000, 1000, 2, 0])}
        self._notifies = rng.random() < 0.7
        self.rules = Rules(
            name,
            self._prefix,
            rng.choice(["main", "backups/{cluster}"]),
            rng.choice(["", "clusterbackup"]),
            encrypts=rng.random() < 0.3,
            key=_KEY,
            left_out=LEFT_OUT,
            **self._removals,
        )
        self.judge = Judge(self.rules, self.target, lambda: machine.now, loses_records=bool(stack.faults.killed))
        self.judge.secrets.update({_KEY: "the key", _TOKEN: "the token"})
        self.violations = self.judge.violations
        self.deferred = 0
        self._secrets = 0
        self._foreign_changes: set[tuple[str, str]] = set()
        """Branches and paths of files that foreign writers changed."""
        for _ in range(rng.randint(0, 12)):
            self.change_source()
        for _ in range(rng.choice([0, 0, 1, 2])):
            self.change_target()
        self.source.on_event = self._notify
        self.target.on_update = self._branch_updated

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "backups",
            "source": {
                "bucket": self.source.name,
                "endpoint": f"https://{self.source.host}",
                "prefix": self._prefix,
                "auth": {"access_key": self._references["access"], "secret_key": self._references["secret"]},
            },
            "target": {
                "repository": self.target.url,
                "branch": self.rules.branch,
                "folder": self.rules.folder,
                "auth": {"token": self._references["git"]},
            },
            "select": {"namespaces": {"exclude": [LEFT_OUT]}},
            "commit": {"author": {"name": "cluster-backup-bot", "email": "backup@example.com"}},
            "secrets": {"encrypt": self._references["key"]} if self.rules.encrypts else "leave-out",
            "removals": self._removals | {"per": "7d"},  # longer than a simulation
            "events": self._events,
            "retry": {"attempts": self.rng.choice([1, 3]), "delay": self.rng.choice([1, 5])},
            "concurrency": self.rng.choice([1, 4, 16]),
        }

    def reconfigure(self) -> dict[str, Any] | None:
        return self.config()

    @contextmanager
    def wired(self) -> Iterator[None]:
        networks: dict[Any, Network] = {}

        def bucket_at(place: Any, parts: Any) -> SimBucket:
            network = parts.http.network
            networks[network.calls.process] = network
            network.identities[self.source.host] = bucket_identity(place, parts)
            return SimBucket(self._stack.servers[place.bucket], network)

        def network() -> Network:
            task = current()
            assert task is not None
            return networks[task.process]

        put = self._stack.sqs.put

        def checked_put(queue: Any, body: str, *rest: Any) -> Any:
            self.judge.check_text(f"a message of {queue.name}", body)
            return put(queue, body, *rest)

        with ExitStack() as stack:
            stack.enter_context(patch.object(wiring, "bucket_at", bucket_at))
            stack.enter_context(patch.object(kind, "open_branch", sim_open_branch(self._stack.servers, network)))
            stack.enter_context(patch.object(self._stack.sqs, "put", checked_put))
            yield

    # -- the source

    def change_source(self) -> Iterable[str]:
        rng = self.rng
        there = sorted(self.source.objects())
        chance = rng.random()
        if chance < 0.6 or not there:
            keys = [self._any_key() for _ in range(rng.choice([1, 1, 1, 3, 6]))]
            for key in keys:
                self._put(key, self._content(key))
            return keys
        key = rng.choice(there)
        if chance < 0.75:
            gone = rng.sample(there, min(len(there), rng.choice([1, 1, 2, 4])))
            for each in gone:
                self._remove(each)
            return gone
        if chance < 0.83:
            other = self._any_key()
            if other != key:
                self._put(other, self.source.objects()[key][1])
                self._remove(key)
            return [other, key]
        if chance < 0.88:
            self._put(key, self.source.objects()[key][1])  # a backup that changed nothing
            return [key]
        if chance < 0.93:
            # Earlier content comes back.
            earlier = sorted({content for _, content in self.judge.source[self._path(key)] if content is not None})
            self._put(key, rng.choice(earlier))
            return [key]
        folder = "/".join(self._path(key).split("/")[: rng.choice([1, 2, 2])]) + "/"
        gone = [each for each in there if self._path(each).startswith(folder)]
        for each in gone:
            self._remove(each)
        return gone

    def _any_key(self) -> str:
        rng = self.rng
        names = (rng.choice(CLUSTERS), rng.choices(NAMESPACES, [4, 3, 1])[0], rng.choice(NAMES))
        return self._prefix + "/".join(names)

    def _path(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _put(self, key: str, content: bytes) -> None:
        self.judge.record_source(self._path(key), content)
        self.source.set(key, content)

    def _remove(self, key: str) -> None:
        self.judge.record_source(self._path(key), None)
        self.source.remove(key)

    def _content(self, key: str) -> bytes:
        rng, number = self.rng, self.rng.randrange(1000)
        if key.endswith("secrets/db.yaml"):
            return self._secret()
        if key.endswith("deployments/web.yaml"):
            return _deployment(number)
        if key.endswith("all.yaml") and rng.random() < 0.4:
            documents = [_config_map(number), self._secret(), _deployment(number)]
            rng.shuffle(documents)
            return b"---\n".join(documents)
        if rng.random() < 0.1:
            return self._secret()
        return _config_map(number)

    def _secret(self) -> bytes:
        """Return a Secret with a unique password."""
        self._secrets += 1
        value = f"hunter2-{self.name}-{self._secrets:04d}-of-the-simulation"
        encoded = base64.b64encode(value.encode()).decode()
        self.judge.secrets.update({value: "a Secret", encoded: "a Secret"})
        body = f"data:\n  password: {encoded}\n" if self.rng.random() < 0.7 else f"stringData:\n  password: {value}\n"
        return f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\n{body}".encode()

    def _notify(self, event: dict[str, Any]) -> None:
        """Send the notification of a change. It may be lost, duplicated or late."""
        if not self._notifies:
            return
        for _ in range(self.rng.choices([0, 1, 2], [1, 5, 1])[0]):
            delay = self.rng.uniform(0, 300) if self.rng.random() < 0.2 else 0.0
            self._stack.sqs.put(self._stack.events, json.dumps(event), delay)

    # -- the target

    def change_target(self) -> None:
        rng, target = self.rng, self.target
        ours = [self.rules.branch_of(cluster) for cluster in CLUSTERS]
        branch = rng.choice(ours)
        files = sorted(target.files(branch))
        chance = rng.random()
        if branch not in target.branches or chance < 0.35:
            path = rng.choice(FOREIGN) if rng.random() < 0.6 else self.rules.at_target(self._path(self._any_key()))
            path = self.rules.at_target(path) if rng.random() < 0.3 and path in FOREIGN else path
            target.commit_outside(branch, {path: b"theirs %d\n" % rng.randrange(50)})
        elif chance < 0.55 and files:
            target.commit_outside(branch, {rng.choice(files): b"changed by them %d\n" % rng.randrange(50)})
        elif chance < 0.7 and files:
            target.commit_outside(branch, dict.fromkeys(rng.sample(files, min(len(files), rng.randint(1, 3)))))
        elif chance < 0.8:
            target.rewrite(branch, {"README.md": b"rewritten %d\n" % rng.randrange(50)})
        elif chance < 0.92 and len(target.log(branch)) > 1:
            target.rewind(branch, rng.randint(1, min(3, len(target.log(branch)) - 1)))
        elif chance < 0.95:
            target.commit_outside("feature/theirs", {"a": b"%d" % rng.randrange(50)})
        else:
            target.delete(branch)

    def _branch_updated(self, update: BranchUpdate) -> None:
        short = [(oid or "absent")[:8] for oid in (update.old, update.new)]
        self._stack.machine.note(f"{self.name}: {update.by} moves {update.branch} from {short[0]} to {short[1]}")
        if update.by == OUTSIDE:
            old, new = (self.judge.files_of(oid) if oid else {} for oid in (update.old, update.new))
            changed = {path for path in {*old, *new} if old.get(path) != new.get(path)}
            self._foreign_changes |= {(update.branch, path) for path in changed}
            return
        if (process := writer()) is not None:
            reference, now = f"{self.target.url}#{update.branch}", self._stack.machine.now
            self._stack.leases.check_writer(process, reference, now, f"{self.name}: {update.branch} was pushed")
        for line in self.judge.check_push(update):
            self._stack.machine.note(f"{self.name}:     {line}")

    # -- faults

    def inject_fault(self) -> None:
        rng = self.rng
        switch = rng.choice(
            ["listing_cut", "empty_listing", "short_reads", "push_and_forget", "vanishes", "refuses_pushes"]
        )
        self._stack.machine.note(f"{self.name}: {switch}")
        self.judge.loses_records |= switch == "push_and_forget"
        if switch == "listing_cut":
            self.source.listing_cut = rng.randint(1, 8)
            self.judge.listings_were_cut = True
        elif hasattr(self.source, switch):
            setattr(self.source, switch, True)
        else:
            setattr(self.target, switch, True)

    def clear_faults(self) -> None:
        self.source.empty_listing = self.source.short_reads = False
        self.source.listing_cut = 0
        self.target.refuses_pushes = self.target.push_and_forget = self.target.vanishes = False

    def groups(self) -> list[str]:
        return [*CLUSTERS, *(self._prefix + f"{cluster}/shop/{name}" for cluster in CLUSTERS for name in NAMES[:2])]

    def size(self) -> int:
        return len(self.source.objects()) + sum(len(self.target.files(branch)) for branch in self.target.branches)

    # -- checks

    def may_repeat(self, result: Result) -> bool:
        """Return True if a foreign writer changed the file: a run that events have joined puts it again."""
        return (result.group, self.rules.at_target(self._path(result.name))) in self._foreign_changes

    def check_report(self, _run: Run, results: list[Result]) -> Iterator[str]:
        yield from self.judge.check_report(results)

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        table = cast("Any", self._stack.table)
        for item in table.items():
            self.judge.check_item(item)
        self._stack.machine.note(f"{self.name}: run {run.id} is {run.counts}")
        for result in results:
            self._stack.machine.note(f"{self.name}:     {result}")
        yield from self.judge.check_full_run(run, results)


def _config_map(number: int) -> bytes:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\ndata:\n  limit: '{number}'\n".encode()


def _deployment(number: int) -> bytes:
    return f"apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: {number}\n".encode()
