"""A bucket in ``syncs.yaml``: its address and credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag

from syncline.config.findings import Finding, Location
from syncline.config.limits import Limits
from syncline.config.model import Model, ServerAddress
from syncline.config.values import (
    KeyPath,
    Proxy,
    SecretReference,
    ServerAuthority,
    TextOrReference,
    Url,
    is_loopback,
    matching,
    server_of,
    split_host,
    text_schema,
)

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_AWS: Final = re.compile(r"s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?")
_REGION: Final = r"[a-z0-9-]{1,40}"


def is_bucket(text: str) -> bool:
    """Return True if a text can be the name of a bucket."""
    return _BUCKET.fullmatch(text) is not None and ".." not in text


def _check_bucket(text: str) -> str:
    if is_bucket(text):
        return text
    raise ValueError("is not a bucket; write only its name, 3 to 63 of a-z 0-9 . -, such as cluster-backups")


def _check_key_prefix(text: str) -> str:
    if text.startswith("/") or "//" in text:
        raise ValueError("has an extra /; write a prefix without a leading / or //, such as backups/")
    if not text.isprintable() or len(text.encode()) > 900:
        raise ValueError("is not a key prefix; write at most 900 bytes of printable characters")
    return text if not text or text.endswith("/") else f"{text}/"


BucketName: TypeAlias = Annotated[str, AfterValidator(_check_bucket), text_schema(pattern=f"^{_BUCKET.pattern}$")]
Region: TypeAlias = Annotated[
    str, matching(_REGION, "is not a region; write a region such as eu-central-1"), text_schema(pattern=f"^{_REGION}$")
]
KeyPrefix: TypeAlias = Annotated[str, AfterValidator(_check_key_prefix)]


class AccessKey(Model):
    """An access key and a secret key, as S3 and MinIO issue them."""

    access_key: TextOrReference = Field(
        description="The access key, or a reference to it.", examples=["secret:syncline/minio#access"]
    )
    secret_key: SecretReference = Field(
        description="A reference to the secret key.", examples=["secret:syncline/minio#secret"]
    )


_NOT_AUTH: Final = "is not a valid form of credentials; write {access_key: …, secret_key: …}, role or anonymous"


def _auth_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>" if value in ("role", "anonymous") else None
    return "<keys>" if value and isinstance(value, AccessKey | dict) else None


BucketAuth: TypeAlias = Annotated[
    Annotated[Literal["role", "anonymous"], Tag("<word>")] | Annotated[AccessKey, Tag("<keys>")],
    Discriminator(_auth_form, custom_error_type="auth_form", custom_error_message=_NOT_AUTH),
]


class BucketEndpoint(Model):
    """A bucket of AWS, MinIO or another service with the S3 API."""

    bucket: BucketName = Field(description="The bucket's name.", examples=["cluster-backups"])
    endpoint: Url | None = Field(
        None,
        description="The URL of the service. Defaults to AWS in `region`.",
        examples=["https://minio.example:9000"],
    )
    region: Region = Field(
        "us-east-1", description="The region for which requests are signed.", examples=["eu-central-1"]
    )
    path_style: StrictBool | None = Field(
        None,
        description="Put the bucket in the path of URLs instead of the host name. Defaults to true with an `endpoint`.",
    )
    prefix: KeyPrefix = Field("", description="The prefix of the keys, ending with a slash.", examples=["backups/"])
    auth: BucketAuth = Field(
        "role",
        description="The credentials: `{access_key: …, secret_key: …}`, `role` (the AWS role of the function) or `anonymous`.",
    )
    ca: ServerAuthority = None
    proxy: Proxy = None
    limits: Limits = None

    def addresses(self) -> Iterator[ServerAddress]:
        yield ServerAddress(self.url, self.ca, self.proxy)

    @property
    def url(self) -> str:
        """The URL of the service, without the bucket."""
        return self.endpoint or f"https://s3.{self.region}.amazonaws.com"

    @property
    def in_path(self) -> bool:
        """True if the bucket is in the path of URLs."""
        return self.endpoint is not None if self.path_style is None else self.path_style

    @property
    def location(self) -> Location:
        """The identity of the bucket, equal for all spellings; a bucket of AWS is the same in each region."""
        scheme, _, host = self.url.partition("://")
        name, port = server_of(host, 443 if scheme == "https" else 80)
        if _AWS.fullmatch(name):
            name, port = "s3.amazonaws.com", 443
        return ("bucket", name, port, self.bucket)

    @property
    def record_location(self) -> Location:
        """The identity under which records of the bucket are stored, so it must not change."""
        host = self.url.partition("://")[2]
        name, port = split_host(host)
        return ("bucket", "localhost" if is_loopback(host) else name, port or 0, self.bucket)

    def plain_text_warnings(self, path: KeyPath) -> Iterator[Finding]:
        """Yield a warning if objects are sent unencrypted over a network; `path` is the path of the endpoint in its sync."""
        scheme, _, host = self.url.partition("://")
        if scheme == "http" and not is_loopback(host):
            yield Finding(
                (*path, "endpoint"), f"sends objects of {self.bucket} unencrypted over the network; use https and ca"
            )
