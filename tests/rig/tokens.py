"""Rules, verdicts and misbehaving servers that the tests with real nginx instances share."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.config import Check
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.probe import Prober, ProbeRules
from syncline.kinds.tokens.verdict import ProbeResult, Quorum
from tests.standins.nginx import HOST, Gateway


def rules(
    gateway: Gateway, *, quorum: Quorum = "all", schedule: AskSchedule | None = None, path: str = "/check"
) -> ProbeRules:
    """Return the rules of the tests for probing a gateway."""
    # The machine may be busy, so only tests of the deadline have a short one.
    waits = schedule or AskSchedule.of(gateway.interval, deadline=30)
    return ProbeRules(Check(host=HOST, path=path), quorum, waits, stale_after=60, ca=gateway.authority.pem)


def listing(instances: Sequence[Instance], age: float = 0.0) -> Listing:
    return Listing(tuple(instances), time.time() - age)


def verdict(
    how: ProbeRules, instances: Sequence[Instance], token: str, origin: str | None = None, times: int = 1
) -> ProbeResult:
    """Return the last of several consecutive verdicts, seen from the first instance unless another is named."""
    return verdicts(how, instances, [token] * times, origin)[-1]


def verdicts(
    how: ProbeRules, instances: Sequence[Instance], tokens: Sequence[str], origin: str | None = None
) -> list[ProbeResult]:
    async def ask() -> list[ProbeResult]:
        prober = Prober(how, asyncio.get_running_loop(), rng=random.Random(7))
        try:
            known = listing(instances)
            return [await prober.probe(token, origin or instances[0].name, known) for token in tokens]
        finally:
            prober.close()

    return asyncio.run(ask())


@contextlib.contextmanager
def misbehaving(
    address: str, port: int, context: ssl.SSLContext, behave: Callable[[ssl.SSLSocket], None]
) -> Iterator[None]:
    """Run a TLS server that handles each connection with ``behave``, in a separate thread."""
    with socket.create_server((address, port), backlog=64) as server:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_served, args=(context, connection, behave), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)


def _served(context: ssl.SSLContext, connection: socket.socket, behave: Callable[[ssl.SSLSocket], None]) -> None:
    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
        request = b""
        while b"\r\n\r\n" not in request:
            data = tls.recv(65536)
            if not data:
                return
            request += data
        behave(tls)
