"""Checkpoints: where reading of an archive stopped, so that the next function continues there.

Most of a checkpoint are the states of the deflate streams, some 40 KB each. It is kept among the facts that all functions
share, not in the message. Losing one costs reading the archive from its start, and nothing else.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from syncline.kinds.artifacts.archive.feed import Mark
from syncline.kinds.artifacts.archive.inflating import VERSION

FORMAT: Final = 1
"""The version of what is kept. Another one is not read."""
LARGEST: Final = 380_000
"""Characters of a checkpoint that fit into an item of the table, which takes 400 KB."""
RETENTION: Final = 2 * 24 * 3600.0
"""Seconds for which a checkpoint is kept. Registries drop uploads that nobody continues for about as long."""
_LARGEST_UNPACKED: Final = 64 * 1024 * 1024


class Memory(Protocol):
    """The memory that all functions share, as far as checkpoints need it."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str, seconds: float) -> None: ...

    def forget(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where another pass over the archive can begin, and what was learnt before.

    That is at the start of the content of a ``member`` with ``size`` bytes. If there is an ``inside``, its mark is a place
    within the content, and the rest of it tells what came before; it is of use while the target has the same.
    ``nested`` is the name of the archive in the archive, if the member is in one. ``texts``, ``links`` and ``sizes`` are
    those of the members before, ``done`` the layers that are at the target.
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
        """Bytes of the archive, and of the one in it, that come before."""
        size = 0
        mark: Mark | None = self.start if self.inside is None else self.inside["mark"]
        while mark is not None:
            size += int(mark["given"]) if "left" in mark else 0
            mark = mark.get("under")
        return size


class Checkpoints:
    """The checkpoint of one image; ``version`` tells its archive from any other."""

    def __init__(self, memory: Memory, image: str, version: str = "") -> None:
        self._memory = memory
        self._key = f"checkpoint@{image}"
        self._version = f"{FORMAT} {VERSION} {version}"
        self._is_kept: bool | None = None

    def load(self) -> Checkpoint | None:
        """Return the checkpoint; None if there is none, or it is of another archive or version of this program."""
        noted = self._memory.recall(self._key)
        self._is_kept = noted is not None
        if noted is None:
            return None
        try:
            machine = zlib.decompressobj()
            value = json.loads(machine.decompress(base64.b64decode(noted), _LARGEST_UNPACKED), object_hook=_from_json)
            return Checkpoint(**value["checkpoint"]) if value["version"] == self._version else None
        except (ValueError, KeyError, TypeError, zlib.error):
            return None

    def save(self, checkpoint: Checkpoint) -> bool:
        """Keep the checkpoint in place of any other; False if it is too large. Then the other one stays."""
        value = {"version": self._version, "checkpoint": asdict(checkpoint)}
        packed = base64.b64encode(zlib.compress(json.dumps(value, default=_to_json).encode())).decode()
        if len(packed) > LARGEST:
            return False
        self._memory.remember(self._key, packed, RETENTION)
        self._is_kept = True
        return True

    def forget(self) -> None:
        """Remove the checkpoint. Nothing is written if there is none."""
        if self._is_kept is None:
            self.load()
        if self._is_kept:
            self._memory.forget(self._key)


def _to_json(value: object) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is no part of a checkpoint")
    return {"base64": base64.b64encode(value).decode()}


def _from_json(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
