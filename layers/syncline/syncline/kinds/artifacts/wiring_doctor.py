"""The checks of a sync of artifacts."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from syncline.clients.github.client import GitHub, GitHubLimits
from syncline.clients.gitlab.client import GitLab
from syncline.config.model import ServerAddress
from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.wiring import github_at, gitlab_at
from syncline.wiring.checks import Check, CheckChain, Observation, unchecked, warning
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.registries import registry_at
from syncline.wiring.server_checks import check_push, registry_checks, server_checks

_EXPIRES_SOON = 14 * 86_400.0
_FEW = 0.1
"""Share of the rate limit below which a warning is given."""


def chains(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:  # noqa: ARG001 - the same everywhere
    """Return the checks of GitHub, of the registry, and of GitLab's API."""
    assert isinstance(sync, ArtifactsSync)
    source, target = sync.source, sync.target
    github = _GitHubChecks(sync, github_at(source, parts.secrets, parts.http), parts)
    addresses = [check for each in source.addresses() for check in server_checks(each, parts)]
    registry = registry_at(target, parts.secrets, parts.http)
    names = (f"{target.project}/{name}" for name in sync.build.repositories())
    found = [
        CheckChain("source", [*addresses, Check("runs", github.runs), *github.after()]),
        CheckChain(
            "target", [*registry_checks(target, registry, parts), Check("push", lambda: check_push(registry, names))]
        ),
    ]
    gitlab = gitlab_at(target, parts.secrets, parts.http)
    if target.api is not None and gitlab is not None:
        address = ServerAddress(target.api.url, target.ca, target.proxy)
        api = [
            *server_checks(address, parts),
            Check("list", lambda: _listing(gitlab)),
            Check("token", lambda: _token(gitlab)),
        ]
        found.append(CheckChain("target.api", api))
    return found


class _GitHubChecks:
    """The checks of GitHub's API, which one request answers."""

    def __init__(self, sync: ArtifactsSync, github: GitHub, parts: Dependencies) -> None:
        self._source = sync.source
        self._github = github
        self._parts = parts
        self._limits = GitHubLimits()

    def runs(self) -> str:
        source = self._source
        try:
            self._limits = self._github.check_runs(source.repository, source.workflow)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            what = f"{source.url} has no workflow {source.workflow} in {source.repository}, or the token may not see it"
            raise SynclineError("SOURCE_ABSENT", f"{what} ({error.what})") from None
        return f"the runs of {source.workflow} in {source.repository} can be listed"

    def after(self) -> list[Check]:
        return [Check("token", self.token), Check("rate limit", self.rate)]

    def token(self) -> str | Observation:
        expires = self._limits.expires
        if self._source.auth == "anonymous":
            action = "Set `auth` of the source: GitHub requires a token for logs and artifacts."
            return warning("no token is configured", action)
        if expires is None:
            return "the token is accepted; GitHub names no time of expiry"
        return _until(datetime.fromtimestamp(expires, UTC))

    def rate(self) -> str | Observation:
        limits = self._limits
        if limits.remaining is None or not limits.limit:
            return unchecked("GitHub names no rate limit")
        text = f"{limits.remaining} of {limits.limit} requests of this hour are left"
        if limits.remaining < _FEW * limits.limit:
            return warning(text, "Find out what else uses the same token, or use a GitHub App.")
        return text


def _listing(gitlab: GitLab) -> str:
    try:
        next(gitlab.repositories(), None)
    except SynclineError as error:
        if error.code.name != "NOT_FOUND":
            raise
        what = f"GitLab has no project {gitlab.project}, or the token may not see it ({error.what})"
        raise SynclineError("NOT_FOUND", what) from None
    return f"the repositories of {gitlab.project} can be listed"


def _token(gitlab: GitLab) -> str | Observation:
    try:
        found = gitlab.own_token()
    except SynclineError as error:
        if not error.is_any("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND"):
            raise
        return unchecked("the token is accepted; this GitLab does not describe it")  # before version 15.5
    if found is None:
        return unchecked("the token is accepted; GitLab describes no job or OAuth token")
    if not found.scopes & {"api", "read_api"}:
        scopes = ", ".join(sorted(found.scopes)) or "none"
        raise SynclineError("FORBIDDEN", f"the token needs the scope read_api; its scopes are {scopes}")
    if found.expires is None:
        return "the token is accepted, and does not expire"
    return _until(datetime.fromisoformat(found.expires).replace(tzinfo=UTC))


def _until(end: datetime) -> str | Observation:
    """Return the observation of a token that expires at ``end``."""
    if end.timestamp() - time.time() < _EXPIRES_SOON:
        return warning(f"the token expires on {end.date()}", "Create a new token and store it before that day.")
    return f"the token is accepted, until {end.date()}"
