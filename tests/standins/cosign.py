"""The program cosign, and a recording of what it puts into a registry.

``python -m tests.standins.cosign`` signs images with the program and records their repositories, so that the tests that
use the recording need no program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.standins.registry import Registry
from tests.standins.sigstore import OCI_INDEX, PROVENANCE, manifest_of

RECORDING: Final = Path(__file__).parents[1] / "fixtures/sigstore/cosign.json"
FORMS: Final = {
    "tags": (),
    "referrers": ("--registry-referrers-mode=oci-1-1",),
    "bundles": ("--new-bundle-format",),
}
"""The forms in which cosign stores signatures, and its options for each."""
ATTESTED: Final = ("tags", "bundles")
"""The forms in which cosign stores attestations."""
_LIMIT: Final = 120.0


def cosign_path() -> str | None:
    """Return the path of the program, None if it is not installed."""
    return shutil.which("cosign", path=f"{os.environ.get('PATH', os.defpath)}:{Path.home() / 'go/bin'}")


class Cosign:
    """The program with a key pair in a folder. It uses no network but the registry."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self.folder = folder
        self.run("generate-key-pair")

    @property
    def public_key(self) -> str:
        return (self.folder / "cosign.pub").read_text()

    def run(self, *arguments: str, **environment: str) -> str:
        """Run the program and return its output. Fail if it fails."""
        environ = {
            **os.environ,
            "COSIGN_PASSWORD": "",
            "COSIGN_EXPERIMENTAL": "1",
            "TUF_ROOT": str(self.folder / "tuf"),
        }
        done = subprocess.run(
            [self._program, *arguments],
            cwd=self.folder,
            env=environ | environment,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"cosign {' '.join(arguments)}: {done.stderr[-1000:]}"
        return done.stdout

    def sign(self, registry: Registry, repository: str, digest: str, form: str) -> None:
        """Sign an image with the key, and attest its provenance if the form has attestations."""
        predicate = self.folder / "predicate.json"
        predicate.write_text(json.dumps({"buildDefinition": {"buildType": "https://example.com"}, "runDetails": {}}))
        common = ("--key", "cosign.key", "--tlog-upload=false", "--yes", "--allow-insecure-registry", *FORMS[form])
        image = f"{registry.host}/{repository}@{digest}"
        self.run("sign", *common, image)
        if form in ATTESTED:
            self.run("attest", *common, "--type", PROVENANCE, "--predicate", str(predicate), image)


def record(cosign: Cosign) -> dict[str, Any]:
    """Return a repository for each form of signatures: its manifests by tag or digest, and its blobs."""
    found: dict[str, Any] = {}
    with Registry() as registry:
        for form in FORMS:
            digest = registry.push_image(form, "v1", (f"the layer of {form}".encode(),))
            cosign.sign(registry, form, digest, form)
            tags = json.loads(registry.authorized("GET", f"/v2/{form}/tags/list").body)["tags"]
            manifests: list[list[str]] = []
            blobs: dict[str, str] = {}
            waiting = sorted(tags)
            while waiting:
                reference = waiting.pop()
                body = manifest_of(registry, form, reference).decode()
                value = json.loads(body)
                manifests.insert(0, [reference, value["mediaType"], body])
                waiting += [each["digest"] for each in value.get("manifests", [])]
                for blob in [value[key] for key in ("config",) if key in value] + value.get("layers", []):
                    path = f"/v2/{form}/blobs/{blob['digest']}"
                    blobs[blob["digest"]] = registry.authorized("GET", path).body.decode()
            found[form] = {"image": digest, "manifests": manifests, "blobs": sorted(blobs.values())}
    return {"public_key": cosign.public_key, "repositories": found}


def replay(registry: Registry, repository: str, form: str) -> str:
    """Push a recorded repository, and return the digest of its image."""
    recorded = json.loads(RECORDING.read_text())["repositories"][form]
    for blob in recorded["blobs"]:
        registry.push_blob(repository, blob.encode())
    # An index is refused before its children.
    for reference, media_type, body in sorted(recorded["manifests"], key=lambda each: each[1] == OCI_INDEX):
        registry.push_manifest(repository, reference, body.encode(), media_type)
    return str(recorded["image"])


def recorded_key() -> str:
    """Return the public key of the recorded signatures."""
    return str(json.loads(RECORDING.read_text())["public_key"])


def main() -> None:
    program = cosign_path()
    assert program is not None, "cosign is not installed: go install github.com/sigstore/cosign/v2/cmd/cosign@latest"
    with tempfile.TemporaryDirectory() as folder:
        RECORDING.write_text(json.dumps(record(Cosign(program, Path(folder))), indent=1) + "\n")


if __name__ == "__main__":
    main()
