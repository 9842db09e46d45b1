"""The file of the engine's state: each write is one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from syncline.cli.engine_state import Changes, Store

TABLE: Final = ("dynamodb", '["000000000000", "us-east-1", "table"]')
QUEUE: Final = ("sqs", '["000000000000", "us-east-1", "http://127.0.0.1:1/000000000000/queue"]')


def refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def keys(store: Store, service: str) -> list[object]:
    return [key for _, key, _ in store.records(service)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "engine.db")
    store.move_to("http://127.0.0.1:1")
    records: list[tuple[str, str, object, Any]] = [(*TABLE, ("a", "1"), {"n": 1}), (*TABLE, ("a", "2"), {"n": 2})]
    records += [(*QUEUE, key, {"body": f"to http://127.0.0.1:1/{key}"}) for key in "cab"]
    services = {"sqs": '{"url": "http://127.0.0.1:1/000000000000/queue"}'}
    store.write(Changes(services, [], records), refuse)
    yield store
    store.close()


def test_written_records_are_read_after_a_restart(store: Store, tmp_path: Path) -> None:
    store.write(Changes({}, [], [(*TABLE, ("a", "1"), None), (*TABLE, ("a", "2"), {"n": 3})]), refuse)
    with closing(Store(tmp_path / "engine.db")) as reopened:
        assert list(reopened.records("dynamodb")) == [(TABLE[1], ["a", "2"], {"n": 3})]
        assert keys(reopened, "sqs") == ["c", "a", "b"]  # in the order of their creation


def test_a_write_that_fails_changes_nothing(store: Store, tmp_path: Path) -> None:
    changes = Changes({"sqs": "{}"}, [QUEUE], [(*TABLE, ("a", "1"), None), (*TABLE, ("a", "3"), object())])
    with pytest.raises(TypeError, match="is not JSON"):
        store.write(changes, refuse)
    with closing(Store(tmp_path / "engine.db")) as reopened:
        for each in (store, reopened):
            assert each.services() != {"sqs": "{}"}
            assert keys(each, "dynamodb") == [["a", "1"], ["a", "2"]]
            assert keys(each, "sqs") == ["c", "a", "b"]


def test_a_replaced_resource_has_only_its_new_records(store: Store) -> None:
    store.write(Changes({}, [TABLE], [(*TABLE, ("b", "1"), {"n": 1})]), refuse)
    assert keys(store, "dynamodb") == [["b", "1"]]


def test_a_new_address_replaces_the_previous_one(store: Store) -> None:
    store.move_to("http://127.0.0.1:22")
    assert store.services() == {"sqs": '{"url": "http://127.0.0.1:22/000000000000/queue"}'}
    resource, _, value = next(store.records("sqs"))
    assert resource == QUEUE[1].replace(":1/", ":22/")
    assert value == {"body": "to http://127.0.0.1:22/c"}
