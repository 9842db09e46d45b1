from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from demo import catalog, fill
from demo.layers import Layer, layer


@pytest.fixture
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer that images share is one short file, for tests that look at images and not at what is in them."""

    def made(name: str) -> Layer:
        return layer(name, {PurePosixPath(name): name.encode()})

    monkeypatch.setattr(catalog, "shared_layer", made)
    monkeypatch.setattr(fill, "shared_layer", made)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty place for what runs on this machine."""
    place = tmp_path / "home"
    monkeypatch.setenv("SYNCLINE_HOME", str(place))
    return place
