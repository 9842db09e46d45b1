"""Registries for the tests here. Each serves the whole session, so every test has a separate namespace."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from moto import mock_aws

from tests.rig.artifacts import ArtifactsWorld
from tests.rig.images import ImagesWorld
from tests.standins.certificates import Authority
from tests.standins.github import GitHubServer
from tests.standins.oci import OciRegistry
from tests.standins.pairs import TOKEN_USERS, USERS, RegistryPair, TokenRegistryPair
from tests.standins.programs import needs, program
from tests.standins.quay import QuayServer
from tests.standins.quay_source import Source
from tests.standins.registry import Auth, Htpasswd, Registry
from tests.standins.token_server import TokenServer


@pytest.fixture
def namespace() -> str:
    """Return a namespace that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def registries() -> Iterator[ImagesWorld]:
    """Yield two in-memory registries for chains of images."""
    with mock_aws(), OciRegistry() as source, OciRegistry() as target:
        yield ImagesWorld(source, target)


@pytest.fixture(scope="module")
def builds() -> Iterator[ArtifactsWorld]:
    """Yield GitHub and an in-memory registry for chains of artifacts."""
    with mock_aws(), GitHubServer("rapidsai/velox-testing") as github, OciRegistry() as target:
        yield ArtifactsWorld(github, target)


@pytest.fixture(scope="session")
def registry_pair() -> Iterator[RegistryPair]:
    with contextlib.ExitStack() as stack:
        yield RegistryPair(_registry(stack, Htpasswd(USERS)), _registry(stack, Htpasswd(USERS)))


@pytest.fixture(scope="module")
def open_registries() -> Iterator[tuple[Registry, Registry]]:
    """Yield two registries without passwords, for chains between them."""
    needs("docker-registry")
    with mock_aws(), Registry() as source, Registry() as target:
        yield source, target


@pytest.fixture(scope="session")
def _token_registry_pair() -> Iterator[TokenRegistryPair]:
    with contextlib.ExitStack() as stack:
        tokens = [TokenServer(TOKEN_USERS, service=name).start() for name in ("prod", "dr")]
        for server in tokens:
            stack.callback(server.stop)
        prod, dr = (_registry(stack, server) for server in tokens)
        yield TokenRegistryPair(prod, dr, *tokens)


@pytest.fixture
def token_registry_pair(_token_registry_pair: TokenRegistryPair) -> TokenRegistryPair:
    """Return the pair, after resetting its token servers, which tests may change."""
    for server in (_token_registry_pair.prod_tokens, _token_registry_pair.dr_tokens):
        server.lifetime, server.exact_expiry, server.field, server.say_expires_in = 300, False, "token", True
        server.users = dict(TOKEN_USERS)
        server.requests.clear()
    return _token_registry_pair


@pytest.fixture(scope="session")
def tls_registry() -> Iterator[Registry]:
    """Yield a registry without passwords behind TLS. Its certificate is signed by ``tls_registry.ca``."""
    with contextlib.ExitStack() as stack:
        yield _registry(stack, None, Authority())


@pytest.fixture
def quay() -> Iterator[QuayServer]:
    """Yield Quay's API without content."""
    with QuayServer() as server:
        yield server


@pytest.fixture
def quay_before() -> Iterator[Callable[[Registry], QuayServer]]:
    """Yield a function that starts Quay's API in front of a registry, with its present content; ``refresh`` reads it again."""
    with contextlib.ExitStack() as stack:

        def before(registry: Registry) -> QuayServer:
            source = Source(registry.url, registry.auth.authorization if registry.auth else None, registry.ca)
            server = stack.enter_context(QuayServer(source))
            server.refresh()
            return server

        yield before


@pytest.fixture
def skopeo(tmp_path: Path) -> Callable[..., bytes]:
    """Return a function that runs skopeo and returns its output. Skopeo sees only the credentials in its arguments."""
    needs("skopeo")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}

    def run(*arguments: str) -> bytes:
        command: Sequence[str] = (program("skopeo"), "--insecure-policy", *arguments)
        return subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120).stdout

    return run


def _registry(stack: contextlib.ExitStack, auth: Auth | None, tls: Authority | None = None) -> Registry:
    needs("docker-registry")
    return stack.enter_context(Registry(auth=auth, tls=tls))
