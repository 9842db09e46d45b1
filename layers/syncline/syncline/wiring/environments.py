"""The environments of the functions, as template.yaml sets them; queues are given by their URLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from syncline.environment import FunctionEnvironment

QUEUES: Final = ("discover", "transfer", "commit", "verify", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveEnvironment(FunctionEnvironment):
    discover_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleEnvironment(FunctionEnvironment):
    """``console_token`` is a reference to the bearer token that requests must have, empty for none.

    ``console_auth`` is the authorization of the function URL, and ``console_actions`` is "true" if the status page may
    start and cancel runs, with the queues.
    """

    console_token: str = ""
    console_auth: str = "NONE"
    console_actions: str = "false"
    discover_queue: str
    transfer_queue: str
    commit_queue: str
    verify_queue: str
    events_queue: str
    discover_dlq: str
    transfer_dlq: str
    commit_dlq: str
    verify_dlq: str
    events_dlq: str

    @property
    def queues(self) -> dict[tuple[str, bool], str]:
        """The URLs of all queues, by the queue's name and if it has its dead letters."""
        names = [f"{name}_{ending}" for name in QUEUES for ending in ("queue", "dlq")]
        return {(name.partition("_")[0], name.endswith("_dlq")): getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverEnvironment(FunctionEnvironment):
    discover_queue: str
    transfer_queue: str
    commit_queue: str
    events_queue: str
    discover_dlq: str
    notify_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnvironment(FunctionEnvironment):
    transfer_queue: str
    verify_queue: str
    transfer_dlq: str
    notify_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitEnvironment(FunctionEnvironment):
    discover_queue: str
    commit_queue: str
    verify_queue: str
    commit_dlq: str
    notify_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyEnvironment(FunctionEnvironment):
    transfer_queue: str
    discover_queue: str
    commit_queue: str
    verify_queue: str
    verify_dlq: str
    notify_queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyEnvironment(FunctionEnvironment):
    """The environment of the functions that only send hints, and of the one that reads them."""

    notify_queue: str


ENVIRONMENTS: Final[Mapping[str, type[FunctionEnvironment]]] = {
    "receive": ReceiveEnvironment,
    "console": ConsoleEnvironment,
    "discover": DiscoverEnvironment,
    "transfer": TransferEnvironment,
    "commit": CommitEnvironment,
    "verify": VerifyEnvironment,
    "scrape": FunctionEnvironment,
    "probe": FunctionEnvironment,
    "canary": FunctionEnvironment,
    "watch": NotifyEnvironment,
    "notify": NotifyEnvironment,
}
"""The environment of each function by its name."""
