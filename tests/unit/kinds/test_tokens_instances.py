"""Verdicts on instances that share a name, and on those that cannot be asked, against scripted answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import pytest

from syncline.clients.replicas.client import FailureReason, ReplicaClient, ReplicaResponse
from syncline.clients.replicas.instances import Instance, is_probed
from syncline.kinds.tokens.ask import Patience
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.probe import Prober, Rules
from syncline.kinds.tokens.verdict import Finding, Known, Quorum, Reason, Seen, State, judge
from syncline.web.contract import body_of

AT_ONCE: Final = Patience(0.0, 30, 0.001, 0.002)
WAITS: Final = Patience(30, 60, 0.001, 0.002)
SHARED: Final = tuple(Instance("gateway", f"10.0.0.{number}", 8443) for number in range(1, 6))
NAMED: Final = Instance("named", "named.example", 8443)


class Scripted:
    """Stands where :class:`ReplicaClient` does; ``answers`` gives a status by address and number of earlier requests."""

    def __init__(self, answers: Callable[[str, int], int]) -> None:
        self.asked: dict[str, int] = {}
        self._answers = answers

    def send(self, address: tuple[str, int], _: bytes, done: Callable[[ReplicaResponse], None]) -> Any:
        before = self.asked.get(address[0], 0)
        self.asked[address[0]] = before + 1
        if is_probed(address[0]):
            done(ReplicaResponse(self._answers(address[0], before)))
        else:
            done(ReplicaResponse(None, FailureReason.REFUSED_ADDRESS, "not the address of an instance"))
        return self

    def cancel(self) -> None:
        pass


def _finding(
    instances: Sequence[Instance],
    answers: Callable[[str, int], int],
    *,
    origin: str = "gateway",
    quorum: Quorum = Quorum(),  # noqa: B008 - frozen
    patience: Patience = AT_ONCE,
) -> tuple[Finding, Mapping[str, int]]:
    async def ask() -> tuple[Finding, Mapping[str, int]]:
        rules = Rules("/check", "gateway.example", "auth_token", quorum, patience, 60, plain_http=True)
        prober = Prober(rules, asyncio.get_running_loop(), chance=random.Random(25))
        scripted = Scripted(answers)
        prober.replicas = cast("ReplicaClient", scripted)
        return await prober.finding("t", origin, Listing(tuple(instances), time.time())), scripted.asked

    return asyncio.run(ask())


def _lacks(*numbers: int) -> Callable[[str, int], int]:
    lacking = {f"10.0.0.{number}" for number in numbers}
    return lambda address, _: 401 if address in lacking else 200


@pytest.mark.parametrize("lacking", range(1, 6))
def test_of_five_with_one_name_the_one_without_the_token_is_seen(lacking: int) -> None:
    found, asked = _finding(SHARED, _lacks(lacking))
    assert (found.verdict, found.reason, found.yes) == (Known.PARTIALLY, Reason.SOME_DO_NOT, 4)
    assert [(one.address, one.state) for one in found.seen if one.state is not State.YES] == [
        (f"10.0.0.{lacking}:8443", State.NO)
    ]
    assert len(asked) == 5


def test_five_with_one_name_agree() -> None:
    found, _ = _finding(SHARED, _lacks())
    assert (found.verdict, found.reason, found.yes, found.needed) == (Known.SYNCED, Reason.ALL_AGREE, 5, 5)
    assert found.origin is None


@pytest.mark.parametrize("late", range(1, 6))
def test_an_instance_is_not_the_origin_because_it_has_its_name(late: int) -> None:
    """It may be one that has not heard of the token yet; its first words do not decide."""
    found, _ = _finding(
        SHARED, lambda address, before: 401 if address == f"10.0.0.{late}" and before < 4 else 200, patience=WAITS
    )
    assert (found.verdict, found.reason) == (Known.SYNCED, Reason.ALL_AGREE)


def test_where_everybody_with_the_origins_name_refuses_the_token_it_is_bad() -> None:
    others = [Instance("other", f"10.0.1.{number}", 8443) for number in range(9)]
    found, _ = _finding([*SHARED[:2], *others], _lacks(1, 2), quorum=Quorum("majority"))
    assert (found.verdict, found.reason) == (Known.NOT_SYNCED, Reason.ORIGIN_REFUSES)


@pytest.mark.parametrize(
    ("quorum", "needed", "lacking", "verdict"),
    [
        (Quorum("majority"), 4, (5,), Known.SYNCED),
        (Quorum("majority"), 4, (4, 5), Known.PARTIALLY),
        (Quorum("count", 2), 3, (4, 5), Known.SYNCED),
        (Quorum("count", 2), 3, (3, 4, 5), Known.NOT_SYNCED),
    ],
)
def test_the_origin_does_not_count_for_a_quorum_whichever_it_is(
    quorum: Quorum, needed: int, lacking: tuple[int, ...], verdict: Known
) -> None:
    found, _ = _finding(SHARED, _lacks(*lacking), quorum=quorum)
    assert (found.verdict, found.needed) == (verdict, needed)


def test_an_origin_that_no_longer_serves_is_asked_under_a_shared_name_too() -> None:
    leaving = Instance("gateway", "10.0.0.9", 8443, terminating=True)
    other = Instance("other", "10.0.0.1", 8443)
    found, _ = _finding([leaving, other], _lacks(9))
    assert (found.verdict, found.reason) == (Known.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    found, _ = _finding([leaving, Instance("gateway", "10.0.0.8", 8443, ready=False), other], _lacks(9))
    assert (found.verdict, found.reason) == (Known.SYNCED, Reason.ALL_AGREE)
    found, _ = _finding([leaving, Instance("gateway", "10.0.0.8", 8443, ready=False), other], _lacks(8, 9))
    assert (found.verdict, found.reason) == (Known.NOT_SYNCED, Reason.ORIGIN_REFUSES)


def test_a_name_shared_with_one_that_no_longer_serves_does_not_make_the_other_the_origin() -> None:
    leaving = Instance("gateway", "10.0.0.9", 8443, terminating=True)
    others = [Instance("other", f"10.0.1.{number}", 8443) for number in range(2)]
    found, asked = _finding([leaving, SHARED[0], *others], lambda address, _: 500 if address == "10.0.0.1" else 200)
    assert (found.verdict, found.reason, found.unknown) == (Known.PARTIALLY, Reason.SOME_UNKNOWN, 1)
    assert set(asked) == {"10.0.0.1", "10.0.0.9", "10.0.1.0", "10.0.1.1"}


def test_the_origin_by_its_address_is_one_instance_even_where_its_name_is_shared() -> None:
    found, _ = _finding(SHARED, _lacks(1), origin="10.0.0.1")
    assert (found.verdict, found.reason) == (Known.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    assert len(found.seen) == 4


def test_what_cannot_be_asked_is_unknown_and_never_absent() -> None:
    found, _ = _finding([*SHARED[:3], NAMED], _lacks(), origin="10.0.0.1")
    assert (found.verdict, found.reason) == (Known.PARTIALLY, Reason.SOME_UNKNOWN)
    assert [(one.name, one.state) for one in found.seen if one.state is not State.YES] == [("named", State.FAILED)]
    body = body_of("gateway", None, found, None)
    assert (body["asked"], body["synced"], body["unknown"]) == (3, 2, 1)
    found, _ = _finding([SHARED[0], NAMED], _lacks(), origin="10.0.0.1")
    assert (found.verdict, found.reason) == (Known.NOT_SYNCED, Reason.SOME_UNKNOWN)
    found, _ = _finding([NAMED], _lacks(), origin="named")
    assert (found.verdict, found.reason) == (Known.UNKNOWN, Reason.ORIGIN_SILENT)


def test_one_that_says_no_is_named_before_one_that_is_unknown() -> None:
    states = [State.YES, State.YES, State.YES, State.NO, State.FAILED]
    seen = [Seen(f"i-{number}", "10.0.0.1:1", state) for number, state in enumerate(states)]
    assert judge(seen, 5, over=False, origin_listed=True, origin=None) == (Known.PARTIALLY, Reason.SOME_DO_NOT)
    assert judge(seen[:3], 5, over=False, origin_listed=True, origin=None) == (Known.PARTIALLY, Reason.SOME_DO_NOT)


@pytest.mark.parametrize("patience", [AT_ONCE, WAITS])
@pytest.mark.parametrize("statuses", [(500, 401, 200), (401, 200), (401, 500, 500)])
def test_an_origin_that_refuses_the_token_once_does_not_make_it_bad(
    statuses: Sequence[int], patience: Patience
) -> None:
    found, _ = _finding(
        [SHARED[0], Instance("other", "10.0.1.1", 8443)],
        lambda address, before: statuses[before] if address == "10.0.0.1" else 200,
        patience=patience,
    )
    assert (found.verdict, found.reason) == (Known.SYNCED, Reason.ALL_AGREE)


@pytest.mark.parametrize(
    ("statuses", "patience"), [((401, 401), AT_ONCE), ((401, 401), WAITS), ((500, 401, 401), WAITS)]
)
def test_an_origin_that_refuses_the_token_twice_makes_it_bad(statuses: Sequence[int], patience: Patience) -> None:
    found, asked = _finding(
        [SHARED[0], Instance("other", "10.0.1.1", 8443)],
        lambda address, before: statuses[before] if address == "10.0.0.1" else 200,
        patience=patience,
    )
    assert (found.verdict, found.reason) == (Known.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    assert asked["10.0.0.1"] == len(statuses)
