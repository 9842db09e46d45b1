from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from demo import catalog, fill
from demo.layers import Layer, layer


@pytest.fixture
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each shared layer one short file, for tests that do not depend on the content of layers."""

    def made(name: str) -> Layer:
        return layer(name, {PurePosixPath(name): name.encode()})

    monkeypatch.setattr(catalog, "shared_layer", made)
    monkeypatch.setattr(fill, "shared_layer", made)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use an empty folder as the home of Syncline."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SYNCLINE_HOME", str(folder))
    return folder
