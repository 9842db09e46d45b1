"""Counters of zone_sync, and the causes that they name."""

from __future__ import annotations

import json

import pytest

from syncline.kinds.tokens.zone_sync import NodeState, causes_of

DOCUMENTED = {
    "zones": {
        "zone1": {"records_pending": 2061, "records_total": 260575},
        "zone2": {"records_pending": 0, "records_total": 14749},
    },
    "status": {
        "bytes_in": 1364923761,
        "msgs_in": 337236,
        "msgs_out": 346717,
        "bytes_out": 1402765472,
        "nodes_online": 15,
    },
}
"""The example in the documentation of ngx_http_api_module."""


def test_the_documented_example_is_read() -> None:
    assert NodeState.parse(json.dumps(DOCUMENTED).encode()) == NodeState(pending=2061, peers=15)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>404</html>",
        b"[]",
        b"{}",
        b'{"zones": [], "status": {"nodes_online": 1}}',
        b'{"zones": {"a": {}}, "status": {"nodes_online": 1}}',
        b'{"zones": {"a": {"records_pending": "1"}}, "status": {"nodes_online": 1}}',
        b'{"zones": {"a": {"records_pending": -1}}, "status": {"nodes_online": 1}}',
        b'{"zones": {}, "status": {"nodes_online": true}}',
        b'{"zones": {}, "status": {"nodes_online": 9223372036854775808}}',
        b'{"zones": {}, "status": null}',
        b"[" * 100_000,
    ],
)
def test_a_body_without_counters_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="zone_sync"):
        NodeState.parse(body)


def test_causes_name_the_instances() -> None:
    states = {"a": NodeState(0, 2), "b": NodeState(1204, 2), "c": NodeState(1, 1)}
    assert causes_of(states, 2) == (
        "c sees 1 of 2 nodes",
        "1,204 records pending on b",
        "1 record pending on c",
    )


def test_instances_that_replicate_are_no_cause() -> None:
    assert causes_of({"a": NodeState(0, 1), "b": NodeState(0, 2)}, 1) == ()


def test_only_the_worst_causes_are_named() -> None:
    states = {f"gateway-{number:03}": NodeState(number, 99) for number in range(100)}
    causes = causes_of(states, 99)
    assert len(causes) == 5
    assert causes[0] == "99 records pending on gateway-099"
