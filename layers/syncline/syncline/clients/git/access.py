"""Addresses of git repositories and the credentials for them: tokens for HTTPS, keys and known hosts for SSH.

A token is passed in git's environment, never in a URL or an argument. A key is stored in a private folder while it is
used. Neither is sent to any other host than the configured one.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from syncline.clients.git.failures import disk_full_as_error
from syncline.clients.git.program import program
from syncline.clients.http.addresses import Route, is_refused
from syncline.errors import SynclineError
from syncline.secrets import register

_SCP: Final = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^/\s][^\s]*)")
_SSH_USER: Final = re.compile(r"[A-Za-z0-9._-]+")
_ROOTS: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True, slots=True)
class GitRemote:
    """The URL of a repository, its protocol (``https``, ``http``, ``ssh``, ``file``) and host."""

    url: str
    protocol: str
    host: str

    @classmethod
    def parse(cls, text: str) -> GitRemote:
        """Parse ``https://host/path``, ``ssh://user@host/path``, ``user@host:path`` or ``file:///path``.

        ``http://`` is accepted too; the configuration decides whether it may be used. Raises CONFIG_INVALID, and
        ADDRESS_REFUSED for a link-local or metadata address.
        """
        if any(c.isspace() or not c.isprintable() for c in text) or text.startswith("-"):
            what = "the URL of a repository must have no spaces and begin with its scheme"
            raise SynclineError("CONFIG_INVALID", what)
        scp = _SCP.fullmatch(text) if "://" not in text else None
        if scp is not None:
            user, host, path = scp["user"] or "git", scp["host"], scp["path"]
            text = f"ssh://{user}@{host}/{path}"
        try:
            parts = urlsplit(text)
            host = parts.hostname or ""
            _ = parts.port
        except ValueError:
            raise SynclineError("CONFIG_INVALID", "the URL of a repository has an invalid host or port") from None
        known = parts.scheme in ("https", "http", "ssh", "file") and len(parts.path) > 1
        if not known or parts.query or parts.fragment or bool(host) is (parts.scheme == "file"):
            forms = "https://host/path, ssh://user@host/path, user@host:path or file:///path"
            raise SynclineError("CONFIG_INVALID", f"the URL of a repository must be of the form {forms}")
        if parts.password or (parts.username and parts.scheme != "ssh") or host.startswith("-"):
            raise SynclineError("CONFIG_INVALID", "move user and password from the URL of a repository to `auth`")
        if parts.username and not _SSH_USER.fullmatch(parts.username):
            raise SynclineError("CONFIG_INVALID", "the user in the URL of a repository has an invalid character")
        if host and is_refused(host):
            raise SynclineError("ADDRESS_REFUSED", f"{host} is a link-local or metadata address")
        return cls(text, parts.scheme, parts.netloc)


@dataclass(frozen=True, slots=True)
class TokenCredentials:
    """A token or password, sent as Basic credentials. Most hosts ignore the user name of a token."""

    token: str
    username: str = "x-access-token"


@dataclass(frozen=True, slots=True)
class SshCredentials:
    """An SSH private key, and the ``known_hosts`` lines with the valid host keys."""

    key: str
    known_hosts: str


GitCredentials = TokenCredentials | SshCredentials | None
ConnectionOptions = tuple[tuple[str, ...], dict[str, str]]
"""Git settings and environment for a remote, valid as long as the private folder exists."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Create a temporary folder that only this user can read, and remove it at the end of the block."""
    with disk_full_as_error():
        folder = Path(tempfile.mkdtemp(prefix="syncline-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def connection_options(remote: GitRemote, access: GitCredentials, route: Route, folder: Path) -> ConnectionOptions:
    """Write keys and certificates for ``remote`` to a private ``folder`` and return the options that use them.

    Raises CONFIG_INVALID if the credentials do not fit the URL.
    """
    match access, remote.protocol:
        case TokenCredentials() | None, "https" | "http":
            settings, environment = _http(remote, access, route, folder)
        case SshCredentials(), "ssh":
            settings, environment = (), _ssh(access, folder)
        case None, "file":
            settings, environment = (), {}
        case _:
            needs = {"ssh": "needs a key and known_hosts", "file": "takes no credentials"}
            need = needs.get(remote.protocol, "needs a token")
            raise SynclineError("CONFIG_INVALID", f"a repository with the protocol {remote.protocol} {need}")
    return (f"protocol.{remote.protocol}.allow=always", *settings), environment


def _http(remote: GitRemote, access: TokenCredentials | None, route: Route, folder: Path) -> ConnectionOptions:
    settings: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    if route.ca is not None:
        environment["GIT_SSL_CAINFO"] = str(write_private(folder / "ca.pem", _system_roots() + route.ca))
    elif not Path(_ROOTS[0]).exists() and (roots := _system_roots()):
        settings = (f"http.sslCAInfo={write_private(folder / 'ca.pem', roots)}",)
    # Values with secrets are not for the command line.
    values = {"http.proxy": route.proxy or ""}
    if access is not None:
        code = base64.b64encode(f"{access.username}:{access.token}".encode()).decode()
        for secret in (access.token, code):
            register(secret)
        values[f"http.{remote.protocol}://{remote.host}/.extraHeader"] = f"Authorization: Basic {code}"
    environment["GIT_CONFIG_COUNT"] = str(len(values))
    for number, (name, value) in enumerate(values.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return settings, environment


def _ssh(access: SshCredentials, folder: Path) -> dict[str, str]:
    register(access.key)
    key = write_private(folder / "key", access.key.rstrip("\n") + "\n")
    known = write_private(folder / "known_hosts", access.known_hosts.rstrip("\n") + "\n")
    beside = Path(program()).parent / "ssh"
    options = {
        "IdentityFile": str(key),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "ClearAllForwardings": "yes",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    words = [str(beside) if beside.exists() else "ssh", "-F", "/dev/null", "-T"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return {"GIT_SSH_COMMAND": shlex.join(words), "GIT_SSH_VARIANT": "ssh"}


def _system_roots() -> str:
    """Return the system's trusted authorities as PEM text, empty if there are none."""
    for path in (ssl.get_default_verify_paths().cafile, *_ROOTS):
        if path is not None and Path(path).exists():
            return Path(path).read_text(encoding="utf-8", errors="replace").rstrip() + "\n"
    return ""


def write_private(path: Path, text: str) -> Path:
    """Write a file that only this user can read, and return its path."""
    with disk_full_as_error():
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    return path
