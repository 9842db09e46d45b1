"""Bounds: what a full run in calm may cost, and what may be left at rest, as functions of the work.

Without faults a run costs listings, and for what differs a number of requests for each item. So a scan that is made
twice, a message that comes back again and again, and a row that stays for ever are violations, although every item ends
as it should. The numbers are two to four times the most that is seen in most seeds: a listing that
fails is tried five times.
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
class Tally:
    """What was done until now: requests to servers, calls of AWS, invocations of functions, and messages sent."""

    requests: int
    calls: int
    invocations: int
    messages: int

    def since(self, before: Tally) -> Tally:
        return Tally(
            self.requests - before.requests,
            self.calls - before.calls,
            self.invocations - before.invocations,
            self.messages - before.messages,
        )


def tally(faults: Faults, invocations: int, sqs: ModelSqs) -> Tally:
    """Return what was done until now. Chunks of a stream are no requests of their own."""
    requests = calls = 0
    for name, count in faults.points.items():
        if " " not in name:
            calls += count
        elif not name.startswith(("killed ", "passed ")) and not name.endswith((" chunk", " bytes")):
            requests += count
    return Tally(requests, calls, invocations, sqs.puts)


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``fixed``, ``each`` for every thing at source and target, and ``moved`` for every item that is worked on."""

    fixed: float
    each: float
    moved: float

    def of(self, size: int, work: int) -> float:
        return self.fixed + self.each * size + self.moved * work


@dataclass(frozen=True, slots=True)
class Costs:
    """The bounds of a kind. An item may fail for good, after five tries."""

    requests: Bound
    calls: Bound
    invocations: Bound
    messages: Bound


COSTS: Final[Mapping[str, Costs]] = {
    "images": Costs(Bound(50, 3, 60), Bound(100, 1, 25), Bound(4, 0, 3), Bound(4, 0, 4)),
    "files": Costs(Bound(60, 2, 15), Bound(320, 10, 40), Bound(20, 0.5, 4), Bound(20, 0.5, 5)),
    "artifacts": Costs(Bound(40, 4, 60), Bound(120, 1, 40), Bound(6, 0, 3), Bound(6, 0, 5)),
    "backups": Costs(Bound(40, 1, 20), Bound(160, 1, 20), Bound(6, 0.1, 2), Bound(6, 0.1, 3)),
}
_AT_REST: Final = Bound(80, 4, 20)
"""Rows of the table by things and runs."""
_LETTERS: Final = Bound(10, 2, 2)
"""Dead letters by things and runs."""
_FILES: Final = Bound(60, 4, 0)
"""Rows of files without an end by things."""
_LASTING: Final = frozenset({"CONFIG", "CURRENT", "TOTALS", "FAILURES", "HEARS"})
"""Rows below ``SYNC#<sync>`` that stay for as long as the sync does: one of each."""
_INDEXES: Final = {"SYNCS": 1, "HEARS": 2}
"""Partitions with so many rows for each sync, which stay for as long as the sync does: its subscriptions to source and target."""
_LONGEST: Final = 400 * 86_400
"""Seconds for which a row with an end may stay."""
_KEPT_LONG: Final = ("FACT#files-scan:", "FACT#backups-history:")
"""Facts of which each place has one, so that they are kept for ten years."""
_VERY_LONG: Final = 11 * 365 * 86_400


def exceeded(kind: str, size: int, work: int, done: Tally) -> Iterator[str]:
    """Yield what a full run in calm has done beyond its bounds. ``work`` counts the items that were not equal."""
    for name in ("requests", "calls", "invocations", "messages"):
        count, most = getattr(done, name), getattr(COSTS[kind], name).of(size, work)
        if count > most:
            yield f"{count} {name} for {work} items of {size} things, where {most:.0f} are enough"


def left(table: ModelTable, sqs: ModelSqs, size: int, runs: int, syncs: int, now: float) -> Iterator[str]:
    """Yield rows that stay for ever, and say where there are more rows or dead letters than the work explains."""
    rows = files = 0
    lasting: Counter[str] = Counter()
    for item in table.items():
        rows += 1
        pk, sk = item["pk"].split("#")[0], item["sk"]
        if "expires" in item:
            longest = _VERY_LONG if item["pk"].startswith(_KEPT_LONG) else _LONGEST
            if not now - _LONGEST < item["expires"] < now + longest:
                yield f"the row {item['pk']} {sk} expires at {item['expires']}"
        elif pk == "FILES":
            files += 1
        elif pk in _INDEXES or (pk == "SYNC" and sk in _LASTING):
            lasting[f"{pk} {sk}" if pk == "SYNC" else pk] += 1
        else:
            yield f"the row {item['pk']} {sk} stays for ever"
    for name, count in lasting.items():
        if count > syncs * _INDEXES.get(name, 1):
            yield f"{count} rows {name} for {syncs} syncs"
    letters = sum(len(queue.messages) for queue in sqs.queues.values())
    for what, count, most in (
        ("rows", rows, _AT_REST.of(size, runs)),
        ("rows of files without an end", files, _FILES.of(size, 0)),
        ("dead letters", letters, _LETTERS.of(size, runs)),
    ):
        if count > most:
            yield f"{count} {what} are left of {runs} runs of {size} things, where {most:.0f} are enough"
