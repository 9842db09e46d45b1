"""Real registries for the tests here. Each serves the whole session, so every test has a namespace of its own."""

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
    """A namespace no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def registries() -> Iterator[ImagesWorld]:
    """Two registries in memory, for chains of images."""
    with mock_aws(), OciRegistry() as source, OciRegistry() as target:
        yield ImagesWorld(source, target)


@pytest.fixture(scope="module")
def builds() -> Iterator[ArtifactsWorld]:
    """GitHub and a registry in memory, for chains of artifacts."""
    with mock_aws(), GitHubServer("rapidsai/velox-testing") as github, OciRegistry() as target:
        yield ArtifactsWorld(github, target)


@pytest.fixture(scope="session")
def registry_pair() -> Iterator[RegistryPair]:
    with contextlib.ExitStack() as stack:
        yield RegistryPair(_registry(stack, Htpasswd(USERS)), _registry(stack, Htpasswd(USERS)))


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
    """The pair, with its token servers as they are at first: a test may change them."""
    for server in (_token_registry_pair.prod_tokens, _token_registry_pair.dr_tokens):
        server.lifetime, server.exact_expiry, server.field, server.say_expires_in = 300, False, "token", True
        server.users = dict(TOKEN_USERS)
        server.requests.clear()
    return _token_registry_pair


@pytest.fixture(scope="session")
def tls_registry() -> Iterator[Registry]:
    """A registry without passwords behind TLS, its certificate signed by ``tls_registry.ca``."""
    with contextlib.ExitStack() as stack:
        yield _registry(stack, None, Authority())


@pytest.fixture
def quay() -> Iterator[QuayServer]:
    """Quay's API with nothing in it."""
    with QuayServer() as server:
        yield server


@pytest.fixture
def quay_before() -> Iterator[Callable[[Registry], QuayServer]]:
    """Gives Quay's API in front of a registry, knowing what that holds now; ``refresh`` looks again."""
    with contextlib.ExitStack() as stack:

        def before(registry: Registry) -> QuayServer:
            source = Source(registry.url, registry.auth.authorization if registry.auth else None, registry.ca)
            server = stack.enter_context(QuayServer(source))
            server.refresh()
            return server

        yield before


@pytest.fixture
def skopeo(tmp_path: Path) -> Callable[..., bytes]:
    """Runs skopeo with these arguments; its output, or CalledProcessError. It sees no passwords but those given."""
    needs("skopeo")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}

    def run(*arguments: str) -> bytes:
        command: Sequence[str] = (program("skopeo"), "--insecure-policy", *arguments)
        return subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120).stdout

    return run


def _registry(stack: contextlib.ExitStack, auth: Auth | None, tls: Authority | None = None) -> Registry:
    needs("docker-registry")
    return stack.enter_context(Registry(auth=auth, tls=tls))
