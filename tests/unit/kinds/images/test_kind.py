"""The kind `images` and the records of what it verified."""

from __future__ import annotations

from typing import Any, cast

from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.facts import BlobLocations
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.records import ImageRecord
from syncline.kinds.images.signatures import Trust
from syncline.kinds.kind import StepContext
from syncline.model import Item
from tests.unit.kinds.images.world import MemoryRegistry, RegistryPair

_OLD, _NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
_TAG = ("team/app", "latest")


class _WatchedTarget(MemoryRegistry):
    """A target that notes if there is a record of a tag while the tag is written."""

    def __init__(self, pair: RegistryPair) -> None:
        super().__init__("dr.example", {"team/app": {"latest": _OLD, "1": _OLD}})
        self._pair = pair
        self.recorded: list[bool] = []

    def put_tag(self, repository: str, tag: str, *_: Any, **_more: Any) -> str:
        self.recorded.append((repository, tag) in self._pair.records.rows)
        return _OLD


def test_the_record_of_a_tag_is_deleted_before_the_tag_is_replaced() -> None:
    pair = RegistryPair({"team/app": {"latest": _NEW, "1": _OLD}}, {}, overwrite=True)
    target = _WatchedTarget(pair)
    pair.records.rows = {_TAG: ImageRecord(_OLD).to_row(), ("team/app", "1"): ImageRecord(_OLD).to_row()}
    source, here = (RegistryClients(cast("Registry", end), None) for end in (pair.source, target))
    facts = ProcessFacts()
    trust = Trust((), lambda _: "", lambda: 0.0)
    kind = Images(pair.sync, source, here, Http(), BlobLocations(facts), pair.notes, trust, pair.records)
    items = [Item(*_TAG, _NEW, _OLD), Item("team/app", "1", _OLD, _OLD)]
    list(kind.transfer(items, StepContext(lambda: 60.0)))
    assert target.recorded == [False]
    assert list(pair.records.rows) == [("team/app", "1")]
