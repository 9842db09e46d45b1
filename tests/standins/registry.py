"""Debian's docker-registry as a separate process on a loopback port.

    with Registry(auth=Htpasswd({"ann": "secret"})) as registry:
        digest = registry.push_image("org/app", "v1", layers=[b"..."])

Needs the program ``docker-registry`` (ProgramAbsentError names its package).
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from tests.standins.certificates import Authority
from tests.standins.programs import program

START_LIMIT: Final = 30.0  # seconds
STOP_LIMIT: Final = 10.0
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

_ACCESS: Final = re.compile(
    r'^\S+ .*] "[A-Z]+ /v2/\S* HTTP/1.1" .* "[^"]+"$', re.MULTILINE
)  # requests with a User-Agent
_BCRYPT_COST: Final = 4  # the minimum, because the registry hashes the password for every request


class Auth(Protocol):
    """Users of a registry and their permissions."""

    def settings(self, folder: Path) -> dict[str, Any]:
        """Return the `auth` part of the configuration, its files written to ``folder``."""

    def authorization(self, scope: str) -> str:
        """Return a header value with the permission ``scope``, such as ``repository:org/app:pull,push``."""


@dataclass(frozen=True, slots=True)
class Htpasswd:
    """Names and passwords; each user may do everything."""

    users: Mapping[str, str]

    def settings(self, folder: Path) -> dict[str, Any]:
        path = folder / "htpasswd"
        path.write_text("".join(f"{name}:{_bcrypt(password)}\n" for name, password in self.users.items()))
        return {"htpasswd": {"realm": "registry of the tests", "path": str(path)}}

    def authorization(self, scope: str) -> str:  # noqa: ARG002 - every user may do everything
        return basic(*next(iter(self.users.items())))


def basic(name: str, password: str) -> str:
    """The header value of Basic authentication."""
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Registry:
    """One registry. ``host`` (``127.0.0.1:port``) and ``url`` are known once it has started.

    All its files are in ``folder``. :meth:`stop` removes the folder unless it was given.
    ``notify`` is an address that gets Docker Distribution's notifications of pushes, pulls and deletions.
    ``access_log`` logs every request, so that tests can count them.
    """

    def __init__(
        self,
        *,
        auth: Auth | None = None,
        tls: Authority | None = None,
        notify: str | None = None,
        relative_urls: bool = False,
        folder: Path | None = None,
        port: int = 0,
        access_log: bool = False,
    ) -> None:
        self.auth = auth
        self.tls = tls
        self.port = port
        self._notify = notify
        self._relative_urls = relative_urls
        self._access_log = access_log
        self._folder = folder
        self._stays = folder is not None
        self._name = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def ca(self) -> str | None:
        """The certificate to trust, in PEM form, if this registry speaks TLS."""
        return self.tls.pem if self.tls else None

    @property
    def folder(self) -> Path:
        """The folder of its data, configuration and log."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="registry-"))
        return self._folder

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start it, on the previous port if there was one; return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fixed = self.port != 0
        for _ in range(1 if fixed else 5):
            if not fixed:
                self.port = free_port()
            if self._run():
                return self
        raise RuntimeError(f"port {self.port} is taken")

    def halt(self) -> None:
        """Stop the process; its data stays for the next :meth:`start`."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Stop the process and remove its files, unless its folder was given."""
        self.halt()
        if self._folder is not None and not self._stays:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self) -> str:
        """Return the output of the process: errors, and requests if they are logged."""
        return (self.folder / "registry.log").read_text(errors="replace")

    def requests_logged(self) -> int:
        """Return the number of logged requests since the start, without those made here."""
        return len(_ACCESS.findall(self.log()))

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request with exactly these headers; any status is returned."""
        connection = self._connection(30.0)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def authorized(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request with the necessary permissions; AssertionError if it fails."""
        repository = path.removeprefix("/v2/").partition("/blobs/")[0].partition("/manifests/")[0]
        repository = repository.partition("/tags/")[0]
        scope = "registry:catalog:*" if path.startswith("/v2/_catalog") else f"repository:{repository}:pull,push,delete"
        given = {"Authorization": self.auth.authorization(scope)} if self.auth else {}
        answer = self.request(method, path, body, {**given, **(headers or {})})
        assert answer.status < 400, f"{method} {path}: {answer.status} {answer.body[:300]!r}"
        return answer

    def push_blob(self, repository: str, data: bytes) -> str:
        """Store a blob; return its digest."""
        digest = sha256(data)
        begun = self.authorized("POST", f"/v2/{repository}/blobs/uploads/", b"")
        place = "/" + begun.headers["Location"].removeprefix(self.url).lstrip("/")
        # the location already has a query
        self.authorized("PUT", f"{place}&digest={digest}", data, {"Content-Type": "application/octet-stream"})
        return digest

    def push_manifest(self, repository: str, reference: str, body: bytes, media_type: str = OCI_MANIFEST) -> str:
        """Store a manifest of exactly these bytes; return its digest."""
        self.authorized("PUT", f"/v2/{repository}/manifests/{reference}", body, {"Content-Type": media_type})
        return sha256(body)

    def push_image(self, repository: str, tag: str, layers: Sequence[bytes] = (b"a layer",)) -> str:
        """Store an image with these layers (not compressed); return its digest."""
        rootfs = {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._pushed(repository, OCI_CONFIG, config),
            "layers": [self._pushed(repository, OCI_LAYER, layer) for layer in layers],
        }
        return self.push_manifest(repository, tag, json.dumps(manifest).encode())

    def _pushed(self, repository: str, media_type: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.push_blob(repository, data), "size": len(data)}

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        context = self.tls.client_context()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)

    def _run(self) -> bool:
        """Run the program on ``port``; return False if another process has that port."""
        config = self.folder / "config.yml"
        config.write_text(json.dumps(self._settings()))  # JSON is YAML
        with (self.folder / "registry.log").open("wb") as log:
            # a new session, so that an interrupt at the terminal reaches only the parent process
            self._process = subprocess.Popen(
                [program("docker-registry"), "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")},
            )
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if self._process.poll() is not None:
                self._process = None
                if "address already in use" in self.log():
                    return False
                raise RuntimeError(f"docker-registry did not start: {self.log()[-1000:]}")
            if self._answers():
                return True
            time.sleep(0.01)
        self.halt()
        raise RuntimeError(f"docker-registry did not answer in {START_LIMIT:.0f} s: {self.log()[-1000:]}")

    def _answers(self) -> bool:
        """Return True if this process answers, not another one on its port."""
        try:
            return self.request("GET", "/v2/").headers.get("X-Instance") == self._name
        except (OSError, http.client.HTTPException):
            return False

    def _settings(self) -> dict[str, Any]:
        headers = {"X-Content-Type-Options": ["nosniff"], "X-Instance": [self._name]}
        serving: dict[str, Any] = {"addr": self.host, "headers": headers, "secret": "of the tests"}
        serving["relativeurls"] = self._relative_urls
        if self.tls is not None:
            certificate, key = self.tls.write_server_files(self.folder)
            serving["tls"] = {"certificate": str(certificate), "key": str(key)}
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": not self._access_log}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "data")},
                "cache": {"blobdescriptor": "inmemory"},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": serving,
        }
        if self.auth is not None:
            settings["auth"] = self.auth.settings(self.folder)
        if self._notify is not None:
            endpoint = {"name": "tests", "url": self._notify, "timeout": "2s", "threshold": 5, "backoff": "200ms"}
            settings["notifications"] = {"events": {"includereferences": True}, "endpoints": [endpoint]}
        return settings


def sha256(data: bytes) -> str:
    """Return the digest of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _bcrypt(password: str) -> str:
    """Return a bcrypt hash by the C library: Python's `crypt` is deprecated, and this does not justify a dependency.

    libcrypt is part of every Debian (perl-base and login need it) and has had bcrypt since Debian 10.
    """
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_gensalt.restype = library.crypt.restype = ctypes.c_char_p
    salt = library.crypt_gensalt(b"$2y$", ctypes.c_ulong(_BCRYPT_COST), secrets.token_bytes(16), 16)
    hashed: bytes = library.crypt(password.encode(), salt)
    assert hashed.startswith(b"$2y$"), hashed
    return hashed.decode()
