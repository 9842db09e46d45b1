"""URLs: parse them, print them without secrets, and refuse link-local and metadata addresses."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from syncline.errors import SynclineError

if TYPE_CHECKING:
    from syncline.clients.http.budgets import Budget

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_REFUSED_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_REFUSED_ADDRESSES: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle Cloud
    )
)
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
# RFC 3986, section 3.2.1. git and libcurl disagree on where other characters end the user and password.
_USER: Final = r"[A-Za-z0-9._~!$&'()*+,;=%-]+"
_PROXY: Final = re.compile(
    rf"http://(?:{_USER}:(?P<password>{_USER})@)?(?P<host>{_HOST.pattern}):(?P<port>[0-9]{{1,5}})"
)
_SECRET_QUERY: Final = re.compile(r"([?&][^=&\s\"'<>]{1,100}=)[^&\s\"'<>]*")
_USERINFO: Final = re.compile(r"(://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a server and those it redirects to. Raises CONFIG_INVALID and ADDRESS_REFUSED.

    ``ca`` is PEM text trusted beside the system's roots. ``proxy`` is the URL of an HTTP proxy, with its credentials.
    ``budget`` has the limits for requests on this way, and ``account`` distinguishes accounts with quotas of their own.
    """

    ca: str | None = None
    proxy: str | None = field(default=None, repr=False)
    budget: Budget | None = field(default=None, repr=False, compare=False)
    account: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.proxy is None:
            return
        match = _PROXY.fullmatch(self.proxy)
        if match is None or not 0 < int(match["port"]) < 65536:
            form = "http://[user:password@]host:port, with special characters of user and password percent-encoded"
            raise SynclineError("CONFIG_INVALID", f"`proxy` is not of the form {form}")
        if is_refused(match["host"].strip("[]")):
            raise SynclineError("ADDRESS_REFUSED", f"the proxy {match['host']} is a link-local or metadata address")

    @property
    def through(self) -> str:
        """The proxy in words for error messages, without credentials; empty without a proxy."""
        return f" through the proxy {self.proxy.removeprefix('http://').rpartition('@')[2]}" if self.proxy else ""


DIRECT: Final = Route()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Scheme and host of a server, and the route to it. ``host`` is ``name`` or ``name:port``.

    ``auth_realms`` lists further hosts (without port) that may see this endpoint's credentials as token servers.
    """

    scheme: str
    host: str
    route: Route = DIRECT
    auth_realms: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str, *, route: Route = DIRECT, auth_realms: tuple[str, ...] = ()) -> Endpoint:
        """Parse ``https://host[:port]``. Raises CONFIG_INVALID for anything else."""
        address = Address.parse(url)
        if address is None or address.target not in ("", "/") or "@" in url:
            raise SynclineError("CONFIG_INVALID", f"{redacted(url)!r} is not of the form http(s)://host[:port]")
        return cls(address.scheme, address.host, route, auth_realms)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of an absolute http(s) URL. ``host`` is lower case, without the scheme's default port and userinfo."""

    scheme: str
    host: str
    target: str  # path and query, unchanged

    @classmethod
    def parse(cls, url: str) -> Address | None:
        """Return the parts of ``url``, None if it is not an absolute http(s) URL."""
        # Thousands of requests go to a few hosts, so the part before the path is parsed once and cached.
        path = url.find("/", 8)
        if path > 0 and url.isascii() and url.isprintable() and "#" not in url and " " not in url:
            origin = _origin(url[:path])
            if origin is not None and not origin.target and url[path - 1] != "?":
                return cls(origin.scheme, origin.host, url[path:])
        return cls._parse(url)

    @classmethod
    def _parse(cls, url: str) -> Address | None:
        try:
            parts = urlsplit(url)
            name, port = parts.hostname, parts.port
        except ValueError:
            return None
        if parts.scheme not in DEFAULT_PORTS or not name:
            return None
        host = f"[{name}]" if ":" in name else name
        if _HOST.fullmatch(host) is None:
            return None
        if port is not None and port != DEFAULT_PORTS[parts.scheme]:
            host = f"{host}:{port}"
        return cls(parts.scheme, host, f"{parts.path}?{parts.query}" if parts.query else parts.path)

    @classmethod
    def parse_at(cls, base: str, url: str) -> Address | None:
        """Return the parts of ``url``, absolute or relative to the URL ``base``; None if the result is not http(s)."""
        try:
            return cls.parse(urljoin(base, url))
        except ValueError:
            return None

    @property
    def origin(self) -> str:
        """Return scheme and host."""
        return f"{self.scheme}://{self.host}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.target}"

    @property
    def name(self) -> str:
        return host_name(self.host)


@lru_cache(maxsize=256)
def _origin(url: str) -> Address | None:
    return Address._parse(url)  # noqa: SLF001 - the cached half of Address.parse


def host_name(host: str) -> str:
    """Return ``host`` without its port and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1 : host.index("]")]
    return host.partition(":")[0]


def is_refused(name: str) -> bool:
    """Return True for a host name or address that is link-local, a metadata service of a cloud, or loopback on Lambda."""
    bare = name.rstrip(".").lower().partition("%")[0]
    try:
        # Other spellings of an IPv4 address, such as 2852039166, which a proxy may resolve.
        address = ipaddress.ip_address(bare if ":" in bare else socket.inet_aton(bare))
    except (ValueError, OSError):
        return bare in _REFUSED_NAMES or (f".{bare}".endswith(".localhost") and _on_lambda())
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    if (address.is_loopback or address.is_unspecified) and _on_lambda():
        return True
    return address.is_link_local or address in _REFUSED_ADDRESSES


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for: mapped, translated (RFC 6052), or by 6to4 (RFC 3056)."""
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _on_lambda() -> bool:
    """Return True in a function on AWS, where Lambda's Runtime API listens on loopback.

    The local engine also runs functions, beside servers on loopback. It sets ``AWS_ENDPOINT_URL``.
    """
    return bool(os.environ.get("AWS_LAMBDA_RUNTIME_API")) and not os.environ.get("AWS_ENDPOINT_URL")


def redacted(url: str) -> str:
    """Return ``url`` (or a text that contains URLs) without userinfo and without query values."""
    return _SECRET_QUERY.sub(r"\1…", _USERINFO.sub(r"\1…@", url))
