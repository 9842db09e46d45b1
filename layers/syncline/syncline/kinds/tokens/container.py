"""Probe, scrape and canaries in one process, for a container in a cluster whose pods a function cannot reach.

``python -m syncline.kinds.tokens.container`` reads ``syncs.yaml`` (``CONTAINER_SYNCS``, by default in /etc/syncline), lists
the instances periodically, and serves HTTP on one port. Each sync has separate threads for its scrapes and its canaries,
so that one that hangs does not delay another.

===================  ==========================================================
``/v1/synced``       verdicts, as at the function URL
``/swagger-ui/``     Swagger UI for ``/openapi.json``
``/metrics``         Prometheus
``/health``          200 while the process runs
``/ready``           200 while at least one sync has a usable list
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
from syncline.kinds.tokens.listing import ProcessListings
from syncline.kinds.tokens.metrics import PrometheusMetrics
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.wiring import rules_of
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.kinds.tokens.wiring_scrape import Scraping
from syncline.secrets import Secrets
from syncline.telemetry import logger
from syncline.web.function_url import HttpRequest, HttpResponse
from syncline.web.probe import ProbeApi
from syncline.web.server import Server

FILE: Final = "/etc/syncline/syncs.yaml"
_TEXT: Final = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
_METRICS: Final = {"content-type": "text/plain; version=0.0.4; charset=utf-8", "cache-control": "no-store"}
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}
_NO_SUCH_SYNC: Final = b'{"error": "there is no sync of that name"}'
_READY: Final = "ready"
_DRAIN: Final = 5.0  # seconds for responses in progress after SIGTERM


@dataclass(frozen=True, slots=True)
class Settings:
    """The container's settings. ``scrape_every`` and ``canary_every`` are in seconds; 0 disables canaries."""

    syncs: Path
    host: str
    port: int
    scrape_every: float
    canary_every: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from the environment. Raises CONFIG_INVALID."""
        try:
            return cls(
                Path(environ.get("CONTAINER_SYNCS", FILE)),
                environ.get("CONTAINER_HOST", "0.0.0.0"),  # noqa: S104 - a pod's own network
                int(environ.get("CONTAINER_PORT", "8080")),
                max(1.0, float(environ.get("CONTAINER_SCRAPE_EVERY", "10"))),
                max(0.0, float(environ.get("CONTAINER_CANARY_EVERY", "60"))),
            )
        except ValueError as error:
            raise SynclineError(
                "CONFIG_INVALID", f"the container's environment has an invalid number: {error}"
            ) from None


class Container:
    """The container's process. Created and run in the thread of the event loop."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._over = threading.Event()
        self.counts = PrometheusMetrics()
        self.listings = ProcessListings()
        syncs = read_syncs(settings.syncs).syncs.values()
        self._syncs = {sync.name: sync for sync in syncs if isinstance(sync, TokensSync) and sync.enabled}
        if not self._syncs:
            raise SynclineError("CONFIG_INVALID", f"{settings.syncs} has no enabled sync of the kind tokens")
        self.directory = Directory(
            lambda: self._syncs, self.listings, lambda sync: Prober(rules_of(sync, secrets), self._loop), live=True
        )
        self.directory.refresh()
        self._scraping = Scraping(lambda: self._syncs, self.listings, secrets, time.time, self.counts)
        self._canaries = Canaries(lambda: self._syncs, self.listings, ProcessMemories(), secrets, self.counts)
        self._api = ProbeApi(self.directory.entries, self.counts.verdict)
        self.server = Server(self._answer)

    async def serve(self, until: asyncio.Event) -> None:
        """Serve until the event is set."""
        port = await self.server.start(self._settings.host, self._settings.port)
        logger.info("serving", extra={"port": port, "syncs": sorted(self._syncs)})
        for name in self._syncs:
            self._repeat(name, self._settings.scrape_every, partial(self._scrape, name))
            if self._settings.canary_every and self._syncs[name].canary is not None:
                self._repeat(name, self._settings.canary_every, partial(self._canaries.run, name))
        await until.wait()
        self._over.set()
        await self.server.stop(_DRAIN)
        self.directory.close()

    def _scrape(self, name: str) -> None:
        self.directory.refresh()  # a prober that could not be made before may be made now
        self._scraping.scrape(name)

    def _repeat(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        """Repeat `work` in a separate thread, every `seconds`, until the container ends."""

        def rounds() -> None:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - the next round may succeed
                    logger.error("round failed", extra={"sync": name, "error": type(error).__name__})
                gc.freeze()  # a full collection over long-lived objects would delay a verdict
                self._over.wait(max(0.1, seconds - (time.monotonic() - began)))

        threading.Thread(target=rounds, name=f"rounds {name}", daemon=True).start()

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        path = request.path
        if path == "/metrics":
            return HttpResponse(200, self.counts.text(), _METRICS)
        if path == "/ready":
            return _readiness(self._states())
        if path.startswith("/ready/"):
            name = path.removeprefix("/ready/")
            states = {sync: state for sync, state in self._states().items() if sync == name}
            return _readiness(states) if states else HttpResponse(404, _NO_SUCH_SYNC, _JSON)
        return await self._api.answer(request)

    def _states(self) -> dict[str, str]:
        """Return "ready" or the reason why not, for each sync."""
        states = dict.fromkeys(sorted(self._syncs), "not_configured")
        for entry in self.directory.entries():
            problem = entry.listing.problem(time.time(), entry.prober.rules.stale_after)
            states[entry.sync] = _READY if problem is None else problem.value
        return states


def _readiness(states: Mapping[str, str]) -> HttpResponse:
    """Return 200 if any sync is ready, so that one that is not does not take the others out of service."""
    text = "".join(f"{sync}: {state}\n" for sync, state in states.items())
    return HttpResponse(200 if _READY in states.values() else 503, text.encode(), _TEXT)


def _more_files() -> None:
    """Raise the limit of open files to the maximum, as every connection needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(settings: Settings) -> None:
    until = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, until.set)
    import boto3  # noqa: PLC0415 - slow, so after the handlers: a signal before them is lost

    secrets = Secrets(lambda: boto3.client("secretsmanager"), lambda: boto3.client("ssm"))
    await Container(settings, secrets).serve(until)


def main() -> int:
    """Serve until SIGTERM. Return 2 for an invalid configuration."""
    _more_files()
    try:
        asyncio.run(_run(Settings.of(os.environ)))
    except SynclineError as error:
        logger.error("not started", extra={"code": error.code.name, "why": error.what})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
