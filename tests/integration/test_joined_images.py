"""Webhooks that join a run of images: each tag is counted once, despite duplicates, delays and kills."""

from __future__ import annotations

import random
from typing import Final

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from syncline.model import Counts, Outcome, Run, RunStatus, Step, Trigger
from tests.rig.images import SYNC, ImagesChain, ImagesWorld
from tests.rig.pump import Delivery, Duplicates, KillPoint

NAME: Final = "team/app"
TAGS: Final = ("1.0", "2.0", "3.0")
WEBHOOKS: Final = 6


def first_transfer(chain: ImagesChain, *, conflicts: bool = False) -> ImagesChain:
    """Scan a repository of three new tags, an equal one and optionally a conflicting one; its transfer stays queued."""
    chain.configure()
    for tag in TAGS:
        chain.source.store.add_image(NAME, tag, tag.encode())
    for store in (chain.source.store, chain.target.store):
        store.add_image(NAME, "equal", b"the same on both sides")
    if conflicts:
        chain.source.store.add_image(NAME, "other", b"ours")
        chain.target.store.add_image(NAME, "other", b"theirs")
    chain.remember()
    chain.start(trigger=Trigger.SCHEDULE)
    chain.pump.deliver(chain.mail.waiting())
    return chain


def push(chain: ImagesChain, times: int = WEBHOOKS) -> None:
    for _ in range(times):
        chain.start(NAME, trigger=Trigger.WEBHOOK)


def check(chain: ImagesChain) -> Counts:
    """Check that each tag has one outcome in the only run, according to its state before and after."""
    assert len(chain.state.runs(SYNC)) == 1
    counts = chain.check().counts
    assert counts.queued == counts.moved
    assert counts.moved == len(TAGS)
    assert counts.skipped == 1
    return counts


def check_killed(chain: ImagesChain) -> list[Run]:
    """Check that each tag was moved once. A webhook after the first run starts another run, which finds everything equal."""
    runs = chain.state.runs(SYNC)
    moved = 0
    for run in runs:
        assert run.status is RunStatus.DONE
        assert all(each.outcome in (Outcome.MOVED, Outcome.CONFLICT) for each in chain.results(run).values())
        assert run.counts.queued == run.counts.moved
        moved += run.counts.moved
    assert moved == len(TAGS)
    assert min(runs, key=lambda run: run.number).counts.skipped == 1
    return runs


def test_webhooks_during_the_first_transfer(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    push(chain)
    chain.pump.run()
    check(chain)


def test_webhooks_whose_transfers_come_first(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    (late,) = chain.mail.waiting()
    late.due += 600
    push(chain)
    chain.pump.run()
    check(chain)


def test_webhooks_between_transfer_and_verify(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    chain.pump.deliver(chain.mail.waiting())
    assert [letter.step for letter in chain.mail.waiting()] == [Step.VERIFY]
    push(chain)
    chain.pump.run()
    check(chain)


def test_a_conflict_is_reported_once(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain(), conflicts=True)
    push(chain)
    chain.pump.run()
    assert check(chain).conflict == 1


def test_a_failure_is_reported_once(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    digest = chain.source.store.digest(NAME, "2.0")
    assert digest is not None
    for store in chain.source.store.repositories.values():
        store.blobs = {name: blob for name, blob in store.blobs.items() if blob != b"2.0"}
    push(chain)
    chain.pump.run()
    run = chain.latest()
    failures = [result for result in chain.state.results(run.id) if result.name == "2.0"]
    assert [result.outcome for result in failures] == [Outcome.FAILED], failures
    counts = run.counts
    assert (counts.queued, counts.moved, counts.failed, counts.known) == (3, 2, 1, 0)
    assert len(chain.mail.dead()) == 1


def test_a_tag_pushed_after_the_first_scan_is_moved_by_the_joined_scan(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    chain.source.store.add_image(NAME, "pushed", b"just now")
    push(chain)
    chain.pump.run()
    run = chain.check()
    assert (run.counts.moved, run.counts.queued, run.counts.skipped) == (4, 4, 1)


def test_a_cancelled_run_counts_each_tag_once(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    push(chain)
    scans = [letter for letter in chain.mail.waiting() if letter.step is Step.DISCOVER]
    chain.pump.deliver(scans)
    chain.state.cancel_run(SYNC, chain.latest().id)
    chain.pump.run()
    run = chain.latest()
    assert run.status is RunStatus.CANCELLED
    assert (run.counts.queued, run.counts.cancelled, run.counts.moved) == (3, 3, 0)
    assert chain.results(run).keys() == {(NAME, tag) for tag in TAGS}


def test_killed_at_any_effect(registries: ImagesWorld) -> None:
    chain = first_transfer(registries.chain())
    push(chain, 2)
    chain.reaper.effects.clear()
    chain.pump.run()
    check(chain)
    for number in range(1, len(chain.reaper.effects) + 1, 5):
        for when in (KillPoint.BEFORE, KillPoint.AFTER):
            killed = first_transfer(registries.chain())
            push(killed, 2)
            killed.reaper.effects.clear()
            killed.reaper.plan = {(number, when)}
            print(f"killed {when} effect {number}")
            killed.pump.run()
            check_killed(killed)


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    kills=st.sets(st.tuples(st.integers(1, 90), st.sampled_from([KillPoint.BEFORE, KillPoint.AFTER])), max_size=4),
    seed=st.integers(0, 2**32),
    duplicates=st.sampled_from(Duplicates),
    late=st.sampled_from([0.0, 900.0]),
)
def test_many_kills_and_messages_in_any_order(
    registries: ImagesWorld, kills: set[tuple[int, KillPoint]], seed: int, duplicates: Duplicates, late: float
) -> None:
    chain = first_transfer(registries.chain(seed), conflicts=True)
    chain.pump.delivery = Delivery(random.Random(seed), True, duplicates, late, True)
    push(chain, 3)
    chain.reaper.effects.clear()
    chain.reaper.plan = kills
    chain.pump.run()
    for run in check_killed(chain):
        assert run.counts.conflict == 1
