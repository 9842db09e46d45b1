"""The builds of a workflow, and the configuration with which a sync reads them."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.github.client import Artifact
from tests.simulation.models.builds import image_of

REPOSITORY: Final = "team/builds"
WORKFLOW: Final = "build-images.yml"
PROJECT: Final = "group/project"
COORDINATOR: Final = "presto-coordinator"
WORKERS: Final = {
    "presto-java-worker": "Build Java worker",
    "presto-native-worker-cpu": "Build native CPU",
    "presto-native-worker-gpu": "Build native GPU",
}
STEMS: Final = ("presto-92865fb-velox-65797d5", "presto-0a1b2c3-velox-65797d5", "presto-92865fb-velox-fedcba9")
PLATFORMS: Final = {"linux-amd64": "x86", "linux-arm64": "arm"}
INVALID_BLOCKS: Final[tuple[Mapping[str, str | None], ...]] = (
    {"Image tag": None},
    {"Velox ref": None},
    {"Presto ref": "another"},
    {"Generated at": "2020-01-01T00:00:00Z"},
)
"""Changed lines that make a metadata block invalid."""
Key = tuple[str, str]
"""A repository and a tag of the target."""


@dataclass(slots=True)
class Build:
    """The result of a run's last attempt.

    ``images`` has the config digest of each image that was saved, by name. ``wanted`` has the names in the metadata block,
    which is ``valid`` or not.
    """

    tag: str
    valid: bool
    images: dict[str, str] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()

    def key(self, name: str) -> Key:
        stem, _, platform = self.tag.rpartition("-linux-")
        return f"{PROJECT}/{PLATFORMS[f'linux-{platform}']}/{name}", stem


def build_rules() -> dict[str, Any]:
    """Return the part ``build`` of the configuration."""
    images: list[dict[str, Any]] = [{"name": COORDINATOR}]
    images += [{"name": name, "when": {key: "true"}} for name, key in WORKERS.items()]
    return {
        "metadata": {
            "keys": ["Presto ref", "Velox ref", "Target platform", *WORKERS.values(), "Image tag", "Generated at"],
            "required": ["Presto ref", "Velox ref", "Target platform", "Image tag"],
            "tag": "Image tag",
            "time": "Generated at",
            "check": "presto-{Presto ref:.12}-velox-{Velox ref:.12}-{Target platform}",
        },
        "images": images,
        "mapping": [
            {"tag": f"{{tag}}-{platform}", "to": f"{where}/{{image}}:{{tag}}"} for platform, where in PLATFORMS.items()
        ],
    }


def config_of(name: str, tag: str, layers: Iterable[bytes]) -> str:
    """Return the config digest of an image that a build saves."""
    return f"sha256:{image_of(name, tag, layers).id}"


def other_artifacts(rng: random.Random) -> dict[str, bytes]:
    """Return artifacts of a build that contain no images."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("results.xml", (2026, 1, 6, 16, 49, 50)), b"<tests/>")
    found = {"a-tests": file.getvalue(), "notes": b"not an archive of any kind"}
    return {name: found[name] for name in rng.sample(sorted(found), rng.randint(1, 2))}


def has_images(artifact: Artifact) -> bool:
    return artifact.name.startswith("images-")
