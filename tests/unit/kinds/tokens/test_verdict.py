"""Verdicts follow from the probes' results and are never better than these."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.replicas.instances import Instance, is_probed
from syncline.errors import SynclineError
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.listing import Listing, ProcessListings
from syncline.kinds.tokens.probe import LONGEST_TOKEN, expiry_of, origin_problem, problem_of, short_hash
from syncline.kinds.tokens.verdict import (
    InstanceResult,
    Quorum,
    Reason,
    TokenState,
    Verdict,
    judge,
    needed_of,
)

states = st.lists(st.sampled_from(TokenState), min_size=1, max_size=120)
quorums = st.one_of(st.just("all"), st.just("majority"), st.integers(1, 130))


def seen(each: list[TokenState]) -> list[InstanceResult]:
    return [InstanceResult(f"i-{number}", "10.0.0.1:1", state) for number, state in enumerate(each)]


@given(states, quorums, st.booleans(), st.booleans())
def test_verdict_is_never_better_than_its_evidence(
    each: list[TokenState], quorum: Quorum, over: bool, listed: bool
) -> None:
    needed = needed_of(quorum, len(each))
    verdict, _ = judge(seen(each), needed, over=over, origin_listed=listed, origin=None)
    yes = each.count(TokenState.YES)
    if verdict is Verdict.SYNCED:
        assert yes >= needed
        assert listed
        if quorum == "all":
            assert yes == len(each)
    if verdict is Verdict.PARTIALLY:
        assert 2 * yes > len(each) or (yes >= needed and not listed)
    if verdict is Verdict.TIMEOUT:
        assert over
        assert TokenState.PENDING in each
    if verdict is Verdict.NOT_SYNCED:
        assert 2 * yes <= len(each)
    assert verdict is not Verdict.UNKNOWN


@given(states.filter(lambda each: TokenState.PENDING not in each))
def test_no_instance_is_rounded_away(each: list[TokenState]) -> None:
    verdict, _ = judge(seen(each), len(each), over=False, origin_listed=True, origin=None)
    assert (verdict is Verdict.SYNCED) == (set(each) == {TokenState.YES})


def test_half_is_not_a_majority() -> None:
    half = seen([TokenState.YES, TokenState.NO])
    assert judge(half, 2, over=False, origin_listed=True, origin=None) == (Verdict.NOT_SYNCED, Reason.TOO_FEW)


def test_spelling_of_verdicts() -> None:
    assert [each.value for each in Verdict if each.header is each] == ["Synced", "Partialy", "NotSynced", "Timeout"]
    assert Verdict.UNKNOWN.header is Verdict.NOT_SYNCED


@given(st.floats(0.01, 60), st.floats(0, 1), st.integers(0, 100_000) | st.none())
def test_retries_take_two_intervals_at_least_and_end_with_a_request(
    interval: float, chance: float, load: int | None
) -> None:
    schedule = AskSchedule.of(interval)
    assert schedule.retry_for >= 2 * interval
    assert schedule.deadline > schedule.retry_for
    elapsed, attempt = 0.0, 0
    while (delay := schedule.delay(attempt := attempt + 1, elapsed, chance, load)) is not None:
        assert 0 < delay <= schedule.retry_for
        elapsed += delay
        assert attempt < 100_000
    assert elapsed == pytest.approx(schedule.retry_for)


def test_delays_depend_on_the_load() -> None:
    schedule = AskSchedule.of(1)
    assert schedule.delay(9, 0, 0.5, 10) == 0.02
    assert schedule.delay(9, 0, 0.5, 100) == 0.05
    assert schedule.delay(9, 0, 0.5, 5000) == schedule.delay(9, 0, 0.5) == 0.25


def jwt(claims: object) -> str:
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{text}.c2ln"


@pytest.mark.parametrize(
    ("token", "expiry"),
    [
        (jwt({"exp": 1767582000}), 1767582000.0),
        (jwt({"exp": 1767582000.5}), 1767582000.5),
        (jwt({"sub": "x"}), None),
        (jwt({"exp": "soon"}), None),
        (jwt({"exp": True}), None),
        (jwt({"exp": 10**400}), None),
        (jwt([1]), None),
        ("opaque", None),
        ("a.b", None),
        ("a.!!!.c", None),
        ("a." + base64.urlsafe_b64encode(b"[" * 5000).decode() + ".c", None),
    ],
)
def test_expiry_of_a_jwt(token: str, expiry: float | None) -> None:
    assert expiry_of(token) == expiry


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("abc.def-_~", None),
        ("t" * LONGEST_TOKEN, None),
        ("", "token_missing"),
        ("t" * (LONGEST_TOKEN + 1), "token_too_long"),
        *((bad, "token_invalid") for bad in ("a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nb", "a\0", "ü", "\ud800")),
    ],
)
def test_token_must_fit_into_a_cookie(token: str, problem: str | None) -> None:
    assert problem_of(token) == (None if problem is None else Reason(problem))
    assert len(short_hash(token)) == 8


@pytest.mark.parametrize(
    ("origin", "problem"),
    [
        ("gateway-7d9f-abcde", None),
        ("10.1.2.3:8443", None),
        ("[fd00::1]:8443", None),
        ("", Reason.ORIGIN_MISSING),
        ("a b", Reason.ORIGIN_INVALID),
        ("a\n", Reason.ORIGIN_INVALID),
        ("o" * 253, None),
        ("o" * 254, Reason.ORIGIN_INVALID),
    ],
)
def test_origin_is_a_name_or_an_address(origin: str, problem: Reason | None) -> None:
    assert origin_problem(origin) is problem


ONE = Instance("one", "10.0.0.1", 8443)


@pytest.mark.parametrize(
    ("listing", "problem"),
    [
        (Listing(), Reason.LIST_MISSING),
        (Listing(failed="FORBIDDEN"), Reason.LIST_FAILED),
        (Listing((ONE,), 1000), None),
        (Listing((ONE,), 1000, "THROTTLED"), None),
        (Listing((ONE,), 939), Reason.LIST_STALE),
        (Listing((ONE,), 939, "THROTTLED"), Reason.LIST_FAILED),
        (Listing((ONE,), 1061), Reason.LIST_STALE),
        (Listing((), 1000), Reason.LIST_EMPTY),
        (Listing((Instance("a", "10.0.0.1", 1, ready=False),), 1000), Reason.LIST_EMPTY),
        (Listing((Instance("a", "10.0.0.1", 1, terminating=True),), 1000), Reason.LIST_EMPTY),
    ],
)
def test_usable_lists(listing: Listing, problem: Reason | None) -> None:
    assert listing.problem(1000, 60) is problem


def test_failed_scrape_keeps_the_list_and_its_age() -> None:
    lists = ProcessListings()
    lists.not_listed("gateway", SynclineError("FORBIDDEN", "the API refuses"))
    assert lists.all()["gateway"] == Listing(failed="FORBIDDEN")
    lists.listed("gateway", [ONE], 7.0)
    lists.not_listed("gateway", SynclineError("THROTTLED", "the API asks to slow down"))
    assert lists.all()["gateway"] == Listing((ONE,), 7.0, "THROTTLED")


@pytest.mark.parametrize(
    ("address", "probed"),
    [
        ("10.1.2.3", True),
        ("127.0.0.1", True),
        ("fd00::1", True),
        ("2001:db8::1", True),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("::ffff:169.254.169.254", False),
        ("fd00:ec2::254", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("240.0.0.1", False),
        ("gateway.example", False),
        ("", False),
    ],
)
def test_only_addresses_of_pods_are_probed(address: str, probed: bool) -> None:
    assert is_probed(address) is probed


def test_instance_is_restored_from_its_stored_form() -> None:
    one = Instance("one", "fd00::1", 8443, ready=False, terminating=True, source="gateway/nginx")
    assert Instance.from_json(json.loads(json.dumps(one.as_json()))) == one
    assert time.time() > 0
