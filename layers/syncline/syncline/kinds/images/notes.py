"""Notes about tags at a target, kept for later runs. Losing one costs a scan or a conflict, never a wrong copy."""

from __future__ import annotations

from syncline.kinds.images.places import Memory


class Notes:
    """The notes of one target registry."""

    def __init__(self, memory: Memory, host: str) -> None:
        self._memory = memory
        self._host = host

    def note_unverified(self, group: str) -> None:
        """Note that something put into a repository was not verified, so that its images have to be looked through."""
        self._memory.remember(self._unverified(group), "yes")

    def has_unverified(self, group: str) -> bool:
        return self._memory.recall(self._unverified(group)) is not None

    def forget_unverified(self, group: str) -> None:
        self._memory.forget(self._unverified(group))

    def note_outdated(self, group: str, tag: str, digest: str) -> None:
        """Note that a tag moved on at the source while we put `digest` at the target."""
        self._memory.remember(self._outdated(group, tag), digest)

    def outdated(self, group: str, tag: str) -> str | None:
        """Return the digest that we put under a tag and that was outdated by then, None for most tags."""
        return self._memory.recall(self._outdated(group, tag))

    def _unverified(self, group: str) -> str:
        return f"unverified@{self._host}/{group}"

    def _outdated(self, group: str, tag: str) -> str:
        return f"outdated@{self._host}/{group}:{tag}"
