"""Verify that dr equals prod without Syncline's code: with skopeo, or with client requests."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from demo.catalog import SIGNED
from demo.settings import USER, Settings, credentials_file, folder
from demo.signature import is_valid, key_pair, tag_for
from tests.standins.programs import ProgramAbsentError, program

_MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_THREADS: Final = 4
_TIMEOUT: Final = 30.0  # seconds

Read = Callable[[str, str, str], bytes | None]
"""Takes server, repository and reference; returns the exact bytes of a manifest, or None if it does not exist."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing prod and dr. ``reader`` names the program that read them.

    ``differing`` are tags that are missing at dr or differ there.
    """

    reader: str
    tags: int
    repositories: int
    differing: tuple[str, ...]


def compare(settings: Settings) -> Comparison:
    """Read the manifest of every tag of prod at both registries and compare their bytes."""
    client = PlainClient(settings)
    reader, read = _reader(settings, client)
    tags = client.tags("prod")

    def differs(tag: tuple[str, str]) -> bool:
        expected = read("prod", *tag)
        return expected is None or expected != read("dr", *tag)

    with ThreadPoolExecutor(_THREADS) as pool:
        differing = [
            f"{name}:{tag}" for (name, tag), differ in zip(tags, pool.map(differs, tags), strict=True) if differ
        ]
    return Comparison(reader, len(tags), len({name for name, _ in tags}), tuple(differing))


def signature_is_valid(settings: Settings) -> bool:
    """Return True if the signature at dr is valid for the image at dr."""
    client = PlainClient(settings)
    repository, tag = SIGNED
    image = client.manifest("dr", repository, tag)
    if image is None:
        return False
    digest = f"sha256:{hashlib.sha256(image).hexdigest()}"
    signature = client.manifest("dr", repository, tag_for(digest))
    if signature is None:
        return False
    manifest = json.loads(signature)
    payload = client.blob("dr", repository, manifest["layers"][0]["digest"])
    return is_valid(manifest, payload, digest, public_key())


def public_key() -> Path:
    """Return the file with the public key of the sample's signature."""
    return key_pair(folder())[1]


class PlainClient:
    """A client for both registries that uses only `requests`, and ignores settings in the environment."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update({"Accept": ", ".join(_MANIFEST_TYPES), "Accept-Encoding": "identity"})
        if settings.real:
            self._session.auth = (USER, settings.password)

    def tags(self, server: str) -> list[tuple[str, str]]:
        """Return every repository and tag."""
        names = self._found(server, "_catalog?n=1000").json()["repositories"]
        return [(name, tag) for name in names for tag in self._found(server, f"{name}/tags/list?n=1000").json()["tags"]]

    def manifest(self, server: str, repository: str, reference: str) -> bytes | None:
        """Return the exact bytes of a manifest, or None if it does not exist."""
        response = self._get(server, f"{repository}/manifests/{reference}")
        return response.content if response.status_code == 200 else None

    def blob(self, server: str, repository: str, digest: str) -> bytes:
        """Return the bytes of a blob."""
        return self._found(server, f"{repository}/blobs/{digest}").content

    def _get(self, server: str, path: str) -> requests.Response:
        return self._session.get(f"{self._url(server)}/v2/{path}", timeout=_TIMEOUT)

    def _found(self, server: str, path: str) -> requests.Response:
        response = self._get(server, path)
        response.raise_for_status()
        return response


def _reader(settings: Settings, client: PlainClient) -> tuple[str, Read]:
    try:
        skopeo = program("skopeo")
    except ProgramAbsentError:
        return "plain requests", client.manifest
    options = ("--raw", "--tls-verify=false", "--authfile", str(credentials_file()))

    def inspect(server: str, repository: str, reference: str) -> bytes | None:
        image = f"docker://{settings.host(server)}/{repository}:{reference}"
        command = [skopeo, "inspect", *options, image]
        ended = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - a fixed program, no shell
        if ended.returncode != 0 and server == "prod":  # prod has every tag that is read
            raise RuntimeError(f"skopeo cannot read {image}: {ended.stderr.decode(errors='replace').strip()[-300:]}")
        return ended.stdout if ended.returncode == 0 else None

    return "skopeo inspect --raw", inspect
