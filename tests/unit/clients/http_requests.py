"""Requests of the tests of the HTTP client."""

from __future__ import annotations

import pytest

from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.rig.server import Reply

OK = Reply(200, b"fine")


def failed(http: Http, method: str, url: str, **options: object) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        http.request(method, url, **options)  # type: ignore[arg-type]
    return caught.value
