"""Canaries against instances with scripted answers, mainly answers that real instances cannot be made to give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import pytest

from syncline.clients.replicas.client import FailureReason, ReplicaClient, ReplicaResponse
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens import config
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.canary import (
    KEY_PREFIX,
    Canary,
    CanaryCheck,
    CanaryMemory,
    CheckOutcome,
    CheckResult,
)
from tests.unit.kinds.tokens.canary_rounds import SYNC

INSTANCES: Final = tuple(Instance(f"gateway-{number}", f"10.0.0.{number}", 8443) for number in range(2))

WRITER: Final = INSTANCES[0].address
RULES: Final = cast("config.Canary", SYNC.canary)
PATIENCE: Final = AskSchedule(0.05, 30, 0.001, 0.005)
REFUSED: Final = ReplicaResponse(None, FailureReason.UNREACHABLE, "Connection refused")
FIRST: Final = CanaryMemory("")
Asked = list[tuple[str, str, str]]


class ScriptedClient:
    """A fake :class:`ReplicaClient`. ``answers`` gives a status or an answer for a method at an address.

    Keys that were not written are absent everywhere, and the writer has the values that it wrote.
    """

    def __init__(self, answers: Callable[[str, str, int], int | ReplicaResponse | None]) -> None:
        self.asked: Asked = []
        self._answers = answers
        self._check_write: set[str] = set()

    def send(self, address: tuple[str, int], request: bytes, done: Callable[[ReplicaResponse], None]) -> Any:
        method, path, _ = request.decode().split("\r\n")[0].split(" ")
        if method == "GET" and (path not in self._check_write or address[0] == WRITER):
            done(ReplicaResponse(200 if path in self._check_write else 401 if path == "/check" else 404))
            return self
        if method == "PUT":
            self._check_write.add(path)
        before = sum((each[0], each[1]) == (address[0], method) for each in self.asked)
        self.asked.append((address[0], method, path))
        said = self._answers(address[0], method, before)
        if said is not None:
            done(said if isinstance(said, ReplicaResponse) else ReplicaResponse(said))
        return self

    def cancel(self) -> None:
        pass


def _run_canary(
    scripted: Any, rules: config.Canary = RULES, *, instances: Sequence[Instance] = INSTANCES, longest: float = 60
) -> tuple[list[CheckResult], CanaryMemory]:
    canary = Canary(SYNC.model_copy(update={"canary": rules}), {}, PATIENCE, cast("ReplicaClient", scripted))
    found, writer = asyncio.run(canary.round(instances, FIRST, longest))
    return found, FIRST.after(found, writer, instances)


def _round(
    answers: Callable[[str, str, int], int | ReplicaResponse], rules: config.Canary = RULES
) -> tuple[list[tuple[CanaryCheck, str, CheckOutcome, bool]], Asked]:
    scripted = ScriptedClient(answers)
    found = [one for one in _run_canary(scripted, rules)[0] if one.check is not CanaryCheck.ABSENT]
    assert all(
        one.reason or one.outcome in (CheckOutcome.SENT, CheckOutcome.ARRIVED, CheckOutcome.GONE) for one in found
    )
    return [(one.check, one.instance, one.outcome, one.bad) for one in found], scripted.asked


def _usual(reads: dict[int, int | ReplicaResponse]) -> Callable[[str, str, int], int | ReplicaResponse]:
    """Writes and deletions succeed; a read's answer depends on the earlier reads, and the last one repeats."""
    return lambda _, method, before: (
        {"PUT": 201, "DELETE": 204}.get(method) or reads[max(number for number in reads if number <= before)]
    )


SENT: Final = (CanaryCheck.WRITE, "gateway-0", CheckOutcome.SENT, False)


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ({0: 401, 2: 200}, [SENT, (CanaryCheck.WRITE, "gateway-1", CheckOutcome.ARRIVED, False)]),
        ({0: 404, 2: 200, 3: 404}, [SENT, (CanaryCheck.WRITE, "gateway-1", CheckOutcome.LOST, True)]),
        ({0: 401, 2: 200, 3: 401}, [SENT, (CanaryCheck.WRITE, "gateway-1", CheckOutcome.LOST, True)]),
        ({0: 401, 2: 200, 3: 500, 4: 200}, [SENT, (CanaryCheck.WRITE, "gateway-1", CheckOutcome.ARRIVED, False)]),
        ({0: 401, 2: 200, 3: 500}, [SENT, (CanaryCheck.WRITE, "gateway-1", CheckOutcome.FAILED, True)]),
        ({0: 401, 2: 200, 3: REFUSED}, [SENT, (CanaryCheck.WRITE, "gateway-1", CheckOutcome.FAILED, True)]),
        ({0: 401}, [(CanaryCheck.WRITE, "gateway-0 to gateway-1", CheckOutcome.NEVER, True)]),
        ({0: 500}, [(CanaryCheck.WRITE, "gateway-1", CheckOutcome.FAILED, True)]),
        ({0: REFUSED}, [(CanaryCheck.WRITE, "gateway-1", CheckOutcome.FAILED, True)]),
    ],
)
def test_outcomes_of_a_write(
    reads: dict[int, int | ReplicaResponse], expected: list[tuple[CanaryCheck, str, CheckOutcome, bool]]
) -> None:
    found, asked = _round(_usual(reads), RULES.model_copy(update={"watch_deletes": False}))
    assert found == expected
    assert [each[:2] for each in asked if each[1] == "PUT"] == [("10.0.0.0", "PUT")]


@pytest.mark.parametrize(
    ("reads", "outcome"),
    [({0: 200, 3: 404}, CheckOutcome.GONE), ({0: 200}, CheckOutcome.KEPT), ({0: 200, 2: 500}, CheckOutcome.KEPT)],
)
def test_deletion_is_watched_and_raises_no_alarm(
    reads: dict[int, int | ReplicaResponse], outcome: CheckOutcome
) -> None:
    found, _ = _round(_usual(reads))
    assert found == [
        SENT,
        (CanaryCheck.WRITE, "gateway-1", CheckOutcome.ARRIVED, False),
        (CanaryCheck.DELETE, "gateway-1", outcome, False),
    ]


def test_refused_deletion_is_a_failure() -> None:
    found, _ = _round(lambda _, method, __: {"PUT": 201, "GET": 200, "DELETE": 403}[method])
    assert found[-1] == (CanaryCheck.DELETE, "gateway-0", CheckOutcome.FAILED, True)


@pytest.mark.parametrize(("status", "is_done"), [(199, False), (200, True), (299, True), (300, False)])
@pytest.mark.parametrize("call", ["PUT", "DELETE"])
def test_any_2xx_is_success(call: str, status: int, *, is_done: bool) -> None:
    answers = _usual({0: 200})
    found, _ = _round(lambda *asked: status if asked[1] == call else answers(*asked))
    failed = [check for check, _, outcome, _ in found if outcome is CheckOutcome.FAILED]
    assert failed == ([] if is_done else [CanaryCheck.WRITE if call == "PUT" else CanaryCheck.DELETE])


def test_reason_of_a_failed_write() -> None:
    for answer, reason in ((ReplicaResponse(None, None, "cut off"), "cut off"), (403, "answered 403")):
        found, _ = _run_canary(ScriptedClient(lambda _, method, __, answer=answer: answer if method == "PUT" else 204))  # type: ignore[misc]
        assert [one.reason for one in found if one.bad] == [f"the write failed: {reason}"]


def test_writer_whose_value_no_reader_gets_is_at_fault() -> None:
    instances = [*INSTANCES, Instance("gateway-2", "10.0.0.2", 8443)]
    found, _ = _run_canary(
        ScriptedClient(_usual({0: 404})), RULES.model_copy(update={"watch_deletes": False}), instances=instances
    )
    assert [(one.instance, one.outcome, one.reason) for one in found if one.bad] == [
        ("gateway-0", CheckOutcome.UNSENT, "no other instance got the key")
    ]


@pytest.mark.parametrize(
    ("long", "outcome", "bad"),
    [(201, CheckOutcome.ARRIVED, False), (413, CheckOutcome.NEVER, False), (REFUSED, CheckOutcome.FAILED, True)],
)
def test_outcomes_of_a_long_value(long: int | ReplicaResponse, outcome: CheckOutcome, bad: bool) -> None:
    rules = RULES.model_copy(update={"long_value": 6000, "watch_deletes": False})
    answers = _usual({0: 200})
    found, _ = _round(
        lambda address, method, before: long if (method, before) == ("PUT", 1) else answers(address, method, before),
        rules,
    )
    assert [(check, seen, how) for check, _, seen, how in found if check is CanaryCheck.LONG] == [
        (CanaryCheck.LONG, outcome, bad)
    ]


def test_keys_are_unique_and_deleted_everywhere() -> None:
    _, asked = _round(_usual({0: 401}))
    (path,) = {path for _, _, path in asked}
    assert path.startswith(f"/keys/{KEY_PREFIX}")
    assert {address for address, method, _ in asked[-2:] if method == "DELETE"} == {"10.0.0.0", "10.0.0.1"}


def test_no_serving_instance_is_a_fault() -> None:
    scripted = ScriptedClient(_usual({0: 200}))
    found, memory = _run_canary(scripted, instances=[Instance("one", "10.0.0.1", 8443, ready=False)])
    assert [(one.check, one.outcome, one.bad) for one in found] == [(CanaryCheck.ROUND, CheckOutcome.FAILED, True)]
    assert (scripted.asked, dict(memory.failures)) == ([], {"round": 1})


def test_instances_of_one_name_are_reported_with_addresses() -> None:
    instances = [Instance("gateway", one.address, one.port) for one in INSTANCES]
    found, _ = _run_canary(ScriptedClient(_usual({0: 200})), instances=instances)
    assert {one.instance for one in found} == {"gateway 10.0.0.0:8443", "gateway 10.0.0.1:8443"}


def test_endless_round_is_cancelled_and_counts_as_a_turn() -> None:
    found, memory = _run_canary(ScriptedClient(lambda _, method, __: None if method == "PUT" else 204), longest=0.05)
    assert [(one.check, one.instance, one.outcome) for one in found if one.bad] == [
        (CanaryCheck.ROUND, "(all)", CheckOutcome.FAILED)
    ]
    assert (memory.last_writer, dict(memory.failures)) == ("10.0.0.0:8443", {"round": 1})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ReplicaResponse(500), "the token check failed: answered 500"),
        (ReplicaResponse(302), "the token check failed: answered 302"),
        (REFUSED, "the token check failed: unreachable: Connection refused"),
    ],
)
def test_instance_that_does_not_check_tokens_is_at_fault(answer: ReplicaResponse, reason: str) -> None:
    """It may have its keys, but its answers cannot be used for verdicts."""

    class ScriptedPresence(ScriptedClient):
        def send(self, address: tuple[str, int], request: bytes, done: Callable[[ReplicaResponse], None]) -> Any:
            if request.startswith(b"GET /check HTTP/1.1\r\n") and address[0] != WRITER:
                done(answer)
                return self
            return super().send(address, request, done)

    found, memory = _run_canary(ScriptedPresence(_usual({0: 200})))
    assert [(one.instance, one.outcome, one.reason) for one in found if one.bad] == [
        ("gateway-1", CheckOutcome.FAILED, reason)
    ]
    assert dict(memory.failures) == {"answer 10.0.0.1:8443": 1}


def test_absent_token_is_checked_as_a_probe_does() -> None:
    """An instance may have its keys and still accept requests without a token."""

    class AcceptsAll(ScriptedClient):
        def send(self, address: tuple[str, int], request: bytes, done: Callable[[ReplicaResponse], None]) -> Any:
            if request.startswith(b"GET /check HTTP/1.1\r\n") and address[0] != WRITER:
                assert f"\r\nCookie: auth_token={KEY_PREFIX}".encode() in request
                done(ReplicaResponse(200))
                return self
            return super().send(address, request, done)

    found, memory = _run_canary(AcceptsAll(_usual({0: 200})))
    (bad,) = (one for one in found if one.bad)
    assert (bad.instance, bad.outcome, bad.reason) == (
        "gateway-1",
        CheckOutcome.INVENTED,
        "it has a token that nobody wrote",
    )
    assert dict(memory.failures) == {"answer 10.0.0.1:8443": 1}
