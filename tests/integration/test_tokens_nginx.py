"""Verdicts on real nginx instances with real TLS, some of which misbehave. The tests know their true state."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pytest

from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.config import Check
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.verdict import ProbeResult, Quorum, Reason, TokenState, Verdict
from tests.rig.tokens import listing, misbehaving, rules, verdict, verdicts
from tests.standins.nginx import HOST, Gateway
from tests.standins.programs import needs

SHORT: Final = AskSchedule(retry_for=0.3, deadline=30, first_delay=0.01, longest_delay=0.05)
LONG: Final = AskSchedule(retry_for=30, deadline=60, first_delay=0.01, longest_delay=0.05)
NOT_HTTP: Final = "garbage: the response is not valid HTTP (Received HTTP/0.9 when not allowed)"
HARD: Final = AskSchedule(retry_for=0.3, deadline=0.6, first_delay=0.01, longest_delay=0.05)


@pytest.fixture(scope="module")
def pair() -> Iterator[Gateway]:
    needs("nginx")
    with Gateway(2) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def ten() -> Iterator[Gateway]:
    """Yield ten instances: the sixth is slow, the seventh never syncs, the eighth has an untrusted certificate."""
    needs("nginx")
    with Gateway(10, settings={5: {"delay": 0.25}, 6: {"deaf": "true"}}, strangers={7}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hundred() -> Iterator[Gateway]:
    needs("nginx")
    with Gateway(100, interval=0.25) as gateway:
        yield gateway


def _good(gateway: Gateway) -> list[Instance]:
    """Return the correct instances of the ten."""
    return [one for number, one in enumerate(gateway.listed) if number not in (5, 6, 7)]


def test_a_token_of_one_instance_is_synced_after_replication(pair: Gateway) -> None:
    pair.put(0, "travels")
    found = verdict(rules(pair, schedule=LONG), pair.listed, "travels")
    assert (found.verdict, found.reason, found.yes, found.needed) == (Verdict.SYNCED, Reason.ALL_AGREE, 1, 1)
    seen = found.instances[0]
    assert (seen.name, seen.state, seen.last_status, seen.reason) == ("gateway-001", TokenState.YES, 200, "")
    assert seen.first_yes is not None
    assert seen.first_yes <= found.milliseconds


def test_an_unknown_token_is_refused_by_its_origin_at_once(pair: Gateway) -> None:
    began = time.monotonic()
    found = verdict(rules(pair, schedule=AskSchedule(30, 40, 0.01, 0.05)), pair.listed, "unknown")
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    assert found.origin is not None
    assert (found.origin.state, found.origin.last_status, found.origin.attempts) == (TokenState.NO, 401, 2)
    assert time.monotonic() - began < 20


def test_the_verdict_waits_for_the_last_of_a_hundred(hundred: Gateway) -> None:
    hundred.put(3, "for-all")
    found = verdict(rules(hundred, schedule=LONG), hundred.listed, "for-all", "gateway-003")
    assert (found.verdict, found.yes, len(found.instances)) == (Verdict.SYNCED, 99, 99)


def test_one_of_a_hundred_without_the_token_prevents_synced(hundred: Gateway) -> None:
    hundred.put_everywhere("but-one", but={57})
    found = verdict(rules(hundred, schedule=SHORT), hundred.listed, "but-one")
    assert (found.verdict, found.reason, found.yes) == (Verdict.PARTIALLY, Reason.SOME_DO_NOT, 98)
    lacking = [seen for seen in found.instances if seen.state is not TokenState.YES]
    assert [(seen.name, seen.state, seen.last_status) for seen in lacking] == [("gateway-057", TokenState.NO, 401)]


def test_the_verdict_waits_for_a_slow_instance(ten: Gateway) -> None:
    ten.put_everywhere("slow")
    there = [*_good(ten), ten.listed[5]]
    found = verdict(rules(ten, schedule=LONG), there, "slow")
    assert found.verdict is Verdict.SYNCED
    assert found.milliseconds >= 250


def test_an_instance_slower_than_the_deadline_causes_a_timeout(ten: Gateway) -> None:
    ten.put_everywhere("too-slow")
    there = [*_good(ten), ten.listed[5]]
    found = verdict(rules(ten, schedule=AskSchedule(0.05, 0.15, 0.01, 0.05)), there, "too-slow")
    assert (found.verdict, found.reason) == (Verdict.TIMEOUT, Reason.NOT_IN_TIME)
    assert "gateway-005" in [seen.name for seen in found.instances if seen.state is TokenState.PENDING]


def test_a_late_refusal_by_the_origin_overrides_the_others(ten: Gateway) -> None:
    """After a logout, for example: stores do not always replicate deletions."""
    slow = ten.listed[5]
    there = [*_good(ten), slow]
    ten.put_everywhere("taken-back", but={5})
    found = verdict(rules(ten, schedule=LONG), there, "taken-back", slow.name)
    assert (found.verdict, found.reason, found.yes) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES, len(there) - 1)
    ten.put_everywhere("not-taken-back")
    found = verdict(rules(ten, schedule=LONG), there, "not-taken-back", slow.name)
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)
    assert found.origin is not None
    assert (found.origin.state, found.origin.last_status) == (TokenState.YES, 200)


def test_a_silent_origin_is_awaited_and_does_not_count(ten: Gateway) -> None:
    ten.put_everywhere("silent-origin")
    silent = ten.instances[9]
    silent.pause()
    try:
        found = verdict(rules(ten, schedule=AskSchedule(0.3, 3, 0.01, 0.05)), _good(ten), "silent-origin", silent.name)
    finally:
        silent.resume()
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)
    assert found.origin is not None
    assert (found.origin.state, found.origin.reason) == (
        TokenState.FAILED,
        "unreachable: no connection within the time limit",
    )


def test_an_instance_that_never_syncs_makes_the_verdict_partial(ten: Gateway) -> None:
    ten.put(0, "not-heard")
    for number in (1, 2, 3, 4, 8, 9):
        while not ten.has(number, "not-heard"):
            time.sleep(0.01)
    found = verdict(rules(ten, schedule=SHORT), [*_good(ten), ten.listed[6]], "not-heard")
    assert (found.verdict, found.yes, len(found.instances)) == (Verdict.PARTIALLY, 6, 7)
    assert [seen.name for seen in found.instances if seen.state is TokenState.NO] == ["gateway-006"]


def test_no_token_is_sent_to_an_untrusted_certificate(ten: Gateway) -> None:
    ten.put_everywhere("stranger")
    found = verdict(rules(ten), [*_good(ten), ten.listed[7]], "stranger")
    assert found.verdict is Verdict.PARTIALLY
    (bad,) = (seen for seen in found.instances if seen.state is TokenState.FAILED)
    assert (bad.name, bad.last_status) == ("gateway-007", None)
    assert bad.reason.startswith("tls_failed: the certificate could not be verified")
    # The certificate is valid only for the name of the gateway.
    elsewhere = replace(rules(ten, schedule=SHORT), check=Check(host="other.example"))
    assert verdict(elsewhere, _good(ten), "stranger").verdict is Verdict.NOT_SYNCED


def test_a_refused_connection_and_a_stopped_process_do_not_count_as_agreement(ten: Gateway) -> None:
    ten.put_everywhere("stopped")
    nobody = Instance("nobody", "127.1.1.1", ten.port)
    found = verdict(rules(ten), [*_good(ten), nobody], "stopped")
    assert found.verdict is Verdict.PARTIALLY
    (bad,) = (seen for seen in found.instances if seen.state is TokenState.FAILED)
    assert (bad.name, bad.attempts, bad.reason) == ("nobody", 2, "unreachable: Connection refused")
    stopped = ten.instances[9]
    stopped.pause()
    try:
        began = time.monotonic()
        found = verdict(rules(ten, schedule=HARD), _good(ten), "stopped")
        assert (found.verdict, found.reason) == (Verdict.TIMEOUT, Reason.NOT_IN_TIME)
        assert time.monotonic() - began < 20
    finally:
        stopped.resume()


@pytest.mark.parametrize(
    ("quorum", "expected", "reason"),
    [
        ("all", Verdict.PARTIALLY, Reason.SOME_DO_NOT),
        ("majority", Verdict.SYNCED, Reason.QUORUM_AGREES),
        (5, Verdict.SYNCED, Reason.QUORUM_AGREES),
        (6, Verdict.PARTIALLY, Reason.SOME_DO_NOT),
        (70, Verdict.PARTIALLY, Reason.SOME_DO_NOT),
    ],
)
def test_a_configured_quorum_is_sufficient(ten: Gateway, quorum: Quorum, expected: Verdict, reason: Reason) -> None:
    token = f"quorum-{quorum}"
    ten.put_everywhere(token, but={9})  # five of the six others have it
    found = verdict(rules(ten, quorum=quorum, schedule=SHORT), _good(ten), token)
    assert (found.verdict, found.reason, len(found.instances)) == (expected, reason, 6)


def test_an_unlisted_origin_limits_the_verdict(pair: Gateway) -> None:
    pair.put_everywhere("no-origin")
    found = verdict(rules(pair), pair.listed, "no-origin", "gateway-999")
    assert (found.verdict, found.reason, found.yes) == (Verdict.PARTIALLY, Reason.ORIGIN_NOT_LISTED, 2)
    assert found.origin is None


def test_the_origin_may_be_named_by_its_address(pair: Gateway) -> None:
    pair.put_everywhere("by-address")
    one = pair.listed[1]
    for origin in (one.name, one.address, one.where):
        found = verdict(rules(pair), pair.listed, "by-address", origin)
        assert (found.verdict, [seen.name for seen in found.instances]) == (Verdict.SYNCED, ["gateway-000"])


def test_a_single_instance_decides_alone(pair: Gateway) -> None:
    pair.put(0, "alone")
    found = verdict(rules(pair), pair.listed[:1], "alone")
    assert (found.verdict, found.reason, found.instances) == (Verdict.SYNCED, Reason.ONLY_INSTANCE, ())
    refused = verdict(rules(pair), pair.listed[:1], "alone-unknown")
    assert (refused.verdict, refused.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
    absent = verdict(rules(pair), [Instance("nobody", "127.1.1.1", pair.port)], "alone")
    assert (absent.verdict, absent.reason) == (Verdict.UNKNOWN, Reason.ORIGIN_SILENT)
    needed = verdict(rules(pair, quorum=1), pair.listed[:1], "alone")
    assert needed.verdict is Verdict.NOT_SYNCED


@pytest.mark.parametrize("path", ["/moved", "/broken", "/nowhere"])
def test_other_statuses_do_not_count_and_redirects_are_not_followed(pair: Gateway, path: str) -> None:
    found = verdict(rules(pair, path=path), pair.listed, "anything")
    assert (found.verdict, found.instances[0].state, found.instances[0].attempts) == (
        Verdict.NOT_SYNCED,
        TokenState.FAILED,
        2,
    )
    assert found.instances[0].reason == f"answered {found.instances[0].last_status}"


def test_a_token_of_16_kib_gets_a_verdict_and_a_reason(pair: Gateway) -> None:
    found = verdict(rules(pair, schedule=SHORT), pair.listed, "t" * 16384)
    assert found.verdict is Verdict.NOT_SYNCED
    assert found.instances[0].state is TokenState.FAILED
    assert found.instances[0].reason in ("answered 400", "cut_short: closed within the response")
    assert verdict(rules(pair), pair.listed, "t" * 16385).reason is Reason.TOKEN_TOO_LONG


def test_a_token_of_16_kib_is_synced_if_the_instances_accept_it() -> None:
    needs("nginx")
    token = "t" * 16384
    with Gateway(2, settings={each: {"buffers": "4 32k"} for each in range(2)}) as gateway:
        gateway.put_everywhere(token)
        found = verdict(rules(gateway), gateway.listed, token)
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)


def _garbage(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"\x00\x01\x02 not http at all\r\n\r\n")


def _drip(tls: ssl.SSLSocket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 10:
        tls.sendall(bytes([byte]))
        time.sleep(0.2)


def _flood(tls: ssl.SSLSocket) -> None:
    while True:
        tls.sendall(b"x" * 16384)


def _hang_up(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"HTTP/1.1 20")


def _dripping_body(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        tls.sendall(b"x")
        time.sleep(0.2)


def _endless_head(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        tls.sendall(b"X-More: " + b"y" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    ("behave", "state", "reason"),
    [
        (_garbage, TokenState.FAILED, NOT_HTTP),
        (_flood, TokenState.FAILED, NOT_HTTP),
        (_endless_head, TokenState.FAILED, "garbage: the head is too long"),
        (_hang_up, TokenState.FAILED, "closed: closed without a response"),
        (_drip, TokenState.PENDING, ""),
        (_dripping_body, TokenState.YES, ""),
    ],
)
def test_invalid_responses_give_a_verdict_in_bounded_time(
    pair: Gateway,
    behave: Callable[[ssl.SSLSocket], None],
    state: TokenState,
    reason: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.authority.write_server_files(tmp_path_factory.mktemp("tls"), HOST))
    pair.put_everywhere("misbehaves")
    other = Instance("misbehaves", f"127.201.{random.SystemRandom().randrange(1, 250)}.1", pair.port)
    with misbehaving(other.address, other.port, context, behave):
        began = time.monotonic()
        schedule = HARD if state is TokenState.PENDING else SHORT
        found = verdict(rules(pair, schedule=schedule), [*pair.listed, other], "misbehaves")
        assert time.monotonic() - began < 20
    (seen,) = (seen for seen in found.instances if seen.name == "misbehaves")
    assert (seen.state, seen.reason) == (state, reason)
    expected = {
        TokenState.FAILED: Verdict.NOT_SYNCED,
        TokenState.PENDING: Verdict.TIMEOUT,
        TokenState.YES: Verdict.SYNCED,
    }
    assert found.verdict is expected[state]


def test_a_closed_idle_connection_does_not_affect_the_verdict(pair: Gateway) -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        prober = Prober(rules(pair), loop)
        known = listing(pair.listed)
        for _ in range(5):
            assert (await prober.probe("kept", "gateway-000", known)).verdict is Verdict.SYNCED
        pair.instances[1].kill()
        pair.instances[1].start()
        await loop.run_in_executor(None, pair.instances[1].wait, pair.port)
        await loop.run_in_executor(None, pair.put, 1, "kept")
        found = await prober.probe("kept", "gateway-000", known)
        assert (found.verdict, found.instances[0].attempts) == (Verdict.SYNCED, 1)
        prober.close()

    pair.put_everywhere("kept")
    asyncio.run(ask())


def test_fifty_concurrent_probes_get_only_correct_verdicts(ten: Gateway) -> None:
    """The test knows which instances have each token; the verdicts must match."""
    chance = random.Random(20)
    there = _good(ten)
    numbers = [0, 1, 2, 3, 4, 8, 9]
    truth: dict[str, int | None] = {}  # number of other instances with the token; None if the origin lacks it
    for serial in range(60):
        token = f"truth-{serial:02d}"
        lacking = set(chance.sample(numbers[1:], chance.choice((0, 0, 1, 2, 3, 4, 6))))
        refused = serial % 6 == 5
        ten.put_everywhere(token, but={*lacking, 5, 6, 7, *((0,) if refused else ())})
        truth[token] = None if refused else len(numbers) - 1 - len(lacking)
    asked = [chance.choice(list(truth)) for _ in range(1500)]
    wrong: list[tuple[str, ProbeResult]] = []

    async def ask() -> None:
        prober = Prober(rules(ten, schedule=AskSchedule(0.05, 20, 0.02, 0.05)), asyncio.get_running_loop())
        known, left = listing(there), iter(asked)

        async def one_of_fifty() -> None:
            for token in left:
                found = await prober.probe(token, "gateway-000", known)
                yes = truth[token]
                if yes is None:
                    right = (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
                else:
                    expected = Verdict.SYNCED if yes == 6 else Verdict.PARTIALLY if yes > 3 else Verdict.NOT_SYNCED
                    right = (found.verdict, found.yes) == (expected, yes)
                if not right:
                    wrong.append((token, found))

        await asyncio.gather(*(one_of_fifty() for _ in range(50)))
        prober.close()

    asyncio.run(ask())
    assert wrong == []


def test_some_verdicts_need_no_request(pair: Gateway) -> None:
    expired = "e30.eyJleHAiOjF9.c2ln"  # {"exp": 1}
    assert [found.reason for found in verdicts(rules(pair), pair.listed, [expired, "", "a b", "a\r\nX: y"])] == [
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_MISSING,
        Reason.TOKEN_INVALID,
        Reason.TOKEN_INVALID,
    ]
