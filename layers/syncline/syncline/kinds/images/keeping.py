"""Images that a sync replaces: each is kept at the target under another tag, put before the new image gets its tag."""

from __future__ import annotations

from typing import Final

from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.store import ImageStore
from syncline.kinds.images.config_keep import LONGEST_TAG, Keeping, short_digest

KEPT: Final = "kept"
"""The key of an item's detail for the tag under which the replaced image is kept."""


class KeptImages:
    """The replaced images of one repository of the target. ``run`` is the ID of the run that replaces them."""

    def __init__(  # noqa: PLR0913, PLR0917 - both repositories, the rule and the run
        self, rule: Keeping, source: ImageStore, name: str, target: ImageStore, group: str, run: str
    ) -> None:
        self._rule, self._run = rule, run
        self._source, self._name = source, name
        self._target, self._group = target, group

    def keep(self, tag: str, digest: str) -> str:
        """Put the image with a digest under its other tag, and return that tag.

        A tag that the source has, or that has another image, is never used; then the image's digest is appended. Raises
        TagTakenError if that does not help, and the errors of reading the image: what cannot be kept is not replaced.
        """
        old = self._target.manifest(self._group, digest)
        first = self._rule.name(tag, digest, self._run)
        end = f"-{short_digest(digest)}"
        taken = digest
        for name in (first, f"{first[: LONGEST_TAG - len(end)]}{end}"):
            present = self._target.manifest_digest(self._group, name)
            if present is not None and old.has_digest(present):
                return name
            if present is None and self._source.manifest_digest(self._name, name) is None:
                try:
                    self._target.put_tag(self._group, name, old, None)
                except TagTakenError as other:
                    present = other.digest
                else:
                    return name
            taken = present or taken
        what = f"{digest} cannot be kept: {first} and {name} are other images; nothing is overwritten"
        raise TagTakenError(taken, what)
