"""What backups remember, in a dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from syncline.kinds.backups.memory import Count, Known


class Kept:
    """The memory of :mod:`syncline.kinds.backups.memory` in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Known]] = {}
        self.counted: dict[str, dict[str, Count]] = {}

    def known(self, place: str, cluster: str) -> dict[str, Known]:
        return dict(self.objects.get((place, cluster), {}))

    def note(self, place: str, cluster: str, part: str, known: Mapping[str, Known]) -> None:
        assert part
        self.objects.setdefault((place, cluster), {}).update(known)

    def settle(self, place: str, cluster: str, known: Mapping[str, Known]) -> None:
        self.objects[place, cluster] = dict(known)

    def counts(self, reference: str) -> dict[str, Count]:
        return dict(self.counted.get(reference, {}))

    def keep_counts(self, reference: str, counts: Mapping[str, Count]) -> None:
        self.counted[reference] = dict(counts)
