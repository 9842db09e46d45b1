"""Files: an invalid entry in a listing fails alone, and causes no removal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from syncline.model import Run
from tests.integration.files.targets import SENT, TARGET, Pair
from tests.rig.files import FilesChain
from tests.standins.odd_listings import Change, bad_size, bad_time, empty, invalidating, no_key, no_size, no_text
from tests.standins.s3 import S3Server

NAMED = (no_size, bad_size, bad_time)
NAMELESS = (no_key, no_text, empty)
OTHERS = 12
REMOVALS = {"share": 1, "count": 100}


@pytest.fixture
def odd(strict: FilesChain, strict_server: S3Server) -> Callable[[str, Change], None]:
    def change(key: str, how: Change) -> None:
        strict_server.hook = invalidating(strict_server, strict.name, key, how)

    return change


def fill(chain: FilesChain, server: S3Server) -> None:
    for number in range(OTHERS):
        server.put(chain.name, f"d/{number:02}", b"the %d" % number)
    chain.clock.sleep(1)


def invalid(chain: FilesChain, run: Run) -> list[str]:
    results = chain.results(run).values()
    return [result.name for result in results if (result.outcome.value, result.code) == ("failed", "ENTRY_INVALID")]


@pytest.mark.parametrize("change", [*NAMED, *NAMELESS])
def test_all_other_files_are_moved(
    strict: FilesChain, strict_server: S3Server, odd: Callable[[str, Change], None], change: Change
) -> None:
    strict.configure()
    fill(strict, strict_server)
    odd("d/03", change)
    run = strict.run()
    name = "d/03" if change in NAMED else f"the entry before 'd/04' in the listing of {strict.bucket}"
    assert invalid(strict, run) == [name]
    assert (run.counts.moved, run.counts.failed) == (OTHERS - 1, 1)
    strict_server.hook = lambda _method, _bucket, _key, _query: None
    assert strict.run().counts.moved == 1
    strict.check()


@pytest.mark.parametrize("change", [no_size, no_key])
def test_an_object_hidden_by_an_invalid_entry_is_not_removed(
    strict: FilesChain, strict_server: S3Server, odd: Callable[[str, Change], None], change: Change
) -> None:
    strict.configure(removals=REMOVALS)
    fill(strict, strict_server)
    strict.run()
    del strict_server.objects[strict.name]["d/05"]
    odd("d/03", change)
    run = strict.run()
    assert len(invalid(strict, run)) == 1
    assert (run.counts.removed, len(strict.manager.files)) == (0, OTHERS)
    strict_server.hook = lambda _method, _bucket, _key, _query: None
    assert strict.run().counts.removed == 1
    strict.check()


def test_an_object_hidden_by_an_invalid_entry_is_not_renamed(
    strict: FilesChain, strict_server: S3Server, odd: Callable[[str, Change], None]
) -> None:
    strict.configure(removals=REMOVALS)
    fill(strict, strict_server)
    strict.run()
    strict_server.put(strict.name, "e/copy", b"the 3")
    odd("d/03", bad_time)
    run = strict.run()
    assert (run.counts.moved, run.counts.removed) == (1, 0)
    assert len(strict.manager.files) == OTHERS + 1
    assert invalid(strict, run) == ["d/03"]


def test_an_invalid_entry_is_reported_once_by_a_scan_of_many_windows(
    strict: FilesChain, strict_server: S3Server, odd: Callable[[str, Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.kinds.files.discover.WINDOW", 2)
    strict_server.largest_page = 5
    strict.configure(removals=REMOVALS)
    fill(strict, strict_server)
    odd("d/07", no_key)
    try:
        run = strict.run()
    finally:
        strict_server.largest_page = 1000
    assert len(invalid(strict, run)) == 1
    assert run.counts.moved == OTHERS - 1


def test_an_invalid_entry_of_an_excluded_object_is_no_failure(
    strict: FilesChain, strict_server: S3Server, odd: Callable[[str, Change], None]
) -> None:
    strict.configure(select={"exclude": ["d/03"]})
    fill(strict, strict_server)
    odd("d/03", bad_size)
    assert invalid(strict, strict.run()) == []


@pytest.mark.parametrize("change", [no_size, no_key])
def test_a_prefix_with_only_an_invalid_entry_is_not_absent(
    strict: FilesChain, strict_server: S3Server, odd: Callable[[str, Change], None], change: Change
) -> None:
    strict.configure(source={**strict.endpoint(strict.name), "prefix": "d/"})
    strict_server.put(strict.name, "d/one", b"one")
    odd("d/one", change)
    assert {result.code for result in strict.results(strict.run()).values()} == {"ENTRY_INVALID"}


@pytest.mark.parametrize("pair", [SENT], indirect=True)
@pytest.mark.parametrize("change", [bad_size, no_key])
def test_an_invalid_entry_of_the_target(pair: Pair, change: Change) -> None:
    chain = pair.chain
    pair.configure(removals=REMOVALS)
    for number in range(OTHERS):
        pair.put(f"d/{number:02}", b"the %d" % number)
    chain.run()
    known = chain.known()
    del pair.objects["d/03"], pair.objects["d/05"]
    pair.target_server.hook = invalidating(pair.target_server, TARGET, "d/03", change)
    pair.put("d/06", b"another")
    pair.put("d/99", b"new")
    run = chain.run()
    assert len(invalid(chain, run)) == 1
    assert (run.counts.moved, run.counts.removed, run.counts.failed) == (2, 0, 1)
    assert chain.known() == known | {"d/99"}
    pair.target_server.hook = lambda _method, _bucket, _key, _query: None
    assert chain.run().counts.removed == 2
