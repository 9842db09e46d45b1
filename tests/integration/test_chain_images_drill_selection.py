"""A restore drill applies the sync's selection, names and rules: it restores what runs copy, and fails for nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest

from syncline.messages import Start
from syncline.model import Outcome, Result, RunStatus, Scope, Trigger
from tests.integration.test_chain_images_selection import add, add_index, source, target
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.signed_images import BY_KEY
from tests.standins.oci_store import Store

pytestmark = pytest.mark.moto

APP: Final = "team/app"


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    return registries.chain()


def drilled(chain: ImagesChain, *groups: str) -> tuple[int, int, list[str]]:
    """Drill everything; return the numbers of equal and of left-out images, and the names of those that failed."""
    chain.clock.sleep(1)
    scope = Scope.of(groups) if groups else Scope()
    chain.queues.start(Start(chain.sync, Trigger.MANUAL, scope, plan=True, drill=1.0))
    chain.pump.run()
    run = chain.latest()
    assert (run.status, run.drill) == (RunStatus.DONE, 1.0)
    failed: list[Result] = [each for each in chain.results().values() if each.outcome is Outcome.FAILED]
    return run.counts.skipped, run.counts.left_out, sorted(f"{each.group}:{each.name}" for each in failed)


def platforms(store: Store, tag: str, text: str = "layer") -> dict[str, str]:
    names = ("linux/amd64", "linux/arm64")
    images = {name: store.add_image(APP, None, f"{text} for {name}".encode()) for name in names}
    return images | {"index": add_index(store, APP, tag, images)}


def test_smaller_indexes_are_restored_also_older_ones(chain: ImagesChain) -> None:
    platforms(chain.source.store, "multi")
    chain.configure(select={"platforms": ["linux/amd64"]})
    chain.run()
    assert drilled(chain) == (1, 0, [])
    platforms(chain.source.store, "multi", "newer layer")
    assert drilled(chain) == (1, 0, []), "the source still has the images of the older index"
    made = platforms(chain.target.store, "multi", "layer that the source never had")
    add_index(chain.target.store, APP, "multi", {"linux/amd64": made["linux/amd64"]})
    assert drilled(chain) == (0, 0, [f"{APP}:multi"])


def test_absent_images_of_a_sparse_index_are_no_failure(chain: ImagesChain) -> None:
    made = platforms(chain.source.store, "multi")
    chain.target.store.takes_all = True
    chain.configure(select={"platforms": ["linux/amd64"], "sparse": True})
    chain.run()
    assert made["linux/arm64"] not in chain.target.store.repositories[APP].manifests
    assert drilled(chain) == (1, 0, [])
    del chain.target.store.repositories[APP].manifests[made["linux/amd64"]]
    assert drilled(chain) == (0, 0, [f"{APP}:multi"])


def test_tags_that_the_selection_leaves_out_do_not_fail(chain: ImagesChain) -> None:
    for tag, days in (("1.0.0", 100), ("1.1.0", 20), ("1.2.0", 10), ("1.3.0", 1), ("nightly", 5)):
        add(chain, APP, tag, age=timedelta(days=days))
    chain.configure(select={"semver": "1", "newest": 2, "older_than": "7d"})
    chain.run()
    assert set(chain.target.store.repositories[APP].tags) == {"1.1.0", "1.2.0"}
    assert drilled(chain) == (2, 3, [])
    del chain.target.store.repositories[APP].tags["1.2.0"]
    assert drilled(chain) == (1, 3, [f"{APP}:1.2.0"])


def test_renamed_repositories_and_named_digests(chain: ImagesChain) -> None:
    store = chain.source.store
    store.add_image("team-a/app", "1", b"a")
    digest = store.add_image("team-a/app", None, b"without a tag")
    store.add_image("base", "1", b"b")
    rules: list[Any] = [{"from": "team-(.*)/(.*)", "to": "dr/\\1/\\2"}]
    chain.configure(source=source(chain, digests=[f"team-a/app@{digest}"]), target=target(chain), rename=rules)
    chain.run()
    assert drilled(chain) == (3, 0, [])
    assert drilled(chain, "dr/a/app") == (2, 0, [])
    del chain.target.store.repositories["dr/a/app"].manifests[digest]
    assert drilled(chain) == (2, 0, [f"dr/a/app:{digest}"])


def test_an_untrusted_image_is_left_out_where_the_target_lacks_it(chain: ImagesChain) -> None:
    for tag in ("1.0", "2.0"):
        chain.source.store.add_image(APP, tag, tag.encode())
    chain.target.store.add_image(APP, "2.0", b"2.0")
    chain.configure(verify=[BY_KEY])
    chain.run()
    assert drilled(chain) == (1, 1, [])
