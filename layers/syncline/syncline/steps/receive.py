"""Receive: a registry says that something was pushed, and a look at just that is queued."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from syncline.config import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Kind
from syncline.messages import Queues, Start
from syncline.model import Scope, Trigger, compact_json
from syncline.secrets import Secrets
from syncline.telemetry import logger

LARGEST_BODY: Final = 1024 * 1024
"""Bytes; no registry's notification comes near it."""


class AnswerError(Exception):
    """The request is answered with ``status`` and a word on why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes notifications at ``POST /hooks/<sync>/<secret>``."""

    config: Callable[[str], Sync]
    kind: Callable[[str], Kind]
    secrets: Secrets
    queues: Queues

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """A function URL's event (payload format 2.0); its response."""
        try:
            status, answer = 202, self._accept(event)
        except AnswerError as error:
            status, answer = error.status, {"error": str(error)}
        except (SynclineError, ClientError, BotoCoreError) as error:
            # What is wrong on our side is for our log; the sender may send again.
            logger.error("notification not taken", extra={"why": str(error)})
            status, answer = 503, {"error": "not taken now; send it again"}
        return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": compact_json(answer)}

    def _accept(self, event: dict[str, Any]) -> dict[str, Any]:
        request = event["requestContext"]["http"]
        sync = self._sync(str(event["rawPath"]))
        if request["method"] != "POST":
            raise AnswerError(405, "notifications come by POST")
        body = _body(event)
        try:
            groups = self.kind(sync.name).hints(body)
        except SynclineError as error:
            if error.code.name != "MESSAGE_INVALID":
                raise
            raise AnswerError(400, error.what) from None
        if not sync.enabled:
            return {"sync": sync.name, "queued": [], "why": "the sync is not enabled"}
        if groups:
            self.queues.start(Start(sync.name, Trigger.WEBHOOK, Scope.of(groups)))
        logger.info("notification", extra={"sync": sync.name, "groups": list(groups)})
        return {"sync": sync.name, "queued": list(groups)}

    def _sync(self, path: str) -> Sync:
        """The sync a path names; an unknown name and a wrong secret are not told apart."""
        parts = path.strip("/").split("/")
        unknown = AnswerError(404, "no such hook")
        if len(parts) != 3 or parts[0] != "hooks":
            raise unknown
        try:
            sync = self.config(parts[1])
        except SynclineError as error:
            if error.code.name == "NO_SUCH_SYNC":
                raise unknown from None
            raise
        if sync.webhook is None:
            raise unknown
        if not self._is_secret(sync, parts[2]):
            raise unknown
        return sync

    def _is_secret(self, sync: Sync, given: str) -> bool:
        assert sync.webhook is not None
        secret = self.secrets.resolve(sync.webhook.secret)
        return hmac.compare_digest(secret.encode(), given.encode(errors="replace"))


def _body(event: dict[str, Any]) -> Any:
    """The request's body as JSON; its size is looked at before anything else is done with it."""
    text = event.get("body") or ""
    if len(text) > LARGEST_BODY * (4 / 3 if event.get("isBase64Encoded") else 1):
        raise AnswerError(413, f"more than {LARGEST_BODY} bytes")
    try:
        raw = base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else text
        return json.loads(raw)
    except (ValueError, binascii.Error, RecursionError):
        raise AnswerError(400, "the body is not JSON") from None
