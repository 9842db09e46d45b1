"""A scan of named keys resumes after the keys that it has sent, as a scan of clusters does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from syncline.kinds.backups import discover
from syncline.kinds.backups.paths import Layout
from syncline.kinds.kind import Page
from syncline.model import Scope

NOTHING = cast("Any", None)
KEYS = tuple(f"east/shop/{number}.yaml" for number in range(7))


def pages(keys: tuple[str, ...], cursor: str | None = None) -> list[Page]:
    layout = Layout("", "", "main", ((), ()), ((), ()), ((), ()))
    scan = discover.BackupScan(cast("Any", SimpleNamespace(layout=layout)), NOTHING, NOTHING, NOTHING, NOTHING)
    return list(scan.pages(Scope.of(keys), cursor, NOTHING))


def names(found: list[Page]) -> list[str]:
    return [item.name for page in found for item in page.items]


def test_a_scan_that_ran_out_of_time_sends_no_key_again() -> None:
    found = pages(KEYS)
    assert names(found) == list(KEYS)
    assert names(pages(KEYS, found[-1].cursor)) == []


def test_a_scan_resumes_after_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "SHARE", 3)
    found = pages(KEYS)
    assert [len(page.items) for page in found] == [3, 3, 1]
    for at, page in enumerate(found, 1):
        assert names(pages(KEYS, page.cursor)) == names(found[at:])


def test_a_cursor_of_an_earlier_version_is_accepted() -> None:
    assert names(pages(KEYS, '["",0,[],false,[]]')) == list(KEYS)
