"""Syncs with paths of this machine: applied to the engine here, refused for functions on AWS, and checked by doctor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from syncline.clients.http.client import Http
from syncline.clients.layout.folder import LayoutFolder
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.images.wiring_doctor import chains
from tests.unit.cli.cli_stack import Stack

SYNC = """\
syncs:
  usb:
    kind: images
    source: {{registry: "oci:{folder}/source", catalog: true}}
    target: {{registry: "oci:{folder}/target"}}
"""


def test_a_path_is_applied_to_the_engine_on_this_machine_only(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SYNC.format(folder=tmp_path)
    assert stack.apply(text).exit_code == 0
    monkeypatch.setattr("syncline.cli.deployment.Deployment.local", False)
    result = stack.apply(text)
    assert result.exit_code == 2
    assert "CONFIG_INVALID: usb.source.registry is a path" in result.stderr


def test_doctor_reads_the_source_and_tests_the_target(stack: Stack, tmp_path: Path) -> None:
    assert stack.apply(SYNC.format(folder=tmp_path)).exit_code == 0
    sync = load_sync(stack.target.state.sync_config("usb"))
    parts = stack.target.dependencies(Http(), time.time)
    source, target = chains(sync, parts, local=True)
    assert [check.what for check in (*source.checks, *target.checks)] == ["pull", "write"]
    with pytest.raises(SynclineError, match="SOURCE_ABSENT"):
        source.checks[0].run()
    LayoutFolder(tmp_path / "source", "source").flush()
    assert "lists no repository" in str(source.checks[0].run())
    assert str(target.checks[0].run()) == f"{tmp_path} can be written"
    (tmp_path / "target").write_text("a file")
    with pytest.raises(SynclineError, match="FILE_REFUSED"):
        target.checks[0].run()
    assert not (tmp_path / "target").is_dir()
