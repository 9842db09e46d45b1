"""Verification of files by the target's listing, or one by one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.xml import ListedObject, ListPage
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.files.bucket_target import BucketTarget
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.records import Record, Row, Task
from syncline.kinds.files.verify import FileVerification
from syncline.kinds.files.wiring import folder_group_of
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, compact_json

PAGE = 100


class _Bucket:
    """A bucket that lists pages of 100 keys and counts requests. Its listing leaves out the keys ``unlisted``."""

    def __init__(self, objects: Mapping[str, ObjectHead], unlisted: Sequence[str] = ()) -> None:
        self.objects = dict(objects)
        self.unlisted = unlisted
        self.pages = 0
        self.heads: list[str] = []
        self.listing_fails = False

    def __str__(self) -> str:
        return "target"

    def page(self, prefix: str = "", *, after: str = "", **_: object) -> ListPage:
        self.pages += 1
        if self.listing_fails:
            raise SynclineError("FORBIDDEN", "no listing for you")
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key not in self.unlisted)
        shown = keys[bisect_right(keys, after) :]
        objects = [ListedObject(key, self.objects[key].etag, self.objects[key].size, 0.0) for key in shown[:PAGE]]
        return ListPage(tuple(objects), (), "more" if len(shown) > PAGE else None)

    def head(self, key: str, *, confirm: bool = True) -> ObjectHead | None:
        assert not confirm
        self.heads.append(key)
        return self.objects.get(key)


class _Records:
    def __init__(self) -> None:
        self.values: dict[str, Row | None] = {}
        self.after = 0

    def write(self, changes: Mapping[str, Row | None], gone: Mapping[str, Row], *, after: int) -> None:
        assert not gone, "no event came with a sequencer, and no run's rows are kept"
        self.after = after
        self.values |= changes


class _Facts(ProcessFacts):
    def recall(self, key: str) -> str | None:  # noqa: ARG002 - nothing is known
        return None

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:  # noqa: ARG002 - it fails
        raise AssertionError(f"verify must not remember facts: {key} {value}")


def _sync() -> FilesSync:
    endpoint = {"endpoint": "http://127.0.0.1:9000", "auth": "anonymous"}
    config = {"name": "mirror", "kind": "files", "source": {"bucket": "source", **endpoint}}
    config |= {"target": {"bucket": "target", **endpoint}}
    sync = load_sync(compact_json(config))
    assert isinstance(sync, FilesSync)
    return sync


def _made(key: str, etag: str = "e", size: int = 4, **task: Any) -> Item:
    return Task(record=Record(etag, size, 0, etag), **task).on(Item("00", key, etag, None, size))


def _verified(
    bucket: _Bucket, items: Sequence[Item], context: StepContext | None = None
) -> tuple[dict[str, Completed | Unfinished | Failure], _Records]:
    records = _Records()
    target = BucketTarget(bucket, near=True, facts=_Facts())  # type: ignore[arg-type]
    verify = FileVerification(_sync(), target, records, context or StepContext(lambda: 60.0), 4)  # type: ignore[arg-type]
    answers = verify.items(items)
    assert len(answers) == len(items)
    return {answer.item.name: answer for answer in answers}, records


def test_a_page_verifies_adjacent_files() -> None:
    keys = [f"d{number % 2}/f{number:04}" for number in range(500)]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in keys})
    answers, records = _verified(bucket, [_made(key) for key in keys])
    assert all(isinstance(answer, Completed) for answer in answers.values())
    assert records.values.keys() == set(keys)
    assert (bucket.pages, bucket.heads) == (6, [])


def test_a_verification_is_recorded_after_the_transfer() -> None:
    bucket = _Bucket({key: ObjectHead("e", 4) for key in "abc"})
    times = dict(zip("abc", (1_790_000_000_000_000, 1_790_000_000_000_002, 1_790_000_000_000_001), strict=True))
    _, records = _verified(bucket, [_made(key, written=at) for key, at in times.items()])
    assert records.after == max(times.values())


def test_files_that_the_listing_does_not_verify_are_read_one_by_one() -> None:
    """They differ in ETag or size, claim an ETag in metadata, are missing in a stale listing, or are absent."""
    keys = [f"f{number:02}" for number in range(40)]
    objects = {key: ObjectHead("e", 4) for key in keys}
    objects |= {"f01": ObjectHead("other", 4), "f02": ObjectHead("e", 5)}
    objects["f03"] = ObjectHead("parts-2", 4, metadata={"syncline-etag": "e"})
    del objects["f04"]
    bucket = _Bucket(objects, unlisted=["f05"])
    answers, records = _verified(bucket, [_made(key) for key in keys])
    failed = {name for name, answer in answers.items() if isinstance(answer, Failure)}
    assert failed == {"f01", "f02", "f03", "f04"}
    assert records.values.keys() == set(keys) - failed
    assert sorted(bucket.heads) == ["f01", "f02", "f03", "f04", "f05"]


def test_removals_and_permissions_are_read_one_by_one() -> None:
    keys = [f"f{number:02}" for number in range(40)]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in keys[20:]})
    removed = [Item("00", key, None, "e", 4, {"do": "remove"}) for key in keys[:20]]
    permitted = [_made(key, operation="permit", mode="rw-r--r--") for key in keys[20:]]
    answers, records = _verified(bucket, [*removed, *permitted])
    assert all(isinstance(answer, Completed) for answer in answers.values())
    assert (bucket.pages, sorted(bucket.heads)) == (0, keys)
    assert [records.values[key] for key in keys[:20]] == [None] * 20


def test_a_renamed_file_replaces_its_old_record() -> None:
    keys = [f"f{number:02}" for number in range(20)]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in keys})
    answers, records = _verified(bucket, [_made(key, origin=f"old-{key}") for key in keys])
    assert all(isinstance(answer, Completed) for answer in answers.values())
    assert records.values["old-f00"] is None
    assert records.values["f00"] is not None
    assert bucket.heads == []


@pytest.mark.parametrize("few", [1, 15])
def test_a_folder_with_few_files_is_not_listed(few: int) -> None:
    keys = [f"d/f{number:02}" for number in range(few)]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in keys})
    _verified(bucket, [_made(key) for key in keys])
    assert (bucket.pages, len(bucket.heads)) == (0, few)


def test_keys_far_apart_are_not_listed_after_one_page() -> None:
    everything = [f"f{number:05}" for number in range(4000)]
    keys = everything[::100]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in everything})
    answers, _ = _verified(bucket, [_made(key) for key in keys])
    assert all(isinstance(answer, Completed) for answer in answers.values())
    assert (bucket.pages, len(bucket.heads)) == (1, 39)


def test_files_are_verified_without_a_listing() -> None:
    keys = [f"f{number:02}" for number in range(20)]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in keys})
    bucket.listing_fails = True
    answers, _ = _verified(bucket, [_made(key) for key in keys])
    assert all(isinstance(answer, Completed) for answer in answers.values())
    assert len(bucket.heads) == 20


def test_nothing_is_read_when_time_is_over() -> None:
    keys = [f"f{number:02}" for number in range(20)]
    bucket = _Bucket({key: ObjectHead("e", 4) for key in keys})
    answers, records = _verified(bucket, [_made(key) for key in keys], StepContext(lambda: 0.0))
    assert all(isinstance(answer, Unfinished) for answer in answers.values())
    assert (bucket.pages, bucket.heads, records.values) == (0, [], {})


def test_files_of_one_folder_are_of_one_group() -> None:
    assert folder_group_of("a/b/c") == folder_group_of("a/b/d") != folder_group_of("a/e")
    assert len({folder_group_of(f"{number}/x") for number in range(500)}) == 16


def test_two_keys_with_one_file_are_a_collision() -> None:
    bucket = _Bucket({"photos/A.jpg": ObjectHead("second", 4)})
    answers, records = _verified(bucket, [_made("photos/A.jpg", "second"), _made("photos/a.jpg", "first")])
    assert isinstance(answers["photos/A.jpg"], Completed)
    failure = answers["photos/a.jpg"]
    assert isinstance(failure, Failure)
    assert failure.error.code.name == "PATH_COLLIDES"
    assert "'photos/A.jpg'" in failure.error.what
    assert records.values.keys() == {"photos/A.jpg"}
