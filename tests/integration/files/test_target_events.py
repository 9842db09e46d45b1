"""Files: the target's own events, and a scan of one key, lead to reading the target again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from syncline.messages import Start
from syncline.model import Run, Trigger
from tests.rig.files import SYNC, FilesChain

CONTENT: Final = {"a": b"the first", "b": b"the second", "folder/c": b"the third"}
WAYS: Final = ("list", "queue", "webhook", "key")


@dataclass
class Told:
    """A chain that was synced once, and one way by which something that happened at its target is told."""

    chain: FilesChain
    way: str

    def tell(self, kind: str, key: str, new_path: str | None = None) -> Run:
        """Tell that something happened to the file of ``key``, and run what follows from it."""
        event: dict[str, Any] = {"event_type": kind, "file_path": f"/data/{key}", "timestamp": "2026-11-25T01:00:00Z"}
        event |= {"new_path": new_path, "metadata": {}}
        chain = self.chain
        match self.way:
            case "list":
                chain.manager.events = [event]
                return chain.run()
            case "queue":
                return chain.run_events({"service": chain.manager.url, "events": [event]})
            case "webhook":
                chain.clock.sleep(1)
                chain.queues.start(Start(SYNC, Trigger.WEBHOOK, event=event))
                chain.pump.run()
                return chain.latest()
        return chain.run(f"key:{key}")


@pytest.fixture(params=WAYS)
def told(chain: FilesChain, request: pytest.FixtureRequest) -> Told:
    chain.configure_with_events(removals={"share": 1.0})
    for key, content in CONTENT.items():
        chain.upload(key, content)
    assert chain.run().counts.moved == len(CONTENT)
    chain.check()
    return Told(chain, request.param)


def test_a_file_deleted_at_the_target_is_sent_again(told: Told) -> None:
    del told.chain.manager.files["/data/a"]
    run = told.tell("delete", "a")
    assert run.counts.moved == 1
    told.chain.check()


@pytest.mark.parametrize(
    ("kind", "new_path"), [("rename", "/data/z"), ("move", "/data/folder/z"), ("move", "/other/z")]
)
def test_a_file_renamed_at_the_target_is_sent_again(told: Told, kind: str, new_path: str) -> None:
    """Under its own path; what it became is somebody else's, even below the sync's prefix."""
    chain = told.chain
    renamed = chain.manager.files[new_path] = chain.manager.files.pop("/data/a")
    run = told.tell(kind, "a", new_path)
    assert run.counts.moved == 1
    chain.check(besides={new_path: CONTENT["a"]})
    chain.manager.events = []
    chain.run()
    chain.check(besides={new_path: CONTENT["a"]})
    assert chain.manager.files[new_path] == renamed


def test_a_file_replaced_at_the_target_is_a_conflict(told: Told) -> None:
    """Deleted and created by somebody else: it is no longer what was verified."""
    chain = told.chain
    del chain.manager.files["/data/a"]
    chain.manager.put("/data/a", b"somebody else's")
    run = told.tell("create", "a")
    assert chain.ended(run, "a") == "FILE_DIFFERS"
    assert run.counts.conflict == 1
    assert chain.manager.files["/data/a"].content == b"somebody else's"

    del chain.manager.files["/data/a"]
    told.tell("delete", "a")
    chain.check()


def test_a_file_created_where_one_of_ours_will_be_is_a_conflict(told: Told) -> None:
    chain = told.chain
    chain.manager.put("/data/new", b"somebody else's")
    chain.upload("new", b"ours")
    run = told.tell("create", "new")
    assert chain.ended(run, "new") == "FILE_DIFFERS"
    assert run.counts.conflict == 1
    assert chain.manager.files["/data/new"].content == b"somebody else's"


def test_another_file_moved_over_one_of_ours_is_a_conflict(told: Told) -> None:
    """The file's id is another, though its size is the same."""
    chain = told.chain
    chain.manager.put("/other/a", CONTENT["a"].upper())
    chain.manager.files["/data/a"] = chain.manager.files.pop("/other/a")
    run = told.tell("create", "a")
    assert chain.ended(run, "a") == "FILE_DIFFERS"
    assert run.counts.conflict == 1
    assert chain.manager.files["/data/a"].content == CONTENT["a"].upper()


def test_permissions_changed_at_the_target_are_set_again(told: Told) -> None:
    """No event told that they were to change."""
    chain = told.chain
    chain.manager.files["/data/a"] = replace(chain.manager.files["/data/a"], permissions="rwxrwxrwx")
    received = chain.manager.received
    told.tell("create", "a")
    chain.check()
    assert chain.manager.received == received


def test_an_event_of_a_file_that_is_there_sends_nothing(told: Told) -> None:
    chain = told.chain
    received, done = chain.manager.received, chain.manager.operations["delete"]
    for kind in ("delete", "create"):
        run = told.tell(kind, "a")
        assert (run.counts.moved, run.counts.failed, run.counts.conflict) == (0, 0, 0)
        chain.check()
    assert (chain.manager.received, chain.manager.operations["delete"]) == (received, done)


def test_a_deletion_at_the_target_of_what_is_gone_from_the_source(told: Told) -> None:
    """Neither has it any more, so nothing counts it."""
    chain = told.chain
    chain.bucket.delete("a")
    del chain.manager.files["/data/a"]
    told.tell("delete", "a")
    chain.check()
    assert chain.manager.operations["create"] == len(CONTENT)
