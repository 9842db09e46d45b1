"""The step chain from GitHub to a registry: builds, their images, and invariants after every run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from syncline.model import Outcome, Run
from tests.rig.chain import Chain
from tests.rig.images import SYNC
from tests.standins import saved
from tests.standins.github import TOKEN, GitHubServer, Stored, zipped
from tests.standins.github import Run as WorkflowRun
from tests.standins.oci import OciRegistry

EXAMPLE: Final = Path(__file__).parents[2] / "examples/artifacts-presto.yaml"
PROJECT: Final = "group/project"
KEYS: Final = {
    "Presto repository": "prestodb/presto",
    "Velox repository": "rapidsai/velox",
    "Worker bundle mode": "all_native",
    "Registry push": "false",
    "Generated at": "2023-11-14T22:30:00Z",
}
BASE: Final = saved.layer({"bin/sh": b"a base that all images share " * 500})


def block(tag: str, *, java: bool = False, gpu: bool = False) -> dict[str, str]:
    """Return the values of a build with an image tag, as its log names them."""
    platform = "linux/" + tag.rpartition("-")[2]
    flags = {"Build native CPU": "true", "Build native GPU": str(gpu).lower(), "Build Java worker": str(java).lower()}
    return {
        "Presto ref": "92865fb",
        "Velox ref": "65797d5",
        "Target platform": platform,
        **flags,
        "Image tag": tag,
        **KEYS,
    }


def log(values: Mapping[str, str]) -> str:
    """Return a job's log: the step's script with its variables, then its output."""
    at = "2023-11-14T22:30:00.1234567Z "
    script = [f'echo "{key}: ${{{key.upper().replace(" ", "_")}}}"' for key in values]
    lines = ["##[group]Run print the metadata", *(f"\x1b[36;1m{line}\x1b[0m" for line in script), "##[endgroup]"]
    lines += ["Image build metadata", *(f"{key}: \x1b[1m{value}\x1b[0m" for key, value in values.items()), "Done"]
    return "\ufeff" + "".join(f"{at}{line}\n" for line in lines)


def image(name: str, tag: str, *layers: bytes) -> saved.Image:
    return saved.Image([BASE, *(layers or (saved.layer({name: f"{name} {tag}".encode()}),))], f"{name}:{tag}")


def expected(values: Mapping[str, str]) -> list[str]:
    kinds = {
        "Build Java worker": "java-worker",
        "Build native CPU": "native-worker-cpu",
        "Build native GPU": "native-worker-gpu",
    }
    return ["presto-coordinator", *(f"presto-{kind}" for key, kind in kinds.items() if values[key] == "true")]


def build(number: int, tag: str, images: Sequence[saved.Image] | None = None, **flags: bool) -> WorkflowRun:
    """Return a run with an archive for each announced image, of a Docker before 25 and a later one in turn."""
    values = block(tag, **flags)
    images = images if images is not None else [image(name, tag) for name in expected(values)]
    forms = (saved.since_25, saved.until_24)
    files = {
        f"{each.name.partition(':')[0]}-{tag}.tar.gz": gzip.compress(forms[(number + at) % 2](each), 1)
        for at, each in enumerate(images)
    }
    artifact = Stored(number * 10, f"images-{tag}", zipped(files))
    logs = {"0_build.txt": log(values), "build/3_Print metadata.txt": log(values), "1_other.txt": "\ufeffnothing\n"}
    created = 1_700_000_000.0 + number
    return WorkflowRun(number, logs, [artifact], "presto-build-images.yml", created=created, updated=created + 3600)


class ArtifactsChain(Chain):
    """GitHub, a registry and the steps between them."""

    def __init__(self, github: GitHubServer, target: OciRegistry, seed: int = 1) -> None:
        super().__init__(SYNC, {"GITHUB_TOKEN": TOKEN}, seed)
        self.github = github
        self.target = target

    def configure(self, **more: Any) -> None:
        """Apply the example's sync with the servers of this chain."""
        self.apply(config(self.github, self.target.host, **more))

    def config_digest(self, repository: str, tag: str) -> str | None:
        store = self.target.store
        digest = store.digest(repository, tag)
        return (
            None if digest is None else str(json.loads(store.manifest(repository, digest)[1].body)["config"]["digest"])
        )

    def check_images(self, images: Mapping[tuple[str, str], saved.Image]) -> Run:
        """Check that the latest run succeeded and the registry holds every complete image and only aliases besides."""
        run = self.check_ended()
        assert not self.target.store.broken()
        for (repository, tag), each in images.items():
            assert self.config_digest(f"{PROJECT}/{repository}", tag) == f"sha256:{each.id}", (repository, tag)
        there = {key for key in self.target.store.tags() if key[1] != "latest"}
        assert there == {(f"{PROJECT}/{repository}", tag) for repository, tag in images}
        outcomes = {result.outcome for result in self.results(run).values()}
        assert outcomes <= {Outcome.MOVED, Outcome.EQUAL}, self.results(run)
        return run


def config(github: GitHubServer, registry: str, **more: Any) -> dict[str, Any]:
    """Return the example's sync with the servers of a test."""
    values = yaml.safe_load(EXAMPLE.read_text())["syncs"]["presto-images"]
    values["source"] |= {"url": github.url, "repository": github.repository, "auth": {"token": "env:GITHUB_TOKEN"}}
    values["target"] = {"registry": registry, "plain_http": True, "project": PROJECT}
    values["build"]["metadata"].pop("check")  # the tags here are shorter
    values |= {"name": SYNC, **more}
    values.pop("webhook"), values.pop("schedule")
    return dict(values)


class ArtifactsWorld:
    """GitHub and a registry, used by one chain after another."""

    def __init__(self, github: GitHubServer, target: OciRegistry) -> None:
        self.github = github
        self.target = target

    def chain(self, runs: Sequence[WorkflowRun], seed: int = 1, **config: Any) -> ArtifactsChain:
        """Return a chain with these builds and an empty registry, its sync applied."""
        self.target.clear()
        github = self.github
        github.runs, github.requests[:], github.ranges[:], github.skew = list(runs), [], [], 0.0
        github.attestations = {}
        github.cut, github.before = [], lambda _method, _target: None
        chain = ArtifactsChain(github, self.target, seed)
        chain.configure(**config)
        return chain
