"""The content of the registry behind the stand-in for Quay, from requests or from its notifications."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.standins.quay_store import Tag

Authorization = Callable[[str], str]  # scope -> value of the header, as the `authorization` of a registry's auth

_LISTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG: Final = re.compile(r"application/vnd\.(oci\.image\.config\.v1|docker\.container\.image\.v1)\+json")
_NEXT: Final = re.compile(r'<([^>]+)>;\s*rel="?next"?')


@dataclass(frozen=True, slots=True)
class Source:
    """A registry: its address, its readers' credentials, and the certificate to trust in PEM form."""

    url: str
    authorization: Authorization | None = None
    ca: str | None = None

    def read(self) -> dict[str, dict[str, Tag]]:
        """Return its content: repository -> tag -> the tag's manifest."""
        with _Reader(self) as reader:
            return {name: dict(reader.tags(name)) for name in list(reader.repositories())}


class _Reader:
    """A persistent connection to the registry."""

    def __init__(self, source: Source) -> None:
        self._authorization = source.authorization
        parts = urlsplit(source.url)
        assert parts.hostname is not None, source.url
        if parts.scheme == "https":
            context = ssl.create_default_context(cadata=source.ca)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=30, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def repositories(self) -> Iterator[str]:
        path: str | None = "/v2/_catalog?n=1000"
        while path is not None:
            headers, body = self._get(path, "registry:catalog:*")
            yield from json.loads(body)["repositories"] or ()
            link = _NEXT.search(headers.get("Link", ""))
            path = link[1] if link else None

    def tags(self, repository: str) -> Iterator[tuple[str, Tag]]:
        scope = f"repository:{repository}:pull"
        _, body = self._get(f"/v2/{repository}/tags/list", scope, or_else=b'{"tags":null}')
        for name in json.loads(body)["tags"] or ():
            headers, manifest = self._get(f"/v2/{repository}/manifests/{name}", scope)
            references = json.loads(manifest).get("layers", ())
            yield name, tag_of(headers["Docker-Content-Digest"], headers["Content-Type"], references)

    def _get(self, path: str, scope: str, or_else: bytes | None = None) -> tuple[Mapping[str, str], bytes]:
        headers = {"Accept": ", ".join((*_LISTS, *_MANIFESTS, "application/json"))}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization(scope)
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status == 404 and or_else is not None:  # a repository whose last tag was deleted
            return {}, or_else
        assert response.status == 200, f"GET {path}: {response.status} {body[:200]!r}"
        return dict(response.getheaders()), body


def tag_of(digest: str, media_type: str, references: Iterable[Mapping[str, Any]]) -> Tag:
    """Return a tag as Quay would show it, from the descriptors in its manifest."""
    if media_type in _LISTS:
        return Tag(digest, None, is_list=True)
    layers = (r for r in references if _CONFIG.fullmatch(r.get("mediaType", "")) is None)
    return Tag(digest, sum(layer["size"] for layer in layers))


@dataclass(frozen=True, slots=True)
class Change:
    """A change in a registry's notification: ``tag`` is None if only a manifest was deleted by digest."""

    repository: str
    tag: str | None
    now: Tag | None
    digest: str | None = None


def changes(envelope: bytes) -> Iterator[Change]:
    """Yield the pushes of tags and the deletions in a notification, in order.

    https://distribution.github.io/distribution/about/notifications/
    """
    for event in json.loads(envelope)["events"]:
        target = event["target"]
        repository, tag, digest = target.get("repository"), target.get("tag"), target.get("digest")
        if event["action"] == "push" and tag:
            yield Change(repository, tag, tag_of(digest, target["mediaType"], target.get("references", ())))
        elif event["action"] == "delete" and (tag or digest):
            yield Change(repository, tag, None, digest)
