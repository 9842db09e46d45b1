"""Builds a sync of artifacts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from syncline.clients.github.auth import AppTokens
from syncline.clients.github.client import GitHub
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.addresses import Address, Endpoint
from syncline.clients.http.client import Http
from syncline.config.sync import Sync
from syncline.kinds.artifacts.config import ArtifactsSource, ArtifactsSync, ArtifactsTarget, GitHubApp, GitHubToken
from syncline.kinds.artifacts.discover import ProjectTarget
from syncline.kinds.artifacts.events import runs_in
from syncline.kinds.artifacts.kind import Artifacts
from syncline.secrets import Secrets
from syncline.wiring.dependencies import budget_of, route_of
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
    budget = budget_of(http, destination.api.url, destination.limits)
    endpoint = Endpoint.parse(destination.api.url, route=route_of(secrets, destination.ca, destination.proxy, budget))
    resolve, refresh = partial(secrets.resolve, token), partial(secrets.refresh, token)
    return GitLab(endpoint, destination.project, resolve, http, destination.api.token_kind, renewed=refresh)


def github_at(source: ArtifactsSource, secrets: Secrets, http: Http) -> GitHub:
    """Return the client of GitHub's API. Credentials are resolved when they are used."""
    address = Address.parse(source.url)
    assert address is not None, "the configuration has checked it"
    route = route_of(secrets, source.ca, source.proxy, budget_of(http, source.url, source.limits), repr(source.auth))
    endpoint = Endpoint(address.scheme, address.host, route)
    prefix = address.target.rstrip("/")
    token, renewed = _tokens(source, endpoint, secrets, http, prefix)
    return GitHub(endpoint, token, http, prefix, renewed=renewed)


def _tokens(
    source: ArtifactsSource, endpoint: Endpoint, secrets: Secrets, http: Http, prefix: str
) -> tuple[Callable[[], str | None], Callable[[], str | None]]:
    """Return the functions that return a token and, after a refusal, another one."""
    match source.auth:
        case GitHubToken(token=token):
            return partial(secrets.resolve, token), partial(secrets.refresh, token)
        case GitHubApp(app=app, key=key, installation=installation):
            keys = partial(secrets.resolve, key), partial(secrets.refresh, key)
            tokens = AppTokens(endpoint, http, app, *keys, source.repository, installation, prefix)
            return tokens.token, tokens.renewed
        case _:
            return lambda: None, lambda: None


def changed_groups(sync: Sync, event: object, _now: float) -> tuple[str, ...]:
    """Return the run that a delivery of GitHub's names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, ArtifactsSync)
    return runs_in(event, sync.source)
