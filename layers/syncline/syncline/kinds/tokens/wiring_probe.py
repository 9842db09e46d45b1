"""Builds the function `probe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.directory import Directory
from syncline.kinds.tokens.loop import Loop
from syncline.kinds.tokens.metrics import TokenMetrics
from syncline.kinds.tokens.probe import Prober, ProbeRules
from syncline.kinds.tokens.wiring import StoredListings, rules_of
from syncline.secrets import Secrets
from syncline.web.function_url import respond
from syncline.web.probe import ProbeApi


class ProbeFunction:
    """The function `probe`, behind its function URL."""

    def __init__(
        self,
        syncs: Callable[[], Mapping[str, TokensSync]],
        listings: StoredListings,
        secrets: Secrets,
        metrics: TokenMetrics,
        loop: Loop | None = None,
    ) -> None:
        self.loop = loop or Loop()
        self.directory = Directory(syncs, listings, lambda sync: self._prober(rules_of(sync, secrets)))
        self._api = ProbeApi(self.directory.entries, metrics.verdict)

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a function URL's event (payload format 2.0)."""
        self.directory.refresh()
        return respond(event, lambda request: self.loop.run(self._api.answer(request)))

    def _prober(self, rules: ProbeRules) -> Prober:
        return self.loop.call(lambda: Prober(rules, self.loop.loop))
