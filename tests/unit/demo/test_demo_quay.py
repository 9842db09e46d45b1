"""The stand-in for Quay of the demo, started with the settings of the demo."""

from __future__ import annotations

import pytest

from demo import quay_api
from demo.settings import Settings
from tests.standins import quay


def test_a_token_may_begin_with_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(ports={"prod": 5000, "quay": 5001}, api_token="-begins-so")
    monkeypatch.setattr(Settings, "load", lambda: settings)
    started: list[str] = []

    class Server:
        def __init__(self, _source: object, *, token: str, **_more: object) -> None:
            started.append(token)
            raise KeyboardInterrupt

    monkeypatch.setattr(quay, "QuayServer", Server)
    with pytest.raises(KeyboardInterrupt):
        quay_api.main()
    assert started == ["-begins-so"]
