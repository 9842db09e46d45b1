"""The `syncline artifacts` command with its options for the servers of the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from syncline.cli.main import app
from syncline.clients.registry.manifest import MANIFEST_TYPES
from tests.rig.artifacts import block, expected, image
from tests.standins.github import TOKEN
from tests.standins.registry import Registry

TAG = "presto-1-linux-amd64"
COORDINATOR = "x86/presto-coordinator"
IMAGE = image("presto-coordinator", TAG)


@dataclass
class Command:
    """The command in a folder with a `syncs.yaml`; ``environ`` is its environment."""

    folder: Path
    project: str
    registry: Registry
    environ: dict[str, str]

    def __call__(self, *arguments: str, code: int = 0, answers: str | None = None) -> dict[str, Any]:
        """Run a subcommand; return its JSON output. With ``answers`` to its questions, it prints no JSON."""
        as_json = ["--json"] if answers is None else []
        done = CliRunner().invoke(app, ["artifacts", *arguments, *as_json], env=self.environ, input=answers)
        assert done.exit_code == code, (done.output, done.exception)
        assert TOKEN not in done.output
        return dict(json.loads(done.stdout)) if answers is None and done.stdout else {}

    def config_digest(self, repository: str, tag: str) -> str | None:
        path = f"/v2/{self.project}/{repository}/manifests/{tag}"
        accept = {"Accept": ", ".join(MANIFEST_TYPES)}
        rights = (
            self.registry.auth.authorization(f"repository:{self.project}/{repository}:pull")
            if self.registry.auth
            else ""
        )
        answer = self.registry.request("GET", path, None, {**accept, "Authorization": rights})
        return str(json.loads(answer.body)["config"]["digest"]) if answer.status == 200 else None


def images(**flags: bool) -> Mapping[str, str]:
    """Return the config digests of the build's images by repository."""
    return {f"x86/{name}": f"sha256:{image(name, TAG).id}" for name in expected(block(TAG, **flags))}
