"""The applied syncs of tokens, each with its prober and the list of its instances."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.isolation import Isolated
from syncline.kinds.tokens.listing import Listing, ListingStore
from syncline.kinds.tokens.probe import Prober
from syncline.telemetry import logger

FRESH: Final = 5.0
"""Seconds for which the directory is used without reading it again."""
USABLE: Final = 30.0
"""Seconds for which it is used while a thread reads it again, so that no verdict waits for that."""
_PREPARATION: Final = 5.0  # seconds for making the probers of all syncs, with their secrets


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """A sync, its prober, and the list of its instances."""

    sync: str
    prober: Prober
    listing: Listing


@dataclass
class Directory:
    """A cache of syncs. ``syncs`` gives the enabled ones, ``make`` a prober for one; ``clock`` is monotonic, in seconds.

    Lists are read with the syncs, unless they are ``live``, in this process. A sync whose prober cannot be made in time is
    left out until the next reading.
    """

    syncs: Callable[[], Mapping[str, TokensSync]]
    listings: ListingStore
    make: Callable[[TokensSync], Prober]
    live: bool = field(default=False, kw_only=True)
    clock: Callable[[], float] = field(default=time.monotonic, kw_only=True)

    def __post_init__(self) -> None:
        self._making: Isolated[Prober] = Isolated("the preparation", _PREPARATION)
        self._probers: dict[str, tuple[TokensSync, Prober]] = {}
        self._lists: Mapping[str, Listing] = {}
        self._read: float | None = None
        self._reading = threading.Lock()

    def entries(self) -> Sequence[DirectoryEntry]:
        """Return the entries as of the last :meth:`refresh`."""
        lists = self.listings.all() if self.live else self._lists
        return [DirectoryEntry(name, prober, lists.get(name, Listing())) for name, (_, prober) in self._probers.items()]

    def refresh(self) -> None:
        """Read the syncs again if they are old: at once if they are too old to be used, otherwise in another thread.

        Raises the error of reading if there is nothing to use.
        """
        age = None if self._read is None else self.clock() - self._read
        if age is not None and age < FRESH:
            return
        if age is None or age >= USABLE:
            with self._reading:
                self._read_all()
        elif self._reading.acquire(blocking=False):
            threading.Thread(target=self._read_in_background, name="directory", daemon=True).start()

    def close(self) -> None:
        """Close every connection. Must be called in the probers' loop."""
        for _, prober in self._probers.values():
            prober.close()

    def _read_in_background(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - the previous entries are used until they are too old
            logger.warning("syncs not read", extra={"error": type(error).__name__})
        finally:
            self._reading.release()

    def _read_all(self) -> None:
        syncs = self.syncs()
        kept = {name: made for name, made in self._probers.items() if syncs.get(name) == made[0]}
        new = {name: partial(self.make, sync) for name, sync in syncs.items() if name not in kept}
        for name, prober in self._making.run(new).items():
            if isinstance(prober, SynclineError):
                logger.error("sync not used", extra={"sync": name, "code": prober.code.name, "why": prober.what})
            else:
                kept[name] = (syncs[name], prober)
        if not self.live:
            self._lists = self.listings.all()
        self._probers = {name: kept[name] for name in syncs if name in kept}
        self._read = self.clock()
