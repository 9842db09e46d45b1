"""Pairs of registries for copies from ``prod`` to ``dr``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.standins.registry import Registry
from tests.standins.token_server import TokenServer, User

USERS: Final = {"ann": "ann's password", "bob": "bob's password"}
TOKEN_USERS: Final = {
    "reader": User("reader's password", {"*": "pull"}),
    "writer": User("writer's password", {"*": "pull,push"}),
    "nobody": User("nobody's password", {}, catalog=False),
}


@dataclass(frozen=True, slots=True)
class RegistryPair:
    """Two registries with htpasswd; each of ``USERS`` may do everything at both."""

    prod: Registry
    dr: Registry


@dataclass(frozen=True, slots=True)
class TokenRegistryPair:
    """Two registries that require tokens, each with a separate token server that knows ``TOKEN_USERS``."""

    prod: Registry
    dr: Registry
    prod_tokens: TokenServer
    dr_tokens: TokenServer
