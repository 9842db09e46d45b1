"""Checks that several kinds need: of a server without credentials, of a bucket and of a registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

from syncline.clients.git.access import GitRemote
from syncline.clients.http.addresses import Address, Route
from syncline.clients.http.connection import certificate_of, clock_difference, connect
from syncline.clients.http.listings import ignore
from syncline.clients.registry.client import Registry
from syncline.clients.registry.store import ImageStore
from syncline.clients.s3.client import Bucket
from syncline.config.buckets import BucketEndpoint
from syncline.config.model import ServerAddress
from syncline.config.notify import Hook, Notify
from syncline.config.registry import RegistryEndpoint
from syncline.config.sync import Sync
from syncline.config.values import split_host
from syncline.errors import SynclineError
from syncline.wiring.buckets import bucket_at
from syncline.wiring.checks import Check, CheckChain, Observation, unchecked, warning
from syncline.wiring.dependencies import Dependencies, route_of
from syncline.wiring.notify import SMTP_PORT

LONGEST_SKEW: Final = 300.0
"""Seconds by which clocks may differ: S3 refuses signatures after 15 minutes, token servers earlier."""
_EXPIRES_SOON: Final = 14 * 86_400
_PORTS: Final = {"https": 443, "http": 80, "ssh": 22}
_TRIED: Final = 20
"""Most repositories that are requested one by one."""


def server_checks(address: ServerAddress, parts: Dependencies) -> list[Check]:
    """Return the checks of a server without credentials: connection, certificate, and clock."""
    if address.url.startswith("file:"):
        return []
    if not address.url.startswith(("https:", "http:")):
        remote = urlsplit(GitRemote.parse(address.url).url)
        host, port = str(remote.hostname), remote.port or _PORTS[remote.scheme]
        return [Check("connection", lambda: _connected(host, port))]
    server = _HttpServer(address, parts)
    checks = [Check("connection", server.connection)]
    checks += [Check("certificate", server.certificate)] if address.url.startswith("https:") else []
    return [*checks, Check("clock", server.clock)]


def _connected(host: str, port: int, instead_of: str = "") -> str:
    address = connect(host, port)
    where = f"{host}:{port}" + ("" if address == host else f" ({address})")
    return f"{where} accepts connections" + (f"; it is the proxy for {instead_of}" if instead_of else "")


@dataclass(frozen=True, slots=True)
class _HttpServer:
    """The checks of a server that speaks HTTP."""

    address: ServerAddress
    parts: Dependencies

    def connection(self) -> str:
        route, server = self._route(), urlsplit(self.address.url)
        if route.proxy is not None:
            proxy = urlsplit(route.proxy)
            return _connected(str(proxy.hostname), proxy.port or 80, self._address().host)
        return _connected(str(server.hostname), server.port or _PORTS[server.scheme])

    def certificate(self) -> str | Observation:
        found = certificate_of(self._address(), self._route())
        day = datetime.fromtimestamp(found.expires, UTC).date()
        if found.expires - self.parts.clock() < _EXPIRES_SOON:
            text = f"the certificate of {self._address().host} is trusted, but expires on {day}"
            return warning(text, "Renew it at the server before that day.")
        return f"the certificate of {self._address().host} is trusted, until {day}"

    def clock(self) -> str | Observation:
        host = self._address().host
        try:
            seconds = clock_difference(self.address.url, self._route(), self.parts.http)
        except SynclineError as error:
            if error.code.name != "THROTTLED":
                raise
            return unchecked(f"{host} asks requests without credentials to slow down")
        if seconds is None:
            return unchecked(f"{host} sends no `Date`, so its clock cannot be compared")
        seconds += time.time() - self.parts.clock()
        if abs(seconds) <= LONGEST_SKEW:
            return f"the clocks of {host} and of this machine agree"
        minutes = f"{abs(seconds) / 60:.0f} minutes {'ahead of' if seconds > 0 else 'behind'}"
        raise SynclineError("CLOCK_DIFFERS", f"the clock of {host} is {minutes} that of this machine")

    def _address(self) -> Address:
        found = Address.parse(self.address.url)
        assert found is not None, "the configuration has checked it"
        return found

    def _route(self) -> Route:
        return route_of(self.parts.secrets, self.address.ca, self.address.proxy)


# -- buckets -----------------------------------------------------------------------------------------------------------


OWN_ROLE: Final = "checked with your AWS credentials; the functions use their own role"


def bucket_chain(  # noqa: PLR0913 - all but three are flags
    part: str, config: BucketEndpoint, parts: Dependencies, *, local: bool, reads: bool = False, writes: bool = False
) -> CheckChain:
    """Return the checks of a bucket that a sync reads or writes. ``local`` is True for the engine on this machine."""
    bucket = bucket_at(config, parts)
    checks = [check for address in config.addresses() for check in server_checks(address, parts)]
    checks.append(Check("list", lambda: _list(bucket, config)))
    checks += [Check("read", lambda: _read(bucket, config.prefix))] if reads else []
    checks += [Check("write", lambda: _write(bucket, config.prefix))] if writes else []
    return CheckChain(part, checks, lenient=OWN_ROLE if config.auth == "role" and not local else "")


def _list(bucket: Bucket, config: BucketEndpoint) -> str:
    try:
        bucket.page(config.prefix, limit=1, on_invalid=ignore)
    except SynclineError as error:
        if error.code.name == "REDIRECTED" and "region" in error.what:
            raise SynclineError("REDIRECTED", f"{error.what}, not in {config.region}; correct `region`") from None
        raise
    return f"the credentials are accepted, and {bucket} can be listed"


def _read(bucket: Bucket, prefix: str) -> str | Observation:
    found = bucket.page(prefix, limit=_TRIED, on_invalid=ignore).objects
    if not found:
        where = f"below {prefix} in {bucket}" if prefix else f"in {bucket}"
        return warning(f"no object is {where}", "Check `bucket` and `prefix` if there should be some.")
    # The head alone is answered also without the permission to decrypt. An empty object has no first byte.
    first = next((each for each in found if each.size), found[0])
    try:
        with bucket.open(first.key, end=1 if first.size else None) as stream:
            stream.read(1)
    except SynclineError as error:
        if error.code.name != "OBJECT_ARCHIVED":
            raise
        return warning(f"{error.what}; other objects were not tried", error.code.action)
    return f"objects of {bucket} can be read"


def _write(bucket: Bucket, prefix: str) -> str:
    bucket.check_write(f"{prefix}syncline-doctor")
    return f"objects can be written to {bucket}; nothing was written"


# -- registries --------------------------------------------------------------------------------------------------------


def registry_checks(config: RegistryEndpoint, registry: Registry, parts: Dependencies) -> list[Check]:
    """Return the checks of a registry and of the credentials for it."""
    checks = [check for address in RegistryEndpoint.addresses(config) for check in server_checks(address, parts)]
    if config.auth == "anonymous":
        return checks
    return [*checks, Check("credentials", lambda: _credentials(registry))]


def _credentials(registry: Registry) -> str:
    registry.check_credentials()
    return f"{registry.host} accepts the credentials"


def check_pull(registry: ImageStore, names: Sequence[str]) -> str:
    """Raise SOURCE_ABSENT for a repository that does not exist, and FORBIDDEN for one that may not be pulled."""
    for name in names[:_TRIED]:
        if not registry.has_repository(name):
            raise SynclineError("SOURCE_ABSENT", f"{registry.host} has no repository {name}")
    tried = f"{min(len(names), _TRIED)} of {len(names)} repositories" if len(names) > 1 else "".join(names)
    return f"{tried} can be pulled from {registry.host}"


def check_push(registry: Registry, names: Iterator[str]) -> str | Observation:
    """Check the permission to push to the first of ``names`` that exists. Nothing is pushed."""
    absent = ""
    for name in islice(names, _TRIED):
        if registry.has_repository(name):
            registry.check_push(name)
            return f"{name} can be pushed to {registry.host}; nothing was pushed"
        absent = absent or name
    if not absent:
        return unchecked("the repositories are known only after a scan")
    if registry.creates_on_request:
        what = f"{registry.host} has no {absent} yet, and the request for permission to push may create it"
        return unchecked(f"{what}; the first run will show it")
    registry.check_push(absent)
    return f"{absent} can be pushed to {registry.host}; nothing was pushed"


def address_chains(sync: Sync, parts: Dependencies) -> list[CheckChain]:
    """Return the checks of all servers of a sync without credentials, except those that are notified."""
    return [
        CheckChain(".".join(map(str, address.path)), server_checks(address, parts))
        for address in sync.addresses()
        if address.path[0] not in ("notify", "heartbeat")
    ]


# -- notifications -----------------------------------------------------------------------------------------------------


def notification_chains(sync: Sync, parts: Dependencies) -> list[CheckChain]:
    """Return the checks of the servers that get the notifications and heartbeats of a sync. Nothing is sent."""
    channels = sync.notify or Notify()
    hooks = {"notify.slack": channels.slack, "notify.webhook": channels.webhook, "heartbeat": sync.heartbeat}
    checks: dict[str, Callable[[], str | Observation]] = {
        name: partial(_reach_hook, hook, parts) for name, hook in hooks.items() if hook is not None
    }
    if channels.email is not None and channels.email.smtp is not None:
        host, port = split_host(channels.email.smtp.host)
        checks["notify.email"] = partial(_connected, host, port or SMTP_PORT[channels.email.smtp.tls])
    return [CheckChain(part, [Check("server", run)]) for part, run in checks.items()]


def _reach_hook(hook: Hook, parts: Dependencies) -> str | Observation:
    address = Address.parse(parts.secrets.text(hook.url))
    if address is None:
        raise SynclineError("CONFIG_INVALID", "the secret of the URL has no URL such as https://host/path")
    server = _HttpServer(ServerAddress(address.origin, hook.ca, hook.proxy), parts)
    connected = server.connection()
    return server.certificate() if address.scheme == "https" else connected
