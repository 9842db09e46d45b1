"""Table of all targets."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from tests.fuzz.target import Target

CORPUS: Final = Path(__file__).parent / "corpus"
RECORD: Final = Path(__file__).parent / "record.json"
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "texts": ("references", "addresses", "links", "challenges", "tokens", "git-words", "times"),
    "answers": (
        *("registry", "manifests", "bucket", "s3-xml", "github", "gitlab", "quay", "file-manager"),
        *("probe", "cluster"),
    ),
    "inputs": ("webhooks", "console", "events", "messages", "syncs-yaml", "docker-credentials"),
    "documents": ("secrets", "packed", "git-objects", "git-batch", "build-logs"),
    "archives": ("tar", "compressed", "zip", "saved-image", "descriptions"),
}
"""Names of the targets by module. A process imports only the module that it fuzzes."""
NAMES: Final = tuple(name for names in GROUPS.values() for name in names)


def target_of(name: str) -> Target:
    """Return a target by its name."""
    module = next(module for module, names in GROUPS.items() if name in names)
    targets: tuple[Target, ...] = import_module(f"tests.fuzz.{module}").TARGETS
    return next(target for target in targets if target.name == name)


def kept(name: str) -> list[Path]:
    """Return the files of a target's corpus, in order."""
    return sorted((CORPUS / name).glob("*"))
