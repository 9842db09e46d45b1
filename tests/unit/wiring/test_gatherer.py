"""The reader of events as the functions build it: its reads do not grow with the number of events."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

import pytest

from syncline.config.file import read_syncs
from syncline.config.sync import Sync
from syncline.kinds.kind import Kind
from syncline.store.state import State
from syncline.wiring.functions import gatherer
from syncline.wiring.syncs import Syncs
from tests.rig.made_up import Steps, steps

__all__ = ["steps"]

EXAMPLE: Final = Path(__file__).parents[3] / "examples/backups-minio-to-git.yaml"


def put(number: int) -> dict[str, object]:
    """Return the notification of a new object, as S3 sends it."""
    record = {"bucket": {"name": "cluster-backups"}, "object": {"key": f"east/shop/{number}.yaml", "sequencer": "01"}}
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "eventTime": "2026-11-29T10:00:00Z",
                "eventName": "ObjectCreated:Put",
                "s3": record,
            }
        ]
    }


@pytest.mark.moto
def test_the_reads_of_a_delivery_do_not_depend_on_its_events(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    (sync,) = read_syncs(EXAMPLE).syncs.values()
    built, read = list[str](), list[str]()
    steps.state.put_sync(sync.name, sync.model_dump_json())

    def build(sync: Sync) -> Kind:
        built.append(sync.name)
        return cast("Kind", steps.kind)

    stored = steps.state.sync_config

    def sync_config(_: State, name: str) -> str:
        read.append(name)
        return stored(name)

    syncs = Syncs(steps.state, build)
    events = gatherer(syncs, steps.event_store, steps.engine)
    monkeypatch.setattr(State, "sync_config", sync_config)
    reads = []
    for count in (1, 50):
        read.clear()
        assert events.gather_for(sync.name, [(f"{count}-{n}", put(n)) for n in range(count)]) == set()
        reads.append(len(read))
    assert reads[0] == reads[1] > 0
    assert built == [sync.name]
    assert len({group for note in steps.event_store.notes(sync.name) for group in note.groups}) == 50
