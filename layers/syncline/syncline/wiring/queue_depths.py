"""Reads the depths of all queues at once, for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from syncline.messages import QueueDepth, read_depth
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import logger

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

_AT_ONCE: Final = 5
_SECONDS: Final = 3
"""Limit for connecting to SQS, and for its response: Prometheus waits for ten seconds."""


class QueueDepths:
    """Returns the depths of queues, given by their URLs, by the queue's name and if it has its dead letters."""

    def __init__(self, urls: Mapping[tuple[str, bool], str]) -> None:
        self._urls = urls

    def __call__(self) -> list[QueueDepth]:
        """Return the depths of the queues that could be read; the others are logged."""
        self._sqs  # noqa: B018 - botocore makes clients in one thread at a time
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            reads = [pool.submit(copy_context().run, partial(self._read, *key)) for key in self._urls]
            return [depth for read in reads if (depth := read.result()) is not None]

    @cached_property
    def _sqs(self) -> SQSClient:
        import boto3  # noqa: PLC0415 - slow
        from botocore.config import Config  # noqa: PLC0415

        config = Config(retries={"total_max_attempts": 2}, connect_timeout=_SECONDS, read_timeout=_SECONDS)
        return boto3.client("sqs", config=config)

    def _read(self, queue: str, dead: bool) -> QueueDepth | None:  # noqa: FBT001 - the parts of a key
        try:
            return read_depth(self._sqs, self._urls[queue, dead], queue, dead=dead)
        except AWS_ERRORS as error:
            logger.warning("queue cannot be read", extra={"queue": queue, "dead": dead, "why": str(error)})
            return None
