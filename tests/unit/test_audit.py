"""The audit of requirements fails for a known vulnerability and reports the packages that were not audited."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/audit"
SAFE = {"name": "pydantic", "version": "2.11.0", "vulns": []}
BAD = {"name": "urllib3", "version": "1.0", "vulns": [{"id": "GHSA-1", "fix_versions": ["1.1"], "aliases": []}]}
UNKNOWN = {"name": "boto3", "skip_reason": "no facts"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("audit_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("audit_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "lines", "code"),
    [
        ([SAFE], ["1 packages audited, 0 known vulnerabilities"], 0),
        (
            [SAFE, BAD, UNKNOWN],
            [
                "urllib3 1.0 has GHSA-1; fixed in 1.1",
                "2 packages audited, 1 known vulnerabilities; 1 not audited, as the index has no facts about them",
            ],
            1,
        ),
        (
            [UNKNOWN],
            ["not audited, nor are the lists after it: the package index has no facts about any of 1 packages"],
            None,
        ),
    ],
)
def test_the_summary_counts_vulnerabilities_and_unaudited_packages(
    audit: ModuleType, packages: list[dict[str, Any]], lines: list[str], code: int | None
) -> None:
    assert audit.summary(packages) == (lines, code)


def _python(tmp_path: Path, script: str) -> str:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_the_exit_code_is_that_of_the_worst_list(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.txt.json").write_text(json.dumps({"dependencies": [BAD]}))
    (tmp_path / "safe.txt.json").write_text(json.dumps({"dependencies": [SAFE]}))
    python = _python(tmp_path, 'for last; do :; done; cat "$last.json"')
    monkeypatch.setattr(sys, "argv", ["audit", python, str(tmp_path / "bad.txt"), str(tmp_path / "safe.txt")])
    assert audit.main() == 1


def test_an_index_without_facts_is_requested_once(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"dependencies": [UNKNOWN]}))
    python = _python(tmp_path, f'cat "{tmp_path / "list.json"}"')
    monkeypatch.setattr(sys, "argv", ["audit", python, "one.txt", "two.txt"])
    assert audit.main() == 0
    assert capsys.readouterr().out.count("not audited") == 1


def test_a_failed_audit_does_not_pass(audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = _python(tmp_path, "echo broken >&2; exit 1")
    monkeypatch.setattr(sys, "argv", ["audit", python, str(tmp_path / "layer.txt")])
    assert audit.main() == 2
