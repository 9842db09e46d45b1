"""Faults of scripted replicas: each is confirmed within 2N rounds, and no healthy replica is at fault."""

from __future__ import annotations

import pytest

from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.canary import CanaryMemory
from tests.standins.scripted_gateway import Fault, ScriptedGateway
from tests.unit.kinds.tokens.canary_rounds import DOCUMENT, SIZES, cases, rounds_until_confirmed, run, table, written

FIRST = CanaryMemory("")


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("fault", Fault)
def test_fault_is_confirmed_within_two_turns_of_all_instances(fault: Fault, count: int) -> None:
    assert rounds_until_confirmed(fault, count) <= 2 * count


@pytest.mark.parametrize("count", [count for count in SIZES if count > 2])
@pytest.mark.parametrize("fault", Fault)
def test_healthy_instance_is_not_at_fault(fault: Fault, count: int) -> None:
    for gateway, memory in cases(count):
        gateway.faults = {0: fault}
        found, after = run(gateway, 3 * count, memory)
        assert {one.where for seen in found for one in seen if one.bad} == {gateway.instances[0].where}
        gateway.faults = {}
        assert run(gateway, count, after[-1])[1][-1].failures == {}


@pytest.mark.parametrize("fault", Fault)
def test_path_is_named_if_either_of_two_may_be_at_fault(fault: Fault) -> None:
    for gateway, memory in cases(2):
        gateway.faults = {0: fault}
        found, _ = run(gateway, 6, memory)
        bad = {one.instance for seen in found for one in seen if one.bad}
        assert bad <= {"gateway-0", "gateway-0 to gateway-1", "gateway-1 to gateway-0"}


def test_instance_that_has_every_key_is_at_fault_and_never_writes() -> None:
    gateway = ScriptedGateway(3, {0: Fault.SAYS_YES})
    found, after = run(gateway, 6, FIRST)
    assert [[one.instance for one in seen if one.bad] for seen in found] == [["gateway-0"]] * 6
    assert after[1].faults == ("answer 10.0.0.0:8443",)
    assert set(gateway.writers) == {1, 2}


def test_order_of_writers_survives_a_cold_start() -> None:
    gateway = ScriptedGateway(3)
    run(gateway, 7, FIRST)  # each by a new canary
    assert gateway.writers == [0, 1, 2, 0, 1, 2, 0]


def test_failure_of_a_writer_counts_until_it_succeeds() -> None:
    gateway = ScriptedGateway(3, {0: Fault.MUTE})
    found, after = run(gateway, 4, FIRST)
    assert [[(one.instance, one.outcome.value) for one in seen if one.bad] for seen in found] == [
        [("gateway-0", "unsent")],
        [],
        [],
        [("gateway-0", "unsent")],
    ]
    assert [one.faults for one in after] == [(), (), (), ("writer 10.0.0.0:8443",)]
    gateway.faults = {}
    assert [one.faults for one in run(gateway, 3, after[-1])[1]] == [after[-1].faults, after[-1].faults, ()]


def test_single_failure_is_not_a_fault() -> None:
    gateway = ScriptedGateway(3, {1: Fault.DEAD})
    _, after = run(gateway, 1, FIRST)
    assert (after[-1].faults, dict(after[-1].failures)) == ((), {"answer 10.0.0.1:8443": 1})
    gateway.faults = {}
    assert run(gateway, 1, after[-1])[1][-1].failures == {}


def test_path_of_an_isolated_writer_and_its_only_reader() -> None:
    gateway = ScriptedGateway(3, {0: Fault.MUTE, 2: Fault.SAYS_YES})
    _, after = run(gateway, 4, FIRST)
    assert after[-1].faults == ("answer 10.0.0.2:8443", "path 10.0.0.0:8443 to 10.0.0.1:8443")
    gateway.faults = {}
    assert run(gateway, 3, after[-1])[1][-1].failures == {}


def test_healthy_writer_is_not_at_fault_if_no_reader_works() -> None:
    gateway = ScriptedGateway(3, {1: Fault.DEAF, 2: Fault.DEAF})
    _, after = run(gateway, 12, FIRST)
    assert after[-1].faults == ("reader 10.0.0.1:8443", "reader 10.0.0.2:8443")


@pytest.mark.parametrize(("count", "fault"), [(2, "path 10.0.0.0:8443 to 10.0.0.1:8443"), (3, "writer 10.0.0.0:8443")])
def test_isolated_writer_is_found_although_a_reader_failed_before(count: int, fault: str) -> None:
    """The reader was the last writer, and has had no turn since in which it could succeed."""
    gateway = ScriptedGateway(count, {0: Fault.MUTE})
    last = gateway.instances[-1].where
    _, after = run(gateway, 2 * count, CanaryMemory(last, {f"reader {last}": 1}))
    assert {each for one in after for each in one.faults} == {fault}


def test_unlisted_instances_are_forgotten() -> None:
    gateway = ScriptedGateway(3, {0: Fault.DEAD})
    _, after = run(gateway, 2, FIRST)
    assert run(gateway, 1, after[-1], gateway.instances[1:])[1][-1].failures == {}


def test_empty_list_is_a_fault_and_keeps_the_memory() -> None:
    gateway = ScriptedGateway(3, {0: Fault.DEAD})
    _, after = run(gateway, 2, FIRST)
    _, empty = run(gateway, 2, after[-1], ())
    assert empty[-1].faults == ("answer 10.0.0.0:8443", "round")
    assert run(gateway, 1, empty[-1])[1][-1].faults == ("answer 10.0.0.0:8443",)


def test_single_instance() -> None:
    gateway = ScriptedGateway(1)
    found, _ = run(gateway, 1, FIRST)
    assert not any(one.bad for one in found[0])
    gateway.faults = {0: Fault.DROPS}
    assert run(gateway, 2, FIRST)[1][-1].faults == ("writer 10.0.0.0:8443",)


def test_first_writer_is_usable() -> None:
    instances = [Instance("one", "10.0.0.1", 1), Instance("two", "10.0.0.2", 1)]
    assert CanaryMemory().writer(instances) in instances
    assert CanaryMemory("10.0.0.1:1").writer(instances) == instances[1]
    assert CanaryMemory("10.0.0.2:1").writer(instances) == instances[0]
    assert CanaryMemory().writer([]) is None


def test_documentation_has_the_table() -> None:
    """To update the table, run ``python -m tests.unit.kinds.tokens.canary_rounds``."""
    assert written(DOCUMENT.read_text()) == table()
