"""A new configuration is applied during a run: the run keeps the one with which it began."""

from __future__ import annotations

import pytest

from syncline.messages import decode, encode
from syncline.model import RunStatus, Step, Trigger
from tests.rig.images import SYNC, ImagesChain, ImagesWorld
from tests.rig.pump import Letter


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    chain = registries.chain()
    for name in ("team/app", "team/base"):
        chain.source.store.add_image(name, "1.0", name.encode())
    chain.configure(target=mirrored(chain, "mirror"))
    return chain


def mirrored(chain: ImagesChain, prefix: str) -> dict[str, object]:
    return {"registry": chain.target.host, "plain_http": True, "prefix": prefix}


CHANGES = {
    "another prefix": lambda chain: chain.configure(target=mirrored(chain, "elsewhere")),
    "a repository less": lambda chain: chain.configure(
        target=mirrored(chain, "mirror"), select={"repositories": {"exclude": ["team/*"]}}
    ),
    "another source": lambda chain: chain.configure(
        source={"registry": "localhost:1", "plain_http": True, "catalog": True}, target=mirrored(chain, "mirror")
    ),
    "another kind": lambda chain: chain.state.put_sync(
        SYNC, '{"name":"prod-to-dr","kind":"files","source":{"bucket":"a"},"target":{"bucket":"b"}}'
    ),
    "no sync": lambda chain: chain.state.remove_sync(SYNC),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", [Step.TRANSFER, Step.VERIFY])
def test_a_run_keeps_the_configuration_that_it_began_with(chain: ImagesChain, change: str, step: Step) -> None:
    changed: list[str] = []

    def apply(letter: Letter) -> None:
        if letter.step is step and not changed:
            changed.append(letter.id)
            CHANGES[change](chain)

    chain.pump.on_delivery = apply
    run = chain.run()
    assert changed
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 2, 0), chain.results(run)
    assert chain.dead_items() == {}
    assert {name for name, _ in chain.target.store.tags()} == {"mirror/team/app", "mirror/team/base"}


def test_the_next_run_has_the_new_configuration(chain: ImagesChain) -> None:
    chain.run()
    chain.configure(target=mirrored(chain, "elsewhere"))
    assert chain.run().counts.moved == 2
    assert {name for name, _ in chain.target.store.tags()} >= {"elsewhere/team/app", "elsewhere/team/base"}


def test_a_notification_after_a_change_waits_for_the_run_with_the_old_configuration(chain: ImagesChain) -> None:
    """If it joined that run, it would be scanned with a configuration that lacks its repository."""
    chain.configure(target=mirrored(chain, "mirror"), select={"repositories": {"include": ["team/app"]}})
    sent: list[str] = []

    def apply(letter: Letter) -> None:
        if letter.step is Step.TRANSFER and not sent:
            sent.append(letter.id)
            chain.configure(target=mirrored(chain, "mirror"))
            chain.start("mirror/team/base", trigger=Trigger.WEBHOOK)

    chain.pump.on_delivery = apply
    chain.run()
    assert {name for name, _ in chain.target.store.tags()} == {"mirror/team/app", "mirror/team/base"}
    assert len(chain.state.runs(SYNC)) == 2


def test_a_run_without_its_configuration_fails_at_once(chain: ImagesChain) -> None:
    began = chain.clock.now

    def lose(letter: Letter) -> None:
        if letter.step is Step.TRANSFER:
            chain.configure(target=mirrored(chain, "elsewhere"))
            for item in chain.table.scan()["Items"]:
                if str(item["sk"]).startswith("CONFIG#"):
                    chain.table.delete_item(Key={"pk": item["pk"], "sk": item["sk"]})

    chain.pump.on_delivery = lose
    run = chain.run()
    assert {result.code for result in chain.results(run).values()} == {"CONFIG_CHANGED"}
    assert chain.clock.now - began < 10
    assert {dead.code for dead in chain.dead_items().values()} == {"CONFIG_CHANGED"}
    assert all(decode(encode(dead)) == dead for dead in chain.dead_items().values())


def test_a_full_scan_after_a_change_is_not_skipped(chain: ImagesChain) -> None:
    sent: list[str] = []

    def apply(letter: Letter) -> None:
        if letter.step is Step.TRANSFER and not sent:
            sent.append(letter.id)
            chain.configure(target=mirrored(chain, "elsewhere"))
            chain.start(trigger=Trigger.SCHEDULE)

    chain.pump.on_delivery = apply
    chain.run()
    assert {name for name, _ in chain.target.store.tags()} >= {"elsewhere/team/app", "elsewhere/team/base"}
