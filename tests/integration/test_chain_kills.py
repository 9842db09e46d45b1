"""A step is killed before, within and after each call that has an effect; the result of the run must be the same."""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from syncline.kinds.images import facts, parts
from tests.rig.images import ImagesChain, ImagesWorld, small
from tests.rig.pump import Delivery, Duplicates, KillPoint

SHARES: Final = 6  # each test covers every sixth effect


@pytest.fixture(scope="module")
def effects(registries: ImagesWorld) -> list[str]:
    """Return the effects of an undisturbed run, after checking that run."""
    chain = _started(registries)
    chain.pump.run()
    chain.check()
    effects = list(chain.reaper.effects)
    chain.check_again()
    return effects


def _started(registries: ImagesWorld) -> ImagesChain:
    chain = small(registries.chain())
    chain.remember()
    chain.start()
    chain.reaper.effects.clear()
    return chain


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_a_step_killed_at_any_effect(registries: ImagesWorld, effects: list[str], when: KillPoint, share: int) -> None:
    assert len(effects) > 35
    for number in range(1 + share, len(effects) + 1, SHARES):
        chain = _started(registries)
        chain.reaper.plan = {(number, when)}
        print(f"killed {when} effect {number}, {effects[number - 1]}")
        chain.pump.run()
        chain.check()
        if number % 4 == 0:
            chain.check_again()


def test_a_step_killed_within_any_streamed_request(registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BUFFERED", 0)
    chain = _started(registries)
    chain.reaper.streamed.clear()
    chain.pump.run()
    chain.check()
    streamed = list(chain.reaper.streamed)
    assert len(streamed) > 5
    for number in streamed:
        chain = _started(registries)
        chain.reaper.plan = {(number, KillPoint.WITHIN)}
        print(f"killed within effect {number}")
        chain.pump.run()
        chain.check()


def test_a_step_killed_around_calls_to_the_shared_memory(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of two repositories is claimed, recorded and mounted; the function that claimed it may be killed."""
    monkeypatch.setattr(facts, "WORTH_NOTING", 0)

    def started() -> ImagesChain:
        chain = registries.chain()
        for name in ("a", "b"):
            chain.source.store.add_image(f"team/{name}", "1", b"the base")
        chain.configure()
        chain.remember()
        chain.start()
        chain.reaper.effects.clear()
        return chain

    chain = started()
    chain.pump.run()
    chain.check()
    effects = list(chain.reaper.effects)
    numbers = [number for number, effect in enumerate(effects, 1) if effect in ("UpdateItem", "PutItem")]
    assert len(numbers) >= 6
    for number in numbers:
        for when in (KillPoint.BEFORE, KillPoint.AFTER):
            chain = started()
            chain.reaper.plan = {(number, when)}
            chain.pump.run()
            chain.check()


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(
    kills=st.sets(st.tuples(st.integers(1, 80), st.sampled_from([KillPoint.BEFORE, KillPoint.AFTER])), max_size=4),
    seed=st.integers(0, 2**32),
    duplicates=st.sampled_from(Duplicates),
    late=st.sampled_from([0.0, 900.0]),
    concurrency=st.sampled_from([1, 4]),
)
def test_many_kills_and_messages_in_any_order(
    registries: ImagesWorld,
    kills: set[tuple[int, KillPoint]],
    seed: int,
    duplicates: Duplicates,
    late: float,
    concurrency: int,
) -> None:
    chain = small(registries.chain(seed), concurrency=concurrency)
    chain.pump.delivery = Delivery(random.Random(seed), True, duplicates, late, True)
    chain.remember()
    chain.start()
    chain.reaper.effects.clear()
    chain.reaper.plan = kills
    chain.pump.run()
    chain.check()
