"""With `overwrite: {keep: …}`, an image is kept under another tag before its tag gets a new image."""

from __future__ import annotations

import itertools
import re

import pytest

from syncline.kinds.images.config_rules import Keeping
from syncline.model import Outcome
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.pump import KillPoint

APP = "team/app"


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    chain = registries.chain()
    chain.configure(overwrite={"keep": "{tag}-{date}"}, removals={"share": 1})
    return chain


def kept_tag(chain: ImagesChain, tag: str) -> str:
    return f"{tag}-{chain.latest().id[:8]}"


def images(chain: ImagesChain) -> dict[str, str]:
    return dict(chain.target.store.repository(APP).tags)


def test_a_replaced_image_is_kept_and_the_report_names_its_tag(chain: ImagesChain) -> None:
    old = chain.target.store.add_image(APP, "1", b"old")
    new = chain.source.store.add_image(APP, "1", b"new")
    chain.source.store.add_image(APP, "2", b"only at the source")
    run = chain.run()
    kept = kept_tag(chain, "1")
    assert images(chain)["1"] == new
    assert images(chain)[kept] == old
    assert sorted(images(chain)) == ["1", kept, "2"]
    result = chain.results(run)[APP, "1"]
    assert (result.outcome, result.reason) == (Outcome.MOVED, f"it replaced {old}, which is kept as {kept}")
    assert not chain.target.store.broken()


def test_kept_images_are_neither_compared_nor_removed(chain: ImagesChain) -> None:
    for content in (b"old", b"new"):
        chain.source.store.add_image(APP, "1", content)
        chain.source.store.add_image(APP, "2", b"the same")
        chain.run()
    kept = kept_tag(chain, "1")
    before = images(chain)
    assert sorted(before) == ["1", kept, "2"]
    del chain.source.store.repository(APP).tags["1"]
    assert chain.run().counts.removed == 1
    assert images(chain) == {tag: digest for tag, digest in before.items() if tag != "1"}


def test_a_second_image_of_one_day_gets_its_digest_appended(chain: ImagesChain) -> None:
    digests = []
    for content in (b"first", b"second", b"third"):
        digests.append(chain.source.store.add_image(APP, "1", content))
        chain.run()
    kept = kept_tag(chain, "1")
    assert images(chain) == {
        "1": digests[2],
        kept: digests[0],
        f"{kept}-{digests[1].partition(':')[2][:12]}": digests[1],
    }


def test_a_tag_that_the_source_has_is_not_used_for_another_image(chain: ImagesChain) -> None:
    chain.target.store.add_image(APP, "0", b"to learn the date")
    chain.source.store.add_image(APP, "0", b"to learn the date")
    chain.run()
    same = kept_tag(chain, "1")
    old = chain.target.store.add_image(APP, "1", b"old")
    new = chain.source.store.add_image(APP, "1", b"new")
    theirs = chain.source.store.add_image(APP, same, b"of the source")
    chain.run()
    appended = f"{same}-{old.partition(':')[2][:12]}"
    assert {tag: images(chain)[tag] for tag in ("1", same, appended)} == {"1": new, same: theirs, appended: old}


def test_an_image_that_cannot_be_kept_is_not_replaced(chain: ImagesChain) -> None:
    chain.source.store.add_image(APP, "0", b"to learn the date")
    chain.run()
    kept = kept_tag(chain, "1")
    old = chain.target.store.add_image(APP, "1", b"old")
    chain.target.store.add_image(APP, kept, b"a stranger's")
    chain.target.store.add_image(APP, f"{kept}-{old.partition(':')[2][:12]}", b"another stranger's")
    chain.source.store.add_image(APP, "1", b"new")
    before = images(chain)
    run = chain.run()
    result = chain.results(run)[APP, "1"]
    assert (result.outcome, result.code) == (Outcome.CONFLICT, "TAG_DIFFERS")
    assert "cannot be kept" in str(result.reason)
    assert images(chain) == before


@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_a_copy_killed_at_any_effect_keeps_the_old_image(registries: ImagesWorld, when: KillPoint) -> None:
    for number in itertools.count(1):
        chain = registries.chain()
        chain.configure(overwrite={"keep": "{tag}-{time}"})
        old = chain.target.store.add_image(APP, "1", b"old")
        new = chain.source.store.add_image(APP, "1", b"new")
        chain.start()
        chain.reaper.effects.clear()
        chain.reaper.plan = {(number, when)}
        chain.pump.run()
        if number > len(chain.reaper.effects):
            break
        kept = f"1-{chain.latest().id[9:15]}"
        assert images(chain) == {"1": new, kept: old}, f"killed {when} effect {number}"
    assert number > 10


def test_a_long_tag_is_shortened() -> None:
    name = Keeping(keep="old-{tag}-{date}-{time}").name("v" * 128, "sha256:" + "ab" * 32, "20261201-140506-aa")
    assert re.fullmatch("old-v+-20261201-140506", name)
    assert len(name) == 128


def test_kept_tags_are_recognized_by_their_form() -> None:
    rule = Keeping(keep="{tag}.{date}")
    assert rule.looks_kept("1.20261201")
    assert rule.looks_kept("1.20261201-0123456789ab")
    assert not rule.looks_kept("1.2026")
    assert not rule.looks_kept("1-20261201")
