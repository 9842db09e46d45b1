"""Who we are at a git server: a token for HTTPS, a key for SSH, and what proves that the server is the right one.

A token travels in a variable of git's environment, never in an address or an argument; a key lies in a private folder
for as long as it is used. Other hosts than the configured one are never told either.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from syncline.clients.git.failures import disk_full
from syncline.clients.git.program import program
from syncline.clients.http.addresses import is_refused
from syncline.errors import SynclineError
from syncline.secrets import register

_SCP: Final = re.compile(r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^/\s][^\s]*)")
_SSH_USER: Final = re.compile(r"[A-Za-z0-9._-]+")
_HEADER: Final = "GIT_AUTHORIZATION"
_ROOTS: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a repository is: its address as git takes it, and how it is spoken to (``https``, ``http``, ``ssh``, ``file``)."""

    url: str
    protocol: str
    host: str

    @classmethod
    def parse(cls, text: str) -> Remote:
        """``https://host/path``, ``ssh://user@host/path``, ``user@host:path`` or ``file:///path``; else CONFIG_INVALID.

        ``http://`` is taken too; that it is only used where that was asked for is for the configuration to see to.
        """
        if any(c.isspace() or not c.isprintable() for c in text) or text.startswith("-"):
            raise SynclineError(
                "CONFIG_INVALID", "the address of a repository has no spaces and begins with its scheme"
            )
        scp = _SCP.fullmatch(text) if "://" not in text else None
        if scp is not None:
            user, host, path = scp["user"] or "git", scp["host"], scp["path"]
            text = f"ssh://{user}@{host}/{path}"
        try:
            parts = urlsplit(text)
            host = parts.hostname or ""
            _ = parts.port
        except ValueError:
            raise SynclineError("CONFIG_INVALID", "the address of a repository is not one") from None
        known = parts.scheme in ("https", "http", "ssh", "file") and len(parts.path) > 1
        if not known or parts.query or parts.fragment or bool(host) is (parts.scheme == "file"):
            what = "is not https://host/path, ssh://user@host/path, user@host:path or file:///path"
            raise SynclineError("CONFIG_INVALID", f"the address of a repository {what}")
        if parts.password or (parts.username and parts.scheme != "ssh") or host.startswith("-"):
            raise SynclineError(
                "CONFIG_INVALID", "the address of a repository has no user or password; `auth` has them"
            )
        if parts.username and not _SSH_USER.fullmatch(parts.username):
            raise SynclineError("CONFIG_INVALID", "the user in the address of a repository is not one")
        if host and is_refused(host):
            raise SynclineError("ADDRESS_REFUSED", f"{host} is no place for a git repository")
        return cls(text, parts.scheme, parts.netloc)

    @property
    def origin(self) -> str:
        """Scheme and host: for what the token is."""
        return f"{self.protocol}://{self.host}/"


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """A user's token (or password), sent as Basic credentials. The user name matters at few hosts."""

    token: str
    username: str = "x-access-token"


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """An SSH private key, and the lines of ``known_hosts`` that say which host keys are right."""

    key: str
    known_hosts: str


Access = TokenAccess | KeyAccess | None


@dataclass(frozen=True, slots=True)
class Means:
    """What git commands need to speak to a remote; valid while the block of :func:`means` lasts."""

    settings: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only we can read, removed with all in it at the end."""
    with disk_full():
        folder = Path(tempfile.mkdtemp(prefix="syncline-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def means(remote: Remote, access: Access, ca: str | None, folder: Path) -> Means:
    """Prepare a private ``folder`` for speaking to ``remote``; ``ca`` is PEM text trusted beside the system's roots.

    Raises CONFIG_INVALID where the access does not fit the address.
    """
    match access, remote.protocol:
        case TokenAccess(), "https" | "http":
            return _http(remote, access, ca, folder)
        case None, "https" | "http":
            return _http(remote, None, ca, folder)
        case KeyAccess(), "ssh":
            return _ssh(access, folder)
        case None, "file":
            return Means()
        case _:
            what = {"ssh": "needs a key and known_hosts", "file": "takes no credentials"}.get(
                remote.protocol, "takes a token"
            )
            raise SynclineError("CONFIG_INVALID", f"a repository by {remote.protocol} {what}")


def _http(remote: Remote, access: TokenAccess | None, ca: str | None, folder: Path) -> Means:
    settings = []
    if ca is not None:
        bundle = _write(folder / "ca.pem", _system_roots() + ca)
        settings.append(f"http.sslCAInfo={bundle}")
    elif not Path(_ROOTS[0]).exists():
        roots = _system_roots()
        settings += [f"http.sslCAInfo={_write(folder / 'ca.pem', roots)}"] if roots else []
    if access is None:
        return Means(tuple(settings))
    code = base64.b64encode(f"{access.username}:{access.token}".encode()).decode()
    for secret in (access.token, code):
        register(secret)
    variables = {f"http.{remote.origin}.extraHeader": _HEADER}
    return Means(tuple(settings), variables, {_HEADER: f"Authorization: Basic {code}"})


def _ssh(access: KeyAccess, folder: Path) -> Means:
    register(access.key)
    key = _write(folder / "key", access.key.rstrip("\n") + "\n")
    known = _write(folder / "known_hosts", access.known_hosts.rstrip("\n") + "\n")
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
    return Means(environment={"GIT_SSH_COMMAND": shlex.join(words), "GIT_SSH_VARIANT": "ssh"})


def _system_roots() -> str:
    """The authorities that the system knows, as PEM text; none where they cannot be found."""
    for path in (ssl.get_default_verify_paths().cafile, *_ROOTS):
        if path is not None and Path(path).exists():
            return Path(path).read_text(encoding="utf-8", errors="replace").rstrip() + "\n"
    return ""


def _write(path: Path, text: str) -> Path:
    with disk_full():
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    return path
