"""Objects are moved completely: with their headers and metadata, and under keys that end in a slash."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any, Final

import pytest

from syncline.model import Outcome, Run
from tests.integration.files.targets import (
    BUCKETS,
    LARGE_PARTS,
    MANAGER,
    PARTS,
    TARGET,
    Pair,
    Scan,
    accounted,
    events,
    full_scan,
)

TYPE: Final = {"content-type": "binary/octet-stream"}
HEADERS: Final = {
    "content-type": "text/csv; charset=utf-8",
    "content-encoding": "gzip",
    "cache-control": "max-age=86400, public",
    "content-disposition": "attachment; filename=\"report.csv\"; filename*=UTF-8''%C3%9Cbersicht.csv",
    "content-language": "de, en",
    "expires": "Thu, 01 Dec 2033 16:00:00 GMT",
}
METADATA: Final = {"owner": "me", "mode": "0100640", "note": "two  words, and = signs"}
SMALL: Final = gzip.compress(b"<report/>" * 50, mtime=0)
REMOVALS: Final = {"share": 1.0, "count": 100}

only_buckets = pytest.mark.parametrize("pair", BUCKETS, indirect=True)
only_manager = pytest.mark.parametrize("pair", [MANAGER], indirect=True)
Attributes = tuple[dict[str, str], dict[str, str]]


def assert_complete(pair: Pair) -> None:
    """Assert that the target has every object with its bytes, headers and metadata, and no others."""
    assert pair.found() == {key: stored.content for key, stored in pair.objects.items()}
    found = {key: (stored.headers, stored.metadata) for key, stored in pair.copies.items()}
    assert found == {key: (stored.headers, stored.metadata) for key, stored in pair.objects.items()}


def assert_idle(pair: Pair) -> None:
    assert not pair.chain.run().counts.queued  # the first full scan reads the objects that events have moved
    run = pair.chain.run()
    assert (run.counts.queued, run.counts.skipped) == (0, len(pair.objects))
    assert run.counts.requests == 2


def fill(pair: Pair, headers: dict[str, str], metadata: dict[str, str], parts: Sequence[bytes] = PARTS) -> None:
    """Put a small object, an empty one, and a larger one uploaded in one request and in parts."""
    pair.put("small.csv", SMALL, headers, metadata)
    pair.put("empty.csv", b"", headers, metadata)
    pair.put("whole.csv", b"".join(parts), headers, metadata)
    pair.put_parts("parts.csv", parts, headers, metadata)


@only_buckets
class TestHeaders:
    @pytest.mark.parametrize(
        ("headers", "metadata"),
        [
            pytest.param(HEADERS, METADATA, id="all"),
            pytest.param(TYPE, METADATA, id="metadata"),
            pytest.param(TYPE, {}, id="none"),
        ],
    )
    def test_exactly_these_headers_are_moved(
        self, pair: Pair, headers: dict[str, str], metadata: dict[str, str]
    ) -> None:
        pair.configure()
        fill(pair, headers, metadata, LARGE_PARTS)
        assert pair.chain.run().counts.moved == 4
        assert_complete(pair)
        assert_idle(pair)

    def test_by_an_event(self, pair: Pair) -> None:
        pair.configure()
        fill(pair, HEADERS, METADATA)
        events(pair, *pair.objects)
        assert_complete(pair)

    def test_with_a_rename(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        fill(pair, HEADERS, METADATA)
        pair.chain.run()
        for key in ("small.csv", "parts.csv"):
            pair.objects[f"renamed-{key}"] = pair.objects.pop(key)
        pair.chain.run()
        assert_complete(pair)
        assert_idle(pair)

    @pytest.mark.parametrize("where", ["source", "target"])
    def test_that_change_with_a_rename(self, pair: Pair, where: str) -> None:
        """The file at the target is renamed only if the new object has the same headers."""
        pair.configure(removals=REMOVALS)
        pair.put("small.csv", SMALL, HEADERS, METADATA)
        pair.put("other.csv", b"other")
        pair.chain.run()
        if where == "target":
            pair.copies["small.csv"].headers = TYPE
        pair.delete("small.csv")
        pair.put("renamed.csv", SMALL, *(CHANGES["type"] if where == "source" else (HEADERS, METADATA)))
        run = pair.chain.run()
        assert_complete(pair)
        assert (run.counts.moved, run.counts.removed) == (1, 0)
        assert_idle(pair)

    def test_of_the_new_object_replace_those_of_the_old(self, pair: Pair) -> None:
        pair.configure()
        fill(pair, HEADERS, METADATA)
        pair.chain.run()
        pair.put("small.csv", b"plain", {"content-type": "text/plain"})
        pair.put_parts("parts.csv", [PARTS[0], b"another rest"], {"content-type": "text/plain"}, {"owner": "you"})
        pair.chain.run()
        assert_complete(pair)
        assert_idle(pair)


CHANGES: Final[dict[str, Attributes]] = {
    "type": ({**HEADERS, "content-type": "text/plain"}, METADATA),
    "encoding gone": ({name: value for name, value in HEADERS.items() if name != "content-encoding"}, METADATA),
    "cache": ({**HEADERS, "cache-control": "no-store"}, METADATA),
    "disposition": ({**HEADERS, "content-disposition": "inline"}, METADATA),
    "language": ({**HEADERS, "content-language": "fr"}, METADATA),
    "expires": ({**HEADERS, "expires": "Fri, 02 Dec 2033 16:00:00 GMT"}, METADATA),
    "metadata changed": (HEADERS, {**METADATA, "owner": "you"}),
    "metadata added": (HEADERS, {**METADATA, "reviewed": "yes"}),
    "metadata gone": (HEADERS, {}),
}


@only_buckets
class TestChangesOfOnlyTheHeaders:
    """Bytes and ETag are unchanged; only the object's time shows the change."""

    def change(self, pair: Pair) -> None:
        pair.configure()
        for name in CHANGES:
            pair.put(f"{name}.csv", name.encode(), HEADERS, METADATA)
        pair.put_parts("parts.csv", PARTS, HEADERS, METADATA)
        pair.put("same.csv", b"same", HEADERS, METADATA)
        assert pair.chain.run().counts.moved == len(CHANGES) + 2
        for name, (headers, metadata) in CHANGES.items():
            pair.put(f"{name}.csv", name.encode(), headers, metadata)
        pair.put_parts("parts.csv", PARTS, *CHANGES["cache"])

    def test_they_are_moved_by_the_next_scan(self, pair: Pair) -> None:
        self.change(pair)
        run = pair.chain.run()
        assert_complete(pair)
        assert (run.counts.moved, run.counts.skipped, run.counts.conflict) == (len(CHANGES) + 1, 1, 0)
        assert_idle(pair)

    def test_they_are_equal_at_their_recheck(self, pair: Pair) -> None:
        self.change(pair)
        pair.chain.run()
        pair.chain.clock.sleep(8 * 86_400)
        run = pair.chain.run()
        assert (run.counts.queued, run.counts.skipped) == (0, len(pair.objects))

    def test_they_are_moved_by_an_event(self, pair: Pair) -> None:
        self.change(pair)
        run = events(pair, *pair.objects)
        assert_complete(pair)
        assert (run.counts.moved, run.counts.skipped, run.counts.conflict) == (len(CHANGES) + 1, 1, 0)
        assert_idle(pair)


SLASHED: Final = {"notes/": b"content of a key that ends in a slash", "a//": b"five!", "deep/er/": b"6 here"}
MARKERS: Final = {"photos/": b"", "photos/2026/": b""}
PLAIN: Final = {"photos/a.jpg": b"a", "photos/2026/b.jpg": b"b", "top": b"c"}


def prefixes_manually(pair: Pair, *_keys: str) -> Run:
    folders = sorted({key.partition("/")[0] for key in pair.objects if "/" in key})
    return pair.chain.run("key:top", *(f"prefix:{folder}/" for folder in folders))


looks = pytest.mark.parametrize("scan", [full_scan, events, prefixes_manually])


def put_all(pair: Pair, *groups: dict[str, bytes]) -> None:
    for group in groups:
        for key, content in group.items():
            pair.put(key, content)


class TestKeysThatEndInASlash:
    @only_buckets
    @looks
    def test_all_are_moved_to_a_bucket(self, pair: Pair, scan: Scan) -> None:
        pair.configure()
        put_all(pair, SLASHED, MARKERS, PLAIN)
        run = scan(pair, *pair.objects)
        assert_complete(pair)
        assert run.counts.moved == accounted(run.counts) == len(pair.objects)
        assert_idle(pair)

    @only_buckets
    def test_they_are_updated_and_removed_like_others(self, pair: Pair) -> None:
        pair.configure(removals=REMOVALS)
        put_all(pair, SLASHED, MARKERS, PLAIN)
        pair.chain.run()
        pair.put("notes/", b"changed")
        pair.put("photos/", b"no marker any more")
        pair.delete("a//")
        pair.delete("photos/2026/")
        run = pair.chain.run()
        assert_complete(pair)
        assert (run.counts.moved, run.counts.removed) == (2, 2)
        assert_idle(pair)

    @only_manager
    @looks
    def test_a_file_manager_accepts_none_with_content(self, pair: Pair, scan: Scan) -> None:
        pair.configure()
        put_all(pair, SLASHED, MARKERS, PLAIN)
        run = scan(pair, *pair.objects)
        assert pair.found() == PLAIN
        results = pair.chain.results(run)
        for key in SLASHED:
            assert (results[key].outcome, results[key].code) == (Outcome.FAILED, "PATH_REFUSED")
        counts = run.counts
        assert (counts.moved, counts.failed, counts.left_out) == (len(PLAIN), len(SLASHED), len(MARKERS))
        assert accounted(counts) == len(pair.objects)

    @only_manager
    def test_a_scan_that_changes_nothing_counts_them_as_well(self, pair: Pair) -> None:
        pair.configure()
        put_all(pair, SLASHED, MARKERS, PLAIN)
        pair.chain.run()
        run = pair.chain.run()
        assert (run.counts.skipped, run.counts.moved, run.counts.left_out) == (len(PLAIN), 0, len(MARKERS))
        assert accounted(run.counts) == len(pair.objects)


class TestEveryKeyIsCounted:
    def select(self, pair: Pair, **more: Any) -> None:
        pair.configure(select={"include": ["photos/**", "top"], "exclude": ["**/*.jpg"]}, **more)

    def test_with_a_selection(self, pair: Pair) -> None:
        self.select(pair)
        put_all(pair, PLAIN, {"photos/c.png": b"png", "elsewhere/d.png": b"png"})
        for run in (pair.chain.run(), pair.chain.run()):
            assert run.counts.left_out == 3
            assert accounted(run.counts) == len(pair.objects)
        assert set(pair.found()) == {"top", "photos/c.png"}

    def test_with_conflicts_and_failures(self, pair: Pair) -> None:
        self.select(pair)
        put_all(pair, PLAIN, {"photos/c.png": b"png", "photos/d.png": b"png"})
        pair.theirs("photos/c.png", b"somebody else's")
        run = pair.chain.run()
        assert (run.counts.conflict, run.counts.moved, run.counts.left_out) == (1, 2, 2)
        assert accounted(run.counts) == len(pair.objects)

    @pytest.mark.parametrize("content", [b"", b"has content"], ids=["empty", "content"])
    def test_the_prefix_of_the_source_itself(self, pair: Pair, content: bytes) -> None:
        """Its key gives an empty path, which no target accepts."""
        pair.configure(source={**pair.chain.endpoint(pair.chain.name), "prefix": "photos/"})
        put_all(pair, {"photos/": content, "photos/a.jpg": b"a"})
        run = pair.chain.run()
        assert pair.found() == {"a.jpg": b"a"}
        assert (run.counts.moved, run.counts.left_out, run.counts.failed) == ((1, 0, 1) if content else (1, 1, 0))
        if content:
            assert pair.chain.results(run)["photos/"].code == "PATH_REFUSED"

    @only_buckets
    def test_the_prefix_of_the_source_below_one_of_the_target(self, pair: Pair) -> None:
        pair.configure(
            source={**pair.chain.endpoint(pair.chain.name), "prefix": "photos/"},
            target={**pair.chain.endpoint(TARGET, pair.target_server.url), "prefix": "mirror/"},
        )
        put_all(pair, {"photos/": b"", "photos/a.jpg": b"a"})
        assert pair.chain.run().counts.moved == 2
        assert pair.found() == {"mirror/": b"", "mirror/a.jpg": b"a"}
