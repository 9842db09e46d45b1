"""Rechecks of a file manager, which cannot be listed: every full scan reads a share of its files to find damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from syncline.model import Outcome, Result, Run
from tests.integration.files.targets import MANAGER, ROOT, Pair, events
from tests.rig.files import MODE

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
OURS: Final = b"the content of a file of ours"

pytestmark = pytest.mark.parametrize("pair", [MANAGER], indirect=True)


def populated(pair: Pair, count: int, **more: Any) -> list[str]:
    pair.configure(**more)
    keys = [f"{'abc'[number % 3]}/file-{number:03}" for number in range(count)]
    for key in keys:
        pair.put(key, OURS)
    assert pair.chain.run().counts.moved == count
    return keys


def scans(pair: Pair, number: int, every: float) -> Iterator[tuple[Run, list[str]]]:
    """Make full scans, one ``every`` that many seconds; yield each with the keys that it read at the target."""
    start = pair.chain.clock.now
    for turn in range(1, number + 1):
        pair.chain.clock.now = max(
            pair.chain.clock.now, start + turn * every - 1
        )  # `run` advances the clock by a second
        before = len(pair.reads())
        run = pair.chain.run()
        yield run, pair.reads()[before:]


class TestShares:
    @pytest.mark.parametrize(
        ("more", "number", "every"),
        [
            pytest.param({}, 14, DAY / 2, id="7 days when absent"),
            pytest.param({"recheck": "7d"}, 7, DAY, id="7 days"),
            pytest.param({"recheck": "2d"}, 8, 6 * HOUR, id="2 days"),
            pytest.param({"recheck": "12h"}, 6, 2 * HOUR, id="12 hours"),
        ],
    )
    def test_every_file_is_read_in_time_and_few_in_one_scan(
        self, pair: Pair, more: dict[str, Any], number: int, every: float
    ) -> None:
        keys = populated(pair, 42, **more)
        written = len(pair.writes())
        read: Counter[str] = Counter()
        for run, asked in scans(pair, number, every):
            assert (run.counts.skipped, run.counts.queued) == (len(keys), 0)
            assert len(asked) <= 3 * len(keys) / number
            read.update(asked)
        assert set(read) == set(keys)
        assert read.total() <= 2 * len(keys)
        assert len(pair.writes()) == written

    def test_all_files_are_read_after_a_long_pause(self, pair: Pair) -> None:
        keys = populated(pair, 12)
        [(run, asked)] = scans(pair, 1, 8 * DAY)
        assert set(asked) == set(keys)
        assert run.counts.queued == 0

    def test_all_files_recorded_before_the_first_full_scan_are_read(self, pair: Pair) -> None:
        """The time of their latest reading is unknown."""
        pair.configure()
        for key in ("a", "b"):
            pair.put(key, OURS)
        events(pair, "a", "b")
        pair.remove("a")
        pair.chain.clock.sleep(8 * DAY)
        assert pair.chain.run().counts.moved == 1
        assert pair.found() == {"a": OURS, "b": OURS}

    def test_frequent_scans_read_almost_no_file(self, pair: Pair) -> None:
        populated(pair, 56)
        assert sum(len(asked) for _, asked in scans(pair, 8, 60.0)) <= 8

    def test_the_files_read_longest_ago_are_read_first(self, pair: Pair) -> None:
        """No file is read a second time before all others have been read once."""
        keys = populated(pair, 28)
        order = [key for _, asked in scans(pair, 10, DAY) for key in dict.fromkeys(asked)]
        assert set(order[: len(keys)]) == set(keys)


class TestDamage:
    def found(self, pair: Pair, number: int = 7) -> dict[str, list[Result]]:
        """Scan for `number` days; return the results of each key, in order."""
        found: dict[str, list[Result]] = {}
        for run, _ in scans(pair, number, 7 * DAY / number):
            for key, result in pair.chain.results(run).items():
                found.setdefault(key, []).append(result)
        return found

    def test_a_deleted_file_is_sent_again(self, pair: Pair) -> None:
        populated(pair, 8)
        received = pair.chain.manager.received
        pair.remove("a/file-003")
        pair.remove("b/file-007")
        results = self.found(pair)
        assert set(results) == {"a/file-003", "b/file-007"}
        assert [each.outcome for key in results for each in results[key]] == [Outcome.MOVED, Outcome.MOVED]
        assert pair.found() == dict.fromkeys(pair.objects, OURS)
        assert pair.chain.manager.received == received + 2 * len(OURS)
        assert {file.permissions for file in pair.chain.manager.files.values()} == {MODE}

    @pytest.mark.parametrize(
        ("content", "metadata"),
        [
            pytest.param(OURS + b"!", None, id="another size"),
            pytest.param(OURS.upper(), "{}", id="other metadata"),
        ],
    )
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_changed_file_is_found(
        self, pair: Pair, content: bytes, metadata: str | None, *, overwrite: bool
    ) -> None:
        populated(pair, 8, overwrite=overwrite)
        path = f"{ROOT}a/file-003"
        pair.chain.manager.put(path, content, metadata or pair.chain.manager.files[path].metadata)
        results = self.found(pair)
        assert set(results) == {"a/file-003"}
        first = results["a/file-003"][0]
        if overwrite:
            assert first.outcome is Outcome.MOVED
            assert pair.found() == dict.fromkeys(pair.objects, OURS)
        else:
            assert (first.outcome, first.code) == (Outcome.CONFLICT, "FILE_DIFFERS")
            assert pair.found()["a/file-003"] == content

    def test_other_permissions_are_repaired(self, pair: Pair) -> None:
        populated(pair, 8)
        received = pair.chain.manager.received
        path = f"{ROOT}a/file-003"
        pair.chain.manager.put(path, OURS, pair.chain.manager.files[path].metadata, permissions="rwxrwxrwx")
        results = self.found(pair)
        assert set(results) == {"a/file-003"}
        assert pair.chain.manager.files[path].permissions == MODE
        assert pair.chain.manager.received == received

    def test_an_emptied_file_manager_is_filled_again(self, pair: Pair) -> None:
        keys = populated(pair, 28)
        pair.chain.manager.files.clear()
        results = self.found(pair)
        assert set(results) == set(keys)
        assert pair.found() == dict.fromkeys(keys, OURS)

    def test_a_file_deleted_at_source_and_target(self, pair: Pair) -> None:
        populated(pair, 8, removals={"share": 1.0})
        pair.remove("a/file-003")
        pair.delete("a/file-003")
        results = self.found(pair)
        assert {each.code for result in results.values() for each in result} <= {None}
        assert pair.found() == dict.fromkeys(pair.objects, OURS)
