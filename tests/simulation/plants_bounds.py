"""Faults that break what every kind keeps: no secret is written, work is bounded, and only the holder of a lease writes.

See :mod:`tests.simulation.plants`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from syncline import telemetry
from syncline.clients.git import failures as git_failures
from syncline.clients.http import failures
from syncline.kinds.images import discover as looking
from syncline.messages import Queues
from syncline.secrets import Secrets
from syncline.steps import worker
from syncline.store import leases, state
from syncline.store.table import Database
from tests.simulation.plants import _replaced, plant

WORLDS: Final = ("images",)


@plant
def log_a_secret() -> Iterator[None]:
    """What a reference stands for is logged by a library that redacts nothing."""

    def resolve(old: Any) -> Any:
        def changed(self: Any, reference: Any) -> str:
            value = str(old(self, reference))
            logging.getLogger("library").warning("%s is %s", reference, value)
            return value

        return changed

    with _replaced(Secrets, "resolve", resolve):
        yield


@plant
def measure_by_secret() -> Iterator[None]:
    """A metric has a secret as a dimension."""

    def resolve(old: Any) -> Any:
        def changed(self: Any, reference: Any) -> str:
            value = str(old(self, reference))
            metrics = telemetry.stack_metrics(user=value)
            metrics.add_metric("Resolved", "Count", 1)
            metrics.flush_metrics()
            return value

        return changed

    with _replaced(Secrets, "resolve", resolve):
        yield


@plant
def repeat_the_words_of_servers() -> Iterator[None]:
    """The reason of a failure has the server's words as they are."""
    with patch.object(failures, "redact", lambda text: text):
        yield


@plant(worlds=("backups",))
def repeat_the_words_of_git() -> Iterator[None]:
    """The reason of a failure has git's words as they are."""
    with patch.object(git_failures, "redact", lambda text: text):
        yield


def _unheld(self: Any, reference: str, owner: str, seconds: float) -> leases.Lease:
    return leases.Lease(reference, "LEASE", owner, "none", 0, self._clock() + seconds)


def _end_unheld(old: Callable[..., Any]) -> Any:
    def changed(self: Any, batch: Any, record: Any, counts: Any, lease: Any = None) -> Any:
        del lease
        return old(self, batch, record, counts, None)

    return changed


@plant(worlds=("backups",))
def push_without_a_lease() -> Iterator[None]:
    """A commit is pushed by a process that has taken no lease."""
    with patch.object(leases.Leases, "take", _unheld), _replaced(state.State, "end_batch", _end_unheld):
        yield


@plant
def list_twice() -> Iterator[None]:
    """A scan lists everything, and lists it again to compare it."""

    def pages(old: Any) -> Any:
        def changed(self: Any, *args: Any) -> Iterator[Any]:
            for _ in old(self, *args):
                pass
            yield from old(self, *args)

        return changed

    with _replaced(looking.ImageScan, "pages", pages):
        yield


@plant
def send_twice() -> Iterator[None]:
    """What follows from a batch is sent twice."""

    def send(old: Any) -> Any:
        def changed(self: Any, outgoing: Any) -> Any:
            batches = list(outgoing)
            old(self, batches)
            return old(self, batches)

        return changed

    with _replaced(Queues, "send", send):
        yield


@plant
def scan_again_after_a_run() -> Iterator[None]:
    """A start message that was carried out is sent once more."""

    def look(old: Any) -> Any:
        def changed(self: Any, start: Any, run_id: str, received: int, left: Any, **more: Any) -> Any:
            made = old(self, start, run_id, received, left, **more)
            if not start.id or not start.id.endswith("-again"):
                self.engine.queues.start(replace(start, run=None, id=f"{run_id}-again"))
            return made

        return changed

    with _replaced(worker.Worker, "_scan", look):
        yield


@plant
def keep_batches_for_ever() -> Iterator[None]:
    """The record of a batch has no end."""

    def record(old: Any) -> Any:
        def changed(self: Any, *args: Any) -> Any:
            item = dict(old(self, *args))
            del item["expires"]
            return item

        return changed

    with _replaced(state.State, "_record_item", record):
        yield


@plant
def keep_leases_for_ever() -> Iterator[None]:
    """The record of a lease has no end."""

    def update(old: Any) -> Any:
        def changed(self: Any, pk: str, sk: str, expression: str, values: Any, **more: Any) -> Any:
            if pk.startswith("LEASE#") and "expires" in values:
                expression = expression.replace(", #expires = :expires", "")
                values = {name: value for name, value in values.items() if name != "expires"}
            return old(self, pk, sk, expression, values, **more)

        return changed

    with _replaced(Database, "update_request", update):
        yield
