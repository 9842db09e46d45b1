"""Builds the client of a bucket from its configuration."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from syncline.clients.http.addresses import Endpoint
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.config.buckets import AccessKey, BucketEndpoint
from syncline.wiring.dependencies import Dependencies, budget_of, route_of

if TYPE_CHECKING:
    from botocore.credentials import Credentials


def bucket_at(endpoint: BucketEndpoint, dependencies: Dependencies) -> Bucket:
    """Return the client of a bucket. It resolves the keys on first use, and again after a refusal."""

    def keys(*, again: bool = False) -> AccessKeys | None:
        match endpoint.auth:
            case "anonymous":
                return None
            case AccessKey(access_key=access, secret_key=secret):
                value_of = dependencies.secrets.refresh if again else dependencies.secrets.resolve
                return AccessKeys(access if isinstance(access, str) else value_of(access), value_of(secret))
            case _:
                return _function_keys()

    budget = budget_of(dependencies.http, endpoint.url, endpoint.limits)
    return Bucket(
        Endpoint.parse(endpoint.url, route=route_of(dependencies.secrets, endpoint.ca, endpoint.proxy, budget)),
        endpoint.bucket,
        keys,
        dependencies.http,
        region=endpoint.region,
        path_style=endpoint.in_path,
        renewed=lambda: keys(again=True),
    )


@cache
def _function_credentials() -> Credentials | None:
    """Return the credentials of the function's role, which renew themselves."""
    import boto3  # noqa: PLC0415 - only where a bucket is read as the function itself

    found: Credentials | None = boto3.Session().get_credentials()
    return found


def _function_keys() -> AccessKeys | None:
    credentials = _function_credentials()
    if credentials is None:
        return None
    frozen = credentials.get_frozen_credentials()
    return AccessKeys(str(frozen.access_key), str(frozen.secret_key), frozen.token)
