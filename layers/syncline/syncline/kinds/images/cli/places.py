"""References to images as skopeo writes them, and the stores that they lead to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, NoReturn, cast

from pydantic import TypeAdapter, ValidationError

from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.layout.contents import Name
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import parse_reference, parse_repository
from syncline.clients.registry.store import ImageStore
from syncline.config.registry import RegistryEndpoint
from syncline.config.values import STORED, is_loopback
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.config_select import Platform
from syncline.kinds.kind import StepContext
from syncline.secrets import Secrets
from syncline.wiring.registries import registry_at

Transport = Literal["docker", "oci", "oci-archive", "docker-archive", "docker-daemon"]
DOCKER_TARGETS: Final = ("docker-archive", "docker-daemon")
_FILES: Final = ("oci", "oci-archive", "docker-archive")
_FORMS: Final = "write HOST/REPOSITORY:TAG, oci:FOLDER[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] or docker-daemon:NAME"
_HUB: Final = "registry-1.docker.io"
_HUB_NAMES: Final = ("docker.io", "index.docker.io", _HUB)
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Place:
    """A reference to an image or, without ``reference``, to a repository, a layout or an archive.

    ``location`` is the address of a registry, such as ``http://127.0.0.1:5000``, or a path. ``reference`` is a tag or a
    digest.
    """

    transport: Transport
    location: str = ""
    repository: str = ""
    reference: str | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the parts of a reference. Raises USAGE, REFERENCE_INVALID."""
        transport, colon, rest = text.partition(":")
        if colon and transport in _FILES:
            path, _, name = rest.partition(":")
            if not path:
                raise SynclineError("USAGE", f"{text!r} has no path; {_FORMS}")
            repository, tag = Name.parse(name) if name else ("", None)
            return cls(cast("Transport", transport), path, repository, tag)
        if colon and transport == "docker-daemon":
            repository, tag = Name.parse(rest)
            if not rest:
                raise SynclineError("USAGE", f"{text!r} has no name; {_FORMS}")
            return cls("docker-daemon", "", repository or tag, tag if repository else "latest")
        return cls._registry(text)

    @classmethod
    def _registry(cls, text: str) -> Place:
        scheme, separator, rest = text.partition("://")
        if separator and scheme not in ("docker", "http", "https"):
            raise SynclineError("USAGE", f"{text!r} has the unknown transport {scheme!r}; {_FORMS}")
        if text.startswith(("/", ".", "~")):
            raise SynclineError(
                "USAGE", f"{text!r} is a path; write oci:{text} for a layout, or oci-archive:{text} for a file"
            )
        name, at, digest = (rest if separator else text).partition("@")
        host, slash, path = name.partition("/")
        alone = host.partition(":")[0]
        if not path and ("." in alone or alone == "localhost"):
            raise SynclineError("USAGE", f"{text!r} names a registry without a repository; write {host}/REPOSITORY:TAG")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, path = _HUB, name
        if host in _HUB_NAMES:
            host, path = _HUB, path if "/" in path else f"library/{path}"
        repository, colon, tag = path.partition(":")
        reference = digest if at else tag if colon else None
        if reference is not None:
            parse_reference(reference)
        address = registry_address(scheme if separator else "", host)
        return cls("docker", address, parse_repository(repository), reference)

    @property
    def is_file(self) -> bool:
        return self.transport in _FILES

    @property
    def path(self) -> Path:
        return Path(self.location).expanduser().absolute()

    @property
    def host(self) -> str:
        """The registry's host, or the place as a person would write it."""
        return self.location.partition("://")[2] if self.transport == "docker" else f"{self.transport}:{self.location}"

    @property
    def name(self) -> str | None:
        """The name of an image in a layout or archive, None if there is none."""
        return None if self.reference is None else str(Name(self.repository, self.reference))

    def __str__(self) -> str:
        separator = "@" if ":" in (self.reference or "") else ":"
        named = (
            f"{self.repository}{separator if self.repository else ''}{self.reference}"
            if self.reference
            else self.repository
        )
        if self.transport == "docker":
            return f"{self.host}/{named}"
        return ":".join(filter(None, (self.transport, self.location, named)))


def registry_address(scheme: str, host: str) -> str:
    """Return the URL of a registry. Without ``http`` or ``https``, a loopback address has HTTP. Raises USAGE."""
    try:
        plain = scheme == "http" or (scheme != "https" and is_loopback(host))
    except ValueError as error:
        raise SynclineError("USAGE", f"{host!r} {error}") from None
    return f"{'http' if plain else 'https'}://{host}"


class Process:
    """HTTP, secrets and time of a command without an engine."""

    def __init__(self, ca: Path | None = None) -> None:
        """Raises USAGE if the file of the authority cannot be read."""
        self._halted = threading.Event()
        self.http = Http(RetryPolicy(cap=60.0, halted=self._halted.is_set))
        self.secrets = Secrets(_refuse_aws, _refuse_aws, os.environ, environment="this command")
        self.context = StepContext(lambda: _DAY, self._halted.is_set)
        try:
            self._ca = None if ca is None else ca.read_text()
        except (OSError, ValueError) as error:
            raise SynclineError("USAGE", f"--ca {ca} cannot be read: {error}") from None

    def registry(self, location: str) -> Registry:
        """Return the client of a registry, with the credentials that Docker has. Raises USAGE for an invalid address."""
        scheme, _, host = location.partition("://")
        values = {"registry": host, "auth": "docker-config", "ca": self._ca, "plain_http": scheme == "http"}
        try:
            endpoint = RegistryEndpoint.model_validate(values)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            raise SynclineError("USAGE", f"{host!r} is not the address of a registry: {wrong['msg']}") from None
        return registry_at(endpoint, self.secrets, self.http)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make Ctrl-C in the block end the requests and pauses of all threads."""

        def interrupted(number: int, frame: FrameType | None) -> None:
            self._halted.set()
            signal.default_int_handler(number, frame)

        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ):
            yield
            return
        signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def check_platform(text: str | None) -> None:
    """Check the value of ``--platform``. Raises USAGE."""
    try:
        TypeAdapter(Platform | None).validate_python(text)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SynclineError("USAGE", f"--platform {text!r} {reason}") from None


def _refuse_aws() -> NoReturn:
    raise SynclineError("SECRET_MISSING", "this command reads credentials from Docker's configuration, not from AWS")


def rules(*, overwrite: bool, prefix: str = "", referrers: str = "with-images") -> ImagesSync:
    """Return the rules of a copy that no sync describes."""
    value: dict[str, Any] = {
        "kind": "images",
        "name": "copy",
        "source": {"registry": "source.invalid", "catalog": True},
        "target": {"registry": "target.invalid", "prefix": prefix},
        "overwrite": overwrite,
        "referrers": referrers,
    }
    return ImagesSync.model_validate(value, context=STORED)


class PinnedImages:
    """A store with other tags: each leads to a digest of one repository. Everything else is the store's."""

    def __init__(self, store: ImageStore, digests: dict[str, str]) -> None:
        self._store = store
        self._digests = digests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        return self._digests.get(reference) or self._store.manifest_digest(repository, reference)

    def manifest(self, repository: str, reference: str, media_type: str = "") -> Manifest:
        return self._store.manifest(repository, self._digests.get(reference, reference), media_type)

    @classmethod
    def of(cls, store: ImageStore, digests: dict[str, str]) -> ImageStore:
        return cast("ImageStore", cls(store, digests))
