"""Imports run one way: functions → wiring → steps, web → kinds → clients. Anybody may use model, errors and config."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "layers/syncline/syncline"
SHARED: Final = ("errors", "escaping", "model", "ownership", "patterns", "schedule", "semver", "text")
"""Modules that import no other package, so every module may import them."""

# Imports from the package that are allowed. The first pattern that matches a file counts. A name includes all below it.
RULES: Final[dict[str, tuple[str, ...]]] = {
    "model.py": ("errors",),
    "errors.py": (),
    "running_hash.py": (),
    "escaping.py": (),
    "ownership.py": (),
    "patterns.py": ("errors",),
    "schedule.py": ("errors",),
    "semver.py": (),
    "text.py": (),
    "run_text.py": ("kinds.table", "store.failures", *SHARED),
    "progress.py": ("store", *SHARED),
    # What the command and the status page have in common.
    "operations.py": ("config", "messages", "run_text", "store", *SHARED),
    "environment.py": ("errors",),
    "secrets.py": ("environment", "errors"),
    "messages.py": ("errors", "model"),
    "telemetry.py": ("environment", "escaping", "messages", "model", "secrets"),
    "config/*.py": ("config", "kinds.table", "secrets", *SHARED),
    # A server may repeat a secret in its messages, and tokens of a token server are secrets.
    "clients/*.py": ("clients", "errors", "secrets.redact", "secrets.register"),
    "store/backup_records.py": ("errors",),
    "store/*.py": ("messages", "store", *SHARED),
    "kinds/table.py": (),
    "kinds/kind.py": ("errors", "model"),
    # A configuration imports no client: `apply` must start fast.
    "kinds/*/cli/*.py": ("cli", "clients", "config", "kinds", "run_text", "secrets", "store", "wiring", *SHARED),
    # `object_fields` has only the names of fields, and imports nothing.
    "kinds/*/config*.py": (
        "config",
        "kinds.*.config",
        "kinds.*.config_rules",
        "kinds.*.config_select",
        "kinds.backups.object_fields",
        "secrets",
        *SHARED,
    ),
    "kinds/*/wiring*.py": (
        "clients",
        "config",
        "environment",
        "kinds",
        "secrets",
        "store",
        "telemetry",
        "web",
        "wiring",
        *SHARED,
    ),
    "kinds/tokens/container.py": ("config", "kinds.tokens", "secrets", "telemetry", "web", *SHARED),
    "kinds/tokens/*.py": ("clients", "config", "kinds.kind", "kinds.tokens", "telemetry", *SHARED),
    "kinds/*.py": ("clients", "config", "kinds", "running_hash", "store.backup_records", *SHARED),
    "steps/*.py": (
        "config",
        "kinds.kind",
        "kinds.table",
        "messages",
        "run_text",
        "secrets",
        "steps",
        "store",
        "telemetry",
        *SHARED,
    ),
    # The probe is the web side of tokens.
    "web/*.py": (
        "config",
        "kinds.table",
        "kinds.tokens",
        "messages",
        "operations",
        "progress",
        "run_text",
        "secrets",
        "store",
        "telemetry",
        "web",
        *SHARED,
    ),
    "wiring/*.py": (
        "clients",
        "config",
        "environment",
        "kinds",
        "messages",
        "operations",
        "secrets",
        "steps",
        "store",
        "telemetry",
        "web",
        "wiring",
        *SHARED,
    ),
    "functions/*.py": ("kinds.*.wiring", "model", "telemetry", "wiring"),
    "cli/*.py": (
        "cli",
        "clients",
        "config",
        "kinds.table",
        "messages",
        "operations",
        "progress",
        "run_text",
        "secrets",
        "store",
        "wiring",
        *SHARED,
    ),
}

# Third-party packages, and the files that may import them.
ONLY: Final[dict[str, tuple[str, ...]]] = {
    "boto3": (
        "clients/registry/ecr.py",
        "cli/*",
        "kinds/*/wiring*",
        "kinds/tokens/container.py",
        "secrets.py",
        "wiring/*",
    ),
    "botocore": (
        "cli/*",
        "clients/*",
        "kinds/*/wiring*",
        "secrets.py",
        "operations.py",
        "steps/*",
        "store/*",
        "web/*",
        "wiring/*",
    ),
    "boto3.dynamodb": ("store/*",),
    "mypy_boto3_dynamodb": ("cli/*", "kinds/*/wiring*", "store/*", "wiring/*"),
    "mypy_boto3_sqs": ("cli/*", "messages.py", "wiring/*"),
    "mypy_boto3_secretsmanager": ("cli/*", "secrets.py"),
    "mypy_boto3_ssm": ("cli/*", "secrets.py"),
    "aws_lambda_powertools": ("functions/*", "kinds/tokens/metrics.py", "steps/*", "telemetry.py", "web/*"),
    "jinja2": ("web/*",),
    "kubernetes": ("clients/kubernetes/*",),
    "httptools": ("web/server.py",),
    "prometheus_client": ("kinds/backups/wiring_console.py", "kinds/tokens/metrics.py", "web/*", "wiring/console.py"),
    "pycurl": ("clients/*",),
    "urllib3": ("clients/kubernetes/*",),
    "docker": ("clients/layout/daemon.py", "clients/registry/docker_credentials.py"),
    "pydantic": ("cli/*", "config/*", "kinds/*/cli/*", "kinds/*/config*.py", "secrets.py"),
    "yaml": ("cli/*", "clients/kubernetes/*", "config/*", "kinds/backups/*"),
}


def _files() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "functions").rglob("*.py")])


def _name(path: Path) -> str:
    """Return the path of a file relative to the package, or to the repository for a function."""
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


def _imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, at any level, and the names that it imports from each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_below(name: str, above: str) -> bool:
    """Return True if a name is below another one, in which a part may be ``*``."""
    parts, wanted = name.split("."), above.split(".")
    return len(parts) >= len(wanted) and all(each in ("*", part) for part, each in zip(parts, wanted, strict=False))


FILES: Final = pytest.mark.parametrize("path", _files(), ids=_name)


@FILES
def test_an_init_module_imports_nothing(path: Path) -> None:
    if path.name == "__init__.py":
        assert list(_imports(path)) == [], "the import of a package must not import its modules"


@FILES
def test_a_file_imports_only_what_its_rule_allows(path: Path) -> None:
    if path.name == "__init__.py":
        return
    allowed = next(names for pattern, names in RULES.items() if fnmatch(_name(path), pattern))
    imported = [name.removeprefix("syncline.") for name in _imports(path) if name.startswith("syncline.")]
    wrong = [name for name in imported if name != "__version__" and not any(_is_below(name, each) for each in allowed)]
    assert wrong == [], f"{_name(path)} must not import {wrong}"


@FILES
def test_third_party_packages_are_imported_only_where_allowed(path: Path) -> None:
    wrong = [
        name
        for name in _imports(path)
        for theirs, patterns in ONLY.items()
        if _is_below(name, theirs) and not any(fnmatch(_name(path), pattern) for pattern in patterns)
    ]
    assert wrong == []


def test_every_rule_has_a_file() -> None:
    names = [_name(path) for path in _files() if path.name != "__init__.py"]
    patterns = [*RULES, *(pattern for each in ONLY.values() for pattern in each)]
    assert [each for each in patterns if not any(fnmatch(name, each) for name in names)] == []


def test_there_is_no_import_cycle() -> None:
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    needs = {
        module: {
            name if name in modules else name.rpartition(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("syncline")
            for name in (f"{node.module}.{alias.name}" for alias in node.names)
        }
        & set(modules)
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {error.args[1]}")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("syncline.model", ("boto3", "pydantic", "urllib3", "syncline.secrets")),
        (
            "syncline.clients.registry.client",
            ("boto3", "docker", "syncline.config", "syncline.model", "syncline.kinds"),
        ),
        (
            "syncline.kinds.images.kind",
            ("boto3", "docker", "aws_lambda_powertools", "syncline.messages", "syncline.store.state"),
        ),
        ("syncline.wiring.functions", ("docker", "kubernetes", "yaml", "syncline.cli", "syncline.web.server")),
        (
            "syncline.kinds.tokens.wiring_probe",
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
def test_a_module_loads_no_unneeded_package(module: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    path = f"{PACKAGE.parent}"
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert loaded.isdisjoint(absent), loaded & set(absent)
