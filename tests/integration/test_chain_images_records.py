"""Records of images between the steps: what a transfer and a verification leave for the next scan."""

from __future__ import annotations

from tests.rig.images import ImagesChain, ImagesWorld
from tests.standins.oci import Fault

APP = "team/app"


def push(chain: ImagesChain, tag: str, content: bytes) -> None:
    chain.source.store.add_image(APP, tag, content)


def equal(chain: ImagesChain) -> bool:
    source, target = (end.store.repository(APP).tags for end in (chain.source, chain.target))
    return bool(source == target)


def test_a_run_after_a_copy_asks_the_target_for_a_share_of_the_digests(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure()
    for number in range(40):
        push(chain, f"v{number}", f"content {number}".encode())
    chain.run()
    before = len(chain.target.asked("HEAD", "/manifests/"))
    run = chain.run()
    assert run.counts.skipped == 40
    assert len(chain.target.asked("HEAD", "/manifests/")) - before < 20


def test_a_tag_that_went_back_before_its_copy_was_verified_is_copied_again(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure(overwrite=True)
    push(chain, "latest", b"first")
    chain.run()
    old = chain.source.store.repository(APP).tags["latest"]
    push(chain, "latest", b"second")
    assert chain.source.store.repository(APP).tags["latest"] != old
    chain.target.fault("GET", "/manifests/latest", Fault(404), times=None)
    chain.run()
    chain.target.heal()
    chain.source.store.repository(APP).tags["latest"] = old
    chain.run()
    assert equal(chain)
