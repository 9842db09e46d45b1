"""Push notifications of registries: which repositories they speak of. They are hints; what they say is looked up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from syncline.clients.reference import parse_repository
from syncline.config.images import ImagesSync
from syncline.errors import SynclineError


def repositories_in(body: Any) -> tuple[str, ...]:
    """The repositories a notification's decoded JSON speaks of, sorted.

    Two forms are known: Quay's (``{"repository": "ns/name", "updated_tags": [...]}``) and Docker Distribution's
    envelope (``{"events": [{"action": "push", "target": {"repository": ...}}]}``), which other registries use too.
    Raises MESSAGE_INVALID where it is neither, or names what cannot be a repository.
    """
    try:
        names = tuple(sorted({parse_repository(name) for name in _names(body)}))
    except SynclineError as error:
        raise SynclineError("MESSAGE_INVALID", f"the notification names no repository: {error.what}") from None
    except (KeyError, TypeError, AttributeError):
        raise SynclineError("MESSAGE_INVALID", "neither Quay's nor Docker Distribution's notification") from None
    return names


def groups_in(sync: ImagesSync, body: Any) -> tuple[str, ...]:
    """Return the target repositories of a sync that a notification names; raises MESSAGE_INVALID if it is none."""
    return tuple(sync.target_repository(name) for name in repositories_in(body) if sync.takes_repository(name))


def _names(body: Any) -> Iterator[str]:
    if "events" in body:
        for event in body["events"]:
            # Pulls are notified too; of pushes, those of blobs come beside those of the manifests that matter.
            if event["action"] == "push" and _is_manifest(event["target"]):
                yield event["target"]["repository"]
    else:
        yield body["repository"]


def _is_manifest(target: Any) -> bool:
    media_type = target.get("mediaType", "")
    return "manifest" in media_type or "index" in media_type
