"""Something new at prod: an image that no run has seen, pushed as a person would push it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Final

from demo.catalog import REPOSITORIES
from demo.fill import Pusher
from demo.servers import ask_quay, registry
from demo.settings import Settings

REPOSITORY: Final = "web/frontend"
LONGEST_WAIT: Final = 60.0  # seconds

_LOOK_EVERY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image as it was pushed, at a time of ``time.monotonic``."""

    tag: str
    digest: str
    at: float


def push(settings: Settings) -> Pushed:
    """Push a new version of a repository; its registry tells Quay, and Quay tells Syncline."""
    prod = registry("prod", settings)
    (repository,) = (each for each in REPOSITORIES if each.name == REPOSITORY)
    tag = f"build-{1 + sum(each.startswith('build-') for each in prod.tags(REPOSITORY))}"
    ((image, _),) = replace(repository, versions=(tag,), same=()).images()
    pusher = Pusher(prod)
    pusher.push(REPOSITORY, tag, image)
    pushed = Pushed(tag, image.digest, time.monotonic())
    if not settings.real:
        # The engine's registry tells nobody of a push. What docker-registry would have sent:
        target = {"repository": REPOSITORY, "tag": tag, "digest": image.digest, "mediaType": image.manifest.media_type}
        ask_quay(settings, "events", json.dumps({"events": [{"action": "push", "target": target}]}).encode())
    return pushed


def arrived(settings: Settings, pushed: Pushed) -> float | None:
    """Wait until dr has what was pushed: the seconds it took, None if it did not come within a minute."""
    dr = registry("dr", settings)
    while dr.manifest_digest(REPOSITORY, pushed.tag) != pushed.digest:
        if time.monotonic() - pushed.at > LONGEST_WAIT:
            return None
        time.sleep(_LOOK_EVERY)
    return time.monotonic() - pushed.at
