"""A registry in ``syncs.yaml``: its address and credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, Tag

from syncline.config.findings import Finding, Location
from syncline.config.limits import Limits
from syncline.config.model import Model, ServerAddress
from syncline.config.values import (
    Host,
    KeyPath,
    Proxy,
    Realm,
    SecretReference,
    ServerAuthority,
    TextOrReference,
    is_loopback,
    split_host,
)


class BasicAuth(Model):
    """A user name and a password (or a robot account and its token)."""

    username: TextOrReference = Field(description="The user name, or a reference to it.", examples=["env:QUAY_USER"])
    password: SecretReference = Field(
        description="A reference to the password.", examples=["secret:syncline/quay#password"]
    )


class TokenAuth(Model):
    """A bearer token, sent unchanged."""

    token: SecretReference = Field(description="A reference to the token.", examples=["secret:syncline/quay#token"])


def _auth_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>" if value in ("anonymous", "docker-config", "ecr") else None
    if isinstance(value, TokenAuth) or (isinstance(value, dict) and "token" in value):
        return "<token>"
    return "<basic>" if value and isinstance(value, BasicAuth | dict) else None


_NOT_AUTH: Final = (
    "is not a valid form of credentials; write {username: …, password: …}, {token: …}, ecr, docker-config or anonymous"
)


def _check_auth_form(value: Any) -> Any:
    if isinstance(value, dict) and "token" in value and value.keys() & {"username", "password"}:
        raise ValueError("has a token and a user name or password; write one of the two")
    return value


Auth: TypeAlias = Annotated[
    Annotated[Literal["anonymous", "docker-config", "ecr"], Tag("<word>")]
    | Annotated[BasicAuth, Tag("<basic>")]
    | Annotated[TokenAuth, Tag("<token>")],
    Discriminator(_auth_form, custom_error_type="auth_form", custom_error_message=_NOT_AUTH),
    BeforeValidator(_check_auth_form),
]


CreateRepositories: TypeAlias = Annotated[
    Literal["ecr"] | None,
    Field(
        description="Create repositories that do not exist: `ecr` does so at a private registry of Amazon ECR, with the "
        "function's AWS role. Other registries create them at the first push, within an existing project.",
        examples=["ecr"],
    ),
]
_HUB: Final = "registry-1.docker.io"
_DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "hub.docker.com"})
_ECR: Final = re.compile(r"\d{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)")


class RegistryEndpoint(Model):
    """The address of a registry, credentials and TLS."""

    registry: Host = Field(
        description="The registry's host and port, without scheme or path.", examples=["quay.prod.example:8443"]
    )
    auth: Auth = Field(
        "anonymous",
        description="The credentials: a user name and password, a token, `docker-config` (what `docker login` stored, "
        "with its credential helpers), `ecr` (a private registry of Amazon ECR, with the AWS role of the function; see the "
        "stack's parameter `EcrRepositoryPrefix`), or `anonymous`.",
    )
    auth_realms: tuple[Realm, ...] = Field(
        (),
        description="Hosts (without port) other than the registry to which the credentials may be sent in exchange for a token.",
        examples=[["auth.prod.example"]],
    )
    ca: ServerAuthority = None
    proxy: Proxy = None
    limits: Limits = None
    plain_http: StrictBool = Field(False, description="Use HTTP without TLS. Only for trusted networks.")

    def registry_problems(self, path: KeyPath) -> Iterator[Finding]:
        """Yield findings about the registry's product; `path` is the path of the endpoint in its sync."""
        if split_host(self.registry)[0] in _DOCKER_HUB:
            what = f"is no registry, but a name that Docker replaces; write {_HUB}, and official images as library/NAME"
            yield Finding((*path, "registry"), what)
        if _ECR.fullmatch(split_host(self.registry)[0]):
            return
        for key in ("auth", "create_repositories"):
            if getattr(self, key, None) == "ecr":
                what = f"needs a registry of ECR, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com; {self.registry} is none"
                yield Finding((*path, key), what, ((*path, "registry"),))

    def addresses(self) -> Iterator[ServerAddress]:
        yield ServerAddress(f"{'http' if self.plain_http else 'https'}://{self.registry}/v2/", self.ca, self.proxy)

    @property
    def location(self) -> Location:
        """The identity of the registry, equal for all spellings: host name and port."""
        name, port = split_host(self.registry)
        loopback = is_loopback(self.registry)
        return ("registry", "localhost" if loopback else name, port or (80 if self.plain_http else 443))

    def plain_text_warnings(self, path: KeyPath) -> Iterator[Finding]:
        """Yield a warning if credentials are sent unencrypted; `path` is the path of the endpoint in its sync."""
        if self.plain_http and self.auth != "anonymous" and not is_loopback(self.registry):
            yield Finding(
                (*path, "plain_http"),
                f"sends the credentials of {self.registry} unencrypted over the network; use TLS and ca",
            )
