"""The model of a sync in ``syncs.yaml``, common to all kinds. Each kind's own model is in its `config` module.

Descriptions and examples are public: ``python -m scripts.reference`` writes the tables of
``docs/reference/syncs.yaml.md`` and ``schema/syncs.schema.json`` from them. Secrets appear only as :class:`~syncline.secrets.Reference`. No message repeats a
value that could be a secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Annotated, Final, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationError

from syncline.config.circles import Flow
from syncline.config.findings import Finding, Reach
from syncline.config.model import Model
from syncline.config.notify import Heartbeat, Notify
from syncline.config.values import (
    STORED,
    Duration,
    KeyPath,
    Name,
    Number,
    Pattern,
    Schedule,
    SecretReference,
    Timezone,
)
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.model import Audit
from syncline.ownership import Limits
from syncline.patterns import allows
from syncline.schedule import seconds_of

_NAMED: Final = 5
"""Known names that a message lists."""
_CLOSE: Final = 0.75
"""Similarity of a name that a message suggests, of 1."""


class Patterns(Model):
    """Names selected by patterns: globs (`*` does not match `/`, `**` does), or `re:` and a regular expression for the complete name."""

    include: tuple[Pattern, ...] = Field(
        (),
        description="Select names that match one of these patterns. Defaults to all names.",
        examples=[["payments/*"]],
    )
    exclude: tuple[Pattern, ...] = Field(
        (), description="Leave out selected names that match one of these patterns.", examples=[["re:.*-dev"]]
    )

    def allows(self, name: str) -> bool:
        return allows(name, self.include, self.exclude)


class Removals(Model):
    """Limits on removals from the target within a window of time, across all runs."""

    share: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.25,
        description="Largest share of the selected items written by this sync that may be removed, from 0 to 1.",
        examples=[0.1],
    )
    count: Annotated[StrictInt, Field(ge=0)] = Field(
        1000, description="Largest number of items that may be removed; 0 disables removals.", examples=[100]
    )
    per: Duration = Field(
        "24h",
        description="Length of the window. It begins with a removal; `share` applies to the items at that time and those added later.",
        examples=["7d"],
    )

    @property
    def limits(self) -> Limits:
        """The limits as :mod:`syncline.ownership` uses them."""
        return Limits(float(self.share), self.count, seconds_of(self.per))


class Webhook(Model):
    """Lets the source notify Syncline of changes."""

    secret: SecretReference = Field(
        description="A reference to the secret. The sender signs with it or sends it as a bearer token to `/hooks/<sync>`, or "
        "uses the URL `/hooks/<sync>/<secret>`.",
        examples=["secret:syncline/hooks#prod"],
    )


class AuditConfig(Model):
    """Audits of the sync: comparisons of the whole source with the whole target, independent of runs and records."""

    schedule: Schedule | None = Field(
        None,
        description="Schedule of audits, like that of scans, in the sync's time zone. Without one, audits start only manually.",
        examples=["rate(1 day)"],
    )
    parts: StrictBool = Field(
        False,
        description="Check in scheduled audits that the target has all parts of its items (layers, child manifests) with "
        "their sizes.",
    )
    deep: StrictBool = Field(
        False, description="Read and hash the bytes of the target in scheduled audits; includes `parts`."
    )
    spread: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        1,
        description="Number of shares of the target of which each scheduled `deep` audit reads the next one: with 30 and one "
        "audit a day, all bytes are read within 30 days.",
        examples=[30],
    )
    allow_extra: StrictBool = Field(
        False, description="Report extra items at the target without calling source and target different for them."
    )
    within: Duration | None = Field(
        None,
        description="Longest time since an audit that found source and target equal. Later the sync is stale: `status` shows "
        "it, and the stack raises its alarm. Set it to at least twice the interval of the schedule.",
        examples=["2d"],
    )
    key: SecretReference | None = Field(
        None,
        description="A reference to the private key (Ed25519 or ECDSA, PEM) with which `syncline audit` signs its reports.",
        examples=["secret:syncline/audit#key"],
    )

    @property
    def options(self) -> Audit:
        """The options of a scheduled audit; a deep one reads the share that is due."""
        return Audit(self.parts or self.deep, self.deep, 0 if self.deep else 1, self.spread, self.allow_extra)

    @property
    def seconds(self) -> float | None:
        """`within` in seconds."""
        return None if self.within is None else seconds_of(self.within)


class Gathering(Model):
    """The time for which events are collected before one scan handles all of them."""

    quiet: Annotated[Number, Field(ge=0, le=900)] = Field(
        2, description="Seconds without a further event after which a scan begins.", examples=[30]
    )
    longest: Annotated[Number, Field(ge=0, le=3600)] = Field(
        60,
        description="Seconds after the first event after which a scan begins even if further events come.",
        examples=[300],
    )


DRILL_SHARE: Final = 0.05
"""The share of the items that a restore drill restores by default."""


class DrillRules(Model):
    """The rules of restore drills: items are restored from the target, compared with the source, and removed again."""

    schedule: Schedule | None = Field(
        None,
        description="Schedule of drills, in the syntax of `schedule`. Without one, only `syncline drill` starts them.",
        examples=["cron(0 4 ? * SUN *)"],
    )
    sample: Annotated[Number, Field(gt=0, le=1)] | Literal["all"] = Field(
        DRILL_SHARE, description="Share of the items, chosen anew for each drill, or `all`.", examples=["all"]
    )
    within: Duration | None = Field(
        None,
        description="Longest time since a drill without a failure. Later the alarm of stale syncs and an alert of Prometheus fire. Set it to at least "
        "twice the interval of the schedule.",
        examples=["15d"],
    )

    @property
    def share(self) -> float:
        """The share as a number."""
        return 1.0 if self.sample == "all" else float(self.sample)


class Sync(Model):
    """The keys that all kinds of syncs share. `name` is the sync's key in the file."""

    name: Name = Field(description="The sync's name.")
    kind: str = Field(description="The kind of the sync.")
    schedule: Schedule | None = Field(
        None,
        description="Schedule of scans: `rate(…)` or `cron(…)` in the syntax of EventBridge Scheduler. Without one, scans "
        "start only manually, by webhook and by events.",
        examples=["rate(1 hour)", "cron(0 3 * * ? *)"],
    )
    timezone: Timezone | None = Field(
        None,
        description="Time zone of a `cron` schedule as an IANA name. Defaults to UTC.",
        examples=["Asia/Kolkata"],
    )
    slowest: Annotated[StrictInt, Field(ge=1)] = Field(
        1024,
        description="Lowest rate in bytes per second at which a server may send or receive content, measured over 30 seconds. A "
        "slower transfer fails with `TOO_SLOW` and is retried later. For git the limit is 100 bytes per second over 60 seconds; "
        "a kind without runs has a `deadline` instead.",
        examples=[100],
    )
    enabled: StrictBool = Field(True, description="Let the schedule and the webhook start runs.")
    webhook: Webhook | None = Field(None, description="Webhook by which the source notifies Syncline of changes.")
    fresh_within: Duration | None = Field(
        None,
        description="Longest time since a complete scan after which source and target were equal. Later the sync is stale: "
        "`status` shows it, and the stack raises its alarm. Set it to at least twice the interval of the schedule.",
        examples=["2h"],
    )
    notify: Notify | None = Field(
        None,
        description="Channels that are notified when the sync stops being in sync, and when it is in sync again. Defaults to "
        "`notify` of the file; `{}` sends nothing.",
    )
    heartbeat: Heartbeat | None = Field(
        None, description="URL that is called when a run of everything starts and ends."
    )

    audit: AuditConfig | None = Field(None, description="Audits, which compare the whole source with the whole target.")

    @property
    def audit_seconds(self) -> float | None:
        """`audit.within` in seconds; None without it or if the sync is disabled, which is then never stale."""
        return None if self.audit is None or not self.enabled else self.audit.seconds

    @property
    def fresh_seconds(self) -> float | None:
        """`fresh_within` in seconds; None without it or if the sync is disabled, which is then never stale."""
        return None if self.fresh_within is None or not self.enabled else seconds_of(self.fresh_within)

    @property
    def drills(self) -> DrillRules | None:
        """The rules of the sync's restore drills, None if it has none."""
        found = getattr(self, "drill", None)
        return found if isinstance(found, DrillRules) else None

    @property
    def drill_seconds(self) -> float | None:
        """`within` of the restore drills in seconds; None without it or if the sync is disabled."""
        within = None if self.drills is None or not self.enabled else self.drills.within
        return None if within is None else seconds_of(within)

    @property
    def notifies(self) -> bool:
        """True if the sync has channels for notifications or a heartbeat."""
        return bool(self.notify is not None and self.notify.channels) or self.heartbeat is not None

    def problems(self) -> list[Finding]:
        """Return problems between the keys of this sync."""
        return []

    def warnings(self) -> list[Finding]:
        """Return findings about values that are allowed but probably unintended, or dangerous."""
        found = []
        schedules = [self.schedule, None if self.audit is None else self.audit.schedule]
        if self.timezone is not None and not any(each and each.startswith("cron(") for each in schedules):
            found.append(Finding(("timezone",), "has no effect without a cron schedule"))
        if self.audit is not None and self.audit.spread > 1 and not self.audit.deep:
            found.append(Finding(("audit", "spread"), "has no effect without `deep: true`"))
        given = [name for name in ("notify", "heartbeat", "audit") if getattr(self, name) is not None]
        if given and not KINDS[self.kind].has_runs:
            found += [Finding((name,), f"has no effect: a sync of {self.kind} has no runs") for name in given]
        return found

    def local_paths(self) -> list[KeyPath]:
        """Return the keys whose values are paths of the machine that the functions run on."""
        return []

    def reaches(self) -> list[Reach]:
        """Return what the sync can write at each target, to find two syncs that write the same."""
        return []

    def flows(self) -> list[Flow]:
        """Return the names that the sync copies, to find circles of syncs."""
        return []

    def target_id(self) -> str | None:
        """Return an ID of the target under which records are stored, None for a kind without such records."""
        return None

    def event_sources(self) -> tuple[str, ...]:
        """Return the sources whose events the sync receives, such as ``bucket:NAME``."""
        return ()

    def gathering(self) -> Gathering:
        """Return the time for which events are collected before a scan."""
        return Gathering()

    def scan_group(self, group: str, name: str) -> str:  # noqa: ARG002 - a kind may scan less than a group
        """Return the group of a scope that scans one item."""
        return group

    def groups_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the groups for names of the source. Raises USAGE for a name that the sync does not select."""
        raise SynclineError("USAGE", f"{self.name} can only be scanned completely: it has no part {names[0]}")


def near_names(name: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name: the known name that is close to it, or else some known ones."""
    import difflib  # noqa: PLC0415 - functions have no use for it

    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=_CLOSE):
        return f"; did you mean {near[0]}?"
    more = len(names) - _NAMED
    listed = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"; it selects {listed}" if names else ""


def model_of(kind: str) -> type[Sync]:
    """Return the model of a kind's syncs. Raises KeyError for an unknown kind."""
    info = KINDS[kind]
    model: type[Sync] = getattr(import_module(f"syncline.kinds.{info.name}.config"), info.model)
    return model


@lru_cache(maxsize=64)  # a warm function reads the same few with every message
def load_sync(text: str | bytes) -> Sync:
    """Load a sync from its JSON (``sync.model_dump_json()``).

    Raises CONFIG_INVALID if this version cannot load it.
    """
    try:
        return model_of(json.loads(text)["kind"]).model_validate_json(text, context=STORED)
    except ValidationError as error:
        fields = {".".join(map(str, details["loc"])) for details in error.errors(include_input=False)}
        where = f" ({', '.join(sorted(fields))})"
    except (ValueError, KeyError, TypeError):
        where = ""
    raise SynclineError("CONFIG_INVALID", f"a stored sync cannot be loaded{where}; run `syncline apply` again")
