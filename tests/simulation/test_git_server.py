"""The git server in memory: its records, its faults, and the calls of its client."""

from __future__ import annotations

import pytest

from syncline.clients.git.program import GitRetryPolicy
from tests.simulation.models.git import SimBranch
from tests.simulation.models.git_systems import (
    FILES,
    IDS,
    ModelSystem,
    branch_of,
    code,
    commit,
    content,
)


@pytest.fixture
def sim() -> ModelSystem:
    return ModelSystem()


def test_the_server_records_commits_and_their_writers(sim: ModelSystem) -> None:
    first = sim.fill(FILES)
    with branch_of(sim) as branch:
        made = commit(branch, {"a": b"1"}, "backup\n\nSyncline-Batch: 7\n")
        branch.push(made)
    newest = sim.server.log("main")[0]
    assert (newest.oid, newest.parent, newest.author) == (made, first, "Backup Bot <backup@example.com>")
    assert newest.trailers == {"Syncline-Batch": "7"}
    other = sim.server.rewrite("main", {"b": b"2"})
    assert sim.server.writes == [
        ("main", None, first, "outside"),
        ("main", first, made, "p"),
        ("main", made, other, "outside"),
    ]
    assert sim.files("main") == FILES | {"a": b"1", "b": b"2"}
    assert sim.subjects() == ["rewritten"]
    sim.server.delete("main")
    assert sim.server.branches == {}
    assert sim.files("main") == {}


def test_a_server_may_discard_a_push(sim: ModelSystem) -> None:
    first = sim.fill(FILES)
    sim.server.push_and_forget = True
    with branch_of(sim) as branch:
        branch.push(commit(branch, {"a": b"1"}))
        assert branch.remote_tip() == first
    assert len(sim.server.writes) == 1


def test_a_repository_may_vanish(sim: ModelSystem) -> None:
    sim.fill(FILES)
    with branch_of(sim) as branch:
        made = commit(branch, {"a": b"1"})
        sim.server.vanishes = True
        assert code(lambda: branch.push(made)) == code(branch.fetch) == "REPOSITORY_ABSENT"
        assert len(sim.server.log("main")) == 1


def test_each_request_is_one_call(sim: ModelSystem) -> None:
    sim.fill(FILES)
    points = sim.calls.faults.points
    with branch_of(sim) as branch:
        branch.folders([b"c0/n0", b"c1/n1"])
        content(branch, IDS[b"c0/n0/f0"], IDS[b"c1/n1/f1"])
        branch.push(commit(branch, {"c0/n0/new": b"1"}))
    assert points == {"git fetch": 1, "git fetch trees": 1, "git fetch blobs": 1, "git push": 1}


def test_calls_obey_the_deadline_the_cancellation_and_the_retry_policy(sim: ModelSystem) -> None:
    sim.fill(FILES)
    patience = GitRetryPolicy(3, 5.0)
    for left, halted, name in ((0.0, False, "TIME_SHORT"), (60.0, True, "RUN_CANCELLED")):
        branch = SimBranch(
            sim.server,
            sim.network,
            "main",
            depth=1,
            left=lambda seconds=left: seconds,  # type: ignore[misc]
            halted=lambda over=halted: over,  # type: ignore[misc]
        )
        assert code(branch.fetch) == name
    sim.calls.faults.off, sim.calls.faults.broken = False, 1.0
    began = sim.calls.machine.now
    branch = SimBranch(sim.server, sim.network, "main", depth=1, retry=patience)
    assert code(branch.fetch) in ("UNREACHABLE", "SERVER_ERROR")
    assert sim.calls.faults.points["git fetch"] == 3
    assert sim.calls.machine.now - began >= 15
