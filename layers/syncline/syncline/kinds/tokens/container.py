"""Tokens in a container: probe, scrape and canaries in one process, for where a function cannot reach pods.

``python -m syncline.kinds.tokens.container`` reads ``syncs.yaml`` (``CONTAINER_SYNCS``, by default in /etc/syncline), lists
the instances at once and then every so often, and answers on one port. Each sync is listed and has its canaries in threads
of its own, so that one that hangs does not delay another.

===================  ==========================================================
``/v1/synced``       the contract, as at the function URL
``/swagger-ui/``     the page to try it, ``/openapi.json`` its document
``/metrics``         Prometheus
``/health``          200 while the process lives
``/ready``           200 while at least one sync has a list that can be believed
``/ready/NAME``      the same for one sync
===================  ==========================================================
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from syncline.config.file import read_syncs
from syncline.errors import SynclineError
from syncline.kinds.tokens.canary import ProcessMemories
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.directory import Directory
from syncline.kinds.tokens.listing import MemoryListings
from syncline.kinds.tokens.metrics import PrometheusCounts
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.wiring import rules_of
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.kinds.tokens.wiring_scrape import Scraping
from syncline.secrets import Secrets
from syncline.telemetry import logger
from syncline.web.function_url import Answer, Request
from syncline.web.probe import ProbeApi
from syncline.web.server import Server

FILE: Final = "/etc/syncline/syncs.yaml"
_TEXT: Final = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
_METRICS: Final = {"content-type": "text/plain; version=0.0.4; charset=utf-8", "cache-control": "no-store"}
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}
_NO_SUCH_SYNC: Final = b'{"error": "there is no sync of that name"}'
_READY: Final = "ready"
_DRAIN: Final = 5.0  # seconds for which answers under way may go on once we are told to end


@dataclass(frozen=True, slots=True)
class Settings:
    """``scrape_every`` and ``canary_every`` are in seconds; 0 flies no canaries."""

    syncs: Path
    host: str
    port: int
    scrape_every: float
    canary_every: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """From the environment; raises CONFIG_INVALID."""
        try:
            return cls(
                Path(environ.get("CONTAINER_SYNCS", FILE)),
                environ.get("CONTAINER_HOST", "0.0.0.0"),  # noqa: S104 - a pod's own network
                int(environ.get("CONTAINER_PORT", "8080")),
                max(1.0, float(environ.get("CONTAINER_SCRAPE_EVERY", "10"))),
                max(0.0, float(environ.get("CONTAINER_CANARY_EVERY", "60"))),
            )
        except ValueError as error:
            raise SynclineError("CONFIG_INVALID", f"the container's environment has no number: {error}") from None


class Container:
    """Everything the process does. Made and run in the loop's own thread."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._over = threading.Event()
        self.counts = PrometheusCounts()
        self.listings = MemoryListings()
        syncs = read_syncs(settings.syncs).syncs.values()
        self._syncs = {sync.name: sync for sync in syncs if isinstance(sync, TokensSync) and sync.enabled}
        if not self._syncs:
            raise SynclineError("CONFIG_INVALID", f"{settings.syncs} has no enabled sync of the kind tokens")
        self.directory = Directory(
            lambda: self._syncs,
            self.listings,
            lambda sync: Prober(rules_of(sync, secrets), self._loop),
            live=True,
        )
        self.directory.refresh()
        self._scraping = Scraping(lambda: self._syncs, self.listings, secrets, time.time, self.counts)
        self._canaries = Canaries(lambda: self._syncs, self.listings, ProcessMemories(), secrets, self.counts)
        self.server = Server(ProbeApi(self.directory, self.counts), self._page)

    async def serve(self, until: asyncio.Event) -> None:
        """Serve until the event is set."""
        port = await self.server.start(self._settings.host, self._settings.port)
        logger.info("serving", extra={"port": port, "syncs": sorted(self._syncs)})
        for name in self._syncs:
            self._repeat(name, self._settings.scrape_every, partial(self._scrape, name))
            if self._settings.canary_every and self._syncs[name].canary is not None:
                self._repeat(name, self._settings.canary_every, partial(self._canaries.fly, name))
        await until.wait()
        self._over.set()
        await self.server.stop(_DRAIN)
        self.directory.close()

    def _scrape(self, name: str) -> None:
        self.directory.refresh()  # a prober that could not be made may be possible now
        self._scraping.scrape(name)

    def _repeat(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        """Do `work` in a thread of its own, and again `seconds` after it began, until the container ends."""

        def rounds() -> None:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - the next round may do better, and lists age meanwhile
                    logger.error("round failed", extra={"sync": name, "error": type(error).__name__})
                gc.freeze()  # what is there by now stays; a full collection over it would hold up a verdict
                self._over.wait(max(0.1, seconds - (time.monotonic() - began)))

        threading.Thread(target=rounds, name=f"rounds {name}", daemon=True).start()

    def _page(self, request: Request) -> Answer | None:
        path = request.path
        if path == "/metrics":
            return Answer(200, self.counts.text(), _METRICS)
        if path == "/ready":
            return _readiness(self._states())
        if path.startswith("/ready/"):
            name = path.removeprefix("/ready/")
            states = {sync: state for sync, state in self._states().items() if sync == name}
            return _readiness(states) if states else Answer(404, _NO_SUCH_SYNC, _JSON)
        return None

    def _states(self) -> dict[str, str]:
        """Return for each sync "ready" or why no verdict can be given."""
        states = dict.fromkeys(sorted(self._syncs), "not_configured")
        for entry in self.directory.entries():
            problem = entry.listing.problem(time.time(), entry.prober.rules.stale_after)
            states[entry.sync] = _READY if problem is None else problem.value
        return states


def _readiness(states: Mapping[str, str]) -> Answer:
    """Return 200 if any of the syncs is ready: one that is not must not take the others out of service."""
    text = "".join(f"{sync}: {state}\n" for sync, state in states.items())
    return Answer(200 if _READY in states.values() else 503, text.encode(), _TEXT)


def _more_files() -> None:
    """Every connection is a file: let the process have as many as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(settings: Settings) -> None:
    until = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, until.set)
    await Container(settings, _secrets()).serve(until)


def _secrets() -> Secrets:
    import boto3  # noqa: PLC0415 - only where a secret is AWS's

    return Secrets(lambda: boto3.client("secretsmanager"), lambda: boto3.client("ssm"))


def main() -> int:
    """Serve until SIGTERM; 2 for a configuration that cannot be used."""
    _more_files()
    try:
        asyncio.run(_run(Settings.of(os.environ)))
    except SynclineError as error:
        logger.error("not started", extra={"code": error.code.name, "why": error.what})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
