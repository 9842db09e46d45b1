"""Push notifications of registries: which repositories they speak of. They are hints; what they say is looked up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from syncline.clients.registry.reference import parse_repository
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync


def repositories_in(body: Any) -> tuple[str, ...]:
    """The repositories a notification's decoded JSON speaks of, sorted.

    Two forms are known: Quay's (``{"repository": "ns/name", "updated_tags": [...]}``) and Docker Distribution's
    envelope (``{"events": [{"action": "push", "target": {"repository": ...}}]}``), which other registries use too.
    What cannot be read of a notification costs that part alone: the next scan of everything finds what it stood for.
    Raises MESSAGE_INVALID if the form is neither of these, or if it names no repository although it should.
    """
    if not isinstance(body, dict) or not isinstance(body.get("events", []), list):
        raise SynclineError("MESSAGE_INVALID", "neither Quay's nor Docker Distribution's notification")
    names: set[str] = set()
    wrong: SynclineError | None = None
    for event in body.get("events", [body]):
        try:
            names.update(_names(event))
        except SynclineError as error:
            wrong = wrong or SynclineError("MESSAGE_INVALID", f"the notification names no repository: {error.what}")
        except (KeyError, TypeError, AttributeError):
            what = "neither Quay's nor Docker Distribution's notification"
            wrong = wrong or SynclineError("MESSAGE_INVALID", what)
    if wrong is not None and not names:
        raise wrong
    return tuple(sorted(names))


def groups_in(sync: ImagesSync, body: Any) -> tuple[str, ...]:
    """Return the target repositories of a sync that a notification names; raises MESSAGE_INVALID if it is none."""
    return tuple(sync.target_repository(name) for name in repositories_in(body) if sync.takes_repository(name))


def _names(event: Any) -> Iterator[str]:
    if "action" not in event:
        yield parse_repository(event["repository"])
    elif event["action"] == "push" and _is_manifest(event["target"]):
        # Pulls are notified too; of pushes, those of blobs come beside those of the manifests that matter.
        yield parse_repository(event["target"]["repository"])


def _is_manifest(target: Any) -> bool:
    media_type = target.get("mediaType", "")
    return "manifest" in media_type or "index" in media_type
