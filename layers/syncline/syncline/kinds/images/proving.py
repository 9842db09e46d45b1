"""Proving: the target is asked again for every image, for everything it is made of, and for what refers to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final

from syncline.clients.oci import Manifest, Registry
from syncline.errors import SynclineError
from syncline.kinds.images.referrers import Compared, is_list
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item

AT_ONCE: Final = 8
"""Images asked for at a time."""


class Proof:
    """Asks one target registry. What has been found in a repository is not asked for twice."""

    def __init__(self, target: Registry, referrers: Callable[[str], Compared] | None = None) -> None:
        """``referrers`` gives for a target repository what refers to its images at the source, to be there too."""
        self._target = target
        self._referrers = referrers
        self._found: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def of(self, items: Sequence[Item], pace: Pace) -> Iterator[Arrived | Later | Failure]:
        """An answer for each item: arrived only if the tag has the source's digest and every part is there."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="prove") as pool:
            for each in as_completed([pool.submit(self._answer, item, pace) for item in items]):
                yield each.result()

    def _answer(self, item: Item, pace: Pace) -> Arrived | Later | Failure:
        if pace.over:
            return Later(item)
        try:
            self._prove_referrers(item, self._prove(item.group, item.name, str(item.source)))
        except SynclineError as error:
            return Failure(item, error)
        return Arrived(item)

    def _prove_referrers(self, item: Item, manifest: Manifest) -> None:
        if self._referrers is None or is_list(item.name):
            return
        for subject, referrer, listed in self._referrers(item.group).of(manifest):
            if not listed:
                what = (
                    f"{item.group}@{referrer.digest}, which refers to {subject}, is not listed at {self._target.host}"
                )
                raise _absent(what)
            if self._is_new(item.group, referrer.digest):
                self._prove(item.group, referrer.digest, referrer.digest)
                self._remember(item.group, referrer.digest)

    def _prove(self, repository: str, reference: str, digest: str) -> Manifest:
        try:
            # The manifest's own bytes are hashed; what a header says of them is not relied on.
            manifest = self._target.manifest(repository, reference)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                raise _absent(f"{repository}:{reference} is not at {self._target.host}") from None
            raise
        if manifest.digest != digest:
            what = f"{repository}:{reference} at {self._target.host} is {manifest.digest}, not {digest}"
            raise _absent(what)
        for child in manifest.children():
            if self._is_new(repository, child.digest):
                self._prove(repository, child.digest, child.digest)
                self._remember(repository, child.digest)
        for blob in manifest.blobs():
            # A foreign layer lies elsewhere by design; a registry may or may not have it.
            if not blob.foreign and self._is_new(repository, blob.digest):
                if not self._target.has_blob(repository, blob.digest):
                    raise _absent(f"{repository}@{blob.digest}, a part of {reference}, is not at {self._target.host}")
                self._remember(repository, blob.digest)
        return manifest

    def _is_new(self, repository: str, digest: str) -> bool:
        return (repository, digest) not in self._found

    def _remember(self, repository: str, digest: str) -> None:
        with self._lock:
            self._found.add((repository, digest))


def _absent(what: str) -> SynclineError:
    return SynclineError("NOT_ARRIVED", what)
