"""Checks of the connection to a server, without credentials: its address, its certificate and its clock."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, urlsplit

from syncline.clients.http.addresses import Address, Route, is_refused
from syncline.clients.http.client import Http
from syncline.errors import SynclineError

TIMEOUT: Final = 5.0
"""Seconds for a connection."""
_REASONS: Final = {
    9: "is not valid yet; check the clock of this machine",
    10: "has expired; renew it at the server",
    18: "is self-signed; add it as `ca` of the endpoint, or have it signed by an authority",
    19: "is signed by an authority that is not trusted here; add its certificate as `ca` of the endpoint",
    20: "is signed by an authority that is not trusted here; add its certificate as `ca` of the endpoint",
    62: "is for another host name; correct the name in syncs.yaml, or the certificate",
    64: "is for another address; use a name that the certificate has",
}
"""Verification errors of OpenSSL by number (x509_vfy.h)."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a server, verified. ``expires`` is in Unix seconds."""

    expires: float


def connect(host: str, port: int) -> str:
    """Connect to a port and return the address that the name has. Raises UNREACHABLE with the cause, ADDRESS_REFUSED."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "invalid name"
        raise SynclineError("UNREACHABLE", f"the host name {host} cannot be resolved ({reason})") from None
    address = str(found[0][4][0])
    if is_refused(address):
        raise SynclineError("ADDRESS_REFUSED", f"{host} is {address}, a link-local or metadata address")
    where = f"port {port} of {host}" + ("" if host == address else f" ({address})")
    try:
        with socket.create_connection((host, port), TIMEOUT) as connection:
            return str(connection.getpeername()[0])
    except ConnectionRefusedError:
        raise SynclineError("UNREACHABLE", f"nothing listens on {where}: connection refused") from None
    except TimeoutError:
        what = f"{where} accepts no connection within {TIMEOUT:.0f} s; a firewall may drop it"
        raise SynclineError("UNREACHABLE", what) from None
    except OSError as error:
        raise SynclineError("UNREACHABLE", f"{where}: {error.strerror or error}") from None


def certificate_of(address: Address, route: Route) -> Certificate:
    """Return the certificate of a server, verified as libcurl does. Raises TLS_FAILED with the cause, and UNREACHABLE."""
    context = ssl.create_default_context()
    # As in libcurl: a certificate in `ca` is trusted itself, and old certificates with small faults are accepted.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    if route.ca is not None:
        try:
            context.load_verify_locations(cadata=route.ca)
        except ssl.SSLError:
            raise SynclineError("TLS_FAILED", f"`ca` of {address.host} is not a certificate in PEM form") from None
    connection = _connection(address, route, context)
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        found = connection.sock.getpeercert() or {}
        return Certificate(float(ssl.cert_time_to_seconds(str(found["notAfter"]))))
    except ssl.SSLCertVerificationError as error:
        reason = _REASONS.get(error.verify_code, f"is not trusted ({error.verify_message})")
        raise SynclineError("TLS_FAILED", f"the certificate of {address.host} {reason}") from None
    except ssl.SSLError as error:
        what = f"{address.host} does not speak TLS on this port ({error.reason or error})"
        raise SynclineError("TLS_FAILED", what) from None
    except OSError as error:  # http.client raises it for a proxy's refusal, too
        raise SynclineError("UNREACHABLE", f"{address.host}{route.through}: {error.strerror or error}") from None
    finally:
        connection.close()


def _connection(address: Address, route: Route, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    """Return a connection that is not open yet, through the proxy of the route if it has one."""
    server = urlsplit(f"//{address.host}")
    host, port = str(server.hostname), server.port or 443
    if route.proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    proxy = urlsplit(route.proxy)
    connection = http.client.HTTPSConnection(str(proxy.hostname), proxy.port, timeout=TIMEOUT, context=context)
    headers = {}
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    connection.set_tunnel(host, port, headers)
    return connection


def clock_difference(url: str, route: Route, client: Http) -> float | None:
    """Return the seconds by which the clock of a server is ahead of ours, None if it does not tell.

    Any response has a ``Date``, to the second. Raises the errors of :meth:`Http.request`.
    """
    sent = time.time()
    with client.request("GET", url, route=route, stream=True, timeout=TIMEOUT) as response:
        received = time.time()
        try:
            date = parsedate_to_datetime(response.header("Date")).timestamp()
        except (ValueError, OverflowError):
            return None
    # The time of the response is between both; a difference within that is none.
    return min(0.0, date + 1 - sent) or max(0.0, date - received)
