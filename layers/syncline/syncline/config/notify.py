"""Notifications and heartbeats in ``syncs.yaml``: channels, states, reminders and quiet hours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, ValidationInfo, model_validator

from syncline.config.model import Model, ServerAddress
from syncline.config.values import (
    STORED,
    Duration,
    Host,
    Proxy,
    SecretReference,
    ServerAuthority,
    TextOrReference,
    is_loopback,
    matching,
    split_host,
    text_schema,
)
from syncline.schedule import check_timezone, seconds_of
from syncline.secrets import REFERENCE_PATTERN, Reference

_SHORTEST_REMINDER: Final = 3600.0
_ADDRESS: Final = r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"
_TOPIC: Final = r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}"
QUIET: Final = r"(?P<begin>(?:[01][0-9]|2[0-3]):[0-5][0-9])-(?P<end>(?:[01][0-9]|2[0-3]):[0-5][0-9])(?: (?P<zone>\S+))?"
"""Quiet hours: ``HH:MM-HH:MM``, and a time zone if that is not UTC."""


def _parse_url(value: Any) -> str | Reference:
    """Return the URL of a hook or a reference to it. Messages do not repeat the URL, which may be a secret."""
    if isinstance(value, Reference):
        return value
    scheme, found, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if isinstance(value, str) and not found:
        return Reference.parse(value)
    if scheme not in ("https", "http"):
        raise ValueError(
            "is not a URL; write https://host/path, or a reference to it: secret:NAME#KEY, ssm:/PATH, env:NAME"
        )
    if "?" in rest or "@" in rest.partition("/")[0]:
        raise ValueError(
            "has a token or password in its query or user part; store the URL as a secret, and write its reference"
        )
    if "#" in rest or not (rest.isascii() and rest.isprintable()) or " " in rest:
        raise ValueError("has a fragment or a character that no URL has; write https://host/path")
    split_host(rest.partition("/")[0])
    return str(value)


def _check_quiet(text: str, info: ValidationInfo) -> str:
    match = re.fullmatch(QUIET, text)
    if match is None:
        raise ValueError("is not a time of day; write HH:MM-HH:MM and a time zone, such as 22:00-07:00 Europe/Berlin")
    if match["begin"] == match["end"]:
        raise ValueError("begins and ends at the same time; write two times, such as 22:00-07:00")
    if match["zone"] and info.context != STORED:  # a stored zone was checked before
        check_timezone(match["zone"])
    return text


def _check_reminders(text: str) -> str:
    if seconds_of(text) < _SHORTEST_REMINDER:
        raise ValueError("is shorter than an hour; write at least 1h")
    return text


def _check_recipients(values: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(values) <= 50:
        raise ValueError(f"has {len(values)} addresses; write 1 to 50")
    return values


_AS_TEXT: Final = PlainSerializer(str, return_type=str)
HookUrl: TypeAlias = Annotated[
    str | Reference,
    PlainValidator(_parse_url),
    _AS_TEXT,
    text_schema(pattern=rf"^https?://[^?#@\s]+$|{REFERENCE_PATTERN}"),
]
MailAddress: TypeAlias = Annotated[
    str,
    matching(_ADDRESS, "is not a mail address; write only name@host"),
    text_schema(pattern=f"^{_ADDRESS}$"),
]
Topic: TypeAlias = Annotated[
    str,
    matching(_TOPIC, "is not the ARN of a topic; write arn:aws:sns:REGION:ACCOUNT:NAME"),
    text_schema(pattern=f"^{_TOPIC}$"),
]
TellableState = Literal["failing", "untrusted", "conflict", "unequal", "drill-failed", "stale"]


class Hook(Model):
    """A URL that is called over HTTP. Redirects are not followed."""

    url: HookUrl = Field(
        description="The URL, or a reference to it. A URL with a token, also in its path, belongs into a secret.",
        examples=["secret:syncline/notify#url"],
    )
    ca: ServerAuthority = None
    proxy: Proxy = None

    def addresses(self) -> Iterator[ServerAddress]:
        if isinstance(self.url, str):
            scheme, _, rest = self.url.partition("://")
            yield ServerAddress(f"{scheme}://{rest.partition('/')[0]}/", self.ca, self.proxy)


class Heartbeat(Hook):
    """A URL by which an outside service notices when runs no longer end well, as healthchecks.io takes it.

    A run of everything calls `URL/start` at its beginning and the URL itself when it succeeded. Any run that fails calls
    `URL/fail`.
    """


class SlackHook(Hook):
    """An incoming webhook of Slack, or of a service that is compatible with it, such as Mattermost."""

    url: SecretReference = Field(
        description="A reference to the webhook's URL, which is a secret.", examples=["secret:syncline/slack#url"]
    )


class SignedHook(Hook):
    """A webhook that gets a JSON object, signed as GitHub signs its own."""

    secret: SecretReference = Field(
        description="A reference to the secret that signs the body: `X-Hub-Signature-256: sha256=` and the HMAC of the body.",
        examples=["secret:syncline/notify#secret"],
    )


class Smtp(Model):
    """A mail server."""

    host: Host = Field(
        description="The server's host and port. The port defaults to 587.", examples=["mail.prod.example:587"]
    )
    tls: Literal["starttls", "always", "never"] = Field(
        "starttls",
        description="`starttls` requires STARTTLS, `always` begins with TLS (port 465), `never` sends readable text and no "
        "password.",
    )
    user: TextOrReference | None = Field(
        None, description="The user name, or a reference to it.", examples=["syncline"]
    )
    password: SecretReference | None = Field(
        None, description="A reference to the password.", examples=["secret:syncline/mail#password"]
    )
    ca: ServerAuthority = None

    @model_validator(mode="after")
    def _check_login(self) -> Smtp:
        if (self.user is None) != (self.password is None):
            raise ValueError("has a user or a password without the other; write both, or none")
        if self.password is not None and self.tls == "never" and not is_loopback(self.host):
            raise ValueError("would send the password readable over the network; write tls: starttls or tls: always")
        return self


class Email(Model):
    """E-mail, through SES or a mail server."""

    sender: MailAddress = Field(description="The sender's address.", examples=["syncline@prod.example"])
    to: Annotated[tuple[MailAddress, ...], AfterValidator(_check_recipients)] = Field(
        description="The recipients' addresses.", examples=[["ops@prod.example"]]
    )
    smtp: Smtp | None = Field(None, description="The mail server. Without one, SES sends, in the region of the stack.")


class Notify(Model):
    """The channels that are notified when the state of a sync changes, and when.

    The states are `failing`, `untrusted`, `conflict`, `unequal` (the latest audit found differences), `drill-failed` (the
    latest restore drill failed) and `stale`. A sync that is in sync again is notified on the channels in any case.
    """

    slack: SlackHook | None = Field(None, description="An incoming webhook of Slack or of a compatible service.")
    webhook: SignedHook | None = Field(None, description="A webhook that gets signed JSON.")
    sns: Topic | None = Field(
        None,
        description="The ARN of an SNS topic whose name begins with the stack's NotifyTopicPrefix.",
        examples=["arn:aws:sns:eu-central-1:123456789012:syncline-alerts"],
    )
    email: Email | None = Field(None, description="Recipients of e-mail.")
    states: tuple[TellableState, ...] = Field(
        ("failing", "untrusted", "conflict", "unequal", "drill-failed", "stale"),
        description="States that are notified.",
        examples=[["failing", "stale"]],
    )
    reminders: Annotated[Duration, AfterValidator(_check_reminders)] | None = Field(
        None, description="Repeat a notification after this time while the state lasts, at least `1h`.", examples=["4h"]
    )
    quiet: Annotated[str, AfterValidator(_check_quiet)] | None = Field(
        None,
        description="Hours in which nothing is sent, with a time zone (default UTC). At their end one notification says what "
        "has changed, if the state has changed by then.",
        examples=["22:00-07:00 Europe/Berlin"],
    )
    urgent: tuple[TellableState, ...] = Field(
        (), description="States that are notified in quiet hours too.", examples=[["failing"]]
    )

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels that are configured."""
        return tuple(name for name in ("slack", "webhook", "sns", "email") if getattr(self, name) is not None)

    @property
    def reminder_seconds(self) -> float | None:
        return None if self.reminders is None else seconds_of(self.reminders)
