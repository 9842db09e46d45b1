"""Push a new image to prod, as a user would."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Final

from demo.catalog import REPOSITORIES
from demo.fill import Pusher
from demo.servers import control_quay, registry
from demo.settings import Settings

REPOSITORY: Final = "web/frontend"
COPY_TIMEOUT: Final = 60.0  # seconds

_POLL_EVERY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Pushed:
    """A pushed image; ``at`` is a time of ``time.monotonic``."""

    tag: str
    digest: str
    at: float


def push(settings: Settings) -> Pushed:
    """Push a new version of a repository. The registry notifies Quay, and Quay notifies Syncline."""
    prod = registry("prod", settings)
    (repository,) = (each for each in REPOSITORIES if each.name == REPOSITORY)
    tag = f"build-{1 + sum(each.startswith('build-') for each in prod.tags(REPOSITORY))}"
    ((image, _),) = replace(repository, versions=(tag,), aliases=()).images()
    pusher = Pusher(prod)
    pusher.push(REPOSITORY, tag, image)
    pushed = Pushed(tag, image.digest, time.monotonic())
    if not settings.real:
        # The engine's registry sends no notifications, so this is the one that docker-registry would send.
        target = {"repository": REPOSITORY, "tag": tag, "digest": image.digest, "mediaType": image.manifest.media_type}
        control_quay(settings, "events", json.dumps({"events": [{"action": "push", "target": target}]}).encode())
    return pushed


def wait_for_copy(settings: Settings, pushed: Pushed) -> float | None:
    """Wait until dr has the pushed image; return the seconds since the push, or None after a minute."""
    dr = registry("dr", settings)
    while dr.manifest_digest(REPOSITORY, pushed.tag) != pushed.digest:
        if time.monotonic() - pushed.at > COPY_TIMEOUT:
            return None
        time.sleep(_POLL_EVERY)
    return time.monotonic() - pushed.at
