"""Imports run one way: functions → steps → kinds → clients, and anybody may use model, errors and config."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "layers/syncline/syncline"

# Room by room, what of Syncline's own it may import. A name stands for itself and for all below it.
ROOMS: Final[dict[str, tuple[str, ...]]] = {
    "model": (),
    "errors": (),
    "running_hash": (),
    "visible": (),
    "ownership": (),
    "patterns": ("errors",),
    "schedule": ("errors",),
    "secrets": ("errors",),
    "config": ("config", "errors", "model", "ownership", "schedule", "secrets", "patterns"),
    "messages": ("errors", "model"),
    # The memory of backups is what their kind asks to be remembered.
    "store": ("errors", "kinds.backups.memory", "messages", "model", "ownership", "store"),
    "telemetry": ("messages", "model", "secrets", "visible"),
    # What a token server gives out is a secret too, and a server may repeat a secret in its words.
    "clients": ("clients", "errors", "secrets.redact", "secrets.register"),
    "kinds": ("clients", "config", "errors", "kinds", "model", "ownership", "running_hash", "patterns", "visible"),
    # A step knows what a kind is, and no kind by name.
    "steps": (
        "config",
        "errors",
        "kinds.kind",
        "messages",
        "model",
        "secrets",
        "steps",
        "store",
        "telemetry",
    ),
    # What answers at a function URL.
    "web": (
        "config",
        "errors",
        "messages",
        "model",
        "secrets",
        "steps.discover",
        "store",
        "telemetry",
        "visible",
        "web",
    ),
    # Tokens as a service: it knows their kind, and nothing of tables.
    "service": (
        "clients",
        "config",
        "errors",
        "kinds.kind",
        "kinds.tokens",
        "model",
        "secrets",
        "service",
        "telemetry",
    ),
    "wiring": (
        "clients",
        "config",
        "errors",
        "kinds",
        "messages",
        "model",
        "secrets",
        "steps",
        "store",
        "telemetry",
        "web",
        "wiring",
    ),
    "wiring_tokens": (
        "clients",
        "config",
        "errors",
        "kinds.tokens",
        "secrets",
        "service",
        "store",
        "telemetry",
        "wiring_tokens",
    ),
    "functions": ("model", "telemetry", "wiring", "wiring_tokens"),
    "cli": (
        "cli",
        "clients",
        "config",
        "errors",
        "kinds.artifacts",  # whose commands need no engine
        "kinds.kind",
        "kinds.backups",  # restores on the person's machine
        "messages",
        "model",
        "schedule",
        "secrets",
        "patterns",
        "store",
        "kinds.files",  # whose state it writes and reads
        "wiring",
        "visible",
    ),
}

# What of others' only these may import, besides `cli` and, for what it makes, `wiring`.
ONLY: Final[dict[str, tuple[str, ...]]] = {
    "boto3": ("secrets",),
    "botocore": ("clients", "secrets", "steps", "store", "web"),
    "boto3.dynamodb": ("store",),
    "mypy_boto3_dynamodb": ("store",),
    "mypy_boto3_sqs": ("messages",),
    "mypy_boto3_secretsmanager": ("secrets",),
    "mypy_boto3_ssm": ("secrets",),
    "aws_lambda_powertools": ("functions", "service", "steps", "telemetry", "web"),
    "kubernetes": ("clients",),
    "httptools": ("service",),
    "prometheus_client": ("service", "web"),
    "urllib3": ("clients",),
    "docker": ("clients",),
    "pydantic": ("config", "secrets"),
    "yaml": ("clients", "config", "kinds"),  # a client's is the kubeconfig, a kind's what it backs up
}


def _files() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "functions").rglob("*.py")])


def _room(path: Path) -> str:
    """The room a file belongs to: its folder, or its own name."""
    if not path.is_relative_to(PACKAGE):
        return "functions"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it, and the names it takes from each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_below(name: str, above: str) -> bool:
    return name == above or name.startswith(f"{above}.")


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_the_rooms_below_it(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        assert list(_imports(path)) == []
        return
    own = [name.removeprefix("syncline.") for name in _imports(path) if name.startswith("syncline.")]
    wrong = [n for n in own if n != "__version__" and not any(_is_below(n, a) for a in ROOMS[room])]
    assert wrong == [], f"{room} must not import {wrong}"


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_belongs_to_one_room_is_imported_there_only(path: Path) -> None:
    room = _room(path)
    if room in ("cli", "wiring", "wiring_tokens"):
        return
    wrong = [
        name
        for name in _imports(path)
        for theirs, rooms in ONLY.items()
        if _is_below(name, theirs) and room not in rooms
    ]
    assert wrong == []


def test_every_rule_speaks_of_a_room_that_is_there() -> None:
    rooms = {_room(path) for path in _files()} - {"__init__"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("syncline.model", ("boto3", "pydantic", "urllib3", "syncline.errors")),
        (
            "syncline.clients.registry.client",
            ("boto3", "docker", "syncline.config", "syncline.model", "syncline.kinds"),
        ),
        (
            "syncline.kinds.images",
            ("boto3", "docker", "aws_lambda_powertools", "syncline.messages", "syncline.store.state"),
        ),
        ("syncline.wiring", ("docker", "kubernetes", "yaml", "syncline.cli", "syncline.service")),
        (
            "syncline.wiring_tokens.probing",
            (
                "boto3",
                "docker",
                "httptools",
                "kubernetes",
                "yaml",
                "prometheus_client",
                "syncline.clients.kubernetes.client",
                "syncline.steps",
            ),
        ),
        ("syncline.clients.kubernetes.client", ("kubernetes", "yaml", "boto3")),
    ],
)
def test_nothing_comes_along_that_was_not_asked_for(module: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    path = f"{PACKAGE.parent}"
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert loaded.isdisjoint(absent), loaded & set(absent)
