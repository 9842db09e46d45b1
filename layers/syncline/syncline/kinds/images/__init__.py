"""Container images: every tag of a source registry under the same digest at a target registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from syncline.clients.http import Http
from syncline.config.images import ImagesSync
from syncline.kinds.images.copying import Answer, RepositoryCopy
from syncline.kinds.images.looking import Look, Side
from syncline.kinds.images.notifications import repositories_in
from syncline.kinds.images.pieces import Way
from syncline.kinds.images.places import BlobPlaces
from syncline.kinds.images.proving import Proof
from syncline.kinds.images.referrers import Compared, Referrers
from syncline.kinds.kind import Arrived, Failure, Later, Pace, Page
from syncline.model import Item, Scope, Step

__all__ = ["BlobPlaces", "Images", "Side"]

LAST_WORDS: Final = 5.0
"""Seconds for which a request may still be under way when the time is over: a server that hangs must not be the end of
the function, and what is under way is to come to its end if it can."""


class Images:
    """The kind ``images`` for one sync. A group is a target repository, an item a tag, a fingerprint a digest."""

    moves_by = Step.TRANSFER
    share = 100

    def __init__(self, sync: ImagesSync, source: Side, target: Side, http: Http, places: BlobPlaces) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._http = http
        self._places = places

    def discover(self, scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        self._http.end_within(pace.left() + LAST_WORDS)
        return Look(self._sync, self._source, self._target).pages(scope, cursor, pace)

    def transfer(self, items: Sequence[Item], pace: Pace) -> Iterator[Answer]:
        self._http.end_within(pace.left() + LAST_WORDS)
        group = items[0].group
        source = self._sync.source_repository(group)
        assert source is not None, "discover names only repositories below the prefix"
        way = Way(self._source.registry, source, self._target.registry, group)
        copy = RepositoryCopy(way, self._places, pace, self._sync)
        return copy.images(items)

    def verify(self, items: Sequence[Item], pace: Pace) -> Iterator[Arrived | Later | Failure]:
        self._http.end_within(pace.left() + LAST_WORDS)
        referrers = None if self._sync.referrers == "none" else self._referrers
        return Proof(self._target.registry, referrers).of(items, pace)

    def _referrers(self, group: str) -> Compared:
        source = self._sync.source_repository(group)
        assert source is not None, "discover names only repositories below the prefix"
        return Compared(Referrers(self._source.registry, source), Referrers(self._target.registry, group))

    def reference(self, group: str) -> str:
        return f"{self._target.registry.host}/{group}"

    def hints(self, event: object) -> tuple[str, ...]:
        names = (name for name in repositories_in(event) if self._sync.takes_repository(name))
        return tuple(self._sync.target_repository(name) for name in names)

    def requests(self) -> int:
        return self._http.requests_made
