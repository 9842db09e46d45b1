"""Which token server may see a registry's credentials.

The registry names its token server (realm) itself, so whoever can alter one answer could have the credentials sent
anywhere (CVE-2026-48978). They go only where the same people can be expected to be in charge.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from syncline.clients.addresses import Address, Endpoint, host_name

# Below these, neighbours are strangers. A country's second level (co.uk) is known by its form, see _is_shared.
_SHARED_PARENTS: Final = frozenset(
    {
        "amazonaws.com",
        "appspot.com",
        "azurecr.io",
        "azurewebsites.net",
        "cloudapp.net",
        "cloudfront.net",
        "fly.dev",
        "github.io",
        "gitlab.io",
        "herokuapp.com",
        "jfrog.io",
        "netlify.app",
        "ngrok.io",
        "onrender.com",
        "pages.dev",
        "run.app",
        "trycloudflare.com",
        "ts.net",
        "vercel.app",
        "windows.net",
        "workers.dev",
    }
)
_SECOND_LEVELS: Final = frozenset(
    {"ac", "co", "com", "ed", "edu", "go", "gob", "gov", "gouv", "ltd", "mil", "ne", "net", "nom", "or", "org", "plc"}
)


def is_expected_realm(realm: Address, endpoint: Endpoint) -> bool:
    """Whether ``endpoint``'s credentials may go to ``realm``.

    They may over TLS, or if the registry itself is configured as plain HTTP; and to the registry's own host (on any
    port), to a host with the same parent domain (``auth.example.com`` for ``registry.example.com``, and also
    ``example.com``), or to one that the configuration lists.
    """
    if realm.scheme != "https" and endpoint.scheme != "http":
        return False
    name, own = realm.name.rstrip("."), host_name(endpoint.host).lower().rstrip(".")
    if name == own or name in {host.lower() for host in endpoint.auth_realms}:
        return True
    parent = _parent(own)
    return (
        parent is not None
        and (name == parent or name.endswith(f".{parent}") or own.endswith(f".{name}"))
        and (not _is_shared(name))
    )


def _parent(name: str) -> str | None:
    """The domain that a host's neighbours share with it, or None where neighbours may be strangers."""
    if _is_address(name):
        return None
    parent = name.partition(".")[2] if name.count(".") >= 2 else name
    return None if "." not in parent or _is_shared(parent) else parent


def _is_shared(domain: str) -> bool:
    labels = domain.split(".")
    if len(labels) < 2 or (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LEVELS):
        return True
    return any(".".join(labels[-n:]) in _SHARED_PARENTS for n in range(2, len(labels) + 1))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
