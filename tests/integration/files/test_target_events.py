"""Files: the target's own events, and a scan of one key, lead to reading the target again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from syncline.messages import Start
from syncline.model import Run, Trigger
from tests.rig.files import SYNC, FilesChain

CONTENT: Final = {"a": b"the first", "b": b"the second", "folder/c": b"the third"}
CHANNELS: Final = ("list", "queue", "webhook", "key")


@dataclass
class Notifier:
    """A chain after its first run, and one channel for reports of changes at its target."""

    chain: FilesChain
    channel: str

    def report(self, kind: str, key: str, new_path: str | None = None) -> Run:
        """Report a change of the file of ``key``, and execute the resulting run."""
        event: dict[str, Any] = {"event_type": kind, "file_path": f"/data/{key}", "timestamp": "2026-11-25T01:00:00Z"}
        event |= {"new_path": new_path, "metadata": {}}
        chain = self.chain
        match self.channel:
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


@pytest.fixture(params=CHANNELS)
def notifier(chain: FilesChain, request: pytest.FixtureRequest) -> Notifier:
    chain.configure_with_events(removals={"share": 1.0})
    for key, content in CONTENT.items():
        chain.upload(key, content)
    assert chain.run().counts.moved == len(CONTENT)
    chain.check()
    return Notifier(chain, request.param)


def test_a_file_deleted_at_the_target_is_sent_again(notifier: Notifier) -> None:
    del notifier.chain.manager.files["/data/a"]
    run = notifier.report("delete", "a")
    assert run.counts.moved == 1
    notifier.chain.check()


@pytest.mark.parametrize(
    ("kind", "new_path"), [("rename", "/data/z"), ("move", "/data/folder/z"), ("move", "/other/z")]
)
def test_a_file_renamed_at_the_target_is_sent_again(notifier: Notifier, kind: str, new_path: str) -> None:
    """It is sent under its own path. The renamed file is foreign, even below the prefix of the sync."""
    chain = notifier.chain
    renamed = chain.manager.files[new_path] = chain.manager.files.pop("/data/a")
    run = notifier.report(kind, "a", new_path)
    assert run.counts.moved == 1
    chain.check(besides={new_path: CONTENT["a"]})
    chain.manager.events = []
    chain.run()
    chain.check(besides={new_path: CONTENT["a"]})
    assert chain.manager.files[new_path] == renamed


def test_a_file_replaced_at_the_target_is_a_conflict(notifier: Notifier) -> None:
    """Another client deleted and created it, so it is no longer the verified file."""
    chain = notifier.chain
    del chain.manager.files["/data/a"]
    chain.manager.put("/data/a", b"somebody else's")
    run = notifier.report("create", "a")
    assert chain.ended(run, "a") == "FILE_DIFFERS"
    assert run.counts.conflict == 1
    assert chain.manager.files["/data/a"].content == b"somebody else's"

    del chain.manager.files["/data/a"]
    notifier.report("delete", "a")
    chain.check()


def test_a_foreign_file_under_a_future_path_of_ours_is_a_conflict(notifier: Notifier) -> None:
    chain = notifier.chain
    chain.manager.put("/data/new", b"somebody else's")
    chain.upload("new", b"ours")
    run = notifier.report("create", "new")
    assert chain.ended(run, "new") == "FILE_DIFFERS"
    assert run.counts.conflict == 1
    assert chain.manager.files["/data/new"].content == b"somebody else's"


def test_another_file_moved_over_one_of_ours_is_a_conflict(notifier: Notifier) -> None:
    """The file has the same size but another ID."""
    chain = notifier.chain
    chain.manager.put("/other/a", CONTENT["a"].upper())
    chain.manager.files["/data/a"] = chain.manager.files.pop("/other/a")
    run = notifier.report("create", "a")
    assert chain.ended(run, "a") == "FILE_DIFFERS"
    assert run.counts.conflict == 1
    assert chain.manager.files["/data/a"].content == CONTENT["a"].upper()


def test_permissions_changed_at_the_target_are_set_again(notifier: Notifier) -> None:
    """No event had requested the change."""
    chain = notifier.chain
    chain.manager.files["/data/a"] = replace(chain.manager.files["/data/a"], permissions="rwxrwxrwx")
    received = chain.manager.received
    notifier.report("create", "a")
    chain.check()
    assert chain.manager.received == received


def test_an_event_of_an_unchanged_file_sends_nothing(notifier: Notifier) -> None:
    chain = notifier.chain
    received, done = chain.manager.received, chain.manager.operations["delete"]
    for kind in ("delete", "create"):
        run = notifier.report(kind, "a")
        assert (run.counts.moved, run.counts.failed, run.counts.conflict) == (0, 0, 0)
        chain.check()
    assert (chain.manager.received, chain.manager.operations["delete"]) == (received, done)


def test_a_deletion_at_both_sides_is_not_counted(notifier: Notifier) -> None:
    """Neither side has the file, so no count includes it."""
    chain = notifier.chain
    chain.bucket.delete("a")
    del chain.manager.files["/data/a"]
    notifier.report("delete", "a")
    chain.check()
    assert chain.manager.operations["create"] == len(CONTENT)
