"""Names that queues or the table accept only in encoded form, and items that are too large for a message."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncline.kinds.kind import Completed, Page, StepContext, Unfinished
from syncline.model import Item, RunStatus, Step
from syncline.store.table import pack, unpack
from tests.rig.made_up import SYNC, Answer, Steps, items, transfer_of

GROUP = "team/app"
LARGE = {"state": "x" * 1_100_000}


def test_names_with_characters_that_queues_refuse_are_moved(steps: Steps) -> None:
    names = ["before", "odd\uffff", "odder\ufffe", "half \ud83d", "control \x01", "after"]
    steps.kind.pages = [Page("p", items(*names, group=GROUP))]
    run = steps.run()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 6, 0)
    assert sorted(item.name for item in steps.kind.moved) == sorted(names)
    assert set(steps.results(run)) == {(GROUP, name) for name in names}


def test_an_item_too_large_for_a_message_fails_alone(steps: Steps) -> None:
    large = Item(GROUP, "large", "digest", detail=LARGE)
    steps.kind.pages = [Page("p", (*items("1"), large, *items("2", group=GROUP), *items("3", group="other")))]
    run = steps.run()
    assert (run.status, run.counts.moved, run.counts.failed, run.counts.queued) == (RunStatus.DONE, 3, 1, 4)
    assert steps.results(run)[GROUP, "large"].code == "MESSAGE_REFUSED"
    (dead,) = steps.dead()
    assert (dead.code, dead.key) == ("MESSAGE_REFUSED", (GROUP, "large"))


def test_an_item_that_becomes_too_large_fails_alone(steps: Steps) -> None:
    def move(item: Item, _context: StepContext) -> Answer:
        return (
            Unfinished(Item(item.group, item.name, item.source, detail=LARGE))
            if item.name == "2"
            else Unfinished(item)
            if not item.detail and steps.kind.moved.count(item) < 2
            else Completed(item, 1)
        )

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2", "3"))
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 2, 1)
    assert steps.results(run)[GROUP, "2"].code == "MESSAGE_REFUSED"


def test_an_item_that_a_queue_refuses_fails_alone(steps: Steps) -> None:
    """Services other than Amazon's may accept less."""
    answer = steps.mail._answer

    def strict(operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        if operation != "SendMessageBatch":
            return answer(operation, asked)
        entries = asked["Entries"]
        refused = [
            each for each in entries if "%bad%" in each["MessageBody"] and '"type":"batch"' in each["MessageBody"]
        ]
        kept = [each for each in entries if each not in refused]
        response = answer(operation, {**asked, "Entries": kept}) if kept else {"Failed": []}
        failed = [{"Id": each["Id"], "SenderFault": True, "Code": "Odd", "Message": "no"} for each in refused]
        return {**response, "Failed": [*response["Failed"], *failed]}

    steps.mail._answer = strict  # type: ignore[method-assign]
    steps.kind.pages = [Page("p", items("1", "%bad%", "2", group=GROUP)), Page("q", items("3", group="other"))]
    run = steps.run()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 3, 1)
    assert steps.results(run)[GROUP, "%bad%"].code == "MESSAGE_REFUSED"


@pytest.mark.moto
def test_a_page_of_names_too_long_for_one_record_is_recorded_in_parts(steps: Steps) -> None:
    """A record holds 400 KB; a thousand incompressible keys of a kilobyte need more."""
    rng = random.Random(1)
    names = ["".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(340)) for _ in range(1000)]
    steps.kind.pages = [Page("p", items(*names, group=GROUP))]
    sizes: list[int] = []
    events: Any = steps.table.meta.client.meta.events
    events.register("before-call.dynamodb.TransactWriteItems", lambda params, **_: sizes.append(len(params["body"])))
    letter = steps.start()
    steps.pump.deliver([letter])
    assert max(sizes) < 540_000, "as JSON, where bytes take a third more"
    moving = [each for each in steps.mail.waiting() if each.step is Step.TRANSFER]
    steps.mail.letters.clear()
    copy = steps.start(run=steps.latest().id)
    steps.pump.deliver([copy])
    again = [each for each in steps.mail.waiting() if each.step is Step.TRANSFER]
    assert len(again) == 10
    assert sorted(each.body for each in again) == sorted(each.body for each in moving)


@pytest.mark.usefixtures("steps")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=8)))
def test_any_text_can_be_packed_for_the_table(texts: list[str]) -> None:
    single = [text for text in texts if max(text, default="") < "\ud800" or max(text) > "\udfff" or len(text) == 1]
    assert unpack(pack(single)) == single


def test_a_known_failure_may_have_any_name(steps: Steps) -> None:
    from syncline.errors import SynclineError  # noqa: PLC0415
    from syncline.kinds.kind import Failure  # noqa: PLC0415

    names = ["half \ud83d", "odd\uffff", ""]
    steps.kind.move = lambda item, _context: Failure(item, SynclineError("FORBIDDEN", f"no {item.name}"))
    steps.kind.pages = [Page("p", items(*names, group=GROUP))]
    run = steps.run()
    assert run.counts.failed == 3
    assert {each.name for each in steps.state.failures.all(run.sync)} == set(names)
    stored = [item for item in steps.table.scan()["Items"] if str(item["pk"]).startswith("FAILED#")]
    for item in stored:
        for value in item.values():
            assert not isinstance(value, str) or value.encode().decode() == value


@pytest.mark.parametrize("group", ["half \ud83d", "g" * 3000])
def test_a_group_that_cannot_be_a_key_of_the_table_is_moved(steps: Steps, group: str) -> None:
    steps.kind.pages = [Page("p", items("1", group=group))]
    assert steps.run().counts.moved == 1


@pytest.mark.parametrize("source", ["half \ud83d", "b" * 3000, ""])
def test_an_event_whose_source_cannot_be_a_key_is_dropped(steps: Steps, source: str) -> None:
    steps.event_store.subscribe(SYNC, ["made.up"])
    steps.pump.delivery.batches = True
    steps.notify("a", source=source)
    steps.notify("b")
    steps.pump.run()
    assert [run.scope.groups for run in steps.state.runs(SYNC)] == [("b",)]
