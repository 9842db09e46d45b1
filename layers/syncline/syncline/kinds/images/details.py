"""Keys and values of an item's detail, by which a scan tells the transfer something, and the transfer its next attempt."""

from __future__ import annotations

from typing import Any, Final

from syncline.model import Item

INDEX: Final = "index"
"""Key in an item's detail: the digest of the index at the source, of which the target has a smaller one."""
KEPT: Final = "kept"
"""Key in an item's detail: the tag under which the replaced image is kept."""
FROM: Final = "from"
"""Key in an item's detail: the name of its repository at the source, if only a listing told it."""
_KEPT_DETAIL: Final = ("replaced", KEPT, "signed", "asked", FROM, INDEX)
"""Keys of an item's detail that are kept when it is tried again."""
ASKED: Final = {"asked": True}
"""The detail of items that a retry or a repair answers for: blobs that an audit found damaged are sent again."""
ASK: Final = "ask"
"""The value of ``signed`` in an item's detail if the source has too many tags to list: each is requested by name."""
UNSIGNED: Final = {"signed": False}
"""The detail of items if the source's complete list of tags has none that are attached."""


def kept_detail(item: Item) -> dict[str, Any]:
    """Return the part of an item's detail that is kept when it is tried again."""
    return {key: item.detail[key] for key in _KEPT_DETAIL if key in item.detail}
