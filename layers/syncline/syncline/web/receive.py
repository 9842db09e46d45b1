"""Webhooks: a notification of a change at a source starts a scan of the changed groups."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.messages import Queues, Start
from syncline.model import LARGEST_SCOPE, Scope, Trigger, json_bytes
from syncline.secrets import Secrets
from syncline.store.runs import new_run_id
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import logger
from syncline.web.function_url import HttpError, HttpRequest, HttpResponse, json_response, respond

LARGEST_BODY: Final = 1024 * 1024
"""Largest body of a notification, in bytes."""
_FORM: Final = "application/x-www-form-urlencoded"
_FIELDS: Final = 100
_LOGGED: Final = 10
"""Groups named in a log line."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Receives notifications at ``POST /hooks/<sync>/<secret>`` and, with a signature or bearer token, ``/hooks/<sync>``.

    GitHub sends a signature, ``X-Hub-Signature-256``, the HMAC-SHA256 of the raw body; MinIO sends a bearer token.
    ``changed_groups`` returns the groups that a notification names. No secrets but those of the webhooks are used.
    """

    config: Callable[[str], Sync]
    changed_groups: Callable[[Sync, object], tuple[str, ...]]
    secrets: Secrets
    queues: Queues
    clock: Callable[[], float] = time.time

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a function URL's event (payload format 2.0)."""
        return respond(event, self._answer)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            return json_response(202, self._accept(request))
        except (*AWS_ERRORS, SynclineError) as error:
            # Our own errors are only logged; the sender may send again.
            logger.error("notification not accepted", extra={"why": str(error)})
            raise HttpError(503, "not accepted now; send it again") from None

    def _accept(self, request: HttpRequest) -> dict[str, Any]:
        sync, given = self._sync(request.path)
        if request.method != "POST":
            raise HttpError(405, "use POST for notifications") if given is not None else _unauthorized()
        raw = request.body(LARGEST_BODY)
        if not self._is_authorized(sync, given, request.headers, raw):
            raise _unauthorized()
        is_form = request.headers.get("content-type", "").lower().startswith(_FORM)
        # Many programs declare any body a form by default, such as `curl --data`.
        body = _form(raw) if is_form and not raw.lstrip().startswith((b"{", b"[")) else _json(raw)
        try:
            groups = self.changed_groups(sync, body)
        except SynclineError as error:
            if error.code.name != "MESSAGE_INVALID":
                raise
            raise HttpError(400, error.what) from None
        if any(json_bytes(group) > LARGEST_SCOPE for group in groups):
            raise HttpError(400, f"the notification has a name of more than {LARGEST_SCOPE} bytes")
        if not sync.enabled:
            return {"sync": sync.name, "queued": [], "why": "the sync is not enabled"}
        # More groups than one scan may cover become several scans of one run.
        for part in Scope.of(groups).parts():
            self.queues.start(Start(sync.name, Trigger.WEBHOOK, part, id=new_run_id(self.clock)))
        logger.info("notification", extra={"sync": sync.name, "groups": len(groups), "first": list(groups[:_LOGGED])})
        return {"sync": sync.name, "queued": list(groups)}

    def _sync(self, path: str) -> tuple[Sync, str | None]:
        """Return the sync and the secret in a path. An unknown name and a wrong secret give the same error."""
        parts = path.strip("/").split("/")
        if len(parts) not in (2, 3) or parts[0] != "hooks":
            raise HttpError(404, "notifications go to /hooks/SYNC or /hooks/SYNC/SECRET")
        try:
            sync = self.config(parts[1])
        except SynclineError as error:
            if error.code.name == "NO_SUCH_SYNC":
                raise _unauthorized() from None
            raise
        if sync.webhook is None:
            raise _unauthorized()
        given = parts[2] if len(parts) == 3 else None
        if given is not None and not _same(self.secrets.resolve(sync.webhook.secret), given):
            raise _unauthorized()
        return sync, given

    def _is_authorized(self, sync: Sync, given: str | None, headers: Mapping[str, str], raw: bytes) -> bool:
        """Return True if the sender knows the secret, by the path (already checked), a signature or a bearer token."""
        assert sync.webhook is not None
        signature, bearer = headers.get("x-hub-signature-256"), headers.get("authorization", "")
        secret = self.secrets.resolve(sync.webhook.secret)
        if signature is not None:
            # A signature must be valid even if the secret is also in the path.
            return _same(f"sha256={hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()}", signature)
        return given is not None or (bearer[:7].lower() == "bearer " and _same(secret, bearer[7:]))


def _unauthorized() -> HttpError:
    return HttpError(401, "no such webhook, or wrong secret or signature")


def _same(secret: str, given: str) -> bool:
    return hmac.compare_digest(secret.encode(), given.encode(errors="replace"))


def _form(raw: bytes) -> Any:
    """Return the notification in a form, GitHub's default content type."""
    try:
        (payload,) = parse_qs(raw.decode(), max_num_fields=_FIELDS)["payload"]
        return json.loads(payload)
    except (ValueError, KeyError, RecursionError):
        what = "the form has no `payload` in JSON; choose the content type `application/json` for this webhook"
        raise HttpError(400, what) from None


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise HttpError(400, "the body is not JSON") from None
