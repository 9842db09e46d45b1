"""The status page: what it shows of syncs, runs and items, and bad input."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from syncline.model import Result, Run, Scope, Trigger
from syncline.store.failures import KnownFailure
from syncline.store.overview import Overview
from syncline.store.state import State
from syncline.web.reports import MOST_ITEMS
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table
from tests.unit.web.status_site import DIGEST, OTHER, Site, counted_calls, failed, moved, row

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table


@pytest.fixture
def table() -> Iterator[Table]:
    with new_table() as table:
        yield table


@pytest.fixture
def site(table: Table) -> Site:
    site = Site(table)
    site.apply()
    return site


# -- all syncs ---------------------------------------------------------------------------------------------------------


def test_a_stack_without_syncs_says_how_to_apply_one(table: Table) -> None:
    answer = Site(table).ask("/")
    assert answer.status == 200
    assert answer.has('id="no-syncs"')


def test_a_sync_that_never_ran_is_unknown_and_never_zero(site: Site) -> None:
    text = row(site.ask("/").text, "data-sync", "prod")
    assert text == "prod images unknown unknown (within 2h) none in 1 h unknown"
    answer = site.ask("/syncs/prod")
    assert answer.has("<dt>Verified</dt><dd>unknown, fresh within 2h</dd>")
    assert answer.has("Unknown: no item of the latest runs has a lag.")
    assert answer.has('id="no-runs">This sync has not run yet')
    assert "0 items" not in answer.text


def test_a_verified_sync_shows_since_when(site: Site) -> None:
    started = site.clock.now
    site.end(site.begin(), moved("v1"))
    site.clock.now = started + 3600
    text = row(site.ask("/").text, "data-sync", "prod")
    assert text.startswith("prod images in sync for 1 h 1 h ago (within 2h)")
    assert "done 1 h ago , by schedule: 1 moved (1.0 KiB)" in text
    assert text.endswith("0")
    assert site.ask("/").has("The sync is in sync.")


def test_a_sync_shows_its_latest_restore_drill(site: Site) -> None:
    assert not site.ask("/syncs/prod").has("Restore drill")
    run, _ = site.state.begin_run("prod", made_run_id(7), Trigger.MANUAL, Scope(), plan=True, drill=1.0)
    site.end(run, replace(failed("v1"), code="RESTORE_DIFFERS"))
    answer = site.ask("/syncs/prod")
    assert answer.has("<dt>Restore drill</dt>")
    assert answer.has(r": failed, 0 equal, 1 failed \(<a href=")
    assert answer.has(", a drill")
    assert site.ask(f"/runs/prod/{run.id}").has(f"<h1>Drill {run.id} of prod</h1>")


def test_a_sync_with_failures_is_not_in_sync(site: Site) -> None:
    site.end(site.begin(), failed("v1"), moved("v2"))
    text = row(site.ask("/").text, "data-sync", "prod")
    assert "not in sync for" in text
    assert "1 moved (1.0 KiB), 1 failed" in text
    assert text.endswith("1"), "failing items"
    assert site.ask("/").has("1 of 1 sync needs attention: 1 not in sync.")


def test_syncs_that_need_attention_come_first(site: Site) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        site.apply(name, fresh_within="2h" if name == "e" else None)
    for number, name in enumerate(("b", "d", "e", "prod", "f")):
        site.end(site.begin(name, number + 1), failed("v1") if name == "f" else moved("v1"))
    site.clock.now += 2 * 3600 + 60
    site.end(site.begin("prod", 8), moved("v1"))
    site.state.pause("c")
    site.begin("d", 9)
    answer = site.ask("/")
    assert re.findall(r'data-sync="([^"]*)"', answer.text) == ["f", "e", "a", "d", "b", "c", "prod"]
    assert answer.has('id="summary">3 of 7 syncs need attention: 1 not in sync, 1 stale, 1 unknown.<')


def test_the_summary_is_never_better_than_what_is_known(site: Site) -> None:
    site.end(site.begin(), moved("v1"))
    site.apply("second")
    site.end(site.begin("second", 2), moved("v1"))
    assert site.ask("/").has("All 2 syncs are in sync.")
    site.apply("gateway", kind="tokens", sources=["a"], schedule=None)
    assert site.ask("/").has("None of 3 syncs needs attention.")


def test_stale_paused_and_disabled_syncs_say_so(site: Site) -> None:
    site.end(site.begin(), moved("v1"))
    site.clock.now += 2 * 3600 + 10
    assert "stale" in row(site.ask("/").text, "data-sync", "prod")
    site.state.pause("prod")
    text = row(site.ask("/").text, "data-sync", "prod")
    assert "stale" not in text
    assert "paused just now" in text
    assert "unknown" in text, "a paused sync has no next run"
    site.apply(enabled=False)
    assert "disabled" in row(site.ask("/").text, "data-sync", "prod")


def test_a_run_in_progress_shows_its_rate_and_the_time_left(site: Site) -> None:
    run = site.begin()
    text = row(site.ask("/").text, "data-sync", "prod")
    assert "running : 0 of 0 items found so far, time left unknown" in text
    assert 'hx-trigger="every 2s"' in site.ask("/").text
    site.clock.now += 5
    site.state.add_results(run.id, "some", [moved(f"v{n}") for n in range(10)], queued=30)
    site.clock.now += 5
    text = row(site.ask("/").text, "data-sync", "prod")
    assert "10 of 30 items found so far, 1 items/s, 1.0 KiB/s, time left about 20 s" in text
    assert site.ask(f"/runs/prod/{run.id}").has("10 moved .10.0 KiB. so far")


def test_a_page_without_a_run_is_updated_less_often(site: Site) -> None:
    text = site.ask("/", "live=1").text
    assert 'hx-trigger="every 15s"' in text
    assert text.lstrip().startswith('<div id="live"')
    assert "<html" not in text


def test_the_next_run_follows_from_the_latest_scheduled_one(site: Site) -> None:
    site.clock.now += 600
    run = site.begin()
    site.end(run)
    site.clock.now = run.started + 1800
    assert "in 30 min" in row(site.ask("/").text, "data-sync", "prod")


@pytest.mark.parametrize("schedule", ["rate(every day)", 7, "cron(0 3 * * ? *)"])
def test_a_schedule_of_another_version_is_no_error(site: Site, schedule: object) -> None:
    site.apply(schedule=schedule, timezone="Mars/Phobos" if schedule == "cron(0 3 * * ? *)" else None)
    assert site.ask("/").status == 200
    assert site.ask("/syncs/prod").status == 200


def test_a_configuration_of_another_version_is_no_error(site: Site) -> None:
    for text in ("not JSON", "[]", '{"kind": "unheard-of", "fresh_within": 7}'):
        site.state.put_sync("newer", text)
        assert site.ask("/").status == 200
        assert site.ask("/syncs/newer").status == 200
    assert site.ask("/syncs/prod").status == 200


def test_a_kind_without_runs_has_no_state(site: Site) -> None:
    site.apply("gateway", kind="tokens", sources=["a"], schedule=None)
    assert "has no runs" in row(site.ask("/").text, "data-sync", "gateway")
    assert site.ask("/syncs/gateway").status == 200


def test_a_clock_an_hour_off_does_no_harm(site: Site) -> None:
    run = site.end(site.begin(), moved("v1"))
    site.clock.now -= 3600
    for path in ("/", "/syncs/prod", f"/runs/prod/{run.id}"):
        assert site.ask(path).status == 200
    assert "done 2026-09-21 14:13:20 UTC" in row(site.ask("/").text, "data-sync", "prod")


def test_totals_of_an_earlier_version_do_not_hide_the_latest_run(site: Site, table: Table) -> None:
    run = site.end(site.begin(), moved("v1"))
    item = table.get_item(Key={"pk": "SYNC#prod", "sk": "TOTALS"}, ConsistentRead=True)["Item"]
    del item["latestRun"]
    table.put_item(Item=item)
    (found,) = Overview(site.state._db).read()
    assert found.last is not None
    assert found.last.id == run.id


def test_a_plan_is_not_the_latest_run(site: Site) -> None:
    run = site.end(site.begin(), moved("v1"))
    site.state.begin_run("prod", made_run_id(9), Trigger.MANUAL, run.scope, plan=True)
    (found,) = Overview(site.state._db).read(["prod"])
    assert found.last is not None
    assert (found.last.id, found.current) == (run.id, None)
    assert site.ask("/syncs/prod").has("a plan")


# -- one sync ----------------------------------------------------------------------------------------------------------


def test_plots_show_lag_and_throughput(site: Site) -> None:
    for number in range(3):
        site.end(site.begin(number=number + 1), *(moved(f"v{n}", lag=10 ** (number + 1)) for n in range(8)))
    answer = site.ask("/syncs/prod")
    assert answer.text.count("<svg") == 2
    assert answer.text.count('<circle class="p95"') == 3
    assert answer.text.count('<rect class="items"') == 3
    assert answer.has("items 2/s</title>")
    assert answer.has("p50 10 s</title>")
    assert answer.has('data-label="Lag of 95 %">within 10 s')


def test_runs_are_paged(site: Site) -> None:
    ids = [site.end(site.begin(number=number + 1)).id for number in range(45)]
    seen: list[str] = []
    query = ""
    for _ in range(3):
        text = site.ask("/syncs/prod", query).text
        seen += re.findall(r'<tr data-run="([^"]*)">', text)
        found = re.search(r'id="older-runs" href="\?([^"]*)"', text)
        query = found[1] if found else ""
    assert seen == ids[::-1]
    assert query == ""


def test_a_sync_that_never_ran_costs_no_search_for_its_latest_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_calls(monkeypatch)
    assert site.ask("/").status == 200
    assert "query" not in calls


def test_known_failures_show_reason_code_and_advice(site: Site) -> None:
    run = made_run_id(1)
    one, two = (KnownFailure.of(failed(name), run, site.clock.now) for name in ("v1", "v2"))
    site.state.failures.write("prod", [one, replace(two, acknowledged=True)])
    text = site.ask("/syncs/prod").text
    known, acknowledged = text.split('<table id="acknowledged"')
    assert "team/app:v1 UNREACHABLE no connection to dr.example Check that the server runs, then the address" in row(
        known, "data-code", "UNREACHABLE"
    )
    assert "team/app:v2" in row(acknowledged, "data-code", "UNREACHABLE")
    assert f'href="../runs/prod/{run}"' in text


def test_known_failures_are_updated_with_the_state(site: Site) -> None:
    assert site.ask("/syncs/prod", "live=1").has('id="no-failures">No known failures')
    run = site.end(site.begin(), *(failed(f"v{n}") for n in range(3)))
    site.state.failures.write("prod", [KnownFailure.of(failed(f"v{n}"), run.id, 0.0) for n in range(3)])
    answer = site.ask("/syncs/prod", "live=1")
    assert answer.text.lstrip().startswith('<div id="live"')
    assert answer.text.count('<tr data-code="UNREACHABLE">') == 3
    assert answer.has("<dt>Failing items</dt><dd>3, 0 acknowledged")


def test_a_reload_repeats_no_action_and_keeps_the_position(site: Site) -> None:
    def reload(query: str) -> str:
        found = re.search(r'id="reload" href="([^"]*)"', site.ask("/syncs/prod", query).text)
        assert found is not None
        return found[1]

    assert reload("done=run") == reload("") == "?"
    assert reload("failures=0-00&done=retry") == "?failures=0-00"
    assert reload("failures=x") == "?", "an invalid address is not repeated"
    assert "done" not in (re.search(r'hx-get="([^"]*)"', site.ask("/syncs/prod", "done=run").text) or [""])[0]


def failure_pages(site: Site) -> Iterator[list[str]]:
    query = ""
    while True:
        text = site.ask("/syncs/prod", query).text
        yield re.findall(r'<th scope="row">(team/app:[^<]*)</th>', text)
        found = re.search(r'id="more-failures" href="\?([^"]*)"', text)
        if found is None:
            return
        query = found[1]


def test_every_failure_is_on_one_page(site: Site) -> None:
    failures = [KnownFailure.of(failed(f"v{n}"), made_run_id(1), 0.0) for n in range(230)]
    site.state.failures.write("prod", failures)
    site.state.failures.solve("prod", failures[:60], made_run_id(2))
    pages = list(failure_pages(site))
    assert sorted(name for page in pages for name in page) == sorted(f"team/app:v{n}" for n in range(60, 230))
    assert max(map(len, pages)) == 50


def test_a_page_of_many_failures_takes_few_calls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site.end(site.begin(), failed("v1"))
    site.state.failures.write("prod", (KnownFailure.of(failed(f"v{n}"), run.id, 0.0) for n in range(2_000)))
    calls = counted_calls(monkeypatch)
    assert site.ask("/syncs/prod").text.count("<tr data-code=") == 50
    # The sync, its runs, the mark that it has failures, and one page of them.
    assert calls == ["batch_get", "batch_get", "query", "get", "query_beyond"]


@pytest.mark.parametrize("query", ["before=x", "failures=9-00", "failures=x", "failures=0-GG", "before=20260101"])
def test_an_invalid_position_is_refused(site: Site, query: str) -> None:
    assert site.ask("/syncs/prod", query).status == 400


@pytest.mark.parametrize("name", ["nothing", "A", "a" * 1000, "%2e%2e", "<script>", ""])
def test_an_unknown_sync_is_not_found(site: Site, name: str) -> None:
    answer = site.ask(f"/syncs/{name}")
    assert answer.status == 404
    assert "<script>" not in answer.text
    assert site.ask(f"/runs/{name}/{made_run_id(1)}").status == 404


# -- one run -----------------------------------------------------------------------------------------------------------


def test_a_run_shows_its_items_with_both_digests(site: Site) -> None:
    run = site.end(site.begin(), failed("v1"), moved("v2"))
    answer = site.ask(f"/runs/prod/{run.id}")
    assert row(answer.text, "data-outcome", "failed").startswith(
        "team/app:v1 failed UNREACHABLE no connection to dr.example Check that the server runs, then the address"
    )
    assert f"{DIGEST} {OTHER} 0 B unknown" in row(answer.text, "data-outcome", "failed")
    assert row(answer.text, "data-outcome", "moved") == f"team/app:v2 moved {DIGEST} {DIGEST} 1.0 KiB 7.0 s"
    assert answer.text.index("v1") < answer.text.index("team/app:v2")
    assert answer.has('id="found" role="status">2 items found')


def found(site: Site, run: Run, **query: str) -> tuple[str, list[str]]:
    text = site.ask(f"/runs/prod/{run.id}", query).text
    count = re.search(r'id="found" role="status">([0-9,]+) items? found', text)
    assert count is not None
    return count[1], re.findall(r'<th scope="row">team/app:([^<]*)</th>', text)


def test_items_are_searched_filtered_and_paged(site: Site) -> None:
    results = [moved(f"v{n}") for n in range(250)] + [failed(f"w{n}") for n in range(3)]
    run = site.end(site.begin(), *results)
    assert found(site, run)[0] == "253"
    assert found(site, run, q="V12") == ("11", ["v12", *(f"v12{n}" for n in range(10))])
    assert found(site, run, q="UNREACHABLE")[1] == ["w0", "w1", "w2"]
    assert found(site, run, q="bbbbb", outcome="failed")[0] == "3"
    assert found(site, run, q="w", outcome="moved") == ("0", [])
    assert found(site, run, outcome="no-outcome")[0] == "253"
    assert found(site, run, q="nothing has this")[0] == "0"
    pages = [found(site, run, outcome="moved", page=str(page))[1] for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [100, 100, 50, 50]
    assert len({name for page in pages[:3] for name in page}) == 250
    assert found(site, run, page="-1")[1] == found(site, run, page="x")[1] == found(site, run)[1]
    text = site.ask(f"/runs/prod/{run.id}", {"q": "v", "outcome": "moved", "page": "2"}).text
    assert 'id="next-page" href="?q=v&amp;outcome=moved&amp;page=3"' in text
    assert 'id="previous-page" href="?q=v&amp;outcome=moved&amp;page=1"' in text


def test_the_report_of_an_ended_run_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site.end(site.begin(), moved("v1"))
    calls: list[str] = []
    read = State.results

    def counted(state: State, run_id: str, **given: bool) -> Iterator[Result]:
        calls.append(run_id)
        return read(state, run_id, **given)

    monkeypatch.setattr(State, "results", counted)
    for _ in range(3):
        assert found(site, run)[0] == "1"
    assert calls == [run.id]


def test_the_report_of_a_run_in_progress_grows(site: Site) -> None:
    run = site.begin()
    assert found(site, run)[0] == "0"
    site.clock.now += 1
    site.state.add_results(run.id, "some", [moved("v1")], queued=1)
    assert found(site, run) == ("1", ["v1"])


def test_a_run_that_ends_shows_its_items_with_a_new_page(site: Site) -> None:
    run = site.begin()
    answer = site.ask(f"/runs/prod/{run.id}", "live=1")
    assert 'hx-trigger="every 2s"' in answer.text
    assert "hx-refresh" not in answer.headers
    site.end(run)
    answer = site.ask(f"/runs/prod/{run.id}", "live=1")
    assert answer.headers["hx-refresh"] == "true"
    assert "hx-trigger" not in answer.text


def test_a_report_beyond_the_limit_names_the_command(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site.end(site.begin(), *(moved(f"v{n}") for n in range(12)))
    monkeypatch.setattr("syncline.web.reports.MOST_ITEMS", 11)
    monkeypatch.setattr(State, "results", None)  # the counts of the run are enough to know
    answer = site.ask(f"/runs/prod/{run.id}")
    assert answer.status == 200
    assert answer.has(f"syncline report {run.id}")
    assert MOST_ITEMS > 100_000


# -- static files ------------------------------------------------------------------------------------------------------


def test_static_files_are_kept_by_browsers_and_need_no_token(table: Table) -> None:
    site = Site(table, "env:CONSOLE", local=False)
    text = site.ask("/login").text
    files = re.findall(r'(?:href|src)="\./(static/[^"]*)"', text)
    assert len(files) == 4
    for file in files:
        answer = site.ask(f"/{file}")
        assert answer.status == 200
        assert "immutable" in answer.headers["cache-control"]
    name = files[1].rpartition("/")[2]
    assert site.ask(f"/static/000000000000/{name}").headers["cache-control"] == "no-store"


def test_the_first_view_is_small(site: Site) -> None:
    for number in range(50):
        site.apply(f"sync-{number}")
    total = 0
    for path in ("/", *(f"/{file}" for file in re.findall(r'(?:href|src)="\./(static/[^"]*)"', site.ask("/").text))):
        total += len(site.ask(path).text.encode())
    assert total < 200 * 1024, "without compression"


def test_every_page_has_one_heading_and_its_landmarks(site: Site) -> None:
    run = site.end(site.begin(), failed("v1"), moved("v2"))
    for path in ("/", "/syncs/prod", f"/runs/prod/{run.id}", "/nothing", "/syncs/nothing"):
        text = site.ask(path).text
        assert text.startswith('<!DOCTYPE html>\n<html lang="en">'), path
        assert text.count("<h1") == text.count('<main id="main"') == text.count("<footer") == text.count("<nav") == 1
        assert text.index('class="skip" href="#main"') < text.index("<header")
        ids = re.findall(r' id="([^"]*)"', text)
        assert len(ids) == len(set(ids)), ids
        for label in re.findall(r'<label for="([^"]*)"', text):
            assert label in ids
