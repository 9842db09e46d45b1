from __future__ import annotations

import pytest

from syncline.clients.http.retry import FIRST_INTERVAL, MAX_INTERVAL, HostThrottle
from syncline.errors import SynclineError
from tests.standins.made_up import Naps

HOST = "registry.example.com"


def gap(throttle: HostThrottle, naps: Naps) -> float:
    """Return the time between two simultaneous requests."""
    throttle.wait(HOST, naps.policy(cap=100))
    start = naps.now
    throttle.wait(HOST, naps.policy(cap=100))
    return round(naps.now - start, 6)


def test_a_host_that_does_not_throttle_gets_requests_at_once(naps: Naps) -> None:
    throttle = HostThrottle()
    throttle.slow_down("other.example.com", 5, naps.policy())
    throttle.ease(HOST)
    throttle.wait(HOST, naps.policy())
    assert naps.slept == []


def test_a_burst_of_429_slows_down_once(naps: Naps) -> None:
    throttle = HostThrottle()
    for _ in range(16):
        throttle.slow_down(HOST, 1.0, naps.policy())
    assert gap(throttle, naps) == FIRST_INTERVAL
    assert naps.slept[0] == 1.0


def test_repeated_429_slow_down_further_to_a_limit(naps: Naps) -> None:
    throttle = HostThrottle()
    gaps = []
    for _ in range(8):
        throttle.slow_down(HOST, 1.0, naps.policy())
        gaps.append(gap(throttle, naps))
        naps.now += 10
    assert gaps[:3] == [FIRST_INTERVAL, FIRST_INTERVAL * 2, FIRST_INTERVAL * 4]
    assert gaps[-1] == MAX_INTERVAL


def test_a_wait_beyond_the_limit_raises_an_error(naps: Naps) -> None:
    throttle = HostThrottle()
    throttle.slow_down(HOST, 5.0, naps.policy())
    for policy in (naps.policy(cap=4.0), naps.policy(within=4.0)):
        with pytest.raises(SynclineError) as caught:
            throttle.wait(HOST, policy)
        assert (caught.value.code.name, caught.value.retry_after) == ("THROTTLED", 5.0)
    assert naps.slept == []
    throttle.wait(HOST, naps.policy())
    assert sum(naps.slept) == 5.0


def test_pauses_double_with_jitter_to_a_cap(naps: Naps) -> None:
    policy = naps.policy(base=1.0, cap=5.0)
    assert [policy.pause(attempt) for attempt in (1, 2, 3, 4, 2000 // 2)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert policy.pause(1, retry_after=7.0) == 7.0
