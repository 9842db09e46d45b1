"""Faults of scripted replicas: each is confirmed within 2N rounds, and nobody who is healthy is blamed."""

from __future__ import annotations

import pytest

from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.canary import CanaryMemory
from tests.canary_rounds import DOCUMENT, SIZES, cases, fly, rounds_until_confirmed, table, written
from tests.standins.scripted_gateway import Fault, ScriptedGateway

FIRST = CanaryMemory("")


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_confirmed_within_two_turns_of_everybody(fault: Fault, count: int) -> None:
    assert rounds_until_confirmed(fault, count) <= 2 * count


@pytest.mark.parametrize("count", [count for count in SIZES if count > 2])
@pytest.mark.parametrize("fault", Fault)
def test_nobody_who_is_healthy_is_blamed(fault: Fault, count: int) -> None:
    for gateway, memory in cases(count):
        gateway.faults = {0: fault}
        found, after = fly(gateway, 3 * count, memory)
        assert {one.where for seen in found for one in seen if one.bad} == {gateway.instances[0].where}
        gateway.faults = {}
        assert fly(gateway, count, after[-1])[1][-1].failures == {}


@pytest.mark.parametrize("fault", Fault)
def test_of_two_both_are_named_together_where_either_may_be_at_fault(fault: Fault) -> None:
    for gateway, memory in cases(2):
        gateway.faults = {0: fault}
        found, _ = fly(gateway, 6, memory)
        bad = {one.instance for seen in found for one in seen if one.bad}
        assert bad <= {"gateway-0", "gateway-0 to gateway-1", "gateway-1 to gateway-0"}


def test_one_that_says_yes_to_everything_is_found_and_never_writes() -> None:
    gateway = ScriptedGateway(3, {0: Fault.SAYS_YES})
    found, after = fly(gateway, 6, FIRST)
    assert [[one.instance for one in seen if one.bad] for seen in found] == [["gateway-0"]] * 6
    assert after[1].faults == ("answer 10.0.0.0:8443",)
    assert set(gateway.writers) == {1, 2}


def test_the_turn_of_the_writers_survives_a_cold_start() -> None:
    gateway = ScriptedGateway(3)
    fly(gateway, 7, FIRST)  # by a new canary each
    assert gateway.writers == [0, 1, 2, 0, 1, 2, 0]


def test_a_failure_as_the_writer_counts_until_that_writer_succeeds() -> None:
    gateway = ScriptedGateway(3, {0: Fault.MUTE})
    found, after = fly(gateway, 4, FIRST)
    assert [[(one.instance, one.outcome.value) for one in seen if one.bad] for seen in found] == [
        [("gateway-0", "unsent")],
        [],
        [],
        [("gateway-0", "unsent")],
    ]
    assert [one.faults for one in after] == [(), (), (), ("writer 10.0.0.0:8443",)]
    gateway.faults = {}
    assert [one.faults for one in fly(gateway, 3, after[-1])[1]] == [after[-1].faults, after[-1].faults, ()]


def test_one_failure_is_no_fault_yet() -> None:
    gateway = ScriptedGateway(3, {1: Fault.DEAD})
    _, after = fly(gateway, 1, FIRST)
    assert (after[-1].faults, dict(after[-1].failures)) == ((), {"answer 10.0.0.1:8443": 1})
    gateway.faults = {}
    assert fly(gateway, 1, after[-1])[1][-1].failures == {}


def test_a_mute_writer_beside_one_that_says_yes_is_named_with_its_only_judge() -> None:
    gateway = ScriptedGateway(3, {0: Fault.MUTE, 2: Fault.SAYS_YES})
    _, after = fly(gateway, 4, FIRST)
    assert after[-1].faults == ("answer 10.0.0.2:8443", "path 10.0.0.0:8443 to 10.0.0.1:8443")
    gateway.faults = {}
    assert fly(gateway, 3, after[-1])[1][-1].failures == {}


def test_a_healthy_writer_is_not_confirmed_because_all_others_are_deaf() -> None:
    gateway = ScriptedGateway(3, {1: Fault.DEAF, 2: Fault.DEAF})
    _, after = fly(gateway, 12, FIRST)
    assert after[-1].faults == ("reader 10.0.0.1:8443", "reader 10.0.0.2:8443")


@pytest.mark.parametrize(("count", "fault"), [(2, "path 10.0.0.0:8443 to 10.0.0.1:8443"), (3, "writer 10.0.0.0:8443")])
def test_a_mute_writer_is_found_although_a_reader_failed_before_it_wrote_itself(count: int, fault: str) -> None:
    """The reader was the last writer and had no chance since to show that it does well."""
    gateway = ScriptedGateway(count, {0: Fault.MUTE})
    last = gateway.instances[-1].where
    _, after = fly(gateway, 2 * count, CanaryMemory(last, {f"reader {last}": 1}))
    assert {each for one in after for each in one.faults} == {fault}


def test_what_is_no_longer_listed_is_forgotten() -> None:
    gateway = ScriptedGateway(3, {0: Fault.DEAD})
    _, after = fly(gateway, 2, FIRST)
    assert fly(gateway, 1, after[-1], gateway.instances[1:])[1][-1].failures == {}


def test_an_empty_list_is_a_fault_and_what_was_known_is_kept() -> None:
    gateway = ScriptedGateway(3, {0: Fault.DEAD})
    _, after = fly(gateway, 2, FIRST)
    _, empty = fly(gateway, 2, after[-1], ())
    assert empty[-1].faults == ("answer 10.0.0.0:8443", "round")
    assert fly(gateway, 1, empty[-1])[1][-1].faults == ("answer 10.0.0.0:8443",)


def test_an_only_instance_is_judged_by_its_own_answers() -> None:
    gateway = ScriptedGateway(1)
    found, _ = fly(gateway, 1, FIRST)
    assert not any(one.bad for one in found[0])
    gateway.faults = {0: Fault.DROPS}
    assert fly(gateway, 2, FIRST)[1][-1].faults == ("writer 10.0.0.0:8443",)


def test_whoever_begins_is_one_of_those_that_can_write() -> None:
    instances = [Instance("one", "10.0.0.1", 1), Instance("two", "10.0.0.2", 1)]
    assert CanaryMemory().writer(instances) in instances
    assert CanaryMemory("10.0.0.1:1").writer(instances) == instances[1]
    assert CanaryMemory("10.0.0.2:1").writer(instances) == instances[0]
    assert CanaryMemory().writer([]) is None


def test_the_documentation_has_the_table() -> None:
    """After a change: ``python -m tests.canary_rounds``."""
    assert written(DOCUMENT.read_text()) == table()
