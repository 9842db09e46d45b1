"""Receive: a source says that something changed there, and a look at just that is queued."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from botocore.exceptions import BotoCoreError, ClientError

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.messages import Queues, Start
from syncline.model import LARGEST_SCOPE, Scope, Trigger, compact_json, json_bytes
from syncline.secrets import Secrets
from syncline.store.runs import new_run_id
from syncline.telemetry import logger

LARGEST_BODY: Final = 1024 * 1024
"""Bytes; no notification comes near it."""
_FORM: Final = "application/x-www-form-urlencoded"
_FIELDS: Final = 100
_NAMED: Final = 10
"""How many of the things to look at a log line names."""


class AnswerError(Exception):
    """The request is answered with ``status`` and a word on why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes notifications at ``POST /hooks/<sync>/<secret>`` and, with a signature or a bearer token, ``/hooks/<sync>``.

    A signature is GitHub's: ``X-Hub-Signature-256``, the HMAC-SHA256 of the raw body. Bearer tokens are MinIO's.
    ``changed_groups`` gives the groups that a notification names. The webhooks' own are the only secrets that are needed here.
    """

    config: Callable[[str], Sync]
    changed_groups: Callable[[Sync, object], tuple[str, ...]]
    secrets: Secrets
    queues: Queues
    clock: Callable[[], float] = time.time

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
        sync, given = self._sync(str(event["rawPath"]))
        if request["method"] != "POST":
            raise AnswerError(405, "notifications come by POST") if given is not None else _unproved()
        headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        raw = _raw(event)
        if not self._is_proved(sync, given, headers, raw):
            raise _unproved()
        is_form = headers.get("content-type", "").lower().startswith(_FORM)
        # Many programs call a body a form unless they are told otherwise, `curl --data` among them.
        body = _form(raw) if is_form and not raw.lstrip().startswith((b"{", b"[")) else _json(raw)
        try:
            groups = self.changed_groups(sync, body)
        except SynclineError as error:
            if error.code.name != "MESSAGE_INVALID":
                raise
            raise AnswerError(400, error.what) from None
        if any(json_bytes(group) > LARGEST_SCOPE for group in groups):
            raise AnswerError(400, f"a name of more than {LARGEST_SCOPE} bytes")
        if not sync.enabled:
            return {"sync": sync.name, "queued": [], "why": "the sync is not enabled"}
        # Many more than a look may cover become several looks, which join one run.
        for part in Scope.of(groups).parts():
            self.queues.start(Start(sync.name, Trigger.WEBHOOK, part, id=new_run_id(self.clock)))
        logger.info("notification", extra={"sync": sync.name, "groups": len(groups), "first": list(groups[:_NAMED])})
        return {"sync": sync.name, "queued": list(groups)}

    def _sync(self, path: str) -> tuple[Sync, str | None]:
        """Return the sync that a path names, and the secret in it; an unknown name and a wrong secret look the same."""
        parts = path.strip("/").split("/")
        if len(parts) not in (2, 3) or parts[0] != "hooks":
            raise AnswerError(404, "notifications go to /hooks/SYNC or /hooks/SYNC/SECRET")
        try:
            sync = self.config(parts[1])
        except SynclineError as error:
            if error.code.name == "NO_SUCH_SYNC":
                raise _unproved() from None
            raise
        if sync.webhook is None:
            raise _unproved()
        given = parts[2] if len(parts) == 3 else None
        if given is not None and not _same(self.secrets.resolve(sync.webhook.secret), given):
            raise _unproved()
        return sync, given

    def _is_proved(self, sync: Sync, given: str | None, headers: Mapping[str, str], raw: bytes) -> bool:
        """Return True if the sender knows the secret: by the path, already checked, a signature or a bearer token."""
        assert sync.webhook is not None
        signature, bearer = headers.get("x-hub-signature-256"), headers.get("authorization", "")
        secret = self.secrets.resolve(sync.webhook.secret)
        if signature is not None:
            # A signature that is there must hold, wherever else the secret stands.
            return _same(f"sha256={hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()}", signature)
        return given is not None or (bearer[:7].lower() == "bearer " and _same(secret, bearer[7:]))


def _unproved() -> AnswerError:
    return AnswerError(401, "there is no such hook, or its secret or signature is wrong")


def _same(secret: str, given: str) -> bool:
    return hmac.compare_digest(secret.encode(), given.encode(errors="replace"))


def _raw(event: dict[str, Any]) -> bytes:
    """Return the request's body. Its size is checked before it is decoded."""
    text = event.get("body") or ""
    is_base64 = event.get("isBase64Encoded")
    try:
        size = len(text) // 4 * 3 - text[-2:].count("=") if is_base64 else len(text.encode())
        if size > LARGEST_BODY:
            raise AnswerError(413, f"more than {LARGEST_BODY} bytes")
        return base64.b64decode(text, validate=True) if is_base64 else text.encode()
    except ValueError:
        raise AnswerError(400, "the body is not base64, as it claims to be") from None


def _form(raw: bytes) -> Any:
    """Return the notification in a form, as GitHub sends it where no other content type was chosen."""
    try:
        (payload,) = parse_qs(raw.decode(), max_num_fields=_FIELDS)["payload"]
        return json.loads(payload)
    except (ValueError, KeyError, RecursionError):
        what = "the form has no `payload` in JSON; choose the content type `application/json` for this webhook"
        raise AnswerError(400, what) from None


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise AnswerError(400, "the body is not JSON") from None
