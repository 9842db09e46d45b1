"""The proof that dr is what prod is, found without Syncline's own code: by skopeo, or else by plain requests."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.catalog import SIGNED
from demo.settings import USER, Settings, credentials_file, folder
from demo.signature import key_pair, signs, tag_for
from tests.standins.programs import ProgramAbsentError, program
from tests.standins.registry import Htpasswd, Registry, basic

_MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_AT_ONCE: Final = 4

Read = Callable[[str, str, str], bytes | None]
"""(server, repository, reference) -> a manifest's exact bytes, None if it is not there."""


@dataclass(frozen=True, slots=True)
class Proof:
    """``witness`` is who looked, ``differing`` the tags that dr does not have as prod has them."""

    witness: str
    tags: int
    repositories: int
    differing: tuple[str, ...]


def compare(settings: Settings) -> Proof:
    """Read the manifest of every tag of prod at both registries and compare their bytes."""
    plain = Plain(settings)
    witness, read = _witness(settings, plain)
    tags = plain.tags("prod")

    def differs(tag: tuple[str, str]) -> bool:
        here = read("prod", *tag)
        return here is None or here != read("dr", *tag)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        differing = [f"{name}:{tag}" for (name, tag), wrong in zip(tags, pool.map(differs, tags), strict=True) if wrong]
    return Proof(witness, len(tags), len({name for name, _ in tags}), tuple(differing))


def signature_holds(settings: Settings) -> bool:
    """Whether the signature that was copied to dr holds for the image that was copied to dr."""
    plain = Plain(settings)
    repository, tag = SIGNED
    image = plain.manifest("dr", repository, tag)
    if image is None:
        return False
    digest = f"sha256:{hashlib.sha256(image).hexdigest()}"
    signature = plain.manifest("dr", repository, tag_for(digest))
    if signature is None:
        return False
    manifest = json.loads(signature)
    payload = plain.blob("dr", repository, manifest["layers"][0]["digest"])
    return signs(manifest, payload, digest, public_key())


def public_key() -> Path:
    """The file with the public half of the key that signs the sample."""
    return key_pair(folder())[1]


class Plain:
    """The two registries by nothing but requests."""

    def __init__(self, settings: Settings) -> None:
        auth = Htpasswd({USER: settings.password}) if settings.real else None
        self._servers = {name: Registry(auth=auth, port=settings.ports[name]) for name in ("prod", "dr")}
        self._headers = {"Accept": ", ".join(_MANIFEST_TYPES)}
        if auth is not None:
            self._headers["Authorization"] = basic(USER, settings.password)

    def tags(self, server: str) -> list[tuple[str, str]]:
        """Every repository and tag."""
        names = self._json(server, "/v2/_catalog?n=1000")["repositories"]
        return [(name, tag) for name in names for tag in self._json(server, f"/v2/{name}/tags/list?n=1000")["tags"]]

    def manifest(self, server: str, repository: str, reference: str) -> bytes | None:
        answer = self._servers[server].request("GET", f"/v2/{repository}/manifests/{reference}", headers=self._headers)
        return answer.body if answer.status == 200 else None

    def blob(self, server: str, repository: str, digest: str) -> bytes:
        return self._servers[server].authorized("GET", f"/v2/{repository}/blobs/{digest}").body

    def _json(self, server: str, path: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._servers[server].authorized("GET", path).body)
        return value


def _witness(settings: Settings, plain: Plain) -> tuple[str, Read]:
    try:
        skopeo = program("skopeo")
    except ProgramAbsentError:
        return "plain requests", plain.manifest
    options = ("--raw", "--tls-verify=false", "--authfile", str(credentials_file()))

    def inspect(server: str, repository: str, reference: str) -> bytes | None:
        image = f"docker://{settings.host(server)}/{repository}:{reference}"
        command = [skopeo, "inspect", *options, image]
        ended = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - a fixed program, no shell
        if ended.returncode != 0 and server == "prod":  # where the tag is for sure
            raise RuntimeError(f"skopeo cannot read {image}: {ended.stderr.decode(errors='replace').strip()[-300:]}")
        return ended.stdout if ended.returncode == 0 else None

    return "skopeo inspect --raw", inspect
