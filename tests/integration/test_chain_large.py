"""Large layers: several functions, broken connections, lost uploads, killed steps, and correct digests."""

from __future__ import annotations

import random
from typing import Final

import pytest

from syncline import running_hash
from syncline.clients.registry import blob_stream
from syncline.kinds.images import parts, pieces
from syncline.kinds.images import transfer as copying
from syncline.model import Step
from syncline.steps import engine
from tests.rig.images import SYNC, ImagesChain, ImagesWorld, Key
from tests.rig.pump import Delivery, Duplicates, KillPoint
from tests.standins.oci import Fault, OciRegistry
from tests.standins.oci_store import digest_of

CHUNK: Final = 16 * 1024
CHUNKS: Final = 24
LAYER: Final = random.Random(1).randbytes(CHUNK * CHUNKS - 77)
OTHER: Final = random.Random(2).randbytes(CHUNK * CHUNKS + 5)
ITEM: Final[Key] = ("team/large", "1.0")
BLOB: Final = f"/blobs/{digest_of(LAYER)}"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small chunks, and call a layer large from five chunks on. The clock advances in large steps."""
    monkeypatch.setattr(engine, "GRACE_SECONDS", 100.0)
    monkeypatch.setattr(parts, "BUFFERED", 0)
    monkeypatch.setattr(parts, "SINGLE_REQUEST", CHUNK * 4)
    monkeypatch.setattr(blob_stream, "CHUNK", CHUNK)
    monkeypatch.setattr(pieces, "_MARK", CHUNK * 3)


@pytest.fixture(params=[True, False], ids=["openssl", "no openssl"])
def openssl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run each test with and without a hash whose state can be saved."""
    if not request.param:
        monkeypatch.setattr(running_hash, "_openssl", lambda: None)
    return bool(request.param)


def large(registries: ImagesWorld, *layers: bytes, tick: float = 0.0, **config: object) -> ImagesChain:
    chain = registries.chain()
    chain.source.store.add_image(*ITEM, *(layers or (LAYER,)))
    chain.configure(**config)
    chain.pump.tick = tick
    return chain


def transfers(chain: ImagesChain) -> int:
    return sum(1 for letter in chain.pump.delivered if letter.step is Step.TRANSFER)


def sent(chain: ImagesChain) -> int:
    """Return the number of bytes of large layers that were sent to the target."""
    return sum(len(each.body) for each in chain.target.asked("PATCH"))


def test_a_layer_in_one_function(registries: ImagesWorld) -> None:
    chain = large(registries)
    chain.run()
    chain.check()
    assert transfers(chain) == 1
    assert chain.latest().counts.bytes >= len(LAYER)
    chain.check_again()


@pytest.mark.usefixtures("openssl")
@pytest.mark.parametrize("tick", [35.0, 40.0])
def test_a_layer_over_several_functions(registries: ImagesWorld, tick: float) -> None:
    chain = large(registries, tick=tick)
    chain.run()
    chain.check()
    assert transfers(chain) >= 3
    assert sent(chain) == len(LAYER), "bytes were sent twice"
    assert len(LAYER) < chain.latest().counts.bytes < len(LAYER) + 1000
    chain.check_again()


def test_hashed_bytes_are_not_read_again(registries: ImagesWorld) -> None:
    chain = large(registries, tick=30.0)
    chain.run()
    assert transfers(chain) >= 3
    first, *others = chain.source.asked("GET", BLOB)
    assert "range" not in first.headers
    assert all(int(each.headers["range"][6:-1]) > 0 for each in others)


@pytest.mark.usefixtures("openssl")
@pytest.mark.parametrize("forget_before", [1, 3])
def test_an_upload_that_the_registry_lost_starts_again(registries: ImagesWorld, forget_before: int) -> None:
    chain = large(registries, tick=30.0)
    delivered: list[Step] = []

    def forget(letter: object) -> None:
        delivered.append(letter.step)  # type: ignore[attr-defined]
        if delivered.count(Step.TRANSFER) == forget_before + 1 and delivered[-1] is Step.TRANSFER:
            chain.target.store.sessions.clear()

    chain.pump.on_delivery = forget
    chain.run()
    chain.check()
    chain.check_again()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_two_concurrent_layers_are_both_continued(registries: ImagesWorld, concurrency: int) -> None:
    chain = large(registries, LAYER, OTHER, tick=20.0, concurrency=concurrency)
    chain.run()
    chain.check()
    assert transfers(chain) >= 3
    assert sent(chain) == len(LAYER) + len(OTHER), "bytes were sent twice"
    assert len(LAYER) + len(OTHER) < chain.latest().counts.bytes < len(LAYER) + len(OTHER) + 1000
    chain.check_again()


def test_many_small_layers_over_several_functions(registries: ImagesWorld) -> None:
    """No layer is begun after the end of the time: together, small ones may take longer than a function has."""
    layers = [b"%d" % number * 100 for number in range(12)]
    chain = large(registries, *layers, tick=25.0)
    chain.run()
    chain.check()
    assert transfers(chain) >= 2
    puts = [each for each in chain.target.asked("PUT") if "/blobs/uploads/" in each.path]
    assert len(puts) == len(layers) + 1, "a layer was sent twice"
    chain.check_again()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_layer_that_two_images_share_is_sent_and_counted_once(registries: ImagesWorld, concurrency: int) -> None:
    """Send it with one thread over several functions, and with several threads in one function."""
    chain = large(registries, tick=30.0 if concurrency == 1 else 0.0, concurrency=concurrency)
    chain.source.store.add_image("team/large", "2.0", LAYER, b"and a small one")
    chain.run()
    chain.check()
    assert (transfers(chain) >= 3) == (concurrency == 1)
    # With little time, small blobs are sent in pieces as well.
    assert len(LAYER) <= sent(chain) < len(LAYER) + 2000
    assert len(LAYER) < chain.latest().counts.bytes < len(LAYER) + 2000


def test_bytes_of_several_threads_and_functions_are_counted_once(registries: ImagesWorld) -> None:
    """The time ends in a random request. The image of that request continues in a separate batch."""
    chain = large(registries, tick=30.0, concurrency=4)
    chain.source.store.add_image("team/large", "2.0", LAYER, b"and a small one")
    chain.run()
    chain.check()
    assert transfers(chain) >= 3
    assert len(LAYER) <= sent(chain) < 2 * (len(LAYER) + 2000)
    assert sent(chain) <= chain.latest().counts.bytes < sent(chain) + 2000


def test_an_image_that_was_not_begun_continues_a_shared_layer(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image has the position in the layer; the next function begins with the other, which was not begun."""
    monkeypatch.setattr(copying, "as_completed", lambda running: reversed(list(running)))
    chain = large(registries, tick=30.0, concurrency=1)
    chain.source.store.add_image("team/large", "2.0", LAYER, b"and a small one")
    chain.run()
    chain.check()
    assert transfers(chain) >= 3
    assert len(LAYER) <= sent(chain) < len(LAYER) + 2000


def test_the_images_of_an_index_over_several_functions_are_all_counted(registries: ImagesWorld) -> None:
    chain = large(registries, tick=25.0)
    store = chain.source.store
    children = [store.add_image("team/large", None, layer) for layer in (LAYER, OTHER)]
    store.repositories["team/large"].tags.clear()
    store.add_index("team/large", "1.0", *children)
    chain.run()
    chain.check()
    assert transfers(chain) >= 3
    assert len(LAYER) + len(OTHER) < chain.latest().counts.bytes < len(LAYER) + len(OTHER) + 2000


@pytest.mark.parametrize(
    ("side", "method", "pattern", "fault"),
    [
        ("source", "GET", "/blobs/", Fault(cut=CHUNK * 2 + 100)),
        ("target", "PATCH", "", Fault(take=CHUNK * 2 + 100)),
        ("target", "PATCH", "", Fault(lose_answer=True)),
        ("target", "PATCH", "", Fault(500)),
        ("target", "PATCH", "", Fault(429)),
        ("target", "PUT", "/blobs/uploads/", Fault(lose_answer=True)),
        ("target", "PUT", "/blobs/uploads/", Fault(500)),
        ("target", "PUT", "/blobs/uploads/", Fault(forget_uploads=True)),
        ("target", "POST", "/blobs/uploads/", Fault(502)),
        ("target", "GET", "/blobs/uploads/", Fault(500)),
    ],
    ids=lambda value: "" if isinstance(value, Fault) else str(value)[:20],
)
def test_a_broken_connection_is_overcome(
    registries: ImagesWorld, side: str, method: str, pattern: str, fault: Fault
) -> None:
    chain = large(registries, LAYER[: CHUNK * 12], tick=50.0)
    registry: OciRegistry = getattr(chain, side)
    registry.fault(method, pattern, fault, times=3)
    chain.run()
    chain.check()


@pytest.mark.usefixtures("openssl")
@pytest.mark.parametrize(("side", "method"), [("source", "GET"), ("target", "PATCH")])
def test_a_connection_that_breaks_in_every_function(registries: ImagesWorld, side: str, method: str) -> None:
    chain = large(registries, tick=30.0)
    registry: OciRegistry = getattr(chain, side)
    fault = Fault(cut=CHUNK * 3 + 100) if method == "GET" else Fault(take=CHUNK * 3 + 100)
    for first in (1, 3, 5):
        registry.fault(method, "/blobs/", fault, first=first)
    chain.run()
    chain.check()


def test_a_layer_whose_reads_always_break_takes_many_functions(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function makes progress before it fails, so none counts as a failed attempt."""
    monkeypatch.setattr(pieces, "_BREAKS", 1)
    monkeypatch.setattr(pieces, "_MARK", CHUNK)
    chain = large(registries)
    chain.source.fault("GET", BLOB, Fault(cut=CHUNK * 2 + 100), times=None)
    chain.run()
    chain.check()
    assert transfers(chain) > engine.MAX_ATTEMPTS
    assert sent(chain) < len(LAYER) * 1.5


def test_bytes_that_were_read_but_lost_on_the_way_do_not_cost_the_hash(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest saved hash is of bytes that the target did not get, so the next function needs the one before it."""
    monkeypatch.setattr(pieces, "_BREAKS", 0)
    chain = large(registries)
    chain.target.fault("PATCH", "", Fault(take=CHUNK * 20))
    chain.run()
    chain.check()
    first, second = chain.source.asked("GET", BLOB)
    assert "range" not in first.headers
    assert CHUNK * 18 <= int(second.headers["range"][6:-1]) < CHUNK * 19


@pytest.mark.parametrize("tick", [30.0, 35.0, 40.0])
def test_requests_that_last_longer_than_their_functions(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch, tick: float
) -> None:
    """The end of a function's time ends its request, so only the next function learns its progress."""
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.0)
    chain = large(registries, LAYER * 3, tick=tick)
    chain.run()
    chain.check()
    assert transfers(chain) > engine.MAX_ATTEMPTS


def test_a_piece_continues_where_the_connection_broke(registries: ImagesWorld) -> None:
    chain = large(registries)
    chain.source.fault("GET", BLOB, Fault(cut=CHUNK * 7 + 100), times=2)
    chain.run()
    chain.check()
    assert sent(chain) < len(LAYER) + 3 * CHUNK


def test_a_registry_that_forgets_broken_uploads(registries: ImagesWorld) -> None:
    """Like docker-registry 2.8, it keeps nothing, so the layer starts again."""
    chain = large(registries)
    chain.target.forgets_broken = True
    try:
        chain.target.fault("PATCH", "", Fault(take=CHUNK * 7), times=2)
        chain.run()
    finally:
        chain.target.forgets_broken = False
    chain.check()


@pytest.mark.parametrize("tick", [0.0, 30.0])
def test_wrong_bytes_of_a_large_layer_are_detected(registries: ImagesWorld, tick: float) -> None:
    chain = large(registries, tick=tick)
    chain.source.fault("GET", BLOB, Fault(wrong=True), times=None)
    chain.run()
    chain.check({ITEM: "DIGEST_MISMATCH"})
    assert chain.target.store.sessions == {}, "the upload was not cancelled"


@pytest.mark.parametrize("tick", [0.0, 30.0])
@pytest.mark.parametrize("blob", [LAYER[: CHUNK * 9], LAYER + b"and more"], ids=["short", "long"])
@pytest.mark.parametrize("sizeless", [False, True])
def test_a_layer_of_another_size_than_in_its_manifest_is_detected(
    registries: ImagesWorld, blob: bytes, tick: float, *, sizeless: bool
) -> None:
    """The source's response is complete; it must not be treated as a layer that needs more time."""
    chain = large(registries, tick=tick)
    chain.source.fault("GET", BLOB, Fault(sizeless=sizeless), times=None)
    chain.source.store.repositories["team/large"].blobs[digest_of(LAYER)] = blob
    chain.run()
    chain.check({ITEM: "SIZE_DIFFERS"})
    assert transfers(chain) < 40


def test_a_token_that_expires_within_a_layer(registries: ImagesWorld) -> None:
    users = {"robot": "robot's password"}
    auth = {"username": "robot", "password": "env:ROBOT"}
    with OciRegistry(users) as target:
        guarded = ImagesWorld(registries.source, target)
        for method in ("PATCH", "PUT", "GET"):
            chain = guarded.chain()
            chain.secrets = {"ROBOT": "robot's password"}
            chain.source.store.add_image(*ITEM, LAYER)
            chain.configure(target={"registry": target.host, "plain_http": True, "auth": auth})
            chain.pump.tick = 30.0
            chain.target.fault(method, "/blobs/uploads/", Fault(expire_tokens=True))
            chain.run()
            chain.check()


def test_a_step_killed_anywhere_in_a_layer_over_several_functions(registries: ImagesWorld, openssl: bool) -> None:
    """Kill before every second effect and after the others; without OpenSSL, swap the two."""

    def started() -> ImagesChain:
        chain = large(registries, LAYER[: CHUNK * 16], tick=40.0)
        chain.remember()
        chain.start()
        chain.reaper.effects.clear()
        return chain

    chain = started()
    chain.pump.run()
    chain.check()
    effects = list(chain.reaper.effects)
    assert len([effect for effect in effects if effect.startswith("PATCH")]) >= 3
    for number, effect in enumerate(effects, 1):
        when = KillPoint.BEFORE if (number % 2 == 0) == openssl else KillPoint.AFTER
        print(f"killed {when} effect {number}, {effect}")
        chain = started()
        chain.reaper.plan = {(number, when)}
        chain.pump.run()
        chain.check()


@pytest.mark.parametrize("duplicates", [Duplicates.AT_ONCE])
def test_messages_in_any_order_during_a_layer(registries: ImagesWorld, duplicates: Duplicates) -> None:
    chain = large(registries, LAYER, OTHER, tick=30.0, concurrency=4)
    chain.pump.delivery = Delivery(random.Random(7), True, duplicates, 900.0, True)
    chain.run()
    chain.check()
    chain.check_again()


def test_cancelling_within_a_layer(registries: ImagesWorld) -> None:
    chain = large(registries, tick=30.0)

    def cancel(_letter: object) -> None:
        if len(chain.pump.delivered) == 2:
            chain.state.cancel_run(SYNC, chain.latest().id)

    chain.pump.on_delivery = cancel
    chain.run()
    assert chain.latest().counts.cancelled == 1
    assert chain.target.store.digest(*ITEM) is None
    chain.pump.on_delivery = lambda _letter: None
    chain.run()
    chain.check()
