"""Clients and errors of the services that the tests of targets share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.errors import SynclineError
from tests.standins.s3 import ACCESS, SECRET, S3Server

QUICK: Final = RetryPolicy(attempts=2, sleep=lambda _seconds: None)
"""Two attempts without a pause."""


def bucket_of(server: S3Server, name: str, http: Http | None = None) -> Bucket:
    return Bucket(Endpoint.parse(server.url), name, lambda: AccessKeys(ACCESS, SECRET), http or Http(QUICK))


def failed(work: Callable[[], object]) -> str:
    """Return the code of the error that ``work`` raises."""
    with pytest.raises(SynclineError) as caught:
        work()
    return caught.value.code.name
