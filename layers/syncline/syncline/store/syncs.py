"""Configurations of syncs: the applied one, and for a while the previous ones, which runs may have begun with.

================  ====================  ==========================================================
pk                sk                    content
================  ====================  ==========================================================
``SYNC#<name>``   ``CONFIG``            the applied sync as JSON
``SYNC#<name>``   ``CONFIG#<digest>``   a previous configuration
``SYNCS``         ``<name>``            the name of an applied sync
================  ====================  ==========================================================

A configuration is stored under its digest before it is replaced, so every configuration that a run may have begun with
can be found.
"""

from __future__ import annotations

import hashlib
from typing import Final

from syncline.errors import SynclineError
from syncline.store.health import expectation_request
from syncline.store.table import Store, number

_KEPT: Final = 30 * 24 * 3600
"""Seconds for which a configuration is kept after it was replaced: longer than any run."""


def config_digest(text: str) -> str:
    """Return a digest that identifies a configuration."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Configurations(Store):
    """The configurations in the table."""

    def put_sync(self, name: str, config: str, *, unverified: bool = False) -> None:
        """Store a sync's configuration (JSON) as the applied one.

        With `unverified`, earlier scans say nothing about it: it is not known to be in sync.
        """
        self._keep(name, config)
        now = self._clock()
        values = {"config": config, "at": number(now)}
        expression = "SET #config = :config, #at = :at"
        # In one transaction: a run that ends meanwhile must not say that the new configuration was verified.
        self._db.transact(
            [
                self._db.update_request(f"SYNC#{name}", "CONFIG", expression, values),
                expectation_request(self._db, name, now, forget=unverified),
            ]
        )
        self._db.put({"pk": "SYNCS", "sk": name})

    def remove_sync(self, name: str) -> None:
        """Remove a sync's configuration; its runs stay until they expire."""
        self._keep(name, None)
        self._db.delete(f"SYNC#{name}", "CONFIG")
        self._db.delete("SYNCS", name)
        self._db.delete(f"SYNC#{name}", "HEALTH")
        self._db.delete(f"SYNC#{name}", "DRILL")
        self._db.delete(f"SYNC#{name}", "ALERT")
        self._db.delete(f"SYNC#{name}", "AUDIT")

    def sync_config(self, name: str) -> str:
        """Return a sync's configuration (JSON); raises NO_SUCH_SYNC."""
        text = self._applied(name)
        if text is None:
            raise SynclineError("NO_SUCH_SYNC", f"there is no sync named {name!r}")
        return text

    def config_of(self, name: str, digest: str | None) -> str:
        """Return the configuration (JSON) of a sync that has the digest, or the applied one if the digest is None.

        Raises NO_SUCH_SYNC, or CONFIG_CHANGED if the table no longer has that configuration.
        """
        if digest is None:
            return self.sync_config(name)
        text = self._applied(name)
        if text is not None and config_digest(text) == digest:
            return text
        item = self._db.get(f"SYNC#{name}", f"CONFIG#{digest}")
        if item is None:
            what = f"the run began with configuration {digest} of {name}, which was replaced and is no longer stored"
            raise SynclineError("CONFIG_CHANGED", what)
        return str(item["config"])

    def applied_digest(self, name: str) -> str | None:
        """Return the digest of a sync's configuration, None if there is no such sync."""
        text = self._applied(name)
        return None if text is None else config_digest(text)

    def sync_names(self) -> list[str]:
        """Return the names of all applied syncs, sorted."""
        return [str(item["sk"]) for item in self._db.query("SYNCS")]

    def _applied(self, name: str) -> str | None:
        item = self._db.get(f"SYNC#{name}", "CONFIG")
        return None if item is None else str(item["config"])

    def _keep(self, name: str, replacement: str | None) -> None:
        """Keep the applied configuration for the runs that began with it, unless `replacement` is the same."""
        text = self._applied(name)
        if text is None or text == replacement:
            return
        item = {"pk": f"SYNC#{name}", "sk": f"CONFIG#{config_digest(text)}", "config": text}
        self._db.put(item | {"expires": self._expiry(_KEPT)})
