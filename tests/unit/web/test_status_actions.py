"""Forms of the status page that start, retry and cancel runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from syncline.messages import Batch, DeadLetter, Start, encode
from syncline.model import Item, Outcome, Result, RunStatus, Scope, Step, Trigger
from syncline.store.failures import KnownFailure
from syncline.store.state import first_batch
from tests.rig import grants
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table
from tests.unit.web.status_site import TOKEN, Site, acting_site, sent

ACTIONS = ("run", "retry", "cancel")


@pytest.fixture
def site() -> Iterator[Site]:
    with acting_site() as site:
        site.apply()
        yield site
        grants.fail_if_denied()


def bury(site: Site, name: str, sync: str = "prod") -> None:
    """Put a dead letter of an item into its queue."""
    assert site.queues is not None
    item = Item("team/app", name)
    batch = Batch(made_run_id(1), sync, Step.TRANSFER, f"batch-{name}", (item,), scope=Scope.of(("team/app",)))
    letter = DeadLetter(batch, "UNREACHABLE", "no connection", (item.group, item.name))
    site.queues.sqs.send_message(QueueUrl=site.queues.dead_urls[Step.TRANSFER], MessageBody=encode(letter))


def letters(site: Site) -> int:
    assert site.queues is not None
    return site.queues.count_dead_letters(Step.TRANSFER)


def test_a_run_is_started(site: Site) -> None:
    answer = site.post("/syncs/prod/run")
    assert (answer.status, answer.headers["location"]) == (303, "../prod?done=run")
    (start,) = sent(site)
    current = site.state.current_run("prod")
    assert isinstance(start, Start)
    assert current is not None
    assert (start.sync, start.trigger, start.run) == ("prod", Trigger.MANUAL, current.id)
    assert site.ask("/syncs/prod", "done=run").has('id="notice" class="notice" role="status">The run is started')


def test_a_second_run_is_refused_with_code_and_advice(site: Site) -> None:
    site.post("/syncs/prod/run")
    answer = site.post("/syncs/prod/run")
    assert answer.status == 409
    assert answer.has("ALREADY_RUNNING</code>: run .* has been in progress since")
    assert len(sent(site)) == 1


def test_failed_items_are_retried(site: Site) -> None:
    bury(site, "v1")
    bury(site, "other", sync="another")
    answer = site.post("/syncs/prod/retry")
    assert answer.headers["location"] == "../prod?done=retry"
    (start,) = sent(site)
    assert isinstance(start, Start)
    assert (start.trigger, start.scope) == (Trigger.RETRY, Scope.of(("team/app",)))
    assert letters(site) == 2, "a letter stays until its item is verified"


def test_a_retry_without_dead_letters_starts_nothing(site: Site) -> None:
    bury(site, "other", sync="another")
    assert site.post("/syncs/prod/retry").headers["location"] == "../prod?done=nothing"
    assert sent(site) == []
    assert site.ask("/syncs/prod", "done=nothing").has("syncline retry")


def test_a_retry_deletes_letters_of_items_verified_since(site: Site) -> None:
    bury(site, "v1")
    result = Result("team/app", "v1", Outcome.FAILED, code="UNREACHABLE", reason="no connection")
    failure = KnownFailure.of(result, made_run_id(1), 0.0)
    site.state.failures.write("prod", [failure])
    site.state.failures.solve("prod", [failure], made_run_id(2))
    assert site.post("/syncs/prod/retry").headers["location"] == "../prod?done=retry"
    assert letters(site) == 0


def test_a_retry_reads_a_limited_number_of_letters(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.web.status._LETTERS", 10)
    for number in range(25):
        bury(site, f"v{number}")
    site.post("/syncs/prod/retry")
    current = site.state.current_run("prod")
    assert current is not None
    assert len(site.state.failures.asked("prod", current.id)) == 10


def test_a_run_is_cancelled_and_a_function_ends_it(site: Site) -> None:
    assert site.post("/syncs/prod/cancel").headers["location"] == "../prod?done=idle"
    run = site.begin()
    assert site.post("/syncs/prod/cancel").headers["location"] == "../prod?done=cancel"
    assert site.state.run("prod", run.id).status is RunStatus.CANCELLING
    assert site.ask("/").has("cancelling</span>")
    assert site.queues is not None
    url = site.queues.urls[Step.DISCOVER]
    waiting = site.queues.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessagesDelayed"])
    assert waiting["Attributes"]["ApproximateNumberOfMessagesDelayed"] == "1", first_batch(run).id


def test_a_run_that_began_after_the_page_was_shown_is_not_cancelled(site: Site) -> None:
    shown = site.begin()
    form = site.hidden_fields()
    assert form["run"] == shown.id
    site.end(shown)
    later = site.begin(number=2)
    assert site.post("/syncs/prod/cancel", form).headers["location"] == "../prod?done=idle"
    assert site.state.run("prod", later.id).status is RunStatus.RUNNING


def test_a_lost_run_is_ended_and_reported(site: Site) -> None:
    run = site.begin()
    site.clock.now += 3 * 3600
    site.post("/syncs/prod/cancel")
    assert site.state.run("prod", run.id).status is RunStatus.LOST
    assert len(sent(site)) == 1


@pytest.mark.parametrize("action", ACTIONS)
def test_a_form_needs_the_value_of_its_session(site: Site, action: str) -> None:
    site.begin()
    value = site.csrf()
    assert len(value) == 64
    for form in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": value[:-1]}):
        assert site.post(f"/syncs/prod/{action}", form).status == 403
    site.cookies.clear()
    assert site.post(f"/syncs/prod/{action}", {"csrf": value}).status == 403
    assert sent(site) == []


@pytest.mark.parametrize("action", ACTIONS)
def test_a_form_of_another_site_does_nothing(site: Site, action: str) -> None:
    for headers in ({"sec_fetch_site": "cross-site"}, {"origin": "http://127.0.0.1:8000"}, {"origin": "null"}):
        assert site.post(f"/syncs/prod/{action}", **headers).status == 403
    assert sent(site) == []


def test_actions_need_a_form(site: Site) -> None:
    for action in ACTIONS:
        assert site.ask(f"/syncs/prod/{action}").status == 404
    assert site.post("/syncs/prod/delete").status == 404
    assert site.post("/syncs/nothing/run").status == 404


def test_a_sync_without_runs_is_refused(site: Site) -> None:
    sync = {
        "name": "gateway",
        "kind": "tokens",
        "sources": {"here": {"namespace": "gateway", "service": "nginx"}},
        "check": {"host": "gateway.example", "plain_http": True},
    }
    site.state.put_sync("gateway", json.dumps(sync))
    answer = site.post("/syncs/gateway/run")
    assert answer.status == 400
    assert answer.has("gateway has no runs")
    assert sent(site) == []
    assert "action-run" not in site.ask("/syncs/gateway").text


def test_the_page_shows_buttons_only_where_they_work(site: Site) -> None:
    assert 'id="action-cancel"' not in site.ask("/syncs/prod").text, "no run is in progress"
    site.begin()
    text = site.ask("/syncs/prod").text
    for action in ACTIONS:
        assert f'<form id="action-{action}" method="post" action="prod/{action}">' in text
    with new_table() as table:
        other = Site(table)
        other.apply()
        assert "action-" not in other.ask("/syncs/prod").text
        for action in ACTIONS:
            answer = other.post(f"/syncs/prod/{action}", {"csrf": other.csrf()})
            assert answer.status == 403


def test_a_client_with_the_token_needs_no_form_value() -> None:
    with acting_site() as acting:
        site = Site(acting.table, "env:CONSOLE", local=False, queues=acting.queues)
        site.apply()
        assert site.post("/syncs/prod/run", {}).status == 401
        answer = site.post("/syncs/prod/run", {}, authorization=f"Bearer {TOKEN}", origin="", sec_fetch_site="")
        assert answer.status == 303
        assert len(sent(site)) == 1
