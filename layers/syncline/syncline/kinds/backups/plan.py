"""Planning a run: which objects would be moved, removed, or left out as they are or hold Kubernetes Secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncline.clients.git.objects import blob_hash
from syncline.clients.git.repository import Blob
from syncline.kinds.backups.reading import Content, Reader
from syncline.kinds.backups.sealing import left_out
from syncline.kinds.kind import StepContext, would_move, would_remove
from syncline.model import Item, Outcome, Result

_UNREAD = "not searched for Secrets, as the time was short: a run may leave it out"


def foreseen(reader: Reader, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
    """Yield how a run would end for each item. Objects are read only if the sync searches them for Secrets."""
    gone = [item for item in items if item.detail.get("remove")]
    yield from map(would_remove, gone)
    others = [item for item in items if not item.detail.get("remove")]
    if not reader.sealer.inspects:
        yield from map(would_move, others)
        return
    read = 0
    for content in reader.read(others, _hashed, lambda: context.over):
        read += 1
        yield _result(content)
    for item in others[read:]:
        yield would_move(item, _UNREAD)


def _result(content: Content) -> Result:
    item, error = content.item, content.error
    if error is not None:
        return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, error.what)
    if content.left_out is not None:
        return left_out(item, content.left_out)
    if content.blob is None:  # it went meanwhile, or an event named what is gone
        return Result(item.group, item.name, Outcome.EQUAL) if item.target is None else would_remove(item)
    if content.blob == item.target:
        return Result(item.group, item.name, Outcome.EQUAL)
    return would_move(item)


def _hashed(blob: Blob) -> str:
    """Return the ID of a large blob that is not stored."""
    digest = blob_hash(blob.size)
    for chunk in blob.chunks:
        digest.update(chunk)
    return digest.hexdigest()
