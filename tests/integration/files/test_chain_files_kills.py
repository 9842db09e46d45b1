"""Files: with kills at any call and messages that are duplicated, late or out of order, every byte is correct."""

from __future__ import annotations

import random

import pytest

from tests.rig.files import FilesChain, FilesWorld, record
from tests.rig.pump import Delivery, Duplicates, KillPoint

KILLS = 12
SEED = 4246237352  # one kill hits a function that holds slots of the target, for which others then wait
SEEDS = 6


def prepared(chain: FilesChain) -> FilesChain:
    """Prepare a sync of new, changed, renamed, removed, large and equal files, and an additional event."""
    chain.configure(removals={"share": 0.9})
    for name in ("equal", "changed", "renamed", "removed"):
        chain.upload(name, name.encode())
    chain.run()
    chain.check()
    chain.upload("changed", b"changed by now")
    chain.upload("under/another-name", b"renamed")
    chain.bucket.delete("renamed")
    chain.bucket.delete("removed")
    chain.upload("new", b"new", permissions="rw-------")
    chain.upload("large", b"0123456789abcdef" * (100 * 1024))
    chain.reaper.effects.clear()
    chain.start()
    chain.post(record(chain.name, "changed"), record(chain.name, "removed", "ObjectRemoved:Delete"))
    return chain


def check(chain: FilesChain) -> None:
    chain.reaper.plan = set()  # this run may have made fewer calls than the counted one
    chain.check(modes={"/data/new": "rw-------"})
    assert not chain.dead()
    # Another run only completes records of killed functions.
    received = chain.manager.received
    chain.run()
    chain.check(modes={"/data/new": "rw-------"})
    assert chain.manager.received == received


def _effects(world: FilesWorld) -> int:
    with world.chain() as chain:
        prepared(chain).pump.run()
        check(chain)
        return len(chain.reaper.effects)


def test_killed_at_any_call(world: FilesWorld) -> None:
    effects = _effects(world)
    points = [(number, when) for number in range(1, effects + 1) for when in (KillPoint.BEFORE, KillPoint.AFTER)]
    for number, when in random.Random(SEED).sample(points, KILLS):
        with world.chain() as chain:
            prepared(chain)
            chain.reaper.plan = {(number, when)}
            try:
                chain.pump.run()
                check(chain)
            except BaseException:
                print(f"killed {when} effect {number} of {effects}, seed {SEED}")
                raise


@pytest.mark.parametrize("seed", range(SEEDS))
def test_out_of_order_twice_and_late(world: FilesWorld, seed: int) -> None:
    with world.chain(seed) as chain:
        prepared(chain)
        duplicates = [Duplicates.AT_ONCE, Duplicates.LATER, Duplicates.AT_THE_END][seed % 3]
        chain.pump.delivery = Delivery(
            random.Random(seed), shuffle=True, duplicates=duplicates, late=30.0, batches=True
        )
        chain.pump.run()
        check(chain)
