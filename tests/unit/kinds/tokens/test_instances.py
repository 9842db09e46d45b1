"""Verdicts on instances that share a name, and on unreachable instances, with scripted answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import pytest

from syncline.clients.replicas.client import FailureReason, ReplicaClient, ReplicaResponse
from syncline.clients.replicas.instances import Instance, is_probed
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.config import Check
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.probe import Prober, ProbeRules
from syncline.kinds.tokens.verdict import InstanceResult, ProbeResult, Quorum, Reason, TokenState, Verdict, judge
from syncline.web.contract import body_of

AT_ONCE: Final = AskSchedule(0.0, 30, 0.001, 0.002)
WAITS: Final = AskSchedule(30, 60, 0.001, 0.002)
SHARED: Final = tuple(Instance("gateway", f"10.0.0.{number}", 8443) for number in range(1, 6))
NAMED: Final = Instance("named", "named.example", 8443)


class ScriptedClient:
    """A fake :class:`ReplicaClient`; ``answers`` gives a status by address and number of earlier requests."""

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


def _result(
    instances: Sequence[Instance],
    answers: Callable[[str, int], int],
    *,
    origin: str = "gateway",
    quorum: Quorum = "all",
    schedule: AskSchedule = AT_ONCE,
) -> tuple[ProbeResult, Mapping[str, int]]:
    async def ask() -> tuple[ProbeResult, Mapping[str, int]]:
        rules = ProbeRules(Check(host="gateway.example", plain_http=True), quorum, schedule, 60)
        prober = Prober(rules, asyncio.get_running_loop(), rng=random.Random(25))
        scripted = ScriptedClient(answers)
        prober.replicas = cast("ReplicaClient", scripted)
        return await prober.probe("t", origin, Listing(tuple(instances), time.time())), scripted.asked

    return asyncio.run(ask())


def _lacks(*numbers: int) -> Callable[[str, int], int]:
    lacking = {f"10.0.0.{number}" for number in numbers}
    return lambda address, _: 401 if address in lacking else 200


@pytest.mark.parametrize("lacking", range(1, 6))
def test_five_of_one_name_one_without_the_token(lacking: int) -> None:
    found, asked = _result(SHARED, _lacks(lacking))
    assert (found.verdict, found.reason, found.yes) == (Verdict.PARTIALLY, Reason.SOME_DO_NOT, 4)
    assert [(one.address, one.state) for one in found.instances if one.state is not TokenState.YES] == [
        (f"10.0.0.{lacking}:8443", TokenState.NO)
    ]
    assert len(asked) == 5


def test_five_of_one_name_agree() -> None:
    found, _ = _result(SHARED, _lacks())
    assert (found.verdict, found.reason, found.yes, found.needed) == (Verdict.SYNCED, Reason.ALL_AGREE, 5, 5)
    assert found.origin is None


@pytest.mark.parametrize("late", range(1, 6))
def test_shared_name_does_not_identify_the_origin(late: int) -> None:
    """The instance that answers may not have the token yet, so its first answer does not decide."""
    found, _ = _result(
        SHARED, lambda address, before: 401 if address == f"10.0.0.{late}" and before < 4 else 200, schedule=WAITS
    )
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)


def test_token_is_invalid_if_all_of_the_origins_name_refuse_it() -> None:
    others = [Instance("other", f"10.0.1.{number}", 8443) for number in range(9)]
    found, _ = _result([*SHARED[:2], *others], _lacks(1, 2), quorum="majority")
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)


@pytest.mark.parametrize(
    ("quorum", "needed", "lacking", "verdict"),
    [
        ("majority", 4, (5,), Verdict.SYNCED),
        ("majority", 4, (4, 5), Verdict.PARTIALLY),
        (2, 3, (4, 5), Verdict.SYNCED),
        (2, 3, (3, 4, 5), Verdict.NOT_SYNCED),
    ],
)
def test_origin_does_not_count_for_a_quorum(
    quorum: Quorum, needed: int, lacking: tuple[int, ...], verdict: Verdict
) -> None:
    found, _ = _result(SHARED, _lacks(*lacking), quorum=quorum)
    assert (found.verdict, found.needed) == (verdict, needed)


def test_origin_that_no_longer_serves_is_probed_under_a_shared_name() -> None:
    leaving = Instance("gateway", "10.0.0.9", 8443, terminating=True)
    other = Instance("other", "10.0.0.1", 8443)
    found, _ = _result([leaving, other], _lacks(9))
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    found, _ = _result([leaving, Instance("gateway", "10.0.0.8", 8443, ready=False), other], _lacks(9))
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)
    found, _ = _result([leaving, Instance("gateway", "10.0.0.8", 8443, ready=False), other], _lacks(8, 9))
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)


def test_name_shared_with_one_that_no_longer_serves() -> None:
    leaving = Instance("gateway", "10.0.0.9", 8443, terminating=True)
    others = [Instance("other", f"10.0.1.{number}", 8443) for number in range(2)]
    found, asked = _result([leaving, SHARED[0], *others], lambda address, _: 500 if address == "10.0.0.1" else 200)
    assert (found.verdict, found.reason, found.unknown) == (Verdict.PARTIALLY, Reason.SOME_UNKNOWN, 1)
    assert set(asked) == {"10.0.0.1", "10.0.0.9", "10.0.1.0", "10.0.1.1"}


def test_origin_by_its_address_is_one_instance() -> None:
    found, _ = _result(SHARED, _lacks(1), origin="10.0.0.1")
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    assert len(found.instances) == 4


def test_unreachable_instance_is_unknown_and_never_absent() -> None:
    found, _ = _result([*SHARED[:3], NAMED], _lacks(), origin="10.0.0.1")
    assert (found.verdict, found.reason) == (Verdict.PARTIALLY, Reason.SOME_UNKNOWN)
    assert [(one.name, one.state) for one in found.instances if one.state is not TokenState.YES] == [
        ("named", TokenState.FAILED)
    ]
    body = body_of("gateway", None, found, None)
    assert (body["asked"], body["synced"], body["unknown"]) == (3, 2, 1)
    found, _ = _result([SHARED[0], NAMED], _lacks(), origin="10.0.0.1")
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.SOME_UNKNOWN)
    found, _ = _result([NAMED], _lacks(), origin="named")
    assert (found.verdict, found.reason) == (Verdict.UNKNOWN, Reason.ORIGIN_SILENT)


def test_refusal_is_reported_before_unknown() -> None:
    states = [TokenState.YES, TokenState.YES, TokenState.YES, TokenState.NO, TokenState.FAILED]
    seen = [InstanceResult(f"i-{number}", "10.0.0.1:1", state) for number, state in enumerate(states)]
    assert judge(seen, 5, over=False, origin_listed=True, origin=None) == (Verdict.PARTIALLY, Reason.SOME_DO_NOT)
    assert judge(seen[:3], 5, over=False, origin_listed=True, origin=None) == (Verdict.PARTIALLY, Reason.SOME_DO_NOT)


@pytest.mark.parametrize("schedule", [AT_ONCE, WAITS])
@pytest.mark.parametrize("statuses", [(500, 401, 200), (401, 200), (401, 500, 500)])
def test_single_refusal_of_the_origin(statuses: Sequence[int], schedule: AskSchedule) -> None:
    found, _ = _result(
        [SHARED[0], Instance("other", "10.0.1.1", 8443)],
        lambda address, before: statuses[before] if address == "10.0.0.1" else 200,
        schedule=schedule,
    )
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)


@pytest.mark.parametrize(
    ("statuses", "schedule"), [((401, 401), AT_ONCE), ((401, 401), WAITS), ((500, 401, 401), WAITS)]
)
def test_second_refusal_of_the_origin_makes_the_token_invalid(statuses: Sequence[int], schedule: AskSchedule) -> None:
    found, asked = _result(
        [SHARED[0], Instance("other", "10.0.1.1", 8443)],
        lambda address, before: statuses[before] if address == "10.0.0.1" else 200,
        schedule=schedule,
    )
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    assert asked["10.0.0.1"] == len(statuses)
