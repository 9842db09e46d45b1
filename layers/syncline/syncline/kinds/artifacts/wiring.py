"""Builds a sync of artifacts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from syncline.clients.github.auth import AppInstallation, AppTokenSource, SecretToken
from syncline.clients.github.client import GitHub, TokenSource
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.addresses import Address, Endpoint
from syncline.clients.http.client import Http
from syncline.config.sync import Sync
from syncline.kinds.artifacts.config import ArtifactsSource, ArtifactsSync, ArtifactsTarget, GitHubApp, GitHubToken
from syncline.kinds.artifacts.discover import ProjectTarget
from syncline.kinds.artifacts.events import runs_in
from syncline.kinds.artifacts.kind import Artifacts
from syncline.secrets import Secrets
from syncline.wiring.registries import registry_at

if TYPE_CHECKING:
    from syncline.kinds.kind import Kind
    from syncline.wiring.dependencies import Dependencies


class Builder:
    """Makes the kind of a sync."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, ArtifactsSync)
        secrets, http, facts = self._parts.secrets, self._parts.http, self._parts.state.facts
        target = ProjectTarget(registry_at(sync.target, secrets, http), gitlab_at(sync.target, secrets, http))
        return Artifacts(sync, github_at(sync.source, secrets, http), target, http, memory=facts, now=time.time)


def gitlab_at(destination: ArtifactsTarget, secrets: Secrets, http: Http) -> GitLab | None:
    """Return the client of GitLab's API, None if the sync does not name it."""
    if destination.api is None:
        return None
    token = destination.api.token
    endpoint = Endpoint.parse(destination.api.url, ca=None if destination.ca is None else secrets.text(destination.ca))
    return GitLab(
        endpoint,
        destination.project,
        lambda: secrets.resolve(token),
        http,
        destination.api.token_kind,
        renewed=lambda: secrets.refresh(token),
    )


def github_at(source: ArtifactsSource, secrets: Secrets, http: Http) -> GitHub:
    """Return the client of GitHub's API. Credentials are resolved when they are used."""
    address = Address.parse(source.url)
    assert address is not None, "the configuration has checked it"
    ca = None if source.ca is None else secrets.text(source.ca)
    endpoint = Endpoint(address.scheme, address.host, ca)
    prefix = address.target.rstrip("/")
    return GitHub(endpoint, _tokens(source, endpoint, secrets, http, prefix), http, prefix)


def _tokens(source: ArtifactsSource, endpoint: Endpoint, secrets: Secrets, http: Http, prefix: str) -> TokenSource:
    match source.auth:
        case GitHubToken(token=token):
            return SecretToken(lambda: secrets.resolve(token), lambda: secrets.refresh(token))
        case GitHubApp(app=name, key=key, installation=installation):
            renewed = lambda: secrets.refresh(key)  # noqa: E731 - as the other
            app = AppInstallation(name, lambda: secrets.resolve(key), source.repository, installation, renewed)
            return AppTokenSource(endpoint, app, http, prefix)
        case _:
            return SecretToken(lambda: None)


def changed_groups(sync: Sync, event: object, _now: float) -> tuple[str, ...]:
    """Return the run that a delivery of GitHub's names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, ArtifactsSync)
    return runs_in(event, sync.source)
