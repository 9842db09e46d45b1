"""What every sync in ``syncs.yaml`` has, whatever its kind; each kind's own model is in the module of its name.

Descriptions and examples are shown to people: ``docs/reference/syncs.yaml.md`` and ``schema/syncs.schema.json`` are written from
them, by ``python -m syncline.config.schema``. Secrets appear only as :class:`~syncline.secrets.Reference`. No message
repeats a value that could be one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError

from syncline.config.circles import Flow
from syncline.config.findings import Finding, Reach
from syncline.config.values import (
    STORED,
    Duration,
    KeyPath,
    Name,
    Pattern,
    Schedule,
    SecretReference,
    Timezone,
    seconds_of,
)
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.ownership import Limits
from syncline.patterns import allows
from syncline.secrets import Reference


class ServerAddress(NamedTuple):
    """The address of a server: its ``url``, the authority of its certificate, and where in a sync it stands."""

    url: str
    ca: str | Reference | None = None
    path: KeyPath = ()


class Model(BaseModel):
    """What every part of the configuration is: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def addresses(self) -> Iterator[ServerAddress]:
        """Yield the addresses of the servers that this part of the configuration names."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            parts = value.items() if isinstance(value, dict) else [(None, value)]
            for key, part in parts:
                if isinstance(part, Model):
                    path = (name,) if key is None else (name, str(key))
                    yield from (each._replace(path=(*path, *each.path)) for each in part.addresses())


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


class Removals(Model):
    """Limits on removals from the target within a window of time, whatever triggered the scans in it."""

    share: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)] = Field(
        0.25, description="The largest share of the items that are ours and selected, from 0 to 1.", examples=[0.1]
    )
    count: Annotated[StrictInt, Field(ge=0)] = Field(
        1000, description="The largest number of items; 0 for none at all.", examples=[100]
    )
    per: Duration = Field(
        "24h",
        description="The window. It begins with a removal; `share` is that of the items that are ours and selected then, and of those "
        "that come later.",
        examples=["7d"],
    )

    @property
    def limits(self) -> Limits:
        """The limits, for :mod:`syncline.ownership`."""
        return Limits(float(self.share), self.count, seconds_of(self.per))


class Webhook(Model):
    """Lets the source say that something changed there."""

    secret: SecretReference = Field(
        description="A reference to the secret: the last part of the address `/hooks/<sync>/<secret>`, or, where the "
        "sender can do better, what it signs with or sends as a bearer token to `/hooks/<sync>`.",
        examples=["secret:syncline/hooks#prod"],
    )


class Gathering(Model):
    """How many events become one look."""

    quiet: Annotated[StrictFloat | StrictInt, Field(ge=0, le=900)] = Field(
        2, description="Seconds without a further event after which a look begins.", examples=[30]
    )
    longest: Annotated[StrictFloat | StrictInt, Field(ge=0, le=3600)] = Field(
        60, description="Seconds after which a look begins although events keep coming.", examples=[300]
    )


class Sync(Model):
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
    slowest: Annotated[StrictInt, Field(ge=1)] = Field(
        1024,
        description="The lowest rate, in bytes a second, at which a server of the sync may send or take content, measured over 30 "
        "seconds of waiting for it. A slower transfer ends with `TOO_SLOW` and is tried again later. Git's own limit is 100 bytes a "
        "second over 60 seconds; a kind without runs has a `deadline` instead.",
        examples=[100],
    )
    enabled: StrictBool = Field(True, description="Whether the schedule and the webhook start runs.")
    webhook: Webhook | None = Field(None, description="Lets the source say that something changed there.")

    def problems(self) -> list[Finding]:
        """What makes this sync impossible, apart from every other sync."""
        return []

    def warnings(self) -> list[Finding]:
        """What is allowed and probably not meant, or dangerous."""
        if self.timezone is not None and not (self.schedule or "").startswith("cron("):
            return [Finding(("timezone",), "has no effect without a cron schedule")]
        return []

    def reaches(self) -> list[Reach]:
        """What it can write, target by target, so that no two syncs write one place."""
        return []

    def flows(self) -> list[Flow]:
        """Return what it moves from where to where, so that no circle of syncs copies for ever."""
        return []

    def target_id(self) -> str | None:
        """Return what identifies the target that records belong to, None for a kind without such records."""
        return None

    def event_sources(self) -> tuple[str, ...]:
        """The sources whose events it wants to hear of, such as ``bucket:NAME``."""
        return ()

    def gathering(self) -> Gathering:
        """How the events it event_sources of become looks."""
        return Gathering()

    def scan_group(self, group: str, name: str) -> str:  # noqa: ARG002 - a kind may look at less than a group
        """The group that a look at one item covers."""
        return group

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The groups that names of the source stand for; raises USAGE for one that is none of its."""
        raise SynclineError("USAGE", f"{self.name} is kept true as a whole: it has no part such as {names[0]}")


def model_of(kind: str) -> type[Sync]:
    """The model of a kind's syncs; raises KeyError where there is no such kind."""
    info = KINDS[kind]
    model: type[Sync] = getattr(import_module(f"syncline.kinds.{info.name}.config"), info.model)
    return model


@lru_cache(maxsize=64)  # a warm function reads the same few with every message
def load_sync(text: str | bytes) -> Sync:
    """A sync from its JSON (``sync.model_dump_json()``).

    Raises SynclineError CONFIG_INVALID where this version does not understand it.
    """
    try:
        return model_of(json.loads(text)["kind"]).model_validate_json(text, context=STORED)
    except ValidationError as error:
        fields = {".".join(map(str, details["loc"])) for details in error.errors(include_input=False)}
        where = f" ({', '.join(sorted(fields))})"
    except (ValueError, KeyError, TypeError):
        where = ""
    raise SynclineError("CONFIG_INVALID", f"a stored sync is not understood{where}; run `syncline apply` again")
