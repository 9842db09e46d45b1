"""Asking, before anything is applied, whether the servers that syncs name can be reached from here."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterable
from typing import Final

from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.config.sync import ServerAddress, Sync
from syncline.errors import CodeName, SynclineError
from syncline.secrets import Secrets

WITHIN: Final = 8.0
"""Seconds that all servers together may take."""
_AT_ONCE: Final = 32
_SSH: Final = re.compile(r"(?:ssh://)?(?:[^@/]+@)?(\[[^]]+\]|[^:/]+)(?::(\d+)(?=/))?[:/].*")
_UNREACHED: Final[tuple[CodeName, ...]] = ("UNREACHABLE", "TLS_FAILED", "ADDRESS_REFUSED")


def unreachable(syncs: Iterable[Sync], secrets: Secrets, within: float = WITHIN) -> list[str]:
    """Return a warning for each server that does not answer from here, or whose certificate is not trusted.

    All are asked at the same time, each once, and any answer is a good one: the credentials are not tried. A certificate
    authority that cannot be resolved is not used.
    """
    places: dict[ServerAddress, list[str]] = {}
    for sync in syncs:
        for each in sync.addresses():
            where = ".".join(map(str, (sync.name, *each.path)))
            places.setdefault(each._replace(path=()), []).append(where)
    found: dict[ServerAddress, str] = {}
    answered: set[ServerAddress] = set()
    deadline = time.monotonic() + within
    http, turns = Http(RetryPolicy(attempts=1, deadline=deadline)), threading.Semaphore(_AT_ONCE)

    def ask(address: ServerAddress) -> None:
        with turns:
            try:
                _ask(address, http, secrets)
            except SynclineError as error:
                if error.code.name == "TIME_SHORT":
                    return
                if error.code.name in _UNREACHED:
                    found[address] = error.what
            except OSError as error:
                found[address] = f"{address.url}: {error.strerror or error}"
            answered.add(address)

    # Daemons: a look-up of a name cannot be ended, and must not hold up the command.
    threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = {address: f"{address.url} did not answer within {within:.0f} s" for address in places.keys() - answered}
    told = silent | found
    return sorted(f"{where}: {told[address]} (asked from here)" for address in told for where in places[address])


def _ask(address: ServerAddress, http: Http, secrets: Secrets) -> None:
    """Make a request or, of a server that speaks SSH, a connection; raises why there is no answer."""
    if address.url.startswith("file:"):
        return
    if not address.url.startswith(("https:", "http:")):
        match = _SSH.fullmatch(address.url)
        if match is not None:
            socket.create_connection((match[1].strip("[]"), int(match[2] or 22)), timeout=WITHIN).close()
        return
    ca = None
    if address.ca is not None:
        ca = secrets.text(address.ca)
    http.request("GET", address.url, ca=ca, stream=True, timeout=WITHIN).close()
