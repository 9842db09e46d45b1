"""Planted faults in the rules of every kind: secrets stay secret, work is bounded, lease holders alone write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from syncline import telemetry
from syncline.clients.git import failures as git_failures
from syncline.clients.http import failures
from syncline.kinds.images import discover
from syncline.messages import Queues
from syncline.secrets import Secrets
from syncline.steps import worker
from syncline.store import leases, state
from syncline.store.table import Database
from tests.simulation.planted_faults.registry import planted_fault, replaced

WORLDS: Final = ("images",)


@planted_fault
def log_a_secret() -> Iterator[None]:
    """Log each resolved secret by a logger that redacts nothing."""

    def resolve(old: Any) -> Any:
        def changed(self: Any, reference: Any) -> str:
            value = str(old(self, reference))
            logging.getLogger("library").warning("%s is %s", reference, value)
            return value

        return changed

    with replaced(Secrets, "resolve", resolve):
        yield


@planted_fault
def put_a_secret_in_a_metric() -> Iterator[None]:
    """Use each resolved secret as the dimension of a metric."""

    def resolve(old: Any) -> Any:
        def changed(self: Any, reference: Any) -> str:
            value = str(old(self, reference))
            metrics = telemetry.stack_metrics(user=value)
            metrics.add_metric("Resolved", "Count", 1)
            metrics.flush_metrics()
            return value

        return changed

    with replaced(Secrets, "resolve", resolve):
        yield


@planted_fault
def skip_redaction_of_http_errors() -> Iterator[None]:
    """Store error messages of servers without redaction."""
    with patch.object(failures, "redact", lambda text: text):
        yield


@planted_fault(worlds=("backups",))
def skip_redaction_of_git_errors() -> Iterator[None]:
    """Store error messages of git without redaction."""
    with patch.object(git_failures, "redact", lambda text: text):
        yield


def _unheld(self: Any, reference: str, owner: str, seconds: float) -> leases.Lease:
    return leases.Lease(reference, "LEASE", owner, "none", 0, self._clock() + seconds)


def _end_unheld(old: Callable[..., Any]) -> Any:
    def changed(self: Any, batch: Any, record: Any, counts: Any, lease: Any = None) -> Any:
        del lease
        return old(self, batch, record, counts, None)

    return changed


@planted_fault(worlds=("backups",))
def push_without_a_lease() -> Iterator[None]:
    """Push commits without taking the lease of the branch."""
    with patch.object(leases.Leases, "take", _unheld), replaced(state.State, "end_batch", _end_unheld):
        yield


@planted_fault
def list_twice() -> Iterator[None]:
    """List source and target twice in each scan."""

    def pages(old: Any) -> Any:
        def changed(self: Any, *args: Any) -> Iterator[Any]:
            # A scan lists only once.
            other = discover.ImageScan(self._sync, self._source, self._target, self._notes, self._all_records)
            for _ in old(other, *args):
                pass
            yield from old(self, *args)

        return changed

    with replaced(discover.ImageScan, "pages", pages):
        yield


@planted_fault
def send_messages_twice() -> Iterator[None]:
    """Send every follow-up message twice."""

    def send(old: Any) -> Any:
        def changed(self: Any, outgoing: Any) -> Any:
            batches = list(outgoing)
            old(self, batches)
            return old(self, batches)

        return changed

    with replaced(Queues, "send", send):
        yield


@planted_fault
def repeat_start_messages() -> Iterator[None]:
    """Send each start message again after its scan."""

    def scan(old: Any) -> Any:
        def changed(self: Any, start: Any, run_id: str, received: int, left: Any, **more: Any) -> Any:
            made = old(self, start, run_id, received, left, **more)
            if not start.id or not start.id.endswith("-again"):
                self.engine.queues.start(replace(start, run=None, id=f"{run_id}-again"))
            return made

        return changed

    with replaced(worker.Worker, "_scan", scan):
        yield


@planted_fault
def never_expire_batch_records() -> Iterator[None]:
    """Write records of batches without an expiry time."""

    def record(old: Any) -> Any:
        def changed(self: Any, *args: Any) -> Any:
            item = dict(old(self, *args))
            del item["expires"]
            return item

        return changed

    with replaced(state.State, "_record_item", record):
        yield


@planted_fault
def never_expire_lease_records() -> Iterator[None]:
    """Write records of leases without an expiry time."""

    def update(old: Any) -> Any:
        def changed(self: Any, pk: str, sk: str, expression: str, values: Any, **more: Any) -> Any:
            if pk.startswith("LEASE#") and "expires" in values:
                expression = expression.replace(", #expires = :expires", "")
                values = {name: value for name, value in values.items() if name != "expires"}
            return old(self, pk, sk, expression, values, **more)

        return changed

    with replaced(Database, "update_request", update):
        yield
