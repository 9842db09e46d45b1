"""The client of a bucket that a configuration names."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from syncline.clients.http.addresses import Endpoint
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import Keys
from syncline.config.buckets import AccessKey, BucketEndpoint
from syncline.wiring.parts import Parts

if TYPE_CHECKING:
    from botocore.credentials import Credentials


def bucket_at(place: BucketEndpoint, parts: Parts) -> Bucket:
    """Who we are there is asked for when it is needed, and again when it is refused."""

    def keys(*, again: bool = False) -> Keys | None:
        match place.auth:
            case "anonymous":
                return None
            case AccessKey(access_key=access, secret_key=secret):
                value_of = parts.secrets.refresh if again else parts.secrets.resolve
                return Keys(access if isinstance(access, str) else value_of(access), value_of(secret))
            case _:
                return _role_keys()

    return Bucket(
        Endpoint.parse(place.url, ca=parts.authority(place.ca)),
        place.bucket,
        keys,
        parts.http,
        region=place.region,
        path_style=place.in_path,
        renewed=lambda: keys(again=True),
    )


@cache
def _role() -> Credentials | None:
    """The function's own identity; it renews itself."""
    import boto3  # noqa: PLC0415 - only where a bucket is read as the function itself

    found: Credentials | None = boto3.Session().get_credentials()
    return found


def _role_keys() -> Keys | None:
    role = _role()
    if role is None:
        return None
    frozen = role.get_frozen_credentials()
    return Keys(str(frozen.access_key), str(frozen.secret_key), frozen.token)
