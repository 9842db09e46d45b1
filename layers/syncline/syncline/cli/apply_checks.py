"""Checks before syncs are applied: secret references resolve, and servers can be reached from here."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.config.model import ServerAddress
from syncline.config.sync import Sync
from syncline.errors import CodeName, SynclineError
from syncline.secrets import Reference, Secrets, references_in
from syncline.wiring.dependencies import route_of

if TYPE_CHECKING:
    from syncline.cli.deployment import Deployment


_UNCHECKED: Final[tuple[CodeName, ...]] = ("SECRET_DENIED", "AWS_DENIED")
_WEBHOOK: Final = "webhook.secret"
"""Path of the only reference that the role of `receive` may read."""


@dataclass(frozen=True, slots=True)
class SecretProblem:
    """A reference that cannot be resolved, and its position in the configuration."""

    sync: str
    path: str
    reference: str
    message: str

    def text(self) -> str:
        return f"{self.sync}.{self.path}: {self.message}"


class InvalidSecretsError(SynclineError):
    """All references that cannot be resolved, with the code of the first."""

    def __init__(self, code: CodeName, problems: Iterable[SecretProblem]) -> None:
        self.problems = list(problems)
        super().__init__(code, "\n".join(problem.text() for problem in self.problems))


def check_secrets(deployment: Deployment, syncs: Iterable[Sync]) -> list[str]:
    """Raise InvalidSecretsError with every reference that the functions cannot resolve; return warnings.

    A warning names a reference that cannot be checked, because only the functions are allowed to read it.
    """
    used = [(sync.name, path, reference) for sync in syncs for path, reference in references_in(sync)]
    found = {reference: check_reference(deployment, reference) for reference in {each for _, _, each in used}}
    problems, codes, warnings = list[SecretProblem](), list[CodeName](), set[str]()
    for name, path, reference in used:
        match denied_by_prefix(deployment, path, reference) or found[reference]:
            case SynclineError() as error:
                problems.append(SecretProblem(name, path, str(reference), error.what))
                codes.append(error.code.name)
            case str(warning):
                warnings.add(warning)
    if problems:
        raise InvalidSecretsError(codes[0], problems)
    return sorted(warnings)


def missing_secrets(deployment: Deployment, syncs: Iterable[Sync]) -> list[str]:
    """Return the findings of :func:`check_secrets` as warnings."""
    try:
        return check_secrets(deployment, syncs)
    except InvalidSecretsError as error:
        return [problem.text() for problem in error.problems]


def check_reference(deployment: Deployment, reference: Reference) -> SynclineError | str | None:
    """Return the error or warning for a reference, None if it resolves."""
    if reference.scheme == "env":
        return _check_variable(deployment, reference)
    try:
        deployment.secrets.resolve(reference)
    except SynclineError as error:
        if error.code.name in _UNCHECKED:
            return f"{reference} could not be checked: you are not allowed to read it ({error.code.name}); the functions may have the permission"
        return error
    return None


def denied_by_prefix(deployment: Deployment, path: str, reference: Reference) -> SynclineError | None:
    """Return an error if the name of a reference is outside of the prefix that the function's role may read."""
    if deployment.local or reference.scheme == "env":
        return None
    prefix, setting = deployment.parameters.get("SecretPrefix", ""), "SecretPrefix"
    if path == _WEBHOOK:
        prefix += deployment.parameters.get("WebhookSecretPrefix", "")
        setting = "SecretPrefix and WebhookSecretPrefix"
    if reference.name.removeprefix("/").startswith(prefix):
        return None
    what = f"the stack's {setting} requires a name that begins with {prefix}"
    return SynclineError("SECRET_DENIED", f"{reference} cannot be read by the functions: {what}")


def _check_variable(deployment: Deployment, reference: Reference) -> SynclineError | str | None:
    environ = deployment.environ
    here = os.environ.get(reference.name)
    if environ is None:
        return f"{reference} could not be checked: you are not allowed to read the functions' configuration"
    remote = environ.get(reference.name)
    if remote:
        # The functions have the environment of the shell in which `syncline up` was run.
        if deployment.local and here is not None and here != remote:
            return f"{reference} has another value here than when the engine was started; {_RESTART} to use this value"
        return None
    if not deployment.local:
        what = f"{reference} is not in the functions' environment; add it to template.yaml, or use secret: or ssm:"
    elif here:
        what = f"{reference} is set here, but was not when the engine was started; {_RESTART}"
    else:
        what = f"{reference} is not set; set it, then {_RESTART}"
    return SynclineError("SECRET_MISSING", what)


_RESTART: Final = "run `syncline down` and `syncline up` in this shell"


WITHIN: Final = 8.0
"""Limit in seconds for checking all servers."""
_AT_ONCE: Final = 32
_SSH: Final = re.compile(r"(?:ssh://)?(?:[^@/]+@)?(\[[^]]+\]|[^:/]+)(?::(\d+)(?=/))?[:/].*")
_UNREACHED: Final[frozenset[CodeName]] = frozenset(
    {"UNREACHABLE", "TLS_FAILED", "ADDRESS_REFUSED", "PROXY_REFUSED", "CONFIG_INVALID"}
)


def unreachable(syncs: Iterable[Sync], secrets: Secrets, within: float = WITHIN) -> list[str]:
    """Return a warning for each server that does not answer, or whose certificate is not trusted.

    Each server gets one request without credentials, all at the same time; any response counts as an answer. An
    unresolvable certificate authority or proxy is ignored.
    """
    positions: dict[ServerAddress, list[str]] = {}
    for sync in syncs:
        for each in sync.addresses():
            where = ".".join(map(str, (sync.name, *each.path)))
            positions.setdefault(each._replace(path=()), []).append(where)
    found: dict[ServerAddress, str] = {}
    answered: set[ServerAddress] = set()
    deadline = time.monotonic() + within
    http, turns = Http(RetryPolicy(attempts=1, deadline=deadline)), threading.Semaphore(_AT_ONCE)

    def ask(address: ServerAddress) -> None:
        with turns:
            try:
                _ask(address, http, secrets)
            except SynclineError as error:
                if error.code.name == "TIME_SHORT":
                    return
                # A server error may be that of the proxy, which did not reach the server.
                if error.code.name in _UNREACHED or (address.proxy and error.code.name == "SERVER_ERROR"):
                    found[address] = error.what
            except OSError as error:
                found[address] = f"{address.url}: {error.strerror or error}"
            answered.add(address)

    # Daemon threads: a DNS lookup cannot be cancelled and must not delay the command.
    threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in positions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = {address: f"{address.url} did not answer within {within:.0f} s" for address in positions.keys() - answered}
    reasons = (silent | found).items()
    return sorted(
        f"{each}: {why} (checked from this machine)" for address, why in reasons for each in positions[address]
    )


def _ask(address: ServerAddress, http: Http, secrets: Secrets) -> None:
    """Send a request, or connect if the server speaks SSH; raises SynclineError or OSError if there is no answer."""
    if address.url.startswith("file:"):
        return
    if not address.url.startswith(("https:", "http:")):
        match = _SSH.fullmatch(address.url)
        if match is not None:
            socket.create_connection((match[1].strip("[]"), int(match[2] or 22)), timeout=WITHIN).close()
        return
    route = route_of(secrets, address.ca, address.proxy)
    with http.request("GET", address.url, route=route, stream=True, timeout=WITHIN) as response:
        if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise response.error()
