"""Objects with unusual keys, for the tests of the step chain of files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.rig.files import FilesChain

NAMES = ["a", "b/c", "b c", "b+c", "b%20c", "ä", "a\u0308", "日本/🎈", "d/" + "n" * 200, "empty"]


def fill(chain: FilesChain, names: Sequence[str] = NAMES, **config: Any) -> None:
    """Apply a sync, and upload objects with these names."""
    chain.configure(**config)
    for name in names:
        chain.upload(name, name.encode() * 3 if name != "empty" else b"")
