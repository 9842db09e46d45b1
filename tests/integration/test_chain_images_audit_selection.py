"""An audit applies the sync's selection, names and rules: what runs leave out is no fault, and what they lack is one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest

from syncline.kinds.images import audit
from syncline.model import Audit, Outcome, Result, RunStatus
from tests.integration.test_chain_images_selection import add, add_index, source, target
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.signed_images import BY_KEY

pytestmark = pytest.mark.moto

APP: Final = "team/app"
EQUAL, DIFFERENT, MISSING, LEFT_OUT = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.MISSING, Outcome.LEFT_OUT
AMD: Final = {"select": {"platforms": ["linux/amd64"]}}
SPARSE: Final = {"select": {"platforms": ["linux/amd64"], "sparse": True}}


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    return registries.chain()


def audited(chain: ImagesChain, **options: Any) -> dict[str, Outcome]:
    """Audit, and return the outcome of each tag of team/app."""
    run = chain.audit(**options)
    assert run.status is RunStatus.DONE
    return {tag: each.outcome for (name, tag), each in chain.results().items() if name == APP}


def is_equal(chain: ImagesChain) -> bool:
    return Audit().is_equal(chain.latest().counts)


def result(chain: ImagesChain, tag: str) -> Result:
    return chain.results()[APP, tag]


def add_two_platforms(chain: ImagesChain) -> dict[str, str]:
    store = chain.source.store
    images = {f"linux/{each}": store.add_image(APP, None, f"layer for {each}".encode()) for each in ("amd64", "arm64")}
    return images | {"index": add_index(store, APP, "multi", images)}


def test_the_smaller_index_of_the_selected_platforms_is_equal(chain: ImagesChain) -> None:
    made = add_two_platforms(chain)
    chain.configure(**AMD)
    assert chain.run().counts.moved == 1
    for options in ({}, {"parts": True}, {"deep": True}):
        assert audited(chain, **options) == {"multi": EQUAL}
        found = result(chain, "multi")
        assert found.source == found.target == chain.target.store.digest(APP, "multi") != made["index"]
        assert made["index"] in str(found.reason)
    chain.target.store.add_image(APP, "multi", b"another image")
    assert audited(chain) == {"multi": DIFFERENT}


def test_an_index_without_a_selected_platform_is_left_out(chain: ImagesChain) -> None:
    made = add_two_platforms(chain)
    add_index(chain.source.store, APP, "arm", {"linux/arm64": made["linux/arm64"]})
    chain.configure(**AMD)
    chain.run()
    assert audited(chain) == {"multi": EQUAL, "arm": LEFT_OUT}
    assert is_equal(chain)


def test_images_of_other_platforms_may_be_absent_from_a_sparse_index(chain: ImagesChain) -> None:
    made = add_two_platforms(chain)
    chain.target.store.takes_all = True
    chain.configure(**SPARSE)
    assert chain.run().counts.moved == 1
    manifests = chain.target.store.repositories[APP].manifests
    assert made["linux/arm64"] not in manifests
    assert audited(chain, deep=True) == {"multi": EQUAL}
    del manifests[made["linux/amd64"]]
    assert audited(chain, parts=True) == {"multi": DIFFERENT}
    assert made["linux/amd64"] in str(result(chain, "multi").reason)


def test_tags_left_out_by_version_are_neither_missing_nor_extra(chain: ImagesChain) -> None:
    for tag in ("1.0.0", "1.1.0", "2.0.0", "nightly", "latest"):
        chain.source.store.add_image(APP, tag, tag.encode())
    chain.target.store.add_image(APP, "nightly", b"an older nightly")
    chain.target.store.add_image(APP, "2.0.0", b"2.0.0")
    chain.target.store.add_image(APP, "weekly", b"only at the target, and no version")
    chain.target.store.add_image(APP, "1.9.0", b"only at the target, and in the range")
    chain.configure(select={"semver": "<2", "always": ["latest"]})
    chain.run()
    assert audited(chain) == {
        "1.0.0": EQUAL,
        "1.1.0": EQUAL,
        "latest": EQUAL,
        "nightly": LEFT_OUT,
        "2.0.0": LEFT_OUT,
        "1.9.0": Outcome.EXTRA,
    }
    assert "the target has it" in str(result(chain, "nightly").reason)
    del chain.target.store.repositories[APP].tags["nightly"]
    assert audited(chain).keys() == {"1.0.0", "1.1.0", "latest", "2.0.0", "1.9.0"}
    assert chain.latest().counts.left_out == 2, "nightly, and 2.0.0 at the target"


@pytest.mark.parametrize("by", ["time", "version"])
def test_only_the_newest_are_missing(chain: ImagesChain, by: str) -> None:
    for number in range(4):
        add(chain, APP, f"1.{number}.0", age=timedelta(days=10 - number))
    chain.configure(select={"newest": 2, "newest_by": by})
    assert audited(chain) == {"1.2.0": MISSING, "1.3.0": MISSING}
    assert chain.latest().counts.left_out == 2
    chain.run()
    add(chain, APP, "1.4.0", age=timedelta(days=1))
    chain.run()
    assert audited(chain) == {"1.2.0": LEFT_OUT, "1.3.0": EQUAL, "1.4.0": EQUAL}
    assert is_equal(chain)


def test_images_in_quarantine_are_left_out_and_old_ones_too(chain: ImagesChain) -> None:
    for tag, days in (("young", 1), ("right", 10), ("old", 100)):
        add(chain, APP, tag, age=timedelta(days=days))
    chain.configure(select={"older_than": "7d", "younger_than": "90d"})
    chain.run()
    assert audited(chain) == {"young": LEFT_OUT, "right": EQUAL}
    assert chain.latest().counts.left_out == 2
    chain.target.store.add_image(APP, "old", b"an older old")
    assert audited(chain) == {"young": LEFT_OUT, "right": EQUAL, "old": LEFT_OUT}
    assert result(chain, "old").target == chain.target.store.digest(APP, "old")
    assert is_equal(chain)


def test_renamed_repositories_and_extra_ones(chain: ImagesChain) -> None:
    store = chain.source.store
    store.add_image("team-a/app", "1", b"a")
    store.add_image("team-b/app", "1", b"b")
    store.add_image("base", "1", b"c")
    chain.configure(rename=[{"from": "team-(.*)/(.*)", "to": "dr/\\1/\\2"}])
    chain.run()
    chain.target.store.add_image("dr/c/app", "1", b"a repository that a rule may have named")
    chain.target.store.add_image("team-a/app", "1", b"a repository that the rules give another name")
    chain.audit(deep=True)
    assert {name: each.outcome for (name, _), each in chain.results().items()} == {
        "dr/a/app": EQUAL,
        "dr/b/app": EQUAL,
        "base": EQUAL,
        "dr/c/app": Outcome.EXTRA,
    }
    chain.audit("dr/a/app")
    assert list(chain.results()) == [("dr/a/app", "1")]
    del chain.target.store.repositories["dr/b/app"]
    chain.audit()
    assert chain.results()["dr/b/app", "1"].outcome is MISSING


def test_repositories_with_the_same_new_name_are_unreadable(chain: ImagesChain) -> None:
    for name in ("a/app", "b/app", "c"):
        chain.source.store.add_image(name, "1", name.encode())
    chain.configure(rename=[{"from": "[ab]/(.*)", "to": "dr/\\1"}])
    chain.audit()
    found = {(name, tag): each.code for (name, tag), each in chain.results().items() if each.code}
    assert found == {("dr/app", "a/app"): "RENAME_REFUSED", ("dr/app", "b/app"): "RENAME_REFUSED"}
    assert not is_equal(chain)


def test_named_digests_are_audited_from_any_cursor(chain: ImagesChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BLOCK_TAGS", 1)
    store = chain.source.store
    store.add_image(APP, "1.0", b"with a tag")
    one, two = sorted(store.add_image(APP, None, text) for text in (b"without a tag", b"without a tag either"))
    absent = "sha256:" + "f" * 64
    chain.configure(source=source(chain, digests=[f"{APP}@{one}", f"{APP}@{two}"]), target=target(chain))
    chain.run()
    assert audited(chain, deep=True) == {"1.0": EQUAL, one: EQUAL, two: EQUAL}
    del chain.target.store.repositories[APP].manifests[two]
    assert audited(chain, parts=True) == {"1.0": EQUAL, one: EQUAL, two: MISSING}
    chain.configure(source=source(chain, digests=[f"{APP}@{one}", f"{APP}@{absent}"]), target=target(chain))
    assert audited(chain) == {"1.0": EQUAL, one: EQUAL, absent: Outcome.UNREADABLE}


def test_an_untrusted_image_is_missing_with_the_reason(chain: ImagesChain) -> None:
    chain.source.store.add_image(APP, "1.0", b"not signed")
    chain.source.store.add_image(APP, "2.0", b"not signed either")
    chain.target.store.add_image(APP, "2.0", b"not signed either")
    chain.configure(verify=[BY_KEY])
    chain.run()
    assert audited(chain) == {"1.0": MISSING, "2.0": EQUAL}
    found = result(chain, "1.0")
    assert found.code == "IMAGE_UNTRUSTED"
    assert "does not have it; no run copies it: " in str(found.reason)
