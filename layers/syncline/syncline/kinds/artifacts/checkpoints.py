"""Checkpoints: positions in an archive from which the next function continues.

Most of a checkpoint is the state of deflate streams, some 40 KB each. So it is stored among the facts that all functions
share, not in the message. Losing one costs reading the archive from its start, and nothing else.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Final

from syncline.kinds.artifacts.archive.inflate import VERSION
from syncline.kinds.artifacts.archive.streams import Mark
from syncline.kinds.facts import FactStore

FORMAT: Final = 1  # version of the stored form; another version is ignored
LARGEST: Final = 380_000  # characters of a checkpoint that fit into an item of the table, which takes 400 KB
RETENTION: Final = 2 * 24 * 3600.0
"""Seconds for which a checkpoint is stored. Registries keep unfinished uploads for about as long."""
_LARGEST_UNPACKED: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position from which another pass over an archive can continue, and the results before it.

    ``start`` is the mark of the start of a ``member``'s content of ``size`` bytes. ``inside``, if set, has a mark within
    the content and the state of what was read before it; it is valid while the target still has that part of the layer.
    ``nested`` is the name of the archive in the archive, if the member is in one. ``texts``, ``links`` and ``sizes`` are
    those of earlier members, ``done`` the layers that are at the target.
    """

    member: str
    size: int
    start: Mark
    inside: dict[str, Any] | None
    nested: str
    texts: dict[str, bytes]
    links: dict[str, str]
    sizes: dict[str, int]
    done: dict[str, list[str | int]]

    @property
    def read(self) -> int:
        """Return the number of bytes before the position, in the archive and in the one nested in it."""
        size = 0
        mark: Mark | None = self.start if self.inside is None else self.inside["mark"]
        while mark is not None:
            size += int(mark["given"]) if "left" in mark else 0
            mark = mark.get("under")
        return size


class Checkpoints:
    """The stored checkpoint of one image; ``version`` identifies its archive."""

    def __init__(self, facts: FactStore, image: str, version: str = "") -> None:
        self._facts = facts
        self._key = f"checkpoint@{image}"
        self._version = f"{FORMAT} {VERSION} {version}"
        self._is_stored: bool | None = None

    def load(self) -> Checkpoint | None:
        """Return the checkpoint; None if there is none, or if it is of another archive or program version."""
        noted = self._facts.recall(self._key)
        self._is_stored = noted is not None
        if noted is None:
            return None
        try:
            machine = zlib.decompressobj()
            value = json.loads(machine.decompress(base64.b64decode(noted), _LARGEST_UNPACKED), object_hook=_from_json)
            return Checkpoint(**value["checkpoint"]) if value["version"] == self._version else None
        except (ValueError, KeyError, TypeError, zlib.error):
            return None

    def save(self, checkpoint: Checkpoint) -> bool:
        """Store the checkpoint, replacing the previous one; return False and keep the previous one if it is too large."""
        value = {"version": self._version, "checkpoint": asdict(checkpoint)}
        packed = base64.b64encode(zlib.compress(json.dumps(value, default=_to_json).encode())).decode()
        if len(packed) > LARGEST:
            return False
        self._facts.remember(self._key, packed, RETENTION)
        self._is_stored = True
        return True

    def forget(self) -> None:
        """Remove the checkpoint. Write nothing if there is none."""
        if self._is_stored is None:
            self.load()
        if self._is_stored:
            self._facts.forget(self._key)


def _to_json(value: object) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} cannot be part of a checkpoint")
    return {"base64": base64.b64encode(value).decode()}


def _from_json(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
