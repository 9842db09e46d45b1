"""Notifications of syncs in the table: the state that was notified last, and the notification that is being delivered.

There is one item for each sync with notifications or a heartbeat, ``SYNC#<name>`` / ``ALERT``. It does not expire.
Each write is conditional on the version that was read, so of two functions that decide at the same time one is refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from syncline.model import compact_json
from syncline.store.table import Database

_KEY: Final = "ALERT"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Delivery of a notification to one channel: the failed attempts, and the time of the next in Unix seconds."""

    tries: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """The notifications of a sync. Times are Unix seconds, 0 if unknown.

    ``told`` is the state that was notified last, with its ``codes``, its begin ``since`` and the time of the notification
    ``told_at``. ``sent`` are the times of the notifications within the last hour. ``seen`` is the latest state, unchanged
    since ``seen_at``. While ``flapping`` nothing is sent. ``wake`` is the time at which something becomes due if nothing
    changes, and ``looked`` a digest of what was known at the latest decision.

    ``notice`` is the notification that is being delivered, and ``left`` the channels that lack it. ``beat`` is the latest
    run whose heartbeat was sent, with its phase. A function that delivers has the right to until ``claimed``. ``given_up``
    counts the deliveries that failed for good.
    """

    told: str = ""
    codes: tuple[str, ...] = ()
    since: float = 0.0
    told_at: float = 0.0
    sent: tuple[float, ...] = ()
    seen: str = ""
    seen_at: float = 0.0
    flapping: bool = False
    wake: float | None = None
    looked: str = ""
    notice: Mapping[str, Any] | None = None
    left: Mapping[str, Delivery] = field(default_factory=dict)
    beat: str = ""
    claimed: float = 0.0
    given_up: int = 0
    version: str | None = None


_NAMES: Final = frozenset(each.name for each in fields(Alert)) - {"version"}


class Alerts:
    """The notifications of all syncs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, sync: str) -> Alert:
        """Return the notifications of a sync; an empty record if nothing was notified yet.

        Fields that only another version of Syncline knows are left out.
        """
        item = self._db.get(f"SYNC#{sync}", _KEY)
        if item is None:
            return Alert()
        values = {name: value for name, value in json.loads(item["alert"]).items() if name in _NAMES}
        for name in ("codes", "sent"):
            values[name] = tuple(values.get(name, ()))
        left = values.get("left", {}).items()
        values["left"] = {name: Delivery(int(each.get("tries", 0)), float(each.get("at", 0.0))) for name, each in left}
        return Alert(**values, version=str(item["version"]))

    def put(self, sync: str, alert: Alert) -> Alert | None:
        """Store a record in place of the version that it was made from. Return it, None if another one was stored."""
        values = {name: value for name, value in asdict(alert).items() if name != "version"}
        version = secrets.token_hex(8)
        item = {"pk": f"SYNC#{sync}", "sk": _KEY, "alert": compact_json(values), "version": version}
        if not self._db.replace(item, alert.version):
            stored = self._db.get(f"SYNC#{sync}", _KEY)
            if stored is None or stored["version"] != version:  # otherwise boto3 repeated a call whose answer was lost
                return None
        return replace(alert, version=version)
