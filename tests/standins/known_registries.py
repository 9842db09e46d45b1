"""Registries of known products: each is the strict registry in memory with the deviations of that product.

    with KnownRegistry(GHCR) as registry: ...

The table below is the place for a newly found peculiarity. Sources: the products' documentation and issue trackers, named
beside each deviation in ``docs/reference/registries.md``.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tests.rig.server import Reply, Request
from tests.standins.oci import OciRegistry
from tests.standins.oci_store import OCI_INDEX, OCI_MANIFEST, RefusalError, Repository, Session

MIB: Final = 1024 * 1024
_NAME: Final = re.compile(r"/v2/(?P<name>.+)/(?:blobs|manifests|tags|referrers)/.*")


@dataclass(frozen=True, slots=True)
class Product:
    """A product and its deviations from the specification.

    ``absent`` is the refusal of a push to a repository or project that does not exist: status, code and message with
    ``{repository}`` and ``{project}``. ``created`` says which of both must exist. ``auth`` is ``basic``, ``token`` or none.
    """

    name: str
    auth: str = ""
    token_seconds: int | None = None
    null_lists: bool = False
    lists_catalog: bool = True
    lists_referrers: bool = True
    mounts: bool = True
    deletes_sessions: bool = True
    largest_patch: int | None = None
    smallest_patch: int | None = None
    patch_status: int = 202
    patch_location: bool = True
    created: str = ""
    absent: tuple[int, str, str] = (404, "NAME_UNKNOWN", "repository name not known to registry")
    link: Callable[[str, str], str] = lambda path, _host: path
    """Changes the path of a `Link`, given that and the host."""
    only_oci: int = 0
    """The status with which manifests of Docker's types are refused."""
    head_has_digest: bool = True
    largest_page: int | None = None


ECR: Final = Product(
    "ecr",
    auth="basic",
    lists_catalog=False,
    mounts=False,
    deletes_sessions=False,
    smallest_patch=5 * MIB,
    patch_status=201,
    patch_location=False,
    created="repository",
    absent=(
        404,
        "NAME_UNKNOWN",
        "The repository with name '{repository}' does not exist in the registry with id '123456789012'",
    ),
    largest_page=1000,
)
GHCR: Final = Product(
    "ghcr",
    auth="token",
    token_seconds=300,
    lists_catalog=False,
    lists_referrers=False,
    mounts=False,
    largest_patch=4 * MIB,
)
GITLAB: Final = Product(
    "gitlab",
    auth="token",
    token_seconds=300,
    lists_catalog=False,
    lists_referrers=False,
    created="project",
    absent=(403, "DENIED", "requested access to the resource is denied"),
)
HARBOR: Final = Product(
    "harbor",
    auth="token",
    token_seconds=1800,
    null_lists=True,
    created="project",
    absent=(404, "NOT_FOUND", "project {project} not found"),
)
ARTIFACTORY: Final = Product(
    "artifactory",
    auth="basic",
    null_lists=True,
    lists_referrers=False,
    # Beside others, the link lacks the name of the virtual repository (RTFACT-18971).
    link=lambda path, _host: re.sub(r"^/v2/[^/]+/", "/v2/", path),
    head_has_digest=False,
)
NEXUS: Final = Product(
    "nexus",
    auth="basic",
    lists_referrers=False,
    mounts=False,
    deletes_sessions=False,
    # A connector on a port of its own does not serve this path.
    link=lambda path, host: f"http://{host}/repository/docker-hosted{path}",
)
ZOT: Final = Product("zot", auth="basic", only_oci=415)
PRODUCTS: Final = (ECR, GHCR, GITLAB, HARBOR, ARTIFACTORY, NEXUS, ZOT)


@dataclass
class _Times:
    """The times at which tokens end."""

    ends: dict[str, float] = field(default_factory=dict)


class KnownRegistry(OciRegistry):
    """A registry of a product. ``clock`` returns seconds, by which tokens end; ``existing`` are what was created."""

    user: Final = ("robot", "s3cr3t")

    def __init__(self, product: Product) -> None:
        self.product = product
        self.existing: set[str] = set()
        self.clock: Callable[[], float] = time.monotonic
        self._times = _Times()
        super().__init__(dict([self.user]) if product.auth == "token" else None)
        self.lists_referrers = product.lists_referrers

    def clear(self) -> None:
        """Reset everything."""
        super().clear()
        self.lists_referrers = self.product.lists_referrers
        self.existing.clear()
        self._times.ends.clear()

    def _authorize(self, asked: Request) -> None:
        if self.product.auth == "basic":
            pair = base64.b64encode(":".join(self.user).encode()).decode()
            if asked.headers.get("authorization") != f"Basic {pair}":
                challenge = f'Basic realm="https://{self.host}/",service="{self.product.name}"'
                raise RefusalError(401, "UNAUTHORIZED", headers={"WWW-Authenticate": challenge})
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if self.clock() >= self._times.ends.get(token, float("inf")):
            self._tokens.pop(token, None)
        super()._authorize(asked)

    def _token(self, asked: Request) -> Reply:
        reply = super()._token(asked)
        assert isinstance(reply.body, bytes)
        value = json.loads(reply.body)
        if self.product.token_seconds is not None:
            value["expires_in"] = self.product.token_seconds
            self._times.ends[value["token"]] = self.clock() + self.product.token_seconds
        return replace(reply, body=json.dumps(value).encode())

    def _do(self, asked: Request) -> Reply:
        product = self.product
        if asked.path == "/v2/_catalog" and not product.lists_catalog:
            raise RefusalError(401 if product.auth == "token" else 405, "UNSUPPORTED", "the operation is unsupported")
        if not asked.path.startswith("/v2/"):
            return Reply(400, b"<html><body>Bad Request</body></html>", {"Content-Type": "text/html"})
        if (match := _NAME.fullmatch(asked.path)) and product.created:
            self._check_exists(match["name"], asked.method)
        reply = super()._do(asked)
        if asked.method == "HEAD" and "/manifests/" in asked.path and not product.head_has_digest:
            reply = replace(reply, headers=_without(reply, "Docker-Content-Digest"))
        return reply

    def _check_exists(self, name: str, method: str) -> None:
        project = name.partition("/")[0]
        wanted = name if self.product.created == "repository" else project
        if wanted in self.existing or name in self.store.repositories:
            return
        status, code, message = self.product.absent
        if method in ("GET", "HEAD"):
            raise RefusalError(404, "NAME_UNKNOWN")
        raise RefusalError(status, code, message.format(repository=name, project=project))

    def _list(self, asked: Request, names: list[str], key: str, more: dict[str, object]) -> Reply:
        if self.product.largest_page is not None and int(asked.query("n") or 0) > self.product.largest_page:
            raise RefusalError(400, "UNSUPPORTED", "Invalid parameter at 'maxResults' failed to satisfy constraint")
        reply = super()._list(asked, names, key, more)
        assert isinstance(reply.body, bytes)
        value = json.loads(reply.body)
        if self.product.null_lists and not value[key]:
            value[key] = None
        headers = dict(reply.headers)
        if "Link" in headers:
            target = headers["Link"].partition("<")[2].partition(">")[0]
            headers["Link"] = f'<{self.product.link(target, self.host)}>; rel="next"'
        return replace(reply, body=json.dumps(value).encode(), headers=headers)

    def _manifest(self, asked: Request, match: re.Match[str]) -> Reply:
        media_type = asked.headers.get("content-type", "")
        if asked.method == "PUT" and self.product.only_oci and media_type not in (OCI_MANIFEST, OCI_INDEX):
            raise RefusalError(self.product.only_oci, "MANIFEST_INVALID", f"mediaType:{media_type}")
        return super()._manifest(asked, match)

    def _upload(self, asked: Request, match: re.Match[str]) -> Reply:
        product, size = self.product, len(asked.body)
        if asked.method == "DELETE" and not product.deletes_sessions:
            raise RefusalError(405, "UNSUPPORTED", "the operation is unsupported")
        if asked.method == "POST" and asked.query("mount") and not product.mounts:
            return self._upload_accepted(202, self.store.begin(match["name"]))
        if asked.method == "PATCH":
            if product.largest_patch is not None and size > product.largest_patch:
                what = "the request body is too large and exceeds the maximum permissible limit of 4.00MiB"
                raise RefusalError(416, "REQUESTED_RANGE_NOT_SATISFIABLE", what)
            self._check_parts(asked, match)
        reply = super()._upload(asked, match)
        if asked.method == "PATCH":
            headers = reply.headers if product.patch_location else _without(reply, "Location")
            reply = replace(reply, status=product.patch_status, headers=headers)
        return reply

    def _check_parts(self, asked: Request, match: re.Match[str]) -> None:
        """Refuse to continue after a part that is too small; only the last may be."""
        least, session = self.product.smallest_patch, self._session(asked, match)
        if least is not None and session.data and len(session.data) % least and len(session.data) < least:
            raise RefusalError(
                400, "BLOB_UPLOAD_INVALID", "All layer parts except the last part should be at least 5MB"
            )

    def _session(self, asked: Request, match: re.Match[str]) -> Session:
        if not self.product.patch_location:  # its locations have no state
            found = self.store.sessions.get(match["session"])
            if found is None or found.repository != match["name"]:
                raise RefusalError(404, "BLOB_UPLOAD_UNKNOWN")
            return found
        return super()._session(asked, match)

    def create(self, name: str) -> None:
        """Create a repository, or a project."""
        self.existing.add(name)
        if self.product.created == "repository":
            self.store.repositories.setdefault(name, Repository())


def _without(reply: Reply, name: str) -> dict[str, str]:
    """Return the headers of a reply without one."""
    return {each: value for each, value in dict(reply.headers).items() if each != name}
