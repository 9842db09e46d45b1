"""A table as an installation of many syncs leaves it after weeks, for tests and benchmarks of the console.

Every run begins, ends and is recorded by the functions of the product. The older runs of a sync are copies of its first
one with other IDs and times, since ten thousand runs would take too long. Everything is made from a fixed seed, and all
times count back from `now`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from syncline.config.sync import load_sync
from syncline.errors import CodeName
from syncline.messages import Batch, Outgoing
from syncline.model import EVERYTHING, Counts, Item, Outcome, Result, Run, Step, Trigger
from syncline.steps.results import final_counts, record_failures
from syncline.store.batches import BatchRecord
from syncline.store.runs import RETENTION, run_id_of, start_of
from syncline.store.state import State
from syncline.store.table import Database, number
from syncline.store.tokens import InstanceLists

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNCS: Final = 50
RUNS: Final = 10_000
ITEMS: Final = 100_000
NEEDLE: Final = "team/app-077777"
"""The group of one item among those of the largest run."""

LARGE: Final = "registry-mirror"
"""The sync with the largest run, which is its latest one."""
FAILING: Final = "payments-images"
ODD: Final = "odd-names"
CONFLICT: Final = "web-images"
STALE: Final = "nightly-archive"
PAUSED: Final = "builds-paused"
DISABLED: Final = "legacy-disabled"
NEVER: Final = "never-run"
RUNNING: Final = "live-copy"
TOKENS: Final = "sessions"

HTML: Final = "<img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script>"
CONTROL: Final = "bell\x07 esc\x1b[31mred nul\x00 rtl\u202eoverride\u2028line"
LONG: Final = "l" * 1000
_HOUR: Final = 3600.0
_BATCH: Final = 100
_KEPT_RUNS: Final = RETENTION - 2 * 24 * _HOUR


@dataclass
class _Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Seed:
    """Fills a table.

    ``large_run`` is the ID of the run with the most items. ``open_batches`` are those of the run in progress that have
    not ended, with their results.
    """

    table: Table
    now: float
    syncs: int = SYNCS
    runs: int = RUNS
    items: int = ITEMS
    large_run: str = ""
    names: list[str] = field(default_factory=list)
    open_batches: list[tuple[Batch, Sequence[Result]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clock = _Clock(self.now)
        self.state = State(self.table, self._clock)
        self._database = Database(self.table)
        self._random = random.Random(77)

    def fill(self) -> None:
        """Write everything."""
        self._special()
        while len(self.names) < self.syncs:
            at = len(self.names)
            kind = ("images", "files")[at % 2]
            name = f"{('eu', 'us', 'ap')[at % 3]}-{('registry', 'archive')[at % 2]}-{at:02}"
            self._apply(name, kind, fresh_within="1d")
            self.run(
                name, _results(self._random.randrange(5, 60), name), self.now - self._random.uniform(0.2, 8) * _HOUR
            )
        self._copy_runs()
        self._large()
        self._running()

    def _special(self) -> None:
        """Write the syncs that are not merely in sync."""
        hour = self.now - _HOUR
        self._apply(FAILING, "images", fresh_within="2h")
        failures = [
            _failed("team/cart", f"1.{n}", "UNAUTHORIZED", "quay.dr.example rejects the credentials")
            for n in range(120)
        ]
        self.run(FAILING, [*_results(200, FAILING), *failures], hour)
        self._apply(ODD, "files")
        odd = [
            _failed(HTML, HTML, "PATH_REFUSED", f"the key {HTML} is not a safe path"),
            _failed("controls", CONTROL, "PATH_REFUSED", f"a control character in {CONTROL}"),
            _failed("long", LONG, "PATH_REFUSED", LONG),
            _failed("lone", "surrogate \ud800 end", "PATH_REFUSED", "not valid UTF-8"),
        ]
        self.run(ODD, [*odd, *_results(20, ODD)], hour)
        self._apply(CONFLICT, "images")
        conflict = Result(
            "team/web",
            "2.0",
            Outcome.CONFLICT,
            digest("theirs"),
            digest("ours"),
            code="TAG_DIFFERS",
            reason="quay.dr.example/team/web:2.0 is another image, and the sync may not overwrite",
        )
        self.run(CONFLICT, [conflict, *_results(30, CONFLICT)], hour)
        self._apply(STALE, "files", fresh_within="2h")
        self.run(STALE, _results(40, STALE), self.now - 30 * _HOUR)
        self._apply(PAUSED, "images")
        self.run(PAUSED, _results(25, PAUSED), self.now - 5 * _HOUR)
        self._at(self.now - 3 * _HOUR, lambda: self.state.pause(PAUSED))
        self._apply(DISABLED, "files", enabled=False)
        self.run(DISABLED, _results(3, DISABLED), self.now - 200 * _HOUR)
        self._apply(NEVER, "images", fresh_within="2h")
        self._apply(TOKENS, "tokens")
        instances = [
            {"name": f"gateway-{n}", "address": f"10.0.0.{n}", "port": 8443, "place": "prod"} for n in range(1, 5)
        ]
        InstanceLists(self._database, self._clock).put(TOKENS, instances, self.now - 20)
        self._apply(LARGE, "images", fresh_within="1d")
        self.run(LARGE, _results(50, LARGE), self.now - 30 * _HOUR)
        self._apply(RUNNING, "images")
        self.run(RUNNING, _results(60, RUNNING), self.now - 2 * _HOUR)

    def _apply(self, name: str, kind: str, **more: Any) -> None:
        self._at(self.now - 40 * 24 * _HOUR, lambda: self.state.put_sync(name, config(name, kind, **more)))
        self.names.append(name)

    def _at(self, at: float, act: Callable[[], object]) -> None:
        """Do something at a time."""
        self._clock.now = at
        act()
        self._clock.now = self.now

    def run(self, sync: str, results: Sequence[Result], started: float, *, seconds: float = 42.0) -> Run:
        """Record a run that has ended with these results."""
        self._clock.now = started
        run, batches = self.begin(sync, results, started)
        self._clock.now = started + seconds
        for batch, some in batches:
            self.end(batch, some)
        state = self.state
        ended = state.finish_run(sync, run.id, lambda run: final_counts(state.failures, run, state.results(run.id)))
        assert ended is not None, f"the run of {sync} has not ended"
        self._clock.now = self.now
        return ended

    def begin(
        self, sync: str, results: Sequence[Result], started: float
    ) -> tuple[Run, list[tuple[Batch, Sequence[Result]]]]:
        """Begin a run whose scan has found these items; return it with its batches and their results."""
        run_id = run_id_of(started, self._random.randbytes(5))
        run, root = self.state.begin_run(sync, run_id, Trigger.SCHEDULE, EVERYTHING)
        parts = [results[at : at + _BATCH] for at in range(0, len(results), _BATCH)]
        batches = [
            (root.child(n, step=Step.VERIFY, items=tuple(Item(each.group, each.name) for each in part[:1])), part)
            for n, part in enumerate(parts)
        ]
        record = BatchRecord((), tuple(Outgoing(batch) for batch, _ in batches))
        counts = Counts(queued=len(results), skipped=3 * len(results), requests=17)
        assert self.state.end_batch(root, record, counts) is not None
        return run, batches

    def end(self, batch: Batch, results: Sequence[Result]) -> None:
        """End a batch with these results."""
        record = BatchRecord(tuple(results))
        assert self.state.end_batch(batch, record, Counts.of(results, requests=2 * len(results))) is not None
        record_failures(self.state.failures, batch, record, self._clock.now)

    def _copy_runs(self) -> None:
        """Copy the run of each sync into the past until there are enough."""
        names = [name for name in self.names if name not in (NEVER, TOKENS)]
        every = _KEPT_RUNS / (self.runs / len(names) + 1)
        items: list[dict[str, Any]] = []
        for at, name in enumerate(names):
            more = self.runs // len(names) + (at < self.runs % len(names)) - 1 - (name in (LARGE, RUNNING))
            [item] = self._database.query(f"SYNC#{name}", "RUN#")
            items += _copies(item, more, every, self._random)
        self._database.batch_write(items, [])

    def _large(self) -> None:
        results = _results(self.items, LARGE)
        self.large_run = self.run(LARGE, results, self.now - 2 * _HOUR, seconds=1800).id

    def _running(self) -> None:
        results = _results(2000, RUNNING)
        _, self.open_batches = self.begin(RUNNING, results, self.now - 60)
        self.advance(5)

    def advance(self, batches: int) -> None:
        """Let the run in progress end some more batches."""
        for batch, results in self.open_batches[:batches]:
            self.end(batch, results)
        del self.open_batches[:batches]


def config(name: str, kind: str, **more: Any) -> str:
    """Return the stored configuration of a sync."""
    ends: dict[str, dict[str, Any]] = {
        "images": {
            "schedule": "rate(1 hour)",
            "source": {"registry": "quay.prod.example", "repositories": ["team/app"]},
            "target": {"registry": "quay.dr.example"},
        },
        "files": {
            "schedule": "cron(0 3 * * ? *)",
            "source": {"bucket": f"{name}-source", "region": "eu-central-1"},
            "target": {"bucket": f"{name}-target", "region": "eu-central-1"},
        },
        "tokens": {
            "sources": {"prod": {"namespace": "gateway", "service": "nginx", "port": "https"}},
            "check": {
                "host": "api.example",
                "path": "/check",
                "cookie": "auth_token",
                "server_name": "gateway.example",
            },
        },
    }
    return load_sync(json.dumps({"name": name, "kind": kind, **ends[kind], **more})).model_dump_json()


def digest(text: str) -> str:
    """Return a digest as registries write them."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _results(count: int, sync: str) -> list[Result]:
    """Return the results of items that were moved, with both fingerprints and a lag."""
    found = []
    for n in range(count):
        fingerprint = digest(f"{sync}/{n}")
        found.append(
            Result(
                f"team/app-{n:06}",
                f"1.{n % 10}.{n % 7}",
                Outcome.MOVED,
                fingerprint,
                fingerprint,
                1_000 + n,
                lag=n % 300,
            )
        )
    return found


def _failed(group: str, name: str, code: CodeName, reason: str) -> Result:
    return Result(group, name, Outcome.FAILED, digest(f"{len(group)}{len(name)}"), None, code=code, reason=reason)


def _copies(item: dict[str, Any], count: int, every: float, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield copies of a run that has ended, one for each earlier period."""
    began = start_of(str(item["sk"]).removeprefix("RUN#"))
    seconds = float(item["ended"]) - float(item["started"])
    for before in range(1, count + 1):
        started = began - before * every
        run_id = run_id_of(started, rng.randbytes(5))
        times = {"started": number(started), "ended": number(started + seconds * rng.uniform(0.5, 2.0))}
        expires = int(started) + RETENTION
        yield item | times | {"sk": f"RUN#{run_id}", "number": max(1, count - before), "expires": expires}
