"""The target is the truth: foreign changes are detected, and another target is not assumed to have our files."""

from __future__ import annotations

from typing import Any

import pytest

from syncline.model import Outcome, Run
from tests.integration.files.targets import (
    BUCKETS,
    LARGE_PARTS,
    MANAGER,
    PARTS,
    SENT,
    TARGET,
    Pair,
    Scan,
    events,
    full_scan,
    keys_manually,
    prefix_manually,
)
from tests.standins.file_manager import FileManagerServer
from tests.standins.s3 import Answer, S3Server

KEYS = ["docs/a.txt", "docs/b.txt", "docs/sub/c.txt", "notes.md"]
DAMAGED = ["docs/a.txt", "docs/empty", "docs/parts.bin"]
TOKEN = "token-of-the-tests"
looks = pytest.mark.parametrize("scan", [full_scan, events, keys_manually, prefix_manually])


def populated(pair: Pair, **more: Any) -> None:
    """Move objects of several sorts to the target: small, empty, and uploaded in parts."""
    pair.configure(**more)
    for key in KEYS:
        pair.put(key, f"the content of {key}".encode())
    pair.put("docs/empty", b"")
    pair.put_parts("docs/parts.bin", PARTS)
    run = pair.chain.run()
    assert run.counts.moved == len(pair.objects)
    assert pair.found() == sources(pair)


def sources(pair: Pair) -> dict[str, bytes]:
    return {key: stored.content for key, stored in pair.objects.items()}


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("pair", BUCKETS, indirect=True)
class TestChangesAtAListedTarget:
    @looks
    def test_deleted_objects_are_restored(self, pair: Pair, scan: Scan) -> None:
        populated(pair)
        for key in DAMAGED:
            pair.remove(key)
        run = scan(pair, *DAMAGED)
        assert (run.counts.moved, run.counts.conflict) == (3, 0)
        assert pair.found() == sources(pair)
        assert pair.chain.run().counts.queued == 0

    @looks
    def test_a_flipped_byte_is_a_conflict(self, pair: Pair, scan: Scan) -> None:
        populated(pair)
        changed = {key: flipped(pair.objects[key].content) for key in ("docs/a.txt", "docs/parts.bin")}
        for key, content in changed.items():
            pair.theirs(key, content)
        run = scan(pair, *changed)
        assert (run.counts.moved, run.counts.conflict) == (0, 2)
        results = pair.chain.results(run)
        for key in changed:
            assert (results[key].outcome, results[key].code) == (Outcome.CONFLICT, "FILE_DIFFERS")
        assert pair.found() == sources(pair) | changed

    @looks
    def test_replaced_objects_are_replaced_again_with_overwrite(self, pair: Pair, scan: Scan) -> None:
        populated(pair, overwrite=True)
        for key in DAMAGED:
            pair.theirs(key, b"something else")
        run = scan(pair, *DAMAGED)
        assert (run.counts.moved, run.counts.conflict) == (3, 0)
        assert pair.found() == sources(pair)
        assert pair.chain.run().counts.queued == 0

    def test_many_changes_are_found_in_one_scan(self, pair: Pair) -> None:
        """The pages of source and target end at different keys."""
        pair.source_server.largest_page, pair.target_server.largest_page = 7, 5
        pair.configure(removals={"share": 0.5})
        keys = [f"{folder}/{number:02}" for folder in ("a", "a-b", "b") for number in range(14)]
        for key in keys:
            pair.put(key, key.encode())
        assert pair.chain.run().counts.moved == len(keys)
        for key in keys[::6]:
            pair.remove(key)
        for key in keys[1::6]:
            pair.theirs(key, b"theirs")
        for key in keys[2::6]:
            pair.put(key, b"changed at the source")
        for key in keys[3::6]:
            pair.delete(key)
        for key in keys[5::6]:  # foreign keys between ours
            pair.theirs(f"{key}.bak", b"a copy by hand")
        run = pair.chain.run()
        counts = run.counts
        assert (counts.moved, counts.conflict, counts.removed, counts.skipped) == (14, 7, 7, 14)
        wanted = sources(pair) | dict.fromkeys(keys[1::6], b"theirs")
        assert pair.found() == wanted | {f"{key}.bak": b"a copy by hand" for key in keys[5::6]}

    def test_removals_of_already_deleted_objects(self, pair: Pair) -> None:
        populated(pair, removals={"share": 1.0})
        pair.remove("docs/a.txt")
        pair.delete("docs/a.txt")
        run = pair.chain.run()
        assert (run.counts.failed, run.counts.conflict, run.counts.moved) == (0, 0, 0)
        assert pair.found() == sources(pair)
        assert pair.chain.run().counts.queued == 0

    def test_a_large_object(self, pair: Pair) -> None:
        pair.configure()
        for key in ("deleted", "flipped"):
            pair.put_parts(key, LARGE_PARTS)
        assert pair.chain.run().counts.moved == 2
        assert pair.chain.run().counts.queued == 0
        pair.remove("deleted")
        changed = flipped(pair.objects["flipped"].content)
        pair.theirs("flipped", changed)
        run = pair.chain.run()
        assert (run.counts.moved, run.counts.conflict) == (1, 1)
        assert pair.found() == sources(pair) | {"flipped": changed}

    def test_an_emptied_target_is_filled_again(self, pair: Pair) -> None:
        populated(pair)
        pair.copies.clear()
        assert pair.chain.run().counts.moved == len(pair.objects)
        assert pair.found() == sources(pair)

    def test_an_idle_scan_costs_two_listings(self, pair: Pair) -> None:
        populated(pair)
        run = pair.chain.run()
        assert (run.counts.skipped, run.counts.queued) == (len(pair.objects), 0)
        assert run.counts.requests == 2
        assert [each.operation for each in pair.target_server.requests[-1:]] == ["ListObjectsV2"]

    def test_a_target_with_a_failed_listing_is_not_treated_as_empty(self, pair: Pair) -> None:
        populated(pair, overwrite=True, removals={"share": 1.0})
        known = list(pair.objects)
        written = len(pair.writes(*known))
        pair.put("docs/new.txt", b"new")
        pair.delete("docs/a.txt")

        def hook(method: str, bucket: str, key: str, _query: object) -> Answer | None:
            listing = method == "GET" and bucket == TARGET and not key
            return (503, {}, b"<Error><Code>ServiceUnavailable</Code></Error>") if listing else None

        pair.target_server.hook = hook
        run = pair.chain.run()
        assert run.counts.failed >= 1
        assert run.counts.removed == 0
        assert len(pair.writes(*known)) == written


class TestAnotherTarget:
    """Records belong to their target: another target has none."""

    def go(self, pair: Pair, target: dict[str, Any]) -> Run:
        pair.chain.configure(target=target)
        return pair.chain.run()

    def target_of(self, pair: Pair, **more: Any) -> dict[str, Any]:
        if not pair.to_manager:
            return {**pair.chain.endpoint(TARGET, pair.target_server.url), "requests": 4, **more}
        manager = {"file_manager": pair.chain.manager.url, "token": "env:FILES_TOKEN", "prefix": "/data/"}
        return {**manager, "requests": 4, **more}

    def other_prefix(self, pair: Pair) -> str:
        return "/other/" if pair.to_manager else "other/"

    def under(self, pair: Pair, prefix: str) -> dict[str, bytes]:
        held: dict[str, bytes] = (
            {path: file.content or b"" for path, file in pair.chain.manager.files.items()}
            if pair.to_manager
            else pair.found()
        )
        return {key.removeprefix(prefix): each for key, each in held.items() if key.startswith(prefix)}

    def test_another_prefix_and_back(self, pair: Pair) -> None:
        populated(pair)
        count = len(pair.objects)
        prefix = self.other_prefix(pair)
        run = self.go(pair, self.target_of(pair, prefix=prefix))
        assert (run.counts.moved, run.counts.skipped) == (count, 0)
        assert self.under(pair, prefix) == sources(pair)
        self.assert_known(pair, self.target_of(pair))

    def assert_known(self, pair: Pair, target: dict[str, Any]) -> None:
        """Assert that the records of a target are unchanged: nothing is sent or requested, and our objects are ours."""
        written, read = len(pair.writes()), len(pair.reads())
        run = self.go(pair, target)
        assert (run.counts.moved, run.counts.skipped) == (0, len(pair.objects))
        assert len(pair.writes()) == written
        assert len(pair.reads()) - read <= pair.to_manager  # one file may have been rechecked
        pair.put("docs/a.txt", b"changed since")
        run = pair.chain.run()
        assert (run.counts.moved, run.counts.conflict) == (1, 0)

    @pytest.mark.parametrize("pair", BUCKETS, indirect=True)
    def test_back_to_a_target_that_has_lost_some_objects(self, pair: Pair) -> None:
        populated(pair)
        prefix = self.other_prefix(pair)
        self.go(pair, self.target_of(pair, prefix=prefix))
        for key in DAMAGED:
            pair.remove(key)
        pair.put("docs/new.txt", b"new")
        run = self.go(pair, self.target_of(pair))
        assert (run.counts.moved, run.counts.skipped, run.counts.conflict) == (4, 3, 0)
        assert pair.found() | sources(pair) == pair.found()

    @pytest.mark.parametrize("pair", BUCKETS, indirect=True)
    def test_another_bucket(self, pair: Pair) -> None:
        populated(pair)
        pair.target_server.objects["target-2"] = {}
        run = self.go(pair, {**self.target_of(pair), "bucket": "target-2"})
        assert (run.counts.moved, run.counts.skipped) == (len(pair.objects), 0)
        assert {key: each.content for key, each in pair.target_server.objects["target-2"].items()} == sources(pair)
        self.assert_known(pair, self.target_of(pair))

    @pytest.mark.parametrize("pair", [SENT], indirect=True)
    def test_another_endpoint(self, pair: Pair) -> None:
        populated(pair)
        with S3Server(TARGET, clock=pair.chain.clock.time) as server:
            run = self.go(pair, pair.chain.endpoint(TARGET, server.url))
            assert (run.counts.moved, run.counts.skipped) == (len(pair.objects), 0)
            assert {key: each.content for key, each in server.objects[TARGET].items()} == sources(pair)
        self.assert_known(pair, self.target_of(pair))

    @pytest.mark.parametrize("pair", [MANAGER], indirect=True)
    def test_another_file_manager(self, pair: Pair) -> None:
        populated(pair)
        with FileManagerServer(token=TOKEN) as manager:
            run = self.go(pair, {**self.target_of(pair), "file_manager": manager.url})
            assert (run.counts.moved, run.counts.skipped) == (len(pair.objects), 0)
            found = {path.removeprefix("/data/"): file.content for path, file in manager.files.items()}
            assert found == sources(pair)
        self.assert_known(pair, self.target_of(pair))

    @pytest.mark.parametrize("pair", [SENT], indirect=True)
    def test_a_target_with_foreign_objects(self, pair: Pair) -> None:
        """Objects under our keys at the new target are foreign, unless they are equal."""
        populated(pair)
        there = pair.target_server.objects["target-2"] = {}
        pair.target_server.put("target-2", "docs/a.txt", b"somebody else's")
        pair.target_server.put(
            "target-2", "docs/b.txt", pair.objects["docs/b.txt"].content, {"content-type": "text/plain"}
        )
        run = self.go(pair, {**self.target_of(pair), "bucket": "target-2"})
        assert (run.counts.moved, run.counts.skipped, run.counts.conflict) == (len(pair.objects) - 2, 1, 1)
        assert there["docs/a.txt"].content == b"somebody else's"

    @pytest.mark.parametrize("pair", BUCKETS, indirect=True)
    def test_a_source_with_another_prefix(self, pair: Pair) -> None:
        """Other objects have the same paths."""
        pair.configure(source={**pair.chain.endpoint(pair.chain.name), "prefix": "old/"}, overwrite=True)
        for key in ("old/a", "old/b", "new/a", "new/b"):
            pair.put(key, f"content of {key}".encode())
        pair.chain.run()
        assert pair.found() == {"a": b"content of old/a", "b": b"content of old/b"}
        pair.configure(source={**pair.chain.endpoint(pair.chain.name), "prefix": "new/"}, overwrite=True)
        assert pair.chain.run().counts.moved == 2
        assert pair.found() == {"a": b"content of new/a", "b": b"content of new/b"}
