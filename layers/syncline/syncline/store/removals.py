"""Windows of removals: how many items a sync has removed lately, whatever triggered its scans.

=================  ============  ======================================================================
pk                 sk            content
=================  ============  ======================================================================
``SYNC#<sync>``    ``REMOVALS``  the latest window: its end, items, removals reserved, and by which names;
                                 ``REMOVALS#<run>`` for a run whose limits are its own,
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
"""Names kept of a window, so that the item stays small. The removals of older ones still count."""
_KEPT: Final = 24 * 3600


@dataclass(slots=True)
class _Window:
    """A window. `names` has the removals reserved under each name, and how many were reserved before the first.

    `by` is the run that reserved last, and `settled` the removals by the runs before it, which are over, less what it had
    removed itself when the window began.
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
        about = (float(item["until"]), int(item["total"]), int(item["used"]), str(item["by"]), int(item["settled"]))
        return cls(*about, names)

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


class RemovalWindows:
    """The windows of removals of one sync. `clock` returns Unix seconds.

    With `part` they are those of a part of its target, which has a share and a count of its own.
    """

    def __init__(self, database: Database, sync: str, clock: Callable[[], float], part: str = "") -> None:
        self._db = database
        self._sync = sync
        self._clock = clock
        self._sk = f"{_SK}/{part}" if part else _SK

    def reserve(
        self, request: RemovalRequest, total: Callable[[], int], removed: Callable[[str], int] | None = None
    ) -> Grant:
        """Answer a request for removals in the window that now runs.

        `total` returns the number of items that are ours and selected, and `removed` the number that a run has removed so
        far, by its ID. Both are called at most once for this run: if no window runs, or if the window would refuse; and
        `removed` for the run that reserved before it. Without `removed` that one has removed all it had reserved. Items
        that were added since the window began count as well: its share is that of the items now and of those that were
        removed in it. A refusal reserves nothing and begins no window.
        """
        limits = request.limits
        key = hashlib.blake2b(request.name.encode(errors="surrogatepass"), digest_size=6).hexdigest()
        sk = f"{self._sk}#{request.run}" if request.own else self._sk

        @cache
        def items() -> tuple[int, int]:
            """Return the removals of this run and the items that are left; the first are never among the second."""
            return 0 if removed is None else removed(request.run), total()

        # What a run has reserved may be there still: it was cancelled, or has not been verified.
        removed_by = None if removed is None else cache(removed)

        for attempt in range(_TRIES):
            item = self._db.get(f"SYNC#{self._sync}", sk)
            now = self._clock()
            window = None if item is None else _Window.of(item)
            running = window is not None and window.until > now
            if window is None or not running:
                before_it, left = items()
                window = _Window(now + limits.per, left, by=request.run, settled=-before_it)
            reserved, before = window.names.get(key, (0, window.used))
            more = max(0, request.count - reserved)
            if window.by != request.run:
                # Two scans may have reserved one removal. A share of everything is no limit, and must not become one.
                if removed_by is not None and limits.share < 1:
                    window.settled += removed_by(window.by)
                else:
                    window.settled = window.used
                window.by = request.run
            if more > allowance(limits, window.total, window.used):
                by_run, left = items()
                # Without counts, what an earlier run reserved and this one removed is among both.
                window.total = max(window.total, left + min(window.settled + by_run, window.used))
            allowed = more <= allowance(limits, window.total, window.used)
            written = allowed and more > 0
            until = window.until if running or written else now
            grant = Grant(allowed, before, window.total, until, most=allowance(limits, window.total, 0))
            if not written or not request.keep:
                return grant
            window.reserve(key, request.count)
            version = None if item is None else str(item["version"])
            if self._db.replace(window.item(self._sync, sk, int(version or 0) + 1), version):
                return grant
            # Another function was faster, or boto3 repeated a call that had succeeded: then the name is found there.
            time.sleep(random.uniform(0.002, 0.02) * (attempt + 1))  # noqa: S311 - a pause is no secret
        raise SynclineError(
            "AWS_UNAVAILABLE", f"removals of sync {self._sync} were reserved by others {_TRIES} times; run it again"
        )
