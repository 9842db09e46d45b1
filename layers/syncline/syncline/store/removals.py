"""Windows of removals: the number of items that a sync has removed lately, whatever triggered its scans.

=================  ============  ======================================================================
pk                 sk            content
=================  ============  ======================================================================
``SYNC#<sync>``    ``REMOVALS``  the latest window: its end, its items, and the removals reserved, by name;
                                 ``REMOVALS#<run>`` for a run with separate limits,
                                 ``REMOVALS/<part>`` for a part of the target
=================  ============  ======================================================================

A window begins with the first reservation after the last window has ended.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from syncline.errors import SynclineError
from syncline.ownership import Grant, RemovalRequest, allowance
from syncline.store.table import Database, number, pack, unpack

_SK: Final = "REMOVALS"
_TRIES: Final = 30
_MOST_NAMES: Final = 2000
"""Limit of the names in a window, for the size of its item. The removals under older names still count."""
_KEPT: Final = 24 * 3600


@dataclass(slots=True)
class _Window:
    """A window. `names` has, for each name, the removals reserved under it and those that were reserved before.

    `by` is the run that reserved last. `settled` is the number of removals by earlier runs, which are over, less the
    number that `by` had made itself when the window began.
    """

    until: float
    total: int
    used: int = 0
    by: str = ""
    settled: int = 0
    names: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> _Window:
        names = {name: (reserved, before) for name, reserved, before in unpack(item["names"])}
        until, total, used = float(item["until"]), int(item["total"]), int(item["used"])
        return cls(until, total, used, str(item["by"]), int(item["settled"]), names)

    def reserve(self, name: str, wanted: int) -> None:
        reserved, before = self.names.get(name, (0, self.used))
        self.used += wanted - reserved
        self.names[name] = (wanted, before)
        while len(self.names) > _MOST_NAMES:
            del self.names[next(iter(self.names))]

    def item(self, sync: str, sk: str, version: int) -> dict[str, Any]:
        return {
            "pk": f"SYNC#{sync}",
            "sk": sk,
            "version": str(version),
            "until": number(self.until),
            "total": self.total,
            "used": self.used,
            "by": self.by,
            "settled": self.settled,
            "names": pack([[name, reserved, before] for name, (reserved, before) in self.names.items()]),
            "expires": math.ceil(self.until) + _KEPT,
        }


@dataclass(frozen=True, slots=True)
class RemovalWindows:
    """The windows of removals of one sync, or of a `part` of its target. `clock` returns Unix seconds."""

    database: Database
    sync: str
    clock: Callable[[], float]
    part: str = ""

    def reserve(
        self, request: RemovalRequest, total: Callable[[], int], removed: Callable[[str], int] | None = None
    ) -> Grant:
        """Answer a request for removals in the current window.

        `total` returns the number of items that are ours and selected. `removed` returns the number of items that a run,
        by its ID, has removed so far. Both are called at most once for this run: if there is no window, or if the window
        would refuse. `removed` is also called for the run that reserved before this one; without it, that run is taken to
        have removed all it had reserved.

        Items that were added since the window began count as well: its share is that of the items now and of those that
        were removed in it. A refusal reserves nothing and begins no window.
        """
        limits = request.limits
        key = hashlib.blake2b(request.name.encode(errors="surrogatepass"), digest_size=6).hexdigest()
        sk = (f"{_SK}/{self.part}" if self.part else _SK) + (f"#{request.run}" if request.own else "")

        @cache
        def items() -> tuple[int, int]:
            """Return the removals of this run and the items that are left, which never include the first."""
            return 0 if removed is None else removed(request.run), total()

        # Not all that a run has reserved is removed: it may have been cancelled, or wait for verification.
        removed_by = None if removed is None else cache(removed)

        for attempt in range(_TRIES):
            item = self.database.get(f"SYNC#{self.sync}", sk)
            now = self.clock()
            window = None if item is None else _Window.of(item)
            is_running = window is not None and window.until > now
            if window is None or not is_running:
                by_run, left = items()
                window = _Window(now + limits.per, left, by=request.run, settled=-by_run)
            reserved, before = window.names.get(key, (0, window.used))
            more = max(0, request.count - reserved)
            if window.by != request.run:
                # Two scans may have reserved the same removal. A share of 1 is no limit, and must not become one.
                if removed_by is not None and limits.share < 1:
                    window.settled += removed_by(window.by)
                else:
                    window.settled = window.used
                window.by = request.run
            if more > allowance(limits, window.total, window.used):
                by_run, left = items()
                # Without counts, items that an earlier run reserved and this one removed are among both.
                window.total = max(window.total, left + min(window.settled + by_run, window.used))
            allowed = more <= allowance(limits, window.total, window.used)
            written = allowed and more > 0
            until = window.until if is_running or written else now
            grant = Grant(allowed, before, window.total, until, most=allowance(limits, window.total, 0))
            if not written or not request.keep:
                return grant
            window.reserve(key, request.count)
            version = None if item is None else str(item["version"])
            if self.database.replace(window.item(self.sync, sk, int(version or 0) + 1), version):
                return grant
            # Another function was faster, or boto3 repeated a call that had succeeded; then the window has the name.
            time.sleep(random.uniform(0.002, 0.02) * (attempt + 1))  # noqa: S311 - a pause is no secret
        raise SynclineError(
            "AWS_UNAVAILABLE",
            f"other functions changed the removals of sync {self.sync} {_TRIES} times; run the sync again",
        )
