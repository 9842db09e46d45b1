"""Faults of registries: temporary ones are retried, permanent ones end with their code and affect only their item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from moto import mock_aws

from syncline.model import RunStatus
from tests.rig.images import ImagesChain, ImagesWorld, Key, small
from tests.standins.oci import Fault, OciRegistry, bad_gateway, throttled
from tests.standins.oci_store import Repository, Store, digest_of

ITEM: Final[Key] = ("team/web", "2.0")
LAYER: Final = digest_of(b"web 2.0")  # only in that item
OFTEN: Final = 4  # all attempts of one function, but not all of an item


@dataclass(frozen=True)
class Case:
    """A fault of one side. If it is permanent, the item fails with ``code``, or succeeds if that is None."""

    side: str
    method: str
    pattern: str
    fault: Fault
    code: str | None

    def __str__(self) -> str:
        facts = [f"{n}={v}" for n in ("status", "take", "cut", "lose_answer", "wrong") if (v := getattr(self.fault, n))]
        return (
            f"{self.side} {self.method} {self.pattern.replace(LAYER, '')} {' '.join(facts)} {dict(self.fault.headers)}"
        )


MANIFEST: Final = "/v2/team/web/manifests/2.0"
UPLOAD: Final = f"/v2/team/web/blobs/uploads/.*{LAYER}"
BLOB: Final = f"/v2/team/web/blobs/{LAYER}"
CASES: Final = (
    Case("source", "GET", MANIFEST, throttled(), "THROTTLED"),
    Case("source", "GET", MANIFEST, Fault(500), "SERVER_ERROR"),
    Case("source", "GET", MANIFEST, bad_gateway(), "SERVER_ERROR"),
    Case("source", "GET", MANIFEST, Fault(cut=20), "UNREACHABLE"),
    Case("source", "GET", MANIFEST, Fault(wrong=True), "DIGEST_MISMATCH"),
    Case("source", "GET", MANIFEST, Fault(lose_answer=True), "UNREACHABLE"),
    Case("source", "GET", BLOB, throttled(), "THROTTLED"),
    Case("source", "GET", BLOB, Fault(500), "SERVER_ERROR"),
    Case("source", "GET", BLOB, bad_gateway(), "SERVER_ERROR"),
    Case("source", "GET", BLOB, Fault(cut=3), "UNREACHABLE"),
    Case("source", "GET", BLOB, Fault(wrong=True), "DIGEST_MISMATCH"),
    Case("target", "HEAD", MANIFEST, Fault(500), "SERVER_ERROR"),
    Case("target", "PUT", UPLOAD, throttled(), "THROTTLED"),
    Case("target", "PUT", UPLOAD, Fault(500), "SERVER_ERROR"),
    Case("target", "PUT", UPLOAD, bad_gateway(), "SERVER_ERROR"),
    Case("target", "PUT", UPLOAD, Fault(take=2), "UNREACHABLE"),
    Case("target", "PUT", UPLOAD, Fault(lose_answer=True), None),
    Case("target", "PUT", UPLOAD, Fault(forget_uploads=True), "UPLOAD_LOST"),
    Case("target", "PUT", MANIFEST, throttled(), "THROTTLED"),
    Case("target", "PUT", MANIFEST, Fault(500), "SERVER_ERROR"),
    Case("target", "PUT", MANIFEST, bad_gateway(), "SERVER_ERROR"),
    Case("target", "PUT", MANIFEST, Fault(take=2), "UNREACHABLE"),
    Case("target", "PUT", MANIFEST, Fault(lose_answer=True), None),
    Case("target", "GET", MANIFEST, Fault(502), "SERVER_ERROR"),
    Case("target", "GET", MANIFEST, Fault(wrong=True), "DIGEST_MISMATCH"),
    Case("target", "HEAD", "/v2/team/web/blobs/sha256", Fault(500), "SERVER_ERROR"),
)
# The fault concerns the whole server, so everything waits for its end.
WAITS: Final = (
    Case("source", "GET", MANIFEST, throttled(90), "THROTTLED"),
    Case("target", "PUT", MANIFEST, throttled(30), "THROTTLED"),
    Case("target", "PUT", UPLOAD, throttled(3), "THROTTLED"),
    Case("source", "GET", BLOB, Fault(delay=0.05), None),
)
REFUSALS: Final = (
    Case("source", "GET", MANIFEST, Fault(403), "FORBIDDEN"),
    Case("source", "GET", BLOB, Fault(404), "NOT_FOUND"),
    Case("target", "PUT", UPLOAD, Fault(413, {"Content-Type": "text/html"}, b"<html></html>"), "TOO_LARGE"),
    Case("target", "PUT", MANIFEST, Fault(405), "READ_ONLY"),
    Case("target", "PUT", MANIFEST, Fault(400, {}, b'{"errors":[{"code":"DENIED"}]}'), "REFUSED"),
)


def pair(chain: ImagesChain) -> ImagesChain:
    """Fill two repositories with a common layer; one has a conflicting tag."""
    source = chain.source.store
    source.add_image("team/app", "1.0", b"the base", b"app 1.0")
    source.add_image("team/web", "1.0", b"the base", b"web 1.0")
    source.add_image("team/web", "2.0", b"the base", b"web 2.0")
    chain.target.store.add_image("team/web", "1.0", b"somebody else's web 1.0")
    chain.configure()
    return chain


def disturbed(registries: ImagesWorld, case: Case, times: int | None) -> ImagesChain:
    chain = pair(registries.chain())
    registry: OciRegistry = getattr(chain, case.side)
    registry.fault(case.method, case.pattern, case.fault, times=times)
    chain.run()
    return chain


# The same function retries an error status, so one is not enough to fail the step.
@pytest.mark.parametrize("case", [case for case in CASES if not case.fault.status], ids=str)
def test_a_single_fault_is_overcome(registries: ImagesWorld, case: Case) -> None:
    disturbed(registries, case, 1).check()


@pytest.mark.parametrize("case", [*CASES, *WAITS], ids=str)
def test_a_repeated_fault_is_overcome(registries: ImagesWorld, case: Case) -> None:
    disturbed(registries, case, OFTEN).check()


@pytest.mark.parametrize("case", [*CASES, *REFUSALS], ids=str)
def test_a_permanent_fault_fails_only_its_item_with_its_code(registries: ImagesWorld, case: Case) -> None:
    chain = disturbed(registries, case, None)
    failing = {ITEM: case.code} if case.code else {}
    if case.pattern == "/v2/team/web/blobs/sha256":
        assert chain.latest().counts.failed == 1
    chain.check(failing)
    chain.source.heal()
    chain.target.heal()
    for _, letter in chain.mail.dead():
        chain.mail.remove(letter)
    again = chain.run()
    assert (again.counts.failed, again.counts.moved) == (0, len(failing) if chain.before.get(ITEM) is None else 0)
    chain.check()


@pytest.mark.parametrize("listing", ["_catalog", "team/web/tags/list"])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "fault", [throttled(), Fault(500), bad_gateway(), Fault(cut=5)], ids=["429", "500", "502", "cut"]
)
def test_a_temporary_failure_of_a_listing_is_overcome(
    registries: ImagesWorld, listing: str, side: str, fault: Fault
) -> None:
    chain = pair(registries.chain())
    registry: OciRegistry = getattr(chain, side)
    registry.fault("GET", listing, fault, times=OFTEN)
    chain.run()
    chain.check()


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_repository_that_cannot_be_listed_fails_alone(registries: ImagesWorld, side: str) -> None:
    chain = pair(registries.chain())
    registry: OciRegistry = getattr(chain, side)
    registry.fault("GET", "team/web/tags/list", Fault(500), times=None)
    run = chain.run()
    assert run.status is RunStatus.DONE
    assert (run.counts.moved, run.counts.failed) == (1, 1)
    assert {key: dead.code for key, dead in chain.dead_items().items()} == {("*", "*"): "SERVER_ERROR"}
    (dead,) = chain.dead_items().values()
    assert dead.batch.scope.groups == ("team/web",)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(500), "SERVER_ERROR"),
        (Fault(401), "UNAUTHORIZED"),
        (Fault(200, {"Content-Type": "application/json"}, b'{"repositories": []}'), "LISTING_INCOMPLETE"),
        (Fault(200, {"Content-Type": "application/json"}, b'{"repositories": null}'), "LISTING_INCOMPLETE"),
        (Fault(200, {"Content-Type": "text/html"}, b"<html>a portal</html>"), "BAD_ANSWER"),
        (Fault(200, {"Link": '</v2/_catalog?n=100&last=a>; rel="next"'}, b'{"repositories": ["team/app"]}'), "LISTING"),
    ],
)
def test_an_unreadable_catalog_fails_the_run(registries: ImagesWorld, fault: Fault, code: str) -> None:
    chain = small(registries.chain())
    chain.source.fault("GET", "_catalog", fault, times=None)
    run = chain.run()
    assert run.status is RunStatus.DONE
    assert (run.counts.failed, run.counts.moved, run.counts.skipped) == (1, 0, 0)
    (dead,) = chain.dead_items().values()
    assert dead.code.startswith(code)
    assert dead.batch.scope.everything


def test_two_hundred_and_seventy_repositories_over_three_pages_are_all_found(registries: ImagesWorld) -> None:
    chain = registries.chain()
    for number in range(270):
        chain.source.store.add_image(f"team/app-{number:03}", "1.0", b"a layer")
    chain.configure()
    chain.start(plan=True)
    chain.pump.run()
    plan = chain.latest()
    assert plan.counts.would_move == 270
    assert len(chain.results(plan)) == 270
    assert len(chain.source.asked("GET", "_catalog")) == 3


def test_a_scan_is_continued_over_several_functions(registries: ImagesWorld) -> None:
    """Each check of the remaining time takes so long that a function scans only a few repositories."""
    chain = registries.chain()
    for number in range(40):
        chain.source.store.add_image(f"team/app-{number:03}", "1.0", b"a layer")
        if number % 2:
            chain.target.store.add_image(f"team/app-{number:03}", "1.0", b"a layer")
    chain.configure()
    chain.pump.tick = 30.0
    chain.start(plan=True)
    chain.pump.run()
    assert len(chain.pump.delivered) > 3
    assert (chain.latest().counts.would_move, chain.latest().counts.skipped) == (20, 20)


# -- tokens


@pytest.fixture(scope="module")
def guarded() -> Iterator[ImagesWorld]:
    """Yield two registries that require tokens."""
    users = {"robot": "robot's password"}
    with mock_aws(), OciRegistry(users) as source, OciRegistry(users) as target:
        yield ImagesWorld(source, target)


def signed_in(registries: ImagesWorld) -> ImagesChain:
    auth = {"username": "robot", "password": "env:ROBOT"}
    chain = registries.chain()
    chain.secrets = {"ROBOT": "robot's password"}
    source = {"registry": chain.source.host, "plain_http": True, "catalog": True, "auth": auth}
    target = {"registry": chain.target.host, "plain_http": True, "auth": auth}
    return small(chain, source=source, target=target)


EXPIRED: Final = Fault(expire_tokens=True)


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize(
    ("side", "method", "pattern"),
    [
        ("source", "GET", "_catalog"),
        ("source", "GET", "/tags/list"),
        ("source", "GET", "/manifests/"),
        ("source", "GET", "/blobs/"),
        ("target", "HEAD", "/manifests/"),
        ("target", "POST", "/blobs/uploads/"),
        ("target", "PUT", "/blobs/uploads/"),
        ("target", "PUT", "/manifests/"),
        ("target", "GET", "/manifests/"),
    ],
)
def test_a_token_may_expire_at_any_request(
    guarded: ImagesWorld, side: str, method: str, pattern: str, first: int
) -> None:
    """Only one token expires in a run. With two, a concurrent request could lose its retry to the second one."""
    chain = signed_in(guarded)
    registry: OciRegistry = getattr(chain, side)
    registry.fault(method, pattern, EXPIRED, first=first)
    chain.run()
    chain.check()
    chain.check_again()


def test_a_wrong_password_has_its_code_and_is_in_no_message(guarded: ImagesWorld) -> None:
    chain = signed_in(guarded)
    chain.secrets = {"ROBOT": "another password"}
    run = chain.run()
    assert (run.status, run.counts.failed) == (RunStatus.DONE, 1)
    (dead,) = chain.dead_items().values()
    assert dead.code in ("UNAUTHORIZED", "REFUSED")
    assert "another password" not in "".join(letter.body for _, letter in chain.mail.dead())


# -- wrong bytes are not stored


def test_wrong_bytes_are_not_stored_even_if_the_registry_does_not_check_digests(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check blobs that are held in memory and blobs that are streamed."""

    def trusting(self: Store, name: str, session: str, digest: str, data: bytes) -> None:
        blobs = self.repositories.setdefault(name, Repository()).blobs
        blobs[digest] = bytes(self.sessions.pop(session).data) + data

    monkeypatch.setattr(Store, "finish", trusting)
    for small_size in (0, 4 * 1024 * 1024):
        monkeypatch.setattr("syncline.kinds.images.parts.BUFFERED", small_size)
        chain = disturbed(registries, Case("source", "GET", BLOB, Fault(wrong=True), None), None)
        chain.check({ITEM: "DIGEST_MISMATCH"})
        assert LAYER not in chain.target.store.repositories["team/web"].blobs
