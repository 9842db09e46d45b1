"""``syncs.yaml`` as typed, checked models.

The functions load what ``syncline apply`` stored, with :func:`load_sync`; reading the file itself, with line numbers
in every message, is :mod:`syncline.config_file`'s. What a single model cannot see (a source equal to its target, two
syncs that write one place) is in :mod:`syncline.config_checks`. ``docs/syncs.yaml.md`` and
``schema/syncs.schema.json`` are written from the descriptions here, by ``python -m syncline.config_schema``.

Secrets appear only as :class:`~syncline.secrets.Reference`. No message repeats a value that could be one.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    Tag,
    ValidationError,
)

from syncline.config_values import (
    STORED,
    Authority,
    Host,
    Name,
    Organizations,
    Pattern,
    Prefix,
    Realm,
    Repositories,
    Schedule,
    SecretReference,
    TextOrReference,
    Timezone,
    Url,
    is_loopback,
    split_host,
)
from syncline.errors import SynclineError
from syncline.select import allows, is_signature_tag


class Model(BaseModel):
    """What every part of the configuration is: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class BasicAuth(Model):
    """A user name and its password (a robot account and its token)."""

    username: TextOrReference = Field(description="The user name, or a reference to it.", examples=["env:QUAY_USER"])
    password: SecretReference = Field(
        description="A reference to the password.", examples=["secret:syncline/quay#password"]
    )


class TokenAuth(Model):
    """A token that is sent as it is, as a bearer token."""

    token: SecretReference = Field(description="A reference to the token.", examples=["secret:syncline/quay#token"])


def _auth_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>"
    if isinstance(value, TokenAuth) or (isinstance(value, dict) and "token" in value):
        return "<token>"
    return "<basic>" if value and isinstance(value, BasicAuth | dict) else None


_NOT_AUTH: Final = (
    "is not a form of credentials; write {username: …, password: …}, {token: …}, docker-config or anonymous"
)


def _check_auth_form(value: Any) -> Any:
    if isinstance(value, dict) and "token" in value and value.keys() & {"username", "password"}:
        raise ValueError("has a token and a user name or password; write one of the two")
    if isinstance(value, str) and value not in ("anonymous", "docker-config"):
        raise ValueError(_NOT_AUTH)
    return value


Auth: TypeAlias = Annotated[
    Annotated[Literal["anonymous", "docker-config"], Tag("<word>")]
    | Annotated[BasicAuth, Tag("<basic>")]
    | Annotated[TokenAuth, Tag("<token>")],
    Discriminator(_auth_form, custom_error_type="auth_form", custom_error_message=_NOT_AUTH),
    BeforeValidator(_check_auth_form),
]


class QuayApi(Model):
    """Quay's own API beside the registry: it lists organizations, and the digests of 100 tags in one answer."""

    kind: Literal["quay"] = Field(description="The API's kind; `quay` is the only one.", examples=["quay"])
    url: Url | None = Field(
        None,
        description="Where the API is; the registry itself when absent.",
        examples=["https://quay.prod.example:8443"],
    )
    token: SecretReference | None = Field(
        None,
        description="A reference to an OAuth token of the API (a robot's password is none); public repositories need none.",
        examples=["secret:syncline/quay#api"],
    )


class RegistryEndpoint(Model):
    """A registry and how to speak to it."""

    registry: Host = Field(
        description="The registry's host and port, without scheme or path.", examples=["quay.prod.example:8443"]
    )
    auth: Auth = Field(
        "anonymous",
        description="The credentials: a user name and password, a token, `docker-config` (what `docker login` stored, "
        "with its credential helpers), or `anonymous`.",
    )
    auth_realms: tuple[Realm, ...] = Field(
        (),
        description="Hosts (without port) besides the registry to which the credentials may be sent in exchange for a token.",
        examples=[["auth.prod.example"]],
    )
    ca: Authority | None = Field(
        None,
        description="The authority that signed the registry's certificate, if the system does not know it: `file:PATH` "
        "(read on apply; relative to syncs.yaml), a reference, or the PEM text itself.",
        examples=["file:prod-ca.pem"],
    )
    plain_http: StrictBool = Field(False, description="Speak HTTP without TLS. Only for networks you trust.")
    api: QuayApi | None = Field(None, description="The registry's own API, where it has one.")

    @property
    def api_url(self) -> str | None:
        """The base address of the API, without a slash at its end; None where there is no API."""
        if self.api is None:
            return None
        return self.api.url or f"{'http' if self.plain_http else 'https'}://{self.registry}"

    @property
    def place(self) -> tuple[str, int]:
        """What is the same for two spellings of one registry: host name and port."""
        name, port = split_host(self.registry)
        loopback = is_loopback(self.registry)
        return ("localhost" if loopback else name, port or (80 if self.plain_http else 443))


class ImagesSource(RegistryEndpoint):
    """Where images come from: exactly one of `repositories`, `organizations` and `catalog` says which."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["repositories"]},
                {"required": ["organizations", "api"]},
                {"required": ["catalog"], "properties": {"catalog": {"const": True}}},
            ]
        }
    )

    repositories: Repositories | None = Field(
        None, description="These repositories.", examples=[["team/app", "team/base"]]
    )
    organizations: Organizations | None = Field(
        None, description="All repositories of these organizations; needs `api`.", examples=[["payments", "web"]]
    )
    catalog: StrictBool = Field(
        False, description="All repositories that the registry lists in `_catalog`, which many registries refuse."
    )

    @cached_property
    def repository_set(self) -> frozenset[str]:
        """``repositories`` for looking one up: the list may be long."""
        return frozenset(self.repositories or ())


class ImagesTarget(RegistryEndpoint):
    """Where images go. With `api`, what is there already is compared 100 tags at a time."""

    prefix: Prefix = Field("", description="A path that is put before each repository's own.", examples=["mirror"])


class Patterns(Model):
    """Names by pattern: a glob (`*` does not cross `/`, `**` does), or `re:` and a regular expression of the whole name."""

    include: tuple[Pattern, ...] = Field(
        (), description="Take names that match one of these; everything when empty.", examples=[["payments/*"]]
    )
    exclude: tuple[Pattern, ...] = Field(
        (), description="Of those, leave out names that match one of these.", examples=[["re:.*-dev"]]
    )

    def allows(self, name: str) -> bool:
        return allows(name, self.include, self.exclude)


class ImagesSelect(Model):
    """Which of the source's images are kept true."""

    repositories: Patterns = Field(Patterns(), description="Repositories, as the source names them.")
    tags: Patterns = Field(Patterns(), description="Tags. Signatures and attestations always follow their images.")


class Webhook(Model):
    """Lets the registry say that something was pushed."""

    secret: SecretReference = Field(
        description="A reference to the secret that is the last part of the address `/hooks/<sync>/<secret>`.",
        examples=["secret:syncline/hooks#prod"],
    )


class BaseSync(Model):
    """What every sync has, whatever its kind. ``name`` is its key in the file."""

    name: Name = Field(description="The sync's name.")
    kind: str = Field(description="What is kept true.")
    schedule: Schedule | None = Field(
        None,
        description="When to look by itself: `rate(…)` or `cron(…)` as EventBridge Scheduler takes them. Absent: only by "
        "hand and by webhook.",
        examples=["rate(1 hour)", "cron(0 3 * * ? *)"],
    )
    timezone: Timezone | None = Field(
        None,
        description="The time zone of a `cron` schedule, by its IANA name; UTC when absent.",
        examples=["Asia/Kolkata"],
    )
    enabled: StrictBool = Field(True, description="Whether the schedule and the webhook start runs.")
    webhook: Webhook | None = Field(None, description="Lets the registry say that something was pushed.")


class ImagesSync(BaseSync):
    """Container images, kept true from one registry to another."""

    kind: Literal["images"] = Field(description="What is kept true: `images`.", examples=["images"])
    source: ImagesSource = Field(description="Where images come from.")
    target: ImagesTarget = Field(description="Where images go.")
    select: ImagesSelect = Field(ImagesSelect(), description="Which of the source's images are kept true.")
    overwrite: StrictBool = Field(
        False,
        description="Whether a tag that differs at the target is replaced. When false it is a `conflict` in the report.",
    )
    concurrency: Annotated[StrictInt, Field(ge=1, le=32)] = Field(
        8, description="Images in flight in one function at a time, 1 to 32."
    )

    def target_repository(self, source: str) -> str:
        """The target's name for a repository of the source."""
        return f"{self.target.prefix}/{source}" if self.target.prefix else source

    def source_repository(self, target: str) -> str | None:
        """The source's name for a repository of the target; None for one outside the prefix."""
        prefix = f"{self.target.prefix}/" if self.target.prefix else ""
        return target.removeprefix(prefix) if target.startswith(prefix) else None

    def takes_repository(self, source: str) -> bool:
        """Whether a repository of the source belongs to this sync."""
        if self.source.repositories is not None and source not in self.source.repository_set:
            return False
        if self.source.organizations is not None and source.partition("/")[0] not in self.source.organizations:
            return False
        return self.select.repositories.allows(source)

    def takes_tag(self, tag: str) -> bool:
        """Whether a tag belongs to this sync; signatures always do."""
        return is_signature_tag(tag) or self.select.tags.allows(tag)


Sync: TypeAlias = ImagesSync  # a further kind joins here with | and in KINDS
KINDS: Final[dict[str, type[ImagesSync]]] = {"images": ImagesSync}


def load_sync(text: str | bytes) -> Sync:
    """A sync from its JSON (``sync.model_dump_json()``).

    Raises SynclineError CONFIG_INVALID where this version does not understand it.
    """
    try:
        return KINDS[json.loads(text)["kind"]].model_validate_json(text, context=STORED)
    except ValidationError as error:
        fields = {".".join(map(str, details["loc"])) for details in error.errors(include_input=False)}
        where = f" ({', '.join(sorted(fields))})"
    except (ValueError, KeyError, TypeError):
        where = ""
    raise SynclineError("CONFIG_INVALID", f"a stored sync is not understood{where}; run `syncline apply` again")
