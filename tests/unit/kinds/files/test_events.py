"""Events as scopes: their times, their order, and the permissions that they set."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.file_manager.client import FileEvent
from syncline.clients.s3.events import has_dot_segment
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.events import EventScope, groups_in, groups_of, instant, manager_events_in
from syncline.model import compact_json

NOON = 1_764_072_000.0
"""2025-11-25T12:00:00Z in Unix seconds."""
NOW = NOON + 60
EARLIER, LATER = "2025-11-25T12:00:00Z", "2025-11-25T12:00:01Z"
ONE, TWO, THREE = "rw-r--r--", "rw-rw----", "rwx------"


def sync_of(**more: Any) -> FilesSync:
    source = {"bucket": "photos", "prefix": "in/"}
    target = {"file_manager": "https://files.example/api", "prefix": "/data/"}
    sync = load_sync(compact_json({"name": "shop", "kind": "files", "source": source, "target": target, **more}))
    assert isinstance(sync, FilesSync)
    return sync


def mode_event(mode: str | None, timestamp: str = "", path: str = "/data/a") -> FileEvent:
    return FileEvent("change_permission", path, None, mode, timestamp)


def body(kind: str = "change_permission", path: Any = "/data/a", **about: Any) -> dict[str, Any]:
    """Return an event as the file manager sends it."""
    mode = about.pop("mode", ONE)
    return {"event_type": kind, "file_path": path, "metadata": {"new_permissions": mode}, "timestamp": "", **about}


def refusal(value: Any) -> str:
    with pytest.raises(SynclineError) as caught:
        groups_in(sync_of(), value, NOW)
    assert caught.value.code.name == "MESSAGE_INVALID"
    return caught.value.what


class TestInstant:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2025-11-25T12:00:00Z", NOON),
            ("2025-11-25T12:00:00+00:00", NOON),
            ("2025-11-25T14:00:00+02:00", NOON),
            ("2025-11-25T06:30:00-05:30", NOON),
            ("20251125T120000Z", NOON),
            ("2025-11-25 12:00:00Z", NOON),
            ("2025-11-25T12:00:00", NOON),
            ("2025-11-25", NOON - 12 * 3600),
            ("2025-11-25T12:00:00.25Z", NOON + 0.25),
            ("2025-11-25T12:00:00.250000123Z", NOON + 0.25),
            ("2025-11-25T12:00:00,5", NOON + 0.5),
            ("1764072000", NOON),
            ("1764072000.5", NOON + 0.5),
            ("1764072000000", NOON),
            ("1764072000500", NOON + 0.5),
            ("0", 0.0),
            ("1969-12-31T23:59:59Z", -1.0),
        ],
    )
    def test_times_are_read(self, text: str, seconds: float) -> None:
        assert instant(text) == pytest.approx(seconds, abs=1e-6)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "yesterday",
            "2025-11-25T25:00:00Z",
            "2025-02-30T12:00:00Z",
            "Tue, 25 Nov 2025 12:00:00 GMT",
            "nan",
            "inf",
            "-inf",
            "1e999",
            "-1",
            "-1764072000",
            "0x10",
            "\ud800",
        ],
    )
    def test_other_texts_are_no_times(self, text: str) -> None:
        assert instant(text) is None

    @given(st.text())
    def test_any_text_is_accepted(self, text: str) -> None:
        seconds = instant(text)
        assert seconds is None or math.isfinite(seconds)

    @given(st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2999, 1, 1), timezones=st.timezones()))  # noqa: DTZ001 - hypothesis adds the zone
    def test_all_forms_of_one_time_are_the_same(self, when: dt.datetime) -> None:
        when = when.astimezone(dt.UTC)
        seconds = when.timestamp()
        naive = when.replace(tzinfo=None)
        assert instant(when.isoformat()) == instant(naive.isoformat()) == pytest.approx(seconds)
        assert instant(repr(seconds)) == pytest.approx(seconds)


class TestOrder:
    """The latest permissions of a key count, ordered by their times, or by arrival if they have none."""

    @staticmethod
    def mode_after(*events: FileEvent) -> tuple[str, float | None]:
        return EventScope.of(groups_of(sync_of(), events, NOW)).modes["in/a"]

    def test_timed_events_count_by_their_times(self) -> None:
        events = [mode_event(ONE, EARLIER), mode_event(TWO, LATER)]
        for order in itertools.permutations(events):
            assert self.mode_after(*order) == (TWO, NOON + 1)

    def test_events_without_a_time_count_in_order_of_arrival(self) -> None:
        for modes in itertools.permutations([ONE, TWO, THREE]):
            assert self.mode_after(*map(mode_event, modes)) == (modes[-1], None)

    def test_more_than_nine_events_keep_their_order(self) -> None:
        modes = [ONE, TWO] * 10 + [THREE]
        assert self.mode_after(*map(mode_event, modes)) == (THREE, None)

    def test_an_event_without_a_time_keeps_its_place_among_timed_events(self) -> None:
        assert self.mode_after(mode_event(ONE, LATER), mode_event(TWO)) == (TWO, None)
        assert self.mode_after(mode_event(TWO), mode_event(ONE, EARLIER)) == (ONE, NOON)

    def test_the_second_of_two_events_with_one_time_counts(self) -> None:
        assert self.mode_after(mode_event(ONE, EARLIER), mode_event(TWO, EARLIER)) == (TWO, NOON)
        assert self.mode_after(mode_event(TWO, EARLIER), mode_event(ONE, "1764072000")) == (ONE, NOON)

    def test_an_invalid_time_is_no_time(self) -> None:
        assert self.mode_after(mode_event(ONE, LATER), mode_event(TWO, "nan")) == (TWO, None)

    def test_notifications_count_in_order_of_arrival(self) -> None:
        """The order of the groups in a scope has no meaning."""
        sync = sync_of()
        groups = {
            *groups_of(sync, [mode_event(TWO)], NOW + 10),
            *groups_of(sync, [mode_event(THREE), mode_event(ONE)], NOW + 9),
        }
        for order in itertools.permutations(groups):
            assert EventScope.of(order).modes == {"in/a": (TWO, None)}

    def test_keys_do_not_affect_each_other(self) -> None:
        events = [mode_event(ONE, LATER), mode_event(TWO, EARLIER, "/data/b"), mode_event(THREE, path="/elsewhere/a")]
        event_scope = EventScope.of(groups_of(sync_of(), events, NOW))
        assert event_scope.modes == {"in/a": (ONE, NOON + 1), "in/b": (TWO, NOON)}
        assert event_scope.keys == {"in/a", "in/b"}

    @given(
        st.lists(st.tuples(st.sampled_from([ONE, TWO, THREE]), st.integers(0, 5)), min_size=1, max_size=6), st.data()
    )
    def test_no_order_of_timed_events_matters(self, events: Sequence[tuple[str, int]], data: st.DataObject) -> None:
        """Events with equal times are excluded."""
        times = {seconds: mode for mode, seconds in events}
        shuffled = data.draw(st.permutations(list(times.items())))
        last = max(times)
        assert self.mode_after(*(mode_event(mode, str(1000 + at)) for at, mode in shuffled)) == (
            times[last],
            1000.0 + last,
        )


class TestGroups:
    def test_a_rename_names_both_keys(self) -> None:
        event = FileEvent("rename", "/data/a", "/data/b", None, "")
        assert groups_of(sync_of(), [event], NOW) == ("key:in/a", "key:in/b")

    def test_paths_outside_the_sync_are_ignored(self) -> None:
        sync = sync_of(select={"exclude": ["*.tmp"]})
        events = [FileEvent("create", path, None, None, "") for path in ("/data/a", "/other/a", "/data/b.tmp")]
        assert groups_of(sync, events, NOW) == ("key:in/a",)

    def test_a_scope_of_another_kind_is_refused(self) -> None:
        with pytest.raises(SynclineError) as caught:
            EventScope.of(["team/app"])
        assert caught.value.code.name == "MESSAGE_INVALID"

    @given(st.text(min_size=1).filter(lambda name: not has_dot_segment(name)), st.sampled_from([ONE, TWO]))
    def test_a_scope_can_carry_any_key(self, name: str, mode: str) -> None:
        event_scope = EventScope.of(groups_of(sync_of(), [mode_event(mode, path=f"/data/{name}")], NOW))
        assert event_scope.keys == {f"in/{name}"}
        assert event_scope.modes == {f"in/{name}": (mode, None)}


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "plain"),
        [
            ("rwxr-xr-x", "rwxr-xr-x"),
            ("rwsr-xr-x", "rwxr-xr-x"),
            ("rwSr--r--", "rw-r--r--"),
            ("rwxrwsr-x", "rwxrwxr-x"),
            ("rw-r-Sr--", "rw-r--r--"),
            ("rwxrwxrwt", "rwxrwxrwx"),
            ("rwxrwxrwT", "rwxrwxrw-"),
        ],
    )
    def test_special_bits_are_dropped(self, mode: str, plain: str) -> None:
        groups = groups_in(sync_of(), body(mode=mode), NOW)
        assert EventScope.of(groups).modes == {"in/a": (plain, None)}

    @pytest.mark.parametrize(
        "mode",
        [
            "rw-r--r-",
            "rw-r--r---",
            "-rw-r--r--",
            "0644",
            "rwtr--r--",
            "rw-r--r-s",
            "wr-r--r--",
            "RW-R--R--",
            "",
            "rw-r--r--\n",
        ],
    )
    def test_invalid_permissions_are_refused(self, mode: str) -> None:
        assert "not of the form rw-r--r--" in refusal(body(mode=mode))
        assert "not of the form rw-r--r--" in refusal({"events": [body(mode=mode)]})
        assert len(manager_events_in({"events": [body(), body(mode=mode), body("create")]})) == 2, (
            "only the invalid event is lost"
        )

    @pytest.mark.parametrize("mode", [None, 644, ["rw-r--r--"]])
    def test_permissions_must_be_text(self, mode: Any) -> None:
        assert "without new permissions" in refusal(body(mode=mode))

    @pytest.mark.parametrize("kind", ["create", "delete"])
    def test_only_a_change_of_permissions_sets_them(self, kind: str) -> None:
        assert groups_in(sync_of(), body(kind), NOW) == ("key:in/a",)

    @pytest.mark.parametrize(
        "value",
        [None, 7, [], "text", {}, {"events": {}}, body("melt"), body(path=""), body("move"), body(metadata=None)],
    )
    def test_invalid_events_are_refused(self, value: Any) -> None:
        assert refusal(value).startswith("an event of the file manager")

    def test_one_event_or_a_list(self) -> None:
        assert len(manager_events_in(body())) == 1
        assert len(manager_events_in({"events": [body(), body("create")]})) == 2
        assert groups_in(sync_of(), {"events": []}, NOW) == ()


def test_only_the_path_outside_the_sync_is_ignored() -> None:
    """A file that is moved into the folder of a sync has one path outside."""
    moved = FileEvent("move", "/elsewhere/a", "/data/a", None, "")
    assert groups_of(sync_of(), [moved], NOW) == ("key:in/a",)
    assert groups_of(sync_of(), [replace(moved, path="/data/b", new_path="/elsewhere/b")], NOW) == ("key:in/b",)


def test_only_keys_of_the_sync_in_a_notification_count() -> None:
    def record(bucket: str, key: str) -> dict[str, Any]:
        return {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
        }

    keys = [("photos", "in/a"), ("photos", "elsewhere/a"), ("others", "in/b"), ("photos", "in/a")]
    sync = sync_of(select={"exclude": ["*.tmp"]})
    records = [record(*each) for each in [*keys, ("photos", "in/c.tmp")]]
    assert groups_in(sync, {"Records": records}, NOW) == ("key:in/a",)


def test_a_scope_names_prefixes() -> None:
    event_scope = EventScope.of(["prefix:in/b/", "key:in/c", "prefix:in/a/"])
    assert (event_scope.prefixes, event_scope.keys) == (("in/a/", "in/b/"), frozenset({"in/c"}))
