"""The syncs of tokens as they are applied now, each with whoever asks its instances and the list of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.isolation import Isolated
from syncline.kinds.tokens.listing import Listing, Listings
from syncline.kinds.tokens.probe import Prober
from syncline.telemetry import logger

FRESH: Final = 5.0
"""Seconds for which what was read is used as it is."""
USABLE: Final = 30.0
"""Seconds for which it is used while it is read anew: a verdict does not wait for that."""
_PATIENCE: Final = 5.0  # seconds that the probers of all syncs may take to be made, secrets included

Syncs = Callable[[], Mapping[str, TokensSync]]
MakeProber = Callable[[TokensSync], Prober]


@dataclass(frozen=True, slots=True)
class Entry:
    """A sync, the prober that asks its instances, and their list."""

    sync: str
    prober: Prober
    listing: Listing


class Directory:
    """``syncs`` gives the enabled syncs, ``make`` a prober for one. ``clock`` counts seconds and never goes back.

    Lists are read with the syncs, unless ``live`` says that they change in this very process. A sync whose prober
    cannot be made, or not in time, is left out until the next reading.
    """

    def __init__(
        self,
        syncs: Syncs,
        listings: Listings,
        make: MakeProber,
        *,
        live: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._syncs = syncs
        self._listings = listings
        self._make = make
        self._live = live
        self._clock = clock
        self._making: Isolated[tuple[TokensSync, Prober]] = Isolated("the preparation", _PATIENCE)
        self._probers: dict[str, tuple[TokensSync, Prober]] = {}
        self._lists: Mapping[str, Listing] = {}
        self._read: float | None = None
        self._reading = threading.Lock()

    def entries(self) -> Sequence[Entry]:
        """As they were last read; :meth:`refresh` reads."""
        lists = self._listings.all() if self._live else self._lists
        return [Entry(name, prober, lists.get(name, Listing())) for name, (_, prober) in self._probers.items()]

    def refresh(self) -> None:
        """Read anew what is old: at once if it is too old to be used, else beside whatever goes on.

        Raises what reading raised, if there is nothing to be used.
        """
        age = None if self._read is None else self._clock() - self._read
        if age is not None and age < FRESH:
            return
        if age is None or age >= USABLE:
            with self._reading:
                self._read_all()
        elif self._reading.acquire(blocking=False):
            threading.Thread(target=self._read_beside, name="directory", daemon=True).start()

    @property
    def reading(self) -> bool:
        """Whether it is being read anew just now."""
        return self._reading.locked()

    def close(self) -> None:
        """Close every connection; to be called in the probers' loop."""
        for _, prober in self._probers.values():
            prober.close()

    def _read_beside(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - what is there is used until it is too old
            logger.warning("syncs not read", extra={"error": type(error).__name__})
        finally:
            self._reading.release()

    def _read_all(self) -> None:
        syncs = self._syncs()
        kept = {name: made for name, made in self._probers.items() if syncs.get(name) == made[0]}
        new = self._making.run({name: partial(self._made, sync) for name, sync in syncs.items() if name not in kept})
        for name, made in new.items():
            if isinstance(made, SynclineError):
                logger.error("sync not used", extra={"sync": name, "code": made.code.name, "why": made.what})
            else:
                kept[name] = made
        if not self._live:
            self._lists = self._listings.all()
        self._probers = {name: kept[name] for name in syncs if name in kept}
        self._read = self._clock()

    def _made(self, sync: TokensSync) -> tuple[TokensSync, Prober]:
        return sync, self._make(sync)
