"""Canaries against instances whose answers are scripted: above all what real ones will not do on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from syncline.clients.instances import Instance
from syncline.clients.replica_connection import Trouble
from syncline.clients.replicas import Answer, Replicas
from syncline.kinds.tokens.canary import KEY_PREFIX, Call, Canary, CanaryRules, Check, Outcome
from syncline.kinds.tokens.patience import Patience

INSTANCES: Final = tuple(Instance(f"gateway-{number}", f"10.0.0.{number}", 8443) for number in range(2))
RULES: Final = CanaryRules(
    Call("PUT", "/keys/{key}", "{value}"), Call("GET", "/keys/{key}"), Call("DELETE", "/keys/{key}")
)
PATIENCE: Final = Patience(0.05, 30, 0.001, 0.005)
REFUSED: Final = Answer(None, Trouble.UNREACHABLE, "Connection refused")
Asked = list[tuple[str, str, str]]


class Scripted:
    """Stands where :class:`Replicas` does. ``answers`` gives a status or an answer for a method at an address."""

    def __init__(self, answers: Callable[[str, str, int], int | Answer]) -> None:
        self.asked: Asked = []
        self._answers = answers

    def ask(self, address: tuple[str, int], request: bytes, done: Callable[[Answer], None]) -> Any:
        method, path, _ = request.decode().split("\r\n")[0].split(" ")
        before = sum((each[0], each[1]) == (address[0], method) for each in self.asked)
        self.asked.append((address[0], method, path))
        said = self._answers(address[0], method, before)
        done(said if isinstance(said, Answer) else Answer(said))
        return self

    def cancel(self) -> None:
        pass


def _round(
    answers: Callable[[str, str, int], int | Answer], rules: CanaryRules = RULES
) -> tuple[list[tuple[Check, str, Outcome, bool]], Asked]:
    scripted = Scripted(answers)
    canary = Canary(rules, "gateway.example", 0, PATIENCE, cast("Replicas", scripted))
    found = asyncio.run(canary.round(INSTANCES))
    assert all(one.reason or one.outcome in (Outcome.ARRIVED, Outcome.GONE) for one in found)
    return [(one.check, one.instance, one.outcome, one.bad) for one in found], scripted.asked


def _usual(reads: dict[int, int | Answer]) -> Callable[[str, str, int], int | Answer]:
    """Writes and deletions succeed; reads answer by how many there were before, the last one for ever."""
    return lambda _, method, before: (
        {"PUT": 201, "DELETE": 204}.get(method) or reads[max(number for number in reads if number <= before)]
    )


@pytest.mark.parametrize(
    ("reads", "write", "bad"),
    [
        ({0: 401, 2: 200}, Outcome.ARRIVED, False),
        ({0: 404, 2: 200, 3: 404}, Outcome.LOST, True),
        ({0: 401, 2: 200, 3: 401}, Outcome.LOST, True),
        ({0: 401}, Outcome.NEVER, True),
        ({0: 500}, Outcome.FAILED, True),
        ({0: REFUSED}, Outcome.FAILED, True),
    ],
)
def test_a_write_arrives_or_is_lost_or_never_comes_or_cannot_be_seen(
    reads: dict[int, int | Answer], write: Outcome, bad: bool
) -> None:
    rules = CanaryRules(RULES.write, RULES.read, RULES.delete, watch_deletes=False)
    found, asked = _round(_usual(reads), rules)
    assert found == [(Check.WRITE, "gateway-1", write, bad)]
    assert [each[:2] for each in asked if each[1] == "PUT"] == [("10.0.0.0", "PUT")]


@pytest.mark.parametrize(
    ("reads", "outcome"),
    [({0: 200, 3: 404}, Outcome.GONE), ({0: 200}, Outcome.KEPT), ({0: 200, 2: 500}, Outcome.KEPT)],
)
def test_a_deletion_is_watched_too_and_alarms_nobody(reads: dict[int, int | Answer], outcome: Outcome) -> None:
    found, _ = _round(_usual(reads))
    assert found == [
        (Check.WRITE, "gateway-1", Outcome.ARRIVED, False),
        (Check.DELETE, "gateway-1", outcome, False),
    ]


def test_a_deletion_that_is_refused_is_a_failure() -> None:
    found, _ = _round(lambda _, method, __: {"PUT": 201, "GET": 200, "DELETE": 403}[method])
    assert found[1] == (Check.DELETE, "gateway-0", Outcome.FAILED, True)


@pytest.mark.parametrize(
    ("long", "outcome", "bad"),
    [(201, Outcome.ARRIVED, False), (413, Outcome.NEVER, False), (REFUSED, Outcome.FAILED, True)],
)
def test_a_long_value_travels_or_is_refused_or_cannot_be_written(
    long: int | Answer, outcome: Outcome, bad: bool
) -> None:
    rules = CanaryRules(RULES.write, RULES.read, RULES.delete, long_value=6000, watch_deletes=False)
    answers = _usual({0: 200})
    found, _ = _round(
        lambda address, method, before: long if (method, before) == ("PUT", 1) else answers(address, method, before),
        rules,
    )
    assert [(check, seen, how) for check, _, seen, how in found[1:]] == [(Check.LONG, outcome, bad)]


def test_a_key_is_a_canarys_own_and_is_taken_away_everywhere() -> None:
    _, asked = _round(_usual({0: 401}))
    (path,) = {path for _, _, path in asked}
    assert path.startswith(f"/keys/{KEY_PREFIX}")
    assert {address for address, method, _ in asked[-2:] if method == "DELETE"} == {"10.0.0.0", "10.0.0.1"}


def test_where_nobody_serves_nothing_is_written() -> None:
    scripted = Scripted(_usual({0: 200}))
    canary = Canary(RULES, "gateway.example", 0, PATIENCE, cast("Replicas", scripted))
    assert asyncio.run(canary.round([Instance("one", "10.0.0.1", 8443, ready=False)])) == []
    assert scripted.asked == []
