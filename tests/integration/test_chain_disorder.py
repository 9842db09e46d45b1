"""Messages that are delivered twice, late and in any order do not change the result of a run."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from syncline.messages import Batch, decode
from syncline.model import RunStatus, Step
from tests.rig.images import SYNC, ImagesChain, ImagesWorld, small
from tests.rig.pump import Delivery, Duplicates, Letter
from tests.standins.oci import OciRegistry


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    return small(registries.chain())


@pytest.mark.parametrize("duplicates", list(Duplicates))
@pytest.mark.parametrize("late", [0.0, 1800.0])
def test_each_message_is_delivered_twice_and_late(chain: ImagesChain, duplicates: Duplicates, late: float) -> None:
    chain.pump.delivery = Delivery(random.Random(1), False, duplicates, late)
    chain.run()
    chain.check()
    chain.check_again()


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 2**32),
    duplicates=st.sampled_from(Duplicates),
    late=st.sampled_from([0.0, 5400.0]),
    batches=st.booleans(),
    concurrency=st.sampled_from([1, 8]),
)
def test_messages_in_any_order(
    registries: ImagesWorld,
    seed: int,
    duplicates: Duplicates,
    late: float,
    batches: bool,
    concurrency: int,
) -> None:
    chain = small(registries.chain(seed), concurrency=concurrency)
    chain.pump.delivery = Delivery(random.Random(seed), True, duplicates, late, batches)
    chain.run()
    chain.check()
    chain.check_again()


def test_the_same_batch_in_two_functions_at_the_same_time(chain: ImagesChain) -> None:
    """Deliver every message of the run to a second function while the first one processes it."""
    chain.remember()
    chain.start()
    while chain.mail.waiting():
        letter = min(chain.mail.waiting(), key=lambda each: each.due)
        chain.clock.now = max(chain.clock.now, letter.due)
        twin = Letter(letter.id, letter.url, letter.body, letter.sent, letter.due, copied=True)
        chain.mail.add(twin)
        threads = [
            threading.Thread(target=chain.pump.deliver, args=([each], chain.new_worker(letter.step)))
            for each in (letter, twin)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    chain.check()
    puts = [each.path for each in chain.target.asked("PUT", "/manifests/")]
    assert len(puts) == len(set(puts)), "a manifest was put twice"
    chain.check_again()


def test_an_event_for_one_repository_joins_the_run_under_way(chain: ImagesChain) -> None:
    """A tag is pushed to a repository that has already been scanned; its event comes before the end of the run."""
    chain.remember()
    chain.start()
    chain.pump.deliver(chain.mail.waiting())
    chain.source.store.add_image("team/base", "pushed", b"just now")
    chain.start("team/base")
    chain.pump.run()
    run = chain.latest()
    assert [each.id for each in chain.state.runs(SYNC)] == [run.id]
    assert run.status is RunStatus.DONE
    assert not chain.target.store.broken()
    assert chain.target.store.digest("team/base", "pushed") == chain.source.store.digest("team/base", "pushed")
    assert chain.run().counts.moved == 0
    chain.check()


def test_a_late_transfer_does_not_undo_a_newer_one(registries: ImagesWorld) -> None:
    """A scan finds a tag at one digest, an event's scan finds another; the first transfer is delivered last."""
    chain = registries.chain()
    chain.configure(overwrite=True)
    chain.target.store.add_image("team/app", "latest", b"oldest")
    chain.source.store.add_image("team/app", "latest", b"old")
    chain.start()
    chain.pump.deliver(chain.mail.waiting())
    (late,) = chain.mail.waiting()
    assert late.step is Step.TRANSFER
    late.due += 3600
    newest = chain.source.store.add_image("team/app", "latest", b"new")
    chain.start("team/app")
    chain.pump.run()
    assert chain.target.store.digest("team/app", "latest") == newest
    assert chain.latest().status is RunStatus.DONE
    assert chain.latest().counts.failed == 0


def test_a_tag_that_moved_after_the_scan_does_not_conflict_with_itself(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure()
    chain.source.store.add_image("team/app", "latest", b"old")
    chain.start()
    chain.pump.deliver(chain.mail.waiting())
    (late,) = chain.mail.waiting()
    late.due += 3600
    chain.source.store.add_image("team/app", "latest", b"new")
    chain.start("team/app")
    chain.pump.run()
    assert (chain.latest().counts.conflict, chain.latest().counts.failed) == (0, 0)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_tag_that_vanishes_between_two_requests(registries: ImagesWorld, side: str) -> None:
    chain = registries.chain()
    chain.configure()
    chain.source.store.add_image("team/app", "1.0", b"one")
    chain.source.store.add_image("team/app", "2.0", b"two")
    chain.target.store.add_image("team/app", "1.0", b"another")
    registry: OciRegistry = getattr(chain, side)

    gone: list[str] = []

    def vanish(method: str, target: str) -> None:
        if method == "HEAD" and target.endswith("/manifests/1.0") and not gone:
            gone.append(registry.store.repositories["team/app"].tags.pop("1.0"))

    registry.before = vanish
    chain.remember()
    chain.start()
    try:
        chain.pump.run()
    finally:
        registry.before = lambda _method, _target: None
    counts = chain.latest().counts
    assert (counts.conflict, counts.failed) == (0, 0)
    assert counts.moved == (1 if side == "source" else 2)


def test_a_cancelled_run_leaves_no_incomplete_image(chain: ImagesChain) -> None:
    chain.remember()
    chain.start()
    chain.pump.deliver(chain.mail.waiting())
    chain.pump.deliver([chain.mail.waiting()[0]])
    chain.state.cancel_run(SYNC, chain.latest().id)
    chain.pump.run()
    run = chain.latest()
    assert run.status is RunStatus.CANCELLED
    assert run.counts.queued == run.counts.moved + run.counts.cancelled
    assert run.counts.cancelled > 0
    assert not chain.target.store.broken()
    chain.run()
    chain.check()


def test_a_repository_of_many_tags_takes_several_messages(registries: ImagesWorld) -> None:
    """Of two transfers to one repository, one waits for the lease of the other, and neither is lost."""
    chain = registries.chain()
    chain.configure(concurrency=8)
    image = chain.source.store.add_image("team/app", "first", b"a layer")
    tags = chain.source.store.repositories["team/app"].tags
    tags.update({f"tag-{number:03}": image for number in range(130)})
    chain.start()
    chain.pump.deliver(chain.mail.waiting())
    both: list[Any] = [decode(letter.body) for letter in chain.mail.waiting()]
    assert [len(batch.items) for batch in both if isinstance(batch, Batch)] == [100, 31]
    begun = chain.clock.now
    chain.pump.run()
    assert chain.latest().counts.moved == 131
    assert chain.clock.now - begun < 60
