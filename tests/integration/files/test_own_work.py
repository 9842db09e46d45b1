"""Files: a response that is lost after the file manager has executed the request is harmless."""

from __future__ import annotations

import pytest

from tests.rig.files import FilesChain
from tests.standins.file_manager_wire import Answer, json_answer

LOST = [Answer(200, b"", drop=True), json_answer({"error": "bad gateway"}, 502), Answer(504, b"<html>", "text/html")]
IDS = ["closed", "502", "504"]


@pytest.fixture(params=LOST, ids=IDS)
def lost(request: pytest.FixtureRequest) -> Answer:
    answer = request.param
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("content", [b"small", b"0123456789abcdef" * (200 * 1024)], ids=["small", "streamed"])
@pytest.mark.parametrize("times", [1, 3])
def test_of_a_create(chain: FilesChain, lost: Answer, content: bytes, times: int) -> None:
    chain.configure()
    chain.upload("a", content, permissions="rw-------")
    chain.upload("b", b"another")
    chain.manager.lose("create", "/data/a", times, lost)
    run = chain.run()
    assert (chain.ended(run, "a"), chain.ended(run, "b")) == ("moved", "moved")
    chain.check(modes={"/data/a": "rw-------"})
    assert not chain.dead()


def test_of_an_update(chain: FilesChain, lost: Answer) -> None:
    chain.configure()
    chain.upload("a", b"of old")
    chain.run()
    chain.upload("a", b"0123456789abcdef" * (200 * 1024))
    chain.manager.lose("update", "/data/a", 1, lost)
    assert chain.ended(chain.run(), "a") == "moved"
    chain.check()
    assert not chain.dead()


@pytest.mark.parametrize("new_key", ["z", "folder/z"])
def test_of_a_rename(chain: FilesChain, lost: Answer, new_key: str) -> None:
    chain.configure(removals={"share": 1.0})
    for key, content in (("a", b"renamed"), ("b", b"stays")):
        chain.upload(key, content)
    chain.run()
    received, number = chain.manager.received, chain.manager.files["/data/a"].internal_id
    chain.upload(new_key, b"renamed")
    chain.bucket.delete("a")
    chain.manager.lose("move" if "/" in new_key else "rename", "/data/a", 1, lost)
    run = chain.run()
    assert chain.ended(run, new_key) == "moved"
    chain.check()
    assert (chain.manager.received, chain.manager.files[f"/data/{new_key}"].internal_id) == (received, number)
    assert not chain.dead()


def test_of_a_delete(chain: FilesChain, lost: Answer) -> None:
    chain.configure(removals={"share": 1.0})
    for key in "abc":
        chain.upload(key, key.encode())
    chain.run()
    chain.bucket.delete("a")
    chain.manager.lose("delete", "/data/a", 1, lost)
    run = chain.run()
    assert (chain.ended(run, "a"), run.counts.removed) == ("removed", 1)
    chain.check()
    assert not chain.dead()


def test_of_permissions(chain: FilesChain, lost: Answer) -> None:
    chain.configure()
    chain.upload("a", b"content", permissions="r--------")
    chain.manager.lose("permissions", "/data/a", 1, lost)
    assert chain.ended(chain.run(), "a") == "moved"
    chain.check(modes={"/data/a": "r--------"})


def test_a_foreign_file_created_before_the_retry_is_a_conflict(chain: FilesChain, lost: Answer) -> None:
    """A lost response does not prove that the existing file is ours."""
    chain.configure()
    chain.upload("a", b"ours")

    def replaced(_path: str) -> None:
        chain.manager.put("/data/a", b"somebody else's", permissions="rwx------")

    chain.manager.on_save = replaced
    chain.manager.lose("create", "/data/a", 1, lost)
    run = chain.run()
    assert chain.ended(run, "a") == "FILE_DIFFERS"
    assert chain.manager.files["/data/a"].content == b"somebody else's"
    assert chain.manager.files["/data/a"].permissions == "rwx------"
