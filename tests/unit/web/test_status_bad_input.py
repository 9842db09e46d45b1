"""The status page with odd names, odd requests, a defect, and a table that cannot be reached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from botocore.exceptions import EndpointConnectionError

from syncline.model import Outcome, Result
from syncline.store.failures import KnownFailure
from syncline.store.state import State
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table
from tests.unit.web.status_site import Site, moved


@pytest.fixture
def site() -> Iterator[Site]:
    with new_table() as table:
        site = Site(table)
        site.apply()
        yield site


def test_a_defect_of_a_page_is_logged_and_shows_no_text_of_the_exception(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.web.views.summary", lambda _: 1 / 0)
    answer = site.ask("/")
    assert answer.status == 500
    assert answer.has("the log of the function console has the reason")
    assert "division" not in answer.text


NAMES = (
    '<script>alert("1")</script>',
    "\x1b[31mred\x1b[0m\r\n\x00",
    "a" * 1000,
    "\u202egnp.exe",
    "\ud800",
    "'\"&<!--",
    "{{ 7 * 7 }}",
)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names_do_no_harm(site: Site, name: str) -> None:
    result = Result(name, name, Outcome.FAILED, name, None, 0, "UNREACHABLE", name)
    run = site.end(site.begin(), result)
    site.state.failures.write("prod", [KnownFailure.of(result, run.id, 0.0)])
    for path, query in (
        ("/", ""),
        ("/syncs/prod", ""),
        (f"/runs/prod/{run.id}", ""),
        (f"/runs/prod/{run.id}", {"q": name}),
        (f"/runs/prod/{run.id}", {"q": name, "live": "1"}),
        ("/syncs/prod", {"done": name}),
        (f"/{name}", {"live": name}),
    ):
        answer = site.ask(
            path, query if isinstance(query, str) else {k: v.replace("\ud800", "?") for k, v in query.items()}
        )
        assert answer.status in (200, 400, 404)
        assert "<script>alert" not in answer.text
        assert "<!--" not in answer.text
        assert "49" not in re.findall(r"<th scope=.row.>([^<]*)", answer.text)
        hidden = set(answer.text) & {"\x1b", "\x00", "\r", "\u202e"}
        assert not hidden, (path, hidden)
    assert found_any(site.ask(f"/runs/prod/{run.id}").text, ["UNREACHABLE"])


def found_any(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


@pytest.mark.parametrize(
    "query", ["q=%ff%fe", "q=" + "a" * 5000, "page=99999999999999", "outcome=%00", "&".join(["a=1"] * 60)]
)
def test_hostile_queries_do_no_harm(site: Site, query: str) -> None:
    run = site.end(site.begin(), moved("v1"))
    assert site.ask(f"/runs/prod/{run.id}", query).status in (200, 400)


def test_other_methods_and_paths_are_refused(site: Site) -> None:
    assert site.ask("/", method="PUT").status == 405
    for path in ("/x", "/syncs", "/syncs/prod/", "/runs/prod", "/static/x/../secret", "/static/abc/status.py", "//"):
        assert site.ask(path).status == 404, path


# -- the table is unreachable ------------------------------------------------------------------------------------------


def test_stale_data_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site.end(site.begin(), moved("v1"))
    paths = ("/", "/syncs/prod", f"/runs/prod/{run.id}")
    fresh = [site.ask(path).text for path in paths]
    assert not any("stale-banner" in text for text in fresh)
    break_table(site, monkeypatch)
    site.clock.now = 1_790_000_000.0 + 3600
    for path in paths:
        answer = site.ask(path)
        assert answer.status == 200
        assert answer.has('id="stale-banner" class="banner" role="status">Table not reachable since 15:13 UTC')
        assert "1 moved" in answer.text
    site.clock.now += 7200
    assert site.ask("/").has("Table not reachable since 15:13 UTC"), "since the first failure"
    assert "stale-banner" in site.ask("/", "live=1").text
    monkeypatch.undo()
    site.clock.now += 5
    assert "stale-banner" not in site.ask("/").text


def break_table(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb.example")

    for name in ("get", "query", "query_beyond", "batch_get", "sort_keys"):
        monkeypatch.setattr(type(site.state._db), name, refuse)


def test_without_earlier_data_nothing_is_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    break_table(site, monkeypatch)
    for path in ("/", "/syncs/prod", f"/runs/prod/{made_run_id(1)}"):
        answer = site.ask(path)
        assert answer.status == 503
        assert answer.has("Nothing is known</h1>")
        assert answer.has("AWS_UNAVAILABLE</code>: the table has not been reachable since")


def test_a_report_that_cannot_be_read_is_an_error_and_not_empty(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site.end(site.begin(), moved("v1"))

    def refuse(*_: object, **__: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb.example")

    monkeypatch.setattr(State, "results", refuse)
    answer = site.ask(f"/runs/prod/{run.id}")
    assert answer.status == 503
    assert "0 items" not in answer.text
