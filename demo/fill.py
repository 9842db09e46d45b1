"""Push the missing tags of the catalog to prod. Existing tags are not changed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from demo.catalog import REPOSITORIES, SIGNED, Repository, shared_layer
from demo.images import Image
from demo.servers import registry
from demo.settings import Settings, folder
from demo.signature import key_pair, sign, tag_for
from syncline.clients.registry.client import Registry


@dataclass(slots=True)
class Filled:
    """The tags and blobs that were pushed; ``blobs`` maps digests to sizes in bytes."""

    tags: int = 0
    blobs: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.blobs.values())


class Pusher:
    """Pushes images to a registry. Each blob is pushed once and mounted in other repositories."""

    def __init__(self, target: Registry) -> None:
        self._target = target
        self._repositories: dict[str, str] = {}
        self.done = Filled()

    def push(self, repository: str, tag: str, image: Image) -> None:
        """Push an image under a tag."""
        self._push(repository, tag, image)
        self.done.tags += 1

    def _push(self, repository: str, reference: str, image: Image) -> None:
        for child in image.children:
            self._push(repository, child.digest, child)
        for digest, data in image.blobs.items():
            if not self._target.has_blob(repository, digest):
                self._blob(repository, digest, data)
        self._target.put_manifest(repository, reference, image.manifest)

    def _blob(self, repository: str, digest: str, data: bytes) -> None:
        mounted_from = self._repositories.get(digest)
        if mounted_from is None or not self._target.mount_blob(repository, digest, mounted_from):
            self._target.begin_upload(repository).put(digest, data, len(data))
            self.done.blobs[digest] = len(data)
        self._repositories[digest] = repository


def fill(settings: Settings, say: Callable[[str], None]) -> Filled:
    """Push missing tags of the catalog to prod; ``say`` is called with a message before slow steps."""
    prod = registry("prod", settings)
    missing = {each: _missing(each, prod) for each in REPOSITORIES}
    if not any(missing.values()):
        return Filled()
    say("creating images from files of this machine")
    names = sorted({name for each in REPOSITORIES if missing[each] for name in each.layers})
    with ThreadPoolExecutor() as pool:  # compression releases the GIL
        list(pool.map(shared_layer, names))
    pusher = Pusher(prod)
    for repository, tags in missing.items():
        if tags:
            _push_repository(repository, tags, pusher)
    return pusher.done


def _missing(repository: Repository, prod: Registry) -> set[str]:
    present = set(prod.tags(repository.name))
    missing = set(repository.tags) - present
    signed = any(tag.endswith(".sig") for tag in present)
    return missing | {SIGNED[1]} if repository.name == SIGNED[0] and not signed else missing


def _push_repository(repository: Repository, missing: set[str], pusher: Pusher) -> None:
    for image, tags in repository.images():
        for tag in tags:
            if tag not in missing:
                continue
            pusher.push(repository.name, tag, image)
            if (repository.name, tag) == SIGNED:
                key, _ = key_pair(folder())
                signature = sign(image, f"prod.example/{repository.name}", key)
                pusher.push(repository.name, tag_for(image.digest), signature)
