"""Limits on the resources of a full run without faults, and on what it leaves in the table and the queues.

Without faults, a run costs its listings and a number of requests for each difference. A repeated scan, a message that
returns again and again, and a row that never expires exceed the limits, although all items end correctly. The limits
are two to four times the maximum of most seeds, because a failing listing is tried five times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.simulation.network import Faults
from tests.simulation.queues import ModelSqs
from tests.simulation.table import ModelTable


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of requests to servers, calls of AWS, invocations and sent messages since the start of the simulation."""

    requests: int
    calls: int
    invocations: int
    messages: int

    def since(self, before: Usage) -> Usage:
        return Usage(
            self.requests - before.requests,
            self.calls - before.calls,
            self.invocations - before.invocations,
            self.messages - before.messages,
        )


def usage(faults: Faults, invocations: int, sqs: ModelSqs) -> Usage:
    """Return the usage until now. Chunks of a stream do not count as requests."""
    requests = calls = 0
    for name, count in faults.points.items():
        if " " not in name:
            calls += count
        elif not name.startswith(("killed ", "passed ")) and not name.endswith((" chunk", " bytes")):
            requests += count
    return Usage(requests, calls, invocations, sqs.puts)


@dataclass(frozen=True, slots=True)
class Limit:
    """A fixed amount, plus an amount for each object at source and target, and for each item that is not equal."""

    fixed: float
    per_object: float
    per_item: float

    def of(self, objects: int, items: int) -> float:
        return self.fixed + self.per_object * objects + self.per_item * items


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of a kind. They allow five attempts of each item."""

    requests: Limit
    calls: Limit
    invocations: Limit
    messages: Limit


RUN_LIMITS: Final[Mapping[str, RunLimits]] = {
    "images": RunLimits(Limit(50, 3, 60), Limit(100, 1, 25), Limit(4, 0, 3), Limit(4, 0, 4)),
    "files": RunLimits(Limit(60, 2, 15), Limit(320, 10, 40), Limit(20, 0.5, 4), Limit(20, 0.5, 5)),
    "artifacts": RunLimits(Limit(40, 4, 60), Limit(120, 1, 40), Limit(6, 0, 3), Limit(6, 0, 5)),
    "backups": RunLimits(Limit(40, 1, 20), Limit(160, 1, 20), Limit(6, 0.1, 2), Limit(6, 0.1, 3)),
}
_ROWS: Final = Limit(80, 4, 20)
"""Rows of the table, by objects and runs."""
_DEAD_LETTERS: Final = Limit(10, 2, 2)
"""Dead letters, by objects and runs."""
_FILE_ROWS: Final = Limit(60, 4, 0)
"""Rows of files that never expire, by objects."""
_PERMANENT: Final = frozenset({"CONFIG", "CURRENT", "HEALTH", "TOTALS", "FAILURES", "HEARS", "ALERT", "AUDIT", "DRILL"})
"""Sort keys below ``SYNC#<sync>`` that never expire. Each sync has one row of each."""
_INDEXES: Final = {"SYNCS": 1, "HEARS": 2}
"""Partitions whose rows never expire, with their maximum number per sync. A sync subscribes to source and target."""
_MAX_LIFETIME: Final = 400 * 86_400
"""Maximum seconds until a row expires."""
_LONG_LIVED: Final = ("FACT#files-scan:", "FACT#backups-history:")
"""Facts with one row per place, which are kept for ten years."""
_LONG_LIFETIME: Final = 11 * 365 * 86_400


def exceeded(kind: str, objects: int, items: int, used: Usage) -> Iterator[str]:
    """Yield the limits that a full run without faults has exceeded. ``items`` is the number that was not equal."""
    for name in ("requests", "calls", "invocations", "messages"):
        count, most = getattr(used, name), getattr(RUN_LIMITS[kind], name).of(objects, items)
        if count > most:
            yield f"{count} {name} for {items} items of {objects} objects; the limit is {most:.0f}"


def leftovers(table: ModelTable, sqs: ModelSqs, objects: int, runs: int, syncs: int, now: float) -> Iterator[str]:
    """Yield rows that never expire and should, and exceeded limits on rows and dead letters."""
    rows = files = 0
    permanent: Counter[str] = Counter()
    for item in table.items():
        rows += 1
        pk, sk = item["pk"].split("#")[0], item["sk"]
        if "expires" in item:
            longest = _LONG_LIFETIME if item["pk"].startswith(_LONG_LIVED) else _MAX_LIFETIME
            if not now - _MAX_LIFETIME < item["expires"] < now + longest:
                yield f"the row {item['pk']} {sk} expires at {item['expires']}"
        elif pk == "FILES":
            files += 1
        elif pk in _INDEXES or (pk == "SYNC" and sk in _PERMANENT):
            permanent[f"{pk} {sk}" if pk == "SYNC" else pk] += 1
        else:
            yield f"the row {item['pk']} {sk} never expires"
    for name, count in permanent.items():
        if count > syncs * _INDEXES.get(name, 1):
            yield f"{count} rows {name} for {syncs} syncs"
    letters = sum(len(queue.messages) for queue in sqs.queues.values())
    for what, count, most in (
        ("rows", rows, _ROWS.of(objects, runs)),
        ("rows of files that never expire", files, _FILE_ROWS.of(objects, 0)),
        ("dead letters", letters, _DEAD_LETTERS.of(objects, runs)),
    ):
        if count > most:
            yield f"{count} {what} are left after {runs} runs of {objects} objects; the limit is {most:.0f}"
