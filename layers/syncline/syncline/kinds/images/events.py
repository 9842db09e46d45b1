"""Push notifications of registries. They are hints: the scan reads the repositories that they name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from syncline.clients.registry.reference import parse_repository
from syncline.errors import SynclineError

_UNKNOWN_FORM: Final = "not a notification of Quay or Docker Distribution"


def repositories_in(body: Any) -> tuple[str, ...]:
    """Return the repositories that a notification's decoded JSON names, sorted.

    Two forms are known: Quay's (``{"repository": "ns/name", "updated_tags": [...]}``) and Docker Distribution's
    envelope (``{"events": [{"action": "push", "target": {"repository": ...}}]}``), which other registries use too.
    An unreadable part of a notification is skipped: the next full scan finds its changes. Raises MESSAGE_INVALID if the
    form is neither of these, or if nothing in it is readable.
    """
    if not isinstance(body, dict) or not isinstance(body.get("events", []), list):
        raise SynclineError("MESSAGE_INVALID", _UNKNOWN_FORM)
    names: set[str] = set()
    wrong: SynclineError | None = None
    for event in body.get("events", [body]):
        try:
            names.update(_names(event))
        except SynclineError as error:
            wrong = wrong or SynclineError("MESSAGE_INVALID", f"the notification names no repository: {error.what}")
        except (KeyError, TypeError, AttributeError):
            wrong = wrong or SynclineError("MESSAGE_INVALID", _UNKNOWN_FORM)
    if wrong is not None and not names:
        raise wrong
    return tuple(sorted(names))


def _names(event: Any) -> Iterator[str]:
    if "action" not in event:
        yield parse_repository(event["repository"])
    elif event["action"] == "push" and _is_manifest(event["target"]):
        # Registries notify of pulls and of pushed blobs, too; only pushed manifests change a tag.
        yield parse_repository(event["target"]["repository"])


def _is_manifest(target: Any) -> bool:
    media_type = target.get("mediaType", "")
    return "manifest" in media_type or "index" in media_type
