"""Files: permissions from events, ordered by time, kept when the content changes, and valid from any source."""

from __future__ import annotations

from itertools import permutations
from typing import Any, Final

import pytest

from tests.rig.files import MODE, FilesChain

ZULU: Final = "2026-11-25T01:00:00Z"
BEFORE: Final = {"zone": "2026-11-25T02:30:00+02:00", "west": "2026-11-24T18:59:00-06:00"}
AFTER: Final = {
    "zone": "2026-11-25T03:30:00+02:00",
    "west": "2026-11-24T19:01:00-06:00",
    "fraction": "2026-11-25T01:00:00.250Z",
    "epoch": "1795568401",
    "epoch with fraction": "1795568400.5",
}
NONE: Final = [None, ""]
INVALID: Final = ["777", "<script>", "", "rwxrwxrwX", "wr-r--r--"]


def permission_event(mode: Any, at: Any = ZULU, key: str = "a") -> dict[str, Any]:
    """Return an event of changed permissions; without a time if `at` is None."""
    event = {"event_type": "change_permission", "file_path": f"/data/{key}", "metadata": {"new_permissions": mode}}
    return event if at is None else event | {"timestamp": at}


def run_events(chain: FilesChain, *events: dict[str, Any], together: bool = True) -> None:
    if together:
        chain.run_events({"service": chain.manager.url, "events": list(events)})
        return
    for event in events:
        chain.clock.sleep(1)
        chain.run_events({"service": chain.manager.url, "events": [event]})


def mode_of(chain: FilesChain, key: str = "a") -> str:
    return chain.manager.files[f"/data/{key}"].permissions


@pytest.fixture
def filled(strict: FilesChain) -> FilesChain:
    strict.manager.strict_modes = True
    strict.configure_with_events()
    strict.upload("a", b"content")
    strict.upload("b", b"another")
    strict.run()
    strict.check()
    return strict


class TestOrder:
    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("at", BEFORE.values(), ids=BEFORE)
    def test_an_earlier_instant_in_another_zone_does_not_count(
        self, filled: FilesChain, at: str, *, together: bool
    ) -> None:
        run_events(filled, permission_event("rwx------"), permission_event("rwxrwxrwx", at), together=together)
        assert mode_of(filled) == "rwx------"

    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("at", AFTER.values(), ids=AFTER)
    def test_a_later_instant_counts(self, filled: FilesChain, at: str, *, together: bool) -> None:
        run_events(filled, permission_event("rwx------"), permission_event("r--------", at), together=together)
        assert mode_of(filled) == "r--------"
        run_events(filled, permission_event("rwx------"))
        assert mode_of(filled) == "r--------"

    def test_a_number_is_a_time_too(self, filled: FilesChain) -> None:
        """A JSON number is the time in seconds since 1970."""
        run_events(
            filled,
            permission_event("rwx------", 1795568400),
            permission_event("r--------", 1795568400.75),
            permission_event("rw-rw-rw-", 1795568399),
        )
        assert mode_of(filled) == "r--------"

    def test_an_old_number_does_not_hide_a_later_time(self, filled: FilesChain) -> None:
        run_events(filled, permission_event("rwxrwxrwx", "9"))
        run_events(filled, permission_event("rwx------"))
        assert mode_of(filled) == "rwx------"

    @pytest.mark.parametrize("at", NONE)
    def test_without_a_time_the_one_delivered_last_counts(self, filled: FilesChain, at: str | None) -> None:
        for modes in permutations(["rwx------", "r--------", "rw-rw-rw-"]):
            run_events(filled, *(permission_event(mode, at) for mode in modes), together=False)
            assert mode_of(filled) == modes[-1]

    def test_without_a_time_in_one_message(self, filled: FilesChain) -> None:
        for modes in permutations(["rwx------", "r--------", "rw-rw-rw-"]):
            run_events(filled, *(permission_event(mode, None) for mode in modes))
            assert mode_of(filled) == modes[-1]

    @pytest.mark.parametrize("at", NONE)
    def test_an_event_without_a_time_does_not_hide_a_later_one_with_a_time(
        self, filled: FilesChain, at: str | None
    ) -> None:
        run_events(filled, permission_event("rwx------"))
        run_events(filled, permission_event("r--------", at))
        assert mode_of(filled) == "r--------"
        run_events(filled, permission_event("rw-rw-rw-", "2026-11-25T01:00:01Z"))
        assert mode_of(filled) == "rw-rw-rw-"

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_the_order_in_the_list_of_events_does_not_count(self, filled: FilesChain, order: tuple[int, ...]) -> None:
        events = [
            permission_event("rwxrwxrwx", BEFORE["zone"]),
            permission_event("rwx------"),
            permission_event("r--------", AFTER["zone"]),
        ]
        filled.manager.events = [events[number] for number in order]
        filled.run()
        filled.check(modes={"/data/a": "r--------"})


class TestKept:
    @pytest.mark.parametrize("mode", ["---------", "rwx------"])
    def test_permissions_of_an_event_are_kept_when_the_content_changes(self, filled: FilesChain, mode: str) -> None:
        run_events(filled, permission_event(mode))
        assert mode_of(filled) == mode
        for number in range(2):
            filled.upload("a", b"changed %d" % number)
            filled.run()
            filled.check(modes={"/data/a": mode})
        filled.upload("a", b"changed by the way")
        filled.run("key:a")
        filled.check(modes={"/data/a": mode})
        run_events(filled, permission_event("rwxrwxrwx", BEFORE["zone"]))
        filled.check(modes={"/data/a": mode})

    def test_permissions_of_an_event_are_kept_when_the_file_is_renamed(self, filled: FilesChain) -> None:
        filled.configure_with_events(removals={"share": 1.0})
        run_events(filled, permission_event("---------"))
        filled.upload("z", b"content")
        filled.bucket.delete("a")
        filled.run()
        assert filled.manager.operations["rename"] == 1
        filled.check(modes={"/data/z": "---------"})

    def test_permissions_of_an_event_are_kept_when_the_file_was_lost_at_the_target(self, filled: FilesChain) -> None:
        """The file is sent again, and never with wider permissions than before."""
        run_events(filled, permission_event("---------"))
        del filled.manager.files["/data/a"]
        filled.run("key:a")
        filled.check(modes={"/data/a": "---------"})


class TestValid:
    @pytest.mark.parametrize("mode", INVALID)
    def test_an_invalid_mode_of_an_event_is_not_set(self, filled: FilesChain, mode: str) -> None:
        """Only this event fails; the one beside it is applied."""
        asked = filled.manager.operations["permissions"]
        filled.manager.events = [permission_event(mode), permission_event("rwx------", key="b")]
        run = filled.run()
        filled.check(modes={"/data/b": "rwx------"})
        assert [result.code for result in filled.results(run).values() if result.code] == ["ENTRY_INVALID"]
        assert mode_of(filled) == MODE
        filled.manager.events = []
        again = filled.run()
        assert again.counts.failed == 0
        assert filled.manager.operations["permissions"] > asked

    @pytest.mark.parametrize("mode", INVALID)
    def test_an_invalid_mode_from_the_queue_is_not_set(self, filled: FilesChain, mode: str) -> None:
        filled.post({"service": filled.manager.url, "events": [permission_event(mode)]})
        filled.clock.sleep(1)
        filled.post({"service": filled.manager.url, "events": [permission_event("rwx------", key="b")]})
        filled.pump.run()
        assert (mode_of(filled), mode_of(filled, "b")) == (MODE, "rwx------")
        filled.upload("a", b"changed")
        run = filled.run()
        assert run.counts.failed == 0
        filled.check(modes={"/data/b": "rwx------"})

    @pytest.mark.parametrize(
        ("text", "mode"),
        [
            ("<script>", MODE),
            ("777", MODE),
            ("rwsr-xr-x", "rwxr-xr-x"),
            ("rwSr-Sr-T", "rw-r--r--"),
            ("rwxr-sr-t", "rwxr-xr-x"),
            ("---------", "---------"),
        ],
    )
    def test_from_metadata(self, filled: FilesChain, text: str, mode: str) -> None:
        """An invalid mode is ignored; special bits are dropped."""
        filled.upload("set by metadata", b"content", permissions=text)
        run = filled.run()
        assert run.counts.failed == 0
        filled.check(modes={"/data/set by metadata": mode})
        assert filled.run().counts.queued == 0

    @pytest.mark.parametrize("number", ["4755", "0101755"])
    def test_from_a_number_in_metadata(self, filled: FilesChain, number: str) -> None:
        filled.upload("set by number", b"content", mode=number)
        assert filled.run().counts.failed == 0
        filled.check(modes={"/data/set by number": "rwxr-xr-x"})

    def test_special_bits_of_an_event_are_dropped_or_the_event_is_refused(self, filled: FilesChain) -> None:
        run_events(filled, permission_event("rwsr-xr-x"))
        assert mode_of(filled) in ("rwxr-xr-x", MODE)
        assert not filled.mail.waiting()
        assert filled.run().counts.failed == 0
